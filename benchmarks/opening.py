"""The first query after an index is opened, and vectors added to it, as JSON.

Each open is a process of its own. Before a cold one, the system is asked to drop the index's files
from memory. `first` is all from the open to the hits; `search` the search alone, without the text
of its hits. Wall time is what a user waits for; processor time is what stays the same beside other
jobs.

    python benchmarks/opening.py --index DIRECTORY --vectors vectors.npy --rows 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH_ROWS = 4096
DIMS = (64, 128, 256, 512, 768, 1024, 1536)


class Stopwatch:
    """Wall and processor milliseconds since the last look."""

    def __init__(self) -> None:
        """Start."""
        self._last = time.perf_counter(), time.process_time()

    def look(self) -> dict[str, float]:
        """Milliseconds since then."""
        before, self._last = self._last, (time.perf_counter(), time.process_time())
        wall, used = (1e3 * (b - a) for a, b in zip(before, self._last, strict=True))
        return {"wall_ms": round(wall, 1), "processor_ms": round(used, 1)}


def make(index: Path, vectors: NDArray[Any], rows: int) -> None:
    """Make an index of the first rows, with its plan."""
    from adaptive_search.index import AdaptiveIndex

    def batches() -> Iterator[NDArray[np.float32]]:
        for start in range(0, rows, BATCH_ROWS):
            yield vectors[start : min(start + BATCH_ROWS, rows)].astype(np.float32)

    AdaptiveIndex.create(index, dims=DIMS, threads=1).add_vectors(range(rows), batches())


def drop(index: Path) -> None:
    """Ask the system to forget the files of an index."""
    for file in sorted(path for path in index.rglob("*") if path.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def open_and_ask(index: Path, vectors: NDArray[Any], first: int) -> dict[str, Any]:
    """Open an index in this process, and ask for neighbours of two vectors."""
    import adaptive_search.indexes.funnel
    from adaptive_search.index import AdaptiveIndex

    assert adaptive_search.indexes.funnel  # imports are no part of what is measured
    questions = np.asarray(vectors[first : first + 2], np.float32)
    whole, watch = Stopwatch(), Stopwatch()
    opened = AdaptiveIndex.open(index, threads=1)
    funnel = opened.funnel
    report = {"open": watch.look()}
    funnel.search(questions[:1], 10)
    report["search"] = watch.look()
    opened.search_vector(questions[0], 10, dim=DIMS[-1])
    report["hits"] = watch.look()
    report["first"] = whole.look()
    funnel.search(questions[1:], 10)
    report["second search"] = whole.look()
    return report


def opens(asked: argparse.Namespace, *, cold: bool) -> dict[str, Any]:
    """Medians over processes that open the index."""
    command = [sys.executable, __file__, "--index", asked.index, "--vectors", asked.vectors]
    found = []
    for turn in range(asked.repeats):
        if cold:
            drop(Path(asked.index))
        run = subprocess.run(
            [*command, "--ask", str(7 + 1000 * turn)], check=True, capture_output=True, text=True
        )
        found.append(json.loads(run.stdout))
    return {
        stage: {kind: statistics.median(one[stage][kind] for one in found) for kind in times}
        for stage, times in found[0].items()
    }


def adds(index: Path, vectors: NDArray[Any], count: int, repeats: int) -> list[dict[str, Any]]:
    """Add vectors to an index that has answered before, and delete them in the end."""
    from adaptive_search.index import AdaptiveIndex

    opened = AdaptiveIndex.open(index, threads=1)
    opened.search_vector(np.asarray(vectors[0], np.float32), 10)
    report = []
    names: list[str] = []
    for turn in range(repeats):
        ids = [f"added {turn} {number}" for number in range(count)]
        # Vectors that are there already do as well as others.
        rows = np.asarray(vectors[turn * count : (turn + 1) * count], np.float32)
        watch = Stopwatch()
        opened.add_vectors(ids, rows)
        added = watch.look()
        opened.search_vector(rows[0], 10)
        report.append({"add": added, "search after it": watch.look()})
        names += ids
    opened.delete(names)
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True, help="made if it is not there")
    parser.add_argument("--vectors", required=True, help=".npy, float (rows, 1536)")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--added", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ask", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    vectors = np.lib.format.open_memmap(asked.vectors, "r")
    index = Path(asked.index)
    if asked.ask is not None:
        print(json.dumps(open_and_ask(index, vectors, asked.ask)))
        return
    if not index.exists():
        make(index, vectors, asked.rows)
    report = {
        "cold": opens(asked, cold=True),
        "warm": opens(asked, cold=False),
        "adds": adds(index, vectors, asked.added, min(3, asked.repeats)),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
