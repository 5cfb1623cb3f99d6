"""Text to ids and back: a `tokenizers` model with the chat template and the special ids of its checkpoint."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from gelato_checkpoints.base import CheckpointError, TokenizerSpec

if TYPE_CHECKING:
    import jinja2

Message = Mapping[str, str]
"""One turn of a conversation: `role` (system, user, assistant) and `content`."""

_TURN = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for a user turn where a template is taken apart: no white space, which templates strip, and in no template."""


class ChatFrame(NamedTuple):
    """What stands around a user turn."""

    prefix: list[int]
    """Ids ahead of the turn, a system prompt of the template's included; at least one."""
    header: list[int]
    """Ids between the turn and its answer; none where the model has no chat template."""


class Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        spec: its contents as text.

    Raises:
        CheckpointError: the contents are not a tokenizer.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        """Build the tokenizer; the chat template is compiled at its first use."""
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(spec.tokenizer_json)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"tokenizer.json: not a tokenizer ({error}); convert the checkpoint again") from None
        self.spec = spec

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, ascending."""
        return self.spec.eos_ids

    @property
    def bos_id(self) -> int | None:
        """Id of the beginning-of-sequence token, or None."""
        return self.spec.bos_id

    @property
    def pad_id(self) -> int | None:
        """Id used for padding, or None."""
        return self.spec.pad_id

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Token -> id, special tokens included."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Number of ids: the largest id + 1; the model's embedding may have more rows."""
        return max(self.vocabulary.values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary in the order of ids: equal fingerprints mean that ids mean the same text."""
        digest = hashlib.sha256()
        for token, token_id in sorted(self.vocabulary.items(), key=lambda item: item[1]):
            digest.update(f"{token_id}\t{token}\n".encode())
        return digest.hexdigest()

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of plain text.

        Args:
            text: what to encode.
            special: add the beginning-of-sequence token where the model was trained with one.
        """
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def chat_prompt(self, text: str | Sequence[Message]) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer.

        Args:
            text: a single user turn, or all the turns so far.

        Returns:
            Ids of the rendered chat template; of the bare text where the checkpoint has no template.

        Raises:
            CheckpointError: the template cannot render these messages, or there is none for several turns.
        """
        turns = [{"role": "user", "content": text}] if isinstance(text, str) else [dict(turn) for turn in text]
        if self.spec.chat_template is None:
            if len(turns) != 1:
                raise CheckpointError(f"{len(turns)} messages, but this model has no chat template: pass one text")
            return self.encode(turns[0]["content"])
        return self.encode(self._render(turns), special=False)

    def chat_frame(self) -> ChatFrame:
        """Ids around a user turn: prefix, ids of the text, header are `chat_prompt` of the text.

        (As far as the tokenizer does not join letters across the seams; templates put a special token or a line
        end there.) Without a chat template the prefix is the token that begins, or else ends, a text.

        Raises:
            CheckpointError: the template does not hold a user turn as it is, or there is nothing to begin with.
        """
        if self.spec.chat_template is None:
            first = self.bos_id if self.bos_id is not None else next(iter(self.eos_ids), None)
            if first is None:
                raise CheckpointError("this model has neither chat template nor special token: nothing begins a text")
            return ChatFrame([first], [])
        parts = self._render([{"role": "user", "content": _TURN}]).split(_TURN)
        if len(parts) != 2 or not parts[0]:
            raise CheckpointError(
                f"chat template: shows a user turn {len(parts) - 1} times behind {parts[0]!r}, must show it once "
                "behind an opening; such a template has no frame"
            )
        prefix, header = (self.encode(part, special=False) for part in parts)
        return ChatFrame(prefix, header)

    def _render(self, turns: list[dict[str, str]]) -> str:
        """Render the chat template for `turns` and the opening of an answer."""
        import jinja2

        special = {"bos_token": self._token(self.spec.bos_id), "eos_token": self._token(next(iter(self.eos_ids), None))}
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **special)
        except jinja2.TemplateError as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"chat template: {line}; use plain text instead of the template") from None

    def _token(self, token_id: int | None) -> str:
        """Text of a special id, empty for none."""
        return "" if token_id is None else self._tokenizer.id_to_token(token_id) or ""

    @cached_property
    def _template(self) -> "jinja2.Template":
        """The compiled chat template.

        The environment is transformers' (utils/chat_template_utils.py): sandboxed, blocks trimmed. Its clock,
        `strftime_now`, is left out: templates then fall back on a fixed date, and a prompt has the same ids every day.
        """
        from jinja2.exceptions import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = refuse
        try:
            return environment.from_string(self.spec.chat_template or "")
        except TemplateError as error:
            raise CheckpointError(f"chat template: {error}; convert the checkpoint again") from None
