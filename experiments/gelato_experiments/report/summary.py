"""The claims as lines for a terminal."""

import textwrap
from collections.abc import Mapping
from typing import Any

from gelato_experiments.report.results import HOLDS, PAPER, Report, counts


def summary(report: Report, width: int) -> list[str]:
    """The claims as lines for a terminal.

    Args:
        report: what was collected.
        width: columns of the terminal.
    """
    claims, lines = report.claims(), []
    verdict = max(map(len, HOLDS.values()))
    study = max(len(result.name) for result in report.results)
    margin = verdict + study + 4
    for claim in claims:
        head = f"{HOLDS[claim['holds']].ljust(verdict)}  {claim['study'].ljust(study)}  "
        texts = [f"{claim['claim']}{_tag(claim)}", f"required: {claim['required']}", f"measured: {claim['measured']}"]
        for number, text in enumerate(texts):
            first = head if number == 0 else " " * margin
            wrap = textwrap.TextWrapper(max(width, margin + 40), first, " " * margin)
            lines += wrap.wrap(text)
    lines += [f"{name}: {note}" for name, note in report.notes.items()]
    return [*lines, counts(claims)]


def _tag(claim: Mapping[str, Any]) -> str:
    return f" ({PAPER})" if claim["about"] == "paper" else ""
