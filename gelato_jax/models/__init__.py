"""Flax NNX decoders of the Llama, Qwen2 and Qwen3 families, with exits and per-row caches."""

from gelato_jax.models.cache import Cache, Fresh, KeyValue, allocate, join_rows, pad_window, split_rows, write
from gelato_jax.models.decoder import Decoder, Model, parameter_outlines, parameter_shapes, random_model
from gelato_jax.models.quantize import quantize, restore_blocks
from gelato_jax.models.work import exit_work

__all__ = [
    "Cache",
    "Decoder",
    "Fresh",
    "KeyValue",
    "Model",
    "allocate",
    "exit_work",
    "join_rows",
    "pad_window",
    "parameter_outlines",
    "parameter_shapes",
    "quantize",
    "random_model",
    "restore_blocks",
    "split_rows",
    "write",
]
