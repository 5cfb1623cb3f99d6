"""`python -m gelato_kernels.bench.native`: block weights in a chain of products, as a decoder's, beside float32.

All weights of a chain are read at every turn of one compiled loop, so they come from memory, not from a cache. The
memory's own speed stands above the table: bytes that a copy reads and writes in a second.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import gelato_kernels as gk
from gelato_kernels import native
from gelato_kernels.bench.command import Parser, guarded
from gelato_kernels.bench.timing import FULL, QUICK, Effort, copy_bandwidth

PROG = "gelato_kernels.bench.native"
COUNT, OUT, INPUTS = 40, 3072, 576
"""Products of a chain, of SmolLM2-135M's widest matrix."""
ROWS = (1, 2, 3, 5, 9)


def _chain(product: Callable[[Array, Any], Array]) -> Callable[..., Array]:
    """A loop over all weights, `turns` times; a product's row depends on the one before."""

    @jax.jit
    def loop(turns: Array, x: Array, weights: Sequence[Any]) -> Array:
        def body(_: Array, x: Array) -> Array:
            for w in weights:
                x = 0.5 * x + 1e-3 * product(x, w)[:, : x.shape[1]]
            return x

        return lax.fori_loop(0, turns, body, x)

    return loop


def _forms(count: int) -> dict[str, tuple[Callable[..., Array], list[Any], int]]:
    """A chain, its weights and their bytes, by name."""
    rng = np.random.default_rng(0)
    floats = [jnp.asarray(rng.standard_normal((OUT, INPUTS), np.float32)) for _ in range(count)]
    quantize = jax.jit(gk.quantize_blocks, static_argnums=1)
    forms: dict[str, Any] = {"float32 XLA": (_chain(lambda x, w: x @ w), [w.T.copy() for w in floats])}
    rows = [gk.quantize_rows(w) for w in floats]
    forms["int8 rows XLA"] = (_chain(lambda x, w: gk.quantized_matmul(x, *w)), rows)
    if native.available():
        for kind in ("q4", "q8", "bfloat16"):
            call = lambda x, w: gk.block_matmul(x, w, implementation="native")  # noqa: E731
            forms[f"{kind} native"] = (_chain(call), [quantize(w, kind) for w in floats])
    return {
        name: (loop, weights, sum(leaf.nbytes for leaf in jax.tree.leaves(weights)))
        for name, (loop, weights) in forms.items()
    }


def _milliseconds(forms: dict[str, Any], rows: int, effort: Effort) -> dict[str, tuple[float, float]]:
    """Median and least milliseconds of a turn; forms take turns, so that what slows the machine slows all."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((rows, INPUTS), np.float32))
    taken: dict[str, list[float]] = {name: [] for name in forms}
    turns = 4
    for round_ in range(effort.rounds // 2 + 1):
        for name, (loop, weights, _) in forms.items():
            start = time.perf_counter()
            loop(jnp.int32(turns), x, weights).block_until_ready()
            if round_:  # the first one compiles
                taken[name].append((time.perf_counter() - start) / turns * 1e3)
    return {name: (float(np.median(ms)), min(ms)) for name, ms in taken.items()}


def _bench(options: argparse.Namespace) -> int:
    effort = QUICK if options.quick else FULL
    print(f"native kernels: {native.instructions() or native.reason()}")
    forms = _forms(4 if options.quick else COUNT)
    print(f"copy: {copy_bandwidth(effort) / 1e9:.1f} GB/s read and written")
    print(f"{'ms, median (least)':16} " + " ".join(f"{f'T={rows}':>15}" for rows in ROWS) + "   GB/s at T=1")
    table = [_milliseconds(forms, rows, effort) for rows in ROWS]
    for name, (_, _, size) in forms.items():
        cells = " ".join(f"{median:7.2f} ({least:5.2f})" for median, least in (row[name] for row in table))
        print(f"{name:18} {cells}   {size / table[0][name][0] / 1e6:.1f}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's); the exit code.

    Raises:
        SystemExit: after --help, or arguments that are not understood.
    """
    parser = Parser(prog=f"python -m {PROG}", description="Time chains of products with block weights beside float32.")
    parser.add_argument(
        "--quick", action="store_true", help="a short chain, few rounds: whether it works, not how fast"
    )
    options = parser.parse_args(arguments)
    return guarded(PROG, lambda: _bench(options))


if __name__ == "__main__":
    sys.exit(main())
