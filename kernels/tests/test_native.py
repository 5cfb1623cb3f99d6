"""The compiled kernels: built, cached, left out where they cannot be; same bits in every window; clean memory."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels import native
from gelato_kernels.dispatch import runnable
from gelato_kernels.native import build, library

HERE = Path(__file__).parent
ROOT = Path(gk.__file__).parents[1]
EQUALITY = HERE / "native_equality.py"
SETS = {"x86_64": ("generic", "avx2", "avx512"), "aarch64": ("generic", "neon", "dotprod")}
ARM_COMPILER = "aarch64-linux-gnu-g++"

needs_kernels = pytest.mark.skipif(not native.available(), reason=f"no compiled kernels: {native.reason()}")


def own_sets():
    """The sets of instructions that this processor has."""
    sets = next(sets for sets in SETS.values() if native.instructions() in sets)
    return sets[: sets.index(native.instructions()) + 1]


def start(*arguments, **environment):
    """A Python process that finds this package; None takes a variable away."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={name: value for name, value in given.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@needs_kernels
def test_a_row_has_the_same_bits_in_every_window_by_every_set_of_instructions():
    running = {name: start(EQUALITY, GELATO_NATIVE_ISA=name) for name in own_sets()}
    outputs = {name: process.communicate()[0] for name, process in running.items()}
    for name, process in running.items():
        assert process.returncode == 0, outputs[name]
        assert outputs[name].split()[0] == name
    digests = {name: output.split()[1] for name, output in outputs.items()}
    assert digests.get("avx512") in (None, digests.get("avx2"))  # both fuse multiplications and additions


@needs_kernels
def test_sums_that_know_their_window_are_caught():
    """The check above notices: in this build, sums of a window run from their other end."""
    program = (
        "import runpy; from gelato_kernels.native import build;"
        "build.FLAGS += ('-O1', '-DGELATO_MUTANT_ORDER');"
        f"runpy.run_path({str(EQUALITY)!r}, run_name='__main__')"
    )
    process = start("-c", program)
    output, _ = process.communicate()
    assert process.returncode == 1, output
    for fault in (
        "q4 window 1;",
        "q8 window 1;",
        "bfloat16 window 1;",
        "attention float32 64 token 0",
        "attention bfloat16 40 token 0",
        "rotary token",
    ):
        assert fault in output


def compile_driver(command, machine, folder):
    """The path of the driver, compiled by a command for a machine."""
    command = [*command, "-std=c++17", "-ffp-contract=off", "-w", "-pthread", "-I", str(build.SOURCES)]
    sources = {build.SOURCES / f"{name}.cc": own for name, own in build.units(machine).items() if name != "handlers"}
    sources[HERE / "native_driver.cc"] = ()
    objects = [str(folder / f"{source.stem}.o") for source in sources]
    running = [
        subprocess.Popen([*command, *own, "-c", str(source), "-o", target])
        for (source, own), target in zip(sources.items(), objects, strict=True)
    ]
    assert not any([process.wait() for process in running])
    subprocess.run([*command, *objects, "-o", str(folder / "driver")], check=True)
    return folder / "driver"


def run_driver(command, instructions):
    """The digest of its results by a set of instructions."""
    environment = {**os.environ, "GELATO_NATIVE_ISA": instructions}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    said, digest = ran.stdout.split(", ")
    assert said == f"{instructions}: all right"
    return digest


@needs_kernels
def test_sanitizers_find_nothing(tmp_path):
    """The driver reads and writes arrays to their last number, from two callers; see the README for threads."""
    command = [*build.compiler(), "-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    probe = tmp_path / "probe.cc"
    probe.write_text("int main() { return 0; }")
    made = subprocess.run([*command, str(probe), "-o", str(tmp_path / "probe")], capture_output=True)
    if made.returncode or subprocess.run([tmp_path / "probe"], capture_output=True).returncode:
        pytest.skip("the compiler has no sanitizers")
    driver = compile_driver(command, platform.machine(), tmp_path)
    digests = {name: run_driver([driver], name) for name in own_sets()}
    assert digests.get("avx512") in (None, digests.get("avx2"))


@needs_kernels
def test_arm_processors_compute_the_same_bits(tmp_path):
    """Cross-compiled and emulated: with dotprod, without, and by a processor that does not have it."""
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not emulator or not shutil.which(ARM_COMPILER) or native.instructions() not in ("avx2", "avx512"):
        pytest.skip(f"needs {ARM_COMPILER}, qemu-user and a processor with AVX2")
    (tmp_path / "here").mkdir()
    here = compile_driver([*build.compiler(), "-O1"], platform.machine(), tmp_path / "here")
    driver = compile_driver([ARM_COMPILER, "-O2", "-static"], "aarch64", tmp_path)
    digests = {run_driver([here], "avx2"), *(run_driver([emulator, driver], name) for name in ("dotprod", "neon"))}
    assert len(digests) == 1
    run_driver([emulator, driver], "generic")
    old = subprocess.run([emulator, "-cpu", "cortex-a72", driver], capture_output=True, text=True)
    assert old.stdout.startswith("neon: all right")


PLAIN = """
import jax, numpy as np, gelato_kernels as gk
from gelato_kernels import native
from gelato_kernels.attention.cases import CASES
from gelato_kernels.block_weights.cases import case
assert not native.available() and native.instructions() is None
assert np.isfinite(jax.jit(gk.window_attention)(**CASES["window"]())).all()
assert np.isfinite(gk.block_matmul(**case(0, 33, 2, 64))).all()
print(native.reason())
"""


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"GELATO_NATIVE": "0"}, "GELATO_NATIVE=0"),
        ({"PATH": "/nowhere", "CXX": None}, "no C++ compiler: "),
        ({"CXX": "/nowhere/c++"}, "/nowhere/c++: No such file or directory"),
    ],
)
def test_everything_works_without_a_compiler_and_says_why(environment, reason):
    if reason.startswith("no C++") and importlib.util.find_spec("ziglang"):
        pytest.skip("the package ziglang is a compiler")
    process = start("-c", PLAIN, **environment)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert output.startswith(reason)
    assert output.count("\n") == 1


def test_nothing_is_compiled_or_imported_ahead():
    program = "import sys, gelato_kernels; print('gelato_kernels.native.build' in sys.modules)"
    assert start("-c", program, CXX="/nowhere/c++").communicate()[0] == "False\n"


FAKE = """#!/bin/sh
[ "$1" = --version ] && { echo fake 1; exit; }
echo "$@" >> "$0.log"
for last; do [ "$previous" = -o ] && target="$last"; previous="$last"; done
[ -e "$0.fault" ] && { echo "In file included"; echo "kernel.cc:3: error: no such thing"; echo "more"; exit 1; }
sleep 0.1; echo compiled > "$target"
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A compiler that writes a word, and a cache of its own; the file that tells what it was asked."""
    compiler = tmp_path / "fake c++"
    compiler.write_text(FAKE)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{compiler}'")
    monkeypatch.setenv("GELATO_CACHE", str(tmp_path / "cache"))
    return compiler.with_name("fake c++.log")


def links(log):
    return sum("-shared" in line for line in log.read_text().splitlines())


def test_a_library_is_compiled_once_and_again_when_it_is_cut_short(fake, tmp_path, monkeypatch):
    path = build.library()
    assert path.parent == tmp_path / "cache" / "gelato-kernels"
    assert build.library() == path
    assert links(fake) == 1
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert build.library() == path
    assert path.read_bytes() == whole
    assert links(fake) == 2
    assert build.library(("-DOTHER",)) != path
    assert [p.suffix for p in path.parent.iterdir()] == [".so", ".so"]  # what was written on the way is gone


def test_what_killed_builds_left_is_removed(fake, tmp_path):
    left, going_on = (tmp_path / "cache" / "gelato-kernels" / f"build-{name}" for name in ("old", "young"))
    for folder in (left, going_on):
        folder.mkdir(parents=True)
        (folder / "choose.o").touch()
    os.utime(left, (0, 0))
    build.library()
    assert not left.exists()
    assert going_on.exists()


def test_kernels_are_prepared_beside_other_work(tmp_path):
    program = (
        "import time; from gelato_kernels import native; from gelato_kernels.native import library;"
        "began = time.monotonic(); native.prepare(); waited = time.monotonic() - began;"
        "print(waited < 0.5, native.available(), native.reason())"
    )
    output = start("-c", program).communicate()[0]
    assert output == f"True {native.available()} {native.reason()}\n"


def test_two_that_build_at_once_do_not_meet(fake):
    paths = []
    builders = [threading.Thread(target=lambda: paths.append(build.library())) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(set(paths)) == 1
    assert build._whole(paths[0])
    assert len(list(paths[0].parent.iterdir())) == 1


def test_a_compiler_that_fails_is_quoted_in_a_line(fake):
    fake.with_name("fake c++.fault").touch()
    assert library._load.__wrapped__() == (None, "kernel.cc:3: error: no such thing")


def test_what_is_no_library_is_no_end(fake):
    instructions, reason = library._load.__wrapped__()
    assert instructions is None
    assert reason.startswith("the compiled library does not load: ")


def test_a_cache_that_cannot_be_written_is_named(fake, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(build.BuildError, match=re.escape(f"{tmp_path / 'cache' / 'gelato-kernels'}: Not a directory")):
        build.library()


@needs_kernels
def test_two_processes_that_build_at_once_both_have_kernels(tmp_path):
    program = (
        "from gelato_kernels import native; from gelato_kernels.native import build;"
        "build.FLAGS += ('-O0',); print(native.available(), native.reason())"
    )
    running = [start("-c", program, GELATO_CACHE=str(tmp_path)) for _ in range(2)]
    assert [process.communicate()[0] for process in running] == ["True None\n"] * 2


@needs_kernels
def test_a_cpu_is_given_them():
    from gelato_kernels.attention import api as attention
    from gelato_kernels.block_weights import api as block_weights

    for backends in (attention.BACKENDS, block_weights.BACKENDS):
        assert "native" in runnable(backends)
    from gelato_kernels.block_weights.cases import case

    inputs = case(0, 40, 3, 64)
    np.testing.assert_array_equal(gk.block_matmul(**inputs), gk.block_matmul(**inputs, implementation="native"))


def test_a_cache_of_another_kind_goes_elsewhere():
    from gelato_kernels.attention.cases import CASES

    inputs = CASES["window"]()
    inputs |= {name: inputs[name].astype(jnp.float16) for name in ("cache_key", "cache_value")}
    assert np.isfinite(gk.window_attention(**{**inputs, "lengths": np.array([4, 0, 3], np.int32)})).all()
    if native.available():
        with pytest.raises(ValueError, match="caches are float16 and float16, float32 or bfloat16 are served"):
            gk.window_attention(**inputs, implementation="native")
