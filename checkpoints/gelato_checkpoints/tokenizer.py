"""Text to ids and back: a `tokenizers` model with the chat template and the special ids of its checkpoint."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from gelato_checkpoints.base import CheckpointError, TokenizerSpec
from gelato_jax.errors import GelatoError

if TYPE_CHECKING:
    from gelato_checkpoints.chat import ChatTemplate, Disguise

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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary in the order of ids: equal fingerprints mean that ids mean the same text."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for token, token_id in sorted(self.vocabulary.items(), key=lambda item: item[1]):
            digest.update(f"{token_id}\t{token}\n".encode())
        return digest.hexdigest()

    @cached_property
    def _controls(self) -> Mapping[int, str]:
        """Control tokens: id -> text."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token_id: token.content for token_id, token in added.items() if token.special}

    def encode(self, text: str, *, special: bool = True, control: bool = False) -> list[int]:
        """Ids of a text.

        Args:
            text: what to encode.
            special: add the beginning-of-sequence token where the model was trained with one.
            control: read control tokens in the text, such as `<|im_end|>`, as such; they are plain text otherwise.

        Raises:
            GelatoError: the text is none, or holds half of a surrogate pair.
        """
        return self._encoding(text, special=special, control=control).ids

    def _encoding(self, text: str, *, special: bool, control: bool) -> Any:
        """What `encode` finds, with the place of every id in the text."""
        _check_text(text)
        self._tokenizer.encode_special_tokens = not control
        return self._tokenizer.encode(text, add_special_tokens=special)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def chat_prompt(self, text: str | Sequence[Message]) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer.

        Control tokens of the template are read as such, those in the messages are plain text.

        Args:
            text: a single user turn, or all the turns so far.

        Returns:
            Ids of the rendered chat template; of the bare text where the checkpoint has no template.

        Raises:
            CheckpointError: the template cannot render these messages, or there is none for several turns.
            GelatoError: a text holds half of a surrogate pair.
        """
        turns = [{"role": "user", "content": text}] if isinstance(text, str) else [dict(turn) for turn in text]
        if self.spec.chat_template is None:
            if len(turns) != 1:
                raise CheckpointError(f"{len(turns)} messages, but this model has no chat template: pass one text")
            return self.encode(turns[0].get("content", ""))
        from gelato_checkpoints.chat import Disguise, map_texts, texts

        written = texts(turns)
        for part in written:
            _check_text(part)
        disguise = Disguise(self._controls.values(), "".join([self._template.source, *written]))
        return self._encode_rendered(self._render(map_texts(turns, disguise.hide)), disguise)

    def _encode_rendered(self, rendered: str, disguise: "Disguise") -> list[int]:
        """Ids of a rendered template in which the users' control tokens are hidden.

        The tokenizer finds the template's control tokens; what lies between two of them is one text, whoever wrote
        it, so that tokens form across the seams as in any other text.
        """
        if disguise.show(rendered) == rendered:
            return self.encode(rendered, special=False, control=True)
        found = self._encoding(rendered, special=False, control=True)
        ids: list[int] = []
        start = 0
        for token_id, (begin, end) in zip(found.ids, found.offsets, strict=True):
            if token_id in self._controls:
                ids += [*self.encode(disguise.show(rendered[start:begin]), special=False), token_id]
                start = end
        return ids + self.encode(disguise.show(rendered[start:]), special=False)

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
        prefix, header = (self.encode(part, special=False, control=True) for part in parts)
        return ChatFrame(prefix, header)

    def _render(self, turns: list[dict[str, Any]]) -> str:
        """Render the chat template for `turns` and the opening of an answer."""
        eos_id = next(iter(self.eos_ids), None) if self.spec.eos_id is None else self.spec.eos_id
        named = {"bos_token": self.bos_id, "eos_token": eos_id, "pad_token": self.pad_id}
        special = {name: self._tokenizer.id_to_token(i) for name, i in named.items() if i is not None}
        return self._template.render(turns, {name: token for name, token in special.items() if token is not None})

    @cached_property
    def _template(self) -> "ChatTemplate":
        """The compiled chat template."""
        from gelato_checkpoints.chat import ChatTemplate

        return ChatTemplate(self.spec.chat_template or "")


def _check_text(text: str) -> None:
    """Refuse what has no UTF-8 form."""
    if not isinstance(text, str):
        raise GelatoError(f"a prompt is {type(text).__name__}, must be text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"character {error.start} is U+{ord(text[error.start]):04X}, half of a surrogate pair"
        raise GelatoError(f"prompt: {half}, which is no text; save the prompt as UTF-8, or remove it") from None
