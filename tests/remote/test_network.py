"""Device and edge in two network namespaces whose cable is cut: nothing is reset, packets vanish. Needs root and ip."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-c", "from gelato_jax.cli.main import main; main()"]
NETWORK, NEAR, FAR, PORT = "10.201.77", "gelato-near", "gelato-far", 8470
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
ENVIRONMENT["no_proxy"] = f"{NETWORK}.2"  # no proxy reaches into a namespace
ANSWER = ["generate", "Explain why the sky is blue.", "--max-new-tokens", "32", "--json", "-"]
SPACE = f"gelato-{os.getpid()}"


def run(*arguments):
    return subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout


@pytest.fixture(scope="module")
def path():
    """Two ends of a cable: this namespace and another."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("namespaces need root and ip")
    try:
        run("ip", "netns", "add", SPACE)
        run("ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", SPACE)
        for at, address, device in (((), 1, NEAR), (("-n", SPACE), 2, FAR)):
            run("ip", *at, "addr", "add", f"{NETWORK}.{address}/30", "dev", device)
            run("ip", *at, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        clean()
        pytest.skip(f"this machine makes no such path: {error.stderr.strip()}")
    yield
    clean()


def clean():
    subprocess.run(["ip", "link", "del", NEAR], capture_output=True)
    subprocess.run(["ip", "netns", "del", SPACE], capture_output=True)


@pytest.fixture(scope="module")
def edge(path):
    """An edge at the far end."""
    listen = ["edge", "--listen", f"{NETWORK}.2:{PORT}", "--insecure"]
    arguments = ["ip", "netns", "exec", SPACE, *COMMAND, *listen]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert any("is served on" in line for line in process.stderr)
        yield
        process.kill()


@pytest.fixture(scope="module")
def alone():
    return json.loads(run(*COMMAND, *ANSWER))["token_ids"]


def test_a_cut_cable_is_a_pause(edge, alone):
    """For eight seconds, while the answer is under way."""
    device = subprocess.Popen(
        [*COMMAND, *ANSWER, "--remote", f"{NETWORK}.2:{PORT}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        bufsize=0,
    )
    assert any("compil" in line for line in device.stderr)  # it asks the edge next
    end = ("ip", "-n", SPACE, "link", "set", FAR)  # the near end keeps its route: nobody else shall answer
    run(*end, "down")
    time.sleep(8.0)
    run(*end, "up")
    with device:
        out, error = device.communicate(timeout=120)
    assert device.returncode == 0, error
    report = json.loads(out)
    assert report["token_ids"] == alone
    assert report["remote"]["retries"] > 0
