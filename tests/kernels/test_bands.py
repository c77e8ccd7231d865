"""Vectors cut into float16 bands: the bits of the definition, at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from adaptive_search.kernels import _native
from adaptive_search.kernels.bands import split_bands, split_bands_reference

LEVELS = _native.levels()


def assert_same(vectors: NDArray[np.float32], widths: list[int], *, unit: bool) -> None:
    bands, squares = split_bands(vectors, widths, unit=unit)
    expected, expected_squares = split_bands_reference(vectors, widths, unit=unit)
    assert [band.shape for band in bands] == [(len(vectors), width) for width in widths]
    for band, other in zip(bands, expected, strict=True):
        np.testing.assert_array_equal(band.view(np.uint16), other.view(np.uint16))
    np.testing.assert_array_equal(squares, expected_squares)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("widths", [[1], [7], [8, 9], [3, 0, 5], [64, 64, 128, 256]])
def test_every_level_gives_the_bits_of_the_reference(
    monkeypatch: pytest.MonkeyPatch, level: str, unit: bool, widths: list[int]
) -> None:
    monkeypatch.setenv("ADAPTIVE_SEARCH_LEVEL", level)
    vectors = np.random.default_rng(0).normal(size=(9, sum(widths))).astype(np.float32)
    vectors[3] = 0
    vectors[4] *= 1e-30
    vectors[5] *= 1e30 if unit else 1e3
    assert_same(vectors, widths, unit=unit)


@pytest.mark.parametrize("level", LEVELS)
def test_every_float16_and_what_lies_beside_it(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("ADAPTIVE_SEARCH_LEVEL", level)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    exact = halves[np.isfinite(halves)].astype(np.float32)
    middles = (exact + np.roll(exact, 1)) / 2  # of neighbours, where ties go to even
    values = np.concatenate([exact, middles, np.float32([1e-30, 7e4, -7e4])])
    values = np.concatenate([values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf)])
    (band,), _ = split_bands(values.astype(np.float32)[:, None], [1], unit=False)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float32).astype(np.float16)
    np.testing.assert_array_equal(band[:, 0].view(np.uint16), expected.view(np.uint16))


numbers = st.floats(-(2.0**100), 2.0**100, width=32)


@given(arrays(np.float32, (3, 11), elements=numbers))
def test_unit_rows_have_unit_length(vectors: NDArray[np.float32]) -> None:
    assert_same(vectors, [4, 7], unit=True)
    lengths = np.sqrt(split_bands(vectors, [4, 7], unit=True)[1].sum(axis=1))
    np.testing.assert_allclose(lengths, vectors.any(axis=1), rtol=2e-3)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 4)), np.zeros(4, np.float32), np.zeros((2, 5), np.float32)]
)
def test_other_shapes_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"float32|make up"):
        split_bands(bad, [2, 2], unit=False)


def test_no_rows_and_strided_rows() -> None:
    assert split_bands(np.zeros((0, 4), np.float32), [2, 2], unit=True)[0][1].shape == (0, 2)
    wide = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    assert_same(wide[:, ::2], [1, 3], unit=True)
