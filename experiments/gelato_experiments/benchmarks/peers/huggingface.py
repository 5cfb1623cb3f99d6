"""Transformers on PyTorch, on the floats that a checkpoint holds; nothing is fetched.

Its assisted decoding is left out: our draft shares the target's embedding, has exits and 8-bit weights, and is no model
that transformers knows. Prompt lookup drafts from the text itself, and needs none.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gelato_checkpoints import load_checkpoint
from gelato_checkpoints.keymaps import export_tensors
from gelato_experiments.benchmarks.peers.engine import LOOKUP, Engine, LeftOut, Request, require
from gelato_experiments.benchmarks.peers.worker import Worker
from gelato_jax.config import ModelConfig


def engines(model: str, request: Request) -> list[Engine]:
    """Float32, the same with prompt lookup, bfloat16.

    Args:
        model: as `gelato generate --model` takes it.
        request: what all are held to.

    Raises:
        LeftOut: a package is missing or does not work, or the model has no float weights.
    """
    require("torch", "transformers")
    return Worker(load, model, request, advice="install torch and transformers again").engines()


def load(model: str, request: Request) -> list[Engine]:
    """The engines, in this process."""
    checkpoint = load_checkpoint(model, weights="float32")
    config = checkpoint.config
    if config.weight_format != "float":
        raise LeftOut(f"the weights of --model {model} are no floats; name one in floats")
    tensors = export_tensors(config, checkpoint.parameters)
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoConfig, AutoModelForCausalLM  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(request.threads)
    theirs = AutoConfig.for_model(config.family, **huggingface_fields(config))
    state = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in tensors.items()}

    def in_dtype(dtype: Any) -> Any:
        loaded = AutoModelForCausalLM.from_config(theirs, dtype=dtype)
        loaded.load_state_dict(state)
        return loaded.eval()

    exact = in_dtype(torch.float32)
    lookup = {"prompt_lookup_num_tokens": LOOKUP}
    return [
        Engine("transformers float32", _generator(exact, request)),
        Engine("transformers float32, lookup", _generator(exact, request, **lookup)),
        Engine("transformers bfloat16", _generator(in_dtype(torch.bfloat16), request)),
    ]


def _generator(model: Any, request: Request, **options: Any) -> Callable[[Sequence[int]], list[int]]:
    """Greedy decoding by a model of transformers."""
    import torch  # pyright: ignore[reportMissingImports]

    def decode(ids: Sequence[int]) -> list[int]:
        prompt = torch.tensor([list(ids)])
        with torch.inference_mode():
            (text,) = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=request.max_new_tokens,
                eos_token_id=list(request.eos_ids) or None,
                pad_token_id=next(iter(request.eos_ids), 0),
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
