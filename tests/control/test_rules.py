"""Schedules, length exits, depth exits and sampling rules against plain NumPy; traced choice against each rule."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gelato_jax import control
from gelato_jax.control import DepthSignal, DraftSignal, default_calibration, depth_exits, draft_sampling, length_exits
from gelato_jax.testing import observation
from gelato_jax.types import CostTable, RoundPlan

G, X = 6, 3
CALIBRATION = default_calibration(num_exits=X)
COST_TABLE = CostTable(
    time_s=0.05 + 0.01 * jnp.arange(G + 1, dtype=jnp.float32),
    energy_j=0.02 + 0.05 * jnp.arange(G + 1, dtype=jnp.float32),
    uplink_bps=jnp.float32(1e6),
    rtt_s=jnp.float32(0.02),
)


def _plan(**changes):
    numbers = {"token_value": 10.0, "energy_price": 4.0, "time_price": 30.0, "acceptance_level": 0.5 / 0.6, **changes}
    numbers["acceptance_rate"] = 0.5
    budget = jnp.asarray(numbers.pop("draft_budget", 4), jnp.int32)
    return RoundPlan(draft_budget=budget, **{name: jnp.float32(value) for name, value in numbers.items()})


def _outcome(drafted, accepted, active=True):
    return observation(
        drafted=jnp.int32(drafted),
        accepted=jnp.int32(accepted),
        predicted=jnp.float32(0.0),
        tokens=jnp.int32(accepted + 1),
        time_s=jnp.float32(0.1),
        energy_j=jnp.float32(0.2),
        active=jnp.array(active),
    )


def _signal(entropy, plan, index=0, max_probability=0.5, exit=X - 1):
    return DraftSignal(
        entropy=jnp.float32(entropy),
        exit=jnp.int32(exit),
        max_probability=jnp.float32(max_probability),
        index=jnp.int32(index),
        token_s=jnp.float32(0.02),
        token_j=jnp.float32(0.1),
        plan=plan,
        calibration=CALIBRATION,
    )


def _stops(rule, entropies, plan, state=None):
    """Whether each token was the last, without stopping; entropies of one round."""
    state = rule.start(rule.init() if state is None else state, plan)
    stops = []
    for i, entropy in enumerate(entropies):
        state, stop = rule.step(state, _signal(entropy, plan, i))
        stops.append(bool(stop))
    return stops


def test_static_is_clipped_to_the_longest_draft():
    assert int(control.static(4).plan(control.static(4).init(CALIBRATION), COST_TABLE).draft_budget) == 4
    plan = control.static(40).plan(control.static(40).init(CALIBRATION), COST_TABLE)
    assert int(plan.draft_budget) == G
    assert (float(plan.token_value), float(plan.energy_price), float(plan.time_price)) == (1.0, 0.0, 0.0)


def test_hf_schedule():
    controller = control.hf_schedule(3)
    state = controller.init(CALIBRATION)
    lengths = []
    for accept_all in [True, True, True, False, False, False, False, False, False, False, True]:
        drafted = int(controller.plan(state, COST_TABLE).draft_budget)
        lengths.append(drafted)
        state = controller.update(state, _outcome(drafted, drafted if accept_all else drafted - 1))
    assert lengths == [3, 5, 6, 6, 5, 4, 3, 2, 1, 1, 1]
    assert int(controller.plan(state, COST_TABLE).draft_budget) == 3


entropy_lists = st.lists(st.floats(0.0, 8.0, width=32), min_size=1, max_size=G)


@settings(max_examples=30, deadline=None)
@given(entropy_lists)
def test_bucket(entropies):
    level, expected = 0.0, []
    for entropy in entropies:
        level = max(0.0, level + entropy - 1.25)
        expected.append((level > 2.0, abs(level - 2.0) > 1e-4))
    stops = _stops(length_exits.bucket(threshold_nats=1.25, capacity_nats=2.0), entropies, _plan())
    assert [s for s, (_, clear) in zip(stops, expected, strict=True) if clear] == [e for e, clear in expected if clear]


@settings(max_examples=30, deadline=None)
@given(entropy_lists, st.floats(0.1, 1.0), st.floats(-30.0, 100.0))
def test_priced_length(entropies, acceptance, time_price):
    plan = _plan(acceptance_level=acceptance / 0.6, time_price=time_price)
    level = acceptance / 0.6
    edges, table = np.asarray(CALIBRATION.class_edges), np.asarray(CALIBRATION.next_acceptance)
    survival, expected = 1.0, []
    for entropy in entropies:
        survival *= min(np.exp(-0.35 * entropy) * level, 1.0)
        gain = 10.0 * survival * min(table[np.sum(edges < entropy)] * level, 1.0)
        cost = 4.0 * 0.1 + time_price * 0.02
        expected.append((gain < cost, abs(gain - cost) > 1e-4))
    stops = _stops(length_exits.priced(), entropies, plan)
    assert [s for s, (_, clear) in zip(stops, expected, strict=True) if clear] == [e for e, clear in expected if clear]


def test_priced_length_prices_the_exit_taken():
    """alpha 0.2 at exit 0 and 0.8 at exit 1, a cost between what the two are worth."""
    curve = dataclasses.replace(CALIBRATION, scale=jnp.array([0.2, 0.8, 0.8]), decay=jnp.zeros(X))
    plan = _plan(acceptance_level=1.0, energy_price=0.0, time_price=100.0)
    worth = 10.0 * float(curve.next_acceptance[0])
    assert 0.2 * worth < 100.0 * 0.02 < 0.8 * worth
    rule = length_exits.priced()
    for exit, stops in ((0, True), (1, False)):
        signal = dataclasses.replace(_signal(0.1, plan, exit=exit), calibration=curve)
        assert bool(rule.step(rule.start(rule.init(), plan), signal)[1]) == stops


@pytest.mark.parametrize("rule", [length_exits.bucket(0.5, 3.0), length_exits.priced()])
def test_every_round_starts_anew(rule):
    plan, entropies = _plan(), [1.0, 1.5, 2.0, 4.0]
    state = rule.start(rule.init(), plan)
    for entropy in entropies:
        state, _ = rule.step(state, _signal(entropy, plan))
    state = rule.update(state, _outcome(4, 2))
    assert _stops(rule, entropies, plan, state) == _stops(rule, entropies, plan)


def test_priced_never_stops_under_a_rule_without_prices():
    controller = control.static(2)
    plan = controller.plan(controller.init(CALIBRATION), COST_TABLE)
    assert not any(_stops(length_exits.priced(), [0.0, 3.0, 50.0, 1e4], plan))


def test_priced_limit_is_all_or_nothing_and_others_keep_the_budget():
    for budget in (0, 1, 4):
        plan = _plan(draft_budget=budget)
        assert int(length_exits.priced().limit(plan, G)) == (G if budget else 0)
        assert int(length_exits.bucket().limit(plan, G)) == budget
        assert int(length_exits.none().limit(plan, 2)) == min(budget, 2)


@pytest.mark.parametrize(
    ("rule", "stops_above"),
    [(length_exits.svip(0.15, 0.3), 0.3**2 / 0.15), (length_exits.adaedl(0.2, 0.3), 0.7**2 / 0.2)],
)
def test_entropy_bounds(rule, stops_above):
    plan = _plan()
    assert _stops(rule, [0.0, 0.99 * stops_above, 1.01 * stops_above], plan) == [False, False, True]


def test_none_never_stops():
    assert _stops(length_exits.none(), [0.0, 99.0], _plan()) == [False, False]


def test_confidence_looks_at_the_largest_probability():
    rule, plan = length_exits.confidence(0.6), _plan()
    state = rule.start(rule.init(), plan)
    assert not bool(rule.step(state, _signal(1.0, plan, max_probability=0.61))[1])
    assert bool(rule.step(state, _signal(1.0, plan, max_probability=0.59))[1])


@pytest.mark.parametrize("rule", [length_exits.confidence(0.6), length_exits.adaedl(0.2, 0.3)])
def test_adaptation_follows_draft_and_verify(rule):
    state = rule.init()
    threshold, rate = float(state.threshold), 0.9
    for drafted, accepted in [(4, 4), (4, 1), (0, 0), (5, 5), (2, 2), (2, 2), (2, 2), (2, 2)]:
        state = rule.update(state, _outcome(drafted, accepted))
        if drafted:
            rate = 0.5 * rate + 0.5 * accepted / drafted
            stepped = threshold + (0.01 if rate <= 0.9 else -0.01)
            threshold = 0.9 * threshold + 0.1 * stepped
        assert float(state.threshold) == pytest.approx(threshold, abs=1e-6)
    chex.assert_trees_all_equal(rule.update(state, _outcome(4, 0, active=False)), state)


def _depth(entropy, exit, plan, survival=0.8):
    return DepthSignal(
        entropy=jnp.float32(entropy),
        exit=jnp.int32(exit),
        survival=jnp.float32(survival),
        segment_s=jnp.float32(0.002),
        segment_j=jnp.float32(0.01),
        plan=plan,
        calibration=CALIBRATION,
    )


@pytest.mark.parametrize(("exit", "reached"), [(-1, 2), (-3, 0), (0, 0), (1, 1), (2, 2), (9, 2)])
def test_fixed_depth(exit, reached):
    rule, at = depth_exits.fixed(exit), 0
    while bool(rule.deeper(_depth(1.0, at, _plan()))):
        at += 1
    assert at == reached


def test_low_entropy_leaves_early():
    rule = depth_exits.entropy(1.0)
    assert [bool(rule.deeper(_depth(h, 0, _plan()))) for h in (0.5, 1.5)] == [False, True]
    assert not bool(rule.deeper(_depth(9.0, X - 1, _plan())))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.0, 8.0), st.integers(0, X - 1), st.floats(0.1, 1.0), st.floats(0.0, 20.0), st.floats(0.2, 0.9))
def test_priced_depth(entropy, exit, survival, energy_price, acceptance):
    plan = _plan(energy_price=energy_price, acceptance_level=acceptance / 0.6)
    deeper = bool(depth_exits.priced().deeper(_depth(entropy, exit, plan, survival)))
    if exit == X - 1:
        assert not deeper
        return
    row = np.asarray(CALIBRATION.deeper_acceptance)[exit, np.sum(np.asarray(CALIBRATION.class_edges) < entropy)]
    level = np.clip(row * acceptance / 0.6, 0, 1)
    worth = 10.0 * survival * (level[exit + 1] - level[exit])
    cost = energy_price * 0.01 + 30.0 * 0.002
    if abs(worth - cost) > 1e-4:
        assert deeper == (worth > cost)


def test_draft_temperature_is_bounded_and_monotone():
    rule = draft_sampling.entropy(certain=1.1, uncertain=0.7, half_nats=2.0)
    scale = np.asarray(jax.vmap(rule.temperature_scale)(jnp.array([0.0, 1.0, 2.0, 8.0, 1e6])))
    np.testing.assert_allclose(scale[[0, 2, 4]], [1.1, 0.9, 0.7], rtol=1e-4)
    assert np.all(np.diff(scale) < 0)
    assert float(draft_sampling.fixed().temperature_scale(jnp.float32(3.0))) == 1.0


CONTROLLERS = [
    control.ratio(power_budget_w=1.0),
    control.gelato(energy_budget_j=0.1),
    control.static(3),
    control.hf_schedule(2),
]
LENGTH_EXITS = [build() for build in control.LENGTH_EXITS.values()]
DEPTH_EXITS = [depth_exits.fixed(1), depth_exits.entropy(1.0), depth_exits.priced()]
SAMPLINGS = [draft_sampling.fixed(), draft_sampling.entropy()]


def test_traced_choice_of_a_controller_is_that_controller():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def chosen(index):
        controller = control.select_controller(CONTROLLERS, index)

        def one_round(state, accepted):
            plan = controller.plan(state, COST_TABLE)
            drafted = plan.draft_budget
            kept = jnp.minimum(accepted, drafted)
            outcome = observation(drafted=drafted, accepted=kept, tokens=kept + 1, time_s=0.1, energy_j=0.2)
            state = controller.update(state, outcome)
            return state, (plan, controller.queue(state))

        return jax.lax.scan(one_round, controller.init(CALIBRATION), jnp.array([6, 6, 0, 2, 6, 1, 0]))[1]

    for i, controller in enumerate(CONTROLLERS):
        plans, queue = chosen(i)
        state = controller.init(CALIBRATION)
        for k, accepted in enumerate([6, 6, 0, 2, 6, 1, 0]):
            plan = controller.plan(state, COST_TABLE)
            chex.assert_trees_all_close(jax.tree.map(lambda x, k=k: x[k], plans), plan, rtol=1e-5)
            state = controller.update(state, _outcome(int(plan.draft_budget), min(accepted, int(plan.draft_budget))))
            np.testing.assert_allclose(queue[k], controller.queue(state), rtol=1e-5)


def test_traced_choice_of_exits_and_sampling():
    plan = _plan()
    steps = jax.jit(lambda rule, state, signal: rule.step(state, signal))
    entropies = [0.2, 2.5, 4.0, 0.1]
    for i, rule in enumerate(LENGTH_EXITS):
        chosen = control.select_length_exit(LENGTH_EXITS, i)
        assert int(chosen.limit(plan, G)) == int(rule.limit(plan, G))
        ours, theirs = chosen.start(chosen.init(), plan), rule.start(rule.init(), plan)
        for k, entropy in enumerate(entropies):
            ours, stop = steps(chosen, ours, _signal(entropy, plan, k))
            theirs, expected = rule.step(theirs, _signal(entropy, plan, k))
            assert bool(stop) == bool(expected)
        chex.assert_trees_all_close(chosen.update(ours, _outcome(4, 1))[i], rule.update(theirs, _outcome(4, 1)))
    assert steps._cache_size() == 1
    for i, rule in enumerate(DEPTH_EXITS):
        signals = [_depth(h, e, plan) for h in (0.3, 2.0) for e in range(X)]
        chosen = control.select_depth_exit(DEPTH_EXITS, i)
        assert [bool(chosen.deeper(s)) for s in signals] == [bool(rule.deeper(s)) for s in signals]
    for i, rule in enumerate(SAMPLINGS):
        scale = control.select_draft_sampling(SAMPLINGS, i).temperature_scale(jnp.float32(2.0))
        assert float(scale) == pytest.approx(float(rule.temperature_scale(jnp.float32(2.0))))


@pytest.mark.parametrize("rules", [CONTROLLERS, LENGTH_EXITS, DEPTH_EXITS, SAMPLINGS])
def test_rules_are_data_and_structure(rules):
    """A rule is a pytree of float32 and int32 arrays; two of one kind share a structure."""
    for rule in rules:
        assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(rule))
        scaled = jax.tree.map(lambda leaf: leaf + 1, rule)
        assert jax.tree.structure(scaled) == jax.tree.structure(rule)
        assert isinstance(hash(jax.tree.structure(rule)), int)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: control.static(-1), "draft_length"),
        (lambda: control.hf_schedule(0), "initial"),
        (lambda: length_exits.bucket(capacity_nats=-1.0), "capacity_nats"),
        (lambda: length_exits.confidence(2.0), "threshold"),
        (lambda: depth_exits.entropy(-1.0), "threshold_nats"),
        (lambda: draft_sampling.entropy(uncertain=0.0), "uncertain"),
        (lambda: control.select_depth_exit(DEPTH_EXITS, 3), "index"),
    ],
)
def test_refuses_numbers_out_of_range(build, name):
    with pytest.raises(ValueError, match=name):
        build()


@pytest.mark.parametrize("rules", [CONTROLLERS, LENGTH_EXITS])
def test_a_donated_state_takes_no_number_with_it(rules):
    for rule in rules:
        state = rule.init(CALIBRATION) if isinstance(rule, control.Controller) else rule.init()
        pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((rule, CALIBRATION))}
        for leaf in jax.tree.leaves(state):
            assert leaf.unsafe_buffer_pointer() not in pointers
