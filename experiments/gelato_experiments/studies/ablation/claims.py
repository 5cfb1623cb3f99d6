"""What the study `ablation` claims (T6): with payload fixed, outer only, inner only, both, none; and payload beside."""

import math
from collections.abc import Sequence
from typing import Any

from gelato_experiments.studies.ablation.study import Settings
from gelato_experiments.studies.shared.gains import find, words
from gelato_experiments.study import Claim, Row

WAYS = {
    "none": ("static", "none"),
    "outer only": ("ratio", "none"),
    "inner only": ("static", "bucket"),
    "both": ("ratio", "priced"),
}
"""Of T6, with the rules that the headline's steps have."""
_RATE, _JOULES = "rate_gain_pct", "energy_gain_pct"


def claims(settings: Settings, rows: Sequence[Row]) -> list[Claim]:
    """T6 in every world, then what payload and depth do."""
    found = []
    for text in settings.texts:
        for link in settings.links:
            for cap in (math.inf, settings.cap_w):
                world = {"text": text, "link": link, "cap_w": cap}
                told = f"{text}, {link}, {'no cap' if math.isinf(cap) else f'{cap:g} W'}"
                found += [_ways(settings, rows, world, told), _payload(settings, rows, world, told)]
                found += [_interaction(settings, rows, world, told), *_depth(rows, world, told)]
            found.append(_full_is_silent(settings, rows, {"text": text, "link": link}, f"{text}, {link}"))
    note = find(rows, part="skipped")
    found.append(
        Claim(
            claim="the rule of draft sampling adds to the gain",
            required="the rules `fixed` and `entropy` beside each other",
            measured=f"not replayed: {note['note']}",
            holds=None,
        )
    )
    return found


def _ways(settings: Settings, rows: Sequence[Row], world: dict[str, Any], told: str) -> Claim:
    """None, outer only, inner only, both, with `candidates` fixed."""
    payload = settings.payloads[-1]
    gains = {
        way: find(rows, part="over none", **world, payload=payload, depth="last", outer=outer, exit=exit)
        for way, (outer, exit) in WAYS.items()
        if way != "none"
    }
    paper = {
        f"gelato {exit}": find(
            rows, part="over none", **world, payload=payload, depth="last", outer="gelato", exit=exit
        )
        for exit in ("none", "bucket")
    }
    both = gains["both"]
    measured = "; ".join(
        f"{way} {words(row, _RATE)} tokens/s, {words(row, _JOULES)} joules a token"
        for way, row in {**gains, **paper}.items()
    )
    if not math.isinf(world["cap_w"]):
        measured += ". A static length of one draft, which no exit can shorten, breaks this cap; controllers share time"
    return Claim(
        claim=f"T6, {told}: with payload fixed, both loops together beat none, and each alone",
        required=f"{payload}, tokens/s over the best static length: both > 0 by more than its interval, both >= others",
        measured=measured,
        holds=both[_RATE] > both[f"{_RATE}_half"]
        and all(both[_RATE] >= row[_RATE] - row[f"{_RATE}_half"] for row in gains.values()),
    )


def _payload(settings: Settings, rows: Sequence[Row], world: dict[str, Any], told: str) -> Claim:
    """The payload's effect beside the controller's and the exits'."""
    cell = {"depth": "last", "payload": settings.payloads[-1], **world}
    payload = find(rows, part="over full", **cell, outer="static", exit="none")
    under_both = find(rows, part="over full", **cell, outer="ratio", exit="priced")
    loops = {
        way: find(rows, part="over none", **cell, outer=outer, exit=exit)
        for way, (outer, exit) in WAYS.items()
        if way != "none"
    }
    shares = {row["factor"]: row["share_pct"] for row in rows if row["part"] == "share" and _in(row, world)}
    spread = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items())
    return Claim(
        claim=f"{told}: payload explains more than the controller, the exits, or both",
        required=f"tokens/s: {cell['payload']} over full at the best static length > each loop's gain at fixed payload",
        measured=f"payload {words(payload, _RATE)} ({words(payload, _JOULES)} joules a token; with both loops on "
        f"either side {words(under_both, _RATE)}), "
        + ", ".join(f"{way} {words(row, _RATE)}" for way, row in loops.items())
        + f"; of the spread of log tokens/s over all cells: {spread}",
        holds=all(payload[_RATE] > row[_RATE] for row in loops.values()),
    )


def _interaction(settings: Settings, rows: Sequence[Row], world: dict[str, Any], told: str) -> Claim:
    """Whether the two loops add."""
    found, holds = [], True
    for outer, exit in (("ratio", "bucket"), ("ratio", "svip"), ("gelato", "bucket")):
        effects = {
            name: find(rows, part="effect", **world, payload=settings.payloads[-1], outer=outer, exit=exit, effect=name)
            for name in ("outer", "inner", "interaction")
        }
        found.append(f"{outer} x {exit}: " + ", ".join(f"{name} {words(row, _RATE)}" for name, row in effects.items()))
        main = max(abs(effects[name][_RATE]) for name in ("outer", "inner"))
        interaction = effects["interaction"]
        holds &= abs(interaction[_RATE]) <= max(main, interaction[f"{_RATE}_half"])
    return Claim(
        claim=f"{told}: outer loop and length exit add, but for an interaction smaller than a main effect",
        required=f"{settings.payloads[-1]}, every 2x2: |interaction| <= the larger main effect, or inside its interval",
        measured="; ".join(found),
        holds=holds,
    )


def _depth(rows: Sequence[Row], world: dict[str, Any], told: str) -> list[Claim]:
    """Fewer layers, always or by entropy; no claim where the draft has one exit."""
    common = {"outer": "ratio", "exit": "priced", **world}
    found = {row["depth"]: row for row in rows if row["part"] == "over last" and _in(row, common)}
    if not found:
        return []
    best = max(found.values(), key=lambda row: row[_RATE])
    return [
        Claim(
            claim=f"{told}: leaving the draft early, always or by entropy, gains over its last exit",
            required="candidates, ratio with priced exits, tokens/s: the better of both > 0 by more than its interval",
            measured=", ".join(
                f"{name} {words(row, _RATE)} tokens/s, {words(row, _JOULES)} joules a token"
                for name, row in found.items()
            ),
            holds=best[_RATE] > best[f"{_RATE}_half"],
        )
    ]


def _full_is_silent(settings: Settings, rows: Sequence[Row], world: dict[str, Any], told: str) -> Claim:
    """What all of q does to drafting."""
    lengths = {
        f"{row['outer']} {row['exit']}": row["draft_length"]
        for row in rows
        if row["part"] == "cell" and _in(row, {**world, "payload": settings.payloads[0], "cap_w": math.inf})
    }
    return Claim(
        claim=f"{told}: where all of q is sent, every rule ends up not drafting, so none can gain",
        required="at most 0.1 drafts a round under every outer loop and exit, no cap",
        measured=f"drafts a round: {', '.join(f'{name} {length:.2f}' for name, length in lengths.items())}",
        holds=max(lengths.values()) <= 0.1,
    )


def _in(row: Row, world: dict[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in world.items())
