"""llama.cpp by llama-cpp-python, on the GGUF file that a model was converted from and on the same weights in 8 bits."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gelato_checkpoints import OnProgress
from gelato_experiments.benchmarks.peers import files
from gelato_experiments.benchmarks.peers.engine import LOOKUP, Engine, LeftOut, Terms, require

_TRIAL = """
import sys
from llama_cpp import Llama
text = Llama(sys.argv[1], n_ctx=256, n_gpu_layers=0, verbose=False).generate(list(range(16)), temp=0.0)
next(text), next(text)
"""
"""Reads a prompt and decodes a token: several compiled kernels, all of which some builds get wrong."""


def engines(model: str, terms: Terms, cache: Path, progress: OnProgress) -> list[Engine]:
    """Each file plain and with prompt lookup.

    Args:
        model: as `gelato generate --model` takes it.
        terms: what all are held to.
        cache: folder that keeps the files.
        progress: told of fetching and packing.

    Raises:
        LeftOut: the package is missing or crashes, or the model has no such file.
    """
    require("llama_cpp")
    file = files.source_file(model, cache, progress)
    if file is None:
        raise LeftOut(f"--model {model} does not come from a GGUF file; name one that does")
    _try(file)
    kind = files.kind_of(file)
    found = on_file(file, kind, terms)
    if kind != files.Q8_0:
        found += on_file(files.in_8_bits(file, cache, progress), files.Q8_0, terms)
    return found


def _try(file: Path) -> None:
    """Refuse a llama.cpp that does not survive a first decode, tried in a process of its own.

    Compiled with `-march=native` on a CPU with AMX it may not: some compilers drop the stores of the tiles' shape
    (llama.cpp's pull request 26954).
    """
    trial = subprocess.run([sys.executable, "-c", _TRIAL, str(file)], capture_output=True, text=True)
    if trial.returncode == 0:
        return
    if trial.returncode < 0:
        reason = f"it dies of {signal.Signals(-trial.returncode).name}"
    else:
        reason = (trial.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise LeftOut(
        f"a first decode fails ({reason}); build it again, on a CPU with AMX without that: "
        f'CMAKE_ARGS="-DCMAKE_CXX_FLAGS=-mno-amx-tile" pip install --no-cache-dir --force-reinstall llama-cpp-python'
    )


def on_file(file: Path, kind: str, terms: Terms) -> list[Engine]:
    """llama.cpp on a GGUF file of some kind of blocks, plain and with prompt lookup."""
    from llama_cpp import Llama  # pyright: ignore[reportMissingImports]
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding  # pyright: ignore[reportMissingImports]

    def engine(name: str, draft: Any) -> Engine:
        model = Llama(
            str(file),
            n_ctx=terms.slots,
            n_threads=terms.threads,
            n_threads_batch=terms.threads,
            n_gpu_layers=0,
            draft_model=draft,
            verbose=False,
        )

        def decode(ids: Sequence[int]) -> list[int]:
            model.reset()  # else it would keep what this prompt shares with the last
            text = []
            for token in model.generate(list(ids), temp=0.0, repeat_penalty=1.0):
                text.append(int(token))
                if token in terms.eos_ids or len(text) == terms.max_new_tokens:
                    break
            return text

        return Engine(name, decode)

    lookup = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP)
    return [engine(f"llama.cpp {kind}", None), engine(f"llama.cpp {kind}, lookup", lookup)]
