"""How methods tuned in a calm world hold up when link, device, meter or beliefs are other than they were."""

import dataclasses
import json
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from gelato_experiments.inputs import read_recording
from gelato_experiments.methods import METHODS, Method, Scenario
from gelato_experiments.methods.base import Setting
from gelato_experiments.methods.compare import CAP_TOLERANCE, mean_and_half
from gelato_experiments.studies.fluctuation.worlds import WORLDS, World, calm, still
from gelato_experiments.study import Progress, Row
from gelato_jax import payloads, simulation, system
from gelato_jax.simulation import Recording

FIXED = "static"
SHARES = 8  # of the devices, for intervals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        recording: of the pair.
        device: preset.
        link: preset; its fading is switched off in the calm world.
        edge: preset.
        vocab_size: ids that bits are counted over.
        cap_w: on mean power, binding.
        methods: names of the registry; `static` among them.
        heavy_methods: those that meet the link's worlds with a heavy payload too, two bits of each entry of q;
            `static` among them, or none.
        devices: simulated under each setting, a multiple of 8.
        rounds: of each.
        seed: of texts and channels.
    """

    recording: str = "short-greedy"
    device: str = "orin-nano-15w"
    link: str = "5mhz-500m-60ms"
    edge: str = "rtx3090-7b"
    vocab_size: int = 151936
    cap_w: float = 1.25
    methods: tuple[str, ...] = ("static", "hf_schedule", "gelato", "ratio", "ratio_priced")
    heavy_methods: tuple[str, ...] = ()
    devices: int = 32
    rounds: int = 1_500
    seed: int = 0


QUICK = Settings()
FULL = Settings(devices=64, rounds=3_000, heavy_methods=("static", "hf_schedule", "gelato", "ratio", "ratio_priced"))

PAYLOADS = {"candidates": lambda: payloads.candidates(32), "quantized": lambda: payloads.quantized(2)}


class _Found(NamedTuple):
    """Tokens per second, true watts, and watts that the queue still holds, of one setting, `[shares]` each.

    Prompts are counted in all.
    """

    rate: np.ndarray
    power: np.ndarray
    queue: np.ndarray


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Tune every method in the calm world on half of the texts; judge it in every world on the other half.

    Returns:
        Rows by `payload`, `method` and `world`: `tokens_per_s` and `power_w`, prompts counted; as shares of the same
        method's in the calm world (`of_calm`) and of a fixed length's that is tuned anew in that world (`of_retuned`).
        `queue_w` is what the queue holds at the end, spread over the run: by so much may one that began empty exceed
        the cap.
    """
    tuning, judging = read_recording(settings.recording).halves()
    jobs = [("candidates", name, WORLDS) for name in settings.methods]
    bumpy = tuple(world for world in WORLDS if world.kind in ("calm", "link"))
    jobs += [("quantized", name, bumpy) for name in settings.heavy_methods]
    rows: list[Row] = []
    retuned: dict[tuple[str, str], _Found] = {}
    for number, (payload, name, worlds) in enumerate(jobs):
        progress(f"{name}, {payload}", number, len(jobs))
        method, scenario = METHODS[name], _scenario(settings, payload)
        chosen = _tune(tuning, method, scenario, settings)
        tried = method.grid if name == FIXED else (chosen,)
        # Beliefs do not move a fixed length.
        met = [world for world in worlds if not (name == FIXED and world.kind == "belief")]
        found = _judge(judging, method, scenario, met, tried, settings)
        found |= {world.name: found[WORLDS[0].name] for world in worlds if world.name not in found}
        if name == FIXED:
            retuned |= {(payload, world.name): _best(found[world.name], settings.cap_w) for world in worlds}
        own = {world.name: found[world.name][tried.index(chosen)] for world in worlds}
        for world in worlds:
            rows.append(_row(payload, method, world, chosen, own, retuned[payload, world.name], settings))
    return rows


def _scenario(settings: Settings, payload: str) -> Scenario:
    world = system.preset(settings.device, settings.link, settings.edge)
    return Scenario(
        system=world, payload=PAYLOADS[payload](), vocabularies=payloads.Vocabularies.whole(settings.vocab_size)
    )


def _tune(recording: Recording, method: Method, scenario: Scenario, settings: Settings) -> Setting:
    """The setting of most tokens per second that keeps the cap in the calm world, or that of least power."""
    found = _judge(recording, method, scenario, WORLDS[:1], method.grid, settings)[WORLDS[0].name]
    power = np.array([one.power.mean() for one in found])
    keeps = power <= settings.cap_w * (1 + CAP_TOLERANCE)
    rate = np.where(keeps, [one.rate.mean() for one in found], -np.inf)
    return method.grid[int(rate.argmax() if keeps.any() else power.argmin())]


def _best(found: Sequence[_Found], cap_w: float) -> _Found:
    """The fastest that keeps the cap, or the one of least power."""
    keeping = [one for one in found if one.power.mean() <= cap_w * (1 + CAP_TOLERANCE)]
    if keeping:
        return max(keeping, key=lambda one: one.rate.mean())
    return min(found, key=lambda one: one.power.mean())


def _judge(
    recording: Recording,
    method: Method,
    scenario: Scenario,
    worlds: Sequence[World],
    tried: Sequence[Setting],
    settings: Settings,
) -> dict[str, list[_Found]]:
    """Every setting in every world: worlds of one environment run together."""
    found: dict[str, list[_Found]] = {}
    by_environment = sorted(worlds, key=lambda world: world.environment is not None)
    for environment, members in groupby(by_environment, key=lambda world: world.environment):
        points = [(world, setting) for world in members for setting in tried]
        points *= 1 + (len(points) == 1)  # one setting alone would be another program
        actual = [
            world.actual(calm(scenario.setup(recording, method, settings.cap_w, setting))) for world, setting in points
        ]
        result = simulation.simulate(
            recording,
            actual,
            believed=[world.believed(terms) for (world, _), terms in zip(points, actual, strict=True)],
            environment=still() if environment is None else environment(),
            devices=settings.devices,
            rounds=settings.rounds,
            seed=settings.seed,
            folds=SHARES,
        )
        for number, (world, _) in enumerate(points):
            found.setdefault(world.name, []).append(_found(result, number, world.meter))
    return found


def _found(result: simulation.Simulation, number: int, meter: float) -> _Found:
    figures = simulation.rates(result, shares=SHARES)
    time_s, prompt_s = simulation.by_share(result, "time_s", "prompt_s", shares=SHARES)
    queue = np.asarray(result.queue_j[number], np.float64).reshape(SHARES, -1).sum(axis=1)
    seconds = (time_s + prompt_s)[number]
    return _Found(figures.tokens_per_s[number], figures.power_w[number] / meter, queue / (meter * seconds))


def _row(
    payload: str,
    method: Method,
    world: World,
    chosen: Setting,
    own: dict[str, _Found],
    retuned: _Found,
    settings: Settings,
) -> Row:
    here, before = own[world.name], own[WORLDS[0].name]
    row: Row = {"payload": payload, "method": method.name, "world": world.name, "kind": world.kind}
    row |= {"setting": json.dumps(dict(chosen)), "cap_w": settings.cap_w}
    figures_of = {
        "tokens_per_s": here.rate,
        "power_w": here.power,
        "of_calm": here.rate / before.rate,
        "of_retuned": here.rate / retuned.rate,
    }
    for name, values in figures_of.items():
        row[name], row[f"{name}_half"] = mean_and_half(values)
    row["retuned_tokens_per_s"] = float(retuned.rate.mean())
    row["power_of_calm"] = row["power_w"] / float(before.power.mean())
    row["queue_w"] = float(here.queue.mean())
    row["keeps_cap"] = row["power_w"] - row["queue_w"] <= settings.cap_w * (1 + CAP_TOLERANCE)
    return row
