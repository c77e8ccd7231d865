"""Text for terminals: aligned, whole, and free of commands to the terminal."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest

from adaptive_search.documents import Skipped
from adaptive_search.hits import Hit, Hits
from adaptive_search.indexing import IndexSummary
from adaptive_search.terminal import counter, format_fields, format_hits, format_summary, progress

EVIL = "green \x1b[2Jleaf\x07 \x9b1m\r\nwater\u202e"


def hits(*texts: str, path: str = "a.txt", query: str = "leaf") -> Hits:
    found = tuple(
        Hit(n, 0.5, f"id{EVIL}#{n}", "id", path, 3, 4, text, {})
        for n, text in enumerate(texts, start=1)
    )
    timings = dict.fromkeys(("encode", "shortlist", "rerank", "total"), 0.0)
    return Hits(query, 512, 1000, 2, found, timings, ())


def test_table() -> None:
    shown = format_hits(hits("a green leaf", "water"), "table", columns=80, highlight=False)
    assert shown == (
        "  1  0.5000 a.txt:3\n            a green leaf\n  2  0.5000 a.txt:3\n            water\n"
    )
    marked = format_hits(hits("a green leaf"), "table", columns=80, highlight=True)
    assert "a green \x1b[1mleaf\x1b[0m\n" in marked
    assert format_hits(hits(), "table", columns=80, highlight=False) == ""


@pytest.mark.parametrize("path", ["", f"{EVIL}.txt"])
@pytest.mark.parametrize("columns", [0, 40, 200])
def test_no_command_reaches_the_terminal(path: str, columns: int) -> None:
    found = hits(EVIL * 50, path=path, query=EVIL)
    shown = format_hits(found, "table", columns=columns, highlight=False)
    assert all(c == "\n" or c.isprintable() for c in shown) and shown.count("\n") == 2
    assert max(map(len, shown.splitlines()[1:])) <= max(columns, 40)
    fields = format_fields({"path": EVIL, "list": [EVIL], "number": 1234567, "none": None})
    assert all(c == "\n" or c.isprintable() for c in fields)
    assert fields.endswith("number  1,234,567\nnone    -\n")


def test_programs_get_the_text_itself() -> None:
    found = hits(EVIL, 'quote " and, comma')
    record = json.loads(format_hits(found, "json", columns=80, highlight=True))
    assert record["hits"][0]["text"] == EVIL and record["granularity"] == "1/2"
    lines = format_hits(found, "jsonl", columns=80, highlight=True).splitlines()
    assert [json.loads(line) for line in lines] == record["hits"]
    table = format_hits(found, "csv", columns=80, highlight=True)
    rows = list(csv.DictReader(io.StringIO(table)))
    assert rows[1]["text"] == 'quote " and, comma'
    assert "\x1b" not in table and "\x9b" not in table and rows[0]["text"].endswith("\u202e")


def test_summary() -> None:
    summary = IndexSummary(1500, 1200, 299, 4, [Skipped("x", "y")], 2000, 30000, 1.25)
    assert format_summary(summary) == (
        "1,500 seen = 1,200 indexed + 299 unchanged + 1 skipped; 4 deleted; "
        "2,000 chunks, 30,000 tokens in 1.2 s"
    )


def test_progress_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for quiet, terminal, expected in ((False, True, 3), (True, True, 0), (False, False, 0)):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        with progress(quiet) as report:
            report(IndexSummary(seen=12, chunks=34, tokens=56))
            report(IndexSummary(seen=13, chunks=35, tokens=57))
        assert stream.getvalue().count("\r\x1b[K") == expected
        with counter(quiet, "mixes") as count:
            count(1234)
        assert ("1,234 mixes" in stream.getvalue()) == bool(expected)
        assert ("12 documents seen, 34 chunks, 56 tokens" in stream.getvalue()) == bool(expected)
