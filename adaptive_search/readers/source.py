"""A file as the readers get it."""

from __future__ import annotations

import os
import stat
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
        """The file, for reading bytes.

        Raises:
            UnreadableFile: it has become something else than a plain file.
        """
        return open(self.file, "rb", opener=_open_plain)

    def read(self) -> bytes:
        """All bytes of a file that fits into memory.

        Raises:
            UnreadableFile: it is larger than max_bytes.
        """
        with self.open() as file:
            size = os.fstat(file.fileno()).st_size
            self.check_size(size)
            data = file.read(size + 1)  # Python sets aside what is asked for, however short a file
            if len(data) > size:  # it has grown, or is a file without a size
                data += file.read(self.max_bytes + 1 - len(data))
        self.check_size(len(data))
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


def failure_reason(error: Exception) -> str:
    """The reason to give for a file whose reader raised this."""
    if isinstance(error, UnreadableFile):
        return str(error)
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied; change its permissions"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}; check the file"
    if isinstance(error, MemoryError):
        return "its reader ran out of memory; split the file or convert it to text"
    return f"its reader failed ({type(error).__name__}: {brief(error)}); check the file"


def brief(error: Exception) -> str:
    """What a parser says of a file, which may quote all of it, on one line."""
    return " ".join(str(error).split())[:200]


def _open_plain(path: str, flags: int) -> int:
    """Open a file that was plain when its folder was listed."""
    # A pipe in its place must not block, nor a link lead elsewhere.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableFile("was replaced while the corpus was read; run again")
    return descriptor


def format_bytes(size: int) -> str:
    """A size for people: 64 MiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"
