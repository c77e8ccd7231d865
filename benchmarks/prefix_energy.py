"""Which share of a vector's length each band should have, from held-out training pairs.

Bands have fixed lengths, set in the config after training. From the smallest dimension up, the
share of each new band in its prefix is the one of a grid with the best MRR@10 at that dimension,
averaged with its neighbours in the grid, because single values are noisy. A query's positive is
ranked among the positives of all held-out pairs. No evaluation set is touched.

    python benchmarks/prefix_energy.py --pairs DATA --weights runs/first/weights
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptive_search import Encoder
from adaptive_search.encoder.data import COLUMNS, find_files, held_out_rows, read_rows
from adaptive_search.encoder.development import mean_reciprocal_rank

SHARES = np.arange(0.02, 0.52, 0.04)


def band_scores(encoder: Encoder, pairs: list[tuple[str, ...]]) -> list[NDArray[np.float32]]:
    """Cosines of all queries with all positives, one (pairs, pairs) matrix a band."""
    queries, positives = (encoder.encode(list(column)) for column in zip(*pairs, strict=True))
    edges = list(encoder.dims[:-1])
    weights = encoder.config.band_weights
    bands = zip(
        np.split(queries, edges, axis=1), np.split(positives, edges, axis=1), weights, strict=True
    )
    return [(q @ p.T) / weight**2 for q, p, weight in bands]


def choose(bands: list[NDArray[np.float32]]) -> tuple[list[float], list[float]]:
    """Share of each band in its prefix, and the MRR@10 of each prefix with these."""
    total = bands[0]
    shares, reached = [1.0], [mean_reciprocal_rank(total)]
    for band in bands[1:]:
        found = np.array([mean_reciprocal_rank((1 - s) * total + s * band) for s in SHARES])
        smooth = np.convolve(np.pad(found, 1, mode="edge"), [1 / 3] * 3, mode="valid")
        share = float(SHARES[np.argmax(smooth)])
        total = (1 - share) * total + share * band
        shares.append(share)
        reached.append(mean_reciprocal_rank(total))
    return shares, reached


def prefix_energies(shares: list[float]) -> list[float]:
    """Share of the whole squared length that each prefix has."""
    kept = [1 - share for share in shares[1:]]
    return [float(np.prod(kept[i:])) for i in range(len(shares))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="the shipped ones by default")
    parser.add_argument("--count", type=int, default=2000, help="held-out pairs, at most")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    encoder = Encoder.load(args.weights, threads=args.threads)
    rows = held_out_rows(read_rows(find_files(args.pairs, "pairs"), COLUMNS["pairs"]))
    bands = band_scores(encoder, list(itertools.islice(rows, args.count)))
    lengths = np.square(encoder.config.band_weights)
    totals = itertools.accumulate(w * band for w, band in zip(lengths, bands, strict=True))
    present = [mean_reciprocal_rank(total) for total in totals]
    shares, reached = choose(bands)
    energies = zip(encoder.dims, encoder.config.prefix_energy, prefix_energies(shares), strict=True)
    print("dim   energy now   MRR@10 now   energy best   MRR@10 best")
    for (dim, now, best), before, after in zip(energies, present, reached, strict=True):
        print(f"{dim:<5} {now:<12.3f} {before:<12.4f} {best:<13.3f} {after:.4f}")


if __name__ == "__main__":
    main()
