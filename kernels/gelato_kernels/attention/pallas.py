"""Pallas form of `window_attention`: the cache split over programs that know nothing of each other.

A program attends from the queries of one key head to a part of the cache and writes a partial
softmax: the maximum, the sum of weights, the values summed with them. XLA merges these with the
window's own share. Without the split one row would keep only as many of a GPU's processors busy as
the model has key heads (flash decoding; partial softmaxes merge as in arXiv 2205.14135, section 3.1).

A part is one block of slots on a TPU, which fetches it ahead, and a few blocks one after another on
a GPU, where one block is what registers hold. Letters as in `window`; P parts of the cache. In
Triton Q and H are padded to powers of two, and masks keep out what lies beyond the arrays.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from gelato_kernels import tuning
from gelato_kernels.attention.window import MASKED, attend, merge
from gelato_kernels.compilers import Compiler

BLOCK_SLOTS = {"tpu": 512, "triton": 128}
"""Slots that a program has in hand at once (assumed: on a TPU their transfer outlasts what a step costs)."""
BLOCK_BYTES = 16 * 2**10
"""Of a block's keys on a GPU. Two blocks of keys and values are 64 KiB, which any processor's shared memory holds, as
its registers hold the products of 64 queries and heads of 128 (ptxas for sm_80, sm_89, sm_90a)."""
GPU_STAGES = 2
"""Blocks in hand on a GPU: one is multiplied while the next arrives."""
GPU_PROGRAMS = 256
"""Programs on a GPU, if the cache is long enough (assumed: two for each processor of the largest). More of them would
write more partial softmaxes, and one has the size of 16 to 128 slots."""
SMALLEST_PRODUCT = 16
"""Rows and columns of a product in Triton."""


def window_attention(*arrays: Array, compiler: Compiler, block_slots: int | None = None) -> Array:
    """`window_attention` of scaled queries.

    Args:
        *arrays: of the op.
        compiler: compiler of the kernel.
        block_slots: slots of the cache that a program has in hand at once, a power of two from 16 on; None is what
            `tuning` has for the device, or else `BLOCK_SLOTS`, on a GPU within `BLOCK_BYTES`.

    Returns:
        [B, T, N, H] float32.
    """
    return attend(partial(_read, compiler, block_slots or _block_slots(compiler, arrays[1])), *arrays)


def _block_slots(compiler: Compiler, key: Array) -> int:
    slots = tuning.block("window_attention", BLOCK_SLOTS[compiler.name])
    if compiler.name == "tpu":
        return slots
    return min(slots, max(SMALLEST_PRODUCT, BLOCK_BYTES // (_power_of_two(key.shape[3]) * key.dtype.itemsize)))


def _read(
    compiler: Compiler, block_slots: int, query: Array, key: Array, value: Array, lengths: Array, maximum: Array
) -> tuple[Array, Array, Array]:
    """The cache's share (`ReadCache`): the partial softmaxes of its parts, merged."""
    lengths = jnp.clip(lengths, 0, key.shape[2])
    weighted, lanes = _partials(compiler, block_slots, lengths, query.astype(key.dtype), key, value)
    return merge(lanes[..., :1], lanes[..., 1:2], weighted, maximum)


def _partials(
    compiler: Compiler, block_slots: int, lengths: Array, query: Array, key: Array, value: Array
) -> tuple[Array, Array]:
    """Partial softmaxes of every part: weighted values [B, K, P, Q, H], and lanes [B, K, P, Q, lanes] of `_kernel`."""
    batch, kv_heads, queries, size = query.shape
    slots = key.shape[2]
    if compiler.name == "tpu":
        rows, columns = queries, size
        part_slots = block_slots = min(block_slots, slots)
    else:
        rows, columns = _power_of_two(queries), _power_of_two(size)
        block_slots = min(block_slots, _power_of_two(slots))
        blocks = pl.cdiv(slots, block_slots)
        part_slots = block_slots * min(blocks, max(1, batch * kv_heads * blocks // GPU_PROGRAMS))
    grid = (batch, kv_heads, pl.cdiv(slots, part_slots))
    query_spec = pl.BlockSpec((None, None, rows, columns), lambda row, head, *_: (row, head, 0, 0))
    cache_spec = pl.BlockSpec((None, None, part_slots, columns), partial(_live_part, part_slots))
    out_specs = [
        pl.BlockSpec((None, None, None, rows, width), lambda row, head, part, *_: (row, head, part, 0, 0))
        for width in (columns, compiler.lanes)
    ]
    out_shape = [jax.ShapeDtypeStruct((*grid, queries, width), jnp.float32) for width in (size, compiler.lanes)]
    kernel = partial(_kernel, compiler=compiler, block_slots=block_slots, sizes=(queries, size))
    whole = pl.BlockSpec((batch,), lambda *_: (0,))
    return compiler.call(
        kernel,
        grid=grid,
        in_specs=[*([] if compiler.name == "tpu" else [whole]), query_spec, cache_spec, cache_spec],
        out_specs=out_specs,
        out_shape=out_shape,
        name="window_attention",
        prefetched=1,  # lengths
        stages=GPU_STAGES,
    )(lengths, query, key, value)


def _power_of_two(n: int) -> int:
    return max(SMALLEST_PRODUCT, pl.next_power_of_2(n))


def _live_part(part_slots: int, row: Any, head: Any, part: Any, *prefetched: Any) -> tuple[Any, ...]:
    """Index of a part; where `lengths` are known ahead, a dead one's is that of the last live one, which is there."""
    if prefetched:
        part = jnp.minimum(part, lax.div(jnp.maximum(prefetched[0][row] - 1, 0), part_slots))
    return row, head, part, 0


def _kernel(
    lengths_ref: Any,
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    weighted_ref: Any,
    lanes_ref: Any,
    *,
    compiler: Compiler,
    block_slots: int,
    sizes: tuple[int, int],
) -> None:
    """A part's partial softmax: weighted values [Q, H], and lanes [Q, lanes]: the maximum, then the sum of weights."""
    queries, size = sizes
    part_slots = key_ref.shape[0]
    live = jnp.clip(lengths_ref[pl.program_id(0)] - pl.program_id(2) * part_slots, 0, part_slots)
    query = _load(compiler, query_ref, queries, size)

    def add_block(index: Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start = index * block_slots
        key, value = (
            _load(compiler, _slots(ref, start, block_slots), live - start, size) for ref in (key_ref, value_ref)
        )
        return _add(so_far, query, key, value, live - start)

    rows, columns = query.shape
    nothing = jnp.full((rows, 1), MASKED, jnp.float32), jnp.zeros((rows, 1)), jnp.zeros((rows, columns))
    blocks = lax.div(live + block_slots - 1, block_slots)
    maximum, total, weighted = lax.fori_loop(0, blocks, add_block, nothing)
    first_lane = lax.broadcasted_iota(jnp.int32, lanes_ref.shape, 1) == 0
    _store(compiler, lanes_ref, jnp.where(first_lane, maximum, total), queries, compiler.lanes)
    _store(compiler, weighted_ref, weighted, queries, size)


def _add(
    so_far: tuple[Array, Array, Array], query: Array, key: Array, value: Array, live: Array
) -> tuple[Array, Array, Array]:
    """A softmax's maximum and sum of weights [Q, 1] and weighted values [Q, H], with another block's `live` slots."""
    before, total, weighted = so_far
    scores = _product(query, key, 1)
    scores = jnp.where(lax.broadcasted_iota(jnp.int32, scores.shape, 1) < live, scores, MASKED)
    maximum = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
    weights, factor = jnp.exp(scores - maximum), jnp.exp(before - maximum)
    total = total * factor + jnp.sum(weights, axis=1, keepdims=True)
    return maximum, total, weighted * factor + _product(weights.astype(value.dtype), value, 0)


def _slots(ref: Any, start: Array, count: int) -> Any:
    return ref if ref.shape[0] == count else ref.at[pl.ds(start, count)]


def _inside(shape: tuple[int, int], rows: Array | int, columns: int) -> Array:
    row, column = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return (row < rows) & (column < columns)


def _load(compiler: Compiler, ref: Any, rows: Array | int, columns: int) -> Array:
    """Numbers of a block, zeros after its first `rows` and `columns`."""
    inside = _inside(ref.shape, rows, columns)
    if compiler.name == "triton":  # what lies beyond an array would be read
        return triton.load(ref, mask=inside, other=0.0)
    return jnp.where(inside, ref[...], jnp.zeros((), ref.dtype))


def _store(compiler: Compiler, ref: Any, numbers: Array, rows: int, columns: int) -> None:
    if compiler.name == "triton":
        triton.store(ref, numbers, mask=_inside(ref.shape, rows, columns))
    else:
        ref[...] = numbers


def _product(left: Array, right: Array, axis: int) -> Array:
    """Sums in float32 over the last axis of `left` and an `axis` of `right`, which have one dtype."""
    # Products of bfloat16 are exact, and a TPU's compiler takes no higher setting of a caller for them.
    precision = None if right.dtype == jnp.float32 else lax.Precision.DEFAULT
    dimensions = (((1,), (axis,)), ((), ()))
    return lax.dot_general(left, right, dimensions, precision=precision, preferred_element_type=jnp.float32)
