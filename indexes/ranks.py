"""How many rows stand above the true neighbours of questions, whichever way one looks for them.

From these ranks the recall of every plan follows without a search: a search finds a neighbour whose
list is probed, if few enough rows of the probed lists stand above it among the heads, and few
enough at the middle dimension. Rows are counted while blocks of them pass by, so memory does not
grow with their number. Heads are scored as the codes that searches scan: such scores are whole
numbers, and float32 products of them are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.heads import Lists, gather, head_scale, router
from adaptive_search.kernels.search import MAX_CODE, MAX_WEIGHT

_BLOCK_ROWS = 1024
_COUNTED_ROWS = 512  # at a time
_QUESTIONS_AT_ONCE = 8
# A neighbour that so many rows stand above is out of reach of every plan, and they are not counted
# to the end.
UNREACHABLE = 20_000

_Floats = NDArray[np.float32]
_Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Questions:
    """What asks for its neighbours.

    Attributes:
        vectors: float32 (q, dim), unit length.
        rows: int64 (q,), the row that each of them is, -1 for none.
        apart: rows at most this far from the one that asks are taken for parts of it: they are
            neither neighbours nor in their way.
    """

    vectors: _Floats
    rows: _Rows
    apart: int = 0

    def hide(self, scores: _Floats, first: int) -> None:
        """Put what questions are part of at minus infinity in scores (q, rows from `first` on)."""
        last = first + scores.shape[1]
        inside = (self.rows + self.apart >= first) & (self.rows - self.apart < last)
        for q in np.flatnonzero(inside & (self.rows >= 0)):
            row = int(self.rows[q]) - first
            scores[q, max(row - self.apart, 0) : row + self.apart + 1] = -np.inf


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a segment.

    Attributes:
        first: number of the first of them.
        vectors: float32 (rows, dim), valid until the next block is taken.
        gone: bool (rows,), rows that are deleted; None if none is.
        lengths: float32 (rows,) for each nesting dimension; None if all rows have the same.
    """

    first: int
    vectors: _Floats
    gone: NDArray[np.bool_] | None
    lengths: Sequence[_Floats] | None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.vectors)

    def scores(self, queries: _Floats, level: int) -> _Floats:
        """Scores at a nesting dimension, float32 (q, rows); minus infinity for deleted rows."""
        scores = queries @ self.vectors[:, : queries.shape[1]].T
        if self.lengths is not None:
            scores /= np.maximum(self.lengths[level], 1e-12)
        if self.gone is not None:
            scores[:, self.gone] = -np.inf
        return scores


def blocks(
    segments: Sequence[FunnelSegment], dims: Sequence[int], bands: int, rows: int = _BLOCK_ROWS
) -> Iterator[Block]:
    """Walk through the lowest bands of all rows, some rows at a time."""
    space = np.empty((rows, dims[bands - 1]), np.float32)
    first = 0
    for segment in segments:
        for start in range(0, segment.rows, rows):
            part = slice(start, min(start + rows, segment.rows))
            vectors = space[: part.stop - start]
            for band, begin, end in zip(segment.bands, (0, *dims), dims[:bands], strict=False):
                vectors[:, begin:end] = band[part]
            gone = None if segment.live is None else ~segment.live[part]
            lengths = segment.lengths and [values[part] for values in segment.lengths]
            yield Block(first + start, vectors, gone, lengths)
        first += segment.rows


def nearest(
    segments: Sequence[FunnelSegment], dims: Sequence[int], questions: Questions, k: int
) -> _Rows:
    """The k best rows for each question at full dims: int64 (q, k), best first, then -1."""
    count = len(questions.vectors)
    asked, rows = np.empty(0, np.int64), np.empty(0, np.int64)
    scores = np.empty(0, np.float32)
    floor = np.full((count, 1), -np.inf, np.float32)
    for block in blocks(segments, dims, len(dims)):
        found = block.scores(questions.vectors, len(dims) - 1)
        questions.hide(found, block.first)
        better = np.flatnonzero(found > floor)
        if len(better) > count * k:  # the first block
            best = np.argpartition(found, -k, axis=1)[:, -k:]
            better = (best + np.arange(count)[:, None] * found.shape[1]).ravel()
            better = better[found.ravel()[better] > -np.inf]
        asked = np.concatenate([asked, better // found.shape[1]])
        rows = np.concatenate([rows, better % found.shape[1] + block.first])
        scores = np.concatenate([scores, found.ravel()[better]])
        if len(rows) > 2 * count * k:
            best = _best(asked, rows, scores, k)
            asked, rows, scores = asked[best], rows[best], scores[best]
            last = np.flatnonzero(np.diff(asked, append=count))
            full = np.bincount(asked, minlength=count) == k
            floor[full, 0] = scores[last][full[asked[last]]]
    best = _best(asked, rows, scores, k)
    asked, rows = asked[best], rows[best]
    place = np.arange(len(asked)) - np.searchsorted(asked, asked)
    nearest_rows = np.full((count, k), -1, np.int64)
    nearest_rows[asked, place] = rows
    return nearest_rows


def _best(asked: _Rows, rows: _Rows, scores: _Floats, k: int) -> _Rows:
    """Places of the k best rows of each question, in the order of questions and scores."""
    order = np.lexsort((rows, -scores, asked))
    ordered = asked[order]
    return np.asarray(order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < k])


@dataclass(frozen=True)
class Way:
    """A way to score heads: their dimension, the weight of the tail term, and bits of a code."""

    head_dim: int
    tail: float = 0.0
    bits: int = 8


@dataclass(frozen=True, eq=False)
class Probes:
    """How near lists are to questions.

    Attributes:
        lists: the lists.
        of: uint32 (rows,), the list of each row.
        nprobes: rising numbers of lists that could be probed.
        places: uint8 (q, lists): the first of `nprobes` that probes the list, by number; behind
            the last where none does.
        scanned: float64 (nprobes,), the rows that a question scans on average.
    """

    lists: Lists
    of: NDArray[np.uint32]
    nprobes: Sequence[int]
    places: NDArray[np.uint8]
    scanned: NDArray[np.float64]

    @classmethod
    def of_questions(
        cls,
        questions: Questions,
        lists: Lists,
        assigned: Sequence[NDArray[np.uint32]],
        nprobes: Sequence[int],
        *,
        threads: int = 1,
    ) -> Probes:
        """Route the questions as a search does."""
        count = len(lists.means)
        of = np.concatenate(assigned)
        sizes = np.sum([np.bincount(part, minlength=count) for part in assigned], axis=0)
        codes = router(lists.means)
        place_of = np.searchsorted(nprobes, np.arange(count), side="right").astype(np.uint8)
        places = np.empty((len(questions.rows), count), np.uint8)
        scanned = np.zeros(len(nprobes))
        for start in range(0, len(places), _QUESTIONS_AT_ONCE):
            routes = questions.vectors[start : start + _QUESTIONS_AT_ONCE, : codes.dim]
            order = codes.nearest(np.ascontiguousarray(routes), count, threads)
            np.put_along_axis(places[start : start + len(order)], order, place_of[None], axis=1)
            ends = np.asarray(nprobes) - 1
            scanned += np.cumsum(sizes[order], axis=1)[:, ends].sum(axis=0)
        return cls(lists, of, nprobes, places, scanned / max(len(places), 1))


@dataclass(frozen=True, eq=False)
class Ranks:
    """How many rows stand above each neighbour.

    Attributes:
        heads: for each way int64 (q, n, nprobes + 1): among the heads of the rows in the lists that
            are probed, and as the last among all heads, if the way has no tail; UNREACHABLE where
            the neighbour is not in these lists.
        middle: int64 (q, n): at the middle dimension, among all rows.
    """

    heads: dict[Way, _Rows]
    middle: _Rows


def count_ranks(
    segments: Sequence[FunnelSegment],
    dims: Sequence[int],
    questions: Questions,
    neighbours: _Rows,
    ways: Sequence[Way],
    *,
    middle: int,
    probes: Probes | None = None,
) -> Ranks:
    """Count the rows that stand above each neighbour of each question.

    Args:
        segments: the segments.
        dims: nesting dimensions, all of them in every segment.
        questions: what asks.
        neighbours: int64 (q, n), the rows whose ranks are wanted; -1 for none.
        ways: to score heads; with a tail only if there are probes.
        middle: nesting dimension of the middle stage, at least the heads'.
        probes: how near the lists are, if rows are in lists.
    """
    level = dims.index(middle)
    asking = np.ascontiguousarray(questions.vectors[:, :middle])
    wanted = _vectors_of(segments, neighbours, level + 1)
    own = np.einsum("qd,qnd->qn", asking, wanted)
    if segments[0].lengths is not None:
        own /= np.maximum(np.linalg.norm(wanted, axis=2), 1e-12)
    in_middle = _Counter(own, neighbours, None)
    kinds = {(way.head_dim, way.bits) for way in ways}
    heads = {kind: _Heads(segments, dims, questions, *kind) for kind in kinds}
    counters: dict[Way, _Counter] = {}
    for way in ways:
        head = heads[way.head_dim, way.bits]
        own = head.of_each(wanted)
        if probes is not None and way.tail:
            of_each = probes.lists.means[_lists_of(probes, neighbours)]
            own = own + head.offsets(way.tail, np.einsum("qd,qnd->qn", *head.tails(of_each)))
        counters[way] = _Counter(own, neighbours, probes)
    del wanted  # which takes as much memory as the counting
    for block in blocks(segments, dims, level + 1, _COUNTED_ROWS):
        scores = block.scores(asking, level)
        questions.hide(scores, block.first)
        in_middle.add(scores, block.first)
        lists = None if probes is None else probes.of[block.first : block.first + block.rows]
        for kind, head in heads.items():
            plain = head.scores(block)
            questions.hide(plain, block.first)
            products: _Floats | None = None
            if probes is not None and any(way.tail for way in counters):
                asked, means = head.tails(probes.lists.means[lists])
                products = asked @ means.T
            for way, counter in counters.items():
                if (way.head_dim, way.bits) == kind:
                    scores = plain
                    if products is not None and way.tail:
                        scores = plain + head.offsets(way.tail, products)
                    counter.add(scores, block.first)
    found = {way: counter.ranks() for way, counter in counters.items()}
    return Ranks(found, in_middle.ranks()[:, :, -1])


class _Heads:
    """Heads of rows and of questions, rounded as the codes of a search are."""

    def __init__(
        self,
        segments: Sequence[FunnelSegment],
        dims: Sequence[int],
        asking: Questions,
        dim: int,
        bits: int,
    ) -> None:
        self.dim, self._most = dim, MAX_CODE[bits]
        self._vectors = asking.vectors
        self._centre, self._step = head_scale(segments, dims.index(dim) + 1, bits)
        scaled = asking.vectors[:, :dim] * self._step
        largest = np.abs(scaled).max(axis=1, keepdims=True)
        self._factor = np.float32(MAX_WEIGHT) / np.maximum(largest, 1e-30)
        self._questions = np.rint(scaled * self._factor)

    def scores(self, block: Block) -> _Floats:
        """Scores of the codes of rows, float32 (q, rows)."""
        scores: _Floats = self._questions @ self._codes(block.vectors).T
        if block.gone is not None:
            scores[:, block.gone] = -np.inf
        return scores

    def of_each(self, rows: _Floats) -> _Floats:
        """Scores of the codes of each question's own rows (q, n, dim): float32 (q, n)."""
        codes = self._codes(rows.reshape(-1, rows.shape[2])).reshape(*rows.shape[:2], self.dim)
        return np.asarray(np.einsum("qd,qnd->qn", self._questions, codes))

    def tails(self, means: NDArray[np.float16]) -> tuple[_Floats, _Floats]:
        """Questions and means (..., dim) above the head, to be multiplied."""
        width = means.shape[-1]
        return self._vectors[:, self.dim : width], means[..., self.dim :].astype(np.float32)

    def offsets(self, weight: float, products: _Floats) -> _Floats:
        """What the products (q, n) of questions with tails add to scores."""
        return np.asarray(np.rint(np.float32(weight) * products * self._factor))

    def _codes(self, vectors: _Floats) -> _Floats:
        codes = unit_rows(vectors[:, : self.dim])
        codes -= self._centre
        codes /= self._step
        return np.clip(np.rint(codes, out=codes), -self._most, self._most, out=codes)


class _Counter:
    """Counts the rows above each of some rows, by how near their lists are to the question."""

    def __init__(self, own: _Floats, rows: _Rows, probes: Probes | None) -> None:
        self._own, self._rows, self._probes = own, rows, probes
        places = 1 if probes is None else len(probes.nprobes) + 1
        self._above = np.zeros((*own.shape, places), np.int32)
        self._out = (rows < 0) | ~np.isfinite(own)
        self._watch()

    def add(self, scores: _Floats, first: int) -> None:
        """Count rows by their scores, float32 (q, rows), the first of which is row `first`."""
        high = np.flatnonzero(scores >= self._floor)
        if not len(high):
            return
        asked, rows = np.divmod(high, scores.shape[1])
        values = scores.ravel()[high]
        rows += first
        cell = asked * self._above.shape[2]
        if self._probes is not None:
            cell += self._probes.places[asked, self._probes.of[rows]]
        for n in range(self._own.shape[1]):
            own, row = self._own[asked, n], self._rows[asked, n]
            above = (values > own) | ((values == own) & (rows < row))
            counted = np.bincount(cell[above & (rows != row)], minlength=self._above[:, n].size)
            self._above[:, n] += counted.reshape(self._above[:, n].shape)
        self._watch()

    def ranks(self) -> _Rows:
        """Rows above: int64 (q, n, nprobes + 1)."""
        ranks = np.cumsum(self._above, axis=2, dtype=np.int64)
        ranks[self._out] = UNREACHABLE
        if self._probes is not None:
            lists = _lists_of(self._probes, self._rows)
            places = np.take_along_axis(self._probes.places, lists, axis=1)
            ranks[places[:, :, None] > np.arange(ranks.shape[2])] = UNREACHABLE
        return ranks

    def _watch(self) -> None:
        """Look only at scores that still matter."""
        self._out |= self._above.sum(axis=2) >= UNREACHABLE
        watched = np.where(self._out, np.float32(np.inf), self._own)
        self._floor = watched.min(axis=1, initial=np.inf)[:, None]


def _lists_of(probes: Probes, rows: _Rows) -> _Rows:
    return probes.of[rows].astype(np.int64)


def _vectors_of(segments: Sequence[FunnelSegment], rows: _Rows, bands: int) -> _Floats:
    """The lowest bands of rows (q, n): float32 (q, n, dim); any vector where there is no row."""
    each, place = np.unique(np.maximum(rows, 0), return_inverse=True)
    return gather(segments, each, bands)[place.reshape(rows.shape)]
