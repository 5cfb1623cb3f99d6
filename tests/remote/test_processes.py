"""`gelato edge` and `gelato generate --remote` as processes, on the default model; TLS; an edge that is killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-c", "from gelato_jax.cli.main import main; main()"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
PROMPT = "Explain why the sky is blue."
TOKENS = ("--max-new-tokens", "64")


@pytest.fixture
def edge():
    """Start edges; those that still run are killed in the end."""
    running = []

    def start(*options, port=None):
        port = port or free_port()
        arguments = [*COMMAND, "edge", "--listen", f"127.0.0.1:{port}", *map(str, options)]
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        running.append(process)
        for line in process.stderr:
            if "is served on" in line:
                return process, port
        raise AssertionError(process.wait())

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stderr.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def generate(*options):
    """The report of an answer."""
    arguments = [*COMMAND, "generate", PROMPT, *TOKENS, "--json", "-", *map(str, options)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def alone():
    return generate()


def test_an_edge_that_is_killed_and_started_again_changes_no_token(edge, alone):
    process, port = edge()
    arguments = [*COMMAND, "generate", PROMPT, *TOKENS, "--remote", f"127.0.0.1:{port}"]
    device = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, bufsize=0)
    begun = device.stdout.read(20)  # the answer is under way
    process.kill()
    time.sleep(1.0)
    edge(port=port)
    rest, error = device.communicate(timeout=120)
    assert device.returncode == 0, error
    assert (begun + rest).decode().strip() == alone["text"].strip()
    assert b"sessions reopened" in error


def test_a_device_that_is_killed_leaves_the_edge_to_others(edge, alone):
    _, port = edge()
    arguments = [*COMMAND, "generate", PROMPT, "--max-new-tokens", "400", "--remote", f"127.0.0.1:{port}"]
    device = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT, bufsize=0)
    device.stdout.read(20)  # the answer is under way
    device.kill()
    device.wait()
    device.stdout.close()
    report = generate("--remote", f"127.0.0.1:{port}")
    assert report["token_ids"] == alone["token_ids"]


def test_tls_and_a_token(edge, alone, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, chain, token = tmp_path / "key.pem", tmp_path / "chain.pem", tmp_path / "token"
    subject = ["-subj", "/CN=edge", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(chain)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files],
        check=True,
        capture_output=True,
    )
    token.write_text("correct-horse\n")
    process, port = edge("--token-file", token, "--tls-certificate", chain, "--tls-key", key)
    options = ("--remote", f"127.0.0.1:{port}", "--remote-authority", chain)
    report = generate(*options, "--remote-token-file", token)
    assert report["token_ids"] == alone["token_ids"]
    assert report["remote"]["rounds"] == report["rounds"]
    assert report["remote"]["sent_bytes"] > 0
    refused = subprocess.run([*COMMAND, "generate", "Hi", *options], capture_output=True, text=True, env=ENVIRONMENT)
    assert refused.returncode == 2
    assert "the token is missing or wrong" in refused.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
