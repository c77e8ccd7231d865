"""Documents to chunks: tokenized once, cut where a reader would cut."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive_search.boundaries import Heading, cut_levels, headings
from adaptive_search.documents import Document, Kind, Scalar
from adaptive_search.encoder.tokenizer import Ids, Tokenizer

MIN_TOKENS = 16
# The tokenizer slows down on longer texts, and no chunk is longer than a window.
WINDOW_CHARS = 1 << 15
_WINDOW_CUTS = tuple(re.compile(p) for p in (r"\n[^\S\n]*\n\s*", r"\n", r"\s", r"\W"))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document, ready for the encoder.

    Without overlap the texts of a document's chunks, put together, are its text.

    Attributes:
        document_id: of the document.
        path: of its file, printable.
        ordinal: 0-based place among the chunks of the document.
        text: exactly the bytes of its span.
        byte_start: first byte. Of the file for UTF-8 text; of the extracted or decoded
            text, as UTF-8, for other formats; of the record's text for a record.
        byte_end: one past the last byte.
        line_start: 1-based line of the first character that is not blank; the record's
            line or row for a record.
        line_end: line of the last such character.
        ids: int32 (tokens,), framed: title, nearest heading, text.
        metadata: of the document.
    """

    document_id: str
    path: str
    ordinal: int
    text: str
    byte_start: int
    byte_end: int
    line_start: int
    line_end: int
    ids: Ids
    metadata: Mapping[str, Scalar]


class Chunker:
    """Cuts documents into chunks of at most `max_tokens` tokens, framing included."""

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int = 256, overlap: int = 0, context: int = 8192
    ) -> None:
        """Choose the sizes.

        Args:
            tokenizer: of the encoder.
            max_tokens: most tokens of a chunk, with [CLS], [SEP], title and heading.
            overlap: about how many tokens the end of a chunk and the next have in common.
            context: most tokens the encoder reads.

        Raises:
            ValueError: a size that makes no sense.
        """
        if not MIN_TOKENS <= max_tokens <= context:
            raise ValueError(
                f"max_tokens={max_tokens} must be from {MIN_TOKENS} to the encoder's {context}"
            )
        if not 0 <= overlap <= max_tokens // 4:
            raise ValueError(f"overlap={overlap} must be from 0 to max_tokens / 4")
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._overlap = overlap
        # Title and heading may take a quarter; what is longer is cut, being context only.
        self._max_context = max_tokens // 4
        self._is_inside_word = tokenizer.continues_word

    def chunks(self, document: Document) -> Iterator[Chunk]:
        """The chunks of a document, in order; at least one."""
        title = self._ids(document.title[: 16 * self._max_context])[: self._max_context]
        cursor = _Cursor(document)
        heading, ordinal = "", 0
        for start, end in _windows(document.text):
            text = document.text[start:end]
            window = _Window(text, document.kind, heading, title)
            for first, last, body, context in self._pieces(window):
                yield cursor.chunk(ordinal, start + first, start + last, self._frame(context, body))
                ordinal += 1
            heading = window.heading

    def _pieces(self, window: _Window) -> Iterator[tuple[int, int, Ids, Ids]]:
        """(first character, one past the last, ids, ids of its context) of each chunk."""
        text, title = window.text, window.title
        ids, spans = self._tokenizer.tokenize(text)
        if len(ids) + len(title) + 2 <= self.max_tokens and not window.heading:
            window.heading = _last_heading(text, window.kind)
            yield 0, len(text), ids, title
            return
        levels = cut_levels(text, window.kind, spans, self._is_inside_word[ids])
        found = headings(text, window.kind)
        places = [h.position for h in found]
        start, first = 0, 0
        while True:
            heading = _heading_at(found, places, first, window.heading)
            context = self._context(title, heading)
            budget = self.max_tokens - 2 - len(context)
            cut = _next_cut(levels, start, budget)
            last = _cut_character(text, spans, cut)
            yield first, last, ids[start:cut], context
            if cut == len(ids):
                break
            start = _step_back(levels, start, cut, self._overlap)
            first = last if start == cut else _cut_character(text, spans, start)
        window.heading = found[-1].text if found else window.heading

    def _context(self, title: Ids, heading: str) -> Ids:
        if not heading:
            return title
        return np.concatenate([title, self._ids(heading)])[: self._max_context]

    def _ids(self, text: str) -> Ids:
        return self._tokenizer.tokenize(text)[0] if text else np.empty(0, dtype=np.int32)

    def _frame(self, context: Ids, body: Ids) -> Ids:
        # A chunk that begins with its title has no need to hear it twice.
        if len(context) and not np.array_equal(context, body[: len(context)]):
            body = np.concatenate([context, body])
        return self._tokenizer.frame(body, context=self.max_tokens)


@dataclass(slots=True)
class _Window:
    """A part of a document that is tokenized at once."""

    text: str
    kind: Kind
    heading: str  # the one that holds where the window begins; then where it ends
    title: Ids


class _Cursor:
    """Counts bytes and lines from chunk to chunk, so that each is looked at once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._position = 0
        self._byte = document.byte
        self._line = document.line

    def chunk(self, ordinal: int, start: int, end: int, ids: Ids) -> Chunk:
        document = self._document
        self._advance(start)
        text = document.text[start:end]
        line_start = line_end = document.line
        if document.kind != "record":
            line_start = self._line + _lines(text[: len(text) - len(text.lstrip())])
            line_end = max(line_start, self._line + _lines(text.rstrip()))
        return Chunk(
            document_id=document.id,
            path=document.path,
            ordinal=ordinal,
            text=text,
            byte_start=self._byte,
            byte_end=self._byte + _bytes(text),
            line_start=line_start,
            line_end=line_end,
            ids=ids,
            metadata=document.metadata,
        )

    def _advance(self, position: int) -> None:
        between = self._document.text[self._position : position]
        self._byte += _bytes(between)
        self._line += _lines(between)
        self._position = position


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """Parts of at most WINDOW_CHARS, ending at the best place of their last quarter."""
    start = 0
    while len(text) - start > WINDOW_CHARS:
        limit = start + WINDOW_CHARS
        end = limit
        for pattern in _WINDOW_CUTS:
            places = list(pattern.finditer(text, limit - WINDOW_CHARS // 4, limit))
            if places:
                end = places[-1].end()
                break
        yield start, end
        start = end
    yield start, len(text)


def _next_cut(levels: NDArray[np.int8], start: int, budget: int) -> int:
    """The token before which the chunk that begins at `start` ends.

    The rest is thought of as equal parts; the cut is the best one near the end of
    the first, so that no small remainder is left at the end.
    """
    rest = len(levels) - start
    if rest <= budget:
        return len(levels)
    target = -(-rest // -(-rest // budget))
    low, high = max(1, target // 2), min(budget, rest - budget // 4)
    candidates = levels[start + low : start + high + 1]
    best = candidates.max()
    if best < 0:  # one word longer than the budget: between its pieces
        return start + budget
    places = np.flatnonzero(candidates == best) + low
    return start + int(places[np.abs(places - target).argmin()])


def _step_back(levels: NDArray[np.int8], start: int, cut: int, overlap: int) -> int:
    """Where the next chunk begins: the best place of the last `overlap` tokens."""
    low = max(start + 1, cut - overlap)
    if low >= cut:
        return cut
    candidates = levels[low:cut]
    return low + int(candidates.argmax()) if candidates.max() >= 0 else cut


def _cut_character(text: str, spans: NDArray[np.int32], token: int) -> int:
    """The character where a chunk that begins with this token begins."""
    if token == 0:
        return 0
    if token == len(spans):
        return len(text)
    position = int(spans[token, 0])
    # The indentation of a line belongs to the line.
    line = text.rfind("\n", int(spans[token - 1, 1]), position)
    return line + 1 if line >= 0 else position


def _last_heading(text: str, kind: Kind) -> str:
    found = headings(text, kind)
    return found[-1].text if found else ""


def _heading_at(found: list[Heading], places: list[int], position: int, before: str) -> str:
    """The heading above a character; none when a heading begins right there."""
    index = bisect_right(places, position) - 1
    if index < 0:
        return before
    return "" if places[index] == position else found[index].text


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _lines(text: str) -> int:
    return text.count("\n")
