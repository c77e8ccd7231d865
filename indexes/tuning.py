"""Choosing a plan: rows of the index ask for their neighbours, and the cheapest way to them wins.

The questions are rows of the index itself, each with itself left out. Their neighbours lie about as
far away as those of real questions, which noisy copies of rows would not show without knowing how
much noise is right. Half of the rows choose the plan; the other half measure it.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.indexes.heads import Lists, gather, train_lists
from adaptive_search.indexes.plan import PLANNED_K, Plan

# Below this an exact scan, or a shortlist of the default length, is fast enough untuned.
MIN_TUNED_ROWS = 10_000
# Below this a scan of all codes takes less time than finding and scanning lists.
MIN_LIST_ROWS = 200_000
_QUESTIONS = 400
_NEIGHBOURS = 100  # of each question, to learn margins from
_SHORTLISTS = (60, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000)
_NPROBES = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536)
_KEPT_SHARES = (4, 8)  # of the shortlist, that the middle dimension passes on
_MIN_KEPT = 60
# Relative costs, in the time that a code of one dimension takes to scan (19 ps of a Zen 5 core): a
# candidate that enters the shortlist and is scored at the middle dimension (280 ns), and one more
# scored at full dims (620 ns).
_CANDIDATE = 15_000.0
_KEPT = 32_000.0
# A plan is believed to reach the target if its mean recall does so by this many standard errors.
_CONFIDENCE = 1.5
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

    Args:
        segments: the segments, with at least one live row.
        dims: nesting dimensions, all of them in every segment.
        prefix_energy: as `Funnel` takes it.
        recall_target: share of the true ten best that is to be found.
        threads: threads to use.
        lists: how many to make; by default 4 sqrt(rows), or none for fewer than 200,000
            rows. They are used where they cost less than a scan of all codes.
        seed: of whatever is drawn.
    """
    funnel = Funnel(segments, dims, prefix_energy=prefix_energy, threads=threads)
    if lists is None:
        lists = round(4 * funnel.rows**0.5) if funnel.rows >= MIN_LIST_ROWS else 0
    chooser = _Chooser(funnel, segments, prefix_energy, recall_target, threads, seed)
    if not len(chooser.picked):  # every row is zero, and neighbours mean nothing
        return Tuned(Plan(dims[0], rows=funnel.rows, recall_target=recall_target))
    heads = [dim for dim in dims if dim <= 2 * dims[0]]
    flat, flat_reaches = chooser.cheapest([Plan(dim) for dim in heads], segments, None)
    if not lists:
        return Tuned(flat)
    trained, assigned = train_lists(segments, lists, dims=dims, threads=threads, seed=seed)
    listed = [
        dataclasses.replace(segment, lists=of)
        for segment, of in zip(segments, assigned, strict=True)
    ]
    probes = [Plan(dim, lists=lists, nprobe=n) for dim in heads for n in _NPROBES if n <= lists]
    plan, reaches = chooser.cheapest(probes, listed, trained.means)
    if not reaches or (flat_reaches and chooser.cost(flat) <= chooser.cost(plan)):
        return Tuned(flat)
    return Tuned(plan, trained, assigned)


class _Chooser:
    def __init__(
        self,
        funnel: Funnel,
        segments: Sequence[FunnelSegment],
        prefix_energy: Sequence[float] | None,
        recall_target: float,
        threads: int,
        seed: int,
    ) -> None:
        self.rows, self.dims, self.target = funnel.rows, funnel.dims, recall_target
        self.energy, self.threads = prefix_energy, threads
        rng = np.random.default_rng(seed)
        picked = np.sort(rng.choice(funnel.rows, min(funnel.rows, _QUESTIONS), replace=False))
        questions = gather(segments, picked, len(self.dims))
        usable = questions[:, : self.dims[0]].any(axis=1)
        self.picked, self.questions = picked[usable], questions[usable]
        exact = funnel.search(self.questions, _NEIGHBOURS + 1, exact=True)
        others = [found[found != row] for found, row in zip(exact.rows, self.picked, strict=True)]
        found_each = exact.rows.shape[1] - 1  # a deleted row has one more, as it is not found
        self.neighbours = np.array([found[:found_each] for found in others])
        enough = len(self.picked) > 0 and funnel.rows > _NEIGHBOURS
        self.margins = self._margins(segments) if enough else ()

    def cheapest(
        self,
        plans: Sequence[Plan],
        segments: Sequence[FunnelSegment],
        means: NDArray[np.float16] | None,
    ) -> tuple[Plan, bool]:
        """The cheapest plan that reaches the target, with a shortlist as long as that takes.

        Args:
            plans: heads, or lists to probe, to choose from; the lengths are chosen here.
            segments: the segments, with the lists of their rows if the plans have lists.
            means: as `Funnel` takes them.

        Returns:
            The plan, with its measurements, and True; the costliest one and False if none
            reaches the target.
        """
        make = _sharing_codes(
            lambda plan: Funnel(
                segments,
                self.dims,
                prefix_energy=self.energy,
                plan=plan,
                means=means,
                threads=self.threads,
            )
        )
        chooses = np.arange(len(self.picked)) % 2 == 0

        def reaches(plan: Plan) -> bool:
            shares = self._recall(make(plan), chooses)
            doubt = shares.std() / len(shares) ** 0.5
            return bool(shares.mean() - _CONFIDENCE * doubt >= self.target)

        ways = [_lengths(plan, share) for plan in plans for share in _KEPT_SHARES]
        ways.sort(key=lambda lengths: self.cost(lengths[0]))
        best: Plan | None = None
        for lengths in ways:
            if best is not None:  # what costs as much is of no use
                lengths = [plan for plan in lengths if self.cost(plan) < self.cost(best)]
            first = bisect.bisect_left(lengths, True, key=reaches)
            best = lengths[first] if first < len(lengths) else best
        reached = best is not None
        if best is None:
            best = max((lengths[-1] for lengths in ways), key=self.cost)
        measured = self._recall(make(best), ~chooses).mean() if len(self.picked) > 1 else 0.0
        plan = dataclasses.replace(
            best,
            margins=self.margins,
            rows=self.rows,
            recall_target=self.target,
            recall=round(float(measured), 4),
        )
        return plan, reached

    def cost(self, plan: Plan) -> float:
        """Expected time of a query, in codes of one dimension."""
        scanned = self.rows * plan.nprobe / plan.lists if plan.lists else self.rows
        return scanned * plan.head_dim + _CANDIDATE * plan.shortlist + _KEPT * plan.kept

    def _recall(self, funnel: Funnel, which: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The share of each question's true ten best that a funnel finds."""
        found = funnel.search(self.questions[which], PLANNED_K + 1).rows
        truth = self.neighbours[which, :PLANNED_K]
        shared = (found[:, :, None] == truth[:, None, :]).any(axis=1)
        counts = np.maximum((truth >= 0).sum(axis=1), 1)
        return np.asarray((shared & (truth >= 0)).sum(axis=1) / counts)

    def _margins(self, segments: Sequence[FunnelSegment]) -> tuple[float, ...]:
        """For each dimension, how far below the tenth best there a true hit may lie.

        Distances are in scores at full dims. Rows that lie farther below are a share of the hits
        that the recall target does not care for.
        """
        allowed_loss = _MARGIN_SHARE * (1 - self.target) / (len(self.dims) - 1 or 1)
        missing = np.empty((len(self.dims), len(self.picked), PLANNED_K), np.float32)
        scale = 1.0 if self.energy is None else self.energy[-1] ** -0.5
        for q, question in enumerate(unit_rows(self.questions) * np.float32(scale)):
            order = np.argsort(self.neighbours[q])
            rows = gather(segments, self.neighbours[q][order], len(self.dims))
            products = (rows * question)[np.argsort(order)]
            for level, dim in enumerate(self.dims):
                scores = products[:, :dim].sum(axis=1)
                if self.energy is None:
                    scores /= np.maximum(
                        np.linalg.norm(rows[np.argsort(order), :dim], axis=1), 1e-9
                    )
                last = np.partition(scores, -PLANNED_K)[-PLANNED_K]
                missing[level, q] = last - scores[:PLANNED_K]
        margins = np.quantile(missing, 1 - allowed_loss, axis=(1, 2))
        return tuple(round(max(float(margin), 0.0), 6) for margin in margins)


def _lengths(plan: Plan, share: int) -> list[Plan]:
    """A plan with each shortlist, of which the middle dimension keeps one in `share`."""
    return [
        dataclasses.replace(plan, shortlist=k, kept=min(k, max(_MIN_KEPT, k // share)))
        for k in _SHORTLISTS
    ]


def _sharing_codes(make: Callable[[Plan], Funnel]) -> Callable[[Plan], Funnel]:
    """Funnels of plans that differ only in numbers, with one set of codes for each head."""
    first: dict[int, Funnel] = {}

    def shared(plan: Plan) -> Funnel:
        if plan.head_dim not in first:
            first[plan.head_dim] = make(plan)
        return first[plan.head_dim].with_plan(plan)

    return shared
