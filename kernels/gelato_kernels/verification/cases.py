"""Named inputs of `speculative_verify`: keyword arguments of one call each."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from gelato_kernels.case_logits import RAGGED, ROWS, SPREAD, host_uniforms, masked, normal, one_hot
from gelato_kernels.verification.records import VerifyUniforms


def window(
    target_logits: np.ndarray, draft_logits: np.ndarray, draft_length: list[int] | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """A drafted window: tokens drawn from `draft_logits` [B, K, V], noise, and lengths (K where None)."""
    rows, drafted, _ = draft_logits.shape
    gumbel = -np.log(-np.log(host_uniforms(100 + seed, *draft_logits.shape)))
    return {
        "target_logits": target_logits,
        "draft_tokens": np.argmax(draft_logits + gumbel, axis=-1).astype(np.int32),
        "draft_length": np.array([drafted] * rows if draft_length is None else draft_length, np.int32),
        "uniforms": VerifyUniforms(
            accept=jnp.asarray(host_uniforms(200 + seed, rows, drafted)),
            token=jnp.asarray(host_uniforms(300 + seed, rows, 2)),
        ),
        "draft_logits": draft_logits,
    }


def pair(seed: int, rows: int, drafted: int, vocab: int, *, gap: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Target logits and a draft's that differ from them by Gaussian noise of standard deviation `gap`."""
    target = normal(seed, rows, drafted + 1, vocab)
    return target, target[:, :drafted] + np.float32(gap / SPREAD) * normal(seed + 1, rows, drafted, vocab)


def _impossible_draft() -> dict[str, Any]:
    case = window(*pair(61, ROWS, 3, RAGGED))
    rows, tokens = np.arange(ROWS), case["draft_tokens"]
    case["target_logits"][rows, 0, tokens[:, 0]] = 30.0
    case["target_logits"][rows, 1, tokens[:, 1]] = -np.inf
    return case


def _garbage_beyond_length() -> dict[str, Any]:
    target, draft = pair(62, ROWS, 3, RAGGED, gap=0.2)
    case = window(target, draft.copy(), [0, 1, 2])
    for row, length in enumerate(case["draft_length"]):
        case["target_logits"][row, length + 1 :] = -np.inf
        case["draft_logits"][row, length:] = np.nan
    return case


def _masked() -> dict[str, Any]:
    target = masked(63, ROWS, 4, RAGGED)
    shared = host_uniforms(65, ROWS, 3, RAGGED) < 0.8
    return window(target, np.where(shared, target[:, :3], np.float32(-9.0)))


def _certain() -> dict[str, Any]:
    """Target and draft both certain: they agree on the first token, and differ on the second."""
    target = np.stack([one_hot(RAGGED, 3, 999, 4, 5)] * ROWS)
    return window(target, np.stack([one_hot(RAGGED, 3, 998, 4)] * ROWS), [0, 1, 3])


def _point_mass(case: dict[str, Any]) -> dict[str, Any]:
    return case | {"draft_logits": None}


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _probs(case: dict[str, Any]) -> dict[str, Any]:
    """The same draft, its distributions as probabilities."""
    return case | {"draft_logits": None, "draft_probs": _softmax(case["draft_logits"])}


def _support(seed: int, kept: int, lengths: list[int] | None = None) -> dict[str, Any]:
    """A draft truncated to its `kept` likeliest tokens before it was drawn; two unused places repeat the first id."""
    target, draft = pair(seed, ROWS, 3, RAGGED, gap=0.5)
    order = np.argsort(-draft, axis=-1)[..., :kept]
    cut = np.full_like(draft, -np.inf)
    np.put_along_axis(cut, order, np.take_along_axis(draft, order, -1), -1)
    case = window(target, cut, lengths)
    probs = np.take_along_axis(_softmax(cut), order, -1)
    ids = np.concatenate([order, order[..., :1], order[..., :1]], axis=-1).astype(np.int32)
    probs = np.concatenate([probs, np.zeros((ROWS, 3, 2), np.float32)], axis=-1)
    return case | {"draft_logits": None, "draft_support": (ids, probs)}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "tiny": lambda: window(*pair(50, 8, 3, 6)),
    "smollm2": lambda: window(*pair(52, 2, 4, 49_152, gap=0.5)),
    "qwen2.5": lambda: window(*pair(54, 1, 2, 151_936, gap=0.5)),
    "ragged": lambda: window(*pair(56, ROWS, 3, RAGGED), [1, 2, 3]),
    "length_zero": lambda: window(*pair(58, ROWS, 3, RAGGED), [0, 0, 0]),
    "equal_distributions": lambda: window(*pair(66, ROWS, 3, RAGGED, gap=0.0)),
    "opposite_distributions": lambda: window(normal(68, ROWS, 4, RAGGED), normal(69, ROWS, 3, RAGGED)),
    "masked": _masked,
    "certain": _certain,
    "impossible_draft": _impossible_draft,
    "garbage_beyond_length": _garbage_beyond_length,
    "no_draft": lambda: window(*pair(70, ROWS, 0, RAGGED)),
    "probs": lambda: _probs(window(*pair(76, ROWS, 3, RAGGED, gap=0.5), [1, 2, 3])),
    "probs_equal_distributions": lambda: _probs(window(*pair(77, ROWS, 3, RAGGED, gap=0.0))),
    "truncated_support": lambda: _support(78, 40),
    "certain_support": lambda: _support(79, 1, [0, 1, 3]),
    "point_mass": lambda: _point_mass(window(*pair(72, ROWS, 3, RAGGED, gap=0.5), [0, 2, 3])),
    "point_mass_certain": lambda: _point_mass(_certain()),
    "point_mass_no_draft": lambda: _point_mass(window(*pair(74, ROWS, 0, RAGGED))),
}
