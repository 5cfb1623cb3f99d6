"""The device that drafts: seconds and joules of one token, and the power of waiting."""

from jax import Array
from jax.typing import ArrayLike

from gelato_jax.types import number, record

PREFILL_SPEEDUP = 10.0
"""Tokens of a prefill window per token of a decode step, in the same time; assumed."""


@record
class Device:
    """What computing and waiting cost one device.

    A token that leaves at exit e costs `work[e]` times a full one, where `work` is the share of
    the draft's weight bytes read up to that exit, head and checks included (decoding knows it).
    """

    token_s: Array  # [] seconds of one token through the whole draft
    token_j: Array  # [] joules of the same, idle power of that time included
    prefill_s: Array  # [] seconds a token, for prompts and catch-up windows
    prefill_j: Array  # [] joules a token, for prompts and catch-up windows
    idle_w: Array  # [] watts while the device waits

    @classmethod
    def create(
        cls,
        *,
        token_s: ArrayLike,
        token_j: ArrayLike,
        idle_w: ArrayLike,
        prefill_s: ArrayLike | None = None,
        prefill_j: ArrayLike | None = None,
    ) -> "Device":
        """Describe a device.

        Args:
            token_s: seconds of one token through the whole draft, > 0.
            token_j: joules of the same, >= 0.
            idle_w: watts while waiting, >= 0.
            prefill_s: seconds a token of a prompt; `token_s / PREFILL_SPEEDUP` if not given.
            prefill_j: joules a token of a prompt; `token_j / PREFILL_SPEEDUP` if not given.

        Returns:
            The device, every number a float32 array.

        Raises:
            GelatoError: a number is out of its range.
        """
        token_s = number("token_s", token_s, low=0.0)
        token_j = number("token_j", token_j, low=0.0)
        return cls(
            token_s=token_s,
            token_j=token_j,
            prefill_s=token_s / PREFILL_SPEEDUP if prefill_s is None else number("prefill_s", prefill_s, low=0.0),
            prefill_j=token_j / PREFILL_SPEEDUP if prefill_j is None else number("prefill_j", prefill_j, low=0.0),
            idle_w=number("idle_w", idle_w, low=0.0),
        )

    def scaled(self, seconds: ArrayLike = 1.0, joules: ArrayLike = 1.0) -> "Device":
        """The same device computing at other factors of time and energy; its idle power stays."""
        return Device(
            token_s=self.token_s * seconds,
            token_j=self.token_j * joules,
            prefill_s=self.prefill_s * seconds,
            prefill_j=self.prefill_j * joules,
            idle_w=self.idle_w,
        )
