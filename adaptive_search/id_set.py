"""A set of strings that holds sixteen bytes of each, and the order they came in."""

from __future__ import annotations

import hashlib

_WIDTH = 16  # of a digest
_SLOT = _WIDTH + 8  # a digest, and one more than the number of the string; 0 in a free slot


class IdSet:
    """Strings seen so far, as blake2b digests in one open-addressing table.

    At most 2/3 full and doubled when it is, so a million ids take 48 MB where a
    set of strings takes over 100. Two ids collide once in 2**64 or so.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._slots = 1024
        self._table = bytearray(self._slots * _SLOT)
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
        data = text.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, digest_size=_WIDTH).digest()
        number = self._insert(digest, self._count)
        if number == self._count:
            self._count += 1
            if 3 * self._count > 2 * self._slots:
                self._grow()
        return number

    def _insert(self, digest: bytes, number: int) -> int:
        """Number of a digest, which is the given one if it is new."""
        mask = self._slots - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while True:
            start = slot * _SLOT
            held = int.from_bytes(self._table[start + _WIDTH : start + _SLOT], "little")
            if not held:
                self._table[start : start + _SLOT] = digest + (number + 1).to_bytes(8, "little")
                return number
            if self._table[start : start + _WIDTH] == digest:
                return held - 1
            slot = (slot + 1) & mask

    def _grow(self) -> None:
        old = self._table
        self._slots *= 2
        self._table = bytearray(self._slots * _SLOT)
        for start in range(0, len(old), _SLOT):
            held = int.from_bytes(old[start + _WIDTH : start + _SLOT], "little")
            if held:
                self._insert(bytes(old[start : start + _WIDTH]), held - 1)
