"""The quality report of a folder of sets, with what the documentation and the weights keep of it.

It measures as `adaptive-search report quality --sets SETS --peers` does; indexes and the figures
of peers can be kept in a folder, so that the next run measures only what changed.

    pip install ".[eval]"
    python benchmarks/quality.py SETS --sts PAIRS.tsv --cache build/quality \
        --json docs/quality.json --measurements encoder/weights/measurements.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from adaptive_search import Encoder
from adaptive_search.encoder.encoder import DEFAULT_PRECISION
from adaptive_search.encoder.granularity import Granularity, parse_granularity
from adaptive_search.evaluation_sets import RetrievalSet, find_pairs, find_sets
from adaptive_search.kernels import native
from adaptive_search.peers import load_peers
from adaptive_search.set_measurement import measure_sets
from adaptive_search.set_report import CHUNKS, NDCG, SetReport

WARMUP, TIMED = 10, 200  # queries of the latency of encoding


def measurements(
    report: SetReport, sets: Sequence[RetrievalSet], weights: Path | None
) -> dict[str, object]:
    """What `Encoder.select_optimal_dimension` chooses from."""
    table = report.by_measure()[NDCG]
    exact = table["dim"].notna() & table["shortlist"].isna() & (table["vectors"] == CHUNKS)
    alike = table[exact & (table["document"] == table["query"])]
    encoder = Encoder.load(weights, threads=1)
    queries = [text for data in sets for text in data.query_texts]
    rows = []
    for dim, width, kept in zip(alike["dim"], alike["query"], alike["kept"], strict=True):
        granularity = parse_granularity(width)
        rows.append(
            {
                "dim": dim,
                "granularity": granularity,
                "accuracy": round(kept, 4),
                "latency_ms": round(latency_ms(encoder, queries, dim, granularity), 4),
            }
        )
    names = ", ".join(data.name for data in sets)
    return {
        "source": f"benchmarks/quality.py: nDCG@10 over {names}; latency of one query "
        f"on one thread of {cpu()} ({native.level()})",
        "fingerprint": encoder.fingerprint,
        "rows": sorted(rows, key=lambda row: int(row["dim"])),
    }


def latency_ms(
    encoder: Encoder, queries: Sequence[str], dim: int, granularity: Granularity
) -> float:
    """Median milliseconds to encode one query."""
    times = []
    for query in [*queries[:WARMUP], *queries[:TIMED]]:
        start = time.perf_counter()
        encoder.encode(query, dim, granularity=granularity)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[min(WARMUP, len(queries)) :])


def cpu() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path, help="folder of sets")
    parser.add_argument("--only", type=_names, default=[], help="names of sets, by comma")
    parser.add_argument("--sts", type=Path, nargs="*", default=[], help="files of sentence pairs")
    parser.add_argument("--weights", type=Path, help="the shipped ones by default")
    parser.add_argument("--granularities", type=parse_granularity, nargs="*", help="all by default")
    parser.add_argument("--document-tokens", type=int, help="also one vector a document")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=native.PRECISIONS, default=DEFAULT_PRECISION)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", type=Path, help="folder that keeps indexes and peers' figures")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--measurements", type=Path, help="for select_optimal_dimension")
    asked = parser.parse_args()
    if asked.cache and asked.precision != DEFAULT_PRECISION:
        parser.error("--cache keeps vectors of the default precision; leave it out for another")
    return asked


def _names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def main() -> None:
    """Measure, print, write."""
    asked = parse()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sets = find_sets([asked.sets / name for name in asked.only] or [asked.sets])
    report = measure_sets(
        Encoder.load(
            asked.weights, device=asked.device, threads=asked.threads, precision=asked.precision
        ),
        sets,
        find_pairs(asked.sts),
        granularities=asked.granularities,
        document_tokens=asked.document_tokens,
        peers=() if asked.no_peers else load_peers(asked.threads),
        cache=asked.cache,
        note=partial(print, file=sys.stderr),
    )
    print(report.to_text())
    if asked.markdown:
        asked.markdown.write_text(report.to_markdown(), encoding="utf-8")
    if asked.json:
        record = {"cpu": cpu(), "level": native.level(), **report.to_dict()}
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if asked.measurements:
        found = measurements(report, sets, asked.weights)
        asked.measurements.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
