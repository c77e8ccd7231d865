"""What choosing a plan takes: processor time, and memory of the process's own.

    python benchmarks/tuning.py --vectors vectors/passages.npy --rows 1000000 --recall 0.98

Bands are written to files and mapped, as an index has them. What is mapped belongs to the system,
which drops it when it needs the room; the process's own memory is RssAnon of /proc/self/status,
read every few milliseconds while the plan is made. Without a file, the vectors are synthetic.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when the libraries are loaded

import numpy as np
from numpy.typing import NDArray
from resources import highest_memory, memory_mb
from search import SEGMENT_ROWS, energy_of
from synthetic import DIMS, SyntheticVectors

from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.tuning import tune

BLOCK = 10_000


def write_bands(blocks: Iterator[NDArray[np.float16]], rows: int, folder: Path) -> None:
    """Write each band to a file of its own."""
    widths = [int(width) for width in np.diff((0, *DIMS))]
    files = [
        np.lib.format.open_memmap(
            folder / f"{i}.npy", mode="w+", dtype=np.float16, shape=(rows, width)
        )
        for i, width in enumerate(widths)
    ]
    start = 0
    for block in blocks:
        for file, band in zip(files, np.split(block, DIMS[:-1], axis=1), strict=True):
            file[start : start + len(block)] = band
        start += len(block)


def main() -> None:
    """Make a plan and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, help=".npy of float16 rows of 1,536 dims")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--recall", type=float, default=0.98)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.vectors:
            vectors = np.load(args.vectors, mmap_mode="r")
            blocks = (vectors[i : i + BLOCK] for i in range(0, args.rows, BLOCK))
        else:
            source = SyntheticVectors(args.rows)
            blocks = (block.astype(np.float16) for block in source.blocks())
        write_bands(blocks, args.rows, folder)
        bands = [np.load(folder / f"{i}.npy", mmap_mode="r") for i in range(len(DIMS))]
        energy = energy_of(np.concatenate([band[:1000] for band in bands], axis=1))
        segments = [
            FunnelSegment([band[i : i + SEGMENT_ROWS] for band in bands])
            for i in range(0, args.rows, SEGMENT_ROWS)
        ]
        make = partial(tune, segments, DIMS, prefix_energy=energy, recall_target=args.recall)
        before, start = memory_mb()["own_mb"], time.process_time()
        tuned, highest = highest_memory(make)
        seconds = time.process_time() - start
        print(tuned.plan.to_text())
        print(f"{seconds:.1f} s of processor time; own memory {before:.0f} MB before,")
        print(f"{highest['own_mb']:.0f} MB at most, {highest['own_mb'] - before:.0f} MB more")


if __name__ == "__main__":
    main()
