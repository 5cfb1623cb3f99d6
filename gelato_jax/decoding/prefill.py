"""From prompts to the state before the first round: both models read the prompt, the target speaks.

The first token comes from here, so a stream can show it while the round's program still loads.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax.decoding import accounting, keys
from gelato_jax.decoding.commit import append
from gelato_jax.decoding.records import DecodeState, Job, Memory, Shapes
from gelato_jax.decoding.sampling import next_token, shape_logits
from gelato_jax.models import Cache, Decoder, Model, allocate, write


def prefill(
    job: Job,
    tokens: Array,
    prompt_length: Array,
    limit: Array,
    seed: Array,
    shapes: Shapes,
    memory: Memory | None = None,
) -> DecodeState:
    """Read the prompts and commit each row's first token.

    Args:
        job: models, policy, physical world, law.
        tokens: `[B, S]` int32 prompts, padded; S a multiple of `shapes.prefill_chunk`.
        prompt_length: `[B]` int32, at least 1.
        limit: `[B]` int32 length at which a row ends: prompt and new tokens, at most S less the widest window.
        seed: [] integer.
        shapes: static sizes.
        memory: what the rows kept from their last request; a fresh one if not given.

    Returns:
        The state before round 1.
    """
    rows, size = tokens.shape
    row_keys = keys.row_keys(seed, rows)
    target_cache, last = read_prompt(job.target, tokens, prompt_length, shapes, size)
    draft_cache, _ = read_prompt(job.draft.model, tokens, prompt_length, shapes, size)
    first = first_token(job, last, row_keys, prompt_length)
    memory = fresh_memory(job, rows) if memory is None else memory
    open_account = partial(accounting.open_account, job.terms)
    return DecodeState(
        tokens=append(tokens, first[:, None], prompt_length, jnp.ones_like(prompt_length)),
        length=prompt_length + 1,
        limit=limit,
        done=jnp.isin(first, job.eos_ids) | (prompt_length + 1 >= limit),
        draft_length=prompt_length,
        target_cache=target_cache,
        draft_cache=draft_cache,
        key=row_keys,
        account=jax.vmap(open_account)(memory, keys.link_keys(row_keys), prompt_length),
    )


def fresh_memory(job: Job, rows: int) -> Memory:
    """The memory of rows that never asked before."""
    memory = accounting.fresh_memory(job.terms)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *jnp.shape(leaf))), memory)


def read_prompt(model: Model, tokens: Array, prompt_length: Array, shapes: Shapes, slots: int) -> tuple[Cache, Array]:
    """Run the prompts through a model in chunks of one size, as many as the longest needs.

    A shorter row's slots beyond its prompt hold garbage above its length.

    Returns:
        The cache, of `slots` slots at least, and the hidden state of each prompt's last token `[B, D]`.
    """
    decoder, chunk = model.bind(), shapes.prefill_chunk
    dtype = decoder.embed.embedding.dtype
    rows = tokens.shape[0]

    def read(carry: tuple[Array, Cache, Array]) -> tuple[Array, Cache, Array]:
        start, cache, last = carry
        lengths = jnp.full((rows,), start, jnp.int32)
        x, fresh = decoder.forward(lax.dynamic_slice_in_dim(tokens, start, chunk, axis=1), cache, lengths)
        inside = prompt_length - 1 - start
        here = jnp.take_along_axis(x, inside[:, None, None], axis=1, mode="clip")[:, 0]
        last = jnp.where(((inside >= 0) & (inside < chunk))[:, None], here, last)
        return start + chunk, write(cache, fresh, lengths, after=x), last

    empty = allocate(decoder.config, rows, slots, dtype)
    last = jnp.zeros((rows, decoder.config.hidden_size), jnp.float32)
    _, cache, last = lax.while_loop(
        lambda carry: carry[0] < prompt_length.max(), read, (jnp.zeros((), jnp.int32), empty, last)
    )
    return cache, last


def first_token(job: Job, hidden: Array, row_keys: Array, prompt_length: Array) -> Array:
    """Draw each row's first token from the target's law behind the prompt, `[B]` int32."""
    return draw_target(job, hidden, row_keys, jnp.zeros_like(prompt_length), prompt_length)


def draw_target(job: Job, hidden: Array, row_keys: Array, rounds: Array, positions: Array) -> Array:
    """Draw from the target's law at `hidden [B, D]`, by the payload's rule for random numbers: `[B]` int32."""
    decoder: Decoder = job.target.bind()
    weights = shape_logits(decoder.unembed(hidden), job.sampling)
    if job.policy.payload.scheme == "seeded":
        noise = keys.position_noise(row_keys, positions[:, None], weights.shape[-1])[:, 0]
        return gelato_kernels.gumbel_argmax(weights, noise)
    return next_token(weights, keys.round_uniforms(row_keys, rounds, keys.Use.NEXT_TOKEN, (2,)))
