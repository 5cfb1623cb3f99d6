"""TPU kernels on a simulated TPU: memory that nothing wrote is nan, reads beyond an array and races are faults."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu

import gelato_kernels as gk
from gelato_kernels.case_logits import masked, normal
from gelato_kernels.compilers import Compiler
from gelato_kernels.sweeps import pallas, xla
from gelato_kernels.sweeps.records import Sweeps
from gelato_kernels.token_stats.two_level import token_stats
from gelato_kernels.unembedding import pallas as unembedding
from gelato_kernels.unembedding.cases import CASES as HEADS
from gelato_kernels.verification.cases import CASES as WINDOWS
from gelato_kernels.verification.two_level import speculative_verify


@pytest.fixture(scope="module")
def compiler():
    return Compiler(name="tpu", interpret=tpu.InterpretParams(detect_races=True))


@pytest.fixture(scope="module")
def sweeps(compiler):
    return Sweeps(partial(pallas.statistics, compiler=compiler), partial(pallas.residual, compiler=compiler))


@pytest.mark.parametrize("make", [normal, masked])
def test_entropy(sweeps, make):
    logits, u = jnp.asarray(make(3, 10, 5003)), gk.uniforms(jax.random.key(0), (10, 2))
    ours, plain = (token_stats(logits, u, jnp.full(10, 0.7), sweeps=s) for s in (sweeps, xla.SWEEPS))
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=4e-6, atol=4e-6)


def test_verification(sweeps):
    inputs = WINDOWS["ragged"]()
    arrays = [inputs[name] for name in ("target_logits", "draft_tokens", "draft_length", "uniforms", "draft_logits")]
    ours, plain = (speculative_verify(*map_arrays(arrays), None, None, sweeps=s) for s in (sweeps, xla.SWEEPS))
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def map_arrays(arrays):
    return [jax.tree.map(jnp.asarray, array) for array in arrays]


def test_unembedding(compiler):
    inputs = HEADS["int8"]()
    names = ("hidden", "weight", "scale", "uniforms", "temperature")
    arrays = [None if inputs.get(name) is None else jnp.asarray(inputs[name]) for name in names]
    stats = unembedding.unembed_entropy(*arrays, compiler=compiler)
    plain = unembedding.unembed_entropy(*arrays, compiler=Compiler(name="tpu", interpret=True))
    for a, b in zip(stats, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=4e-6, atol=4e-6)
