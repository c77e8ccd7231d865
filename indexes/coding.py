"""Codes of all rows made piece by piece, to be written to a file: the bytes of `Codes.data`.

A search holds all codes; what writes them holds some thousands of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.heads import gather, head_scale
from adaptive_search.kernels.search import BLOCK_ROWS, Codes

AT_ONCE = 1 << 13  # rows
_NO_ROW = np.uint32((1 << 32) - 1)


@dataclass(frozen=True, eq=False)
class CodedRows:
    """Codes that are made while `parts` is read.

    Attributes:
        list_rows: int64 (lists,), the rows of each list.
        centre: float32 (dim,).
        step: float32 (dim,).
        bits: of a code, 8 or 4.
        parts: the bytes of all lists, one after the other: codes, and numbers of their rows.
    """

    list_rows: NDArray[np.int64]
    centre: NDArray[np.float32]
    step: NDArray[np.float32]
    bits: int
    parts: Iterator[NDArray[np.uint8]]


def code_rows(
    segments: Sequence[FunnelSegment],
    bands: int,
    *,
    bits: int = 8,
    lists: int = 0,
    threads: int,
    at_once: int = AT_ONCE,
) -> CodedRows:
    """Code the lowest `bands` bands of all rows, in their `lists` lists, or as one if that is 0.

    Args:
        segments: the segments, with at least one row in all.
        bands: how many to code.
        bits: of a code, 8 or 4.
        lists: how many there are.
        threads: threads to use.
        at_once: rows whose codes are held, a multiple of 16.

    Raises:
        ValueError: a segment does not say which lists its rows belong to.
    """
    belongs = _lists_of(segments, lists)
    counts = np.bincount(belongs, minlength=max(lists, 1)).astype(np.int64)
    coder = _Coder(segments, bands, bits, *head_scale(segments, bands, bits), threads, at_once)
    return CodedRows(counts, coder.centre, coder.step, bits, coder.all_lists(belongs, counts))


@dataclass(frozen=True, eq=False)
class _Coder:
    segments: Sequence[FunnelSegment]
    bands: int
    bits: int
    centre: NDArray[np.float32]
    step: NDArray[np.float32]
    threads: int
    at_once: int

    def all_lists(
        self, belongs: NDArray[np.uint32], counts: NDArray[np.int64]
    ) -> Iterator[NDArray[np.uint8]]:
        """Short lists are coded together, and a long one in several goes."""
        first = 0
        while first < len(counts):
            sums = np.cumsum(counts[first:])
            stop = first + max(1, int(np.searchsorted(sums, self.at_once, side="right")))
            rows = np.flatnonzero((belongs >= first) & (belongs < stop))
            if len(rows) > self.at_once:
                yield from self._long_list(rows)
            else:
                lists = belongs[rows].astype(np.int64) - first
                yield from self._short_lists(rows, lists, counts[first:stop])
            first = stop

    def _short_lists(
        self, rows: NDArray[np.int64], lists: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> Iterator[NDArray[np.uint8]]:
        if not len(rows):
            return
        data = self._codes(rows, lists, len(counts)).copy()
        numbers = rows[np.argsort(lists, kind="stable")].astype(np.uint32)
        blocks = -(-counts // BLOCK_ROWS)
        stride = len(data) // int(blocks.sum())
        ends = np.cumsum(blocks) * stride - 4 * BLOCK_ROWS * blocks  # of the codes of each list
        taken = 0
        for begin, count in zip(ends.tolist(), counts.tolist(), strict=True):
            data[begin : begin + 4 * count] = numbers[taken : taken + count].view(np.uint8)
            taken += count
        yield data

    def _long_list(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(rows), self.at_once):
            part = rows[start : start + self.at_once]
            blocks = -(-len(part) // BLOCK_ROWS)
            yield self._codes(part, np.zeros(len(part), np.int64), 1)[: -4 * BLOCK_ROWS * blocks]
        numbers = np.full(-(-len(rows) // BLOCK_ROWS) * BLOCK_ROWS, _NO_ROW)
        numbers[: len(rows)] = rows
        yield numbers.view(np.uint8)

    def _codes(
        self, rows: NDArray[np.int64], lists: NDArray[np.int64], count: int
    ) -> NDArray[np.uint8]:
        heads = gather(self.segments, rows, self.bands).astype(np.float16)
        return Codes(
            [[heads]],
            centre=self.centre,
            step=self.step,
            bits=self.bits,
            lists=lists,
            list_count=count,
            threads=self.threads,
        ).data


def _lists_of(segments: Sequence[FunnelSegment], lists: int) -> NDArray[np.uint32]:
    if not lists:
        return np.zeros(sum(segment.rows for segment in segments), np.uint32)
    parts = [segment.lists for segment in segments if segment.lists is not None]
    if len(parts) < len(segments):
        raise ValueError("every segment must say which list its rows belong to")
    return np.concatenate(parts)
