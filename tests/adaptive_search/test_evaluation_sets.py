"""Evaluation sets: what is read, and how bad files are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from adaptive_search.errors import CorpusError, QueryError
from adaptive_search.evaluation import Query
from adaptive_search.evaluation_sets import PairSet, RetrievalSet, find_pairs, find_sets

FILES = {
    "corpus.jsonl": '{"_id": "d1", "title": "Leaf", "text": "is green"}\n\n{"_id": 2, "text": ""}',
    "queries.jsonl": '{"_id": "q1", "text": "leaf"}\n{"_id": "q2", "text": "sun"}\n',
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td1\t0\n",
}
PAIRS = 'score\tsentence1\tsentence2\n5\ta\tb\n0.5\tthe "sun\tc\n'


def write_set(folder: Path, changes: Mapping[str, str | bytes | None] = {}) -> Path:
    for name, text in {**FILES, **changes}.items():
        if text is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def test_a_retrieval_set(tmp_path: Path) -> None:
    found = RetrievalSet.load(write_set(tmp_path / "plants"))
    assert (found.name, found.size) == ("plants", 2)
    assert found.queries == [Query("q1", "leaf")]  # nothing is relevant to the other
    assert list(found.documents()) == [("d1", "Leaf is green"), ("2", "")]
    assert found.measure([["2", "d1"]]).ndcg_at_10 == pytest.approx(0.6309)
    assert found.measure([["2", "d1"]]).recall_at_100 == 1


def test_the_digest_names_the_contents(tmp_path: Path) -> None:
    a, b = (RetrievalSet.load(write_set(tmp_path / name)) for name in "ab")
    c = RetrievalSet.load(write_set(tmp_path / "c", {"queries.jsonl": '{"_id":"q1","text":"x"}'}))
    assert a.digest == b.digest != c.digest


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (r"corpus.jsonl:1: not JSON", {"corpus.jsonl": "{"}),
        (r"corpus.jsonl:1: not JSON", {"corpus.jsonl": b'{"_id": "\xff"}'}),
        (r"corpus.jsonl:2: expected an object", {"corpus.jsonl": '{"_id":"a","text":"b"}\n[]'}),
        (r"corpus.jsonl:1: expected an object", {"corpus.jsonl": '{"_id": "a"}'}),
        (r"corpus.jsonl:2: .*'a' occurs twice", {"corpus.jsonl": '{"_id":"a","text":"b"}\n' * 2}),
        (r"corpus.jsonl: holds no documents", {"corpus.jsonl": "\n"}),
        (r"queries.jsonl: No such file", {"queries.jsonl": None}),
        (r"queries.jsonl: holds no queries", {"queries.jsonl": ""}),
        (r"test.tsv: No such file", {"qrels/test.tsv": None}),
        (r"test.tsv:2: expected", {"qrels/test.tsv": "a\tb\tscore\nq1\td1\tNaN\n"}),
        (r"set: no query has a relevant", {"qrels/test.tsv": "q9\td1\t1\n"}),
    ],
)
def test_bad_sets_name_file_and_line(
    tmp_path: Path, message: str, changes: Mapping[str, str | bytes | None]
) -> None:
    with pytest.raises((CorpusError, QueryError), match=message):
        RetrievalSet.load(write_set(tmp_path / "set", changes))


def test_sets_are_found_in_folders(tmp_path: Path) -> None:
    b, a = write_set(tmp_path / "b"), write_set(tmp_path / "a")
    assert [data.path for data in find_sets([tmp_path])] == [a, b]
    assert [data.path for data in find_sets([b, a])] == [b, a]
    with pytest.raises(CorpusError, match="have one name"):
        find_sets([a, tmp_path])
    for folder in (tmp_path / "absent", a / "qrels"):
        with pytest.raises(CorpusError, match=f"{folder.name}: no folder with corpus.jsonl"):
            find_sets([folder])


def test_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(PAIRS)
    assert PairSet.load(path) == PairSet("pairs", (5.0, 0.5), ("a", 'the "sun'), ("b", "c"))
    path.write_text("id\tsentence2\tscore\tsentence1\r\n1\tb\t5\ta\r\n2\tc\t1\td\r\n")
    assert PairSet.load(path).first == ("a", "d")  # columns are found by name


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (":1: no column score, sentence1, sentence2", ""),
        (":1: no column score", "5\ta\tb\n"),
        (":1: no column score", "score,sentence1,sentence2\n"),
        (":2: 2 columns; expected 3", "score\tsentence1\tsentence2\n5\ta\n"),
        (":3: score 'high'", "score\tsentence1\tsentence2\n5\ta\tb\nhigh\ta\tb\n"),
        (":2: score 'nan' is not a finite", "score\tsentence1\tsentence2\nnan\ta\tb\n"),
        (":2: score 'inf'", "score\tsentence1\tsentence2\ninf\ta\tb\n"),
        (":2: a sentence is empty", "score\tsentence1\tsentence2\n1\ta\t \n"),
        ("no two pairs of different scores", "score\tsentence1\tsentence2\n"),
        ("no two pairs of different scores", "score\tsentence1\tsentence2\n1\ta\tb\n1\tc\td\n"),
    ],
)
def test_bad_pairs_name_file_and_line(tmp_path: Path, message: str, text: str) -> None:
    (tmp_path / "pairs.tsv").write_text(text)
    with pytest.raises(QueryError, match=f"pairs.tsv.*{message}"):
        PairSet.load(tmp_path / "pairs.tsv")


def test_files_of_pairs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pairs.tsv").write_text(PAIRS)
    with pytest.raises(QueryError, match="two files of pairs have the name pairs"):
        find_pairs([tmp_path / "a" / "pairs.tsv", tmp_path / "b" / "pairs.tsv"])
    with pytest.raises(QueryError, match="absent: No such file"):
        find_pairs([tmp_path / "absent"])


def test_a_document_id_may_be_called_id(tmp_path: Path) -> None:
    line = json.dumps({"id": "d1", "title": None, "text": "x"})
    assert RetrievalSet.load(write_set(tmp_path, {"corpus.jsonl": line})).size == 1
