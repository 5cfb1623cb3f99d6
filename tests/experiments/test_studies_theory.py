"""The studies of the theory, end to end and small: T1, T2 and T3 hold of the rules, and not of their mutants."""

import dataclasses

import numpy as np
import pytest

from gelato_experiments import figures
from gelato_experiments.oracles import EntropyModel
from gelato_experiments.studies import fluctuation, penalty_sweep, queue_stability
from gelato_experiments.studies.fluctuation.worlds import WORLDS
from gelato_experiments.studies.penalty_sweep import claims as gap_claims
from gelato_experiments.studies.penalty_sweep.study import MUTANTS
from gelato_experiments.studies.queue_stability import claims as queue_claims
from gelato_experiments.studies.queue_stability.rules import MUTANTS as QUEUE_MUTANTS
from gelato_experiments.studies.shared import exact_world
from gelato_experiments.studies.shared.mutants import mutant
from gelato_experiments.synthetic import synthetic_recording
from gelato_experiments.tables import read_rows, write_rows
from gelato_jax import control, simulation, system

MODEL = EntropyModel(
    initial=np.array([0.5, 0.5]), transition=np.array([[0.7, 0.3], [0.3, 0.7]]), acceptance=np.array([0.9, 0.5])
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A file with a synthetic recording."""
    path = tmp_path_factory.mktemp("recording") / "synthetic.npz"
    simulation.save(path, synthetic_recording(MODEL, texts=16, positions=64))
    return str(path)


def _conclude(study, settings, folder):
    """Run a study as the runner does: claims and figure from the table on the disk."""
    write_rows(folder / "metrics.csv", study.run(settings, lambda *_: None))
    rows = read_rows(folder / "metrics.csv")
    claims = study.claims(settings, rows)
    with figures.style():
        figures.save(study.draw(settings, rows), folder)
    assert (folder / "figure.png").stat().st_size > 10_000
    return rows, {claim.claim: claim for claim in claims}


def test_t3_gap_and_queue_against_the_weight(tmp_path):
    """Seed fixed; the checks grant 95 % intervals of 16 devices, and mutants are far outside them."""
    settings = dataclasses.replace(
        penalty_sweep.STUDY.quick, weights=4, devices=16, rounds=4_000, settling=1_500, positions=1 << 14
    )
    rows, claims = _conclude(penalty_sweep.STUDY, settings, tmp_path)
    for claim in claims.values():
        assert claim.holds, claim
    whole = gap_claims.of(rows, "ratio", 1.5)
    assert whole[0]["gap_tokens_per_s"] > 5 * whole[-1]["gap_tokens_per_s"]  # there was a gap to close
    assert gap_claims.broken(rows, "ratio", settings.caps_w) == []
    for name in MUTANTS:
        assert gap_claims.broken(rows, name, settings.caps_w), name
    stale = gap_claims.of(rows, "stale theta", 1.5)
    assert not gap_claims.queue_prices(stale)
    assert not gap_claims.keeps_path(gap_claims.of(rows, "no queue", 1.0))


def test_t1_t2_paths_and_the_bound_of_the_queue(recorded, tmp_path):
    settings = dataclasses.replace(
        queue_stability.STUDY.quick,
        recording=recorded,
        lengths=(300, 3_000),
        delay_rounds=800,
        exact_rounds=800,
        positions=1 << 14,
        weights=(0.03, 0.1),
        bound_weights=(0.003, 0.01, 0.03),
        ratio_caps_w=(0.75, 1.25),
    )
    rows, claims = _conclude(queue_stability.STUDY, settings, tmp_path)
    paths, bound = (queue_claims.select(rows, kind=kind) for kind in ("path", "bound"))
    assert queue_claims.keeps_paths(paths)
    assert queue_claims.stays_small(paths)
    assert any(row["allowed_share"] > 0.99 for row in paths)  # the cap binds
    whole = [row for row in bound if row["rule"] == "gelato"]
    assert queue_claims.keeps_bound(whole)
    assert max(row["queue_max_j"] / row["sharp_bound_j"] for row in whole) > 0.1
    assert all(row["no_draft_j"] <= settings.budget_j for row in whole)  # the condition of T2
    assert {name: queue_claims.broken(rows, name)[-1:] for name in QUEUE_MUTANTS} == {
        "no queue": ["path"],
        "E without budget": ["bound"],
        "queue not heeded": ["bound"],
    }
    holds = {claim: found.holds for claim, found in claims.items() if claim.startswith("T")}
    assert all(holds.values()), holds
    joules = queue_claims.select(rows, kind="delay", rule="gelato, joules a round")
    assert joules[0]["power_w"] > joules[1]["power_w"] > joules[2]["power_w"]


def test_fluctuation_end_to_end(recorded, tmp_path):
    settings = dataclasses.replace(
        fluctuation.STUDY.quick, recording=recorded, methods=("static", "ratio"), devices=16, rounds=400
    )
    rows, claims = _conclude(fluctuation.STUDY, settings, tmp_path)
    assert {(row["method"], row["world"]) for row in rows} == {
        (method, world.name) for method in settings.methods for world in WORLDS
    }
    by_claim = {text.split(":")[0]: claim for text, claim in claims.items()}
    assert by_claim["methods with a queue keep the cap in every world whose joules are measured rightly"].holds
    assert by_claim["the cap is one on measured joules"].holds
    # What a fixed length does follows from no belief; a halved meter halves its joules, and so its true power is kept.
    fixed = {row["world"]: row for row in rows if row["method"] == "static"}
    assert fixed["meter shows half"]["power_w"] == pytest.approx(fixed["calm"]["power_w"], rel=1e-5)
    assert fixed["delay 140 ms"]["power_w"] < fixed["calm"]["power_w"] < fixed["delay 20 ms"]["power_w"]


def test_a_mutant_with_all_its_parts_is_the_rule():
    world = exact_world.build(
        system.preset(), states=4, acceptance=0.7, max_draft_length=6, vocab_size=49152, positions=512
    )
    whole = control.ratio(power_budget_w=0.8, penalty_weight=0.1)
    size = {"devices": 4, "rounds": 50}
    expected, found = (world.simulate([rule], **size) for rule in (whole, mutant(whole)))
    np.testing.assert_array_equal(found.queue_j, expected.queue_j)
    np.testing.assert_array_equal(found.totals.tokens, expected.totals.tokens)


def test_tables_of_the_exact_world_are_what_devices_pay():
    world = exact_world.build(
        system.preset(),
        states=4,
        acceptance=0.7,
        max_draft_length=6,
        vocab_size=49152,
        positions=512,
        delays=(1.0, 0.5),
    )
    history = world.simulate([control.static(3)], devices=2, rounds=200, history=True).history
    assert history is not None
    for measured, table in (
        (history.seen.time_s, world.tables.seconds),
        (history.seen.energy_j, world.tables.joules),
    ):
        distance = np.abs(measured.reshape(-1, 1) / table[None, :, 3] - 1.0)
        assert distance.min(axis=1).max() < 1e-5
        assert set(distance.argmin(axis=1)) == {0, 1, 2, 3}
