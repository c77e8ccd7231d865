"""Repair: what is sound stays, what is lost is named, and indexing again brings it back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from adaptive_search.errors import StoreError, StoreFormatError, StoreLockedError
from adaptive_search.lists_cache import CACHE_FILE, read_cache
from adaptive_search.repair import LostSegment, repair_index


@pytest.fixture
def index(tmp_path: Path, kit: Any, small_segments: Any) -> Any:
    """Segments of the documents a+b, c+d, huge, huge+e, the second with d deleted."""
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        for name in "abcd":
            kit.add(writer, name, 2)
        kit.add(writer, "huge", 10)
        kit.add(writer, "e", 2)
        writer.commit()
        writer.delete_documents(["d"])
    return kit.open(store.path)


def names(kit: Any, path: Path) -> set[str]:
    return {row.document_id for row, _ in kit.contents(kit.open(path)).values()}


def spoil(store: Any, number: int, name: str) -> None:
    path = store.segments[number].directory / name
    data = path.read_bytes()
    path.unlink()  # the store keeps what it has mapped
    path.write_bytes(data[:-1] + b"x")


def test_a_sound_index_stays_as_it_is(index: Any, kit: Any) -> None:
    repair_index(index.path)  # commits once more if the clock is too coarse to tell
    before = kit.open(index.path)
    report = repair_index(index.path)
    assert (report.problems, report.lost, report.cut_document_ids) == ((), (), ())
    assert (report.rows_lost, report.damaged_caches) == (0, ())
    assert report.generation == before.manifest.generation
    assert kit.contents(kit.open(index.path)) == kit.contents(index)


def test_damaged_segments_are_dropped_only_when_told_to(index: Any, kit: Any) -> None:
    spoil(index, 1, "chunks.arrow")
    with pytest.raises(StoreFormatError, match=r"1 damaged segments with 2 chunks.*chunks\.arrow"):
        repair_index(index.path)
    assert kit.open(index.path).manifest == index.manifest
    report = repair_index(index.path, drop_damaged=True)
    assert report.lost == (LostSegment(index.segments[1].name, 2, ("c",)),)
    assert report.rows_lost == 2 and report.cut_document_ids == ()
    assert len(report.problems) == 1 and "chunks.arrow" in report.problems[0]
    store = kit.open(index.path)
    assert names(kit, index.path) == {"a", "b", "huge", "e"}
    assert store.verify().ok and store.verify().orphans == ()
    assert report.generation == store.manifest.generation == index.manifest.generation + 1
    with store.writer() as writer:
        assert "c" not in list(writer.known_documents())
        kit.add(writer, "c", 2)
    assert kit.contents(kit.open(index.path)) == kit.contents(index)


@pytest.mark.parametrize("number", [2, 3])
def test_a_document_with_a_lost_part_goes_as_a_whole(index: Any, kit: Any, number: int) -> None:
    assert [segment.rows for segment in index.segments] == [4, 4, 8, 4]
    spoil(index, number, "band_0008.arrow")
    report = repair_index(index.path, drop_damaged=True)
    assert report.cut_document_ids == ("huge",)
    assert report.lost[0].document_ids == (("huge",), ("huge", "e"))[number - 2]
    assert report.rows_lost == (10, 12)[number - 2]
    assert names(kit, index.path) == {"a", "b", "c"} | ({"e"} if number == 2 else set())
    assert kit.open(index.path).verify().ok


@pytest.mark.parametrize("name", ["documents", "deleted"])
def test_documents_that_cannot_be_named_are_counted(index: Any, kit: Any, name: str) -> None:
    next(index.segments[1].directory.glob(f"{name}*")).unlink()
    report = repair_index(index.path, drop_damaged=True)
    assert report.lost == (LostSegment(index.segments[1].name, 2, None),)
    assert names(kit, index.path) == {"a", "b", "huge", "e"}


def test_an_unreadable_neighbour_may_hold_the_rest_of_a_document(
    index: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptive_search.repair.SEGMENT_ROWS", 4)
    monkeypatch.setattr("adaptive_search.repair.MAX_SEGMENT_ROWS", 8)
    (index.segments[3].directory / "documents.arrow").unlink()
    report = repair_index(index.path, drop_damaged=True)
    assert report.cut_document_ids == ("huge",) and report.rows_lost == 12
    assert names(kit, index.path) == {"a", "b", "c"}


def test_all_segments_may_be_lost(index: Any, kit: Any) -> None:
    for segment in index.segments:
        shutil.rmtree(segment.directory)
    report = repair_index(index.path, drop_damaged=True)
    assert report.rows_lost == 18 and names(kit, index.path) == set()
    with kit.open(index.path).writer() as writer:
        kit.add(writer, "new", 1)
    assert kit.open(index.path).verify().ok


def test_damaged_caches_and_leftovers_are_removed(index: Any, kit: Any) -> None:
    first, second, *_ = index.segments
    index.write_cache(first, b"payload", key="k")
    (second.directory / CACHE_FILE).mkdir()
    (index.path / "segments" / ".new-000009").mkdir()
    assert repair_index(index.path).damaged_caches == (str(second.directory / CACHE_FILE),)
    report = kit.open(index.path).verify()
    assert report.damaged_caches == report.orphans == ()
    assert read_cache(first, key="k") == b"payload"
    assert index.write_cache(second, b"rebuilt", key="k")


def test_a_copy_is_hashed_once_and_committed_again(index: Any, kit: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(index.path / "segments", copy / "segments")
    shutil.copy(index.path / "MANIFEST.json", copy)
    for path in copy.rglob("*.arrow"):
        os.utime(path)
    generation = kit.open(copy).manifest.generation
    assert repair_index(copy).generation == generation + 1
    assert kit.contents(kit.open(copy)) == kit.contents(index)


def test_what_cannot_be_repaired_says_so(index: Any, kit: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not an index"):
        repair_index(tmp_path)
    with index.writer(), pytest.raises(StoreLockedError):
        repair_index(index.path)
    (index.path / "MANIFEST.json").write_text("{}")
    with pytest.raises(StoreFormatError, match="MANIFEST"):
        repair_index(index.path, drop_damaged=True)
