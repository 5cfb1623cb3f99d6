"""The checks and claims of `queue_stability`."""

from collections.abc import Sequence
from typing import Any

from gelato_experiments.methods.compare import CAP_TOLERANCE
from gelato_experiments.studies.queue_stability.rules import MUTANTS
from gelato_experiments.studies.queue_stability.settings import Settings
from gelato_experiments.study import Claim, Row

PATH_TOLERANCE = 1e-6
"""Of sum(E): the queue is kept in two float32, a round's joules and seconds in one each."""
STABLE = 0.01
"""Share of sum(E) that the queue may hold after the longest run."""


def select(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows whose columns have these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def keeps_paths(rows: Sequence[Row]) -> bool:
    """T1: sum(E) <= allowance + Q_K on every device."""
    return all(row["path_excess"] <= PATH_TOLERANCE for row in rows)


def stays_small(rows: Sequence[Row]) -> bool:
    """T1: Q_K/K goes to 0: after the longest run the queue is a small share of sum(E)."""
    longest = max(row["rounds"] for row in rows)
    return all(row["queue_share"] <= STABLE for row in rows if row["rounds"] == longest)


def keeps_bound(rows: Sequence[Row]) -> bool:
    """T2: the queue never passes its bound."""
    return all(row["queue_max_j"] <= row["sharp_bound_j"] <= row["bound_j"] for row in rows)


CHECKS = {"path": keeps_paths, "small queue": stays_small, "bound": keeps_bound}


def broken(rows: Sequence[Row], name: str) -> list[str]:
    """The checks that a rule of the exact world fails."""
    part = select(rows, kind="bound", rule=name)
    return [check for check, holds in CHECKS.items() if not holds(part)]


def best_shares(rows: Sequence[Row], name: str) -> dict[float, float]:
    """Cap -> share of the optimum, of the better V."""
    found: dict[float, float] = {}
    for row in select(rows, kind="share", rule=name):
        found[row["cap_w"]] = max(found.get(row["cap_w"], 0.0), row["optimum_share"])
    return found


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """T1 and T2 with their mutants, and both weaknesses."""
    return [*_path_claims(rows), *_bound_claims(settings, rows), *_weakness_claims(settings, rows)]


def _path_claims(rows: list[Row]) -> list[Claim]:
    paths = select(rows, kind="path")
    longest = max(row["rounds"] for row in paths)
    worst = max(row["path_excess"] for row in paths)
    small = max(row["queue_share"] for row in paths if row["rounds"] == longest)
    return [
        Claim(
            claim="T1: on every path, sum(E) is at most what was allowed and the queue that is left",
            required=f"excess at most {PATH_TOLERANCE:g} of sum(E), every device, to {longest:,} rounds",
            measured=f"largest excess {worst:.1e} of sum(E) on {len(paths)} settings and lengths",
            holds=keeps_paths(paths),
        ),
        Claim(
            claim="T1: the queue is mean rate stable",
            required=f"after {longest:,} rounds at most {STABLE:.0%} of sum(E) is in the queue",
            measured=f"at most {small:.2%}",
            holds=stays_small(paths),
        ),
    ]


def _bound_claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    bound = select(rows, kind="bound", rule="gelato")
    fullest = max(bound, key=lambda row: row["queue_max_j"] / row["sharp_bound_j"])
    failures = {name: broken(rows, name) for name in MUTANTS}
    return [
        Claim(
            claim="T2: with joules a round, the queue of gelato never passes V (r_max - r(0))/E_min + E_max",
            required=f"every round of every device, where rounds without drafts take at most {settings.budget_j:g} J",
            measured=f"at most {fullest['queue_max_j'] / fullest['bound_j']:.0%} of the bound and "
            f"{fullest['queue_max_j'] / fullest['sharp_bound_j']:.0%} of its sharper form; "
            f"rounds without drafts take {fullest['no_draft_j']:.3f} J",
            holds=keeps_bound(bound) and fullest["no_draft_j"] <= settings.budget_j,
        ),
        Claim(
            claim="T1 and T2: mutants are caught",
            required="each fails one of " + ", ".join(CHECKS),
            measured="; ".join(f"{name} fails {', '.join(found) or 'none'}" for name, found in failures.items()),
            holds=all(failures.values()),
        ),
    ]


def _weakness_claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    delay = select(rows, kind="delay")
    joules, watts = (select(delay, rule=f"gelato, {name}") for name in ("joules a round", "watts"))
    listed = lambda part: ", ".join(f"{r['power_w']:.2f} W at {r['rtt_ms']} ms" for r in part)  # noqa: E731
    most = settings.cap_w * (1 + CAP_TOLERANCE)
    per_round, of_sums = best_shares(rows, "gelato"), best_shares(rows, "ratio")
    span = lambda shares: f"{min(shares.values()):.1%} to {max(shares.values()):.1%}"  # noqa: E731
    return [
        Claim(
            claim="joules a round do not bound power: shorter rounds exceed the cap that they were set for",
            required=f"over {most:g} W at the shortest delay, while the form in watts keeps it everywhere",
            measured=f"joules a round: {listed(joules)}; watts: {listed(watts)}",
            holds=joules[0]["power_w"] > most and all(row["power_w"] <= most for row in watts),
        ),
        Claim(
            claim="the best ratio of every round is not the best ratio of the sums",
            required="gelato at most ratio's share of the LP's optimum at every cap; ratio at least 99 %",
            measured=f"gelato {span(per_round)}, ratio {span(of_sums)} at {len(of_sums)} caps",
            holds=min(of_sums.values()) >= 0.99 and all(per_round[cap] <= of_sums[cap] for cap in of_sums),
        ),
    ]
