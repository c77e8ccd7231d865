"""One answer from every road: numpy, FAISS, Qdrant, and the funnel in all its divisions."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.indexes.heads import train_lists
from adaptive_search.indexes.plan import Plan

Array = NDArray[Any]
DIMS = (64, 256, 512, 768)
ENERGY = (0.5, 0.7, 0.9, 1.0)
ROWS, K = 2000, 10


def unit_bands(n: int, seed: int) -> NDArray[np.float32]:
    """Clustered unit vectors whose bands have fixed lengths."""
    centres = np.random.default_rng(0).normal(size=(20, DIMS[-1]))
    rng = np.random.default_rng(seed)
    latent = centres[rng.integers(0, 20, n)] + rng.normal(size=(n, DIMS[-1]))
    bands = np.split(latent, DIMS[:-1], axis=1)
    weights = np.sqrt(np.diff((0, *ENERGY)))
    unit = [
        w * b / np.linalg.norm(b, axis=1, keepdims=True)
        for w, b in zip(weights, bands, strict=True)
    ]
    return np.concatenate(unit, axis=1).astype(np.float16).astype(np.float32)


def segments_of(rows: Array, cuts: tuple[int, ...] = ()) -> list[FunnelSegment]:
    return [
        FunnelSegment(
            [np.ascontiguousarray(b.astype(np.float16)) for b in np.split(part, DIMS[:-1], axis=1)]
        )
        for part in np.split(rows, cuts)
    ]


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    return unit_bands(ROWS, 1)


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    return unit_bands(25, 2)


@pytest.fixture(scope="module")
def listed(rows: Array) -> Funnel:
    """A funnel with lists."""
    segments = segments_of(rows, (700,))
    lists, assigned = train_lists(segments, 30, dims=DIMS, seed=0)
    parts = [
        FunnelSegment(segment.bands, lists=of)
        for segment, of in zip(segments, assigned, strict=True)
    ]
    plan = Plan(64, 200, 60, lists=30, nprobe=10)
    return Funnel(parts, DIMS, prefix_energy=ENERGY, plan=plan, means=lists.means)


def numpy_exact(rows: Array, queries: Array, dim: int) -> Array:
    """All prefixes have one length, so the dot product ranks as the cosine does."""
    return np.argsort(-(queries[:, :dim] @ rows[:, :dim].T), axis=1, kind="stable")[:, :K]


@pytest.mark.parametrize("dim", DIMS)
def test_numpy_is_faiss_is_the_funnel(
    rows: Array, queries: Array, listed: Funnel, dim: int
) -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(dim)
    index.add(np.ascontiguousarray(rows[:, :dim]))
    expected = numpy_exact(rows, queries, dim)
    np.testing.assert_array_equal(index.search(queries[:, :dim].copy(), K)[1], expected)
    flat = Funnel(segments_of(rows), DIMS, prefix_energy=ENERGY)
    for funnel in (flat, listed):
        found = funnel.search(queries, K, dim=dim, shortlist=ROWS)
        np.testing.assert_array_equal(found.rows, expected)
        assert (found.dims == dim).all()


@pytest.mark.parametrize("options", [{"shortlist": 150}, {"shortlist": 300, "dim": "auto"}])
def test_one_segment_is_many_is_compacted(
    rows: Array, queries: Array, options: dict[str, Any]
) -> None:
    plan = Plan(64, 300, 60)
    answers = []
    for cuts in ((), (1, 900, 1500), (1999,)):
        funnel = Funnel(segments_of(rows, cuts), DIMS, prefix_energy=ENERGY, plan=plan)
        answers.append(funnel.search(queries, K, **options))
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.rows, answers[0].rows)
        np.testing.assert_array_equal(answer.scores, answers[0].scores)


def test_deleted_rows_are_as_compacted_away(rows: Array, queries: Array, listed: Funnel) -> None:
    live = np.random.default_rng(3).random(ROWS) < 0.8
    kept = np.flatnonzero(live)
    whole = segments_of(rows)[0]
    dead = Funnel([FunnelSegment(whole.bands, live=live)], DIMS, prefix_energy=ENERGY)
    gone = Funnel(segments_of(rows[live]), DIMS, prefix_energy=ENERGY)
    for options in ({"exact": True}, {"shortlist": ROWS}):
        np.testing.assert_array_equal(
            dead.search(queries, K, **options).rows, kept[gone.search(queries, K, **options).rows]
        )
    masked = listed.search(queries, K, shortlist=1500, allowed=[live[:700], live[700:]])
    assert live[masked.rows].all()


def test_every_list_probed_is_no_lists(rows: Array, queries: Array, listed: Funnel) -> None:
    every = listed.with_plan(Plan(64, 200, 60, lists=30, nprobe=30))
    flat = Funnel(segments_of(rows, (700,)), DIMS, prefix_energy=ENERGY, plan=Plan(64, 200, 60))
    for options in ({}, {"dim": 256}, {"dim": "auto"}):
        np.testing.assert_array_equal(
            every.search(queries, K, **options).rows, flat.search(queries, K, **options).rows
        )


def test_queries_shorter_than_the_routes_still_find_their_lists(
    rows: Array, queries: Array, listed: Funnel
) -> None:
    short = np.ascontiguousarray(queries[:, :64])
    np.testing.assert_array_equal(
        listed.search(short, K, dim=64).rows, listed.search(queries, K, dim=64).rows
    )


def test_the_cascade_is_nested_prefetch_of_qdrant(rows: Array, queries: Array) -> None:
    qdrant = pytest.importorskip("qdrant_client")
    models = qdrant.models
    client = qdrant.QdrantClient(":memory:")
    stages = (64, 256, 768)
    sizes = {
        str(dim): models.VectorParams(size=dim, distance=models.Distance.COSINE) for dim in stages
    }
    client.create_collection("rows", vectors_config=sizes)
    points = [
        models.PointStruct(id=i, vector={str(dim): row[:dim].tolist() for dim in stages})
        for i, row in enumerate(rows[:200])
    ]
    client.upsert("rows", points)
    # Codes are 8-bit: a shortlist of half the rows holds the same hits in both.
    plan = Plan(64, 100, 40)
    funnel = Funnel(segments_of(rows[:200]), DIMS, prefix_energy=ENERGY, plan=plan)
    found = funnel.search(queries, K)
    assert [(s.name, s.dim, s.kept) for s in found.stages] == [
        ("shortlist", 64, 100),
        ("rerank", 256, 40),
        ("rerank", 768, 10),
    ]
    for query, hits in zip(queries[:8], found.rows[:8].tolist(), strict=True):
        heads = models.Prefetch(query=query[:64].tolist(), using="64", limit=100)
        middle = models.Prefetch(query=query[:256].tolist(), using="256", limit=40, prefetch=heads)
        answer = client.query_points("rows", query.tolist(), using="768", limit=K, prefetch=middle)
        assert [point.id for point in answer.points] == hits


def test_automatic_depth_finds_the_hits_of_full_dims(rows: Array, queries: Array) -> None:
    """Without measured margins the bound is exact, so nothing is lost."""
    funnel = Funnel(segments_of(rows), DIMS, prefix_energy=ENERGY, plan=Plan(64, 800, 400))
    auto, full = funnel.search(queries, K, dim="auto"), funnel.search(queries, K)
    assert [set(hits) for hits in auto.rows.tolist()] == [set(hits) for hits in full.rows.tolist()]
    stopped = auto.dims == DIMS[-1]
    np.testing.assert_array_equal(auto.scores[stopped], full.scores[stopped])


def test_automatic_depth_stops_early_where_hits_stand_out() -> None:
    rows = unit_bands(ROWS, 5)
    rows[:K] = rows[0]  # ten copies, and nothing else like them
    plan = Plan(64, 300, 60, margins=(0.05, 0.04, 0.03, 0.0))
    funnel = Funnel(segments_of(rows), DIMS, prefix_energy=ENERGY, plan=plan)
    found = funnel.search(rows[:1], K, dim="auto")
    assert found.rows.tolist() == [list(range(K))]
    assert found.dims[0] < DIMS[-1] and found.stages[-1].dim == found.dims[0]
    np.testing.assert_allclose(found.scores, 1, atol=1e-3)
    exact = funnel.search(rows[:1], K, dim=int(found.dims[0]), exact=True)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)


def test_searches_in_threads_of_an_event_loop(listed: Funnel, queries: Array) -> None:
    async def ask() -> list[Array]:
        jobs = [asyncio.to_thread(listed.search, query[None], K) for query in queries]
        return [result.rows[0] for result in await asyncio.gather(*jobs)]

    expected = listed.search(queries, K).rows
    np.testing.assert_array_equal(np.stack(asyncio.run(ask())), expected)


def test_the_interpreter_runs_on_while_a_search_works(listed: Funnel, queries: Array) -> None:
    """A batch in another thread leaves the lock to this one, which counts meanwhile."""
    batch = np.repeat(queries, 400, axis=0)

    async def race() -> int:
        job = asyncio.create_task(asyncio.to_thread(listed.search, batch, K))
        steps = 0
        while not job.done():
            await asyncio.sleep(0)
            steps += 1
        await job
        return steps

    assert asyncio.run(race()) > 10
