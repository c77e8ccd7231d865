"""Whole `query` processes on an index, and how soon the weights are ready, as JSON.

Wall time is what a user waits for; processor time is what stays the same beside other jobs.

    python benchmarks/cold_query.py INDEX --repeats 9
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from adaptive_search.encoder import checkpoint
from adaptive_search.kernels.native import Engine


def query_times(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def weight_times() -> tuple[float, float]:
    """Wall and processor seconds from the files of the shipped weights to a packed engine."""
    begin, used = time.perf_counter(), time.process_time()
    weights = checkpoint.load(checkpoint.shipped_weights())
    Engine(weights.config.to_dict(), weights.tensors, "int8")
    return time.perf_counter() - begin, time.process_time() - used


def summary(measure: Callable[[], tuple[float, float]], repeats: int) -> dict[str, float]:
    """Medians and extremes in milliseconds, after one run that warms the disk cache."""
    measure()
    wall, used = zip(*(measure() for _ in range(repeats)), strict=True)
    figures = {
        "wall": statistics.median(wall),
        "least_wall": min(wall),
        "processor": statistics.median(used),
        "least_processor": min(used),
    }
    return {f"{name}_ms": round(1e3 * value, 1) for name, value in figures.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index")
    parser.add_argument("--query", default="what does the manifest hold")
    parser.add_argument("--repeats", type=int, default=9)
    asked = parser.parse_args()
    command = [sys.executable, "-m", "adaptive_search.cli", "query", asked.query]
    command += ["--index", asked.index]
    report = {
        "query": summary(lambda: query_times(command), asked.repeats),
        "weights": summary(weight_times, asked.repeats),
        "repeats": asked.repeats,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
