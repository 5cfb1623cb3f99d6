"""From entropy to acceptance: reading a calibration, and the one assumed where none was fitted.

A calibration may be off for the pair in use. What the exits read is therefore scaled by the row's
own level, clip(alpha(H) * level, 0, 1): the shape is the calibration's, the level is measured (ours).
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax.errors import GelatoError
from gelato_jax.types import KNOWN_POSITIONS, Calibration, number

REPORTED_SCALE = 1.0  # a of alpha(H) = a exp(b H), Qwen2.5 pair, arXiv 2605.10124 as reported
REPORTED_DECAY = 0.35  # -b of the same, 1/nat
DEFAULT_EDGES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Nats; assumed."""
PERSISTENCE = 0.25
"""Weight of a token's own class in the expectation for the next token, the rest is the mean; assumed."""
RECOVERY = 0.3
"""Share of the missing acceptance that infinitely many deeper exits would win back; assumed."""


def entropy_class(calibration: Calibration, entropy: Array) -> Array:
    """[] int32 class of H: the number of class edges below it."""
    return jnp.sum(entropy > calibration.class_edges).astype(jnp.int32)


def acceptance_at(calibration: Calibration, entropy: Array, exit: Array, level: Array | float) -> Array:
    """alpha(H) of a token, at the row's level.

    Args:
        calibration: of the draft.
        entropy: [] nats at the exit taken.
        exit: [] int32 that exit.
        level: [] the row's acceptance relative to the calibration's, `RoundPlan.acceptance_level`.

    Returns:
        [] probability.
    """
    reported = jnp.minimum(calibration.scale[exit] * jnp.exp(-calibration.decay[exit] * entropy), 1.0)
    return _at_level(reported, level)


def next_acceptance(calibration: Calibration, entropy: Array, level: Array | float) -> Array:
    """E[alpha(H_next) | class of H], at the row's level; arguments as `acceptance_at`, the next token's exit open."""
    reported = calibration.next_acceptance[entropy_class(calibration, entropy)]
    return _at_level(reported, level)


def deeper_gain(calibration: Calibration, entropy: Array, exit: Array, level: Array | float) -> Array:
    """Expected gain in acceptance of going one exit deeper, at the row's level; 0 at the last exit.

    Args:
        calibration: of the draft.
        entropy: [] nats at this exit.
        exit: [] int32 e.
        level: [] the row's acceptance relative to the calibration's, `RoundPlan.acceptance_level`.

    Returns:
        [] difference of probabilities.
    """
    here = calibration.deeper_acceptance[exit, entropy_class(calibration, entropy)]
    deeper = jnp.minimum(exit + 1, here.shape[0] - 1)
    after = _at_level(here[deeper], level)
    return after - _at_level(here[exit], level)


def default_calibration(num_exits: int = 1, mean_acceptance: float = 0.6) -> Calibration:
    """The calibration used before one is fitted: the reported curve, tables that follow from it.

    Entropies are taken as exponentially distributed, with the mean that gives `mean_acceptance`
    under the curve (assumed); class means of alpha then have a closed form.

    Args:
        num_exits: X of the draft.
        mean_acceptance: acceptance averaged over tokens; the default is assumed.

    Returns:
        The calibration, C = 8 classes; drafts are accepted independently.

    Raises:
        GelatoError: `mean_acceptance` is not inside (0, 1) or `num_exits` under 1.
    """
    if not 0 < mean_acceptance < 1 or num_exits < 1:
        raise GelatoError(f"mean_acceptance {mean_acceptance} must lie inside (0, 1) and num_exits {num_exits} be >= 1")
    mean_entropy = (1.0 / mean_acceptance - 1.0) / REPORTED_DECAY
    edges = np.array([0.0, *DEFAULT_EDGES, np.inf])
    mass = -np.diff(np.exp(-edges / mean_entropy))
    tilted = -np.diff(np.exp(-edges * (REPORTED_DECAY + 1.0 / mean_entropy)))
    class_mean = mean_acceptance * tilted / mass
    steps = np.maximum(np.arange(num_exits)[None, :] - np.arange(num_exits)[:, None], 0)
    recovered = RECOVERY * (1.0 - 0.5**steps)
    deeper = class_mean[None, :, None] + (1.0 - class_mean)[None, :, None] * recovered[:, None, :]
    return Calibration(
        scale=jnp.full((num_exits,), REPORTED_SCALE, jnp.float32),
        decay=jnp.full((num_exits,), REPORTED_DECAY, jnp.float32),
        mean_acceptance=number("mean_acceptance", mean_acceptance),
        class_edges=jnp.asarray(DEFAULT_EDGES, jnp.float32),
        class_acceptance=jnp.tile(jnp.asarray(class_mean, jnp.float32), (num_exits, 1)),
        next_acceptance=jnp.asarray(PERSISTENCE * class_mean + (1.0 - PERSISTENCE) * mean_acceptance, jnp.float32),
        deeper_acceptance=jnp.asarray(deeper, jnp.float32),
        conditional_acceptance=jnp.full((KNOWN_POSITIONS,), mean_acceptance, jnp.float32),
    )


def _at_level(reported: Array, level: Array | float) -> Array:
    return jnp.clip(reported * level, 0.0, 1.0)
