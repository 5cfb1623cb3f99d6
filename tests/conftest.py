"""Settings of the test process; they must stand before JAX starts."""

import os
from importlib.metadata import version

# Programs of tiny models run in microseconds and compile in seconds: compile them cheaply.
_FLAGS = ["--xla_backend_optimization_level=0"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # Later releases do not know this flag, and XLA ends the process over a flag that it does not know.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
