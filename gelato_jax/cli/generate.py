"""`gelato generate`: a prompt in, text out, decoded speculatively."""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, configure

from gelato_jax.cli.options import (
    ControlOptions,
    InputOptions,
    OutputOptions,
    PayloadOptions,
    RemoteOptions,
    SystemOptions,
    TextOptions,
    complete,
)
from gelato_jax.cli.remote import connect
from gelato_jax.errors import GelatoError


@configure(OmitArgPrefixes)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
    """Decode a prompt speculatively: a small draft proposes, the model checks, the text is the model's own.

    The text goes to standard output; progress and a summary go to standard error.
    """

    input: InputOptions
    text: TextOptions
    control: ControlOptions
    payload: PayloadOptions
    system: SystemOptions
    remote: RemoteOptions
    output: OutputOptions

    def run(self) -> int:
        """Decode, show, sum up; exit code 130 after Ctrl-C."""
        from gelato_jax.cli.codes import INTERRUPTED
        from gelato_jax.cli.output import JsonFile
        from gelato_jax.cli.summary import full_report, summary

        began = time.perf_counter()
        values = complete(self.input, self.text, self.control, self.payload, self.system, self.remote, self.output)
        values["prompt"] = prompt = _prompt(self.input)
        with JsonFile(self.output.json) as file:
            answer = _decode(prompt, values, began)
            report = full_report(answer, values)
            file.write(report)
            if not self.output.quiet:
                sys.stdout.flush()
                print(summary(report, values), file=sys.stderr)
        return INTERRUPTED if answer.end == "interrupted" else 0


def _prompt(options: InputOptions) -> str:
    """The prompt, from wherever it comes."""
    text, file = options.prompt, options.prompt_file
    if text is not None and file is not None:
        raise GelatoError(f"--prompt-file is {file}, beside a PROMPT; leave one of them out")
    name = "PROMPT" if file is None else f"--prompt-file {file}"
    if file is not None:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).expanduser().read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise GelatoError(f"{name}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    if text is None:
        raise GelatoError('there is no PROMPT; give one, as in: gelato generate "Explain why the sky is blue."')
    if not text.strip():
        raise GelatoError(f"{name} is empty; give it some text")
    return text


def _decode(prompt: str, values: dict[str, Any], began: float):
    """Load the pair, make the stream, show the text."""
    from gelato_jax.cli.choices import build

    settings, choices = build(values)
    client = connect(values)

    from gelato_jax.cli import screen as screens
    from gelato_jax.cli.cache import keep_programs
    from gelato_jax.cli.clock import CompileClock
    from gelato_jax.cli.decode import decode, in_background
    from gelato_jax.cli.opening import open_pair
    from gelato_jax.cli.progress import Progress

    keep_programs()
    clock = CompileClock()
    farewell = contextlib.nullcontext() if client is None else contextlib.closing(client)
    with farewell, Progress(quiet=values["quiet"]) as progress:

        def start():
            pair, open_stream = open_pair(values, settings, choices, client, progress)
            stream = open_stream(prompt, settings=settings, raw=values["raw"])
            progress.stop()
            return pair, stream

        if values["json"] == "-":
            screen = screens.Silence()
        elif values["quiet"] or not sys.stdout.isatty():
            screen = screens.Plain()
        else:
            joules = "modelled" if values["remote_meter"] is None else "by the meter"
            screen = screens.Panel(f"gelato · {values['controller']}", joules)
        # In a thread, so that Ctrl-C need not wait until compiled code returns to Python.
        pair, stream = in_background(start).result()
        return decode(pair, stream, screen, stops=values["stop"], clock=clock, began=began)
