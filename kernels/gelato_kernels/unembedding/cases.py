"""Named inputs of `unembed_entropy`: keyword arguments of one call each."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from gelato_kernels.case_logits import SPREAD, host_uniforms


def head(seed: int, rows: int, vocab: int, inputs: int) -> dict[str, Any]:
    """Hidden states and a head whose logits have standard deviation `SPREAD`."""
    rng = np.random.default_rng(seed)
    return {
        "hidden": rng.standard_normal((rows, inputs), np.float32),
        "weight": rng.standard_normal((vocab, inputs), np.float32) * np.float32(SPREAD * inputs**-0.5),
        "uniforms": host_uniforms(seed + 1, rows, 2),
    }


def narrowed(case: dict[str, Any]) -> dict[str, Any]:
    """The case with bfloat16 weights."""
    return case | {"weight": case["weight"].astype(ml_dtypes.bfloat16)}


def quantized(case: dict[str, Any]) -> dict[str, Any]:
    """The case with int8 weights and their scales."""
    scale = np.abs(case["weight"]).max(1) / np.float32(127)
    return case | {"weight": np.round(case["weight"] / scale[:, None]).astype(np.int8), "scale": scale}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "tiny": lambda: head(80, 2, 6, 8),
    "ragged": lambda: head(82, 3, 5003, 96),
    "one_row": lambda: head(84, 1, 1024, 576),
    "bfloat16": lambda: narrowed(head(86, 3, 1030, 96)),
    "int8": lambda: quantized(head(88, 3, 1030, 96)),
    "wide_int8": lambda: quantized(head(96, 2, 300, 192)) | {"temperature": np.array([0.0, 0.6], np.float32)},
    "many_rows": lambda: head(90, 19, 700, 70),
    "no_draw": lambda: {name: value for name, value in head(92, 3, 700, 70).items() if name != "uniforms"},
    "temperature_per_row": lambda: head(94, 3, 1030, 96) | {"temperature": np.array([0.0, 0.6, 1.8], np.float32)},
}
