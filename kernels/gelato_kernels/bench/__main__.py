"""`python -m gelato_kernels.bench`: a table of the ops on the device at hand, as text, JSON and a picture."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gelato_kernels.bench import chart, files, report, timing, workloads
from gelato_kernels.bench.command import Parser, SlowLines, guarded
from gelato_kernels.bench.measure import Measurements, run

PROG = "gelato_kernels.bench"


def _parser() -> Parser:
    parser = Parser(
        prog=f"python -m {PROG}",
        description="Time every implementation of the ops that runs on this process's first device, checked against "
        "the reference, beside the steps of a textbook. Exit code 1 where one failed or was wrong.",
    )
    parser.add_argument(
        "--ops", nargs="+", metavar="OP", help=f"only these, of {', '.join(workloads.OPS)} (default: all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one small shape of each op, few rounds: whether it works, not how fast"
    )
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file; - is standard output")
    parser.add_argument("--png", metavar="FILE", type=Path, help="draw the ratios to the textbook (needs matplotlib)")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="write kernels.txt, kernels.json and kernels.png to this folder"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's); the exit code.

    Raises:
        SystemExit: after --help, or arguments that are not understood.
    """
    options = _parser().parse_args(arguments)
    return guarded(PROG, lambda: _bench(options))


def _bench(options: argparse.Namespace) -> int:
    chosen = workloads.chosen(options.ops, options.quick)
    texts, jsons, pngs = _destinations(options)
    measured = run(chosen, timing.QUICK if options.quick else timing.FULL, SlowLines(PROG))
    lines = "\n".join(report.table(measured)) + "\n"
    for path in texts:
        files.write(path, lines.encode())
    for path in jsons:
        files.write(path, report.as_json(measured).encode())
    _draw(measured, pngs)
    print(report.as_json(measured) if options.json == "-" else lines, end="")
    return 0 if measured.sound else 1


def _destinations(options: argparse.Namespace) -> tuple[list[Path], list[Path], list[Path]]:
    """Text, JSON and PNG files to write, known to be writable."""
    texts: list[Path] = []
    jsons = [] if options.json in (None, "-") else [Path(options.json)]
    pngs = [] if options.png is None else [options.png]
    if options.out is not None:
        folder = options.out.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        texts.append(folder / "kernels.txt")
        jsons.append(folder / "kernels.json")
        pngs.append(folder / "kernels.png")
    return [*map(files.writable, texts)], [*map(files.writable, jsons)], [*map(files.writable, pngs)]


def _draw(measured: Measurements, paths: Sequence[Path]) -> None:
    missing = None if chart.available() else "matplotlib is not installed"
    if missing is None and not chart.bars(measured):
        missing = "there is no ratio to draw"
    if paths and missing:
        print(f"{PROG}: {missing}, {', '.join(map(str, paths))} is left out", file=sys.stderr)
        return
    for path in paths:
        files.write(path, chart.draw(measured))


if __name__ == "__main__":
    sys.exit(main())
