"""Codes of rows, and the search through them: typed doors to the native code.

A code is a coordinate in 8 or 4 bits: (x - centre) / step, rounded, from -127 to 127 or from -7 to
7; queries have 8 bits beside both. Scores of codes are exact integers, so what a scan finds is the
same at every instruction level, with any number of threads, and however the rows are divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive_search.kernels import _native

Bands = Sequence[NDArray[np.float16]]
MAX_CODE = {8: 127, 4: 7}  # by bits
MAX_WEIGHT = 127  # of a query
BLOCK_ROWS = 16  # whose codes and numbers lie together, as codes.h has it


@dataclass(frozen=True, eq=False)
class KeptCodes:
    """Codes of the first rows of an index, as `Codes.data` gave them.

    Nothing in `data` is believed: whatever its bytes are, no other rows than those are found.

    Attributes:
        data: uint8 (bytes,); a memory map is welcome.
        list_rows: int64 (lists,), the rows of each list.
        centre: float32 (dim,).
        step: float32 (dim,).
        bits: of a code, 8 or 4.
    """

    data: NDArray[np.uint8]
    list_rows: NDArray[np.int64]
    centre: NDArray[np.float32]
    step: NDArray[np.float32]
    bits: int

    @property
    def rows(self) -> int:
        """Rows that have codes here."""
        return int(self.list_rows.sum())


def codes_bytes(list_rows: NDArray[np.int64], dim: int, bits: int) -> int:
    """Bytes of the codes of rows in lists, with the numbers of the rows."""
    blocks = int((-(-list_rows // BLOCK_ROWS)).sum())
    return blocks * BLOCK_ROWS * (4 + 4 * -(-dim * bits // 32))


class Codes:
    """The lowest dims of all rows in 8 or 4 bits, in lists.

    Attributes:
        rows: rows that have codes.
        dim: dims that are coded.
        bits: of a code.
        list_rows: int64 (lists,), the rows of each list, of those that were not kept.
        centre: float32 (dim,).
        step: float32 (dim,).
    """

    def __init__(
        self,
        bands: Sequence[Bands],
        *,
        centre: NDArray[np.float32],
        step: NDArray[np.float32],
        bits: int = 8,
        lists: NDArray[np.int64] | None = None,
        list_count: int = 1,
        unit: bool = True,
        threads: int = 1,
        kept: KeptCodes | None = None,
    ) -> None:
        """Code rows.

        Args:
            bands: for each segment its lowest bands, float16 (n, width).
            centre: float32 (dim,), dim being the sum of the widths.
            step: float32 (dim,), above 0.
            bits: of a code, 8 or 4.
            lists: int64 (rows,), the number of the list that each row belongs to; one list if
                None. Rows keep their order within a list.
            list_count: lists that there are.
            unit: bring each row to unit length first.
            threads: threads to use.
            kept: codes of the rows before these, of the same scale, bits and lists.

        Raises:
            ValueError: shapes disagree, or bits is something else.
        """
        order = None
        sizes = np.array([sum(len(segment[0]) for segment in bands)], dtype=np.int64)
        if lists is not None:
            order = np.argsort(lists, kind="stable")
            sizes = np.bincount(lists, minlength=list_count).astype(np.int64)
        self.native = _native.Codes(
            _bits(bands),
            order,
            sizes,
            centre,
            step,
            bits,
            unit,
            threads,
            None if kept is None else kept.data,
            None if kept is None else kept.list_rows,
        )
        self.rows: int = self.native.rows
        self.dim, self.bits = len(centre), bits
        self.list_rows, self.centre, self.step = sizes, centre, step

    @property
    def data(self) -> NDArray[np.uint8]:
        """The codes of all rows as they lie in memory, to be kept: uint8 (bytes,), read-only.

        Raises:
            ValueError: some of them were kept from before.
        """
        return self.native.data

    @property
    def bytes(self) -> int:
        """Bytes of codes and row numbers."""
        return self.native.bytes

    def nearest(self, queries: NDArray[np.float32], k: int, threads: int = 1) -> NDArray[np.int64]:
        """Find the k rows whose codes score best with each query; all lists are scanned.

        Args:
            queries: float32 (nq, dim), of any length.
            k: rows per query, at least 1.
            threads: threads to use.

        Returns:
            int64 (nq, k), best first, equal scores by rising row, -1 behind the last.
        """
        found = np.empty((len(queries), k), dtype=np.int64)
        self.native.nearest(queries, threads, found)
        return found


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        scores: float32 (nq, k), best first, then -inf.
        rows: int64 (nq, k), then -1.
        taken: int64 (nq,), the steps that each query took.
        seconds: float64 (steps + 1,), of the shortlist and each step, for all queries; of the
            busiest thread where there are several.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    taken: NDArray[np.int64]
    seconds: NDArray[np.float64]


class Searcher:
    """Shortlists by codes and exact scores of their rows, in one native call for many queries."""

    def __init__(
        self, bands: Sequence[Bands], lengths: Sequence[Sequence[NDArray[np.float32]]] = ()
    ) -> None:
        """Take the rows as they are; nothing is copied.

        Args:
            bands: for each segment its bands, float16 (n, width), at least one segment.
            lengths: for each segment the lengths of its prefixes, float32 (n,) each, which may lie
                apart in memory; empty if all rows have the same.

        Raises:
            ValueError: shapes disagree.
        """
        self._native = _native.Searcher(_bits(bands), lengths)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        steps: Sequence[tuple[int, int]],
        margins: NDArray[np.float32],
        shortlist: int = 1,
        heads: Codes | None = None,
        head_queries: NDArray[np.float32] | None = None,
        router: Codes | None = None,
        route_queries: NDArray[np.float32] | None = None,
        nprobe: int = 0,
        tails: NDArray[np.float16] | None = None,
        tail_queries: NDArray[np.float32] | None = None,
        candidates: NDArray[np.int64] | None = None,
        mask: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> Found:
        """Find the k best rows for each query. The interpreter lock is released.

        Args:
            queries: float32 (nq, dim), as many dims as the last step scores.
            k: hits per query, at least 1.
            steps: bands to score by and rows to keep, with rising bands.
            margins: float32 (nq, steps): after a step, only rows that score at most this far below
                the last of the k best stay; with a finite margin the search ends when no more than
                k are left.
            shortlist: rows to take from the codes.
            heads: codes of all rows.
            head_queries: float32 (nq, heads.dim).
            router: codes of the mean of each list of `heads`; None to scan all lists.
            route_queries: float32 (nq, router.dim).
            nprobe: lists to scan.
            tails: float16 (lists, w), what rows of a list have in common beyond their codes: the
                product with it is added to the score of each row.
            tail_queries: float32 (nq, w), of the scale that head_queries have; for tails.
            candidates: int64 (m,), rows to score for every query, instead of a shortlist.
            mask: bool (rows,), the rows that may be returned; all if None.
            threads: threads to use for several queries.

        Raises:
            ValueError: an argument is not as above.
        """
        shape = (len(queries), k)
        scores, rows = np.empty(shape, np.float32), np.empty(shape, np.int64)
        taken, seconds = np.empty(len(queries), np.int64), np.empty(len(steps) + 1, np.float64)
        self._native.search(
            None if heads is None else heads.native,
            None if router is None else router.native,
            head_queries,
            route_queries,
            None if tails is None else tails.view(np.uint16),
            tail_queries,
            candidates,
            nprobe,
            shortlist,
            mask,
            queries,
            np.array(steps, dtype=np.int64),
            margins,
            threads,
            scores,
            rows,
            taken,
            seconds,
        )
        return Found(scores, rows, taken, seconds)


def nearest_reference(
    rows: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    *,
    centre: NDArray[np.float32],
    step: NDArray[np.float32],
    bits: int = 8,
    products: NDArray[np.float32] | None = None,
) -> NDArray[np.int64]:
    """Find the rows whose codes score best in plain numpy: the definition of a shortlist.

    Args:
        rows: float32 (n, dim), as they are coded.
        queries: float32 (nq, dim).
        k: rows per query.
        centre: float32 (dim,).
        step: float32 (dim,).
        bits: of a code, 8 or 4.
        products: float32 (nq, n), of queries with the tails of the rows' lists.

    Returns:
        int64 (nq, k), best first, equal scores by rising row, -1 behind the last.
    """
    most = MAX_CODE[bits]
    codes = np.clip(np.rint((rows - centre) / step), -most, most).astype(np.int64)
    line_dims = 32 // bits
    room = 2**31 - 1 - (2**bits - 1) * MAX_WEIGHT * -(-len(step) // line_dims) * line_dims
    found = np.full((len(queries), k), -1, dtype=np.int64)
    for q, query in enumerate(queries):
        scaled = query * step
        largest = np.abs(scaled).max()
        factor = np.float32(MAX_WEIGHT) / largest if largest > 0 else np.float32(0)
        weights = np.rint(scaled * factor).astype(np.int64)
        scores = codes @ weights
        if products is not None:
            with np.errstate(over="ignore"):
                added = np.nan_to_num(products[q] * factor, posinf=room, neginf=-room)
            scores += np.rint(np.clip(added.astype(np.float64), -room, room)).astype(np.int64)
        best = np.argsort(-scores, kind="stable")[:k]
        found[q, : len(best)] = best
    return found


def _bits(bands: Sequence[Bands]) -> list[list[NDArray[np.uint16]]]:
    return [[band.view(np.uint16) for band in segment] for segment in bands]
