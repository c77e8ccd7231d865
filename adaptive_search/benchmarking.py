"""Timings of encoding and searching on this machine, with one index."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from adaptive_search.encoder.granularity import granularity_name
from adaptive_search.evaluation import latencies
from adaptive_search.reporting import open_searcher

if TYPE_CHECKING:
    import pandas as pd

    from adaptive_search.index import AdaptiveIndex
    from adaptive_search.tables import Cells

PASSAGE_TOKENS = 128
PASSAGES = 32
REPEATS = 5


def benchmark_index(index: AdaptiveIndex, count: int) -> tuple[pd.DataFrame, Cells]:
    """Median times of the parts of a search; without encoding, where there is no encoder.

    Args:
        index: with at least one chunk.
        count: queries to draw from its chunks.

    Returns:
        A row for each measurement: what, value, unit; and how to print the columns.

    Raises:
        QueryError: the index holds no chunks.
    """
    import pandas as pd

    searcher = open_searcher(index)
    queries = [query.text for query in searcher.sample_queries(count, seed=0)]
    rows: list[tuple[str, float, str]] = []
    for granularity in () if index.store.spec.is_foreign else index.encoder.granularities:
        name = granularity_name(granularity)
        rows.append((f"encode passages, width {name}", _throughput(index, granularity), "tokens/s"))
        rows.append(
            (f"encode one query, width {name}", _query_ms(index, queries, granularity), "ms")
        )
    vectors = searcher.encode_queries(queries, searcher.granularity)
    last = index.dims[-1]
    for dim in index.dims:
        for label, exact in (("funnel", False), ("exact", True)):
            if label == "exact" or dim in (512, last):
                search = partial(searcher.search, k=10, dim=dim, exact=exact)
                times = latencies(search, vectors)
                p50, p99 = np.percentile(times, (50, 99))
                rows.append((f"search, {label}, {dim} dims, p50", p50, "ms"))
                rows.append((f"search, {label}, {dim} dims, p99", p99, "ms"))
    frame = pd.DataFrame(rows, columns=["measurement", "value", "unit"])
    return frame, {"value": "{:,.2f}".format}


def _throughput(index: AdaptiveIndex, granularity: int) -> float:
    """Median tokens a second over batches of passages of equal length."""
    vocabulary = index.encoder.config.vocab_size
    rng = np.random.default_rng(0)
    ids = rng.integers(vocabulary, size=(PASSAGES, PASSAGE_TOKENS), dtype=np.int32)
    return (
        PASSAGES
        * PASSAGE_TOKENS
        / _median_seconds(lambda: index.encoder.encode_ids(list(ids), granularity=granularity))
    )


def _query_ms(index: AdaptiveIndex, queries: list[str], granularity: int) -> float:
    def encode() -> None:
        for query in queries:
            index.encode_queries([query], granularity)

    return _median_seconds(encode) * 1e3 / len(queries)


def _median_seconds(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))
