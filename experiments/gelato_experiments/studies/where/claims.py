"""What the study `where` claims."""

import math

import numpy as np

from gelato_experiments.methods.mixture import NAME as MIXTURE
from gelato_experiments.studies.where.study import FIXED, STREAM, Settings
from gelato_experiments.study import Claim, Row

DEFAULT = "ratio_priced"
FIRST_SHARE = 0.9
"""Of the cells, in which the default method is to be first."""
LEARNING = 1.0
"""Per cent of the rate that finding out may cost and still count as first: what `PROBE_SHARE` allows; assumed."""

Place = tuple[str, float, float, float, float]


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """Streams where passes are free, and what drafting and adapting are worth where they are not."""
    cells: dict[Place, dict[str, Row]] = {}
    for row in rows:
        place = (row["recording"], row["rtt_s"], row["waiting_w"], row["spare_w"], row["pass_budget"])
        cells.setdefault(place, {})[row["method"]] = row
    possible = {place: methods for place, methods in cells.items() if any(row["keeps"] for row in methods.values())}
    scarce = {place: methods for place, methods in possible.items() if place[4] < 1.0}
    return [
        _stream_claim({place: methods for place, methods in possible.items() if place[4] >= 1.0}),
        _price_claim(settings, scarce),
        _first_claim(possible, len(cells)),
        _kept_claim(possible),
        _parts_claim(scarce),
        _joules_claim(cells, scarce),
    ]


def _stream_claim(cells: dict[Place, dict[str, Row]]) -> Claim:
    kept = [[row for row in methods.values() if row["keeps"]] for methods in cells.values()]
    fastest = all(max(rows, key=lambda row: row["gain_pct"])["passes_per_token"] > 0.999 for rows in kept)
    losses = [-methods[DEFAULT]["gain_pct"] for methods in cells.values()]
    return Claim(
        claim="Where the target's passes are free, a server that streams is faster than any drafting",
        required="first in every cell of a budget of one pass a token",
        measured=f"{'first' if fastest else 'not first'} in all {len(cells)}; {DEFAULT}, which has to find out, loses "
        f"{min(losses):.1f} to {max(losses):.1f} %",
        holds=fastest,
    )


def _price_claim(settings: Settings, scarce: dict[Place, dict[str, Row]]) -> Claim:
    """The rate of the default under each budget, as a share of the stream's."""
    said = []
    for rtt in settings.rtts_s:
        for budget in settings.pass_budgets:
            shares = [
                methods[DEFAULT]["tokens_per_s"] / methods[STREAM]["free_tokens_per_s"]
                for place, methods in scarce.items()
                if (place[1], place[4]) == (rtt, budget) and math.isinf(place[3])
            ]
            if shares:
                said.append(f"{1e3 * rtt:g} ms, {budget:g}: {min(shares):.0%} to {max(shares):.0%}")
    return Claim(
        claim="What fewer passes cost: tokens/s as a share of the stream's, watts free",
        required="reported, by delay and passes a token",
        measured="; ".join(said),
        holds=None,
    )


def _first_claim(cells: dict[Place, dict[str, Row]], total: int) -> Claim:
    behind = []
    for place, methods in cells.items():
        ours = methods[DEFAULT]
        rivals = [row["gain_pct"] for row in methods.values() if row["keeps"] and row["method"] != DEFAULT]
        lead = ours["gain_pct"] - max(rivals, default=-math.inf)
        if not ours["keeps"] or lead < -max(ours["gain_pct_half"], LEARNING):
            behind.append(_named(place) + ("" if ours["keeps"] else ", breaks a limit"))
    share = 1.0 - len(behind) / len(cells)
    return Claim(
        claim=f"{DEFAULT} is first of stream, best fixed length, best mixture of lengths (chosen on the texts judged) "
        "and ratio, at equal limits on watts and passes",
        required=f"in at least {FIRST_SHARE:.0%} of the cells that any method keeps: first, within the interval of the "
        f"first, or {LEARNING:g} % behind",
        measured=f"{share:.0%} of {len(cells)} ({total - len(cells)} more no method keeps); "
        f"not in: {'; '.join(behind) or 'none'}",
        holds=share >= FIRST_SHARE,
    )


def _kept_claim(cells: dict[Place, dict[str, Row]]) -> Claim:
    mixed = {place: methods for place, methods in cells.items() if methods[MIXTURE]["keeps"]}
    broken = [
        f"{_named(place)}: {methods[DEFAULT]['passes_per_token']:.3f} passes, {methods[DEFAULT]['power_w']:.2f} W"
        for place, methods in mixed.items()
        if not methods[DEFAULT]["keeps"]
    ]
    return Claim(
        claim=f"{DEFAULT} keeps both limits wherever a mixture of fixed lengths can",
        required="every such cell, to half a per cent",
        measured=f"{len(mixed) - len(broken)} of {len(mixed)}" + (f"; not in {'; '.join(broken)}" if broken else ""),
        holds=not broken,
    )


def _parts_claim(scarce: dict[Place, dict[str, Row]]) -> Claim:
    """Step by step: from one fixed length to the mixture, to lengths by state, to lengths by token."""
    kept = [
        methods for methods in scarce.values() if all(row["keeps"] for name, row in methods.items() if name != STREAM)
    ]

    def step(after: str, before: str) -> str:
        gains = [100.0 * (methods[after]["tokens_per_s"] / methods[before]["tokens_per_s"] - 1.0) for methods in kept]
        return f"{np.mean(gains):+.1f} % ({min(gains):+.1f} to {max(gains):+.1f})" if gains else "no such cell"

    return Claim(
        claim="Where passes are scarce, what the rate comes from",
        required="reported, over the cells in which all keep both limits",
        measured=f"time sharing of lengths over one length {step(MIXTURE, FIXED)}; ratio over that "
        f"{step('ratio', MIXTURE)}; exits by token over ratio {step(DEFAULT, 'ratio')}",
        holds=None,
    )


def _joules_claim(cells: dict[Place, dict[str, Row]], scarce: dict[Place, dict[str, Row]]) -> Claim:
    said = []
    for waiting in sorted({place[2] for place in cells}):
        ratios = [
            methods[DEFAULT]["energy_per_token_j"] / methods[STREAM]["free_energy_per_token_j"]
            for place, methods in scarce.items()
            if place[2] == waiting and methods[DEFAULT]["keeps"]
        ]
        if ratios:
            said.append(f"{waiting:g} W waiting: {min(ratios):.1f} to {max(ratios):.1f} times")
    return Claim(
        claim="What drafting costs the device: joules a token over those of a stream of free passes",
        required="reported",
        measured="; ".join(said),
        holds=None,
    )


def _named(place: Place) -> str:
    recording, rtt, waiting, spare, budget = place
    return f"{recording}, {1e3 * rtt:g} ms, {waiting:g} + {spare:g} W, {budget:g} passes"
