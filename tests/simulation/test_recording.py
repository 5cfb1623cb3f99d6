"""Recordings: the file, and rollouts that are what the real loop does where it meets the same position."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads
from gelato_jax.decoding import encode_prompts, job, make_job
from gelato_jax.decoding.draft import roll_out as draft
from gelato_jax.decoding.plan import plan as decide
from gelato_jax.decoding.programs import advance, start, unpack
from gelato_jax.models import quantize
from gelato_jax.simulation import recorder, rollouts
from gelato_jax.simulation import recording as files
from gelato_jax.simulation.recorder import make_recording
from gelato_jax.simulation.recording import load, save
from gelato_jax.simulation.rollouts import roll_out
from gelato_jax.types import RepeatOdds, RepeatOddsSet
from gelato_kernels.attention import xla

G, NEW = 5, 20
EXITS = 3
LIMIT_Z = 4.5  # two-sided false alarm of a normal: 7e-6 a check, and the draws are fixed
TOLERANCE = 1e-4  # nats; windows of other sizes sum in another order
NO_END = (61,)


@pytest.fixture(autouse=True, scope="module")
def small_buffers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SMALLEST_BUFFER", 64)
        patch.setattr(xla, "SHORTEST_PREFIX", 64)
        yield


@pytest.fixture(scope="module")
def pair():
    """Two early exits; no id ends a row."""
    return dataclasses.replace(gelato.testing.tiny_pair(0.03, exits=(1, 2)), eos_ids=NO_END)


@pytest.fixture(scope="module")
def settings():
    return gelato.DecodeSettings(max_draft_length=G, max_new_tokens=NEW, prefill_chunk=16)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 60, size).tolist() for size in (1, 16, 5, 23)]


@pytest.fixture(scope="module")
def greedy(pair, prompts, settings):
    return roll_out(pair, prompts, settings=settings)


@pytest.fixture(scope="module")
def sampled(pair, prompts, settings):
    """Many positions, by repeating the prompts: rows draw apart."""
    return roll_out(pair, prompts * 16, settings=dataclasses.replace(settings, temperature=1.0, seed=3))[0]


@pytest.fixture(scope="module")
def small(pair, prompts, settings):
    return make_recording(pair, prompts, settings=settings, categories="abab", batch_rows=4)


@partial(jax.jit, static_argnames="shapes")
def drafted_entropy(state, work, shapes):
    """What the round that `advance` runs next will draft."""
    channel = jax.vmap(work.system.link.observe)(state.row.link)
    planned = jax.vmap(partial(decide, setup=work.setup, max_draft_length=shapes.max_draft_length))(state.row, channel)
    return draft(state.device, state.row, planned, channel, work, shapes)[0].entropy


def rounds(pair, prompts, settings, exit, length):
    """Position, drafted, accepted and entropies of every row's every real round."""
    work = make_job(
        pair,
        settings=settings,
        controller=control.static(length),
        length_exit=control.length_exits.none(),
        depth_exit=control.depth_exits.fixed(exit),
        payload=payloads.full(),
    )
    batch = encode_prompts(pair, prompts, settings)
    state = start(work, **batch, shapes=settings.shapes)
    while not np.asarray(state.device.done).all():
        entropy, done = np.asarray(drafted_entropy(state, work, settings.shapes)), np.asarray(state.device.done)
        position = np.asarray(state.device.length) - np.asarray(batch["prompt_length"]) - 1
        state, (packed, *_), _ = advance(state, work, shapes=settings.shapes)
        info = unpack(np.asarray(packed), exits=EXITS, max_draft_length=G)
        for row in np.flatnonzero(~done):
            yield row, position[row], info.drafted[row], info.accepted[row], entropy[row]


def every_position(recorded):
    return np.arange(recorded.accepted.shape[1]) < recorded.positions[:, None]


def test_a_file_comes_back_as_it_was(small, tmp_path):
    path = tmp_path / "traces.npz"
    save(path, small)
    again = load(path)
    for old, new in zip(jax.tree.leaves(small.rollouts), jax.tree.leaves(again.rollouts), strict=True):
        np.testing.assert_array_equal(old, new)
        assert old.dtype == new.dtype
    for old, new in zip(jax.tree.leaves(small.calibration), jax.tree.leaves(again.calibration), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(small.work, again.work)
    assert again.categories == ("a", "b", "a", "b")
    assert again.about == small.about
    assert (again.vocab_size, again.draft_vocab_size, again.max_draft_length) == (61, 61, G)
    assert [path.name for path in tmp_path.iterdir()] == ["traces.npz"]
    halves = again.halves()
    assert [half.categories for half in halves] == [("a", "b"), ("a", "b")]
    np.testing.assert_array_equal(halves[1].rollouts.entropy, small.rollouts.entropy[2:])


def _text(path, small, monkeypatch):
    path.write_text("no archive")


def _nothing(path, small, monkeypatch):
    path.write_bytes(b"")


def _cut_short(path, small, monkeypatch):
    save(path, small)
    path.write_bytes(path.read_bytes()[:-200])


def _one_array(path, small, monkeypatch):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _other_arrays(path, small, monkeypatch):
    np.savez(path, work=np.zeros(3))


def _other_format(path, small, monkeypatch):
    monkeypatch.setattr(files, "FORMAT", 7)
    save(path, small)
    monkeypatch.undo()


def _missing_array(path, small, monkeypatch):
    save(path, small)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "rollouts.overlap"}
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_text, "no recording"),
        (_nothing, "no recording"),
        (_cut_short, "no recording"),
        (_one_array, "no recording"),
        (_other_arrays, "facts"),
        (_other_format, "format 7"),
        (_missing_array, "overlap"),
    ],
)
def test_what_is_no_recording_is_refused(spoil, word, small, tmp_path):
    path = tmp_path / "traces.npz"
    with pytest.MonkeyPatch.context() as patch:
        spoil(path, small, patch)
    with pytest.raises(ValueError, match=word) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_greedy_text_is_the_targets(greedy, pair, prompts, settings):
    assert greedy[1] == gelato.autoregressive(pair, prompts, settings=settings)


def test_a_pair_in_blocks_records_its_own_text(pair, prompts, settings):
    """Its caches have the layers in one array."""
    draft = dataclasses.replace(pair.draft, model=quantize(pair.draft.model, "q8"))
    blocks = dataclasses.replace(pair, target=quantize(pair.target, "q8"), draft=draft)
    recorded, texts = roll_out(blocks, prompts, settings=settings)
    assert texts == gelato.autoregressive(blocks, prompts, settings=settings)
    assert (recorded.accepted[:, :, -1] > 0).any()


@pytest.mark.parametrize("exit", range(EXITS))
@pytest.mark.parametrize("length", [1, 3, G])
def test_a_greedy_round_is_its_positions_rollout(exit, length, greedy, pair, prompts, settings):
    recorded, seen = greedy[0], 0
    for row, position, drafted, accepted, entropy in rounds(pair, prompts, settings, exit, length):
        assert drafted == min(length, NEW - 2 - position)
        assert accepted == min(recorded.accepted[row, position, exit], drafted)
        expected = recorded.entropy[row, position, exit, :drafted]
        np.testing.assert_allclose(entropy[:drafted], expected, rtol=0, atol=TOLERANCE)
        seen += 1
    assert seen >= len(prompts) * (NEW - 1) / (length + 1)


def test_exits_differ_and_rollouts_are_mixed(greedy):
    accepted = greedy[0].accepted
    assert 0 < accepted[:, :, -1].mean() < G
    assert (accepted[:, :, 0] != accepted[:, :, -1]).any()
    assert (greedy[0].entropy > 0).all()  # of the unprocessed softmax, also in greedy decoding
    assert ((greedy[0].max_probability > 0) & (greedy[0].max_probability < 1)).all()


def test_greedy_distributions_are_point_masses(greedy):
    recorded = greedy[0]
    assert (recorded.q == 1).all()
    assert set(np.unique(recorded.p)) == {0.0, 1.0}
    np.testing.assert_array_equal(recorded.chance, recorded.p)
    np.testing.assert_array_equal(recorded.overlap, recorded.p)
    np.testing.assert_array_equal(recorded.support, 1)
    np.testing.assert_array_equal(recorded.accepted, np.cumprod(recorded.chance, axis=-1).sum(axis=-1))


def test_sampled_fields_agree(sampled):
    assert ((sampled.overlap >= 0) & (sampled.overlap <= 1)).all()
    assert ((sampled.q > 0) & (sampled.q <= 1)).all()
    np.testing.assert_allclose(sampled.chance, np.minimum(1, sampled.p / sampled.q), rtol=1e-5)
    assert (sampled.q <= sampled.max_probability * (1 + 1e-5)).all()  # temperature 1: the distribution is unprocessed
    assert ((sampled.support >= 1) & (sampled.support <= 61)).all()
    certain = sampled.max_probability > 0.9 + 1e-5
    assert certain.any()
    assert (sampled.support[certain] == 1).all()
    assert (sampled.support[sampled.max_probability < 0.9 - 1e-5] > 1).all()
    assert (sampled.accepted[..., None] <= np.arange(G)).any()


@pytest.mark.parametrize("field", ["overlap", "chance"])
def test_drafts_are_accepted_as_often_as_the_distributions_overlap(field, sampled):
    """Draft i + 1, where i stand, is accepted with the recorded probability: sums of differences of a martingale."""
    expected = getattr(sampled, field).astype(np.float64)
    stands = sampled.accepted[..., None] >= np.arange(1, G + 1)
    looked_at = sampled.accepted[..., None] >= np.arange(G)
    for exit in range(EXITS):
        for index in (0, 1):
            here = looked_at[:, :, exit, index]
            chances = expected[:, :, exit, index][here]
            surprise = (stands[:, :, exit, index][here] - chances).sum()
            assert here.sum() > 300
            assert abs(surprise) < LIMIT_Z * np.sqrt((chances * (1 - chances)).sum())


def test_the_first_sampled_round_is_its_rollout(sampled, pair, prompts, settings):
    """The same round's number, the same uniforms: what is recorded is what a real round does."""
    settings = dataclasses.replace(settings, temperature=1.0, seed=3)
    for exit in range(EXITS):
        for row, position, drafted, accepted, entropy in rounds(pair, prompts, settings, exit, 4):
            if position > 0:
                break
            assert drafted == 4
            assert accepted == min(sampled.accepted[row, 0, exit], 4)
            np.testing.assert_allclose(entropy[:4], sampled.entropy[row, 0, exit, :4], rtol=0, atol=TOLERANCE)


def test_sampled_text_draws_apart(pair, prompts, settings):
    settings = dataclasses.replace(settings, temperature=1.0)
    one = roll_out(pair, [prompts[0]] * 4, settings=settings)[1]
    assert len(set(map(tuple, one))) == 4
    assert roll_out(pair, [prompts[0]] * 4, settings=settings)[1] == one
    assert roll_out(pair, [prompts[0]] * 4, settings=dataclasses.replace(settings, seed=1))[1] != one


def test_no_position_sees_a_uniform_again(pair, prompts, settings):
    """Nearly uniform distributions show the uniforms: were one seen twice, a token would come again and again."""
    texts = roll_out(pair, prompts, settings=dataclasses.replace(settings, temperature=1e6))[1]
    assert all(len(set(text)) > NEW / 2 for text in texts)  # 20 draws of 61 ids: fewer than 1 in 1e4 texts fail


def test_rows_end_at_their_end_of_sequence(greedy, pair, prompts, settings):
    whole, texts = greedy
    end = texts[0][7]
    cut, shorter = roll_out(dataclasses.replace(pair, eos_ids=(end,)), prompts, settings=settings)
    assert shorter == [text[: text.index(end) + 1] if end in text else text for text in texts]
    assert min(map(len, shorter)) < NEW
    np.testing.assert_array_equal(cut.positions, [len(text) - 1 for text in shorter])
    np.testing.assert_array_equal(cut.limit, NEW - 1)
    np.testing.assert_array_equal(cut.prompt_tokens, [len(prompt) for prompt in prompts])
    reached = every_position(cut)
    # Rollouts go on behind the end of a text, where only rounds do not begin.
    np.testing.assert_array_equal(cut.accepted[reached], whole.accepted[reached])
    np.testing.assert_allclose(cut.entropy[reached], whole.entropy[reached], rtol=0, atol=TOLERANCE)
    assert not cut.accepted[~reached].any()
    assert not cut.entropy[~reached].any()


def test_a_text_of_one_token_has_no_position(greedy, pair, prompts, settings):
    end = greedy[1][0][0]
    cut, texts = roll_out(dataclasses.replace(pair, eos_ids=(end,)), prompts, settings=settings)
    assert texts[0] == [end]
    assert cut.positions[0] == 0
    assert not cut.q[0].any()


def test_a_draft_vocabulary_and_its_repeats(pair, settings):
    """A head of a few ids, and one more column for a repeated token: the overlap is still the rate of acceptance."""
    ids = np.arange(0, 61, 2)
    config = dataclasses.replace(pair.draft.model.config, head_vocab_size=len(ids), tied_head=False)
    head = {"head.kernel": pair.draft.model.params["head.kernel"][ids]}
    model = dataclasses.replace(pair.draft.model, config=config, params={**pair.draft.model.params, **head})
    odds = RepeatOdds(slope=jnp.ones((EXITS, 2)), offset=jnp.zeros((EXITS, 2)), unseen=jnp.full(2, 0.6))
    distributions = RepeatOddsSet(greedy=odds, sampled=odds)
    cut = dataclasses.replace(pair.draft, model=model, vocabulary=jnp.asarray(ids, jnp.int32), repeats=distributions)
    prompts = np.random.default_rng(1).integers(0, 60, (64, 30)).tolist()
    settings = dataclasses.replace(settings, temperature=1.0, max_new_tokens=12, seed=2)
    recorded = make_recording(
        dataclasses.replace(pair, draft=cut), prompts, settings=settings, categories="a" * 64, batch_rows=64
    )
    assert recorded.draft_vocab_size == len(ids) + 1
    rolled = recorded.rollouts
    np.testing.assert_allclose(rolled.chance, np.minimum(1, rolled.p / rolled.q), rtol=1e-5)
    assert (rolled.support <= len(ids) + 1).all()
    chances, stands = rolled.overlap[..., 0].astype(np.float64), rolled.accepted >= 1
    surprise = (stands - chances).sum(axis=(0, 1)) / np.sqrt((chances * (1 - chances)).sum(axis=(0, 1)))
    assert (np.abs(surprise) < LIMIT_Z).all()


def test_order_resume_and_progress(greedy, pair, prompts, settings, tmp_path, monkeypatch):
    """Batches are by length, the result is not; what is kept is not run again."""
    told = []
    asked = {"settings": settings, "categories": "abcd", "batch_rows": 2, "cache": tmp_path / "kept"}
    first = make_recording(pair, prompts, **asked, progress=lambda *news: told.append(news))
    np.testing.assert_array_equal(first.rollouts.accepted, greedy[0].accepted)
    np.testing.assert_allclose(first.rollouts.entropy, greedy[0].entropy, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(first.rollouts.prompt_tokens, [1, 16, 5, 23])
    total = 4 * (NEW - 1)
    assert {(stage, whole) for stage, _, whole in told} == {(recorder.STAGE, total)}
    counts = [done for _, done, _ in told]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, total)
    assert len(list((tmp_path / "kept").iterdir())) == 2

    def refuse(*_, **__):
        raise AssertionError("ran a batch that is kept")

    other = {**asked, "settings": dataclasses.replace(settings, seed=5)}
    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "start", refuse)
        again = make_recording(pair, prompts, **asked)
        with pytest.raises(AssertionError, match="kept"):
            make_recording(pair, prompts, **other)
        with pytest.raises(AssertionError, match="kept"):
            make_recording(pair, prompts, **asked, top_p_mass=0.5)
    for old, new in zip(jax.tree.leaves(first.rollouts), jax.tree.leaves(again.rollouts), strict=True):
        np.testing.assert_array_equal(old, new)

    sorted((tmp_path / "kept").iterdir())[0].unlink()
    told.clear()
    make_recording(pair, prompts, **asked, progress=lambda *news: told.append(news))
    assert told[0] == (recorder.STAGE, total // 2, total)
    assert len(told) > 2


def test_what_it_was_made_from(small, pair):
    assert small.about["exits"] == [1, 2, 3]
    assert small.temperature == 0
    assert set(small.about) >= {"pair", "draft", "top_p_mass", "seed", "prompts", "max_new_tokens", "versions"}
    np.testing.assert_array_equal(small.work, pair.draft.work)
    assert isinstance(small.calibration.scale, np.ndarray)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"prompts": [], "categories": ""}, "no prompt"),
        ({"categories": "abc"}, "3 categories of 4 prompts"),
        ({"prompts": [[1], [], [2], [3]]}, "prompt 1 has 0 tokens"),
        ({"prompts": [[1], [2], [3], [4] * 4090]}, "prompt 3 has 4090 tokens"),
        ({"top_p_mass": 0.0}, "top_p_mass is 0.0"),
        ({"batch_rows": 0}, "batch_rows is 0"),
        ({"max_new_tokens": 1}, "max_new_tokens is 1"),
        ({"max_draft_length": 0}, "max_draft_length is 0"),
    ],
)
def test_refusals(changes, word, pair, prompts, settings):
    names = [field.name for field in dataclasses.fields(settings)]
    settings = dataclasses.replace(settings, **{name: value for name, value in changes.items() if name in names})
    others = {name: value for name, value in changes.items() if name not in names}
    asked = {"prompts": prompts, "categories": "abcd", **others}
    with pytest.raises(ValueError, match=re.escape(word)):
        make_recording(pair, settings=settings, **asked)
