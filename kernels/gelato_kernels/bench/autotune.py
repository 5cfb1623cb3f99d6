"""`python -m gelato_kernels.bench.autotune`: the block sizes at which the Pallas kernels are fastest on this device.

Each size runs every workload of the kernel's ops; sizes whose kernel fails, or gives something else
than the reference, are out, and of the others the one with the smallest geometric mean of times wins.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from gelato_kernels import tuning
from gelato_kernels.bench import files, workloads
from gelato_kernels.bench.command import Parser, SlowLines, guarded
from gelato_kernels.bench.measure import candidate, platform_name, prepare
from gelato_kernels.bench.timing import Effort
from gelato_kernels.bench.workloads import Workload
from gelato_kernels.compilers import PLATFORMS

PROG = "gelato_kernels.bench.autotune"
EFFORT = Effort(rounds=20, round_s=5e-3, copied_bytes=0)


@dataclass(frozen=True, kw_only=True)
class Tunable:
    """A kernel that asks `tuning.block` for its size.

    Attributes:
        kernel: the name it asks by.
        ops: that it serves, of `workloads.OPS`.
        sizes: to try, by the compiler's name; a compiler that is not there has nothing to choose.
    """

    kernel: str
    ops: Sequence[str]
    sizes: Mapping[str, Sequence[int]]


TUNABLES = (
    Tunable(
        kernel="sweep",
        ops=("entropy", "speculative_verify"),
        sizes={"tpu": (512, 1024, 2048, 4096, 8192), "triton": (256, 512, 1024, 2048, 4096)},
    ),
    Tunable(
        kernel="quantized_matmul",
        ops=("quantized_matmul",),
        sizes={"tpu": (128, 256, 512, 1024, 2048), "triton": (16, 32, 64, 128)},
    ),
    Tunable(kernel="unembed_entropy", ops=("unembed_entropy",), sizes={"tpu": (256, 512, 1024, 2048, 4096)}),
    Tunable(
        kernel="window_attention",
        ops=("window_attention",),
        sizes={"tpu": (128, 256, 512, 1024), "triton": (16, 32, 64, 128)},
    ),
)


def tune(
    kernel: str,
    implementation: str,
    sizes: Sequence[int],
    works: Sequence[Workload],
    *,
    effort: Effort = EFFORT,
    say: Callable[[str], None] = lambda line: None,
) -> int | None:
    """The best of some block sizes.

    Args:
        kernel: its name in the tables.
        implementation: of the workloads' ops, that runs the kernel.
        sizes: to try.
        works: to run.
        effort: how long each is timed.
        say: given a line for each size and workload.

    Returns:
        The size with the smallest product of times; None where none ran all the workloads.
    """
    log_times = dict.fromkeys(sizes, 0.0)
    for work in works:
        inputs, expected = prepare(work)
        for size in list(log_times):
            with tuning.trial(kernel, size):
                found = candidate(work, implementation, inputs, expected, effort)
            where = f"{kernel}, block {size}: {work.op}, {work.case}"
            if found.row.status == "ok":
                log_times[size] += math.log(found.loop_s)
                say(f"{where}: {found.loop_s * 1e6:.1f} us")
            else:
                del log_times[size]
                say(f"{where}: {found.row.status}: {found.row.note}")
    return min(log_times, key=log_times.__getitem__, default=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's); the exit code.

    Raises:
        SystemExit: after --help, or arguments that are not understood.
    """
    names = ", ".join(tunable.kernel for tunable in TUNABLES)
    parser = Parser(
        prog=f"python -m {PROG}",
        description="Time block sizes of the Pallas kernels on this process's first device, a TPU or a GPU, and write "
        f"the best. Kernels read the file that {tuning.VARIABLE} names.",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="JSON {device kind: {kernel: {block: n}}}; what it already holds of other devices and kernels stays",
    )
    parser.add_argument("--kernels", nargs="+", metavar="KERNEL", help=f"only these, of {names} (default: all)")
    options = parser.parse_args(arguments)
    return guarded(PROG, lambda: _autotune(options))


def _autotune(options: argparse.Namespace) -> int:
    chosen = _chosen(options.kernels)
    platform, kind = platform_name(), jax.devices()[0].device_kind
    compiler = next((name for name, platforms in PLATFORMS.items() if platform in platforms), None)
    if compiler is None:
        raise ValueError(f"Pallas kernels run on a TPU or a GPU, this process's first device is a {platform}")
    path = files.writable(options.out)
    table = tuning.parse(path.read_text(encoding="utf-8"), str(path)) if path.exists() else {}
    best = table.setdefault(kind, {})
    for tunable in chosen:
        sizes = tunable.sizes.get(compiler, ())
        works = workloads.chosen(tunable.ops, quick=False)
        if not sizes:
            print(f"{tunable.kernel}: nothing to choose")
            continue
        size = tune(tunable.kernel, f"pallas_{compiler}", sizes, works, say=SlowLines(PROG))
        if size is not None:
            best[tunable.kernel] = {"block": size}
        print(f"{tunable.kernel}: {'no size works' if size is None else f'block {size}'}")
    files.write(path, (json.dumps(table, indent=2, sort_keys=True) + "\n").encode())
    return 0


def _chosen(kernels: Sequence[str] | None) -> list[Tunable]:
    by_name = {tunable.kernel: tunable for tunable in TUNABLES}
    for kernel in kernels or ():
        if kernel not in by_name:
            raise ValueError(f"no kernel {kernel!r} to tune, there are {', '.join(by_name)}")
    return [by_name[kernel] for kernel in kernels or by_name]


if __name__ == "__main__":
    sys.exit(main())
