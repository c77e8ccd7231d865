"""The funnel: a shortlist by the heads of the vectors, then exact scores at higher dimensions.

    all rows --codes of the head--> shortlist --middle dim--> kept --dim--> k hits

A plan says how: which head, how long the shortlist, how many are kept, and whether all codes are
scanned or only those of the lists nearest to the query. The middle stage is the first nesting
dimension that is at least four times the lowest (256 for 64); it is there only when the final
dimension lies above it. Whenever the shortlist could hold all rows that may be returned, every one
of them is scored at the final dimension and the answer is exact.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adaptive_search.errors import DimensionError, QueryError
from adaptive_search.indexes.flat import FunnelSegment, rank, unit_rows
from adaptive_search.indexes.heads import router, scan_codes
from adaptive_search.indexes.plan import Plan
from adaptive_search.kernels.search import Codes, Found, KeptCodes, Searcher

_MIDDLE_FACTOR = 4
# Where fewer rows than this share may be returned, their heads are scored one by one, which is
# then cheaper than a filtered scan, and exact.
_GATHER_SHARE = 0.02
# After so many queries, codes in a mapped file are copied: the system may take mapped pages back,
# and those of a copy are large.
_MAPPED_QUERIES = 256
_MOST_PLANS = 16


@dataclass(frozen=True)
class Stage:
    """One stage of a search.

    Attributes:
        name: "shortlist", "rerank" or "exact".
        dim: coordinates that scores were computed from.
        scored: rows that could be scored for each query.
        kept: rows kept for each query at most.
        ms: wall time for all queries, milliseconds; stages of one native call share its time as
            its busiest thread spent its own.
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
        scores: float32 (nq, m): cosine at the query's final dimension, then -inf.
        dims: int64 (nq,), the final dimension of each query.
        stages: what was done, in order.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    dims: NDArray[np.int64]
    stages: tuple[Stage, ...]


class Funnel:
    """Search in nested vectors: cheap at few dimensions, exact at many.

    Attributes:
        dims: nesting dimensions that all segments have.
        rows: number of vectors, deleted ones among them.
        plan: how searches go.
    """

    def __init__(
        self,
        segments: Sequence[FunnelSegment],
        dims: Sequence[int],
        *,
        prefix_energy: Sequence[float] | None = None,
        plan: Plan | None = None,
        means: NDArray[np.float16] | None = None,
        kept: KeptCodes | None = None,
        kept_router: KeptCodes | None = None,
        threads: int = 1,
    ) -> None:
        """Take segments as they are; their bands are not copied.

        Args:
            segments: the segments, in the order of their rows.
            dims: all nesting dimensions, rising.
            prefix_energy: squared length of each prefix, the same for every vector; None if each
                segment brings the lengths of its rows.
            plan: how to search; by default all codes of the lowest dimension are scanned.
            means: float16 (lists, d), of the rows of each list; for plans with lists.
            kept: codes of the rows of the first segments, for this plan; these segments need not
                know their lists. By default all codes are made when they are first needed.
            kept_router: codes of the means. By default they are made when they are first needed.
            threads: threads to use for each search.

        Raises:
            ValueError: a segment or the plan does not fit the dims, or the lengths of prefixes are
                unknown.
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
        self.plan = Plan(self.dims[0]) if plan is None else plan
        if self.plan.head_dim not in self.dims or (means is None) != (self.plan.lists == 0):
            raise ValueError(f"{self.plan} does not fit the dims {self.dims}, or lacks its lists")
        self._segments = tuple(segment for segment in segments if segment.rows)
        self._given = tuple(segment.rows for segment in segments)
        self._energy = None if prefix_energy is None else tuple(prefix_energy)
        self._means, self._kept_router = means, kept_router
        self._threads = threads
        self._plans: dict[tuple[int, int | None], Plan] = {}
        self._kept, self._mapped_queries = kept, 0
        self._coded = 0 if kept is None else self._segments_of(kept)
        live = [_all_rows(segment.live, segment.rows) for segment in segments]
        self._live = np.concatenate(live) if any(s.live is not None for s in segments) else None
        self._live_rows = self.rows if self._live is None else int(np.count_nonzero(self._live))

    def search(
        self,
        queries: NDArray[np.float32],
        k: int = 10,
        *,
        dim: int | Literal["auto"] | None = None,
        shortlist: int | None = None,
        allowed: Sequence[NDArray[np.bool_] | None] | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """Find the k nearest vectors to each query by cosine.

        Hits come by descending score, equal scores by ascending row. The hits of a query do not
        depend on the batch, the threads, or the division of the rows into segments. The interpreter
        lock is released while the native code works.

        Args:
            queries: float32 (nq, d), d at least dim: full vectors or prefixes, of any length.
            k: hits per query.
            dim: nesting dimension of the final scores; the highest available if None. "auto" goes
                up from dimension to dimension for each query, and stops where higher ones can no
                longer change which rows are the k best: provably, or within the recall that the
                plan was tuned for.
            shortlist: candidates taken from the heads; None for what the plan says. With at least
                as many as there are rows to choose from, the answer is exact.
            allowed: for each segment bool (n,), the rows that may be returned, or None for all.
            exact: score every row at the final dimension.

        Raises:
            DimensionError: dim is no nesting dimension, or its bands are not in this index.
            QueryError: a query is not finite, zero or too short, or k or shortlist makes no sense.
        """
        auto = dim == "auto"
        if isinstance(dim, str) and not auto:
            raise QueryError(f'dim={dim!r} must be a nesting dimension or "auto"')
        final = self.dims[-1] if dim is None or isinstance(dim, str) else dim
        if final not in self.dims:
            raise DimensionError(final, self.dims)
        if k < 1:
            raise QueryError(f"k={k} must be at least 1")
        plan = self._plan_for(k, shortlist)
        if plan.shortlist < k:
            raise QueryError(f"shortlist={shortlist} must be at least k={k}")
        queries = _check_queries(queries, final)
        mask = self._mask(allowed)
        eligible = self._live_rows
        if mask is not None and mask is not self._live:
            eligible = int(np.count_nonzero(mask))
        k = min(k, self.rows)
        if shortlist is None and 0 < eligible < self.rows:
            plan = _widened(plan, self.rows / eligible)
        if exact or plan.shortlist >= eligible or k == 0:
            return self._exact(queries, k, final, mask, eligible)
        return self._cascade(queries, k, final, plan, mask, eligible, auto=auto)

    def with_plan(self, plan: Plan) -> Funnel:
        """The same funnel with other numbers in its plan; codes and lists are shared."""
        codes = (self.plan.head_dim, self.plan.bits, self.plan.lists)
        if (plan.head_dim, plan.bits, plan.lists) != codes:
            raise ValueError(f"{plan} needs other codes than {self.plan}")
        _ = self._heads, self._router, self._searcher
        other = copy.copy(self)
        other.plan, other._plans = plan, {}
        return other

    @property
    def resident_bytes(self) -> int:
        """Bytes of all that searches keep in memory; the bands stay where they are."""
        if not self._segments:
            return 0
        arrays: list[NDArray[Any] | None] = [self._live, self._means]
        for segment in self._segments:
            arrays += [segment.lists, *(segment.lengths or ())]
        codes = [self._heads] + ([] if self._router is None else [self._router])
        held = sum(array.nbytes for array in arrays if array is not None)
        return held + sum(part.bytes for part in codes)

    def _plan_for(self, k: int, shortlist: int | None) -> Plan:
        """The plan for so many hits; the last few are kept, for most searches ask for as many."""
        plan = self._plans.get((k, shortlist))
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[k, shortlist] = self.plan.for_hits(k, shortlist)
        return plan

    def _exact(
        self,
        queries: NDArray[np.float32],
        k: int,
        dim: int,
        mask: NDArray[np.bool_] | None,
        eligible: int,
    ) -> SearchResult:
        start = time.perf_counter()
        level = self.dims.index(dim)
        masks = self._split(mask)
        scaled = self._scaled(queries, level)
        scores, rows = rank(
            self._segments, scaled, level + 1, k, masks=masks, threads=self._threads
        )
        ms = (time.perf_counter() - start) * 1e3
        stage = Stage("exact", dim, eligible, min(k, eligible), ms)
        return SearchResult(rows, scores, np.full(len(queries), dim), (stage,))

    def _cascade(
        self,
        queries: NDArray[np.float32],
        k: int,
        dim: int,
        plan: Plan,
        mask: NDArray[np.bool_] | None,
        eligible: int,
        *,
        auto: bool,
    ) -> SearchResult:
        start = time.perf_counter()
        rare = eligible < _GATHER_SHARE * self.rows
        levels = self._levels(dim, plan, auto=auto)
        steps = [(level + 1, plan.kept) for level in levels]
        if rare:
            head = self.dims.index(plan.head_dim)
            steps = [(head + 1, plan.shortlist)] * (levels[0] > head) + steps
            levels = [bands - 1 for bands, _ in steps]
        scaled = self._scaled(queries, levels[-1])
        margins = np.full((len(queries), len(levels)), np.inf, np.float32)
        if auto:
            margins = self._margins(scaled, levels)
        found = self._searcher.search(
            scaled,
            k,
            steps=steps,
            margins=margins,
            shortlist=plan.shortlist,
            threads=self._threads,
            **(self._gathered(mask) if rare else self._scanned(queries, plan, mask, eligible)),
        )
        ms = (time.perf_counter() - start) * 1e3
        dims = np.array([self.dims[level] for level in levels])[found.taken - 1]
        scores = self._cosines(scaled, found, levels) if auto else found.scores
        stages = self._stages(found, ms, plan, steps, eligible, k, rare=rare)
        return SearchResult(found.rows, scores, dims, stages)

    def _levels(self, dim: int, plan: Plan, *, auto: bool) -> list[int]:
        """Nesting dimensions to score candidates at, by number: the middle one, then the final."""
        final = self.dims.index(dim)
        middle = middle_level(self.dims, plan.head_dim)
        if auto:
            return list(range(min(middle, final), final + 1))
        return [middle, final] if middle < final and plan.kept < plan.shortlist else [final]

    def _scanned(
        self,
        queries: NDArray[np.float32],
        plan: Plan,
        mask: NDArray[np.bool_] | None,
        eligible: int,
    ) -> dict[str, Any]:
        """Arguments of a search that takes its shortlist from the codes."""
        if self._mapped_queries <= _MAPPED_QUERIES:
            self._mapped_queries += len(queries)
            if self._mapped_queries > _MAPPED_QUERIES:
                self._copy_mapped_codes()
        options: dict[str, Any] = {
            "heads": self._heads,
            "head_queries": _prefix(queries, plan.head_dim),
            "mask": mask,
        }
        if self._router is not None:
            # The neighbours that a filter leaves are farther away, and so are their lists.
            nprobe = min(plan.lists, math.ceil(plan.nprobe * math.sqrt(self.rows / eligible)))
            route = _prefix(queries, self._router.dim)
            options |= {"router": self._router, "route_queries": route, "nprobe": nprobe}
            if plan.tail:
                tail = _prefix(queries, plan.head_dim + self._tails.shape[1])[:, plan.head_dim :]
                options |= {"tails": self._tails, "tail_queries": tail * np.float32(plan.tail)}
        return options

    def _copy_mapped_codes(self) -> None:
        if self._kept is not None:
            self._kept = dataclasses.replace(self._kept, data=self._kept.data.copy())
            self.__dict__.pop("_heads", None)
        if self._kept_router is not None:
            data = self._kept_router.data.copy()
            self._kept_router = dataclasses.replace(self._kept_router, data=data)
            self.__dict__.pop("_router", None)

    @staticmethod
    def _gathered(mask: NDArray[np.bool_] | None) -> dict[str, Any]:
        """Arguments of a search that scores the heads of all rows that a rare filter leaves."""
        assert mask is not None
        return {"candidates": np.flatnonzero(mask).astype(np.int64)}

    def _margins(self, scaled: NDArray[np.float32], levels: Sequence[int]) -> NDArray[np.float32]:
        """How far below the k-th best a row can lie at each level and still end above it.

        What the coordinates above a level add to a score is at most the product of the lengths of
        both vectors there, for the row as for the k-th best. A tuned plan knows a tighter bound.
        """
        margins = np.full((len(scaled), len(levels)), np.inf, np.float32)
        last = levels[-1]
        for i, level in enumerate(levels[:-1]):
            if self._energy is not None:
                rest = np.linalg.norm(scaled[:, self.dims[level] :], axis=1)
                margins[:, i] = 2 * rest * math.sqrt(self._energy[last] - self._energy[level])
            if self.plan.margins and last == len(self.plan.margins) - 1:
                margins[:, i] = np.minimum(margins[:, i], self.plan.margins[level])
        margins[:, -1] = 0
        return margins

    def _cosines(
        self, scaled: NDArray[np.float32], found: Found, levels: Sequence[int]
    ) -> NDArray[np.float32]:
        """Scores as cosines at the dimension that each query stopped at."""
        scores = found.scores.copy()
        for i, level in enumerate(levels[:-1]):
            stopped = found.taken == i + 1
            lengths = np.linalg.norm(scaled[stopped, : self.dims[level]], axis=1, keepdims=True)
            if self._energy is not None:
                lengths = lengths * np.sqrt(self._energy[level])
            scores[stopped] /= lengths
        return scores

    def _stages(
        self,
        found: Found,
        ms: float,
        plan: Plan,
        steps: Sequence[tuple[int, int]],
        eligible: int,
        k: int,
        *,
        rare: bool,
    ) -> tuple[Stage, ...]:
        """What a search did; the wall time is divided as the native code spent its own."""
        share = ms / max(float(found.seconds.sum()), 1e-9)
        spent = [float(seconds) * share for seconds in found.seconds]
        counts = [min(plan.shortlist, eligible), *(kept for _, kept in steps[:-1]), k]
        names = ["rerank"] * len(steps)
        stages = []
        if rare:
            names[0] = "shortlist"
            counts = [eligible, *counts[1:]]
        else:
            scored = eligible * plan.nprobe // plan.lists if plan.lists else eligible
            stages.append(Stage("shortlist", plan.head_dim, scored, counts[0], spent[0]))
        taken = int(found.taken.max(initial=1))
        for i in range(taken):
            kept = min(counts[i + 1] if i < len(steps) - 1 else k, counts[i])
            counts[i + 1] = kept
            dim = self.dims[steps[i][0] - 1]
            stages.append(Stage(names[i], dim, counts[i], kept, spent[i + 1]))
        return tuple(stages)

    def _mask(self, allowed: Sequence[NDArray[np.bool_] | None] | None) -> NDArray[np.bool_] | None:
        """Rows that are live and allowed, bool (rows,); None where that is all of them."""
        if allowed is None:
            return self._live
        if len(allowed) != len(self._given):
            raise QueryError(f"allowed has {len(allowed)} masks for {len(self._given)} segments")
        parts = []
        for rows, mask in zip(self._given, allowed, strict=True):
            if mask is not None and (mask.dtype != np.bool_ or mask.shape != (rows,)):
                raise QueryError(f"allowed must be one bool for each of {rows} rows")
            parts.append(_all_rows(mask, rows))
        both = np.concatenate(parts) if parts else np.zeros(0, np.bool_)
        return both if self._live is None else both & self._live

    def _split(self, mask: NDArray[np.bool_] | None) -> list[NDArray[np.bool_] | None]:
        """A mask over all rows, segment by segment."""
        if mask is None:
            return [None] * len(self._segments)
        ends = np.cumsum([segment.rows for segment in self._segments])[:-1]
        return list(np.split(mask, ends)) if self._segments else []

    @cached_property
    def _heads(self) -> Codes:
        bands = self.dims.index(self.plan.head_dim) + 1
        lists, threads, kept = self.plan.lists, self._threads, self._kept
        if kept is None:
            bits = self.plan.bits
            return scan_codes(self._segments, bands, bits=bits, threads=threads, lists=lists)
        rest = self._segments[self._coded :]
        of = [np.zeros(0, np.int64), *(_lists_of(segment) for segment in rest)]
        return Codes(
            [segment.bands[:bands] for segment in rest],
            centre=kept.centre,
            step=kept.step,
            bits=kept.bits,
            lists=np.concatenate(of) if lists else None,
            list_count=max(lists, 1),
            threads=threads,
            kept=kept,
        )

    def _segments_of(self, kept: KeptCodes) -> int:
        """How many segments codes were kept of."""
        starts = np.cumsum([0, *(segment.rows for segment in self._segments)])
        number = int(np.searchsorted(starts, kept.rows))
        codes = (max(self.plan.lists, 1), self.plan.head_dim, self.plan.bits)
        if number == len(starts) or starts[number] != kept.rows:
            raise ValueError(f"codes of {kept.rows} rows are kept, where no segment ends")
        if (len(kept.list_rows), len(kept.centre), kept.bits) != codes:
            raise ValueError(f"the codes that are kept are not those of {self.plan}")
        return number

    @cached_property
    def _router(self) -> Codes | None:
        if self._means is None:
            return None
        kept = self._kept_router
        if kept is None:
            return router(self._means)
        return Codes([], centre=kept.centre, step=kept.step, bits=kept.bits, kept=kept)

    @cached_property
    def _tails(self) -> NDArray[np.float16]:
        """The means of the lists above the head: float16 (lists, d)."""
        assert self._means is not None
        return np.ascontiguousarray(self._means[:, self.plan.head_dim :])

    @cached_property
    def _searcher(self) -> Searcher:
        bands = len(self.dims)
        lengths = [s.lengths[:bands] for s in self._segments if s.lengths is not None]
        rows = [segment.scattered or segment.bands for segment in self._segments]
        return Searcher([of_segment[:bands] for of_segment in rows], lengths)

    def _scaled(self, queries: NDArray[np.float32], level: int) -> NDArray[np.float32]:
        """Unit prefixes, divided by the length that the prefixes of all rows share."""
        unit = unit_rows(queries[:, : self.dims[level]])
        return unit if self._energy is None else unit * np.float32(self._energy[level] ** -0.5)


def middle_level(dims: Sequence[int], head_dim: int) -> int:
    """Number of the nesting dimension of the middle stage; the last where none is large enough."""
    least = max(_MIDDLE_FACTOR * dims[0], head_dim + 1)
    return next((i for i, dim in enumerate(dims) if dim >= least), len(dims) - 1)


def _widened(plan: Plan, rarity: float) -> Plan:
    """The plan for searches where one row in so many may be returned.

    What a filter leaves of the neighbours is farther away, where heads tell rows apart less well:
    at one in ten, shortlists of the same length lose a point of recall (benchmarks/filters.py).
    """
    factor = rarity**0.25
    shortlist, kept = math.ceil(plan.shortlist * factor), math.ceil(plan.kept * factor)
    return dataclasses.replace(plan, shortlist=shortlist, kept=kept)


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


def _prefix(queries: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """The first `dim` coordinates, contiguous; zeros where a query has fewer."""
    if queries.shape[1] >= dim:
        return np.ascontiguousarray(queries[:, :dim])
    return np.pad(queries, ((0, 0), (0, dim - queries.shape[1])))


def _lists_of(segment: FunnelSegment) -> NDArray[np.int64]:
    if segment.lists is None:
        raise ValueError("rows without kept codes must say which list they belong to")
    return segment.lists.astype(np.int64)


def _all_rows(mask: NDArray[np.bool_] | None, rows: int) -> NDArray[np.bool_]:
    return np.ones(rows, np.bool_) if mask is None else mask
