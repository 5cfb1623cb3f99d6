"""`gelato bench`: what the decode loop costs, and that its text is the target's."""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from gelato_jax.cli.bench_peers import checked_limit, measure
from gelato_jax.cli.options import WeightsName, flag
from gelato_jax.config import CacheType
from gelato_jax.errors import GelatoError
from gelato_jax.meter import MeterName

_LIMIT, _NEW_TOKENS = 40, 64  # prompts and tokens of each, where neither is given; `bench_peers` has its own
_ONLY = {"threads": "peers", "plot": "peers", "meter": "power", "seconds": "power", "write_device": "power"}
"""Options that one benchmark alone has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure here: what a pair is worth (`speed`), the loop's parts (`decode`), the text (`lossless`), and more."""

    what: Annotated[
        Positional[
            Literal["speed", "decode", "profile", "scale", "lossless", "peers", "power", "kernels", "simulation"]
        ],
        arg(metavar="WHAT"),
    ]
    """speed: tokens/s and joules against the target alone, by draft length. decode: bare step, baseline loop, round
    against its parts, overhead. profile: time of a step and a round by kind of operation, bytes read. scale: the target
    alone behind longer texts and with more rows. lossless: greedy text, or --distribution. peers: ours beside llama.cpp
    and transformers, where these are installed. power: watts of waiting, joules of a draft's step and of a window, by
    this machine's meter. kernels: each op of gelato_kernels against a textbook's steps, with
    --json alone (`python -m gelato_kernels.bench` has more options). simulation: simulated rounds a second and memory
    of a million devices, with --json alone."""
    model: str = "smollm2-135m"
    """The target, as in `gelato generate`."""
    draft: str | None = None
    """The draft, as in `gelato generate`."""
    weights: WeightsName = "auto"
    """How weights are kept, as in `gelato generate` (all but kernels and simulation)."""
    cache: CacheType = "auto"
    """Type of keys and values, as in `gelato generate` (all but kernels and simulation)."""
    draft_length: int = 4
    """Tokens drafted in every timed round, or in the measured window (decode, profile, power)."""
    prompts: Path | None = None
    """Prompt file, .jsonl or a prompt a line (speed, lossless, peers); the set that ships with the package if not
    given."""
    limit: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 40, peers 12)")] = None
    """Prompts at most, spread over the file (speed, lossless, peers)."""
    max_new_tokens: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 64, peers 128)")] = None
    """Tokens of each prompt (speed, lossless, peers)."""
    temperature: float = 0.0
    """Of the text (speed, profile)."""
    top_p: float = 1.0
    """Of the text (profile)."""
    system: str = "local"
    """local: this machine's own times. DEVICE/LINK/EDGE, names from `gelato presets`: a modelled world (speed), or what
    is set beside the meter (power)."""
    distribution: bool = False
    """Check how sampled text is distributed on a tiny pair instead: every payload, every controller, 200,000 texts."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: every core)")] = None
    """Cores that each engine gets (peers)."""
    meter: MeterName = "chips"
    """What counts joules, as --remote-meter of `gelato generate` (power)."""
    seconds: Annotated[float, arg(metavar="S")] = 10.0
    """Of each measurement (power)."""
    write_device: Annotated[Path | None, arg(metavar="FILE.json", help_behavior_hint="")] = None
    """Keep what was measured as a device, for --device of `gelato generate` (power)."""
    plot: Annotated[Path | None, arg(metavar="FILE.png", help_behavior_hint="")] = None
    """Draw the figures as bars (peers)."""
    json: str | None = None
    """Write the figures to this file; - is standard output."""

    def run(self) -> int:
        """Measure; exit code 1 where text or its distribution is not the target's, or a kernel's result wrong."""
        from gelato_jax.cli.output import JsonFile

        if self.distribution and self.what != "lossless":
            raise GelatoError(
                f"--distribution has no effect with bench {self.what}; take bench lossless --distribution"
            )
        if self.what in ("kernels", "simulation"):
            _refuse_all_but_json(self)
        for field in dataclasses.fields(self):
            only = _ONLY.get(field.name, self.what)
            if only != self.what and getattr(self, field.name) != field.default:
                raise GelatoError(
                    f"{flag(field.name)} has no effect with bench {self.what}; leave it out, or take bench {only}"
                )
        with JsonFile(self.json) as file:
            parts = {
                "speed": _speed,
                "decode": _decode,
                "profile": _profile,
                "scale": _scale,
                "lossless": _lossless,
                "peers": _peers,
                "power": _power,
                "kernels": _kernels,
                "simulation": _simulation,
            }
            run = _distribution if self.distribution else parts[self.what]
            lines, figures, sound = run(self)
            file.write(figures)
        if self.json != "-":
            print("\n".join(lines))
        return 0 if sound else 1


def _peers(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    return measure(options, lambda: _pair(options))


def _new_tokens(options: Bench) -> int:
    return _NEW_TOKENS if options.max_new_tokens is None else options.max_new_tokens


def _pair(options: Bench):
    """The pair, compiled programs kept as `gelato generate` keeps them."""
    from gelato_checkpoints import load_pair
    from gelato_jax.cli.cache import keep_programs
    from gelato_jax.cli.progress import Progress

    keep_programs()
    with Progress() as progress:
        return load_pair(
            options.model,
            options.draft,
            weights=options.weights,
            cache=options.cache,
            progress=progress.stage,
        )


def _decode(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    from gelato_experiments.benchmarks import decode
    from gelato_jax.decoding import Shapes

    Shapes(max_draft_length=options.draft_length)  # refused before anything is loaded
    say = lambda stage: print(f"gelato: timing {stage}", file=sys.stderr)  # noqa: E731
    result = decode.run(_pair(options), draft_length=options.draft_length, progress=say)
    lines = [
        f"bare step                      {result.bare_step_s * 1e3:8.2f} ms",
        f"autoregressive step            {result.autoregressive_step_s * 1e3:8.2f} ms   "
        f"{result.autoregressive_tokens_per_s:.1f} tokens/s",
        f"  over the bare step           {result.autoregressive_over_bare:8.3f}",
        f"draft step                     {result.draft_step_s * 1e3:8.2f} ms",
        f"window of {options.draft_length + 1:<3}                  {result.window_s * 1e3:8.2f} ms",
        f"round                          {result.round_s * 1e3:8.2f} ms",
        f"  over the sum of its parts    {result.round_over_parts:8.3f}",
    ]
    for distribution, share in result.overhead_share.items():
        lines.append(f"control, entropy, verification {share * 100:8.2f} % of a round, {distribution}")
    return lines, dataclasses.asdict(result), True


def _profile(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    from gelato_experiments.benchmarks import profile
    from gelato_jax.decoding import DecodeSettings

    settings = DecodeSettings(
        max_draft_length=options.draft_length, temperature=options.temperature, top_p=options.top_p
    )
    say = lambda stage: print(f"gelato: tracing {stage}", file=sys.stderr)  # noqa: E731
    result = profile.run(_pair(options), settings=settings, progress=say)
    lines = []
    for one in result.profiles:
        lines.append(f"{one.what}: {one.seconds * 1e3:.2f} ms; milliseconds and calls by kind, threads summed")
        lines += [f"  {kind.name:28s} {kind.seconds * 1e3:8.3f} {kind.calls:8.1f}" for kind in one.kinds[:10]]
    lines.append(
        f"a step reads {result.weight_bytes / 1e6:.1f} MB of weights, {result.read_bytes_per_s / 1e9:.1f} GB/s: "
        f"{result.share:.0%} of the {result.memory_bytes_per_s / 1e9:.1f} GB/s that a sum over an array reads"
    )
    lines.append(
        f"a text of up to {result.slots} tokens holds {result.peak_bytes / 1e6:.1f} MB at most, "
        f"{result.peak_bytes / result.kept_bytes:.2f} x the weights and caches of both models"
    )
    return lines, {**dataclasses.asdict(result), "share": result.share}, True


def _scale(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    from gelato_experiments.benchmarks import scale
    from gelato_jax.cli.progress import Progress

    pair = _pair(options)
    with Progress() as progress:
        rows = scale.run(pair, progress=partial(progress.stage, "decode"))
    lines = ["tokens of text   rows   prompts, tokens/s   decoding, tokens/s   against the first"]
    lines += [
        f"{row.context:14d} {row.rows:6d} {row.read_tokens_per_s:19.0f} {row.tokens_per_s:20.1f} "
        f"{row.against_first:17.2f} x"
        for row in rows
    ]
    return lines, {"rows": [dataclasses.asdict(row) for row in rows]}, True


def _lossless(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    from gelato_experiments.benchmarks import lossless
    from gelato_experiments.prompts import read_prompts
    from gelato_jax.cli.progress import Progress
    from gelato_jax.decoding import LOCAL_STREAM, DecodeSettings

    prompts = read_prompts(options.prompts, checked_limit(options.limit, _LIMIT))
    settings = DecodeSettings(max_new_tokens=_new_tokens(options), stream_length=LOCAL_STREAM)
    pair, verdicts = _pair(options), []
    with Progress() as progress:
        progress.stage("decode", 0, len(prompts))
        for done, some in enumerate(lossless.run(pair, prompts, settings=settings), start=1):
            verdicts += some
            progress.stage("decode", done, len(prompts))
    lines = [f"{len(prompts)} prompts, {settings.max_new_tokens} tokens each, greedy, against autoregressive decoding"]
    for name in lossless.controllers():
        outcomes = [verdict.outcome for verdict in verdicts if verdict.controller == name]
        lines.append(f"{name:12s} " + "  ".join(f"{word} {outcomes.count(word)}" for word in lossless.OUTCOMES))
    for verdict in verdicts:
        if verdict.outcome != "equal":
            lines.append(json.dumps(dataclasses.asdict(verdict)))
    sound = all(verdict.outcome != "different" for verdict in verdicts)
    return lines, {"verdicts": [dataclasses.asdict(verdict) for verdict in verdicts]}, sound


def _speed(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    from gelato_experiments.benchmarks import speed
    from gelato_experiments.prompts import read_prompts
    from gelato_jax import control
    from gelato_jax.cli.progress import Progress
    from gelato_jax.decoding import LOCAL_STREAM, DecodeSettings
    from gelato_jax.decoding.local import PROBE_AFTER

    prompts = read_prompts(options.prompts, checked_limit(options.limit, _LIMIT))
    lengths = (0, 1, 2, 3, 4, 6, 8)
    world = _modelled(options.system)
    settings = DecodeSettings(
        max_draft_length=lengths[-1],
        max_new_tokens=_new_tokens(options),
        temperature=options.temperature,
        stream_length=LOCAL_STREAM if world is None else 1,
    )
    adaptive = control.ratio(probe_after=PROBE_AFTER) if world is None else control.ratio()
    pair = _pair(options)
    world = _measured(pair, settings) if world is None else world
    with Progress() as progress:
        rows = speed.run(
            pair,
            prompts,
            settings=settings,
            system=world,
            lengths=lengths,
            adaptive=adaptive,
            progress=partial(progress.stage, "decode"),
        )
    figures = [row.figures(rows[0]) for row in rows]
    lines = [
        f"{len(prompts)} prompts, {settings.max_new_tokens} tokens each, temperature {options.temperature:g}; "
        f"times and joules modelled for {options.system}",
        "policy        tokens/s by the clock   (worst)    modelled tokens/s   J/token   tokens/round   accepted   "
        "text differs",
    ]
    for row in figures:
        modelled = "-" if row["modelled_tokens_per_s"] is None else f"{row['modelled_tokens_per_s']:.1f}"
        joules = "-" if row["energy_per_token_j"] is None else f"{row['energy_per_token_j']:.4f}"
        a_round = "-" if row["tokens_per_round"] is None else f"{row['tokens_per_round']:.2f}"
        accepted = "-" if row["acceptance_rate"] is None else f"{row['acceptance_rate']:.1%}"
        lines.append(
            f"{row['policy']:13s} {row['tokens_per_s']:8.1f} {row['speed_up']:8.3f} x ({row['lowest']:.3f}) "
            f"{modelled:>18s} {joules:>11s} {a_round:>12s} {accepted:>12s} {row['different']:>10d}"
        )
    return lines, {"system": options.system, "rows": figures}, True


def _power(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    from gelato_experiments.benchmarks import power
    from gelato_jax.decoding import Shapes
    from gelato_jax.files import check_writable
    from gelato_jax.meter import open_meter
    from gelato_jax.system import write_device

    Shapes(max_draft_length=options.draft_length)
    if not 1.0 <= options.seconds <= 3600.0:
        raise GelatoError(f"--seconds is {options.seconds:g}, must be in 1..3600: a meter ticks slowly")
    file = options.write_device
    if file is not None and file.suffix != ".json":
        raise GelatoError(f"--write-device {file}: the name must end in .json, by which --device knows a file")
    if file is not None:
        check_writable(file)
    world, meter = _modelled(options.system), open_meter(options.meter)
    say = lambda what: print(f"gelato: {what}, {options.seconds:g} s", file=sys.stderr)  # noqa: E731
    window = options.draft_length + 1
    loads = power.run(_pair(options), meter, window=window, seconds=options.seconds, progress=say)
    waiting, drafting, _ = loads
    if file is not None:
        write_device(file, power.preset(waiting, drafting, meter, Path(options.draft or options.model).name))
    lines = [f"{meter.covers}; other programs count, too"]
    for load in loads:
        lines.append(f"{load.what:14s} {load.watts:8.2f} W")
        if load.step_s is not None and load.step_j is not None:
            lines[-1] += f"   {load.step_s * 1e3:8.2f} ms   {load.step_j:.4g} J"
    figures = {load.what: {**dataclasses.asdict(load), "watts": load.watts, "step_j": load.step_j} for load in loads}
    if world is not None:
        idle_w, step_s, step_j = (float(x) for x in (world.device.idle_w, world.device.token_s, world.device.token_j))
        lines.append(f"{options.system}: waiting {idle_w:.2f} W, draft step {step_s * 1e3:.2f} ms, {step_j:.4g} J")
        figures["model"] = {"idle_w": idle_w, "step_s": step_s, "step_j": step_j}
    return lines, {"meter": options.meter, "covers": meter.covers, **figures}, True


def _refuse_all_but_json(options: Bench) -> None:
    for field in dataclasses.fields(options):
        if field.name not in ("what", "json") and getattr(options, field.name) != field.default:
            raise GelatoError(f"{flag(field.name)} has no effect with bench {options.what}, which takes --json alone")


def _kernels(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    from gelato_kernels.bench import measure, report, timing, workloads

    del options
    say = lambda line: print(f"gelato: {line}", file=sys.stderr)  # noqa: E731
    measured = measure.run(workloads.WORKLOADS, timing.FULL, say)
    return report.table(measured), dataclasses.asdict(measured), measured.sound


def _simulation(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    from gelato_experiments.benchmarks import simulation

    del options
    simulation.use_every_core()
    result = simulation.run(say=lambda stage: print(f"gelato: timing {stage}", file=sys.stderr))
    return simulation.lines(result), simulation.figures(result), True


def _modelled(name: str):
    """The world that --system names; None for `local`, which is measured."""
    from gelato_jax import system

    if name == "local":
        return None
    parts = name.split("/")
    if len(parts) != 3:
        raise GelatoError(f"--system {name!r}: give local, or DEVICE/LINK/EDGE as in orin-nano-15w/5mhz-500m/h100-7b")
    return system.preset(*parts)


def _measured(pair, settings):
    """This machine's times, measured now: a benchmark trusts no older ones."""
    from gelato_jax.decoding.local import measure_local_system

    return measure_local_system(pair, settings.shapes)


def _distribution(options: Bench) -> tuple[list[str], dict[str, Any], bool]:
    from gelato_experiments.benchmarks import law

    del options
    lines, rows = [f"z of a chi-square over the joint law of 3 tokens; a sound decoder stays under {law.LIMIT_Z:g}"], []
    for row in law.run():
        rows.append(row)
        lines.append(
            f"{row.payload:12s} {row.controller:12s} z {row.z:6.2f}  {row.texts} texts, "
            f"{row.drafted:.2f} drafted a round, {row.accepted:.0%} of them accepted"
        )
        print(f"gelato: {lines[-1]}", file=sys.stderr)
    return lines, {"checks": [dataclasses.asdict(row) for row in rows]}, all(row.z < law.LIMIT_Z for row in rows)
