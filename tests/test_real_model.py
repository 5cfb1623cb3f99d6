"""The default model on real prompts: greedy speculative text is the model's own, under four policies."""

import numpy as np
import pytest

from gelato_checkpoints import load_pair
from gelato_experiments.benchmarks import lossless
from gelato_experiments.prompts import read_prompts
from gelato_jax import control, payloads, system
from gelato_jax.decoding import DecodeSettings, autoregressive, generate

CONTROLLERS = (
    control.static(4),
    control.ratio(power_budget_w=3.0, penalty_weight=100.0),
    control.gelato(power_budget_w=3.0, penalty_weight=100.0),
    control.hf_schedule(),
)
LENGTH_EXITS = (
    control.length_exits.none(),
    control.length_exits.priced(),
    control.length_exits.bucket(),
    control.length_exits.svip(threshold=0.7),
)
DEPTH_EXITS = (control.depth_exits.fixed(), control.depth_exits.entropy(3.0), control.depth_exits.fixed(0))
POLICIES = ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 1))
SETTINGS = DecodeSettings(max_new_tokens=16)


@pytest.fixture(scope="module")
def pair():
    return load_pair()


@pytest.fixture(scope="module")
def prompts(pair) -> list[list[int]]:
    return [pair.tokenizer.chat_prompt(prompt) for prompt in read_prompts(limit=8)]


@pytest.fixture(scope="module")
def expected(pair, prompts) -> list[list[int]]:
    return autoregressive(pair, prompts, settings=SETTINGS)


@pytest.mark.parametrize("policy", POLICIES, ids=["static", "ratio", "gelato", "hf_schedule"])
def test_greedy_text_is_the_targets(policy, pair, prompts, expected):
    controller, length_exit, depth_exit = policy
    # Rules are chosen by traced indices, so the four policies share one program.
    result = generate(
        pair,
        prompts,
        settings=SETTINGS,
        controller=control.select_controller(CONTROLLERS, controller),
        length_exit=control.select_length_exit(LENGTH_EXITS, length_exit),
        depth_exit=control.select_depth_exit(DEPTH_EXITS, depth_exit),
        payload=payloads.seeded(),
        system=system.preset("orin-nano-15w", "5mhz-500m-140ms", "h100-7b"),
    )
    verdicts = [
        lossless.compare(pair.target, prompts[row], expected[row], found, str(policy), row)
        for row, found in enumerate(result.tokens)
    ]
    assert [verdict for verdict in verdicts if verdict.outcome == "different"] == []
    assert (np.asarray(result.totals.drafted) > 0).all()


def test_the_text_is_english(pair, expected):
    text = " ".join(map(pair.tokenizer.decode, expected)).lower().split()
    assert len({"the", "is", "a", "of", "and", "in"} & set(text)) >= 4, text
