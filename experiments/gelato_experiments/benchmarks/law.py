"""The distribution of sampled text: exact on a vocabulary small enough to enumerate.

A tiny pair decodes one prompt in many rows at once. The joint distribution of the first three tokens, and of
the three after the first (all of them drawn by rounds), are compared with the target's own by a
chi-square each, z = (chi2 - df) / sqrt(2 df), over 216 cells. A sound decoder exceeds z = 5 with
probability under 1e-5 (chi-square tail at df 215).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from gelato_jax import control, keys, payloads, testing
from gelato_jax.decoding import DecodeSettings, Pair, make_job
from gelato_jax.decoding.programs import decode
from gelato_jax.models import allocate

VOCAB = 6
PROMPT = 1
NEW_TOKENS = 4
ROWS = 50_000
RUNS = 4
LIMIT_Z = 5.0
RARE = 5.0
"""Expected count under which cells are pooled: the chi-square distribution needs counts."""
SETTINGS = DecodeSettings(max_draft_length=2, max_new_tokens=NEW_TOKENS, temperature=1.0, prefill_chunk=1)

PAYLOADS = (
    payloads.full,
    lambda: payloads.top_p(0.8),
    lambda: payloads.top_k(3),
    lambda: payloads.quantized(3),
    payloads.scalar,
    lambda: payloads.candidates(2),
    payloads.seeded,
)


@dataclasses.dataclass(frozen=True)
class Check:
    """One check."""

    payload: str
    controller: str
    z: float
    texts: int
    drafted: float  # tokens a round
    accepted: float  # share of the drafted tokens


def tiny_pair() -> Pair:
    """A target of six tokens and a draft that is often wrong about it; no token ends a text."""
    config = testing.tiny_config(VOCAB, 2, hidden_size=4, mlp_size=4, num_heads=1, head_dim=4)
    # This seed's distributions depend on the past (up to TV 0.94), their entropies span 0.5 to 1.7 nats, and a
    # draft token of the deepest exit is accepted with probability 0.7.
    target = testing.tiny_model(config, 8, 1.2)
    draft = testing.noisy_copy(target, 0.5, exits=(1,))
    return Pair(name="law", target=target, draft=draft, tokenizer=testing.NumberTokenizer(), eos_ids=(VOCAB,))


def run() -> Iterator[Check]:
    """Check every payload under every controller, each with exits that past draws steer."""
    pair = tiny_pair()
    joint = joint_law(target_logits(pair), SETTINGS)
    controllers = (
        control.ratio(power_budget_w=1.5, penalty_weight=0.05),
        control.gelato(energy_budget_j=0.2, penalty_weight=0.05),
        control.static(1),
        control.hf_schedule(2),
    )
    seeds = itertools.count(0, RUNS)  # every check draws texts of its own
    for payload in (make() for make in PAYLOADS):
        for index, name in enumerate(("ratio", "gelato", "static", "hf_schedule")):
            choices = {
                # Chosen by a traced index: one program a payload serves every controller.
                "controller": control.select_controller(controllers, index),
                "length_exit": control.length_exits.bucket(1.3, 0.2),
                "depth_exit": control.depth_exits.entropy(1.3),
                "draft_sampling": control.draft_sampling.entropy(1.5, 0.6, 1.0),
                "payload": payload,
            }
            counts, totals = count_texts(pair, choices, runs=RUNS, seed=next(seeds))
            drafted, accepted = int(totals.drafted.sum()), int(totals.accepted.sum())
            yield Check(
                payload=payload.scheme,
                controller=name,
                z=z_score(counts, joint),
                texts=int(counts.sum()),
                drafted=drafted / int(totals.rounds.sum()),
                accepted=accepted / max(drafted, 1),
            )


def target_logits(pair: Pair) -> np.ndarray:
    """The target's logits behind the prompt and every three tokens, `[V^3, NEW_TOKENS, V]` float64."""
    texts = np.asarray([(PROMPT, *text) for text in itertools.product(range(VOCAB), repeat=NEW_TOKENS - 1)])
    decoder = pair.target.bind()
    empty = allocate(pair.target.config, len(texts), 8)
    hidden, _ = decoder.forward(jnp.asarray(texts), empty, jnp.zeros(len(texts), jnp.int32))
    return np.asarray(decoder.unembed(hidden), np.float64)


def shaped(logits: np.ndarray, settings: DecodeSettings) -> np.ndarray:
    """Probabilities at a temperature, top-k and top-p, by sorting; shares nothing with the decoder."""
    scaled = logits / settings.temperature
    weights = np.exp(scaled - scaled.max(-1, keepdims=True))
    order = np.argsort(-weights, axis=-1)
    ranked = np.take_along_axis(weights, order, axis=-1)
    if settings.top_k:
        ranked[..., settings.top_k :] = 0.0
    ranked /= ranked.sum(-1, keepdims=True)
    before = np.cumsum(ranked, axis=-1) - ranked
    ranked[before >= settings.top_p] = 0.0
    ranked /= ranked.sum(-1, keepdims=True)
    return np.take_along_axis(ranked, np.argsort(order, axis=-1), axis=-1)


def joint_law(logits: np.ndarray, settings: DecodeSettings) -> np.ndarray:
    """Distribution of the first four tokens, `[V, V, V, V]`."""
    steps = shaped(logits, settings).reshape(*[VOCAB] * (NEW_TOKENS - 1), NEW_TOKENS, VOCAB)
    first, second, third, fourth = steps[0, 0, 0, 0], steps[:, 0, 0, 1], steps[:, :, 0, 2], steps[..., 3, :]
    return first[:, None, None, None] * second[..., None, None] * third[..., None] * fourth


def z_score(counts: np.ndarray, joint: np.ndarray) -> float:
    """The worse of two chi-squares: tokens 1-3 and tokens 2-4."""
    return max(_chi_square(counts.sum(3), joint.sum(3)), _chi_square(counts.sum(0), joint.sum(0)))


def _chi_square(counts: np.ndarray, joint: np.ndarray) -> float:
    counts, expected = counts.ravel(), joint.ravel() * counts.sum()
    if counts[expected == 0].any():
        return float("inf")
    rare = expected < RARE
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    freedom = kept.sum() - 1
    return float((((counts - expected)[kept] ** 2 / expected[kept]).sum() - freedom) / np.sqrt(2 * freedom))


def count_texts(
    pair: Pair,
    choices: dict[str, Any],
    *,
    settings: DecodeSettings = SETTINGS,
    runs: int = 1,
    seed: int = 0,
    program: Callable[..., Any] = decode,
    rows: int | None = None,
) -> tuple[np.ndarray, Any]:
    """Decode `runs` times `rows` texts and count them.

    Args:
        pair: what decodes.
        choices: policy, as `make_job` takes it.
        settings: temperature and truncation.
        runs: programs run, each with a seed of its own.
        seed: the first.
        program: `decode`, or a mutant of it.
        rows: texts of one program run; ROWS if not given.

    Returns:
        The histogram `[V, V, V, V]`, and the last run's totals.
    """
    rows = ROWS if rows is None else rows
    job = make_job(pair, settings=settings, **choices)
    tokens = jnp.zeros((rows, 8), jnp.int32).at[:, 0].set(PROMPT)
    length = jnp.ones((rows,), jnp.int32)
    counts = np.zeros([VOCAB] * NEW_TOKENS, np.int64)
    totals = None
    for number in range(runs):
        chosen = keys.spread(jnp.asarray(seed + number, jnp.uint32), rows)
        text, totals, _ = program(job, tokens, length, length + NEW_TOKENS, chosen, shapes=settings.shapes)
        words = np.asarray(text.tokens)[:, 1 : 1 + NEW_TOKENS]
        index = words @ VOCAB ** np.arange(NEW_TOKENS)[::-1]
        counts += np.bincount(index, minlength=VOCAB**NEW_TOKENS).reshape(counts.shape)
    return counts, totals
