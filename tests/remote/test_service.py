"""The unit and the container file ask for what `gelato edge` has."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gelato_jax.cli.edge import Edge
from gelato_jax.remote import sessions

FOLDER = Path(sessions.__file__).with_name("service")
OPTIONS = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Edge)}


def test_a_unit_gives_options_that_there_are_and_reads_what_it_loads():
    unit = (FOLDER / "gelato-edge.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert "gelato edge " in command
    assert set(re.findall(r"--\S+", command)) <= OPTIONS
    assert set(re.findall(r"%d/(\S+)", command)) == set(re.findall(r"^LoadCredential=([^:]+):", unit, re.MULTILINE))


def test_a_container_gives_options_that_there_are():
    text = (FOLDER / "Containerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    command = json.loads(entry)
    assert command[:2] == ["gelato", "edge"]
    given = {word for word in [*command, *re.findall(r"(?<=\s)--(?:token|tls)\S+", text)] if word.startswith("--")}
    assert given <= OPTIONS
    assert {"--listen", "--token-file", "--tls-certificate", "--tls-key"} <= given


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_finds_no_fault_in_the_unit(tmp_path):
    unit = (FOLDER / "gelato-edge.service").read_text().replace("/opt/gelato/bin/gelato", sys.executable)
    path = tmp_path / "gelato-edge.service"
    path.write_text(unit)
    checked = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
