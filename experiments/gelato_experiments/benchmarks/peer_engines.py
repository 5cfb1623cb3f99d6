"""Engines for `peers`: ours, llama.cpp and transformers, the latter two where they are installed.

All of them get the same ids, decode greedily, stop behind the same end tokens, and start every prompt afresh.
Transformers' assisted decoding is left out: our draft shares the target's embedding and has exits and 8-bit weights,
and is no model that transformers knows. Prompt lookup drafts from the text itself, and needs none.
"""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gelato_checkpoints import OnProgress, load_checkpoint
from gelato_checkpoints.keymaps import export_tensors
from gelato_experiments.benchmarks import peer_files
from gelato_experiments.benchmarks.peers import Engine
from gelato_jax import control
from gelato_jax.config import ModelConfig
from gelato_jax.decoding import DecodeSettings, Pair, autoregressive, generate
from gelato_jax.errors import GelatoError
from gelato_jax.system import System

INSTALL = 'pip install "gelato-jax[bench]"'
LLAMA_LOOKUP = 2
"""Tokens that prompt lookup drafts in llama-cpp-python, whose README advises 2 without a GPU."""
TRANSFORMERS_LOOKUP = 3
"""The same in transformers: the example of its guide to generation strategies."""
_ROOM = 16  # slots beyond prompt and answer, for drafts that run over the end
_DISTRIBUTIONS = {
    "gelato_jax": "gelato-jax",
    "jax": "jax",
    "llama_cpp": "llama-cpp-python",
    "torch": "torch",
    "transformers": "transformers",
}
"""Module -> what pip calls its package."""


@dataclasses.dataclass(frozen=True)
class Terms:
    """What every engine is held to.

    Attributes:
        max_new_tokens: generated at most.
        eos_ids: tokens that end an answer.
        threads: of a CPU.
        longest: tokens of the longest prompt.
    """

    max_new_tokens: int
    eos_ids: tuple[int, ...]
    threads: int
    longest: int

    @property
    def slots(self) -> int:
        """Positions that a cache needs."""
        return self.longest + self.max_new_tokens + _ROOM


def use_threads(threads: int | None) -> int:
    """Hold this process to so many cores, before JAX starts: ours takes every core that it may use.

    Args:
        threads: how many; None is all.

    Returns:
        How many.

    Raises:
        GelatoError: there are not so many, or this system cannot hold a process to some.
    """
    can_choose = hasattr(os, "sched_setaffinity")
    cores = sorted(os.sched_getaffinity(0)) if can_choose else list(range(os.cpu_count() or 1))
    if threads is None or threads == len(cores):
        return len(cores)
    if not 1 <= threads <= len(cores):
        raise GelatoError(f"--threads is {threads}, must be in 1..{len(cores)}, the cores that this process may use")
    if not can_choose:
        raise GelatoError(f"--threads {threads}: this system cannot hold a process to some cores; leave it out")
    os.sched_setaffinity(0, cores[:threads])
    return threads


def ours(pair: Pair, system: System, settings: DecodeSettings) -> list[Engine]:
    """The target alone, first, and speculation under `ratio` with priced exits; what it learns it keeps."""
    session: Any = None

    def alone(ids: Sequence[int]) -> list[int]:
        (text,) = autoregressive(pair, [list(ids)], settings=settings)
        return text

    def speculative(ids: Sequence[int]) -> list[int]:
        nonlocal session
        result = generate(
            pair,
            [list(ids)],
            settings=settings,
            session=session,
            controller=control.ratio(),
            length_exit=control.length_exits.priced(),
            system=system,
        )
        session = result.session
        return result.tokens[0]

    return [Engine("gelato, target alone", alone), Engine("gelato, ratio", speculative)]


def missing(name: str, *modules: str) -> str | None:
    """A line that says which packages an engine lacks, or cannot load; None if it is there.

    Args:
        name: of the engine.
        modules: what it needs, which is imported.
    """
    absent = [_DISTRIBUTIONS[module] for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        are = "is" if len(absent) == 1 else "are"
        return f"{name} is left out: {' and '.join(absent)} {are} not installed; {INSTALL}"
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:  # a library of the package's own that does not load
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return f"{name} is left out: {_DISTRIBUTIONS[module]} cannot be loaded ({reason}); install it again"
    return None


def llama_cpp(file: Path, kind: str, terms: Terms) -> list[Engine]:
    """llama.cpp by llama-cpp-python on a GGUF file, plain and with prompt lookup."""
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

    lookup = LlamaPromptLookupDecoding(num_pred_tokens=LLAMA_LOOKUP)
    return [engine(f"llama.cpp {kind}", None), engine(f"llama.cpp {kind}, lookup", lookup)]


def transformers(config: ModelConfig, tensors: Mapping[str, np.ndarray], terms: Terms) -> list[Engine]:
    """Transformers on PyTorch: float32, the same with prompt lookup, bfloat16.

    Args:
        config: the model.
        tensors: by Hugging Face's names, float32.
        terms: what all are held to.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoConfig, AutoModelForCausalLM  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(terms.threads)
    theirs = AutoConfig.for_model(config.family, **huggingface_fields(config))
    state = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in tensors.items()}

    def load(dtype: Any) -> Any:
        model = AutoModelForCausalLM.from_config(theirs, dtype=dtype)
        model.load_state_dict(state)
        return model.eval()

    exact = load(torch.float32)
    lookup = {"prompt_lookup_num_tokens": TRANSFORMERS_LOOKUP}
    return [
        Engine("transformers float32", _generator(exact, terms)),
        Engine("transformers float32, lookup", _generator(exact, terms, **lookup)),
        Engine("transformers bfloat16", _generator(load(torch.bfloat16), terms)),
    ]


def _generator(model: Any, terms: Terms, **options: Any) -> Callable[[Sequence[int]], list[int]]:
    """Greedy decoding by a model of transformers."""
    import torch  # pyright: ignore[reportMissingImports]

    def decode(ids: Sequence[int]) -> list[int]:
        prompt = torch.tensor([list(ids)])
        with torch.inference_mode():
            (text,) = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=terms.max_new_tokens,
                eos_token_id=list(terms.eos_ids) or None,
                pad_token_id=next(iter(terms.eos_ids), 0),
                **options,
            )
        return text[len(ids) :].tolist()

    return decode


def huggingface_fields(config: ModelConfig) -> dict[str, Any]:
    """A model's `config.json` as transformers names its fields."""
    scaling, rope = config.rope_scaling, {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_head,
    }


def installed(pair: Pair, terms: Terms, cache: Path, progress: OnProgress) -> tuple[list[Engine], list[str]]:
    """The engines of others that are installed, on the weights of a pair's target.

    Args:
        pair: its `name` says which weights.
        terms: what all are held to.
        cache: folder that keeps the GGUF files.
        progress: told of fetching, packing and loading.

    Returns:
        The engines, and a line for each that is left out.
    """
    engines: list[Engine] = []
    llama, torch = missing("llama.cpp", "llama_cpp"), missing("transformers", "torch", "transformers")
    if llama is None:
        file = peer_files.source_file(pair.name, cache, progress)
        if file is None:
            llama = f"llama.cpp is left out: --model {pair.name} does not come from a GGUF file; name one that does"
        else:
            kind = peer_files.kind_of(file)
            engines += llama_cpp(file, kind, terms)
            if kind != peer_files.Q8_0:
                engines += llama_cpp(peer_files.in_8_bits(file, cache, progress), peer_files.Q8_0, terms)
    if torch is None:
        checkpoint = load_checkpoint(pair.name, weights="float32", progress=progress)
        if checkpoint.config.weight_format == "float":
            engines += transformers(checkpoint.config, export_tensors(checkpoint.config, checkpoint.parameters), terms)
        else:
            torch = f"transformers is left out: the weights of --model {pair.name} are no floats; name one in floats"
    return engines, [line for line in (llama, torch) if line is not None]


def facts(terms: Terms, pair: Pair) -> dict[str, Any]:
    """Processor, threads, weights and the versions of the packages that are installed."""
    versions = {}
    for package in _DISTRIBUTIONS.values():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "model": pair.name,
        "weights": pair.target.config.weight_format,
        "cpu": processor(),
        "threads": terms.threads,
        "max_new_tokens": terms.max_new_tokens,
        "versions": versions,
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
