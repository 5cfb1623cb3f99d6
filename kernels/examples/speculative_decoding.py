"""Speculative decoding in a loop of plain jnp: the kernels know no model, cache or controller.

    python kernels/examples/speculative_decoding.py

Target and draft are tables of logits by last token; put your models' forward passes in their place.
"""

import jax
import jax.numpy as jnp

import gelato_kernels as gk

VOCAB, DRAFTED, WANTED, ROWS = 5003, 4, 64, 8
target_key, noise_key, seed = jax.random.split(jax.random.key(0), 3)
TARGET = 4 * jax.random.normal(target_key, (VOCAB, VOCAB))
DRAFT = TARGET + jax.random.normal(noise_key, (VOCAB, VOCAB))


@jax.jit
def decode(key, target, draft):
    """Rows of WANTED tokens or more, drawn from the target's distribution, and how many rounds they took."""
    rows = jnp.arange(ROWS)[:, None]

    def step(last, uniforms):
        token = gk.sample(draft[last], uniforms)
        return token, token

    def one_round(state):
        text, length, rounds, key = state
        key, draw, accept, residual = jax.random.split(key, 4)
        last = text[rows[:, 0], length - 1]
        _, drafted = jax.lax.scan(step, last, gk.uniforms(draw, (DRAFTED, ROWS, 2)))
        window = jnp.concatenate([last[:, None], drafted.T], axis=1)
        noise = gk.VerifyUniforms(gk.uniforms(accept, (ROWS, DRAFTED)), gk.uniforms(residual, (ROWS, 2)))
        drafts = jnp.full(ROWS, DRAFTED)
        seen = gk.speculative_verify(target[window], drafted.T, drafts, noise, draft_logits=draft[window[:, :-1]])
        new = jnp.pad(drafted.T, ((0, 0), (0, 1))).at[rows[:, 0], seen.num_accepted].set(seen.next_token)
        text = text.at[rows, length[:, None] + jnp.arange(DRAFTED + 1)].set(new)  # the next round overwrites the rest
        return text, length + seen.num_accepted + 1, rounds + 1, key

    text = jnp.zeros((ROWS, 1 + WANTED * (DRAFTED + 1) + DRAFTED), jnp.int32)
    start = (text, jnp.ones(ROWS, jnp.int32), 0, key)
    return jax.lax.while_loop(lambda state: jnp.min(state[1]) <= WANTED, one_round, start)


if __name__ == "__main__":
    text, length, rounds, _ = decode(seed, TARGET, DRAFT)
    print(text[0, 1 : length[0]])
    print(f"{float(jnp.mean(length - 1) / rounds):.2f} tokens a round, of at most {DRAFTED + 1}")
