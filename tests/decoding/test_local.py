"""This machine's times are taken once and kept."""

from gelato_jax.decoding import Shapes, local
from gelato_jax.testing import tiny_pair


def test_times_are_taken_once_and_read_afterwards(monkeypatch, tmp_path):
    timed, told = [], []

    def seconds(model, window):
        timed.append(window)
        return 0.5 * window

    monkeypatch.setattr(local, "window_seconds", seconds)
    pair, shapes = tiny_pair(), Shapes(max_draft_length=4)
    folder = tmp_path / "new" / "local-times"
    first, second = (
        local.measure_local_system(pair, shapes, folder, lambda *stage: told.append(stage)) for _ in range(2)
    )
    assert timed == [1, *shapes.windows]
    assert told == [("time", 0, 0)]
    assert str(first) == str(second)
    assert len(list(folder.iterdir())) == 1
