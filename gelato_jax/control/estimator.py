"""The acceptance estimate of a row: a discounted Beta that forgets towards the checkpoint's prior."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.types import AcceptanceForecast, Calibration, Observation, number, record


@record
class AcceptanceEstimate:
    """Discounted evidence about per-token acceptance."""

    successes: Array  # [] accepted drafts
    failures: Array  # [] rejections
    predicted: Array  # [] what the calibration said of the same drafts' entropies, summed
    expected_failures: Array  # [] rejections that the calibration expected by the same drafts' places, summed
    prior_mean: Array  # [] acceptance without evidence
    streak: Array  # [P] the calibration's acceptance by a draft's place in its round


@record
class Estimator:
    """How fast evidence fades.

    A round that drafted L tokens adds min(accepted, L) successes and, if accepted < L, one failure:
    what follows a rejection was never tested, so accepted / drafted would be censored (0.18 for a
    true 0.6 at L = 8). Evidence also fades in rounds that draft nothing. A pessimistic estimate
    therefore returns to the prior and is tried again: it cannot lock itself in.

    Text comes in streaks: a draft behind five that stand is accepted far more often than a round's first (0.87 and
    0.53 on recorded greedy text), so alpha^i makes long drafts look worse than they are. What is estimated is
    therefore by what factor the row rejects more than the calibration expected of the same drafts by their places:
    chances of rejection in proportion. With a flat calibration it is the discounted Beta over alpha, exactly.

    `level` does the same by entropy, for the exits: accepted drafts as a share of what the calibration said of those
    very drafts. A mean over all text would not do to compare with, for drafts that are tested follow accepted ones.
    """

    discount: Array  # [] share of the evidence kept from round to round
    prior_strength: Array  # [] tokens of evidence that the prior is worth
    level_strength: Array  # [] tokens of evidence that the calibration's own level is worth

    @classmethod
    def create(
        cls, *, discount: ArrayLike = 0.95, prior_strength: ArrayLike = 10.0, level_strength: ArrayLike = 60.0
    ) -> "Estimator":
        """An estimator; the defaults, 20 rounds of memory and priors worth 10 and 60 tokens, do well on recorded text.

        Args:
            discount: share of the evidence kept from round to round, 0..1.
            prior_strength: tokens of evidence that the prior is worth, > 0.
            level_strength: tokens of evidence that the calibration's own level is worth, > 0.

        Returns:
            The estimator.

        Raises:
            ValueError: a number is out of its range.
        """
        return cls(
            discount=number("discount", discount, low=0.0, high=1.0),
            prior_strength=number("prior_strength", prior_strength, low=1e-3),
            level_strength=number("level_strength", level_strength, low=1e-3),
        )

    def init(self, calibration: Calibration) -> AcceptanceEstimate:
        """No evidence yet."""
        zero = jnp.zeros((), jnp.float32)
        # copies: states are donated
        prior_mean = jnp.array(calibration.mean_acceptance, jnp.float32)
        streak = jnp.array(calibration.streak_acceptance, jnp.float32)
        return AcceptanceEstimate(
            successes=zero, failures=zero, predicted=zero, expected_failures=zero, prior_mean=prior_mean, streak=streak
        )

    def rate(self, estimate: AcceptanceEstimate) -> Array:
        """[] posterior mean of the per-token acceptance."""
        evidence = estimate.successes + estimate.failures
        weighted = estimate.successes + self.prior_strength * estimate.prior_mean
        return weighted / (evidence + self.prior_strength)

    def rejection_level(self, estimate: AcceptanceEstimate) -> Array:
        """[] posterior mean of the rejections relative to the calibration's by place; 1 without evidence."""
        prior = self.prior_strength * jnp.maximum(1.0 - estimate.prior_mean, 1e-3)
        return (estimate.failures + prior) / (estimate.expected_failures + prior)

    def forecast(self, estimate: AcceptanceEstimate, max_draft_length: int) -> AcceptanceForecast:
        """The rate, and the survival of a round's first drafts up to G = `max_draft_length`."""
        rejected = self.rejection_level(estimate) * (1.0 - _at_places(estimate.streak, max_draft_length))
        stands = jnp.cumprod(1.0 - jnp.minimum(rejected, 1.0))
        survival = jnp.concatenate([jnp.ones(1, jnp.float32), stands])
        return AcceptanceForecast(rate=self.rate(estimate), survival=survival)

    def level(self, estimate: AcceptanceEstimate) -> Array:
        """[] posterior mean of the acceptance relative to the calibration's; 1 without evidence."""
        prior = self.level_strength * jnp.maximum(estimate.prior_mean, 1e-3)
        return (estimate.successes + prior) / (estimate.predicted + prior)

    def update(self, estimate: AcceptanceEstimate, outcome: Observation) -> AcceptanceEstimate:
        """The evidence after one more round."""
        accepted = jnp.minimum(outcome.accepted, outcome.drafted).astype(jnp.float32)
        rejected = outcome.rejected.astype(jnp.float32)
        missed = jnp.cumsum(1.0 - estimate.streak)
        tested, places = accepted + rejected, estimate.streak.shape[-1]
        within = jnp.clip(tested.astype(jnp.int32), 1, places) - 1
        expected = missed[within] + jnp.maximum(tested - places, 0.0) * (1.0 - estimate.streak[-1])
        return AcceptanceEstimate(
            successes=self.discount * estimate.successes + accepted,
            failures=self.discount * estimate.failures + rejected,
            predicted=self.discount * estimate.predicted + outcome.predicted,
            expected_failures=self.discount * estimate.expected_failures + jnp.where(tested > 0, expected, 0.0),
            prior_mean=estimate.prior_mean,
            streak=estimate.streak,
        )


def _at_places(streak: Array, max_draft_length: int) -> Array:
    """`[G]` acceptance by place; the last known holds for all behind."""
    return streak[jnp.minimum(jnp.arange(max_draft_length), streak.shape[-1] - 1)]
