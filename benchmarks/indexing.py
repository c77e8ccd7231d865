"""Throughput and peak memory of `index` on a corpus, as JSON; Linux only.

The command runs as a child process whose memory is read from the system all the while; the peak
is shown for each quarter of the run, so that growth with the corpus would be seen.

    python benchmarks/indexing.py CORPUS --threads 2 --json indexing.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from adaptive_search import AdaptiveIndex, Encoder
from adaptive_search.encoder.granularity import Granularity, parse_granularity
from adaptive_search.kernels import native

INTERVAL = 0.02  # seconds between two samples
QUARTERS = (25, 50, 75, 100)
# Of the resident memory, the anonymous part is what the process itself holds; the rest are
# pages of mapped files, which the system may drop at any time.
FIELDS = {"VmRSS": "resident_mb", "RssAnon": "anonymous_mb"}


def sample(pid: int) -> dict[str, float]:
    """Memory of a running process in MB (10^6 bytes); empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    values = dict(line.split(":", 1) for line in lines)
    return {
        name: int(values[field].split()[0]) * 1024 / 1e6
        for field, name in FIELDS.items()
        if field in values
    }


def run(command: list[str]) -> tuple[dict[str, Any], list[tuple[float, dict[str, float]]]]:
    """What the command prints, and its memory over time (seconds since the start)."""
    samples = []
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as output, subprocess.Popen(command, stdout=output) as child:
        while child.poll() is None:
            if found := sample(child.pid):
                samples.append((time.perf_counter() - begin, found))
            time.sleep(INTERVAL)
        if child.returncode:
            raise SystemExit(f"`index` ended with exit code {child.returncode}")
        output.seek(0)
        return json.load(output), samples


def peaks(samples: list[tuple[float, dict[str, float]]]) -> list[dict[str, float]]:
    """Highest memory within each quarter of the run, in MB."""
    end = samples[-1][0]
    rows = []
    for quarter in QUARTERS:
        low, high = (quarter - 25) / 100 * end, quarter / 100 * end
        within = [found for seconds, found in samples if low <= seconds <= high]
        peak = {name: max((s[name] for s in within), default=0.0) for name in FIELDS.values()}
        rows.append({"until_percent": quarter} | {k: round(v, 1) for k, v in peak.items()})
    return rows


def encoder_share(corpus: Path, granularity: Granularity, threads: int) -> float:
    """Share of the wall time of an index run, in this process, that is spent in the encoder."""
    encoder = Encoder.load(threads=threads)
    encode_ids, seconds = encoder.encode_ids, 0.0

    def timed(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        nonlocal seconds
        start = time.perf_counter()
        found = encode_ids(*arguments, **options)
        seconds += time.perf_counter() - start
        return found

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(encoder, "encode_ids", timed):
        index = AdaptiveIndex.create(
            Path(folder) / "index", encoder=encoder, granularity=granularity, threads=threads
        )
        begin = time.perf_counter()
        index.add(corpus)
        return seconds / (time.perf_counter() - begin)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder or file")
    parser.add_argument("--include", action="append", default=[], help="gitignore pattern")
    parser.add_argument("--granularity", default="1", choices=["1", "1/2", "1/4", "1/8"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--encoder-share", action="store_true", help="by a second run")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "adaptive_search.cli", "index", str(asked.corpus)]
        command += ["--index", f"{folder}/index", "--granularity", asked.granularity]
        command += ["--threads", str(asked.threads), "--format", "json", "--quiet"]
        for pattern in asked.include:
            command += ["--include", pattern]
        summary, samples = run(command)
    seconds = summary["seconds"]
    report = {
        "documents": summary["indexed"],
        "skipped": len(summary["skipped"]),
        "chunks": summary["chunks"],
        "tokens": summary["tokens"],
        "seconds": seconds,
        "documents_per_second": round(summary["indexed"] / seconds, 1),
        "tokens_per_second": round(summary["tokens"] / seconds),
        "threads": asked.threads,
        "granularity": asked.granularity,
        "level": native.level(),
        "memory": peaks(samples),
        "peak_resident_mb": round(max(found["resident_mb"] for _, found in samples), 1),
    }
    if asked.encoder_share:
        granularity = parse_granularity(asked.granularity)
        report["encoder_share"] = round(encoder_share(asked.corpus, granularity, asked.threads), 3)
    text = json.dumps(report, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
