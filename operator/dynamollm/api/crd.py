"""The CustomResourceDefinitions, put together from the pydantic models."""

from dataclasses import dataclass
from typing import Any, Final

import yaml

from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.api.common import Spec, Status
from dynamollm.api.crd_schema import structural_schema
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.inferenceservice_status import InferenceServiceStatus
from dynamollm.api.names import GROUP, POLICIES, PROFILES, SERVICES, VERSION
from dynamollm.api.profile import PerformanceProfileSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of ``kubectl get``: one value, found by a JSONPath."""

    name: str
    json_path: str
    description: str
    type: str = "string"
    wide: bool = False
    """Shown by ``-o wide`` only."""

    def to_schema(self) -> dict[str, Any]:
        """Return the entry of ``additionalPrinterColumns``."""
        entry: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.json_path,
            "description": self.description,
        }
        if self.wide:
            entry["priority"] = 1
        return entry


_AGE: Final = Column(
    name="Age", json_path=".metadata.creationTimestamp", type="date", description="Since when it exists."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomResource:
    """One kind: its names, its models and its columns."""

    kind: str
    plural: str
    namespaced: bool
    description: str
    spec: type[Spec]
    status: type[Status] | None = None
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()

    @property
    def crd_name(self) -> str:
        """The name of the CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"

    @property
    def file_name(self) -> str:
        """The name of its file in ``crds/``."""
        return f"{GROUP}_{self.plural}.yaml"


RESOURCES: Final = (
    CustomResource(
        kind="InferenceService",
        plural=SERVICES,
        namespaced=True,
        description="A model that is served at least energy while every request class keeps its latency SLO.",
        spec=InferenceServiceSpec,
        status=InferenceServiceStatus,
        short_names=("dllm",),
        columns=(
            Column(
                name="Ready",
                json_path='.status.conditions[?(@.type=="Ready")].status',
                description="Whether the service answers requests.",
            ),
            Column(name="Policy", json_path=".spec.policy", description="Policy in force."),
            Column(name="Mode", json_path=".spec.mode", description="Enforce, or Advise: touches nothing.", wide=True),
            Column(name="GPUs", json_path=".status.display.gpus", description="GPUs ready of the limit."),
            Column(name="Pools", json_path=".status.poolCount", type="integer", description="Pools of the plan."),
            Column(
                name="Clock", json_path=".status.display.clock", description="Lowest and highest planned SM clock, MHz."
            ),
            Column(name="Power", json_path=".status.display.power", description="GPU power, kW."),
            Column(name="SLO", json_path=".status.display.slo", description="Share of requests that met their SLO, %."),
            Column(
                name="Energy-Wh",
                json_path=".status.energyWattHours",
                type="integer",
                description="GPU energy since the service was created, Wh.",
                wide=True,
            ),
            Column(
                name="Plan", json_path=".status.planSummary", description="The plan in force and what is being done."
            ),
            _AGE,
        ),
    ),
    CustomResource(
        kind="PerformanceProfile",
        plural=PROFILES,
        namespaced=False,
        description="How long one model takes on one GPU, and what it draws, over TP degree and clock.",
        spec=PerformanceProfileSpec,
        columns=(
            Column(name="GPU", json_path=".spec.gpu.product", description="GPU that was measured."),
            Column(name="Model", json_path=".spec.model.name", description="Model that was measured."),
            Column(name="Engine", json_path=".spec.engine.type", description="Engine that was measured."),
            Column(name="Version", json_path=".spec.engine.version", description="Version of the engine."),
            Column(name="Source", json_path=".spec.provenance.source", description="Origin of the numbers.", wide=True),
            _AGE,
        ),
    ),
    CustomResource(
        kind="ClusterPolicy",
        plural=POLICIES,
        namespaced=False,
        description="What holds for all services of the cluster: budgets and prices. One object, named default.",
        spec=ClusterPolicySpec,
        columns=(
            Column(
                name="Max-GPUs", json_path=".spec.maxGPUs", type="integer", description="GPU budget over all services."
            ),
            Column(
                name="MicroUSD-Per-KWh",
                json_path=".spec.electricityPriceMicroUSDPerKWh",
                type="integer",
                description="Price of electricity, millionths of a US dollar per kWh.",
            ),
            Column(
                name="Grams-Per-KWh",
                json_path=".spec.carbonIntensityGramsPerKWh",
                type="integer",
                description="Carbon intensity, grams of CO2 equivalent per kWh.",
            ),
            _AGE,
        ),
    ),
)


def custom_resource_definition(resource: CustomResource) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.to_schema() for column in resource.columns],
        "schema": {"openAPIV3Schema": _object_schema(resource)},
    }
    if resource.status is not None:
        version["subresources"] = {"status": {}}
    names: dict[str, Any] = {
        "kind": resource.kind,
        "listKind": f"{resource.kind}List",
        "plural": resource.plural,
        "singular": resource.kind.lower(),
        "categories": ["dynamollm"],
    }
    if resource.short_names:
        names["shortNames"] = list(resource.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.crd_name},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": names,
            "versions": [version],
        },
    }


def _object_schema(resource: CustomResource) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": structural_schema(resource.spec),
    }
    if resource.status is not None:
        properties["status"] = structural_schema(resource.status)
    schema: dict[str, Any] = {
        "description": resource.description,
        "type": "object",
        "required": ["spec"],
        "properties": properties,
    }
    if resource.spec.root_rules:
        schema["x-kubernetes-validations"] = [rule.to_schema() for rule in resource.spec.root_rules]
    return schema


def render(resource: CustomResource) -> str:
    """Return the CustomResourceDefinition of a kind as YAML."""
    return yaml.safe_dump(custom_resource_definition(resource), sort_keys=False, allow_unicode=True, width=120)
