"""What a user may get wrong ends in one line that names it; what cannot be seen from outside is checked here."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads, system
from gelato_jax.errors import GelatoError
from gelato_jax.models import Model


@pytest.fixture(scope="module")
def pair():
    """No id ends a row."""
    return dataclasses.replace(gelato.testing.tiny_pair(0.03), eos_ids=(61,))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("1 2 3", r"prompts is one text; give a list of them: \[text\]"),
        ([[1, 61]], "prompt 0 has the id 61; the model's ids are 0 to 60"),
        ([[1], [-1]], "prompt 1 has the id -1"),
        ([[1.0]], r"prompt 0 has the id 1\.0"),
        ([[True]], "prompt 0 has the id True"),
        (["1 \ud800"], "prompt 0 is no text: character 2 is half of a surrogate pair"),
        ([""], "prompt 0 has no tokens"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(prompts, message, pair, settings):
    with pytest.raises(GelatoError, match=message):
        gelato.generate(pair, prompts, settings=settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": 0.9}, "top_k is 0.9"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5, must be a whole number"),
        ({"max_draft_length": True}, "max_draft_length is True"),
        ({"seed": -1}, "seed is -1, must be a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"seed": (1, 0.5)}, "seed is 0.5"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_runs(changes, message):
    with pytest.raises(GelatoError, match=message):
        gelato.DecodeSettings(**changes)


def test_more_new_tokens_than_positions_says_so(pair):
    with pytest.raises(GelatoError, match=r"max_new_tokens is 95904, the model has 4096 positions .*give at most 4094"):
        gelato.generate(pair, [[1, 2]], settings=gelato.DecodeSettings(max_new_tokens=95_904))


def test_rules_that_cannot_run_with_a_pair_are_refused(pair, settings):
    run = lambda **choices: gelato.generate(pair, [[1]], settings=settings, **choices)  # noqa: E731
    with pytest.raises(GelatoError, match="7"):
        run(depth_exit=control.depth_exits.fixed(7))
    with pytest.raises(GelatoError, match=r"power_budget_w 0\.1 is under the 0\.4 W"):
        run(controller=control.ratio(power_budget_w=0.1))


def test_seeds_of_another_number_than_prompts_are_refused(pair, settings):
    with pytest.raises(GelatoError, match="there are 3 seeds of 2 prompts"):
        gelato.generate(pair, [[1], [2]], settings=dataclasses.replace(settings, seed=(1, 2, 3)))


@pytest.mark.parametrize("scheme", payloads.SCHEMES)
def test_a_prompt_with_its_seed_gives_its_text_in_any_row(scheme, small_pairs, small_settings):
    """Alone, and at rows 0, 1 and 7 of a batch of other prompts with other seeds."""
    numbers = {"top_p": (0.9,), "top_k": (5,), "quantized": (5,), "candidates": (2,)}.get(scheme, ())
    payload = getattr(payloads, scheme)(*numbers)
    settings = dataclasses.replace(small_settings, temperature=1.0, max_new_tokens=12)

    def run(prompts, seed):
        decoded = gelato.generate(
            small_pairs[1],
            prompts,
            settings=dataclasses.replace(settings, seed=seed),
            payload=payload,
            controller=control.static(2),
        )
        return decoded.tokens

    prompt, seed = [7, 8, 9], 12345
    (alone,) = run([prompt], seed)
    assert run([prompt], [seed]) == [alone]
    rng = np.random.default_rng(0)
    others = [rng.integers(0, 60, size).tolist() for size in range(1, 9)]
    seeds = rng.integers(0, 2**32, 8).tolist()
    for row in (0, 1, 7):
        mixed, drawn = list(others), list(seeds)
        mixed[row], drawn[row] = prompt, seed
        assert run(mixed, drawn)[row] == alone


def broken(model: Model, value: float) -> Model:
    """The model with a head whose numbers are none."""
    return Model(config=model.config, params={**model.params, "head.kernel": model.params["head.kernel"] * value})


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("end", ["target", "draft"])
def test_logits_that_are_no_numbers_are_an_error_not_a_token(end, value, pair, settings):
    if end == "target":
        pair = dataclasses.replace(pair, target=broken(pair.target, value))
    else:
        pair = dataclasses.replace(pair, draft=dataclasses.replace(pair.draft, model=broken(pair.draft.model, value)))
    rules = {"controller": control.static(2), "length_exit": control.length_exits.none()}
    message = "prompt 0: a model's logits are not numbers behind"
    with pytest.raises(GelatoError, match=message):
        gelato.generate(pair, [[1, 2], [3]], settings=settings, **rules)
    with pytest.raises(GelatoError, match=message):
        list(gelato.stream(pair, [[1, 2], [3]], settings=settings, **rules))
    if end == "target":
        with pytest.raises(GelatoError, match=message):
            gelato.autoregressive(pair, [[1, 2], [3]], settings=settings)


def test_a_session_of_other_rules_or_rows_is_refused(pair, settings):
    kept = gelato.generate(pair, [[1], [2]], settings=settings).session
    with pytest.raises(GelatoError, match="the session is of another controller or length exit"):
        gelato.generate(pair, [[1], [2]], settings=settings, controller=control.static(2), session=kept)
    with pytest.raises(GelatoError, match="the session is of 2 rows and there are 3 prompts"):
        gelato.generate(pair, [[1], [2], [3]], settings=settings, session=kept)


def test_a_stream_can_be_summed_up_at_any_time(pair, settings):
    """And what was summed up stays, though the stream goes on."""
    watched = gelato.stream(pair, [[1, 2, 3]], settings=settings, controller=control.static(2))
    sums, rounds = [watched.generation()], 0
    for seen in watched:
        rounds += int(seen.active[0])
        sums.append(watched.generation())
    lengths = [len(found.tokens[0]) for found in sums]
    assert lengths == sorted(lengths)
    assert lengths[0] == 1
    assert lengths[-1] == settings.max_new_tokens
    for earlier in sums:
        assert earlier.tokens[0] == sums[-1].tokens[0][: len(earlier.tokens[0])]
        assert np.isfinite(np.asarray(earlier.session.averages.work)).all()
    gelato.generate(pair, [[1]], settings=settings, controller=control.static(2), session=sums[0].session)


def test_stop_strings_end_texts_in_the_library(pair, settings):
    """The tokenizer of tiny pairs writes ids as numbers: a stop is cut from the text, its id is kept."""
    plain = gelato.generate(pair, [[1, 2], [3]], settings=settings)
    stop = f" {plain.tokens[0][5]} "
    stopped = gelato.generate(pair, [[1, 2], [3]], settings=settings, stop=stop)
    for whole, text, ids, end in zip(plain.texts, stopped.texts, stopped.tokens, stopped.ends, strict=True):
        assert text == whole.split(stop)[0]
        assert end == ("stop" if stop in whole else "length")
        assert whole.startswith(pair.tokenizer.decode(ids))
    assert stopped.ends[0] == "stop"
    assert len(stopped.tokens[0]) < len(plain.tokens[0])
    with pytest.raises(GelatoError, match="a stop string is empty"):
        gelato.generate(pair, [[1]], settings=settings, stop="")


def test_drafting_stops_behind_a_drafted_end_of_sequence():
    """A draft that is always right: behind the end that it drafts nothing is drafted, accepted or paid for."""
    endless = dataclasses.replace(gelato.testing.tiny_pair(0.0), eos_ids=(61,))
    settings = gelato.DecodeSettings(max_draft_length=4, max_new_tokens=24, prefill_chunk=16)
    rules = {"controller": control.static(4), "length_exit": control.length_exits.none()}
    ended = 0
    for first in range(0, 60, 7):
        prompt = [[first, first + 1]]
        (text,) = gelato.generate(endless, prompt, settings=settings, **rules).tokens
        for end in sorted(set(text[1:])):
            pair = dataclasses.replace(endless, eos_ids=(end,))
            if end == text[0]:
                continue
            expected = text[: text.index(end) + 1]
            watched = gelato.stream(pair, prompt, settings=settings, **rules)
            for seen in watched:
                ids = seen.ids[0, : seen.tokens[0]].tolist()
                assert seen.accepted[0] <= seen.tokens[0]
                if end in ids:
                    assert seen.drafted[0] <= ids.index(end) + 1  # nothing was drafted behind it
                    assert not seen.rejected[0]
                    ended += int(seen.drafted[0] == ids.index(end) + 1)
            decoded = watched.generation()
            assert decoded.tokens == [expected]
            assert decoded.totals.accepted[0] <= len(expected) - 1
            assert decoded.totals.tokens[0] == len(expected) - 1
    assert ended > 2


def test_accepted_drafts_behind_the_limit_count_for_nothing():
    pair = dataclasses.replace(gelato.testing.tiny_pair(0.0), eos_ids=(61,))
    for limit in (2, 3, 5):
        settings = gelato.DecodeSettings(max_draft_length=4, max_new_tokens=limit, prefill_chunk=16)
        totals = gelato.generate(pair, [[5, 6]], settings=settings, controller=control.static(4)).totals
        assert totals.tokens[0] == limit - 1
        assert totals.accepted[0] <= totals.tokens[0]


def test_a_target_alone_pays_for_no_drafts_prompt(pair, settings, exact):
    """Its prompt costs less than that of a device that drafts; if that one drafts later on, it catches up."""
    prompt = list(range(40))
    run = lambda rule: gelato.generate(pair, [prompt], settings=settings, controller=rule)  # noqa: E731
    alone, drafting = run(control.static(0)), run(control.static(2))
    device = system.preset().device
    assert alone.totals.caught_up[0] == 0
    for name, each in (("prompt_j", device.prefill_j), ("prompt_s", device.prefill_s)):
        more = exact(getattr(drafting.totals, name)) - exact(getattr(alone.totals, name))
        np.testing.assert_allclose(more, 40 * float(each), rtol=1e-4)
    watched = gelato.stream(pair, [prompt], settings=settings, controller=control.static(0))
    later = dataclasses.replace(watched.job.policy, controller=control.static(2))
    watched.job = dataclasses.replace(watched.job, policy=later)
    first = next(iter(watched))
    assert first.caught_up[0] == 40
    assert watched.generation().tokens[0] == drafting.tokens[0][: 1 + int(first.tokens[0])]


@pytest.mark.parametrize("power_budget_w", [0.75, 1.5])
def test_the_cap_holds_with_prompts_counted(power_budget_w, pair, exact):
    """Long prompts, short answers, one request after the other: mean power of all that was spent."""
    settings = gelato.DecodeSettings(max_draft_length=4, max_new_tokens=24, prefill_chunk=16)
    controller = control.ratio(power_budget_w=power_budget_w, penalty_weight=0.02)
    session, joules, seconds = None, 0.0, 0.0
    rng = np.random.default_rng(0)
    for seed in range(60):
        prompt = rng.integers(0, 60, 200).tolist()
        decoded = gelato.generate(
            pair,
            [prompt],
            settings=dataclasses.replace(settings, seed=seed),
            controller=controller,
            session=session,
        )
        session, totals = decoded.session, decoded.totals
        joules += float(exact(totals.energy_j)[0] + exact(totals.prompt_j)[0])
        seconds += float(exact(totals.time_s)[0] + exact(totals.prompt_s)[0])
    assert joules <= power_budget_w * seconds + float(decoded.final_queue_j[0]) + 1e-5 * joules
    assert joules / seconds <= 1.02 * power_budget_w
    assert jnp.isfinite(session.averages.work).all()
