"""Whether a service and the profile that it names fit each other."""

from dynamollm.api.inferenceservice import InferenceServiceSpec
from dynamollm.api.profile import PerformanceProfileSpec
from dynamollm.core.errors import InvalidInputError
from dynamollm.core.profile import Profile


class MisfitError(InvalidInputError):
    """A profile that does not fit a service.

    Args:
        reason: stable CamelCase word, for the condition ``ProfileValid``.
        message: which field, its value, and what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def fitting_profile(spec: InferenceServiceSpec, known: PerformanceProfileSpec) -> Profile:
    """Return the performance model of the profile that ``spec.profileRef`` names.

    Raises:
        MisfitError: it was measured with another model or GPU, lacks a TP degree or the pinned clock, or is not whole.
    """
    name = spec.profile_ref.name
    for field, mine, theirs in (
        ("model.name", spec.model.name, known.model.name),
        ("gpu.product", spec.gpu.product, known.gpu.product),
    ):
        if mine != theirs:
            raise MisfitError(
                "ProfileMismatch",
                f"spec.{field} is {mine}, and PerformanceProfile {name} was measured with {theirs}: use its profile, or "
                f"change spec.{field}",
            )
    if missing := sorted(set(spec.gpu.tensor_parallel) - set(known.tensor_parallel)):
        raise MisfitError(
            "TensorParallelNotProfiled",
            f"spec.gpu.tensorParallel has {', '.join(map(str, missing))}, and PerformanceProfile {name} holds for "
            f"{', '.join(map(str, known.tensor_parallel))}: remove those degrees, or measure them",
        )
    try:
        profile = Profile.from_spec(known, name=name)
    except InvalidInputError as error:
        raise MisfitError("ProfileInvalid", str(error)) from error
    if spec.pins.clock_mhz is not None:
        check_clock(spec.pins.clock_mhz, profile, field="spec.pins.clockMHz")
    return profile


def check_clock(clock_mhz: int, profile: Profile, *, field: str) -> None:
    """Check that a profile covers a clock.

    Raises:
        MisfitError: it does not; names the nearest that it does.
    """
    clocks = profile.clocks_mhz
    if clock_mhz not in clocks:
        nearest = min(clocks, key=lambda one: abs(one - clock_mhz))
        raise MisfitError(
            "ClockNotProfiled",
            f"{field} is {clock_mhz}, and PerformanceProfile {profile.name} holds for {min(clocks)} to {max(clocks)} MHz "
            f"in the GPU's steps: take {nearest}, or leave it out",
        )
