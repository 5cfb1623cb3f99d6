"""Between a matrix [out, in] and the panels and groups of `BlockWeights`."""

import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.block_weights.records import GROUP, PANEL, BlockWeights, Format


def to_panels(numbers: Array, format: Format) -> Array:
    """Pack a matrix [out, in] of whole numbers, or of bfloat16."""
    numbers = jnp.pad(numbers, ((0, -numbers.shape[0] % PANEL), (0, -numbers.shape[1] % GROUP)))
    panels, groups = numbers.shape[0] // PANEL, numbers.shape[1] // GROUP
    if format == "bfloat16":
        columns = numbers.reshape(panels, PANEL, groups, GROUP).transpose(0, 2, 3, 1)
        bits = lax.bitcast_convert_type(columns.astype(jnp.bfloat16), jnp.uint16)
        return bits.reshape(panels, groups, PANEL * GROUP)
    if format == "q8":
        pairs = numbers.reshape(panels, PANEL, groups, GROUP // 2, 2).transpose(0, 2, 3, 1, 4)
        return pairs.astype(jnp.int8).reshape(panels, groups, PANEL * GROUP)
    # Input 8 * part + 4 * byte + 2 * high + odd: its half of a byte is `high`, its byte `byte` of the 16 bits of `odd`.
    parts = numbers.astype(jnp.uint8).reshape(panels, PANEL, groups, 4, 2, 2, 2).transpose(0, 2, 3, 1, 6, 4, 5)
    return (parts[..., 0] | (parts[..., 1] << 4)).reshape(panels, groups, PANEL * GROUP // 2)


def from_panels(weights: BlockWeights) -> Array:
    """The numbers [panels * 16, groups * 32], uint8, int8 or bfloat16, that `to_panels` packed."""
    panels, groups, _ = weights.packed.shape
    if weights.format == "bfloat16":
        bits = weights.packed.reshape(panels, groups, GROUP, PANEL).transpose(0, 3, 1, 2)
        parts = lax.bitcast_convert_type(bits, jnp.bfloat16)
    elif weights.format == "q8":
        parts = weights.packed.reshape(panels, groups, GROUP // 2, PANEL, 2).transpose(0, 3, 1, 2, 4)
    else:
        packed = weights.packed
        halves = jnp.stack([packed & 15, packed >> 4], axis=-1)
        parts = halves.reshape(panels, groups, 4, PANEL, 2, 2, 2).transpose(0, 3, 1, 2, 5, 6, 4)
    return parts.reshape(panels * PANEL, groups * GROUP)


def lane_numbers(weights: BlockWeights, panel: Array, lane: Array) -> Array:
    """The numbers [..., groups, 32] of outputs `16 * panel + lane` [...]; as `from_panels`."""
    panels, groups, _ = weights.packed.shape
    if weights.format == "bfloat16":
        bits = weights.packed.reshape(panels, groups, GROUP, PANEL)[panel, :, :, lane]
        return lax.bitcast_convert_type(bits, jnp.bfloat16)
    if weights.format == "q8":
        pairs = weights.packed.reshape(panels, groups, GROUP // 2, PANEL, 2)
        return pairs[panel, :, :, lane].reshape(*panel.shape, groups, GROUP)
    parts = weights.packed.reshape(panels, groups, 4, PANEL, 2, 2)[panel, :, :, lane]  # [..., groups, 4, odd, byte]
    numbers = jnp.stack([parts & 15, parts >> 4], axis=-1)  # [..., groups, 4, odd, byte, high]
    return jnp.moveaxis(numbers, -3, -1).reshape(*panel.shape, groups, GROUP)


def group_numbers(numbers: Array) -> Array:
    """Scales or minimums [out, groups] as float16 [panels, groups, 16]."""
    numbers = jnp.pad(numbers.astype(jnp.float16), ((0, -numbers.shape[0] % PANEL), (0, 0)))
    return numbers.reshape(-1, PANEL, numbers.shape[1]).swapaxes(1, 2)


def of_outputs(numbers: Array) -> Array:
    """Scales or minimums [panels, groups, 16] as float32 [panels * 16, groups]."""
    return numbers.astype(jnp.float32).swapaxes(1, 2).reshape(-1, numbers.shape[1])
