"""The FAISS shortlist against exact cosines, and its refusal of bytes that are not its own."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.errors import StoreFormatError
from adaptive_search.indexes.flat import unit_rows
from adaptive_search.indexes.shortlist import Shortlist

Array = NDArray[Any]


@pytest.fixture(scope="module")
def heads() -> Array:
    rng = np.random.default_rng(0)
    lengths = rng.uniform(0.2, 3, size=(500, 1))
    heads: Array = rng.normal(size=(500, 16)) * lengths
    return heads.astype(np.float16)


@pytest.fixture(scope="module")
def queries() -> Array:
    return unit_rows(np.random.default_rng(1).normal(size=(6, 16)))


def test_finds_the_heads_of_largest_cosine(heads: Array, queries: Array) -> None:
    scores, rows = Shortlist.build(heads).search(queries, 20)
    cosines = queries @ unit_rows(heads).T
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, rows, 1), atol=2e-3)
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :20], atol=2e-3)


def test_mask_leaves_out_rows_before_ranking(heads: Array, queries: Array) -> None:
    mask = np.arange(500) % 50 == 7
    _, rows = Shortlist.build(heads).search(queries, 20, mask=mask)
    for found in rows:
        assert sorted(found[found >= 0]) == np.flatnonzero(mask).tolist()


def test_fewer_rows_than_asked_for(heads: Array, queries: Array) -> None:
    assert Shortlist.build(heads[:3]).search(queries, 9)[1].shape == (6, 3)
    assert Shortlist.build(heads[:0]).search(queries, 9)[1].shape == (6, 0)
    nothing = np.zeros(3, dtype=bool)
    scores, rows = Shortlist.build(heads[:3]).search(queries, 9, mask=nothing)
    assert (rows == -1).all()
    assert np.isneginf(scores).all()


def test_zero_heads_match_nothing_well(queries: Array) -> None:
    scores, _ = Shortlist.build(np.zeros((4, 16), np.float16)).search(queries, 4)
    np.testing.assert_array_equal(scores, 0)


def test_the_openmp_threads_of_others_are_left_alone(heads: Array, queries: Array) -> None:
    before = faiss.omp_get_max_threads()
    Shortlist.build(heads).search(queries, 5, threads=before + 1)
    assert faiss.omp_get_max_threads() == before


def test_threads_and_batch_do_not_change_the_answer(heads: Array, queries: Array) -> None:
    shortlist = Shortlist.build(heads)
    scores, rows = shortlist.search(queries, 30, threads=2)
    for q in range(len(queries)):
        alone = shortlist.search(queries[q : q + 1], 30)
        np.testing.assert_array_equal(alone[0][0], scores[q])
        np.testing.assert_array_equal(alone[1][0], rows[q])


def test_queries_of_another_width_are_refused(heads: Array) -> None:
    with pytest.raises(ValueError, match=r"\(nq, 16\)"):
        Shortlist.build(heads).search(np.ones((1, 15), np.float32), 3)


def test_bytes_round_trip(heads: Array, queries: Array) -> None:
    built = Shortlist.build(heads)
    restored = Shortlist.from_bytes(built.to_bytes(), rows=500, dim=16)
    np.testing.assert_array_equal(restored.search(queries, 9)[1], built.search(queries, 9)[1])
    assert restored.to_bytes() == built.to_bytes()


def test_same_heads_give_the_same_bytes(heads: Array) -> None:
    assert Shortlist.build(heads).to_bytes() == Shortlist.build(heads.copy()).to_bytes()


@pytest.mark.parametrize(("rows", "dim"), [(499, 16), (501, 16), (500, 8), (0, 16)])
def test_bytes_of_other_sizes_are_refused(heads: Array, rows: int, dim: int) -> None:
    with pytest.raises(StoreFormatError, match="rebuild it"):
        Shortlist.from_bytes(Shortlist.build(heads).to_bytes(), rows=rows, dim=dim)


def test_damaged_bytes_cost_recall_at_most(heads: Array, queries: Array) -> None:
    """Catch: a cache that makes FAISS read or return what is not there."""
    data = bytearray(Shortlist.build(heads).to_bytes())
    data[::7] = b"\xff" * len(data[::7])
    rows = Shortlist.from_bytes(bytes(data), rows=500, dim=16).search(queries, 9)[1]
    assert ((rows >= -1) & (rows < 500)).all()
