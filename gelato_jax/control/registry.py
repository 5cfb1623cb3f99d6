"""Names of the rules, for the command line."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gelato_jax.control import (
    banditspec,
    confidence_roc,
    depth_exits,
    draft_sampling,
    edgellm,
    flexspec,
    length_exits,
    lyapunov,
    schedules,
    sled,
    specdec_entropy,
    ucb_specstop,
)

CONTROLLERS: dict[str, Callable[..., Any]] = {
    "ratio": lyapunov.ratio,
    "gelato": lyapunov.gelato,
    "static": schedules.static,
    "hf_schedule": schedules.hf_schedule,
    "flexspec": flexspec.flexspec,
    "ucb_specstop": ucb_specstop.ucb_specstop,
    "banditspec": banditspec.banditspec,
}
LENGTH_EXITS: dict[str, Callable[..., Any]] = {
    "none": length_exits.none,
    "bucket": length_exits.bucket,
    "priced": length_exits.priced,
    "adaedl": length_exits.adaedl,
    "svip": length_exits.svip,
    "confidence": length_exits.confidence,
    "sled": sled.sled,
    "edgellm_no_tree": edgellm.edgellm_no_tree,
    "confidence_roc": confidence_roc.confidence_roc,
    "specdec_entropy": specdec_entropy.specdec_entropy,
}
DEPTH_EXITS: dict[str, Callable[..., Any]] = {
    "fixed": depth_exits.fixed,
    "entropy": depth_exits.entropy,
    "priced": depth_exits.priced,
}
DRAFT_SAMPLINGS: dict[str, Callable[..., Any]] = {
    "fixed": draft_sampling.fixed,
    "entropy": draft_sampling.entropy,
}


def create(registry: Mapping[str, Callable[..., Any]], name: str, **options: Any) -> Any:
    """Build a rule by name from a common set of options.

    Args:
        registry: `CONTROLLERS`, `LENGTH_EXITS`, `DEPTH_EXITS` or `DRAFT_SAMPLINGS`.
        name: a key of it.
        **options: numbers; those that the rule does not take are left out, as are those that are None.

    Returns:
        The rule.

    Raises:
        ValueError: an unknown name, with the known ones; or a number out of its range.
    """
    if name not in registry:
        raise ValueError(f"unknown rule {name!r}; known: {', '.join(registry)}")
    taken = inspect.signature(registry[name]).parameters
    return registry[name](**{key: value for key, value in options.items() if key in taken and value is not None})
