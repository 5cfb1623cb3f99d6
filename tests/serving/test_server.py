"""The server over a real socket, as the `openai` package and others use it."""

import dataclasses
import json
import threading
import time
from functools import partial

import httpx
import openai
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads
from gelato_jax.remote import device, edge
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.inside import InsideClient
from gelato_jax.remote.sessions import Sessions
from gelato_jax.serving.app import MOST_BYTES, Server, make_app
from gelato_jax.serving.engine import Engine
from gelato_jax.testing import NumberTokenizer, tiny_pair

PROMPT = "3 1 4 1 5 9 2 6"
SETTINGS = gelato.DecodeSettings(max_draft_length=3, max_new_tokens=24)


class ChatTokenizer(NumberTokenizer):
    """Messages are the numbers in them."""

    def chat_prompt(self, text):
        return self.encode(text if isinstance(text, str) else " ".join(message["content"] for message in text))


@pytest.fixture(scope="module")
def pair():
    return dataclasses.replace(tiny_pair(0.02, exits=()), tokenizer=ChatTokenizer(), eos_ids=(61,))


def choices():
    """A cap that binds, and a payload under which the same seed is the same text whatever is drafted."""
    return {
        "controller": control.ratio(power_budget_w=0.9),
        "length_exit": control.length_exits.priced(),
        "payload": payloads.seeded(),
    }


class Served:
    """An engine behind a server in a thread of this process."""

    def __init__(self, pair, stream=None, **options):
        def local(ids, **given):
            return gelato.stream(pair, [ids], **{**choices(), **given})

        self.engine = Engine(pair, SETTINGS, stream or local)
        started = threading.Event()
        ports = []

        def ready(port):
            ports.append(port)
            started.set()

        app = make_app(self.engine, model="tiny", **options)
        self._server = Server(app, "127.0.0.1", 0, ready)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        assert started.wait(30)
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="key", max_retries=0)

    def post(self, body, path="/v1/chat/completions", **given):
        return httpx.post(self.url + path, **{"json": body, "timeout": 60, **given})

    def metric(self, name):
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"gelato_{name}"))

    def close(self):
        self.openai.close()
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def served(pair):
    served = Served(pair)
    yield served
    served.close()


def said(text=PROMPT):
    return [{"role": "user", "content": text}]


def expected(pair, prompt=PROMPT, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return gelato.generate(pair, [prompt], settings=settings, **choices())


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0.0}, {"temperature": 1.0, "seed": 5}, {"temperature": 0.7, "top_p": 0.8, "seed": 9}],
)
def test_a_chat_is_the_text_of_generate(served, pair, sampling):
    wanted = expected(pair, **sampling)
    reply = served.openai.chat.completions.create(model="tiny", messages=said(), **sampling)
    assert reply.choices[0].message.content == wanted.texts[0]
    assert (reply.choices[0].message.role, reply.choices[0].finish_reason) == ("assistant", "length")
    counts = reply.usage
    assert (counts.prompt_tokens, counts.completion_tokens) == (8, len(wanted.tokens[0]))
    details = counts.completion_tokens_details
    figures = reply.gelato["modelled"]
    assert details.accepted_prediction_tokens == figures["accepted"]
    assert details.rejected_prediction_tokens == figures["drafted"] - figures["accepted"]
    assert reply.gelato["measured"]["first_token_s"] > 0


def test_a_stream_is_the_same_text_in_pieces(served, pair):
    options = {"include_usage": True}
    events = list(
        served.openai.chat.completions.create(
            model="tiny", messages=said(), temperature=0, stream=True, stream_options=options
        )
    )
    pieces = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(pieces) == expected(pair).texts[0]
    assert len([piece for piece in pieces if piece]) > 3
    assert events[0].choices[0].delta.role == "assistant"
    assert [event.choices[0].finish_reason for event in events[:-1]][-1] == "length"
    assert events[-1].usage.completion_tokens == 24
    assert len({event.id for event in events}) == 1


def test_a_stream_tells_of_its_rounds(served, pair):
    body = {"messages": said(), "temperature": 0, "stream": True, "gelato": {"rounds": True}}
    lines = served.post(body).text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    rounds = [event["gelato"] for event in map(json.loads, data[:-1]) if "decided_text" in event.get("gelato", {})]
    assert "".join(r["accepted_text"] + r["decided_text"] for r in rounds) == expected(pair).texts[0]
    assert sum(r["drafted"] for r in rounds) >= sum(r["accepted"] for r in rounds) > 0
    assert any(r["accepted_text"] for r in rounds)


def test_a_text_is_continued_without_a_chat(served, pair):
    reply = served.openai.completions.create(model="tiny", prompt=PROMPT, temperature=0, max_tokens=5)
    assert reply.choices[0].text == expected(pair, max_new_tokens=5).texts[0]
    by_ids = served.openai.completions.create(model="tiny", prompt=[3, 1, 4], temperature=0, max_tokens=5)
    assert by_ids.usage.prompt_tokens == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(served, pair, stream):
    whole = expected(pair).texts[0]
    stop = whole.split()[6]
    body = {"messages": said(), "temperature": 0, "stop": f" {stop}", "stream": stream}
    wanted = whole[: whole.index(f" {stop}")]
    if not stream:
        reply = served.post(body).json()["choices"][0]
        assert (reply["message"]["content"], reply["finish_reason"]) == (wanted, "stop")
        return
    events = [json.loads(line[6:]) for line in served.post(body).text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == wanted
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_drafting_can_be_left_out(served, pair):
    body = {"messages": said(), "temperature": 0, "gelato": {"speculative": False}}
    reply = served.post(body).json()
    assert reply["choices"][0]["message"]["content"] == expected(pair).texts[0]
    modelled = reply["gelato"]["modelled"]
    assert modelled["drafted"] == 0
    assert modelled["target_passes_per_token"] == 1
    assert modelled["tokens_per_round"] > 2  # the target goes on by itself


def test_the_energy_queue_goes_on_from_request_to_request(pair):
    served = Served(pair)
    try:
        queues = [
            served.post({"messages": said(), "temperature": 0, "seed": 0}).json()["gelato"]["modelled"]["final_queue_j"]
            for _ in range(2)  # the seed: the link's delays are drawn too
        ]
        first = expected(pair)
        second = gelato.generate(pair, [PROMPT], settings=SETTINGS, session=first.session, **choices())
        assert queues == pytest.approx([first.final_queue_j[0], second.final_queue_j[0]], abs=1e-5)
        assert queues[0] != queues[1]
    finally:
        served.close()


def test_requests_at_once_wait_for_their_turn(served, pair):
    prompts = [f"{number} 1 4" for number in range(6)]
    wanted = [expected(pair, prompt).texts[0] for prompt in prompts]
    found = [""] * len(prompts)

    def run(index):
        reply = served.openai.chat.completions.create(model="tiny", messages=said(prompts[index]), temperature=0)
        found[index] = reply.choices[0].message.content

    clients = [threading.Thread(target=run, args=(index,)) for index in range(len(prompts))]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert found == wanted
    assert served.metric("num_requests_waiting") == served.metric("num_requests_running") == 0


def test_who_leaves_makes_room(served, pair):
    before = served.metric("request_left_total")
    body = {"messages": said(), "max_tokens": 4000, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
    with pytest.raises(httpx.ReadTimeout):
        served.post({**body, "stream": False}, timeout=0.3)
    reply = served.post({"messages": said(), "temperature": 0}).json()
    assert reply["choices"][0]["message"]["content"] == expected(pair).texts[0]
    deadline = time.monotonic() + 10
    while served.metric("request_left_total") < before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.metric("request_left_total") == before + 2


@pytest.fixture
def beside(pair):
    """A server that decodes four requests beside each other, and the sessions behind it."""
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint, eos_ids=pair.eos_ids, most=4)
    client = InsideClient(sessions)
    options = {"controller": control.static(2), "payload": payloads.seeded()}
    served = Served(pair, partial(device.stream, device.without_weights(pair), client=client, **options), at_once=4)
    yield served, sessions
    served.close()


def test_requests_beside_each_other_have_the_texts_that_they_have_alone(pair, beside):
    served, sessions = beside
    bodies = [{"messages": said(f"{n} 1 4"), "seed": n, "temperature": n % 3 / 2} for n in range(9)]
    found = [None] * len(bodies)

    def ask(number):
        found[number] = served.post(bodies[number]).json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(bodies))]
    most = 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(sessions))
        time.sleep(0.001)
    for body, text in zip(bodies, found, strict=True):
        chosen = dataclasses.replace(SETTINGS, seed=body["seed"], temperature=body["temperature"])
        ids = pair.tokenizer.chat_prompt(body["messages"])
        alone = gelato.generate(pair, [ids], settings=chosen, controller=control.static(2), payload=payloads.seeded())
        assert text == alone.texts[0]
    assert 2 <= most <= 4
    assert len(sessions) == 0
    assert served.metric("num_requests_running") == 0


def test_a_text_that_stops_at_its_first_token_leaves_no_session(beside):
    served, sessions = beside
    first = served.post({"messages": said(), "max_tokens": 1, "temperature": 0}).json()
    stop = first["choices"][0]["message"]["content"].strip()
    answer = served.post({"messages": said(), "stop": stop, "temperature": 0}).json()
    assert answer["choices"][0]["message"]["content"].strip() == ""
    assert len(sessions) == 0


def test_too_many_at_once_are_turned_away(pair):
    held, let_go = threading.Event(), threading.Event()

    def slow(ids, **given):
        held.set()
        assert let_go.wait(60)
        return gelato.stream(pair, [ids], **{**choices(), **given})

    served = Served(pair, slow, most_waiting=0)
    try:
        first = threading.Thread(target=served.post, args=({"messages": said()},))
        first.start()
        assert held.wait(30)
        refused = served.post({"messages": said()})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "too many requests wait" in refused.json()["error"]["message"]
        let_go.set()
        first.join()
        assert served.post({"messages": said()}).status_code == 200
    finally:
        let_go.set()
        served.close()


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "is no JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "is no JSON"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "must be application/json"),
        ({"json": {"messages": said("x" * MOST_BYTES)}}, 413, "shorten it"),
        ({"json": {"messages": said("word")}}, 400, "invalid literal"),
        ({"json": {"messages": said("99")}}, 400, "id 99 is none of the model's 0..60"),
        ({"json": {"messages": said(), "max_tokens": 5000}}, 400, "more than the model's 4096"),
        ({"json": {"messages": said(), "model": "gpt"}}, 404, "not served here"),
        ({"json": {"messages": said(), "n": 2}}, 400, "n is not served"),
    ],
)
def test_mistakes_are_answered_as_openai_does(served, given, status, words):
    response = served.post(None, **{"json": None, **given})
    assert response.status_code == status
    fault = response.json()["error"]
    assert words in fault["message"]
    assert "\n" not in fault["message"]
    assert fault["type"] == "invalid_request_error"


def test_the_client_raises_its_own_errors(served):
    with pytest.raises(openai.NotFoundError):
        served.openai.chat.completions.create(model="gpt", messages=said())
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(openai.BadRequestError, match="tools"):
        served.openai.chat.completions.create(model="tiny", messages=said(), tools=[tool])


def test_other_paths_are_named(served):
    assert httpx.get(f"{served.url}/v2").json()["error"]["message"] == "GET /v2: Not Found"
    response = httpx.get(f"{served.url}/v1/chat/completions")
    assert (response.status_code, response.json()["error"]["type"]) == (405, "invalid_request_error")


def test_models_and_health(served):
    assert [model.id for model in served.openai.models.list()] == ["tiny"]
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}


def test_the_page_asks_nobody_else(served):
    response = httpx.get(served.url)
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "http://" not in response.text
    assert "https://" not in response.text


def test_counters_add_up(pair):
    served = Served(pair)
    try:
        figures = served.post({"messages": said(), "temperature": 0}).json()
        modelled, counts = figures["gelato"]["modelled"], figures["usage"]
        assert served.metric("prompt_tokens_total") == counts["prompt_tokens"] == 8
        assert served.metric("generation_tokens_total") == counts["completion_tokens"]
        assert served.metric("spec_decode_num_drafts_total") == modelled["rounds"]
        assert served.metric("spec_decode_num_draft_tokens_total") == modelled["drafted"]
        accepted = served.metric("spec_decode_num_accepted_tokens_total")
        assert accepted == served.metric("spec_decode_num_accepted_tokens_per_pos_total") == modelled["accepted"] > 0
        assert served.metric("modelled_energy_joules_total") == pytest.approx(modelled["energy_j"], rel=1e-4)
        assert served.metric("energy_queue_joules") == pytest.approx(modelled["final_queue_j"], rel=1e-4)
        served.post({"messages": []})
        assert served.metric('request_refused_total{status="400"}') == 1
        assert served.metric('request_success_total{finished_reason="length"}') == 1
    finally:
        served.close()


def test_a_key_is_asked_for(pair):
    served = Served(pair, api_key="key", hosts=["127.0.0.1"])
    try:
        assert served.openai.models.list().data
        for given in ({}, {"authorization": "Bearer kex"}, {"authorization": "key"}):
            refused = httpx.get(f"{served.url}/v1/models", headers=given)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert served.post({"messages": said()}, headers=given).status_code == 401
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert httpx.get(f"{served.url}/health", headers={"host": "elsewhere.example"}).status_code == 400
    finally:
        served.close()


@pytest.mark.parametrize("stream", [False, True])
def test_the_target_may_be_on_an_edge_and_may_be_away(pair, stream):
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint)
    server, port = edge.serve(sessions, "127.0.0.1:0")
    client = EdgeClient(f"127.0.0.1:{port}", patience_s=0.5)
    served = Served(pair, partial(device.stream, device.without_weights(pair), client=client, **choices()))
    try:
        reply = served.post({"messages": said(), "temperature": 0}).json()
        assert reply["choices"][0]["message"]["content"] == expected(pair).texts[0]
        assert len(sessions) == 0  # the edge was told that it is over
        server.stop(0).wait()
        response = served.post({"messages": said(), "temperature": 0, "stream": stream})
        if stream:
            assert '"error":{"message":"edge 127.0.0.1' in response.text
        else:
            assert response.status_code == 502
            assert "does not answer" in response.json()["error"]["message"]
        assert served.metric("request_failed_total") == 1
    finally:
        served.close()
        client.close()
        server.stop(0)
