from __future__ import annotations

import re
import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.snippets import make_snippet, plain_text

LONG = "Nothing here. " * 40 + "Plants store energy in sugar. " + "Nothing there. " * 40


def test_no_control_or_format_character_survives() -> None:
    bad = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    shown = plain_text("".join(f"{char}x" for char in bad))
    assert shown.isprintable()


def test_white_space_is_folded() -> None:
    assert plain_text(" a\t\tb\r\n c\u00a0d\u2028e ") == "a b c d e"


def test_escape_sequences_become_harmless() -> None:
    assert "\x1b" not in make_snippet("\x1b[2J\x1b]0;owned\x07 hi \x9b31m", "hi")


def test_a_short_text_is_shown_whole() -> None:
    assert make_snippet("Plants store energy.", "energy") == "Plants store energy."


def test_the_window_holds_the_words_of_the_query() -> None:
    snippet = make_snippet(LONG, "how do plants store energy", width=60)
    assert "Plants store energy" in snippet
    assert snippet.startswith("…")
    assert snippet.endswith("…")
    assert len(snippet) <= 60


def test_words_are_marked_only_when_asked_whatever_their_ending() -> None:
    marked = make_snippet("The plant stored energies", "plants store energy", highlight=True)
    assert re.findall(r"\x1b\[1m(.*?)\x1b\[0m", marked) == ["plant", "stored", "energies"]
    assert "\x1b" not in make_snippet("The plant stored energies", "plants store energy")


def test_stop_words_are_not_marked_beside_telling_ones() -> None:
    assert make_snippet("the leaf", "the leaf", highlight=True).startswith("the ")
    assert make_snippet("the leaf", "the", highlight=True).startswith("\x1b[1mthe")


def test_wide_characters_count_twice() -> None:
    assert len(make_snippet("植" * 100, "x", width=20)) <= 10 + 1


def test_a_query_of_a_hundred_thousand_words_is_fine() -> None:
    assert len(make_snippet(LONG * 20, "plants " * 100_000, width=80)) <= 80


def test_a_text_of_nothing_but_hits_is_fast() -> None:
    start = time.perf_counter()
    make_snippet("leaf " * 20_000, "leaf", width=160)
    assert time.perf_counter() - start < 2


@given(st.text(max_size=400), st.text(max_size=40), st.integers(8, 90))
def test_a_snippet_fits_and_is_printable(text: str, query: str, width: int) -> None:
    snippet = make_snippet(text, query, width=width)
    assert snippet.isprintable()
    columns = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in snippet)
    assert columns <= width
    escapes = re.compile(r"\x1b\[[01]m")
    assert escapes.sub("", make_snippet(text, query, width=width, highlight=True)) == snippet


def test_a_width_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        make_snippet("x", "x", width=3)
