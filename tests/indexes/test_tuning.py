"""Plans: what they say, how they are kept, and that tuning keeps what it promises."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.indexes import tuning
from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.indexes.plan import Plan
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


@given(
    head=st.integers(1, 4096),
    shortlist=st.integers(1, 10**6),
    kept=st.integers(1, 10**6),
    lists=st.integers(0, 10**5),
    margins=st.lists(st.floats(0, 2), max_size=7),
    recall=st.floats(0, 1),
)
def test_plans_survive_json(
    head: int, shortlist: int, kept: int, lists: int, margins: list[float], recall: float
) -> None:
    nprobe = (lists + 1) // 2
    plan = Plan(head, shortlist, kept, lists, nprobe, tuple(margins), 7, 0.9, recall)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"head_dim": 0},
        {"shortlist": 0},
        {"kept": -1},
        {"lists": 3, "nprobe": 4},
        {"lists": 3},
        {"nprobe": 1},
        {"recall_target": 0.0},
        {"recall": 1.5},
        {"rows": -1},
    ],
)
def test_plans_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sense|lists|recall"):
        dataclasses.replace(Plan(64), **change)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"head_dim": 64', '"head_dim": true'),
        ('"head_dim": 64', '"head_dim": "64"'),
        ('"kept": 250', '"kept": 2.5'),
        ('"margins": []', '"margins": 3'),
        ('"margins": []', '"margins": ["a"]'),
        ('"recall": 0.0', '"recall": null'),
        ('"rows": 0', '"row": 0'),
    ],
)
def test_damaged_plans_are_refused(old: str, new: str) -> None:
    text = Plan(64).to_json()
    assert old in text
    with pytest.raises(ValueError, match="plan|must be|sense"):
        Plan.from_json(text.replace(old, new))


def test_longer_shortlists_probe_more_lists() -> None:
    plan = Plan(64, 500, 100, lists=400, nprobe=50)
    assert plan.for_hits(10) == plan
    twice = plan.for_hits(10, 1000)
    assert (twice.shortlist, twice.kept, twice.nprobe) == (1000, 200, 100)
    many = plan.for_hits(1000)
    assert many.shortlist >= many.kept >= 4000 and many.nprobe == 400
    assert plan.without_lists().kind == "flat"


def test_plans_in_words() -> None:
    assert Plan(64).to_text() == "flat, 64 dims, shortlist 1,000, not measured"
    plan = Plan(64, 500, lists=400, nprobe=50, rows=12_000, recall=0.9812)
    assert plan.to_text() == (
        "lists, 64 dims, 50 of 400 lists, shortlist 500; recall@10 0.981 of 0.98 asked for, "
        "at 12,000 chunks"
    )


def test_a_plan_fits_until_the_index_has_doubled_or_halved() -> None:
    plan = Plan(64, rows=1000)
    assert [plan.fits(rows) for rows in (499, 500, 1000, 2000, 2001)] == [0, 1, 1, 1, 0]


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
    assert plan.rows == ROWS and plan.recall_target == 0.95 and plan.recall > 0.9
    assert len(plan.margins) == len(DIMS) and plan.margins[-1] == 0


def test_a_higher_target_takes_no_shorter_shortlist() -> None:
    segments = segments_of(unit_bands(ROWS, 1))
    plans = [planned(segments, 0, target)[1] for target in (0.8, 0.99)]
    assert plans[0].shortlist * plans[0].head_dim <= plans[1].shortlist * plans[1].head_dim


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
