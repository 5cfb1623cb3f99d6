"""The output distribution of whole rounds is the target's, and broken rounds are caught.

Target and draft are Markov chains over 6 tokens with some impossible steps. Rounds of random draft
length run until there are 3 tokens; the joint distribution of these 3 is compared with the exact product by
chi-square over 200k samples. z > 5 happens by chance 6e-6 of the time; the keys are fixed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk

VOCAB, DRAFTED, TOKENS, SAMPLES = 6, 3, 3, 200_000


def _chain(seed, impossible):
    logits = 1.2 * jax.random.normal(jax.random.key(seed), (VOCAB, VOCAB))
    return logits.at[impossible].set(-jnp.inf)


TARGET, DRAFT = _chain(0, (2, 3)), _chain(1, (4, 1))


def _log_q(draft_logits, tokens):
    return jnp.take_along_axis(jax.nn.log_softmax(draft_logits), tokens[..., None], -1)[..., 0]


class Broken(NamedTuple):
    """Ways to break a round; traced, so that one program serves all mutants."""

    ratio: float = 1.0
    residual_is_p: bool = False
    no_bonus_on_short_drafts: bool = False
    one_uniform: bool = False


def _halves(broken, target, tokens, length, noise, draft):
    """A round from `accept` and `sample_residual`, broken or not."""
    stop = gk.accept(target, tokens, _log_q(draft, tokens) - jnp.log(broken.ratio), length, noise.accept)
    padded = jnp.concatenate([draft, jnp.zeros_like(draft[:, :1])], axis=1)
    p, q = (jnp.take_along_axis(x, stop[:, None, None], 1)[:, 0] for x in (target, padded))
    all_stand = stop == jnp.where(broken.no_bonus_on_short_drafts, DRAFTED, length)
    reused = jnp.take_along_axis(jnp.pad(noise.accept, ((0, 0), (0, 1))), stop[:, None], 1)
    u = jnp.where(broken.one_uniform & (stop < length)[:, None], reused, noise.token)
    return stop, gk.sample_residual(p, q, all_stand | broken.residual_is_p, u).token


def _support(draft):
    """The distribution as ids and probabilities, the likeliest first, one of probability 0 last."""
    return gk.Support(*reversed(jax.lax.top_k(jax.nn.softmax(draft), VOCAB)))


FORMS = {
    "logits": lambda draft: {"draft_logits": draft},
    "probs": lambda draft: {"draft_probs": jax.nn.softmax(draft)},
    "support": lambda draft: {"draft_support": _support(draft)},
    "point_mass": lambda draft: {},
}


def _whole(_, target, tokens, length, noise, draft, *, form="logits", implementation=None):
    result = gk.speculative_verify(target, tokens, length, noise, **FORMS[form](draft), implementation=implementation)
    return result.num_accepted, result.next_token


LOSSLESS = {
    "whole": _whole,
    "reference": functools.partial(_whole, implementation="reference"),
    "probs": functools.partial(_whole, form="probs"),
    "support": functools.partial(_whole, form="support"),
    "point_mass": functools.partial(_whole, form="point_mass"),
    "halves": _halves,
}
MUTANTS = {
    "residual_replaced_by_p": Broken(residual_is_p=True),
    "no_bonus_on_short_drafts": Broken(no_bonus_on_short_drafts=True),
    "ratio_5_percent_high": Broken(ratio=1.05),
    "one_uniform_for_accept_and_residual": Broken(one_uniform=True),
}


def _draft_tokens(last, key):
    u = gk.uniforms(key, (DRAFTED, len(last), 2))

    def step(token, u_step):
        token = gk.sample(DRAFT[token], u_step)
        return token, token

    return jax.lax.scan(step, last, u)[1].T


def _append(text, count, window, emitted):
    """Write the first `emitted` tokens of each row's window behind its first `count`."""
    offset = jnp.arange(text.shape[1]) - count[:, None]
    value = jnp.take_along_axis(window, jnp.clip(offset, 0, DRAFTED), 1)
    return jnp.where((offset >= 0) & (offset < emitted[:, None]), value, text)


def _round(verify, state, key):
    text, count = state
    rows = len(count)
    draw, length_key, accept_key, token_key = jax.random.split(key, 4)
    last = jnp.where(count > 0, jnp.take_along_axis(text, jnp.maximum(count - 1, 0)[:, None], 1)[:, 0], 0)
    tokens = _draft_tokens(last, draw)
    length = jax.random.randint(length_key, (rows,), 0, DRAFTED + 1)
    before = jnp.concatenate([last[:, None], tokens], axis=1)
    noise = gk.VerifyUniforms(gk.uniforms(accept_key, (rows, DRAFTED)), gk.uniforms(token_key, (rows, 2)))
    stop, token = verify(TARGET[before], tokens, length, noise, DRAFT[before[:, :DRAFTED]])
    window = jnp.where(jnp.arange(DRAFTED + 1) == stop[:, None], token[:, None], jnp.pad(tokens, ((0, 0), (0, 1))))
    return (_append(text, count, window, stop + 1), count + stop + 1), None


def _matched_round(state, key):
    """Draft and target share Gumbel noise by absolute position: `match` decides, in one round from the start."""
    text, count = state
    rows = len(count)
    noise = gk.gumbel_noise(key, (DRAFTED + 1, rows, VOCAB))
    last, drafted = jnp.zeros(rows, jnp.int32), []
    for g in noise[:DRAFTED]:
        last = gk.gumbel_argmax(DRAFT[last], g)
        drafted.append(last)
    tokens = jnp.stack(drafted, axis=1)
    before = jnp.pad(tokens, ((0, 0), (1, 0)))
    result = gk.match(gk.gumbel_argmax(TARGET[before], noise.swapaxes(0, 1)), tokens, jnp.full(rows, DRAFTED))
    emitted, text = result.num_accepted, _append(text, count, tokens, result.num_accepted)
    window = jnp.broadcast_to(result.next_token[:, None], before.shape)
    text, count = _append(text, emitted, window, jnp.ones(rows, jnp.int32)), emitted + 1
    for position in range(TOKENS):  # the rest of the text, decoded one by one under the same noise
        before = text[:, position - 1] if position else jnp.zeros(rows, jnp.int32)
        token = gk.gumbel_argmax(TARGET[before], noise[position])
        text = text.at[:, position].set(jnp.where(position < count, text[:, position], token))
    return (text, count), None


def _empty():
    return jnp.zeros((SAMPLES, TOKENS), jnp.int32), jnp.zeros(SAMPLES, jnp.int32)


def _z(text):
    p = np.asarray(jax.nn.softmax(TARGET), np.float64)
    expected = SAMPLES * np.einsum("a,ab,bc->abc", p[0], p, p).ravel()
    counts = np.bincount(np.asarray(text) @ [VOCAB**2, VOCAB, 1], minlength=VOCAB**3)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi2 = np.sum((counts - expected)[possible] ** 2 / expected[possible])
    df = possible.sum() - 1
    return (chi2 - df) / np.sqrt(2 * df)


@functools.cache
def _rounds(name):
    verify = LOSSLESS[name]

    def run(keys, broken):
        return jax.lax.scan(functools.partial(_round, functools.partial(verify, broken)), _empty(), keys)[0]

    return jax.jit(run)


def _z_of(name, broken):
    keys = jax.random.split(jax.random.key(7), TOKENS)  # every round emits at least one token
    broken = jax.tree.map(jnp.asarray, broken)
    return _z(_rounds(name)(keys, broken)[0])


@pytest.mark.parametrize("name", LOSSLESS)
def test_joint_distribution_is_the_targets(name):
    assert _z_of(name, Broken()) < 5


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant):
    assert _z_of("halves", MUTANTS[mutant]) > 5


def test_shared_noise_has_the_targets_distribution():
    (text, _), _ = jax.jit(_matched_round)(_empty(), jax.random.key(8))
    assert _z(text) < 5
