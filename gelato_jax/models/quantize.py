"""From a model with floating weights to one with weights of 8 or 4 bits, or of bfloat16 in blocks."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

import gelato_kernels
from gelato_jax.config import ModelConfig, WeightFormat
from gelato_jax.models.decoder import Model, stack_layers

SCALE = "_scale"
"""What the path of a matrix's scales adds to the path of the matrix."""
MINIMUM = "_minimum"
"""The same of its minimums."""

# Compiled: op by op, every shape would load thirty small programs at each start.
_pack = jax.jit(gelato_kernels.pack_blocks)
_round = jax.jit(gelato_kernels.quantize_blocks, static_argnums=1)

_OUTPUTS_FIRST = ("head.kernel", "embed.embedding")  # kept as [out, in] in every format


def quantize(model: Model, weight_format: WeightFormat = "int8") -> Model:
    """Keep every matrix in few bits: of `int8` all but the embedding, of formats in blocks all.

    Weights that were read from a GGUF file in blocks come back as they are there: a group's range gives its scale.

    Args:
        model: `weight_format` `float`; for `q8` also `int8`, whose whole numbers are kept. A matrix that it lacks, as
            a stored draft lacks its embedding, is left out.
        weight_format: `int8` (the head must be no embedding), or in blocks: `q8`, `q4`, `bfloat16`.

    Returns:
        The same decoder; norms, biases and probes are shared, and of `int8` the embedding.

    Raises:
        ValueError: the weights are of a format that cannot be brought to this one.
        GelatoError: `int8` with a head that is the embedding.
    """
    found = model.config.weight_format
    if weight_format == "float" or not (found == "float" or (found, weight_format) == ("int8", "q8")):
        raise ValueError(f"weight_format is {found!r}, cannot become {weight_format!r}; quantize a model of 'float'")
    config = dataclasses.replace(model.config, weight_format=weight_format)
    params = {}
    for path, array in model.params.items():
        if path.endswith(".kernel") or (config.block_format and path == "embed.embedding"):
            params |= _kept(path, array, model.params.get(f"{path}{SCALE}"), config)
        elif not path.endswith(SCALE):
            params[path] = array
    return Model(config=config, params=stack_layers(params) if config.is_stacked else params)


def restore_blocks(model: Model) -> Model:
    """A float model in the blocks that its layers were read from: `q4` where that loses nothing, else `q8`.

    Of GGUF's types that is Q4_1 and Q8_0 bit for bit; others are rounded to 8 bits.
    """
    kernels = [array.T for path, array in model.params.items() if path.endswith("kernel") and path != "head.kernel"]
    return quantize(model, "q4" if all(map(_is_four_bit, kernels)) else "q8")


def _is_four_bit(rows: Array) -> bool:
    return bool(jnp.array_equal(gelato_kernels.unpack_blocks(_round(rows, "q4")), rows))


def _kept(name: str, matrix: Array, scale: Array | None, config: ModelConfig) -> dict[str, Array]:
    """A matrix and its numbers by path; `scale` is that of int8 weights, `[out, in]`."""
    outputs_first = name in _OUTPUTS_FIRST
    rows = matrix if outputs_first or scale is not None else matrix.T
    if config.weight_format == "int8":
        values, scale = gelato_kernels.quantize_rows(rows)
        return {name: values, f"{name}{SCALE}": scale}
    assert config.block_format is not None
    if scale is not None:
        blocks = _pack(rows, scale[:, None])
    else:
        blocks = _round(rows, config.head_format if outputs_first else config.block_format)
    numbers = {f"{name}{SCALE}": blocks.scales, f"{name}{MINIMUM}": blocks.minimums}
    return {name: blocks.packed, **{path: array for path, array in numbers.items() if array is not None}}
