"""Readers of queries and judgements, and rankings of documents by their best chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.errors import QueryError
from adaptive_search.evaluation import (
    Query,
    judged,
    latencies,
    mean_ndcg,
    mean_recall,
    rank_documents,
    rank_rows,
    read_qrels,
    read_queries,
    relevant_documents,
)
from adaptive_search.indexes.funnel import SearchResult


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_reads_queries(tmp_path: Path) -> None:
    lines = '{"_id": "q1", "text": "one", "metadata": {}}\r\n\n{"id": 2, "text": "zwei \u2028 2"}\n'
    path = write(tmp_path / "queries.jsonl", "\ufeff" + lines)
    assert read_queries(path) == [Query("q1", "one"), Query("2", "zwei \u2028 2")]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (":2: not JSON", '{"_id": "a", "text": "t"}\n{'),
        (":1: not JSON", '{"_id":' * 100_000),
        (":1: expected an object", "[]"),
        (":1: expected an object", '{"text": "t"}'),
        (":1: expected an object", '{"_id": "a"}'),
        ("not empty", '{"_id": "a", "text": " "}'),
        (":2: query id 'a' occurs twice", '{"_id": "a", "text": "t"}\n{"_id": "a", "text": "u"}'),
        ("holds no queries", "\n"),
        ("not UTF-8: invalid start byte at byte 2", b'{"\xff'),
    ],
)
def test_bad_queries_name_file_and_line(tmp_path: Path, message: str, text: str | bytes) -> None:
    with pytest.raises(QueryError, match=f"queries.jsonl.*{message}"):
        read_queries(write(tmp_path / "queries.jsonl", text))


def test_reads_qrels_with_and_without_header(tmp_path: Path) -> None:
    lines = 'q1\td1\t1\nq1\t"d 2\t0\r\nq2\td1\t2\n'
    expected = {"q1": {"d1": 1, '"d 2': 0}, "q2": {"d1": 2}}
    assert read_qrels(write(tmp_path / "a.tsv", lines)) == expected
    header = "query-id\tcorpus-id\tscore\n"
    assert read_qrels(write(tmp_path / "b.tsv", header + lines)) == expected


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (":1: expected query-id, corpus-id", "q1 d1 1\n"),
        (":2: expected", "q1\td1\t1\nq1\td1\tyes\n"),
        (":2: expected", "q1\td1\t1\nq1\t\t1\n"),
        ("holds no judgements", "query-id\tcorpus-id\tscore\n"),
    ],
)
def test_bad_qrels_name_file_and_line(tmp_path: Path, message: str, text: str) -> None:
    with pytest.raises(QueryError, match=f"qrels.tsv.*{message}"):
        read_qrels(write(tmp_path / "qrels.tsv", text))


def test_missing_files_are_query_errors(tmp_path: Path) -> None:
    for read in (read_queries, read_qrels):
        with pytest.raises(QueryError, match="absent: No such file"):
            read(tmp_path / "absent")


def test_only_queries_with_a_relevant_document_are_judged() -> None:
    queries = [Query("a", "x"), Query("b", "x"), Query("c", "x")]
    qrels = {"a": {"d": 1, "e": 0}, "b": {"d": 0}}
    assert judged(queries, qrels) == queries[:1]
    assert relevant_documents(queries[:1], qrels) == [["d"]]
    with pytest.raises(QueryError, match="do the ids of both files agree"):
        judged(queries[1:], qrels)


class Chunks:
    """Rows 0, 1, 2, ... come back in this order; each has a document."""

    dims = (8,)
    granularity = 1
    granularities = (1,)

    def __init__(self, documents: str) -> None:
        self.documents = documents
        self.rows = len(documents)
        self.asked: list[int] = []

    def document_of(self, rows: NDArray[np.int64]) -> list[str]:
        return [self.documents[row] for row in rows]

    def hits(self, k: int) -> SearchResult:
        self.asked.append(k)
        rows = np.full((1, k + 1), -1)
        rows[0, :k] = np.arange(k)
        return SearchResult(rows, np.zeros(rows.shape, np.float32), np.full(1, 64), ())


def test_documents_are_ranked_by_their_best_chunk() -> None:
    chunks = Chunks("aabacbdcaa")
    ranked = rank_documents(chunks, [Query("q", "")], chunks.hits, 3, most=10)  # type: ignore[arg-type]
    assert ranked == [["a", "b", "c"]]
    assert chunks.asked == [10]


def test_more_chunks_are_asked_for_until_there_are_k_documents() -> None:
    chunks = Chunks("a" * 30 + "b" * 60 + "c")
    ranked = rank_documents(chunks, [Query("q", "")], chunks.hits, 2, most=91)  # type: ignore[arg-type]
    assert ranked == [["a", "b"]]
    assert chunks.asked == [8, 32]
    ranked = rank_documents(chunks, [Query("q", "")], chunks.hits, 4, most=91)  # type: ignore[arg-type]
    assert ranked == [["a", "b", "c"]]


def test_no_more_chunks_are_asked_for_than_the_search_gives() -> None:
    chunks = Chunks("a" * 30 + "b" * 60)
    assert rank_documents(chunks, [Query("q", "")], chunks.hits, 2, most=20) == [["a"]]  # type: ignore[arg-type]
    assert max(chunks.asked) == 20


def test_the_querys_own_document_is_no_hit() -> None:
    chunks = Chunks("qaqbqq")
    queries = [Query("q", "")]
    assert rank_documents(chunks, queries, chunks.hits, 2, most=6) == [["a", "b"]]  # type: ignore[arg-type]
    assert rank_rows(chunks, queries, chunks.hits, 2, most=6) == [[1, 3]]  # type: ignore[arg-type]


def test_means_over_queries() -> None:
    queries = [Query("1", ""), Query("2", "")]
    qrels = {"1": {"a": 1}, "2": {"b": 1}}
    rankings = [["a"], ["a"]]
    assert mean_ndcg(rankings, queries, qrels, 10) == 0.5
    assert mean_recall(rankings, [["a"], ["a", "b"]], 10) == 0.75
    assert mean_recall(rankings, [["a"], []], 10) == 1
    assert mean_recall([[]], [[]], 10) == 1


def test_latencies_are_of_single_queries() -> None:
    shapes = []
    times = latencies(lambda vectors: shapes.append(vectors.shape), np.zeros((5, 2), np.float32))
    assert len(times) == 5
    assert (times >= 0).all()
    assert set(shapes) == {(1, 2)}
