"""Indexes of vectors from elsewhere: what goes in comes out, and is found as exact search does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from numpy.typing import NDArray

from adaptive_search import vectors as vector_input
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.errors import DimensionError, QueryError, StoreError
from adaptive_search.hits import Hits
from adaptive_search.index import AdaptiveIndex
from adaptive_search.prefix_recall import prefix_recall
from adaptive_search.storage_io import StorageIO
from adaptive_search.vector_files import VectorFile

DIMS = (16, 32, 64, 160)
ROWS = 6000
TARGET = 0.98


def nested(count: int, seed: int) -> NDArray[np.float32]:
    """Clustered vectors whose first coordinates carry most."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((40, DIMS[-1]))
    own = rng.standard_normal((count, DIMS[-1]))
    spread = np.arange(1, DIMS[-1] + 1) ** -0.6
    lengths = rng.uniform(0.5, 20, (count, 1))
    vectors = (0.7 * centres[rng.integers(0, 40, count)] + own) * spread * lengths
    return np.asarray(vectors, np.float32)


VECTORS = nested(ROWS, 0)
FIELDS = [{"n": n, "half": n % 2, "tenth": n % 10, "year": 1990 + n % 35} for n in range(ROWS)]


def empty(path: Path, dims: Any = DIMS) -> AdaptiveIndex:
    return AdaptiveIndex.create(path / "index", dims=dims, threads=1)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> AdaptiveIndex:
    """Added in two goes, one part replaced, one deleted."""
    made = empty(tmp_path_factory.mktemp("vectors"))
    made.add_vectors(range(ROWS // 2), VECTORS[: ROWS // 2] * 3, FIELDS[: ROWS // 2])
    made.add_vectors(range(100), VECTORS[::-1][:100], FIELDS[:100])
    made.add_vectors(range(ROWS), VECTORS, FIELDS)
    made.delete(map(str, range(0, ROWS, 50)))
    return made


def ids(hits: Hits) -> list[str]:
    return [hit.document_id for hit in hits]


def cosines(live: NDArray[np.int64], query: NDArray[np.float32], dim: int) -> NDArray[np.float64]:
    rows = VECTORS[live, :dim].astype(np.float64)
    return rows @ query[:dim] / np.linalg.norm(rows, axis=1) / np.linalg.norm(query[:dim])


@pytest.mark.parametrize("dim", DIMS)
def test_exact_search_is_cosine_of_prefixes(index: AdaptiveIndex, dim: int) -> None:
    live = np.array([n for n in range(ROWS) if n % 50])
    for query in nested(5, 1):
        hits = index.search_vector(query, 10, dim=dim, exact=True)
        expected = cosines(live, query, dim)
        best = np.sort(expected)[::-1][:10]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=2e-3)
        given = dict(zip(live.tolist(), expected, strict=True))
        for hit in hits:
            assert hit.score == pytest.approx(given[int(hit.document_id)], abs=2e-3)
            assert hit.metadata == FIELDS[int(hit.document_id)]


@pytest.mark.parametrize(
    "filter",
    [
        None,
        {"half": 1},
        {"tenth": [3, 4]},
        {"tenth": 7, "half": {"!=": 0}},
        {"n": {">=": 5900}},
        {"year": {">=": 2000, "<": 2002}, "half": 0},
        {"n": 77},
    ],
)
def test_every_filter_keeps_the_recall_target(index: AdaptiveIndex, filter: Any) -> None:
    options: dict[str, Any] = {"dim": 160, "filter": filter}
    queries = nested(40, 2)
    exact = index.search_vectors(queries, 10, exact=True, **options)
    found = index.search_vectors(queries, 10, **options)
    pairs = [(set(ids(a)), set(ids(b))) for a, b in zip(exact, found, strict=True)]
    assert all(len(a) == len(b) == min(10, len(a)) for a, b in pairs)
    assert np.mean([len(a & b) / len(a) for a, b in pairs]) >= TARGET


def test_one_vector_or_many(index: AdaptiveIndex) -> None:
    queries = nested(3, 3)
    together = index.search_vectors(queries, 5, dim=64)
    assert [h.hits for h in together] == [index.search_vector(q, 5, dim=64).hits for q in queries]
    assert index.search_vectors(iter(queries.tolist()), 5, dim=64)[2].hits == together[2].hits
    prefix = index.search_vector(queries[0][:64], 5, dim=64)
    assert ids(prefix) == ids(together[0])
    assert index.search_vectors([]) == []
    assert (together[0].query, together[0].dim) == ("", 64)


def test_what_is_the_same_is_not_written_again(tmp_path: Path) -> None:
    index = empty(tmp_path)
    first = index.add_vectors(["a", "b", "c"], VECTORS[:3], texts=["one", "two", None])
    assert (first.seen, first.indexed, first.unchanged, first.chunks) == (3, 3, 0, 3)
    generation = index.status().generation
    again = index.add_vectors(["c", "a"], VECTORS[[2, 0]], texts=["", "one"])
    assert (again.indexed, again.unchanged) == (0, 2)
    assert index.status().generation == generation
    changed = index.add_vectors(["a", "d"], VECTORS[[5, 0]], texts=["one", "new"])
    assert (changed.indexed, changed.unchanged, len(index)) == (2, 0, 4)
    found = index.search_vector(VECTORS[0], 2, dim=160)
    assert (found[0].document_id, found[0].text) == ("d", "new")
    assert found[0].score == pytest.approx(1, abs=1e-3)
    assert index.delete(["d", "nobody"]) == 1
    assert "d" not in ids(index.search_vector(VECTORS[0], 9))
    index.compact()
    assert len(index) == 3 and index.verify().ok


def test_bad_rows_change_nothing(index: AdaptiveIndex) -> None:
    generation, rows = index.status().generation, len(index)
    with pytest.raises(QueryError, match="row 1 is zero"):
        index.add_vectors([1, 2], [VECTORS[0], 0 * VECTORS[1]])
    with pytest.raises(QueryError, match="twice"):
        index.add_vectors([1, 1], VECTORS[:2])
    assert (index.status().generation, len(index)) == (generation, rows)


def test_an_index_of_nothing_one_or_all_the_same(tmp_path: Path) -> None:
    index = empty(tmp_path)
    assert index.add_vectors([], []).seen == len(index) == 0
    for options in ({}, {"exact": True}, {"filter": {"any": 1}}):
        assert ids(index.search_vector(VECTORS[0], 3, **options)) == []
    assert prefix_recall(index.store) is None
    assert index.report().storage().chunks == 0
    with pytest.raises(QueryError, match="no chunks"):
        index.report().quality()
    index.add_vectors([7], VECTORS[:1])
    assert ids(index.search_vector(VECTORS[1], 1000)) == ["7"]  # k > N
    assert len(index.report().quality().rows) == len(DIMS)
    index.delete(["7"])
    assert len(index) == 0 and ids(index.search_vector(VECTORS[0])) == []
    index.add_vectors(range(50), np.ones((50, DIMS[-1])))
    hits = index.search_vector(np.ones(DIMS[-1]), 5)
    assert ids(hits) == ["0", "1", "2", "3", "4"]  # ties go by row
    assert [hit.score for hit in hits] == pytest.approx([1] * 5, abs=1e-3)
    found = prefix_recall(index.store)
    assert found is not None and not found.is_doubtful
    index.delete(map(str, range(50)))
    assert index.status().rows == 0 and index.verify().ok
    index.compact()
    index.add_vectors(["last"], VECTORS[:1])
    assert ids(index.search_vector(VECTORS[0])) == ["last"]


def test_prefixes_that_are_zero_score_zero(tmp_path: Path) -> None:
    index = empty(tmp_path, (4, 8))
    index.add_vectors([0, 1], [[0, 0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]])
    hits = index.search_vector([1, 0, 0, 0, 1, 0, 0, 0], dim=4)
    assert [(hit.document_id, hit.score) for hit in hits] == [("1", 1.0), ("0", 0.0)]


@pytest.mark.parametrize(
    ("vector", "options", "reason"),
    [
        (np.ones(15), {}, "at least 160"),
        (np.ones(159), {"dim": 160}, "at least 160"),
        (np.zeros(160), {}, "zero"),
        (np.full(160, np.nan), {}, "not finite"),
        (np.ones(160, np.int8), {}, "dtype int8"),
        (["a"] * 160, {}, "dtype <U1"),
        (np.ones((2, 160)), {}, "search_vectors"),
        (None, {}, "shape"),
        ([[1.0], [1.0, 2.0]], {}, "different widths"),
        (np.ones(160), {"k": 0}, "k=0"),
        (np.ones(160), {"k": 5, "shortlist": 4}, "shortlist=4 must be at least k=5"),
        (np.ones(160), {"filter": {"nothing": 1}}, "no chunk has the field nothing"),
    ],
)
def test_bad_searches(index: AdaptiveIndex, vector: Any, options: Any, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        index.search_vector(vector, **options)


def test_filters_that_leave_nothing(index: AdaptiveIndex) -> None:
    conditions: list[Any] = [{"n": -1}, {"n": []}, {"n": {">": 10, "<": 5}}]
    for condition in conditions:
        assert ids(index.search_vector(VECTORS[0], filter=condition)) == []


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_ctrl_c_commits_the_batches_that_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(vector_input, "BATCH_BYTES", 100 * 4 * DIMS[-1])

    def rows() -> Iterator[NDArray[np.float32]]:
        yield from VECTORS[: 100 * stop + 30]
        raise KeyboardInterrupt

    index = empty(tmp_path)
    summary = index.add_vectors(range(400), rows())
    assert summary.interrupted and summary.seen == summary.indexed == len(index) == 100 * stop
    assert index.verify().ok
    rest = index.add_vectors(range(400), VECTORS[:400])
    assert (rest.unchanged, rest.indexed, rest.interrupted) == (100 * stop, 400 - 100 * stop, False)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_file_that_the_disk_cannot_take_is_not_begun(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, made = tmp_path / f"vectors{suffix}", empty(tmp_path)
    if suffix == ".npy":
        np.save(path, VECTORS)
    else:
        parquet.write_table(pa.table({"id": range(ROWS), "vector": list(VECTORS)}), path)
    monkeypatch.setattr(VectorFile, "batches", lambda self, checker: iter(()))
    with monkeypatch.context() as patch:
        patch.setattr(StorageIO, "free_bytes", lambda self, path: 1_000_000)
        with pytest.raises(StoreError, match=r"needs about \d MB and its disk has 1 MB"):
            made.add_vector_file(path)
    assert len(made) == 0


def test_there_is_no_encoder(index: AdaptiveIndex, tiny_encoder: Encoder, tmp_path: Path) -> None:
    for call in (
        lambda: index.search("words"),
        lambda: index.add_texts(["words"]),
        lambda: index.report().quality([]),
        lambda: AdaptiveIndex.open(index.path, encoder=tiny_encoder).search("words"),
    ):
        with pytest.raises(QueryError, match="vectors from elsewhere and has no encoder"):
            call()
    with pytest.raises(DimensionError, match="16, 32, 64, 160"):
        index.search_vector(VECTORS[0], dim=100)
    with pytest.raises(StoreError, match="made with dims 16,32,64,160, not 16,160"):
        index.require(dims=(16, 160))
    with pytest.raises(QueryError, match="either an encoder or dims"):
        AdaptiveIndex.create(tmp_path / "x", dims=DIMS, encoder=tiny_encoder)
    with pytest.raises(QueryError, match="must rise"):
        AdaptiveIndex.create(tmp_path / "x", dims=[64, 16])
    assert not (tmp_path / "x").exists()


def test_an_encoder_takes_its_own_vectors(tmp_path: Path, tiny_encoder: Encoder) -> None:
    index = AdaptiveIndex.create(tmp_path / "index", encoder=tiny_encoder, threads=1)
    texts = ["plants store energy", "the sun is light"]
    index.add_vectors(["p", "s"], tiny_encoder.encode(texts), texts=texts)
    assert ids(index.search("plants store energy")) == ["p", "s"]
    assert index.search("plants store energy")[0].score == pytest.approx(1, abs=2e-3)
    for other in (
        np.ones((1, 1536)),
        tiny_encoder.encode(texts[:1], 64),
        2 * tiny_encoder.encode(texts),
    ):
        with pytest.raises(QueryError, match="this index's encoder|highest dimension"):
            index.add_vectors(["x", "y"][: len(other)], other)


def test_reports_and_export(index: AdaptiveIndex, tmp_path: Path) -> None:
    quality = index.report().quality()
    recalls = quality.rows["recall@10"].tolist()
    assert recalls == sorted(recalls) and recalls[-1] == 1
    assert "of recall@10 at 16 dims" in quality.summary() and "Matryoshka" not in quality.summary()
    assert not len(quality.granularities) and quality.to_dict()["granularities"] == []
    rows = index.report().storage().rows
    assert rows["fp32"].tolist() == [4 * dim * len(index) for dim in DIMS]
    assert rows["int8"].tolist() == [(dim + 4) * len(index) for dim in DIMS]
    path = tmp_path / "x.parquet"
    assert index.export(160, path) == len(index)
    again = empty(tmp_path)
    again.add_vector_file(path, id_column="document_id")
    query = nested(1, 4)[0]
    assert ids(again.search_vector(query, 5)) == ids(index.search_vector(query, 5))
    assert parquet.read_metadata(path).num_rows == len(again)


def test_prefixes_are_doubted_where_the_order_means_nothing(tmp_path: Path) -> None:
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMS[-1], DIMS[-1])))[0]
    index = empty(tmp_path)
    index.add_vectors(range(1000), VECTORS[:1000] @ turn)
    found = index.prefix_recall()
    assert found is not None
    assert found.is_doubtful and found.to_text().endswith("are they Matryoshka vectors?")
    assert found == prefix_recall(index.store)
    index.add_vectors(range(1000), VECTORS[:1000])
    found = index.prefix_recall()
    assert found is not None
    assert not found.is_doubtful and found.to_text().endswith("(sample of 1,000)")
    assert list(found.kept) == list(DIMS) and found.kept[160] == 1
