"""Engines of others, in a process of their own.

Two libraries in one process meet in threads and in the processor's state: what oneDNN leaves in the tile registers of a
CPU with AMX kills llama.cpp. And what one of them dies of must not end the comparison.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gelato_experiments.benchmarks.peers.engine import Engine, LeftOut
from gelato_jax.errors import GelatoError

_TRIAL = tuple(range(16))
"""A prompt that any model can read: whoever does not survive it takes no part."""


class Worker:
    """A process that loads engines and decodes when asked; it ends with the pipe to it.

    Args:
        load: makes the engines; a function of a module, for it is called over there.
        arguments: what it is given.
        advice: what to do where the process dies.
    """

    def __init__(self, load: Callable[..., list[Engine]], *arguments: Any, advice: str) -> None:
        """Start loading."""
        context = multiprocessing.get_context("spawn")
        self._advice = advice
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, load, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def engines(self) -> list[Engine]:
        """The engines, once loaded and tried.

        Raises:
            LeftOut: they cannot be loaded, or do not survive a first decode.
        """
        try:
            found = self._pipe.recv()
        except EOFError:
            raise LeftOut(self._death()) from None
        if isinstance(found, str):
            raise LeftOut(found)
        return [Engine(name, partial(self._decode, name)) for name in found]

    def _decode(self, name: str, ids: Sequence[int]) -> list[int]:
        try:
            self._pipe.send((name, list(ids)))
            text = self._pipe.recv()
        except (EOFError, OSError):
            raise GelatoError(f"{name}: {self._death()}") from None
        if isinstance(text, str):
            raise GelatoError(f"{name}: it cannot decode a prompt of {len(ids)} tokens ({text}); leave out longer ones")
        return text

    def _death(self) -> str:
        """How the process ended, and what to do."""
        self._process.join()
        code = self._process.exitcode or 0
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"its process died ({reason}); {self._advice}"


def _serve(pipe: Any, load: Callable[..., list[Engine]], arguments: Sequence[Any]) -> None:
    """What the process does: load, try, say which engines there are, decode until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            engines = {engine.name: engine for engine in load(*arguments)}
            for engine in engines.values():
                engine.decode(_TRIAL)
        except LeftOut as reason:
            pipe.send(str(reason))
            return
        except Exception as error:  # of a library that is not ours
            pipe.send(f"it cannot be loaded ({_in_one_line(error)})")
            return
        pipe.send(list(engines))
        while True:
            name, ids = pipe.recv()
            try:
                pipe.send(engines[name].decode(ids))
            except Exception as error:  # of a library that is not ours
                pipe.send(_in_one_line(error))


def _in_one_line(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
