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
    prior_mean: Array  # [] acceptance without evidence


@record
class Estimator:
    """How fast evidence fades.

    A round that drafted L tokens adds min(accepted, L) successes and, if accepted < L, one failure:
    what follows a rejection was never tested, so accepted / drafted would be censored (0.18 for a
    true 0.6 at L = 8). Evidence also fades in rounds that draft nothing. A pessimistic estimate
    therefore returns to the prior and is tried again: it cannot lock itself in.
    """

    discount: Array  # [] share of the evidence kept from round to round
    prior_strength: Array  # [] tokens of evidence that the prior is worth

    @classmethod
    def create(cls, *, discount: ArrayLike = 0.95, prior_strength: ArrayLike = 2.0) -> "Estimator":
        """An estimator; the defaults (about 20 rounds of memory, a prior worth 2 tokens) are assumed.

        Args:
            discount: share of the evidence kept from round to round, 0..1.
            prior_strength: tokens of evidence that the prior is worth, > 0.

        Returns:
            The estimator.

        Raises:
            ValueError: a number is out of its range.
        """
        return cls(
            discount=number("discount", discount, low=0.0, high=1.0),
            prior_strength=number("prior_strength", prior_strength, low=1e-3),
        )

    def init(self, calibration: Calibration) -> AcceptanceEstimate:
        """No evidence yet."""
        zero = jnp.zeros((), jnp.float32)
        prior_mean = jnp.array(calibration.mean_acceptance, jnp.float32)  # a copy: states are donated
        return AcceptanceEstimate(successes=zero, failures=zero, prior_mean=prior_mean)

    def rate(self, estimate: AcceptanceEstimate) -> Array:
        """[] posterior mean of the per-token acceptance."""
        evidence = estimate.successes + estimate.failures
        weighted = estimate.successes + self.prior_strength * estimate.prior_mean
        return weighted / (evidence + self.prior_strength)

    def update(self, estimate: AcceptanceEstimate, outcome: RoundOutcome) -> AcceptanceEstimate:
        """The evidence after one more round."""
        accepted = jnp.minimum(outcome.accepted, outcome.drafted).astype(jnp.float32)
        rejected = (outcome.accepted < outcome.drafted).astype(jnp.float32)
        return AcceptanceEstimate(
            successes=self.discount * estimate.successes + accepted,
            failures=self.discount * estimate.failures + rejected,
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
