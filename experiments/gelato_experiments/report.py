"""The report of a folder of results: one HTML file that needs no other, and the claims as JSON.

Made from the files that the runner wrote alone; no study is imported.
"""

import dataclasses
import json
import re
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gelato_experiments.runner import failure_file, read_rows
from gelato_experiments.study import Claim, Row
from gelato_jax.errors import GelatoError
from gelato_jax.files import atomic_write, read_json

HOLDS = {True: "holds", False: "does not hold", None: "cannot be judged"}
"""The verdicts, in words."""

MOST_ROWS = 200
"""Rows of a table of metrics that are shown; metrics.csv has all."""

_CLAIM = tuple(field.name for field in dataclasses.fields(Claim))
_RECORD = ("question", "command", "preset", "settings", "versions", "device", "seconds")
_CLASSES = {True: "yes", False: "no", None: "open"}
_PAPER = "the paper's"  # tag of a claim that is not ours
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a study left.

    Attributes:
        name: of the study.
        record: its run.json.
        claims: its claims.json.
        rows: its metrics.csv.
        drawing: its figure.svg.
    """

    name: str
    record: Mapping[str, Any]
    claims: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]
    drawing: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a folder of results holds.

    Attributes:
        results: of the studies that are there, in the registry's order.
        notes: study -> what is missing or amiss.
    """

    results: Sequence[Result]
    notes: Mapping[str, str]

    def claims(self) -> list[dict[str, Any]]:
        """All claims, as claims.json has them."""
        return [
            {**{name: claim[name] for name in _CLAIM}, "study": result.name, "command": result.record["command"]}
            for result in self.results
            for claim in result.claims
        ]


def collect(out: Path) -> Report:
    """Read a folder of results.

    Args:
        out: what `gelato experiment run --out` was given.

    Raises:
        GelatoError: the folder holds no study that is whole.
    """
    from gelato_experiments.studies.registry import STUDIES

    if not out.is_dir():
        raise GelatoError(f"{out}: no such folder; make it by gelato experiment run all --out {out}")
    found = {path.parent.name for path in out.glob("*/run.json") if not path.parent.name.startswith(".")}
    results, notes = [], {}
    for name in [*STUDIES, *sorted(found - set(STUDIES))]:
        failed = failure_file(out, name)
        if failed.exists():
            notes[name] = f"the last run failed, see {failed.name}"
        if name not in found:
            notes.setdefault(name, "not run")
            continue
        try:
            results.append(_read(out / name))
        except (OSError, ValueError, TypeError, AttributeError, ElementTree.ParseError) as error:
            notes[name] = f"unreadable, remove {name} and run it again ({type(error).__name__}: {error})"
    if not results:
        raise GelatoError(f"{out}: holds no finished study; make some by gelato experiment run all --out {out}")
    return Report(results=results, notes=notes)


def _read(folder: Path) -> Result:
    record = read_json(folder / "run.json") or {}
    claims = json.loads((folder / "claims.json").read_text("utf-8"))
    _require(record, _RECORD, "run.json")
    for claim in claims:
        _require(claim, _CLAIM, "claims.json")
    drawing = inline((folder / "figure.svg").read_text("utf-8"), folder.name, record["question"])
    return Result(
        name=folder.name, record=record, claims=claims, rows=read_rows(folder / "metrics.csv"), drawing=drawing
    )


def _require(entry: Mapping[str, Any], fields: Sequence[str], file: str) -> None:
    missing = [name for name in fields if name not in entry]
    if missing:
        raise GelatoError(f"{file} has no {missing[0]!r}")


def write(report: Report, out: Path) -> None:
    """Write `report.html` and `claims.json` into a folder of results."""
    with atomic_write(out / "claims.json") as file:
        file.write(f"{json.dumps(report.claims(), indent=2, ensure_ascii=False)}\n".encode())
    with atomic_write(out / "report.html") as file:
        file.write(page(report).encode())


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


def counts(claims: Iterable[Mapping[str, Any]]) -> str:
    """How many claims hold, in words."""
    verdicts = [claim["holds"] for claim in claims]
    hold, fail, unjudged = (verdicts.count(verdict) for verdict in (True, False, None))
    return f"Of {len(verdicts)} claims {hold} hold, {fail} do not, {unjudged} cannot be judged."


def _tag(claim: Mapping[str, Any]) -> str:
    return f" ({_PAPER})" if claim["about"] == "paper" else ""


def inline(svg: str, prefix: str, label: str) -> str:
    """An SVG as it may stand in a page beside others: names of its own, no addresses.

    Args:
        svg: the file's text.
        prefix: in front of every name inside.
        label: what it shows, for who cannot see it.

    Raises:
        ParseError: it is no XML.
    """
    root = ElementTree.fromstring(svg)
    size = {name: root.attrib.pop(name, "") for name in ("width", "height")}
    for node in root.iter():
        node.tag = node.tag.removeprefix(_SVG)
        node.attrib = {
            name.removeprefix("{http://www.w3.org/1999/xlink}"): _renamed(name, value, prefix)
            for name, value in node.attrib.items()
            if not name.startswith("{") or name == _HREF
        }
    root.attrib.pop("version", None)
    root.attrib |= {"role": "img", "aria-label": label, "style": f"width: {size['width'] or '100%'}"}
    return ElementTree.tostring(root, encoding="unicode")


def _renamed(name: str, value: str, prefix: str) -> str:
    """An attribute whose own name or reference gets the prefix."""
    if name == "id":
        return f"{prefix}-{value}"
    if name in (_HREF, "href") and value.startswith("#"):
        return f"#{prefix}-{value[1:]}"
    return _REFERENCE.sub(rf"url(#{prefix}-\1)", value)


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
        tag = f' <span class="tag">{_PAPER}</span>' if claim["about"] == "paper" else ""
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
    record, name = result.record, escape(result.name)
    command = escape(record["command"])
    device, commit = record["device"], record.get("commit")
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    place = f"{device['platform']}, {device['kind']}"
    code = f"commit {commit}" if commit else f"version {record['versions'].get('gelato_jax', '?')}"
    settings = [_line((escape(key), f"<code>{escape(value)}</code>"), "td") for key, value in _flat(record["settings"])]
    shown = min(len(result.rows), MOST_ROWS)
    title = f"Metrics: {len(result.rows)} rows" if shown == len(result.rows) else f"Metrics: first {shown} rows"
    rest = "" if shown == len(result.rows) else f"<p>All {len(result.rows)} are in <code>{name}/metrics.csv</code>.</p>"
    return "\n".join(
        (
            f'<section id="study-{name}">',
            f"<h2>{name}</h2>",
            f"<p>{_prose(record['question'])}</p>",
            f'<figure class="scroll" tabindex="0">{result.drawing}</figure>',
            f"<pre><code>{command}</code></pre>",
            f"<details><summary>Settings: preset {escape(record['preset'])}</summary>",
            _table(("setting", "value"), settings, "plain", f"Settings of {name}"),
            "</details>",
            f"<details><summary>{title}</summary>",
            _metrics(result.rows[:MOST_ROWS], f"Metrics of {name}"),
            f"{rest}</details>",
            f'<p class="small">{record["seconds"]:.1f} s on {escape(place)}. {escape(versions)}. {escape(code)}.</p>',
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
    """Settings, one a line; parts of a record by dotted names."""
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
