"""Measuring an encoder on sets: every dimension, funnel and width, whole documents, peers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.encoder.encoder import Encoder
from adaptive_search.errors import QueryError
from adaptive_search.evaluation_sets import PairSet, RetrievalSet, find_sets
from adaptive_search.set_measurement import WholeDocuments, measure_sets
from adaptive_search.set_report import SetReport

TEXTS = {"d1": "plants store energy", "d2": "the sun is light", "d3": "water of the cell"}
PAIRS = PairSet(
    "pairs",
    (5.0, 1.0, 4.0),
    ("green leaf", "water of the cell", "sun"),
    ("green leaf", "plants", "sun light"),
)


class Backwards:
    """Ranks documents from the last to the first, and finds all sentences alike but the first."""

    name = "backwards"

    def __init__(self) -> None:
        self.asked = 0

    def rank(
        self, documents: Sequence[str], queries: Sequence[str], depth: int
    ) -> NDArray[np.int64]:
        self.asked += 1
        assert all(isinstance(text, str) for text in (*documents, *queries))
        return np.tile(np.arange(len(documents))[::-1][:depth], (len(queries), 1))

    def similarities(self, first: Sequence[str], second: Sequence[str]) -> NDArray[np.float32]:
        return np.array([a == b for a, b in zip(first, second, strict=True)], dtype=np.float32)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[RetrievalSet]:
    """Two sets in which each query is the text of a document; the first has it under its id."""
    root = tmp_path_factory.mktemp("sets")
    for name, prefix in (("own", ""), ("plants", "q")):
        folder = root / name
        (folder / "qrels").mkdir(parents=True)
        for file, mark in (("corpus", ""), ("queries", prefix)):
            lines = [json.dumps({"_id": mark + i, "text": text}) for i, text in TEXTS.items()]
            (folder / f"{file}.jsonl").write_text("\n".join(lines))
        judgements = "".join(f"{prefix}{i}\t{i}\t1\n{prefix}{i}\td3\t1\n" for i in TEXTS)
        (folder / "qrels" / "test.tsv").write_text(judgements)
    return find_sets([root])


@pytest.fixture(scope="module")
def report(sets: list[RetrievalSet], tiny_encoder: Encoder) -> SetReport:
    return measure_sets(
        tiny_encoder,
        sets[1:],
        [PAIRS],
        granularities=[8, 1],
        document_tokens=16,
        peers=[Backwards()],
    )


def test_every_dimension_funnel_and_width(report: SetReport, tiny_encoder: Encoder) -> None:
    rows = report.to_dict()["retrieval"]
    dims = list(tiny_encoder.dims)
    searches = [*map(str, dims), "64 -> 512", "64 -> 1536"]
    pairs = [("1", "1"), ("1", "1/8"), ("1/8", "1/8")]  # the widest documents with every query
    assert {(r["document"], r["query"]) for r in rows} == {*pairs, (None, None)}
    for document, query in pairs:
        for vectors in ("chunks", "documents"):
            key = (vectors, document, query)
            found = [r for r in rows if (r["vectors"], r["document"], r["query"]) == key]
            assert [r["search"] for r in found] == searches
            assert [r["dim"] for r in found] == [*dims, 512, 1536]
            assert [r["shortlist"] for r in found] == [None] * 7 + [1000] * 2
    assert rows[0]["dim"] == 64 and rows[0]["query"] == "1"
    assert report.sets.to_dict("records") == [{"set": "plants", "documents": 3, "queries": 3}]


def test_whole_documents_of_one_chunk_score_as_their_chunk(report: SetReport) -> None:
    figures = report.retrieval.dropna(subset="vectors").groupby("vectors")["ndcg@10"]
    chunks, documents = (list(values) for _, values in figures)
    assert chunks == pytest.approx(documents, abs=0.02)
    assert chunks[6] > 0.9  # the query is the text itself


def test_documents_are_cut_at_their_tokens(sets: list[RetrievalSet], tiny_encoder: Encoder) -> None:
    whole = WholeDocuments(sets[1], tiny_encoder, 1, 3)
    first_words = [text.split()[0] for text in TEXTS.values()]
    queries = whole.encode_queries(first_words, 1)
    found = whole.search(queries, 1, dim=1536, exact=True)
    assert whole.document_of(found.rows[:, 0]) == list(TEXTS)
    assert found.scores == pytest.approx(1, abs=1e-3)
    context = tiny_encoder.config.context
    for tokens in (2, context + 1):
        with pytest.raises(QueryError, match=f"give from 3 to {context}"):
            measure_sets(tiny_encoder, sets, document_tokens=tokens)


def test_peers_stand_beside_ours(report: SetReport) -> None:
    row = report.to_dict()["retrieval"][-1]
    assert (row["search"], row["dim"], row["vectors"]) == ("backwards", None, None)
    assert row["recall@100"] == 1
    (sts,) = [row for row in report.to_dict()["sts"] if row["search"] == "backwards"]
    assert sts["spearman"] == pytest.approx(np.sqrt(3) / 2, abs=1e-4)  # two of three are tied


def test_the_document_of_the_querys_own_id_is_no_hit(
    sets: list[RetrievalSet], tiny_encoder: Encoder
) -> None:
    own = measure_sets(tiny_encoder, sets[:1], granularities=[1], peers=[Backwards()])
    recalls = dict(zip(own.retrieval["search"], own.retrieval["recall@100"], strict=True))
    # Of "itself and d3" d3 is found, and for the query d3 nothing.
    assert recalls["1536"] == recalls["backwards"] == pytest.approx(1 / 3, abs=1e-3)


def test_sentence_pairs_at_every_dimension_and_width(
    report: SetReport, tiny_encoder: Encoder
) -> None:
    ours = report.sts.dropna(subset="width")
    assert list(zip(ours["width"], ours["dim"], strict=True)) == [
        (width, dim) for width in ("1", "1/8") for dim in tiny_encoder.dims
    ]
    assert ours["spearman"].between(-1, 1).all()
    assert ours["spearman"].iloc[6] > 0.4


def test_the_cache_keeps_indexes_and_peers(
    sets: list[RetrievalSet], tiny_encoder: Encoder, tmp_path: Path
) -> None:
    peer = Backwards()
    found = [
        measure_sets(
            tiny_encoder, sets[1:], granularities=[1], peers=[peer], cache=tmp_path / "cache"
        ).to_json()
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert peer.asked == 1
    assert len(list((tmp_path / "cache").glob("plants-*/MANIFEST.json"))) == 1


def test_widths_must_exist(sets: list[RetrievalSet], tiny_encoder: Encoder) -> None:
    with pytest.raises(QueryError, match="1/3"):
        measure_sets(tiny_encoder, sets, granularities=[3])


def test_progress_is_told(sets: list[RetrievalSet], tiny_encoder: Encoder) -> None:
    told: list[str] = []
    measure_sets(tiny_encoder, sets[:1], [PAIRS], granularities=[8], note=told.append)
    assert told == ["own at width 1/8", "pairs of pairs"]
