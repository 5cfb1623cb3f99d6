"""Seconds that JAX spends on making programs, told apart from the seconds that they run."""

import threading
import time
from typing import Any

_PREFIX = "/jax/core/compile/"


class CompileClock:
    """Sums the time in which any thread traced, lowered, compiled, or fetched a compiled program.

    Overlapping spans (a trace inside a trace, two threads) count once.
    """

    def __init__(self) -> None:
        """Listen from now on, for the life of the process: JAX has no public way to leave."""
        import jax

        self._spans: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        if event.startswith(_PREFIX):
            now = time.perf_counter()
            with self._lock:
                self._spans.append((now - duration_secs, now))

    @property
    def seconds(self) -> float:
        """Length of the union of all spans so far."""
        total, reached = 0.0, float("-inf")
        with self._lock:
            spans = sorted(self._spans)
        for begin, end in spans:
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total
