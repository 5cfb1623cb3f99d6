"""What a user may get wrong about two machines: one line, exit code 2, before anything is loaded."""

import json

import pytest

from gelato_jax import meter
from gelato_jax.cli.remote import read_tokens
from gelato_jax.remote.edge import serve
from gelato_jax.remote.sessions import Sessions


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("edge", "--listen", "0.0.0.0:8470"), "open to other machines: give --token-file"),
        (("edge", "--listen", "8470"), "is not HOST:PORT"),
        (("edge", "--listen", "localhost:70000"), "is not HOST:PORT"),
        (("edge", "--max-sessions", "0"), "--max-sessions is 0"),
        (("edge", "--tls-key", "key.pem"), "belong together"),
        (("edge", "--metrics", "9100"), "address '9100' is not HOST:PORT"),
        (("edge", "--sessions-each", "0"), "--sessions-each is 0"),
        (("edge", "--sessions-each", "2"), "give --token-file, or leave it out"),
        (("edge", "--calls-per-s", "0"), "--calls-per-s is 0"),
        (("edge", "--listen", "unix:"), "is not HOST:PORT"),
        (("edge", "--token-file", "absent"), "absent"),
        (("generate", "hi", "--remote-token-file", "file"), "no effect without --remote"),
        (("generate", "hi", "--remote-authority", "file"), "no effect without --remote"),
        (("generate", "hi", "--remote-offline"), "--remote-offline has no effect without --remote"),
        (("generate", "hi", "--remote", "localhost:1", "--remote-patience-s", "0"), "--remote-patience-s is 0"),
        (("generate", "hi", "--remote-clock"), "--remote-clock has no effect without --remote"),
        (("generate", "hi", "--remote-meter", "chips"), "--remote-meter has no effect without --remote"),
        (("generate", "hi", "--remote", "localhost:1", "--remote-meter", "battery"), "goes with --remote-clock"),
        (("generate", "hi", "--remote", "localhost:1", "--system", "local"), "--system local times this machine"),
        (("generate", "hi", "--remote", "localhost:1", "--remote-authority", "absent.pem"), "absent.pem"),
    ],
)
def test_mistakes_are_one_line(gelato, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = gelato(*arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert words in error


def test_a_device_brings_one_token(gelato, tmp_path):
    path = tmp_path / "tokens"
    path.write_text("first\n\nsecond\n")
    code, _, error = gelato("generate", "hi", "--remote", "localhost:1", "--remote-token-file", str(path))
    assert code == 2
    assert f"{path}: holds 2 tokens; leave the one that is meant" in error


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("one\ntwo words\n", ", line 2: behind the token stands no share"),
        ("one 0\n", ", line 1: behind the token stands no share"),
        ("one nan\n", "which must be a number above 0"),
        ("one 2\ntwo\none\n", ": its token in line 3 is there already"),
    ],
)
def test_a_share_is_a_number_and_a_token_stands_once(gelato, text, fault, tmp_path):
    path = tmp_path / "tokens"
    path.write_text(text)
    code, _, error = gelato("edge", "--token-file", str(path))
    assert code == 2
    assert str(path) in error
    assert fault in error


def test_shares_stand_behind_their_tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("first 2.5\n\n second\n")
    assert read_tokens(path) == {"first": 2.5, "second": 1.0}


@pytest.mark.parametrize("text", ["", "\n", "three words here", "t\u00f6ken"])
def test_a_file_without_a_token_is_refused(gelato, text, tmp_path):
    path = tmp_path / "token"
    path.write_text(text)
    code, _, error = gelato("edge", "--token-file", str(path))
    assert code == 2
    assert f"{path}: holds no token" in error


def test_a_devices_joules_are_its_batterys(gelato, pair, tmp_path, monkeypatch):
    battery = tmp_path / "supplies" / "BAT0"
    battery.mkdir(parents=True)
    for file, text in (("type", "Battery"), ("status", "Discharging"), ("power_now", "250000000")):
        (battery / file).write_text(text)
    monkeypatch.setattr(meter.Battery.__init__, "__defaults__", (battery.parent,))
    server, port = serve(Sessions(pair.target, pair.tokenizer.fingerprint, eos_ids=pair.eos_ids), "127.0.0.1:0")
    options = ("--max-new-tokens", "60", "--controller", "static", "--remote", f"127.0.0.1:{port}", "--remote-clock")
    try:
        code, out, error = gelato("generate", "3 1 4 1 5", *options, "--remote-meter", "battery", "--json", "-")
    finally:
        server.stop(0)
    assert code == 0, error
    report = json.loads(out)
    seen = report["remote"]
    assert seen["metered_j"] == pytest.approx(250 * report["wall_s"], rel=0.2)
    if seen["device_factor"] is not None:  # the answer took a second
        assert f"this machine drew {seen['metered_j']:.3g} J" in error
