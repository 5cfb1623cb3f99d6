"""The installed command on the real default model, in a process of its own."""

import json
import os
import subprocess
import sys

COMMAND = [sys.executable, "-c", "from gelato_jax.cli.main import main; main()"]


def test_sixteen_tokens_of_english():
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    arguments = ["generate", "What is the capital of France?", "--max-new-tokens", "16", "--json", "-"]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "Paris" in report["text"]
    assert len(report["token_ids"]) <= 16
    assert report["settings"]["model"] == "smollm2-135m"
    assert "measured on this machine" in done.stderr
