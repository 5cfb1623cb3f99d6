"""Inputs of the workloads, made by NumPy: of models' shapes, and such that every sound implementation draws one token.

Implementations with the same uniforms agree except where one lies within rounding of an edge of the
CDF. Here each lies in the middle of its interval, so that a benchmark can tell a wrong token by equality.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gelato_kernels.blocks import block_size
from gelato_kernels.case_logits import SPREAD, host_uniforms, normal
from gelato_kernels.verification.cases import pair, window
from gelato_kernels.verification.records import VerifyUniforms


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax along the last axis in float64."""
    weights = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _middle(masses: np.ndarray, uniform: float) -> tuple[int, float]:
    """Index whose interval of the CDF of masses [n] holds the uniform, and the interval's middle."""
    edges = np.concatenate([[0.0], np.cumsum(masses)]) / masses.sum()
    index = int(np.searchsorted(edges, uniform, side="right")) - 1
    return index, (edges[index] + edges[index + 1]) / 2


def centred(weights: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Uniforms [B, 2] float32 that draw the same block and token from weights [B, V], from their intervals' middle."""
    size = block_size(weights.shape[-1])
    moved = []
    for row, (of_block, of_token) in zip(weights, uniforms, strict=True):
        blocks = np.pad(row, (0, -len(row) % size)).reshape(-1, size)
        block, middle = _middle(blocks.sum(1), of_block)
        moved.append((middle, _middle(blocks[block], of_token)[1]))
    return np.array(moved, np.float32)


def logits_and_uniforms(rows: int, vocab: int) -> dict[str, Any]:
    """Logits [B, V] and uniforms [B, 2]."""
    logits = normal(0, rows, vocab)
    return {"logits": logits, "uniforms": centred(softmax(logits), host_uniforms(1, rows, 2))}


def logits_and_level(rows: int, vocab: int) -> dict[str, Any]:
    """Logits [B, V] and a top-p of 0.9."""
    return {"logits": normal(0, rows, vocab), "top_p": np.float32(0.9)}


def logits_and_noise(rows: int, vocab: int) -> dict[str, Any]:
    """Logits and Gumbel noise [B, V]."""
    return {"logits": normal(0, rows, vocab), "noise": -np.log(-np.log(host_uniforms(2, rows, vocab)))}


def drafted_window(rows: int, vocab: int, drafted: int) -> dict[str, Any]:
    """Target logits [B, K+1, V], and the logits [B, K, V] of a draft somewhat off, with tokens drawn from them."""
    inputs = window(*pair(3, rows, drafted, vocab, gap=0.5))
    p, q = softmax(inputs["target_logits"]), softmax(inputs["draft_logits"])
    noise, tokens = inputs["uniforms"], inputs["draft_tokens"][..., None]
    p_token, q_token = (
        np.take_along_axis(distribution, tokens, axis=-1)[..., 0] for distribution in (p[:, :drafted], q)
    )
    stop = np.cumprod(np.asarray(noise.accept) * q_token < p_token, axis=1).sum(1)
    every_row = np.arange(rows)
    q = np.concatenate([q, np.zeros_like(q[:, :1])], axis=1)  # nothing is taken from a bonus token's distribution
    residual = np.maximum(p - q, 0.0)[every_row, stop]
    token = centred(residual, np.asarray(noise.token))
    return inputs | {"uniforms": VerifyUniforms(noise.accept, jnp.asarray(token))}


def _held_by_bfloat16(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers, rounded: implementations that round to bfloat16 then differ by their sums alone."""
    return rng.standard_normal(shape, np.float32).astype(jnp.bfloat16).astype(np.float32)


def product(out: int, inputs: int, rows: int) -> dict[str, Any]:
    """Rows x [B, in], int8 weights [out, in] and scales [out] that give a product of standard deviation `SPREAD`."""
    rng = np.random.default_rng(4)
    weights = rng.integers(-127, 128, (out, inputs), np.int8)
    largest = SPREAD / (weights[:64].std() * np.sqrt(inputs))
    scale = (largest * rng.uniform(0.9, 1.1, out)).astype(np.float32)
    return {"x": _held_by_bfloat16(rng, rows, inputs), "weights": weights, "scale": scale}


def layers(count: int, out: int, inputs: int, rows: int) -> dict[str, Any]:
    """`product` with many matrices, which no cache holds together: `weights` and `scale` are tuples."""
    first = product(out, inputs, rows)
    rng = np.random.default_rng(6)
    weights = tuple(rng.integers(-127, 128, (out, inputs), np.int8) for _ in range(count))
    return first | {"weights": weights, "scale": (first["scale"],) * count}


def unembedding(vocab: int, width: int, rows: int) -> dict[str, Any]:
    """Hidden states [B, D], an int8 head [V, D] with scales [V], and uniforms [B, 2]."""
    made = product(vocab, width, rows)
    logits = made["x"] @ made["weights"].T.astype(np.float32) * made["scale"]
    uniforms = centred(softmax(logits), host_uniforms(5, rows, 2))
    return {"hidden": made["x"], "weight": made["weights"], "scale": made["scale"], "uniforms": uniforms}
