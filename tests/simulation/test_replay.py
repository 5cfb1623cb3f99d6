"""Greedy rounds replay exactly, sampled ones in distribution, and worlds go on as they should."""

import dataclasses
import importlib
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads, simulation, system
from gelato_jax.control.banditspec import banditspec
from gelato_jax.control.confidence_roc import confidence_roc
from gelato_jax.control.flexspec import flexspec
from gelato_jax.control.sled import sled
from gelato_jax.control.ucb_specstop import ucb_specstop
from gelato_jax.decoding import job, make_job
from gelato_jax.decoding.cost import observe_prompt
from gelato_jax.payloads.candidates import Candidates
from gelato_jax.simulation import Environment, lifetime, save
from gelato_jax.simulation.recorder import make_recording
from gelato_jax.types import record as record_of_arrays
from gelato_kernels.attention import xla

running = importlib.import_module("gelato_jax.simulation.simulate")  # the package has a function of that name

G, NEW, EXITS = 5, 24, 3
SEED = 11
ROUNDING = 1e-5  # float32 sums of a round, fused otherwise
NEARLY = 0.1  # where replay is an approximation
CONTROLLERS = {
    "ratio": control.ratio(power_budget_w=2.2, penalty_weight=0.05),
    "static": control.static(3),
    "gelato": control.gelato(power_budget_w=2.2, penalty_weight=0.05),
    "hf_schedule": control.hf_schedule(2),
    "flexspec": flexspec(2.2),
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
    "confidence_roc": confidence_roc(0.4),
}
PAYLOADS = {
    "candidates": payloads.candidates(2),
    "scalar": payloads.scalar(),
    "top_p": payloads.top_p(0.9),
    "full": payloads.full(),
    "seeded": payloads.seeded(),
}
EVERY = tuple(CONTROLLERS), tuple(LENGTH_EXITS)
SOME = ("ratio", "gelato", "hf_schedule"), ("none", "priced", "confidence")
"""What a payload meets: all rules, or those that read its costs and a few more."""
SAMPLED = ("static", "ratio", "gelato"), ("none", "priced", "bucket")


@pytest.fixture(autouse=True, scope="module")
def small_buffers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SMALLEST_BUFFER", 64)
        patch.setattr(xla, "SHORTEST_PREFIX", 64)
        yield


@pytest.fixture(scope="module")
def pair():
    return gelato.testing.tiny_pair(0.03, exits=(1, 2))


@pytest.fixture(scope="module")
def settings():
    return gelato.DecodeSettings(max_draft_length=G, max_new_tokens=NEW, prefill_chunk=16, seed=SEED)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 60, size).tolist() for size in (1, 16, 5, 23, 9, 30)]


@pytest.fixture(scope="module")
def world():
    """A link that fades within an answer: a round takes about a coherence time."""
    return system.preset("orin-nano-15w", "1mhz-500m-20ms", "rtx3090-7b")


@pytest.fixture(scope="module")
def greedy(pair, prompts, settings):
    return make_recording(pair, prompts, settings=settings, categories="abcabc")


def rules(controller="static", length_exit="none", exit=EXITS - 1, among=(tuple(CONTROLLERS), tuple(LENGTH_EXITS))):
    """Rules by name, chosen by traced indices: one program for all of those they are `among`."""
    controllers, exits = among
    chosen = [CONTROLLERS[name] for name in controllers], [LENGTH_EXITS[name] for name in exits]
    return {
        "controller": control.select_controller(chosen[0], controllers.index(controller)),
        "length_exit": control.select_length_exit(chosen[1], exits.index(length_exit)),
        "depth_exit": control.depth_exits.fixed(exit),
    }


def setup_of(pair, settings, **choices):
    """What the real loop's books follow from."""
    return make_job(pair, settings=settings, **choices).setup


def real(pair, prompts, settings, **choices):
    """Every round's report, leaves `[B, rounds]`, and the sums."""
    stream = gelato.stream(pair, prompts, settings=settings, **choices)
    rounds = list(stream)
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *rounds), stream.generation()


def exact(total):
    return np.asarray(total.high, np.float64) + np.asarray(total.low, np.float64)


def replayed(recording, setups, prompts, **changes):
    asked = {"devices": len(prompts), "texts": range(len(prompts)), "endless": False, "rounds": NEW - 1, "seed": SEED}
    return simulation.simulate(recording, setups, **{**asked, "history": True, **changes})


def assert_same(info, generation, result, setting):
    """Counts exactly, sums to rounding; `setting` is a row of `result`."""
    count, active = info.tokens.shape[1], info.active
    shown = jax.tree.map(lambda leaf: leaf[setting, :, :count], result.history.seen)
    for name in ("active", "drafted", "accepted", "rejected", "tokens", "passes", "caught_up", "done", "exits"):
        np.testing.assert_array_equal(getattr(shown, name), getattr(info, name), err_msg=name)
    np.testing.assert_array_equal(shown.budget[active], info.budget[active])
    causes = [field.name for field in dataclasses.fields(info.cost)]
    found, expected = ({**vars(seen), **vars(seen.cost)} for seen in (shown, info))
    for name in ("predicted", "queue_j", "acceptance_rate", "rejection_level", "uplink_bits", "downlink_bits", *causes):
        one, other = found[name][active], expected[name][active]
        np.testing.assert_allclose(one, other, rtol=ROUNDING, atol=1e-6, err_msg=name)
    for name in ("rounds", "passes", "drafted", "accepted", "tokens", "caught_up", "exits"):
        found = getattr(result.totals, name)[setting]
        np.testing.assert_array_equal(found, getattr(generation.totals, name), err_msg=name)
    for name in (
        "work",
        "support",
        "time_s",
        "energy_j",
        "uplink_bits",
        "downlink_bits",
        "queue_j",
        "prompt_s",
        "prompt_j",
    ):
        found = exact(jax.tree.map(lambda leaf: leaf[setting], getattr(result.totals, name)))
        expected = exact(getattr(generation.totals, name))
        np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(result.queue_j[setting], generation.final_queue_j, rtol=ROUNDING, atol=1e-6)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_greedy_rounds_replay_exactly(payload, pair, prompts, settings, world, greedy):
    """Every controller with every length exit, and every exit, on a fading link."""
    among = EVERY if payload == "candidates" else SOME
    names = [(*pair, index % EXITS) for index, pair in enumerate(itertools.product(*among))]
    choices = [{**rules(*some, among), "payload": PAYLOADS[payload], "system": world} for some in names]
    result = replayed(greedy, [setup_of(pair, settings, **some) for some in choices], prompts)
    budgets, exits, queues = set(), 0, 0.0
    for number, some in enumerate(choices):
        info, generation = real(pair, prompts, settings, **some)
        assert_same(info, generation, result, number)
        budgets |= set(info.budget.ravel().tolist())
        exits = exits + generation.totals.exits.sum(axis=0)
        queues = max(queues, float(info.queue_j.max()))
    assert len(budgets) > (G if among is EVERY else 2)
    assert (exits > 0).all()
    assert queues > 0
    assert len(np.unique(result.history.seen.uplink_bps[0, 0])) > 3


@pytest.mark.parametrize("stream_length", [2, G + 1])
def test_streams_replay_exactly(stream_length, pair, prompts, settings, world, greedy):
    """Rounds without drafts that ask for several tokens, among rounds with drafts."""
    among = ("ratio", "ucb_specstop", "banditspec"), ("none", "confidence")
    settings = dataclasses.replace(settings, stream_length=stream_length)
    choices = [{**rules(*names, among=among), "system": world} for names in itertools.product(*among)]
    result = replayed(greedy, [setup_of(pair, settings, **some) for some in choices], prompts)
    streamed = drafted = 0
    for number, some in enumerate(choices):
        info, generation = real(pair, prompts, settings, **some)
        assert_same(info, generation, result, number)
        streamed, drafted = streamed + (info.passes > 1).sum(), drafted + info.drafted.sum()
    assert streamed > 30
    assert drafted > 30


MUTANTS = (
    "none",
    "forgets the lag",
    "forgets the pending id",
    "stops the clock",
    "learns nothing",
    "drafts beyond the end",
    "ends late",
    "takes another exit",
)


@record_of_arrays
class Mutant(Candidates):
    """`candidates`, with the number of a mistake."""

    number: jax.Array  # [] int32


def mutant(sound):
    """`run_round` of a simulation with every mistake in it; a number in the payload says which is made."""

    def step(state, drafter, verifier, setup, size, **others):
        on = lambda name: setup.policy.payload.number == MUTANTS.index(name)  # noqa: E731
        unless = lambda name, new, old: jax.tree.map(lambda a, b: jnp.where(on(name), b, a), new, old)  # noqa: E731
        rollouts = drafter.rollouts
        shown = dataclasses.replace(
            rollouts,
            limit=rollouts.limit + G * on("drafts beyond the end"),
            ends=rollouts.ends + G * on("drafts beyond the end"),
            positions=rollouts.positions + on("ends late"),
            chance=unless("takes another exit", rollouts.chance, rollouts.chance[:, :, ::-1]),
        )
        forgetful = dataclasses.replace(state.row, lag=unless("forgets the lag", state.row.lag, 0))
        before = dataclasses.replace(state, row=forgetful)
        after, seen = sound(before, drafter._replace(rollouts=shown), verifier, setup, size, **others)
        old, new = state.row, after.row
        link = dataclasses.replace(
            new.link,
            block=unless("stops the clock", new.link.block, old.link.block),
            phase_s=unless("stops the clock", new.link.phase_s, old.link.phase_s),
        )
        row = dataclasses.replace(
            new,
            pending=unless("forgets the pending id", new.pending, 0),
            session=unless("learns nothing", new.session, old.session),
            link=link,
        )
        return dataclasses.replace(after, row=row), seen

    return step


def test_the_comparison_catches_a_wrong_replay(pair, prompts, settings, world, greedy, monkeypatch):
    some = {"controller": CONTROLLERS["ratio"], "length_exit": LENGTH_EXITS["none"], "system": world}
    sent = [Mutant(count=2, number=jnp.int32(number)) for number in range(len(MUTANTS))]
    info, generation = real(pair, prompts, settings, payload=sent[0], **some)
    monkeypatch.setattr(lifetime, "run_round", mutant(lifetime.run_round))
    running._run.clear_cache()
    result = replayed(greedy, [setup_of(pair, settings, payload=payload, **some) for payload in sent], prompts)
    running._run.clear_cache()
    assert_same(info, generation, result, 0)
    for number in range(1, len(MUTANTS)):
        with pytest.raises(AssertionError):
            assert_same(info, generation, result, number)


def plain(recording, world, payload="candidates", **changes):
    """Setups of a plain structure: rules as they come, without a choice among them."""
    chosen = {
        "controller": control.ratio(power_budget_w=2.2, penalty_weight=0.05),
        "length_exit": control.length_exits.priced(),
        "depth_exit": control.depth_exits.fixed(),
        "draft_sampling": control.draft_sampling.fixed(),
        "payload": PAYLOADS[payload],
    }
    return simulation.make_setup(recording, gelato.decoding.Policy(**{**chosen, **changes}), world)


def assert_equal(one, other, rtol=0.0):
    """Two simulations: counts exactly, sums to `rtol`."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol if np.issubdtype(a.dtype, np.floating) else 0)


@pytest.fixture(scope="module")
def still(world):
    """The same link without fading."""
    return dataclasses.replace(world, link=dataclasses.replace(world.link, fading=jnp.zeros(())))


def test_endless_devices_go_on(greedy, still):
    """Queue and estimate go on from answer to answer; each prompt is paid for once, and fills the queue."""
    cap = 2.2
    # A draft of one token pays at any price here: every prompt is read, and costs the same whatever the queue.
    setup = plain(greedy, still, controller=control.ratio(power_budget_w=cap, penalty_weight=50.0))
    result = simulation.simulate(greedy, [setup], devices=5, rounds=80, history=True)
    costs = [
        observe_prompt(still.link.channel(), tokens, jnp.bool_(True), setup=setup)
        for tokens in greedy.rollouts.prompt_tokens
    ]
    joules, over = [float(cost.energy_j) for cost in costs], [float(c.energy_j - cap * c.time_s) for c in costs]
    for device in range(5):
        shown = jax.tree.map(lambda leaf, device=device: leaf[0, device], result.history)
        seen = shown.seen
        assert seen.active.all()
        queue, position, requests, paid = max(over[shown.text[0]], 0.0), 0, 1, joules[shown.text[0]]
        for round, text in enumerate(shown.text):
            if position == greedy.rollouts.positions[shown.text[round - 1]] and round:
                position, requests, paid = 0, requests + 1, paid + joules[text]
                queue = max(queue + over[text], 0.0)
            elif round:
                assert text == shown.text[round - 1]
            position += seen.tokens[round]
            queue = max(queue + float(seen.energy_j[round]) - cap * float(seen.time_s[round]), 0.0)
            np.testing.assert_allclose(seen.queue_j[round], queue, rtol=1e-4, atol=1e-4)
        assert requests == result.requests[0, device] > 3
        np.testing.assert_allclose(result.totals.prompt_j.high[0, device], paid, rtol=1e-5)
    assert len(np.unique(result.history.text)) == len(greedy.categories)


def test_folds_share_no_text(greedy, still):
    """Six texts in three folds of two devices: each reads texts of its own, and one fold reads them all."""
    asked = {"devices": 6, "rounds": 80, "history": True}
    read = simulation.simulate(greedy, [plain(greedy, still)], folds=3, **asked).history.text[0]
    assert [sorted(set(pair.ravel())) for pair in read.reshape(3, 2, -1)] == [[0, 3], [1, 4], [2, 5]]
    whole = simulation.simulate(greedy, [plain(greedy, still)], **asked)
    assert_equal(whole, simulation.simulate(greedy, [plain(greedy, still)], folds=1, **asked))
    assert set(whole.history.text.ravel()) == set(range(6))


def test_devices_that_end_stand_still(greedy, world):
    one, longer = (
        simulation.simulate(greedy, [plain(greedy, world)], devices=6, rounds=rounds, endless=False)
        for rounds in (NEW, 3 * NEW)
    )
    assert_equal(one, longer)
    assert (one.requests == 1).all()


def test_chunks_and_groups_change_nothing(greedy, world, monkeypatch):
    setups = [plain(greedy, world, controller=control.ratio(power_budget_w=cap)) for cap in (2.0, 2.5, 9.0)]
    asked = {"devices": 21, "rounds": 40}
    whole = simulation.simulate(greedy, setups, **asked)
    alone = [simulation.simulate(greedy, [one], **asked) for one in setups]
    monkeypatch.setattr(running, "CHUNK", 8)
    monkeypatch.setattr(running, "GROUP", 2)
    assert_equal(whole, simulation.simulate(greedy, setups, **asked), rtol=1e-6)
    for number, one in enumerate(alone):
        assert_equal(jax.tree.map(lambda leaf, number=number: leaf[number : number + 1], whole), one, rtol=1e-6)
    fewer = simulation.simulate(greedy, setups, devices=7, rounds=40)
    assert_equal(jax.tree.map(lambda leaf: leaf[:, :7], whole), fewer, rtol=1e-6)


_ELSEWHERE = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from gelato_jax import control, payloads, simulation, system
from gelato_jax.decoding import Policy

recording = simulation.load(__import__("pathlib").Path(sys.argv[1]))
world = system.preset("orin-nano-15w", "1mhz-500m-20ms", "rtx3090-7b")
policy = Policy(
    controller=control.ratio(power_budget_w=2.2, penalty_weight=0.05),
    length_exit=control.length_exits.priced(),
    depth_exit=control.depth_exits.fixed(),
    draft_sampling=control.draft_sampling.fixed(),
    payload=payloads.candidates(2),
)
result = simulation.simulate(recording, [simulation.make_setup(recording, policy, world)], devices=21, rounds=40)
np.savez(sys.argv[2], devices=len(jax.devices()), **{str(n): x for n, x in enumerate(jax.tree.leaves(result))})
"""


def test_more_jax_devices_change_nothing(greedy, world, tmp_path):
    save(tmp_path / "traces.npz", greedy)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    command = [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "traces.npz"), str(tmp_path / "result.npz")]
    subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, check=True, timeout=300)
    here = simulation.simulate(greedy, [plain(greedy, world)], devices=21, rounds=40)
    with np.load(tmp_path / "result.npz") as there:
        assert there["devices"] == 2
        assert_equal(
            here, jax.tree.unflatten(jax.tree.structure(here), [there[name] for name in there.files[1:]]), 1e-6
        )


def test_numbers_rounds_and_settings_compile_nothing(greedy, world):
    def setup(cap, weight):
        return plain(greedy, world, controller=control.ratio(power_budget_w=cap, penalty_weight=weight))

    running._run.clear_cache()
    for number, caps in enumerate([(2.0, 3.0), (1.5, 2.5, 4.0), np.linspace(1, 9, 20).tolist()]):
        simulation.simulate(greedy, [setup(cap, 1.0 + number) for cap in caps], devices=6, rounds=5 + number)
        assert running._run._cache_size() == 1
    for number in range(2):
        simulation.simulate(greedy, [setup(2.0 + number, 1.0)], devices=6, rounds=9 + number, seed=number)
        assert running._run._cache_size() == 2  # a setting alone has a program of its own


def test_what_warms_up_is_not_counted(greedy, still):
    """Totals after a warm-up are those of the rounds behind it."""
    setups, asked = [plain(greedy, still)], {"devices": 6, "history": True}
    whole = simulation.simulate(greedy, setups, rounds=50, **asked)
    behind = simulation.simulate(greedy, setups, warmup=20, rounds=30, **asked)
    assert_equal(jax.tree.map(lambda leaf: leaf[:, :, 20:], whole.history), behind.history, rtol=1e-6)
    np.testing.assert_allclose(
        exact(behind.totals.time_s), behind.history.seen.time_s.sum(axis=-1, dtype=np.float64), rtol=1e-6
    )
    summed = simulation.simulate(greedy, setups, warmup=20, rounds=30, devices=6)
    assert_equal(dataclasses.replace(behind, history=None), summed, rtol=1e-6)
    assert (behind.totals.rounds == 30).all()


def test_an_environment_of_one_mode_is_none(greedy, world):
    setups = [plain(greedy, world)]
    one = simulation.simulate(greedy, setups, devices=6, rounds=40)
    other = simulation.simulate(greedy, setups, devices=6, rounds=40, environment=Environment.create([[1.0]]))
    assert_equal(one, other, rtol=1e-6)


def test_outages_slow_and_are_as_frequent_as_said(greedy, still):
    outage = Environment.create([[0.9, 0.1], [0.3, 0.7]], bandwidth=[1.0, 0.01], rtt=[1.0, 10.0])
    asked = {"devices": 64, "rounds": 200, "history": True}
    calm = simulation.simulate(greedy, [plain(greedy, still)], **asked)
    rough = simulation.simulate(greedy, [plain(greedy, still)], environment=outage, **asked)
    assert simulation.rates(rough).tokens_per_s < 0.8 * simulation.rates(calm).tokens_per_s
    rates = np.unique(rough.history.seen.uplink_bps)
    np.testing.assert_allclose(rates[0], 0.01 * rates[1], rtol=1e-5)
    share = (rough.history.seen.uplink_bps == rates[0]).mean()
    # Chance 1/4, correlation 0.6 from round to round: a standard error of 0.0077 over 12,800 rounds.
    assert abs(share - 0.25) < 4.5 * 0.0077  # false alarm 7e-6, once and for all


def test_a_device_may_not_know_its_mode(greedy, still):
    """Hot from the first round on: one that knows plans with the dear tokens, one that does not pays for them."""
    hot = {"token_s": [1.0, 4.0], "token_j": [1.0, 8.0]}
    known, unknown = (Environment.create([[0.0, 1.0]] * 2, **hot, observed=flag) for flag in (True, False))
    rules = (flexspec(2.2), control.static(3))
    flex, fixed = ([plain(greedy, still, controller=control.select_controller(rules, index))] for index in range(2))
    asked = {"devices": 6, "rounds": 30}
    one, other = (simulation.simulate(greedy, flex, environment=some, **asked) for some in (known, unknown))
    assert not np.array_equal(one.totals.drafted, other.totals.drafted)
    one, other = (simulation.simulate(greedy, fixed, environment=some, **asked) for some in (known, unknown))
    np.testing.assert_array_equal(one.totals.drafted, other.totals.drafted)
    cold = simulation.simulate(greedy, fixed, **asked)
    np.testing.assert_array_equal(other.totals.drafted, cold.totals.drafted)
    assert (exact(other.totals.energy_j) > exact(cold.totals.energy_j)).all()


def test_what_is_believed_decides_what_is_real_counts(greedy, still):
    """A device that believes its tokens to be dear drafts less; its joules are those of the world."""
    dear = dataclasses.replace(still, device=dataclasses.replace(still.device, token_j=20 * still.device.token_j))
    asked = {"devices": 6, "rounds": 30}
    true, wrong = plain(greedy, still), plain(greedy, dear)
    trusting = simulation.simulate(greedy, [true], **asked)
    assert_equal(trusting, simulation.simulate(greedy, [true], believed=[true], **asked))
    shy = simulation.simulate(greedy, [true], believed=[wrong], **asked)
    assert shy.totals.drafted.sum() < trusting.totals.drafted.sum()
    fixed = {"controller": control.static(2), "length_exit": control.length_exits.none()}
    true, wrong = plain(greedy, still, **fixed), plain(greedy, dear, **fixed)
    assert_equal(
        simulation.simulate(greedy, [true], **asked), simulation.simulate(greedy, [true], believed=[wrong], **asked)
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"devices": 0}, "devices 0"),
        ({"rounds": 0}, "rounds 0"),
        ({"max_draft_length": G + 1}, f"max_draft_length is {G + 1}"),
        ({"texts": [0]}, "texts must name"),
        ({"texts": [0, 6]}, "texts must name"),
        ({"folds": 0}, "folds is 0"),
        ({"folds": 3}, "must divide the 2 devices"),
        ({"devices": 7, "folds": 7}, "at most the 6 texts"),
    ],
)
def test_refusals(changes, word, greedy, world):
    with pytest.raises(ValueError, match=word):
        simulation.simulate(greedy, [plain(greedy, world)], **{"devices": 2, "rounds": 2, **changes})


def test_settings_of_other_structure_are_refused(greedy, world):
    others = [plain(greedy, world), plain(greedy, world, length_exit=control.length_exits.none())]
    with pytest.raises(ValueError, match="2 settings have 2 structures"):
        simulation.simulate(greedy, others, devices=2, rounds=2)
    with pytest.raises(ValueError, match="settings 0"):
        simulation.simulate(greedy, [], devices=2, rounds=2)


@pytest.fixture(scope="module")
def many(prompts):
    return prompts * 8


@pytest.fixture(scope="module")
def sampled(pair, many, settings):
    settings = dataclasses.replace(settings, temperature=1.0)
    return make_recording(pair, many, settings=settings, categories="a" * len(many), batch_rows=len(many))


def test_sampled_and_seeded_is_refused(sampled, world):
    with pytest.raises(ValueError, match="seeded"):
        plain(sampled, world, payload="seeded")


def figures(totals):
    """Tokens a round, tokens per second, joules per token: sums over sums."""
    tokens = totals.tokens.sum()
    return np.array(
        [tokens / totals.rounds.sum(), tokens / exact(totals.time_s).sum(), exact(totals.energy_j).sum() / tokens]
    )


@pytest.mark.parametrize("names", [("static", "none"), ("ratio", "priced"), ("gelato", "bucket")])
def test_sampled_rounds_replay_nearly(names, pair, many, settings, world, sampled):
    """The distribution of a round at a position is right, how positions follow one another is not quite."""
    settings = dataclasses.replace(settings, temperature=1.0)
    some = {**rules(*names, among=SAMPLED), "payload": PAYLOADS["candidates"], "system": world}
    runs = [gelato.generate(pair, many, settings=dataclasses.replace(settings, seed=n), **some) for n in range(4)]
    expected = figures(jax.tree.map(lambda *leaves: np.concatenate(leaves), *(run.totals for run in runs)))
    setups = [setup_of(pair, settings, **some)]
    texts = list(range(len(many))) * 4
    result = replayed(sampled, setups, texts, texts=texts, history=False)
    np.testing.assert_allclose(figures(result.totals), expected, rtol=NEARLY)


@pytest.mark.parametrize("depth", ["entropy", "priced"])
def test_depth_by_token_replays_nearly(depth, pair, prompts, settings, world, greedy):
    options = {"entropy": control.depth_exits.entropy(1.2), "priced": control.depth_exits.priced()}
    chosen = control.select_depth_exit(list(options.values()), list(options).index(depth))
    # Layers so cheap that the prices want some of them.
    quick = dataclasses.replace(world.device, token_s=world.device.token_s / 20, token_j=world.device.token_j / 20)
    world = dataclasses.replace(world, device=quick)
    some = {
        **rules("ratio", "priced", among=SAMPLED),
        "depth_exit": chosen,
        "payload": PAYLOADS["candidates"],
        "system": world,
    }
    run = gelato.generate(pair, prompts, settings=settings, **some)
    result = replayed(greedy, [setup_of(pair, settings, **some)], prompts, history=False)
    np.testing.assert_allclose(figures(result.totals), figures(run.totals), rtol=NEARLY)
    assert (run.totals.exits.sum(axis=0) > 0).sum() > 1
