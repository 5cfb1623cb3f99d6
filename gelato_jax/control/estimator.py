"""The acceptance estimate of a row: a discounted Beta that forgets towards the checkpoint's prior."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.types import Calibration, RoundOutcome, number, powers, record


@record
class AcceptanceEstimate:
    """Discounted evidence about per-token acceptance."""

    successes: Array  # [] accepted drafts
    failures: Array  # [] rejections
    predicted: Array  # [] what the calibration said of the same drafts, summed
    prior_mean: Array  # [] acceptance without evidence


@record
class Estimator:
    """How fast evidence fades.

    A round that drafted L tokens adds min(accepted, L) successes and, if accepted < L, one failure:
    what follows a rejection was never tested, so accepted / drafted would be censored (0.18 for a
    true 0.6 at L = 8). Evidence also fades in rounds that draft nothing. A pessimistic estimate
    therefore returns to the prior and is tried again: it cannot lock itself in.

    Beside the rate stands the level: accepted drafts as a share of what the calibration said of those very drafts.
    A mean over all text would not do to compare with, for drafts that are tested follow accepted ones.
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
        prior_mean = jnp.array(calibration.mean_acceptance, jnp.float32)  # a copy: states are donated
        return AcceptanceEstimate(successes=zero, failures=zero, predicted=zero, prior_mean=prior_mean)

    def rate(self, estimate: AcceptanceEstimate) -> Array:
        """[] posterior mean of the per-token acceptance."""
        evidence = estimate.successes + estimate.failures
        weighted = estimate.successes + self.prior_strength * estimate.prior_mean
        return weighted / (evidence + self.prior_strength)

    def level(self, estimate: AcceptanceEstimate) -> Array:
        """[] posterior mean of the acceptance relative to the calibration's; 1 without evidence."""
        prior = self.level_strength * jnp.maximum(estimate.prior_mean, 1e-3)
        return (estimate.successes + prior) / (estimate.predicted + prior)

    def update(self, estimate: AcceptanceEstimate, outcome: RoundOutcome) -> AcceptanceEstimate:
        """The evidence after one more round."""
        accepted = jnp.minimum(outcome.accepted, outcome.drafted).astype(jnp.float32)
        rejected = (outcome.accepted < outcome.drafted).astype(jnp.float32)
        return AcceptanceEstimate(
            successes=self.discount * estimate.successes + accepted,
            failures=self.discount * estimate.failures + rejected,
            predicted=self.discount * estimate.predicted + outcome.predicted,
            prior_mean=estimate.prior_mean,
        )


def expected_tokens(acceptance: Array, max_draft_length: int) -> Array:
    """Tokens of a round by draft length, sum_{i<=g} alpha^i = (1 - alpha^(g+1)) / (1 - alpha), bonus included.

    arXiv 2211.17192, equation 1. Summed, so that alpha = 1 is no special case.

    Args:
        acceptance: [] alpha, i.i.d.
        max_draft_length: G.

    Returns:
        [G+1] tokens.
    """
    return jnp.cumsum(powers(acceptance, max_draft_length))
