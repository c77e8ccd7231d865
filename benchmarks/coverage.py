r"""What heads and lists hold of the true neighbours: the facts that plans are made of.

Over full vectors of our encoder and questions, as `corpus_vectors.py` writes them, or synthetic
ones: the share of the ten best among the K best heads, with and without the mean of the row's list
for the coordinates above (the tail term), and as codes of 8 and of 4 bits; the share in the nprobe
best lists, and how many rows these hold; and how much of the variance lists explain. Plain numpy
over blocks of rows, lists and the scale of codes apart, so that no search of ours judges itself.

    python benchmarks/coverage.py --vectors vectors/passages.npy --questions vectors/questions.npy \
        --rows 300000 --queries 300
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synthetic import DIMS, SyntheticVectors

from adaptive_search.indexes.flat import FunnelSegment, unit_rows
from adaptive_search.indexes.heads import head_scale, train_lists

NEIGHBOURS = 10
SHORTLISTS = (100, 200, 500, 1000, 2000)
PROBED = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # of all lists
TAILS = {64: (0.0, 0.5, 0.75, 1.0), 128: (0.0, 0.5)}
BITS = (8, 4)  # of codes of all these heads, without a tail
TAIL_DIM, ROUTE_DIMS = 256, (64, 256, 512)
BLOCK = 4096

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Shares = dict[float, float]


def blocks(vectors: NDArray[np.float16]) -> Iterator[tuple[int, Floats]]:
    """All rows, float32 (at most BLOCK, dim), with the number of the first."""
    for start in range(0, len(vectors), BLOCK):
        yield start, vectors[start : start + BLOCK].astype(np.float32)


def true_neighbours(vectors: NDArray[np.float16], questions: Floats) -> Rows:
    """The ten best rows for each question."""
    best = np.full((len(questions), NEIGHBOURS), -np.inf, np.float32)
    found = np.full(best.shape, -1)
    for start, rows in blocks(vectors):
        scores = np.concatenate([best, questions @ rows.T], axis=1)
        of = np.concatenate([found, np.tile(np.arange(len(rows)) + start, (len(best), 1))], axis=1)
        top = np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        best, found = (np.take_along_axis(values, top, axis=1) for values in (scores, of))
    return found


def means_of(vectors: NDArray[np.float16], of: Rows, count: int) -> tuple[Floats, float, float]:
    """Means of the rows of each list; the variance that they explain, of heads and of the rest."""
    sums = np.zeros((count, vectors.shape[1]), np.float64)
    squares = np.zeros(vectors.shape[1])
    for start, rows in blocks(vectors):
        np.add.at(sums, of[start : start + len(rows)], rows)
        squares += np.square(rows).sum(axis=0)
    sizes = np.maximum(np.bincount(of, minlength=count), 1)[:, None]
    spread = squares - np.square(sums.sum(axis=0)) / len(vectors)
    left = squares - (np.square(sums) / sizes).sum(axis=0)
    head = DIMS[0]
    shares = [1 - left[part].sum() / spread[part].sum() for part in (np.s_[:head], np.s_[head:])]
    return (sums / sizes).astype(np.float32), float(shares[0]), float(shares[1])


def measure(vectors: NDArray[np.float16], questions: Floats, count: int) -> dict[str, Shares]:
    """All shares, by what they are of."""
    truth = true_neighbours(vectors, questions)
    bands = [np.ascontiguousarray(band) for band in np.split(vectors[:, :256], DIMS[:2], axis=1)]
    lists, assigned = train_lists([FunnelSegment(bands)], count, dims=DIMS[:3], seed=0)
    of = assigned[0].astype(np.int64)
    sizes = np.bincount(of, minlength=count)
    means, *explained = means_of(vectors, of, count)
    print("lists explain {:.2f} of the variance of heads, {:.2f} of the rest".format(*explained))
    found: dict[str, Shares] = {}
    for dim in ROUTE_DIMS:
        order = np.argsort(-(questions[:, :dim] @ means[:, :dim].T), axis=1)
        places = np.take_along_axis(np.argsort(order, axis=1), of[truth], axis=1)
        found[f"{count} lists by {dim}-d means"] = {
            share: float((places < share * count).mean()) for share in PROBED
        }
        if dim == lists.means.shape[1]:
            scanned = np.cumsum(sizes[order], axis=1).mean(axis=0) / len(vectors)
            found["rows in these lists"] = {n: scanned[int(n * count)] for n in PROBED}
    ways = [(dim, weight, 0) for dim, weights in TAILS.items() for weight in weights]
    ways += [(dim, 0.0, bits) for dim in TAILS for bits in BITS]
    scales = {
        (dim, bits): head_scale([FunnelSegment(bands)], DIMS.index(dim) + 1, bits)
        for dim in TAILS
        for bits in BITS
    }
    wanted = vectors[truth.ravel()].astype(np.float32).reshape(*truth.shape, -1)

    def scores(dim: int, weight: float, bits: int, rows: Floats, lists: Rows) -> Floats:
        heads, asking = unit_rows(rows[:, :dim]), questions[:, :dim]
        if bits:
            centre, step = scales[dim, bits]
            most = 2 ** (bits - 1) - 1
            heads = np.clip(np.rint((heads - centre) / step), -most, most)
            asking = asking * step
        products = asking @ heads.T
        if not weight:
            return products
        # The lowest TAIL_DIM coordinates of all rows have one length; means are of unit prefixes.
        scale = np.linalg.norm(rows[0, :TAIL_DIM])
        tails = questions[:, dim:TAIL_DIM] @ means[lists, dim:TAIL_DIM].T / scale
        return np.asarray(products + weight * tails, dtype=np.float32)

    above = {way: np.zeros(truth.shape, np.int64) for way in ways}
    own = {way: np.empty(truth.shape, np.float32) for way in ways}
    for way in ways:
        for n in range(NEIGHBOURS):
            own[way][:, n] = np.diag(scores(*way, wanted[:, n], of[truth[:, n]]))
    for start, rows in blocks(vectors):
        for way in ways:
            block = scores(*way, rows, of[start : start + len(rows)])
            for n in range(NEIGHBOURS):
                above[way][:, n] += (block > own[way][:, n : n + 1]).sum(axis=1)
    for (dim, weight, bits), counts in above.items():
        kind = f"in {bits} bits" if bits else f"tail {weight:g}"
        found[f"{dim}-d heads, {kind}"] = {k: float((counts < k).mean()) for k in SHORTLISTS}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, help=".npy, float16 (rows, dims)")
    parser.add_argument("--questions", type=Path, help=".npy (questions, dims)")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--lists", type=int, help="default: one for 64 rows")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.vectors:
        vectors = np.load(args.vectors, mmap_mode="r")[: args.rows]
        questions = np.load(args.questions)[: args.queries].astype(np.float32)
    else:
        source = SyntheticVectors(args.rows)
        vectors = np.concatenate([block.astype(np.float16) for block in source.blocks()])
        questions = source.queries(args.queries)
    found = measure(vectors, questions, args.lists or len(vectors) // 64)
    for name, shares in found.items():
        cells = "  ".join(f"{k:g}: {share:.3f}" for k, share in shares.items())
        print(f"{name:<28} {cells}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
