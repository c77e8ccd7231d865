"""A file as the readers get it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

from adaptive_search.documents import Skipped


class UnreadableFile(Exception):
    """A whole file cannot be read; the message is the reason of its Skipped."""


@dataclass(frozen=True, slots=True)
class Source:
    """One regular file of the corpus.

    Attributes:
        file: to open; may hold surrogate escapes.
        path: to show, printable and relative to the corpus root.
        max_bytes: most bytes of it (or of one record) that may be held in memory.
    """

    file: str
    path: str
    max_bytes: int

    def open(self) -> BinaryIO:
        """The file, for reading bytes."""
        return open(self.file, "rb")

    def read(self) -> bytes:
        """All bytes of a file that fits into memory.

        Raises:
            UnreadableFile: it is larger than max_bytes.
        """
        with self.open() as file:
            self.check_size(os.fstat(file.fileno()).st_size)
            data = file.read(self.max_bytes + 1)
        self.check_size(len(data))  # it may have grown, or be a file without a size
        return data

    def check_size(self, size: int) -> None:
        """Raise UnreadableFile when `size` bytes are too many to hold."""
        if size > self.max_bytes:
            raise UnreadableFile(f"{self.too_large('file', size)}")

    def too_large(self, what: str, size: int | None = None) -> str:
        """The reason to give for something above max_bytes."""
        shown = f" of {format_bytes(size)}" if size is not None else ""
        limit = format_bytes(self.max_bytes)
        return f"{what}{shown} is above the limit of {limit}; raise it with --max-file-size"

    def skipped(self, number: int, reason: str) -> Skipped:
        """One record that was not read, by its line or row."""
        return Skipped(f"{self.path}:{number}", reason)


def format_bytes(size: int) -> str:
    """A size for people: 64 MiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"
