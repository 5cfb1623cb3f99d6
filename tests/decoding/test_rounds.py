"""Rounds one by one: caches after rollback, finished rows, and reports that add up."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control
from gelato_jax.decoding import encode_prompts, make_job
from gelato_jax.decoding.catch_up import CATCH_UP_WINDOW
from gelato_jax.decoding.prefill import fresh_sessions, read_tokens
from gelato_jax.decoding.programs import advance, start, unpack
from gelato_jax.models import quantize

TOLERANCE = 1e-5  # float32 sums in another order, on states of size one


@pytest.fixture(scope="module")
def pair():
    """No id ends a row, so that rows run to their limits."""
    return dataclasses.replace(gelato.testing.tiny_pair(0.03), eos_ids=(61,))


@pytest.fixture(scope="module")
def begin(prompts):
    def begin(pair, choices, settings):
        work = make_job(pair, settings=settings, **choices)
        session = fresh_sessions(work.setup, rows=len(prompts))
        batch = encode_prompts(pair, prompts, settings)
        return work, start(work, **batch, session=session, shapes=settings.shapes)

    return begin


def observed(packed, settings):
    """What a round observed, on the host; the pairs here have three exits."""
    return unpack(np.asarray(packed), exits=3, max_draft_length=settings.max_draft_length)


@partial(jax.jit, static_argnames="shapes")
def read(model, tokens, length, shapes):
    return read_tokens(model, tokens, length, shapes)[0]


def assert_holds(cache, model, tokens, lengths, shapes):
    """Every row's valid slots are what reading its tokens afresh would leave there."""
    rebuilt = jax.device_get(read(model, tokens, lengths, shapes))
    for kept, fresh in zip(jax.tree.leaves(jax.device_get(cache)), jax.tree.leaves(rebuilt), strict=True):
        for row, length in enumerate(np.asarray(lengths)):
            ours, theirs = (array[row][..., :length, :] for array in (kept, fresh))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_rolled_back_cache_is_a_rebuilt_cache(temperature, pair, settings, begin, policy):
    settings = dataclasses.replace(settings, temperature=temperature)
    work, state = begin(pair, policy("hf_schedule", "bucket"), settings)
    refused = lagged = 0
    for _ in range(7):
        state, (packed, *_), _ = advance(state, work, shapes=settings.shapes)
        info = observed(packed, settings)
        refused += (info.accepted < info.drafted).sum()
        lagged += (np.asarray(state.device.cache_length) < np.asarray(state.device.length) - 1).sum()
        assert_holds(state.edge.cache, pair.target, state.device.tokens, state.edge.length - 1, settings.shapes)
        assert_holds(
            state.device.cache, pair.draft.model, state.device.tokens, state.device.cache_length, settings.shapes
        )
    assert refused > 5
    assert lagged > 5


def test_a_draft_cache_catches_up_after_rounds_without_drafts(pair, settings, begin, policy):
    work, state = begin(pair, policy(static=control.static(0)), settings)
    behind = 0
    while behind <= CATCH_UP_WINDOW + 1:
        state, (packed, *_), _ = advance(state, work, shapes=settings.shapes)
        assert not observed(packed, settings).drafted.any()
        behind = int((state.device.length - 1 - state.device.cache_length).min())
    drafting = make_job(pair, settings=settings, **policy(static=control.static(3)))
    state, (packed, *_), _ = advance(state, drafting, shapes=settings.shapes)
    info = observed(packed, settings)
    assert (info.drafted == 3).all()
    assert (np.asarray(state.row.totals.caught_up) >= behind).all()
    assert_holds(state.device.cache, pair.draft.model, state.device.tokens, state.device.cache_length, settings.shapes)
    assert_holds(state.edge.cache, pair.target, state.device.tokens, state.edge.length - 1, settings.shapes)


def test_in_blocks_a_draft_step_is_fed_the_token_that_an_accepted_draft_left(settings, begin):
    """Its cache is a rebuilt one, where rows beside each other lack one token or none."""
    pair = gelato.testing.tiny_pair(0.03)
    draft = dataclasses.replace(pair.draft, model=quantize(pair.draft.model, "q8"))
    pair = dataclasses.replace(pair, draft=draft, eos_ids=(61,))
    work, state = begin(pair, {"controller": control.static(2)}, settings)
    mixed = 0
    for _ in range(6):
        lacks = np.asarray(state.device.length - 1 - state.device.cache_length)
        assert lacks.max() <= 1
        mixed += 0 < lacks.sum() < len(lacks)
        state, (packed, *_), _ = advance(state, work, shapes=settings.shapes)
        info = observed(packed, settings)
        assert (info.caught_up == np.where(info.active & (info.drafted > 0), lacks, 0)).all()
        assert_holds(
            state.device.cache, pair.draft.model, state.device.tokens, state.device.cache_length, settings.shapes
        )
    assert mixed > 1


def test_a_finished_row_stands_still(prompts, settings, begin, policy):
    pair = gelato.testing.tiny_pair(0.03)
    settings = dataclasses.replace(settings, temperature=1.0)
    work, state = begin(pair, policy("ratio", "adaedl", "entropy"), settings)
    still = lambda s: (s.device.tokens, s.device.length, s.device.done, s.row, s.edge.length, s.edge.round)  # noqa: E731
    seen = 0
    while not bool(state.device.done.all()):
        done, before = np.asarray(state.device.done), jax.device_get(_data(still(state)))
        state, (packed, *_), _ = advance(state, work, shapes=settings.shapes)
        info = observed(packed, settings)
        assert not info.tokens[done].any()
        assert not info.energy_j[done].any()
        assert (info.tokens[~done] > 0).all()
        for old, new in zip(before, jax.device_get(_data(still(state))), strict=True):
            np.testing.assert_array_equal(old[done], new[done])
        seen += done.sum()
    assert seen > 3


def _data(tree) -> list:
    """Leaves as plain arrays, rows first."""
    return [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_is_a_generation_round_by_round(temperature, prompts, settings, policy, exact):
    pair = gelato.testing.tiny_pair(0.03)
    settings = dataclasses.replace(settings, temperature=temperature)
    rules = policy("ratio", "priced", "entropy")
    whole = gelato.generate(pair, prompts, settings=settings, **rules)
    watched = gelato.stream(pair, prompts, settings=settings, **rules)
    texts = [list(row) for row in watched.first]
    infos = list(watched)
    for info in infos:
        for text, tokens, count in zip(texts, info.ids, info.tokens, strict=True):
            text.extend(tokens[:count])
    summed = watched.generation()
    assert texts == whole.tokens == summed.tokens
    for ours, theirs in zip(jax.tree.leaves(summed.totals), jax.tree.leaves(whole.totals), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    sums = {name: sum(getattr(info, name).astype(np.float64) for info in infos) for name in ("drafted", "accepted")}
    np.testing.assert_array_equal(sums["drafted"], whole.totals.drafted)
    np.testing.assert_array_equal(sums["accepted"], whole.totals.accepted)
    np.testing.assert_array_equal(sum(info.tokens for info in infos), whole.totals.tokens)
    np.testing.assert_array_equal(whole.totals.exits.sum(axis=1), whole.totals.drafted)
    for name in ("time_s", "energy_j"):
        reported = sum(getattr(info, name).astype(np.float64) for info in infos)
        np.testing.assert_allclose(exact(getattr(summed.totals, name)), reported, rtol=1e-9)
    np.testing.assert_allclose(infos[-1].queue_j, whole.final_queue_j, rtol=1e-5, atol=1e-6)
    assert [info.done.all() for info in infos] == [False] * (len(infos) - 1) + [True]


def test_prefill_does_not_depend_on_the_chunk(pair, prompts):
    """Prompts one short of a chunk, a chunk, one more, and of a single token."""
    rng = np.random.default_rng(2)
    ragged = [rng.integers(0, 60, size).tolist() for size in (1, 15, 16, 17)]
    states = []
    for chunk in (16, 64):
        settings = gelato.DecodeSettings(max_new_tokens=8, prefill_chunk=chunk)
        work = make_job(pair, settings=settings)
        batch = encode_prompts(pair, ragged, settings)
        states.append(
            start(work, **batch, session=fresh_sessions(work.setup, rows=len(ragged)), shapes=settings.shapes)
        )
    small, large = states
    np.testing.assert_array_equal(small.device.tokens, large.device.tokens)
    np.testing.assert_array_equal(small.device.length, [2, 16, 17, 18])
    np.testing.assert_array_equal(small.device.cache_length, [1, 15, 16, 17])
    for end in ("edge", "device"):
        caches = [jax.tree.leaves(getattr(state, end).cache) for state in (small, large)]
        leaves = zip(*caches, strict=True)
        for ours, theirs in leaves:
            for row, prompt in enumerate(ragged):
                size = len(prompt)
                np.testing.assert_allclose(ours[row, :, :size], theirs[row, :, :size], rtol=0, atol=TOLERANCE)
