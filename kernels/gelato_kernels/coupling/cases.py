"""Named inputs of `gumbel_argmax`: keyword arguments of one call each."""

from collections.abc import Callable

import numpy as np

from gelato_kernels.case_logits import LOGITS, host_uniforms


def _with_noise(logits: np.ndarray) -> dict[str, np.ndarray]:
    return {"logits": logits, "noise": -np.log(-np.log(host_uniforms(40, *logits.shape)))}


CASES: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    **{name: lambda make=make: _with_noise(make()) for name, make in LOGITS.items()},
    "ties_without_noise": lambda: {"logits": LOGITS["ties"](), "noise": np.zeros_like(LOGITS["ties"]())},
}
