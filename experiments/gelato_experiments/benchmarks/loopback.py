"""`python -m gelato_experiments.benchmarks.loopback`: what two processes cost beside one, on one machine.

The same texts with the same drafts: in one compiled loop (`generate`), round by round (`stream`), and with the target
in another process, over a socket. Each text is compared; ratios are of one prompt's runs behind each other.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

import gelato_jax as gelato
from gelato_experiments.benchmarks.edge_process import edge
from gelato_jax import control
from gelato_jax.errors import GelatoError
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.device import stream, without_weights

WAYS = {
    "no drafts, streams of 63": (0, 63),
    "no drafts, streams of 5": (0, 5),
    "2 drafts": (2, 1),
    "4 drafts": (4, 1),
}
"""Drafts of a round, and tokens of a stream."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loopback:
    """Seconds of a token in one process, and in two."""

    model: Annotated[str, arg(metavar="MODEL")] = "smollm2-135m"
    """The target, as in `gelato generate`."""
    draft: Annotated[str | None, arg(metavar="DRAFT", help_behavior_hint="(default: the target's own)")] = None
    """The draft, as in `gelato generate`."""
    port: Annotated[int, arg(metavar="N")] = 8471
    """Of the edge."""
    limit: Annotated[int, arg(metavar="N")] = 6
    """Prompts."""
    max_new_tokens: Annotated[int, arg(metavar="N")] = 128
    """Of each answer."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where figures go, too."""

    def run(self) -> None:
        """Measure and print.

        Raises:
            GelatoError: a model cannot be had, the edge does not start, or an answer differs.
        """
        from gelato_checkpoints import load_pair
        from gelato_experiments.prompts import read_prompts
        from gelato_jax.files import write_json

        pair = load_pair(self.model, self.draft)
        prompts = [pair.tokenizer.chat_prompt(prompt) for prompt in read_prompts(None, self.limit)]
        address = f"127.0.0.1:{self.port}"
        with edge(self.model, address) as client:
            rows = [self._measure(name, pair, prompts, client) for name in WAYS]
        if self.json is not None:
            write_json(self.json, {"model": self.model, "rows": rows})

    def _measure(
        self, name: str, pair: gelato.Pair, prompts: Sequence[list[int]], client: EdgeClient
    ) -> dict[str, str | float]:
        drafts, length = WAYS[name]
        settings = gelato.DecodeSettings(max_new_tokens=self.max_new_tokens, stream_length=length)
        given = {"settings": settings, "controller": control.static(drafts)}
        device = without_weights(pair)
        seconds: dict[str, list[float]] = {}
        ways: dict[str, Callable[[list[int]], list[int]]] = {
            "one loop": lambda prompt: gelato.generate(pair, [prompt], **given).tokens[0],
            "round by round": lambda prompt: _watched(gelato.stream(pair, [prompt], **given)),
            "two processes": lambda prompt: _watched(stream(device, prompt, client, **given)),
        }
        for repeat in range(3):  # the first compiles
            for prompt in prompts[: 1 if repeat == 0 else None]:
                texts = []
                for way, decode in ways.items():
                    began = time.perf_counter()
                    texts.append(decode(prompt))
                    if repeat:
                        seconds.setdefault(way, []).append((time.perf_counter() - began) / len(texts[-1]))
                if any(text != texts[0] for text in texts):
                    raise GelatoError(f"{name}: an answer over the socket is not one process's")
        row: dict[str, str | float] = {"way": name}
        for way, values in seconds.items():
            row[f"{way}, ms a token"] = round(1e3 * statistics.median(values), 2)
            ratios = [value / base for value, base in zip(values, seconds["one loop"], strict=True)]
            row[f"{way}, of one loop"] = round(statistics.median(ratios), 3)
        print(json.dumps(row), flush=True)
        return row


def _watched(watched: gelato.Stream) -> list[int]:
    for _ in watched:
        pass
    return watched.generation().tokens[0]


if __name__ == "__main__":
    try:
        tyro.cli(Loopback).run()
    except GelatoError as error:
        sys.exit(f"error: {error}")
