"""Work of many threads, done by one of them at a time: the oldest first, what is like it together."""

import threading
import time

import pytest

from gelato_jax.remote.turns import Turns


class Desk:
    """Does work by noting it down; while `closed`, it keeps whoever works."""

    def __init__(self, most=8):
        self.done, self.closed = [], threading.Event()
        self.closed.set()
        self.turns = Turns(self.run, lambda works: min(len(works), most))
        self.threads, self.errors = [], []

    def run(self, works):
        self.done.append(works)
        assert self.closed.wait(10)
        if "bad" in works:
            raise OSError("no paper")

    def send(self, kind, work):
        """Bring work in a thread of its own, and wait until it has been taken note of."""
        before = len(self.turns) + sum(map(len, self.done))
        thread = threading.Thread(target=self._take, args=(kind, work))
        thread.start()
        self.threads.append(thread)
        while len(self.turns) + sum(map(len, self.done)) == before:
            time.sleep(0.001)

    def _take(self, kind, work):
        try:
            self.turns.take(kind, work)
        except OSError as error:
            self.errors.append((work, str(error)))

    def finish(self):
        self.closed.set()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        return self.done


def test_one_caller_is_served_at_once():
    desk = Desk()
    desk.turns.take("a", 1)
    desk.turns.take("b", 2)
    assert desk.done == [[1], [2]]


def test_alike_work_goes_with_the_oldest():
    desk = Desk(most=3)
    desk.closed.clear()
    desk.send("a", 0)
    for kind, work in [("b", 1), ("a", 2), ("b", 3), ("a", 4), ("b", 5), ("b", 6)]:
        desk.send(kind, work)
    assert desk.finish() == [[0], [1, 3, 5], [2, 4], [6]]


def test_a_failure_is_that_of_its_callers_alone():
    desk = Desk()
    desk.closed.clear()
    desk.send("a", 0)
    for kind, work in [("b", "bad"), ("c", 1), ("b", 2)]:
        desk.send(kind, work)
    assert desk.finish() == [[0], ["bad", 2], [1]]
    assert sorted(desk.errors, key=str) == [("bad", "no paper"), (2, "no paper")]
    desk.turns.take("a", 3)
    assert desk.done[-1] == [3]


@pytest.mark.parametrize("callers", [2, 3])
def test_callers_that_come_back_at_once_meet(callers):
    sizes = []

    def run(works):
        sizes.append(len(works))
        time.sleep(0.05)

    turns = Turns(run, len)
    threads = [threading.Thread(target=lambda: [turns.take("a", 0) for _ in range(12)]) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(sizes) == 12 * callers
    assert sizes.count(callers) >= 3  # by turns, there would be none


def pressing(turns, guest, until, count=2):
    """Threads of a guest that has work waiting at all times, in pieces that go with no others."""

    def press():
        while time.monotonic() < until:
            turns.take(object(), guest, guest)

    return [threading.Thread(target=press) for _ in range(count)]


def served(shares, guests, *, late=(), pauses_s=0.3, run_s=1.0, work_s=None):
    """Seconds that each guest had while all of them pressed; those who are late begin behind a pause."""
    seconds = dict.fromkeys([*guests, *late], 0.0)
    counting = threading.Event()

    def run(works):
        took_s = (work_s or {}).get(works[0], 0.002)
        time.sleep(took_s)
        if counting.is_set():
            seconds[works[0]] += took_s

    turns = Turns(run, lambda works: 1, shares)
    until = time.monotonic() + run_s + (pauses_s if late else 0.0)
    threads = [thread for guest in guests for thread in pressing(turns, guest, until)]
    for thread in threads:
        thread.start()
    if late:
        time.sleep(pauses_s)
        more = [thread for guest in late for thread in pressing(turns, guest, until)]
        for thread in more:
            thread.start()
        threads += more
    counting.set()
    for thread in threads:
        thread.join(30)
    return seconds


def test_guests_who_press_have_seconds_by_their_shares():
    seconds = served({"big": 3.0}, ["big", "small", "other"])
    total = sum(seconds.values())
    assert seconds["big"] / total == pytest.approx(0.6, abs=0.1)
    assert seconds["small"] / total == pytest.approx(0.2, abs=0.07)


def test_a_guest_of_long_work_has_no_more_of_it():
    seconds = served(None, ["long", "short"], work_s={"long": 0.02, "short": 0.002})
    assert seconds["long"] / sum(seconds.values()) == pytest.approx(0.5, abs=0.12)


def test_who_comes_late_has_no_claim_from_before():
    seconds = served(None, ["first"], late=["second"])
    assert seconds["second"] / sum(seconds.values()) == pytest.approx(0.5, abs=0.12)


def test_guests_are_forgotten_when_they_have_gone():
    turns = Turns(lambda works: time.sleep(0.001), len)
    for number in range(50):
        turns.take("a", 0, f"guest {number}")
    assert not turns._had
