"""Widths for a corpus: what is read of it, what is reported, and stopping early."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptive_search.encoder import width_search
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.encoder.granularity import parse_granularity
from adaptive_search.errors import CorpusError, QueryError
from adaptive_search.width_report import report_widths


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.md").write_text("# Light\n\nplants store energy of the sun\n")
    (folder / "b.txt").write_text("water " * 5000)
    (folder / "c.bin").write_bytes(bytes(100))
    return folder


def test_a_report(corpus: Path, tiny_encoder: Encoder) -> None:
    counts: list[int] = []
    found = report_widths(corpus, tiny_encoder, 0.6, report=counts.append)
    assert counts == [1, 2, 3, 4]  # one layer, four widths
    assert found.measured == 4 and not found.interrupted
    assert found.passages == width_search.SAMPLE_TEXTS
    assert [mix.granularity for mix in found.uniform] == [1, 2, 4, 8]
    assert found.mixes[-1].granularity == 1 and found.best.cost <= 0.6
    record = json.loads(json.dumps(found.to_dict()))
    assert record["best"]["granularity"] in ("1/2", "1/4", "1/8")
    assert list(record["best"]["cosines"]) == [str(dim) for dim in tiny_encoder.dims]
    for mix in record["mixes"]:
        tiny_encoder.encode("sun", granularity=parse_granularity(mix["granularity"]))
    text = found.to_text()
    assert "best within 60% of the compute: --granularity 1/" in text
    assert "cosine at 64  cosine at 512  cosine at 1536" in text


def test_one_small_file(tmp_path: Path, tiny_encoder: Encoder) -> None:
    (tmp_path / "a.txt").write_text("sun")
    assert report_widths(tmp_path / "a.txt", tiny_encoder, 1).passages == 1


def test_corpora_without_text(tmp_path: Path, tiny_encoder: Encoder) -> None:
    with pytest.raises(CorpusError, match="missing"):
        report_widths(tmp_path / "missing", tiny_encoder, 0.5)
    (tmp_path / "c.bin").write_bytes(bytes(100))
    with pytest.raises(CorpusError, match="holds no text"):
        report_widths(tmp_path, tiny_encoder, 0.5)


def test_a_budget_below_all(corpus: Path, tiny_encoder: Encoder) -> None:
    with pytest.raises(QueryError, match=r"at most 1.0% of the full width; the least is \d"):
        report_widths(corpus, tiny_encoder, 0.01)


def stop_after(count: int) -> Callable[..., Iterator[width_search.Mix]]:
    search = width_search.search_widths

    def stopped(*given: Any, **options: Any) -> Iterator[width_search.Mix]:
        for done, mix in enumerate(search(*given, **options)):
            if done == count:
                raise KeyboardInterrupt
            yield mix

    return stopped


def test_stopped_early(
    corpus: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(width_search, "search_widths", stop_after(2))
    found = report_widths(corpus, tiny_encoder, 1)
    assert found.interrupted and found.measured == 2
    assert [mix.granularity for mix in found.uniform] == [1, 2]
    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(width_search, "search_widths", stop_after(0))
        report_widths(corpus, tiny_encoder, 1)
