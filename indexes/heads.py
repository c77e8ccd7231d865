"""The codes of a funnel: heads of all rows, in one list or in many, and the way to lists.

Heads are brought to unit length: that finds more than raw prefixes do. Lists are made and chosen by
256 dims: a choice by 64 loses neighbours that no rerank brings back, and more dims are no better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_search.indexes.clustering import Clusters, add_by_list, cluster
from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.kernels.search import MAX_CODE, Codes

CLUSTER_DIM = 256
ROUTE_DIM = CLUSTER_DIM  # of the means of lists
# Rows that the range of each coordinate is taken from.
_SCALE_ROWS = 20_000
# Standard deviations on either side of the mean that codes of 4 bits hold: what few rows have far
# out would cost all others precision (docs/search.md).
_SPREAD = 3.0
_BLOCK_ROWS = 2048
# Of 10,000 new rows 95 % found the nearest of 15,312 lists among these, the others one whose cosine
# was 0.04 less, in a third of the time that all lists take.
_RUN_LISTS = 64
_NEAR_RUNS = 32


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of an index; which list a row belongs to is kept with its segment.

    Attributes:
        centroids: float16 (lists, d), unit length: a row belongs to the one of largest cosine.
        means: float16 (lists, d'), the mean of the unit prefixes of each list's rows.
    """

    centroids: NDArray[np.float16]
    means: NDArray[np.float16]


def scan_codes(
    segments: Sequence[FunnelSegment], bands: int, *, bits: int = 8, threads: int, lists: int = 0
) -> Codes:
    """Code the lowest `bands` bands of all rows, in their `lists` lists, or as one if that is 0."""
    of = np.concatenate([_list_of(segment) for segment in segments]) if lists else None
    centre, step = head_scale(segments, bands, bits)
    return Codes(
        [segment.bands[:bands] for segment in segments],
        centre=centre,
        step=step,
        bits=bits,
        lists=of,
        list_count=lists,
        threads=threads,
    )


def head_scale(
    segments: Sequence[FunnelSegment], bands: int, bits: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and step of the codes of the lowest `bands` bands, float32 (dim,) each.

    They come from rows at equal distances, so they do not depend on how rows are divided into
    segments.
    """
    total = sum(segment.rows for segment in segments)
    picked = np.linspace(0, total - 1, min(total, _SCALE_ROWS)).astype(np.int64)
    starts = range(0, len(picked), _BLOCK_ROWS)
    parts = (unit_rows(gather(segments, picked[i : i + _BLOCK_ROWS], bands)) for i in starts)
    found = [(part.min(axis=0), part.max(axis=0), *_moments(part)) for part in parts]
    lowest, highest, sums, squares = (np.stack(values) for values in zip(*found, strict=True))
    low, high = lowest.min(axis=0), highest.max(axis=0)
    if bits == 4:
        mean = sums.sum(axis=0) / len(picked)
        spread = _SPREAD * np.sqrt(np.maximum(squares.sum(axis=0) / len(picked) - mean**2, 0))
        low, high = np.maximum(low, mean - spread), np.minimum(high, mean + spread)
    return _scale(low, high, bits)


def _moments(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of coordinates and of their squares, float64 (dim,) each."""
    return rows.sum(axis=0, dtype=np.float64), np.square(rows).sum(axis=0, dtype=np.float64)


def router(means: NDArray[np.float16]) -> Codes:
    """Codes of the means of lists, by which lists are chosen."""
    centre, step = _scale(*_extremes(means))
    return Codes([[means]], centre=centre, step=step, unit=False)


def train_lists(
    segments: Sequence[FunnelSegment], count: int, *, dims: Sequence[int], seed: int
) -> tuple[Lists, list[NDArray[np.uint32]]]:
    """Divide rows into lists.

    Args:
        segments: the segments.
        count: lists to make.
        dims: nesting dimensions.
        seed: of the sample and the first centroids.

    Returns:
        The lists, and for each segment the list of each of its rows.
    """
    bands = _bands_up_to(dims, CLUSTER_DIM)
    clusters = cluster(
        lambda rows: unit_rows(gather(segments, rows, bands)),
        sum(segment.rows for segment in segments),
        count,
        seed=seed,
    )
    means = np.zeros(clusters.centroids.shape, np.float32)
    sizes = np.zeros((count, 1), np.int64)
    assigned = []
    for segment in segments:
        of = np.zeros(segment.rows, np.uint32)
        for start in range(0, segment.rows, _BLOCK_ROWS):
            block = unit_rows(_rows(segment, start, bands))
            lists = clusters.nearest(block)
            add_by_list(means, block, lists)
            sizes[:, 0] += np.bincount(lists, minlength=count)
            of[start : start + len(block)] = lists
        assigned.append(of)
    means /= np.maximum(sizes, 1)
    return Lists(clusters.centroids, means.astype(np.float16)), assigned


def assign(
    segment: FunnelSegment, centroids: NDArray[np.float16], *, dims: Sequence[int]
) -> NDArray[np.uint32]:
    """The list of each row of a segment: uint32 (rows,).

    Lists that were made together lie together, so that runs of them do for groups.
    """
    bands = _bands_up_to(dims, centroids.shape[1])
    runs, rest = divmod(len(centroids), _RUN_LISTS)
    clusters = Clusters(centroids, [_RUN_LISTS] * runs + [rest] * (rest > 0))
    found = [
        clusters.nearest(_rows(segment, start, bands), _NEAR_RUNS).astype(np.uint32)
        for start in range(0, segment.rows, _BLOCK_ROWS)
    ]
    return np.concatenate([np.zeros(0, np.uint32), *found])


def gather(
    segments: Sequence[FunnelSegment], rows: NDArray[np.int64], bands: int
) -> NDArray[np.float32]:
    """The lowest bands of rows, float32 (len(rows), dim); rows must rise."""
    widths = [band.shape[1] for band in segments[0].bands[:bands]]
    ends = np.cumsum(widths)
    found = np.empty((len(rows), ends[-1]), np.float32)
    first = 0
    for segment in segments:
        begin, end = np.searchsorted(rows, (first, first + segment.rows))
        local = rows[begin:end] - first
        for band, width, stop in zip(segment.bands, widths, ends, strict=False):
            found[begin:end, stop - width : stop] = band[local]
        first += segment.rows
    return found


def _rows(segment: FunnelSegment, start: int, bands: int) -> NDArray[np.float32]:
    block = [band[start : start + _BLOCK_ROWS] for band in segment.bands[:bands]]
    return np.concatenate(block, axis=1).astype(np.float32)


def _extremes(rows: NDArray[np.float16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest of each coordinate, float32 (dim,) each."""
    starts = range(0, len(rows), _BLOCK_ROWS)
    parts = (_in_order(rows[start : start + _BLOCK_ROWS].view(np.int16)) for start in starts)
    lows, highs = zip(*((part.min(axis=0), part.max(axis=0)) for part in parts), strict=True)
    low, high = _in_order(np.min(lows, axis=0)), _in_order(np.max(highs, axis=0))
    return low.view(np.float16).astype(np.float32), high.view(np.float16).astype(np.float32)


def _in_order(bits: NDArray[np.int16]) -> NDArray[np.int16]:
    """Whole numbers in the order of the float16 numbers of these bits, or back.

    numpy compares float16 numbers one by one, and whole numbers many at a time.
    """
    return bits ^ ((bits >> 15) & 0x7FFF)


def _scale(
    low: NDArray[np.floating[Any]], high: NDArray[np.floating[Any]], bits: int = 8
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and step of codes that hold coordinates (dim,) from `low` to `high`."""
    lowest, highest = low.astype(np.float32), high.astype(np.float32)
    step = (highest - lowest) / np.float32(2 * MAX_CODE[bits])
    centre = (lowest + highest) / np.float32(2)
    # A coordinate that never changes tells rows apart no better with a smaller step.
    return centre, np.maximum(step, np.float32(1e-6))


def dim_up_to(dims: Sequence[int], dim: int) -> int:
    """The largest nesting dimension that is at most `dim`, or the lowest."""
    return dims[_bands_up_to(dims, dim) - 1]


def _bands_up_to(dims: Sequence[int], dim: int) -> int:
    """Bands in the largest nesting dimension that is at most `dim`, one of them at least."""
    return max(1, sum(d <= dim for d in dims))


def _list_of(segment: FunnelSegment) -> NDArray[np.int64]:
    if segment.lists is None:
        raise ValueError("every segment must say which list its rows belong to")
    return segment.lists.astype(np.int64)
