"""Prompt files: one prompt a line as JSON, or one text a line."""

import json
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from gelato_jax.errors import GelatoError


class Prompt(NamedTuple):
    """A user turn, and what kind of task it is."""

    category: str
    text: str


def read_prompts(path: Path | None = None, limit: int | None = None) -> list[str]:
    """Texts of `read_categories`, whose arguments and errors these are."""
    return [prompt.text for prompt in read_categories(path, limit)]


def read_categories(path: Path | None = None, limit: int | None = None) -> list[Prompt]:
    """Prompts of a file with their categories, spread evenly over it where there are more than `limit`.

    Args:
        path: a `.jsonl` file whose lines have `prompt`, or `turns` of which the first is taken (the form of
            Spec-Bench), and may have `category`; or a text file, a prompt a line. Without a category it is `all`.
            None is the set that ships with the package.
        limit: most prompts.

    Raises:
        GelatoError: the file has no prompt, or a line cannot be read; names file and line.
        OSError: the file cannot be opened.
    """
    source = resources.files("gelato_experiments").joinpath("prompts.jsonl") if path is None else path
    lines = [(number, line) for number, line in enumerate(source.read_text("utf-8").splitlines(), 1) if line.strip()]
    as_json = str(source).endswith(".jsonl")
    prompts = [_prompt(source, number, line) if as_json else Prompt("all", line) for number, line in lines]
    if not prompts:
        raise GelatoError(f"{source} holds no prompt; write one a line")
    if limit is None or len(prompts) <= limit:
        return prompts
    return [prompts[index * len(prompts) // limit] for index in range(limit)]


def _prompt(source, number: int, line: str) -> Prompt:
    try:
        row = json.loads(line)
        prompt = row["prompt"] if "prompt" in row else row["turns"][0]
    except (json.JSONDecodeError, KeyError, IndexError, TypeError):
        raise GelatoError(f'{source} line {number}: not {{"prompt": ...}} or {{"turns": [...]}}') from None
    if not isinstance(prompt, str) or not prompt:
        raise GelatoError(f"{source} line {number}: the prompt is not a text")
    return Prompt(str(row.get("category", "all")), prompt)
