"""Settings of the whole suite."""

import os

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

# Timings are never asserted: a busy machine draws examples slowly, and that says nothing about the code under test.
_UNTIMED = settings(settings.get_profile("default"), deadline=None, suppress_health_check=[HealthCheck.too_slow])

# The same examples of every property in every run: a commit that was green stays green, one that is red is red anywhere.
settings.register_profile("suite", _UNTIMED, derandomize=True)
# Other examples in every run, for whoever looks for counterexamples (`make fuzz`).
settings.register_profile("fuzz", _UNTIMED, max_examples=500, print_blob=True)

_PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "suite")
settings.load_profile(_PROFILE)
if _PROFILE == "suite":
    # hypothesis also draws constants out of the modules that are imported by then, and those depend on which tests this
    # process has run before: a red property would be green where it is run alone.
    providers._get_local_constants = providers.Constants
