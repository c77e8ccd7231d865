"""Ranks of neighbours: as numpy counts them, and as searches find them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptive_search.indexes import ranks
from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.indexes.heads import head_scale, train_lists
from adaptive_search.indexes.plan import Plan
from adaptive_search.indexes.ranks import (
    UNREACHABLE,
    Probes,
    Questions,
    Way,
    count_ranks,
    nearest,
)
from tests.indexes.test_congruence import (  # type: ignore
    DIMS,
    ENERGY,
    segments_of,
    unit_bands,
)

ROWS = 900
Array = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_BLOCK_ROWS", 128)


def strangers(count: int, seed: int = 2) -> Questions:
    return Questions(unit_rows(unit_bands(count, seed)), np.full(count, -1))


def members(rows: Array, picked: list[int], apart: int) -> Questions:
    return Questions(unit_rows(rows[picked]), np.array(picked), apart)


@given(seed=st.integers(0, 5), cut=st.integers(1, ROWS - 1), k=st.integers(1, 20))
@settings(max_examples=10, deadline=None)
def test_the_nearest_are_those_of_an_exact_search(seed: int, cut: int, k: int) -> None:
    segments = segments_of(unit_bands(ROWS, seed), (cut,))
    questions = strangers(5)
    exact = Funnel(segments, DIMS, prefix_energy=ENERGY).search(questions.vectors, k, exact=True)
    assert np.array_equal(nearest(segments, DIMS, questions, k), exact.rows)


@pytest.mark.parametrize("apart", [0, 3])
def test_what_asks_and_its_surroundings_are_no_neighbours(apart: int) -> None:
    rows = unit_bands(300, 1)
    questions = members(rows, [0, 127, 128, 299], apart)
    found = nearest(segments_of(rows, (130,)), DIMS, questions, 400)
    for row, near in zip(questions.rows, found, strict=True):
        left = [other for other in range(300) if abs(other - row) > apart]
        assert sorted(near[near >= 0]) == left


def test_deleted_rows_are_neither_found_nor_counted() -> None:
    rows = unit_bands(300, 1)
    whole = segments_of(rows)[0]
    live = np.arange(300) % 3 > 0
    marked = FunnelSegment(whole.bands, live=live)
    questions = strangers(4)
    found = nearest([marked], DIMS, questions, 10)
    assert live[found].all()
    kept = FunnelSegment([np.ascontiguousarray(band[live]) for band in whole.bands])
    again = nearest([kept], DIMS, questions, 10)
    assert np.array_equal(np.flatnonzero(live)[again], found)


@given(seed=st.integers(0, 5), cut=st.integers(1, ROWS - 1), apart=st.sampled_from([-1, 0, 2]))
@settings(max_examples=10, deadline=None)
def test_ranks_are_those_that_numpy_counts(seed: int, cut: int, apart: int) -> None:
    rows = unit_bands(ROWS, seed).astype(np.float16).astype(np.float32)
    segments = segments_of(rows, (cut,))
    questions = strangers(4) if apart < 0 else members(rows, [0, 5, 400, ROWS - 1], apart)
    truth = nearest(segments, DIMS, questions, 10)
    ways = [Way(dim, bits=bits) for dim in DIMS[:2] for bits in (8, 4)]
    found = count_ranks(segments, DIMS, questions, truth, ways, middle=256)
    hidden = np.zeros((4, ROWS), np.float32)
    questions.hide(hidden, 0)
    for way in ways:
        dim, most = way.head_dim, 2 ** (way.bits - 1) - 1
        centre, step = head_scale(segments, DIMS.index(dim) + 1, way.bits)
        codes = np.clip(np.rint((unit_rows(rows[:, :dim]) - centre) / step), -most, most)
        scaled = questions.vectors[:, :dim] * step
        asking = np.rint(scaled * (127 / np.abs(scaled).max(axis=1, keepdims=True)))
        wanted = _brute_force(asking @ codes.T + hidden, truth)
        assert np.abs(found.heads[way][:, :, -1] - wanted).max() <= 1
    middle = _brute_force(questions.vectors[:, :256] @ rows[:, :256].T + hidden, truth)
    assert np.abs(found.middle - middle).max() <= 1


def _brute_force(scores: Array, truth: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(np.argsort(order, axis=1), truth, axis=1)


@pytest.mark.parametrize("tail", [0.0, 0.5])
@pytest.mark.parametrize("bits", [8, 4])
def test_ranks_say_what_a_search_finds(tail: float, bits: int) -> None:
    segments = segments_of(unit_bands(ROWS, 1), (700,))
    questions = strangers(60)
    truth = nearest(segments, DIMS, questions, 10)
    lists, assigned = train_lists(segments, 30, dims=DIMS, seed=0)
    probes = Probes.of_questions(questions, lists, assigned, [3, 10, 30])
    way = Way(64, tail, bits)
    found = count_ranks(segments, DIMS, questions, truth, [way], middle=256, probes=probes)
    listed = [
        FunnelSegment(segment.bands, lists=of)
        for segment, of in zip(segments, assigned, strict=True)
    ]
    for place, nprobe in enumerate(probes.nprobes):
        for shortlist in (40, 60, 200):
            plan = Plan(64, shortlist, shortlist, 30, nprobe, tail=tail, bits=bits)
            funnel = Funnel(listed, DIMS, prefix_energy=ENERGY, plan=plan, means=lists.means)
            hits = funnel.search(questions.vectors).rows
            searched = (hits[:, :, None] == truth[:, None, :]).any(axis=1).mean()
            foretold = (found.heads[way][:, :, place] < shortlist).mean()
            assert searched == pytest.approx(foretold, abs=0.005)


def test_far_neighbours_are_not_counted_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "UNREACHABLE", 40)
    segments = segments_of(unit_bands(ROWS, 1))
    questions = strangers(5)
    truth = nearest(segments, DIMS, questions, 100)
    found = count_ranks(segments, DIMS, questions, truth, [Way(64)], middle=256).heads[Way(64)]
    monkeypatch.undo()
    whole = count_ranks(segments, DIMS, questions, truth, [Way(64)], middle=256).heads[Way(64)]
    assert UNREACHABLE > whole.max() > 40
    assert np.array_equal(found >= 40, whole >= 40)
    assert np.array_equal(found[found < 40], whole[whole < 40])
