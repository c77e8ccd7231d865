from __future__ import annotations

from pathlib import Path
from typing import Any


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
