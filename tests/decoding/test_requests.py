"""`prepare` makes a stream's programs before the weights are there."""

import dataclasses

import jax
from jax import monitoring

import gelato_jax as gelato
from gelato_jax import testing
from gelato_jax.models import Model


def outline(model: Model) -> Model:
    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in model.params.items()}
    return Model(config=model.config, params=shapes)


def test_a_stream_prepared_from_shapes_compiles_nothing(prompts):
    pair = testing.tiny_pair(exits=())
    without_weights = dataclasses.replace(
        pair,
        target=outline(pair.target),
        draft=dataclasses.replace(pair.draft, model=outline(pair.draft.model)),
    )
    settings = gelato.DecodeSettings(max_draft_length=3, max_new_tokens=11, prefill_chunk=16)
    preparation = gelato.prepare(without_weights, prompts, settings=settings)
    preparation.result()
    compiled = []

    def listen(event: str, duration: float, **facts: object) -> None:
        if event.endswith("backend_compile_duration") and facts.get("fun_name") in ("jit(start)", "jit(advance)"):
            compiled.append(facts.get("fun_name"))

    monitoring.register_event_duration_secs_listener(listen)
    try:
        stream = gelato.stream(pair, prompts, settings=settings, preparation=preparation)
        rounds = sum(1 for _ in stream)
        assert compiled == []
        longer = dataclasses.replace(settings, max_draft_length=2)
        gelato.stream(pair, prompts, settings=longer).wait()
        assert sorted(compiled) == ["jit(advance)", "jit(start)"]  # the listener hears what is compiled
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert rounds > 1
    assert stream.generation().tokens == gelato.autoregressive(pair, prompts, settings=settings)
