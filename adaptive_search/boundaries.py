"""Where a text may be cut, and how good each place is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive_search.documents import Kind

# How good a cut is; any other start of a word is 0.
SPACE, LINE, SENTENCE, PARAGRAPH, SECTION = 1, 2, 3, 4, 5
NO_CUT = -1  # inside a word

# Documents may be hostile: no pattern below backtracks over a run more than once.
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_LINE_END = re.compile(r"\n")
# A stop, not after an initial or a common abbreviation, and not before a small letter;
# or a full-width stop. It begins with a set of characters: that is what re searches fast.
_SENTENCE_END = re.compile(
    r"[.!?…。！？](?:(?<=[。！？])[”’」』）]*\s*|"
    r"(?<!\b[A-Z]\.)(?<!\b(?:Dr|Mr|Ms|St|vs|cf|al|No)\.)(?<!\b(?:Mrs|Fig|e\.g|i\.e|etc)\.)"
    r"(?![.!?…])[\"'”’)\]]*\s+(?![a-z\s]))"
)
_MARKDOWN_HEADING = re.compile(
    r"^ {0,3}(?:#{1,6}[ \t]+(?P<atx>\S.*)|(?P<setext>\w.*)\n(?:={3,}|-{3,})[ \t]*\r?)$", re.M
)
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n.*?\n---[ \t]*\r?\n", re.S)
_RST_HEADING = re.compile(
    r"^(?:([=\-~^\"'`#*+.:_])\1{2,}[ \t]*\r?\n[ ]?)?(?P<title>\w.*)\n"
    r"([=\-~^\"'`#*+.:_])\3{2,}[ \t]*\r?$",
    re.M,
)
_CODE_SECTION = re.compile(r"\n[^\S\n]*\n(?=[^\s})\]])")
_DEFINITION = re.compile(
    r"^[ \t]*(?P<definition>(?:(?:export|default|public|private|protected|internal|static|async|"
    r"abstract|final|pub|unsafe|virtual|inline|override)[ \t]+){0,4}"
    r"(?:class|def|fn|func|function|struct|interface|enum|trait|impl|module|namespace|type)"
    r"[ \t]+\w[^\n{:]{0,100})",
    re.M,
)
_HEADINGS: dict[Kind, re.Pattern[str]] = {
    "markdown": _MARKDOWN_HEADING,
    "rst": _RST_HEADING,
    "code": _DEFINITION,
}
_MAX_HEADING_CHARS = 200  # it is tokenized for every chunk below it
_FENCE = re.compile(r"^ {0,3}(```|~~~).*$", re.M)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading (in code: a definition) and the character where it begins."""

    position: int
    text: str


def headings(text: str, kind: Kind) -> list[Heading]:
    """All headings of a text, in order; those inside fenced code are none."""
    pattern = _HEADINGS.get(kind)
    if pattern is None:
        return []
    found = [Heading(match.start(), _heading_text(match)) for match in pattern.finditer(text)]
    if kind != "markdown" or not found:
        return found
    front = _FRONT_MATTER.match(text)
    begin = front.end() if front else 0
    fences = np.fromiter((m.start() for m in _FENCE.finditer(text)), dtype=np.int64)
    return [
        heading
        for heading in found
        if heading.position >= begin and np.searchsorted(fences, heading.position) % 2 == 0
    ]


def _heading_text(match: re.Match[str]) -> str:
    text = next(group for group in match.groupdict().values() if group).strip()
    if len(text) > _MAX_HEADING_CHARS:
        text = text[:_MAX_HEADING_CHARS].rpartition(" ")[0] or text[:_MAX_HEADING_CHARS]
    return text.rstrip("#").rstrip() or text


def cut_levels(
    text: str, kind: Kind, spans: NDArray[np.int32], is_inside_word: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """How good a cut before each token is.

    Args:
        text: what was tokenized.
        kind: of the document.
        spans: int32 (n, 2), start and end character of each token.
        is_inside_word: bool (n,), whether a token goes on with the word before it.

    Returns:
        int8 (n,): NO_CUT, 0, or SPACE to SECTION.
    """
    starts = spans[:, 0]
    levels = np.zeros(len(starts), dtype=np.int8)
    levels[1:][starts[1:] > spans[:-1, 1]] = SPACE
    for level, positions in _places(text, kind):
        at = np.searchsorted(starts, np.fromiter(positions, dtype=np.int64))
        levels[at[at < len(levels)]] = level
    levels[is_inside_word] = NO_CUT
    return levels


def _places(text: str, kind: Kind) -> Iterator[tuple[int, Iterator[int]]]:
    """(level, characters where the next piece would begin), the best level last."""
    if kind == "code":
        yield SENTENCE, _ends(_LINE_END, text)
        yield PARAGRAPH, _ends(_BLANK_LINE, text)
        yield SECTION, _ends(_CODE_SECTION, text)
        return
    yield LINE, _ends(_LINE_END, text)
    yield SENTENCE, _ends(_SENTENCE_END, text)
    yield PARAGRAPH, _ends(_BLANK_LINE, text)
    yield SECTION, (heading.position for heading in headings(text, kind))


def _ends(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    return (match.end() for match in pattern.finditer(text))
