"""A set of strings that holds sixteen bytes of each, and the order they came in."""

from __future__ import annotations

import hashlib
import struct
from array import array

_SLOT = 3  # numbers: both halves of a digest, and 1 more than the string's place; 0 in a free slot


class IdSet:
    """Strings seen so far, as blake2b digests in one open-addressing table.

    At most 2/3 full and doubled when it is, so a million ids take 48 MB where a
    set of strings takes over 100. Two ids collide once in 2**64 or so.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._slots = 1024
        self._table = _free(self._slots)
        self._count = 0

    def __len__(self) -> int:
        """Number of different strings added."""
        return self._count

    def add(self, text: str) -> bool:
        """Add a string; False when it was there already."""
        before = self._count
        return self.number(text) == before

    def number(self, text: str) -> int:
        """How many strings had been added before this one, which is added if it is new."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        high, low = struct.unpack("=QQ", digest)
        number = self._insert(high, low, self._count)
        if number == self._count:
            self._count += 1
            if 3 * self._count > 2 * self._slots:
                self._grow()
        return number

    def _insert(self, high: int, low: int, number: int) -> int:
        """Number of a digest, which is the given one if it is new."""
        table, mask = self._table, self._slots - 1
        slot = high & mask
        while held := table[_SLOT * slot + 2]:
            if table[_SLOT * slot] == high and table[_SLOT * slot + 1] == low:
                return held - 1
            slot = (slot + 1) & mask
        table[_SLOT * slot], table[_SLOT * slot + 1] = high, low
        table[_SLOT * slot + 2] = number + 1
        return number

    def _grow(self) -> None:
        old = self._table
        self._slots *= 2
        self._table = _free(self._slots)
        for start in range(0, len(old), _SLOT):
            if held := old[start + 2]:
                self._insert(old[start], old[start + 1], held - 1)


def _free(slots: int) -> array[int]:
    return array("Q", [0]) * (_SLOT * slots)
