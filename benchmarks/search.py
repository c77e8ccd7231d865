"""Funnel against flat and graph search: recall@10 and latency of single queries on one core.

    python benchmarks/search.py --rows 100000 --json search.json

The vectors are synthetic (`synthetic.py`). Ways take turns query by query, so that what else the
machine does falls on all of them. Times are processor time, which on one idle core is wall time;
figures are the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when the libraries are loaded

import faiss
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from synthetic import DIMS, PREFIX_ENERGY, SyntheticVectors

from adaptive_search import tables
from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.indexes.shortlist import Shortlist
from adaptive_search.kernels import _native

K = 10
SEGMENT_ROWS = 32_768
Way = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def build_funnel(vectors: NDArray[np.float16]) -> Funnel:
    """Cut the vectors into segments and bands, as an index on disk is."""
    segments = []
    for start in range(0, len(vectors), SEGMENT_ROWS):
        rows = vectors[start : start + SEGMENT_ROWS]
        bands = [np.ascontiguousarray(band) for band in np.split(rows, DIMS[:-1], axis=1)]
        segments.append(FunnelSegment(bands, shortlist=Shortlist.build(bands[0])))
    return Funnel(segments, DIMS, prefix_energy=PREFIX_ENERGY)


def funnel_ways(funnel: Funnel) -> dict[str, Way]:
    """Ways through the funnel, by the length of the shortlist and the final dimension."""
    ways: dict[str, Way] = {"exact 1536 (ours)": lambda q: funnel.search(q, K, exact=True).rows}
    for dim in (512, 1536):
        for shortlist in (200, 500, 1000, 2000):

            def way(q: NDArray[np.float32], dim: int = dim, shortlist: int = shortlist) -> Any:  # noqa: ANN401
                return funnel.search(q, K, dim=dim, shortlist=shortlist).rows

            ways[f"funnel 64 -> {dim}, K={shortlist}"] = way
    return ways


def other_ways(vectors: NDArray[np.float16], graphs: bool) -> dict[str, Way]:
    """Ways of other libraries over the full vectors, in float32."""
    wide = vectors.astype(np.float32)
    flat = faiss.IndexFlatIP(wide.shape[1])
    flat.add(wide)
    ways: dict[str, Way] = {"FAISS flat 1536": lambda q: flat.search(q, K)[1]}
    if graphs:
        import hnswlib

        graph = hnswlib.Index(space="ip", dim=wide.shape[1])
        graph.init_index(max_elements=len(wide), M=16, ef_construction=100)
        graph.set_num_threads(1)
        graph.add_items(wide)
        for ef in (64, 128, 256):

            def way(q: NDArray[np.float32], ef: int = ef) -> Any:  # noqa: ANN401
                graph.set_ef(ef)
                return graph.knn_query(q, K)[0]

            ways[f"hnswlib M16, ef={ef}"] = way
    return ways


def measure(
    ways: dict[str, Way], queries: NDArray[np.float32], truth: NDArray[np.int64], rounds: int
) -> pd.DataFrame:
    """Recall and latency of each way, all ways in turn for each query."""
    times = {name: np.empty((rounds, len(queries))) for name in ways}
    found = {name: 0 for name in ways}
    for name, way in ways.items():
        hits = [set(way(q[None])[0].tolist()) for q in queries]  # warms up, too
        found[name] = sum(len(h & set(t)) for h, t in zip(hits, truth.tolist(), strict=True))
    for round_ in range(rounds):
        for i, query in enumerate(queries):
            for name, way in ways.items():
                start = time.process_time()
                way(query[None])
                times[name][round_, i] = (time.process_time() - start) * 1e3
    return pd.DataFrame(
        {
            "way": list(ways),
            "recall@10": [found[name] / truth.size for name in ways],
            "p50_ms": [float(np.median(np.median(t, axis=1))) for t in times.values()],
            "p99_ms": [float(np.median(np.percentile(t, 99, axis=1))) for t in times.values()],
        }
    )


def main() -> None:
    """Run the comparison and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--graphs", action="store_true", help="also hnswlib (slow to build)")
    parser.add_argument("--json", type=Path, help="write the figures and the machine here")
    args = parser.parse_args()
    source = SyntheticVectors(args.rows)
    vectors = np.concatenate([block.astype(np.float16) for block in source.blocks()])
    queries = source.queries(args.queries)
    funnel = build_funnel(vectors)
    truth = funnel.search(queries, K, exact=True).rows
    ways = funnel_ways(funnel) | other_ways(vectors, args.graphs)
    table = measure(ways, queries, truth, args.rounds)
    cells: tables.Cells = {name: "{:.3f}".format for name in table.columns if name != "way"}
    print(tables.to_text(table, cells))
    if args.json:
        machine = {"platform": platform.platform(), "level": _native.level(), "threads": 1}
        figures = {"rows": args.rows, "queries": args.queries, "faiss": faiss.__version__}
        result = machine | figures | {"ways": tables.to_records(table, list(table.columns))}
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
