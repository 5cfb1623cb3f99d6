"""The edge that verifies: seconds of one window of target tokens."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax.errors import GelatoError
from gelato_jax.types import record

TABLE_WINDOW = 33
"""Largest window in the table (32 drafts and one more); wider ones follow a line."""
TOKEN_SHARE = 0.01
"""Seconds of each further window token, as a share of a step, while a step is memory-bound; assumed."""
ROW_SHARE = 0.02
"""Seconds of each further row in the server's batch, as a share of a step; assumed."""


@record
class Edge:
    """Verification time as a table over window sizes, the same form for formulas and measurements."""

    window_s: Array  # [TABLE_WINDOW + 1] seconds of a window of w tokens; entry 0 is 0
    token_s: Array  # [] seconds of each token beyond the table

    @classmethod
    def line(cls, step_s: float, *, token_s: float | None = None, rows: int = 1, row_s: float | None = None) -> "Edge":
        """An edge whose window time is a line.

        Args:
            step_s: seconds of one target step for one row, > 0.
            token_s: seconds of each further token of the window; `TOKEN_SHARE * step_s` if not given.
            rows: rows that the server verifies together, a load that the device cannot steer.
            row_s: seconds of each further row; `ROW_SHARE * step_s` if not given.

        Returns:
            The edge.

        Raises:
            GelatoError: a time is not positive or `rows` is under 1.
        """
        if not step_s > 0 or rows < 1:
            raise GelatoError(f"edge step_s {step_s} must be positive and rows {rows} at least 1")
        token_s = TOKEN_SHARE * step_s if token_s is None else token_s
        row_s = ROW_SHARE * step_s if row_s is None else row_s
        window = np.arange(1, TABLE_WINDOW + 1)
        seconds = step_s + token_s * (window - 1) + row_s * (rows - 1)
        return cls(
            window_s=jnp.asarray(np.concatenate([[0.0], seconds]), jnp.float32),
            token_s=jnp.asarray(token_s, jnp.float32),
        )

    @classmethod
    def measured(cls, window_s: Mapping[int, float], *, padded: bool = True) -> "Edge":
        """An edge from measured windows.

        Args:
            window_s: seconds by window size, 1 among them.
            padded: a window in between takes as long as the next measured size, to which a verifier pads it; if not,
                it lies on the line between its neighbours.

        Returns:
            The edge; windows wider than the widest measured one follow the line through the last two.

        Raises:
            GelatoError: size 1 is missing, a size is out of range or a time is not positive.
        """
        sizes = sorted(window_s)
        if not sizes or sizes[0] != 1 or sizes[-1] > TABLE_WINDOW:
            raise GelatoError(f"measured windows {sizes} must start at 1 and end at most at {TABLE_WINDOW}")
        if min(window_s.values()) <= 0:
            raise GelatoError(f"measured window times {dict(window_s)} must be positive")
        times = [window_s[size] for size in sizes]
        slope = max(times[-1] - times[-2], 0.0) / (sizes[-1] - sizes[-2]) if len(sizes) > 1 else 0.0
        window = np.arange(1, TABLE_WINDOW + 1)
        ends = np.searchsorted(sizes, window).clip(max=len(sizes) - 1)
        inside = np.asarray(times)[ends] if padded else np.interp(window, sizes, times)
        beyond = slope * np.maximum(window - sizes[-1], 0)
        table = np.concatenate([[0.0], inside + beyond])
        return cls(window_s=jnp.asarray(table, jnp.float32), token_s=jnp.asarray(slope, jnp.float32))

    def verify_s(self, window: Array) -> Array:
        """Seconds to verify a window.

        Args:
            window: [...] int32 tokens: the drafted ones and one more.

        Returns:
            [...] seconds.
        """
        last = self.window_s.shape[0] - 1
        beyond = jnp.maximum(window - last, 0).astype(jnp.float32)
        return self.window_s[jnp.clip(window, 0, last)] + self.token_s * beyond
