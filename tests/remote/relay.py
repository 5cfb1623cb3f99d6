"""A cable between two sockets: delays what passes, narrows it, and breaks. Kernels without netem have no other."""

import contextlib
import queue
import socket
import threading
import time


class Relay:
    """Listens on a port of its own, and passes on to another.

    Args:
        port: of this machine, where the far end listens.
        delay_s: that each chunk is late, in each direction.
        bytes_per_s: that pass in each direction.
    """

    def __init__(self, port: int, delay_s: float = 0.0, bytes_per_s: float = 1e9) -> None:
        self._far, self._delay_s, self._bytes_per_s = port, delay_s, bytes_per_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open, self._broken = set(), threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def break_for(self, seconds: float) -> None:
        """Reset all connections, and those that come, for a while."""
        self._broken.set()
        for end in list(self._open):
            self._close(end)
        time.sleep(seconds)
        self._broken.clear()

    def close(self) -> None:
        """End it."""
        self._broken.set()
        self._close(self._listener)
        for end in list(self._open):
            self._close(end)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._broken.is_set():
                    self._close(near)
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._far))
                except OSError:
                    self._close(near)
                    continue
                self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    late: queue.Queue = queue.Queue()
                    threading.Thread(target=self._take, args=(source, late), daemon=True).start()
                    threading.Thread(target=self._give, args=(late, sink), daemon=True).start()

    def _take(self, source: socket.socket, late: queue.Queue) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                late.put((time.monotonic() + self._delay_s, data))
        late.put((0.0, b""))

    def _give(self, late: queue.Queue, sink: socket.socket) -> None:
        while True:
            due, data = late.get()
            if not data:
                self._close(sink)
                return
            time.sleep(max(due - time.monotonic(), 0.0) + len(data) / self._bytes_per_s)
            with contextlib.suppress(OSError):
                sink.sendall(data)

    def _close(self, end: socket.socket) -> None:
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
