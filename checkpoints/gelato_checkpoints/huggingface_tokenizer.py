"""The tokenizer of a Hugging Face folder: tokenizer.json, the chat template, and the special ids of three files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gelato_checkpoints.base import CheckpointError, TokenizerSpec
from gelato_checkpoints.fields import Fields, read_json, read_text


def read_tokenizer(folder: Path, config: Fields) -> TokenizerSpec:
    """Collect tokenizer.json, the chat template and the special ids of a folder.

    Args:
        folder: the Hugging Face folder.
        config: fields of its config.json, which name eos ids where generation_config.json does not.

    Raises:
        CheckpointError: a file is missing or not readable, or names an id outside the vocabulary.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; save the tokenizer in its fast form (tokenizer.json)")
    text = read_text(path)
    settings = _optional(folder / "tokenizer_config.json")
    generation = _optional(folder / "generation_config.json")
    ids, rows = _token_ids(text, path), config.integer("vocab_size")
    bos_id, eos_id, pad_id = (ids.get(_special_token(settings, f"{kind}_token")) for kind in ("bos", "eos", "pad"))
    eos = generation.ids("eos_token_id", below=rows) or config.ids("eos_token_id", below=rows)
    return TokenizerSpec(
        tokenizer_json=text,
        chat_template=_chat_template(folder, settings),
        bos_id=bos_id,
        eos_ids=tuple(sorted({*eos, *(() if eos_id is None else (eos_id,))})),
        pad_id=pad_id,
        eos_id=eos_id,
    )


def _optional(path: Path) -> Fields:
    """Fields of a JSON file that need not exist."""
    return Fields(read_json(path) if path.is_file() else {}, path)


def _token_ids(tokenizer_json: str, path: Path) -> dict[str | None, int]:
    """Token -> id of a tokenizer.json, added tokens included."""
    try:
        tokenizer = json.loads(tokenizer_json)
        added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}
        return {**tokenizer["model"]["vocab"], **added}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: not a tokenizer with a vocabulary; download it again") from None


def _special_token(settings: Fields, name: str) -> str | None:
    """Text of a special token, which is stored bare or as a record."""
    if isinstance(settings.values.get(name), Mapping):
        return Fields(settings.mapping(name), settings.path, label=f"{name}'s").text("content")
    return settings.text(name)


def _chat_template(folder: Path, settings: Fields) -> str | None:
    """The folder's chat template; of several named ones, the one called default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return read_text(path)
    template: Any = settings.values.get("chat_template")
    if not isinstance(template, list):
        return settings.text("chat_template")
    try:
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    except (KeyError, TypeError):
        why = "chat_template must be a string, or a list of objects with name and template"
        raise CheckpointError(f"{settings.path}: {why}; download it again") from None
