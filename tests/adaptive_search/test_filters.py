"""Filters against a plain reading of every row: operators, kinds, missing fields, refusals."""

from __future__ import annotations

import fnmatch
import json
import math
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search import filters
from adaptive_search.documents import Scalar
from adaptive_search.errors import QueryError
from adaptive_search.filters import Column, Filters
from adaptive_search.segment import Row
from adaptive_search.store import Store

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
RECORDS: list[dict[str, Scalar]] = [
    {"lang": "en", "year": 2019, "ok": True},
    {"lang": "de", "year": 2020, "ok": False, "mixed": 1},
    {"lang": "en", "year": 2020.5, "mixed": "1"},
    {"lang": "fr", "year": 2024, "ok": True, "mixed": True},
    {"year": 1999, "mixed": 10**30},
    {},
]
PATHS = ["src/a.py", "src/deep/b.py", "docs/[1].md", "", "docs/x.md", "src/a.pyc"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Store:
    """Two segments of the same six records."""
    path = tmp_path_factory.mktemp("filters") / "index"
    kit.create(path)
    for part in range(2):
        with kit.open(path).writer() as writer:
            names = [f"{part}{n}" for n in range(len(RECORDS))]
            rows = [
                Row(name, place, 0, "x", b"h" * 16, metadata=record)
                for name, place, record in zip(names, PATHS, RECORDS, strict=True)
            ]
            writer.append(rows, kit.vectors(len(rows)), dict.fromkeys(names, b"h" * 16))
    return kit.open(path)


def found(store: Store, wanted: Any) -> list[int]:
    """Rows of the first segment; the second must agree."""
    first, second = Filters().rows(store, wanted)
    assert np.array_equal(first, second)
    return np.flatnonzero(first).tolist()


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ({"lang": "en"}, [0, 2]),
        ({"lang": ["en", "fr"]}, [0, 2, 3]),
        ({"lang": ("en", "nowhere")}, [0, 2]),
        ({"lang": []}, []),
        ({"lang": None}, [4, 5]),
        ({"lang": ["de", None]}, [1, 4, 5]),
        ({"lang": "null"}, [4, 5]),  # as a command line gives it
        ({"lang": {"=": "de"}}, [1]),
        ({"lang": {"!=": "en"}}, [1, 3, 4, 5]),
        ({"lang": {"!=": ["en", None]}}, [1, 3]),
        ({"lang": {"!=": None}}, [0, 1, 2, 3]),
        ({"year": {">=": 2020}}, [1, 2, 3]),
        ({"year": {">": 2020, "<": 2024}}, [2]),
        ({"year": {"<=": "2019"}}, [0, 4]),  # a text that spells a number
        ({"year": {"<": -math.inf}}, []),
        ({"year": np.int64(2020)}, [1]),
        ({"year": {">": np.float32(2020)}}, [2, 3]),
        ({"lang": {">": "de", "<=": "fr"}}, [0, 2, 3]),
        ({"ok": True}, [0, 3]),
        ({"ok": "false"}, [1]),
        ({"ok": 1}, []),
        ({"mixed": 1}, [1]),
        ({"mixed": "1"}, [1, 2]),
        ({"mixed": True}, [3]),
        ({"mixed": {">": 5}}, [4]),
        ({"mixed": {">": "0"}}, [1, 2, 4]),
        ({"lang": "en", "year": {"<": 2020}}, [0]),
        ({"path": "src/*"}, [0, 1, 5]),
        ({"path": "*.py"}, [0, 1]),
        ({"path": ["docs/?.md", "src/a.py"]}, [0, 4]),
        ({"path": "docs/[1].md"}, [2]),  # itself, although [1] is a pattern too
        ({"path": {"!=": "src/*"}}, [2, 3, 4]),
        ({"path": {">=": "src/b"}}, [1]),
        ({"path": ""}, [3]),
        ({}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_conditions(store: Store, wanted: Any, rows: list[int]) -> None:
    assert found(store, wanted) == rows


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (
            {"colour": "red"},
            "no chunk has the field colour; there are: lang, mixed, ok, path, year",
        ),
        ({"colour": None}, "no chunk has the field colour"),
        ({"colour": {"!=": "red"}}, "no chunk has the field colour"),
        ({"year": {}}, "no condition; use one of =, !=, <"),
        ({"year": {"=>": 1}}, "operator '=>'; use one of"),
        ({"year": {">": [1, 2]}}, "one number or text"),
        ({"year": {">": None}}, "one number or text"),
        ({"ok": {">": True}}, "one number or text"),
        ({"year": math.nan}, "compared with nan"),
        ({"year": [[1]]}, "compared with \\[1\\]"),
        ({"lang": b"en"}, "compared with b'en'"),
        ({"year": {">": "last year"}}, "year holds numbers, which > cannot order against"),
        ({"lang": {"<": 3}}, "lang holds texts, which < cannot order against 3"),
        ({"ok": {"<": 3}}, "ok holds booleans"),
        ({1: 2}, "named by a text, not by 1"),
    ],
)
def test_refusals(store: Store, wanted: Any, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        Filters().rows(store, wanted)


def test_an_empty_index_has_no_fields_to_miss(tmp_path: Path, kit: Any) -> None:
    assert Filters().rows(kit.create(tmp_path / "i"), {"lang": "en"}) == []


SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab1", max_size=2)
)


@given(values=st.lists(SCALARS, min_size=1, max_size=30), asked=st.lists(SCALARS, max_size=4))
def test_columns_agree_with_reading_every_value(values: list[Any], asked: list[Any]) -> None:
    column = filters._column(
        [filters._key(v) for v in values], np.arange(len(values), dtype=np.int32)
    )

    def rows(condition: Any) -> list[bool]:
        mask = np.ones(len(values), bool)
        for part in filters.conditions({"f": condition}):
            mask &= column.rows(part)
        return mask.tolist()

    equal = [any(same(value, a) for a in asked) for value in values]
    assert rows(asked) == equal
    assert rows({"!=": asked}) == [not e for e in equal]
    for a in (a for a in asked if not isinstance(a, bool | None)):
        readings = [r for r in (a, spelled(a)) if not isinstance(r, bool | None)]
        for name, compare in COMPARE.items():
            expected = [any(is_ordered(v, r) and compare(v, r) for r in readings) for v in values]
            assert rows({name: a}) == expected


def spelled(asked: Any) -> Any:
    try:
        return json.loads(asked) if isinstance(asked, str) else None
    except ValueError:
        return None


def same(value: Any, asked: Any) -> bool:
    if isinstance(asked, str) and isinstance(value, int | float):
        asked = spelled(asked)
    return isinstance(value, bool) is isinstance(asked, bool) and value == asked


def is_ordered(a: Any, b: Any) -> bool:
    if isinstance(a, bool | None):
        return False
    return isinstance(a, str) is isinstance(b, str)


@given(
    st.lists(st.text("ab/[]*?", max_size=4), min_size=1, max_size=20),
    st.text("ab/[]*?", max_size=4),
)
def test_patterns_agree_with_fnmatch(paths: list[str], pattern: str) -> None:
    column = filters._column(
        [filters._key(p) for p in paths], np.arange(len(paths), dtype=np.int32)
    )
    (condition,) = filters.conditions({"path": pattern})
    assert column.rows(condition).tolist() == [
        path == pattern or fnmatch.fnmatchcase(path, pattern) for path in paths
    ]


def test_what_was_parsed_is_kept_and_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, forgetful = Filters(), Filters(column_bytes=1, mask_bytes=1)
    for each in (kept, forgetful):
        each.rows(store, {"lang": "en"})
    calls: list[str] = []
    read = filters.read_columns
    monkeypatch.setattr(
        filters, "read_columns", lambda segment, field: calls.append(field) or read(segment, field)
    )
    for wanted in ({"lang": "en"}, {"lang": "de"}, {"year": 2020}):
        assert [m.tolist() for m in kept.rows(store, wanted)] == [
            m.tolist() for m in forgetful.rows(store, wanted)
        ]
    assert calls == ["lang", "lang", "lang", "lang", "year", "year"]  # none of them by `kept`
    assert forgetful._columns._size == forgetful._found._size == 0


def test_many_values_and_many_fields(
    tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "MAX_FIELDS", 2)
    kit.create(tmp_path / "i")
    names = [f"d{n}" for n in range(600)]
    rows = [
        Row(name, "", 0, "x", b"h" * 16, metadata={f"only{n}": n, "n": n})
        for n, name in enumerate(names)
    ]
    with kit.open(tmp_path / "i").writer() as writer:
        writer.append(rows, kit.vectors(600), dict.fromkeys(names, b"h" * 16))
    store, ours = kit.open(tmp_path / "i"), Filters()
    for n in (0, 299, 599):
        assert np.flatnonzero(ours.rows(store, {f"only{n}": n})[0]).tolist() == [n]
    odd = ours.rows(store, {"n": list(range(1, 600, 2))})[0]
    assert np.array_equal(odd, np.arange(600) % 2 == 1)
    assert len(filters.read_columns(store.segments[0], "n")) == 3


def test_a_column_knows_its_bytes() -> None:
    column = Column([(0, 0), (3, "word")], np.zeros(100, np.uint8))
    assert column.nbytes > 100 and column.kinds == {0, 3}
