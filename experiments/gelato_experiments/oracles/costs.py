"""Seconds and joules of a round as the oracles see them: by link state, draft length and outcome."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RoundCosts:
    """Costs of a round that drafts g tokens in link state w.

    They are base + sum_{i <= g} token_i + reject if a draft was rejected, else + full; in expectation
    reject * (1 - A_g) + full * A_g, A_g the chance that all g are accepted. A round without drafts
    rejects none, A_0 = 1, and pays `full`.

    Args:
        base_s: [W] seconds of every round.
        base_j: [W] joules of every round.
        token_s: [W, G] seconds that the i-th draft adds.
        token_j: [W, G] joules that the i-th draft adds.
        reject_s: [W] seconds added by a rejection.
        reject_j: [W] joules added by a rejection.
        full_s: [W] seconds added where nothing is rejected.
        full_j: [W] joules added where nothing is rejected.

    Raises:
        ValueError: shapes disagree, a number is not finite, or some round would take no time or give
            energy back.
    """

    base_s: Floats
    base_j: Floats
    token_s: Floats
    token_j: Floats
    reject_s: Floats
    reject_j: Floats
    full_s: Floats
    full_j: Floats

    def __post_init__(self):
        for field in fields(self):
            value = np.asarray(getattr(self, field.name), np.float64)
            object.__setattr__(self, field.name, value)
            states = self.base_s.shape
            expected = (*states, *self.token_s.shape[1:]) if field.name.startswith("token") else states
            if value.shape != expected or not np.all(np.isfinite(value)):
                raise ValueError(f"{field.name}: shape {value.shape}, expected finite numbers of shape {expected}")
        if self.base_s.ndim != 1 or self.token_s.ndim != 2 or self.token_s.shape[1] < 1:
            raise ValueError(f"base_s [W] and token_s [W, G >= 1], got {self.base_s.shape} and {self.token_s.shape}")
        if self.least_seconds.min() <= 0.0 or self._least(self.base_j, self.token_j, self.reject_j, self.full_j) < 0.0:
            raise ValueError("some draft length takes no time or gives energy back")

    @property
    def max_draft_length(self) -> int:
        """G."""
        return self.token_s.shape[1]

    @property
    def least_seconds(self) -> Floats:
        """[W] seconds that no round undercuts."""
        return self._lengths(self.base_s, self.token_s).min(axis=1) + np.minimum(self.reject_s, self.full_s)

    def expected(self, drafted: ArrayLike, survival: ArrayLike) -> tuple[Floats, Floats]:
        """Mean seconds and joules of rounds.

        Args:
            drafted: [W, G] or [G] share of rounds that draft an i-th token.
            survival: [W] or [] share of rounds in which nothing is rejected.

        Returns:
            [W] seconds and [W] joules.
        """
        drafted, survival = np.asarray(drafted, np.float64), np.asarray(survival, np.float64)
        seconds = self.base_s + (drafted * self.token_s).sum(axis=1)
        joules = self.base_j + (drafted * self.token_j).sum(axis=1)
        return (
            seconds + self.reject_s * (1.0 - survival) + self.full_s * survival,
            joules + self.reject_j * (1.0 - survival) + self.full_j * survival,
        )

    def by_outcome(self) -> tuple[Floats, Floats]:
        """Seconds and joules given the outcome: [W, G + 1, G + 1], accepted length k, then draft length g."""
        length = np.arange(self.max_draft_length + 1)
        rejected = length[:, None] < length[None, :]
        seconds = np.where(rejected, self.reject_s[:, None, None], self.full_s[:, None, None])
        joules = np.where(rejected, self.reject_j[:, None, None], self.full_j[:, None, None])
        return (
            seconds + self._lengths(self.base_s, self.token_s)[:, None, :],
            joules + self._lengths(self.base_j, self.token_j)[:, None, :],
        )

    @staticmethod
    def _lengths(base: Floats, token: Floats) -> Floats:
        return base[:, None] + np.pad(np.cumsum(token, axis=1), ((0, 0), (1, 0)))

    @classmethod
    def _least(cls, base: Floats, token: Floats, reject: Floats, full: Floats) -> float:
        return float((cls._lengths(base, token).min(axis=1) + np.minimum(reject, full)).min())
