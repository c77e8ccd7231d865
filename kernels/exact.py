"""Exact scores of float16 rows against float32 queries, and the best rows of each query.

The rows stay where they are, usually in mapped files: they are widened to float32 and multiplied in
one pass. The last step of a search (kernels/search.py) scores rows by the same native code, so both
give a row the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adaptive_search.kernels import _native

# Coordinate j of a band is added to lane j % LANES; the lanes then fold in halves.
LANES = 32


def exact_best(
    queries: NDArray[np.float32],
    bands: Sequence[NDArray[np.float16]],
    k: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    lengths: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k rows of largest dot product with each query.

    Rows are ordered by descending score, equal scores by ascending row. A score does not depend on
    the batch, the threads or the instruction level, and it is the same for every division into
    bands whose widths are multiples of 32. A score that is not a number counts as minus infinity.
    The interpreter lock is released.

    Args:
        queries: float32 (nq, dim).
        bands: float16 (n, width) each; the widths sum to dim. Memory maps are welcome.
        k: hits per query, at least 1.
        mask: bool (n,), the rows that may be returned; all if None.
        lengths: float32 (n,), a divisor for the score of each row; 1 if None.
        threads: threads to use, at least 1.

    Returns:
        Scores, float32 (nq, k), and rows, int64 (nq, k); where there are fewer than k hits, the
        rest is -inf and -1.

    Raises:
        ValueError: a shape or dtype is not as above.
    """
    _check_array("queries", queries, np.float32, 2)
    for band in bands:
        _check_array("each band", band, np.float16, 2)
    if mask is not None:
        _check_array("mask", mask, np.bool_, 1)
    if lengths is not None:
        _check_array("lengths", lengths, np.float32, 1)
    if k < 1 or threads < 1:
        raise ValueError(f"exact_best: k={k} and threads={threads} must be at least 1")
    scores = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    bits = [band.view(np.uint16) for band in bands]
    _native.exact_best(queries, bits, mask, lengths, threads, scores, rows)
    return scores, rows


def exact_best_reference(
    queries: NDArray[np.float32],
    bands: Sequence[NDArray[np.float16]],
    k: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    lengths: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compute what `exact_best` computes, bit for bit, in plain numpy: its definition."""
    count = len(bands[0])
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    considered = np.arange(count) if mask is None else np.flatnonzero(mask)
    for q, query in enumerate(queries):
        found = _dots(query, [band[considered] for band in bands])
        if lengths is not None:
            found = found / lengths[considered]
        found = np.where(np.isnan(found), -np.inf, found)
        best = np.lexsort((considered, -found))[:k]
        scores[q, : len(best)] = found[best]
        rows[q, : len(best)] = considered[best]
    return scores, rows


def _dots(query: NDArray[np.float32], bands: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
    """Dot products in the order of summation of the native code, float32 (n,)."""
    lanes = np.zeros((len(bands[0]), LANES), dtype=np.float32)
    start = 0
    for band in bands:
        width = band.shape[1]
        products = band.astype(np.float32) * query[start : start + width]
        padded = np.pad(products, ((0, 0), (0, -width % LANES)))
        for j in range(0, width, LANES):
            lanes += padded[:, j : j + LANES]
        start += width
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def _check_array(name: str, array: object, dtype: type[np.generic], ndim: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim:
        raise ValueError(f"exact_best: {name} must be a {ndim}-d array of {np.dtype(dtype).name}")
    if not array.flags.c_contiguous:
        raise ValueError(f"exact_best: {name} must be contiguous")
