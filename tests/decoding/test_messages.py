"""Device and edge as two processes would run them: they share a seed and exchange bytes, nothing else."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads
from gelato_jax.decoding import encode_prompts, lookup, make_job
from gelato_jax.decoding.cost import observe
from gelato_jax.decoding.ends import ends
from gelato_jax.decoding.plan import plan
from gelato_jax.decoding.prefill import prefill
from gelato_jax.decoding.update import update
from gelato_jax.types import RepeatOdds, RepeatOddsSet

SCHEMES = {
    "full": payloads.full(),
    "top_p": payloads.top_p(0.8),
    "top_k": payloads.top_k(5),
    "quantized": payloads.quantized(5),
    "scalar": payloads.scalar(),
    "candidates": payloads.candidates(1),  # so few that rows are asked for
    "seeded": payloads.seeded(),
}


def together(parts):
    """Messages of one row each as one of all rows."""
    return jax.tree.map(lambda *leaves: jnp.concatenate([jnp.asarray(leaf) for leaf in leaves]), *parts)


class EdgeProcess:
    """Holds the target and the edge's state; takes and gives bytes."""

    def __init__(self, job, shapes, state):
        self.payload, self.ids, self.state = job.policy.payload, job.draft_ids, state
        self.drafts = shapes.max_draft_length
        self.end = ends(job, shapes)[1]
        self.verify = jax.jit(self.end.verify)

    def answer(self, messages):
        rows = len(messages)
        present = [row for row in range(rows) if messages[row] is not None]
        parts = [self.payload.decode_uplink(messages[row] or b"\0", self.drafts, self.ids) for row in range(rows)]
        uplink = dataclasses.replace(together(parts), active=jnp.asarray([row in present for row in range(rows)]))
        self.state, downlink = self.verify(self.state, uplink)
        lengths = np.asarray(uplink.length)
        return [self.payload.encode_downlink(downlink, row, int(lengths[row]), self.ids) for row in range(rows)]

    def target_row(self, row):
        return self.payload.encode_row(np.asarray(self.end.row(self.state)[row]))


class DeviceProcess:
    """Holds the draft, the controller and the device's state; takes and gives bytes."""

    def __init__(self, job, shapes, state, row):
        self.job, self.state, self.row, self.sent, self.asked = job, state, row, 0, 0
        self.payload, self.ids = job.policy.payload, job.draft_ids
        self.drafts = shapes.max_draft_length
        device = ends(job, shapes)[0]
        rows = jax.vmap

        @jax.jit
        def draft(state, row):
            channel = rows(job.system.link.observe)(row.link)
            expect = partial(plan, setup=job.setup, max_draft_length=shapes.max_draft_length)
            planned = rows(expect)(row, channel, device.outlook(state))
            return planned, channel, *device.draft(state, row, planned, channel)

        @jax.jit
        def commit(state, row, planned, channel, drafted, downlink, target_row):
            after, committed = device.commit(state, row, drafted, downlink, lambda: target_row)
            seen = rows(partial(observe, setup=job.setup))(
                row, planned, channel, drafted.effort, committed, device.active(state)
            )
            row, seen = rows(partial(update, setup=job.setup))(row, planned, seen, drafted.effort, committed)
            return after, row, seen, committed

        self.draft, self.commit = draft, commit

    def run(self, edge):
        while not np.asarray(self.state.done).all():
            planned, channel, drafted, uplink = self.draft(self.state, self.row)
            active, lengths = np.asarray(uplink.active), np.asarray(uplink.length)
            sent = [self.payload.encode_uplink(uplink, row, self.ids) if on else None for row, on in enumerate(active)]
            answers = edge.answer(sent)
            downlink = together(
                [
                    self.payload.decode_downlink(data, int(lengths[row]), self.drafts, self.ids)
                    for row, data in enumerate(answers)
                ]
            )
            fetched = np.zeros((len(active), self.ids.vocab_size), np.float32)
            commit = partial(self.commit, self.state, self.row, planned, channel, drafted, downlink)
            after, row, seen, committed = commit(fetched)
            for index in np.flatnonzero(committed.asked):
                fetched[index] = self.payload.decode_row(edge.target_row(index), self.ids)
                self.asked += 1
            if committed.asked.any():
                after, row, seen, committed = commit(fetched)
            self._check_bits(seen, sent, answers)
            self.state, self.row = after, row

    def _check_bits(self, seen, sent, answers):
        """What was charged is what was sent, but for the padding of last bytes."""
        for index in np.flatnonzero(seen.active & ~seen.done):  # a row that ends needs no token of its last answer
            asked = float(seen.cost.propagation_s[index]) > 1.5 * float(self.job.system.link.rtt_s)
            up = 8 * len(sent[index]) + 8 * asked
            down = 8 * len(answers[index]) + 32 * self.ids.vocab_size * asked
            assert 0 <= up - float(seen.uplink_bits[index]) < 8
            assert 0 <= down - float(seen.downlink_bits[index]) < 8
            self.sent += 1


@pytest.fixture(scope="module")
def pair(small_pairs, cut_vocabulary):
    """A draft that knows some ids, with odds of repeats: every field of every message is in use."""
    pair = small_pairs[2]
    draft = cut_vocabulary(pair.draft, np.setdiff1d(np.arange(61), np.arange(3, 40, 4)))
    shape = (draft.work.shape[0], 2)
    odds = RepeatOdds(slope=jnp.full(shape, 0.5), offset=jnp.full(shape, 0.5), unseen=jnp.full(2, 0.4))
    draft = dataclasses.replace(draft, repeats=RepeatOddsSet(greedy=odds, sampled=odds))
    return dataclasses.replace(pair, draft=draft)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("payload", SCHEMES.values(), ids=SCHEMES)
def test_bytes_alone_give_the_text_of_the_compiled_loop(payload, temperature, pair, prompts):
    _check_bytes(payload, temperature, pair, prompts)


@pytest.mark.parametrize("scheme", ["full", "quantized", "candidates"])
def test_bytes_alone_carry_a_draft_without_weights(scheme, pair, prompts):
    _check_bytes(SCHEMES[scheme], 0.0, dataclasses.replace(pair, draft=lookup()), prompts)


def _check_bytes(payload, temperature, pair, prompts):
    settings = gelato.DecodeSettings(
        max_draft_length=3, max_new_tokens=24, prefill_chunk=16, temperature=temperature, top_p=0.95, seed=5
    )
    choices = {"controller": control.hf_schedule(2), "length_exit": control.length_exits.none(), "payload": payload}
    whole = gelato.generate(pair, prompts, settings=settings, **choices)

    job, batch = make_job(pair, settings=settings, **choices), encode_prompts(pair, prompts, settings)
    state = prefill(job, **batch, shapes=settings.shapes)
    edge = EdgeProcess(job, settings.shapes, state.edge)
    device = DeviceProcess(job, settings.shapes, state.device, state.row)
    device.run(edge)
    spans = zip(np.asarray(device.state.tokens), prompts, np.asarray(device.state.length), strict=True)
    assert [tokens[len(prompt) : end].tolist() for tokens, prompt, end in spans] == whole.tokens
    assert device.sent > 10
    assert 0 < whole.totals.accepted.sum() < whole.totals.drafted.sum()
    if payload.scheme == "candidates" and temperature:
        assert device.asked > 0
    for name in ("drafted", "accepted", "tokens", "rounds"):
        np.testing.assert_array_equal(getattr(device.row.totals, name), getattr(whole.totals, name))
