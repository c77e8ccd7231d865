"""How granularities are spelled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.encoder.granularity import (
    Granularity,
    granularity_name,
    parse_granularity,
)
from adaptive_search.errors import QueryError


@pytest.mark.parametrize(
    ("granularity", "name"),
    [
        (1, "1"),
        (2, "1/2"),
        (8, "1/8"),
        ((24, 12, 12, 6, 6, 3), "24,12,12,6,6,3"),
        ((5,), "5,"),
    ],
)
def test_names(granularity: Granularity, name: str) -> None:
    assert granularity_name(granularity) == name
    assert parse_granularity(name) == granularity


@given(
    st.integers(1, 9999)
    | st.lists(st.integers(1, 999_999), min_size=1, max_size=50).map(lambda heads: tuple(heads))
)
def test_a_name_is_read_as_it_was_written(granularity: Granularity) -> None:
    assert parse_granularity(granularity_name(granularity)) == granularity


def test_blanks_between_heads() -> None:
    assert parse_granularity(" 24, 12 ") == (24, 12)


@pytest.mark.parametrize(
    "text",
    ["", ",", "0", "2", "24", "1/0", "1/-2", "2/4", "1/2/2", "0.5", "-1,2", "0,1", "1,,2"]
    + ["1/99999", "9" * 5000, "1," + "9" * 5000, "a", "\N{ARABIC-INDIC DIGIT TWO},1", "1/2,1/4"],
)
def test_what_spells_none(text: str) -> None:
    with pytest.raises(QueryError, match="must be a divisor such as 1, 1/2, .*24,12,12,6,6,3"):
        parse_granularity(text)
