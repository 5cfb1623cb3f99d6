"""Named inputs of the truncations: logits of every kind, with the levels to cut them at."""

from collections.abc import Callable

import numpy as np

from gelato_kernels.case_logits import LOGITS

CASES: dict[str, Callable[[], np.ndarray]] = dict(LOGITS)

TOP_P = (0.0, 0.1, 0.5, 0.9, 0.999, 1.0)
TOP_K = (-1, 0, 1, 2, 50, 4096, 10**6)
