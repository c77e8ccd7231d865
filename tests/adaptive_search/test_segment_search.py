"""Shortlists kept beside segments, and filters, over a store with enough rows to have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adaptive_search import segment_search
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.index import AdaptiveIndex
from adaptive_search.shortlist_cache import CACHE_FILE

ROWS = 40
WORDS = "plants store energy light leaf cell water sun green heat".split()


@pytest.fixture
def index(tmp_path: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> AdaptiveIndex:
    """An index whose segments have shortlists, although it is small."""
    monkeypatch.setattr(segment_search, "MIN_SHORTLIST_ROWS", 8)
    created = AdaptiveIndex.create(tmp_path / "index", encoder=tiny_encoder, threads=1)
    texts = [f"{WORDS[n % 10]} {WORDS[n // 10]} {n}" for n in range(ROWS)]
    created.add_texts(texts, metadata=[{"even": n % 2 == 0, "n": n} for n in range(ROWS)])
    return created


def answer(index: AdaptiveIndex, **options: Any) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in index.search("plants and light", 5, **options)]


def cache(index: AdaptiveIndex) -> Path:
    return index.path / "segments" / index.store.segments[0].name / CACHE_FILE


def reopened(index: AdaptiveIndex) -> AdaptiveIndex:
    return AdaptiveIndex.open(index.path, encoder=index.encoder, threads=1)


def test_the_shortlist_is_kept_and_used(
    index: AdaptiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache(index).is_file()
    expected = answer(index, shortlist=20)
    monkeypatch.setattr("adaptive_search.indexes.shortlist.Shortlist.build", None)
    again = reopened(index)
    assert answer(again, shortlist=20) == expected
    assert [stage.name for stage in again.search("x", 5, shortlist=20).stages] == [
        "shortlist",
        "rerank",
    ]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "folder", "foreign"])
def test_a_damaged_shortlist_is_rebuilt(index: AdaptiveIndex, damage: str) -> None:
    expected, path = answer(index, shortlist=20), cache(index)
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-10])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "folder":
        path.mkdir()
    elif damage == "foreign":
        path.write_bytes(b"something else of a fair length, " * 10)
    again = reopened(index)
    assert answer(again, shortlist=20) == expected
    assert again.verify().ok
    if damage != "folder":
        assert cache(again).read_bytes() != b"" and not again.verify().damaged_caches


def test_a_whole_shortlist_is_the_exact_answer(index: AdaptiveIndex) -> None:
    for dim in index.dims:
        assert answer(index, dim=dim, shortlist=ROWS) == answer(index, dim=dim, exact=True)


def test_filters_hold_in_every_path_of_the_funnel(index: AdaptiveIndex) -> None:
    index.delete(["0", "1"])
    for options in ({"exact": True}, {"shortlist": 6}, {"shortlist": 1000}):
        found = index.search("plants", 5, filter={"even": True}, **options)
        assert len(found) == 5
        assert all(hit.metadata["even"] and hit.document_id != "0" for hit in found)
    few = index.search("plants", 5, filter={"n": [0, 2, 4]}, shortlist=5)
    assert {hit.document_id for hit in few} == {"2", "4"}


def test_no_shortlist_below_the_limit(
    index: AdaptiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer(index, exact=True)
    monkeypatch.setattr(segment_search, "MIN_SHORTLIST_ROWS", ROWS + 1)
    monkeypatch.setattr("adaptive_search.indexes.shortlist.Shortlist.from_bytes", None)
    assert answer(reopened(index), shortlist=ROWS) == expected
