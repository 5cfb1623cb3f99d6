"""llama.cpp by llama-cpp-python, on the GGUF file that a model was converted from and on the same weights in 8 bits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gelato_checkpoints import OnProgress
from gelato_experiments.benchmarks.peers import files
from gelato_experiments.benchmarks.peers.engine import LOOKUP, Engine, LeftOut, Request, require
from gelato_experiments.benchmarks.peers.worker import Worker

_ADVICE = (
    'build it again, on a CPU with AMX without that: CMAKE_ARGS="-DCMAKE_CXX_FLAGS=-mno-amx-int8" '
    "pip install --no-cache-dir --force-reinstall llama-cpp-python"
)
"""Compiled with `-march=native` on such a CPU it may die at once: some compilers drop the stores of the tiles' shape
(llama.cpp's pull request 26954)."""


def engines(model: str, request: Request, cache: Path, progress: OnProgress) -> list[Engine]:
    """Each file plain and with prompt lookup.

    Args:
        model: as `gelato generate --model` takes it.
        request: what all are held to.
        cache: folder that keeps the files.
        progress: told of fetching and packing.

    Raises:
        LeftOut: the package is missing or does not work, or the model has no such file.
    """
    require("llama_cpp")
    file = files.source_file(model, cache, progress)
    if file is None:
        raise LeftOut(f"--model {model} does not come from a GGUF file; name one that does")
    by_kind = {files.kind_of(file): file}
    if files.Q8_0 not in by_kind:
        by_kind[files.Q8_0] = files.in_8_bits(file, cache, progress)
    return Worker(load, by_kind, request, advice=_ADVICE).engines()


def load(by_kind: Mapping[str, Path], request: Request) -> list[Engine]:
    """Engines on files, by what their matrices are stored as, in this process."""
    return [engine for kind, file in by_kind.items() for engine in _on_file(file, kind, request)]


def _on_file(file: Path, kind: str, request: Request) -> list[Engine]:
    """llama.cpp on a GGUF file of some kind of blocks, plain and with prompt lookup."""
    from llama_cpp import Llama  # pyright: ignore[reportMissingImports]
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding  # pyright: ignore[reportMissingImports]

    def engine(name: str, draft: Any) -> Engine:
        model = Llama(
            str(file),
            n_ctx=request.slots,
            n_threads=request.threads,
            n_threads_batch=request.threads,
            n_gpu_layers=0,
            draft_model=draft,
            logits_all=draft is not None,  # else prompts longer than a batch fail with a draft
            verbose=False,
        )

        def decode(ids: Sequence[int]) -> list[int]:
            model.reset()  # else it would keep what this prompt shares with the last
            text = []
            for token in model.generate(list(ids), temp=0.0, repeat_penalty=1.0):
                text.append(int(token))
                if token in request.eos_ids or len(text) == request.max_new_tokens:
                    break
            return text

        return Engine(name, decode)

    lookup = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP)
    return [engine(f"llama.cpp {kind}", None), engine(f"llama.cpp {kind}, lookup", lookup)]
