"""CSV and TSV: one document a row, read as a stream."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from adaptive_search.documents import Document, Skipped
from adaptive_search.readers.lines import Line, open_lines
from adaptive_search.readers.records import record_document
from adaptive_search.readers.source import Source

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_MAX_NAME_CHARS = 100


class _BadRow(Exception):
    """A row cannot be had; the message says why."""


class _RowLines:
    """Feeds csv.reader, and stops a quote that never closes from swallowing the file.

    An iterator object rather than a generator, because reading goes on after a bad row.
    """

    def __init__(self, lines: Iterator[Line], source: Source) -> None:
        self.number = 0
        self._lines = lines
        self._source = source
        self._row_size = 0

    def begin_row(self) -> None:
        self._row_size = 0

    def __iter__(self) -> _RowLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        self._row_size += len(line.text)
        if line.reason:
            raise _BadRow(line.reason)
        if self._row_size > self._source.max_bytes:
            raise _BadRow(self._source.too_large("row (is a quote left open?)"))
        return line.text


def read_delimited(source: Source, delimiter: str | None) -> Iterator[Document | Skipped]:
    """One record a row; a bad row is skipped alone.

    The first row names the fields, unless one of its cells is a number, empty,
    repeated or too long for a name; then they are called column 1, column 2, ...

    Args:
        source: the file.
        delimiter: the tab of a TSV; None to find it in the first row of a CSV.

    Raises:
        UnreadableFile: binary, or in no known encoding.
    """
    # The limit is csv's, for the whole process; rows are bounded by _RowLines.
    csv.field_size_limit(max(csv.field_size_limit(), source.max_bytes))
    with open_lines(source, may_guess=True) as lines:
        header: list[str] | None = None
        for number, row in _rows(lines, source, delimiter):
            if isinstance(row, str):
                yield source.skipped(number, row)
                continue
            if header is None:
                header, is_header = _header(row)
                if is_header:
                    continue
            yield _record(source, number, header, row)


def _rows(
    lines: Iterator[Line], source: Source, delimiter: str | None
) -> Iterator[tuple[int, list[str] | str]]:
    """(first line, cells) of each row that is not blank; (line, reason) of a bad one."""
    feed = _RowLines(lines, source)
    if delimiter is None:
        first = next(lines, None)
        if first is None:
            return
        delimiter = max(",;\t|", key=first.text.count)
        feed = _RowLines(_chain(first, lines), source)
    is_tsv = delimiter == "\t"
    # In a TSV a quote is an ordinary character, except around a whole cell.
    reader = csv.reader(
        feed,
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL,
        strict=True,
    )
    while True:
        feed.begin_row()
        number = feed.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except _BadRow as error:
            yield number, str(error)
        except csv.Error as error:
            yield number, f"invalid CSV ({error}); fix the quotes of this row"
        else:
            if any(cell.strip() for cell in row):
                yield number, [_unquoted(cell) for cell in row] if is_tsv else row


def _chain(first: Line, lines: Iterator[Line]) -> Iterator[Line]:
    yield first
    yield from lines


def _unquoted(cell: str) -> str:
    if len(cell) >= 2 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"')
    return cell


def _header(row: list[str]) -> tuple[list[str], bool]:
    names = [cell.strip() for cell in row]
    is_header = len(set(names)) == len(names) and all(
        name and len(name) <= _MAX_NAME_CHARS and not _NUMBER.fullmatch(name) for name in names
    )
    return (names, True) if is_header else ([f"column {i + 1}" for i in range(len(row))], False)


def _record(source: Source, number: int, header: list[str], row: list[str]) -> Document | Skipped:
    if any(cell.strip() for cell in row[len(header) :]):
        return source.skipped(
            number, f"{len(row)} cells where the first row has {len(header)}; fix the row"
        )
    fields = {name: _typed(cell) for name, cell in zip(header, row, strict=False)}
    return record_document(source, number, fields)


def _typed(cell: str) -> str | int | float:
    """A number where it reads back as the same characters, so that 007 and 1.10 stay text."""
    if not _NUMBER.fullmatch(cell) or len(cell) > 17:
        return cell
    value = float(cell) if "." in cell else int(cell)
    return value if str(value) == cell else cell
