"""Plain text, Markdown, reStructuredText and source code."""

from __future__ import annotations

from collections.abc import Iterator

from adaptive_search.boundaries import headings
from adaptive_search.documents import Document, Kind
from adaptive_search.readers.encoding import decode
from adaptive_search.readers.source import Source

_HEAD_CHARS = 1 << 14  # the title of a document stands near its top


def read_text(source: Source, kind: Kind) -> Iterator[Document]:
    """The whole file as one document, its spans being those of the file.

    Raises:
        UnreadableFile: too large, binary, or in no known encoding.
    """
    text, skip = decode(source.read())
    title = source.path if kind == "code" else _title(text[:_HEAD_CHARS], kind)
    yield Document(source.path, source.path, text, title=title, byte=skip, kind=kind)


def _title(head: str, kind: Kind) -> str:
    found = headings(head, kind)
    return found[0].text if found else ""
