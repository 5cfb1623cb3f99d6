"""The studies `delay`, `workloads`, `depth` and `calibration` on synthetic pairs: what must come out of them."""

import dataclasses
import math

import numpy as np
import pytest

from gelato_experiments import figures, tables
from gelato_experiments.inputs import read_recording
from gelato_experiments.oracles import EntropyModel
from gelato_experiments.studies import calibration, delay, depth, registry, workloads
from gelato_experiments.studies.calibration import fits
from gelato_experiments.studies.workloads.claims import OURS
from gelato_experiments.synthetic import synthetic_recording
from gelato_jax import simulation

EFFORT = {"devices": 8, "rounds": 200}
TINY = {"texts": 16, "positions": 32, "max_draft_length": 6}
SHALLOW_WORK = 0.5
METHODS = ("target-only", "static", "ratio_priced")


def recording(acceptance):
    """A pair whose tokens are accepted with one of two chances; an entropy tells which."""
    model = EntropyModel(initial=[0.5, 0.5], transition=[[0.7, 0.3], [0.3, 0.7]], acceptance=acceptance)
    return synthetic_recording(model, **TINY)


def two_exits(plain):
    """The same pair with an exit at half of the work that is as good as the last one, and known to be."""
    doubled = {"entropy", "max_probability", "chance", "q", "p", "overlap", "support", "accepted"}
    rollouts = {
        field.name: np.repeat(getattr(plain.rollouts, field.name), 2, axis=2)
        if field.name in doubled
        else getattr(plain.rollouts, field.name)
        for field in dataclasses.fields(plain.rollouts)
    }
    old = plain.calibration
    by_exit = {name: np.repeat(getattr(old, name), 2, axis=0) for name in ("scale", "decay", "class_acceptance")}
    deeper = np.repeat(np.repeat(old.deeper_acceptance, 2, axis=0), 2, axis=2)
    return dataclasses.replace(
        plain,
        rollouts=simulation.Rollouts(**rollouts),
        calibration=dataclasses.replace(old, **by_exit, deeper_acceptance=deeper),
        work=np.array([SHALLOW_WORK, 1.0], np.float32),
    )


def quiet(what, done, of):
    del what, done, of


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    made = {"poor": recording([0.5, 0.2]), "good": recording([0.95, 0.85]), "exits": two_exits(recording([0.9, 0.6]))}
    for name, recorded in made.items():
        simulation.save(folder / f"{name}.npz", recorded)
    return {name: str(folder / f"{name}.npz") for name in made}


@pytest.fixture(scope="module")
def concluded(tmp_path_factory):
    """Runs a study, and gives its rows as the table gives them back, and its claims; draws it on the way."""
    folder = tmp_path_factory.mktemp("tables")

    def conclude(study, settings):
        tables.write_rows(folder / f"{study.name}.csv", study.run(settings, quiet))
        rows = tables.read_rows(folder / f"{study.name}.csv")
        with figures.style():
            figures.save(study.draw(settings, rows), folder)
        return rows, study.claims(settings, rows)

    return conclude


def of(rows, **wanted):
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def test_longer_delays_deserve_longer_drafts(files, concluded):
    settings = delay.study.Settings(
        recording=files["good"], edges=("rtx3090-7b",), rtts_s=(1e-3, 0.1, 1.0, 2.0), devices=8, rounds=600
    )
    rows, claims = concluded(delay.STUDY, settings)
    free, dear = of(rows, kind="length", cap_w=math.inf), of(rows, kind="length", cap_w=settings.cap_w)
    for name in ("static", "ratio", "iid"):
        lengths = [row[name] for row in free]
        assert lengths == sorted(lengths)
        assert lengths[-1] > lengths[0]
    assert all(poor["static"] <= rich["static"] for poor, rich in zip(dear, free, strict=True))
    assert all(row["ratio_power_w"] <= 1.02 * settings.cap_w for row in dear)
    assert len(claims) == 5


def test_fit_finds_a_logarithm():
    delays = tuple(np.geomspace(1e-3, 1.0, 8))
    lengths = np.repeat((np.log(delays) - np.log(delays[0]))[:, None] * 2.0 + 1.0, 8, axis=1)
    found = delay.study.fit(delays, lengths)
    assert found["slope"] == pytest.approx(2.0)
    assert found["r2"] == pytest.approx(1.0)
    assert found["critical_s"] == delays[0]


def test_fit_needs_a_line():
    assert delay.study.fit((0.001, 0.01, 0.1), np.ones((3, 8)))["slope"] is None


def test_where_more_is_accepted_drafts_are_longer(files, concluded):
    settings = workloads.study.Settings(
        short=files["poor"], long=files["good"], methods=METHODS, caps_w=(math.inf, 1.0), **EFFORT
    )
    rows, claims = concluded(workloads.STUDY, settings)
    free = of(rows, kind="workload", method=OURS, cap_w=math.inf)
    (poor,), (good,) = of(free, workload="short"), of(free, workload="long", tuned_on="long")
    assert good["draft_length"] > poor["draft_length"] + 1
    assert good["tokens_per_s"] > poor["tokens_per_s"]
    judged = of(rows, kind="category", method=OURS, cap_w=math.inf)
    assert [row["workload"] for row in judged] == ["short", "long"]
    static = of(rows, kind="category", method="static", cap_w=math.inf)
    assert static[1]["hindsight_length"] > static[0]["hindsight_length"]
    assert all(row["hindsight"] <= 1.0 for row in static)
    assert of(rows, kind="prompt")[0]["prefill_j"] == 0  # synthetic texts have no prompts
    assert len(claims) == 3  # two categories have no rank correlation


def test_an_exit_as_good_and_cheaper_is_taken(files, concluded):
    settings = depth.study.Settings(
        recording=files["exits"], lengths=(0, 1, 3), thresholds_nats=(0.0, 5.0), caps_w=(1.0, math.inf), **EFFORT
    )
    rows, claims = concluded(depth.STUDY, settings)
    points = of(rows, kind="point", length_rule="static")
    shallow, deep = (of(points, depth="fixed", value=exit, level=3)[0] for exit in (0, 1))
    assert shallow["tokens_per_s"] > deep["tokens_per_s"]
    assert shallow["energy_per_token_j"] < deep["energy_per_token_j"]
    priced = of(rows, kind="point", depth="priced", level=math.inf)[0]
    assert priced["exits"] == "[1.0, 0.0]"
    # A threshold over all entropies is the first exit, one under all is the last: nothing to choose, nothing saved.
    assert of(points, depth="entropy", value=5.0, level=3)[0]["tokens_per_s"] == shallow["tokens_per_s"]
    assert of(points, depth="entropy", value=0.0, level=3)[0]["tokens_per_s"] == deep["tokens_per_s"]
    assert all(row["saved"] == pytest.approx(0.0, abs=1e-9) for row in of(rows, kind="saving"))
    assert [claim.holds for claim in claims] == [False, False, False, True]


def point(power, rate):
    return depth.study.Point(np.full(8, rate), np.full(8, power), np.ones(8), np.ones(1))


def test_hull_leaves_out_what_a_mixture_beats():
    assert depth.study.hull([point(1.0, 10.0), point(2.0, 10.5), point(3.0, 12.0), point(4.0, 11.0)], [5, 6, 7, 8]) == [
        5,
        7,
    ]


def test_savings_compare_joules_at_equal_speed():
    found = depth.study.savings([point(1.0, 10.0), point(3.0, 20.0)], [point(0.5, 10.0), point(1.5, 20.0)])
    assert [speed for speed, _ in found] == pytest.approx(list(np.linspace(10.0, 20.0, 9)))
    assert np.concatenate([saved for _, saved in found]) == pytest.approx(0.5)
    assert depth.study.savings([point(1.0, 10.0)], [point(1.0, 12.0)]) == []


def test_a_true_calibration_has_no_error(files, concluded):
    settings = calibration.study.Settings(
        recordings=(files["exits"],), caps_w=(1.0, math.inf), weights=(0.1, 0.3), resamples=20, **EFFORT
    )
    rows, claims = concluded(calibration.STUDY, settings)
    errors = of(rows, kind="error")
    assert {(row["exit"], row["tokens"], row["fit"]) for row in errors} == {
        (exit, tokens, fit) for exit in (0, 1) for tokens in ("first", "later") for fit in ("curve", "classes")
    }
    assert max(row["ece"] for row in errors) < 1e-5
    assert max(row["high"] for row in errors) < 1e-5
    worth = {row["calibration"]: row for row in of(rows, kind="worth", cap_w=math.inf)}
    assert worth["constant"]["gain"] == 0.0
    assert worth["shipped"]["gain"] > 0.0
    assert claims[0].holds
    assert len(claims) == 4


def test_a_constant_calibration_is_wrong_by_the_spread_of_acceptance(files):
    recorded = read_recording(files["exits"])
    drawn = fits.tokens(recorded, 0, later=False)
    mean = np.full(len(drawn.text), drawn.outcome.mean())
    error, low, high, bins = calibration.study.calibration_error(mean, drawn, 50, 0)
    assert error == pytest.approx(0.0, abs=1e-12)  # all in one bin: right on the mean
    assert len(bins) == 1
    assert low <= high
    shifted = calibration.study.calibration_error(mean + 0.1, drawn, 50, 0)[0]
    assert shifted == pytest.approx(0.1)


def test_refitting_finds_the_model(files):
    fitted = fits.refitted(read_recording(files["exits"]))
    assert np.asarray(fitted.scale) == pytest.approx(1.0, abs=1e-3)
    assert np.asarray(fitted.decay) == pytest.approx(0.35, abs=1e-3)


@pytest.mark.parametrize("name", ["delay", "workloads", "depth", "calibration"])
def test_studies_are_registered(name):
    assert registry.load(name).name == name
