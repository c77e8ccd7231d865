"""Codes and searches through them against their definitions in numpy, at every level."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptive_search.kernels import _native
from adaptive_search.kernels.exact import exact_best
from adaptive_search.kernels.search import Codes, KeptCodes, Searcher, nearest_reference

Array = NDArray[Any]


def rows_of(n: int, dim: int, seed: int = 0) -> NDArray[np.float16]:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float16)


def scale(dim: int, seed: int = 0, bits: int = 8) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    step = rng.uniform(0.01, 0.05, size=dim).astype(np.float32)
    return {
        "centre": rng.normal(size=dim).astype(np.float32),
        "step": step * np.float32(1 if bits == 8 else 16),
        "bits": bits,
    }


@pytest.mark.parametrize("level", _native.levels())
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("n", "dim", "k"),
    [(1, 1, 1), (15, 7, 3), (17, 8, 5), (90, 13, 90), (100, 64, 9), (700, 130, 40)],
)
def test_codes_at_every_level(
    monkeypatch: pytest.MonkeyPatch, level: str, bits: int, n: int, dim: int, k: int
) -> None:
    monkeypatch.setenv("ADAPTIVE_SEARCH_LEVEL", level)
    rows, queries = rows_of(n, dim), rows_of(5, dim, 1).astype(np.float32)
    codes = Codes([[rows]], **scale(dim, bits=bits), unit=False)
    assert codes.bits == bits
    expected = nearest_reference(rows.astype(np.float32), queries, k, **scale(dim, bits=bits))
    np.testing.assert_array_equal(codes.nearest(queries, k), expected)


@pytest.mark.parametrize("level", _native.levels())
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_codes_overflow_nothing(
    monkeypatch: pytest.MonkeyPatch, level: str, bits: int, sign: int
) -> None:
    """Every product is as large as one can be, in sums of 16 bits as in those of 32."""
    monkeypatch.setenv("ADAPTIVE_SEARCH_LEVEL", level)
    dim = 4000
    rows = np.ones((20, dim), np.float16)
    for row in range(20):
        rows[row, : row * 200] = -1
    options = {"centre": np.zeros(dim, np.float32), "step": np.full(dim, 0.01, np.float32)}
    codes = Codes([[rows]], **options, bits=bits, unit=False)
    queries = np.full((1, dim), sign, np.float32)
    assert codes.nearest(queries, 20)[0].tolist() == list(range(20))[::sign]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 300), max_size=3),
    k=st.integers(1, 400),
    threads=st.integers(1, 3),
    bits=st.sampled_from([8, 4]),
    seed=st.integers(0, 50),
)
def test_codes_do_not_depend_on_how_rows_are_divided(
    n: int, widths: list[int], cuts: list[int], k: int, threads: int, bits: int, seed: int
) -> None:
    bands = [rows_of(n, width, seed + i) for i, width in enumerate(widths)]
    dim = sum(widths)
    queries = rows_of(11, dim, seed + 9).astype(np.float32)
    cuts = sorted(min(cut, n) for cut in cuts)
    segments = [list(parts) for parts in zip(*(np.split(b, cuts) for b in bands), strict=True)]
    segments = [[np.ascontiguousarray(band) for band in segment] for segment in segments]
    whole = np.concatenate(bands, axis=1).astype(np.float32)
    lists = np.random.default_rng(seed).integers(0, 4, size=n)
    options = scale(dim, bits=bits)
    expected = nearest_reference(whole, queries, k, **options)
    options |= {"unit": False, "threads": threads}
    flat = Codes(segments, **options)
    listed = Codes(segments, **options, lists=lists, list_count=5)
    assert flat.rows == listed.rows == n and listed.native.lists == 5
    for codes in (flat, listed):
        np.testing.assert_array_equal(codes.nearest(queries, k, threads), expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dim", [5, 12, 16])
def test_kept_codes_and_those_of_more_rows_are_those_of_all(bits: int, dim: int) -> None:
    rows, queries = rows_of(150, dim), rows_of(5, dim, 1).astype(np.float32)
    of = np.random.default_rng(2).integers(0, 4, size=150)
    options = {"unit": False, "list_count": 4, **scale(dim, bits=bits)}
    before = Codes([[rows[:110]]], lists=of[:110], **options)
    assert before.bytes == (-(-before.list_rows // 16)).sum() * 16 * (4 + 4 * -(-dim * bits // 32))
    kept = KeptCodes(before.data.copy(), before.list_rows, **scale(dim, bits=bits))
    assert kept.rows == 110
    both = Codes([[rows[110:]]], lists=of[110:], kept=kept, **options)
    expected = nearest_reference(rows.astype(np.float32), queries, 30, **scale(dim, bits=bits))
    np.testing.assert_array_equal(both.nearest(queries, 30), expected)
    with pytest.raises(ValueError, match="wrong size"):
        Codes([], kept=dataclasses.replace(kept, data=kept.data[:-64]), lists=of[:0], **options)


@pytest.mark.parametrize("bits", [0, 3, 16, -4])
def test_codes_of_other_widths_are_refused(bits: int) -> None:
    options = scale(8) | {"bits": bits}
    with pytest.raises(ValueError, match="8 or 4 bits"):
        Codes([[rows_of(10, 8)]], **options)


def test_unit_length_makes_lengths_of_rows_vanish() -> None:
    rows = rows_of(50, 8)
    longer = (rows.astype(np.float32) * 4).astype(np.float16)
    options = {"centre": np.zeros(8, np.float32), "step": np.full(8, 0.01, np.float32)}
    queries = rows_of(4, 8, 1).astype(np.float32)
    found = [Codes([[r]], **options).nearest(queries, 50) for r in (rows, longer)]
    np.testing.assert_array_equal(*found)


def test_queries_and_rows_without_length() -> None:
    codes = Codes([[np.zeros((3, 4), np.float16)]], **scale(4))
    found = codes.nearest(np.zeros((1, 4), np.float32), 5)
    assert found.tolist() == [[0, 1, 2, -1, -1]]
    broken = np.full((2, 4), np.nan, np.float16)
    assert Codes([[broken]], **scale(4)).nearest(np.ones((1, 4), np.float32), 2).shape == (1, 2)


class Case:
    """Rows in three bands and two segments, their codes, and queries."""

    def __init__(self, n: int = 500, seed: int = 0, bits: int = 8) -> None:
        widths = (16, 16, 32)
        self.bands = [rows_of(n, width, seed + i) for i, width in enumerate(widths)]
        parts = [[band[:200] for band in self.bands], [band[200:] for band in self.bands]]
        self.codes = Codes([part[:1] for part in parts], **scale(16, bits=bits), unit=False)
        self.searcher = Searcher(parts)
        self.queries = rows_of(9, 64, seed + 5).astype(np.float32)
        self.head = np.ascontiguousarray(self.queries[:, :16])

    def search(self, steps: list[tuple[int, int]], k: int = 5, **options: Any) -> Any:
        defaults: dict[str, Any] = {
            "margins": np.full((len(self.queries), len(steps)), np.inf, np.float32),
            "shortlist": 100,
            "heads": self.codes,
            "head_queries": self.head,
        }
        return self.searcher.search(self.queries, k, steps=steps, **(defaults | options))


def best_of(candidates: Array, queries: Array, bands: list[Array], k: int) -> tuple[Array, Array]:
    """The k best of each query's own candidates, by exact scans that are masked."""
    masks = [np.isin(np.arange(len(bands[0])), rows) for rows in candidates]
    found = [
        exact_best(query[None], bands, k, mask=mask)
        for query, mask in zip(queries, masks, strict=True)
    ]
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_search_is_its_stages_one_by_one(threads: int, bits: int) -> None:
    case = Case(bits=bits)
    found = case.search([(2, 40), (3, 1)], threads=threads)
    shortlist = case.codes.nearest(case.head, 100)
    middle = np.ascontiguousarray(case.queries[:, :32])
    kept = best_of(shortlist, middle, case.bands[:2], 40)[1]
    scores, rows = best_of(kept, case.queries, case.bands, 5)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.scores, scores)  # the same bits
    assert (found.taken == 2).all() and (found.seconds >= 0).all()


def test_lists_that_are_all_probed_change_nothing() -> None:
    case = Case()
    of = np.random.default_rng(1).integers(0, 6, size=500)
    parts = [[case.bands[0][:200]], [case.bands[0][200:]]]
    listed = Codes(parts, **scale(16), unit=False, lists=of, list_count=6)
    means = rows_of(6, 16, 7)
    router = Codes([[means]], **scale(16), unit=False)
    options = {"heads": listed, "router": router, "route_queries": case.head}
    every = case.search([(3, 1)], nprobe=6, **options)
    np.testing.assert_array_equal(every.rows, case.search([(3, 1)]).rows)
    one = case.search([(3, 1)], nprobe=1, **options)
    nearest = router.nearest(case.head, 1)
    assert (of[one.rows] == nearest).all()


def tail_products(tails: Array, queries: Array, of: Array) -> NDArray[np.float32]:
    """The product of each query with the tail of each row's list, summed as native code does."""
    lists = len(tails)
    scores, found = exact_best(queries, [tails], lists)
    products = np.take_along_axis(scores, np.argsort(found, axis=1), axis=1)
    return np.asarray(products[:, of], np.float32)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    cut=st.integers(0, 300),
    lists=st.integers(1, 12),
    width=st.integers(1, 70),
    shortlist=st.integers(1, 60),
    weight=st.sampled_from([0.0, 0.3, 1.0, 40.0, 1e9, 1e37]),
    share=st.sampled_from([0.1, 0.6, 1.0]),
    bits=st.sampled_from([8, 4]),
    level=st.sampled_from(_native.levels()),
    seed=st.integers(0, 50),
)
def test_tails_are_added_to_the_scores_of_codes(
    n: int,
    cut: int,
    lists: int,
    width: int,
    shortlist: int,
    weight: float,
    share: float,
    bits: int,
    level: str,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    rows, tails = rows_of(n, 24, seed), rows_of(lists, width, seed + 1)
    of = rng.integers(0, max(1, lists - 1), size=n)  # the last list may be empty
    mask = rng.random(n) < share
    queries = rows_of(5, 24, seed + 2).astype(np.float32)
    tail_queries = (rows_of(5, width, seed + 3) * np.float32(weight)).astype(np.float32)
    products = tail_products(tails, tail_queries, of)
    segments = [[part] for part in np.split(rows, [min(cut, n)])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTIVE_SEARCH_LEVEL", level)
        options = scale(24, bits=bits)
        heads = Codes(segments, **options, unit=False, lists=of, list_count=lists)
        router = Codes([[tails]], **scale(width), unit=False)
        # One step that keeps all of the shortlist gives the shortlist.
        found = Searcher(segments).search(
            queries,
            shortlist,
            steps=[(1, shortlist)],
            margins=np.full((5, 1), np.inf, np.float32),
            shortlist=shortlist,
            heads=heads,
            head_queries=queries,
            router=router,
            route_queries=tail_queries,
            nprobe=lists,
            tails=tails,
            tail_queries=tail_queries,
            mask=mask,
        )
    coded = rows[mask].astype(np.float32)
    best = nearest_reference(coded, queries, shortlist, **options, products=products[:, mask])
    names = np.append(np.flatnonzero(mask), -1)
    np.testing.assert_array_equal(np.sort(found.rows), np.sort(names[best]))
    if not weight:
        plain = nearest_reference(coded, queries, shortlist, **options)
        np.testing.assert_array_equal(best, plain)


@pytest.mark.parametrize("hostile", [np.nan, np.inf, -np.inf, 6e4, -6e4])
@pytest.mark.parametrize("bits", [8, 4])
def test_tails_beyond_all_bounds_overflow_nothing(bits: int, hostile: float) -> None:
    rows = np.sign(rows_of(64, 8)) * np.float16(6e4)
    tails = np.zeros((4, 8), np.float16)
    tails[1:3] = hostile
    of = np.arange(64) % 4
    queries = np.sign(rows_of(3, 8, 1)).astype(np.float32)
    coded = scale(8, bits=bits)
    heads = Codes([[rows]], **coded, unit=False, lists=of, list_count=4)
    options: dict[str, Any] = {
        "steps": [(1, 20)],
        "margins": np.full((3, 1), np.inf, np.float32),
        "heads": heads,
        "head_queries": queries,
        "router": Codes([[tails]], **scale(8), unit=False),
        "route_queries": queries,
        "nprobe": 4,
        "tails": tails,
    }
    for tail_queries in (np.full((3, 8), 3e38, np.float32), np.full((3, 8), -1e30, np.float32)):
        found = Searcher([[rows]]).search(
            queries, 20, shortlist=20, tail_queries=tail_queries, **options
        )
        assert ((found.rows >= 0) & (found.rows < 64)).all()
        products = tail_products(tails, tail_queries, of)
        if np.isfinite(hostile):
            wide = rows.astype(np.float32)
            best = nearest_reference(wide, queries, 20, **coded, products=products)
            np.testing.assert_array_equal(np.sort(found.rows), np.sort(best))


@pytest.mark.parametrize("bits", [8, 4])
def test_masks_come_before_the_shortlist(bits: int) -> None:
    case = Case(bits=bits)
    mask = np.zeros(500, bool)
    mask[::7] = True
    found = case.search([(3, 1)], mask=mask)
    expected = exact_best(case.queries, case.bands, 5, mask=mask)
    np.testing.assert_array_equal(found.rows, expected[1])
    none = case.search([(3, 1)], mask=np.zeros(500, bool))
    assert (none.rows == -1).all() and np.isneginf(none.scores).all()


def test_margins_end_a_search_when_the_hits_are_settled() -> None:
    case = Case()
    margins = np.zeros((9, 3), np.float32)
    found = case.search([(1, 50), (2, 20), (3, 1)], margins=margins)
    assert (found.taken == 1).all()
    head = best_of(case.codes.nearest(case.head, 100), case.head, case.bands[:1], 5)
    np.testing.assert_array_equal(found.rows, head[1])
    margins[:] = 1e9
    every = case.search([(1, 50), (2, 20), (3, 1)], margins=margins)
    fixed = case.search([(1, 50), (2, 20), (3, 1)])
    np.testing.assert_array_equal(every.rows, fixed.rows)
    assert (fixed.taken == 3).all()


def test_given_candidates_replace_the_shortlist() -> None:
    case = Case()
    given = np.array([3, 499, 200, 17, 250, 90], np.int64)
    found = case.search([(3, 1)], candidates=given, heads=None, head_queries=None)
    expected = best_of(np.tile(given, (9, 1)), case.queries, case.bands, 5)
    np.testing.assert_array_equal(found.rows, expected[1])


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("steps must rise", {"steps": [(2, 5), (2, 5)]}),
        ("steps must rise", {"steps": [(4, 5)]}),
        ("dims of the last step", {"steps": [(2, 5)]}),
        ("positive", {"shortlist": 0}),
        ("positive", {"threads": 0}),
        ("positive", {"k": 0}),
        ("either candidates or heads", {"heads": None}),
        ("do not fit the heads", {"head_queries": np.ones((9, 15), np.float32)}),
        ("one value a row", {"mask": np.ones(499, bool)}),
        ("not a row", {"candidates": np.array([500])}),
        ("not a row", {"candidates": np.array([-1])}),
        ("margins", {"margins": np.ones((9, 2), np.float32)}),
        ("tails need lists", {"tails": np.ones((1, 4), np.float16)}),
    ],
)
def test_wrong_arguments_are_refused(message: str, options: dict[str, Any]) -> None:
    steps = options.pop("steps", [(3, 1)])
    with pytest.raises(ValueError, match=message):
        Case().search(steps, **options)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("do not fit the tails", {"tail_queries": None}),
        ("do not fit the tails", {"tail_queries": np.ones((9, 5), np.float32)}),
        ("do not fit the tails", {"tail_queries": np.ones((8, 4), np.float32)}),
        ("tails need lists", {"tails": np.ones((2, 4), np.float16)}),
    ],
)
def test_tails_that_fit_no_lists_are_refused(message: str, options: dict[str, Any]) -> None:
    fitting: dict[str, Any] = {
        "router": Codes([[rows_of(1, 16)]], **scale(16)),
        "route_queries": np.ones((9, 16), np.float32),
        "nprobe": 1,
        "tails": np.ones((1, 4), np.float16),
        "tail_queries": np.ones((9, 4), np.float32),
    }
    Case().search([(3, 1)], **fitting)
    with pytest.raises(ValueError, match=message):
        Case().search([(3, 1)], **(fitting | options))


def test_parts_that_do_not_fit_are_refused() -> None:
    rows = rows_of(10, 8)
    with pytest.raises(ValueError, match="rows of their segment"):
        Searcher([[rows, rows[:9]]])
    with pytest.raises(ValueError, match="same bands"):
        Searcher([[rows, rows], [rows]])
    with pytest.raises(ValueError, match="one number a row"):
        Searcher([[rows]], [[np.ones(9, np.float32)]])
    with pytest.raises(ValueError, match="differ in their dims"):
        Codes([[rows]], **scale(7))
    with pytest.raises(ValueError, match="divide the rows"):
        Codes([[rows]], **scale(8), lists=np.zeros(9, np.int64))


def test_a_level_that_is_not_there_is_named() -> None:
    script = (
        "import numpy as np; from adaptive_search.kernels.search import Codes;"
        "o = np.ones(1, np.float32); Codes([[np.ones((1, 1), np.float16)]], centre=o, step=o)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        env=os.environ | {"ADAPTIVE_SEARCH_LEVEL": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "BackendUnavailable" in done.stderr
