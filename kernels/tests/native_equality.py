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

LONGEST = 17
digest = hashlib.sha256()
faults = []


def check(name, part, whole):
    if not np.array_equal(part, whole):
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


products("q4", norm=True)
products("q8", gated=True)
attention(jnp.float32, 64, (9, 3), 100)
attention(jnp.bfloat16, 40, (4, 4), 70)
print(native.instructions(), digest.hexdigest())
if faults:
    sys.exit("not equal: " + "; ".join(faults))
