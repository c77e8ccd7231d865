"""The door: add, search, delete, filter, compact, export, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.ipc as ipc
import pytest

from adaptive_search.encoder.encoder import Encoder
from adaptive_search.encoder.granularity import Granularity
from adaptive_search.errors import CorpusError, DimensionError, QueryError, StoreError
from adaptive_search.index import AdaptiveIndex

TEXTS = ["plants store energy", "the sun is light and heat", "water of the cell", "a green leaf"]


@pytest.fixture
def index(tmp_path: Path, tiny_encoder: Encoder) -> AdaptiveIndex:
    """An index of some texts in two languages."""
    created = AdaptiveIndex.create(tmp_path / "index", encoder=tiny_encoder, threads=1)
    fields = [{"lang": "en" if n % 2 else "de", "n": n, "ok": n > 1} for n in range(len(TEXTS))]
    created.add_texts(TEXTS, ids=[f"t{n}" for n in range(len(TEXTS))], metadata=fields)
    return created


def ids(index: AdaptiveIndex, query: str = "plants", **options: object) -> list[str]:
    return [hit.document_id for hit in index.search(query, **options)]


def test_a_text_finds_itself_at_every_dimension_and_width(
    index: AdaptiveIndex, tmp_path: Path, tiny_encoder: Encoder
) -> None:
    widths: tuple[Granularity, ...] = (1, 2, 4, 8, (3,))
    for granularity in widths:
        path = tmp_path / f"at {granularity}"
        made = AdaptiveIndex.create(path, encoder=tiny_encoder, granularity=granularity, threads=1)
        made.add_texts(TEXTS)
        for dim in made.dims:
            for at, text in enumerate(TEXTS):
                hits = made.search(text, 2, dim=dim)
                assert (hits[0].document_id, hits.granularity) == (str(at), granularity)
                assert hits[0].score == pytest.approx(1, abs=2e-3)


def test_widths_of_layers_are_remembered(tmp_path: Path, tiny_encoder: Encoder) -> None:
    made = AdaptiveIndex.create(tmp_path / "mixed", encoder=tiny_encoder, granularity=(3,))
    made.add_texts(TEXTS)
    opened = AdaptiveIndex.open(tmp_path / "mixed", encoder=tiny_encoder)
    assert opened.store.spec.granularity == (3,)
    opened.require(granularity=(3,))
    with pytest.raises(StoreError, match="made with granularity 3,, not 1/2"):
        opened.require(granularity=(4,))
    hits = opened.search(TEXTS[0])
    assert hits.granularity == (3,) and hits.to_dict()["granularity"] == "3,"
    cells = opened.report().quality().to_dict()["granularities"]
    assert [(cell["document"], cell["query"]) for cell in cells] == [
        ("3,", query) for query in ("1", "1/2", "1/4", "1/8", "3,")
    ]
    same = AdaptiveIndex.create(tmp_path / "same", encoder=tiny_encoder, granularity=(4,))
    assert same.store.spec.granularity == 2
    same.require(granularity=(4,))


def test_hits(index: AdaptiveIndex) -> None:
    hits = index.search("water of the cell", 2)
    first = hits[0]
    assert (first.rank, first.id, first.document_id, first.path) == (1, "t2#0", "t2", "")
    assert (first.text, first.line_start, first.line_end) == ("water of the cell", 1, 1)
    assert first.metadata == {"lang": "de", "n": 2, "ok": True}
    assert len(hits) == 2 and list(hits) == [hits[0], hits[1]] and hits[1:] == (hits[1],)
    assert (hits.query, hits.dim, hits.shortlist) == ("water of the cell", 512, 1000)
    frame = hits.to_pandas()
    assert list(frame["document_id"]) == [hit.document_id for hit in hits]
    assert len(index.search("x", filter={"path": "none"}).to_pandas()) == 0
    timings = hits.timings_ms
    assert timings["total"] == pytest.approx(sum(timings.values()) - timings["total"], abs=2e-3)


def test_a_batch_is_its_queries(index: AdaptiveIndex) -> None:
    batch = index.search_batch(TEXTS, 3, dim=256)
    alone = [index.search(text, 3, dim=256) for text in TEXTS]
    assert [hits.hits for hits in batch] == [hits.hits for hits in alone]
    assert index.search_batch([]) == []


def test_search_by_vector(index: AdaptiveIndex, tiny_encoder: Encoder) -> None:
    vector = tiny_encoder.encode(TEXTS[1])
    by_text = index.search(TEXTS[1], dim=1536)
    by_vector = index.search_vector(vector * 7, dim=1536)
    assert [hit.id for hit in by_vector] == [hit.id for hit in by_text]
    assert [h.score for h in by_vector] == pytest.approx([h.score for h in by_text], abs=1e-5)
    with pytest.raises(QueryError, match="1536"):
        index.search_vector(vector[:64], dim=1536)
    with pytest.raises(QueryError, match="zero"):
        index.search_vector(np.zeros(1536, np.float32))


def test_filters(index: AdaptiveIndex) -> None:
    assert set(ids(index, filter={"lang": "en"})) == {"t1", "t3"}
    assert set(ids(index, filter={"n": [0, 3]})) == {"t0", "t3"}
    assert ids(index, filter={"n": "2"}) == ["t2"]  # as a command line gives it
    assert ids(index, filter={"n": 2.0}) == ["t2"]
    assert set(ids(index, filter={"ok": True})) == {"t2", "t3"}
    assert set(ids(index, filter={"ok": "false"})) == {"t0", "t1"}
    assert ids(index, filter={"n": True}) == []  # 1 is not true
    assert ids(index, filter={"lang": "en", "n": 3}) == ["t3"]
    with pytest.raises(QueryError, match="no chunk has the field colour; there are: lang, n, ok"):
        index.search("x", filter={"colour": "red"})


def test_replace_delete_and_compact(index: AdaptiveIndex) -> None:
    found = index.add_texts(["water is new"], ids=["t2"])
    assert (found.indexed, found.deleted, len(index)) == (1, 0, 4)
    assert index.add_texts(["water is new"], ids=["t2"]).unchanged == 1
    assert index.search("water is new")[0].id == "t2#0"
    assert index.delete(["t0", "t0", "unknown"]) == 1
    assert set(ids(index)) == {"t1", "t2", "t3"}
    assert index.status().deleted == 2
    before = index.search("water", dim=1536).hits
    index.compact()
    assert index.status().deleted == 0 and index.search("water", dim=1536).hits == before
    assert index.verify().ok


def test_texts_get_numbers_that_are_free(tmp_path: Path, tiny_encoder: Encoder) -> None:
    index = AdaptiveIndex.create(tmp_path / "index", encoder=tiny_encoder)
    index.add_texts(["plants", "light"])
    index.add_texts(["leaf"], ids=["7"])
    index.delete(["0"])
    index.add_texts(["water", "sun"])
    assert set(ids(index)) == {"1", "7", "8", "9"}


@pytest.mark.parametrize(
    ("texts", "options", "reason"),
    [
        (["a", "b"], {"ids": ["1"]}, "fewer ids"),
        (["a"], {"ids": ["1", "2"]}, "more ids"),
        (["a", "b"], {"metadata": [{}]}, "fewer ids or metadata"),
        (["a"], {"metadata": [{}, {}]}, "more metadata"),
        (["a", "b"], {"ids": ["1", "1"]}, "comes twice"),
        (["a", " "], {}, "must be a str, not empty"),
        (["a", 3], {}, "must be a str"),
        (["a", "\ud800"], {}, "UTF-8"),
        (["a"], {"ids": [3]}, "id 3 must be a str"),
        (["a"], {"ids": [""]}, "must be a str, not empty"),
        (["a", "b"], {"metadata": [{}, {"x": float("nan")}]}, "the field x of row 1 is nan"),
        (["a"], {"metadata": [{"x": float("inf")}]}, "the field x of row 0 is inf"),
        (["a"], {"metadata": [{"x": [1]}]}, "the field x of row 0 is .1.; give a text, finite"),
        (["a"], {"metadata": [{"x": "\ud800"}]}, "the field x of row 0"),
        (["a"], {"metadata": [{3: 1}]}, "metadata of row 0 have the name 3"),
        (["a"], {"metadata": ["x"]}, "metadata of row 0 must be a mapping"),
    ],
)
def test_bad_texts_change_nothing(
    index: AdaptiveIndex, texts: list[str], options: dict[str, Any], reason: str
) -> None:
    generation = index.status().generation
    with pytest.raises(QueryError, match=reason):
        index.add_texts(texts, **options)
    assert (index.status().generation, len(index)) == (generation, 4)


def test_bad_searches(index: AdaptiveIndex) -> None:
    for query in ("", " \n", "\ud800", "word " * 1000):
        with pytest.raises(QueryError):
            index.search(query)
    with pytest.raises(DimensionError, match="64, 128, 256, 512, 768, 1024, 1536"):
        index.search("x", dim=200)
    for options in ({"k": 0}, {"shortlist": 1}, {"granularity": 3}, {"granularity": (9,)}):
        with pytest.raises(QueryError):
            index.search("x", **options)


def test_bad_creations(tmp_path: Path, tiny_encoder: Encoder) -> None:
    bad = ({"granularity": 3}, {"granularity": (8, 8)}, {"chunk_tokens": 15}, {"chunk_tokens": 513})
    for options in bad:
        with pytest.raises(QueryError):
            AdaptiveIndex.create(tmp_path / "index", encoder=tiny_encoder, **options)
    assert not (tmp_path / "index").exists()
    with pytest.raises(StoreError, match="is not an index"):
        AdaptiveIndex.open(tmp_path / "index")


def test_an_empty_index_answers_with_no_hits(tmp_path: Path, tiny_encoder: Encoder) -> None:
    index = AdaptiveIndex.create(tmp_path / "index", encoder=tiny_encoder)
    assert len(index.search("plants")) == 0
    index.add_texts([])
    assert (len(index), index.status().generation) == (0, 0)


def test_an_unused_index_can_be_taken_back(tmp_path: Path, tiny_encoder: Encoder) -> None:
    path = tmp_path / "index"
    AdaptiveIndex.create(path, encoder=tiny_encoder).remove_if_unused()
    assert not path.exists()
    used = AdaptiveIndex.create(path, encoder=tiny_encoder)
    used.add_texts(["plants"])
    used.remove_if_unused()
    assert len(AdaptiveIndex.open(path)) == 1
    (tmp_path / "mine").mkdir()
    kept = AdaptiveIndex.create(tmp_path / "mine", encoder=tiny_encoder)
    (tmp_path / "mine" / "file").write_text("x")
    kept.remove_if_unused()
    assert [child.name for child in (tmp_path / "mine").iterdir()] == ["file"]


def test_an_index_mirrors_one_corpus(
    index: AdaptiveIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    with pytest.raises(CorpusError, match="no files to index"):
        index.add(corpus)
    (corpus / "a.txt").write_text("plants\n")
    index.add(corpus)
    assert set(ids(index)) == {"a.txt", "t0", "t1", "t2", "t3"}
    monkeypatch.chdir(tmp_path)
    for same in ("corpus", "corpus/", "./corpus/../corpus"):
        assert index.add(same).unchanged == 1
    with pytest.raises(StoreError, match="another index directory|Choose another"):
        index.add(tmp_path / "corpus" / "a.txt")
    with pytest.raises(CorpusError, match="missing"):
        index.add(tmp_path / "missing")


def test_exported_vectors_are_those_of_the_encoder(
    index: AdaptiveIndex, tmp_path: Path, tiny_encoder: Encoder
) -> None:
    assert index.export(128, tmp_path / "x.arrow") == 4
    with ipc.open_file(tmp_path / "x.arrow") as file:
        table = file.read_all()
    vectors = np.array(table.column("vector").to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, tiny_encoder.encode(TEXTS, 128), atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_another_writer_does_not_disturb_a_reader(
    index: AdaptiveIndex, tiny_encoder: Encoder
) -> None:
    reader = AdaptiveIndex.open(index.path, encoder=tiny_encoder)
    index.delete(["t0"])
    assert len(reader) == 4 and "t0" in ids(reader)
    assert len(AdaptiveIndex.open(index.path)) == 3
