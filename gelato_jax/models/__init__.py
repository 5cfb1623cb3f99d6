"""Flax NNX decoders of the Llama, Qwen2 and Qwen3 families, with exits and per-row caches."""

from gelato_jax.models.cache import Cache, KeyValue, allocate, write
from gelato_jax.models.decoder import Decoder, Model, parameter_outlines, parameter_shapes, random_model
from gelato_jax.models.quantize import quantize, restore_blocks
from gelato_jax.models.work import exit_work

__all__ = [
    "Cache",
    "Decoder",
    "KeyValue",
    "Model",
    "allocate",
    "exit_work",
    "parameter_outlines",
    "parameter_shapes",
    "quantize",
    "random_model",
    "restore_blocks",
    "write",
]
