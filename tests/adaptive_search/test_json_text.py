"""JSON that strangers wrote."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.json_text import MAX_DEPTH, parse_json, shallow_length

DEEP = MAX_DEPTH + 1
SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('[]{}"\\ aé'))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('[{"\\')), inner),
    max_leaves=30,
)


class NeedsStack:
    """Garbage in a cycle, whose finalizer calls a few functions."""

    failed = 0

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        try:
            self._descend(20)
        except RecursionError:
            type(self).failed += 1

    def _descend(self, calls: int) -> None:
        if calls:
            self._descend(calls - 1)


@pytest.fixture
def thresholds() -> Iterator[range]:
    """After how many new objects the garbage collector is to run."""
    before = gc.get_threshold()
    yield range(sys.getrecursionlimit() - 150, sys.getrecursionlimit(), 5)
    gc.set_threshold(*before)


@pytest.mark.parametrize("opening", ["[", '{"a":', '["]", '])
def test_finalizers_have_their_stack(opening: str, thresholds: range) -> None:
    """Catch: a parser at the limit of the stack while garbage is collected (with json.loads)."""
    NeedsStack.failed = 0
    for threshold in thresholds:
        gc.collect()
        NeedsStack()
        gc.set_threshold(threshold)
        with pytest.raises(json.JSONDecodeError, match="nested"):
            parse_json(opening * 2 * sys.getrecursionlimit())
        gc.set_threshold(0)
    gc.collect()
    assert not NeedsStack.failed


@given(VALUES, st.integers(0, MAX_DEPTH + 30), st.booleans())
def test_what_is_shallow_is_parsed_and_the_rest_refused(
    value: object, wrapped: int, ascii_only: bool
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    depth = wrapped + depth_of(value)
    text = '["[\\"", ' * wrapped + text + "]" * wrapped
    if depth <= MAX_DEPTH:
        assert shallow_length(text) == len(text)
        assert parse_json(text) == parse_json(text.encode("utf-8", "surrogatepass"))
    else:
        with pytest.raises(json.JSONDecodeError, match="nested more than 100 levels") as refused:
            parse_json(text)
        assert text[refused.value.pos] in "[{"
        assert refused.value.pos == shallow_length(text)


def depth_of(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, dict | list) + max(map(depth_of, inner), default=0)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("[]" * 1000, 2000),  # much, but not deep
        ("[" * MAX_DEPTH, MAX_DEPTH),
        ("[" * DEEP, MAX_DEPTH),
        ("[" * MAX_DEPTH + "]{" + "[" * 9, MAX_DEPTH + 2),
        ('"' + "[" * 1000, 1001),  # a string without an end
        ('"\\"' + "[" * 1000, 1003),
        ('"\\\\"' + "[" * 1000, 4 + MAX_DEPTH),
        ('"' * 1000 + "[" * 1000, 1000 + MAX_DEPTH),
        ("]" * 1000 + "[" * 1000, 2000),  # no JSON, and a parser stops at once
        ("\ud800[" * 1000, 2 * MAX_DEPTH + 1),
    ],
)
def test_brackets_in_strings_do_not_count(text: str, length: int) -> None:
    assert shallow_length(text) == length


def test_bytes_may_begin_with_a_mark_and_are_utf8() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match="utf-8"):
        parse_json(b'"\xff"')
