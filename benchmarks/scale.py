"""Bytes that a query touches, and what they cost, beyond what fits this machine: on paper.

    python benchmarks/scale.py

Prints the table of docs/scale.md. RATES are measured on one core of the reference machine, an AMD
Zen 5 with 30 GB/s of memory bandwidth; put those of yours in their place.
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
CODE = 64 + 4  # bytes of a head in 8 bits, with the number of its row
ROUTE_DIM = 512  # of the means of lists, float16
PROBES = 256  # lists of 4,000 that reach recall@10 0.98 at a million
CANDIDATES, KEPT = 500, 80  # that are scored at 256 dims, and of these at 1,536
MIDDLE = 256


@dataclass(frozen=True)
class Rates:
    """Measured on one core of the reference machine.

    Attributes:
        stream: bytes a second of a sequential read from memory.
        scan: bytes a second of codes that are scored, in lists.
        route: seconds to score one list by 512 coordinates of its mean.
        middle: seconds to gather and score one row at 256 dims.
        last: seconds to gather and score one row at 1,536 dims.
        read: seconds of one random page from disk, many asked for together.
    """

    stream: float = 29e9
    scan: float = 16e9
    route: float = 90e-6 / 4000
    middle: float = 0.06e-6
    last: float = 0.31e-6
    read: float = 16e-6


def row(millions: int, rates: Rates) -> dict[str, object]:
    """What one query touches and costs at a size, with as many probes or with as large a share."""
    rows = millions * MILLION
    lists = round(4 * math.sqrt(rows))
    route_bytes = lists * ROUTE_DIM * 2
    # Means of up to a few MB stay in the cache, as measured; more of them stream from memory.
    route = max(lists * rates.route, route_bytes / rates.stream)
    rerank = CANDIDATES * rates.middle + KEPT * rates.last
    scanned = [PROBES / lists * rows, PROBES / 4000 * rows]
    touched = [route_bytes + n * CODE + CANDIDATES * 2 * MIDDLE + KEPT * 2 * WIDTH for n in scanned]
    warm = [route + n * CODE / rates.scan + rerank for n in scanned]
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
