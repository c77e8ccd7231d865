"""Lines of a file of any size; a line of any length costs bounded memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from adaptive_search.readers.encoding import (
    SAMPLE_BYTES,
    decode,
    guess_encoding,
    is_noise,
    mark_of,
)
from adaptive_search.readers.source import Source, UnreadableFile

_DRAIN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or the reason why it cannot be had.

    Attributes:
        number: 1-based.
        text: with its line end; empty when there is a reason.
        reason: empty for a good line.
    """

    number: int
    text: str
    reason: str = ""


@contextmanager
def open_lines(source: Source, *, may_guess: bool) -> Iterator[Iterator[Line]]:
    """The lines of a text file, decoded one by one.

    Args:
        source: the file.
        may_guess: whether lines that are not UTF-8 may be in another encoding.

    Raises:
        UnreadableFile: binary, or in no known encoding.
    """
    with source.open() as file:
        head = file.read(SAMPLE_BYTES)
        skip, encoding = mark_of(head)
        if encoding is None:
            if is_noise(head):
                raise UnreadableFile("binary file: not the lines of text its name promises")
            encoding = guess_encoding(head) if may_guess else "utf-8"
        if encoding.startswith(("utf-16", "utf-32")):
            # Their line ends are not the byte 10; such exports are small.
            text, _ = decode(source.read())
            yield _lines(io.BytesIO(text.encode()), "utf-8", source)
            return
        file.seek(skip, os.SEEK_SET)
        yield _lines(file, encoding, source)


def _lines(file: BinaryIO, encoding: str, source: Source) -> Iterator[Line]:
    number = 0
    while data := file.readline(source.max_bytes + 1):
        number += 1
        if len(data) > source.max_bytes:
            _drain(file, data)
            yield Line(number, "", source.too_large("line"))
            continue
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            yield Line(number, "", f"invalid {encoding} at byte {error.start} of the line; fix it")
            continue
        if "\0" in text:
            yield Line(number, "", "NUL byte in the line; remove it")
            continue
        yield Line(number, text)


def _drain(file: BinaryIO, data: bytes) -> None:
    """Read on to the end of an overlong line, keeping nothing."""
    while data and not data.endswith(b"\n"):
        data = file.readline(_DRAIN_BYTES)
