"""Whose work is next, where many threads ask and one at a time computes: weighted fair queueing, like work together."""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

LINGER = 0.1
"""Of the time that the last batch took: so long the next may wait for those who were in it, if they tend to be back."""
_WORTH = 0.3
"""Share of them that must have been back in time of late."""
_RECENT = 0.2
"""Weight of the last batch in that share."""


@dataclasses.dataclass(eq=False)
class _Turn:
    kind: Hashable
    work: Any
    guest: str
    error: BaseException | None = None
    over: bool = False


class Turns:
    """A queue without a thread of its own: of the callers that wait, one computes for all that can go with the first.

    First is the guest who had the fewest seconds for its share, and of its pieces the oldest. Guests who always wait
    so have seconds in proportion to their shares, which maximises the sum of share times logarithm of them; nobody
    starves, and who stayed away brings no claim from that time (start-time fair queueing: Goyal, Vin and Cheng, 1996).

    Two callers that come back at once after each answer would take turns for ever, one waiting while the other is
    served. So a batch lingers for those of the last one, where they have been that quick of late.

    Args:
        run: does pieces of work of one kind together. It is called by one thread at a time, any of them.
        room: how many of such pieces, from the first on, it can be given: at least one.
        shares: of guests, 1 of those that are not named.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Any]], None],
        room: Callable[[Sequence[Any]], int],
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """Nothing waits."""
        self._run, self._room, self._shares = run, room, shares or {}
        self._had: dict[str, float] = {}  # seconds by share, of the guests who wait or were served of late
        self._least = 0.0  # of the guest who was first last time: who comes anew begins there
        self._changed = threading.Condition()
        self._waiting: deque[_Turn] = deque()
        self._busy = False
        self._last, self._back = 0, 0  # pieces of the last batch, and those that came soon after it
        self._soon = 0.0  # until then
        self._quick = 0.0  # share of pieces that come so soon

    def __len__(self) -> int:
        """Pieces of work that wait, those under way not among them."""
        return len(self._waiting)

    def take(self, kind: Hashable, work: Any, guest: str = "") -> None:
        """Have work done, by this thread or another.

        Args:
            kind: pieces of equal kind may be done together.
            work: as `run` takes it.
            guest: whose it is.

        Raises:
            BaseException: what `run` raised, in every caller whose work was in it.
        """
        turn = _Turn(kind, work, guest)
        with self._changed:
            self._had[guest] = max(self._had.get(guest, 0.0), self._least)
            self._waiting.append(turn)
            self._back += time.monotonic() <= self._soon
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: turn.over or not self._busy)
                if turn.over:
                    break
                self._busy = True
                self._linger()
                chosen = self._choose()
            self._compute(chosen)
        if turn.error is not None:
            raise turn.error

    def _linger(self) -> None:
        """Wait for those who are expected back."""
        left = self._soon - time.monotonic()
        if left > 0 and self._quick > _WORTH:
            self._changed.wait_for(lambda: self._back >= self._last, left)

    def _choose(self) -> list[_Turn]:
        """The first, and as many like it as there is room for; they leave the queue."""
        in_order = sorted(self._waiting, key=lambda turn: self._had[turn.guest])  # the oldest stay ahead among equals
        kind, self._least = in_order[0].kind, self._had[in_order[0].guest]
        alike = [turn for turn in in_order if turn.kind == kind]
        chosen = alike[: self._room([turn.work for turn in alike])]
        for turn in chosen:
            self._waiting.remove(turn)
        return chosen

    def _compute(self, turns: Sequence[_Turn]) -> None:
        began = time.monotonic()
        try:
            self._run([turn.work for turn in turns])
        except BaseException as error:
            for turn in turns:
                turn.error = error
        with self._changed:
            for turn in turns:
                turn.over = True
                self._had[turn.guest] += (time.monotonic() - began) / len(turns) / self._shares.get(turn.guest, 1.0)
            waiting = {turn.guest for turn in self._waiting}
            if not waiting:
                self._least = max(self._had.values())  # nobody was kept from anything
            for guest in [one for one, had in self._had.items() if had <= self._least and one not in waiting]:
                del self._had[guest]  # would begin there again
            if self._last:
                self._quick += _RECENT * (min(self._back / self._last, 1.0) - self._quick)
            now = time.monotonic()
            self._last, self._back, self._soon = len(turns), 0, now + LINGER * (now - began)
            self._busy = False
            self._changed.notify_all()
