"""The funnel against a float64 oracle, and its promises about segments, filters and edges."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptive_search.errors import DimensionError, QueryError
from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel, SearchResult
from adaptive_search.indexes.plan import DEFAULT_SHORTLIST, Plan

Array = NDArray[Any]
DIMS = (8, 16, 32, 48)
ENERGY = (0.5, 0.7, 0.9, 1.0)


def vectors(n: int, seed: int = 0) -> Array:
    """Clustered unit vectors whose bands have fixed lengths, float32 (n, 48)."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(12, DIMS[-1]))[rng.integers(0, 12, size=n)]
    latent = latent + 0.7 * rng.normal(size=latent.shape)
    weights = np.sqrt(np.diff((0, *ENERGY)))
    bands = np.split(latent, DIMS[:-1], axis=1)
    unit = [
        w * b / np.linalg.norm(b, axis=1, keepdims=True)
        for w, b in zip(weights, bands, strict=True)
    ]
    return np.concatenate(unit, axis=1).astype(np.float32)


def segment(
    rows: Array,
    *,
    live: Array | None = None,
    dims: Sequence[int] = DIMS,
    lengths: Sequence[Array] | None = None,
) -> FunnelSegment:
    cuts = np.split(rows.astype(np.float16), dims[:-1], axis=1)
    bands = [np.ascontiguousarray(band) for band in cuts]
    return FunnelSegment(bands, live=live, lengths=lengths)


def funnel(rows: Array, cuts: Sequence[int] = (), *, plan: Plan | None = None) -> Funnel:
    parts = np.split(rows, cuts)
    return Funnel([segment(part) for part in parts], DIMS, prefix_energy=ENERGY, plan=plan)


def oracle(
    rows: Array, queries: Array, k: int, dim: int, allowed: Array | None = None
) -> tuple[Array, Array, Array]:
    """Cosine over float16 rows of known prefix length, in float64."""
    stored = rows.astype(np.float16)[:, :dim].astype(np.float64)
    unit = queries[:, :dim].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    scores = unit @ stored.T / np.sqrt(ENERGY[DIMS.index(dim)])
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    found = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, found, 1), found, scores


def assert_is_oracle(
    result: SearchResult,
    rows: Array,
    queries: Array,
    k: int,
    dim: int,
    allowed: Array | None = None,
) -> None:
    """Equal scores by rank; equal rows up to the order of scores that float32 cannot tell apart."""
    best, _, scores = oracle(rows, queries, k, dim, allowed)
    np.testing.assert_allclose(result.scores, best, atol=1e-6)
    np.testing.assert_allclose(result.scores, np.take_along_axis(scores, result.rows, 1), atol=1e-6)
    assert all(len(set(found)) == len(found) for found in result.rows.tolist())


@pytest.fixture(scope="module")
def rows() -> Array:
    return vectors(3000)


@pytest.fixture(scope="module")
def queries() -> Array:
    return vectors(8, seed=1)


@pytest.mark.parametrize("dim", DIMS)
def test_exact_search_is_the_oracle(rows: Array, queries: Array, dim: int) -> None:
    result = funnel(rows).search(queries, 10, dim=dim, exact=True)
    assert_is_oracle(result, rows, queries, 10, dim)


@pytest.mark.parametrize("dim", DIMS)
def test_a_shortlist_of_all_rows_is_exact_search(rows: Array, queries: Array, dim: int) -> None:
    index = funnel(rows, (700, 701))
    exact = index.search(queries, 20, dim=dim, exact=True)
    for shortlist in (3000, 10**9):
        found = index.search(queries, 20, dim=dim, shortlist=shortlist)
        np.testing.assert_array_equal(found.rows, exact.rows)
        np.testing.assert_array_equal(found.scores, exact.scores)


def test_hits_of_the_funnel_have_the_bits_of_exact_search(rows: Array, queries: Array) -> None:
    exact = funnel(rows).search(queries, 3000, exact=True)
    found = funnel(rows).search(queries, 10, shortlist=100)
    for q in range(len(queries)):
        score_of = dict(zip(exact.rows[q].tolist(), exact.scores[q].tolist(), strict=True))
        assert [score_of[row] for row in found.rows[q].tolist()] == found.scores[q].tolist()


@pytest.mark.parametrize(("head", "bits"), [(8, 8), (16, 8), (16, 4)])
@pytest.mark.parametrize("dim", [16, 48])
def test_one_segment_is_many(rows: Array, queries: Array, head: int, bits: int, dim: int) -> None:
    one = funnel(rows, plan=Plan(head, bits=bits))
    many = funnel(rows, (1, 1000, 1000, 2999), plan=Plan(head, bits=bits))
    for options in ({"exact": True}, {"shortlist": 300}, {"shortlist": 1200}):
        a = one.search(queries, 10, dim=dim, **options)
        b = many.search(queries, 10, dim=dim, **options)
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.scores, b.scores)


def test_batch_and_threads_do_not_change_hits(rows: Array, queries: Array) -> None:
    segments = [segment(part) for part in np.split(rows, (1500,))]
    alone = Funnel(segments, DIMS, prefix_energy=ENERGY)
    threaded = Funnel(segments, DIMS, prefix_energy=ENERGY, threads=3)
    for options in ({"exact": True}, {"shortlist": 400}):
        batch = threaded.search(queries, 10, **options)
        for q in range(len(queries)):
            single = alone.search(queries[q : q + 1], 10, **options)
            np.testing.assert_array_equal(single.rows[0], batch.rows[q])
            np.testing.assert_array_equal(single.scores[0], batch.scores[q])


def test_recall_of_the_cascade(rows: Array, queries: Array) -> None:
    index = funnel(rows)
    exact = index.search(queries, 10, exact=True).rows
    found = index.search(queries, 10, shortlist=800).rows
    shared = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert np.mean(shared) >= 9.8


def test_stages_tell_what_was_done(rows: Array, queries: Array) -> None:
    index = funnel(rows)
    stages = index.search(queries, 10, shortlist=900).stages
    assert [(s.name, s.dim, s.scored, s.kept) for s in stages] == [
        ("shortlist", 8, 3000, 900),
        ("rerank", 32, 900, 225),
        ("rerank", 48, 225, 10),
    ]
    assert all(s.ms > 0 for s in stages)
    stages = index.search(queries, 10, dim=32, shortlist=900).stages
    assert [(s.name, s.dim) for s in stages] == [("shortlist", 8), ("rerank", 32)]
    stages = index.search(queries, 10, dim=8, shortlist=900).stages
    assert [(s.name, s.dim) for s in stages] == [("shortlist", 8), ("rerank", 8)]
    (stage,) = index.search(queries, 10, exact=True).stages
    assert (stage.name, stage.dim, stage.scored, stage.kept) == ("exact", 48, 3000, 10)


def test_shortlist_by_default() -> None:
    rows = vectors(DEFAULT_SHORTLIST + 1)
    index = funnel(rows)
    assert index.search(rows[:1], 10).stages[0].kept == DEFAULT_SHORTLIST
    assert index.search(rows[:1], 500).stages[0].name == "exact"
    np.testing.assert_array_equal(index.search(rows[:50], 1).rows[:, 0], np.arange(50))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 100),
    share=st.sampled_from([0.0, 0.005, 0.1, 0.5, 1.0]),
    deleted=st.sampled_from([0.0, 0.2, 1.0]),
    k=st.sampled_from([1, 5, 300]),
)
def test_filters_and_deletions_come_before_ranking(
    seed: int, share: float, deleted: float, k: int
) -> None:
    rows = vectors(600, seed)
    queries = vectors(2, seed + 1)
    rng = np.random.default_rng(seed)
    live, allowed = rng.random(600) >= deleted, rng.random(600) < share
    parts = [slice(0, 250), slice(250, 600)]
    segments = [segment(rows[part], live=live[part]) for part in parts]
    index = Funnel(segments, DIMS, prefix_energy=ENERGY)
    masks = [allowed[part] for part in parts]
    both = live & allowed
    exact = index.search(queries, k, allowed=masks, exact=True)
    found = index.search(queries, k, allowed=masks, shortlist=300)
    expected = min(k, int(both.sum()))
    for result in (exact, found):
        assert ((result.rows >= 0).sum(axis=1) == expected).all()
        assert both[result.rows[result.rows >= 0]].all()
        assert np.isneginf(result.scores[result.rows < 0]).all()
    if both.sum() <= 300:
        np.testing.assert_array_equal(found.rows, exact.rows)
    elif expected == k:
        assert_is_oracle(exact, rows, queries, k, 48, both)


def test_a_rare_filter_finds_the_best_heads_exactly(rows: Array, queries: Array) -> None:
    allowed = np.zeros(3000, dtype=bool)
    allowed[::60] = True  # below two percent
    index = funnel(rows)
    found = index.search(queries, 10, dim=8, shortlist=49, allowed=[allowed])
    exact = index.search(queries, 10, dim=8, allowed=[allowed], exact=True)
    np.testing.assert_array_equal(found.rows, exact.rows)


def test_all_vectors_equal() -> None:
    rows = np.repeat(vectors(1), 50, axis=0)
    for cuts in ((), (20, 30)):
        result = funnel(rows, cuts).search(rows[:1], 5, shortlist=50)
        assert result.rows.tolist() == [[0, 1, 2, 3, 4]]
        result = funnel(rows, cuts).search(rows[:1], 5, shortlist=10)
        assert len(set(result.rows[0].tolist())) == 5
        np.testing.assert_allclose(result.scores, 1, atol=1e-3)


def test_few_rows() -> None:
    queries = vectors(2, seed=1)
    nothing = Funnel([], DIMS, prefix_energy=ENERGY).search(queries, 5)
    assert nothing.rows.shape == nothing.scores.shape == (2, 0)
    empty = funnel(vectors(0)).search(queries, 5)
    assert empty.rows.shape == (2, 0)
    one = funnel(vectors(1), (1, 1)).search(queries, 10**9)
    assert one.rows.tolist() == [[0], [0]]
    assert funnel(vectors(4)).search(queries[:0], 3).rows.shape == (0, 3)


def test_resident_bytes_count_all_that_searches_keep(rows: Array) -> None:
    assert Funnel([], DIMS, prefix_energy=ENERGY).resident_bytes == 0
    assert funnel(vectors(0)).resident_bytes == 0
    codes = len(rows) * (DIMS[0] + 4)  # and the number of each row
    plain = funnel(rows, (900,))
    assert codes <= plain.resident_bytes <= codes + 32 * (DIMS[0] + 4)  # whole blocks of 16 rows
    halves = len(rows) * (DIMS[1] // 2 + 4)
    narrow = funnel(rows, (900,), plan=Plan(DIMS[1], bits=4)).resident_bytes
    assert halves <= narrow <= halves + 32 * (DIMS[1] // 2 + 4)
    part = segment(rows, live=np.ones(len(rows), bool))
    listed = FunnelSegment(part.bands, part.live, lists=np.zeros(len(rows), np.uint32))
    means = np.ones((2, DIMS[1]), np.float16)
    plan = Plan(DIMS[0], lists=2, nprobe=1)
    with_lists = Funnel([listed], DIMS, prefix_energy=ENERGY, plan=plan, means=means)
    assert with_lists.resident_bytes >= codes + 5 * len(rows) + means.nbytes


def listed(
    rows: Array, cuts: Sequence[int] = (), *, tail: float = 0.0, live: Array | None = None
) -> Funnel:
    """A funnel with six lists, of which the last is empty."""
    of = np.random.default_rng(0).integers(0, 5, len(rows)).astype(np.uint32)
    sums = np.stack([rows[of == number].sum(axis=0) for number in range(6)])
    means = (sums / np.maximum(np.bincount(of, minlength=6), 1)[:, None]).astype(np.float16)
    segments = [
        FunnelSegment(segment(part).bands, live=alive, lists=lists)
        for part, lists, alive in zip(
            np.split(rows, cuts),
            np.split(of, cuts),
            [None] * (len(cuts) + 1) if live is None else np.split(live, cuts),
            strict=True,
        )
    ]
    plan = Plan(DIMS[0], 100, 40, lists=6, nprobe=4, tail=tail)
    return Funnel(segments, DIMS, prefix_energy=ENERGY, plan=plan, means=means)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 700), max_size=3),
    tail=st.sampled_from([0.0, 0.25, 3.0, 1e30]),
    share=st.sampled_from([0.01, 0.3, 1.0]),
    deleted=st.sampled_from([0.0, 0.2]),
    dim=st.sampled_from([16, 48, "auto"]),
    seed=st.integers(0, 9),
)
def test_the_tail_of_lists_holds_for_every_way_to_search(
    cuts: list[int], tail: float, share: float, deleted: float, dim: Any, seed: int
) -> None:
    rows, queries = vectors(700, seed), vectors(10, seed + 1)
    rng = np.random.default_rng(seed)
    allowed, live = rng.random(700) < share, rng.random(700) >= deleted
    cuts = sorted(cuts)
    masks = list(np.split(allowed, cuts))
    one, many = listed(rows, tail=tail, live=live), listed(rows, cuts, tail=tail, live=live)
    found = one.search(queries, 7, dim=dim, allowed=[allowed])
    split = many.search(queries, 7, dim=dim, allowed=masks)
    np.testing.assert_array_equal(found.rows, split.rows)
    np.testing.assert_array_equal(found.scores, split.scores)
    hits = found.rows[found.rows >= 0]
    assert (allowed & live)[hits].all()
    assert ((found.rows >= 0).sum(axis=1) == min(7, (allowed & live).sum())).all()
    for q in range(0, 10, 4):
        alone = one.search(queries[q : q + 1] * 3, 7, dim=dim, allowed=[allowed])
        np.testing.assert_array_equal(alone.rows[0], found.rows[q])
    shared = one.with_plan(listed(rows, tail=0.5).plan).with_plan(one.plan)
    again = shared.search(queries, 7, dim=dim, allowed=[allowed])
    np.testing.assert_array_equal(again.rows, found.rows)


def test_the_tail_of_lists_finds_what_heads_cannot_tell_apart() -> None:
    rows = vectors(3000)
    rows[:, : DIMS[0]] = rows[0, : DIMS[0]]  # all heads are equal
    of = (rows[:, DIMS[0]] > 0).astype(np.uint32)
    means = np.stack([rows[of == number].mean(axis=0) for number in (0, 1)]).astype(np.float16)
    part = FunnelSegment(segment(rows).bands, lists=of)
    plan = Plan(DIMS[0], 20, 20, lists=2, nprobe=2)
    plain = Funnel([part], DIMS, prefix_energy=ENERGY, plan=plan, means=means)
    with_tail = plain.with_plan(Plan(DIMS[0], 20, 20, lists=2, nprobe=2, tail=1.0))
    queries = np.zeros((2, DIMS[-1]), np.float32)
    queries[:, 0], queries[:, DIMS[0]] = 1, (4, -4)
    found = with_tail.search(queries, 20, shortlist=20).rows
    assert (of[found] == [[1], [0]]).all()
    found = plain.search(queries, 20, shortlist=20).rows
    assert (np.sort(found) == np.arange(20)).all()  # equal scores by row


def test_everything_deleted(rows: Array, queries: Array) -> None:
    index = Funnel([segment(rows, live=np.zeros(3000, bool))], DIMS, prefix_energy=ENERGY)
    result = index.search(queries, 3, shortlist=10)
    assert (result.rows == -1).all()


def test_self_search_scores_one(rows: Array) -> None:
    for dim in DIMS:
        result = funnel(rows).search(rows[:5] * 7, 1, dim=dim)
        assert result.rows[:, 0].tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(result.scores[:, 0], 1, atol=1e-3)


def test_vectors_of_any_prefix_length_are_compared_by_cosine() -> None:
    dims = (5, 12, 40)
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(400, 40)) * rng.uniform(0.1, 4, size=(400, 1))).astype(np.float16)
    lengths = [np.linalg.norm(rows[:, :d].astype(np.float32), axis=1) for d in dims]
    index = Funnel([segment(rows, dims=dims, lengths=lengths)], dims)
    queries = rng.normal(size=(4, 40)).astype(np.float32)
    for level, dim in enumerate(dims):
        result = index.search(queries, 10, dim=dim, shortlist=400)
        unit = queries[:, :dim] / np.linalg.norm(queries[:, :dim], axis=1, keepdims=True)
        cosines = unit @ rows[:, :dim].T.astype(np.float32) / lengths[level]
        expected = -np.sort(-cosines, axis=1)[:, :10]
        np.testing.assert_allclose(result.scores, expected, atol=1e-5)
    assert index.search(queries, 10, shortlist=100).rows.shape == (4, 10)


def test_a_zero_row_is_found_last() -> None:
    rows = vectors(20)
    rows[3] = 0
    lengths = [np.linalg.norm(rows[:, :d], axis=1) for d in DIMS]
    index = Funnel([segment(rows, lengths=lengths)], DIMS)
    result = index.search(vectors(1, seed=1), 20)
    assert result.rows[0, -1] == 3
    assert np.isneginf(result.scores[0, -1])


def test_a_truncated_index_serves_the_lower_dims(rows: Array, queries: Array) -> None:
    whole = segment(rows)
    lower = FunnelSegment(whole.bands[:2])
    index = Funnel([whole, lower], DIMS, prefix_energy=ENERGY)
    assert index.dims == (8, 16)
    assert index.search(queries, 5).stages[-1].dim == 16
    with pytest.raises(DimensionError, match="dim=48 .* choose one of 8, 16"):
        index.search(queries, 5, dim=48)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("choose one of 8, 16, 32, 48", {"dim": 20}),
        ("k=0", {"k": 0}),
        ("k=-3", {"k": -3}),
        ("shortlist=9 must be at least k=10", {"k": 10, "shortlist": 9}),
        ("1 masks", {"allowed": [None]}),
        ("one bool for each of 1500 rows", {"allowed": [np.ones(3, bool), None]}),
        ("one bool for each of 1500 rows", {"allowed": [np.ones(1500), None]}),
        ("at least 48", {"queries": np.ones((1, 47), np.float32)}),
        ("at least 48", {"queries": np.ones(48, np.float32)}),
        ("not finite", {"queries": np.full((1, 48), np.nan)}),
        ("not finite", {"queries": np.full((1, 48), np.inf)}),
        ("zero", {"queries": np.zeros((1, 48))}),
    ],
)
def test_wrong_questions_are_query_errors(
    rows: Array, queries: Array, message: str, options: dict[str, Any]
) -> None:
    index = funnel(rows, (1500,))
    with pytest.raises(QueryError, match=message):
        index.search(**({"queries": queries} | options))


def test_segments_must_fit_the_dims(rows: Array) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Funnel([segment(rows)], (8, 16, 40), prefix_energy=(0.5, 0.8, 1.0))
    with pytest.raises(ValueError, match="either prefix_energy or the lengths"):
        Funnel([segment(rows)], DIMS)


def test_searches_from_several_threads(rows: Array, queries: Array) -> None:
    index = funnel(rows, (1000,))
    expected = index.search(queries, 10, shortlist=300).rows
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(index.search(queries, 10, shortlist=300).rows))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all((rows == expected).all() for rows in found)
