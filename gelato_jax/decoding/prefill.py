"""From prompts to the state before the first round: both ends read the prompt, the target speaks.

The first token comes from here, so a stream can show it while the round's program still loads.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax import keys
from gelato_jax.decoding.commit import append
from gelato_jax.decoding.records import (
    DecodeState,
    DeviceState,
    EdgeState,
    Job,
    Lookup,
    RowState,
    Sampling,
    Session,
    Setup,
    Shapes,
)
from gelato_jax.decoding.sampling import shape_logits
from gelato_jax.decoding.update import fresh_session, open_row, read_prompt
from gelato_jax.models import Cache, Decoder, Model, allocate, write
from gelato_jax.payloads import Payload
from gelato_jax.types import record


def prefill(
    job: Job,
    tokens: Array,
    prompt_length: Array,
    limit: Array,
    seeds: Array,
    shapes: Shapes,
    session: Session | None = None,
) -> DecodeState:
    """Read the prompts and commit each row's first token.

    Args:
        job: models, policy, physical world, sampling.
        tokens: `[B, S]` int32 prompts, padded; S a multiple of `shapes.prefill_chunk`.
        prompt_length: `[B]` int32, at least 1.
        limit: `[B]` int32 length at which a row ends: prompt and new tokens, at most S less the widest window.
        seeds: `[B, 2]` see `keys.row_keys`.
        shapes: static sizes.
        session: what the rows kept from their last request; a fresh one if not given.

    Returns:
        The state before round 1.
    """
    row_keys = keys.row_keys(seeds)
    rows, reads = open_rows(job, prompt_length, limit, row_keys, shapes, session)
    target, sampling, payload = job.target, job.sampling, job.policy.payload
    cache, last = read_tokens(target, tokens, prompt_length, shapes)
    edge, first, fault = open_edge(target, sampling, payload, cache, last, prompt_length, row_keys)
    device = open_device(job, tokens, prompt_length, limit, row_keys, reads, first, fault, shapes)
    return DecodeState(device=device, edge=edge, row=rows)


def open_rows(
    job: Job, prompt_length: Array, limit: Array, row_keys: Array, shapes: Shapes, session: Session | None = None
) -> tuple[RowState, Array]:
    """The rows' counters behind their prompts, and whether the draft reads each, `[B]` bool. Arguments as `prefill`."""
    session = fresh_sessions(job.setup, rows=prompt_length.shape[0]) if session is None else session
    rows = jax.vmap(partial(open_row, setup=job.setup))(session, keys.link_keys(row_keys))
    see = partial(read_prompt, setup=job.setup, max_draft_length=shapes.max_draft_length)
    return jax.vmap(see)(rows, prompt_length, limit - prompt_length)


@partial(jax.jit, static_argnames="rows")  # every request asks for it, or for its outline
def fresh_sessions(setup: Setup, *, rows: int) -> Session:
    """The session of rows that never asked before, leaves `[B]`."""
    session = fresh_session(setup)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *jnp.shape(leaf))), session)


def open_edge(
    target: Model,
    sampling: Sampling,
    payload: Payload,
    cache: Cache,
    last: Array,
    prompt_length: Array,
    row_keys: Array,
) -> tuple[EdgeState, Array, Array]:
    """The edge after prompts that were read: its state, the first tokens `[B]`, and where logits were no numbers `[B]`.

    Args:
        target: the model.
        sampling: the distribution asked for.
        payload: the scheme.
        cache: of the prompts, from `read_tokens`.
        last: `[B, D]`, likewise.
        prompt_length: `[B]` int32.
        row_keys: `[B, 2]` as `keys.row_keys` gives them.
    """
    zeros = jnp.zeros_like(prompt_length)
    first, fault = draw_target(target, sampling, payload, last, row_keys, zeros, prompt_length)
    return edge_state(target, payload, first, prompt_length + 1, cache, row_keys, zeros + 1), first, fault


def edge_state(
    target: Model, payload: Payload, last: Array, length: Array, cache: Cache, row_keys: Array, rounds: Array
) -> EdgeState:
    """An edge's state; arguments as its fields: of a text, `length [B]`, all but the `last [B]` is cached."""
    row = jnp.zeros((last.shape[0], target.config.valid_outputs), jnp.float32) if payload.keeps_row else None
    return EdgeState(last=last, length=length, cache=cache, key=row_keys, round=rounds, row=row)


def open_device(
    job: Job,
    tokens: Array,
    prompt_length: Array,
    limit: Array,
    row_keys: Array,
    reads: Array,
    first: Array,
    fault: Array,
    shapes: Shapes,
) -> DeviceState:
    """The device after the prompts. Rows that do not read theirs catch up with it if they draft later on."""
    read_length = jnp.where(reads, prompt_length, 0)
    cache = () if isinstance(job.draft, Lookup) else read_tokens(job.draft.model, tokens, read_length, shapes)[0]
    return DeviceState(
        tokens=append(tokens, first[:, None], prompt_length, (~fault).astype(jnp.int32)),
        length=prompt_length + ~fault,
        limit=limit,
        done=fault | jnp.isin(first, job.eos_ids) | (prompt_length + 1 >= limit),
        fault=fault,
        pending=jnp.full_like(prompt_length, -1),
        cache=cache,
        cache_length=read_length,
        key=row_keys,
    )


@record
class Reading:
    """Texts on their way into a cache, in chunks. A shorter row's slots beyond its text hold garbage."""

    start: Array  # [] int32 tokens read so far
    cache: Cache
    last: Array  # [B, D] float32 hidden state of each text's last token, once that has been read


def begin_reading(model: Model, rows: int, slots: int) -> Reading:
    """Nothing read yet, of `rows` texts in buffers of `slots`."""
    decoder = model.bind()
    return Reading(
        start=jnp.zeros((), jnp.int32),
        cache=allocate(decoder.config, rows, slots, decoder.cache_dtype),
        last=jnp.zeros((rows, decoder.config.hidden_size), jnp.float32),
    )


def read_on(
    model: Model, tokens: Array, length: Array, reading: Reading, until: Array | int, shapes: Shapes
) -> Reading:
    """Run texts through a model in chunks of one size, up to their `until []` first tokens, rounded up to a chunk.

    Args:
        model: of which only hidden states and caches are asked.
        tokens: `[B, S]` int32 texts, padded.
        length: `[B]` int32 of each to be read.
        reading: what was read before; `until` went up to a multiple of the chunk then.
        until: see above; no text needs more than `length.max()`.
        shapes: whose `prefill_chunk` is the size.
    """
    decoder, chunk = model.bind(), shapes.prefill_chunk
    rows = tokens.shape[0]

    def read(reading: Reading) -> Reading:
        start = reading.start
        lengths = jnp.full((rows,), start, jnp.int32)
        window = lax.dynamic_slice_in_dim(tokens, start, chunk, axis=1)
        x, fresh = decoder.forward(window, reading.cache, lengths, length - start)
        inside = length - 1 - start
        here = jnp.take_along_axis(x, inside[:, None, None], axis=1, mode="clip")[:, 0]
        return Reading(
            start=start + chunk,
            cache=write(reading.cache, fresh, lengths, after=x),
            last=jnp.where(((inside >= 0) & (inside < chunk))[:, None], here, reading.last),
        )

    return lax.while_loop(lambda reading: reading.start < until, read, reading)


def read_tokens(model: Model, tokens: Array, prompt_length: Array, shapes: Shapes) -> tuple[Cache, Array]:
    """Read prompts from their first tokens to their last, as many chunks as the longest needs.

    Returns:
        The cache, of as many slots as `tokens`, and the hidden state of each prompt's last token `[B, D]`.
    """
    nothing = begin_reading(model, *tokens.shape)
    reading = read_on(model, tokens, prompt_length, nothing, prompt_length.max(), shapes)
    return reading.cache, reading.last


def draw_target(
    target: Model,
    sampling: Sampling,
    payload: Payload,
    hidden: Array,
    row_keys: Array,
    rounds: Array,
    positions: Array,
) -> tuple[Array, Array]:
    """Draw from the target's distribution at `hidden [B, D]`, by the payload's rule for random numbers.

    Returns:
        `[B]` int32 tokens, and `[B]` bool where the logits were no numbers and the token means nothing.
    """
    decoder: Decoder = target.bind()
    logits = decoder.unembed(hidden)
    stats = gelato_kernels.entropy(logits)
    weights = shape_logits(logits, sampling)
    if payload.scheme == "seeded":
        noise = keys.position_noise(row_keys, positions[:, None], weights.shape[-1])[:, 0]
        token = gelato_kernels.gumbel_argmax(weights, noise)
    else:
        token = gelato_kernels.sample(weights, keys.round_uniforms(row_keys, rounds, keys.Use.NEXT_TOKEN, (2,)))
    return token, ~jnp.isfinite(stats.logsumexp)
