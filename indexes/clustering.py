"""Division of rows into many lists by k-means in two levels, without holding the rows.

Some of the rows are divided into sqrt(lists) groups, each group into its lists, and then all lists
are moved to the middle of the rows that are nearest to them. What is nearest is looked for in the
few nearest groups only: full k-means would take some fifty times as long and finds lists that hold
neighbours together no better (docs/search.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from adaptive_search.indexes.flat import unit_rows

_Floats = NDArray[np.float32]
_Rows = NDArray[np.int64]

_ROWS_PER_LIST = 16  # that k-means learns from
_ROWS_AT_ONCE = 4096  # that groups, and the lists of one of them, are made of
_BLOCK_ROWS = 2048
_ITERATIONS = 8
_REFINEMENTS = 3
_NEAR_GROUPS = 8  # that a row looks for its list in


class Clusters:
    """Lists in groups.

    Attributes:
        centroids: float16 (lists, dim), unit length, those of a group together.
    """

    def __init__(self, centroids: NDArray[np.float16], sizes: Sequence[int]) -> None:
        """Take centroids, and how many of them each group has."""
        self.centroids = centroids
        ends = np.cumsum(sizes)
        self._parts = [slice(e - size, e) for e, size in zip(ends, sizes, strict=True)]
        self._join()

    def nearest(self, rows: _Floats, groups: int = _NEAR_GROUPS) -> _Rows:
        """The list of each row, int64 (n,), from the `groups` groups that are nearest to it."""
        near = min(groups, len(self._parts))
        scores = rows @ self._groups.T
        chosen = np.argpartition(-scores, near - 1, axis=1)[:, :near].ravel()
        order = np.argsort(chosen, kind="stable")
        bounds = np.searchsorted(chosen[order], np.arange(len(self._parts) + 1))
        best = np.full(len(rows), -np.inf, np.float32)
        found = np.zeros(len(rows), np.int64)
        for part, begin, end in zip(self._parts, bounds, bounds[1:], strict=False):
            asked = order[begin:end] // near
            scores = rows[asked] @ self.centroids[part].astype(np.float32).T
            first = scores.argmax(axis=1)
            score = scores[np.arange(len(asked)), first]
            better = score > best[asked]
            best[asked[better]] = score[better]
            found[asked[better]] = first[better] + part.start
        return found

    def move(self, blocks: Iterator[_Floats]) -> None:
        """Move all lists to the middle of the rows that are nearest to them."""
        sums = np.zeros(self.centroids.shape, np.float32)
        for rows in blocks:
            add_by_list(sums, rows, self.nearest(rows))
        for part in self._parts:
            near = sums[part].any(axis=1)
            self.centroids[part][near] = unit_rows(sums[part][near])
        self._join()

    def _join(self) -> None:
        sums = [self.centroids[part].sum(axis=0, dtype=np.float32) for part in self._parts]
        self._groups = unit_rows(np.stack(sums))


def add_by_list(sums: _Floats, rows: _Floats, lists: _Rows) -> None:
    """Add rows (n, dim) to the sums of their lists."""
    order = np.argsort(lists, kind="stable")
    found, starts = np.unique(lists[order], return_index=True)
    if len(found):
        sums[found] += np.add.reduceat(rows[order], starts, axis=0)


def cluster(take: Callable[[_Rows], _Floats], rows: int, count: int, *, seed: int) -> Clusters:
    """Make lists of rows.

    Args:
        take: gives unit vectors, float32 (n, dim), of some rows, whose numbers rise.
        rows: how many there are.
        count: lists to make, at least 1.
        seed: of the first centroids.
    """
    rng = np.random.default_rng(seed)
    picked = np.linspace(0, rows - 1, min(rows, _ROWS_PER_LIST * count)).astype(np.int64)

    def blocks() -> Iterator[_Floats]:
        for start in range(0, len(picked), _BLOCK_ROWS):
            yield take(picked[start : start + _BLOCK_ROWS])

    groups = max(1, round(count**0.5))
    coarse = _kmeans(take(_some(picked, _ROWS_AT_ONCE, rng)), groups, rng)
    group_of = np.concatenate([(rows @ coarse.T).argmax(axis=1) for rows in blocks()])
    sizes = _shares(np.bincount(group_of, minlength=groups), count)
    centroids = np.empty((count, coarse.shape[1]), np.float16)
    start = 0
    for group, size in enumerate(sizes):
        if size:
            members = take(_some(picked[group_of == group], _ROWS_AT_ONCE, rng))
            centroids[start : start + size] = _kmeans(members, size, rng)
            start += size
    clusters = Clusters(centroids, [size for size in sizes if size])
    for _ in range(_REFINEMENTS):
        clusters.move(blocks())
    return clusters


def _some(rows: _Rows, count: int, rng: np.random.Generator) -> _Rows:
    """At most so many of the rows, in their order."""
    return rows if len(rows) <= count else np.sort(rng.choice(rows, count, replace=False))


def _kmeans(rows: _Floats, count: int, rng: np.random.Generator) -> _Floats:
    """Spherical k-means of rows (n, dim): float32 (count, dim)."""
    centroids = rows[rng.choice(len(rows), count, replace=len(rows) < count)]
    for _ in range(_ITERATIONS):
        of = (rows @ centroids.T).argmax(axis=1)
        sums = np.zeros_like(centroids)
        add_by_list(sums, rows, of)
        empty = ~sums.any(axis=1)
        sums[empty] = rows[rng.choice(len(rows), int(empty.sum()))]
        centroids = unit_rows(sums)
    return centroids


def _shares(sizes: NDArray[np.int64], count: int) -> list[int]:
    """Divide `count` lists among groups in proportion to their sizes."""
    exact = sizes * count / sizes.sum()
    shares = np.floor(exact).astype(np.int64)
    rest = np.argsort(shares - exact, kind="stable")[: count - int(shares.sum())]
    shares[rest] += 1
    return [int(share) for share in shares]
