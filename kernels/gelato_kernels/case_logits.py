"""Named logits and noise that every op must serve; the ops' own cases, tests and benchmarks build on them.

Made by NumPy, which comes with jax: making them compiles nothing.
"""

from collections.abc import Callable

import numpy as np

from gelato_kernels.noise import MANTISSA_BITS

# Assumed: a spread of 3 gives rows of 1-7 nats, the range seen in real decoding.
SPREAD = 3.0

# Most kinds share one shape, of a vocabulary that no block size divides, so that a suite compiles few programs.
ROWS, RAGGED = 3, 5003


def normal(seed: int, *shape: int) -> np.ndarray:
    """Gaussian logits of standard deviation `SPREAD`, float32."""
    return np.float32(SPREAD) * np.random.default_rng(seed).standard_normal(shape, np.float32)


def masked(seed: int, *shape: int, kept: float = 0.3) -> np.ndarray:
    """Gaussian logits of which all but a share `kept` are -inf; the last token of a row always stays."""
    keep = np.random.default_rng(seed + 1).random(shape) < kept
    keep[..., -1] = True
    return np.where(keep, normal(seed, *shape), np.float32(-np.inf))


def one_hot(vocab: int, *tokens: int) -> np.ndarray:
    """One row per token whose other logits are all -inf."""
    return np.where(np.arange(vocab) == np.array(tokens)[:, None], np.float32(1.5), np.float32(-np.inf))


def host_uniforms(seed: int, *shape: int) -> np.ndarray:
    """Uniform numbers of the package's convention, from NumPy's generator."""
    mantissa = np.random.default_rng(seed).integers(0, 2**MANTISSA_BITS, shape)
    return ((mantissa + 0.5) * 2.0**-MANTISSA_BITS).astype(np.float32)


def _half_masked() -> np.ndarray:
    logits = normal(6, ROWS, RAGGED)
    logits[:, :4096] = -np.inf
    return logits


LOGITS: dict[str, Callable[[], np.ndarray]] = {
    "one_token": lambda: np.zeros((2, 1), np.float32),
    "tiny": lambda: normal(0, 4, 6),
    "ragged": lambda: normal(1, ROWS, RAGGED),
    "smollm2": lambda: normal(2, ROWS, 49_152),
    "qwen2.5": lambda: normal(3, 2, 151_936),
    "masked": lambda: masked(4, ROWS, RAGGED),
    "masked_whole_blocks": _half_masked,
    "one_hot": lambda: one_hot(RAGGED, 0, 512, RAGGED - 1),
    "ties": lambda: np.round(normal(7, ROWS, RAGGED)),
    "flat": lambda: np.full((ROWS, RAGGED), -2.5, np.float32),
    "huge": lambda: 1000 * normal(8, ROWS, RAGGED),
    "shifted": lambda: normal(9, ROWS, RAGGED) + 5000,
}
