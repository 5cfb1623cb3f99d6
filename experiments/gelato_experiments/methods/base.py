"""What a method is: how to make its rules, the settings it is tuned over, and where it comes from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gelato_jax import payloads
from gelato_jax.control import Controller, DepthExit, LengthExit, depth_exits, draft_sampling, length_exits
from gelato_jax.decoding import Policy
from gelato_jax.payloads import Payload

Setting = Mapping[str, float]
"""Numbers of one member of a grid."""

LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12)
"""Draft lengths that fixed-length methods are tuned over."""


class Rules(NamedTuple):
    """A method's rules under one setting."""

    controller: Controller
    length_exit: LengthExit = length_exits.none()
    depth_exit: DepthExit = depth_exits.fixed()

    def policy(self, payload: Payload, stream_length: int = 1) -> Policy:
        """The rules with a payload; where nothing is drafted, the target is asked for `stream_length` tokens."""
        return Policy(
            controller=self.controller,
            length_exit=self.length_exit,
            depth_exit=self.depth_exit,
            draft_sampling=draft_sampling.fixed(),
            payload=payload,
            stream_length=stream_length,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A way to decide how much is drafted.

    Attributes:
        name: in tables.
        source: paper, and how much of it was read.
        build: (cap in watts, **setting) -> rules; a rule that knows no energy ignores the cap.
        grid: settings that are tried in tuning, a dozen at most; all methods get the same effort.
        payload: what its paper sends; `candidates` where it says nothing.
        note: what was corrected or simplified.
    """

    name: str
    source: str
    build: Callable[..., Rules]
    grid: tuple[Setting, ...] = ({},)
    payload: Callable[[], Payload] = lambda: payloads.candidates(32)
    note: str = ""
