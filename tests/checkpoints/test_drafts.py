"""Drafts on the disk, and how `load_pair` finds one. The draft is a warm start: what it says does not matter here."""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax
from gelato_checkpoints import (
    CheckpointError,
    convert,
    drafts,
    load_checkpoint,
    load_draft,
    load_model,
    load_pair,
    save_draft,
    shipped_drafts,
    store,
)
from gelato_jax.control import default_calibration
from gelato_jax.decoding import Lookup, make_draft, memory
from gelato_jax.models import Model, quantize
from gelato_jax.training.warm_start import DraftShape, warm_start
from gelato_jax.types import KNOWN_POSITIONS, Calibrations, RepeatOdds, RepeatOddsSet

IDS = np.arange(3, 263, 4)
FACTS = {"target": "tiny", "provenance": {"seed": 7}, "metrics": {"acceptance": [0.4, 0.5]}}


@pytest.fixture(scope="module")
def target(foreign, tmp_path_factory):
    """A tiny target as a checkpoint, and loaded."""
    folder = tmp_path_factory.mktemp("target")
    checkpoint = load_checkpoint(convert(foreign("llama").write(folder / "hf"), folder / "ours"))
    return checkpoint, load_model(checkpoint)


@pytest.fixture(scope="module")
def draft(target):
    """Two exits, a cut vocabulary, 8-bit weights, calibrations and odds of repeats that differ."""
    model = warm_start(target[1], DraftShape(layers=(0, 1), exits=(1, 2), vocabulary=len(IDS)), IDS)
    calibration = Calibrations(greedy=default_calibration(2, 0.7), sampled=default_calibration(2, 0.45))
    conditional = jnp.linspace(0.5, 0.9, KNOWN_POSITIONS)
    greedy = dataclasses.replace(calibration.greedy, conditional_acceptance=conditional)
    calibration = dataclasses.replace(calibration, greedy=greedy)
    shape = (2, 3)
    repeats = RepeatOddsSet(
        greedy=RepeatOdds(slope=jnp.full(shape, 0.25), offset=jnp.full(shape, 1.5), unseen=jnp.full(3, 0.5)),
        sampled=RepeatOdds(slope=jnp.full(shape, 0.75), offset=jnp.full(shape, 0.5), unseen=jnp.full(3, 0.125)),
    )
    return make_draft(quantize(model), calibration, jnp.asarray(IDS, jnp.int32), repeats)


@pytest.fixture
def save(target, draft, tmp_path):
    """A call that saves a draft to `tmp_path/draft`."""

    def save(draft=draft, folder=tmp_path / "draft", **options):
        options = {**FACTS, "target_fingerprint": target[0].tokenizer.fingerprint, **options}
        return save_draft(folder, draft, **options)

    return save


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of shipped drafts in place of the package's."""
    monkeypatch.setattr(drafts, "_shipped_root", lambda: tmp_path / "shipped")
    return tmp_path / "shipped"


def test_an_8_bit_draft_comes_back_bit_for_bit(save, draft, target):
    loaded = load_draft(save(), *target)
    chex.assert_trees_all_equal(loaded, draft)
    chex.assert_trees_all_equal_dtypes(loaded, draft)
    assert loaded.model.config == draft.model.config
    assert loaded.model.params["embed.embedding"] is target[1].params["embed.embedding"]
    assert {str(array.dtype) for array in loaded.model.params.values()} == {"int8", "float32"}


def test_the_embedding_stays_with_the_target(save, draft):
    folder = save()
    stored = store.read_parameters(folder)
    assert stored.keys() == (draft.model.params.keys() | {"vocabulary"}) - {"embed.embedding"}
    assert json.loads((folder / "draft.json").read_text())["metrics"] == FACTS["metrics"]
    assert not any(str(folder.parent).encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_a_draft_of_floats_takes_the_targets_type(backend, save, target, monkeypatch):
    model = warm_start(target[1], DraftShape(layers=(1,), exits=(1,), vocabulary=len(IDS)), IDS)
    narrow = {path: array.astype(jnp.bfloat16) for path, array in model.params.items()}
    folder = save(make_draft(Model(config=model.config, params=narrow), vocabulary=jnp.asarray(IDS, jnp.int32)))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    loaded = load_draft(folder, *target)
    own = {array.dtype for path, array in loaded.model.params.items() if path != "embed.embedding"}
    assert own == {jnp.dtype(jnp.float32 if backend == "cpu" else jnp.bfloat16)}
    np.testing.assert_array_equal(loaded.model.params["norm.scale"], narrow["norm.scale"])


def test_other_files_of_the_folder_stay(save, tmp_path, draft, target):
    (tmp_path / "draft" / "training").mkdir(parents=True)
    (tmp_path / "draft" / "run.json").write_text("{}")
    folder = save()
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(CheckpointError, match="holds a draft; choose another folder, or ask to overwrite"):
        save()
    other = dataclasses.replace(
        draft, calibration=Calibrations(greedy=default_calibration(2), sampled=default_calibration(2))
    )
    save(other, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert {"run.json", "training"} < set(before)
    assert load_draft(folder, *target).calibration.greedy.mean_acceptance == np.float32(0.6)
    assert [path.name for path in tmp_path.iterdir()] == ["draft"]


def test_an_interruption_leaves_no_draft_and_can_be_repeated(save, target, tmp_path, monkeypatch):
    save()
    original, moved = store.Path.replace, []

    def replace(path, to):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(path.name)
        return original(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(store.Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            save(overwrite=True)
    with pytest.raises(CheckpointError, match=r"manifest\.json: no such file"):
        load_draft(tmp_path / "draft", *target)
    save()
    assert load_draft(tmp_path / "draft", *target).vocabulary is not None


def test_a_models_checkpoint_is_not_overwritten(save, target):
    with pytest.raises(CheckpointError, match="holds a model's checkpoint"):
        save(folder=target[0].path, overwrite=True)


def test_a_draft_is_no_model(save):
    with pytest.raises(CheckpointError, match="is a draft, not a model"):
        load_checkpoint(save())


def edit_about(folder, **changes):
    """Change `draft.json`, and the manifest with it."""
    path = folder / "draft.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["bytes"]["draft.json"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


def read_refusal(folder, target) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_draft(folder, *target)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_refuses_another_targets_draft(save, target):
    assert "tokenizer 0123456789ab; target" in read_refusal(save(target_fingerprint="0123456789abcdef"), target)
    wider = dataclasses.replace(target[0], config=dataclasses.replace(target[0].config, hidden_size=72))
    folder = save(overwrite=True)
    assert "input embedding (272, 64); target" in read_refusal(folder, (wider, target[1]))


def replace_parameter(draft, path, array):
    params = {**draft.model.params, path: array}
    return dataclasses.replace(draft, model=dataclasses.replace(draft.model, params=params))


def test_refuses_parameters_that_are_not_the_configurations(save, draft, target):
    params = dict(draft.model.params)
    del params["exit_probes.0.bias"]
    broken = dataclasses.replace(draft, model=dataclasses.replace(draft.model, params=params))
    assert "parameter 'exit_probes.0.bias' is missing" in read_refusal(save(broken), target)
    for path, array, complaint in [
        ("layers.9.norm", jnp.zeros(3), "parameter 'layers.9.norm' is not part of the draft"),
        ("norm.scale", jnp.zeros(3), r"parameter 'norm.scale' has shape (3,), expected (64,)"),
        ("norm.scale", jnp.zeros(64, jnp.int8), "parameter 'norm.scale' is int8, expected a float"),
        ("head.kernel", jnp.zeros((len(IDS), 64)), "parameter 'head.kernel' is float32, expected int8"),
    ]:
        assert complaint in read_refusal(save(replace_parameter(draft, path, array), overwrite=True), target)


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        (np.arange(len(IDS))[::-1], "must ascend"),
        (np.arange(len(IDS)) + 262 - len(IDS) + 1, "within the target's 0..261"),
        (np.arange(len(IDS)) - 1, "vocabulary -1.."),
    ],
)
def test_refuses_a_vocabulary_that_is_not_the_targets(ids, complaint, save, draft, target):
    broken = dataclasses.replace(draft, vocabulary=jnp.asarray(ids, jnp.int32))
    assert complaint in read_refusal(save(broken), target)


def test_refuses_calibrations_that_are_not_whole(save, draft, target):
    folder = save()
    whole = json.loads((folder / "draft.json").read_text())["calibration"]
    without_positions = {name: value for name, value in whole["greedy"].items() if name != "streak_acceptance"}
    for changes, complaint in [
        ({"greedy": {**whole["greedy"], "scale": [1.0]}}, "scale has shape (1,), must be (2,)"),
        ({"greedy": {**whole["greedy"], "decay": [0.1, float("nan")]}}, "decay has shape (2,), must be (2,) finite"),
        ({"sampled": {}}, "'class_edges'"),
        ({"greedy": without_positions}, "calibration: 'streak_acceptance'; "),
        ({"greedy": {**whole["greedy"], "streak_acceptance": [0.5] * 3}}, "streak_acceptance has shape (3,), must be "),
        ({"sampled": None}, "calibration: "),
    ]:
        edit_about(folder, calibration={**whole, **changes})
        message = read_refusal(folder, target)
        assert complaint in message
        assert message.endswith("train the draft again")
    fewer = dataclasses.replace(
        draft.calibration.sampled,
        class_edges=jnp.array([1.0]),
        class_acceptance=jnp.ones((2, 2)),
        next_acceptance=jnp.ones(2),
        deeper_acceptance=jnp.ones((2, 2, 2)),
    )
    broken = dataclasses.replace(draft, calibration=dataclasses.replace(draft.calibration, sampled=fewer))
    assert "must agree" in read_refusal(save(broken, overwrite=True), target)


@pytest.mark.parametrize("cut", ["draft.json", "config.json", "parameters", "largest"])
def test_refuses_files_that_are_cut_short(cut, save, target):
    folder = save()
    if cut == "parameters":
        shutil.rmtree(folder / "parameters")
    else:
        files = [path for path in folder.rglob("*") if path.is_file()]
        path = max(files, key=lambda path: path.stat().st_size) if cut == "largest" else folder / cut
        path.write_bytes(path.read_bytes()[:-5])
    message = read_refusal(folder, target)
    assert "bytes" in message
    assert message.endswith("train the draft again")


@pytest.mark.parametrize("weights", ["float", "q4", "bfloat16"])
def test_a_pair_from_a_draft_folder_decodes_as_its_target(weights, save, target, tmp_path, monkeypatch):
    monkeypatch.setenv("GELATO_CACHE", str(tmp_path / "cache"))
    folder, name = save(), target[0].path
    pair = load_pair(name, folder, weights=weights)
    assert pair.draft.model.params["embed.embedding"] is pair.target.params["embed.embedding"]
    settings = gelato_jax.DecodeSettings(max_draft_length=2, max_new_tokens=12, prefill_chunk=16)
    found = gelato_jax.generate(pair, ["tea 12"], settings=settings)
    assert found.tokens == gelato_jax.autoregressive(pair, ["tea 12"], settings=settings)
    assert int(found.totals.drafted[0]) > 0


def test_both_models_have_caches_of_the_type_asked_for(save, target):
    folder = save()
    pair = load_pair(target[0].path, folder, cache="bfloat16")
    settings = gelato_jax.DecodeSettings(max_draft_length=2, max_new_tokens=4, prefill_chunk=16)
    assert len(gelato_jax.generate(pair, ["tea 12"], settings=settings).tokens[0]) == 4
    narrow = memory.cache_bytes(pair, 2, 64)
    assert 2 * narrow == memory.cache_bytes(load_pair(target[0].path, folder), 2, 64)


def test_the_default_draft_is_the_one_that_ships(save, target, shipped):
    name, heard = target[0].path, []
    other = save(folder=shipped / "other", target_fingerprint="f" * 64)
    ours = save(folder=shipped / "tiny")
    assert shipped_drafts() == {"other": other, "tiny": ours}
    pair = load_pair(name, progress=lambda stage, *_: heard.append(stage))
    assert pair.draft.model.config.weight_format == "int8"
    assert "untrained" not in heard


def test_a_draft_of_a_shorter_context_limits_its_pair_and_says_so(save, draft, target):
    heard = []
    config = dataclasses.replace(draft.model.config, max_positions=24)
    folder = save(dataclasses.replace(draft, model=dataclasses.replace(draft.model, config=config)))
    pair = load_pair(target[0].path, folder, progress=lambda *news: heard.append(news))
    assert pair.target.config == dataclasses.replace(target[0].config, max_positions=24)
    assert [news for news in heard if news[0] == "shorter"] == [("shorter", 24, 131072)]
    settings = gelato_jax.DecodeSettings(max_draft_length=2, max_new_tokens=20, prefill_chunk=16)
    with pytest.raises(ValueError, match="24 positions leave room for 4"):
        gelato_jax.generate(pair, [[5] * 5], settings=settings)


def test_another_model_of_a_shorter_context_limits_its_pair(foreign, target, tmp_path):
    model, heard = foreign("llama", seed=1), []
    model.config["max_position_embeddings"] = 512
    short = convert(model.write(tmp_path / "hf"), tmp_path / "short")
    pair = load_pair(target[0].path, short, progress=lambda *news: heard.append(news))
    assert pair.target.config.max_positions == 512
    assert ("shorter", 512, 131072) in heard
    heard.clear()
    pair = load_pair(short, target[0].path, progress=lambda *news: heard.append(news))  # a longer draft is no matter
    assert pair.target.config.max_positions == 512
    assert "shorter" not in [news[0] for news in heard]


def test_lookup_is_a_draft_of_any_target(target):
    pair = load_pair(target[0].path, "lookup")
    assert isinstance(pair.draft, Lookup)
    assert pair.target.config == target[0].config


def test_without_one_the_first_layers_draft_and_say_so(save, target, shipped):
    name, heard = target[0].path, []
    assert shipped_drafts() == {}
    narrow = dataclasses.replace(target[0], config=dataclasses.replace(target[0].config, hidden_size=32))
    save(folder=shipped / "tiny")
    assert drafts.shipped_draft(narrow) is None
    shutil.rmtree(shipped)
    pair = load_pair(name, progress=lambda stage, *_: heard.append(stage))
    assert pair.draft.model.config.num_layers == target[0].config.num_layers
    assert heard.count("untrained") == 1
    heard.clear()
    pair = load_pair(name, "layers:1", progress=lambda stage, *_: heard.append(stage))
    assert pair.draft.model.config.num_layers == 1
    assert "untrained" not in heard


def test_what_ships_is_whole():
    for name, folder in shipped_drafts().items():
        store.check_complete(folder)
        assert json.loads((folder / "draft.json").read_text())["target"] == name
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 30e6


def test_refuses_odds_that_are_not_whole(save, target):
    folder = save()
    whole = json.loads((folder / "draft.json").read_text())["repeats"]
    cut = {**whole["greedy"], "slope": whole["greedy"]["slope"][:1]}
    edit_about(folder, repeats={**whole, "greedy": cut})
    assert "repeats: slope has shape (1, 3), must be (2, 3)" in read_refusal(folder, target)
    edit_about(folder, repeats=None)
    assert load_draft(folder, *target).repeats is None
