"""Exit code 0 where the compiled kernels give a row the same bits alone, in every window and in any batch.

Run by test_native.py, in a process for each set of instructions; prints the set and a digest of all results.
"""

import hashlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

import gelato_kernels as gk
from gelato_kernels import native
from gelato_kernels.block_weights.cases import around
from gelato_kernels.sweeps import native as sweeps

LONGEST = 17
digest = hashlib.sha256()
faults = []


def check(name, part, whole):
    if not np.all(np.asarray(part) == np.asarray(whole)):
        faults.append(name)


def products(format, **kind):
    inputs = around(0, 80, LONGEST, 160, format=format, **kind)
    del inputs["rows"]
    x, residual = inputs.pop("x"), inputs.pop("residual")

    @jax.jit
    def product(x, residual, rows=None):
        return gk.block_matmul(x, **inputs, residual=residual, rows=rows, implementation="native")

    whole = np.asarray(product(x, residual))
    digest.update(whole.tobytes())
    for window in range(1, LONGEST):
        start = LONGEST - window
        check(f"{format} window {window}", product(x[start:], residual[start:]), whole[start:])
    check(f"{format} rows", product(x, residual, 7)[:7], whole[:7])
    batch = product(np.stack([x[::-1], x]), np.stack([residual[::-1], residual]))
    check(f"{format} batch", batch[1], whole)
    some = np.array([3, 0, LONGEST], np.int32)
    ragged = product(np.stack([x, x, x[::-1]]), np.stack([residual, residual, residual[::-1]]), some)
    check(f"{format} rows of each", ragged[0, :3], whole[:3])
    check(f"{format} rows of each, last", ragged[2], whole[::-1])
    check(f"{format} rows of each, none", ragged[1], 0.0)
    many = product(np.tile(x, (8, 1)), np.tile(residual, (8, 1)))  # as a prompt
    check(f"{format} prompt", many, np.tile(whole, (8, 1)))


def attention(dtype, size, heads, slots):
    rng = np.random.default_rng(1)
    text = rng.standard_normal((2, 1, heads[1], slots + LONGEST, size)).astype(np.float32)
    query = rng.standard_normal((1, LONGEST, heads[0], size)).astype(np.float32)
    attend = jax.jit(lambda *arrays: gk.window_attention(*arrays, implementation="native"))

    def window(start, count):
        """Tokens of the text from `start` on, what is ahead of them cached; nan where nothing is."""
        before, end = slots - LONGEST + start, slots - LONGEST + start + count
        cache = np.where(np.arange(slots)[:, None] < before, text[..., :slots, :], np.nan)
        fresh = text[..., before:end, :]
        cache = jnp.asarray(cache).astype(dtype)
        return attend(query[:, start : start + count], *cache, jnp.array([before]), *fresh)

    whole = np.asarray(window(0, LONGEST))
    digest.update(whole.tobytes())
    name = f"attention {dtype.__name__} {size}"
    if not np.isfinite(whole).all():
        faults.append(f"{name} reads what is not there")
    for count in range(1, LONGEST + 1):
        check(f"{name} window {count}", window(LONGEST - count, count), whole[:, LONGEST - count :])
    for start in range(LONGEST):
        check(f"{name} token {start}", window(start, 1), whole[:, start : start + 1])
    alone = window(0, 4)
    arrays = [query[:, :4], *(jnp.asarray(text[..., :slots, :]).astype(dtype)), jnp.array([slots - LONGEST])]
    arrays += [text[0][:, :, slots - LONGEST :][:, :, :4], text[1][:, :, slots - LONGEST :][:, :, :4]]
    batch = attend(*(jnp.concatenate([jnp.asarray(a) * 2 if a.ndim > 1 else a // 2, jnp.asarray(a)]) for a in arrays))
    check(f"{name} batch", batch[1:], alone)


def rotary(heads, size, slots):
    """A window's attention from its projection on: each token as it is alone, wherever the window begins."""
    rng = np.random.default_rng(2)
    groups = heads[0] + 2 * heads[1]
    projected = rng.standard_normal((1, LONGEST, groups * size)).astype(np.float32)
    angles = np.arange(LONGEST)[:, None] * 0.3 ** np.arange(size // 2)
    cosine, sine = np.cos(angles).astype(np.float32)[None], np.sin(angles).astype(np.float32)[None]
    norms = (*(1 + 0.1 * rng.standard_normal((2, size)).astype(np.float32)), 1e-5)

    @jax.jit
    def attend(projected, cosine, sine, key, value, length, rows=None):
        return gk.rotary_attention(
            projected, key, value, length, cosine, sine, norms=norms, rows=rows, implementation="native"
        )

    empty = np.full((1, heads[1], slots, size), np.nan, np.float32)
    whole = attend(projected, cosine, sine, empty, empty, jnp.array([0]))
    digest.update(np.asarray(whole.output).tobytes())
    some = attend(projected, cosine, sine, empty, empty, jnp.array([0]), 7)
    for name, part, all_ in zip(whole._fields, some, whole, strict=True):
        axis = 1 if name == "output" else 2
        check(
            f"rotary rows, {name}",
            jax.lax.slice_in_dim(part, 0, 7, axis=axis),
            jax.lax.slice_in_dim(all_, 0, 7, axis=axis),
        )

    def three(x):
        return np.concatenate([np.asarray(x)] * 3)

    lengths, counts = np.zeros(3, np.int32), np.array([5, 0, LONGEST], np.int32)
    ragged = attend(three(projected), three(cosine), three(sine), three(empty), three(empty), lengths, counts)
    for row, count in enumerate(counts):
        check(f"rotary rows of each, {count}", ragged.output[row, :count], whole.output[0, :count])
        check(f"rotary rows of each, behind {count}", ragged.output[row, count:], 0.0)
        check(f"rotary rows of each, keys {count}", ragged.key[row, :, :count], whole.key[0, :, :count])
    key, value = empty.copy(), empty.copy()
    for t in range(LONGEST):
        at = slice(t, t + 1)
        alone = attend(projected[:, at], cosine[:, at], sine[:, at], key, value, jnp.array([t]))
        check(f"rotary token {t}", alone.output, whole.output[:, at])
        key[:, :, at], value[:, :, at] = alone.key, alone.value


def rows_of_logits(vocab):
    logits = 3 * np.random.default_rng(3).standard_normal((5, vocab)).astype(np.float32)
    statistics = jax.jit(lambda x: sweeps.statistics(x, None))
    warp = jax.jit(lambda x: gk.warp_logits(x, 0.8, top_k=40, top_p=0.9, implementation="native"))
    for name, op in (("statistics", statistics), ("warp", warp)):
        whole = jax.tree.map(np.asarray, op(logits))
        digest.update(b"".join(field.tobytes() for field in jax.tree.leaves(whole)))
        for row in range(len(logits)):
            alone = op(logits[row])
            same = jax.tree.map(lambda part, all_, row=row: np.array_equal(part, all_[row]), alone, whole)
            check(f"{name} {vocab} row {row}", np.asarray(jax.tree.leaves(same)), True)


products("q4", norm=True)
products("q8", gated=True)
products("bfloat16", norm=True)
attention(jnp.float32, 64, (9, 3), 300)  # of several chunks
attention(jnp.bfloat16, 40, (4, 4), 70)
rotary((6, 2), 64, 40)
rotary((4, 4), 24, 40)
rows_of_logits(49152)
rows_of_logits(5003)
print(native.instructions(), digest.hexdigest())
if faults:
    sys.exit("not equal: " + "; ".join(faults))
