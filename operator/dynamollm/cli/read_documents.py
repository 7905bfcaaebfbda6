"""What commands look for in the manifests that ``-f`` gives: the service, its profile, the cluster's policy."""

from collections.abc import Sequence
from pathlib import Path

from dynamollm.adapters.manifests import PROFILES, Document, profile_path, read_value, spec_of
from dynamollm.api.clusterpolicy import ClusterPolicySpec
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.errors import InvalidInputError


def find_service(documents: Sequence[Document], *, name: str | None) -> Document:
    """Return the InferenceService of this name, or the only one.

    Raises:
        InvalidInputError: there is none, or more than one to choose from.
    """
    services = [document for document in documents if document.kind == "InferenceService"]
    if name is not None:
        services = [document for document in services if document.name == name]
    if len(services) == 1:
        return services[0]
    if services:
        places = ", ".join(f"{document.name} in {document.where}" for document in services)
        raise InvalidInputError(
            f"-f has {len(services)} InferenceServices ({places}): name one with --service, or give its file alone"
        )
    wanted = "an InferenceService" if name is None else f"the InferenceService {name} (--service)"
    kinds = ", ".join(sorted({document.kind or "no kind" for document in documents})) or "nothing"
    raise InvalidInputError(f"-f has {kinds}, and not {wanted}: give its manifest with -f")


def find_profile(documents: Sequence[Document], *, name: str, asked_by: Document) -> PerformanceProfileSpec:
    """Return the PerformanceProfile that a service names: of the documents, else of those that come with the package.

    Raises:
        InvalidInputError: it is in neither, or not valid.
    """
    for document in documents:
        if document.kind == "PerformanceProfile" and document.name == name:
            return spec_of(PerformanceProfileSpec, document)
    shipped = {Path(file).stem: profile_path(short) for short, file in PROFILES.items()}
    if name in shipped:
        return spec_of(PerformanceProfileSpec, read_value(shipped[name]))
    raise InvalidInputError(
        f"{asked_by.where}: spec.profileRef.name is {name}, and no -f has a PerformanceProfile of that name: give it with "
        f"-f, or name one that comes with the package ({', '.join(shipped)})"
    )


def find_policy(documents: Sequence[Document]) -> ClusterPolicySpec | None:
    """Return the ClusterPolicy, if there is one.

    Raises:
        InvalidInputError: it is not valid, or there are several.
    """
    policies = [document for document in documents if document.kind == "ClusterPolicy"]
    if len(policies) > 1:
        places = ", ".join(document.where for document in policies)
        raise InvalidInputError(f"-f has {len(policies)} ClusterPolicies ({places}): a cluster has one, give one")
    return spec_of(ClusterPolicySpec, policies[0]) if policies else None


def find_service_spec(document: Document) -> InferenceServiceSpec:
    """Return the spec of an InferenceService.

    Raises:
        InvalidInputError: it is not valid.
    """
    return spec_of(InferenceServiceSpec, document)
