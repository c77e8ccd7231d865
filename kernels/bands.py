"""Vectors in the form in which an index stores them: float16 bands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adaptive_search.kernels import _native

LANES = 8  # coordinate j of a band, or of a whole vector, is added to sum j % LANES


def split_bands(
    vectors: NDArray[np.float32], widths: Sequence[int], *, unit: bool
) -> tuple[list[NDArray[np.float16]], NDArray[np.float64]]:
    """Cut vectors into bands of float16. The interpreter lock is released.

    Args:
        vectors: float32 (n, width), finite.
        widths: of the bands; they sum to width.
        unit: bring each vector to unit length first; one of length zero stays as it is.

    Returns:
        The bands, float16 (n, band width) each, and the squared length of each as it is then,
        float64 (n, bands).

    Raises:
        ValueError: a shape or dtype is not as above.
    """
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise ValueError(f"vectors are {vectors.dtype} {vectors.shape}, not float32 (n, width)")
    bands = [np.empty((len(vectors), width), np.float16) for width in widths]
    squares = np.empty((len(vectors), len(bands)))
    bits = [band.view(np.uint16) for band in bands]
    _native.split_bands(np.ascontiguousarray(vectors), unit, bits, squares)
    return bands, squares


def split_bands_reference(
    vectors: NDArray[np.float32], widths: Sequence[int], *, unit: bool
) -> tuple[list[NDArray[np.float16]], NDArray[np.float64]]:
    """Compute what `split_bands` computes, bit for bit, in plain numpy: its definition."""
    wide = vectors.astype(np.float64)
    if unit:
        lengths = np.sqrt(_squares(wide))[:, None]
        wide *= np.divide(1, lengths, out=np.ones_like(lengths), where=lengths > 0)
    with np.errstate(over="ignore", under="ignore"):
        halves = wide.astype(np.float32).astype(np.float16)
    ends = np.cumsum(widths)
    bands = [np.ascontiguousarray(band) for band in np.split(halves, ends[:-1], axis=1)]
    return bands, np.stack([_squares(band.astype(np.float64)) for band in bands], axis=1)


def _squares(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of squares in the order of summation of the native code, float64 (n,)."""
    squares = np.pad(rows * rows, ((0, 0), (0, -rows.shape[1] % LANES)))
    lanes = np.zeros((len(rows), LANES))
    for start in range(0, squares.shape[1], LANES):
        lanes += squares[:, start : start + LANES]
    total = np.zeros(len(rows))
    for lane in lanes.T:
        total += lane
    return total
