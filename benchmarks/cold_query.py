"""Wall time of whole `query` processes on an index, as JSON.

python benchmarks/cold_query.py INDEX --repeats 9
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Run the query once to warm the disk cache, then time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index")
    parser.add_argument("--query", default="what does the manifest hold")
    parser.add_argument("--repeats", type=int, default=9)
    asked = parser.parse_args()
    command = [sys.executable, "-m", "adaptive_search.cli", "query", asked.query]
    command += ["--index", asked.index]
    seconds(command)
    times = [seconds(command) for _ in range(asked.repeats)]
    result = {
        "median_s": round(statistics.median(times), 3),
        "min_s": round(min(times), 3),
        "max_s": round(max(times), 3),
        "repeats": asked.repeats,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
