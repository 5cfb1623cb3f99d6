"""`python -m gelato_experiments.benchmarks.remote_latency --out DIR`: the link model's rounds beside measured ones.

Device and edge are two processes in two network namespaces, and a cable of IP packets between them is given a delay, a
rate, losses. Each way of decoding is timed on the cable without any: that is what the model is told of device and edge.
What a longer path adds is then modelled by the link alone, and measured.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg

import gelato_jax as gelato
from gelato_experiments import cable
from gelato_experiments.benchmarks.edge_process import edge
from gelato_jax import control, payloads, system
from gelato_jax.errors import GelatoError
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.device import stream, without_weights
from gelato_jax.system import Link, System

PATHS = {
    "20 ms": cable.Path(rtt_s=0.02),
    "60 ms": cable.Path(rtt_s=0.06),
    "140 ms": cable.Path(rtt_s=0.14),
    "400 ms": cable.Path(rtt_s=0.4),
    "20 ms, 1 Mbit/s": cable.Path(rtt_s=0.02, bits_per_s=1e6),
    "20 ms, 5 % loss": cable.Path(rtt_s=0.02, loss=0.05),
}
_PORT = 8470


@dataclasses.dataclass(frozen=True)
class Way:
    """A way of decoding."""

    drafts: int
    stream_length: int = 1
    payload: payloads.Payload = payloads.candidates(32)  # noqa: RUF009  (a constant)
    temperature: float = 0.0

    @property
    def settings(self) -> gelato.DecodeSettings:
        """Short answers."""
        return gelato.DecodeSettings(max_new_tokens=24, stream_length=self.stream_length, temperature=self.temperature)

    @property
    def choices(self) -> dict[str, Any]:
        """For `stream`."""
        return {"controller": control.static(self.drafts), "payload": self.payload}


WAYS = {
    "no drafts, token by token": Way(0),
    "no drafts, a stream": Way(0, stream_length=63),
    "2 drafts": Way(2),
    "4 drafts": Way(4),
    "2 drafts with 256 numbers each": Way(2, payload=payloads.top_k(256), temperature=1.0),
}


@dataclasses.dataclass(frozen=True)
class Answers:
    """Some answers, summed over.

    Attributes:
        tokens: behind the first of each.
        passes: of the target.
        messages: sent for them.
        wall_s: that they took.
        modelled_s: that their rounds took, by the model.
        retries: calls made again.
    """

    tokens: int
    passes: int
    messages: int
    wall_s: float
    modelled_s: float
    retries: int


def decode(pair: gelato.Pair, prompts: Sequence[Any], client: EdgeClient, way: Way, world: System | None) -> Answers:
    """Answers over the wire; rounds alone are timed."""
    tokens = passes = 0
    wall_s = modelled_s = 0.0
    messages, retries = client.traffic.messages, client.traffic.retries
    for prompt in prompts:
        watched = stream(without_weights(pair), prompt, client, settings=way.settings, system=world, **way.choices)
        watched.wait()
        began = time.perf_counter()
        rounds = list(watched)
        wall_s += time.perf_counter() - began
        tokens += sum(int(seen.tokens[0]) for seen in rounds)
        passes += sum(int(seen.passes[0]) for seen in rounds)
        modelled_s += sum(float(seen.time_s[0]) for seen in rounds)
    traffic = client.traffic
    return Answers(tokens, passes, traffic.messages - messages, wall_s, modelled_s, traffic.retries - retries)


def world_of(way: Way, alone: Answers, path: cable.Path) -> System:
    """A path, and device and edge as they were on the cable without delay: in their passes, one a round of drafts."""
    seconds = alone.wall_s / alone.passes
    # log2(1 + 1) is 1: a link of such bandwidth has the rate.
    link = Link.create(bandwidth_hz=path.bits_per_s, snr=1.0, rtt_s=path.rtt_s, fading=0.0)
    there = system.local(draft_token_s=0.0, prefill_token_s=0.0, window_s={1: seconds})
    return dataclasses.replace(there, link=link)


def measure(pair: gelato.Pair, prompts: Sequence[Any], laid: cable.Cable, client: EdgeClient) -> list[dict[str, Any]]:
    """Every way of decoding on every path."""
    rows = []
    for name, way in WAYS.items():
        laid.become(cable.Path())
        decode(pair, prompts[:1], client, way, None)  # its programs are made
        alone = [decode(pair, prompts, client, way, None) for _ in range(3)]
        alone = sorted(alone, key=lambda answers: answers.wall_s)[1]
        for label, path in PATHS.items():
            laid.become(path)
            found = decode(pair, prompts, client, way, world_of(way, alone, path))
            rows.append(
                {
                    "way": name,
                    "path": label,
                    "alone_ms": 1e3 * alone.wall_s / alone.messages,
                    "measured_ms": 1e3 * found.wall_s / found.messages,
                    "modelled_ms": 1e3 * found.modelled_s / found.messages,
                    "modelled_over_measured": found.modelled_s / found.wall_s,
                    "tokens_per_s": found.tokens / found.wall_s,
                    "passes_per_token": found.passes / found.tokens,
                    "retries": found.retries,
                }
            )
            print(json.dumps({key: _short(value) for key, value in rows[-1].items()}), flush=True)
        laid.become(cable.Path())
    return rows


def _short(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write `latency.png`: modelled against measured milliseconds of a message and its answers."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    from gelato_experiments.figures import new_figure, save_png, style

    with style():
        figure, panels = new_figure(panel_width=6.4, panel_height=4.8)
        axes = panels[0, 0]
        low, high = 20.0, 1.2 * max(row["measured_ms"] for row in rows)
        axes.plot([low, high], [low, high], color="0.6", linewidth=1.0, label="equal")
        axes.fill_between([low, high], [0.85 * low, 0.85 * high], [1.15 * low, 1.15 * high], color="0.93", label="15 %")
        for name, mark in zip(WAYS, "osD^v", strict=True):
            for lossy in (False, True):
                mine = [row for row in rows if row["way"] == name and lossy == ("loss" in row["path"])]
                x, y = ([row[key] for row in mine] for key in ("measured_ms", "modelled_ms"))
                colour = f"C{list(WAYS).index(name)}"
                look = {"color": colour, "markerfacecolor": "none" if lossy else colour, "alpha": 0.8}
                axes.plot(x, y, mark, label=None if lossy else name, **look)
        axes.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="modelled, ms")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator([20, 50, 100, 200, 500]))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_locator(NullLocator())
        axes.set_title("A message and its answers, over paths of 20 to 400 ms (hollow: 5 % loss)")
        axes.legend(loc="upper left")
        save_png(figure, folder / "latency.png")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteLatency:
    """Modelled against measured rounds over real IP paths of this machine. Needs root, ip and /dev/net/tun."""

    out: Annotated[Path, arg(metavar="DIR")]
    """Folder of latency.json and latency.png."""
    model: Annotated[str, arg(metavar="MODEL")] = "smollm2-135m"
    """The target, as in `gelato generate`; the draft that ships with it drafts."""
    limit: Annotated[int, arg(metavar="N")] = 3
    """Prompts."""

    def run(self) -> None:
        """Measure, print, and write.

        Raises:
            GelatoError: no such cable can be laid here, or the edge does not start.
        """
        from gelato_checkpoints import load_pair
        from gelato_experiments.prompts import read_prompts
        from gelato_jax.files import write_json

        pair = load_pair(self.model)
        prompts = [pair.tokenizer.chat_prompt(prompt) for prompt in read_prompts(None, self.limit)]
        self.out.mkdir(parents=True, exist_ok=True)
        address = f"{cable.FAR}:{_PORT}"
        try:
            with cable.lay() as laid, edge(self.model, address, "--insecure", at=laid.there) as client:
                rows = measure(pair, prompts, laid, client)
        except cable.UnavailableError as error:
            raise GelatoError(f"no cable can be laid: {error}") from None
        lossless = [row["modelled_over_measured"] for row in rows if "loss" not in row["path"]]
        print(f"modelled over measured, without losses: {min(lossless):.2f} to {max(lossless):.2f}", end=", ")
        print(f"median {statistics.median(lossless):.2f}")
        write_json(self.out / "latency.json", {"model": self.model, "prompts": self.limit, "rows": rows})
        draw(rows, self.out)


if __name__ == "__main__":
    try:
        tyro.cli(RemoteLatency).run()
    except GelatoError as error:
        sys.exit(f"error: {error}")
