"""The funnel beside other libraries: recall@10, latency, build time and bytes of one core.

    python benchmarks/search.py --rows 100000 --peers all --json search.json --plot search.svg
    python benchmarks/search.py --vectors passages.npy --questions questions.npy

The vectors are synthetic (`synthetic.py` describes their spectrum) or rows of a .npy file, such as
`corpus_vectors.py` writes; without a file of questions, noisy copies of rows ask. Each index is
built, measured and dropped before the next. Times are processor time of one thread, which on an
idle core is wall time, and of each query the least of some rounds: programs that share caches and
memory disturb some rounds, but none makes a round faster. All queries are asked before one is asked
again. Compare figures of one run only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when the libraries are loaded

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from search_peers import PEERS, Built
from synthetic import DIMS, PREFIX_ENERGY, SyntheticVectors

from adaptive_search import tables
from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.indexes.heads import gather
from adaptive_search.indexes.tuning import tune
from adaptive_search.kernels import _native

K = 10
SEGMENT_ROWS = 32_768
EXACT_QUERIES = 20  # of a scan of all vectors, each of which takes as long
NOISE = 0.5  # length of what is added to a row to make a question of it
Way = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def segment_of(rows: NDArray[Any]) -> FunnelSegment:
    """Cut vectors into bands, as an index on disk is."""
    half = rows.astype(np.float16)
    return FunnelSegment([np.ascontiguousarray(b) for b in np.split(half, DIMS[:-1], axis=1)])


def energy_of(vectors: NDArray[np.float16]) -> list[float]:
    """Share of the squared length in each prefix; it must be the same for all rows."""
    rows = vectors[:: max(1, len(vectors) // 1000)].astype(np.float32)
    shares = np.stack([np.square(rows[:, :dim]).sum(axis=1) for dim in DIMS])
    if shares.std(axis=1).max() > 1e-3:
        raise SystemExit(
            "the prefixes of these vectors differ in length; this script compares equals"
        )
    found: list[float] = (shares.mean(axis=1) / shares[-1].mean()).tolist()
    return found


def noisy_rows(vectors: NDArray[np.float16], count: int, seed: int = 1) -> NDArray[np.float32]:
    """Rows with noise of a length of NOISE added, float32."""
    rng = np.random.default_rng(seed)
    rows = vectors[np.sort(rng.choice(len(vectors), count, replace=False))].astype(np.float32)
    noise = rng.standard_normal(rows.shape, dtype=np.float32) * rows.std(axis=0)
    noisy: NDArray[np.float32] = rows + NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return noisy


def ours(
    segments: list[FunnelSegment], energy: list[float], targets: list[float]
) -> Iterator[Built]:
    """The funnel by plans for several recalls, at full dims and at a depth chosen by query."""
    for target in targets:
        start = time.process_time()
        tuned = tune(segments, DIMS, prefix_energy=energy, recall_target=target)
        listed = segments
        if tuned.assigned is not None:
            pairs = zip(segments, tuned.assigned, strict=True)
            listed = [FunnelSegment(part.bands, lists=rows) for part, rows in pairs]
        means = None if tuned.lists is None else tuned.lists.means
        funnel = Funnel(listed, DIMS, prefix_energy=energy, plan=tuned.plan, means=means)
        resident = funnel.resident_bytes / funnel.rows
        seconds = time.process_time() - start
        plan = tuned.plan
        note = f"{plan.kind} {plan.head_dim}-d in {plan.bits} bits, K={plan.shortlist}"
        note += f", kept={plan.kept}"
        note += f", {plan.nprobe} of {plan.lists} lists" if plan.lists else ""
        print(f"plan for {target}: {note}, recall on held-out rows {plan.recall}", flush=True)
        ways: dict[str, Way] = {}
        for dim in (DIMS[-1], "auto"):

            def way(q: NDArray[np.float32], funnel: Funnel = funnel, dim: Any = dim) -> Any:  # noqa: ANN401
                return funnel.search(q, K, dim=dim).rows

            ways[f"{target} {dim}"] = way
        yield Built("funnel", ways, seconds, resident, 2.0 * DIMS[-1])


def measure(
    built: Built, queries: NDArray[np.float32], truth: NDArray[np.int64], rounds: int
) -> list[dict[str, Any]]:
    """Recall, latency of single queries, and queries per second of a batch, of each way."""
    records = []
    for name, way in built.ways.items():
        times = np.empty((rounds, len(queries)))
        batches = np.empty(rounds)
        for round_ in range(rounds):
            start = time.process_time()
            found = way(queries)
            batches[round_] = time.process_time() - start
            for i, query in enumerate(queries):
                start = time.process_time()
                way(query[None])
                times[round_, i] = time.process_time() - start
        hits = (found[:, :, None] == truth[:, None, :]).any(axis=1)
        times = times.min(axis=0) * 1e3
        records.append(
            {
                "index": built.name,
                "way": name,
                "recall@10": float(hits.mean()),
                "p50_ms": float(np.median(times)),
                "p99_ms": float(np.percentile(times, 99)),
                "batch_qps": len(queries) / float(batches.min()),
                "build_s": built.seconds,
                "resident_bytes": built.resident_bytes,
                "disk_bytes": built.disk_bytes,
            }
        )
        print(json.dumps(records[-1]), flush=True)  # a run takes long and may be cut short
    return records


def plot(table: pd.DataFrame, path: Path) -> None:
    """Draw latency over recall, one line an index."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, rows in table[table["recall@10"] >= 0.8].groupby("index", sort=False):
        front = rows.sort_values("recall@10")
        axes.plot(front["recall@10"], front["p50_ms"], marker="o", label=name)
    axes.set(xlabel="recall@10", ylabel="p50 of a query, ms of one core", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Run the comparison and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--vectors", type=Path, help=".npy of float16 rows of 1,536 dims")
    parser.add_argument("--questions", type=Path, help=".npy of questions about them")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--recall", type=float, nargs="+", default=[0.95, 0.98, 0.99])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=["all", *PEERS], default=["faiss-flat"])
    parser.add_argument("--json", type=Path, help="write the figures and the machine here")
    parser.add_argument("--plot", type=Path, help="draw the fronts here, as SVG")
    args = parser.parse_args()
    if args.vectors:
        vectors = np.load(args.vectors, mmap_mode="r")[: args.rows]
        energy = energy_of(vectors)
        queries = (
            np.load(args.questions)[: args.queries].astype(np.float32)
            if args.questions
            else noisy_rows(vectors, args.queries)
        )
        cuts = range(SEGMENT_ROWS, len(vectors), SEGMENT_ROWS)
        segments = [segment_of(rows) for rows in np.split(vectors, cuts)]
    else:
        source = SyntheticVectors(args.rows)
        segments = [segment_of(block) for block in source.blocks()]
        energy, queries = list(PREFIX_ENERGY), source.queries(args.queries)
    exact = Funnel(segments, DIMS, prefix_energy=energy)
    truth = exact.search(queries, K, exact=True).rows
    ways = {"exact": lambda q: exact.search(q, K, exact=True).rows}
    scan = Built("exact (ours)", ways, 0.0, 0.0, 2.0 * DIMS[-1])
    few = queries[:EXACT_QUERIES], truth[:EXACT_QUERIES]
    records = measure(scan, *few, args.rounds)
    for built in ours(segments, energy, args.recall):
        records += measure(built, queries, truth, args.rounds)
    del built
    everything = np.arange(exact.rows)
    for name in PEERS if args.peers == ["all"] else args.peers:
        wide = gather(segments, everything, len(DIMS))
        peer = PEERS[name](wide)
        if peer is None:
            print(f"{name} is not installed", flush=True)
            continue
        del wide
        asked = few if name == "faiss-flat" else (queries, truth)
        records += measure(peer, *asked, args.rounds)
        del peer
        gc.collect()
    table = pd.DataFrame(records)
    cells: tables.Cells = {
        "recall@10": "{:.4f}".format,
        "p50_ms": "{:.3f}".format,
        "p99_ms": "{:.3f}".format,
        **dict.fromkeys(("batch_qps", "build_s", "resident_bytes", "disk_bytes"), "{:,.0f}".format),
    }
    print(tables.to_text(table, cells))
    if args.plot:
        plot(table, args.plot)
    if args.json:
        machine = {"platform": platform.platform(), "level": _native.level(), "threads": 1}
        figures = {
            "rows": exact.rows,
            "queries": len(queries),
            "vectors": args.vectors.name if args.vectors else "synthetic",
            "prefix_energy": [round(share, 4) for share in energy],
        }
        result = machine | figures | {"ways": tables.to_records(table, list(table.columns))}
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
