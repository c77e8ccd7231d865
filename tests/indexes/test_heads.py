"""Which list a new row goes to."""

from __future__ import annotations

import numpy as np
import pytest

from adaptive_search.indexes import heads
from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.heads import assign


def clustered(count: int, groups: int, seed: int) -> np.ndarray:
    """Unit vectors around some middles, those of a middle together: float32 (count, 16)."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(7).standard_normal((groups, 16))
    near = middles[np.arange(count) * groups // count] + 0.5 * rng.standard_normal((count, 16))
    return unit_rows(near.astype(np.float32))


def test_extremes_are_those_of_the_numbers() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((5000, 7)) * [1, 1e-6, 1e4, 1, 0, 1, 1]).astype(np.float16)
    rows[:, 5], rows[:, 6] = np.abs(rows[:, 5]), -np.abs(rows[:, 6])
    low, high = heads._extremes(rows)
    assert low.dtype == high.dtype == np.float32
    np.testing.assert_array_equal(low, rows.min(axis=0))
    np.testing.assert_array_equal(high, rows.max(axis=0))


@pytest.mark.parametrize("lists", [1, 63, 64, 65, 200])
def test_rows_go_to_the_nearest_of_few_lists(lists: int) -> None:
    rows, centroids = clustered(500, 9, 0), clustered(lists, 9, 1).astype(np.float16)
    segment = FunnelSegment(
        [2 * rows[:, :4].astype(np.float16), 2 * rows[:, 4:].astype(np.float16)]
    )
    whole = np.concatenate(segment.bands, axis=1).astype(np.float32)
    best = (whole @ centroids.astype(np.float32).T).argmax(axis=1)
    found = assign(segment, centroids, dims=(4, 16))
    assert found.dtype == np.uint32 and np.array_equal(found, best)


def test_rows_go_near_to_the_nearest_of_many_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_RUN_LISTS", 8)
    monkeypatch.setattr(heads, "_NEAR_RUNS", 4)
    rows, centroids = clustered(500, 20, 0), clustered(400, 20, 1).astype(np.float16)
    scores = rows @ centroids.astype(np.float32).T
    found = assign(FunnelSegment([rows.astype(np.float16)]), centroids, dims=(16,))
    lost = scores.max(axis=1) - scores[np.arange(500), found]
    assert (lost < 1e-3).mean() > 0.9 and lost.mean() < 0.01
    assert assign(FunnelSegment([rows[:0].astype(np.float16)]), centroids, dims=(16,)).shape == (0,)
