from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoReply(_message.Message):
    __slots__ = ("model", "vocabulary", "ids", "positions", "sessions", "most_sessions", "version", "rounds", "batches")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    MOST_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    model: str
    vocabulary: str
    ids: int
    positions: int
    sessions: int
    most_sessions: int
    version: str
    rounds: int
    batches: int
    def __init__(self, model: _Optional[str] = ..., vocabulary: _Optional[str] = ..., ids: _Optional[int] = ..., positions: _Optional[int] = ..., sessions: _Optional[int] = ..., most_sessions: _Optional[int] = ..., version: _Optional[str] = ..., rounds: _Optional[int] = ..., batches: _Optional[int] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("session", "vocabulary", "payload", "sampling", "tokens", "prompt_length", "max_new_tokens", "max_draft_length", "round")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    vocabulary: str
    payload: Payload
    sampling: Sampling
    tokens: _containers.RepeatedScalarFieldContainer[int]
    prompt_length: int
    max_new_tokens: int
    max_draft_length: int
    round: int
    def __init__(self, session: _Optional[bytes] = ..., vocabulary: _Optional[str] = ..., payload: _Optional[_Union[Payload, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., tokens: _Optional[_Iterable[int]] = ..., prompt_length: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., max_draft_length: _Optional[int] = ..., round: _Optional[int] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("scheme", "number", "known", "further")
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    FURTHER_FIELD_NUMBER: _ClassVar[int]
    scheme: str
    number: float
    known: _containers.RepeatedScalarFieldContainer[int]
    further: bool
    def __init__(self, scheme: _Optional[str] = ..., number: _Optional[float] = ..., known: _Optional[_Iterable[int]] = ..., further: bool = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class OpenReply(_message.Message):
    __slots__ = ("first_token", "fault")
    FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    first_token: int
    fault: bool
    def __init__(self, first_token: _Optional[int] = ..., fault: bool = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("session", "round", "uplink")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    UPLINK_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    round: int
    uplink: bytes
    def __init__(self, session: _Optional[bytes] = ..., round: _Optional[int] = ..., uplink: _Optional[bytes] = ...) -> None: ...

class VerifyReply(_message.Message):
    __slots__ = ("downlink", "edge_s")
    DOWNLINK_FIELD_NUMBER: _ClassVar[int]
    EDGE_S_FIELD_NUMBER: _ClassVar[int]
    downlink: bytes
    edge_s: float
    def __init__(self, downlink: _Optional[bytes] = ..., edge_s: _Optional[float] = ...) -> None: ...

class RowRequest(_message.Message):
    __slots__ = ("session", "round")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    round: int
    def __init__(self, session: _Optional[bytes] = ..., round: _Optional[int] = ...) -> None: ...

class RowReply(_message.Message):
    __slots__ = ("row",)
    ROW_FIELD_NUMBER: _ClassVar[int]
    row: bytes
    def __init__(self, row: _Optional[bytes] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    def __init__(self, session: _Optional[bytes] = ...) -> None: ...

class CloseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
