"""The studies `headline` and `ablation` on synthetic pairs: what must come out by construction."""

import dataclasses
import math

import numpy as np
import pytest

from gelato_experiments import figures
from gelato_experiments.methods import METHODS, Scenario, Share
from gelato_experiments.methods.compare import compare, measure
from gelato_experiments.oracles import EntropyModel
from gelato_experiments.studies import ablation, headline
from gelato_experiments.studies.headline.pairs import entropy_model, pair_of
from gelato_experiments.studies.shared import gains
from gelato_experiments.synthetic import synthetic_recording
from gelato_jax import control, payloads, simulation, system

SLOW, FAR = "1mhz-500m-60ms", "5mhz-500m-140ms"
EFFORT = {"devices": 8, "rounds": 120, "shares": 4}
SUPPORT = 40  # ids in the top-p set of the sampled stand-in


def recording(temperature):
    """A pair of mean acceptance 0.7, as two texts of each of eight categories."""
    model = EntropyModel(initial=[0.5, 0.5], transition=[[0.7, 0.3], [0.3, 0.7]], acceptance=[0.9, 0.5])
    plain = synthetic_recording(model, texts=16, positions=24, max_draft_length=6)
    support = np.full_like(plain.rollouts.support, SUPPORT if temperature else 1)
    rollouts = dataclasses.replace(plain.rollouts, support=support, overlap=plain.rollouts.chance)
    categories = tuple(str(index // 2) for index in range(16))
    about = {**plain.about, "temperature": temperature}
    return dataclasses.replace(plain, rollouts=rollouts, categories=categories, about=about)


def quiet(what, done, of):
    del what, done, of


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        simulation.save(folder / f"{name}.npz", recording(temperature))
    return {name: str(folder / f"{name}.npz") for name in ("sampled", "greedy")}


@pytest.fixture(scope="module")
def gained(files):
    settings = headline.study.Settings(**files, acceptances=(0.5, 0.8), **EFFORT)
    return settings, headline.study.run(settings, quiet)


@pytest.fixture(scope="module")
def ablated(files):
    settings = ablation.study.Settings(texts=(files["sampled"],), payloads=("full", "candidates"), **EFFORT)
    return settings, ablation.study.run(settings, quiet)


def world(link=SLOW, text="sampled", cap=math.inf):
    return {"link": link, "text": text, "cap_w": cap, "accounting": "all"}


@pytest.mark.parametrize("link", [SLOW, FAR])
def test_all_of_q_is_slower_than_candidates_at_a_fixed_length(gained, link):
    """Arithmetic: five drafts with all of q are 24 Mbit."""
    step = gains.find(gained[1], part="step", **world(link), step="payload at a fixed length: full to candidates")
    assert step["rate_gain_pct"] > 500
    assert step["energy_gain_pct"] < -80


def test_payloads_order_by_their_bits(gained):
    """At 1 MHz, up and down: kilobits, then a row of the target after a rejection, then all of q for each draft."""
    step = "payload at a fixed length: full to {}"
    rate = {
        payload: gains.find(gained[1], part="step", **world(), step=step.format(payload))["rate_gain_pct"]
        for payload in ("top_p", "scalar", "candidates")
    }
    assert min(rate["candidates"], rate["top_p"]) > rate["scalar"] > 0


def test_equal_payload_removes_the_payloads_part(gained):
    """What is gained over DSD with its own payload is gained over the target alone: there DSD does not draft."""
    rows = gained[1]
    dsd = gains.find(rows, part="method", **world(), payload="own", method="dsd")
    alone = gains.find(rows, part="method", **world(), payload="own", method="target-only")
    own = gains.find(rows, part="gain", **world(), payload="own", method="ratio_priced", base="dsd")
    equal = gains.find(rows, part="gain", **world(), payload="equal", method="ratio_priced", base="static")
    assert dsd["draft_length"] == 0
    assert dsd["tokens_per_s"] == pytest.approx(alone["tokens_per_s"], rel=1e-6)
    assert own["rate_gain_pct"] > equal["rate_gain_pct"] + equal["rate_gain_pct_half"]


@pytest.mark.parametrize("text", ["sampled", "greedy"])
def test_ratio_is_no_slower_than_static_where_the_cap_binds(gained, text):
    settings, rows = gained
    bound = world(text=text, cap=settings.cap_w)
    free = gains.find(rows, part="method", **world(text=text), payload="equal", method="static")
    assert free["power_w"] > settings.cap_w  # it binds
    gain = gains.find(rows, part="gain", **bound, payload="equal", method="ratio", base="static")
    assert gain["rate_gain_pct"] >= -gain["rate_gain_pct_half"]


def test_accounting_leaves_the_target_alone_without_joules(gained):
    rows = gained[1]
    paper = {**world(), "accounting": "drafting and uplink"}
    alone = gains.find(rows, part="method", **paper, payload="own", method="target-only")
    gain = gains.find(rows, part="gain", **paper, payload="own", method="gelato", base="target-only")
    assert alone["energy_per_token_j"] < 1e-5  # a message's header, a byte a round
    assert gain["energy_gain_pct"] is None


def test_effects_of_a_square_add_up(ablated):
    """By definition, in logarithms: both over none is the sum of the main effects."""
    settings, rows = ablated
    at = {"text": settings.texts[0], "link": SLOW, "cap_w": math.inf, "payload": "candidates"}
    outer, inner = (
        gains.find(rows, part="effect", **at, outer="ratio", exit="bucket", effect=name)["rate_gain_pct"]
        for name in ("outer", "inner")
    )
    both = gains.find(rows, part="over none", **at, outer="ratio", exit="bucket", depth="last")["rate_gain_pct"]
    assert (1 + outer / 100) * (1 + inner / 100) == pytest.approx(1 + both / 100, abs=2e-3)


def test_shares_of_the_spread_sum_to_one_and_payload_leads(ablated):
    settings, rows = ablated
    at = {"text": settings.texts[0], "link": SLOW, "cap_w": math.inf}
    shares = {row["factor"]: row["share_pct"] for row in rows if row["part"] == "share" and at.items() <= row.items()}
    assert sum(shares.values()) == pytest.approx(100)
    assert max(shares, key=lambda name: shares[name]) == "payload"


@pytest.mark.parametrize("study", ["headline", "ablation"])
def test_claims_and_figure(study, gained, ablated, tmp_path):
    module, (settings, rows) = {"headline": (headline, gained), "ablation": (ablation, ablated)}[study]
    claims = module.STUDY.claims(settings, rows)
    assert all(claim.claim and claim.required and claim.measured for claim in claims)
    assert {claim.about for claim in claims} == ({"ours", "paper"} if study == "headline" else {"ours"})
    assert any(claim.holds is None for claim in claims)  # what a recording cannot tell is said
    with figures.style():
        figures.save(module.STUDY.draw(settings, rows), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_merged_rules_are_the_same_rules():
    """To rounding, which may turn a rare decision: a program of all rules against each rule's own."""
    half, _ = recording(0.0).halves()
    scenario = Scenario(system=system.preset(link=FAR), payload=payloads.candidates(32))
    method, effort = METHODS["ratio_priced"], Share(devices=8, rounds=60, shares=4)
    one = dataclasses.replace(method, grid=({"penalty_weight": 0.1, "discount": 0.8},))
    cells = {cap: gains.Cell(one, scenario, cap) for cap in (math.inf, 1.0)}
    merged = gains.judge(cells, half, half, effort)
    plain = measure(half, [scenario.setup(half, one, cap, one.grid[0]) for cap in cells], effort)
    for index, cap in enumerate(cells):
        for name in ("tokens_per_s", "power_w"):
            mine = getattr(merged[cap].figures, name)
            np.testing.assert_allclose(mine, getattr(plain, name)[index], rtol=1e-3)


def test_judging_agrees_with_compare():
    half, other = recording(0.0).halves()
    scenario = Scenario(system=system.preset(link=FAR), payload=payloads.candidates(32))
    method, effort = METHODS["static"], Share(devices=8, rounds=60, shares=4)
    caps = (math.inf, 1.0)
    judged = gains.judge({cap: gains.Cell(method, scenario, cap) for cap in caps}, half, other, effort)
    for row in compare(method, half, other, scenario, caps, effort):
        mine = gains.figures_of(judged[row["cap_w"]])
        assert (mine["setting"], mine["keeps_cap"]) == (row["setting"], row["keeps_cap"])
        assert mine["tokens_per_s"] == pytest.approx(row["tokens_per_s"], rel=1e-5)


def test_a_rule_that_is_not_merged_is_refused():
    rules = METHODS["hf_schedule"].build(1.0, initial=3)
    with pytest.raises(ValueError, match="none of the"):
        gains.merged(rules)
    assert gains.merged(rules._replace(controller=control.static(2))).length_exit is not None


def test_pairs_have_the_wanted_acceptance_and_shape():
    like = recording(1.0)
    pair = pair_of(like, 0.8, seed=1)
    assert pair.rollouts.entropy.shape == like.rollouts.entropy.shape
    assert entropy_model(0.8, 8).acceptance.mean() == pytest.approx(0.8, abs=1e-6)
    assert pair.rollouts.chance.mean() == pytest.approx(0.8, abs=0.02)  # 2,304 tokens: 5 standard errors
    assert (pair.rollouts.support == SUPPORT).all()


def test_halves_of_recordings_are_alike():
    long, short = recording(1.0), recording(0.0).take(range(10))
    pairs = gains.alike([long, short])
    shapes = {half.rollouts.entropy.shape for pair in pairs for half in pair}
    assert len(shapes) == 1
    assert all(half.rollouts.positions.min() > 0 for pair in pairs for half in pair)
