"""Tokens per second against a cap on mean power: every method, and above them what the oracles reach."""

import dataclasses
import math

from gelato_experiments.inputs import read_recording
from gelato_experiments.methods import METHODS, Scenario, compare
from gelato_experiments.methods.mixture import measure_lengths, mixture_row
from gelato_experiments.studies.frontier.oracles import fixed_row, model_rows, oracle_rows
from gelato_experiments.studies.frontier.settings import Settings
from gelato_experiments.study import Progress, Row
from gelato_jax import control, payloads, system
from gelato_jax.simulation import Recording


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Judge every method and oracle under every link and cap.

    Returns:
        Rows of `kind` method, mixture and device, prompts counted; infeasible; free: ours where catching up costs
        nothing and texts have no prompts, as for the oracles; oracle; fixed; model. See `_method_rows`, `mixture_row`,
        `oracle_rows` and `model_rows`.
    """
    tuning, judging = read_recording(settings.recording).halves()
    rows: list[Row] = []
    done, total = 0, len(settings.links) * (len(settings.methods) + 2)
    for link in settings.links:
        world = system.preset(settings.device, link, settings.edge)
        payload = payloads.candidates(32)
        scenario = Scenario(
            system=world, payload=payload, vocabularies=payloads.Vocabularies.whole(settings.vocab_size)
        )
        floor = control.power_floor_w(world, payload, vocab_size=settings.vocab_size)
        feasible = tuple(cap for cap in settings.caps_w if cap >= floor)
        rows += [_infeasible(link, cap, floor) for cap in settings.caps_w if cap < floor]
        for name in settings.methods:
            progress("judging methods", done, total)
            rows += _method_rows(name, link, tuning, judging, scenario, feasible, settings)
            done += 1
        rows.append(_device_only(link, world, judging))
        lengths = measure_lengths(judging, scenario, settings.effort)
        rows += [{"kind": "mixture", "link": link, **mixture_row(lengths, cap), "feasible": True} for cap in feasible]
        progress("asking oracles", done, total)
        free = dataclasses.replace(scenario, system=_catching_up_free(world))
        halves = tuning.without_prompts(), judging.without_prompts()
        ours = [
            {"kind": "free", "link": link, **row, "feasible": True}
            for name in ("ratio", "ratio_priced")
            for row in compare(METHODS[name], *halves, free, feasible, settings.effort)
        ]
        chosen = {row["cap_w"]: row["setting"] for row in ours if row["method"] == "ratio"}
        rows += ours + oracle_rows(link, halves[1], free, chosen, settings)
        rows.append(fixed_row(link, halves[1], free, settings))
        progress("asking oracles inside their model", done + 1, total)
        rows += model_rows(link, halves[0], free, feasible, settings)
        done += 2
    return rows


def _catching_up_free(world: system.System) -> system.System:
    """The world that the oracles are exact in: their rounds are independent, so no round leaves work to a later one.

    Oracles know no prompts either: where they are asked, prompts are left out for all.
    """
    nothing = world.device.prefill_s * 0.0
    return dataclasses.replace(world, device=dataclasses.replace(world.device, prefill_s=nothing, prefill_j=nothing))


def _infeasible(link: str, cap: float, floor: float) -> Row:
    """A cap that the device's waiting alone exceeds: marked, never averaged in."""
    return {"kind": "infeasible", "link": link, "method": "-", "cap_w": cap, "floor_w": floor, "feasible": False}


def _device_only(link: str, world: system.System, judging: Recording) -> Row:
    """The draft alone, without an edge: another text, of the draft's quality. It reads prompts, as methods do."""
    device, texts = world.device, judging.rollouts
    read = float(texts.prompt_tokens.sum() / texts.positions.sum())  # tokens of prompt for each of the answer
    seconds = float(device.token_s) + read * float(device.prefill_s)
    joules = float(device.token_j) + read * float(device.prefill_j)
    return {
        "kind": "device",
        "link": link,
        "method": "device-only",
        "cap_w": math.inf,
        "tokens_per_s": 1.0 / seconds,
        "power_w": joules / seconds,
        "energy_per_token_j": joules,
        "feasible": True,
    }


def _method_rows(
    name: str,
    link: str,
    tuning: Recording,
    judging: Recording,
    scenario: Scenario,
    caps: tuple[float, ...],
    settings: Settings,
) -> list[Row]:
    found = compare(METHODS[name], tuning, judging, scenario, caps, settings.effort)
    return [{"kind": "method", "link": link, **row, "feasible": True} for row in found]
