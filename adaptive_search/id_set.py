"""A set of strings that holds sixteen bytes of each."""

from __future__ import annotations

import hashlib

_WIDTH = 16


class IdSet:
    """Strings seen so far, as blake2b digests in one open-addressing table.

    At most 2/3 full and doubled when it is, so a million ids take 32 MB where a
    set of strings takes over 100. Two ids collide once in 2**64 or so.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._slots = 1024
        self._table = bytearray(self._slots * _WIDTH)
        self._count = 0

    def __len__(self) -> int:
        """Number of different strings added."""
        return self._count

    def add(self, text: str) -> bool:
        """Add a string; False when it was there already."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_WIDTH)
        if not self._insert(digest.digest()):
            return False
        self._count += 1
        if 3 * self._count > 2 * self._slots:
            self._grow()
        return True

    def _insert(self, digest: bytes) -> bool:
        mask = self._slots - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while True:
            start = slot * _WIDTH
            held = self._table[start : start + _WIDTH]
            if held == digest:
                return False
            if not any(held):
                self._table[start : start + _WIDTH] = digest
                return True
            slot = (slot + 1) & mask

    def _grow(self) -> None:
        old = bytes(self._table)
        self._slots *= 2
        self._table = bytearray(self._slots * _WIDTH)
        for start in range(0, len(old), _WIDTH):
            digest = old[start : start + _WIDTH]
            if any(digest):
                self._insert(digest)
