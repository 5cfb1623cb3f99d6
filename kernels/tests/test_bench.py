"""The benchmark's commands, and the block sizes that they write and the kernels read. No time is asserted."""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels import tuning
from gelato_kernels.bench import __main__ as bench
from gelato_kernels.bench import agreement, autotune, chart, inputs, measure, report, timing, workloads
from gelato_kernels.bench.workloads import Workload
from gelato_kernels.dispatch import Backend
from gelato_kernels.quantized import api as quantized

EFFORT = timing.Effort(rounds=2, round_s=1e-5, copied_bytes=2**16)
KIND = jax.devices()[0].device_kind
PRODUCT = Workload(
    op="quantized_matmul",
    case="33x47 rows=1",
    inputs=partial(inputs.product, 33, 47, 1),
    call=gk.quantized_matmul,
    backends=quantized.BACKENDS,
    tolerance=1e-3,
)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(timing, "QUICK", EFFORT)


def test_a_quick_run_is_a_table_and_a_file(quick, capsys, tmp_path):
    ops = ("gumbel_argmax", "quantized_matmul")
    code = bench.main(["--quick", "--ops", *ops, "--out", str(tmp_path / "new"), "--json", "-"])
    printed = json.loads(capsys.readouterr().out)
    text = (tmp_path / "new" / "kernels.txt").read_text()
    assert code == 0
    assert json.loads((tmp_path / "new" / "kernels.json").read_text()) == printed
    assert {row["op"] for row in printed["rows"]} == set(ops)
    for row in printed["rows"]:
        assert row["status"] == "ok"
        assert f"  {row['implementation']}  " in text
        if row["implementation"] != measure.TEXTBOOK:
            assert min(row[name] for name in ("compile_ms", "median_us", "loop_us", "gb_per_s", "ratio")) > 0
    assert printed["copy_gb_per_s"] > 0
    assert not list((tmp_path / "new").glob(".*"))  # nothing half written


def test_a_picture_is_drawn_where_matplotlib_is(quick, tmp_path):
    pytest.importorskip("matplotlib")
    assert bench.main(["--quick", "--ops", "quantized_matmul", "--png", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_one_line(quick, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench.main(["--quick", "--ops", "gumbel_argmax", "--png", str(tmp_path / "a.png")]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("command", "arguments", "fault"),
    [
        (bench.main, ["--ops", "entropie"], "no op 'entropie' to measure, there are entropy, "),
        (bench.main, ["--fast"], "unrecognized arguments: --fast"),
        (bench.main, ["--json", "{tmp}/none/a.json"], "there is no folder"),
        (bench.main, ["--png", "{tmp}"], "is a folder"),
        (
            autotune.main,
            ["--out", "{tmp}/a.json", "--kernels", "sweeps"],
            "no kernel 'sweeps' to tune, there are sweep",
        ),
        (autotune.main, [], "required: --out"),
    ],
)
def test_a_mistake_is_one_line(command, arguments, fault, capsys, tmp_path):
    try:
        code = command([argument.format(tmp=tmp_path) for argument in arguments])
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert fault in error


@pytest.mark.skipif(measure.platform_name() != "cpu", reason="about a process without an accelerator")
def test_there_is_nothing_to_tune_on_a_cpu(capsys, tmp_path):
    assert autotune.main(["--out", str(tmp_path / "a.json")]) == 2
    assert "a TPU or a GPU, this process's first device is a cpu\n" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()


def test_a_bad_implementation_is_a_row_that_says_so():
    def fails(x):
        raise RuntimeError("no such instruction\nat line 3")

    op = {"reference": lambda x: 2 * x, "twice": lambda x: x + x, "square": lambda x: x * x, "broken": fails}
    refusing = Backend("small", op["twice"], refuses=lambda x: "too large")

    def call(x, implementation):
        if implementation == "small":
            raise ValueError("op: implementation 'small' cannot serve these inputs: too large")
        return op[implementation](x)

    work = Workload(
        op="op",
        case="n=3",
        inputs=lambda: {"x": np.arange(3.0, dtype=np.float32)},
        call=call,
        backends=[*(Backend(name, run) for name, run in op.items()), refusing],
    )
    found = measure.run([work], EFFORT)
    rows = {row.implementation: row for row in found.rows}
    assert {name: row.status for name, row in rows.items()} == {
        "reference": "ok",
        "twice": "ok",
        "square": "wrong",
        "broken": "failed",
        "small": "refused",
    }
    assert rows["twice"].bytes == 24
    assert rows["broken"].note == "RuntimeError: no such instruction"
    assert "wrong: result: off by 1" in "\n".join(report.table(found))
    assert not found.sound
    assert [row.implementation for row in chart.bars(found)] == ["twice"]


def test_agreement_tells_numbers_tokens_and_cut_logits_apart():
    same = partial(agreement.difference, tolerance=1e-3, strays=0.25)
    logits = jnp.array([1.0, -jnp.inf, 2.0, -3.0])
    assert same((logits, jnp.arange(3)), (logits.at[3].set(-3.001), jnp.arange(3))) is None
    assert same(logits, logits.at[0].set(-jnp.inf)) is None  # one stray of four
    assert "2 of 4 are finite in one" in same(logits, jnp.array([-jnp.inf, -jnp.inf, 2.0, -jnp.inf]))
    assert "off by" in same(logits, logits.at[0].set(1.1))
    assert "1 of 3 differ" in same(jnp.arange(3), jnp.array([0, 1, 3]))
    assert "int32[3] instead of int32[2]" in same(jnp.arange(3), jnp.arange(2))
    assert "finite" in agreement.difference(logits, logits.at[0].set(jnp.nan), tolerance=1, strays=0)


def test_uniforms_are_moved_within_their_intervals():
    weights = np.random.default_rng(0).random((3, 700))
    uniforms = np.random.default_rng(1).random((3, 2))
    moved = inputs.centred(weights, uniforms)
    draw = jax.jit(partial(gk.sample, implementation="reference"))
    logits = np.log(weights).astype(np.float32)
    np.testing.assert_array_equal(draw(logits, moved), draw(logits, uniforms.astype(np.float32)))
    np.testing.assert_allclose(inputs.centred(weights, moved), moved, rtol=1e-6)


def test_every_workload_names_its_reference_and_every_op_is_quick_once():
    for work in workloads.WORKLOADS:
        assert "reference" in [backend.name for backend in work.backends]
    assert [work.op for work in workloads.chosen(None, quick=True)] == list(workloads.OPS)
    assert {op for tunable in autotune.TUNABLES for op in tunable.ops} <= set(workloads.OPS)


def test_the_best_block_is_one_that_works():
    """A block of no outputs cannot be traced."""
    sizes = []
    best = autotune.tune(
        "quantized_matmul", "pallas_triton_interpret", (16, 32, 0), [PRODUCT], effort=EFFORT, say=sizes.append
    )
    assert best in (16, 32)
    assert ["failed" in line for line in sizes] == [False, False, True]
    assert autotune.tune("quantized_matmul", "pallas_triton_interpret", (0,), [PRODUCT], effort=EFFORT) is None


def test_a_table_named_by_the_environment_gives_the_block(monkeypatch, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({KIND: {"sweep": {"block": 512}}, "another device": {"sweep": {"block": 64}}}))
    monkeypatch.setenv(tuning.VARIABLE, str(path))
    assert tuning.block("sweep", 2048) == 512
    assert tuning.block("window_attention", 64) == 64
    with tuning.trial("sweep", 256):
        assert tuning.block("sweep", 2048) == 256
    monkeypatch.delenv(tuning.VARIABLE)
    assert tuning.block("no kernel of this name", 128) == 128


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "holds a list"),
        ('{"x": 3}', "'x' holds 3"),
        ('{"x": {"sweep": 512}}', "'x', 'sweep': 512, expected"),
        ('{"x": {"sweep": {"block": 1000}}}', "a power of two"),
        ('{"x": {"sweep": {"block": true}}}', "a power of two"),
    ],
)
def test_a_bad_table_is_one_error(text, fault, monkeypatch, tmp_path):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv(tuning.VARIABLE, str(path))
    with pytest.raises(ValueError, match=fault) as error:
        tuning.block("sweep", 2048)
    assert str(path) in str(error.value)
