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
