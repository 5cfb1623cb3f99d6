"""`gelato train-draft`: a target in, a draft for it out."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg, configure

from gelato_jax.cli.options import Range, complete, flag
from gelato_jax.errors import GelatoError


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobOptions:
    """For which model, and where the result goes."""

    target: Annotated[str, arg(metavar="MODEL")] = "smollm2-135m"
    """The model to draft for: a name from `gelato models`, hf:OWNER/NAME, a folder or a .gguf file."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder of the draft, which `gelato generate --draft DIR` takes. The same command goes on with a run that was
    stopped; a finished one is only reported."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the products while writing and training. float32 takes about twice as long on most machines."""
    seed: Annotated[int, arg(metavar="N"), Range(0, 2**31 - 1)] = 0
    """Of every draw: the text, the order of training."""
    save_every_s: Annotated[float, arg(metavar="S"), Range(0.0)] = 300.0
    """Seconds between two states of the training on the disk: what a kill can cost."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """What the draft is made of. Its cost per token is about its share of the target's weights."""

    layers: Annotated[str | None, arg(metavar="K,K,..", help_behavior_hint="(default: first 3, last 3)")] = None
    """The target's layers that the draft's start from, counted from 0. The first read the text, the last predict."""
    exits: Annotated[str | None, arg(metavar="N,N,..", help_behavior_hint="(default: half, all)")] = None
    """Numbers of layers after which a token may be drafted, ascending; the last is the number of layers."""
    vocabulary: Annotated[int, arg(metavar="U"), Range(2)] = 8192
    """Tokens that the draft can propose, the most frequent of the answers. Fewer are cheaper and miss more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """The text that it learns from: conversations that the target writes, user turns and answers."""

    corpus: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: written)")] = None
    """Take this corpus: the corpus.npz of another run, or its folder training/corpus."""
    tokens: Annotated[int, arg(metavar="N"), Range(1)] = 1_500_000
    """Tokens to write. More text is what makes a draft better."""
    rows: Annotated[int, arg(metavar="N"), Range(1)] = 128
    """Conversations written at once: more are faster and take more memory."""
    slots: Annotated[int, arg(metavar="N"), Range(8, 1024)] = 256
    """Tokens of the longest conversation, the chat template included; up to 1024."""
    longest_user: Annotated[int, arg(metavar="N"), Range(1)] = 64
    """Tokens of the longest user turn, beyond its opening words."""
    longest_answer: Annotated[int, arg(metavar="N"), Range(2)] = 160
    """Tokens of the longest answer."""
    temperatures: Annotated[str, arg(metavar="T,T,..")] = "0.0,0.0,0.0,0.7,1.0,1.0"
    """Temperatures of answers, one drawn for each; 0 is greedy."""
    opened: Annotated[float, arg(metavar="P"), Range(0.0, 1.0)] = 0.5
    """Share of user turns that begin with the words of some common task, in 0..1."""
    num_recorded: Annotated[int, arg(metavar="K"), Range(1, 1024)] = 48
    """Likeliest tokens whose probabilities are kept at every position: what the draft learns towards."""
    shard_tokens: Annotated[int, arg(metavar="N"), Range(1)] = 50_000
    """Tokens between two writes to the disk: what a kill can cost."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How it learns."""

    epochs: Annotated[float, arg(metavar="E"), Range(1e-6)] = 3.0
    """Passes over the text; may be a fraction."""
    tokens_per_batch: Annotated[int, arg(metavar="N"), Range(1)] = 4096
    """Tokens of a step, padding included, shared among all devices."""
    learning_rate: Annotated[float, arg(metavar="R"), Range(0.0)] = 1.5e-3
    """At its highest: it rises over the share --warmup of the steps, then falls as a cosine."""
    warmup: Annotated[float, arg(metavar="P"), Range(0.0, 1.0)] = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, arg(metavar="D"), Range(0.0)] = 0.01
    """AdamW's decay of matrices."""
    clip: Annotated[float, arg(metavar="C"), Range(1e-9)] = 1.0
    """Largest norm of a gradient."""
    overlap_weight: Annotated[float, arg(metavar="P"), Range(0.0, 1.0)] = 0.0
    """Share of the loss that is 1 - acceptance (total variation); the rest is the KL divergence."""
    early_weight: Annotated[float, arg(metavar="W"), Range(0.0)] = 0.3
    """Weight of each early exit's loss beside the deepest one's 1."""
    leaving: Annotated[float, arg(metavar="P"), Range(0.0, 1.0)] = 0.1
    """Share of tokens that leave at an early exit while training, as they will while drafting."""
    user_weight: Annotated[float, arg(metavar="W"), Range(0.0)] = 0.2
    """Weight of a user turn's tokens beside an answer's 1."""


@configure(OmitArgPrefixes)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainDraft:
    """Train a draft: the target writes a corpus, the draft learns its distributions, is cut to 8 bits and calibrated.

    Stopped or killed, the same command goes on. An accelerator is used where there is one, several share each batch.
    """

    job: JobOptions
    shape: ShapeOptions
    corpus: CorpusOptions
    train: TrainOptions

    def run(self) -> int:
        """Train, save, sum up."""
        values = complete(self.job, self.shape, self.corpus, self.train)
        numbers = {name: _numbers(name, values[name]) for name in ("layers", "exits", "temperatures")}
        _refuse_written(values)
        try:
            report = _train({**values, **numbers})
        except KeyboardInterrupt:
            print("gelato: stopped; the same command goes on", file=sys.stderr)
            raise
        print("\n".join(_summary(report, values["out"])))
        return 0


def _numbers(name: str, text: str | None) -> tuple[Any, ...] | None:
    """The numbers of a list such as 0,1,2."""
    kind = float if name == "temperatures" else int
    try:
        return None if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError:
        what = "numbers" if kind is float else "whole numbers"
        raise GelatoError(f"{flag(name)} is {text!r}, must be {what} with commas between them, as in 0,1,2") from None


def _refuse_written(values: dict[str, Any]) -> None:
    """Refuse options of writing beside a corpus that is there."""
    if values["corpus"] is None:
        return
    if not values["corpus"].exists():
        raise GelatoError(
            f"--corpus is {values['corpus']}, which does not exist; give a folder or file, or leave it out"
        )
    for field in dataclasses.fields(CorpusOptions):
        used = ("corpus", "num_recorded", "shard_tokens")
        if field.name not in used and values[field.name] != field.default:
            raise GelatoError(f"{flag(field.name)} has no effect with --corpus; leave one of them out")


def _train(values: dict[str, Any]) -> dict[str, Any]:
    """Load the target, run the recipe, draw the curve."""
    import gelato_jax
    from gelato_checkpoints import load_checkpoint, load_model, save_draft
    from gelato_jax.cli.cache import keep_programs
    from gelato_jax.cli.progress import Progress
    from gelato_jax.training.corpus import openings
    from gelato_jax.training.recipe import Teacher, train_draft

    folder = values["out"].expanduser()
    keep_programs()
    with Progress() as progress:
        checkpoint = load_checkpoint(values["target"], progress=progress.stage)
        tokenizer = checkpoint.tokenizer
        frame = tokenizer.chat_frame()
        target = Teacher(
            name=values["target"],
            model=load_model(checkpoint),
            prefix=frame.prefix,
            header=frame.header,
            ends=tokenizer.eos_ids,
            openings=[tokenizer.encode(text, special=False) for text in openings()],
        )
        fingerprint = tokenizer.fingerprint

        def save(draft, provenance, metrics) -> None:
            facts = {"target_fingerprint": fingerprint, "provenance": provenance, "metrics": metrics}
            save_draft(folder, draft, target=target.name, **facts, overwrite=True)

        report = train_draft(
            target,
            _recipe(values, checkpoint.config.num_layers),
            folder,
            save=save,
            corpus=values["corpus"],
            about={"gelato_jax": gelato_jax.__version__},
            watch=progress.stage,
            save_every_s=values["save_every_s"],
        )
    _draw(folder, report)
    return report


def _recipe(values: dict[str, Any], num_layers: int):
    """The options as the settings of a training run."""
    from gelato_jax.training.corpus import CorpusSettings
    from gelato_jax.training.distill import TrainSettings
    from gelato_jax.training.recipe import Recipe
    from gelato_jax.training.warm_start import default_shape

    def filled(settings: type) -> Any:
        return settings(**{field.name: values[field.name] for field in dataclasses.fields(settings)})

    shape = default_shape(num_layers, values["vocabulary"])
    if values["layers"] is not None:
        layers = values["layers"]
        shape = dataclasses.replace(shape, layers=layers, exits=tuple(sorted({(len(layers) + 1) // 2, len(layers)})))
    if values["exits"] is not None:
        shape = dataclasses.replace(shape, exits=values["exits"])
    return Recipe(corpus=filled(CorpusSettings), shape=shape, train=filled(TrainSettings), dtype=values["dtype"])


def _draw(folder: Path, report: dict[str, Any]) -> None:
    """Draw the training curve, where matplotlib is installed."""
    from gelato_jax.training.curve import plot_curve

    try:
        plot_curve(folder / "training", folder / "curve.png", report["settings"]["exits"])
    except ImportError:
        print(
            "gelato: curve.png is left out, for matplotlib is not installed (pip install matplotlib)", file=sys.stderr
        )


def _summary(report: dict[str, Any], folder: Path) -> list[str]:
    """The few figures that matter."""
    quantized, hours = report["metrics"]["quantized"], sum(report["seconds"].values()) / 3600
    lines = [f"{report['tokens']} tokens in {report['conversations']} conversations; {hours:.2f} hours in all"]
    for index, depth in enumerate(report["settings"]["exits"]):
        greedy, sampled = (
            quantized[distribution]["overall"]["acceptance"][index] for distribution in ("greedy", "sampled")
        )
        lines.append(f"after {depth} layers: greedy agreement {greedy:.3f}, acceptance at temperature 1 {sampled:.3f}")
    return [*lines, "on text of the corpus that was held out, with 8-bit weights", f"gelato generate --draft {folder}"]
