"""`gelato experiment`: the studies, what they found, and a page of it."""

import dataclasses
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, configure, subcommand

from gelato_jax.errors import GelatoError

_NEEDS = ("matplotlib", "scipy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class List:
    """List the studies and what each asks.

    As in: gelato experiment list
    """

    json: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write names and questions to this file; - is standard output."""

    def run(self) -> int:
        """Print a line for every study."""
        from gelato_experiments.studies import registry
        from gelato_jax.cli.output import JsonFile

        questions = {name: registry.question(name) for name in registry.STUDIES}
        with JsonFile(self.json) as file:
            file.write({"studies": [{"name": name, "question": text} for name, text in questions.items()]})
        if self.json != "-":
            width = max(map(len, questions), default=0)
            for name, text in questions.items():
                print(f"{name.ljust(width)}  {text}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Run one study, or all; what is done with the same settings is skipped, so the same command goes on after a stop.

    As in: gelato experiment run frontier --out results

    Or, in hours: gelato experiment run all --preset full --out results

    Or, of a pair of your own: gelato experiment run all --recording mine.npz --out results
    """

    study: Annotated[Positional[str], arg(metavar="STUDY")]
    """A name from `gelato experiment list`, or all."""
    preset: Literal["quick", "full"] = "quick"
    """quick: minutes, coarser. full: the figures to quote."""
    recording: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """What `gelato record` wrote of a pair, in place of the shipped recordings; all then means the studies of one."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder of results. A study makes DIR/STUDY with metrics.csv, claims.json, figure.svg, figure.png, run.json."""

    def run(self) -> int:
        """Run; exit code 1 where a study failed, the others run all the same."""
        from gelato_experiments.studies import registry

        names = registry.select(self.study)
        _refuse_missing_extras()
        recording = None if self.recording is None else self.recording.expanduser()
        if recording is not None:
            names = _about_one_recording(names, recording)

        from gelato_experiments import runner
        from gelato_jax.cli.cache import keep_programs

        with runner.locked(self.out) as out:
            keep_programs()
            try:
                sound = [_run_one(name, self.preset, out, recording) for name in names]
            except KeyboardInterrupt:
                print("gelato: stopped; the same command goes on", file=sys.stderr)
                raise
        print(f"gelato experiment report {self.out}")
        return 0 if all(sound) else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Put results into one page, DIR/report.html, and their claims into DIR/claims.json; print the claims.

    As in: gelato experiment report results
    """

    results: Annotated[Positional[Path], arg(metavar="DIR")]
    """What --out of `gelato experiment run` was."""
    json: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write claims, and what is missing, to this file too; - is standard output."""

    def run(self) -> int:
        """Write the page; the exit code says nothing about the claims."""
        from gelato_experiments import report
        from gelato_jax.cli.output import JsonFile

        out = self.results.expanduser()
        with JsonFile(self.json) as file:
            found = report.collect(out)
            report.write(found, out)
            file.write({"claims": found.claims(), "missing": dict(found.notes)})
        if self.json != "-":
            print("\n".join(report.summary(found, shutil.get_terminal_size().columns)))
            print(out / "report.html")
        return 0


@configure(OmitArgPrefixes, OmitSubcommandPrefixes)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Studies of the controllers, each with claims that its own figures decide: `list`, `run`, `report`.

    First: gelato experiment run all --out results

    Then: gelato experiment report results
    """

    action: (
        Annotated[List, subcommand("list")]
        | Annotated[Run, subcommand("run")]
        | Annotated[Report, subcommand("report")]
    )

    def run(self) -> int:
        """Do what was asked; the exit code."""
        return self.action.run()


def _refuse_missing_extras() -> None:
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise GelatoError(f"studies need {' and '.join(missing)}: pip install 'gelato-jax[experiments]'")


def _about_one_recording(names: list[str], recording: Path) -> list[str]:
    """Of those studies the ones that a recording can be given to; a file that is none is refused before any work."""
    from gelato_experiments.studies import registry
    from gelato_jax import simulation

    simulation.load(recording)
    if len(names) == 1:
        registry.load(names[0]).on(str(recording))
    return [name for name in names if registry.load(name).takes_recording]


def _run_one(name: str, preset: Literal["quick", "full"], out: Path, recording: Path | None) -> bool:
    """Run a study under a display of its own; whether it did not fail."""
    from gelato_experiments import runner
    from gelato_jax.cli.progress import Progress

    with Progress() as progress:
        label = lambda what, done, total: progress.stage(f"{name}: {what}", done, total)  # noqa: E731
        outcome = runner.attempt(name, preset, out, label, recording)
    failed = outcome.status == "failed"
    line = f"{name}: {outcome.text}"
    print(f"gelato: {line}" if failed else line, file=sys.stderr if failed else sys.stdout, flush=True)
    return not failed
