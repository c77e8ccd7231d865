"""Reports over an index: bytes that add up, queries that are drawn, documents of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adaptive_search.encoder.encoder import Encoder
from adaptive_search.errors import QueryError, StoreError
from adaptive_search.evaluation import Query
from adaptive_search.index import AdaptiveIndex
from adaptive_search.reporting import QUERY_WORDS, IndexSearcher


@pytest.fixture
def index(tmp_path: Path, tiny_encoder: Encoder) -> AdaptiveIndex:
    """An index of documents with several chunks each, in two segments, one deleted."""
    created = AdaptiveIndex.create(
        tmp_path / "index", encoder=tiny_encoder, chunk_tokens=16, threads=1
    )
    words = "plants store energy in the green leaf and cell water is light of sun heat to a".split()
    for part in range(2):
        names = [f"d{part}{n}" for n in range(3)]
        texts = [
            " ".join(np.roll(words, 3 * part + n)) + f" {name}." for n, name in enumerate(names)
        ]
        created.add_texts([f"{text} {text} {text}" for text in texts], ids=names)
    created.delete(["d01"])
    return created


def test_storage_adds_up(index: AdaptiveIndex) -> None:
    report = index.report().storage()
    files = [path for path in index.path.rglob("*") if path.is_file()]
    assert report.disk_bytes == sum(p.stat().st_size for p in files if p.name != "writer.lock")
    assert report.chunks == len(index)
    assert report.resident_bytes == index.funnel.resident_bytes > 64 * index.store.rows
    assert list(report.rows["dim"]) == list(index.dims)
    assert list(report.rows["bytes"]) == sorted(report.rows["bytes"])


def test_rows_belong_to_their_documents(index: AdaptiveIndex) -> None:
    searcher = IndexSearcher(index)
    rows = np.arange(searcher.rows)
    assert list(searcher.document_of(rows)) == [row.document_id for row in index.rows(rows)]


def test_sampled_queries_are_live_words(index: AdaptiveIndex) -> None:
    searcher = IndexSearcher(index)
    queries = searcher.sample_queries(10**6, seed=3)
    assert len(queries) == len(index)
    assert {query.id for query in queries} == {"d00", "d02", "d10", "d11", "d12"}
    assert all(1 <= len(query.text.split()) <= QUERY_WORDS for query in queries)
    assert searcher.sample_queries(4, seed=3) == searcher.sample_queries(4, seed=3)
    assert len(searcher.sample_queries(4, seed=3)) == 4


def test_quality_of_judged_queries(index: AdaptiveIndex) -> None:
    text = next(row.text for row in index.rows([0]))
    report = index.report().quality([Query("q", text)], {"q": {"d00": 1}})
    assert report.to_dict()["rows"][-1]["ndcg@10"] == pytest.approx(1)


def test_nothing_to_measure(tmp_path: Path, tiny_encoder: Encoder) -> None:
    empty = AdaptiveIndex.create(tmp_path / "empty", encoder=tiny_encoder)
    assert empty.report().storage().chunks == 0
    with pytest.raises(QueryError, match="no chunks to measure"):
        empty.report().quality()


def test_other_granularities_need_a_corpus(index: AdaptiveIndex) -> None:
    with pytest.raises(StoreError, match="mirrors no corpus"):
        index.report().quality(all_granularities=True)
