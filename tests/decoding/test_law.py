"""Sampled text has the target's law, exactly; and the same check catches what would bend it.

A tiny pair decodes one prompt in many rows at once. The joint law of the first three tokens, and of
the three after the first (all of them drawn by rounds), are compared with the target's own law by a
chi-square each, z = (chi2 - df) / sqrt(2 df), over 216 cells. A correct decoder exceeds z = 5 with
probability under 1e-5 (chi-square tail at df 215); over the some 100 checks here, under 1e-3, once
and for all, since seeds are fixed.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
import gelato_kernels
from gelato_jax import control, system, testing
from gelato_jax.decoding import encode_prompts, job, keys, make_job
from gelato_jax.decoding import round as rounds
from gelato_jax.decoding.generate import decode
from gelato_jax.models import allocate, attention, cache

VOCAB = 6
PROMPT = 1
NEW_TOKENS = 4
ROWS = 50_000
LIMIT_Z = 5.0
SETTINGS = gelato.DecodeSettings(
    max_draft_length=2, max_new_tokens=NEW_TOKENS, temperature=1.0, prefill_chunk=8
)


@pytest.fixture(autouse=True, scope="module")
def tiny_buffers(small_buffers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SMALLEST_BUFFER", 8)
        patch.setattr(cache, "SLOT_BLOCK", 8)
        patch.setattr(attention, "SLOT_BLOCK", 8)
        yield


@pytest.fixture(scope="module")
def pair() -> gelato.Pair:
    config = testing.tiny_config(VOCAB, 2, hidden_size=4, mlp_size=4, num_heads=1, head_dim=4)
    target = testing.tiny_model(config, 3, 1.5)
    draft = testing.noisy_copy(target, 0.4, exits=(1,))
    no_end = (VOCAB,)
    return gelato.Pair(name="law", target=target, draft=draft, tokenizer=testing.NumberTokenizer(), eos_ids=no_end)


@pytest.fixture(scope="module")
def logits(pair) -> np.ndarray:
    """The target's logits behind the prompt and every three tokens, `[V^3, NEW_TOKENS, V]` float64."""
    texts = np.asarray([(PROMPT, *text) for text in itertools.product(range(VOCAB), repeat=NEW_TOKENS - 1)])
    decoder = pair.target.bind()
    empty = jnp.zeros(len(texts), jnp.int32)
    hidden, _ = decoder.forward(jnp.asarray(texts), allocate(pair.target.config, len(texts), 8), empty)
    return np.asarray(decoder.unembed(hidden), np.float64)


def shaped(logits: np.ndarray, settings: gelato.DecodeSettings) -> np.ndarray:
    """Probabilities at a temperature, top-k and top-p, by sorting."""
    weights = np.exp(logits / settings.temperature - (logits / settings.temperature).max(-1, keepdims=True))
    order = np.argsort(-weights, axis=-1)
    ranked = np.take_along_axis(weights, order, axis=-1)
    if settings.top_k:
        ranked[..., settings.top_k :] = 0.0
    ranked /= ranked.sum(-1, keepdims=True)
    before = np.cumsum(ranked, axis=-1) - ranked
    ranked[before >= settings.top_p] = 0.0
    ranked /= ranked.sum(-1, keepdims=True)
    return np.take_along_axis(ranked, np.argsort(order, axis=-1), axis=-1)


def joint_law(logits: np.ndarray, settings: gelato.DecodeSettings) -> np.ndarray:
    """Law of the first four tokens, `[V, V, V, V]`."""
    steps = shaped(logits, settings).reshape(*[VOCAB] * (NEW_TOKENS - 1), NEW_TOKENS, VOCAB)
    first, second, third, fourth = steps[0, 0, 0, 0], steps[:, 0, 0, 1], steps[:, :, 0, 2], steps[..., 3, :]
    return first[:, None, None, None] * second[..., None, None] * third[..., None] * fourth


def z_score(counts: np.ndarray, law: np.ndarray) -> float:
    """The worse of two chi-squares: tokens 1-3 and tokens 2-4."""
    return max(chi_square(counts.sum(3), law.sum(3)), chi_square(counts.sum(0), law.sum(0)))


def chi_square(counts: np.ndarray, law: np.ndarray) -> float:
    counts, expected = counts.ravel(), law.ravel() * counts.sum()
    if counts[expected == 0].any():
        return float("inf")
    rare = expected < 5  # one cell for all of them: the chi-square law needs counts
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    freedom = kept.sum() - 1
    return float((((counts - expected)[kept] ** 2 / expected[kept]).sum() - freedom) / np.sqrt(2 * freedom))


def count_texts(tokens) -> np.ndarray:
    """Histogram `[V, V, V, V]` of the texts behind the prompt."""
    text = np.asarray(tokens)[:, 1 : 1 + NEW_TOKENS]
    index = text @ VOCAB ** np.arange(NEW_TOKENS)[::-1]
    return np.bincount(index, minlength=VOCAB**NEW_TOKENS).reshape(*[VOCAB] * NEW_TOKENS)


@pytest.fixture(scope="module")
def counts():
    """Counts of texts, `runs` times ROWS of them, and the last run's totals."""

    def counts(pair, choices, *, settings=SETTINGS, runs=1, seed=0, program=decode):
        prompts = encode_prompts(pair, [[PROMPT]] * ROWS, settings)
        work = make_job(pair, settings=settings, **choices)
        total = np.zeros([VOCAB] * NEW_TOKENS, np.int64)
        for number in range(runs):
            prompts["seed"] = jnp.asarray(seed + number, jnp.uint32)
            text, totals, _ = program(work, **prompts, shapes=settings.shapes)
            total += count_texts(text.tokens)
        return total, totals

    return counts


LENGTH_EXITS = ("none", "bucket", "priced", "adaedl", "svip", "confidence")
DEPTH_EXITS = ("fixed", "entropy", "priced")
DRAFT_SAMPLINGS = ("fixed", "entropy")


def test_every_rule_keeps_the_law(pair, logits, counts, policy):
    """Each controller with every exit and sampling rule; and pooled, 200k texts or more a rule."""
    law = joint_law(logits, SETTINGS)
    pools: dict[str, np.ndarray] = {}
    scores = {}
    for row, controller in enumerate(control.CONTROLLERS):
        for number, length_exit in enumerate(LENGTH_EXITS):
            names = (controller, length_exit, DEPTH_EXITS[(number + row) % 3], DRAFT_SAMPLINGS[(number + row) % 2])
            seen, totals = counts(pair, {**policy(*names), "payload": system.payload.full()}, seed=len(scores))
            assert 0 < int(totals.accepted.sum()) < int(totals.drafted.sum())
            scores[names] = z_score(seen, law)
            for kind, name in enumerate(names):
                pools[f"{kind} {name}"] = pools.get(f"{kind} {name}", 0) + seen
    pooled = {name: z_score(seen, law) for name, seen in pools.items()}
    assert len(pooled) == 4 + 6 + 3 + 2
    assert min(seen.sum() for seen in pools.values()) >= 200_000
    assert max(scores.values()) < LIMIT_Z, scores
    assert max(pooled.values()) < LIMIT_Z, pooled


def adaptive() -> dict:
    """Rules under which past draws steer what is drafted."""
    return {
        "controller": control.ratio(power_budget_w=1.5, penalty_weight=0.05),
        "length_exit": control.length_exits.bucket(1.3, 0.2),
        "depth_exit": control.depth_exits.entropy(1.3),
        "draft_sampling": control.draft_sampling.entropy(1.5, 0.6, 1.0),
    }


@pytest.mark.parametrize(
    "payload",
    [
        system.payload.top_p(0.8),
        system.payload.top_k(3),
        system.payload.quantized(3),
        system.payload.scalar(),
        system.payload.candidates(2),
        system.payload.seeded(),
    ],
    ids=lambda payload: payload.scheme,
)
def test_every_payload_keeps_the_law(payload, pair, logits, counts):
    seen, totals = counts(pair, {**adaptive(), "payload": payload}, runs=4, seed=100)
    assert 0 < int(totals.accepted.sum()) < int(totals.drafted.sum())
    assert z_score(seen, joint_law(logits, SETTINGS)) < LIMIT_Z


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.7}, {"temperature": 1.6, "top_p": 0.8}, {"top_k": 3}],
    ids=["plain", "temperature", "top_p", "top_k"],
)
@pytest.mark.parametrize("payload", [system.payload.full(), system.payload.seeded()], ids=lambda p: p.scheme)
def test_a_draft_vocabulary_keeps_the_law(payload, changes, pair, logits, counts, cut_vocabulary):
    """A draft that knows four ids of six, under shaped laws of the target."""
    settings = dataclasses.replace(SETTINGS, **changes)
    narrow = dataclasses.replace(pair, draft=cut_vocabulary(pair.draft, [0, 2, 3, 5]))
    seen, totals = counts(narrow, {**adaptive(), "payload": payload}, settings=settings, runs=4, seed=200)
    assert 0 < int(totals.accepted.sum()) < int(totals.drafted.sum())
    assert z_score(seen, joint_law(logits, settings)) < LIMIT_Z


MUTANTS = (
    "none",
    "residual replaced by p",
    "no bonus on short drafts",
    "ratio x 1.05",
    "drop token i by q(x_i)",
    "drop token i by H_(i+1)",
    "trim the tail",
    "one uniform for accept and residual",
    "a round key used twice",
)


@pytest.fixture(scope="module")
def mutated():
    """`decode` with all mutants in it; `payload.bits`, which `full` does not read, says which is in force."""
    chosen = {}

    def is_on(name):
        return chosen["mutant"] == MUTANTS.index(name)

    sound_accept, sound_residual = gelato_kernels.accept, gelato_kernels.sample_residual
    sound_uniforms, sound_draft = keys.round_uniforms, rounds.draft

    def accept(weights, tokens, log_prob, length, uniforms):
        log_prob = log_prob - jnp.where(is_on("ratio x 1.05"), jnp.log(1.05), 0.0)
        chosen["accepted"] = sound_accept(weights, tokens, log_prob, length, uniforms)
        return chosen["accepted"]

    def sample_residual(target, draft, is_bonus, uniforms):
        is_bonus = is_bonus | is_on("residual replaced by p")
        full_draft = chosen["accepted"] == SETTINGS.max_draft_length
        is_bonus = is_bonus & (full_draft | ~is_on("no bonus on short drafts"))
        return sound_residual(target, draft, is_bonus, uniforms)

    def round_uniforms(row_keys, numbers, use, shape):
        numbers = jnp.where(is_on("a round key used twice"), jnp.minimum(numbers, 1), numbers)
        drawn = sound_uniforms(row_keys, numbers, use, shape)
        if use is not keys.Use.NEXT_TOKEN:
            return drawn
        first = sound_uniforms(row_keys, numbers, keys.Use.ACCEPT, (SETTINGS.max_draft_length,))[:, :1]
        return jnp.where(is_on("one uniform for accept and residual"), first, drawn)

    def draft(*arguments):
        drafted, *rest = sound_draft(*arguments)
        index = jnp.arange(SETTINGS.max_draft_length)
        sent = index < drafted.length[:, None]
        likely = sent & (drafted.log_prob >= jnp.log(0.3))
        next_entropy = jnp.roll(drafted.entropy, -1, axis=1)
        calm = sent & ((next_entropy < 1.3) | (index + 1 == drafted.length[:, None]))
        leading = lambda keep: jnp.cumprod(keep, axis=1).sum(axis=1)  # noqa: E731
        length = jnp.where(is_on("drop token i by q(x_i)"), leading(likely), drafted.length)
        length = jnp.where(is_on("drop token i by H_(i+1)"), leading(calm), length)
        length = jnp.where(is_on("trim the tail"), jnp.max(likely * (index + 1), axis=1), length)
        return dataclasses.replace(drafted, length=length.astype(jnp.int32)), *rest

    def program(work, *, shapes, **prompts):
        chosen["mutant"] = work.policy.payload.bits
        return decode.__wrapped__(work, **prompts, shapes=shapes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gelato_kernels, "accept", accept)
        patch.setattr(gelato_kernels, "sample_residual", sample_residual)
        patch.setattr(keys, "round_uniforms", round_uniforms)
        patch.setattr(rounds, "draft", draft)
        yield jax.jit(program, static_argnames="shapes")


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_catches_a_bent_law(mutant, mutated, pair, logits, counts):
    payload = dataclasses.replace(system.payload.full(), bits=jnp.asarray(MUTANTS.index(mutant), jnp.int32))
    rules = {
        "controller": control.static(2),
        "length_exit": control.length_exits.confidence(0.4),
        "depth_exit": control.depth_exits.fixed(),
        "payload": payload,
    }
    seen, _ = counts(pair, rules, runs=4, seed=300, program=mutated)
    z = z_score(seen, joint_law(logits, SETTINGS))
    print(z)
    assert (z > LIMIT_Z) == (mutant != "none"), z
