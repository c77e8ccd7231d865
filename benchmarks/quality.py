"""Retrieval quality of the product beside BM25 and the teacher, over sets in BEIR layout.

Ours is measured through an index of each set's `corpus.jsonl`, chunks and all; a document scores
as its best chunk. Every dimension is searched exactly, and through the funnel from 64.

    pip install ".[eval]"
    python benchmarks/quality.py SETS --cache build/quality \
        --json docs/quality.json --markdown build/quality.md \
        --measurements encoder/weights/measurements.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from baselines import BASELINES, baseline
from retrieval_sets import DEPTH, Quality, RetrievalSet, find_sets

from adaptive_search import AdaptiveIndex, Encoder
from adaptive_search.evaluation import rank_documents
from adaptive_search.indexes.funnel import SearchResult
from adaptive_search.kernels import native
from adaptive_search.reporting import IndexSearcher

RERANK_DIMS = (512, 1536)  # of the two documented funnels
WARMUP, TIMED = 10, 200  # queries of the latency of encoding


@dataclass(frozen=True)
class Row:
    """One way to search one set. Fields of ours are None for the others."""

    set: str
    system: str
    ndcg_at_10: float
    recall_at_100: float
    dim: int | None = None
    granularity: int | None = None
    shortlist: int | None = None
    whole: bool = False


# -- ours ----------------------------------------------------------------------


def open_index(
    data: RetrievalSet, encoder: Encoder, granularity: int, folder: Path
) -> AdaptiveIndex:
    """The index of a set at a granularity, made in a folder unless it is there."""
    name = f"{data.name}-{data.digest}-{encoder.fingerprint[:12]}-{granularity}"
    path = folder / name
    if (path / "MANIFEST.json").is_file():
        index = AdaptiveIndex.open(path, encoder=encoder)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        index = AdaptiveIndex.create(path, encoder=encoder, granularity=granularity)
    index.add(data.corpus)
    return index


def measure_index(
    data: RetrievalSet, index: AdaptiveIndex, granularity: int, shortlist: int
) -> Iterator[Row]:
    """Exact search at every dimension, and the funnels of the full width."""
    searcher = IndexSearcher(index)
    vectors = searcher.encode_queries(data.query_texts, granularity)

    def quality(dim: int, shortlist: int | None) -> Quality:
        def search(k: int) -> SearchResult:
            return searcher.search(
                vectors, k, dim=dim, shortlist=shortlist, exact=shortlist is None
            )

        most = min(searcher.rows, shortlist or searcher.rows)
        return data.measure(rank_documents(searcher, data.queries, search, DEPTH, most=most))

    row = partial(_row, data, granularity=granularity)
    for dim in searcher.dims:
        yield row(_name(str(dim), granularity), quality(dim, None), dim=dim)
    for dim in RERANK_DIMS if granularity == 1 else ():
        name = _name(f"{searcher.dims[0]} -> {dim}", granularity)
        yield row(name, quality(dim, shortlist), dim=dim, shortlist=shortlist)


def measure_whole(data: RetrievalSet, encoder: Encoder, tokens: int) -> Iterator[Row]:
    """Exact search over one vector a document, of its first tokens."""
    ids, texts = data.documents()
    encode = partial(encoder.tokenizer.encode_batch, context=tokens)
    parts = [encoder.encode_ids(encode(texts[i : i + 256])) for i in range(0, len(texts), 256)]
    documents = np.concatenate(parts)
    queries = encoder.encode_ids(encode(data.query_texts))
    for dim in encoder.dims:
        scores = encoder.truncate(queries, dim) @ encoder.truncate(documents, dim).T
        order = np.argsort(-scores, axis=1, kind="stable")[:, : DEPTH + 1]
        found = data.without_own([[ids[row] for row in best] for best in order])
        name = f"{dim}, first {tokens} tokens"
        yield _row(data, name, data.measure(found), dim=dim, granularity=1, whole=True)


def _name(what: str, granularity: int) -> str:
    return what if granularity == 1 else f"{what} at 1/{granularity}"


def _row(
    data: RetrievalSet,
    system: str,
    quality: Quality,
    *,
    dim: int | None = None,
    granularity: int | None = None,
    shortlist: int | None = None,
    whole: bool = False,
) -> Row:
    return Row(
        data.name,
        system,
        quality.ndcg_at_10,
        quality.recall_at_100,
        dim=dim,
        granularity=granularity,
        shortlist=shortlist,
        whole=whole,
    )


# -- what is written -----------------------------------------------------------


def to_markdown(rows: Sequence[Row]) -> str:
    """One line a system, one column a set: nDCG@10 / recall@100; then the means."""
    sets = list(dict.fromkeys(row.set for row in rows))
    systems: dict[str, dict[str, Row]] = {}
    for row in rows:
        systems.setdefault(row.system, {})[row.set] = row
    lines = [
        f"| nDCG@10 / recall@100 | {' | '.join([*sets, 'mean'])} |",
        "|---|" + "---:|" * (len(sets) + 1),
    ]
    for system, found in systems.items():
        cells = [_cell([found[name]]) if name in found else "" for name in sets]
        cells.append(_cell(list(found.values())) if len(found) == len(sets) else "")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(rows: Sequence[Row]) -> str:
    ndcg = statistics.fmean(row.ndcg_at_10 for row in rows)
    recall = statistics.fmean(row.recall_at_100 for row in rows)
    return f"{ndcg:.4f} / {recall:.4f}"


def measurements(
    rows: Iterable[Row], weights: Path | None, queries: Sequence[str]
) -> dict[str, object]:
    """What `Encoder.select_optimal_dimension` chooses from."""
    ours = [r for r in rows if r.dim and r.shortlist is None and not r.whole]
    sets = sorted({row.set for row in ours})
    full = {row.set: row.ndcg_at_10 for row in ours if (row.dim, row.granularity) == (1536, 1)}
    kept: dict[tuple[int, int], list[float]] = {}
    for row in ours:
        assert row.dim is not None and row.granularity is not None
        key = row.dim, row.granularity
        kept.setdefault(key, []).append(row.ndcg_at_10 / full[row.set])
    encoder = Encoder.load(weights, threads=1)
    return {
        "source": f"benchmarks/quality.py: nDCG@10 over {', '.join(sets)}; latency of one query "
        f"on one thread of {cpu()} ({native.level()})",
        "rows": [
            {
                "dim": dim,
                "granularity": granularity,
                "accuracy": round(statistics.fmean(shares), 4),
                "latency_ms": round(latency_ms(encoder, queries, dim, granularity), 4),
            }
            for (dim, granularity), shares in sorted(kept.items())
        ],
    }


def latency_ms(encoder: Encoder, queries: Sequence[str], dim: int, granularity: int) -> float:
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


# -- the command -----------------------------------------------------------------


def measure(
    data: RetrievalSet, encoder: Encoder, folder: Path, asked: argparse.Namespace
) -> list[Row]:
    """All rows of one set."""
    rows: list[Row] = []
    for granularity in asked.granularities:
        index = open_index(data, encoder, granularity, folder)
        rows += measure_index(data, index, granularity, asked.shortlist)
    if asked.whole_documents:
        rows += measure_whole(data, encoder, asked.whole_documents)
    for name in asked.baselines:
        rows.append(_row(data, name, baseline(name, data, asked.cache)))
    return rows


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path, help="folder of sets")
    parser.add_argument("--only", type=_names, default=[], help="names of sets, by comma")
    parser.add_argument("--weights", type=Path, help="the shipped ones by default")
    parser.add_argument("--granularities", type=_numbers, default=[1, 2, 4, 8])
    parser.add_argument("--shortlist", type=int, default=1000, help="of the funnels")
    parser.add_argument("--whole-documents", type=int, metavar="TOKENS", help="one vector each")
    parser.add_argument("--baselines", type=_names, default=list(BASELINES), help="by comma")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", type=Path, help="folder that keeps indexes and baselines")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--measurements", type=Path, help="for select_optimal_dimension")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in _names(text)]


def main() -> None:
    """Measure, print, write."""
    asked = parse()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sets = find_sets(asked.sets, asked.only)
    encoder = Encoder.load(asked.weights, threads=asked.threads)
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = asked.cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for data in sets:
            begin = time.perf_counter()
            rows += measure(data, encoder, folder, asked)
            seconds = time.perf_counter() - begin
            print(f"{data.name}: {len(data.queries)} queries, {seconds:.0f} s", file=sys.stderr)
    print(to_markdown(rows))
    if asked.markdown:
        asked.markdown.write_text(to_markdown(rows), encoding="utf-8")
    if asked.json:
        record = {
            "fingerprint": encoder.fingerprint,
            "cpu": cpu(),
            "level": native.level(),
            "queries": {data.name: len(data.queries) for data in sets},
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if asked.measurements:
        queries = [text for data in sets for text in data.query_texts]
        found = measurements(rows, asked.weights, queries)
        asked.measurements.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
