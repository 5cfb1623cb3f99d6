"""What importing costs: nothing that a reader of help or a user of one function does not need."""

import subprocess
import sys


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(sys.modules), sep=chr(10))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


NO_BACKEND = "assert 'jax' not in sys.modules or not sys.modules['jax._src.xla_bridge'].backends_are_initialized()"


def test_import_starts_no_backend_and_pulls_in_no_extras():
    loaded = modules_after(f"import gelato_jax\n{NO_BACKEND}")
    assert not loaded & {"matplotlib", "grpc", "optax", "scipy", "orbax", "rich", "tyro", "tokenizers"}


def test_first_use_starts_no_backend():
    loaded = modules_after(
        f"import gelato_jax\ngelato_jax.generate, gelato_jax.system, gelato_jax.control\n{NO_BACKEND}"
    )
    assert "jax" in loaded
    assert not loaded & {"matplotlib", "grpc", "tyro", "tokenizers"}


def test_help_needs_no_jax():
    loaded = modules_after(
        "from gelato_jax.cli.main import run\n"
        "for arguments in (['--help'], ['generate', '--help']):\n"
        "    try:\n        run(arguments)\n    except SystemExit as end:\n        assert not end.code"
    )
    assert "tyro" in loaded
    assert not loaded & {"jax", "flax", "numpy", "rich", "gelato_checkpoints", "huggingface_hub"}
