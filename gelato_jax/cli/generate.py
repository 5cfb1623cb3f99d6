"""`gelato generate`: a prompt in, text out, decoded speculatively."""

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
    SystemOptions,
    TextOptions,
    settle,
)


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
    output: OutputOptions

    def run(self) -> int:
        """Decode, show, sum up; exit code 130 after Ctrl-C."""
        from gelato_jax.cli.main import INTERRUPTED
        from gelato_jax.cli.output import JsonFile
        from gelato_jax.cli.summary import full_report, summary

        began = time.perf_counter()
        values = settle(self.input, self.text, self.control, self.payload, self.system, self.output)
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
    if (options.prompt is None) == (options.prompt_file is None):
        fault = "both a PROMPT and --prompt-file are given" if options.prompt else "there is no prompt"
        raise ValueError(f'{fault}; give one of them, as in: gelato generate "Explain why the sky is blue."')
    if options.prompt is not None:
        text, name = options.prompt, "PROMPT"
    else:
        name = f"--prompt-file {options.prompt_file}"
        raw = sys.stdin.buffer.read() if options.prompt_file == "-" else Path(options.prompt_file).read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    if not text.strip():
        raise ValueError(f"{name} is empty; give it some text")
    return text


def _decode(prompt: str, values: dict[str, Any], began: float):
    """Load the pair, make the stream, show the text."""
    from gelato_jax.cli.choices import build

    settings, choices = build(values)

    import jax

    import gelato_checkpoints
    import gelato_jax
    from gelato_jax.cli import screen as screens
    from gelato_jax.cli.clock import CompileClock
    from gelato_jax.cli.decode import decode, interruptible
    from gelato_jax.cli.progress import Progress

    jax.config.update("jax_compilation_cache_dir", str(gelato_checkpoints.cache_directory() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    clock = CompileClock()
    with Progress(quiet=values["quiet"]) as progress:

        def load():
            return gelato_checkpoints.load_pair(values["model"], values["draft"], progress=progress.stage)

        pair = interruptible(load)

        def start():
            if choices["system"] is None:
                from gelato_jax.decoding.local import measure_local_system

                choices["system"] = measure_local_system(
                    pair, settings.shapes, gelato_checkpoints.cache_directory() / "local-times"
                )
            progress.stage("compile", 0, 0)
            stream = gelato_jax.stream(pair, [prompt], settings=settings, raw=values["raw"], **choices)
            progress.stop()
            return stream

        if values["json"] == "-":
            screen = screens.Silence()
        elif values["quiet"] or not sys.stdout.isatty():
            screen = screens.Plain()
        else:
            screen = screens.Panel(f"gelato · {values['controller']}")
        return decode(pair, start, screen, stops=values["stop"], clock=clock, began=began)
