from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def build(kit: Any, path: Path, *, foreign: bool = False) -> Any:
    """Five small segments, with deleted and replaced documents."""
    store = kit.create(path, foreign=foreign)
    for version, names in enumerate(["abc", "de", "f", "ag", "h"]):
        with store.writer() as writer:
            for name in names:
                kit.add(writer, name, 2, version=version, foreign=foreign)
    with store.writer() as writer:
        writer.delete_documents(["d", "f"])
    return kit.open(path)


def test_compaction_keeps_rows_order_and_vectors(tmp_path: Path, kit: Any) -> None:
    for foreign in (False, True):
        store = build(kit, tmp_path / f"i{foreign}", foreign=foreign)
        before = list(kit.contents(store).items())
        assert store.compact() == store.manifest.generation + 1
        after = kit.open(store.path)
        assert list(kit.contents(after).items()) == before
        assert len(after.segments) == 1 and after.segments[0].live is None
        report = after.verify()
        assert report.ok and report.orphans == () and after.status().deleted == 0


def test_a_second_compaction_has_nothing_to_do(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i")
    assert store.compact() == store.compact()


def test_full_segments_without_deletions_stay(
    tmp_path: Path, kit: Any, small_segments: Any
) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        for name in "abcdefghij":
            kit.add(writer, name, 2)
        writer.commit()
        writer.delete_documents(["e"])
    before = kit.open(store.path)
    names = [segment.name for segment in before.segments]
    order = list(kit.contents(before))
    store.compact()
    after = kit.open(store.path)
    kept = [segment.name for segment in after.segments]
    assert [name for name in kept if name in names] == [names[0], names[1], names[3], names[4]]
    assert list(kit.contents(after)) == order


def test_a_cut_document_becomes_one_again(tmp_path: Path, kit: Any, small_segments: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 5)
        kit.add(writer, "b", 3)
        kit.add(writer, "huge", 11)
        writer.commit()
        writer.delete_documents(["a"])
    before = list(kit.contents(kit.open(store.path)).items())
    store.compact()
    after = kit.open(store.path)
    assert list(kit.contents(after).items()) == before
    assert after.verify().ok and after.status().documents == 2


def test_readers_and_writers_go_on_after_compaction(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "new", 1)
        writer.compact()
        kit.add(writer, "new", 2, version=5)
        writer.delete_documents(["h"])
    after = kit.open(store.path)
    assert [row.chunk_id for row, _ in kit.contents(after).values()] == (
        ["b#0", "b#1", "c#0", "c#1", "e#0", "e#1", "a#0", "a#1", "g#0", "g#1", "new#0", "new#1"]
    )
    assert after.verify().ok


def test_many_commits_leave_few_segments(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    most = 0
    with store.writer() as writer:
        for number in range(120):
            kit.add(writer, f"d{number % 60}", 1, version=number)
            writer.commit()
            most = max(most, len(writer.segments))
    store = kit.open(store.path)
    assert most <= 24
    assert sorted(store.verify().problems + store.verify().orphans) == []
    texts = kit.texts(store)
    assert texts == [f"d{number % 60} v{number} chunk 0 é" for number in range(60, 120)]


def test_mostly_deleted_segments_are_rewritten(
    tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptive_search.compaction.MIN_DEAD_ROWS", 3)
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        for name in "abcd":
            kit.add(writer, name, 2)
        writer.commit()
        writer.delete_documents("ab")
        writer.commit()
        assert writer.segments[0].rows == 8  # half is not most
        writer.delete_documents("c")
        writer.commit()
        assert writer.segments[0].rows == 2
    assert list(kit.contents(kit.open(store.path))) == ["d#0", "d#1"]


def test_tidying_waits_for_space(tmp_path: Path, kit: Any) -> None:
    class FullIO(kit.QuickIO):  # type: ignore[misc, name-defined]
        def free_bytes(self, path: Path) -> int:
            return 0

    kit.create(tmp_path / "i")
    with kit.open(tmp_path / "i", FullIO()).writer() as writer:
        for name in "abcdefghijkl":
            kit.add(writer, name, 1)
            writer.commit()
        assert len(writer.segments) == 12
    with kit.open(tmp_path / "i").writer() as writer:
        pass
    assert len(kit.open(tmp_path / "i").segments) == 1
