"""Results as text for a terminal; nothing from a document reaches it raw."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adaptive_search.hits import HIT_FIELDS
from adaptive_search.snippets import make_snippet, plain_text

if TYPE_CHECKING:
    from adaptive_search.hits import Hits
    from adaptive_search.indexing import IndexSummary

MIN_COLUMNS = 40
INDENT = " " * 12
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
ERASE_LINE = "\r\x1b[K"


def format_summary(summary: IndexSummary) -> str:
    """What an indexing run did, in one line."""
    return (
        f"{summary.seen:,} seen = {summary.indexed:,} indexed + {summary.unchanged:,} unchanged + "
        f"{len(summary.skipped):,} skipped; {summary.deleted:,} deleted; "
        f"{summary.chunks:,} chunks, {summary.tokens:,} tokens in {summary.seconds:.1f} s"
    )


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[IndexSummary], None]]:
    """What shows a running summary on stderr, if that is a terminal and it is wanted."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    begin = time.perf_counter()

    def show(summary: IndexSummary) -> None:
        rate = summary.tokens / (time.perf_counter() - begin)
        sys.stderr.write(
            f"{ERASE_LINE}{summary.seen:,} documents seen, {summary.chunks:,} chunks, "
            f"{summary.tokens:,} tokens, {rate:,.0f} tokens/s"
        )
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write(ERASE_LINE)


@contextmanager
def counter(quiet: bool, what: str) -> Iterator[Callable[[int], None]]:
    """What shows a running count on stderr, if that is a terminal and it is wanted."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return

    def show(count: int) -> None:
        sys.stderr.write(f"{ERASE_LINE}{count:,} {what}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write(ERASE_LINE)


def format_hits(hits: Hits, output: str, *, columns: int, highlight: bool) -> str:
    """Hits as table, json, jsonl or csv.

    Args:
        hits: of one query.
        output: the format.
        columns: width of the terminal, for snippets.
        highlight: mark the words of the query with ANSI bold.
    """
    record = hits.to_dict()
    if output == "json":
        return json.dumps(record) + "\n"
    if output == "jsonl":
        return "".join(json.dumps(hit) + "\n" for hit in record["hits"])
    if output == "csv":
        return _csv(record["hits"])
    return "".join(
        _two_lines(hits, i, max(columns, MIN_COLUMNS), highlight) for i in range(len(hits))
    )


def format_fields(record: dict[str, Any]) -> str:
    """Names and values, one pair a line."""
    width = max(map(len, record))
    return "".join(f"{name:<{width}}  {_shown(value)}\n" for name, value in record.items())


def _shown(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, list | tuple):
        return ", ".join(plain_text(str(item)) for item in value) or "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else plain_text(str(value))


def _two_lines(hits: Hits, at: int, columns: int, highlight: bool) -> str:
    hit = hits[at]
    place = plain_text(f"{hit.path}:{hit.line_start}" if hit.path else hit.id)
    head = f"{hit.rank:>3}  {hit.score:.4f} {place}"
    snippet = make_snippet(hit.text, hits.query, width=columns - len(INDENT), highlight=highlight)
    return f"{head}\n{INDENT}{snippet}\n"


def _csv(hits: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, HIT_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(hits)
    # A table that people also print: what moves a cursor must not be in it. JSON has every byte.
    return CONTROLS.sub("\ufffd", text.getvalue())
