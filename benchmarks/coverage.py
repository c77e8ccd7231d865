r"""What heads and lists hold of the true neighbours: the facts that plans are made of.

Over full vectors of our encoder and questions, as `corpus_vectors.py` writes them: the share of the
ten best among the K best heads, with and without the mean of the row's list for the coordinates
above (the tail term); the share in the nprobe best lists; and how much of the variance lists
explain. Plain numpy throughout, lists apart, so that no search of ours judges itself.

    python benchmarks/coverage.py --vectors vectors/passages.npy --questions vectors/questions.npy \
        --rows 50000 --queries 300
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.heads import train_lists

DIMS = EncoderConfig().dims
NEIGHBOURS = 10
SHORTLISTS = (100, 200, 500, 1000, 2000)
NPROBES = (16, 32, 64, 128, 256, 384)
TAIL_WEIGHTS = (0.0, 0.25, 0.5, 1.0)

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Shares = dict[int, float]


def shares_of(scores: Floats, truth: Rows) -> Shares:
    """Share of the true neighbours among the K best of scores (queries, rows), by K."""
    best = np.argsort(-scores, axis=1)[:, : SHORTLISTS[-1]]
    found = (best[:, :, None] == truth[:, None, :]).any(axis=2)
    return {k: float(found[:, :k].sum() / truth.size) for k in SHORTLISTS}


def coverage(routes: Floats, lists: Rows, truth: Rows) -> Shares:
    """Share of the true neighbours in the nprobe lists of best route (queries, lists)."""
    places = np.argsort(np.argsort(-routes, axis=1), axis=1)
    of_truth = np.take_along_axis(places, lists[truth], axis=1)
    return {n: float((of_truth < n).mean()) for n in NPROBES}


def explained(rows: Floats, means: Floats) -> float:
    """Share of the variance of rows that the mean of each one's list explains."""
    left = np.square(rows - means).sum()
    return float(1 - left / np.square(rows - rows.mean(axis=0)).sum())


def measure(vectors: NDArray[np.float16], questions: Floats) -> dict[str, Shares]:
    """All shares, by what they are of."""
    rows, head = vectors.astype(np.float32), DIMS[0]
    exact = questions @ rows.T
    truth = np.argpartition(-exact, NEIGHBOURS, axis=1)[:, :NEIGHBOURS].astype(np.int64)
    found = {}
    for dim in DIMS[:2]:
        heads = questions[:, :dim] @ unit_rows(rows[:, :dim]).T
        found[f"{dim}-d heads"] = shares_of(heads, truth)
    count = round(4 * len(rows) ** 0.5)
    bands = [np.ascontiguousarray(band) for band in np.split(vectors, DIMS[:-1], axis=1)]
    lists, assigned = train_lists([FunnelSegment(bands)], count, dims=DIMS, threads=1, seed=0)
    of = assigned[0].astype(np.int64)
    for dim in (lists.means.shape[1], head):
        routes = questions[:, :dim] @ lists.means[:, :dim].astype(np.float32).T
        found[f"{count} lists by {dim}-d means"] = coverage(routes, of, truth)
    means = np.zeros((count, DIMS[-1]), np.float32)
    np.add.at(means, of, rows)
    means /= np.maximum(np.bincount(of, minlength=count), 1)[:, None]
    heads = questions[:, :head] @ rows[:, :head].T
    tails = (questions[:, head:] @ means[:, head:].T)[:, of]
    for weight in TAIL_WEIGHTS:
        found[f"64-d heads, tail {weight:g}"] = shares_of(heads + weight * tails, truth)
    for name, part in (("heads", slice(0, head)), ("tails", slice(head, None))):
        share = explained(rows[:, part], means[of][:, part])
        print(f"lists explain {share:.2f} of the variance of {name}", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help=".npy, float16 (rows, dims)")
    parser.add_argument("--questions", type=Path, required=True, help=".npy (questions, dims)")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    vectors = np.load(args.vectors, mmap_mode="r")[: args.rows]
    questions = np.load(args.questions)[: args.queries].astype(np.float32)
    found = measure(vectors, questions)
    for name, shares in found.items():
        cells = "  ".join(f"{k}: {share:.3f}" for k, share in shares.items())
        print(f"{name:<28} {cells}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
