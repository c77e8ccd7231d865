"""Bytes that a query touches, and what they cost, beyond what fits this machine: on paper.

    python benchmarks/scale.py

Prints the table of docs/scale.md. RATES are measured on one core of an AMD Zen 4 whose memory other
programs used as well; put those of yours in their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from adaptive_search import tables

DIMS, WIDTH = (64, 128, 256, 512, 768, 1024, 1536), 1536
MILLION = 1_000_000
SIZES = (1, 10, 100, 1000)  # millions of vectors
CODE = 64 + 4  # bytes of a head of 128 dims in 4 bits, with the number of its row
ROUTE = 256  # bytes of the mean of a list, in 8 bits
PROBES, OF_LISTS = 1550, 15_625  # that found 0.987 of the ten best of a million
CANDIDATES, KEPT = 600, 80  # that are scored at 256 dims, and of these at 1,536
MIDDLE = 256


@dataclass(frozen=True)
class Rates:
    """Measured on one core; see docs/scale.md.

    Attributes:
        scan: bytes a second of codes that are scored, of means and of rows in lists.
        middle: seconds to gather and score one row at 256 dims.
        last: seconds to gather and score one row at 1,536 dims.
        read: seconds of one random page from disk, many asked for together.
    """

    scan: float = 11e9
    middle: float = 0.57e-6
    last: float = 1.0e-6
    read: float = 16e-6


def list_count(rows: int) -> int:
    """Lists that an index of so many rows has."""
    return min(rows // 64, round(16 * math.sqrt(rows)))


def row(millions: int, rates: Rates) -> dict[str, object]:
    """What one query touches and costs at a size, with as many probes or with as large a share."""
    rows = millions * MILLION
    lists = list_count(rows)
    shares = (PROBES / lists, PROBES / OF_LISTS)
    scanned = [lists * ROUTE + share * rows * CODE for share in shares]
    rerank = CANDIDATES * rates.middle + KEPT * rates.last
    touched = [size + CANDIDATES * 2 * MIDDLE + KEPT * 2 * WIDTH for size in scanned]
    warm = [size / rates.scan + rerank for size in scanned]
    middle_bands = DIMS.index(MIDDLE) + 1
    upper = KEPT * (len(DIMS) - middle_bands) * rates.read
    return {
        "vectors": f"{millions:,} M",
        "lists": lists,
        "touched": _span(touched, tables.format_bytes),
        "ms, in memory": _span(warm, _ms),
        "ms, upper bands on disk": _span([seconds + upper for seconds in warm], _ms),
        "codes": tables.format_bytes(rows * CODE),
        "first 256 dims": tables.format_bytes(rows * 2 * MIDDLE),
        "all dims": tables.format_bytes(rows * 2 * WIDTH),
    }


def scale_table(rates: Rates | None = None) -> str:
    """The table in Markdown."""
    rows = [row(millions, rates or Rates()) for millions in SIZES]
    return tables.to_markdown(pd.DataFrame(rows), {"lists": "{:,}".format})


def _span(values: list[float], show: Callable[[float], str]) -> str:
    low, high = map(show, values)
    return low if low == high else f"{low} to {high}"


def _ms(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:.1f}" if ms < 10 else f"{ms:,.0f}"


if __name__ == "__main__":
    print(scale_table())
