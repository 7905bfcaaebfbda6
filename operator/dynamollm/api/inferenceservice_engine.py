"""The engine of an InferenceService: what serves the model, and how it is started."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from dynamollm.api.common import Rule, Spec, list_map
from dynamollm.api.inferenceservice_pods import PodTemplate

OPERATORS_ARGUMENTS: Final = (
    *("--host", "--port"),
    *("--model", "--model-path"),
    *("--tensor-parallel-size", "-tp", "--tp-size", "--tp", "--tp_size"),
    *("--scheduling-policy", "--enable-priority-scheduling", "--schedule-low-priority-values-first"),
)
"""Engine arguments that the operator sets; two of one would make the engine refuse to start, serve another TP, or serve
in another order than plans count on."""
_IS_OPERATORS: Final = (
    f"[{', '.join(repr(flag) for flag in OPERATORS_ARGUMENTS)}].exists(flag, arg == flag || arg.startsWith(flag + '='))"
)


def _operators(arguments: tuple[str, ...]) -> list[str]:
    """Return those of a user's arguments that are the operator's to set."""
    return [one for one in arguments if any(one == flag or one.startswith(f"{flag}=") for flag in OPERATORS_ARGUMENTS)]


class SecretKeyRef(Spec):
    """One key of a Secret in the service's namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key in it."""


class EnvVarSource(Spec):
    """Where a value comes from."""

    secret_key_ref: SecretKeyRef
    """A key of a Secret, for tokens."""


class EnvVar(Spec):
    """An environment variable of the engine's container."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._A-Za-z][-._A-Za-z0-9]*$")]
    """Name."""
    value: Annotated[str | None, Field(max_length=4096)] = None
    """Value."""
    value_from: EnvVarSource | None = None
    """Source of the value."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!(has(self.value) && has(self.valueFrom))",
            message="engine.env has both value and valueFrom: remove one",
            detail="engine.env %s has both value and valueFrom: remove one",
            values=("self.name",),
            holds=lambda self: self.value is None or self.value_from is None,
            found=lambda self: (self.name,),
        ),
    )


class Engine(Spec):
    """The engine that serves the model."""

    type: Literal["VLLM", "SGLang", "TensorRTLLM", "Simulated"] = "VLLM"
    """VLLM, SGLang, TensorRTLLM (trtllm-serve), or Simulated: an engine that takes its times and watts from the profile, on stand-ins for GPUs."""
    image: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    """Container image; required but for Simulated, which runs the operator's own."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""
    scheduling: Literal["FirstComeFirstServed", "EarliestDeadlineFirst"] = "FirstComeFirstServed"
    """Order in which an instance serves what waits. EarliestDeadlineFirst: by arrival + the class's TTFT SLO, so that short prompts overtake long ones while there is time; the router sets the requests' priority, and the engine serves by it. TensorRTLLM cannot."""
    args: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], Field(max_length=64)] = ()
    """Arguments after those that the operator sets (model, TP degree, host, port, scheduling policy)."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64, json_schema_extra=list_map("name"))] = ()
    """Environment variables."""
    pod_template: PodTemplate = PodTemplate()
    """User, volumes, pull secrets, priority, tolerations, node selector, CPU and memory of engine pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.type == 'Simulated' || has(self.image)",
            message="engine.image is missing, and engine.type is not Simulated: name its container image",
            detail="engine.image is missing, and engine.type is %s: name its container image",
            values=("self.type",),
            holds=lambda self: self.type == "Simulated" or self.image is not None,
            found=lambda self: (self.type,),
        ),
        Rule(
            rule="self.type != 'TensorRTLLM' || self.scheduling != 'EarliestDeadlineFirst'",
            message="engine.scheduling EarliestDeadlineFirst needs an engine that serves by priority: trtllm-serve does not",
            field_path=".scheduling",
            holds=lambda self: self.type != "TensorRTLLM" or self.scheduling != "EarliestDeadlineFirst",
        ),
        Rule(
            rule=f"!self.args.exists(arg, {_IS_OPERATORS})",
            message="engine.args sets what the operator sets: remove it",
            detail="engine.args %s: the operator sets it, remove it and what belongs to it",
            values=(f"self.args.filter(arg, {_IS_OPERATORS})",),
            field_path=".args",
            holds=lambda self: not _operators(self.args),
            found=lambda self: (_operators(self.args),),
        ),
        Rule(
            rule="self.type != 'Simulated' || !has(self.podTemplate.runAsUser)",
            message="engine.podTemplate.runAsUser is given, and engine.type Simulated has the user of its own image: remove it",
            detail="engine.podTemplate.runAsUser is %d, and engine.type Simulated has the user of its own image: remove it",
            values=("self.podTemplate.runAsUser",),
            field_path=".podTemplate.runAsUser",
            holds=lambda self: self.type != "Simulated" or self.pod_template.run_as_user is None,
            found=lambda self: (self.pod_template.run_as_user,),
        ),
    )
