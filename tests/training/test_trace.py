"""Traces against plain NumPy, and against rounds that really run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gelato_jax import control, generate
from gelato_jax.decoding import DecodeSettings, make_draft
from gelato_jax.models import quantize, random_model
from gelato_jax.testing import noisy_copy, tiny_config, tiny_pair
from gelato_jax.training.answers import model_fingerprint, write_answers
from gelato_jax.training.metrics import expected_rounds
from gelato_jax.training.repeat_fit import fit_repeats, logistic
from gelato_jax.training.states import Answer
from gelato_jax.training.trace import Trace, trace_answers, trace_rows
from gelato_jax.types import RepeatOdds, RepeatOddsSet

PROMPTS = [("short", "3 1 4"), ("short", "1 5"), ("long", "9 2 6 5 3 5 8"), ("long", "9 7 9 3 2 3 8 4")]


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(0.3, exits=(1,))


@pytest.fixture(scope="module")
def cut(pair):
    """The pair's draft with a head of every other id and a probe at its early exit."""
    draft, ids = pair.draft.model, np.arange(0, 61, 2, dtype=np.int32)
    config = dataclasses.replace(draft.config, head_vocab_size=len(ids), exit_probes=True)
    probe = {"exit_probes.0.weight": jnp.linspace(-1, 1, 16), "exit_probes.0.bias": jnp.asarray(0.5)}
    model = dataclasses.replace(
        draft, config=config, params={**draft.params, **probe, "head.kernel": draft.params["head.kernel"][ids]}
    )
    return make_draft(model, vocabulary=jnp.asarray(ids))


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def logits_of(model, tokens, depth):
    """Logits of a model cut after `depth` layers, which read the exit's norm."""
    decoder = model.bind()
    lengths = jnp.zeros((tokens.shape[0],), jnp.int32)
    angles = decoder.angles(lengths, tokens.shape[1])
    x, _ = decoder.run(decoder.embed_tokens(tokens), angles, None, lengths, 0, depth)
    normed = decoder.exit_norm(model.config.exits.index(depth))(x)
    return np.asarray(decoder.head_logits(normed), np.float64), np.asarray(normed)


def test_every_number_is_what_numpy_says(pair, cut):
    tokens = jax.random.randint(jax.random.key(3), (3, 50), 0, 61)
    trace = trace_rows(pair.target, cut, tokens)  # 147 positions: more than one part, the last not full
    p = softmax(logits_of(pair.target, tokens, 3)[0])[:, :-1]
    following, ids = np.asarray(tokens)[:, 1:], np.asarray(cut.vocabulary)
    np.testing.assert_allclose(trace.target_entropy, -(p * np.log(p)).sum(-1), rtol=1e-4)
    for index, depth in enumerate((1, 3)):
        logits, normed = logits_of(cut.model, tokens, depth)
        narrow = softmax(logits)[:, :-1]
        q = np.zeros_like(p)
        q[..., ids] = narrow
        entropy = -(narrow * np.log(narrow)).sum(-1)
        np.testing.assert_allclose(trace.entropy[..., index], entropy, rtol=1e-4)
        np.testing.assert_allclose(trace.acceptance[..., index], 1 - abs(p - q).sum(-1) / 2, rtol=1e-4, atol=1e-6)
        ratio = np.take_along_axis(q / p, following[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(trace.chance[..., index], np.minimum(1, ratio), rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(trace.agreement[..., index], p.argmax(-1) == q.argmax(-1))
        said = np.maximum(normed[:, :-1] @ np.linspace(-1, 1, 16) + 0.5, 0) if depth == 1 else entropy
        np.testing.assert_allclose(trace.probe[..., index], said, rtol=1e-4, atol=1e-5)
    assert 0 < trace.agreement.mean() < 1
    assert trace.reached.all()


def test_tokens_that_leave_change_the_deeper_exit_alone(pair, cut):
    tokens = jax.random.randint(jax.random.key(4), (2, 20), 0, 61)
    leaves = jnp.ones((2, 20), jnp.int32).at[0, 3].set(0)
    whole, some = trace_rows(pair.target, cut, tokens), trace_rows(pair.target, cut, tokens, leaves)
    np.testing.assert_allclose(some.entropy[..., 0], whole.entropy[..., 0], rtol=1e-5)
    np.testing.assert_allclose(some.entropy[1], whole.entropy[1], rtol=1e-5)
    np.testing.assert_allclose(some.entropy[0, :3], whole.entropy[0, :3], rtol=1e-5)
    assert np.abs(some.entropy[0, 4:, 1] - whole.entropy[0, 4:, 1]).max() > 1e-4
    assert (some.reached == (np.arange(2) <= np.asarray(leaves)[:, :-1, None])).all()


def test_answers_are_traced_as_rows_are(pair):
    answers = [
        Answer("a", np.arange(1, 6, dtype=np.int32), np.array([7, 8, 9, 10], np.int32), 0.0),
        Answer("b", np.arange(2, 80, dtype=np.int32) % 61, np.array([5, 6], np.int32), 1.0),
    ]
    for answer, trace in zip(answers, trace_answers(pair.target, pair.draft, answers), strict=True):
        row = np.concatenate([answer.prompt, answer.tokens])[None]
        whole = trace_rows(pair.target, pair.draft, jnp.asarray(row))
        behind = len(answer.prompt)  # position i is about token i + 1; the first token is never drafted
        for field, value in vars(whole).items():
            np.testing.assert_allclose(getattr(trace, field), value[0, behind:], rtol=1e-4, atol=1e-6)
    left = trace_answers(pair.target, pair.draft, answers, leaving=0.5)
    assert not left[0].reached[:, 1].all() or not left[1].reached[:, 1].all()


def believing(draft, *, slope, offset, unseen):
    """A draft with odds of repeats of up to two tokens."""
    shape = (draft.work.shape[0], 2)
    odds = RepeatOdds(slope=jnp.full(shape, slope), offset=jnp.full(shape, offset), unseen=jnp.full(2, unseen))
    return dataclasses.replace(draft, repeats=RepeatOddsSet(greedy=odds, sampled=odds))


@pytest.mark.parametrize("repeats", ["head alone", "repeats", "repeats beyond the head"])
def test_greedy_rounds_are_those_of_a_decode(pair, cut, repeats):
    if repeats != "head alone":
        chosen = cut if repeats == "repeats beyond the head" else pair.draft
        pair = dataclasses.replace(pair, draft=believing(chosen, slope=0.5, offset=1.0, unseen=0.9))
    answers = write_answers(pair, PROMPTS, temperature=0, new_tokens=40)
    traces = trace_answers(pair.target, pair.draft, answers)
    rounds = expected_rounds([np.asarray(trace.agreement, float) for trace in traces])
    generation = generate(
        pair,
        [text for _, text in PROMPTS],
        settings=DecodeSettings(max_draft_length=3, max_new_tokens=40),
        controller=control.static(3),
        length_exit=control.length_exits.none(),
    )
    assert [answer.tokens.tolist() for answer in answers] == generation.tokens
    np.testing.assert_array_equal(rounds[:, -1, 2], np.asarray(generation.totals.rounds))


def test_sampled_rounds_follow_the_chances():
    """Against 200,000 simulated decodes of one text: 4 standard errors, false alarm 6e-5."""
    random = np.random.default_rng(0)
    chance = random.random((9, 1))
    expected = expected_rounds([chance], 3)[0, 0]
    accepted = random.random((200_000, 12)) < np.pad(chance[:, 0], (0, 3))
    for length in (1, 2, 3):
        rounds, at = np.zeros(len(accepted)), np.zeros(len(accepted), int)
        while (at < 9).any():
            active = at < 9
            window = np.take_along_axis(accepted, np.minimum(at[:, None] + np.arange(length), 11), axis=1)
            run = np.where(window.all(axis=1), length, window.argmin(axis=1))
            rounds, at = rounds + active, at + active * (run + 1)
        assert abs(rounds.mean() - expected[length - 1]) < 4 * rounds.std() / np.sqrt(len(rounds))


def test_repeats_change_what_numpy_says_they_change(pair, cut):
    """At a token that the head lacks: its chance is `unseen`, and the others share the rest."""
    tokens = jnp.array([[4, 7, 9, 4, 7, 9, 4, 7]])
    head, trace = (
        trace_rows(pair.target, draft, tokens) for draft in (cut, believing(cut, slope=1.0, offset=0.0, unseen=0.25))
    )
    np.testing.assert_array_equal(trace.repeat_count[0], [0, 0, 0, 1, 2, 2, 2])
    np.testing.assert_allclose(trace.acceptance[0, :3], head.acceptance[0, :3], rtol=1e-5)
    # Behind 4, 7, 9, 4 stands 7, which no head row is for.
    p = softmax(logits_of(pair.target, tokens, pair.target.config.num_layers)[0][0, 3])
    assert np.isnan(trace.repeat_odds[0, 3]).all()
    assert trace.repeat_chance[0, 3] == pytest.approx(p[7], rel=1e-4)
    for index, depth in enumerate(cut.model.config.exits):
        q = softmax(logits_of(cut.model, tokens, depth)[0][0, 3])
        q_all = np.zeros(len(p))
        q_all[np.asarray(cut.vocabulary)] = q
        odds = 0.25 / 0.75
        q_all = q_all / (1 + odds)
        q_all[7] = odds / (1 + odds)
        assert trace.acceptance[0, 3, index] == pytest.approx(np.minimum(p, q_all).sum(), rel=1e-4)
        assert trace.chance[0, 3, index] == pytest.approx(min(1, q_all[7] / p[7]), rel=1e-4)


def test_fitted_odds_are_those_that_made_the_data():
    random, size = np.random.default_rng(0), 20_000
    odds = random.normal(-1, 2, (size, 1))
    chance = 1 / (1 + np.exp(-(0.6 * odds[:, 0] + 0.8)))
    zeros = np.zeros((size, 1))
    fields = {name: zeros for name in ("entropy", "probe", "acceptance", "chance", "agreement", "reached")}
    trace = Trace(
        **fields,
        target_entropy=zeros[:, 0],
        repeat_count=np.full(size, 2),
        repeat_odds=odds,
        repeat_chance=chance,
        repeat_wins=random.random(size) < chance,
        rival=zeros,
        rival_wins=np.ones((size, 1), bool),
    )
    for distribution, tolerance in (("sampled", 1e-3), ("greedy", 0.1)):  # greedy: five standard errors of 20,000 draws
        found = fit_repeats([trace], distribution)
        assert float(found.slope[0, 1]) == pytest.approx(0.6, abs=tolerance)
        assert float(found.offset[0, 1]) == pytest.approx(0.8, abs=tolerance)
        assert (float(found.slope[0, 0]), float(found.offset[0, 0])) == (1.0, 0.0)  # no evidence: the head's odds


def test_answers_are_written_once(pair, tmp_path, monkeypatch):
    from gelato_jax.training import answers as module

    first = write_answers(pair, PROMPTS, temperature=1, new_tokens=12, cache=tmp_path)
    monkeypatch.setattr(module, "autoregressive", None)  # a second writing would fail
    again = write_answers(pair, PROMPTS, temperature=1, new_tokens=12, cache=tmp_path)
    for one, two in zip(first, again, strict=True):
        assert one.category == two.category
        np.testing.assert_array_equal(one.tokens, two.tokens)
        np.testing.assert_array_equal(one.states, two.states)
    with pytest.raises(TypeError):
        write_answers(pair, PROMPTS, temperature=1, new_tokens=12, seed=1, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # texts and states, whole


def test_a_fingerprint_tells_weights_apart(pair):
    same = random_model(tiny_config(), 5)
    assert model_fingerprint(same) == model_fingerprint(random_model(tiny_config(), 5))
    assert model_fingerprint(same) != model_fingerprint(noisy_copy(same, 1e-3).model)


def test_a_draft_in_8_bits_is_traced(pair):
    tokens = jax.random.randint(jax.random.key(5), (1, 30), 0, 61)
    whole = trace_rows(pair.target, pair.draft, tokens)
    small = trace_rows(pair.target, make_draft(quantize(pair.draft.model)), tokens)
    gap = np.abs(small.acceptance - whole.acceptance)
    assert 0 < gap.max() < 0.1


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30), st.floats(-20, 20))
def test_the_logistic_fit_is_the_optimum_wherever_it_begins(seed, spread, centre):
    """Stationary: what is left of the gradient is the pull of the prior alone."""
    random = np.random.default_rng(seed)
    odds, rival = random.normal(centre, spread, 60), random.exponential(3, 60)
    target = (random.random(60) < 0.5) * 1.0
    slope, offset = logistic(odds, target, -rival)
    chance = 1 / (1 + np.exp(-np.clip(slope * odds + offset + rival, -40, 40)))
    gradient = np.array([(target - chance) @ odds, (target - chance).sum()]) - np.array([slope - 1, offset])
    assert abs(gradient[1]) < 1e-3 or slope == 0
    assert abs(gradient[0]) < 1e-2 * max(1.0, abs(odds).max()) or (slope == 0 and gradient[0] <= 1e-3)
