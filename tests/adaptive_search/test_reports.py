"""The reports: their figures, and each form they come out in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.encoder.granularity import Granularity
from adaptive_search.errors import QueryError
from adaptive_search.evaluation import Query
from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel, SearchResult
from adaptive_search.reports import QualityReport, StorageReport, quality_report, storage_report

DIMS = (8, 16, 64, 96)
ENERGY = (0.4, 0.6, 0.9, 1.0)
CHUNKS_PER_DOCUMENT = 3


class SmallSearcher:
    """Chunk c belongs to document d{c // 3}; the text "c" is encoded close to chunk c's vector."""

    def __init__(self, rows: int = 300, *, granularity: int = 1) -> None:
        """Make the vectors; narrower granularities blur them."""
        self.dims: Sequence[int] = DIMS
        self.rows = rows
        self.granularity = granularity
        self.granularities = (1, 2)
        latent = np.random.default_rng(0).normal(size=(rows, DIMS[-1]))
        self._vectors = _banded(latent)
        stored = _banded(latent + _blur(granularity, latent.shape)).astype(np.float16)
        bands = [np.ascontiguousarray(b) for b in np.split(stored, DIMS[:-1], axis=1)]
        self._funnel = Funnel([FunnelSegment(bands)], DIMS, prefix_energy=ENERGY)

    def encode_queries(self, texts: Sequence[str], granularity: Granularity) -> NDArray[np.float32]:
        """Look the vectors up, and blur them for narrow granularities."""
        picked = self._vectors[[int(text) for text in texts]]
        return (picked + 0.2 * _blur(granularity, picked.shape)).astype(np.float32)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        dim: int,
        shortlist: int | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """Search the funnel."""
        return self._funnel.search(queries, k, dim=dim, shortlist=shortlist, exact=exact)

    def document_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Three chunks a document."""
        return [f"d{row // CHUNKS_PER_DOCUMENT}" for row in rows.tolist()]

    def sample_queries(self, count: int, seed: int) -> list[Query]:
        """Chunks themselves, under the ids of their documents."""
        rng = np.random.default_rng(seed)
        rows = rng.choice(self.rows, min(count, self.rows), replace=False)
        return [Query(f"d{row // CHUNKS_PER_DOCUMENT}", str(row)) for row in rows.tolist()]


def _banded(latent: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.sqrt(np.diff((0.0, *ENERGY)))
    bands = np.split(latent, DIMS[:-1], axis=1)
    scaled = [
        weight * band / np.linalg.norm(band, axis=1, keepdims=True)
        for weight, band in zip(weights, bands, strict=True)
    ]
    return np.concatenate(scaled, axis=1)


def _blur(granularity: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if granularity == 1:
        return np.zeros(shape)
    return 0.1 * granularity * np.random.default_rng(granularity).normal(size=shape)


@pytest.fixture(scope="module")
def storage() -> StorageReport:
    usage = {"manifest": 500, "band_0008": 1600, "band_0016": 1600, "band_0064": 9600}
    return storage_report(usage, dims=(8, 16, 64), chunks=100, resident_bytes=2048)


@pytest.fixture(scope="module")
def own() -> QualityReport:
    return quality_report(SmallSearcher(), others=[SmallSearcher(granularity=2)])


@pytest.fixture(scope="module")
def given() -> QualityReport:
    """Each query is a chunk; its document and the next are relevant."""
    queries = [Query(f"q{row}", str(row)) for row in range(0, 60, 2)]
    qrels = {q.id: {f"d{int(q.text) // 3}": 2, f"d{int(q.text) // 3 + 1}": 1} for q in queries}
    queries.append(Query("without judgement", "7"))
    return quality_report(SmallSearcher(), queries, qrels, shortlists=(20, 300))


def test_storage_of_each_dimension(storage: StorageReport) -> None:
    assert storage.to_dict() == {
        "chunks": 100,
        "disk_bytes": 13300,
        "resident_bytes": 2048,
        "rows": [
            {"dim": 8, "bytes": 1600, "bytes_per_vector": 16.0, "share_of_full": 0.125}
            | {"fp32": 3200, "fp16": 1600, "int8": 1200},
            {"dim": 16, "bytes": 3200, "bytes_per_vector": 32.0, "share_of_full": 0.25}
            | {"fp32": 6400, "fp16": 3200, "int8": 2000},
            {"dim": 64, "bytes": 12800, "bytes_per_vector": 128.0, "share_of_full": 1.0}
            | {"fp32": 25600, "fp16": 12800, "int8": 6800},
        ],
    }
    assert json.loads(storage.to_json()) == storage.to_dict()


def test_storage_as_text(storage: StorageReport) -> None:
    assert (
        storage.to_text()
        == """\
Storage: 100 chunks, 13.0 KB on disk, 2.0 KB in memory for the shortlist

dim    bytes  bytes_per_vector  share_of_full     fp32     fp16    int8
---  -------  ----------------  -------------  -------  -------  ------
  8   1.6 KB                16          12.5%   3.1 KB   1.6 KB  1.2 KB
 16   3.1 KB                32          25.0%   6.2 KB   3.1 KB  2.0 KB
 64  12.5 KB               128         100.0%  25.0 KB  12.5 KB  6.6 KB
"""
    )


def test_storage_as_markdown_and_csv(storage: StorageReport) -> None:
    names = ["dim", "bytes", "bytes_per_vector", "share_of_full", "fp32", "fp16", "int8"]
    assert f"| {' | '.join(names)} |\n| ---: |" in storage.to_markdown()
    assert storage.to_csv().splitlines()[:2] == [
        ",".join(names),
        "8,1600,16.0,0.125,3200,1600,1200",
    ]


def test_storage_of_an_empty_index() -> None:
    report = storage_report({"band_0008": 0}, dims=(8,), chunks=0, resident_bytes=0)
    (row,) = report.to_dict()["rows"]
    assert row.pop("dim") == 8 and not any(row.values())


def test_quality_keeps_the_contract(own: QualityReport, given: QualityReport) -> None:
    for report in (own, given):
        data = json.loads(report.to_json())
        assert list(data) == ["rows", "funnels", "granularities"]
        assert [list(row) for row in data["rows"]] == [["dim", "recall@10", "ndcg@10"]] * len(DIMS)
        keys = "shortlist_dim rerank_dim shortlist recall@10 ndcg@10 p50_ms p99_ms".split()
        assert all(list(row) == keys for row in data["funnels"])
        keys = ["document", "query", "ndcg@10", "recall@10"]
        assert all(list(row) == keys for row in data["granularities"])


def test_quality_without_judgements_is_recall_of_full_exact_search(own: QualityReport) -> None:
    data = own.to_dict()
    assert own.queries == 200
    assert [row["dim"] for row in data["rows"]] == list(DIMS)
    assert data["rows"][-1]["recall@10"] == 1
    recalls = [row["recall@10"] for row in data["rows"]]
    assert recalls == sorted(recalls)
    tables = data["rows"] + data["funnels"] + data["granularities"]
    assert all(row["ndcg@10"] is None for row in tables)
    assert "ndcg" not in own.to_text()


def test_quality_with_judgements(given: QualityReport) -> None:
    assert given.queries == 30  # the one without a judgement is left out
    rows = given.to_dict()["rows"]
    # Of two relevant documents the first is the query itself; the second is found by chance.
    assert all(row["recall@10"] >= 0.5 for row in rows)
    assert all(0.7 < row["ndcg@10"] <= 1 for row in rows)


def test_funnels_lead_to_a_middle_and_the_highest_dimension(given: QualityReport) -> None:
    funnels = given.funnels
    assert funnels[["shortlist_dim", "rerank_dim", "shortlist"]].to_numpy().tolist() == [
        [8, 64, 20],
        [8, 64, 300],
        [8, 96, 20],
        [8, 96, 300],
    ]
    assert (funnels["p99_ms"] >= funnels["p50_ms"]).all()
    exact = given.rows.set_index("dim")
    for row in funnels[funnels["shortlist"] == 300].to_dict("records"):
        assert row["kept@10"] == 1
        assert row["ndcg@10"] == exact.loc[row["rerank_dim"], "ndcg@10"]


def test_granularity_matrix(own: QualityReport) -> None:
    cells = own.granularities.set_index(["document", "query"])["recall@10"]
    assert list(cells.index) == [("1", "1"), ("1", "1/2"), ("1/2", "1"), ("1/2", "1/2")]
    assert cells["1", "1"] == 1
    assert cells["1/2", "1/2"] < 1


def test_quality_as_csv_names_each_table(own: QualityReport) -> None:
    rows = list(csv.DictReader(io.StringIO(own.to_csv())))
    assert [row["table"] for row in rows] == ["rows"] * 4 + ["funnels"] * 6 + ["granularities"] * 4
    assert rows[0]["dim"] == "8"


def test_quality_as_markdown_has_a_heading_for_each_table(own: QualityReport) -> None:
    text = own.to_markdown()
    assert text.count("\n### ") == 3
    assert "| document | query | recall@10 |\n| --- | --- | ---: |" in text


def test_an_index_of_one_dimension_or_document() -> None:
    searcher = SmallSearcher(2)
    report = quality_report(searcher)
    assert report.rows["recall@10"].tolist() == [1] * 4  # nothing to find beside the query's own
    searcher.dims = DIMS[:1]
    report = quality_report(searcher)
    assert report.to_dict()["funnels"] == []
    assert "Funnels" not in report.to_text()
    assert report.to_csv()


def test_nothing_to_measure() -> None:
    with pytest.raises(QueryError, match="no chunks"):
        quality_report(SmallSearcher(0))
    with pytest.raises(QueryError, match="no query"):
        quality_report(SmallSearcher(), [])
    with pytest.raises(QueryError, match="do the ids"):
        quality_report(SmallSearcher(), [Query("a", "1")], {"b": {"d1": 1}})
