"""What is measured: one `Workload` per op and shape. A new op is one function here, in `WORKLOADS`.

Shapes are those of decoding with SmolLM2-135M and Qwen2.5: vocabularies of 49,152 and 151,936
tokens, drafts of 4, one row and four; products and attention of SmolLM2-135M for a token and a window of 5.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

import gelato_kernels as gk
from gelato_kernels.attention import api as attention
from gelato_kernels.attention.cases import case as attention_case
from gelato_kernels.bench import inputs, textbook
from gelato_kernels.coupling import api as coupling
from gelato_kernels.dispatch import Backend
from gelato_kernels.quantized import api as quantized
from gelato_kernels.sampling import api as sampling
from gelato_kernels.token_stats import api as token_stats
from gelato_kernels.truncation import api as truncation
from gelato_kernels.unembedding import api as unembedding
from gelato_kernels.verification import api as verification

SMOLLM2, QWEN = 49_152, 151_936
SHAPES = [(rows, vocab) for vocab in (SMOLLM2, QWEN) for rows in (1, 4)]
DRAFTED = 4
WINDOW = 5
PRODUCTS = [(960, 576), (3072, 576), (576, 1536), (SMOLLM2, 576)]
LAYERS = 40, (3072, 576)
WIDTHS = {SMOLLM2: 576, QWEN: 896}
HEADS, HEAD_SIZE, SLOTS, LIVE = (9, 3), 64, 1024, 768


def every_array_once(arguments: Any, result: Any) -> int:
    """Bytes of an op that reads all of its inputs and writes all of its outputs."""
    return sum(x.nbytes for x in jax.tree.leaves((arguments, result)))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """An op on inputs of one shape.

    Attributes:
        op: its public name.
        case: the shape, for the reader.
        inputs: makes the keyword arguments of a call, on the host.
        call: the op; called with the inputs and `implementation=`.
        backends: its implementations; one is named `reference`.
        textbook: given the inputs, the call to compare with; None is the reference.
        bytes: that the op must at least read and write, given its inputs and result.
        tolerance: of a number, as a share of the largest of its array.
        strays: share of an array that may be finite in one result and cut (-inf) in the other.
        quick: part of a quick run.
    """

    op: str
    case: str
    inputs: Callable[[], dict[str, Any]]
    call: Callable[..., Any]
    backends: Sequence[Backend]
    textbook: Callable[..., Callable[[], Any]] | None = None
    bytes: Callable[[Any, Any], int] = every_array_once
    tolerance: float = 1e-5
    strays: float = 0.0
    quick: bool = False


def _rows_of_logits() -> Iterator[Workload]:
    """Ops on logits [B, V]; reading them once is all that they must do."""
    for shape in SHAPES:
        rows, vocab = shape
        common: dict[str, Any] = {"case": f"V={vocab} B={rows}", "quick": shape == SHAPES[0]}
        make = functools.partial
        yield Workload(
            op="entropy",
            inputs=make(inputs.logits_and_uniforms, *shape),
            call=gk.entropy,
            backends=token_stats.BACKENDS,
            textbook=textbook.entropy,
            **common,
        )
        yield Workload(
            op="sample",
            inputs=make(inputs.logits_and_uniforms, *shape),
            call=gk.sample,
            backends=sampling.BACKENDS,
            **common,
        )
        yield Workload(
            op="top_p_logits",
            inputs=make(inputs.logits_and_level, *shape),
            call=gk.top_p_logits,
            backends=truncation.TOP_P_BACKENDS,
            strays=1e-4,  # sums in another order put tokens at the threshold on its other side
            **common,
        )
        yield Workload(
            op="gumbel_argmax",
            inputs=make(inputs.logits_and_noise, *shape),
            call=gk.gumbel_argmax,
            backends=coupling.BACKENDS,
            **common,
        )


def _windows() -> Iterator[Workload]:
    """Verification; every row is read, for where it will stop is not known before."""
    for shape in SHAPES:
        yield Workload(
            op="speculative_verify",
            case=f"V={shape[1]} B={shape[0]} K={DRAFTED}",
            inputs=functools.partial(inputs.drafted_window, *shape, DRAFTED),
            call=gk.speculative_verify,
            backends=verification.VERIFY_BACKENDS,
            textbook=textbook.speculative_verify,
            quick=shape == SHAPES[0],
        )


def _products() -> Iterator[Workload]:
    for out, width in PRODUCTS:
        for rows in (1, WINDOW):
            yield Workload(
                op="quantized_matmul",
                case=f"{out}x{width} rows={rows}",
                inputs=functools.partial(inputs.product, out, width, rows),
                call=gk.quantized_matmul,
                backends=quantized.BACKENDS,
                textbook=textbook.quantized_matmul,
                tolerance=1e-3,  # x in two int8 pieces
                quick=(out, rows) == (960, 1),
            )


def _each(
    *, x: jax.Array, weights: Sequence[jax.Array], scale: Sequence[jax.Array], implementation: str
) -> list[jax.Array]:
    return [gk.quantized_matmul(x, w, s, implementation=implementation) for w, s in zip(weights, scale, strict=True)]


def _layers() -> Iterator[Workload]:
    """Products whose weights come from memory, as a decoder's do: one matrix alone stays in a CPU's cache."""
    count, (out, width) = LAYERS
    for rows in (1, WINDOW):
        yield Workload(
            op="quantized_matmul",
            case=f"{count} of {out}x{width} rows={rows}",
            inputs=functools.partial(inputs.layers, count, out, width, rows),
            call=_each,
            backends=quantized.BACKENDS,
            textbook=textbook.quantized_layers,
            tolerance=1e-3,
        )


def _heads() -> Iterator[Workload]:
    """8-bit output heads; SmolLM2's is part of a quick run."""
    for rows, vocab in SHAPES:
        yield Workload(
            op="unembed_entropy",
            case=f"{vocab}x{WIDTHS[vocab]} int8 B={rows}",
            inputs=functools.partial(inputs.unembedding, vocab, WIDTHS[vocab], rows),
            call=gk.unembed_entropy,
            backends=unembedding.BACKENDS,
            textbook=textbook.unembed_entropy,
            tolerance=1e-3,  # hidden states in two int8 pieces
            quick=(rows, vocab) == SHAPES[0],
        )


def _attention() -> Iterator[Workload]:
    for window in (1, WINDOW):
        make = functools.partial(
            attention_case, 6, [LIVE], window=window, heads=HEADS, size=HEAD_SIZE, slots=SLOTS, garbage=0.0
        )
        yield Workload(
            op="window_attention",
            case=f"N={HEADS[0]} K={HEADS[1]} H={HEAD_SIZE}, {LIVE} of S={SLOTS}, T={window}",
            inputs=make,
            call=gk.window_attention,
            backends=attention.BACKENDS,
            bytes=_live_slots,
            tolerance=1e-2,  # an accelerator's own products of float32, where the reference asks for the highest
            quick=window == 1,
        )


def _live_slots(arguments: Any, result: Any) -> int:
    """Bytes of everything but the dead slots of the cache."""
    cache = arguments["cache_key"].nbytes + arguments["cache_value"].nbytes
    return every_array_once(arguments, result) - cache * (SLOTS - LIVE) // SLOTS


def _in_order(workloads: Sequence[Workload]) -> tuple[Workload, ...]:
    ops = list(dict.fromkeys(workload.op for workload in workloads))
    return tuple(sorted(workloads, key=lambda workload: ops.index(workload.op)))


WORKLOADS = _in_order([*_rows_of_logits(), *_windows(), *_products(), *_layers(), *_heads(), *_attention()])
OPS = tuple(dict.fromkeys(workload.op for workload in WORKLOADS))


def chosen(ops: Sequence[str] | None, quick: bool) -> list[Workload]:
    """Workloads of some ops, or of all.

    Raises:
        ValueError: an op has none.
    """
    for op in ops or ():
        if op not in OPS:
            raise ValueError(f"no op {op!r} to measure, there are {', '.join(OPS)}")
    return [work for work in WORKLOADS if (not ops or work.op in ops) and (work.quick or not quick)]
