"""What the studies of gains share: many methods tuned and judged by few programs, and their ratios, paired by share.

All rules are put into one structure (`merged`), so that a program serves every method that sends alike.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gelato_experiments.methods import Method, Rules, Scenario, Share
from gelato_experiments.methods.base import Setting
from gelato_experiments.methods.compare import CAP_TOLERANCE, Measured, best_setting, mean_and_half, measure
from gelato_experiments.study import Row
from gelato_jax import control
from gelato_jax.control import depth_exits, length_exits
from gelato_jax.simulation import Recording
from gelato_jax.system import System

_CONTROLLERS = (control.static(0), control.gelato(power_budget_w=1.0), control.ratio())
_LENGTH_EXITS = (length_exits.none(), length_exits.bucket(), length_exits.svip(), length_exits.priced())
_DEPTH_EXITS = (depth_exits.fixed(), depth_exits.entropy())
_AT_ONCE = 2
"""One setting alone is compiled apart; two share the program of all."""


class Cell(NamedTuple):
    """A method in a world, under a cap on mean power (inf: none)."""

    method: Method
    scenario: Scenario
    cap_w: float


class Judged(NamedTuple):
    """What a method came to on texts that it was not tuned on: figures by share of the devices, each `[shares]`."""

    setting: Setting
    cap_w: float
    figures: Measured


def merged(rules: Rules) -> Rules:
    """The same rules, chosen by index among all that these studies know: one structure for all of them.

    Raises:
        ValueError: a rule is none of them.
    """
    controller = control.select_controller(*_placed(_CONTROLLERS, rules.controller))
    return Rules(
        dataclasses.replace(controller, estimator=rules.controller.estimator),
        control.select_length_exit(*_placed(_LENGTH_EXITS, rules.length_exit)),
        control.select_depth_exit(*_placed(_DEPTH_EXITS, rules.depth_exit)),
    )


def _placed(known: tuple[Any, ...], rule: Any) -> tuple[list[Any], int]:
    """The known rules with `rule` in the place of its kind, and that place."""
    places = [place for place, other in enumerate(known) if other.rule == rule.rule]
    if not places:
        raise ValueError(f"{rule.rule} is none of the {len(known)} rules that are merged here")
    options = list(known)
    options[places[0]] = rule
    return options, places[0]


def judge(cells: Mapping[Any, Cell], tuning: Recording, judging: Recording, effort: Share) -> dict[Any, Judged]:
    """Choose each method's setting on one half of the texts as `methods.compare` does, and judge it on the other.

    Args:
        cells: what is judged, by any key.
        tuning: texts that settings are chosen on.
        judging: other texts.
        effort: how much is simulated, for each setting.
    """
    trials = [(key, setting) for key, cell in cells.items() for setting in cell.method.grid]
    tuned = _measure_by_structure(tuning, [(cells[key], setting) for key, setting in trials], effort)
    chosen: dict[Any, Setting] = {}
    for key, cell in cells.items():
        own = [index for index, (other, _) in enumerate(trials) if other == key]
        rate, power = tuned.tokens_per_s[own].mean(axis=1), tuned.power_w[own].mean(axis=1)
        chosen[key] = cell.method.grid[best_setting(rate, power / cell.cap_w - 1.0)]
    judged = _measure_by_structure(judging, [(cell, chosen[key]) for key, cell in cells.items()], effort)
    return {
        key: Judged(chosen[key], cell.cap_w, Measured(*(values[index] for values in judged)))
        for index, (key, cell) in enumerate(cells.items())
    }


def _measure_by_structure(recording: Recording, trials: Sequence[tuple[Cell, Setting]], effort: Share) -> Measured:
    """Figures `[trials, shares]`, the trials of one structure run together."""
    groups: dict[Any, list[int]] = {}
    terms = []
    for index, (cell, setting) in enumerate(trials):
        rules = cell.method.build(cell.cap_w, **setting)
        method = dataclasses.replace(cell.method, build=lambda cap, rules=rules: merged(rules))
        terms.append(cell.scenario.setup(recording, method, cell.cap_w, {}))
        groups.setdefault(jax.tree.structure(terms[-1]), []).append(index)
    found: list[Any] = [None] * len(trials)
    for members in groups.values():
        settings = [terms[index] for index in members]
        padded = settings + settings[-1:] * (_AT_ONCE - len(settings))
        figures = measure(recording, padded, effort)
        for place, index in enumerate(members):
            found[index] = [values[place] for values in figures]
    return Measured(*(np.stack(values) for values in zip(*found, strict=True)))


def alike(recordings: Sequence[Recording]) -> list[tuple[Recording, Recording]]:
    """The halves of recordings, all of one shape, so that one program serves them all.

    Texts beyond the smallest half's number are left out; positions are padded, drafts and exits must agree.

    Raises:
        ValueError: they differ in drafts or exits.
    """
    sizes = {recording.rollouts.entropy.shape[2:] for recording in recordings}
    if len(sizes) != 1:
        raise ValueError(f"recordings have exits and drafts {sorted(sizes)}, must agree")
    halves = [recording.halves() for recording in recordings]
    texts = min(len(half.categories) for pair in halves for half in pair)
    positions = max(recording.rollouts.entropy.shape[1] for recording in recordings)
    fit = lambda half: _padded(half.take(range(texts)), positions)  # noqa: E731
    return [(fit(first), fit(second)) for first, second in halves]


def _padded(recording: Recording, positions: int) -> Recording:
    def pad(leaf: np.ndarray) -> np.ndarray:
        if leaf.ndim < 3:
            return leaf
        return np.pad(leaf, [(0, 0), (0, positions - leaf.shape[1])] + [(0, 0)] * (leaf.ndim - 2))

    return dataclasses.replace(recording, rollouts=jax.tree.map(pad, recording.rollouts))


def figures_of(judged: Judged) -> Row:
    """The columns of one method: figures with half their 95 % intervals."""
    row: Row = {"cap_w": judged.cap_w, "setting": json.dumps(dict(judged.setting))}
    for name in ("tokens_per_s", "power_w", "energy_per_token_j"):
        row[name], row[f"{name}_half"] = mean_and_half(getattr(judged.figures, name))
    row["draft_length"] = float(judged.figures.draft_length.mean())
    row["acceptance"] = float(judged.figures.acceptance.mean())
    row["keeps_cap"] = row["power_w"] <= judged.cap_w * (1 + CAP_TOLERANCE)
    return row


_NOTHING = 1e-5
"""Joules a token: more than a byte a round takes on any link here, and a thousandth of a draft."""


def gain(judged: Judged, base: Judged) -> Row:
    """Percent more tokens per second, and percent more joules a token, than a base on the same devices.

    Ratios are taken by share, then averaged. A base that spends nothing but a message's header has no percent: None.
    """
    row: Row = {}
    for name, column in (("tokens_per_s", "rate_gain_pct"), ("energy_per_token_j", "energy_gain_pct")):
        mine, other = getattr(judged.figures, name), getattr(base.figures, name)
        if (other > _NOTHING).all():
            row[column], row[f"{column}_half"] = mean_and_half(100.0 * (mine / other - 1.0))
        else:
            row[column] = row[f"{column}_half"] = None
    return row


def words(row: Row, column: str, digits: int = 1) -> str:
    """A percentage with its interval; `no figure` where there is none."""
    value, half = row[column], row[f"{column}_half"]
    return "no figure (the base spends nothing)" if value is None else f"{value:+.{digits}f} ± {half:.{digits}f} %"


def find(rows: Sequence[Row], **wanted: Any) -> Row:
    """The one row with these values.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows with {wanted}, must be one")
    return found[0]


def only_drafting_and_uplink(system: System) -> System:
    """The world in which waiting and receiving cost no joules: the paper's accounting, as reported."""
    zero = jax.numpy.zeros_like
    return dataclasses.replace(
        system,
        device=dataclasses.replace(system.device, idle_w=zero(system.device.idle_w)),
        link=dataclasses.replace(system.link, receive_w=zero(system.link.receive_w)),
    )
