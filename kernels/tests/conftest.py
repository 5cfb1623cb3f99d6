"""Float64 NumPy forms of what the ops compute; of the package they take only its block layout."""

from collections.abc import Callable

import numpy as np
import pytest

from gelato_kernels.blocks import block_size


def softmax64(logits: np.ndarray) -> np.ndarray:
    """Softmax along the last axis in float64."""
    logits = np.asarray(logits, np.float64)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def cdf_gap(weights: np.ndarray, uniforms: np.ndarray, token: int) -> tuple[float, float]:
    """How far the two uniforms lie outside the block's and the token's interval of the CDF; 0 when inside."""
    size = block_size(len(weights))
    blocks = np.pad(weights, (0, -len(weights) % size)).reshape(-1, size)

    def outside(masses: np.ndarray, index: int, u: float) -> float:
        cdf = np.concatenate([[0.0], np.cumsum(masses)]) / masses.sum()
        return max(cdf[index] - u, u - cdf[index + 1], 0.0)

    block, inside = divmod(int(token), size)
    return outside(blocks.sum(1), block, float(uniforms[0])), outside(blocks[block], inside, float(uniforms[1]))


@pytest.fixture(name="softmax64")
def _softmax64() -> Callable[..., np.ndarray]:
    return softmax64


@pytest.fixture
def assert_drawn() -> Callable[..., None]:
    """Assert that `token` is the inverse-CDF draw from `weights` [V], up to float32 rounding `noise` [V] of them."""

    def check(weights: np.ndarray, uniforms: np.ndarray, token: int, noise: np.ndarray | None = None) -> None:
        assert weights[token] > 0
        size = block_size(len(weights))
        inside = slice(token // size * size, (token // size + 1) * size)
        noise = np.zeros_like(weights) if noise is None else noise
        allowed = [1e-5 + noise[part].sum() / weights[part].sum() for part in (slice(None), inside)]
        gaps = cdf_gap(weights, uniforms, token)
        assert gaps[0] <= allowed[0], (gaps, allowed)
        assert gaps[1] <= allowed[1], (gaps, allowed)

    return check
