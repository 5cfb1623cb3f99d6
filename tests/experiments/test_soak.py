"""A soak of two ends: sound ones stand it, and one that is not is found out."""

import json
from functools import partial

import pytest

import gelato_checkpoints
import gelato_jax as gelato
from gelato_experiments import soak
from gelato_jax import payloads
from gelato_jax.errors import GelatoError
from gelato_jax.remote.sessions import Sessions
from gelato_jax.testing import tiny_pair

PROMPTS = ([3, 1, 4, 1, 5], [9, 2, 6])
FEW = {"settings": gelato.DecodeSettings(max_draft_length=3, max_new_tokens=24), "schemes": (payloads.scalar(),)}


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(0.02, exits=())


def test_faults_change_no_token_and_a_run_goes_on(pair):
    outcome = soak.run(pair, PROMPTS, soak.Outcome(), faults=20, **FEW)
    first = outcome.texts
    soak.run(pair, PROMPTS, outcome, faults=60, **FEW)
    assert outcome.texts > first
    assert set(outcome.faults) == set(soak.FAULTS)
    assert sum(outcome.faults.values()) >= 60
    assert outcome.different == []
    assert outcome.reopened > 0


def test_an_edge_that_serves_a_repeated_round_again_is_found_out(pair):
    class Forgetful(Sessions):
        def verify(self, call, owner=""):
            session = self._find(call.session, owner)
            session.answers.clear()  # it has no last answer
            session.round = call.round
            return super().verify(call, owner)

    sessions = Forgetful(pair.target, pair.tokenizer.fingerprint)
    outcome = soak.Outcome()
    try:
        soak.run(pair, PROMPTS, outcome, faults=60, **FEW, sessions=sessions)
    except GelatoError:  # an answer to other drafts than there are
        return
    assert outcome.different


def test_the_command_keeps_its_outcome_and_refuses_other_options(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gelato_checkpoints, "load_pair", lambda model: pair)
    monkeypatch.setattr("gelato_experiments.prompts.read_prompts", lambda path, limit: PROMPTS)
    monkeypatch.setattr(soak, "run", partial(soak.run, **FEW))
    assert soak.Soak(out=tmp_path, faults=3).run() == 0
    kept = json.loads((tmp_path / "soak.json").read_text())
    assert kept == json.loads(capsys.readouterr().out)
    assert sum(kept["faults"].values()) >= 3
    with pytest.raises(GelatoError, match="begun with other options"):
        soak.Soak(out=tmp_path, faults=3, seed=1).run()
    with pytest.raises(GelatoError, match="--chance is 0"):
        soak.Soak(out=tmp_path, chance=0.0).run()
