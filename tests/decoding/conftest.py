"""What the decoding tests share: every rule behind a traced index, small buffers, ragged prompts.

Compiling is what these tests cost, so a program is compiled once and its numbers are changed.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control
from gelato_jax.control.banditspec import banditspec
from gelato_jax.control.confidence_roc import confidence_roc
from gelato_jax.control.edgellm import edgellm_no_tree
from gelato_jax.control.flexspec import flexspec
from gelato_jax.control.sled import sled
from gelato_jax.control.specdec_entropy import specdec_entropy
from gelato_jax.control.ucb_specstop import ucb_specstop
from gelato_jax.decoding import DraftModel, job, make_draft
from gelato_jax.models import Model
from gelato_kernels.attention import xla

POWER_BUDGET_W = 1.5
ENERGY_BUDGET_J = 0.2

# Numbers chosen so that on tiny models each rule stops some drafts and lets others go on.
CONTROLLERS = {
    "ratio": control.ratio(power_budget_w=POWER_BUDGET_W, penalty_weight=0.05),
    "gelato": control.gelato(energy_budget_j=ENERGY_BUDGET_J, penalty_weight=0.05),
    "gelato_estimated": control.gelato_estimated(energy_budget_j=ENERGY_BUDGET_J, penalty_weight=0.05),
    "static": control.static(3),
    "hf_schedule": control.hf_schedule(2),
    "flexspec": flexspec(POWER_BUDGET_W),
    "ucb_specstop": ucb_specstop(),
    "banditspec": banditspec(),
}
LENGTH_EXITS = {
    "none": control.length_exits.none(),
    "bucket": control.length_exits.bucket(1.3, 1.0),
    "priced": control.length_exits.priced(),
    "adaedl": control.length_exits.adaedl(0.2, 0.35),
    "svip": control.length_exits.svip(0.15, 0.5),
    "confidence": control.length_exits.confidence(0.4),
    "sled": sled(0.2),
    "edgellm_no_tree": edgellm_no_tree(0.2),
    "confidence_roc": confidence_roc(0.4),
    "specdec_entropy": specdec_entropy(0.7),
}
DEPTH_EXITS = {
    "fixed": control.depth_exits.fixed(),
    "entropy": control.depth_exits.entropy(1.2),
    "priced": control.depth_exits.priced(),
}
DRAFT_SAMPLINGS = {
    "fixed": control.draft_sampling.fixed(),
    "entropy": control.draft_sampling.entropy(1.5, 0.6, 1.0),
}


def policy(
    controller="static", length_exit="none", depth_exit="fixed", draft_sampling="fixed", **changed_controllers
) -> dict:
    """Choices for `make_job`, by name; whatever the names and numbers, the program is the same."""
    controllers = {**CONTROLLERS, **changed_controllers}
    return {
        "controller": control.select_controller(list(controllers.values()), list(controllers).index(controller)),
        "length_exit": control.select_length_exit(list(LENGTH_EXITS.values()), list(LENGTH_EXITS).index(length_exit)),
        "depth_exit": control.select_depth_exit(list(DEPTH_EXITS.values()), list(DEPTH_EXITS).index(depth_exit)),
        "draft_sampling": control.select_draft_sampling(
            list(DRAFT_SAMPLINGS.values()), list(DRAFT_SAMPLINGS).index(draft_sampling)
        ),
    }


@pytest.fixture(name="policy")
def policy_fixture():
    return policy


@pytest.fixture(autouse=True, scope="module")
def small_buffers():
    """Buffers and attention blocks as small as the texts of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SMALLEST_BUFFER", 64)
        patch.setattr(xla, "SHORTEST_PREFIX", 64)
        yield


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Four prompts of very different lengths; prefill chunks are 16 tokens."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 60, size).tolist() for size in (1, 16, 5, 23)]


@pytest.fixture(scope="session")
def settings() -> gelato.DecodeSettings:
    return gelato.DecodeSettings(max_draft_length=4, max_new_tokens=24, prefill_chunk=16)


@pytest.fixture(scope="session")
def small_pairs() -> list[gelato.Pair]:
    """Pairs of two layers that agree always, often and seldom: for what needs a program of its own."""
    target = gelato.testing.tiny_model(gelato.testing.tiny_config(layers=2))
    return [
        gelato.Pair(
            name=f"small {noise}",
            target=target,
            draft=gelato.testing.noisy_copy(target, noise, exits=(1,)),
            tokenizer=gelato.testing.NumberTokenizer(),
            eos_ids=(60,),
        )
        for noise in (0.0, 0.03, 0.1)
    ]


@pytest.fixture(scope="session")
def small_settings() -> gelato.DecodeSettings:
    return gelato.DecodeSettings(max_draft_length=2, max_new_tokens=24, prefill_chunk=16)


@pytest.fixture(scope="session")
def run(prompts, settings):
    """Decode `prompts` with the one program of these tests, numbers free."""

    def run(pair, choices, settings=settings, prompts=prompts) -> gelato.Generation:
        return gelato.generate(pair, prompts, settings=settings, **choices)

    return run


@pytest.fixture(scope="session")
def exact():
    """A compensated sum as float64."""
    return lambda total: np.asarray(total.high, np.float64) + np.asarray(total.low, np.float64)


@pytest.fixture(scope="session")
def cut_vocabulary():
    """A draft whose head knows only some ids."""

    def cut(draft: DraftModel, ids) -> DraftModel:
        ids = jnp.asarray(ids, jnp.int32)
        config = dataclasses.replace(draft.model.config, head_vocab_size=len(ids), tied_head=False)
        params = {**draft.model.params, "head.kernel": draft.model.params["head.kernel"][ids]}
        return make_draft(Model(config=config, params=params), vocabulary=ids)

    return cut
