"""`gelato serve` as a process, on the default model: the same text as `gelato generate`, and an orderly end."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

COMMAND = [sys.executable, "-c", "from gelato_jax.cli.main import main; main()"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
PROMPT = "Explain why the sky is blue."
BODY = {"messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": 48}


@pytest.fixture(scope="module")
def served():
    """A process and its address."""
    arguments = [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--system", "modelled"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    for line in process.stderr:
        if "is served on" in line:
            yield process, line.split()[-1]
            break
    process.kill()
    process.wait()
    process.stderr.close()


def test_the_text_is_that_of_generate_and_a_signal_lets_answers_end(served):
    process, url = served
    reply = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=120).json()
    text = reply["choices"][0]["message"]["content"]
    arguments = [*COMMAND, "generate", PROMPT, "--max-new-tokens", "48", "--json", "-"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
    assert text == json.loads(done.stdout)["text"]

    refused = subprocess.run(
        [*COMMAND, "serve", "--listen", url.removeprefix("http://")], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith("cannot be listened on: is it in use, and this machine's own?")

    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**BODY, "stream": True}, timeout=120) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == text
    assert process.wait(60) == 0
