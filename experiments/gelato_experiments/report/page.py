"""The report as one HTML file that needs no other, and the claims as JSON."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gelato_experiments.report.results import HOLDS, PAPER, Report, Result, counts
from gelato_experiments.study import Row
from gelato_jax.files import atomic_write

MOST_ROWS = 200
"""Rows of a table of metrics that are shown; metrics.csv has all."""
_CLASSES = {True: "yes", False: "no", None: "open"}


def write(report: Report, out: Path) -> None:
    """Write `report.html` and `claims.json` into a folder of results."""
    with atomic_write(out / "claims.json") as file:
        file.write(f"{json.dumps(report.claims(), indent=2, ensure_ascii=False)}\n".encode())
    with atomic_write(out / "report.html") as file:
        file.write(page(report).encode())


def page(report: Report) -> str:
    """The HTML."""
    claims = report.claims()
    notes = "".join(f"<li><b>{escape(name)}</b>: {_prose(note)}</li>" for name, note in report.notes.items())
    parts = [
        "<h1>gelato_jax: experiments</h1>",
        f"<p>{counts(claims)}</p>",
        f'<h2>Missing or amiss</h2>\n<ul class="notes">{notes}</ul>' if notes else "",
        "<h2>Claims</h2>",
        _claims_table(claims),
        *map(_section, report.results),
    ]
    body = "\n".join(part for part in parts if part)
    return _PAGE.replace("{body}", body)


def _claims_table(claims: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for claim in claims:
        mark = f'<span class="verdict {_CLASSES[claim["holds"]]}">{HOLDS[claim["holds"]]}</span>'
        tag = f' <span class="tag">{PAPER}</span>' if claim["about"] == "paper" else ""
        study = escape(claim["study"])
        cells = (
            f"{_prose(claim['claim'])}{tag}",
            _prose(claim["required"]),
            _prose(claim["measured"]),
            mark,
            f'<a href="#study-{study}">{study}</a>',
        )
        lines.append(_line(cells, "td"))
    return _table(("claim", "required", "measured", "verdict", "study"), lines, "claims", "Claims")


def _section(result: Result) -> str:
    facts, name = result.facts, escape(result.name)
    command = escape(facts["command"])
    device, commit = facts["device"], facts.get("commit")
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    place = f"{device['platform']}, {device['kind']}"
    code = f"commit {commit}" if commit else f"version {facts['versions'].get('gelato_jax', '?')}"
    settings = [_line((escape(key), f"<code>{escape(value)}</code>"), "td") for key, value in _flat(facts["settings"])]
    shown = min(len(result.rows), MOST_ROWS)
    title = f"Metrics: {len(result.rows)} rows" if shown == len(result.rows) else f"Metrics: first {shown} rows"
    rest = "" if shown == len(result.rows) else f"<p>All {len(result.rows)} are in <code>{name}/metrics.csv</code>.</p>"
    return "\n".join(
        (
            f'<section id="study-{name}">',
            f"<h2>{name}</h2>",
            f"<p>{_prose(facts['question'])}</p>",
            f'<figure class="scroll" tabindex="0">{result.drawing}</figure>',
            f"<pre><code>{command}</code></pre>",
            f"<details><summary>Settings: preset {escape(facts['preset'])}</summary>",
            _table(("setting", "value"), settings, "plain", f"Settings of {name}"),
            "</details>",
            f"<details><summary>{title}</summary>",
            _metrics(result.rows[:MOST_ROWS], f"Metrics of {name}"),
            f"{rest}</details>",
            f'<p class="small">{facts["seconds"]:.1f} s on {escape(place)}. {escape(versions)}. {escape(code)}.</p>',
            "</section>",
        )
    )


def _metrics(rows: Sequence[Row], label: str) -> str:
    columns = list(rows[0]) if rows else []
    lines = []
    for row in rows:
        cells = []
        for name in columns:
            number = isinstance(row[name], int | float) and not isinstance(row[name], bool)
            cells.append(f"<td{' class=number' if number else ''}>{escape(_shown(row[name]))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return _table(columns, lines, "plain", label)


def _table(heads: Sequence[str], lines: Sequence[str], kind: str, label: str) -> str:
    """A table that scrolls in its own box."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="{kind}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _prose(text: str) -> str:
    """A sentence as HTML; what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _line(cells: Iterable[str], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>"


def _flat(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Settings, one a line; parts of one by dotted names."""
    if isinstance(settings, dict):
        return [line for key, value in settings.items() for line in _flat(value, f"{prefix}.{key}".lstrip("."))]
    return [(prefix, json.dumps(settings, ensure_ascii=False))]


def _shown(value: Any) -> str:
    """A cell, short."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gelato_jax: experiments</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #1a1a1a; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
section { border-top: 1px solid #ccc; margin-top: 2rem; }
figure { margin: 1rem 0; }
figure svg { display: block; max-width: 100%; min-width: min(40rem, 100%); height: auto; }
@media (max-width: 42rem) { figure svg { max-width: none; min-width: 40rem; } }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
table.claims { min-width: 48rem; width: 100%; }
th, td { border-bottom: 1px solid #ddd; padding: .35rem .6rem; text-align: left; vertical-align: top; }
th { background: #f4f4f4; }
table.plain td, table.plain th { white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto; }
details { margin: .5rem 0; }
summary { cursor: pointer; padding: .3rem 0; }
.verdict { border: 2px solid; border-radius: .3rem; padding: 0 .4rem; white-space: nowrap; font-weight: 600; }
.yes { color: #005a8e; border-color: #0072b2; background: #e9f4fb; }
.no { color: #9c4400; border-color: #d55e00; background: #fdf0e6; border-style: dashed; }
.open { color: #555; border-color: #888; border-style: dotted; }
.tag { border: 1px solid #888; border-radius: .3rem; font-size: .8rem; padding: 0 .3rem; white-space: nowrap; }
.small { font-size: .8rem; color: #555; overflow-wrap: anywhere; }
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
