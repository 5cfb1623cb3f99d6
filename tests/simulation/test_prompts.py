"""What long prompts make of drafting: a capped device that drafts must gain by it, its reading of prompts counted.

Seconds and joules of prompts are in every rate that a study shows.
"""

import math

import jax
import numpy as np
import pytest

from gelato_experiments.inputs import read_recording
from gelato_experiments.methods.compare import measured
from gelato_jax import control, payloads, simulation, system
from gelato_jax.control import depth_exits, draft_sampling, length_exits
from gelato_jax.decoding import Policy

CAPS_W = (0.75, 1.0, 1.5, math.inf)


def _ran(controllers):
    """Long documents under each controller."""
    documents = read_recording("long-greedy")
    world = system.preset("orin-nano-15w", "5mhz-500m-60ms", "rtx3090-7b")
    settings = [
        simulation.make_setup(
            documents,
            Policy(
                controller=controller,
                length_exit=length_exits.none(),
                depth_exit=depth_exits.fixed(),
                draft_sampling=draft_sampling.fixed(),
                payload=payloads.candidates(32),
            ),
            world,
            vocabularies=payloads.Vocabularies.whole(151_936),
        )
        for controller in controllers
    ]
    return simulation.simulate(
        documents, settings, devices=32, rounds=1_000, warmup=1_000, jax_devices=jax.devices()[:1]
    )


def _simulate(controllers):
    """Tokens per second with prompts' seconds counted, watts, and drafts a round, of each controller."""
    ran = _ran(controllers)
    rates, (drafted, rounds) = simulation.rates(ran), simulation.by_share(ran, "drafted", "rounds")
    return rates.tokens_per_s, rates.power_w, drafted / rounds


@pytest.fixture(scope="module")
def idle():
    return _simulate([control.static(0)])


def test_rates_count_prompts():
    ran = _ran([control.static(0), control.static(2)])
    tokens, round_s, round_j, prompt_s, prompt_j = (
        simulation.total(ran, name) for name in ("tokens", "time_s", "energy_j", "prompt_s", "prompt_j")
    )
    seconds, joules = round_s + prompt_s, round_j + prompt_j
    assert prompt_s[1].sum() > 0.2 * round_s[1].sum()  # whoever forgot them would be found out
    assert prompt_j[1].sum() > 0.2 * round_j[1].sum()
    assert prompt_j[1].sum() > 20 * prompt_j[0].sum()  # a device that never drafts does not read
    for shares, parts in ((None, 1), (8, 8)):
        found = measured(ran, 8) if shares else simulation.rates(ran)
        summed = [part.reshape(2, parts, -1).sum(axis=2) for part in (tokens, seconds, joules)]
        wanted = (summed[0] / summed[1], summed[2] / summed[1], summed[2] / summed[0])
        for figure, value in zip(found[:3], wanted, strict=True):
            np.testing.assert_allclose(figure.reshape(2, parts), value, rtol=1e-9)


def test_a_prompt_that_a_small_weight_cannot_pay_for_is_not_read(idle):
    """Read at the queue before it, the prompt's joules forbade drafting afterwards: 7 % slower, at twice the power."""
    rate, power_w, _ = _simulate([control.ratio(power_budget_w=0.75, penalty_weight=weight) for weight in (0.1, 0.3)])
    assert np.all(rate > 0.98 * idle[0])
    assert np.all(power_w < 0.6)


def test_drafting_under_a_cap_is_worth_its_prompts(idle):
    """Deciding round by round, blind to the prompt that each request's first draft must read, lost 7 % at 0.75 W."""
    rate, power_w, drafts = _simulate([control.ratio(power_budget_w=cap) for cap in CAPS_W])
    assert np.all(drafts > 0.1)
    assert np.all(rate > 1.02 * idle[0])
    assert np.all(power_w <= 1.03 * np.array(CAPS_W))
    assert np.all(np.diff(rate[:-1]) > 0)  # more watts, more tokens
