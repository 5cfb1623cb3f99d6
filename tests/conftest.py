"""Settings of the test process; they must stand before JAX starts."""

import os

# Programs of tiny models run in microseconds and compile in seconds: compile them cheaply.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
