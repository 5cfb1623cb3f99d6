"""What the study `frontier` claims."""

import itertools

import numpy as np

from gelato_experiments.methods.compare import lead
from gelato_experiments.studies.frontier.oracles import equal_power_rate
from gelato_experiments.studies.frontier.settings import Settings
from gelato_experiments.study import Claim, Row

ROUND_LEVEL_SHARE = 0.99
"""Of oracle (i), that `ratio` is to reach."""
FIXED_APART = 0.03
"""Share by which a fixed length's rate in the fitted model may be off the text's."""
ROUNDING = 0.005
"""Share by which an oracle may be over one that knows more: rates are binned for some, and not for others."""
STOPPING_SHARE = 0.97
"""Of oracle (ii), that priced exits are to reach inside its model."""


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """What the table says of `ratio`, of priced exits, and of the others."""
    return [
        _order_claim(rows),
        _fixed_claim(rows),
        *_round_level_claims(rows),
        _stopping_claim(rows),
        _distance_claim(rows),
        _information_claim(rows),
        *_beaten_claims(rows),
        _mixture_claim(rows),
        _infeasible_claim(settings, rows),
    ]


def _cells(rows: list[Row], kind: str, method: str) -> dict[tuple[str, float], Row]:
    return {(row["link"], row["cap_w"]): row for row in rows if row["kind"] == kind and row["method"] == method}


def _shares(ours: dict, best: dict) -> dict[tuple[str, float], float]:
    """Share of an oracle's rate in each cell, at equal power."""
    return {
        cell: equal_power_rate(ours[cell], best[cell]["price"]) / equal_power_rate(best[cell], best[cell]["price"])
        for cell in ours
    }


def _lowest(shares: dict[tuple[str, float], float]) -> str:
    link, cap = min(shares, key=lambda cell: shares[cell])
    return f"lowest {min(shares.values()):.1%} ({link}, cap {cap:g} W), mean {np.mean(list(shares.values())):.1%}"


def _round_level_claims(rows: list[Row]) -> list[Claim]:
    """Against oracle (i) where it is exact, as played on text, and as promised there."""
    ours = _cells(rows, "free", "ratio")
    required = f"at least {ROUND_LEVEL_SHARE:.0%} of oracle (i) in every feasible cell"
    exact = _shares(_cells(rows, "model", "ratio"), _cells(rows, "model", "round-level"))
    played = _shares(ours, _cells(rows, "oracle", "round-level, played"))
    promised = _shares(ours, _cells(rows, "oracle", "round-level"))
    kept = _shares(_cells(rows, "oracle", "round-level, played"), _cells(rows, "oracle", "round-level"))
    paying = _shares(_cells(rows, "method", "ratio"), _cells(rows, "oracle", "round-level"))
    return [
        Claim(
            claim="ratio alone comes up to the best round-level policy of its own information, at equal mean power, "
            "where rounds are independent and the program is exact",
            required=f"{required}, in the fitted model",
            measured=_lowest(exact),
            holds=min(exact.values()) >= ROUND_LEVEL_SHARE,
        ),
        Claim(
            claim="ratio alone comes up to that policy as it is played on recorded text, catching up free and no "
            "prompts for both",
            required=required,
            measured=_lowest(played),
            holds=min(played.values()) >= ROUND_LEVEL_SHARE,
        ),
        Claim(
            claim="ratio alone comes up to what the linear program promises of that policy on recorded text",
            required=f"{required}, catching up free and no prompts for both",
            measured=f"{_lowest(promised)}; of the promise, the program's own policy keeps {_lowest(kept)}; "
            f"where ratio pays for catching up and for prompts and the oracle for neither, {_lowest(paying)}",
            holds=min(promised.values()) >= ROUND_LEVEL_SHARE,
        ),
    ]


def _order_claim(rows: list[Row]) -> Claim:
    """Who knows more does no worse: what would have shown a model that is not of the rounds it is held against."""
    wrong = []
    for kind, names in (
        ("model", ("round-level", "entropy-stopping", "clairvoyant")),
        ("oracle", ("round-level, rate alone", "entropy-stopping, fitted model", "clairvoyant")),
        ("oracle", ("round-level", "clairvoyant")),
    ):
        found = [_cells(rows, kind, name) for name in names]
        for worse, better in itertools.pairwise(found):
            wrong += [
                f"{kind}, {link}, cap {cap:g} W"
                for (link, cap), row in worse.items()
                if row["tokens_per_s"] > better[link, cap]["tokens_per_s"] * (1.0 + ROUNDING)
            ]
    return Claim(
        claim="an oracle that knows more does no worse: (i) lengths by rate, (ii) entropies one by one, (iii) "
        "foresight; nor does (iii) than an (i) that sees the estimate too",
        required=f"in every feasible cell, in the model and on text, to {ROUNDING:.1%}",
        measured=f"broken in {'; '.join(wrong) or 'none'}",
        holds=not wrong,
    )


def _fixed_claim(rows: list[Row]) -> Claim:
    """The fitted model against the text that it is of, where neither has a choice."""
    off = {row["link"]: row["model_tokens_per_s"] / row["tokens_per_s"] - 1.0 for row in rows if row["kind"] == "fixed"}
    return Claim(
        claim="the model that oracle (ii) is asked in gives the best fixed length the rate that it has on the text",
        required=f"within {FIXED_APART:.0%}, catching up free and no prompts",
        measured="; ".join(f"{link}: {share:+.1%}" for link, share in off.items()),
        holds=all(abs(share) <= FIXED_APART for share in off.values()),
    )


def _stopping_claim(rows: list[Row]) -> Claim:
    best = _cells(rows, "model", "entropy-stopping")
    shares = _shares(_cells(rows, "model", "ratio_priced"), best)
    return Claim(
        claim="ratio with priced exits comes up to the best entropy-stopping policy where that is exact",
        required=f"at least {STOPPING_SHARE:.0%} of oracle (ii) in every feasible cell",
        measured=_lowest(shares),
        holds=min(shares.values()) >= STOPPING_SHARE,
    )


def _distance_claim(rows: list[Row]) -> Claim:
    ours = _cells(rows, "free", "ratio_priced")
    fitted = _shares(ours, _cells(rows, "oracle", "entropy-stopping, fitted model"))
    seer = _shares(ours, _cells(rows, "oracle", "clairvoyant"))
    return Claim(
        claim="on recorded text, what priced exits leave to the oracles of the fitted model and of foresight",
        required="reported: neither is a bound that a policy could reach on text",
        measured=f"of (ii) {_lowest(fitted)}; of (iii) {_lowest(seer)}",
        holds=None,
    )


def _information_claim(rows: list[Row]) -> Claim:
    blind, seeing = _cells(rows, "oracle", "round-level"), _cells(rows, "oracle", "round-level, true acceptance")
    leads = [seeing[cell]["tokens_per_s"] / blind[cell]["tokens_per_s"] - 1.0 for cell in blind]
    return Claim(
        claim="what knowing each text's true mean acceptance would add to the estimate",
        required="reported",
        measured=f"{min(leads):+.1%} to {max(leads):+.1%} tokens/s",
        holds=None,
    )


def _beaten_claims(rows: list[Row]) -> list[Claim]:
    """One claim over all other methods, and one for each that breaks it."""
    ours = _cells(rows, "method", "ratio_priced")
    names = {row["method"] for row in rows if row["kind"] == "method"} - {"ratio_priced"}
    winners = []
    for name in sorted(names):
        wins = [
            (gain, cell)
            for cell, theirs in _cells(rows, "method", name).items()
            for gain, half in (lead(theirs, ours[cell]),)
            if theirs["keeps_cap"] and gain > half
        ]
        if wins:
            gain, (link, cap) = max(wins)
            winners.append(f"{name} in {len(wins)} cells, at most {gain:+.1%} ({link}, cap {cap:g} W)")
    return [
        Claim(
            claim="no method that keeps the cap beats ratio with priced exits by more than the interval of the "
            "difference, share of devices by share",
            required="none, in any feasible cell, all sending the same payload, tokens/s with prompts counted",
            measured="; ".join(winners) or f"none of {len(names)} in {len(ours)} cells",
            holds=not winners,
        )
    ]


def _mixture_claim(rows: list[Row]) -> Claim:
    """Against what a cap is kept by without any controller."""
    ours = _cells(rows, "method", "ratio_priced")
    leads = {cell: lead(ours[cell], mixed) for cell, mixed in _cells(rows, "mixture", "static_mix").items()}
    lost = [f"{link}, cap {cap:g} W: {gain:+.1%}" for (link, cap), (gain, half) in leads.items() if gain < -half]
    gains = [gain for gain, _ in leads.values()]
    return Claim(
        claim="ratio with priced exits is as fast as the best time sharing of two fixed lengths, by request, whose "
        "shares are chosen on the texts that are judged",
        required="in every feasible cell, or within the interval of the difference",
        measured=f"{min(gains):+.1%} to {max(gains):+.1%}, mean {np.mean(gains):+.1%}; "
        f"slower: {'; '.join(lost) or 'in none'}",
        holds=not lost,
    )


def _infeasible_claim(settings: Settings, rows: list[Row]) -> Claim:
    marked = [row for row in rows if row["kind"] == "infeasible"]
    under = [f"{row['cap_w']:g} W under {row['floor_w']:.2f} W" for row in marked]
    return Claim(
        claim="caps under the floor of waiting are marked infeasible and enter no average",
        required="every such cap",
        measured="; ".join(sorted(set(under))) or f"no cap of {list(settings.caps_w)} is under its floor",
        holds=all("tokens_per_s" not in row or row["tokens_per_s"] is None for row in marked),
    )
