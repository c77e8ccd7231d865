"""HTML to text: what a reader of the page would see.

A scanner of our own rather than a tree: nested tags, unclosed comments and
unclosed quotes cost linear time, where parsers that build or mend a tree take
minutes for a hostile file of half a megabyte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from html import unescape

from adaptive_search.documents import Document
from adaptive_search.readers.encoding import decode, mark_of
from adaptive_search.readers.source import Source

_DECLARED = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.I)
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]{0,40})")
_TAG_STOP = re.compile(r"[>\"']")
_SPACE = re.compile(r"\s+")
_HIDDEN = {"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select"}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_PARAGRAPHS = set(
    "address article aside blockquote body center dd details div dl dt fieldset figcaption "
    "figure footer form header hr main nav ol p pre section summary table ul".split()
)
_LINES = {"br", "li", "tr", "option", "caption"}
_CELLS = {"td", "th"}


def read_html(source: Source) -> Iterator[Document]:
    """The visible text of a page; headings become lines that begin with `#`.

    Raises:
        UnreadableFile: too large, binary, or in no known encoding.
    """
    text, title = visible_text(_decode(source.read()))
    yield Document(source.path, source.path, text, title=title, kind="markdown")


def visible_text(page: str) -> tuple[str, str]:
    """Text and title of a page."""
    writer = _Writer()
    for is_markup, piece in _tokens(page):
        if is_markup:
            writer.tag(piece)
        else:
            writer.text(piece)
    return writer.result()


class _Writer:
    """Collects text, with blank lines between blocks and spaces folded as a browser does."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._title: list[str] = []
        self._in_title = False
        self._pre = 0

    def tag(self, name: str) -> None:
        is_end, name = name.startswith("/"), name.lstrip("/")
        if name == "title":
            # Only the first title is the page's; SVG and mail archives hold more.
            self._in_title = not is_end and not self._title
        elif name in _HEADINGS:
            self._break("\n\n")
            if not is_end:
                self._parts.append("#" * _HEADINGS[name] + " ")
        elif name in _PARAGRAPHS:
            self._break("\n\n")
            if name == "pre":
                self._pre = max(0, self._pre + (-1 if is_end else 1))
        elif name in _LINES:
            self._break("\n")
            if name == "li" and not is_end:
                self._parts.append("- ")
        elif name in _CELLS and is_end:
            self._parts.append("\t")

    def text(self, raw: str) -> None:
        text = unescape(raw)
        if self._in_title:
            self._title.append(text)
            return
        if not self._pre:
            text = _SPACE.sub(" ", text)
            if not self._parts or self._parts[-1][-1:].isspace():
                text = text.lstrip()
        if text:
            self._parts.append(text)

    def result(self) -> tuple[str, str]:
        lines = [line.rstrip() for line in "".join(self._parts).split("\n")]
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
        return (text + "\n" if text else ""), " ".join("".join(self._title).split())

    def _break(self, newlines: str) -> None:
        if self._parts:
            self._parts.append(newlines)


def _tokens(page: str) -> Iterator[tuple[bool, str]]:
    """(False, raw text) and (True, tag name, with "/" at an end tag); no hidden parts."""
    position = 0
    while (start := page.find("<", position)) >= 0:
        tag = _TAG.match(page, start)
        if tag is None and page[start + 1 : start + 2] not in ("!", "?", "/"):
            yield False, page[position : start + 1]  # a bare "<" is text
            position = start + 1
            continue
        if start > position:
            yield False, page[position:start]
        if tag is None:
            position = _after(page, "-->" if page.startswith("<!--", start) else ">", start)
            continue
        position = _end_of_tag(page, tag.end())
        name = tag[2].lower()
        if not tag[1] and name in _HIDDEN and page[position - 2 : position] != "/>":
            position = _after_hidden(page, name, position)
        else:
            yield True, tag[1] + name
    if position < len(page):
        yield False, page[position:]


def _after(page: str, mark: str, start: int) -> int:
    end = page.find(mark, start)
    return len(page) if end < 0 else end + len(mark)


def _end_of_tag(page: str, position: int) -> int:
    """Where the tag ends, quotes honoured; a quote that never closes hides the rest."""
    while stop := _TAG_STOP.search(page, position):
        if stop[0] == ">":
            return stop.end()
        position = _after(page, stop[0], stop.end())
    return len(page)


def _after_hidden(page: str, name: str, position: int) -> int:
    end = re.compile(rf"</{name}\b", re.I).search(page, position)
    return _end_of_tag(page, end.end()) if end else len(page)


def _decode(data: bytes) -> str:
    """Decode by mark, by UTF-8, by what the page declares, and last by guessing."""
    declared = _DECLARED.search(data[:4096])
    if declared is None or mark_of(data)[1] is not None or b"\0" in data:
        return decode(data)[0]
    # Browsers read Latin-1 as Windows-1252 (WHATWG Encoding standard).
    name = declared[1].decode("ascii").lower()
    for encoding in ("utf-8", "cp1252" if name in ("iso-8859-1", "latin1") else name):
        with suppress(LookupError, UnicodeError):
            text = data.decode(encoding)
            text.encode()  # Python's own codecs, unicode_escape say, can make half characters
            return text
    return decode(data)[0]
