"""What a cycle is about: a service whose spec and profile fit each other, or the reason why they do not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from dynamollm.adapters.clock import Clock
from dynamollm.api.common import RULE_BROKEN
from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.controller.objects.common import Owner
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.fit import MisfitError, fitting_profile
from dynamollm.core.profile import Profile
from dynamollm.core.records import Service
from dynamollm.core.service import service_from_spec

Object = Mapping[str, Any]


class UnfitError(InvalidInputError):
    """A service that cannot be planned.

    Args:
        condition: which condition says so: ``Planned`` for the spec, ``ProfileValid`` for the profile.
        reason: stable CamelCase word.
        message: what is wrong, with the value, and what to do.
    """

    def __init__(self, condition: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.condition = condition
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Subject:
    """A service that can be planned."""

    owner: Owner
    service: Service
    profile: Profile
    profile_spec: PerformanceProfileSpec

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return (self.owner.namespace, self.owner.name)


def spec_of(body: Object) -> InferenceServiceSpec:
    """Return the spec of an InferenceService.

    Raises:
        UnfitError: it is not one that this version knows.
    """
    try:
        return InferenceServiceSpec.model_validate(body["spec"])
    except ValidationError as error:
        raise UnfitError(
            "Planned", "SpecInvalid", f"spec.{_first(error)}: change it, or update the operator"
        ) from error


def understand(body: Object, profile: Object | None, *, image: str, clock: Clock, every_address: str) -> Subject:
    """Return what a cycle works on.

    Raises:
        UnfitError: the spec or its profile does not fit.
    """
    spec = spec_of(body)
    metadata = body["metadata"]
    profile_spec = _profile_spec(spec, profile)
    owner = Owner(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        spec=spec,
        image=image,
        clock=clock,
        every_address=every_address,
    )
    try:
        model = fitting_profile(spec, profile_spec)
    except MisfitError as error:
        raise UnfitError("ProfileValid", error.reason, str(error)) from error
    return Subject(
        owner=owner,
        service=service_from_spec(owner.namespace, owner.name, spec),
        profile=model,
        profile_spec=profile_spec,
    )


def validated(model: type[BaseModel], body: Object) -> BaseModel | None:
    """Return the spec of a resource, or None where this version does not know it."""
    try:
        return model.model_validate(body["spec"])
    except ValidationError:
        return None


def _profile_spec(spec: InferenceServiceSpec, profile: Object | None) -> PerformanceProfileSpec:
    name = spec.profile_ref.name
    if profile is None:
        raise UnfitError(
            "ProfileValid",
            "ProfileNotFound",
            f"spec.profileRef.name is {name}, and there is no PerformanceProfile of that name: create it, or name one "
            "that kubectl get performanceprofiles lists",
        )
    try:
        return PerformanceProfileSpec.model_validate(profile["spec"])
    except ValidationError as error:
        raise UnfitError(
            "ProfileValid", "ProfileInvalid", f"PerformanceProfile {name}, spec.{_first(error)}: change it"
        ) from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == RULE_BROKEN:
        return first["msg"]
    return f"{'.'.join(str(part) for part in first['loc'])} is {first['input']!r}: {first['msg']}"
