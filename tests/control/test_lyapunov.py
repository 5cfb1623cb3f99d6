"""The guarantees of the drift-plus-penalty rules, on paths; and mutants that the same checks refuse."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gelato_jax.control import Estimator, default_calibration, gelato, gelato_estimated, ratio
from gelato_jax.testing import observation
from gelato_jax.types import KNOWN_POSITIONS, Compensated, CostTable, Observation, RoundCost

RULES = [ratio, gelato, gelato_estimated]
G = 6
ROUNDS = 3_000
CAP_W = 1.2
# Three channel states: a round of g drafts takes WAIT_S + 15 ms g, at 5.3 W drafting and 0.4 W waiting.
WAIT_S = np.array([0.05, 0.1, 0.25], np.float32)
_g = np.arange(G + 1, dtype=np.float32)
TIME_S = WAIT_S[:, None] + 0.015 * _g
ENERGY_J = 0.4 * WAIT_S[:, None] + 0.08 * _g


def _simulate(controller, seed, *, rounds=ROUNDS, alpha=0.75, mean_acceptance=0.6, channels=3, update=None):
    """Closed loop: drafts as planned, accepts i.i.d. with probability alpha; rows [rounds] of T, E, N, gamma, Q."""
    update = update or type(controller).update

    def one_round(state, key):
        state_key, accept_key = jax.random.split(key)
        channel = jax.random.randint(state_key, (), 0, channels)
        time_s, energy_j = jnp.asarray(TIME_S)[channel], jnp.asarray(ENERGY_J)[channel]
        cost_table = CostTable(time_s=time_s, energy_j=energy_j, uplink_bps=jnp.float32(1e6), rtt_s=jnp.float32(0.02))
        drafted = controller.plan(state, cost_table).draft_budget
        kept = jnp.cumprod(jax.random.uniform(accept_key, (G,)) < alpha)
        accepted = jnp.sum(jnp.where(jnp.arange(G) < drafted, kept, 0)).astype(jnp.int32)
        outcome = observation(
            drafted=drafted,
            accepted=accepted,
            predicted=alpha * (accepted + (accepted < drafted)),  # every entropy tells the truth
            tokens=accepted + 1,
            time_s=time_s[drafted],
            energy_j=energy_j[drafted],
            active=jnp.array(True),
        )
        state = update(controller, state, outcome)
        return state, (outcome.time_s, outcome.energy_j, outcome.tokens, drafted, controller.queue(state))

    start = controller.init(default_calibration(mean_acceptance=mean_acceptance))
    keys = jax.random.split(jax.random.key(seed), rounds)
    _, path = jax.jit(lambda: jax.lax.scan(one_round, start, keys))()
    return [np.asarray(column, np.float64) for column in path]


def _keeps_the_cap(time_s, energy_j, queue, cap_w):
    """Path inequality to 1e-6 of sum(E), and a queue that stays small beside what was spent."""
    slack = 1e-6 * energy_j.sum()
    within = energy_j.sum() <= np.float64(np.float32(cap_w)) * time_s.sum() + queue[-1] + slack
    return bool(within and queue[-1] <= 0.25 * energy_j.sum())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rule", RULES)
def test_power_cap_is_kept_on_the_path_and_binds(rule, seed):
    time_s, energy_j, tokens, drafted, queue = _simulate(rule(power_budget_w=CAP_W, penalty_weight=1.0), seed)
    assert _keeps_the_cap(time_s, energy_j, queue, CAP_W)
    assert queue.min() >= 0
    assert energy_j.sum() / time_s.sum() > 0.9 * CAP_W  # the cap binds, so the inequality was tested
    assert len(set(drafted)) > 1
    assert tokens.sum() > ROUNDS


def _without_queue(controller, state, outcome):
    moved = type(controller).update(controller, state, outcome)
    return dataclasses.replace(moved, rule=dataclasses.replace(moved.rule, queue=Compensated.zero()))


def _without_time(controller, state, outcome):
    free = dataclasses.replace(controller.params, power_budget_w=jnp.float32(0.0))
    return type(controller).update(dataclasses.replace(controller, params=free), state, outcome)


def _per_round(controller, state, outcome):
    whole_second = dataclasses.replace(outcome, cost=RoundCost.total(jnp.ones_like(outcome.time_s), outcome.energy_j))
    return type(controller).update(controller, state, whole_second)


@pytest.mark.parametrize("mutant", [_without_queue, _without_time, _per_round])
def test_the_check_refuses_mutants_of_the_queue(mutant):
    time_s, energy_j, _, _, queue = _simulate(ratio(power_budget_w=CAP_W, penalty_weight=1.0), 0, update=mutant)
    assert not _keeps_the_cap(time_s, energy_j, queue, CAP_W)


@pytest.mark.parametrize(("channels", "budget_j"), [(1, 0.025), (3, 0.11)])
def test_energy_budget_per_round_keeps_the_path_inequality_and_the_queue_cap(channels, budget_j):
    """gelato.md 4.1: where E(0) <= Ebar, Q <= V (r_max - r(0)) / E_min + E_max after every round.

    In the sharper form: no drafting once Q exceeds V (r(g) - r(0)) / (E(g) - E(0)) for every g and state.
    """
    weight, alpha = 0.5, 0.75
    sure = Estimator.create(discount=0.0, prior_strength=1e6)  # the estimate stays at the prior
    controller = gelato(energy_budget_j=budget_j, penalty_weight=weight, estimator=sure)
    _, energy_j, _, drafted, queue = _simulate(controller, 3, alpha=alpha, mean_acceptance=alpha, channels=channels)
    time_table, energy_table = TIME_S[:channels], ENERGY_J[:channels]
    assert energy_table[:, 0].max() <= budget_j  # the condition
    spent = np.float64(np.float32(budget_j)) * ROUNDS + queue[-1]
    assert energy_j.sum() <= spent + 1e-6 * energy_j.sum()
    rate = (1 - alpha ** (_g + 1)) / (1 - alpha) / time_table
    price = weight * (rate[:, 1:] - rate[:, :1]) / (energy_table[:, 1:] - energy_table[:, :1])
    cap = price.max() + energy_table.max()
    assert queue.max() <= cap
    assert queue.max() > (0.95 if channels == 1 else 0.3) * cap  # the queue gets to where the cap is about to bind
    assert drafted.max() > 0


def test_path_inequality_over_a_million_rounds():
    """Two-float32 queue against float64 sums of the same rounds; the queue steers the energy, so the cap binds."""
    rounds, block = 1_000_000, 1_000
    controller = ratio(power_budget_w=CAP_W, penalty_weight=1.0)

    def one_round(state, draw):
        drafts = controller.queue(state) < 300.0  # a queue far above one round's joules, where float32 is coarse
        time_s = 0.1 + 0.1 * draw
        energy_j = jnp.where(drafts, 0.5, 0.05) * (0.5 + draw)
        outcome = observation(
            drafted=jnp.int32(4),
            accepted=jnp.int32(2),
            predicted=jnp.float32(0.0),
            tokens=jnp.int32(3),
            time_s=time_s,
            energy_j=energy_j,
            active=jnp.array(True),
        )
        return controller.update(state, outcome), (time_s, energy_j)

    @jax.jit
    def run(key):
        def some_rounds(state, key):
            return jax.lax.scan(one_round, state, jax.random.uniform(key, (block,)))

        return jax.lax.scan(some_rounds, controller.init(default_calibration()), jax.random.split(key, rounds // block))

    end, (time_s, energy_j) = run(jax.random.key(0))
    time_s, energy_j = np.asarray(time_s, np.float64), np.asarray(energy_j, np.float64)
    allowed = np.float64(np.float32(CAP_W)) * time_s.sum()
    queue = float(end.rule.queue.high) + float(end.rule.queue.low)
    assert energy_j.sum() <= allowed + queue + 1e-6 * energy_j.sum()
    assert queue > 250  # the cap binds
    seconds = float(end.rule.seconds.high) + float(end.rule.seconds.low)
    assert seconds == pytest.approx(time_s.sum(), rel=1e-9)
    assert float(end.rule.tokens.value) == 3 * rounds


def test_plain_float32_would_drift():
    terms = jnp.full((300_000,), 0.1, jnp.float32)
    exact = np.asarray(terms, np.float64).sum()

    @jax.jit
    def sums(terms):
        zero = (Compensated.zero(), jnp.float32(0.0))
        return jax.lax.scan(lambda c, x: ((c[0].add(x), c[1] + x), None), zero, terms)[0]

    compensated, plain = sums(terms)
    assert abs(float(compensated.high) + float(compensated.low) - exact) < 1e-6 * exact * 1e-3
    assert abs(float(plain) - exact) > 1.0


def _cost_table(time_s, energy_j):
    return CostTable(
        time_s=jnp.asarray(time_s, jnp.float32),
        energy_j=jnp.asarray(energy_j, jnp.float32),
        uplink_bps=jnp.float32(1e6),
        rtt_s=jnp.float32(0.02),
    )


def _state(controller, queue, tokens, seconds, mean_acceptance):
    state = controller.init(default_calibration(mean_acceptance=mean_acceptance))
    totals = [Compensated(high=jnp.float32(x), low=jnp.float32(0.0)) for x in (queue, tokens, seconds)]
    rule = dataclasses.replace(state.rule, queue=totals[0], tokens=totals[1], seconds=totals[2])
    return dataclasses.replace(state, rule=rule)


def _by_position(state, acceptance):
    estimate = dataclasses.replace(state.estimate, conditional=jnp.asarray(acceptance, jnp.float32))
    return dataclasses.replace(state, estimate=estimate)


positive = st.floats(0.01, 20.0)
_planned = jax.jit(lambda controller, state, cost_table: controller.plan(state, cost_table))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    positive,
    positive,
    st.floats(0.05, 0.95),
    st.booleans(),
    st.sampled_from(RULES),
)
def test_plan_maximises_its_objective(seed, weight, queue, alpha, started, rule):
    rng = np.random.default_rng(seed)
    time_s = 0.02 + np.cumsum(rng.uniform(0.001, 0.05, G + 1))
    energy_j = 0.01 + np.cumsum(rng.uniform(0.001, 0.3, G + 1))
    conditional = rng.uniform(0.05, 0.95, KNOWN_POSITIONS)
    # The paper's form knows no places.
    tokens = np.cumsum(alpha ** _g.astype(np.float64) if rule is gelato else [1.0, *np.cumprod(conditional[:G])])
    theta = 123.0 / 4.5 if started else (tokens / time_s).max()
    controller = rule(power_budget_w=CAP_W, penalty_weight=weight)
    if rule is ratio:
        score = weight * (tokens - theta * time_s) - queue * (energy_j - CAP_W * time_s)
    else:
        score = weight * tokens / time_s - queue * energy_j
    state = _state(controller, queue, 123.0 if started else 0.0, 4.5 if started else 0.0, alpha)
    plan = _planned(controller, _by_position(state, conditional), _cost_table(time_s, energy_j))
    best = int(plan.draft_budget)
    assert score[best] >= score.max() - 1e-4 * np.abs(score).max()
    if rule is ratio:
        prices = weight, queue, weight * theta - queue * CAP_W
    else:
        prices = weight / time_s[best], queue, weight * tokens[best] / time_s[best] ** 2
    np.testing.assert_allclose((plan.token_value, plan.energy_price, plan.time_price), prices, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(plan.acceptance_rate, alpha, rtol=1e-5)


@pytest.mark.parametrize(
    "controller", [ratio(), gelato(power_budget_w=math.inf), gelato(energy_budget_j=math.inf)], ids=["r", "gw", "gj"]
)
def test_no_cap_means_no_queue_and_no_nan(controller):
    time_s, _, _, drafted, queue = _simulate(controller, 0, rounds=200)
    assert np.all(queue == 0)
    assert np.all(np.isfinite(time_s))
    assert drafted.max() > 0
    plan = controller.plan(controller.init(default_calibration()), _cost_table(TIME_S[0], ENERGY_J[0]))
    chex.assert_tree_all_finite(plan)


def test_dear_energy_stops_drafting_and_a_cap_above_every_round_does_not_matter():
    cost_table = _cost_table(TIME_S[1], ENERGY_J[1])
    controller = ratio(power_budget_w=CAP_W, penalty_weight=1.0)
    assert int(controller.plan(_state(controller, 1e4, 50.0, 2.0, 0.8), cost_table).draft_budget) == 0
    capped, free = (_simulate(ratio(power_budget_w=cap), 0, rounds=200) for cap in (50.0, math.inf))
    np.testing.assert_array_equal(capped[3], free[3])


def test_under_a_full_queue_a_longer_round_below_the_cap_earns():
    """E - Pbar*T falls with g although E rises: `ratio` drafts all it may, the paper's form nothing."""
    cost_table = _cost_table(0.1 + 0.05 * _g, 0.3 + 0.03 * _g)
    for rule, draft_budget in ((ratio, G), (gelato, 0)):
        controller = rule(power_budget_w=CAP_W, penalty_weight=1e-3)
        plan = controller.plan(_state(controller, 1e3, 50.0, 2.0, 0.6), cost_table)
        assert int(plan.draft_budget) == draft_budget


def _prompt(read, seconds, joules):
    """A prompt of which the draft's reading costs this much, and nothing else does."""
    zero = jnp.zeros(())
    parts = {field.name: zero for field in dataclasses.fields(RoundCost)}
    cost = RoundCost(**parts | {"catch_up_s": jnp.float32(seconds), "catch_up_j": jnp.float32(joules)})
    count = jnp.zeros((), jnp.int32)
    return Observation(
        active=jnp.array(True),
        drafted=count,
        accepted=count,
        tokens=count + 1,
        rejected=jnp.array(False),
        predicted=zero,
        cost=cost,
        read_prompt=jnp.array(read),
    )


@pytest.mark.parametrize("rule", [ratio, gelato])
def test_the_tokens_of_a_request_share_the_joules_of_its_prompt(rule):
    """They are in the queue at once, and in its price as the request's tokens come; seconds of reading leave theta."""
    controller, table = rule(power_budget_w=CAP_W), _cost_table(TIME_S[1], ENERGY_J[1])
    before = _state(controller, 3.0, 50.0, 2.0, 0.6)
    spent = 8.0 - CAP_W * 2.0
    read = controller.charge(before, _prompt(True, 2.0, 8.0))
    np.testing.assert_allclose(controller.queue(read), 3.0 + spent, rtol=1e-6)
    np.testing.assert_allclose(controller.plan(read, table).energy_price, 3.0, rtol=1e-6)
    assert float(read.rule.seconds.value) == 2.0
    state = read
    for remaining, tokens, left in ((40, 10, 0.75), (30, 15, 0.375), (15, 15, 0.0)):
        outcome = observation(
            drafted=jnp.int32(tokens - 1),
            accepted=jnp.int32(tokens - 1),
            predicted=jnp.float32(tokens - 1),
            tokens=jnp.int32(tokens),
            time_s=jnp.float32(1.0),
            energy_j=jnp.float32(CAP_W),
            active=jnp.array(True),
        )
        state = controller.update(state, dataclasses.replace(outcome, remaining=jnp.int32(remaining)))
        np.testing.assert_allclose(controller.queue(state), 3.0 + spent, rtol=1e-5)
        price = controller.plan(state, table).energy_price
        np.testing.assert_allclose(price, 3.0 + (1 - left) * spent, rtol=1e-5)
    unread = controller.charge(before, _prompt(False, 2.0, 8.0))
    np.testing.assert_allclose(controller.plan(unread, table).energy_price, 3.0 + spent, rtol=1e-6)


@pytest.mark.parametrize("rule", [ratio, gelato])
@pytest.mark.parametrize("remaining", [10, 40, 60, 400])
def test_a_prompt_to_be_read_is_priced_at_what_it_leaves_in_the_queue(rule, remaining):
    """On the mean over the request, round by round, were it read and nothing drafted behind it."""
    controller = rule(power_budget_w=CAP_W)
    spent, saved = 8.0 - CAP_W * 2.0, CAP_W * TIME_S[1, 0] - ENERGY_J[1, 0]
    left = np.maximum(spent - saved * (np.arange(1000 * remaining) + 0.5) / 1000, 0.0).mean()
    table = _cost_table(TIME_S[1], ENERGY_J[1])
    table = dataclasses.replace(table, catch_up_s=jnp.float32(2.0), catch_up_j=jnp.float32(8.0))
    state = _state(controller, 3.0, 50.0, 2.0, 0.6)
    for unread, price in ((False, 3.0), (True, 3.0 + left)):
        table = dataclasses.replace(table, unread=jnp.array(unread), remaining=jnp.int32(remaining))
        np.testing.assert_allclose(controller.plan(state, table).energy_price, price, rtol=1e-4)


def test_a_prompt_is_read_where_its_request_is_faster_for_it():
    """Without a cap: most tokens a second, the prompt's share in both; a theta of rounds alone refused it."""
    controller = ratio()
    state = _by_position(controller.init(default_calibration(mean_acceptance=0.6)), np.full(KNOWN_POSITIONS, 0.6))
    tokens = np.cumsum(0.6 ** np.arange(G + 1))
    bare = 0.06 + 0.012 * _g
    fast = _state(controller, 0.0, 1e4, 1e4 * (bare / tokens).min(), 0.6)
    state = dataclasses.replace(state, rule=fast.rule)
    for share_s, reads in ((0.012, True), (0.03, False)):  # a token takes 60 ms alone, 43 ms of two drafts
        time_s = bare + np.where(_g > 0, tokens * share_s, 0.0)
        assert ((tokens / time_s).argmax() > 0) == reads
        table = dataclasses.replace(_cost_table(time_s, ENERGY_J[0]), unread=jnp.array(True))
        assert (int(controller.plan(state, table).draft_budget) > 0) == reads


@pytest.mark.parametrize("rule", RULES)
def test_a_finished_row_does_not_move(rule):
    controller = rule(power_budget_w=CAP_W)
    state = _state(controller, 3.0, 5.0, 2.0, 0.6)
    outcome = observation(
        drafted=jnp.int32(0),
        accepted=jnp.int32(0),
        predicted=jnp.float32(0.0),
        tokens=jnp.int32(0),
        time_s=jnp.float32(1.0),
        energy_j=jnp.float32(9.0),
        active=jnp.array(False),
    )
    chex.assert_trees_all_equal(controller.update(state, outcome), state)


def test_changing_numbers_compiles_nothing_and_rows_are_vmapped():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def budgets(weights, caps):
        def row(weight, cap):
            controller = ratio(penalty_weight=weight, power_budget_w=cap)
            return controller.plan(controller.init(default_calibration()), _cost_table(TIME_S[2], ENERGY_J[2]))

        return jax.vmap(row)(weights, caps).draft_budget

    assert budgets(jnp.array([1.0, 2.0]), jnp.array([0.5, jnp.inf])).shape == (2,)
    budgets(jnp.array([3.0, 4.0]), jnp.array([1.5, 2.5]))


@pytest.mark.parametrize("rule", [gelato, gelato_estimated])
@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"power_budget_w": 1.0, "probe_after": 0},
        {"energy_budget_j": 1.0, "power_budget_w": 1.0},
        {"power_budget_w": -1.0},
        {"energy_budget_j": math.nan},
    ],
)
def test_gelato_refuses_unclear_budgets(rule, bad):
    with pytest.raises(ValueError, match=r"energy_budget_j|power_budget_w|probe_after") as refused:
        rule(**bad)
    assert "\n" not in str(refused.value)


STREAM = 5
STEP_S, DELAY_S = 0.02, 0.06


def _share_the_edge(controller, *, rounds=ROUNDS, alpha=0.8, update=None):
    """Closed loop beside an edge that streams: rows [rounds] of seconds, tokens, passes and drafts."""
    update = update or type(controller).update
    drafts = jnp.arange(G + 1)
    time_s = DELAY_S + jnp.where(drafts > 0, STEP_S + 0.01 * drafts, STREAM * STEP_S)
    cost_table = CostTable(
        time_s=time_s,
        energy_j=0.4 * time_s,
        uplink_bps=jnp.float32(1e6),
        rtt_s=jnp.float32(DELAY_S),
        stream_length=jnp.int32(STREAM),
    )

    def one_round(state, key):
        drafted = controller.plan(state, cost_table).draft_budget
        kept = jnp.cumprod(jax.random.uniform(key, (G,)) < alpha)
        accepted = jnp.sum(jnp.where(jnp.arange(G) < drafted, kept, 0)).astype(jnp.int32)
        passes = jnp.where(drafted > 0, 1, STREAM)
        outcome = observation(
            drafted=drafted,
            accepted=accepted,
            predicted=alpha * (accepted + (accepted < drafted)),
            tokens=accepted + passes,
            passes=passes,
            time_s=time_s[drafted],
            energy_j=0.4 * time_s[drafted],
            active=jnp.array(True),
        )
        return update(controller, state, outcome), (outcome.time_s, outcome.tokens, passes, drafted)

    start = controller.init(default_calibration(mean_acceptance=alpha))
    _, path = jax.jit(lambda: jax.lax.scan(one_round, start, jax.random.split(jax.random.key(0), rounds)))()
    return [np.asarray(column, np.float64) for column in path]


def _best_shared(cap, alpha=0.8):
    """Most tokens a second under a cap of passes a token, by any mixture of streams and lengths."""
    g = np.arange(G + 1)
    time_s = DELAY_S + np.where(g > 0, STEP_S + 0.01 * g, STREAM * STEP_S)
    tokens = np.where(g > 0, (1 - alpha ** (g + 1)) / (1 - alpha), STREAM)
    over = np.where(g > 0, 1, STREAM) - cap * tokens
    best = 0.0
    for share in np.linspace(0, 1, 2001):
        mixed = [share * x + (1 - share) * x[0] for x in (time_s, tokens, over)]
        best = max(best, (mixed[1] / mixed[0])[mixed[2] <= 1e-9].max(initial=0.0))
    return best


def test_a_free_edge_that_streams_is_not_drafted_for():
    _, _, passes, drafted = _share_the_edge(ratio(probe_length=0))
    assert not drafted.any()
    assert (passes == STREAM).all()


@pytest.mark.parametrize("cap", [0.9, 0.6, 0.4])
def test_a_cap_of_passes_is_kept_and_used(cap):
    time_s, tokens, passes, drafted = _share_the_edge(ratio(pass_budget=cap))
    assert cap * 0.9 <= passes.sum() / tokens.sum() <= cap * 1.01
    assert tokens.sum() / time_s.sum() >= 0.98 * _best_shared(cap)
    assert (drafted > 0).any()


def test_a_cap_of_passes_without_its_queue_is_not_kept():
    def forgets(controller, state, outcome):
        state = type(controller).update(controller, state, outcome)
        return dataclasses.replace(state, rule=dataclasses.replace(state.rule, passes=Compensated.zero()))

    _, tokens, passes, _ = _share_the_edge(ratio(pass_budget=0.6), update=forgets)
    assert passes.sum() / tokens.sum() > 0.9


def test_no_cap_of_passes_changes_nothing():
    """The second queue stays empty, and every plan is that of the first alone."""
    free = _share_the_edge(ratio(power_budget_w=0.39))
    wide = _share_the_edge(ratio(power_budget_w=0.39, pass_budget=STREAM + 1.0))
    for one, other in zip(free, wide, strict=True):
        np.testing.assert_array_equal(one, other)
