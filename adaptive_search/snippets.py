"""A chunk on one line of a terminal: the best part, safe to print, words marked."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    "a an and are as at be by can did do does for from had has have how i in is it its of on or "
    "that the their this to was were what when where which who why will with".split()
)
_MARK, _END_MARK = "\x1b[1m", "\x1b[0m"
_MAX_QUERY_WORDS = 64
_MIN_STEM = 3
_SUFFIXES = ("ies", "ing", "ed", "es", "s", "y", "e")


class _Hit(NamedTuple):
    """A word of the query in a text."""

    start: int
    end: int
    stem: str


def plain_text(text: str) -> str:
    """Text on one line that no terminal can mistake for a command.

    White space of any kind is folded to single spaces. Every other character that
    prints nothing (C0, C1, ESC, bidi overrides, zero-width marks, unassigned and
    surrogate code points) becomes a replacement character.
    """
    folded = " ".join(text.split())
    if folded.isprintable():
        return folded
    return "".join(c if c.isprintable() else "\ufffd" for c in folded)


def make_snippet(text: str, query: str, *, width: int = 160, highlight: bool = False) -> str:
    """The part of a text with most of the query's words, on one line.

    Args:
        text: of a chunk; anything may be in it.
        query: whose words are looked for.
        width: columns of the result at most, escapes not counted; at least 8.
        highlight: mark the words with ANSI bold.
    """
    if width < 8:
        raise ValueError(f"width={width} must be at least 8")
    line = plain_text(text)
    wanted = _terms(query)
    stems = ((m.start(), m.end(), _stem(m[0])) for m in _WORD.finditer(line))
    hits = [_Hit(*found) for found in stems if found[2] in wanted]
    start, end = _window(line, hits, width)
    piece = ("…" if start else "") + line[start:end] + ("…" if end < len(line) else "")
    return _marked(piece, wanted) if highlight else piece


def _terms(query: str) -> set[str]:
    words = [m[0] for m, _ in zip(_WORD.finditer(query), range(_MAX_QUERY_WORDS), strict=False)]
    telling = [w for w in words if w.casefold() not in _STOP_WORDS]
    return {_stem(word) for word in telling or words}


def _stem(word: str) -> str:
    """A word without a common English ending, so that `stores` finds `stored`."""
    word = word.casefold()
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _MIN_STEM:
            return word[: -len(suffix)]
    return word


def _window(line: str, hits: list[_Hit], width: int) -> tuple[int, int]:
    """The characters to show: those with most different words, a little before the first."""
    if _columns(line) <= width:
        return 0, len(line)
    room = width - 2  # an ellipsis at either end
    before = width // 5  # shown before the first word of the query
    best, best_score = 0, 0
    inside: deque[_Hit] = deque()  # from the end: what follows each hit within the room
    for hit in reversed(hits):
        inside.appendleft(hit)
        while inside[-1].end > hit.start + room - before and len(inside) > 1:
            inside.pop()
        score = len({other.stem for other in inside})
        if score >= best_score:
            best, best_score = hit.start, score
    start = _word_start(line, max(0, best - before)) if best_score else 0
    end = _fit(line, start, room)
    if end == len(line):  # the end of the text: show more of what is before it
        start = _fit_back(line, room)
    return start, end


def _word_start(line: str, position: int) -> int:
    if position == 0 or line[position - 1] == " ":
        return position
    space = line.find(" ", position, position + 24)
    return space + 1 if space >= 0 else position


def _fit(line: str, start: int, columns: int) -> int:
    """One past the last character that fits, at the end of a word if one is near."""
    used, end = 0, start
    while end < len(line) and used + _width(line[end]) <= columns:
        used += _width(line[end])
        end += 1
    if end < len(line) and line[end] != " ":
        space = line.rfind(" ", max(start + 1, end - 24), end)
        end = space if space > 0 else end
    return end


def _fit_back(line: str, columns: int) -> int:
    used, start = 0, len(line)
    while start and used + _width(line[start - 1]) <= columns:
        start -= 1
        used += _width(line[start])
    return min(_word_start(line, start), len(line))


def _columns(line: str) -> int:
    return len(line) if line.isascii() else sum(map(_width, line))


def _width(char: str) -> int:
    # A combining mark counts as a column too: piles of them must not run on for ever.
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _marked(piece: str, wanted: set[str]) -> str:
    return "".join(_mark_words(piece, wanted))


def _mark_words(piece: str, wanted: set[str]) -> Iterator[str]:
    position = 0
    for match in _WORD.finditer(piece):
        if _stem(match[0]) in wanted:
            yield f"{piece[position : match.start()]}{_MARK}{match[0]}{_END_MARK}"
            position = match.end()
    yield piece[position:]
