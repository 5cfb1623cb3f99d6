"""A chat template rendered as transformers does, and what keeps a user's text from speaking for the template."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gelato_checkpoints.base import CheckpointError

_PRIVATE = range(0xF0000, 0xFFFFE)  # Unicode's first supplementary private use area


class _Generation(Extension):
    """`{% generation %}`: where the assistant speaks. Training masks by it; a prompt shows what is inside."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """Take the block's contents, in a scope of their own as transformers has it."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class ChatTemplate:
    """A compiled chat template.

    The environment is transformers' (utils/chat_template_utils.py, release 5): sandboxed, blocks trimmed, with its
    filter and functions.

    Args:
        source: the Jinja text.

    Raises:
        CheckpointError: the text is no template.
    """

    def __init__(self, source: str) -> None:
        """Compile the template."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        self.source = source
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"chat template: {_first_line(error)}; convert the checkpoint again") from None

    def render(self, turns: Sequence[Mapping[str, Any]], special_tokens: Mapping[str, str]) -> str:
        """Render a conversation and the opening of an answer.

        Args:
            turns: the messages.
            special_tokens: texts of `bos_token` and its like, as far as the model has them.

        Raises:
            CheckpointError: the template cannot render these messages.
        """
        given = {"messages": turns, "tools": None, "documents": None, "add_generation_prompt": True}
        try:
            return self._template.render(**given, **special_tokens)
        except Exception as error:  # a template computes: it may divide by zero or add a number to a text
            raise CheckpointError(
                f"chat template: {_first_line(error)}; change the messages, or use plain text"
            ) from None


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`; Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    """The function by which a template refuses its messages."""
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    """The current local time, in the form of `strftime`."""
    return datetime.now().strftime(form)


def _first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class Disguise:
    """Hides control tokens that a user wrote while a template is rendered around them.

    The template's own control tokens must become ids, the user's must stay text, and a template may trim, cut or
    search what it shows, so that it cannot be told afterwards who wrote what. Hence the first character of each of the
    user's control tokens is exchanged for one that occurs nowhere else: the text keeps its length, its ends and
    everything else that templates look at, and no longer holds a control token.

    Args:
        tokens: the control tokens.
        written: everything that user and template wrote.
    """

    def __init__(self, tokens: Collection[str], written: str) -> None:
        """Choose the characters."""
        free = (chr(code) for code in _PRIVATE if chr(code) not in written)
        self._masks = {first: next(free) for first in sorted({token[0] for token in tokens})}
        self._faces = str.maketrans({mask: first for first, mask in self._masks.items()})
        # A lookahead, so that of two tokens that overlap both are hidden.
        self._start = re.compile(f"(?=(?:{'|'.join(map(re.escape, tokens))}))(.)", re.DOTALL)

    def hide(self, text: str) -> str:
        """`text` without its control tokens."""
        return self._start.sub(lambda match: self._masks[match[1]], text) if self._masks else text

    def show(self, text: str) -> str:
        """`text` as it was before `hide`."""
        return text.translate(self._faces)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A message with every text in it changed, whatever lists and records it is nested in."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_texts(key, change): map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(item, change) for item in value]
    return value


def texts(value: Any) -> list[str]:
    """Every text in a message, or in several."""
    found: list[str] = []
    map_texts(value, lambda text: found.append(text) or text)
    return found
