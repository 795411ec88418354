"""Settings that every test shares."""

import os

from hypothesis import HealthCheck, settings

# Torch reads these when it loads, and every test module is imported after this one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples every time, and no verdict by the clock: a shared machine may be slow.
settings.register_profile("tileloom", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tileloom")
