"""The report on evaluation sets in each of its forms."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from adaptive_search.set_report import (
    RETRIEVAL_COLUMNS,
    SET_COLUMNS,
    STS_COLUMNS,
    SetReport,
)

OURS = [  # vectors, document, query, search, dim, shortlist, then the figures of two sets
    ("chunks", "1", "1", "64", 64, None, 0.3, 0.5),
    ("chunks", "1", "1", "128", 128, None, 0.4, 0.6),
    ("chunks", "1", "1", "64 -> 128", 128, 1000, 0.4, 0.5),
    ("chunks", "1", "1/8", "128", 128, None, 0.3, 0.6),
]
PEER = (None, None, None, "BM25", None, None, 0.2, 0.6)


def table(rows: Sequence[Sequence[Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns, dtype=object)


def make(names: tuple[str, str] = ("one", "two"), *, peers: bool = True) -> SetReport:
    ways = [*OURS, PEER] if peers else OURS
    retrieval = [
        [name, *way[:6], way[6 + place], 0.9] for place, name in enumerate(names) for way in ways
    ]
    sts = [["stsb", "1", "64", 64, 0.7], ["stsb", "1", "128", 128, 0.8]]
    if peers:
        sts.append(["stsb", None, "MiniLM-L6", None, 0.5])
    return SetReport(
        "weights-a",
        table([[name, 1000, 10] for name in names], SET_COLUMNS),
        table(retrieval, RETRIEVAL_COLUMNS).astype({"ndcg@10": float, "recall@100": float}),
        table(sts, STS_COLUMNS).astype({"spearman": float}),
    )


def test_text_has_a_column_for_each_set_the_mean_and_each_peer() -> None:
    assert (
        make().to_text()
        == """\
Quality: weights weights-a; 2,000 documents, 20 judged queries; sentence pairs of stsb

nDCG@10

document  query  search        one     two    mean  recall@100    kept  of BM25
--------  -----  ---------  ------  ------  ------  ----------  ------  -------
1         1      64         0.3000  0.5000  0.4000      0.9000   80.0%   100.0%
1         1      128        0.4000  0.6000  0.5000      0.9000  100.0%   125.0%
1         1      64 -> 128  0.4000  0.5000  0.4500      0.9000   90.0%   112.5%
1         1/8    128        0.3000  0.6000  0.4500      0.9000   90.0%   112.5%
-         -      BM25       0.2000  0.6000  0.4000      0.9000       -        -

Spearman correlation of sentence pairs

width  search       stsb    mean    kept  of MiniLM-L6
-----  ---------  ------  ------  ------  ------------
1      64         0.7000  0.7000   87.5%        140.0%
1      128        0.8000  0.8000  100.0%        160.0%
-      MiniLM-L6  0.5000  0.5000       -             -
"""
    )


def test_markdown_has_the_same_cells() -> None:
    text = make().to_markdown()
    assert text.startswith("## Quality\n\nweights weights-a; ")
    assert "\n### nDCG@10\n" in text and "\n### Spearman correlation of sentence pairs\n" in text
    assert "| 1 | 1/8 | 128 | 0.3000 | 0.6000 | 0.4500 | 0.9000 | 90.0% | 112.5% |" in text


def test_json_is_plain_rows() -> None:
    data = json.loads(make().to_json())
    assert list(data) == ["fingerprint", "sets", "retrieval", "sts"]
    assert data["sets"][1] == {"set": "two", "documents": 1000, "queries": 10}
    assert data["retrieval"][2] == {
        "set": "one",
        "vectors": "chunks",
        "document": "1",
        "query": "1",
        "search": "64 -> 128",
        "dim": 128,
        "shortlist": 1000,
        "ndcg@10": 0.4,
        "recall@100": 0.9,
    }
    assert data["retrieval"][4]["dim"] is None
    row = {"set": "stsb", "width": "1", "search": "64", "dim": 64, "spearman": 0.7}
    assert data["sts"][0] == row


def test_csv_has_all_rows() -> None:
    rows = list(csv.DictReader(io.StringIO(make().to_csv())))
    assert [row["table"] for row in rows] == ["retrieval"] * 10 + ["sts"] * 3
    assert (rows[0]["dim"], rows[0]["shortlist"], rows[2]["shortlist"]) == ("64", "", "1000")


@pytest.mark.parametrize("empty", ["retrieval", "sts"])
def test_one_kind_alone(empty: str) -> None:
    full = make(peers=False)
    parts = {name: getattr(full, name) for name in ("sets", "retrieval", "sts")}
    parts[empty] = parts[empty].iloc[:0]
    if empty == "retrieval":
        parts["sets"] = parts["sets"].iloc[:0]
    report = SetReport("weights-a", **parts)
    assert ("Spearman" in report.to_text()) == (empty == "retrieval")
    assert ("nDCG@10" in report.to_markdown()) == (empty == "sts")
    assert report.to_csv().count("\n") == (3 if empty == "retrieval" else 9)
    assert report.to_dict()[empty] == []


def test_whole_documents_get_a_column_that_says_so() -> None:
    report = make()
    assert "vectors" not in report.to_text()
    report.retrieval.loc[3, "vectors"] = "documents"
    assert "documents  1         1/8" in report.to_text()


def test_a_set_may_have_the_name_of_a_column() -> None:
    text = make(("mean", "query")).to_text()
    assert "set mean  set query    mean" in text
    assert text.splitlines()[7].split()[3:6] == ["0.4000", "0.6000", "0.5000"]


def test_an_undefined_correlation_is_a_dash() -> None:
    report = make(peers=False)
    report.sts["spearman"] = np.nan
    assert report.to_dict()["sts"][0]["spearman"] is None
    assert report.to_text().splitlines()[-1].split() == ["1", "128", "-", "-", "-"]
