"""From a model with floating weights to one with weights of 8 or 4 bits."""

import dataclasses

import jax.numpy as jnp
from jax import Array

import gelato_kernels
from gelato_jax.config import ModelConfig, WeightFormat
from gelato_jax.models.decoder import Model, parameter_shapes

SCALE = "_scale"
"""What the path of a matrix's scales adds to the path of the matrix."""
MINIMUM = "_minimum"
"""The same of its minimums."""

_OUTPUTS_FIRST = ("head.kernel", "embed.embedding")  # kept as [out, in] in every format


def quantize(model: Model, weight_format: WeightFormat = "int8") -> Model:
    """Keep every matrix in few bits: of `int8` all but the embedding, of `q8` and `q4` all.

    Weights that were read from a GGUF file in blocks come back as they are there: a group's range gives its scale.

    Args:
        model: `weight_format` `float`; for `q8` also `int8`, whose whole numbers are kept.
        weight_format: `int8` (the head must be no embedding), `q8` or `q4`.

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
    paths = parameter_shapes(config)
    params = {path: array for path, array in model.params.items() if path in paths}
    for path in paths:
        if path.endswith(SCALE):
            name = path.removesuffix(SCALE)
            params |= _kept(name, model.params[name], model.params.get(path), config)
    return Model(config=config, params=params)


def lossless_format(model: Model) -> WeightFormat | None:
    """The fewest bits in which the layers' matrices of a float model stay as they are, `q4` or `q8`; None: neither."""
    kernels = [array.T for path, array in model.params.items() if path.endswith("kernel") and path != "head.kernel"]
    for kind in ("q4", "q8"):
        if all(_is_lossless(kernel, kind) for kernel in kernels):
            return kind
    return None


def _is_lossless(rows: Array, kind: WeightFormat) -> bool:
    return bool(jnp.array_equal(gelato_kernels.unpack_blocks(gelato_kernels.quantize_blocks(rows, kind)), rows))


def _kept(name: str, matrix: Array, scale: Array | None, config: ModelConfig) -> dict[str, Array]:
    """A matrix and its numbers by path; `scale` is that of int8 weights, `[out, in]`."""
    outputs_first = name in _OUTPUTS_FIRST
    rows = matrix if outputs_first or scale is not None else matrix.T
    if config.weight_format == "int8":
        values, scale = gelato_kernels.quantize_rows(rows)
        return {name: values, f"{name}{SCALE}": scale}
    if scale is not None:
        blocks = gelato_kernels.pack_blocks(rows, scale[:, None])
    else:
        blocks = gelato_kernels.quantize_blocks(rows, "q8" if outputs_first else config.weight_format)
    minimums = {} if blocks.minimums is None else {f"{name}{MINIMUM}": blocks.minimums}
    return {name: blocks.packed, f"{name}{SCALE}": blocks.scales, **minimums}
