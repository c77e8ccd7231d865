"""Exact ranking of all rows of the segments at one nesting dimension.

This is the oracle that every faster way is measured against. The last stage of each of them scores
rows by the same native function, so both give a row the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_search.kernels.exact import exact_best

Ranking = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class FunnelSegment:
    """The vectors of one segment as a funnel sees them.

    Attributes:
        bands: float16 (n, width) each, from the lowest on; the upper ones may be missing.
        live: bool (n,), False for deleted rows; None if all are live.
        lengths: float32 (n,) for each nesting dimension, the length of each row's prefix; None if
            all rows have the prefix lengths that the funnel was given.
        lists: uint32 (n,), the list that each row belongs to; None if rows are not in lists.
        scattered: the same bands in maps for reads here and there; None if there are none.
    """

    bands: Sequence[NDArray[np.float16]]
    live: NDArray[np.bool_] | None = None
    lengths: Sequence[NDArray[np.float32]] | None = None
    lists: NDArray[np.uint32] | None = None
    scattered: Sequence[NDArray[np.float16]] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        if not self.bands:
            raise ValueError("a segment needs at least its lowest band")
        some = [values for values in (self.live, self.lists) if values is not None]
        per_row: list[Sized] = [*self.bands, *(self.lengths or ()), *(self.scattered or ()), *some]
        if any(len(values) != self.rows for values in per_row):
            raise ValueError(f"all parts of a segment must have its {self.rows} rows")

    @property
    def rows(self) -> int:
        """Number of vectors, deleted ones among them."""
        return len(self.bands[0])


def rank(
    segments: Sequence[FunnelSegment],
    queries: NDArray[np.float32],
    bands: int,
    k: int,
    *,
    masks: Sequence[NDArray[np.bool_] | None],
    threads: int = 1,
) -> Ranking:
    """Find the k best rows for each query, exactly.

    Args:
        segments: the segments; the rows of each follow those of the one before.
        queries: float32 (nq, dim), where dim is the width of the lowest `bands` bands.
        bands: number of bands to score by.
        k: hits per query, at least 1.
        masks: for each segment bool (n,), the rows that may be returned, or None for all.
        threads: threads to use.

    Returns:
        Scores, float32 (nq, k), and rows, int64 (nq, k), by descending score, equal scores by
        ascending row; where there are fewer hits, the rest is -inf and -1.
    """
    parts = []
    first = 0
    for segment, mask in zip(segments, masks, strict=True):
        scores, rows = exact_best(
            queries,
            segment.bands[:bands],
            k,
            mask=mask,
            lengths=_lengths(segment, bands - 1),
            threads=threads,
        )
        parts.append((scores, np.where(rows < 0, rows, rows + first)))
        first += segment.rows
    return merge(parts, len(queries), k)


def _lengths(segment: FunnelSegment, level: int) -> NDArray[np.float32] | None:
    return None if segment.lengths is None else np.ascontiguousarray(segment.lengths[level])


def merge(parts: Sequence[Ranking], queries: int, k: int) -> Ranking:
    """Merge rankings of consecutive segments into the k best rows for each query.

    Args:
        parts: scores, float32 (nq, m), and rows, int64 (nq, m), of each segment, best first.
        queries: nq, for when there is no part.
        k: hits per query.

    Returns:
        Scores and rows as in `rank`.
    """
    scores = np.full((queries, k), -np.inf, dtype=np.float32)
    rows = np.full((queries, k), -1, dtype=np.int64)
    if parts:
        all_scores = np.concatenate([part[0] for part in parts], axis=1)
        all_rows = np.concatenate([part[1] for part in parts], axis=1)
        if len(parts) > 1:
            # Segments come in row order and each is sorted, so a stable sort keeps ties by row.
            order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
            all_scores = np.take_along_axis(all_scores, order, axis=1)
            all_rows = np.take_along_axis(all_rows, order, axis=1)
        found = min(k, all_rows.shape[1])
        scores[:, :found] = all_scores[:, :found]
        rows[:, :found] = all_rows[:, :found]
    return scores, rows


def unit_rows(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Scale each row to unit length; zero rows stay zero. float32 (n, dim), contiguous."""
    wide = np.ascontiguousarray(rows, dtype=np.float32)
    lengths: NDArray[np.float32] = np.sqrt(np.einsum("nd,nd->n", wide, wide))[:, None]
    lengths[lengths == 0] = 1
    unit: NDArray[np.float32] = wide / lengths
    return unit
