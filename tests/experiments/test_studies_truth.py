"""The studies of what is true: the distribution of sampled text, and the simulator against the real loop."""

import pytest

from gelato_experiments import figures, tables
from gelato_experiments.benchmarks import law
from gelato_experiments.benchmarks import simulation as benchmark
from gelato_experiments.studies import losslessness, real_loop
from gelato_jax.decoding import job
from gelato_kernels.attention import xla


@pytest.fixture(autouse=True, scope="module")
def small_buffers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SMALLEST_BUFFER", 64)
        patch.setattr(xla, "SHORTEST_PREFIX", 64)
        yield


def concluded(study, settings, tmp_path):
    """Rows as a table gives them back, claims and figure."""
    told = []
    found = study.run(settings, lambda *news: told.append(news))
    tables.write_rows(tmp_path / "metrics.csv", found)
    rows = tables.read_rows(tmp_path / "metrics.csv")
    with figures.style():
        figures.save(study.draw(settings, rows), tmp_path)
    assert told[-1][1] == told[-1][2] > 0
    assert (tmp_path / "figure.png").stat().st_size > 5_000
    return rows, study.claims(settings, rows)


def test_losslessness(tmp_path):
    settings = losslessness.study.Settings(
        rows=20_000,
        runs=1,
        mutant_runs=2,
        payloads=("candidates",),
        mutants=("none", "ratio inverted, q/p", "trim the tail", "a round key used twice"),
    )
    rows, claims = concluded(losslessness.STUDY, settings, tmp_path)
    assert len(rows) == 4 + 4
    assert [claim.holds for claim in claims] == [True, True], claims
    assert {row["texts"] for row in rows} == {20_000, 40_000}
    for row in rows:
        sound = row["mutant"] in (None, "none")
        assert (row["z"] < law.LIMIT_Z) == sound
        # The mean distance of a sample is its floor; 216 cells keep it within a fifth of that.
        assert (row["tv"] < 1.2 * row["tv_floor"]) == sound, row
        assert 0 < row["accepted_share"] < 1
    # A sound decoder's row that fails, or a mutant's that passes, is told.
    bad = [{**row, "z": 9.0} if row["kind"] == "sound" else {**row, "z": 1.0} for row in rows]
    assert [claim.holds for claim in losslessness.STUDY.claims(settings, bad)] == [False, False]


def test_every_exit_meets_every_controller():
    checks = [names for names, _ in losslessness.study._checks(losslessness.study.Settings())]
    assert len(checks) == len(law.PAYLOADS) * len(losslessness.study.CONTROLLERS)
    for kind in ("length_exit", "depth_exit"):
        met = {(names["controller"], names[kind]) for names in checks}
        names = {name for _, name in met}
        assert len(met) == len(names) * len(losslessness.study.CONTROLLERS)


def test_real_loop(tmp_path):
    settings = real_loop.study.Settings(
        pair="tiny",
        prompts=6,
        max_new_tokens=20,
        max_draft_length=4,
        sampled_runs=4,
        methods=("static 0", "static 2", "gelato", "ratio_priced"),
        sampled_methods=("static 2",),
        world=("orin-nano-15w", "5mhz-500m", "rtx3090-7b"),
    )
    rows, claims = concluded(real_loop.STUDY, settings, tmp_path)
    assert [(row["part"], row["method"]) for row in rows] == [
        *((real_loop.study.GREEDY, method) for method in settings.methods),
        (real_loop.study.DEPTH, "ratio_priced"),
        (real_loop.study.SAMPLED, "static 2"),
    ]
    assert [claim.holds for claim in claims[:2]] == [True, True], claims
    for row in rows:
        if row["part"] == real_loop.study.GREEDY:
            assert (row["texts_differ"], row["counts_differ"]) == (0, 0)
            assert abs(row["tokens_per_s_off"]) < 1e-5
            assert abs(row["energy_off"]) < 1e-5
    assert rows[0]["real_draft_length"] == 0
    assert rows[1]["real_tokens_per_round"] > 1
    assert rows[-1]["tokens_per_s_half"] > 0
    # A simulator that is off, or a text that is not the target's, is told.
    bad = [{**row, "tokens_per_s_off": 0.6, "texts_differ": 1} for row in rows]
    assert [claim.holds for claim in real_loop.STUDY.claims(settings, bad)] == [False] * 4


def test_the_simulators_benchmark(monkeypatch):
    """Every figure is there, and the table says them."""
    for name, value in {"DRAFT_LENGTHS": (2,), "DEVICES": 8, "ROUNDS": 2, "REPEATS": 1, "MANY": 16}.items():
        monkeypatch.setattr(benchmark, name, value)
    result = benchmark.run()
    (row,) = result.rows[:1]
    assert row.rounds_per_s > 0
    assert row.cpu_ns > 0
    assert row.first_s > 0
    assert result.many.result_bytes > 16 * 4
    assert len(benchmark.lines(result)) == len(result.rows) + 2
    assert benchmark.figures(result)["many"]["devices"] == 16
