"""The whole recipe on a tiny target: killed everywhere, gone on with, and held to its settings."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.errors import GelatoError
from gelato_jax.training.corpus import CorpusSettings
from gelato_jax.training.distill import TrainSettings
from gelato_jax.training.ids import read_ids, write_ids
from gelato_jax.training.recipe import HELD_OUT_EVERY, Recipe, Teacher, split_conversations, train_draft
from gelato_jax.training.warm_start import DraftShape

CORPUS = CorpusSettings(
    tokens=3000, rows=16, slots=48, longest_user=8, longest_answer=16, num_recorded=12, shard_tokens=1000
)
RECIPE = Recipe(
    corpus=CORPUS,
    shape=DraftShape(layers=(0, 3), exits=(1, 2), vocabulary=40),
    train=TrainSettings(epochs=1, tokens_per_batch=1024),
    dtype="float32",
)


class Killed(Exception):
    """Stands for a kill at a chosen moment."""


@pytest.fixture(scope="module")
def bundle(target, openings):
    return Teacher(name="tiny", model=target, prefix=(5, 6, 7), header=(8, 9), ends=(60,), openings=openings)


class Saved:
    """Keeps what is to be stored."""

    def __call__(self, draft, provenance, metrics) -> None:
        self.draft, self.provenance, self.metrics = draft, provenance, metrics


def kill(phase: str, after: float):
    def watch(now: str, done: int, total: int, values) -> None:
        if now == phase and done >= after * total:
            raise Killed

    return watch


@pytest.fixture(scope="module")
def killed(bundle, tmp_path_factory):
    """A run that was killed in every phase: (folder, what was saved, report)."""
    folder, saved = tmp_path_factory.mktemp("draft"), Saved()
    for phase, after in (("corpus", 0.7), ("train", 0.5), ("calibrate", 0.1)):
        with pytest.raises(Killed):
            train_draft(bundle, RECIPE, folder, save=saved, watch=kill(phase, after), save_every_s=0.0)
        assert not (folder / "run.json").exists()
    return folder, saved, train_draft(bundle, RECIPE, folder, save=saved)


def test_a_killed_run_ends_as_one_that_was_not(killed, bundle, tmp_path):
    """Another run learns from the same corpus without a kill."""
    folder, saved, _ = killed
    whole = Saved()
    train_draft(bundle, RECIPE, tmp_path, save=whole, corpus=folder / "training" / "corpus")
    assert jax.tree.structure(whole.draft) == jax.tree.structure(saved.draft)
    for ours, theirs in zip(jax.tree.leaves(whole.draft), jax.tree.leaves(saved.draft), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_draft_is_eight_bit_calibrated_and_probed(killed):
    draft, config = killed[1].draft, killed[1].draft.model.config
    assert (config.exits, config.head_vocab_size, config.weight_format) == ((1, 2), 40, "int8")
    assert draft.vocabulary.shape == (40,)
    assert 60 in draft.vocabulary
    assert draft.model.params["head.kernel"].dtype == jnp.int8
    assert bool(jnp.any(draft.model.params["exit_probes.0.weight"] != 0))
    assert draft.calibration.greedy.scale.shape == (2,)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(draft.calibration))


def test_the_report_says_how_it_was_made(killed):
    folder, saved, report = killed
    assert json.loads((folder / "run.json").read_text()) == report
    assert report["settings"]["layers"] == [0, 3]
    assert report["settings"]["epochs"] == 1
    assert report["tokens"] == sum(len(c.tokens) for c in read_ids(folder / "corpus.npz")) >= 3000
    assert report["device"]["count"] == 1
    assert set(report["seconds"]) == {"corpus", "train", "calibrate"}
    assert set(report["metrics"]) == {"held_out", "quantized"}
    assert 0 < report["metrics"]["held_out"]["acceptance_1"] <= 1
    assert saved.metrics == report["metrics"]
    assert not list(folder.rglob("*.partial"))


def test_a_finished_run_is_only_reported(killed, bundle):
    folder, _, report = killed
    assert train_draft(bundle, RECIPE, folder, save=None) == report  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"train": dataclasses.replace(RECIPE.train, epochs=2)}, "--epochs 1, now it is 2; take 1 again"),
        (
            {"corpus": dataclasses.replace(CORPUS, temperatures=(0.0, 1.0))},
            "--temperatures 0.0,0.0,0.0,0.7,1.0,1.0, now",
        ),
        ({"shape": DraftShape(layers=(0, 3), exits=(2,), vocabulary=40)}, "--exits 1,2, now it is 2; take 1,2"),
        ({"dtype": "bfloat16"}, "--dtype float32, now it is bfloat16; take float32 again, or another --out"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(killed, bundle, change, line):
    with pytest.raises(GelatoError, match=re.escape(line)) as caught:
        train_draft(bundle, dataclasses.replace(RECIPE, **change), killed[0], save=Saved())
    assert str(killed[0]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ids_alone_make_the_draft_again(killed, bundle, tmp_path):
    """The corpus's ids, seed and settings: probabilities are computed again, in another order of sums."""
    folder, saved, _ = killed
    again = Saved()
    report = train_draft(bundle, RECIPE, tmp_path, save=again, corpus=folder / "corpus.npz", about={"by": "a test"})
    assert (report["settings"]["corpus"], report["by"]) == ("corpus.npz", "a test")
    assert "temperatures" not in report["settings"]  # of writing
    np.testing.assert_array_equal(again.draft.vocabulary, saved.draft.vocabulary)
    for distribution in ("greedy", "sampled"):
        ours, theirs = (np.array(s.metrics["quantized"][distribution]["overall"]["acceptance"]) for s in (again, saved))
        np.testing.assert_allclose(ours, theirs, atol=0.05)


@pytest.mark.parametrize("kind", ["ids", "shards"])
def test_another_corpus_of_the_same_name_is_refused(killed, bundle, tmp_path, kind):
    source = killed[0] / "corpus.npz" if kind == "ids" else killed[0] / "training" / "corpus"
    given, folder = tmp_path / source.name, tmp_path / "draft"
    (shutil.copy if kind == "ids" else shutil.copytree)(source, given)
    with pytest.raises(Killed):
        train_draft(bundle, RECIPE, folder, save=Saved(), corpus=given, watch=kill("train", 0.0))
    assert json.loads((folder / "training" / "settings.json").read_text())["corpus_sha256"]
    if kind == "ids":
        write_ids(given, read_ids(given)[1:])
    else:
        next(given.glob("shard-*.npz")).unlink()
    with pytest.raises(GelatoError, match="begun with a --corpus of other contents; give that one again") as caught:
        train_draft(bundle, RECIPE, folder, save=Saved(), corpus=given)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_corpus_leaves_none(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(GelatoError, match="holds no shard of a corpus"):
        train_draft(bundle, RECIPE, tmp_path / "draft", save=Saved(), corpus=tmp_path / "empty")
    assert not (tmp_path / "draft").exists()


def test_impossible_settings_leave_no_folder(bundle, tmp_path):
    for change, words in (
        ({"shape": DraftShape(layers=(0, 9), exits=(2,))}, "must lie in 0..3"),
        ({"corpus": dataclasses.replace(CORPUS, slots=8)}, "slots is 8"),
    ):
        with pytest.raises(GelatoError, match=words):
            train_draft(bundle, dataclasses.replace(RECIPE, **change), tmp_path / "x", save=Saved())
    assert not (tmp_path / "x").exists()


def test_held_out_conversations_are_not_learned_from(corpus):
    held_out, taught = split_conversations(corpus[0])
    assert len(held_out) == -(-len(corpus[0]) // HELD_OUT_EVERY)
    assert len(held_out) + len(taught) == len(corpus[0])
    assert not {id(c) for c in held_out} & {id(c) for c in taught}
