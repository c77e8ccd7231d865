"""Choosing a plan: rows of the index ask for their neighbours, and the cheapest way to them wins.

The questions are rows of the index itself, each with itself and its surroundings left out. Their
neighbours lie about as far away as those of real questions, which noisy copies of rows would not
show without knowing how much noise is right. Half of the rows choose the plan; the other half
confirm and measure it. Nothing is searched: the ranks of the neighbours say what every plan would
find.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.funnel import middle_level
from adaptive_search.indexes.heads import ROUTE_DIM, Lists, gather, train_lists
from adaptive_search.indexes.plan import PLANNED_K, Plan
from adaptive_search.indexes.ranks import (
    UNREACHABLE,
    Probes,
    Questions,
    Ranks,
    Way,
    count_ranks,
    nearest,
)
from adaptive_search.kernels.mapping import release_memory

# Below this an exact scan, or a shortlist of the default length, is fast enough untuned.
MIN_TUNED_ROWS = 10_000
# Below this a scan of all codes takes less time than finding and scanning lists.
MIN_LIST_ROWS = 50_000
_QUESTIONS = 600
_NEIGHBOURS = 100  # of each question, to learn margins from
# Rows next to each other are often of one text, which no real question is a part of.
_APART = 4
_LIST_ROWS = 64
# Of the tail term, which is tried with the widest head in 4 bits only: what it saves other codes in
# candidates is less than what these save in bytes.
_TAIL_WEIGHT = 0.5
_HALVINGS = 8  # of the lists, by which fewer and fewer are tried, in three steps each
# Lists were made of rows, and rows find them better than questions do: as many neighbours of real
# questions are in 1.3 to 2 times as many lists (docs/search.md).
_NPROBES_OF_ROWS = 1.6
_SHORTLISTS = (
    *(60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600, 800),
    *(1000, 1250, 1500, 2000, 3000, 5000, 10_000),
)
_KEPT = (40, 60, 80, 100, 150, 200, 300, 500, 1000)
_LENGTHS = tuple((k, kept) for k in _SHORTLISTS for kept in (*(n for n in _KEPT if n < k), k))
# Costs in nanoseconds of one core, a Zen 4 whose memory others use as well: a row that is scanned,
# and each byte of its code, which comes from memory; a dimension of a code that chooses lists; a
# candidate of the shortlist, one that is scored at the middle dimension, and one at full dims; a
# list that is probed, and its tail.
_ROW, _SCANNED, _ROUTED = 1.8, 0.07, 0.04
_CANDIDATE, _MIDDLE, _FINAL = 90.0, 175.0, 670.0
_LIST, _TAIL = 20.0, 90.0
# A plan is believed to reach the target if its mean recall does so by this many standard errors.
_CONFIDENCE = 1.0
# How much of the loss that the target allows may come from margins.
_MARGIN_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A plan, and for one with lists the lists and where each segment's rows belong."""

    plan: Plan
    lists: Lists | None = None
    assigned: Sequence[NDArray[np.uint32]] | None = None


def tune(
    segments: Sequence[FunnelSegment],
    dims: Sequence[int],
    *,
    prefix_energy: Sequence[float] | None,
    recall_target: float,
    threads: int = 1,
    lists: int | None = None,
    seed: int = 0,
) -> Tuned:
    """Find the cheapest plan whose recall@10 at full dims reaches a target.

    Memory does not depend on the number of rows, but for 4 bytes a row that say its list.

    Args:
        segments: the segments, with at least one live row.
        dims: nesting dimensions, all of them in every segment.
        prefix_energy: as `Funnel` takes it.
        recall_target: share of the true ten best that is to be found.
        threads: threads of native code; matrix products take as many as numpy is set to.
        lists: how many to make; by default one for 64 rows, 16 sqrt(rows) at most, and none for
            fewer than 50,000 rows. They are used where they cost less than a scan of all codes.
        seed: of whatever is drawn.
    """
    rows = sum(segment.rows for segment in segments)
    if lists is None:
        lists = min(rows // _LIST_ROWS, round(16 * rows**0.5)) if rows >= MIN_LIST_ROWS else 0
    questions = _questions(segments, dims, seed)
    if not len(questions.rows):  # every row is zero, and neighbours mean nothing
        return Tuned(Plan(dims[0], rows=rows, recall_target=recall_target))
    neighbours = nearest(segments, dims, questions, _NEIGHBOURS)
    release_memory()
    heads = [dim for dim in dims if dim <= 2 * dims[0]]
    ways = [Way(dim, bits=bits) for dim in heads for bits in (8, 4)]
    trained, assigned, probes = None, None, None
    if lists:
        trained, assigned = train_lists(segments, lists, dims=dims, seed=seed)
        release_memory()
        probes = Probes.of_questions(questions, trained, assigned, _nprobes(lists), threads=threads)
        if heads[-1] < trained.means.shape[1]:
            ways.append(Way(heads[-1], _TAIL_WEIGHT, 4))
    middle = dims[middle_level(dims, heads[-1])]
    truth = neighbours[:, :PLANNED_K]
    ranks = count_ranks(segments, dims, questions, truth, ways, middle=middle, probes=probes)
    table = _Table(ranks, truth, rows, probes, cascades=middle < dims[-1])
    best = table.cheapest(recall_target)
    plan = dataclasses.replace(
        best,
        margins=_margins(segments, dims, prefix_energy, questions, neighbours, recall_target),
        rows=rows,
        recall_target=recall_target,
        recall=round(table.recall_elsewhere(best), 4),
    )
    return Tuned(plan, trained, assigned) if plan.lists else Tuned(plan)


class _Table:
    """What every plan finds, and what it costs."""

    def __init__(
        self,
        ranks: Ranks,
        truth: NDArray[np.int64],
        rows: int,
        probes: Probes | None,
        *,
        cascades: bool,
    ) -> None:
        self._ranks, self._truth, self._cascades = ranks, truth, cascades
        self._lists, self._nprobes = 0, [0]
        self._scanned = [float(rows)]
        if probes is not None:
            self._lists = len(probes.lists.means)
            self._nprobes = [*probes.nprobes, 0]
            self._scanned = [*probes.scanned.tolist(), float(rows)]
        self._chooses = np.arange(len(truth)) % 2 == 0

    def cheapest(self, target: float) -> Plan:
        """The cheapest plan believed to reach a recall, which the other questions confirm.

        If there is none, the one that finds most.
        """
        best = chosen = None
        for widest in self._ways():
            reaches, found = self._believed(widest, target)
            if not reaches:
                ranking = (False, found, -self.cost(widest))
                if best is None or ranking > best:
                    best, chosen = ranking, widest
                continue
            for shortlist, kept in _LENGTHS:
                plan = dataclasses.replace(widest, shortlist=shortlist, kept=kept)
                ranking = (True, 0.0, -self.cost(plan))
                if (best is None or ranking > best) and self._believed(plan, target)[0]:
                    best, chosen = ranking, plan
        assert chosen is not None
        return chosen

    def recall_elsewhere(self, plan: Plan) -> float:
        """The recall of a plan on the questions that only confirm."""
        others = ~self._chooses
        return float(self._shares(plan, others).mean()) if others.any() else 0.0

    def cost(self, plan: Plan) -> float:
        """Expected time of a query, nanoseconds."""
        scanned = self._scanned[self._nprobes.index(plan.nprobe)]
        scanning = scanned * (_ROW + _SCANNED * plan.head_dim * plan.bits / 8)
        probing = _ROUTED * ROUTE_DIM * self._lists if plan.lists else 0.0
        probing += (_LIST + bool(plan.tail) * _TAIL) * plan.nprobe
        cascades = self._cascades and plan.kept < plan.shortlist
        ranking = (
            _MIDDLE * plan.shortlist + _FINAL * plan.kept if cascades else _FINAL * plan.shortlist
        )
        return scanning + probing + _CANDIDATE * plan.shortlist + ranking

    def _ways(self) -> Iterator[Plan]:
        """Every choice of a head and of lists, with the longest shortlist."""
        shortlist, kept = _LENGTHS[-1]
        for way in self._ranks.heads:
            for nprobe in self._nprobes:
                lists = self._lists if nprobe else 0
                if lists or not way.tail:
                    plan = Plan(way.head_dim, shortlist, kept, lists, nprobe)
                    yield dataclasses.replace(plan, tail=way.tail, bits=way.bits)

    def _believed(self, plan: Plan, target: float) -> tuple[bool, float]:
        """Whether a plan reaches a recall beyond doubt, and its recall, where plans are chosen."""
        shares = self._shares(plan, self._chooses)
        doubt = _CONFIDENCE * shares.std() / len(shares) ** 0.5
        reaches = bool(shares.mean() - doubt >= target)
        if reaches and not self._chooses.all():
            reaches = self.recall_elsewhere(plan) >= target
        return reaches, float(shares.mean())

    def _shares(self, plan: Plan, which: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The share of each question's neighbours that a plan finds."""
        heads = self._ranks.heads[Way(plan.head_dim, plan.tail, plan.bits)][which]
        found = heads[:, :, self._nprobes.index(plan.nprobe)] < plan.shortlist
        if 0 < plan.nprobe < plan.lists:
            of_rows = np.searchsorted(self._nprobes[:-1], plan.nprobe // _NPROBES_OF_ROWS)
            found &= heads[:, :, of_rows] < UNREACHABLE
        if self._cascades and plan.kept < plan.shortlist:
            found &= self._ranks.middle[which] < plan.kept
        counts = np.maximum((self._truth[which] >= 0).sum(axis=1), 1)
        return np.asarray(found.sum(axis=1) / counts)


def _nprobes(lists: int) -> list[int]:
    """Numbers of lists to choose from."""
    return sorted({max(1, round(lists * 2 ** (-step / 3))) for step in range(3 * _HALVINGS + 1)})


def _questions(segments: Sequence[FunnelSegment], dims: Sequence[int], seed: int) -> Questions:
    """Some rows that are not zero."""
    rows = sum(segment.rows for segment in segments)
    rng = np.random.default_rng(seed)
    picked = np.sort(rng.choice(rows, min(rows, _QUESTIONS), replace=False))
    vectors = gather(segments, picked, len(dims))
    usable = vectors[:, : dims[0]].any(axis=1)
    return Questions(unit_rows(vectors[usable]), picked[usable], _APART)


def _margins(
    segments: Sequence[FunnelSegment],
    dims: Sequence[int],
    prefix_energy: Sequence[float] | None,
    questions: Questions,
    neighbours: NDArray[np.int64],
    target: float,
) -> tuple[float, ...]:
    """For each dimension, how far below the tenth best there a true hit may lie.

    Distances are in scores at full dims. Rows that lie farther below are a share of the hits that
    the recall target does not care for.
    """
    asked = np.flatnonzero((neighbours >= 0).all(axis=1))
    if not len(asked):
        return ()
    allowed_loss = _MARGIN_SHARE * (1 - target) / (len(dims) - 1 or 1)
    missing = np.empty((len(dims), len(asked), PLANNED_K), np.float32)
    scale = np.float32(1.0 if prefix_energy is None else prefix_energy[-1] ** -0.5)
    for i, q in enumerate(asked):
        order = np.argsort(neighbours[q])
        rows = gather(segments, neighbours[q][order], len(dims))[np.argsort(order)]
        products = rows * (questions.vectors[q] * scale)
        for level, dim in enumerate(dims):
            scores = products[:, :dim].sum(axis=1)
            if prefix_energy is None:
                scores /= np.maximum(np.linalg.norm(rows[:, :dim], axis=1), 1e-9)
            last = np.partition(scores, -PLANNED_K)[-PLANNED_K]
            missing[level, i] = last - scores[:PLANNED_K]
    margins = np.quantile(missing, 1 - allowed_loss, axis=(1, 2))
    return tuple(round(max(float(margin), 0.0), 6) for margin in margins)
