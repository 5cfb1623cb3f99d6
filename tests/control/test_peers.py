"""The peers' rules against plain NumPy on random rounds; what they do at the edges; numbers that recompile nothing."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax import control
from gelato_jax.control import DraftSignal, default_calibration
from gelato_jax.control.banditspec import banditspec
from gelato_jax.control.confidence_roc import BINS, confidence_roc
from gelato_jax.control.edgellm import HIGHEST, LOWEST, edgellm_no_tree
from gelato_jax.control.flexspec import flexspec
from gelato_jax.control.sled import sled
from gelato_jax.control.specdec_entropy import specdec_entropy
from gelato_jax.control.ucb_specstop import ucb_specstop
from gelato_jax.testing import observation
from gelato_jax.types import KNOWN_POSITIONS, CostTable, RoundPlan

G = 6
CALIBRATION = default_calibration(num_exits=2)
PEER_CONTROLLERS = {"flexspec": flexspec, "ucb_specstop": ucb_specstop, "banditspec": banditspec}
PEER_EXITS = {
    "sled": sled,
    "edgellm_no_tree": edgellm_no_tree,
    "confidence_roc": confidence_roc,
    "specdec_entropy": specdec_entropy,
}

_planned = jax.jit(lambda controller, state, cost_table: controller.plan(state, cost_table))
_learned = jax.jit(lambda rule, state, outcome: rule.update(state, outcome))
_started = jax.jit(lambda rule, state, plan: rule.start(state, plan))
_stepped = jax.jit(lambda rule, state, signal: rule.step(state, signal))


def _cost_table(time_s, energy_j=None):
    time_s = jnp.asarray(time_s, jnp.float32)
    return CostTable(
        time_s=time_s,
        energy_j=time_s if energy_j is None else jnp.asarray(energy_j, jnp.float32),
        uplink_bps=jnp.float32(1e6),
        rtt_s=jnp.float32(0.02),
    )


def _random_outlook(rng, most=G):
    return _cost_table(
        0.05 + np.cumsum(rng.uniform(0.001, 0.03, most + 1)), 0.01 + np.cumsum(rng.uniform(0, 0.1, most + 1))
    )


def _outcome(drafted, accepted, time_s=0.1, active=True):
    return observation(
        drafted=jnp.int32(drafted),
        accepted=jnp.int32(accepted),
        predicted=jnp.float32(0.0),
        tokens=jnp.int32(accepted + 1),
        time_s=jnp.float32(time_s),
        energy_j=jnp.float32(0.2),
        active=jnp.array(active),
    )


PLAN = RoundPlan(
    draft_budget=jnp.int32(4),
    token_value=jnp.float32(1.0),
    energy_price=jnp.float32(0.0),
    time_price=jnp.float32(0.0),
    acceptance_rate=jnp.float32(0.5),
    acceptance_level=jnp.float32(0.5 / 0.6),
)


def _signal(index=0, max_probability=0.5, entropy=1.0, exit=1):
    return DraftSignal(
        entropy=jnp.float32(entropy),
        exit=jnp.int32(exit),
        max_probability=jnp.float32(max_probability),
        index=jnp.int32(index),
        token_s=jnp.float32(0.02),
        token_j=jnp.float32(0.1),
        plan=PLAN,
        calibration=CALIBRATION,
    )


def _draft(rule, state, confidences, entropies=None):
    """A whole round without stopping: the state behind it, and whether each token tripped the rule."""
    state, stops = _started(rule, state, PLAN), []
    for i, confidence in enumerate(confidences):
        entropy = 1.0 if entropies is None else entropies[i]
        state, stop = _stepped(rule, state, _signal(i, confidence, entropy))
        stops.append(bool(stop))
    return state, stops


def _best(score, chosen):
    """`chosen` maximises `score`, up to float32 rounding."""
    return score[chosen] >= np.max(score) - 1e-4 * abs(np.max(score))


def _tokens(alpha, most):
    return np.cumsum(alpha ** np.arange(most + 1))


def test_flexspec():
    rng, allowed_rounds = np.random.default_rng(0), 0
    for _ in range(80):
        cap, alpha, cost_table = rng.uniform(0.0, 4.0), rng.uniform(0.1, 0.9), _random_outlook(rng)
        controller = flexspec(cap)
        calibration = default_calibration(mean_acceptance=alpha)
        rising = dataclasses.replace(calibration, conditional_acceptance=jnp.linspace(0.1, 0.9, KNOWN_POSITIONS))
        state = controller.init(rising)  # not that rule's business
        plan = _planned(controller, state, cost_table)
        time_s, energy_j = np.asarray(cost_table.time_s, np.float64), np.asarray(cost_table.energy_j, np.float64)
        rate, allowed, chosen = _tokens(alpha, G) / time_s, energy_j <= cap * time_s, int(plan.draft_budget)
        allowed_rounds += allowed.any()
        score = np.where(allowed, rate, -1.0) if allowed.any() else -energy_j / time_s
        assert _best(score, chosen)
        assert float(plan.time_price) == pytest.approx(rate[chosen], rel=1e-4)
        assert (float(plan.token_value), float(plan.energy_price)) == (1.0, 0.0)
    assert 10 < allowed_rounds < 70


@pytest.mark.parametrize(("cap", "chosen"), [(math.inf, 3), (1.0, 1), (0.0, 0)])
def test_flexspec_without_a_cap_under_one_and_where_none_can_be_kept(cap, chosen):
    """Three drafts are fastest; over 1 W from two on; nothing is under 0 W, and not drafting draws least."""
    controller = flexspec(cap)
    cost_table = _cost_table([1.0, 1.1, 1.2, 1.3, 9.0], [0.1, 1.0, 2.0, 3.0, 4.0])
    state = controller.init(default_calibration(mean_acceptance=0.9))
    assert int(_planned(controller, state, cost_table).draft_budget) == chosen


def test_ucb_specstop():
    rng, controller = np.random.default_rng(1), ucb_specstop(0.7)
    state = controller.init(CALIBRATION)
    successes = failures = rounds = 0
    lengths = set()
    for _ in range(100):
        cost_table = _random_outlook(rng)
        chosen = int(_planned(controller, state, cost_table).draft_budget)
        tested = successes + failures
        bonus = 0.7 * np.sqrt(np.log(1 + rounds) / (2 * tested)) if tested else 1.0
        alpha = min(1.0, (successes / tested if tested else 1.0) + bonus)
        assert _best(_tokens(alpha, G) / np.asarray(cost_table.time_s, np.float64), chosen)
        drafted = int(rng.integers(0, chosen + 1))  # an exit may end a draft early, or let none happen
        accepted = int(min(drafted, rng.geometric(0.6) - 1))
        state = _learned(controller, state, _outcome(drafted, accepted))
        successes, failures, rounds = successes + accepted, failures + (accepted < drafted), rounds + 1
        lengths.add(chosen)
    assert len(lengths) > 2


def test_ucb_specstop_is_optimistic_until_something_was_tested():
    controller = ucb_specstop()
    state, cost_table = controller.init(CALIBRATION), _cost_table(0.1 + 0.05 * np.arange(G + 1))
    for _ in range(3):
        assert int(_planned(controller, state, cost_table).draft_budget) == G  # (g + 1) / T rises
        state = _learned(controller, state, _outcome(0, 0))
    for _ in range(40):
        state = _learned(controller, state, _outcome(G, 0))
    assert int(_planned(controller, state, cost_table).draft_budget) == 0


def _bandit_choice(arms, cost_table, most, c):
    """From (rounds, tokens, seconds) by arm: scores of the arms of 0..most, -inf where one waits for its turn."""
    total = sum(rounds for rounds, _, _ in arms.values())
    scores = np.full(most + 1, -np.inf)
    for g in range(most + 1):
        if g in arms:
            rounds, tokens, seconds = arms[g]
            scores[g] = tokens / seconds + c * g / float(cost_table.time_s[g]) * np.sqrt(np.log(total) / rounds)
        elif g == total % (most + 1):
            return {g}
    return {g for g in range(most + 1) if _best(scores, g)}


def test_banditspec():
    """An arm of its own for each length that was drafted; the most tokens that a round may draft changes midway."""
    rng, controller, arms = np.random.default_rng(2), banditspec(0.3), {}
    state = controller.init(CALIBRATION)
    for most in [G] * 120 + [2] * 20 + [8] * 60:
        cost_table = _random_outlook(rng, most)
        chosen = int(_planned(controller, state, cost_table).draft_budget)
        assert chosen in _bandit_choice(arms, cost_table, most, 0.3)
        drafted = chosen if rng.random() < 0.8 else int(rng.integers(0, chosen + 1))
        accepted = int(min(drafted, rng.geometric(0.3) - 1))
        time_s = np.float32(cost_table.time_s[drafted])
        state = _learned(controller, state, _outcome(drafted, accepted, time_s))
        rounds, tokens, seconds = arms.get(drafted, (0, 0, 0.0))
        arms[drafted] = (rounds + 1, tokens + accepted + 1, seconds + float(time_s))
    for g in range(9):
        rounds, tokens, seconds = arms[g]
        assert (int(state.rule.rounds[g]), int(state.rule.tokens[g])) == (rounds, tokens)
        assert float(state.rule.seconds.high[g]) == pytest.approx(seconds, rel=1e-5)


def test_banditspec_tries_every_arm_and_settles_on_the_best():
    """Alpha 0.7, T = 0.1 + 0.02 g: three drafts are best, not drafting is 40 % worse."""
    controller, cost_table, rounds = banditspec(), _cost_table(0.1 + 0.02 * np.arange(G + 1)), 3_000

    def one_round(state, key):
        drafted = controller.plan(state, cost_table).draft_budget
        kept = jnp.cumprod(jax.random.uniform(key, (G,)) < 0.7)
        accepted = jnp.sum(jnp.where(jnp.arange(G) < drafted, kept, 0)).astype(jnp.int32)
        outcome = observation(
            drafted=drafted, accepted=accepted, tokens=accepted + 1, time_s=cost_table.time_s[drafted], energy_j=0.2
        )
        return controller.update(state, outcome), drafted

    keys = jax.random.split(jax.random.key(0), rounds)
    _, drafted = jax.jit(lambda: jax.lax.scan(one_round, controller.init(CALIBRATION), keys))()
    assert sorted(np.asarray(drafted[: G + 1]).tolist()) == list(range(G + 1))
    rate = _tokens(0.7, G) / np.asarray(cost_table.time_s)
    assert int(np.argmax(rate)) == 3
    # fixed seed; arms 2 to 4 are within 3 % of each other, the others are not
    assert rate[np.asarray(drafted[rounds // 2 :])].mean() > 0.95 * rate.max()


def test_banditspec_is_not_held_up_by_an_arm_that_never_happens():
    """An exit ends every draft after one token: arms 2.. are asked for in their turn only."""
    controller, cost_table, asked = banditspec(0.0), _cost_table(0.1 + 0.001 * np.arange(G + 1)), []
    state = controller.init(CALIBRATION)
    for _ in range(10 * (G + 1)):
        asked.append(int(_planned(controller, state, cost_table).draft_budget))
        drafted = min(asked[-1], 1)
        state = _learned(controller, state, _outcome(drafted, drafted))
    assert np.bincount(asked, minlength=G + 1).tolist() == [1, 10 + 9, *[10] * (G - 1)]


@pytest.mark.parametrize("make", PEER_CONTROLLERS.values(), ids=PEER_CONTROLLERS)
def test_no_drafts_at_all(make):
    """G = 0, and rounds without drafts: nothing is divided by nothing."""
    controller = make()
    state = controller.init(CALIBRATION)
    for _ in range(3):
        plan = _planned(controller, state, _cost_table([0.1]))
        assert int(plan.draft_budget) == 0
        assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(plan))
        state = _learned(controller, state, _outcome(0, 0))
    plan = _planned(controller, state, _cost_table(0.1 + 0.01 * np.arange(G + 1)))
    assert 0 <= int(plan.draft_budget) <= G
    assert float(controller.queue(state)) == 0.0


def test_sled():
    rng = np.random.default_rng(3)
    for threshold in (0.0, 0.2, 0.6, 1.0):
        rule = sled(threshold)
        state = rule.init()
        for _ in range(6):
            confidences = rng.uniform(0.3, 1.0, G).astype(np.float32)
            state, stops = _draft(rule, state, confidences)
            assert stops == (np.cumprod(confidences.astype(np.float64)) < threshold).tolist()
            state = _learned(rule, state, _outcome(G, 2))
    assert _draft(sled(1.0), sled(1.0).init(), [1.0, 1.0])[1] == [False, False]


def test_edgellm_no_tree():
    rng, rule = np.random.default_rng(4), edgellm_no_tree(0.5)
    state, threshold = rule.init(), 0.5
    for _ in range(60):
        confidences = rng.uniform(0.5, 1.0, G).astype(np.float32)
        state, stops = _draft(rule, state, confidences)
        product = np.cumprod(confidences.astype(np.float64))
        clear = np.abs(product - threshold) > 1e-5
        assert (np.asarray(stops) == (product < threshold))[clear].all()
        drafted = int(rng.integers(0, G + 1))
        accepted = drafted if rng.random() < 0.4 else int(rng.integers(0, drafted + 1))
        state = _learned(rule, state, _outcome(drafted, accepted))
        if drafted and accepted == drafted:
            threshold *= 0.5
        elif drafted:
            threshold /= 0.5 ** ((drafted - accepted) / drafted)
        threshold = min(max(threshold, LOWEST), HIGHEST)
        assert float(state.threshold) == pytest.approx(threshold, rel=1e-5)


@pytest.mark.parametrize(("accepted", "limit"), [(4, LOWEST), (0, HIGHEST)])
def test_edgellm_keeps_its_threshold_within_limits(accepted, limit):
    rule = edgellm_no_tree(0.3)
    state = rule.init()
    for _ in range(12):
        state = _learned(rule, state, _outcome(4, accepted))
    assert float(state.threshold) == pytest.approx(limit)


def _roc_costs(known):
    """FPR + 3 FNR at every edge of a bin, and the errors behind it; `known` holds (confidence, matched)."""
    yes = np.array([confidence for confidence, matched in known if matched])
    no = np.array([confidence for confidence, matched in known if not matched])
    errors = [(int((no >= edge / BINS).sum()), int((yes < edge / BINS).sum())) for edge in range(BINS)]
    return np.array([wrong / len(no) + 3 * missed / len(yes) for wrong, missed in errors]), errors


@pytest.mark.parametrize("seed", [5, 6])
def test_confidence_roc(seed):
    rng, rule, known = np.random.default_rng(seed), confidence_roc(0.4), []
    state, threshold, moved = rule.init(), 0.4, set()
    for _ in range(40):
        drafted = int(rng.choice([0, 1, 3, G, 32]))
        confidences = np.clip(rng.beta(2.0, 1.0, 32), 0.0, 1.0).astype(np.float32)
        confidences[rng.random(32) < 0.05] = 1.0
        state, stops = _draft(rule, state, confidences[:drafted])
        assert stops == (confidences[:drafted] < np.float32(threshold)).tolist()
        matched = rng.random(32) < confidences**0.5
        accepted = drafted if matched[:drafted].all() else int(np.argmin(matched))
        state = _learned(rule, state, _outcome(drafted, accepted))
        known += [(confidence, True) for confidence in confidences[:accepted]]
        known += [(confidences[accepted], False)] if accepted < drafted else []
        if len(known) > 5 and 0 < sum(match for _, match in known) < len(known):
            costs, errors = _roc_costs(known)
            edge = round(float(state.threshold) * BINS)
            assert float(state.threshold) == edge / BINS
            assert costs[edge] <= costs.min() + 1e-5
            assert errors[edge] not in errors[edge + 1 :]  # of equal thresholds the highest
            threshold = edge / BINS
        assert float(state.threshold) == pytest.approx(threshold)
        moved.add(threshold)
    assert len(moved) > 2
    assert int(state.counts.sum()) == len(known)


def test_confidence_roc_waits_for_both_kinds_and_ignores_finished_rows():
    rule = confidence_roc(0.4)
    state = rule.init()
    for drafted, accepted in [(4, 4), (0, 0), (4, 4)]:  # eight matches and no miss
        state, _ = _draft(rule, state, [0.9] * drafted)
        state = _learned(rule, state, _outcome(drafted, accepted))
        assert float(state.threshold) == pytest.approx(0.4)
    chex.assert_trees_all_equal(_learned(rule, state, _outcome(4, 0, active=False)), state)
    state, _ = _draft(rule, state, [0.7, 0.99])  # the second is behind the miss: unknown
    state = _learned(rule, state, _outcome(2, 0))
    assert float(state.threshold) == math.floor(0.9 * BINS) / BINS  # misses no match, lets nothing else through
    assert np.asarray(state.counts.sum(axis=1)).tolist() == [8, 1]


def test_specdec_entropy():
    rng, seen = np.random.default_rng(7), set()
    for threshold in (0.3, 0.7, 0.95):
        rule = specdec_entropy(threshold)
        state = rule.init()
        for _ in range(6):
            entropies = rng.exponential(1.0, G).astype(np.float32)
            state, stops = _draft(rule, state, [0.5] * G, entropies)
            alpha = np.minimum(np.exp(-0.35 * entropies.astype(np.float64)), 1.0) * 0.5 / 0.6
            refused = 1.0 - np.cumprod(alpha)
            clear = np.abs(refused - threshold) > 1e-5
            assert (np.asarray(stops) == (refused > threshold))[clear].all()
            state = _learned(rule, state, _outcome(G, 1))
            seen.update(stops)
    assert seen == {True, False}


@pytest.mark.parametrize("make", PEER_EXITS.values(), ids=PEER_EXITS)
def test_exits_keep_the_budget_and_stop_no_round_before_its_first_token(make):
    rule = make()
    for budget in (0, 3, 9):
        assert int(rule.limit(dataclasses.replace(PLAN, draft_budget=jnp.int32(budget)), G)) == min(budget, G)
    state, stops = _draft(rule, rule.init(), [1.0] * 3, [0.0] * 3)
    assert not stops[0]
    chex.assert_trees_all_equal(_learned(rule, state, _outcome(3, 0, active=False)), state)


def _rounds(rule, confidence):
    """Three rounds of a controller or an exit in a compiled loop, as `generate` runs them: the state behind them."""
    drafted = jnp.array([3, 0, 2])
    if isinstance(rule, control.Controller):
        cost_table = _cost_table(0.1 + 0.01 * np.arange(G + 1))

        def controlled(state, drafted):
            plan = rule.plan(state, cost_table)
            outcome = dataclasses.replace(_outcome(0, 0), drafted=jnp.minimum(drafted, plan.draft_budget))
            return rule.update(state, outcome), None

        return jax.lax.scan(controlled, rule.init(CALIBRATION), drafted)[0]

    def exited(state, drafted):
        state, _ = rule.step(rule.start(state, PLAN), dataclasses.replace(_signal(), max_probability=confidence))
        return rule.update(state, dataclasses.replace(_outcome(0, 0), drafted=drafted)), None

    return jax.lax.scan(exited, rule.init(), drafted)[0]


PEERS = {**PEER_CONTROLLERS, **PEER_EXITS}


@pytest.mark.parametrize("make", PEERS.values(), ids=PEERS)
def test_numbers_are_data(make):
    """Another number compiles nothing; a batch of numbers and rows is each of them; state keeps its types."""
    chex.clear_trace_counter()
    run = jax.jit(chex.assert_max_traces(n=1)(_rounds))
    numbers, confidences = (0.25, 0.75), jnp.array([0.9, 0.3])
    each = [run(make(number), confidence) for number, confidence in zip(numbers, confidences, strict=True)]
    rules = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(make, numbers))
    batch = jax.vmap(_rounds)(rules, confidences)
    for row, state in enumerate(each):
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, row=row: leaf[row], batch), state, rtol=1e-5)
    rule = make()
    start = rule.init(CALIBRATION) if isinstance(rule, control.Controller) else rule.init()
    for leaf, moved in zip(jax.tree.leaves(start), jax.tree.leaves(each[0]), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.weak_type) == (moved.shape, moved.dtype, moved.weak_type)
        assert leaf.dtype in (jnp.float32, jnp.int32)


@pytest.mark.parametrize("make", PEERS.values(), ids=PEERS)
def test_a_donated_state_takes_no_number_with_it(make):
    rule = make()
    state = rule.init(CALIBRATION) if isinstance(rule, control.Controller) else rule.init()
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((rule, CALIBRATION))}
    assert all(leaf.unsafe_buffer_pointer() not in pointers for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("make", PEERS.values(), ids=PEERS)
@pytest.mark.parametrize("bad", [-0.1, math.nan])
def test_refuses_numbers_out_of_range(make, bad):
    with pytest.raises(ValueError, match="must lie in"):
        make(bad)


def test_found_by_name():
    assert all(control.CONTROLLERS[name] is make for name, make in PEER_CONTROLLERS.items())
    assert all(control.LENGTH_EXITS[name] is make for name, make in PEER_EXITS.items())
    capped = control.create(control.CONTROLLERS, "flexspec", power_budget_w=1.5)
    assert float(capped.params) == 1.5
