"""Bodies of OpenAI's interface: read and checked, and the replies to them. No network in sight.

Source: the API reference of OpenAI, chat completions and completions. What cannot be served is refused, never ignored,
unless it changes nothing of the text.
"""

import dataclasses
import math
import secrets
import time
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["chat", "text"]
MOST_STOPS = 16
_ROLES = ("system", "developer", "user", "assistant")
_UNSERVED = {
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False, 0),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "audio": (None,),
    "modalities": (None, ["text"]),
}
"""Field -> the values that ask for nothing: any other would change the answer in a way that is not built."""


class BadRequest(Exception):
    """A body that cannot be served.

    Attributes:
        message: a line: what is wrong, and the fix.
        param: the field.
        code: OpenAI's name of the fault, or None.
        status: of HTTP.
    """

    def __init__(self, message: str, param: str | None = None, *, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """What a body asks for.

    Attributes:
        kind: of `/v1/chat/completions` or `/v1/completions`.
        messages: of a chat.
        prompt: of a text: itself, or its ids.
        max_new_tokens: None if it does not say.
        temperature: 0 or more.
        top_p: in (0, 1].
        top_k: 0 keeps all.
        seed: of the draws.
        stops: strings that end the text.
        stream: events in place of one reply.
        include_usage: a stream ends with its usage.
        speculative: whether the device may draft.
        rounds: a stream tells of every round.
    """

    kind: Kind
    messages: tuple[Mapping[str, str], ...] = ()
    prompt: str | list[int] = ""
    max_new_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stops: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    speculative: bool = True
    rounds: bool = False


def read(body: Any, kind: Kind, model: str) -> Ask:
    """Check a body.

    Args:
        body: as JSON gives it.
        kind: of which path.
        model: the name that is served.

    Raises:
        BadRequest: see there.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    asked = body.get("model", model)
    if asked != model:
        line = f"model {asked!r} is not served here, {model!r} is"
        raise BadRequest(line, "model", code="model_not_found", status=404)
    for field, harmless in _UNSERVED.items():
        if body.get(field) not in harmless:
            raise BadRequest(f"{field} is not served; leave it out", field, code="unsupported_parameter")
    options = _object(body, "stream_options")
    extra = _object(body, "gelato")
    limit = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    most = _number(body, limit, None, 1, 2**31 - 1, whole=True)
    return Ask(
        kind=kind,
        messages=_messages(body.get("messages")) if kind == "chat" else (),
        prompt=_prompt(body.get("prompt")) if kind == "text" else "",
        max_new_tokens=None if most is None else int(most),
        temperature=_number(body, "temperature", 1.0, 0.0, 100.0),
        top_p=_number(body, "top_p", 1.0, 1e-6, 1.0),
        top_k=int(_number(body, "top_k", 0, 0, 2**31 - 1, whole=True)),
        seed=int(_number(body, "seed", secrets.randbits(32), -(2**63), 2**64 - 1, whole=True)) % 2**32,
        stops=_stops(body.get("stop")),
        stream=_flag(body, "stream", False),
        include_usage=_flag(options, "include_usage", False, "stream_options."),
        speculative=_flag(extra, "speculative", True, "gelato."),
        rounds=_flag(extra, "rounds", False, "gelato."),
    )


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object", name)
    return value or {}


def _flag(body: Mapping[str, Any], name: str, default: bool, within: str = "") -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"{within}{name} must be true or false", within + name)
    return value


def _number(body: Mapping[str, Any], name: str, default: Any, low: float, high: float, *, whole: bool = False) -> Any:
    value = body.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (whole and value != int(value)):
        raise BadRequest(f"{name} must be a {'whole ' if whole else ''}number", name)
    if not low <= value <= high:
        raise BadRequest(f"{name} is {value}, must be in {low:g}..{high:g}", name)
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise BadRequest("stop must be a text, or a list of texts, none of them empty", "stop")
    if len(stops) > MOST_STOPS:
        raise BadRequest(f"stop has {len(stops)} texts, must have at most {MOST_STOPS}", "stop")
    return tuple(stops)


def _messages(value: Any) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise BadRequest("messages must be a list of at least one message", "messages")
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(value))


def _message(message: Any, where: str) -> Mapping[str, str]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise BadRequest(f"{where}.role must be one of {', '.join(_ROLES)}", f"{where}.role")
    role, content = message["role"], message.get("content")
    if isinstance(content, list):  # of parts, of which texts are served
        if not all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
            for part in content
        ):
            raise BadRequest(f"{where}.content has parts other than text, which are not served", f"{where}.content")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise BadRequest(f"{where}.content must be a text", f"{where}.content")
    return {"role": "system" if role == "developer" else role, "content": content}


def _prompt(value: Any) -> str | list[int]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str) and value:
        return value
    is_ids = isinstance(value, list) and value and all(type(part) is int and part >= 0 for part in value)
    if not is_ids:
        raise BadRequest("prompt must be a text that is not empty, or a list of token ids", "prompt")
    return value


class Reply:
    """The replies to one request, as OpenAI's clients read them.

    Args:
        ask: the request.
        model: the name that is served.
        include_usage: whether a stream ends with its usage.
    """

    def __init__(self, ask: Ask, model: str) -> None:
        self._is_chat, self._include_usage = ask.kind == "chat", ask.include_usage
        prefix = "chatcmpl" if self._is_chat else "cmpl"
        self._same = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, text: str, reason: str, usage: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
        """One reply with all of the text."""
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self._is_chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        name = "chat.completion" if self._is_chat else "text_completion"
        return {**self._same, "object": name, "choices": [choice], "usage": usage, "gelato": figures}

    def first(self) -> dict[str, Any]:
        """A chat stream's first event."""
        return self._event({"role": "assistant", "content": ""})

    def more(self, text: str, figures: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """More of the text, and what its round was like."""
        return self._event({"content": text}, text, figures=figures)

    def end(self, reason: str, figures: Mapping[str, Any]) -> dict[str, Any]:
        """The event that says why the text ends."""
        return self._event({}, reason=reason, figures=figures)

    def usage(self, usage: Mapping[str, Any]) -> dict[str, Any] | None:
        """The last event, where it was asked for."""
        return {**self._same, "object": self._name, "choices": [], "usage": usage} if self._include_usage else None

    @property
    def _name(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _event(
        self,
        delta: dict[str, Any],
        text: str = "",
        *,
        reason: str | None = None,
        figures: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        said = {"delta": delta} if self._is_chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        extra = {} if figures is None else {"gelato": figures}
        return {**self._same, "object": self._name, "choices": [choice], **extra}


def usage(prompt_tokens: int, new_tokens: int, drafted: int, accepted: int) -> dict[str, Any]:
    """OpenAI's count of tokens; drafts are what it calls predictions."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


def error(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of a refusal."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
