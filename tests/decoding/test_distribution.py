"""Sampled text has the target's distribution, exactly; and the same check catches what would bend it.

`gelato_experiments.benchmarks.law` says how: a chi-square over the joint distribution of three tokens. A correct
decoder exceeds z = 5 with probability under 1e-5 a check; over the some 100 checks here, under 1e-3,
once and for all, since seeds are fixed.
"""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_experiments.benchmarks import law_mutants
from gelato_experiments.benchmarks.law import (
    LIMIT_Z,
    NEW_TOKENS,
    ROWS,
    SETTINGS,
    VOCAB,
    count_texts,
    joint_law,
    target_logits,
    tiny_pair,
    z_score,
)
from gelato_jax import control, payloads
from gelato_jax.control.base import ControllerRule
from gelato_jax.decoding import catch_up, encode_prompts, job, lookup, make_job
from gelato_jax.decoding.programs import decode
from gelato_jax.types import RepeatOdds, RepeatOddsSet, RoundPlan
from gelato_kernels.attention import xla

NARROW = (
    payloads.top_p(0.8),
    payloads.top_k(3),
    payloads.quantized(3),
    payloads.scalar(),
    payloads.candidates(2),
    payloads.seeded(),
)
"""Every scheme but that which sends all of q."""


@pytest.fixture(autouse=True, scope="module")
def tiny_buffers(small_buffers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SMALLEST_BUFFER", 8)
        patch.setattr(xla, "SHORTEST_PREFIX", 8)
        for module in (catch_up, job):
            patch.setattr(module, "CATCH_UP_WINDOW", 2)
        yield


@pytest.fixture(scope="module")
def pair() -> gelato.Pair:
    return tiny_pair()


@pytest.fixture(scope="module")
def logits(pair) -> np.ndarray:
    return target_logits(pair)


CONTROLLERS = ("ratio", "gelato", "gelato_estimated", "static", "hf_schedule")
LENGTH_EXITS = ("none", "bucket", "priced", "adaedl", "svip", "confidence")
PEER_CONTROLLERS = ("flexspec", "ucb_specstop", "banditspec")
PEER_EXITS = ("sled", "edgellm_no_tree", "confidence_roc", "specdec_entropy")
RULES = [
    *itertools.product(enumerate(CONTROLLERS), enumerate(LENGTH_EXITS)),
    *itertools.product(enumerate(("ratio", *PEER_CONTROLLERS)), enumerate(PEER_EXITS)),
]
DEPTH_EXITS = ("fixed", "entropy", "priced")
DRAFT_SAMPLINGS = ("fixed", "entropy")


def test_every_rule_keeps_the_distribution(pair, logits, policy):
    """Each of our controllers with each of our exits, the peers' likewise; and pooled, 200k texts or more a rule."""
    distribution = joint_law(logits, SETTINGS)
    pools: dict[str, np.ndarray] = {}
    scores = {}
    for (row, controller), (number, length_exit) in RULES:
        names = (controller, length_exit, DEPTH_EXITS[(number + row) % 3], DRAFT_SAMPLINGS[(number + row) % 2])
        seen, totals = count_texts(pair, {**policy(*names), "payload": payloads.full()}, seed=len(scores))
        assert 0.1 < int(totals.accepted.sum()) / int(totals.drafted.sum()) < 0.9
        scores[names] = z_score(seen, distribution)
        for kind, name in enumerate(names):
            pools[f"{kind} {name}"] = pools.get(f"{kind} {name}", 0) + seen
    pooled = {name: z_score(seen, distribution) for name, seen in pools.items()}
    assert len(pooled) == len(control.CONTROLLERS) + len(control.LENGTH_EXITS) + 3 + 2
    assert min(seen.sum() for seen in pools.values()) >= 200_000
    assert max(scores.values()) < LIMIT_Z, scores
    assert max(pooled.values()) < LIMIT_Z, pooled


def adaptive() -> dict:
    """Rules under which past draws steer what is drafted."""
    return {
        "controller": control.ratio(power_budget_w=1.5, penalty_weight=0.05),
        "length_exit": control.length_exits.bucket(1.3, 0.2),
        "depth_exit": control.depth_exits.entropy(1.3),
        "draft_sampling": control.draft_sampling.entropy(1.5, 0.6, 1.0),
    }


@pytest.mark.parametrize("payload", NARROW, ids=lambda payload: payload.scheme)
def test_every_payload_keeps_the_distribution(payload, pair, logits):
    """Sampled, the distribution; and with the same program at temperature 0, the target's greedy text."""
    rules = {**adaptive(), "payload": payload}
    seen, totals = count_texts(pair, rules, runs=4, seed=100)
    assert 0.1 < int(totals.accepted.sum()) / int(totals.drafted.sum()) < 0.9
    assert z_score(seen, joint_law(logits, SETTINGS)) < LIMIT_Z

    greedy = dataclasses.replace(SETTINGS, temperature=0.0)
    prompts = [[token] for token in range(VOCAB)]
    alone = gelato.autoregressive(pair, prompts, settings=greedy)
    work, batch = make_job(pair, settings=greedy, **rules), encode_prompts(pair, (prompts * ROWS)[:ROWS], greedy)
    text, totals, _ = decode(work, **batch, shapes=SETTINGS.shapes)
    assert 0 < int(totals.accepted.sum()) < int(totals.drafted.sum())
    for row, expected in zip(np.asarray(text.tokens[:VOCAB]), alone, strict=True):
        assert row[1 : 1 + NEW_TOKENS].tolist() == expected


def streams_after_a_refusal():
    """Drafts at first and behind accepted drafts; the target streams behind a refusal, so past draws decide."""
    drafting = lambda state, forecast: RoundPlan(  # noqa: E731
        draft_budget=2 * state,
        token_value=jnp.ones(()),
        energy_price=jnp.zeros(()),
        time_price=jnp.zeros(()),
        acceptance_rate=forecast.rate,
    )
    rule = ControllerRule(
        init=lambda params: jnp.ones((), jnp.int32),
        plan=lambda params, state, cost_table, forecast: drafting(state, forecast),
        update=lambda params, state, outcome: jnp.where(outcome.rejected, 0, 1),
        queue=lambda params, state: jnp.zeros(()),
    )
    return control.Controller(params=jnp.zeros(()), estimator=control.Estimator.create(), rule=rule)


@pytest.mark.parametrize(
    "payload", [payloads.full(), payloads.scalar(), payloads.candidates(2)], ids=lambda payload: payload.scheme
)
def test_streams_among_drafts_keep_the_distribution(payload, pair, logits):
    settings = dataclasses.replace(SETTINGS, stream_length=2)
    rules = {"controller": streams_after_a_refusal(), "length_exit": control.length_exits.none(), "payload": payload}
    seen, totals = count_texts(pair, rules, settings=settings, runs=4, seed=900)
    assert int(totals.drafted.sum()) > ROWS
    assert int(totals.passes.sum()) > int(totals.rounds.sum()) + ROWS / 10
    assert z_score(seen, joint_law(logits, settings)) < LIMIT_Z


@pytest.mark.parametrize(
    ("payload", "changes"),
    [
        (payloads.full(), {"temperature": 0.7}),
        (payloads.full(), {"temperature": 1.6, "top_p": 0.8}),
        (payloads.full(), {"top_k": 3}),
        (payloads.seeded(), {"temperature": 0.7, "top_p": 0.9}),
    ],
    ids=["temperature", "top_p", "top_k", "seeded"],
)
def test_a_draft_vocabulary_keeps_the_distribution(payload, changes, pair, logits, cut_vocabulary):
    """A draft that knows four ids of six, under shaped distributions of the target."""
    settings = dataclasses.replace(SETTINGS, **changes)
    narrow = dataclasses.replace(pair, draft=cut_vocabulary(pair.draft, [0, 3, 4, 5]))
    seen, totals = count_texts(narrow, {**adaptive(), "payload": payload}, settings=settings, runs=4, seed=200)
    assert 0.1 < int(totals.accepted.sum()) / int(totals.drafted.sum()) < 0.9
    assert z_score(seen, joint_law(logits, settings)) < LIMIT_Z


@pytest.mark.parametrize(
    ("payload", "ids"),
    [(payloads.full(), None), (payloads.full(), [0, 3, 4]), (payloads.seeded(), [0, 3, 4])],
    ids=["all ids", "some ids", "seeded"],
)
def test_repeats_keep_the_distribution(payload, ids, pair, logits, cut_vocabulary):
    """A draft that believes in repeats far too much, of tokens that its head has and of others."""
    draft = pair.draft if ids is None else cut_vocabulary(pair.draft, ids)
    shape = (draft.work.shape[0], 2)
    odds = RepeatOdds(slope=jnp.full(shape, 0.4), offset=jnp.full(shape, 1.0), unseen=jnp.full(2, 0.5))
    believing = dataclasses.replace(draft, repeats=RepeatOddsSet(greedy=odds, sampled=odds))
    rules = {**adaptive(), "payload": payload}
    seen, totals = count_texts(dataclasses.replace(pair, draft=believing), rules, runs=4, seed=400)
    assert 0.1 < int(totals.accepted.sum()) / int(totals.drafted.sum()) < 0.9
    assert z_score(seen, joint_law(logits, SETTINGS)) < LIMIT_Z


@pytest.mark.parametrize("payload", [payloads.full(), *NARROW], ids=lambda payload: payload.scheme)
def test_a_lookup_keeps_the_distribution(payload, pair, logits):
    """A draft that is certain of what stood there before."""
    looked_up = dataclasses.replace(pair, draft=lookup())
    rules = {"controller": control.static(2), "length_exit": control.length_exits.none(), "payload": payload}
    seen, totals = count_texts(looked_up, rules, runs=4, seed=1300)
    assert int(totals.drafted.sum()) > ROWS / 4
    assert 0.02 < int(totals.accepted.sum()) / int(totals.drafted.sum()) < 0.9
    assert z_score(seen, joint_law(logits, SETTINGS)) < LIMIT_Z


@pytest.fixture(scope="module")
def mutated():
    with law_mutants.mutated() as program:
        yield program


@pytest.mark.parametrize("mutant", law_mutants.MUTANTS)
def test_the_check_catches_a_bent_distribution(mutant, mutated, pair, logits):
    seen, _ = count_texts(pair, law_mutants.rules(mutant), runs=4, seed=300, program=mutated)
    z = z_score(seen, joint_law(logits, SETTINGS))
    assert (z > LIMIT_Z) == (mutant != "none"), z
