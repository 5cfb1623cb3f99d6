"""This machine's times are taken once and kept."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from gelato_jax.decoding import DecodeSettings, Shapes, local, make_job
from gelato_jax.decoding.catch_up import CATCH_UP_WINDOW
from gelato_jax.testing import tiny_pair


def clock(draft_s, window_s, timed, widest):
    """In place of `alternate`: what calls of `run_rounds` would take, of draft tokens and windows of given seconds."""

    def drafts(run):
        return int(run.args[1].policy.controller.params)

    def seconds(run):
        return drafts(run) * draft_s + window_s(drafts(run) + 1) if drafts(run) else widest * window_s(1)

    def times(*runs, calls):
        del calls
        timed.extend(drafts(run) + 1 for run in runs[::2])
        return [[run.args[2] * seconds(run)] for run in runs]

    return times


def test_times_are_taken_once_and_read_afterwards(monkeypatch, tmp_path):
    timed, told = [], []

    def seconds(model, window, sizes=()):
        timed.extend(sizes or [window])
        return [0.5 * size for size in sizes or [window]]

    monkeypatch.setattr(local, "window_seconds", seconds)
    monkeypatch.setattr(local, "alternate", clock(0.5, lambda size: 0.5 * size, timed, 5))
    pair, shapes = tiny_pair(), Shapes(max_draft_length=4)
    folder = tmp_path / "new" / "local-times"
    first, second = (
        local.measure_local_system(pair, shapes, folder, lambda *stage: told.append(stage)) for _ in range(2)
    )
    assert timed == [1, CATCH_UP_WINDOW, *shapes.windows]
    assert told == [("time", 0, 0)]
    assert str(first) == str(second)
    assert first.device.prefill_s == first.device.token_s == 0.5
    assert len(list(folder.iterdir())) == 1


def test_a_target_in_blocks_is_timed_by_the_tokens_that_count(monkeypatch):
    times = {1: 1.0, 2: 1.2, 3: 1.3, 4: 1.6, 5: 2.0, 6: 2.1, 9: 3.0, 10: 3.1}
    monkeypatch.setattr(local, "window_seconds", lambda model, window, sizes=(1,): [times[size] for size in sizes])
    monkeypatch.setattr(local, "alternate", clock(1.0, times.__getitem__, [], 10))
    pair = tiny_pair()
    job = make_job(pair, settings=DecodeSettings(max_draft_length=9))
    monkeypatch.setattr(local, "round_state", lambda *given, **more: (None, job))
    blocks = dataclasses.replace(pair.target, config=dataclasses.replace(pair.target.config, weight_format="q4"))
    draft = dataclasses.replace(pair.draft, model=dataclasses.replace(pair.draft.model, config=blocks.config))
    system = local.measure_local_system(
        dataclasses.replace(pair, target=blocks, draft=draft), Shapes(max_draft_length=9)
    )
    edge, device = system.edge, system.device
    np.testing.assert_allclose([device.token_s, device.prefill_s], [1.0, 0.2], rtol=1e-5)
    np.testing.assert_allclose(edge.verify_s(jnp.array([1, 3, 7, 10])), [1.0, 1.3, 2.4, 3.1], rtol=1e-6)
