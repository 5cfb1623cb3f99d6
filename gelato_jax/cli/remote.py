"""What the commands of two machines share: the connection that `--remote` asks for, and tokens."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelato_jax.cli.options import flag
from gelato_jax.errors import GelatoError

if TYPE_CHECKING:
    from gelato_jax.remote.client import EdgeClient


def connect(values: dict[str, Any]) -> "EdgeClient | None":
    """The connection that `--remote` asks for, or None; nothing is sent yet.

    Raises:
        GelatoError: an option that goes with it stands alone, or a file cannot be read.
    """
    if values["remote"] is None:
        for name in (
            "remote_token_file",
            "remote_authority",
            "remote_clock",
            "remote_meter",
            "remote_patience_s",
            "remote_offline",
        ):
            if values[name]:
                raise GelatoError(
                    f"{flag(name)} has no effect without --remote; leave it out, or give --remote HOST:PORT"
                )
        return None
    if values["remote_meter"] and not values["remote_clock"]:
        raise GelatoError("--remote-meter goes with --remote-clock: watts need seconds by the clock; give both")
    if values["system"] == "local":
        raise GelatoError("--system local times this machine alone; leave it out with --remote")
    need_grpc("--remote")
    from gelato_jax.remote.client import EdgeClient

    token = None if values["remote_token_file"] is None else read_token(Path(values["remote_token_file"]))
    authority = None if values["remote_authority"] is None else Path(values["remote_authority"]).expanduser()
    patience = {} if values["remote_patience_s"] is None else {"patience_s": values["remote_patience_s"]}
    return EdgeClient(values["remote"], token=token, authority=authority, **patience)


def need_grpc(what: str) -> None:
    """Refuse in one line where the extra is not installed."""
    try:
        import grpc  # noqa: F401
        import grpc_health.v1  # noqa: F401
    except ImportError:
        raise GelatoError(f'{what} needs grpcio and grpcio-health-checking; pip install "gelato-jax[remote]"') from None


def read_token(path: Path) -> str:
    """The token that a file holds, its line end left out.

    Raises:
        GelatoError: there is none in it, or more than one, or it cannot be sent.
    """
    tokens = read_tokens(path)
    if len(tokens) > 1:
        raise GelatoError(f"{path}: holds {len(tokens)} tokens; leave the one that is meant")
    return next(iter(tokens))


def read_tokens(path: Path) -> dict[str, float]:
    """The tokens that a file holds, one a line, and the share that stands behind each; 1 where none does.

    Raises:
        GelatoError: there is none in it, or one that cannot be sent, or twice, or whose share is no number above 0.
    """
    try:
        lines = [line.split() for line in path.expanduser().read_text().splitlines() if line.strip()]
    except UnicodeDecodeError:
        lines = []
    if not lines or not all(words[0].isascii() and words[0].isprintable() and len(words) < 3 for words in lines):
        raise GelatoError(f"{path}: holds no token; write one line of letters and digits into it")
    tokens = {}
    for number, (token, *share) in enumerate(lines, start=1):
        if token in tokens:
            raise GelatoError(f"{path}: its token in line {number} is there already; draw another")
        tokens[token] = _share(share[0], f"{path}, line {number}") if share else 1.0
    return tokens


def _share(word: str, place: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = math.nan
    if not 0.0 < share < math.inf:
        raise GelatoError(f"{place}: behind the token stands no share, which must be a number above 0")
    return share
