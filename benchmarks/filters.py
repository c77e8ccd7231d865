"""Filters, deletes and adds: recall@10 against exact search, and time, on an index of vectors.

    python benchmarks/filters.py --rows 100000 --json filters.json

The vectors are synthetic (`synthetic.py`), the index is one on disk as users have it, and each row
has fields to filter on. Times are processor time of one thread, which on one idle core is wall
time. Recall is the share of the ten best rows of an exact search with the same filter.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when the libraries are loaded

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from synthetic import SyntheticVectors

from adaptive_search import AdaptiveIndex, tables
from adaptive_search.filters import Filter, Filters

DIMS = (64, 128, 256, 512)
PREFIX_ENERGY = (0.54, 0.68, 0.82, 1.0)
K = 10
SHARES = (None, 0.5, 0.1, 0.01, 0.001)
CELLS: tables.Cells = {
    "rows left": lambda left: left if isinstance(left, str) else f"{left:.1%}",
    "recall@10": "{:.4f}".format,
    "p50_ms": "{:.2f}".format,
    "ms": "{:,.2f}".format,
}
Matrix = NDArray[np.float32]


def fields(row: int, place: float) -> dict[str, Any]:
    """Metadata of a row; `place` is spread evenly from 0 to 1."""
    return {"place": place, "lang": ("en", "de", "fr")[row % 3], "year": 1990 + row % 35}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of processor time, and what a call gives."""
    start = time.process_time()
    result = call()
    return (time.process_time() - start) * 1e3, result


def search_table(index: AdaptiveIndex, queries: Matrix, state: str) -> list[dict[str, Any]]:
    """Recall and time of searches under filters that leave ever fewer rows."""
    rows = []
    for share in SHARES:
        options: dict[str, Any] = {"dim": DIMS[-1]}
        if share is not None:
            options["filter"] = {"place": {"<": share}}
        exact = index.search_vectors(queries, K, exact=True, **options)
        found = index.search_vectors(queries, K, **options)
        recall = [
            len({hit.id for hit in a} & {hit.id for hit in b}) / len(a)
            for a, b in zip(exact, found, strict=True)
        ]
        times = [timed(partial(index.search_vector, query, K, **options))[0] for query in queries]
        rows.append(
            {
                "index": state,
                "rows left": "all" if share is None else f"{share:.1%}",
                "recall@10": float(np.mean(recall)),
                "p50_ms": float(np.median(times)),
            }
        )
    return rows


def filter_table(index: AdaptiveIndex) -> list[dict[str, Any]]:
    """Time to decide which rows a filter leaves."""
    cases: dict[str, Filter] = {
        "the first: fields are parsed": {"lang": "en"},
        "the same again": {"lang": "en"},
        "another value": {"lang": "de"},
        "a range of years": {"year": {">=": 2000, "<": 2010}},
        "every third year": {"year": list(range(1990, 2025, 3))},
        "a range of distinct numbers": {"place": {">=": 0.3, "<": 0.4}},
        "three fields": {"lang": ["en", "fr"], "year": {"!=": 2001}, "place": {">": 0.9}},
    }
    filters, rows = Filters(), []
    for name, wanted in cases.items():
        ms, masks = timed(partial(filters.rows, index.store, wanted))
        left = sum(int(mask.sum()) for mask in masks) / index.store.rows
        rows.append({"filter": name, "rows left": left, "ms": ms})
    return rows


def main() -> None:
    """Build, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    count, some = args.rows, args.rows // 10
    source = SyntheticVectors(count, dims=DIMS, prefix_energy=PREFIX_ENERGY)
    queries = source.queries(args.queries)
    places = np.random.default_rng(1).permutation(count) / count
    metadata = [fields(row, float(place)) for row, place in enumerate(places)]
    with tempfile.TemporaryDirectory() as folder:
        index = AdaptiveIndex.create(Path(folder) / "index", dims=DIMS, threads=1)
        making, vectors = timed(lambda: [block.astype(np.float16) for block in source.blocks()])
        print(f"made {count:,} vectors in {making / 1e3:.0f} s", flush=True)
        build_ms, _ = timed(lambda: index.add_vectors(range(count), vectors, metadata))
        filters = filter_table(index)
        searches = search_table(index, queries, "as built")
        index.delete(map(str, range(some)))
        searches += search_table(index, queries, "a tenth deleted")
        first = np.concatenate(vectors)[:some]
        add_ms, _ = timed(lambda: index.add_vectors(range(some), first, metadata[:some]))
        searches += search_table(index, queries, "and added again")
    changes = [{"change": f"{count:,} rows added", "ms": build_ms}]
    changes += [{"change": f"{some:,} rows added to them", "ms": add_ms}]
    found = {"filters": filters, "searches": searches, "changes": changes}
    for rows in found.values():
        print(tables.to_text(pd.DataFrame(rows), CELLS), end="\n\n")
    if args.json:
        args.json.write_text(json.dumps({"rows": count, "dims": DIMS, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
