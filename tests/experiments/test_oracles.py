"""The oracles, against enumeration of every deterministic policy, against simulation, and against each other."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gelato_experiments.oracles import (
    EntropyModel,
    RoundCosts,
    clairvoyant,
    entropy_stopping,
    evaluate,
    fixed_length_tables,
    round_level,
)
from gelato_experiments.oracles.stopping_grid import believed

SEEDS = st.integers(0, 2**32 - 1)
PLACE = st.floats(0.01, 0.99)  # of a cap between the floor and the power of the unconstrained optimum
EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
SIMULATED_ROUNDS = 200_000
DEAR_W, CHEAP_W = (1.0, 10.0), (0.01, 0.5)  # power while drafting, above that of waiting or below
SIGMAS = 5.0  # false alarm 6e-7 a comparison


def best_by_enumeration(tokens, seconds, joules, cap):
    """Best rate of mixtures of two of the given policies [R], each by its mean tokens, seconds and joules."""
    rate, power = tokens / seconds, joules / seconds
    below, above = power <= cap, power > cap
    best = rate[below].max(initial=-np.inf)
    if above.any() and below.any():
        low_power, high_power = power[below][:, None], power[above][None, :]
        share = (cap - low_power) / (high_power - low_power)
        best = max(best, ((1.0 - share) * rate[below][:, None] + share * rate[above][None, :]).max())
    return best


def joint_policies(probability, per_state):
    """Mean tokens, seconds and joules [R] of every choice of one of the rows [R_w, 3] in each state."""
    return np.array([probability @ np.array(choice) for choice in itertools.product(*per_state)]).T


def random_tables(seed, states=2, actions=3):
    rng = np.random.default_rng(seed)
    seconds = rng.uniform(0.1, 1.0, (states, actions))
    tables = rng.uniform(1.0, 4.0, (states, actions)), seconds, seconds * rng.uniform(0.5, 4.0, (states, actions))
    return rng.dirichlet(np.ones(states)), tables


def random_world(seed, *, states=2, classes=2, drafts=3, token_w=DEAR_W):
    """Costs at which some rounds should draft and some not; outcomes cost something too.

    Every other seed's classes move otherwise behind a rejection, and every third's by place.
    """
    rng = np.random.default_rng(seed)
    places = (drafts,) if seed % 3 == 0 else ()
    model = EntropyModel(
        initial=rng.dirichlet(np.ones(classes)),
        transition=rng.dirichlet(np.ones(classes), (*places, classes)),
        acceptance=rng.uniform(0.05, 0.98, (*places, classes)),
        off_transition=rng.dirichlet(np.ones(classes), (*places, classes)) if seed % 2 else None,
    )
    base, token = rng.uniform(0.05, 0.3, states), rng.uniform(0.005, 0.1, (states, drafts))
    costs = RoundCosts(
        base_s=base,
        base_j=base * rng.uniform(0.5, 2.0),
        token_s=token,
        token_j=token * rng.uniform(*token_w, (states, drafts)),
        reject_s=rng.uniform(0.0, 0.1, states),
        reject_j=rng.uniform(0.0, 0.1, states),
        full_s=rng.uniform(0.0, 0.05, states),
        full_j=rng.uniform(0.0, 0.05, states),
    )
    return rng.dirichlet(np.ones(states)), model, costs


def between(place, low, high):
    return (1.0 - place) * low + place * high


# Round level


@EXAMPLES
@given(SEEDS, PLACE)
def test_round_level_equals_enumeration(seed, place):
    probability, tables = random_tables(seed)
    policies = joint_policies(probability, [np.stack([table[w] for table in tables], axis=1) for w in range(2)])
    power = policies[2] / policies[1]
    floor, ceiling = power.min(), power[np.argmax(policies[0] / policies[1])]
    for cap in (floor, between(place, floor, ceiling), ceiling + 1.0, math.inf):
        found = round_level.solve(probability, *tables, power_cap_w=cap)
        assert found.feasible
        assert found.floor_w == pytest.approx(floor, rel=1e-8)
        assert found.power_w <= cap * (1 + 1e-8)
        # At the floor the rate may rise so fast with the cap that the last digits of the power count.
        best = best_by_enumeration(*policies, max(cap, found.power_w) * (1 + 1e-12))
        assert found.tokens_per_s == pytest.approx(best, rel=1e-7)
        np.testing.assert_allclose(found.policy.sum(axis=1), 1.0, rtol=1e-12)
        played = evaluate(found.policy, probability, *tables)
        assert played == pytest.approx((found.tokens_per_s, found.power_w), rel=1e-12)
        if found.energy_price > 0.0:
            assert found.energy_price * abs(cap - found.power_w) < 1e-5 * found.tokens_per_s


def test_round_level_without_a_binding_cap_is_the_best_ratio():
    probability, tables = random_tables(0)
    free = round_level.solve(probability, *tables)
    loose = round_level.solve(probability, *tables, power_cap_w=free.power_w * 1.01)
    assert (free.energy_price, loose.energy_price) == (0.0, 0.0)
    assert loose.tokens_per_s == pytest.approx(free.tokens_per_s, rel=1e-9)


def test_round_level_refuses_a_cap_under_the_floor():
    probability, tables = random_tables(1)
    floor = round_level.solve(probability, *tables).floor_w
    found = round_level.solve(probability, *tables, power_cap_w=0.99 * floor)
    assert not found.feasible
    assert found.floor_w == pytest.approx(floor)
    assert math.isnan(found.tokens_per_s)
    assert evaluate(found.policy, probability, *tables)[1] == pytest.approx(floor)


@EXAMPLES
@given(SEEDS)
def test_round_level_rises_with_the_cap_and_is_concave(seed):
    probability, tables = random_tables(seed, states=4, actions=5)
    free = round_level.solve(probability, *tables)
    caps = np.linspace(free.floor_w, free.power_w + 0.5, 9)
    found = [round_level.solve(probability, *tables, power_cap_w=cap) for cap in caps]
    steps = np.diff([one.tokens_per_s for one in found])
    assert np.all(steps >= -1e-7)
    assert np.all(np.diff(steps) <= 1e-6)


@EXAMPLES
@given(SEEDS, PLACE)
def test_round_level_price_is_the_rates_slope(seed, place):
    probability, tables = random_tables(seed, states=4, actions=5)
    free = round_level.solve(probability, *tables)
    cap, step = between(place, free.floor_w, free.power_w), 1e-5
    below, here, above = (
        round_level.solve(probability, *tables, power_cap_w=max(cap + shift, free.floor_w))
        for shift in (-step, 0.0, step)
    )
    # The rate is concave and piecewise linear in the cap: any slope between the two sides' is a price.
    assert here.energy_price >= (above.tokens_per_s - here.tokens_per_s) / step - 1e-3
    if cap - step > free.floor_w:
        assert here.energy_price <= (here.tokens_per_s - below.tokens_per_s) / step + 1e-3


def test_round_level_units_do_not_matter():
    probability, (tokens, seconds, joules) = random_tables(2, states=4, actions=5)
    free = round_level.solve(probability, tokens, seconds, joules)
    cap = between(0.5, free.floor_w, free.power_w)
    plain = round_level.solve(probability, tokens, seconds, joules, power_cap_w=cap)
    tiny = round_level.solve(probability, tokens, 1e-6 * seconds, 1e-9 * joules, power_cap_w=1e-3 * cap)
    assert tiny.tokens_per_s == pytest.approx(1e6 * plain.tokens_per_s, rel=1e-7)
    assert tiny.energy_price == pytest.approx(1e9 * plain.energy_price, rel=1e-6)


def test_round_level_leaves_out_what_was_never_observed():
    _, (tokens, seconds, joules) = random_tables(3)
    tokens[0, 0] = joules[1, 2] = np.nan
    found = round_level.solve([1.0, 0.0], tokens, seconds, joules)
    assert found.policy[0, 0] == 0.0
    rate = (tokens[0] / seconds[0])[1:].max()
    assert found.tokens_per_s == pytest.approx(rate)
    # The state that never occurs acts at the same price of a second.
    assert found.policy[1, np.argmax((tokens - rate * seconds)[1, :2])] == 1.0
    with pytest.raises(ValueError, match="never observed"):
        evaluate([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [1.0, 0.0], tokens, seconds, joules)
    tokens[0] = np.nan
    with pytest.raises(ValueError, match="no action"):
        round_level.solve([0.5, 0.5], tokens, seconds, joules)
    assert round_level.solve([0.0, 1.0], tokens, seconds, joules).policy[0, 0] == 1.0


def test_round_level_completes_unmet_states_at_both_prices():
    probability, tables = random_tables(5, states=40, actions=5)
    free = round_level.solve(probability, *tables)
    cap = between(0.5, free.floor_w, free.power_w)
    with_more = [np.concatenate([table, table]) for table in tables]
    found = round_level.solve(np.append(probability, np.zeros(40)), *with_more, power_cap_w=cap)
    assert found.energy_price > 0.0
    # A copy of a state that occurs has the same best actions, where these are not mixed.
    pure = found.policy[:40].max(axis=1) > 1.0 - 1e-9
    np.testing.assert_allclose(found.policy[40:][pure], found.policy[:40][pure], atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": [0.5, 0.6]}, "distribution"),
        ({"seconds": np.zeros((2, 3))}, "positive"),
        ({"joules": np.ones((3, 2))}, "all"),
        ({"power_cap_w": math.nan}, "nan"),
    ],
)
def test_round_level_refuses_bad_input(change, message):
    probability, (tokens, seconds, joules) = random_tables(4)
    given = {"probability": probability, "tokens": tokens, "seconds": seconds, "joules": joules}
    with pytest.raises(ValueError, match=message):
        round_level.solve(**(given | change))


# Stopping on entropies


def stopping_rules(model, costs, w):
    """[R, 3] mean tokens, seconds and joules of every rule from class histories to stop or go, in state w."""

    def after(drafted, on, off, coming):
        """Every continuation of rounds of which `on` have all drafts accepted and `off` not.

        To end them here, or to draft and choose again in each class; `coming`: chances of classes, on track and off.
        """
        rows = [
            [0.0, *(reject * off + full * on for reject, full in ((r_s, f_s), (r_j, f_j)))],
        ]
        if drafted < costs.max_draft_length:
            paid = (on + off) * np.array([0.0, costs.token_s[w, drafted], costs.token_j[w, drafted]])
            accept, moves = model.accepts(drafted), model.moves(drafted)
            branches = []
            for kind in range(model.classes):
                accepted = on * coming[0][kind] * accept[kind]
                lost = on * coming[0][kind] * (1.0 - accept[kind]) + off * coming[1][kind]
                further = after(drafted + 1, accepted, lost, [table[kind] for table in moves])
                branches.append(further + np.array([accepted, 0.0, 0.0]))
            rows += [paid + sum(choice) for choice in itertools.product(*branches)]
        return np.array(rows)

    r_s, f_s, r_j, f_j = (table[w] for table in (costs.reject_s, costs.full_s, costs.reject_j, costs.full_j))
    start = after(0, 1.0, 0.0, [model.initial, model.initial])
    return start + np.array([1.0, costs.base_s[w], costs.base_j[w]])


@EXAMPLES
@given(SEEDS, PLACE, st.integers(1, 2), st.integers(1, 3), st.sampled_from([DEAR_W, CHEAP_W]))
def test_stopping_equals_enumeration(seed, place, states, drafts, token_w):
    probability, model, costs = random_world(seed, states=states, drafts=drafts, token_w=token_w)
    policies = joint_policies(probability, [stopping_rules(model, costs, w) for w in range(states)])
    power = policies[2] / policies[1]
    floor, ceiling = power.min(), power[np.argmax(policies[0] / policies[1])]
    for cap in (between(place, floor, ceiling), math.inf):
        found = entropy_stopping.solve(probability, model, costs, power_cap_w=cap)
        best = best_by_enumeration(*policies, cap * (1 + 1e-12))
        assert found.floor_w == pytest.approx(floor, rel=1e-8)
        assert found.tokens_per_s == pytest.approx(best, rel=1e-7)
        assert found.bound_tokens_per_s == pytest.approx(best, rel=1e-7)
        assert found.power_w <= cap * (1 + 1e-8)


def test_stopping_refuses_a_cap_under_the_floor():
    world = random_world(0)
    floor = entropy_stopping.solve(*world).floor_w
    found = entropy_stopping.solve(*world, power_cap_w=0.99 * floor)
    assert (found.feasible, found.floor_w, found.policy) == (False, floor, None)
    assert math.isnan(found.tokens_per_s)
    at_the_floor = entropy_stopping.solve(*world, power_cap_w=floor)
    assert at_the_floor.power_w == pytest.approx(floor)
    assert at_the_floor.bound_tokens_per_s == pytest.approx(at_the_floor.tokens_per_s, rel=1e-6)


def test_stopping_finds_a_floor_that_no_fixed_length_reaches():
    model = EntropyModel(initial=[0.5, 0.5], transition=np.full((2, 2), 0.5), acceptance=[1.0, 0.0])
    # Drafting is dear, but a rejection saves more: draft until a token is sure to be rejected.
    costs = RoundCosts([1.0], [1.0], np.full((1, 3), 0.01), np.full((1, 3), 0.1), [0.0], [0.0], [0.0], [10.0])
    rules = stopping_rules(model, costs, 0)
    floor = (rules[:, 2] / rules[:, 1]).min()
    fixed = round_level.solve([1.0], *fixed_length_tables(model, costs)).floor_w
    found = entropy_stopping.solve([1.0], model, costs, power_cap_w=between(0.5, floor, fixed))
    assert floor < 0.99 * fixed
    assert found.floor_w == pytest.approx(floor, rel=1e-9)
    assert found.feasible


@pytest.mark.parametrize("seed", [2, 4, 8, 10, 14, 16])  # one chain: all beliefs fit into a grid
def test_the_grid_bounds_the_exact_optimum_from_both_sides(seed):
    probability, model, costs = random_world(seed, classes=3, drafts=6)
    free = entropy_stopping.solve(probability, model, costs)
    cap = between(0.5, free.floor_w, free.power_w)
    exact = entropy_stopping.solve(probability, model, costs, power_cap_w=cap)
    assert exact.bound_tokens_per_s == pytest.approx(exact.tokens_per_s, rel=1e-8)
    for points, error in ((10, 0.05), (80, 1e-3)):
        coarse = entropy_stopping.solve(probability, model, costs, power_cap_w=cap, max_points=points)
        assert len(coarse.policy.survival) == points
        assert coarse.tokens_per_s <= exact.tokens_per_s * (1 + 1e-8)
        assert coarse.bound_tokens_per_s >= exact.tokens_per_s * (1 - 1e-8)
        assert coarse.bound_tokens_per_s <= coarse.tokens_per_s * (1 + error)


def simulate(policy, probability, model, costs, seed):
    """Sample means, and their covariance, of N, T, E and the draft length of rounds played by the policy."""
    rng = np.random.default_rng(seed)
    rounds, drafts = SIMULATED_ROUNDS, costs.max_draft_length
    state = rng.choice(len(probability), rounds, p=probability)
    which = (rng.random(rounds) >= policy.weight[0, state]).astype(int)
    chances = np.broadcast_to(model.initial, (rounds, len(model.initial)))
    drafting, alive = policy.start[which, state], np.ones(rounds, bool)
    last = point = np.zeros(rounds, int)
    tokens, length = np.ones(rounds), np.zeros(rounds)
    seconds, joules = costs.base_s[state], costs.base_j[state]
    for i in range(drafts):
        kind = (rng.random(rounds)[:, None] >= chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
        seconds, joules = seconds + drafting * costs.token_s[state, i], joules + drafting * costs.token_j[state, i]
        length += drafting
        alive &= ~drafting | (rng.random(rounds) < model.accepts(i)[kind])
        tokens += drafting & alive
        survival = believed(model, i, policy.survival)[last, point, kind] if i else model.accepts(0)[kind]
        upper = np.clip(np.searchsorted(policy.survival, survival), 1, len(policy.survival) - 1)
        low, high = policy.survival[upper - 1], policy.survival[upper]
        point = upper - (rng.random(rounds) >= (survival - low) / (high - low))
        if i < drafts - 1:
            drafting = drafting & policy.go[which, i, kind, point, state]
            on, off = model.moves(i)
            chances, last = np.where(alive[:, None], on[kind], off[kind]), kind
    seconds = seconds + np.where(alive, costs.full_s[state], costs.reject_s[state])
    joules = joules + np.where(alive, costs.full_j[state], costs.reject_j[state])
    sample = np.stack([tokens, seconds, joules, length])
    return sample.mean(axis=1), np.cov(sample) / rounds


@pytest.mark.parametrize("seed", [5, 8, 9])  # another chain off the track; the same; another, and all by place
@pytest.mark.parametrize("points", [12, 1000])
def test_stopping_policy_does_what_is_reported_when_played(points, seed):
    probability, model, costs = random_world(seed, classes=3, drafts=5)
    free = entropy_stopping.solve(probability, model, costs)
    cap = between(0.5, free.floor_w, free.power_w)
    found = entropy_stopping.solve(probability, model, costs, power_cap_w=cap, max_points=points)
    assert found.energy_price > 0.0
    assert found.power_w == pytest.approx(cap)
    mean, covariance = simulate(found.policy, probability, model, costs, seed=6)
    # N - rate * T and E - power * T have mean 0: a ratio's error without a delta method.
    for direction in ([1, -found.tokens_per_s, 0, 0], [0, -found.power_w, 1, 0]):
        assert abs(mean @ direction) < SIGMAS * math.sqrt(direction @ covariance @ direction)
    assert abs(mean[3] - found.mean_draft_length) < SIGMAS * math.sqrt(covariance[3, 3])


@EXAMPLES
@given(SEEDS, PLACE, st.integers(1, 4))
def test_more_knowledge_is_never_worse(seed, place, classes):
    probability, model, costs = random_world(seed, states=3, classes=classes, drafts=5)
    tables = fixed_length_tables(model, costs)
    free = round_level.solve(probability, *tables)
    for cap in (between(place, free.floor_w, free.power_w), math.inf):
        coarse = round_level.solve(probability, *tables, power_cap_w=cap)
        fine = entropy_stopping.solve(probability, model, costs, power_cap_w=cap)
        full = clairvoyant.solve(probability, model.accepted_lengths(5), costs, power_cap_w=cap)
        assert fine.tokens_per_s >= coarse.tokens_per_s * (1 - 1e-8)
        assert full.tokens_per_s >= fine.bound_tokens_per_s * (1 - 1e-7)
        if classes == 1:
            assert fine.bound_tokens_per_s == pytest.approx(coarse.tokens_per_s, rel=1e-7)


def test_entropies_are_worth_something_where_they_tell():
    model = EntropyModel(initial=[0.5, 0.5], transition=np.full((2, 2), 0.5), acceptance=[1.0, 0.0])
    costs = RoundCosts([0.1], [0.1], np.full((1, 4), 0.03), np.full((1, 4), 0.1), *([0.0] for _ in range(4)))
    coarse = round_level.solve([1.0], *fixed_length_tables(model, costs))
    fine = entropy_stopping.solve([1.0], model, costs)
    # Stop at the first token of the bad class: 15/16 accepted of 15/8 drafted; fixed length 1: 1.5 / 0.13.
    assert coarse.tokens_per_s == pytest.approx(1.5 / 0.13)
    assert fine.tokens_per_s == pytest.approx((1 + 15 / 16) / (0.1 + 0.03 * 15 / 8))


# Clairvoyant


@EXAMPLES
@given(SEEDS, PLACE)
def test_clairvoyant_equals_enumeration(seed, place):
    probability, model, costs = random_world(seed, states=1, drafts=2)
    accepted = model.accepted_lengths(2)
    seconds, joules = costs.by_outcome()
    per_state = [np.stack([np.minimum(k, np.arange(3)) + 1.0, seconds[0, k], joules[0, k]], axis=1) for k in range(3)]
    policies = joint_policies(accepted, per_state)
    power = policies[2] / policies[1]
    cap = between(place, power.min(), power[np.argmax(policies[0] / policies[1])])
    found = clairvoyant.solve(probability, accepted, costs, power_cap_w=cap)
    assert found.tokens_per_s == pytest.approx(best_by_enumeration(*policies, cap * (1 + 1e-12)), rel=1e-7)
    by_state = clairvoyant.solve(probability, accepted[None], costs, power_cap_w=cap)
    assert by_state.tokens_per_s == found.tokens_per_s


def test_stopping_refuses_a_grid_of_one_point():
    with pytest.raises(ValueError, match="max_points"):
        entropy_stopping.solve(*random_world(0), max_points=1)
