"""The checks and claims of the study `penalty_sweep`."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gelato_experiments.studies.penalty_sweep.study import MUTANTS, RULE, Settings
from gelato_experiments.study import Claim, Row

NEAR = 0.01
"""Share of theta* that the gap may have at the largest V."""
QUEUE_NEAR = 0.12
"""Share by which the mean queue may differ from V lambda where V lambda is at least a joule."""
PATH_TOLERANCE = 1e-6
"""Of sum(E)."""


def within_bound(rows: Sequence[Row]) -> bool:
    """Whether no gap is beyond B/(V T_min), intervals granted."""
    return all(row["gap_tokens_per_s"] - row["gap_half"] <= row["bound_tokens_per_s"] for row in rows)


def never_rises(rows: Sequence[Row]) -> bool:
    """Whether a larger V never has a larger gap, intervals granted."""
    return all(
        after["gap_tokens_per_s"] - after["gap_half"] <= before["gap_tokens_per_s"] + before["gap_half"]
        for before, after in pairwise(rows)
    )


def comes_near(rows: Sequence[Row]) -> bool:
    """Whether the gap at the largest V is small beside the optimum."""
    return rows[-1]["gap_tokens_per_s"] <= NEAR * rows[-1]["optimum_tokens_per_s"]


def queue_prices(rows: Sequence[Row]) -> bool:
    """Whether the mean queue is near V lambda where that is at least a joule."""
    return all(abs(row["queue_ratio"] - 1.0) <= QUEUE_NEAR for row in rows if row["price_j"] >= 1.0)


def keeps_path(rows: Sequence[Row]) -> bool:
    """Whether sum(E) <= Pbar sum(T) + Q on every device."""
    return all(row["path_excess"] <= PATH_TOLERANCE for row in rows)


CHECKS = {
    "bound": within_bound,
    "fall": never_rises,
    "near": comes_near,
    "queue": queue_prices,
    "path": keeps_path,
}
"""What holds of the whole rule, for the rows of one rule under one cap by ascending V."""


def of(rows: Sequence[Row], rule: str, cap_w: float) -> list[Row]:
    """The rows of a rule under a cap, by ascending V."""
    return sorted((r for r in rows if r["rule"] == rule and r["cap_w"] == cap_w), key=lambda row: row["price_j"])


def broken(rows: Sequence[Row], rule: str, caps_w: Sequence[float]) -> list[str]:
    """The checks that a rule fails, as `check at cap W`."""
    return [
        f"{name} at {cap:g} W" for cap in caps_w for name, holds in CHECKS.items() if not holds(of(rows, rule, cap))
    ]


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """T3 of the theory: the parts of it for the rule, and that mutants fail."""
    whole = {cap: of(rows, RULE, cap) for cap in settings.caps_w}
    every = [row for cap in whole for row in whole[cap]]
    tightest = max(every, key=lambda row: row["gap_tokens_per_s"] / row["bound_tokens_per_s"])
    ends = ", ".join(
        f"{part[-1]['gap_tokens_per_s']:.3f} +- {part[-1]['gap_half']:.3f} of {part[-1]['optimum_tokens_per_s']:.2f} "
        f"tokens/s at {cap:g} W"
        for cap, part in whole.items()
    )
    queues = [row["queue_ratio"] for row in every if row["price_j"] >= 1.0]
    slopes = ", ".join(f"{_slope(part):.2f} at {cap:g} W" for cap, part in whole.items())
    found = {name: broken(rows, name, settings.caps_w) for name in MUTANTS}
    return [
        Claim(
            claim="the adjusted gap of ratio stays under B/(V T_min)",
            required="gap <= bound at every V, 95 % intervals granted",
            measured=f"at most {tightest['gap_tokens_per_s'] / tightest['bound_tokens_per_s']:.2g} of the bound",
            holds=all(within_bound(part) for part in whole.values()),
        ),
        Claim(
            claim="the gap does not grow with V",
            required="each gap at most the one before it, 95 % intervals granted",
            measured=f"it falls to {ends}; log-log slope {slopes} (reported, not required)",
            holds=all(never_rises(part) for part in whole.values()),
        ),
        Claim(
            claim="ratio comes near the optimum of the linear program",
            required=f"gap at V lambda = {settings.highest_j:g} J at most {NEAR:.0%} of theta*",
            measured=ends,
            holds=all(comes_near(part) for part in whole.values()),
        ),
        Claim(
            claim="the queue is the price of a joule: mean queue/(V lambda) nears 1",
            required=f"within {QUEUE_NEAR:.0%} wherever V lambda >= 1 J",
            measured=f"{min(queues):.3f} to {max(queues):.3f}",
            holds=all(queue_prices(part) for part in whole.values()),
        ),
        Claim(
            claim="mutants are caught",
            required="each fails one of " + ", ".join(CHECKS),
            measured="; ".join(f"{name} fails {', '.join(checks) or 'none'}" for name, checks in found.items()),
            holds=all(found.values()),
        ),
    ]


def _slope(rows: Sequence[Row]) -> float:
    """Slope of log gap over log V, where the gap is more than its interval; nan with fewer than two such points."""
    clear = [row for row in rows if row["gap_tokens_per_s"] > row["gap_half"]]
    if len(clear) < 2:
        return float("nan")
    weight, gap = (np.log([row[name] for row in clear]) for name in ("penalty_weight", "gap_tokens_per_s"))
    return float(np.polyfit(weight, gap, 1)[0])
