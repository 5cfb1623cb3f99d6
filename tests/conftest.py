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

import jax  # noqa: E402  (behind the flags)
import pytest  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Give back a module's compiled programs: each holds memory maps, and Linux ends a process of more than 65,530."""
    yield
    jax.clear_caches()
