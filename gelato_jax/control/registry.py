"""Names of the rules, for the command line: a rule, and jax with it, is imported when it is looked up, not before."""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gelato_jax.errors import GelatoError


class Registry(Mapping[str, Callable[..., Any]]):
    """Name -> constructor of a rule, loaded when it is looked up."""

    def __init__(self, constructors: Mapping[str, str]):
        """From `file.function` in this package, by name."""
        self._constructors = dict(constructors)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The constructor; KeyError for an unknown name."""
        file, function = self._constructors[name].split(".")
        return getattr(importlib.import_module(f"gelato_jax.control.{file}"), function)

    def __iter__(self) -> Iterator[str]:
        return iter(self._constructors)

    def __len__(self) -> int:
        return len(self._constructors)

    def __contains__(self, name: object) -> bool:
        return name in self._constructors


CONTROLLERS = Registry(
    {
        "ratio": "lyapunov.ratio",
        "gelato": "lyapunov.gelato",
        "gelato_estimated": "lyapunov.gelato_estimated",
        "static": "schedules.static",
        "hf_schedule": "schedules.hf_schedule",
        "flexspec": "flexspec.flexspec",
        "ucb_specstop": "ucb_specstop.ucb_specstop",
        "banditspec": "banditspec.banditspec",
    }
)
LENGTH_EXITS = Registry(
    {
        "none": "length_exits.none",
        "bucket": "length_exits.bucket",
        "priced": "length_exits.priced",
        "adaedl": "length_exits.adaedl",
        "svip": "length_exits.svip",
        "confidence": "length_exits.confidence",
        "sled": "sled.sled",
        "edgellm_no_tree": "edgellm.edgellm_no_tree",
        "confidence_roc": "confidence_roc.confidence_roc",
        "specdec_entropy": "specdec_entropy.specdec_entropy",
    }
)
DEPTH_EXITS = Registry(
    {
        "fixed": "depth_exits.fixed",
        "entropy": "depth_exits.entropy",
        "priced": "depth_exits.priced",
    }
)
DRAFT_SAMPLINGS = Registry(
    {
        "fixed": "draft_sampling.fixed",
        "entropy": "draft_sampling.entropy",
    }
)


def options(registry: Mapping[str, Callable[..., Any]], name: str) -> dict[str, Any]:
    """What a rule can be told: its options by name, with their defaults.

    Args:
        registry: `CONTROLLERS`, `LENGTH_EXITS`, `DEPTH_EXITS` or `DRAFT_SAMPLINGS`.
        name: a key of it.

    Returns:
        The defaults by option.

    Raises:
        GelatoError: an unknown name, with the known ones.
    """
    if name not in registry:
        raise GelatoError(f"unknown rule {name!r}; known: {', '.join(registry)}")
    return {option: taken.default for option, taken in inspect.signature(registry[name]).parameters.items()}


def create(registry: Mapping[str, Callable[..., Any]], name: str, **given: Any) -> Any:
    """Build a rule by name.

    Args:
        registry: `CONTROLLERS`, `LENGTH_EXITS`, `DEPTH_EXITS` or `DRAFT_SAMPLINGS`.
        name: a key of it.
        **given: options of that rule.

    Returns:
        The rule.

    Raises:
        GelatoError: an unknown name or option, with the known ones; or a number out of its range.
    """
    known = options(registry, name)
    for option in given:
        if option not in known:
            raise GelatoError(f"{name} has no option {option!r}; it takes {', '.join(known) or 'none'}")
    return registry[name](**given)
