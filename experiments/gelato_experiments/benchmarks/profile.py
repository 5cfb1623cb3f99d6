"""Where the time of decoding goes: seconds by kind of operation, and bytes read against what memory can give.

Programs are compiled once, run under JAX's profiler, and the trace's operations are looked up in the
compiled program. Threads of one operation are summed, so kinds may add up to more than the clock says.
"""

import dataclasses
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from gelato_jax.decoding import DecodeSettings, Pair, Shapes
from gelato_jax.decoding.local import round_state, run_rounds, run_windows
from gelato_jax.decoding.programs import advance
from gelato_jax.decoding.records import DecodeState, Job
from gelato_jax.decoding.timing import alternate
from gelato_jax.errors import GelatoError
from gelato_jax.models import Model

STEPS = 50
"""Steps or rounds in a traced call."""
CALLS = 4
"""Traced calls."""
MEMORY_BYTES = 1 << 29
"""Of the array whose sum measures how fast memory is read; assumed to pass every cache that is the machine's own."""
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = .*? ([\w\-]+)\(")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_CONTAINERS = ("while", "conditional", "call")


@dataclasses.dataclass(frozen=True)
class Kind:
    """Operations of one kind: an opcode of XLA, or the name of a compiled kernel."""

    name: str
    calls: float  # a step
    seconds: float  # a step


@dataclasses.dataclass(frozen=True)
class Profile:
    """One program's step."""

    what: str
    seconds: float  # a step, without the profiler
    kinds: list[Kind]  # the dearest first


@dataclasses.dataclass(frozen=True)
class Result:
    """Profiles, and what a step reads."""

    profiles: list[Profile]
    weight_bytes: int  # that one step of the target reads
    read_bytes_per_s: float  # by that step
    memory_bytes_per_s: float  # by a sum over an array
    peak_bytes: int  # of a stream's rounds: arguments, results and temporaries, by XLA's own account
    kept_bytes: int  # of those the weights and caches of both models
    slots: int  # tokens that the caches have room for

    @property
    def share(self) -> float:
        """Of the memory's bandwidth that a step uses."""
        return self.read_bytes_per_s / self.memory_bytes_per_s


def run(pair: Pair, *, settings: DecodeSettings, progress: Callable[[str], None] = lambda stage: None) -> Result:
    """Profile a step of the target alone, and a round with as many drafts as `settings` allow.

    Args:
        pair: draft and target.
        settings: the distribution, and the drafts of a round.
        progress: told what is being traced.

    Raises:
        GelatoError: this JAX cannot read its own traces.
    """
    if not hasattr(jax.profiler, "ProfileData"):
        raise GelatoError(f"jax {jax.__version__} has no jax.profiler.ProfileData; install a newer jax")
    shapes = Shapes(max_draft_length=settings.max_draft_length)
    progress("a step of the target")
    alone = (pair.target, STEPS, 1)
    step = _profile("a step of the target alone", run_windows.lower(*alone, window=1), *alone)
    progress("a round")
    state, job = round_state(pair, shapes, settings, rounds=STEPS)
    name = f"a round with {settings.max_draft_length} drafts"
    lowered = run_rounds.lower(state, job, STEPS, shapes=shapes)
    profiles = [step, _profile(name, lowered, state, job, STEPS)]
    progress("memory")
    weights = weight_bytes(pair.target)
    peak, kept = peak_bytes(state, job, shapes), bytes_of((job.target, job.draft, state.edge.cache, state.device.cache))
    return Result(
        profiles, weights, weights / step.seconds, memory_bytes_per_s(), peak, kept, state.device.tokens.shape[1]
    )


def _profile(what: str, lowered: jax.stages.Lowered, *arguments: object) -> Profile:
    compiled = lowered.compile()
    (times,) = alternate(lambda: compiled(*arguments), calls=CALLS)
    names = kinds_of(compiled.as_text() or "")
    seconds, calls = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.host_tracer_level, options.python_tracer_level = 3, 0
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(CALLS):
                jax.block_until_ready(compiled(*arguments))
        (trace,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                for event in line.events:
                    if (kind := names.get(event.name)) is not None:
                        seconds[kind] += event.duration_ns * 1e-9
                        calls[kind] += 1
    whole = CALLS * STEPS
    kinds = [Kind(kind, calls[kind] / whole, spent / whole) for kind, spent in seconds.most_common()]
    return Profile(what, min(times) / STEPS, kinds)


def kinds_of(program: str) -> dict[str, str]:
    """The kind of each instruction of a compiled program; what only contains others is left out."""
    kinds = {}
    for line in program.splitlines():
        if found := _INSTRUCTION.match(line):
            name, opcode = found.groups()
            if opcode not in _CONTAINERS:
                target = _TARGET.search(line)
                kinds[name] = opcode if target is None else target[1]
    return kinds


def weight_bytes(model: Model) -> int:
    """Bytes of weights that a step reads: all but an embedding that is not the head too."""
    looked_up = () if model.config.tied_head else ("embed.",)
    return sum(array.nbytes for path, array in model.params.items() if not path.startswith(looked_up))


def peak_bytes(state: DecodeState, job: Job, shapes: Shapes) -> int:
    """What a stream's rounds hold at once, of one row behind its prompt."""
    memory = advance.lower(state, job, jnp.int32(1), shapes=shapes).compile().memory_analysis()
    assert memory is not None  # a backend that keeps no account
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return held + memory.temp_size_in_bytes


def bytes_of(arrays: object) -> int:
    """Of all arrays in a tree."""
    return sum(array.nbytes for array in jax.tree.leaves(arrays))


def memory_bytes_per_s() -> float:
    """How fast all cores read memory: a sum over an array that no cache of its own holds."""
    array = jnp.zeros(MEMORY_BYTES // 4)
    add = jax.jit(jnp.sum)
    (times,) = alternate(lambda: add(array), calls=5)
    return MEMORY_BYTES / min(times)
