"""`gelato record`: what a pair would do at every position of its texts, for `gelato experiment` to replay."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from gelato_jax.cli.options import Range, WeightsName, complete
from gelato_jax.errors import GelatoError
from gelato_jax.files import check_writable

if TYPE_CHECKING:
    from gelato_jax.decoding import Pair
    from gelato_jax.simulation.recording import Recording


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Record a pair: the target writes texts, and the draft is rolled out at every position of them, at each exit.

    Stopped or killed, the same command goes on with the next batch of texts.
    """

    out: Annotated[Path, arg(metavar="FILE")]
    """The recording, a .npz file."""
    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the set that ships)")] = None
    """Prompt file, .jsonl or a prompt a line."""
    model: Annotated[str, arg(metavar="MODEL")] = "smollm2-135m"
    """The target, as in `gelato generate`."""
    draft: Annotated[
        str | None, arg(metavar="MODEL", help_behavior_hint="(default: the trained draft that ships, else layers:6)")
    ] = None
    """The draft, as in `gelato generate`, but lookup, which has no weights to roll out."""
    shorter_than: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: any)"), Range(1)] = None
    """Only prompts of fewer tokens, the chat template included."""
    longer_than: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: any)"), Range(0)] = None
    """Only prompts of more tokens, the chat template included."""
    limit: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)"), Range(1)] = None
    """Prompts at most, spread over those of the lengths asked for."""
    max_new_tokens: Annotated[int, arg(metavar="N"), Range(2)] = 128
    """Tokens of a text at most; 2 or more, for the first is never drafted."""
    max_draft_length: Annotated[int, arg(metavar="G"), Range(1, 32)] = 12
    """Tokens drafted at every position, 1..32: the most that a replay may draft in a round."""
    weights: WeightsName = "float"
    """How weights are kept, as in `gelato generate`. In blocks recording is faster, and needs compiled kernels to come
    out the same elsewhere."""
    temperature: Annotated[float, arg(metavar="T"), Range(0.0)] = 0.0
    """Temperature of the texts: 0 always takes the likeliest token, 1 is the model's own distribution."""
    seed: Annotated[int, arg(metavar="N"), Range(0, 2**31 - 1)] = 0
    """Random numbers of sampled texts and of acceptance."""
    batch_rows: Annotated[int, arg(metavar="N"), Range(1)] = 32
    """Texts written at once, at most: more are faster and take more memory."""
    json: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the summary to this file; - is standard output."""

    def run(self) -> int:
        """Record, save, sum up."""
        from gelato_jax.cli.output import JsonFile

        complete(self)
        out = _writable(self.out)
        with JsonFile(self.json) as file:
            report = _record(self, out)
            file.write(report)
        if self.json != "-":
            print("\n".join(_lines(report)))
        return 0


def _writable(path: Path) -> Path:
    """The place of the recording; refuses one that cannot be written, before any work."""
    path = path.expanduser()
    if path.is_dir():
        raise GelatoError(f"--out is {path}, a folder; give a file, as in {path / 'traces.npz'}")
    check_writable(path)
    return path


def _record(options: Record, out: Path) -> dict[str, Any]:
    """Load the pair, record it, write the file; the summary."""
    from gelato_experiments.prompts import read_categories

    prompts = read_categories(options.prompts)

    import gelato_checkpoints
    from gelato_jax.cli.cache import keep_programs
    from gelato_jax.cli.progress import Progress
    from gelato_jax.decoding import DecodeSettings
    from gelato_jax.simulation.recorder import make_recording
    from gelato_jax.simulation.recording import save

    keep_programs()
    with Progress() as progress:
        pair = gelato_checkpoints.load_pair(
            options.model, options.draft, weights=options.weights, progress=progress.stage
        )
        chosen = _chosen(options, pair, prompts)
        recording = make_recording(
            pair,
            [ids for _, ids in chosen],
            settings=DecodeSettings(
                max_draft_length=options.max_draft_length,
                max_new_tokens=options.max_new_tokens,
                temperature=options.temperature,
                seed=options.seed,
            ),
            categories=[category for category, _ in chosen],
            batch_rows=options.batch_rows,
            cache=gelato_checkpoints.cache_directory() / "rollouts",
            progress=progress.stage,
        )
    names = {
        "pair": options.model,
        "draft": "default" if options.draft is None else options.draft,
        "draft_fingerprint": recording.about["draft"],
        "weights": pair.target.config.weight_format,
        "prompt_file": "shipped" if options.prompts is None else options.prompts.name,
        "prompt_tokens": [options.longer_than, options.shorter_than],
    }
    recording = dataclasses.replace(recording, about={**recording.about, **names})
    save(out, recording)
    return {"file": str(out), "bytes": out.stat().st_size, **summary(recording)}


def _chosen(options: Record, pair: "Pair", prompts: Sequence[tuple[str, str]]) -> list[tuple[str, list[int]]]:
    """Category and ids of the prompts of the lengths asked for, spread over them where they are more than the limit."""
    encoded = [(category, pair.tokenizer.chat_prompt(text)) for category, text in prompts]
    shortest = -1 if options.longer_than is None else options.longer_than
    longest = float("inf") if options.shorter_than is None else options.shorter_than
    kept = [(category, ids) for category, ids in encoded if shortest < len(ids) < longest]
    if not kept:
        sizes = [len(ids) for _, ids in encoded]
        bounds = {"--longer-than": options.longer_than, "--shorter-than": options.shorter_than}
        asked = " and ".join(f"{flag} {value}" for flag, value in bounds.items() if value is not None)
        raise GelatoError(
            f"{asked} leaves none of {len(sizes)} prompts, which have {min(sizes)} to {max(sizes)} tokens; "
            "give other bounds"
        )
    if options.limit is None or len(kept) <= options.limit:
        return kept
    return [kept[index * len(kept) // options.limit] for index in range(options.limit)]


def summary(recording: "Recording") -> dict[str, Any]:
    """The few figures that matter, for JSON; means are over positions, None where there is none."""
    import numpy as np

    rollouts = recording.rollouts
    reached = np.arange(rollouts.accepted.shape[1]) < rollouts.positions[:, None]
    count = int(reached.sum())
    accepted = rollouts.accepted[reached].sum(axis=0, dtype=np.int64)
    return {
        "texts": len(recording.categories),
        "positions": count,
        "prompt_tokens": [int(rollouts.prompt_tokens.min()), int(rollouts.prompt_tokens.max())],
        "max_draft_length": recording.max_draft_length,
        "exits": recording.about["exits"],
        "mean_accepted": [float(total) / count if count else None for total in accepted],
        "about": recording.about,
    }


def _lines(report: dict[str, Any]) -> list[str]:
    shortest, longest = report["prompt_tokens"]
    lines = [
        f"{report['texts']} texts behind prompts of {shortest} to {longest} tokens, {report['positions']} positions"
    ]
    for depth, mean in zip(report["exits"], report["mean_accepted"], strict=True):
        shown = "-" if mean is None else f"{mean:.2f}"
        lines.append(
            f"after {depth} layers: {shown} of {report['max_draft_length']} drafted tokens accepted on average"
        )
    return [*lines, f"{report['file']}, {report['bytes'] / 1e6:.2f} MB"]
