"""Length exits: when a round stops drafting further tokens. See `base.LengthExit` for the call."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import DraftSignal, LengthExit, LengthExitRule
from gelato_jax.control.calibration import acceptance_at, next_acceptance
from gelato_jax.types import Observation, RoundPlan, number, record

TARGET_ACCEPTANCE = 0.9  # Draft & Verify (ACL 2024), adaptive draft exit, algorithm 2
RATE_MEMORY = 0.5  # beta_1 of the same
THRESHOLD_MEMORY = 0.9  # beta_2 of the same
THRESHOLD_STEP = 0.01  # epsilon of the same


@record
class BucketParams:
    """The numbers of `bucket`."""

    threshold_nats: Array  # []
    capacity_nats: Array  # []


@record
class EntropyBoundParams:
    """The numbers of `adaedl` and `svip`, which bound acceptance by sqrt(c H)."""

    factor: Array  # [] c, 1/nat
    threshold: Array  # []


@record
class AdaptiveState:
    """A threshold that follows the acceptance of past rounds."""

    threshold: Array  # []
    rate: Array  # [] moving average of accepted / drafted


def none() -> LengthExit:
    """Draft the whole budget."""
    return LengthExit(params=(), rule=_NONE)


def bucket(threshold_nats: ArrayLike = 1.0, capacity_nats: ArrayLike = 2.0) -> LengthExit:
    """Leaky bucket of entropy, the inner loop reported of arXiv 2605.10124.

    Theta_i = max(0, Theta_{i-1} + H_i - H_th), empty at a round's begin; stop when Theta_i > Theta_th.

    Args:
        threshold_nats: H_th, the leak of each token; the default is assumed.
        capacity_nats: Theta_th; the default is assumed.

    Returns:
        The exit.

    Raises:
        GelatoError: a number is negative.
    """
    params = BucketParams(
        threshold_nats=number("threshold_nats", threshold_nats, low=0.0),
        capacity_nats=number("capacity_nats", capacity_nats, low=0.0),
    )
    return LengthExit(params=params, rule=_BUCKET)


def priced() -> LengthExit:
    """Draft on while a token is worth its joules and seconds (ours): no free threshold.

    On iff V * A_i * alpha_next >= Q * e + (V * theta - Q * Pbar) * t, with A_i = prod_{j<=i} alpha(H_j) and
    e, t the cost of one more token, upload included; prices are the plan's. A budget over 0 opens the
    round, its length is then up to the prices, at most G.
    """
    return LengthExit(params=(), rule=_PRICED)


def adaedl(factor: ArrayLike = 0.2, threshold: ArrayLike = 0.3) -> LengthExit:
    """Stop if 1 - sqrt(c H) < lambda, lambda adapted to the acceptance of past rounds (arXiv 2410.18351).

    Lambda follows the update of Draft & Verify: up a step while the moving average of
    accepted / drafted is under 0.9, else down.

    Args:
        factor: c, 1/nat.
        threshold: lambda at first; the default is assumed.

    Returns:
        The exit.

    Raises:
        GelatoError: a number is out of its range.
    """
    params = EntropyBoundParams(
        factor=number("factor", factor, low=0.0), threshold=number("threshold", threshold, low=-1.0, high=1.0)
    )
    return LengthExit(params=params, rule=_ADAEDL)


def svip(factor: ArrayLike = 0.15, threshold: ArrayLike = 0.3) -> LengthExit:
    """Stop if sqrt(c H) > h (arXiv 2411.18462, whose numbers are the defaults).

    Args:
        factor: c, 1/nat.
        threshold: h.

    Returns:
        The exit.

    Raises:
        GelatoError: a number is negative.
    """
    params = EntropyBoundParams(
        factor=number("factor", factor, low=0.0), threshold=number("threshold", threshold, low=0.0)
    )
    return LengthExit(params=params, rule=_SVIP)


def confidence(threshold: ArrayLike = 0.6) -> LengthExit:
    """Stop if max q < tau, tau adapted towards an acceptance of 0.9 (Draft & Verify, ACL 2024).

    Args:
        threshold: tau at first, 0..1; the default is assumed.

    Returns:
        The exit.

    Raises:
        GelatoError: `threshold` is outside 0..1.
    """
    return LengthExit(params=number("threshold", threshold, low=0.0, high=1.0), rule=_CONFIDENCE)


def _stateless(params: Any) -> tuple[()]:
    del params
    return ()


def _zero_nats(params: Any) -> Array:
    del params
    return jnp.zeros((), jnp.float32)


def _certain(params: Any) -> Array:
    del params
    return jnp.ones((), jnp.float32)


def _restart_bucket(params: BucketParams, state: Array, plan: RoundPlan) -> Array:
    del params, plan
    return jnp.zeros_like(state)


def _restart_survival(params: tuple[()], state: Array, plan: RoundPlan) -> Array:
    del params, plan
    return jnp.ones_like(state)


def _keep_at_start(params: Any, state: Any, plan: RoundPlan) -> Any:
    del params, plan
    return state


def _keep_after(params: Any, state: Any, outcome: Observation) -> Any:
    del params, outcome
    return state


def _budget(params: Any, plan: RoundPlan, max_draft_length: int) -> Array:
    del params
    return jnp.minimum(plan.draft_budget, max_draft_length)


def _all_or_nothing(params: Any, plan: RoundPlan, max_draft_length: int) -> Array:
    del params
    return jnp.where(plan.draft_budget > 0, max_draft_length, 0).astype(jnp.int32)


def _never(params: Any, state: tuple[()], signal: DraftSignal) -> tuple[tuple[()], Array]:
    del params, signal
    return state, jnp.zeros((), jnp.bool_)


def _bucket_step(params: BucketParams, state: Array, signal: DraftSignal) -> tuple[Array, Array]:
    level = jnp.maximum(state + signal.entropy - params.threshold_nats, 0.0)
    return level, level > params.capacity_nats


def _priced_step(params: tuple[()], state: Array, signal: DraftSignal) -> tuple[Array, Array]:
    del params
    plan = signal.plan
    survival = state * acceptance_at(signal.calibration, signal.entropy, signal.exit, plan.acceptance_level)
    gain = plan.token_value * survival * next_acceptance(signal.calibration, signal.entropy, plan.acceptance_level)
    return survival, gain < plan.energy_price * signal.token_j + plan.time_price * signal.token_s


def _adaedl_step(params: EntropyBoundParams, state: AdaptiveState, signal: DraftSignal) -> tuple[AdaptiveState, Array]:
    return state, 1.0 - jnp.sqrt(params.factor * signal.entropy) < state.threshold


def _svip_step(params: EntropyBoundParams, state: tuple[()], signal: DraftSignal) -> tuple[tuple[()], Array]:
    return state, jnp.sqrt(params.factor * signal.entropy) > params.threshold


def _confidence_step(params: Array, state: AdaptiveState, signal: DraftSignal) -> tuple[AdaptiveState, Array]:
    del params
    return state, signal.max_probability < state.threshold


def _adaedl_init(params: EntropyBoundParams) -> AdaptiveState:
    return _confidence_init(params.threshold)


def _confidence_init(params: Array) -> AdaptiveState:
    # a copy: states are donated, params are not
    return AdaptiveState(threshold=jnp.array(params), rate=jnp.full_like(params, TARGET_ACCEPTANCE))


def _adapt(params: Any, state: AdaptiveState, outcome: Observation) -> AdaptiveState:
    """The update of Draft & Verify, algorithm 2; a round without drafts says nothing."""
    del params
    drafted = outcome.drafted > 0
    share = jnp.where(outcome.rejected, outcome.accepted / jnp.maximum(outcome.drafted, 1), 1.0)
    rate = jnp.where(drafted, RATE_MEMORY * state.rate + (1.0 - RATE_MEMORY) * share, state.rate)
    stepped = state.threshold + jnp.where(rate <= TARGET_ACCEPTANCE, THRESHOLD_STEP, -THRESHOLD_STEP)
    threshold = THRESHOLD_MEMORY * state.threshold + (1.0 - THRESHOLD_MEMORY) * stepped
    return AdaptiveState(threshold=jnp.where(drafted, threshold, state.threshold), rate=rate)


_NONE = LengthExitRule(init=_stateless, start=_keep_at_start, limit=_budget, step=_never, update=_keep_after)
_BUCKET = LengthExitRule(init=_zero_nats, start=_restart_bucket, limit=_budget, step=_bucket_step, update=_keep_after)
_PRICED = LengthExitRule(
    init=_certain, start=_restart_survival, limit=_all_or_nothing, step=_priced_step, update=_keep_after
)
_ADAEDL = LengthExitRule(init=_adaedl_init, start=_keep_at_start, limit=_budget, step=_adaedl_step, update=_adapt)
_SVIP = LengthExitRule(init=_stateless, start=_keep_at_start, limit=_budget, step=_svip_step, update=_keep_after)
_CONFIDENCE = LengthExitRule(
    init=_confidence_init, start=_keep_at_start, limit=_budget, step=_confidence_step, update=_adapt
)
