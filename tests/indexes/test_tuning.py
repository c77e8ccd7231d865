"""Tuning: it is repeatable, and keeps what it promises."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from adaptive_search.indexes import tuning
from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.indexes.heads import train_lists
from adaptive_search.indexes.plan import Plan
from adaptive_search.indexes.ranks import UNREACHABLE, Probes, Questions, Way, count_ranks, nearest
from adaptive_search.indexes.tuning import tune
from tests.indexes.test_congruence import (  # type: ignore
    DIMS,
    ENERGY,
    segments_of,
    unit_bands,
)

ROWS = 1200


@pytest.fixture(autouse=True)
def _few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_QUESTIONS", 120)


def planned(segments: list[FunnelSegment], lists: int, target: float) -> tuple[Funnel, Plan]:
    tuned = tune(segments, DIMS, prefix_energy=ENERGY, recall_target=target, lists=lists)
    if tuned.lists is None or tuned.assigned is None:
        return Funnel(segments, DIMS, prefix_energy=ENERGY, plan=tuned.plan), tuned.plan
    parts = [
        FunnelSegment(segment.bands, lists=of)
        for segment, of in zip(segments, tuned.assigned, strict=True)
    ]
    means = tuned.lists.means
    return Funnel(parts, DIMS, prefix_energy=ENERGY, plan=tuned.plan, means=means), tuned.plan


@pytest.mark.parametrize("lists", [0, 40])
def test_a_tuned_funnel_finds_what_it_promises(lists: int) -> None:
    segments = segments_of(unit_bands(ROWS, 1), (700,))
    queries = unit_bands(200, 2)
    funnel, plan = planned(segments, lists, 0.95)
    exact = funnel.search(queries, exact=True).rows
    for dim in (None, "auto"):
        found = funnel.search(queries, dim=dim).rows
        recall = (found[:, :, None] == exact[:, None, :]).any(axis=1).mean()
        assert recall > 0.92
    assert plan.rows == ROWS and plan.recall_target == 0.95 <= plan.recall
    assert len(plan.margins) == len(DIMS) and plan.margins[-1] == 0


@pytest.mark.parametrize("target", [0.9, 0.98, 0.999])
def test_the_other_half_of_the_questions_confirms_a_plan(
    monkeypatch: pytest.MonkeyPatch, target: float
) -> None:
    segments = segments_of(unit_bands(ROWS, 1), (700,))
    questions = Questions(unit_rows(unit_bands(100, 2)), np.full(100, -1))
    truth = nearest(segments, DIMS, questions, 10)
    ranks = count_ranks(segments, DIMS, questions, truth, [Way(64, bits=4)], middle=256)
    ranks.heads[Way(64, bits=4)][:, :, 0] *= 10  # as hard as in an index of more rows
    table = tuning._Table(ranks, truth, ROWS, None, cascades=True)
    hardest = ranks.heads[Way(64, bits=4)].max(axis=(1, 2))
    table._chooses = hardest < np.median(hardest)
    assert table.recall_elsewhere(table.cheapest(target)) >= target
    measured = table.recall_elsewhere
    with monkeypatch.context() as patch:
        patch.setattr(table, "recall_elsewhere", lambda _: 1.0)
        assert measured(table.cheapest(target)) < target


def test_without_a_confirmed_plan_the_one_that_finds_most_is_taken() -> None:
    segments = segments_of(unit_bands(ROWS, 1))
    questions = Questions(unit_rows(unit_bands(20, 2)), np.full(20, -1))
    truth = nearest(segments, DIMS, questions, 10)
    ranks = count_ranks(segments, DIMS, questions, truth, [Way(64, bits=4)], middle=256)
    ranks.heads[Way(64, bits=4)][:] = UNREACHABLE
    table = tuning._Table(ranks, truth, ROWS, None, cascades=True)
    assert table.cheapest(0.9) == table.cheapest(1.0)


def test_recall_is_foretold_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_NPROBES_OF_ROWS", 1)  # those who ask are no rows
    segments = segments_of(unit_bands(ROWS, 1), (700,))
    asking = unit_rows(unit_bands(100, 2))
    questions = Questions(asking, np.full(100, -1))
    truth = nearest(segments, DIMS, questions, 10)
    lists, assigned = train_lists(segments, 40, dims=DIMS, seed=0)
    probes = Probes.of_questions(questions, lists, assigned, [5, 20, 40])
    ways = [Way(64), Way(64, 0.5), Way(64, bits=4), Way(64, 0.5, 4)]
    ranks = count_ranks(segments, DIMS, questions, truth, ways, middle=256, probes=probes)
    table = tuning._Table(ranks, truth, ROWS, probes, cascades=True)
    listed = [
        FunnelSegment(segment.bands, lists=of)
        for segment, of in zip(segments, assigned, strict=True)
    ]
    others = np.arange(100) % 2 == 1
    plans = [
        Plan(64, shortlist, kept, count, nprobe, tail=way.tail, bits=way.bits)
        for way in ways
        for count, nprobe in ((40, 5), (40, 20), (40, 40), (0, 0))
        for shortlist, kept in ((60, 60), (120, 40), (120, 120))
        if count or not way.tail
    ]
    for plan in plans:
        means = lists.means if plan.lists else None
        funnel = Funnel(listed, DIMS, prefix_energy=ENERGY, plan=plan, means=means)
        hits = funnel.search(asking[others]).rows
        found = (hits[:, :, None] == truth[others][:, None, :]).any(axis=1).mean()
        # A rank at the middle dimension counts rows too that the shortlist leaves out.
        slack = 0.003 if plan.kept == plan.shortlist else 0.03
        foretold = table.recall_elsewhere(plan)
        assert foretold - 0.003 <= found <= foretold + slack


def test_memory_does_not_grow_with_rows() -> None:
    rows = unit_bands(2000, 1)
    peaks = []
    for repeats in (12, 24):
        segments = segments_of(rows) * repeats
        tracemalloc.start()
        tune(segments, DIMS, prefix_energy=ENERGY, recall_target=0.95, lists=40)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 24,000 rows more have 74 MB of float32 coordinates; what grows is eight bytes a row.
    assert peaks[1] < peaks[0] + 1_000_000


def test_a_higher_target_takes_no_shorter_shortlist() -> None:
    segments = segments_of(unit_bands(ROWS, 1))
    plans = [planned(segments, 0, target)[1] for target in (0.8, 0.99)]
    assert plans[0].shortlist * plans[0].head_dim <= plans[1].shortlist * plans[1].head_dim


@pytest.mark.parametrize(("byte", "bits"), [(0.0, 8), (1e3, 4)])
@pytest.mark.parametrize("lists", [0, 40])
def test_narrow_codes_are_taken_where_bytes_cost_more_than_candidates(
    monkeypatch: pytest.MonkeyPatch, byte: float, bits: int, lists: int
) -> None:
    monkeypatch.setattr(tuning, "_SCANNED", byte)
    segments = segments_of(unit_bands(ROWS, 1), (700,))
    queries = unit_bands(200, 2)
    funnel, plan = planned(segments, lists, 0.95)
    assert plan.bits == bits
    exact = funnel.search(queries, exact=True).rows
    found = funnel.search(queries).rows
    assert (found[:, :, None] == exact[:, None, :]).any(axis=1).mean() > 0.92


def test_tuning_is_repeatable_and_does_not_depend_on_segments() -> None:
    rows = unit_bands(ROWS, 1)
    one, many = segments_of(rows), segments_of(rows, (5, 700))
    plans = [planned(segments, 30, 0.95)[1] for segments in (one, one, many)]
    assert plans[0] == plans[1] == plans[2]


@pytest.mark.parametrize("rows", [1, 12, 60])
def test_tiny_indexes_can_be_tuned(rows: int) -> None:
    segments = segments_of(unit_bands(rows, 3))
    funnel, plan = planned(segments, 0, 0.98)
    assert funnel.search(unit_bands(2, 4), 3).rows.shape == (2, min(3, rows))
    assert plan.rows == rows


def test_equal_and_zero_rows_can_be_tuned() -> None:
    for rows in (np.repeat(unit_bands(1, 1), 300, axis=0), np.zeros((300, DIMS[-1]), np.float32)):
        halves = [np.ascontiguousarray(b) for b in np.split(rows.astype(np.float16), DIMS[:-1], 1)]
        lengths = [np.linalg.norm(rows[:, :dim], axis=1).astype(np.float32) for dim in DIMS]
        segment = FunnelSegment(halves, lengths=lengths)
        tuned = tune([segment], DIMS, prefix_energy=None, recall_target=0.9)
        assert tuned.plan.rows == 300
