"""A cable to a namespace of its own, packet by packet: late, narrow, lossy, cut. Needs root, `ip` and /dev/net/tun.

Two TUN devices are its ends, and a process between them passes IP packets on, so that TCP meets what it meets on a
real path. It is `tc netem` for kernels that are built without.
"""

import contextlib
import dataclasses
import errno
import fcntl
import heapq
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

NETWORK = "10.201.78"
NEAR, FAR = f"{NETWORK}.1", f"{NETWORK}.2"
"""Addresses of this end and of the other."""
_QUEUED_S = 1.0
"""Packets that would wait longer for a narrow path are dropped."""
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """What a packet meets, in each direction.

    Attributes:
        rtt_s: delay of both directions together.
        bits_per_s: that pass; inf is as fast as they come.
        loss: chance that it is lost.
        cut: nothing passes.
    """

    rtt_s: float = 0.0
    bits_per_s: float = float("inf")
    loss: float = 0.0
    cut: bool = False


class UnavailableError(Exception):
    """This machine makes no such cable: the reason."""


class Cable:
    """Made by `lay`."""

    def __init__(self, space: str, forwarder: subprocess.Popen[str]) -> None:
        """Of a namespace, and of the process that passes packets on."""
        self._space, self._forwarder = space, forwarder

    def there(self, *command: str) -> list[str]:
        """The command line that runs a command at the other end."""
        return ["ip", "netns", "exec", self._space, *command]

    def become(self, path: Path) -> None:
        """Be such a path from now on."""
        assert self._forwarder.stdin is not None
        self._forwarder.stdin.write(json.dumps(dataclasses.asdict(path)) + "\n")
        self._forwarder.stdin.flush()


@contextlib.contextmanager
def lay() -> Iterator[Cable]:
    """A cable between this namespace, at `NEAR`, and a new one, at `FAR`; both are gone in the end.

    Raises:
        UnavailableError: no root, no `ip`, or no TUN devices.
    """
    if os.geteuid() != 0 or not shutil.which("ip"):
        raise UnavailableError("namespaces need root and ip")
    space, devices = f"gelato-{os.getpid()}", ("gelato-near", "gelato-far")
    with contextlib.ExitStack() as stack:
        try:
            _run("ip", "netns", "add", space)
            stack.callback(_run, "ip", "netns", "del", space)
            ends = [_tun(name) for name in devices]
            for end in ends:
                stack.callback(os.close, end)
            _run("ip", "link", "set", devices[1], "netns", space)
            for at, address, device in (((), NEAR, devices[0]), (("-n", space), FAR, devices[1])):
                _run("ip", *at, "addr", "add", f"{address}/30", "dev", device)
                _run("ip", *at, "link", "set", device, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            hint = "; another cable is laid" if getattr(error, "errno", None) == errno.EBUSY else ""
            raise UnavailableError((getattr(error, "stderr", None) or str(error)).strip() + hint) from None
        command = [sys.executable, __file__, *map(str, ends)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, pass_fds=ends) as forwarder:
            stack.callback(forwarder.kill)
            yield Cable(space, forwarder)
            forwarder.kill()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _tun(name: str) -> int:
    """A new TUN device: its file."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


def _forward(ends: Sequence[int], orders: int) -> None:
    """Pass packets from each end to the other, as the last order says, until the orders end."""
    path, chance, number = Path(), random.Random(0), 0
    free_s = [0.0, 0.0]  # when each direction is done with what it was given
    late: list[tuple[float, int, int, bytes]] = []  # due, order, where to, packet
    pending = b""
    while True:
        wait = max(late[0][0] - time.monotonic(), 0.0) if late else None
        ready, _, _ = select.select([*ends, orders], [], [], wait)
        now = time.monotonic()
        if orders in ready:
            data = os.read(orders, 1 << 16)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                path = Path(**json.loads(line))
        for side, end in enumerate(ends):
            if end not in ready:
                continue
            packet = os.read(end, 1 << 16)
            free_s[side] = max(free_s[side], now)
            if path.cut or chance.random() < path.loss or free_s[side] - now > _QUEUED_S:
                continue
            free_s[side] += 8 * len(packet) / path.bits_per_s
            number += 1
            heapq.heappush(late, (free_s[side] + path.rtt_s / 2, number, ends[1 - side], packet))
        while late and late[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(late)
            with contextlib.suppress(OSError):  # an end that is full, or gone
                os.write(end, packet)


if __name__ == "__main__":
    _forward([int(end) for end in sys.argv[1:3]], sys.stdin.fileno())
