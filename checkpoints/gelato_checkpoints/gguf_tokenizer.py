"""A `tokenizers` JSON file rebuilt from the fields of a GGUF file: byte-level BPE only.

The pre-tokenizers are data: one entry per value of `tokenizer.ggml.pre`, as the models' own tokenizer.json has it.
"""

import json
from typing import Any

import numpy as np

from gelato_checkpoints.base import CheckpointError, TokenizerSpec
from gelato_checkpoints.fields import Fields

# Token types of the GGUF specification.
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5

# Tokens that end an answer whatever the fields say: the list of llama.cpp (llama-vocab.cpp, special_eog_ids).
_END_OF_ANSWER = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>")

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _byte_level(use_regex: bool) -> dict[str, Any]:
    """The byte-level step; `use_regex` splits by GPT-2's pattern first."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(*patterns: str) -> list[dict[str, Any]]:
    """Split by one pattern after the other, then byte level."""
    steps = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return [*steps, _byte_level(use_regex=False)]


PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_byte_level(use_regex=True)],
    "smollm": [{"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)],
    "llama-bpe": _split(_CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _REST),
    "qwen2": _split(_CONTRACTIONS + _WORDS + r"|\p{N}" + _REST),
    "default": _split(
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        r"[0-9][0-9][0-9]",
    ),
}
"""`tokenizer.ggml.pre` -> steps of the pre-tokenizer; `default` is no model's own but llama.cpp's (llama-vocab.cpp)."""

_SAME_AS = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}  # llama-vocab.cpp
_NORMALIZERS = {"qwen2": {"type": "NFC"}}
_BOS_BY_DEFAULT = ("llama-bpe",)  # llama.cpp adds it where the file does not say
_WHOLE_WORDS_FIRST = ("llama-bpe",)  # `ignore_merges` of Llama 3's tokenizer.json


def rebuild_tokenizer(fields: Fields, types: np.ndarray | None) -> TokenizerSpec:
    """Rebuild the tokenizer of a GGUF file.

    Args:
        fields: the file's metadata.
        types: GGUF token type of every id, or None where the file has none (all normal).

    Raises:
        CheckpointError: the file's tokenizer is not a byte-level BPE with a known pre-tokenizer.
    """
    pre = _pre_tokenizer(fields)
    tokens, merges = fields.values.get("tokenizer.ggml.tokens"), fields.values.get("tokenizer.ggml.merges")
    if not tokens or merges is None or (types is not None and len(types) != len(tokens)):
        what = "tokenizer fields are missing or of different lengths"
        raise CheckpointError(f"{fields.path}: {what}; download it again")
    kinds = types if types is not None else np.ones(len(tokens), np.int32)
    vocabulary = _vocabulary(fields, tokens, kinds)
    bos, eos, pad = (_special_id(fields, kind, len(tokens)) for kind in ("bos", "eos", "padding"))
    add_bos = fields.flag("tokenizer.ggml.add_bos_token", pre in _BOS_BY_DEFAULT)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary, kinds),
        "normalizer": _NORMALIZERS.get(pre),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]},
        "post_processor": _bos_first(tokens[bos], bos) if bos is not None and add_bos else None,
        "decoder": _byte_level(use_regex=True),
        "model": _bpe(vocabulary, merges, pre),
    }
    return TokenizerSpec(
        tokenizer_json=json.dumps(tokenizer, ensure_ascii=False),
        chat_template=fields.text("tokenizer.chat_template"),
        bos_id=bos,
        eos_ids=_eos_ids(fields, vocabulary),
        pad_id=pad,
        eos_id=eos,
    )


def _pre_tokenizer(fields: Fields) -> str:
    """The key of `PRE_TOKENIZERS` that the file's name for its pre-tokenizer means."""
    model, named = fields.values.get("tokenizer.ggml.model"), fields.values.get("tokenizer.ggml.pre")
    if model == "gpt2" and named is None:
        why = "tokenizer.ggml.pre is missing: how the text is split before BPE is not known"
        raise CheckpointError(f"{fields.path}: {why}; convert it by a newer llama.cpp, or use the Hugging Face folder")
    pre = _SAME_AS.get(str(named), str(named))
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        known = ", ".join([*PRE_TOKENIZERS, *_SAME_AS])
        found = f"tokenizer {model!r} with pre-tokenizer {named!r}"
        raise CheckpointError(f"{fields.path}: {found} is not supported; known: 'gpt2' with {known}")
    return pre


def _special_id(fields: Fields, kind: str, size: int) -> int | None:
    """The id of a special token, or None."""
    return next(iter(fields.ids(f"tokenizer.ggml.{kind}_token_id", below=size)), None)


def _vocabulary(fields: Fields, tokens: list[str], kinds: np.ndarray) -> dict[str, int]:
    """Token -> id, without the unused tokens that pad the embedding's last rows."""
    size = len(tokens)
    while size and kinds[size - 1] == _UNUSED:
        size -= 1
    vocabulary = {token: i for i, token in enumerate(tokens[:size])}
    if len(vocabulary) != size:
        raise CheckpointError(f"{fields.path}: tokenizer.ggml.tokens holds {size - len(vocabulary)} tokens twice")
    return vocabulary


def _added_tokens(vocabulary: dict[str, int], kinds: np.ndarray) -> list[dict[str, Any]]:
    """Tokens matched as a whole before BPE; control tokens are special, that is left out of decoded text."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": token, **flags, "special": bool(kinds[i] == _CONTROL)}
        for token, i in vocabulary.items()
        if kinds[i] in (_CONTROL, _USER_DEFINED)
    ]


def _bpe(vocabulary: dict[str, int], merges: list[str], pre: str) -> dict[str, Any]:
    """The merge model."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": pre in _WHOLE_WORDS_FIRST,
        "vocab": vocabulary,
        "merges": [merge.split(" ", 1) for merge in merges],
    }


def _bos_first(token: str, token_id: int) -> dict[str, Any]:
    """A post-processor that puts the beginning-of-sequence token in front of plain text."""
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    bos = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


def _eos_ids(fields: Fields, vocabulary: dict[str, int]) -> tuple[int, ...]:
    """Ids that end an answer: those of the fields and those known by name."""
    named = {vocabulary[token] for token in _END_OF_ANSWER if token in vocabulary}
    keys = (f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom"))
    return tuple(sorted(named.union(*(fields.ids(key, below=len(vocabulary)) for key in keys))))
