"""Codes made piece by piece are those that a search makes at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_search.indexes.coding import code_rows
from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.heads import head_scale, scan_codes


def segments_of(sizes: list[int], lists: int, seed: int) -> list[FunnelSegment]:
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        bands = [rng.standard_normal((size, width)).astype(np.float16) for width in (6, 2, 8)]
        # Few lists hold most of the rows.
        of = (lists * rng.random(size) ** 3).astype(np.uint32) if lists else None
        found.append(FunnelSegment(bands, lengths=[np.ones(size, np.float32)] * 3, lists=of))
    return found


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
    st.sampled_from([0, 1, 2, 7, 40]),
    st.sampled_from([16, 32, 64, 1024]),
    st.integers(1, 3),
    st.sampled_from([8, 4]),
)
def test_the_bytes_are_the_same(
    sizes: list[int], lists: int, at_once: int, bands: int, bits: int
) -> None:
    segments = segments_of(sizes, lists, seed=sum(sizes))
    whole = scan_codes(segments, bands, bits=bits, threads=1, lists=lists)
    coded = code_rows(segments, bands, bits=bits, lists=lists, threads=2, at_once=at_once)
    assert coded.bits == whole.bits == bits
    assert np.array_equal(coded.list_rows, whole.list_rows)
    assert np.array_equal(coded.centre, whole.centre) and np.array_equal(coded.step, whole.step)
    parts = list(coded.parts)
    assert b"".join(part.tobytes() for part in parts) == whole.data.tobytes()
    codes = (at_once + 16 * max(lists, 1)) * (16 + 4)
    assert max(len(part) for part in parts) <= max(codes, 4 * (sum(sizes) + 16))


def test_codes_of_4_bits_hold_three_deviations_but_no_more_than_the_range() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3000, 8)).astype(np.float16)
    rows[5, 2] = 200  # one row far out
    rows[:, 3] = np.where(rng.random(3000) < 0.5, 1, -1)
    unit = unit_rows(rows)
    low, high = unit.min(axis=0), unit.max(axis=0)
    mean, spread = unit.mean(axis=0), unit.std(axis=0)
    wanted = np.minimum(high, mean + 3 * spread) - np.maximum(low, mean - 3 * spread)
    segments = [FunnelSegment([part]) for part in np.split(rows, [700])]
    centre, step = head_scale(segments, 1, 4)
    np.testing.assert_allclose(14 * step, wanted, rtol=1e-4)
    assert (centre - 7 * step >= low - 1e-6).all() and (centre + 7 * step <= high + 1e-6).all()
    for ours, others in zip(head_scale([FunnelSegment([rows])], 1, 4), (centre, step), strict=True):
        np.testing.assert_array_equal(ours, others)
    np.testing.assert_allclose(254 * head_scale(segments, 1, 8)[1], high - low, rtol=1e-5)


def test_rows_must_have_lists() -> None:
    with pytest.raises(ValueError, match="which list"):
        code_rows(segments_of([20], 0, seed=0), 1, lists=2, threads=1)
