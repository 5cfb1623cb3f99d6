"""The acceptance estimate of a row: a discounted Beta that forgets towards the checkpoint's prior."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.types import AcceptanceForecast, Calibration, Observation, number, powers, record

LONG_MEMORY = 10.0
"""How many times longer the row's own long run is remembered than evidence is; assumed."""
LONG_STRENGTH = 2.0
"""How many times more evidence it takes to doubt the checkpoint's prior than to leave it; assumed."""
ENTROPY_WORTH = 10.0
"""Drafts whose verdicts say as much as one draft's alpha(H), which is no coin toss; assumed."""


@record
class AcceptanceEstimate:
    """Discounted evidence about per-token acceptance."""

    successes: Array  # [] accepted drafts
    failures: Array  # [] rejections
    predicted: Array  # [] what the calibration said of the same drafts' entropies, summed
    expected_failures: Array  # [] rejections that the calibration expected by the same drafts' positions, summed
    long_failures: Array  # [] rejections over the long run, which fades only in rounds that test a draft
    long_expected: Array  # [] those expected over the same
    prior_mean: Array  # [] acceptance without evidence
    conditional: Array  # [P] the calibration's conditional acceptance, by a draft's position in its round


@record
class Estimator:
    """How fast evidence fades.

    A round that drafted L tokens adds min(accepted, L) successes and, if accepted < L, one failure:
    what follows a rejection was never tested, so accepted / drafted would be censored (0.18 for a
    true 0.6 at L = 8). Evidence also fades in rounds that draft nothing: a pessimistic estimate returns to the
    prior, and where the prior pays it is tried again. A prior that is itself too low is corrected by the row's long
    run, which idle rounds leave as it is: it may raise the prior, never lower it. Neither helps a row that never
    drafts. With a controller that probes (`lyapunov`) an estimate cannot lock itself in.

    Conditional acceptance rises with a draft's position: after five accepted drafts the next is accepted far more
    often than a round's first (0.87 and 0.53 on recorded greedy text), so alpha^i makes long drafts look worse than
    they are. What is estimated is therefore by what factor the row rejects more than the calibration expected of the
    same drafts by their positions: chances of rejection in proportion. With a flat calibration it is the discounted
    Beta over alpha, exactly.

    `level` does the same by entropy, for the exits: accepted drafts as a share of what the calibration said of those
    very drafts. A mean over all text would not do to compare with, for drafts that are tested follow accepted ones.

    With `from_entropy` nothing is estimated: acceptance is the mean of the calibration's alpha(H) over the row's
    latest tested drafts, the same at every position, and the calibration's mean before any was seen.
    """

    discount: Array  # [] share of the evidence kept from round to round
    prior_strength: Array  # [] tokens of evidence that the prior is worth
    level_strength: Array  # [] tokens of evidence that the calibration's own level is worth
    from_entropy: Array  # [] 1: forecasts are alpha(H) of the latest drafts; 0: they are estimated

    @classmethod
    def create(
        cls,
        *,
        discount: ArrayLike = 0.95,
        prior_strength: ArrayLike = 10.0,
        level_strength: ArrayLike = 60.0,
        from_entropy: ArrayLike = 0.0,
    ) -> "Estimator":
        """An estimator; the defaults, 20 rounds of memory and priors worth 10 and 60 tokens, do well on recorded text.

        Args:
            discount: share of the evidence kept from round to round, 0..1.
            prior_strength: tokens of evidence that the prior is worth, > 0.
            level_strength: tokens of evidence that the calibration's own level is worth, > 0.
            from_entropy: 1 to expect what the calibration says of the latest drafts' entropies, 0 to estimate.

        Returns:
            The estimator.

        Raises:
            GelatoError: a number is out of its range.
        """
        return cls(
            discount=number("discount", discount, low=0.0, high=1.0),
            prior_strength=number("prior_strength", prior_strength, low=1e-3),
            level_strength=number("level_strength", level_strength, low=1e-3),
            from_entropy=number("from_entropy", from_entropy, low=0.0, high=1.0),
        )

    def init(self, calibration: Calibration) -> AcceptanceEstimate:
        """No evidence yet."""
        zero = jnp.zeros((), jnp.float32)
        # copies: states are donated
        prior_mean = jnp.array(calibration.mean_acceptance, jnp.float32)
        conditional = jnp.array(calibration.conditional_acceptance, jnp.float32)
        return AcceptanceEstimate(
            successes=zero,
            failures=zero,
            predicted=zero,
            expected_failures=zero,
            long_failures=zero,
            long_expected=zero,
            prior_mean=prior_mean,
            conditional=conditional,
        )

    def rate(self, estimate: AcceptanceEstimate) -> Array:
        """[] posterior mean of the per-token acceptance; with `from_entropy` the mean of alpha(H)."""
        tested = estimate.successes + estimate.failures
        prior_mean = 1.0 - self._prior_level(estimate) * (1.0 - estimate.prior_mean)
        accepted = (estimate.successes + self.prior_strength * prior_mean) / (tested + self.prior_strength)
        said = ENTROPY_WORTH * estimate.predicted + self.prior_strength * estimate.prior_mean
        by_entropy = said / (ENTROPY_WORTH * tested + self.prior_strength)
        return jnp.where(self.from_entropy > 0, by_entropy, accepted)

    def rejection_level(self, estimate: AcceptanceEstimate) -> Array:
        """[] posterior mean of the rejections relative to the calibration's by position; 1 without evidence."""
        missing = jnp.maximum(1.0 - estimate.prior_mean, 1e-3)
        prior = self.prior_strength * missing
        counted = (estimate.failures + prior * self._prior_level(estimate)) / (estimate.expected_failures + prior)
        return jnp.where(self.from_entropy > 0, (1.0 - self.rate(estimate)) / missing, counted)

    def forecast(
        self, estimate: AcceptanceEstimate, max_draft_length: int, outlook: Array | None = None
    ) -> AcceptanceForecast:
        """The rate, and the survival of a round's first drafts up to G = `max_draft_length`.

        Where the calibration's chance of each draft is known before the round, `outlook [G]`, that counts, at the row's
        level, and no mean over rounds.
        """
        rate = self.rate(estimate)
        if outlook is not None:
            chances = jnp.clip(outlook * self.level(estimate), 0.0, 1.0)
            return AcceptanceForecast(rate=rate, survival=jnp.cumprod(jnp.append(jnp.ones(1, jnp.float32), chances)))
        rejected = self.rejection_level(estimate) * (1.0 - _at_positions(estimate.conditional, max_draft_length))
        survival = jnp.cumprod(1.0 - jnp.minimum(rejected, 1.0))
        survival = jnp.concatenate([jnp.ones(1, jnp.float32), survival])
        alike = powers(jnp.clip(rate, 0.0, 1.0), max_draft_length)
        return AcceptanceForecast(rate=rate, survival=jnp.where(self.from_entropy > 0, alike, survival))

    def level(self, estimate: AcceptanceEstimate) -> Array:
        """[] posterior mean of the acceptance relative to the calibration's; 1 without evidence, or `from_entropy`."""
        prior = self.level_strength * jnp.maximum(estimate.prior_mean, 1e-3)
        measured = (estimate.successes + prior) / (estimate.predicted + prior)
        return jnp.where(self.from_entropy > 0, 1.0, measured)

    def _prior_level(self, estimate: AcceptanceEstimate) -> Array:
        """[] rejections relative to the calibration's that evidence fades towards: 1, or fewer by the long run."""
        prior = LONG_STRENGTH * self.prior_strength * jnp.maximum(1.0 - estimate.prior_mean, 1e-3)
        return jnp.minimum((estimate.long_failures + prior) / (estimate.long_expected + prior), 1.0)

    def update(self, estimate: AcceptanceEstimate, outcome: Observation) -> AcceptanceEstimate:
        """The evidence after one more round."""
        accepted = jnp.minimum(outcome.accepted, outcome.drafted).astype(jnp.float32)
        rejected = outcome.rejected.astype(jnp.float32)
        missed = jnp.cumsum(1.0 - estimate.conditional)
        tested, known = accepted + rejected, estimate.conditional.shape[-1]
        within = jnp.clip(tested.astype(jnp.int32), 1, known) - 1
        expected = missed[within] + jnp.maximum(tested - known, 0.0) * (1.0 - estimate.conditional[-1])
        expected = jnp.where(tested > 0, expected, 0.0)
        kept = jnp.where(tested > 0, self.discount ** (1.0 / LONG_MEMORY), 1.0)
        return AcceptanceEstimate(
            successes=self.discount * estimate.successes + accepted,
            failures=self.discount * estimate.failures + rejected,
            predicted=self.discount * estimate.predicted + outcome.predicted,
            expected_failures=self.discount * estimate.expected_failures + expected,
            long_failures=kept * estimate.long_failures + rejected,
            long_expected=kept * estimate.long_expected + expected,
            prior_mean=estimate.prior_mean,
            conditional=estimate.conditional,
        )


def _at_positions(conditional: Array, max_draft_length: int) -> Array:
    """`[G]` acceptance by position; the last known holds for all that follow."""
    return conditional[jnp.minimum(jnp.arange(max_draft_length), conditional.shape[-1] - 1)]
