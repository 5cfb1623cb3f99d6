"""`gelato bench peers`: ours beside llama.cpp and transformers, on this machine and in one run."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelato_jax.errors import GelatoError

if TYPE_CHECKING:
    from gelato_experiments.benchmarks.peers.engine import Engine, Request
    from gelato_jax.cli.bench import Bench
    from gelato_jax.cli.progress import Progress
    from gelato_jax.decoding import Pair


LIMIT, NEW_TOKENS = 12, 128
"""Prompts, and tokens of each, where neither is given."""


def measure(options: "Bench", load: Callable[[], "Pair"]) -> tuple[list[str], dict[str, Any], bool]:
    """Decode by every engine that is installed; say which are not.

    Args:
        options: what was asked for.
        load: loads the pair.

    Returns:
        Lines to print, figures to write, True.
    """
    limit = checked_limit(options.limit, LIMIT)
    _check_plot(options.plot)
    from gelato_experiments.benchmarks.peers import comparison, ours
    from gelato_experiments.benchmarks.peers.engine import Request, processor, use_threads, versions
    from gelato_experiments.prompts import read_prompts
    from gelato_jax.cli.progress import Progress
    from gelato_jax.decoding import LOCAL_STREAM, DecodeSettings
    from gelato_jax.decoding.local import measure_local_system

    new_tokens = NEW_TOKENS if options.max_new_tokens is None else options.max_new_tokens
    settings = DecodeSettings(max_new_tokens=new_tokens, stream_length=LOCAL_STREAM)
    threads = use_threads(options.threads)
    prompts = read_prompts(options.prompts, limit)
    _refuse_accelerators()
    pair = load()
    ids = [pair.tokenizer.chat_prompt(prompt) for prompt in prompts]
    request = Request(settings.max_new_tokens, tuple(pair.eos_ids), threads, max(map(len, ids)))
    with Progress() as progress:
        progress.stage("time", 0, 0)
        measure_pair = partial(measure_local_system, shapes=settings.shapes)
        others, left_out = _others(pair.name, request, progress)
        engines = [*ours.engines(pair, measure_pair, settings), *others]
        results = comparison.run(engines, ids, progress=partial(progress.stage, "decode"))
    for line in left_out:
        print(f"gelato: {line}", file=sys.stderr)
    rows = comparison.compare(results)
    about = {
        "model": pair.name,
        "weights": pair.target.config.weight_format,
        "cpu": processor(),
        "threads": threads,
        "max_new_tokens": request.max_new_tokens,
        "versions": versions(),
    }
    if options.plot is not None:
        comparison.draw(rows, options.plot)
    lines = [
        f"{len(prompts)} prompts, {request.max_new_tokens} tokens each at most, greedy, prompts included; engines by "
        "turns, ratios prompt by prompt",
        f"{about['cpu']}, {threads} thread{'s' if threads > 1 else ''}, our weights {about['weights']}",
        ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        *comparison.table(rows),
    ]
    figures = {
        **about,
        "prompts": len(prompts),
        "left_out": left_out,
        "rows": [dataclasses.asdict(row) for row in rows],
        "seconds": {result.engine: result.seconds for result in results},
    }
    return lines, figures, True


def _others(model: str, request: "Request", progress: "Progress") -> tuple[list["Engine"], list[str]]:
    """The engines of others that are installed, and a line for each that is left out."""
    from gelato_checkpoints import cache_directory
    from gelato_experiments.benchmarks.peers import huggingface, llama
    from gelato_experiments.benchmarks.peers.engine import LeftOut

    engines, left_out = [], []
    cache = cache_directory() / "peers"
    progress.stage("load", 0, 0)
    for name, load in {
        "llama.cpp": lambda: llama.engines(model, request, cache, progress.stage),
        "transformers": lambda: huggingface.engines(model, request),
    }.items():
        try:
            engines += load()
        except LeftOut as reason:
            left_out.append(f"{name} is left out: {reason}")
    return engines, left_out


def checked_limit(limit: int | None, otherwise: int) -> int:
    """Prompts at most; refuses none."""
    if limit is not None and limit < 1:
        raise GelatoError(f"--limit is {limit}, must be at least 1")
    return otherwise if limit is None else limit


def _check_plot(path: Path | None) -> None:
    """Refuse a drawing that cannot be made, before anything is loaded."""
    from gelato_jax.files import check_writable

    if path is None:
        return
    if path.suffix != ".png":
        raise GelatoError(f"--plot {path}: the drawing is a PNG; name it {path.with_suffix('.png')}")
    if importlib.util.find_spec("matplotlib") is None:
        raise GelatoError("--plot draws with matplotlib, which is missing: pip install 'gelato-jax[experiments]'")
    check_writable(path)


def _refuse_accelerators() -> None:
    import jax

    if (platform := jax.default_backend()) != "cpu":
        raise GelatoError(f"bench peers compares CPUs, and JAX runs on a {platform} here; set JAX_PLATFORMS=cpu")
