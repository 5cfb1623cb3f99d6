"""Named inputs of `rotary_attention`: keyword arguments of one call each."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from gelato_kernels.attention.cases import Inputs
from gelato_kernels.attention.cases import case as attention_case


def case(seed: int, lengths: list[int], *, normed: bool = False, **sizes: object) -> Inputs:
    """A projection of normal numbers; the cache, and what `sizes` are, as in `window_attention`'s cases."""
    inputs = attention_case(seed, lengths, **sizes)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed + 1)
    batch, window, heads, size = inputs.pop("query").shape
    kv_heads = inputs["cache_key"].shape[1]
    del inputs["window_key"], inputs["window_value"]
    positions = inputs["lengths"][:, None] + np.arange(window)
    angles = positions[..., None] * (0.3 ** np.arange(size // 2)).astype(np.float32)
    inputs |= {
        "projected": rng.standard_normal((batch, window, (heads + 2 * kv_heads) * size), np.float32),
        "cosine": np.cos(angles).astype(np.float32),
        "sine": np.sin(angles).astype(np.float32),
    }
    if normed:
        query_norm, key_norm = 1 + 0.3 * rng.standard_normal((2, size)).astype(np.float32)
        inputs["norms"] = (query_norm, key_norm, 1e-5)
    return inputs


def _bfloat16() -> Inputs:
    inputs = case(5, [40, 0, 17])
    return inputs | {name: inputs[name].astype(jnp.bfloat16) for name in ("cache_key", "cache_value")}


CASES: dict[str, Callable[[], Inputs]] = {
    "window": lambda: case(0, [40, 0, 17]),
    "normed": lambda: case(1, [39, 1, 0], normed=True),
    "rows": lambda: case(2, [40, 0, 17]) | {"rows": np.int32(3)},
    "rows_of_each": lambda: case(7, [40, 0, 17, 3], normed=True) | {"rows": np.array([1, 9, 0, 4], np.int32)},
    "no_rows": lambda: case(2, [40, 0, 17]) | {"rows": np.int32(0)},
    "one_token": lambda: case(3, [23], window=1, heads=(3, 3)) | {"scale": 0.3},
    "odd_halves": lambda: case(4, [3, 21], heads=(14, 2), size=22, slots=21, normed=True),
    "bfloat16": _bfloat16,
    "wide_heads": lambda: case(8, [9, 4], window=2, heads=(2, 1), size=128, slots=9),
}
