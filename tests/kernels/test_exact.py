"""The exact scan against its definition in numpy and a float64 oracle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptive_search.kernels import _native
from adaptive_search.kernels.exact import exact_best, exact_best_reference

Array = NDArray[Any]
Ranking = tuple[Array, Array]
LEVELS = _native.levels()

WIDTHS = [(1,), (2, 3), (7, 9, 15), (16, 17), (31, 32, 33), (63, 64, 65), (64, 64, 128, 256)]


def make(
    widths: tuple[int, ...], n: int = 23, nq: int = 3, seed: int = 0
) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(seed)
    bands = [rng.normal(size=(n, w)).astype(np.float16) for w in widths]
    queries = rng.normal(size=(nq, sum(widths))).astype(np.float32)
    return queries, bands


def assert_same(found: Ranking, expected: Ranking) -> None:
    np.testing.assert_array_equal(found[0].view(np.uint32), expected[0].view(np.uint32))
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_every_level_gives_the_bits_of_the_reference(
    monkeypatch: pytest.MonkeyPatch, level: str, widths: tuple[int, ...]
) -> None:
    queries, bands = make(widths)
    monkeypatch.setenv("ADAPTIVE_SEARCH_LEVEL", level)
    assert_same(exact_best(queries, bands, 5), exact_best_reference(queries, bands, 5))


@pytest.mark.parametrize("level", LEVELS)
def test_every_width_to_two_rounds_of_lanes(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("ADAPTIVE_SEARCH_LEVEL", level)
    for width in range(1, 66):
        queries, bands = make((width,), n=5, nq=1)
        assert_same(exact_best(queries, bands, 5), exact_best_reference(queries, bands, 5))


@pytest.mark.parametrize("level", LEVELS)
def test_all_float16_values_are_widened_exactly(
    monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setenv("ADAPTIVE_SEARCH_LEVEL", level)
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = values[np.isfinite(values)][:, None]
    queries = np.ones((1, 1), dtype=np.float32)
    scores, rows = exact_best(queries, [np.ascontiguousarray(finite)], len(finite))
    np.testing.assert_array_equal(scores[0], finite[rows[0], 0].astype(np.float32))


def test_error_against_float64_is_that_of_float32_sums() -> None:
    queries, bands = make((64, 64, 128, 256, 256, 256, 512), n=200)
    rows = np.concatenate(bands, axis=1).astype(np.float64)
    scores, found = exact_best(queries, bands, 200)
    for q, query in enumerate(queries.astype(np.float64)):
        products = rows[found[q]] * query
        bound = 64 * np.finfo(np.float32).eps * np.abs(products).sum(axis=1)
        assert (np.abs(scores[q] - products.sum(axis=1)) <= bound).all()


def test_division_into_bands_of_whole_lanes_changes_no_bit() -> None:
    queries, bands = make((32, 64, 96))
    whole = [np.concatenate(bands, axis=1)]
    assert_same(exact_best(queries, bands, 9), exact_best(queries, whole, 9))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(0, 40),
    nq=st.integers(0, 20),
    k=st.integers(1, 50),
    threads=st.integers(1, 4),
    masked=st.booleans(),
    divided=st.booleans(),
)
def test_matches_the_reference(
    seed: int, n: int, nq: int, k: int, threads: int, masked: bool, divided: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct values, so that many scores are equal and ties have to break by row.
    bands = [rng.integers(-1, 2, size=(n, w)).astype(np.float16) for w in (4, 3)]
    queries = rng.integers(-1, 2, size=(nq, 7)).astype(np.float32)
    options: dict[str, Any] = {}
    if masked:
        options["mask"] = rng.random(n) < 0.6
    if divided:
        options["lengths"] = rng.integers(1, 4, size=n).astype(np.float32)
    expected = exact_best_reference(queries, bands, k, **options) if n else None
    scores, rows = exact_best(queries, bands, k, threads=threads, **options)
    if expected is None:
        assert (rows == -1).all()
    else:
        assert_same((scores, rows), expected)


def test_batch_and_threads_change_no_bit() -> None:
    queries, bands = make((64, 64, 128), n=500, nq=40)
    alone = [exact_best(query[None], bands, 7) for query in queries]
    expected = np.concatenate([a[0] for a in alone]), np.concatenate([a[1] for a in alone])
    for threads in (1, 2, 5):
        assert_same(exact_best(queries, bands, 7, threads=threads), expected)


def test_reads_mapped_files(tmp_path: Path) -> None:
    queries, bands = make((16, 16))
    path = tmp_path / "band"
    bands[0].tofile(path)
    mapped = np.memmap(path, dtype=np.float16, mode="r").reshape(bands[0].shape)
    assert_same(exact_best(queries, [mapped, bands[1]], 4), exact_best(queries, bands, 4))


def test_what_is_no_number_ranks_last() -> None:
    bands = [np.array([[np.nan], [1.0], [-np.inf]], dtype=np.float16)]
    scores, rows = exact_best(np.ones((1, 1), np.float32), bands, 3)
    assert rows.tolist() == [[1, 0, 2]]
    assert scores.tolist() == [[1.0, -np.inf, -np.inf]]


def wrong_inputs() -> Iterator[tuple[str, dict[str, Any]]]:
    queries, bands = make((8, 8), n=10)
    yield "float32", dict(queries=queries.astype(np.float64))
    yield "2-d", dict(queries=queries[0])
    yield "contiguous", dict(queries=np.asfortranarray(queries))
    yield "float16", dict(bands=[band.astype(np.float32) for band in bands])
    yield "contiguous", dict(bands=[band[:, ::2] for band in bands])
    yield "at least one band", dict(bands=[])
    yield "number of rows", dict(bands=[bands[0], bands[1][:5]])
    yield "number of dims", dict(bands=bands[:1])
    yield "mask", dict(mask=np.ones(9, dtype=bool))
    yield "lengths", dict(lengths=np.ones(9, dtype=np.float32))
    yield "k=0", dict(k=0)
    yield "threads=0", dict(threads=0)


@pytest.mark.parametrize(("message", "changed"), list(wrong_inputs()))
def test_wrong_input_is_a_value_error(message: str, changed: dict[str, Any]) -> None:
    queries, bands = make((8, 8), n=10)
    arguments: dict[str, Any] = {"queries": queries, "bands": bands, "k": 3} | changed
    with pytest.raises(ValueError, match=message):
        exact_best(**arguments)


def test_forced_level_of_another_machine_is_refused() -> None:
    absent = next(level for level in ("neon", "avx512") if level not in LEVELS)
    code = (
        "import numpy as np; from adaptive_search.kernels.exact import exact_best;"
        "exact_best(np.ones((1, 1), np.float32), [np.ones((1, 1), np.float16)], 1)"
    )
    env = {**os.environ, "ADAPTIVE_SEARCH_LEVEL": absent}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], env=env, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "BackendUnavailable" in done.stderr
