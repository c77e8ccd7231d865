"""The funnel: a shortlist by the heads of the vectors, then exact scores at higher dimensions.

    all rows --heads--> shortlist K --middle dims--> K / 4 --dim--> k hits

The middle stage is the first nesting dimension that is at least four times the head (256 for 64);
it is there only when the final dimension lies above it. Whenever the shortlist could hold all rows
that may be returned, every one of them is scored at the final dimension and the answer is exact.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adaptive_search.errors import DimensionError, QueryError
from adaptive_search.indexes.flat import FunnelSegment, Ranking, merge, rank, unit_rows

# Candidates by default. Normalised 64-d heads of a trained encoder held 0.92, 0.96 and 0.98 of the
# true ten best in 200, 500 and 1,000 candidates (38,693 passages).
DEFAULT_SHORTLIST = 1000
# The middle stage keeps a quarter, and never fewer than this or four times k: 256 dims then lose
# nothing that 64 dims had found (benchmarks/search.py).
_MIN_KEPT = 200
_MIDDLE_FACTOR = 4
# Where fewer rows than this share may be returned, their heads are gathered and scored, which is
# then cheaper than a filtered scan of the index, and exact.
_GATHER_SHARE = 0.02


@dataclass(frozen=True)
class Stage:
    """One stage of a search.

    Attributes:
        name: "shortlist", "rerank" or "exact".
        dim: coordinates that scores were computed from.
        scored: rows that could be scored for each query.
        kept: rows kept for each query at most.
        ms: wall time for all queries, milliseconds.
    """

    name: str
    dim: int
    scored: int
    kept: int
    ms: float


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The hits of a batch of queries.

    Attributes:
        rows: int64 (nq, m), m = min(k, rows of the funnel): the hits, best first, then -1. Row
            numbers run on from segment to segment.
        scores: float32 (nq, m): cosine at the final dimension, then -inf.
        stages: what was done, in order.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    stages: tuple[Stage, ...]


class Funnel:
    """Search in nested vectors: cheap at few dimensions, exact at many.

    Attributes:
        dims: nesting dimensions that all segments have.
        rows: number of vectors, deleted ones among them.
    """

    def __init__(
        self,
        segments: Sequence[FunnelSegment],
        dims: Sequence[int],
        *,
        prefix_energy: Sequence[float] | None = None,
        threads: int = 1,
    ) -> None:
        """Take segments as they are; nothing is copied.

        Args:
            segments: the segments, in the order of their rows.
            dims: all nesting dimensions, rising.
            prefix_energy: squared length of each prefix, the same for every vector; None if each
                segment brings the lengths of its rows.
            threads: threads to use for each search.

        Raises:
            ValueError: a segment does not fit the dims, or the lengths of prefixes are unknown.
        """
        widths = [int(width) for width in np.diff((0, *dims))]
        available = len(dims)
        for segment in segments:
            found = [band.shape[1] for band in segment.bands]
            if found != widths[: len(found)]:
                raise ValueError(f"bands of widths {found} do not fit the dims {tuple(dims)}")
            if (segment.lengths is None) == (prefix_energy is None):
                raise ValueError("give either prefix_energy or the lengths of every segment's rows")
            if segment.lengths is not None and len(segment.lengths) < len(found):
                raise ValueError("lengths are needed for each nesting dimension")
            available = min(available, len(found))
        self.dims = tuple(int(dim) for dim in dims[:available])
        self.rows = sum(segment.rows for segment in segments)
        self._segments = tuple(segments)
        self._scales = None if prefix_energy is None else [e**-0.5 for e in prefix_energy]
        self._threads = threads

    def search(
        self,
        queries: NDArray[np.float32],
        k: int = 10,
        *,
        dim: int | None = None,
        shortlist: int | None = None,
        allowed: Sequence[NDArray[np.bool_] | None] | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """Find the k nearest vectors to each query by cosine.

        Hits come by descending score, equal scores by ascending row. The hits of a query do not
        depend on the batch, the threads, or the division of the rows into segments.

        Args:
            queries: float32 (nq, d), d at least dim: full vectors or prefixes, of any length.
            k: hits per query.
            dim: nesting dimension of the final scores; the highest available if None.
            shortlist: candidates taken from the heads; None for max(1000, 4 * k). With at least as
                many as there are rows to choose from, the answer is exact.
            allowed: for each segment bool (n,), the rows that may be returned, or None for all.
            exact: score every row at the final dimension.

        Raises:
            DimensionError: dim is no nesting dimension, or its bands are not in this index.
            QueryError: a query is not finite, zero or too short, or k or shortlist makes no sense.
        """
        dim = self.dims[-1] if dim is None else dim
        if dim not in self.dims:
            raise DimensionError(dim, self.dims)
        shortlist = default_shortlist(k) if shortlist is None else shortlist
        _check_counts(k, shortlist)
        queries = _check_queries(queries, dim)
        masks = self._masks(allowed)
        search = _Search(self._segments, self.dims, self._scales, masks, queries, self._threads)
        k = min(k, self.rows)
        if exact or shortlist >= search.eligible or k == 0:
            return search.finish(dim, k, "exact")
        search.shortlist(shortlist)
        middle = next((d for d in self.dims if d >= _MIDDLE_FACTOR * self.dims[0]), dim)
        keep = max(_MIN_KEPT, shortlist // 4, 4 * k)
        if middle < dim and keep < shortlist:
            search.rerank(middle, keep)
        return search.finish(dim, k, "rerank")

    def _masks(
        self, allowed: Sequence[NDArray[np.bool_] | None] | None
    ) -> list[NDArray[np.bool_] | None]:
        """Rows of each segment that are live and allowed; None where that is all of them."""
        allowed = [None] * len(self._segments) if allowed is None else allowed
        if len(allowed) != len(self._segments):
            raise QueryError(f"allowed has {len(allowed)} masks for {len(self._segments)} segments")
        masks: list[NDArray[np.bool_] | None] = []
        for segment, mask in zip(self._segments, allowed, strict=True):
            if mask is not None and (mask.dtype != np.bool_ or mask.shape != (segment.rows,)):
                raise QueryError(f"allowed must be one bool for each of {segment.rows} rows")
            given = [m for m in (segment.live, mask) if m is not None]
            both = np.logical_and.reduce(given) if given else None
            masks.append(None if both is None or both.all() else both)
        return masks


@dataclass
class _Search:
    """The state of one search: the candidates so far, and the stages behind them."""

    segments: Sequence[FunnelSegment]
    dims: Sequence[int]
    scales: Sequence[float] | None
    masks: Sequence[NDArray[np.bool_] | None]
    queries: NDArray[np.float32]
    threads: int
    counts: list[int] = field(init=False)  # rows of each segment that may be returned
    eligible: int = field(init=False)  # their sum
    candidates: NDArray[np.int64] | None = None  # all rows if None
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [
            segment.rows if mask is None else int(np.count_nonzero(mask))
            for segment, mask in zip(self.segments, self.masks, strict=True)
        ]
        self.eligible = sum(self.counts)

    def shortlist(self, keep: int) -> None:
        """Choose candidates by their heads."""
        head = self.dims[0]
        with self._timed("shortlist", head, self.eligible, keep):
            queries = self._queries_at(head)
            parts = []
            first = 0
            for segment, mask, count in zip(self.segments, self.masks, self.counts, strict=True):
                if count:
                    scores, rows = self._heads(segment, mask, count, queries, keep)
                    parts.append((scores, np.where(rows < 0, rows, rows + first)))
                first += segment.rows
            self.candidates = merge(parts, len(queries), keep)[1]

    def rerank(self, dim: int, keep: int) -> None:
        """Keep the candidates that are best at a higher dimension."""
        with self._timed("rerank", dim, self._scored(), keep):
            self.candidates = self._rank(dim, keep)[1]

    def finish(self, dim: int, k: int, name: str) -> SearchResult:
        """Score what is left at the final dimension."""
        with self._timed(name, dim, self._scored(), k):
            scores, rows = self._rank(dim, k) if k else merge([], len(self.queries), 0)
        return SearchResult(rows, scores, tuple(self.stages))

    def _heads(
        self,
        segment: FunnelSegment,
        mask: NDArray[np.bool_] | None,
        count: int,
        queries: NDArray[np.float32],
        keep: int,
    ) -> Ranking:
        if segment.shortlist is None or count < _GATHER_SHARE * segment.rows:
            scaled = self._scaled(queries, 0)
            return rank([segment], scaled, 1, min(keep, count), masks=[mask], threads=self.threads)
        return segment.shortlist.search(queries, keep, mask=mask, threads=self.threads)

    def _rank(self, dim: int, k: int) -> Ranking:
        bands = self.dims.index(dim) + 1
        return rank(
            self.segments,
            self._scaled(self._queries_at(dim), bands - 1),
            bands,
            k,
            masks=self.masks,
            candidates=self.candidates,
            threads=self.threads,
        )

    def _queries_at(self, dim: int) -> NDArray[np.float32]:
        return unit_rows(self.queries[:, :dim])

    def _scaled(self, queries: NDArray[np.float32], level: int) -> NDArray[np.float32]:
        """Unit queries, divided by the length that the prefixes of all rows share."""
        return queries if self.scales is None else queries * np.float32(self.scales[level])

    def _scored(self) -> int:
        return self.eligible if self.candidates is None else self.candidates.shape[1]

    @contextmanager
    def _timed(self, name: str, dim: int, scored: int, kept: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        ms = (time.perf_counter() - start) * 1e3
        self.stages.append(Stage(name, dim, scored, min(kept, scored), ms))


def default_shortlist(k: int) -> int:
    """Candidates that are taken from the heads for k hits, where none are asked for."""
    return max(DEFAULT_SHORTLIST, 4 * k)


def _check_counts(k: int, shortlist: int) -> None:
    if k < 1:
        raise QueryError(f"k={k} must be at least 1")
    if shortlist < k:
        raise QueryError(f"shortlist={shortlist} must be at least k={k}")


def _check_queries(queries: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    if queries.ndim != 2 or queries.shape[1] < dim:
        raise QueryError(
            f"queries of shape {queries.shape} given; (number of queries, at least {dim}) needed"
        )
    queries = np.asarray(queries[:, :dim], dtype=np.float32)
    if not np.isfinite(queries).all():
        raise QueryError("a query vector holds values that are not finite")
    if not queries.any(axis=1).all():
        raise QueryError("a query vector is zero, so it has no direction to search in")
    return queries
