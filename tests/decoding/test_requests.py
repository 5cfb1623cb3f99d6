"""A stream's programs: made while the prompts are read, and made once."""

import dataclasses

import pytest
from jax import monitoring

import gelato_jax as gelato
from gelato_jax import testing

# Of sizes that no other test has: what another file compiled in this process would not be compiled again.
SETTINGS = gelato.DecodeSettings(max_draft_length=3, max_new_tokens=11, prefill_chunk=13)


@pytest.fixture
def compiled():
    """Names of the programs that are compiled from here on."""
    names = []

    def listen(event: str, duration: float, **facts: object) -> None:
        if event.endswith("backend_compile_duration") and facts.get("fun_name") in ("jit(start)", "jit(advance)"):
            names.append(facts.get("fun_name"))

    monitoring.register_event_duration_secs_listener(listen)
    yield names
    monitoring.unregister_event_duration_listener(listen)


def test_a_stream_that_is_ready_compiles_nothing_more(prompts, compiled):
    pair = testing.tiny_pair(exits=())
    stream = gelato.stream(pair, prompts, settings=SETTINGS)
    stream.wait()
    assert sorted(compiled) == ["jit(advance)", "jit(start)"]
    assert sum(1 for _ in stream) > 1
    assert sorted(compiled) == ["jit(advance)", "jit(start)"]
    assert stream.generation().tokens == gelato.autoregressive(pair, prompts, settings=SETTINGS)


def test_other_numbers_are_no_other_programs(prompts, compiled):
    pair = testing.tiny_pair(exits=())
    gelato.stream(pair, prompts, settings=SETTINGS).wait()
    made = len(compiled)
    gelato.stream(pair, prompts, settings=dataclasses.replace(SETTINGS, max_new_tokens=5, temperature=0.7)).wait()
    assert len(compiled) == made
    gelato.stream(pair, prompts, settings=dataclasses.replace(SETTINGS, max_draft_length=2)).wait()
    assert len(compiled) == made + 2
