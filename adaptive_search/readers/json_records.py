"""JSON Lines, and JSON files that are a list of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from adaptive_search.documents import Document, Skipped
from adaptive_search.json_text import TOO_DEEP, shallow_length
from adaptive_search.readers.encoding import decode
from adaptive_search.readers.lines import open_lines
from adaptive_search.readers.records import record_document
from adaptive_search.readers.source import Source

# NaN and Infinity are not JSON, yet common in exports: they say "no value".
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)
_RECORDS = re.compile(r"\s*\[\s*(?=\{)")
_BETWEEN = re.compile(r"\s*(,|\])\s*")
_SPACE = re.compile(r"\s*")


def read_json_lines(source: Source) -> Iterator[Document | Skipped]:
    """One record a line; a bad line is skipped alone.

    Raises:
        UnreadableFile: binary. (JSON is UTF-8: RFC 8259, section 8.1.)
    """
    with open_lines(source, may_guess=False) as lines:
        for line in lines:
            if line.reason:
                yield source.skipped(line.number, line.reason)
            elif line.text.strip():
                yield _parse_line(source, line.number, line.text)


def read_json(source: Source) -> Iterator[Document | Skipped]:
    """One document a record of a list of objects; any other JSON is one text.

    Raises:
        UnreadableFile: too large, binary, or in no known encoding.
    """
    text, skip = decode(source.read())
    opening = _RECORDS.match(text)
    if opening is None:
        yield Document(source.path, source.path, text, title=source.path, byte=skip, kind="code")
        return
    yield from _list_items(source, text, opening.end())


def _list_items(source: Source, text: str, position: int) -> Iterator[Document | Skipped]:
    """Parse the list item by item: the text is held once, the objects one at a time."""
    number, shallow = 0, _shallow(text)
    while True:
        number += 1
        try:
            value, end = _decode(shallow, position, text)
        except ValueError as error:
            yield source.skipped(number, f"{_reason(error)}; the rest of the list is not read")
            return
        yield _record(source, number, value)
        separator = _BETWEEN.match(text, end)
        if separator is None:
            reason = "no comma or bracket after this item; the rest of the list is not read"
            yield source.skipped(number + 1, reason)
            return
        if separator[1] == "]":
            return
        position = separator.end()


def _parse_line(source: Source, number: int, line: str) -> Document | Skipped:
    start = _SPACE.match(line)
    try:
        value, end = _decode(_shallow(line), start.end() if start else 0, line)
    except ValueError as error:
        return source.skipped(number, _reason(error))
    if line[end:].strip():
        return source.skipped(number, "invalid JSON (more text after the value); fix the line")
    return _record(source, number, value)


def _shallow(text: str) -> str:
    """As much of a text as the decoder may see."""
    return text[: shallow_length(text)]


def _decode(shallow: str, position: int, text: str) -> tuple[object, int]:
    """The value that begins at a position, and where it ends.

    Raises:
        ValueError: there is none, or it goes on in the part of the text that nests too deeply.
    """
    try:
        return _DECODER.raw_decode(shallow, position)
    except json.JSONDecodeError as error:
        if error.pos < len(shallow) or len(shallow) == len(text):
            raise
        raise json.JSONDecodeError(TOO_DEEP, text, error.pos) from None


def _record(source: Source, number: int, value: object) -> Document | Skipped:
    if not isinstance(value, dict):
        kind = type(value).__name__
        return source.skipped(number, f"a record must be a JSON object; this is a {kind}")
    return record_document(source, number, value)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON ({error.msg} at column {error.colno}); fix the record"
    return "invalid JSON (a number is too long); fix the record"
