"""From a model with floating weights to one with 8-bit weights."""

import dataclasses

import gelato_kernels
from gelato_jax.models.decoder import Model, parameter_shapes

SCALE = "_scale"
"""What the path of a matrix's scales adds to the path of the matrix."""


def quantize(model: Model) -> Model:
    """Give every matrix but the embedding 8-bit weights, with one float32 scale per output.

    Args:
        model: `weight_format` `float`, with a head of its own.

    Returns:
        The same decoder with `weight_format` `int8`; norms, biases, probes and embedding are shared.

    Raises:
        ValueError: the weights are 8-bit already, or the head is the embedding.
    """
    if model.config.weight_format != "float":
        raise ValueError(f"weight_format is {model.config.weight_format!r} already; quantize a model of 'float'")
    config = dataclasses.replace(model.config, weight_format="int8")
    params = dict(model.params)
    for path in parameter_shapes(config):
        if path.endswith(f".kernel{SCALE}"):
            name = path.removesuffix(SCALE)
            kernel = model.params[name]
            rows = kernel if name == "head.kernel" else kernel.T
            params[name], params[path] = gelato_kernels.quantize_rows(rows)
    return Model(config=config, params=params)
