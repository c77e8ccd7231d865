"""Exact ranking over segments against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.indexes.flat import FunnelSegment, merge, rank, unit_rows


def bands_of(n: int, widths: tuple[int, ...] = (4, 4), seed: int = 0) -> list[NDArray[np.float16]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, w)).astype(np.float16) for w in widths]


def test_segments_are_ranked_as_one() -> None:
    parts = [bands_of(n, seed=n) for n in (5, 0, 9, 1)]
    whole = [np.concatenate([part[b] for part in parts]) for b in range(2)]
    queries = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    many = rank([FunnelSegment(part) for part in parts], queries, 2, 4, masks=[None] * 4)
    one = rank([FunnelSegment(whole)], queries, 2, 4, masks=[None])
    np.testing.assert_array_equal(many[0], one[0])
    np.testing.assert_array_equal(many[1], one[1])


def test_merge_breaks_ties_by_row_and_pads() -> None:
    first = (np.array([[1.0, 0.5]], np.float32), np.array([[3, 1]]))
    second = (np.array([[1.0, 0.5]], np.float32), np.array([[10, 12]]))
    scores, rows = merge([first, second], 1, 6)
    assert rows.tolist() == [[3, 10, 1, 12, -1, -1]]
    assert scores.tolist() == [[1, 1, 0.5, 0.5, -np.inf, -np.inf]]


def test_no_segments_give_padding() -> None:
    scores, rows = rank([], np.ones((2, 3), np.float32), 1, 4, masks=[])
    assert (rows == -1).all()
    assert scores.shape == (2, 4)


def test_unit_rows_keeps_zero_rows() -> None:
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, np.array([[0.6, 0.8], [0.0, 0.0]]))
    assert rows.dtype == np.float32


def test_parts_of_a_segment_must_fit_together() -> None:
    bands = bands_of(5)
    with pytest.raises(ValueError, match="lowest band"):
        FunnelSegment([])
    with pytest.raises(ValueError, match="5 rows"):
        FunnelSegment([bands[0], bands[1][:4]])
    with pytest.raises(ValueError, match="5 rows"):
        FunnelSegment(bands, live=np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="5 rows"):
        FunnelSegment(bands, lengths=[np.ones(5, np.float32), np.ones(6, np.float32)])
    with pytest.raises(ValueError, match="5 rows"):
        FunnelSegment(bands, lists=np.zeros(4, np.uint32))
