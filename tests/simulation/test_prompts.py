"""What long prompts make of drafting: a capped device that drafts must gain by it, its reading of prompts counted."""

import math

import jax
import numpy as np
import pytest

from gelato_experiments.inputs import read_recording
from gelato_jax import control, payloads, simulation, system
from gelato_jax.control import depth_exits, draft_sampling, length_exits
from gelato_jax.decoding import Policy

CAPS_W = (0.75, 1.0, 1.5, math.inf)


def _simulate(controllers):
    """Tokens per second with prompts' seconds counted, watts, and drafts a round, of each controller."""
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
    ran = simulation.simulate(
        documents, settings, devices=32, rounds=1_000, warmup=1_000, jax_devices=jax.devices()[:1]
    )
    sums = {
        name: simulation.total(ran, name).sum(axis=1) for name in ("tokens", "time_s", "prompt_s", "drafted", "rounds")
    }
    return (
        sums["tokens"] / (sums["time_s"] + sums["prompt_s"]),
        simulation.rates(ran).power_w,
        sums["drafted"] / sums["rounds"],
    )


@pytest.fixture(scope="module")
def idle():
    return _simulate([control.static(0)])


def test_drafting_under_a_cap_is_worth_its_prompts(idle):
    """Deciding round by round, blind to the prompt that each request's first draft must read, lost 7 % at 0.75 W."""
    rate, power_w, drafts = _simulate([control.ratio(power_budget_w=cap) for cap in CAPS_W])
    assert np.all(drafts > 0.1)
    assert np.all(rate > 1.02 * idle[0])
    assert np.all(power_w <= 1.03 * np.array(CAPS_W))
    assert np.all(np.diff(rate[:-1]) > 0)  # more watts, more tokens
