"""A report for people and for programs."""

import dataclasses
import json
from collections.abc import Sequence

from gelato_kernels.bench.measure import Measurements, Row

_HEADINGS = (
    "op",
    "case",
    "implementation",
    "compile ms",
    "median us",
    "minimum us",
    "in a loop us",
    "GB/s",
    "of copy",
    "x textbook",
)
_NAMES = 3
"""Leading columns that are text."""


def table(report: Measurements) -> list[str]:
    """Lines of a table; what was not timed says why."""
    cells = [_cells(row) for row in report.rows]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *cells, strict=True)]
    lines = [
        f"{report.device} ({report.platform}), jax {report.jax}, Python {report.python}; "
        f"copying reads and writes {report.copy_gb_per_s:.1f} GB/s",
        _line(_HEADINGS, widths),
    ]
    for row, texts in zip(report.rows, cells, strict=True):
        if row.status == "ok":
            lines.append(_line(texts, widths))
        else:
            lines.append(f"{_line(texts[:_NAMES], widths)}  {row.status}: {row.note}")
    return lines


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        text.ljust(width) if index < _NAMES else text.rjust(width)
        for index, (text, width) in enumerate(zip(texts, widths, strict=False))
    ]
    return "  ".join(aligned).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.op,
        row.case,
        row.implementation,
        _number(row.compile_ms, ".0f"),
        _number(row.median_us, ".1f"),
        _number(row.minimum_us, ".1f"),
        _number(row.loop_us, ".1f"),
        _number(row.gb_per_s, ".2f"),
        _number(row.copy_share, ".1%"),
        _number(row.ratio, ".2f"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def as_json(report: Measurements) -> str:
    """The report as JSON, rows as objects by the names of `Row`."""
    return json.dumps(dataclasses.asdict(report), indent=2) + "\n"
