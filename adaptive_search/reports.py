"""What an index costs and how well it finds: the storage report and the quality report.

Both hold pandas DataFrames and come out as terminal tables, JSON, CSV and Markdown; the page with
plots is `report_html`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_search import tables
from adaptive_search.encoder.granularity import granularity_name
from adaptive_search.errors import QueryError
from adaptive_search.evaluation import (
    Qrels,
    Query,
    SamplingSearcher,
    Searcher,
    judged,
    latencies,
    mean_ndcg,
    mean_recall,
    rank_documents,
    rank_rows,
    relevant_documents,
)

if TYPE_CHECKING:
    import pandas as pd

    from adaptive_search.indexes.funnel import SearchResult

K = 10  # length of the rankings that quality is measured on
RECALL, NDCG, KEPT = f"recall@{K}", f"ndcg@{K}", f"kept@{K}"
BYTES_PER_NUMBER = 2  # float16
SCALE_BYTES = 4  # of a vector as int8
SHORTLISTS = (100, 400, 1000)
SAMPLED_QUERIES = 200
TIMED_QUERIES = 100

_QUALITY, _MS = "{:.4f}".format, "{:.3f}".format
CELLS: tables.Cells = {
    "bytes": tables.format_bytes,
    "bytes_per_vector": "{:,.0f}".format,
    **dict.fromkeys(("fp32", "fp16", "int8"), tables.format_bytes),
    "share_of_full": "{:.1%}".format,
    RECALL: _QUALITY,
    NDCG: _QUALITY,
    KEPT: _QUALITY,
    "p50_ms": _MS,
    "p99_ms": _MS,
}


@dataclass(frozen=True, eq=False)
class StorageReport:
    """Bytes of an index, in all and for each nesting dimension.

    Attributes:
        chunks: vectors that can be found.
        disk_bytes: size of all files.
        resident_bytes: memory that an open index holds besides mapped files: the shortlist.
        rows: one row for each dimension: dim, bytes (of the bands that it needs), bytes_per_vector,
            share_of_full (of the bytes at the highest dimension), and what all vectors would take
            at this dimension alone as fp32, as fp16, and as int8 with a scale each.
    """

    chunks: int
    disk_bytes: int
    resident_bytes: int
    rows: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "chunks": self.chunks,
            "disk_bytes": self.disk_bytes,
            "resident_bytes": self.resident_bytes,
            "rows": tables.to_records(self.rows, list(self.rows.columns)),
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict())

    def to_csv(self) -> str:
        """The rows as CSV."""
        return tables.to_csv({"rows": self.rows})

    def to_text(self) -> str:
        """The report for a terminal."""
        return f"Storage: {self.summary()}\n\n{tables.to_text(self.rows, CELLS)}\n"

    def to_markdown(self) -> str:
        """The report in Markdown."""
        return f"## Storage\n\n{self.summary()}\n\n{tables.to_markdown(self.rows, CELLS)}\n"

    def summary(self) -> str:
        """One line with the figures of the whole index."""
        disk, resident = map(tables.format_bytes, (self.disk_bytes, self.resident_bytes))
        return f"{self.chunks:,} chunks, {disk} on disk, {resident} in memory for the shortlist"


@dataclass(frozen=True, eq=False)
class QualityReport:
    """How well and how fast an index finds, for each dimension, funnel and granularity.

    Recall is the share of relevant documents among the first ten, where judgements were given;
    else the share of the ten best chunks of an exact search at the highest dimension. nDCG needs
    judgements. Latency is the wall time of the search alone, one query at a time.

    Attributes:
        queries: number of queries measured.
        judged: whether judgements were given.
        rows: exact search at each dimension: dim, recall@10, ndcg@10, p50_ms, p99_ms,
            bytes_per_vector.
        funnels: shortlist_dim, rerank_dim, shortlist, recall@10, ndcg@10, p50_ms, p99_ms, kept@10
            (share of the ten best of the exact search at the rerank dimension).
        granularities: document and query width, ndcg@10, recall@10.
        note: what else there is to say, one sentence or nothing.
    """

    queries: int
    judged: bool
    rows: pd.DataFrame
    funnels: pd.DataFrame
    granularities: pd.DataFrame
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        latency = ["p50_ms", "p99_ms"]
        return {
            "rows": tables.to_records(self.rows, ["dim", RECALL, NDCG]),
            "funnels": tables.to_records(
                self.funnels,
                ["shortlist_dim", "rerank_dim", "shortlist", RECALL, NDCG, *latency],
            ),
            "granularities": tables.to_records(
                self.granularities, ["document", "query", NDCG, RECALL]
            ),
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict())

    def to_csv(self) -> str:
        """The three tables as one CSV, told apart by its first column."""
        names = {"rows": self.rows, "funnels": self.funnels, "granularities": self.granularities}
        return tables.to_csv(names)

    def to_text(self) -> str:
        """The report for a terminal."""
        parts = [f"Quality: {self.summary()}"]
        parts += [f"{title}\n\n{tables.to_text(t, CELLS)}" for title, t in self._titled()]
        return "\n\n".join(parts) + "\n"

    def to_markdown(self) -> str:
        """The report in Markdown."""
        parts = [f"## Quality\n\n{self.summary()}"]
        parts += [f"### {title}\n\n{tables.to_markdown(t, CELLS)}" for title, t in self._titled()]
        return "\n\n".join(parts) + "\n"

    @property
    def measures(self) -> tuple[str, ...]:
        """Columns of quality that have values, the weightiest first."""
        return (NDCG, RECALL) if self.judged else (RECALL,)

    def summary(self) -> str:
        """One line on what the figures were measured on."""
        if self.judged:
            return f"{self.queries:,} judged queries; recall and nDCG of documents"
        dim, note = self.rows["dim"].iloc[-1], f"; {self.note}" if self.note else ""
        found = f"recall of the {K} best chunks of exact {dim}-d search"
        return f"{self.queries:,} queries; {found}{note}"

    def _titled(self) -> list[tuple[str, pd.DataFrame]]:
        titles = ("Exact search by dimension", "Funnels", "Granularity of documents and queries")
        found = zip(titles, (self.rows, self.funnels, self.granularities), strict=True)
        # Without judgements there is no nDCG to show.
        return [
            (name, table.dropna(axis="columns", how="all")) for name, table in found if len(table)
        ]


def storage_report(
    usage: Mapping[str, int], *, dims: Sequence[int], chunks: int, resident_bytes: int
) -> StorageReport:
    """Report the bytes of an index.

    Args:
        usage: bytes on disk by kind of file; the bands are called `band_0064`, `band_0128`, ...
        dims: nesting dimensions that the index holds, rising.
        chunks: vectors that can be found.
        resident_bytes: memory that the open index holds besides mapped files.
    """
    import pandas as pd

    sizes = np.cumsum([usage[f"band_{dim:04d}"] for dim in dims])
    numbers = chunks * np.array(dims)
    rows = pd.DataFrame(
        {
            "dim": list(dims),
            "bytes": sizes,
            "bytes_per_vector": sizes / max(chunks, 1),
            "share_of_full": sizes / max(int(sizes[-1]), 1),
            "fp32": 4 * numbers,
            "fp16": 2 * numbers,
            "int8": numbers + SCALE_BYTES * chunks,
        }
    )
    return StorageReport(chunks, sum(usage.values()), resident_bytes, rows)


def quality_report(
    searcher: SamplingSearcher,
    queries: Sequence[Query] | None = None,
    qrels: Qrels | None = None,
    *,
    others: Sequence[Searcher] = (),
    shortlists: Sequence[int] = SHORTLISTS,
    seed: int = 0,
) -> QualityReport:
    """Measure an index on queries, or on its own text.

    Args:
        searcher: the index.
        queries: what to search for; random chunks of the index if None, each without the hits in
            its own document.
        qrels: judgements of documents; queries that have no relevant one are left out.
        others: indexes of the same corpus at other granularities, for the matrix.
        shortlists: lengths of shortlist to measure.
        seed: for drawing chunks.

    Raises:
        QueryError: the index is empty, or no query has a relevant document.
    """
    if not searcher.rows:
        raise QueryError("the index holds no chunks to measure")
    if queries is None:
        queries = searcher.sample_queries(SAMPLED_QUERIES, seed)
    if qrels is not None:
        queries = judged(queries, qrels)
    if not queries:
        raise QueryError("there is no query to measure with")
    measure = _Measurement(searcher, queries, qrels)
    return QualityReport(
        queries=len(queries),
        judged=qrels is not None,
        rows=measure.dims(),
        funnels=measure.funnels(shortlists),
        granularities=_granularities([searcher, *others], queries, qrels),
    )


def rerank_dims(dims: Sequence[int]) -> list[int]:
    """The dims that funnels are measured at: 512 and the highest, or what comes near."""
    head, *higher = dims
    return sorted({min(higher, key=lambda dim: abs(dim - 8 * head)), higher[-1]} if higher else ())


class _Measurement:
    """One index, its encoded queries, and what they should find."""

    def __init__(self, searcher: Searcher, queries: Sequence[Query], qrels: Qrels | None) -> None:
        self.searcher = searcher
        self.queries = queries
        self.qrels = qrels
        self.vectors = searcher.encode_queries([q.text for q in queries], searcher.granularity)
        self.exact = {dim: self._rank(dim=dim, exact=True) for dim in searcher.dims}
        self.truth: Sequence[Sequence[Any]] = (
            self.exact[searcher.dims[-1]] if qrels is None else relevant_documents(queries, qrels)
        )

    def dims(self) -> pd.DataFrame:
        """Exact search at each dimension."""
        import pandas as pd

        rows = [
            {
                "dim": dim,
                **self._quality(self.exact[dim]),
                **self._latency(dim=dim, exact=True),
                "bytes_per_vector": dim * BYTES_PER_NUMBER,
            }
            for dim in self.searcher.dims
        ]
        return pd.DataFrame(rows)

    def funnels(self, shortlists: Sequence[int]) -> pd.DataFrame:
        """Funnels from the lowest dimension."""
        import pandas as pd

        head = self.searcher.dims[0]
        reranks = rerank_dims(self.searcher.dims)
        if not reranks:
            return pd.DataFrame(
                columns=[
                    "shortlist_dim",
                    "rerank_dim",
                    "shortlist",
                    RECALL,
                    NDCG,
                    "p50_ms",
                    "p99_ms",
                    KEPT,
                ]
            )
        rows = []
        for dim in reranks:
            for shortlist in shortlists:
                ranking = self._rank(dim=dim, shortlist=shortlist)
                rows.append(
                    {
                        "shortlist_dim": head,
                        "rerank_dim": dim,
                        "shortlist": shortlist,
                        **self._quality(ranking),
                        **self._latency(dim=dim, shortlist=shortlist),
                        KEPT: mean_recall(ranking, self.exact[dim], K),
                    }
                )
        return pd.DataFrame(rows)

    def _rank(
        self, *, dim: int, shortlist: int | None = None, exact: bool = False
    ) -> Sequence[Sequence[Any]]:
        def search(k: int) -> SearchResult:
            return self.searcher.search(self.vectors, k, dim=dim, shortlist=shortlist, exact=exact)

        rank = rank_rows if self.qrels is None else rank_documents
        most = self.searcher.rows if shortlist is None else min(shortlist, self.searcher.rows)
        return rank(self.searcher, self.queries, search, K, most=most)

    def _quality(self, ranking: Sequence[Sequence[Any]]) -> dict[str, float]:
        recall = mean_recall(ranking, self.truth, K)
        ndcg = np.nan
        if self.qrels is not None:
            ndcg = mean_ndcg(ranking, self.queries, self.qrels, K)
        return {RECALL: round(recall, 6), NDCG: round(ndcg, 6)}

    def _latency(self, **options: Any) -> dict[str, float]:  # noqa: ANN401
        times = latencies(
            lambda vector: self.searcher.search(vector, K, **options),
            self.vectors[:TIMED_QUERIES],
        )
        return {"p50_ms": float(np.median(times)), "p99_ms": float(np.percentile(times, 99))}


def _granularities(
    searchers: Sequence[Searcher], queries: Sequence[Query], qrels: Qrels | None
) -> pd.DataFrame:
    """Quality of each pair of document and query width, by documents, at the highest dimension."""
    import pandas as pd

    searchers = sorted(searchers, key=lambda searcher: granularity_name(searcher.granularity))
    texts = [query.text for query in queries]
    truth: Sequence[Sequence[str]] | None = (
        None if qrels is None else relevant_documents(queries, qrels)
    )
    rows = []
    for searcher in searchers:
        for granularity in sorted(searcher.granularities, key=granularity_name):
            vectors = searcher.encode_queries(texts, granularity)
            search = partial(searcher.search, vectors, dim=searcher.dims[-1], exact=True)
            ranking = rank_documents(searcher, queries, search, K, most=searcher.rows)
            truth = ranking if truth is None else truth  # the widest pair comes first
            rows.append(
                {
                    "document": granularity_name(searcher.granularity),
                    "query": granularity_name(granularity),
                    NDCG: np.nan if qrels is None else mean_ndcg(ranking, queries, qrels, K),
                    RECALL: mean_recall(ranking, truth, K),
                }
            )
    return pd.DataFrame(rows, columns=["document", "query", NDCG, RECALL])
