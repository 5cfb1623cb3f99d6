"""Device and edge in two network namespaces, on the default model, over paths as they are. Needs root, ip and TUN."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import gelato_jax as gelato
from gelato_experiments import cable
from gelato_jax import control, payloads
from gelato_jax.control.banditspec import banditspec
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.device import stream, without_weights

COMMAND = [sys.executable, "-c", "from gelato_jax.cli.main import main; main()"]
PORT, DEVICES = 8470, 64
PROMPT = "Explain why the sky is blue."


@pytest.fixture(scope="module")
def laid():
    try:
        with cable.lay() as laid:
            yield laid
    except cable.UnavailableError as error:
        pytest.skip(f"this machine makes no cable: {error}")


@pytest.fixture(scope="module")
def edge(laid):
    """An edge at the far end."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    listen = ["edge", "--listen", f"{cable.FAR}:{PORT}", "--insecure", "--max-sessions", str(DEVICES)]
    with subprocess.Popen(laid.there(*COMMAND, *listen), stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert any("is served on" in line for line in process.stderr)
        yield
        process.kill()


@pytest.fixture(scope="module")
def pair():
    from gelato_checkpoints import load_pair

    return load_pair("smollm2-135m")


@pytest.fixture
def client(edge, monkeypatch):
    monkeypatch.setenv("no_proxy", cable.FAR)  # no proxy reaches into a namespace
    client = EdgeClient(f"{cable.FAR}:{PORT}")
    yield client
    client.close()


def settings(**changes):
    given = {"max_new_tokens": 32, "stream_length": 12, "temperature": 1.0, "seed": 5, **changes}
    return gelato.DecodeSettings(**given)


def choices(payload):
    """Every draft length in its turn, and streams."""
    return {"controller": banditspec(), "length_exit": control.length_exits.none(), "payload": payload}


def ready(pair, client, **given):
    """A stream whose programs are made, on a path without delay."""
    watched = stream(without_weights(pair), PROMPT, client, **given)
    watched.wait()
    return watched


@pytest.mark.parametrize(
    ("path", "payload", "least_ms"),
    [
        (cable.Path(rtt_s=0.02), payloads.candidates(32), 20),
        (cable.Path(rtt_s=0.14), payloads.seeded(), 140),
        (cable.Path(rtt_s=0.4), payloads.candidates(32), 400),
        (cable.Path(rtt_s=0.02, loss=0.05), payloads.candidates(32), 20),
        (cable.Path(rtt_s=0.02, bits_per_s=1e6), payloads.top_k(64), 20),
    ],
    ids=["20 ms", "140 ms", "400 ms", "5 % loss", "1 Mbit/s"],
)
def test_the_path_changes_no_token(path, payload, least_ms, laid, pair, client):
    given = {"settings": settings(), **choices(payload)}
    wanted = gelato.generate(pair, [PROMPT], **given)
    watched = ready(pair, client, **given)
    laid.become(path)
    try:
        for _ in watched:
            pass
    finally:
        laid.become(cable.Path())
    found = watched.generation()
    assert found.tokens == wanted.tokens
    assert found.totals.passes[0] > found.totals.rounds[0]  # some rounds stream
    assert found.totals.drafted[0] > 0
    assert 1e3 * client.traffic.waited_s / client.traffic.messages >= least_ms


def test_a_cut_cable_is_a_pause(laid, pair, client):
    """For ten seconds, while the answer is under way: nothing is reset, packets vanish."""
    given = {"settings": settings(max_new_tokens=64), **choices(payloads.candidates(32))}
    wanted = gelato.generate(pair, [PROMPT], **given)
    watched, began = ready(pair, client, **given), 0.0
    for number, _ in enumerate(watched):
        if number == 2:
            laid.become(cable.Path(cut=True))
            threading.Timer(10.0, laid.become, [cable.Path()]).start()
            began = time.monotonic()
    assert time.monotonic() - began > 10
    assert watched.generation().tokens == wanted.tokens
    assert client.traffic.waited_s > 10


def test_many_devices_at_once_get_the_texts_that_they_get_alone(laid, pair, client):
    """All drafting, with seeds of their own, over 20 ms; they share the target's passes, and none starves."""
    given = {"controller": control.static(2), "payload": payloads.seeded()}
    of = lambda seed: settings(max_new_tokens=12, seed=seed)  # noqa: E731
    wanted = [gelato.generate(pair, [PROMPT], settings=of(seed), **given).tokens for seed in range(8)]
    ready(pair, client, settings=of(0), **given).close()
    found, ended = [None] * DEVICES, np.zeros(DEVICES)

    def decode(number):
        watched = stream(without_weights(pair), PROMPT, client, settings=of(number % 8), **given)
        for _ in watched:
            pass
        found[number], ended[number] = watched.generation().tokens, time.monotonic() - began

    before = client.info()
    laid.become(cable.Path(rtt_s=0.02))
    began = time.monotonic()
    try:
        threads = [threading.Thread(target=decode, args=(number,)) for number in range(DEVICES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
    finally:
        laid.become(cable.Path())
    until = time.monotonic() + 5.0
    while client.info().sessions and time.monotonic() < until:  # a device does not wait for its goodbye
        time.sleep(0.1)
    after = client.info()
    assert found == [wanted[number % 8] for number in range(DEVICES)]
    assert after.rounds - before.rounds > after.batches - before.batches  # how many more is the machine's speed
    assert after.sessions == 0
