"""Lists by k-means in two levels: every row has one, and rows in a list are alike."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.indexes.clustering import Clusters, add_by_list, cluster
from adaptive_search.indexes.flat import unit_rows

Array = NDArray[np.float32]


def clumps(rows: int, centres: int, seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((centres, 24), dtype=np.float32)
    of = rng.integers(0, centres, rows)
    return unit_rows(middles[of] + 0.1 * rng.standard_normal((rows, 24), dtype=np.float32)), of


@pytest.mark.parametrize(("rows", "lists"), [(1, 1), (3, 3), (40, 20), (500, 37), (5, 9)])
def test_as_many_lists_as_asked_for(rows: int, lists: int) -> None:
    vectors, _ = clumps(rows, 4)
    clusters = cluster(lambda picked: vectors[picked], rows, lists, seed=0)
    assert clusters.centroids.shape == (lists, 24)
    assert np.allclose(np.linalg.norm(clusters.centroids.astype(np.float32), axis=1), 1, atol=1e-3)
    of = clusters.nearest(vectors)
    assert of.min() >= 0 and of.max() < lists


def test_rows_that_are_alike_share_lists() -> None:
    vectors, clump = clumps(3000, 12)
    of = cluster(lambda picked: vectors[picked], 3000, 60, seed=0).nearest(vectors)
    kinds = [len(np.unique(clump[of == number])) for number in np.unique(of)]
    assert np.mean(kinds) < 1.3


def test_the_nearest_list_is_almost_always_found() -> None:
    vectors = unit_rows(np.random.default_rng(1).standard_normal((4000, 24), dtype=np.float32))
    clusters = cluster(lambda picked: vectors[picked], 4000, 400, seed=0)
    exact = (vectors @ clusters.centroids.T).max(axis=1)
    found = np.einsum("nd,nd->n", vectors, clusters.centroids[clusters.nearest(vectors)])
    assert (found >= exact - 1e-6).mean() > 0.9


def test_equal_and_zero_rows_have_lists() -> None:
    for vectors in (np.ones((50, 8), np.float32), np.zeros((50, 8), np.float32)):
        clusters = cluster(partial(np.take, vectors, axis=0), 50, 7, seed=0)
        assert np.isfinite(clusters.centroids).all()
        assert len(clusters.nearest(vectors)) == 50


def test_clusters_do_not_depend_on_blocks_of_rows() -> None:
    vectors, _ = clumps(700, 5)
    clusters = cluster(lambda picked: vectors[picked], 700, 30, seed=3)
    parts = [clusters.nearest(part) for part in np.split(vectors, (1, 300))]
    assert np.array_equal(np.concatenate(parts), clusters.nearest(vectors))


def test_lists_without_rows_stay_where_they_are() -> None:
    centroids = np.eye(4, dtype=np.float16)
    clusters = Clusters(centroids.copy(), [2, 2])
    clusters.move(iter([centroids[:1].astype(np.float32)]))
    assert np.array_equal(clusters.centroids, centroids)


def test_sums_by_list() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    sums = np.zeros((4, 2), np.float32)
    add_by_list(sums, rows, np.array([3, 0, 3, 1, 1, 3]))
    assert np.array_equal(sums, [[2, 3], [14, 16], [0, 0], [14, 17]])
