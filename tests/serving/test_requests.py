"""Bodies of OpenAI's interface: what is read of them, and what is refused."""

import pytest

from gelato_jax.serving.requests import Ask, BadRequest, Reply, read, usage

HELLO = [{"role": "user", "content": "hello"}]


def ask(kind="chat", **fields):
    said = {"messages": HELLO} if kind == "chat" else {"prompt": "hello"}
    return read({"model": "m", **said, **fields}, kind, "m")


def test_a_body_that_says_little_means_what_openai_means():
    found = ask()
    assert (found.temperature, found.top_p, found.top_k, found.max_new_tokens) == (1.0, 1.0, 0, None)
    assert (found.stream, found.stops, found.speculative) == (False, (), True)
    assert 0 <= found.seed < 2**32
    assert len({ask().seed for _ in range(8)}) > 1  # another text every time


def test_every_field_is_read():
    found = ask(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        seed=-1,
        stop=["a", "b"],
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True},
        gelato={"speculative": False, "rounds": True},
        user="someone",
        n=1,
        presence_penalty=0,
    )
    assert found == Ask(
        kind="chat",
        messages=({"role": "user", "content": "hello"},),
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        seed=2**32 - 1,
        stops=("a", "b"),
        max_new_tokens=3,
        stream=True,
        include_usage=True,
        speculative=False,
        rounds=True,
    )
    assert ask(max_tokens=3, max_completion_tokens=4).max_new_tokens == 4
    assert ask(stop="a").stops == ("a",)


def test_a_chat_has_roles_and_parts():
    parts = [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]
    found = ask(messages=[{"role": "developer", "content": "brief"}, {"role": "user", "content": parts}])
    assert found.messages == ({"role": "system", "content": "brief"}, {"role": "user", "content": "two parts"})


@pytest.mark.parametrize("prompt", ["hello", ["hello"]])
def test_a_prompt_may_stand_in_a_list(prompt):
    assert ask("text", prompt=prompt).prompt == "hello"


def test_a_prompt_may_be_ids():
    assert ask("text", prompt=[1, 2]).prompt == [1, 2]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": "gpt"}, "model", "'gpt' is not served here, 'm' is"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": "hello"}, "messages", "a list"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role", "one of system, developer"),
        ({"messages": [*HELLO, {"role": "user"}]}, "messages[1].content", "must be a text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "other than text",
        ),
        ({"temperature": -0.1}, "temperature", "temperature is -0.1, must be in 0..100"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"temperature": float("nan")}, "temperature", "must be a number"),
        ({"top_p": 0}, "top_p", "must be in 1e-06..1"),
        ({"top_k": 1.5}, "top_k", "whole number"),
        ({"max_tokens": 0}, "max_tokens", "must be in 1.."),
        ({"max_tokens": True}, "max_tokens", "whole number"),
        ({"seed": 1e300}, "seed", "must be in"),
        ({"stop": ["a", ""]}, "stop", "none of them empty"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": 1}, "stream_options", "must be an object"),
        ({"gelato": {"rounds": 1}}, "gelato.rounds", "true or false"),
        ({"n": 2}, "n", "is not served; leave it out"),
        ({"tools": [{"type": "function"}]}, "tools", "is not served"),
        ({"response_format": {"type": "json_object"}}, "response_format", "is not served"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "is not served"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "is not served"),
    ],
)
def test_what_cannot_be_served_is_refused(fields, param, words):
    with pytest.raises(BadRequest) as refused:
        ask(**fields)
    assert refused.value.param == param
    assert words in refused.value.message
    assert refused.value.status == (404 if param == "model" else 400)


@pytest.mark.parametrize("prompt", [None, "", [], ["a", "b"], [1, -2], {"a": 1}, [True]])
def test_what_is_no_prompt_is_refused(prompt):
    with pytest.raises(BadRequest, match="prompt must be"):
        ask("text", prompt=prompt)


@pytest.mark.parametrize("body", [None, [], "hello", 3])
def test_a_body_is_an_object(body):
    with pytest.raises(BadRequest, match="JSON object"):
        read(body, "chat", "m")


def test_a_stream_has_its_usage_where_it_was_asked_for():
    counts = usage(3, 5, 4, 1)
    assert counts["total_tokens"] == 8
    assert counts["completion_tokens_details"] == {"accepted_prediction_tokens": 1, "rejected_prediction_tokens": 3}
    assert Reply(ask(), "m").usage(counts) is None
    asked = Reply(ask(stream_options={"include_usage": True}), "m").usage(counts)
    assert (asked["choices"], asked["usage"]) == ([], counts)
