"""Plain text, Markdown, reStructuredText and source code."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptive_search.documents import Document, Kind
from adaptive_search.readers.encoding import decode
from adaptive_search.readers.source import Source

_HEAD_CHARS = 1 << 16
_MARKDOWN_TITLE = re.compile(
    r"^(?:#[ \t]+(?P<atx>\S.*?)[ \t]*#*|(?P<setext>\S.*)\r?\n=+[ \t]*)\r?$", re.M
)
_RST_TITLE = re.compile(
    r"^(?:([=\-~^\"'`#*+.:_])\1{2,}\r?\n[ ]?)?(?P<title>\w.*?)\r?\n([=\-~^\"'`#*+.:_])\3{2,}[ \t]*\r?$",
    re.M,
)


def read_text(source: Source, kind: Kind) -> Iterator[Document]:
    """The whole file as one document, its spans being those of the file.

    Raises:
        UnreadableFile: too large, binary, or in no known encoding.
    """
    text, skip = decode(source.read())
    title = source.path if kind == "code" else _title(text[:_HEAD_CHARS], kind)
    yield Document(source.path, source.path, text, title=title, byte=skip, kind=kind)


def _title(head: str, kind: Kind) -> str:
    if kind == "markdown":
        match = _MARKDOWN_TITLE.search(head)
        return (match["atx"] or match["setext"]).strip() if match else ""
    if kind == "rst":
        match = _RST_TITLE.search(head)
        return match["title"].strip() if match else ""
    return ""
