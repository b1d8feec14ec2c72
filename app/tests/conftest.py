"""How hypothesis runs in all tests of the application."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast an example is made and tried is no promise of ours, and a busy machine is no failure.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")
