"""The compiled program: numbers never recompile, no host inside, no copies of caches."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads, system
from gelato_jax.decoding import catch_up, encode_prompts, job, make_job, verify
from gelato_jax.decoding import draft as drafting
from gelato_jax.decoding.ends import decode_round
from gelato_jax.decoding.prefill import fresh_sessions
from gelato_jax.decoding.programs import advance, decode, decode_autoregressive, start
from gelato_jax.models import Cache, write
from gelato_jax.types import Calibrations
from gelato_kernels import native

PRESETS = (("orin-nano-15w", "5mhz-500m-60ms"), ("orin-nano-7w", "1mhz-1km-140ms"))


def test_numbers_never_recompile(small_pairs, small_settings):
    def run(power_budget_w, penalty_weight, world, length, threshold, **changes):
        settings = dataclasses.replace(small_settings, **changes)
        gelato.generate(
            small_pairs[0],
            [list(range(length)), [5]],
            settings=settings,
            controller=control.ratio(power_budget_w=power_budget_w, penalty_weight=penalty_weight),
            system=system.preset(*world),
            payload=payloads.top_p(threshold),
            length_exit=control.length_exits.bucket(threshold, 2 * threshold),
            depth_exit=control.depth_exits.entropy(threshold),
        )

    run(1.5, 10.0, PRESETS[0], 3, 0.9)
    compiled = decode._cache_size()
    run(float("inf"), 0.01, PRESETS[1], 3, 0.5)
    run(2.5, 3, PRESETS[0], 24, 0.7, temperature=0.8, top_p=0.9, top_k=4, seed=7, stream_length=3)
    run(1.5, 10.0, PRESETS[0], 17, 1, temperature=1, top_p=1, seed=2**32 - 1, max_new_tokens=5)
    assert decode._cache_size() == compiled


def test_a_stream_never_recompiles(small_pairs, small_settings):
    sizes = []
    for seed, length in enumerate((3, 20, 24)):
        settings = dataclasses.replace(small_settings, temperature=0.5 * seed, seed=seed, stream_length=1 + seed)
        controller = control.ratio(power_budget_w=1.5 + seed)
        rounds = list(gelato.stream(small_pairs[seed], [[1] * length], settings=settings, controller=controller))
        assert len(rounds) > 3
        sizes.append((start._cache_size(), advance._cache_size()))
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_decode_reads_the_calibration_of_its_temperature(small_pairs, small_settings):
    """Greedy: acceptance 0.9, of which nothing is left after a token; sampled: 0.6. One program serves both."""
    pair, reported = small_pairs[0], control.default_calibration(num_exits=2)
    greedy = dataclasses.replace(reported, scale=jnp.zeros(2), mean_acceptance=jnp.float32(0.9))
    draft = dataclasses.replace(pair.draft, calibration=Calibrations(greedy=greedy, sampled=reported))
    sizes = []
    for temperature, acceptance, drafted in ((0.0, 0.9, 1), (0.01, 0.6, 2), (1.0, 0.6, 2), (0.0, 0.9, 1)):
        settings = dataclasses.replace(small_settings, temperature=temperature)
        rounds = list(gelato.stream(dataclasses.replace(pair, draft=draft), [[1, 2, 3]], settings=settings))
        assert float(rounds[0].acceptance_rate[0]) == pytest.approx(acceptance)
        assert int(rounds[0].drafted[0]) == drafted
        sizes.append((start._cache_size(), advance._cache_size()))
    assert len(set(sizes)) == 1


HOST = r"infeed|outfeed|\bsend\(|\brecv\(|\bsend-|\brecv-|callback|xla_ffi_python"


@pytest.fixture(scope="module")
def big():
    """A job whose caches outweigh everything else in the program: `(job, prompts, shapes)`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SMALLEST_BUFFER", 4096)
        patch.setattr(catch_up, "CATCH_UP_WINDOW", 2)
        config = gelato.testing.tiny_config(layers=2, num_heads=1, head_dim=64)
        target = gelato.testing.tiny_model(config)
        draft = gelato.testing.noisy_copy(target, 0.03, exits=(1,))
        pair = gelato.Pair(
            name="big", target=target, draft=draft, tokenizer=gelato.testing.NumberTokenizer(), eos_ids=(60,)
        )
        settings = gelato.DecodeSettings(max_draft_length=2, max_new_tokens=8, prefill_chunk=2)
        yield make_job(pair, settings=settings), encode_prompts(pair, [[1], [2, 3]], settings), settings.shapes


@pytest.fixture(scope="module")
def state(big):
    """Shapes of that job's state."""
    work, prompts, shapes = big
    session = fresh_sessions(work.setup, rows=len(prompts["prompt_length"]))
    return jax.eval_shape(lambda: start(work, **prompts, session=session, shapes=shapes))


def cache_bytes(*caches: Cache) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(caches))


def cache_copies(hlo: str, state) -> list[str]:
    """Copies of a whole cache array in loops and branches; at the program's entry an array is made once."""
    shape = re.escape("f32[" + ",".join(map(str, state.edge.cache[0][0].shape)) + "]")
    inside = hlo[: hlo.index("\nENTRY ")]
    return re.findall(rf"%\S+ = {shape}\S* copy\(.*", inside)


def compile_round(big, state):
    work, _, shapes = big
    return advance.lower(state, work, shapes=shapes).compile()


def test_a_round_works_in_place(big, state):
    program = compile_round(big, state)
    memory, caches = program.memory_analysis(), cache_bytes(state.edge.cache, state.device.cache)
    assert memory.alias_size_in_bytes >= caches
    assert memory.temp_size_in_bytes < caches / 8  # the caches are eight arrays: not one of them twice
    assert not cache_copies(program.as_text(), state)
    assert not re.search(HOST, program.as_text())


def test_a_write_that_waits_for_no_read_is_caught(big, state, monkeypatch):
    """The alarm above rings: without `after`, XLA pays with copies where no compiled kernel reads the cache.

    (What that kernel returns for the cache depends on its reading, so no write can come first.)
    """
    monkeypatch.setattr(native.library, "_load", lambda: (None, "left out"))
    jax.clear_caches()

    def early(cache: Cache, fresh: Cache, lengths, *, after):
        return write(cache, fresh, lengths, after=jnp.zeros_like(after))

    monkeypatch.setattr(drafting, "write", early)
    monkeypatch.setattr(verify, "write", early)
    work, _, shapes = big
    fresh_jit = jax.jit(lambda state, work: decode_round(state, work, shapes), donate_argnums=0)
    program = fresh_jit.lower(state, work).compile()
    jax.clear_caches()
    assert cache_copies(program.as_text(), state)


@pytest.mark.parametrize("program", [decode, decode_autoregressive], ids=["decode", "autoregressive"])
def test_a_decode_has_no_host_and_no_copies_of_caches(program, big, state):
    work, prompts, shapes = big
    compiled = program.lower(work, **prompts, shapes=shapes).compile()
    caches = cache_bytes(state.edge.cache) + (cache_bytes(state.device.cache) if program is decode else 0)
    array = cache_bytes((state.edge.cache[0][:1],))
    # The caches are born inside, from one array of zeros; a second one beside them would be a copy.
    assert caches <= compiled.memory_analysis().temp_size_in_bytes < caches + 1.5 * array
    assert not cache_copies(compiled.as_text(), state)
    assert not re.search(HOST, compiled.as_text())
