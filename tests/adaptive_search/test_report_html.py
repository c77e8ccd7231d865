"""The page of plots: complete, self-contained, and safe to open."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from adaptive_search.errors import MissingExtra
from adaptive_search.report_html import report_page, sets_page
from adaptive_search.reports import QualityReport, StorageReport, storage_report
from adaptive_search.set_report import (
    RETRIEVAL_COLUMNS,
    SET_COLUMNS,
    STS_COLUMNS,
    SetReport,
)


@pytest.fixture(scope="module")
def storage() -> StorageReport:
    usage = {"band_0064": 12800, "band_0128": 12800, "band_0256": 25600}
    return storage_report(usage, dims=(64, 128, 256), chunks=100, resident_bytes=12800)


def quality(*, judged: bool, documents: tuple[str, ...] = ("1", "1/2")) -> QualityReport:
    grade = 0.5 if judged else np.nan
    rows = pd.DataFrame(
        {
            "dim": [64, 128, 256],
            "recall@10": [0.5, 0.8, 1.0],
            "ndcg@10": [grade] * 3,
            "p50_ms": [0.1, 0.2, 0.4],
            "p99_ms": [0.2, 0.3, 0.5],
            "bytes_per_vector": [128, 256, 512],
        }
    )
    funnels = pd.DataFrame(
        {
            "shortlist_dim": [64] * 4,
            "rerank_dim": [128, 128, 256, 256],
            "shortlist": [100, 400, 100, 400],
            "recall@10": [0.7, 0.8, 0.9, 0.95],
            "ndcg@10": [grade] * 4,
            "p50_ms": [0.1, 0.1, 0.1, 0.1],  # marks and labels at one place must not fail
            "p99_ms": [0.2] * 4,
            "kept@10": [0.9] * 4,
        }
    )
    pairs = [(document, query) for document in documents for query in ("1", "1/2")]
    granularities = pd.DataFrame(pairs, columns=["document", "query"])
    granularities = granularities.assign(**{"ndcg@10": grade, "recall@10": 0.9})
    return QualityReport(20, judged, rows, funnels, granularities)


def sets(*, widths: tuple[str, ...] = ("1", "1/8"), peers: bool = True) -> SetReport:
    pairs = [(widths[0], query) for query in widths] + [(width, width) for width in widths[1:]]
    retrieval: list[list[object]] = [
        ["<one>", "chunks", document, query, str(dim), dim, None, 0.5, 0.9]
        for document, query in pairs
        for dim in (64, 128)
    ]
    sts: list[list[object]] = [
        ["stsb", width, str(dim), dim, 0.8] for width in widths for dim in (64, 128)
    ]
    if peers:
        retrieval.append(["<one>", None, None, None, "BM25", None, None, 0.6, 0.9])
        sts.append(["stsb", None, "MiniLM-L6", None, 0.7])
    tables = [
        pd.DataFrame(rows, columns=columns, dtype=object)
        for rows, columns in (
            ([["<one>", 10, 5]], SET_COLUMNS),
            (retrieval, RETRIEVAL_COLUMNS),
            (sts, STS_COLUMNS),
        )
    ]
    return SetReport("weights-a", *tables)


@pytest.mark.parametrize("peers", [True, False])
@pytest.mark.parametrize("widths", [("1", "1/2", "1/4", "1/8"), ("1/8",)])
def test_evaluation_sets_have_a_plot_for_each_measure(widths: tuple[str, ...], peers: bool) -> None:
    text = sets_page(sets(widths=widths, peers=peers))
    page = Page(text)
    assert page.tags.count("svg") == page.tags.count("table") == 2
    assert f"documents {widths[0]}, queries {widths[-1]}" in text
    assert ("of BM25" in text) == peers
    assert "&lt;one&gt;" in text and "<one>" not in text
    assert not {"script", "img", "link", "iframe"} & set(page.tags)


class Page(HTMLParser):
    """Collects tags, links to elsewhere, and what is written in each heading."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.mark.parametrize("judged", [True, False])
def test_the_page_has_every_plot_and_its_figures(storage: StorageReport, judged: bool) -> None:
    text = report_page(storage, quality(judged=judged))
    page = Page(text)
    assert page.tags.count("svg") == page.tags.count("table") == 4
    for title in ("Storage by dim", "Quality by dim", "latency and storage", "Granularity of"):
        assert title in text
    assert ("nDCG@10" in text) == judged
    assert "100 chunks" in text
    assert "20 " in text


def test_storage_alone(storage: StorageReport) -> None:
    assert Page(report_page(storage)).tags.count("svg") == 1


def test_the_page_needs_nothing_from_elsewhere(storage: StorageReport) -> None:
    text = report_page(storage, quality(judged=True))
    page = Page(text)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not [link for link in page.links if not link.startswith("#")]
    assert "@import" not in text
    assert not re.findall(r"url\((?!['\"]?#)", text)


def test_all_colours_come_from_the_style_sheet(storage: StorageReport) -> None:
    """Catch: a plot that is black on black on a dark page."""
    text = report_page(storage, quality(judged=True))
    style, plots = text.split("</style>", 1)
    assert set(re.findall(r"#[0-9a-f]{6}\b", plots)) <= {"#ffffff"}
    assert {name for name in re.findall(r"var\((--\w+)\)", plots)} <= set(
        re.findall(r"(--\w+):", style)
    )


def test_a_matrix_with_one_row_of_documents(storage: StorageReport) -> None:
    text = report_page(storage, quality(judged=True, documents=("1/2",)))
    assert "1/2" in text


def test_the_same_report_gives_the_same_page(storage: StorageReport) -> None:
    pages = {report_page(storage, quality(judged=True)) for _ in range(2)}
    assert len(pages) == 1


def test_titles_are_escaped(storage: StorageReport) -> None:
    text = report_page(storage, title="<script>alert(1)</script>")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_without_matplotlib_the_extra_is_named(
    storage: StorageReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"adaptive-search\[plot\]"):
        report_page(storage)
