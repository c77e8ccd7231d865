"""Queries, relevance judgements, and document rankings measured against them.

Files are in the layout of BEIR: `queries.jsonl` with `_id` and `text`, and `qrels.tsv` with the
columns query-id, corpus-id and score.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder.granularity import Granularity
from adaptive_search.errors import QueryError
from adaptive_search.indexes.funnel import SearchResult
from adaptive_search.json_text import parse_json
from adaptive_search.metrics import ndcg_at_k, recall_at_k

Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> grade
Search = Callable[[int], SearchResult]  # k -> the hits of all queries


@dataclass(frozen=True)
class Query:
    """A query of an evaluation.

    Attributes:
        id: names the query in the judgements; a document of the same id is no hit of its own.
        text: what is searched for.
    """

    id: str
    text: str


class Searcher(Protocol):
    """What an evaluation needs of an index, or of anything else that ranks documents.

    Attributes:
        dims: nesting dimensions that the index holds, rising.
        rows: number of vectors, deleted ones among them.
        granularity: width of the encoder for the documents; see `Encoder.encode`.
        granularities: those that queries can be encoded with.
    """

    @property
    def dims(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def granularity(self) -> Granularity: ...  # noqa: D102
    @property
    def granularities(self) -> Sequence[Granularity]: ...  # noqa: D102

    def encode_queries(self, texts: Sequence[str], granularity: Granularity) -> NDArray[np.float32]:
        """Encode texts at a granularity, float32 (n, dims[-1])."""

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        dim: int,
        shortlist: int | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """Search as `Funnel.search` does."""

    def document_of(self, rows: NDArray[np.int64]) -> Sequence[str]:
        """Document id of each row."""


class SamplingSearcher(Searcher, Protocol):
    """A searcher that can also be measured without queries from elsewhere."""

    def sample_queries(self, count: int, seed: int) -> Sequence[Query]:
        """Texts of random chunks as queries, each under the id of its document."""


def read_queries(path: str | Path) -> list[Query]:
    """Read queries from JSON lines with `_id` (or `id`) and `text`.

    Raises:
        QueryError: the file cannot be read, is empty, or a line is not such an object.
    """
    queries: dict[str, Query] = {}
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            record = parse_json(line)
        except ValueError as error:
            raise QueryError(f"{where}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise QueryError(f"{where}: expected an object with _id and text")
        identity, text = record.get("_id", record.get("id")), record.get("text")
        if not isinstance(identity, str | int) or not isinstance(text, str) or not text.strip():
            raise QueryError(f"{where}: expected an object with _id and a text that is not empty")
        if str(identity) in queries:
            raise QueryError(f"{where}: query id {identity!r} occurs twice")
        queries[str(identity)] = Query(str(identity), text)
    if not queries:
        raise QueryError(f"{path}: holds no queries")
    return list(queries.values())


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Read judgements from tab-separated lines of query id, document id and grade.

    A first line whose grade is not a number is taken as the header.

    Raises:
        QueryError: the file cannot be read, is empty, or a line is not a judgement.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, line in read_lines(path):
        fields = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE))
        grade = _grade(fields)
        if grade is None:
            if number == 1 and len(fields) == 3:
                continue
            raise QueryError(
                f"{path}:{number}: expected query-id, corpus-id and a whole number, "
                "separated by tabs"
            )
        qrels.setdefault(fields[0], {})[fields[1]] = grade
    if not qrels:
        raise QueryError(f"{path}: holds no judgements")
    return qrels


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a file that is not blank.

    Raises:
        QueryError: the file cannot be read, or is not UTF-8.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise QueryError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise QueryError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def judged(queries: Iterable[Query], qrels: Qrels) -> list[Query]:
    """Queries with at least one relevant document; the metrics are undefined for the others.

    Raises:
        QueryError: there is none.
    """
    kept = [q for q in queries if any(grade > 0 for grade in qrels.get(q.id, {}).values())]
    if not kept:
        raise QueryError("no query has a relevant document: do the ids of both files agree?")
    return kept


def rank_documents(
    searcher: Searcher, queries: Sequence[Query], search: Search, k: int, *, most: int
) -> list[list[str]]:
    """Rank documents by their best chunk, leaving out the document of the query's own id.

    Args:
        searcher: names the documents of rows.
        queries: the queries.
        search: gives the hits of all queries for a number of chunks.
        k: documents wanted for each query.
        most: number of chunks that the search can give.

    Returns:
        Document ids, best first, at most k for each query; fewer only if there are no more.
    """
    rankings: list[list[str]] = []
    for found in _growing_hits(searcher, queries, search, k, most):
        rankings = [list(dict.fromkeys(document for _, document in hits))[:k] for hits in found]
        if all(len(ranking) == k for ranking in rankings):
            break
    return rankings


def rank_rows(
    searcher: Searcher, queries: Sequence[Query], search: Search, k: int, *, most: int
) -> list[list[int]]:
    """Rank chunks by row number, leaving out those of the document of the query's own id.

    Args and Returns as in `rank_documents`, with rows in place of documents.
    """
    rankings: list[list[int]] = []
    for found in _growing_hits(searcher, queries, search, k, most):
        rankings = [[row for row, _ in hits][:k] for hits in found]
        if all(len(ranking) == k for ranking in rankings):
            break
    return rankings


def mean_recall(rankings: Sequence[Sequence[Any]], truth: Sequence[Sequence[Any]], k: int) -> float:
    """Mean recall@k of rankings; queries without anything to find are left out."""
    values = [recall_at_k(r, t, k) for r, t in zip(rankings, truth, strict=True) if len(t)]
    return float(np.mean(values)) if values else 1.0


def mean_ndcg(
    rankings: Sequence[Sequence[str]], queries: Sequence[Query], qrels: Qrels, k: int
) -> float:
    """Mean nDCG@k of document rankings of judged queries."""
    pairs = zip(rankings, queries, strict=True)
    return float(np.mean([ndcg_at_k(r, qrels[q.id], k) for r, q in pairs]))


def relevant_documents(queries: Sequence[Query], qrels: Qrels) -> list[list[str]]:
    """Ids of the relevant documents of each query."""
    return [[d for d, grade in qrels[q.id].items() if grade > 0] for q in queries]


def latencies(
    search: Callable[[NDArray[np.float32]], object],
    vectors: NDArray[np.float32],
    *,
    warmup: int = 3,
) -> NDArray[np.float64]:
    """Wall time of the search of each query alone, in milliseconds, after a few to warm up."""
    for vector in vectors[:warmup]:
        search(vector[None])
    times = []
    for vector in vectors:
        start = time.perf_counter()
        search(vector[None])
        times.append((time.perf_counter() - start) * 1e3)
    return np.array(times)


def _growing_hits(
    searcher: Searcher, queries: Sequence[Query], search: Search, k: int, most: int
) -> Iterator[list[list[tuple[int, str]]]]:
    """Rows and documents of ever more hits of each query, without its own document."""
    wanted = min(4 * k, most)
    while True:
        found = []
        for query, rows in zip(queries, search(wanted).rows, strict=True):
            rows = rows[rows >= 0]
            hits = zip(rows.tolist(), searcher.document_of(rows), strict=True)
            found.append([(row, document) for row, document in hits if document != query.id])
        yield found
        if wanted == most:
            return
        wanted = min(4 * wanted, most)


def _grade(fields: Sequence[str]) -> int | None:
    try:
        return int(fields[2]) if len(fields) == 3 and fields[0] and fields[1] else None
    except ValueError:
        return None
