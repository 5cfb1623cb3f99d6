"""Entry point of `gelato`: subcommands, and how a mistake ends.

A user's mistake ends in one line on standard error and exit code 2, Ctrl-C in exit code 130; a
traceback means a fault of this package.
"""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol

import tyro

from gelato_jax.cli.bench import Bench
from gelato_jax.cli.codes import BROKEN_PIPE, INTERRUPTED, MISTAKE
from gelato_jax.cli.convert import Convert
from gelato_jax.cli.edge import Edge
from gelato_jax.cli.eval_draft import EvalDraft
from gelato_jax.cli.eval_weights import EvalWeights
from gelato_jax.cli.experiment import Experiment
from gelato_jax.cli.generate import Generate
from gelato_jax.cli.models import Models
from gelato_jax.cli.presets import Presets
from gelato_jax.cli.record import Record
from gelato_jax.cli.serve import Serve
from gelato_jax.cli.train_draft import TrainDraft
from gelato_jax.errors import GelatoError


class Command(Protocol):
    """A subcommand: a frozen dataclass of its options."""

    def run(self) -> int:
        """Do it; the exit code."""
        ...


COMMANDS: dict[str, type[Command]] = {
    "generate": Generate,
    "edge": Edge,
    "serve": Serve,
    "models": Models,
    "presets": Presets,
    "convert": Convert,
    "bench": Bench,
    "train-draft": TrainDraft,
    "eval-draft": EvalDraft,
    "eval-weights": EvalWeights,
    "experiment": Experiment,
    "record": Record,
}
"""Name -> options; a new subcommand is one line here."""


def main() -> NoReturn:
    """Run the command line of this process and end it."""
    code = run(sys.argv[1:])
    if code == INTERRUPTED:
        os._exit(code)  # a compilation that still runs in a thread would hold the process for seconds
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    try:
        code = _parse(arguments).run()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter's last flush must not complain.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except GelatoError as error:
        return _refuse(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}")


def _parse(arguments: Sequence[str]) -> Command:
    """The command that was asked for; ends the process after help or a mistake, as tyro does."""
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise):
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="gelato",
                description="Device-edge speculative decoding governed by an energy queue.",
                args=list(arguments) or ["--help"],
            )
    except SystemExit as end:
        if end.code:
            _refuse(_first_paragraph(noise.getvalue()))
        raise


def _first_paragraph(box: str) -> str:
    """The message inside the box that tyro draws around an error, on one line; the hints below it are for `--help`."""
    rows = [row.strip("│ ") for row in box.splitlines() if row.startswith("│")]
    message = []
    for row in rows:
        if row.startswith("───"):
            break
        message.append(row)
    return " ".join(message).rstrip(".") + "; see gelato --help" if message else box.strip()


def _refuse(line: str) -> int:
    print(f"gelato: error: {line}", file=sys.stderr)
    return MISTAKE
