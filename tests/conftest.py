"""Settings of the whole suite."""

from hypothesis import HealthCheck, settings

# Timings are never asserted: a busy machine draws examples slowly, and that says nothing about the code under test.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
