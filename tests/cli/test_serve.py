"""What a user may get wrong about the server: one line, exit code 2, before anything is loaded."""

import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "0.0.0.0:8000"), "open to other machines: give --insecure"),
        (("--listen", "8000"), "is not HOST:PORT"),
        (("--max-new-tokens", "0"), "--max-new-tokens is 0"),
        (("--max-waiting", "-1"), "--max-waiting is -1"),
        (("--api-key-file", "absent"), "absent"),
        (("--device", "orin-nano-15w"), "--device has no effect with --system local"),
        (("--remote", "localhost:1", "--system", "local"), "--system local times this machine"),
        (("--remote-token-file", "file"), "no effect without --remote"),
        (("--at-once", "4", "--power-budget-w", "2"), "--power-budget-w is kept by one queue"),
        (("--at-once", "0"), "--at-once is 0"),
        (("--controller", "gelato"), "needs a budget"),
        (("--payload-bits", "4"), "--payload-bits has no effect with --payload candidates"),
    ],
)
def test_mistakes_are_one_line(gelato, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = gelato("serve", *arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert words in error


def test_what_is_not_installed_is_named(gelato, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette", None)
    code, _, error = gelato("serve")
    assert (code, error.count("\n")) == (2, 1)
    assert 'pip install "gelato-jax[serve]"' in error
