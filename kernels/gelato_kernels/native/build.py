"""From the C++ sources that this package ships to a shared library in the user's cache.

A library's name tells all that it was made from, so that nothing in the cache is ever out of date. It is written beside
its place and moved there, so two processes that build at once do not meet; and it ends with a digest of itself, since
loading a file that was cut short ends the process.
"""

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jaxlib.version

SOURCES = Path(__file__).parent / "cpp"
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-w")
"""For every file. A compiler that fuses a multiplication and an addition where it likes would do so in one tile and not
in another; -fno-math-errno makes a square root one instruction and changes no number."""
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
DOTPROD = ("-march=armv8.2-a+dotprod",)
X86_64 = {"isa_avx2": AVX2, "isa_avx512": AVX512}
ARM64 = {"isa_neon": (), "isa_dotprod": DOTPROD}
"""Files of one set of instructions, with flags of their own."""
MACHINES = {"x86_64": X86_64, "amd64": X86_64, "aarch64": ARM64, "arm64": ARM64}
COMPILERS = ("c++", "g++", "clang++")
PATIENCE_S = 300
"""Longest that a compiler may take (assumed: it takes about 5 s)."""


def units(machine: str) -> dict[str, tuple[str, ...]]:
    """Files that are compiled for a machine, with flags of their own; which set runs is asked of the processor."""
    better = MACHINES.get(machine.lower(), {})
    # Where there are better sets the plain one hardly ever runs, and takes longest to compile.
    return {"choose": (), "handlers": (), "isa_generic": ("-O2",) if better else (), **better}


class BuildError(Exception):
    """There is no library; the message is one line."""


def cache() -> Path:
    """Where libraries are kept: below `$GELATO_CACHE`, else `$XDG_CACHE_HOME`, else `~/.cache`."""
    root = os.environ.get("GELATO_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "gelato-kernels"


def compiler() -> list[str]:
    """The command that compiles C++.

    Raises:
        BuildError: there is none.
    """
    if chosen := os.environ.get("CXX"):
        return shlex.split(chosen)
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    raise BuildError(f"no C++ compiler: $CXX is not set, and there is no {', '.join(COMPILERS)} and no package ziglang")


def library(extra: Sequence[str] = ()) -> Path:
    """The library of these sources, compiled where the cache does not hold it.

    Args:
        extra: flags for every file.

    Raises:
        BuildError: there is no compiler, it fails, or the cache cannot be written.
    """
    command = compiler()
    flags = (*FLAGS, *extra)
    path = cache() / f"native-{_key(command, flags)}.so"
    if _whole(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as folder:
            made = _compile(command, flags, Path(folder))
            data = made.read_bytes()
            with made.open("ab") as file:  # what follows an ELF or Mach-O file's own bytes is not looked at
                file.write(hashlib.sha256(data).digest())
            os.replace(made, path)
    except OSError as error:
        raise BuildError(f"{path.parent}: {error.strerror or error}") from None
    return path


def _remove_leftovers(folder: Path) -> None:
    """What killed processes left; a build that goes on is younger."""
    for left in folder.glob("build-*"):
        if time.time() - left.stat().st_mtime > 2 * PATIENCE_S:
            shutil.rmtree(left, ignore_errors=True)


def _key(command: Sequence[str], flags: Sequence[str]) -> str:
    """A name for what is compiled, with what, against what."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    version = _finish(_start([*command, "--version"]))
    digest.update(repr((command, version, flags, units(platform.machine()), jaxlib.version.__version__)).encode())
    return digest.hexdigest()[:24]


def _whole(path: Path) -> bool:
    """Whether a file is there and ends with the digest of what stands ahead."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    size = hashlib.sha256().digest_size
    return hashlib.sha256(data[:-size]).digest() == data[-size:]


def _compile(command: Sequence[str], flags: Sequence[str], folder: Path) -> Path:
    """Compile all files at once, then link them: the path of the library in `folder`."""
    files = units(platform.machine())
    headers = jax.ffi.include_dir()
    running = []
    for name, own in files.items():
        source, made = str(SOURCES / f"{name}.cc"), str(folder / f"{name}.o")
        arguments = [*command, *flags, *own, "-I", headers, "-c", source, "-o", made]
        running.append(_start(arguments))
    try:
        for process in running:
            _finish(process)
    finally:
        for process in running:
            _end(process)  # of a build that has failed; one that has ended does not mind
    made = folder / "native.so"
    shared = ("-shared", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared", "-pthread")
    objects = [str(folder / f"{name}.o") for name in files]
    _finish(_start([*command, *flags, *shared, *objects, "-o", str(made)]))
    return made


def _start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
    except OSError as error:
        raise BuildError(f"{arguments[0]}: {error.strerror or error}") from None


def _finish(process: subprocess.Popen[str]) -> str:
    """Wait for a command's end; what it wrote.

    Raises:
        BuildError: it failed, or took too long; the first line that speaks of an error.
    """
    try:
        output, _ = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        _end(process)
        raise BuildError(f"the compiler took longer than {PATIENCE_S} s") from None
    if process.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower()] or lines
        raise BuildError(telling[0] if telling else f"the compiler failed with exit code {process.returncode}")
    return output


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()
