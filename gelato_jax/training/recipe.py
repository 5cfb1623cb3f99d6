"""The whole way from a target to its draft: corpus, warm start, training, probes, 8-bit weights, calibration.

Every phase leaves on the disk what the next one needs, so the same call goes on where a killed one
stopped. What is below knows no checkpoint format: the caller brings the target and saves the draft.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gelato_jax.decoding import DraftModel, make_draft
from gelato_jax.errors import GelatoError
from gelato_jax.files import read_json, write_json
from gelato_jax.models import Model, quantize
from gelato_jax.training.batches import Batches
from gelato_jax.training.calibrate import Distribution, fit_calibration
from gelato_jax.training.corpus import (
    Conversation,
    CorpusSettings,
    check_room,
    read_corpus,
    shard_paths,
    write_corpus,
)
from gelato_jax.training.distill import TrainSettings
from gelato_jax.training.ids import read_ids, write_ids
from gelato_jax.training.metrics import measure
from gelato_jax.training.probes import fit_probes
from gelato_jax.training.provenance import Clock, device, fingerprint, hold_to, versions
from gelato_jax.training.repeat_fit import fit_repeats
from gelato_jax.training.run import SAVE_EVERY_S, read_log, train
from gelato_jax.training.soft_labels import label_corpus
from gelato_jax.training.states import Answer, answer_states
from gelato_jax.training.trace import Trace, trace_answers
from gelato_jax.training.warm_start import DraftShape, check_shape, frequent_ids, warm_start
from gelato_jax.training.writing import Frame
from gelato_jax.types import Calibrations, RepeatOddsSet

HELD_OUT_EVERY = 50
"""One conversation of so many is not trained on: it is measured while training and calibrated on afterwards."""
_HELD_OUT = 512  # conversations at most
_SHORTEST = 3  # tokens of an answer to calibrate on: the first is never drafted, and one has one after it
_FEWEST = 2  # texts of a distribution: one to fit, one to measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what a draft becomes, its target aside.

    Attributes:
        corpus: how the target writes.
        shape: of the draft.
        train: how it is trained.
        dtype: of the products while writing and training.
    """

    corpus: CorpusSettings
    shape: DraftShape
    train: TrainSettings
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A target as training sees it.

    Attributes:
        name: what the user called it.
        model: its decoder.
        prefix: ids ahead of a user turn.
        header: ids between user turn and answer; none for a model without a chat template.
        ends: ids that end a turn.
        openings: beginnings of user turns, as ids.
    """

    name: str
    model: Model
    prefix: Sequence[int]
    header: Sequence[int]
    ends: Sequence[int]
    openings: Sequence[Sequence[int]] = ()


class Watch(Protocol):
    """Told how it goes; `values` are those of a training step."""

    def __call__(self, stage: str, done: int, total: int, values: Mapping[str, float], /) -> None:
        """Hear that `done` of `total` tokens of a stage are through."""


Save = Callable[[DraftModel, dict[str, Any], dict[str, Any]], None]
"""Stores the finished draft; its other arguments are provenance and metrics, ready for JSON."""


def train_draft(
    target: Teacher,
    recipe: Recipe,
    folder: Path,
    *,
    save: Save,
    corpus: Path | None = None,
    about: Mapping[str, Any] | None = None,
    watch: Watch = lambda stage, done, total, values: None,
    save_every_s: float = SAVE_EVERY_S,
) -> dict[str, Any]:
    """Make a draft for a target, or go on with one that was begun.

    Args:
        target: the model to draft for.
        recipe: how.
        folder: gets `corpus.npz` (the ids alone), `run.json`, and under `training/` what a later call goes on from.
        save: stores the draft.
        corpus: a folder of shards, or a file of ids alone, to take in place of text yet to be written.
        about: more facts of the draft's making, ready for JSON.
        watch: told of every step of `corpus`, `train` and `calibrate`.
        save_every_s: seconds of training that a kill can cost.

    Returns:
        The contents of run.json; those of the earlier run where the draft was finished already.

    Raises:
        GelatoError: the folder was begun with other settings, or the settings cannot be used; one line.
    """
    check_shape(recipe.shape, target.model.config.num_layers)
    frame = Frame(
        prefix=jnp.asarray(target.prefix, jnp.int32),
        header=jnp.asarray(target.header, jnp.int32),
        ends=jnp.asarray(target.ends, jnp.int32),
        num_recorded=recipe.corpus.num_recorded,
    )
    if corpus is None:
        check_room(recipe.corpus, frame, target.openings)
    settings = _settings(target, recipe, corpus)
    work = folder / "training"
    work.mkdir(parents=True, exist_ok=True)
    hold_to(work / "settings.json", settings, folder)
    if (finished := read_json(folder / "run.json")) is not None:
        return finished
    clock = Clock(work / "seconds.json", watch)
    with clock.phase("corpus") as progress:
        conversations = _corpus(target, frame, recipe, work / "corpus", corpus, progress)
        write_ids(folder / "corpus.npz", conversations)
    held_out, taught = split_conversations(conversations)
    vocabulary = frequent_ids(taught, recipe.shape.vocabulary, target.ends)
    with clock.phase("train") as progress:
        model = _train(target, recipe, taught, held_out, vocabulary, work, progress, save_every_s)
    with clock.phase("calibrate") as progress:
        model = quantize(fit_probes(model, _batches(target, recipe, taught, vocabulary)))
        draft, report = calibrated(target, make_draft(model, vocabulary=jnp.asarray(vocabulary)), held_out, progress)
    measured = [line for line in read_log(work) if line["kind"] == "held_out"]
    metrics = {"held_out": measured[-1] if measured else None, "quantized": report}
    tokens = sum(len(c.tokens) for c in conversations)
    provenance = {
        **(about or {}),
        "settings": settings,
        "conversations": len(conversations),
        "tokens": tokens,
        "versions": versions(),
        "device": device(),
        "seconds": clock.seconds,
    }
    save(draft, provenance, metrics)
    result = {**provenance, "metrics": metrics}
    write_json(folder / "run.json", result)
    return result


def split_conversations(conversations: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """Conversations that are held out, and those that are learned from."""
    held_out = list(conversations[::HELD_OUT_EVERY])[:_HELD_OUT]
    chosen = set(range(0, len(conversations), HELD_OUT_EVERY))
    return held_out, [c for index, c in enumerate(conversations) if index not in chosen]


def _corpus(
    target: Teacher,
    frame: Frame,
    recipe: Recipe,
    folder: Path,
    given: Path | None,
    progress: Callable[[int, int], None],
) -> list[Conversation]:
    """The corpus, written, recorded or read."""
    if given is not None and given.is_dir():
        return list(read_corpus(given))
    params = {path: jnp.asarray(array, recipe.dtype) for path, array in target.model.params.items()}
    model = Model(config=target.model.config, params=params)
    if given is None:
        write_corpus(model, frame, folder, recipe.corpus, target.openings, progress)
    else:
        size = recipe.corpus.shard_tokens
        label_corpus(model, read_ids(given), frame, folder, shard_tokens=size, progress=progress)
    return list(read_corpus(folder))


def _batches(target: Teacher, recipe: Recipe, conversations: Sequence[Conversation], vocabulary: np.ndarray) -> Batches:
    return Batches(
        conversations,
        np.asarray(target.prefix, np.int32),
        vocabulary,
        tokens_per_batch=recipe.train.tokens_per_batch,
        user_weight=recipe.train.user_weight,
        multiple=jax.device_count(),
    )


def _train(
    target: Teacher,
    recipe: Recipe,
    taught: Sequence[Conversation],
    held_out: Sequence[Conversation],
    vocabulary: np.ndarray,
    work: Path,
    progress: Callable[..., None],
    save_every_s: float,
) -> Model:
    """The trained draft, float32."""
    size = recipe.train.tokens_per_batch
    model = train(
        warm_start(target.model, recipe.shape, vocabulary),
        _batches(target, recipe, taught, vocabulary),
        recipe.train,
        work,
        dtype=jnp.dtype(recipe.dtype),
        held_out=_batches(target, recipe, held_out, vocabulary),
        save_every_s=save_every_s,
        progress=lambda done, total, values: progress(done * size, total * size, values),
    )
    return jax.tree.map(jnp.asarray, jax.device_get(model))  # from all devices to the first


_DISTRIBUTIONS: dict[Distribution, float] = {
    "greedy": 0.0,
    "sampled": 1.0,
}  # temperatures of the texts that stand for a distribution


def calibrated(
    target: Teacher, draft: DraftModel, held_out: Sequence[Conversation], progress: Callable[[int, int], None]
) -> tuple[DraftModel, dict[str, Any]]:
    """Fit a draft's odds of repeats and its calibrations to text that it has not learned, and measure it there.

    Returns:
        The draft with odds and calibrations of all that text, and for each distribution what `metrics.measure` says,
        where half of the text is kept from the fit.
    """
    prefix = np.asarray(target.prefix, np.int32)
    answers = [
        Answer(
            category="corpus",
            prompt=np.concatenate([prefix, c.tokens[: c.answer_start]]).astype(np.int32),
            tokens=c.tokens[c.answer_start :].astype(np.int32),
            temperature=c.temperature,
        )
        for c in held_out
        if len(c.tokens) - c.answer_start >= _SHORTEST
    ]
    if not answers:
        raise GelatoError(f"none of {len(held_out)} held-out conversations can be calibrated on; take a larger corpus")
    answers = [answer for answer in answers if answer.temperature in _DISTRIBUTIONS.values()] or answers
    states = answer_states(target.model, answers)
    answers = [answer._replace(states=rows) for answer, rows in zip(answers, states, strict=True)]

    def traces(part: int) -> dict[Distribution, list[Trace]]:
        """Of each distribution, with the odds of repeats that the draft has by now."""
        found = trace_answers(
            target.model, draft, answers, progress=lambda done, total: progress(part * total + done, 2 * total)
        )
        return {distribution: _of_distribution(distribution, found, answers) for distribution in _DISTRIBUTIONS}

    draft = dataclasses.replace(
        draft,
        repeats=RepeatOddsSet(**{distribution: fit_repeats(t, distribution) for distribution, t in traces(0).items()}),
    )
    measured = traces(1)
    fits = {distribution: fit_calibration(some, distribution) for distribution, some in measured.items()}
    report = {
        distribution: measure(some, ["corpus"] * len(some), distribution) for distribution, some in measured.items()
    }
    return dataclasses.replace(draft, calibration=Calibrations(**fits)), report


def _of_distribution(distribution: Distribution, traces: Sequence[Trace], answers: Sequence[Answer]) -> list[Trace]:
    """Traces of answers of a distribution; all of them where there are too few of it."""
    chosen = [
        t for t, answer in zip(traces, answers, strict=True) if answer.temperature == _DISTRIBUTIONS[distribution]
    ]
    return chosen if len(chosen) >= _FEWEST else list(traces)


def _settings(target: Teacher, recipe: Recipe, corpus: Path | None) -> dict[str, Any]:
    """All that must stay as it is when a run goes on, by the name of its option, ready for JSON."""
    written = dataclasses.asdict(recipe.corpus)
    if corpus is not None:  # the others are of writing
        written = {name: written[name] for name in ("num_recorded", "shard_tokens")}
    values = {**written, **dataclasses.asdict(recipe.shape), **dataclasses.asdict(recipe.train)}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {
        "target": target.name,
        "corpus": None if corpus is None else corpus.name,  # its place is no part of the making
        "corpus_sha256": None if corpus is None else fingerprint(_files(corpus)),
        **values,
        "dtype": recipe.dtype,
        "devices": jax.device_count(),
    }


def _files(corpus: Path) -> list[Path]:
    """The files of a given corpus."""
    if not corpus.is_dir():
        return [corpus]
    if not (shards := shard_paths(corpus)):
        raise GelatoError(f"{corpus}: holds no shard of a corpus; give a folder that has some, or a file of ids")
    return shards
