"""Numbers to bytes and back, bit by bit: a field takes the bits that it needs, and a message ends on a whole byte."""

import numpy as np


class BitWriter:
    """Collects fields; most significant bits first, floats as IEEE 754 in network order."""

    def __init__(self) -> None:
        """Start an empty message."""
        self._parts: list[np.ndarray] = []

    def put(self, values: np.ndarray | int, width: int) -> None:
        """Append unsigned integers of `width` bits each."""
        numbers = np.asarray(values, np.uint64).reshape(-1, 1)
        shifts = np.arange(width - 1, -1, -1, dtype=np.uint64)
        self._parts.append(((numbers >> shifts) & np.uint64(1)).astype(np.uint8).reshape(-1))

    def put_floats(self, values: np.ndarray) -> None:
        """Append float32 numbers, 32 bits each."""
        self._parts.append(np.unpackbits(np.asarray(values, ">f4").reshape(-1).view(np.uint8)))

    @property
    def size(self) -> int:
        """Bits so far, without the padding at the end."""
        return sum(len(part) for part in self._parts)

    def bytes(self) -> bytes:
        """The message, its last byte filled with zeros."""
        return np.packbits(np.concatenate(self._parts)).tobytes()


class BitReader:
    """Takes the fields of a message one after the other.

    Args:
        data: what a `BitWriter` gave.
    """

    def __init__(self, data: bytes) -> None:
        """Stand at the first bit."""
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self._at = 0

    def take(self, count: int, width: int) -> np.ndarray:
        """The next `count` unsigned integers of `width` bits: int64.

        Raises:
            ValueError: the message ends before.
        """
        weights = 1 << np.arange(width - 1, -1, -1, dtype=np.int64)
        return self._next(count * width).reshape(count, width) @ weights

    def one(self, width: int) -> int:
        """The next unsigned integer of `width` bits."""
        return int(self.take(1, width)[0])

    def floats(self, count: int) -> np.ndarray:
        """The next `count` float32 numbers."""
        return np.packbits(self._next(count * 32)).view(">f4").astype(np.float32)

    def end(self) -> None:
        """Refuse a message that goes on.

        Raises:
            ValueError: more than the last byte's padding is left.
        """
        if len(self._bits) - self._at >= 8:
            raise ValueError(f"a message of {len(self._bits)} bits goes on behind its last field, at bit {self._at}")

    def _next(self, count: int) -> np.ndarray:
        begin, self._at = self._at, self._at + count
        if self._at > len(self._bits):
            raise ValueError(f"a message of {len(self._bits)} bits ends before its field of bits {begin} to {self._at}")
        return self._bits[begin : self._at]
