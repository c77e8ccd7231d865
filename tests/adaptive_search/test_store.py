from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_search.errors import (
    DimensionError,
    ModelMismatchError,
    StoreError,
    StoreFormatError,
    StoreLockedError,
)
from adaptive_search.lists_cache import CACHE_FILE, read_cache
from adaptive_search.storage_io import StorageIO
from adaptive_search.store import Store


def test_round_trip_through_several_commits(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "deep" / "i")
    assert store.manifest.generation == 0 and store.segments == ()
    with store.writer() as writer:
        kit.add(writer, "a", 2)
        kit.add(writer, "b", 1)
        assert writer.commit() == 1
        kit.add(writer, "c", 1)
        writer.set_attributes({"corpus": "docs"})
    store = kit.open(store.path)
    assert store.manifest.generation == 2
    assert list(kit.contents(store)) == ["a#0", "a#1", "b#0", "c#0"]
    assert store.attributes == {"corpus": "docs"}
    assert store.spec == kit.spec()


def test_create_needs_a_vacant_directory(tmp_path: Path, kit: Any) -> None:
    kit.create(tmp_path / "i")
    with pytest.raises(StoreError, match="is an index already"):
        kit.create(tmp_path / "i")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"not empty.*thesis\.tex"):
        kit.create(tmp_path / "used")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot create"):
        kit.create(tmp_path / "file")


def test_nothing_changed_makes_no_generation(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 1)
    with store.writer() as writer:
        writer.append([], kit.vectors(0), {})
        assert writer.delete_documents(["unknown"]) == 0
        assert writer.commit() == 1
    assert kit.open(store.path).manifest.generation == 1


def test_known_documents_tell_what_changed_and_what_vanished(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        for name in "abcd":
            kit.add(writer, name, 2, version=1)
    with store.writer() as writer:
        writer.delete_documents(["d"])
        known = writer.known_documents()
        assert len(known) == 3 and list(known) == ["a", "b", "c"]
        assert known.pop("b") == bytes([1]) * 16
        assert known.pop("b") is None and known.pop("d") is None and known.pop("x") is None
        assert writer.delete_documents(known) == 2
    assert list(kit.contents(kit.open(store.path))) == ["b#0", "b#1"]


def test_a_document_replaces_the_one_of_its_id_in_one_commit(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 2, version=1)
        kit.add(writer, "b", 1, version=1)
        kit.add(writer, "a", 1, version=2)
    assert kit.texts(kit.open(store.path)) == ["b v1 chunk 0 é", "a v2 chunk 0 é"]
    with store.writer() as writer:
        kit.add(writer, "b", 2, version=3)
        assert kit.texts(kit.open(store.path)) == ["b v1 chunk 0 é", "a v2 chunk 0 é"]
    store = kit.open(store.path)
    assert kit.texts(store) == ["a v2 chunk 0 é", "b v3 chunk 0 é", "b v3 chunk 1 é"]
    assert store.verify().ok


def test_deletion_reaches_what_was_appended_before_it(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 1, version=1)
        kit.add(writer, "b", 1, version=1)
        writer.delete_documents(["a", "b"])
        kit.add(writer, "b", 1, version=2)
    store = kit.open(store.path)
    assert kit.texts(store) == ["b v2 chunk 0 é"]
    with store.writer() as writer:
        writer.delete_documents(["b"])
    store = kit.open(store.path)
    assert store.segments == () and kit.texts(store) == [] and store.verify().ok


def test_an_error_discards_only_what_was_not_committed(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), store.writer() as writer:
            kit.add(writer, "a", 1)
            writer.commit()
            kit.add(writer, "b", 1)
            raise error
        store = kit.open(store.path)
        assert kit.texts(store) == ["a v0 chunk 0 é"]
        assert store.verify().orphans == ()


def test_refused_rows_leave_the_writer_usable(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 1)
        with pytest.raises(ValueError, match="finite"):
            writer.append(kit.rows("b", 1), kit.vectors(1) * np.nan, {"b": b"h" * 16})
        kit.add(writer, "c", 1)
    assert list(kit.contents(kit.open(store.path))) == ["a#0", "c#0"]


def test_a_closed_writer_says_so(tmp_path: Path, kit: Any) -> None:
    with kit.create(tmp_path / "i").writer() as writer:
        pass
    with pytest.raises(StoreError, match="closed; open another"):
        writer.commit()


def test_unfinished_document_waits_and_goes_on(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 2)
        kit.add(writer, "b", 3, version=1)
    with store.writer() as writer:
        kit.add(writer, "c", 1)
        kit.add(writer, "b", 2, version=2)
        assert writer.commit(complete=False) == 2
        # The new text of b is not whole yet, so the old one still stands.
        assert list(kit.contents(kit.open(store.path))) == ["a#0", "a#1", *BEFORE, "c#0"]
        assert writer.commit(complete=False) == 2
        kit.add(writer, "b", 2, version=2, first=2)
        kit.add(writer, "d", 1)
    store = kit.open(store.path)
    assert list(kit.contents(store)) == [*AFTER, "b#0", "b#1", "b#2", "b#3", "d#0"]
    assert "b v2 chunk 3 é" in kit.texts(store) and store.verify().ok


BEFORE = ["b#0", "b#1", "b#2"]
AFTER = ["a#0", "a#1", "c#0"]


def test_interrupt_keeps_whole_documents_only(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with pytest.raises(KeyboardInterrupt), store.writer() as writer:
        try:
            kit.add(writer, "a", 2)
            kit.add(writer, "b", 2)
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            writer.commit(complete=False)
            raise
    store = kit.open(store.path)
    assert list(kit.contents(store)) == ["a#0", "a#1"]
    with store.writer() as writer:
        assert list(writer.known_documents()) == ["a"]


def test_full_segments_are_committed_between_documents(
    tmp_path: Path, kit: Any, small_segments: Any
) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        for name in "abcdef":
            kit.add(writer, name, 3)
        assert writer.generation == 2
    store = kit.open(store.path)
    assert [segment.rows for segment in store.segments] == [6, 6, 6]
    assert store.verify().ok


def test_one_call_may_fill_many_segments(tmp_path: Path, kit: Any, small_segments: Any) -> None:
    store = kit.create(tmp_path / "i")
    rows = [row for name in "abcdefgh" for row in kit.rows(name, 3)]
    hashes = {row.document_id: b"h" * 16 for row in rows}
    with store.writer() as writer:
        writer.append(rows, kit.vectors(24), hashes)
    store = kit.open(store.path)
    assert list(kit.contents(store)) == [row.chunk_id for row in rows]
    assert [segment.rows for segment in store.segments] == [6, 6, 6, 6]


def test_a_huge_document_spans_segments_and_comes_at_once(
    tmp_path: Path, kit: Any, small_segments: Any
) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 3)
        kit.add(writer, "huge", 10)
        assert writer.generation == 0
        kit.add(writer, "huge", 10, first=10)
        assert writer.commit(complete=False) == 0
        kit.add(writer, "huge", 1, first=20)
        kit.add(writer, "b", 2)
    store = kit.open(store.path)
    assert [segment.rows for segment in store.segments] == [8, 8, 8, 2]
    assert len(kit.contents(store)) == 26 and store.verify().ok
    assert store.status().documents == 3
    with store.writer() as writer:
        assert list(writer.known_documents()) == ["a", "huge", "b"]
        assert writer.delete_documents(["huge"]) == 1
    store = kit.open(store.path)
    assert list(kit.contents(store)) == ["a#0", "a#1", "a#2", "b#0", "b#1"]
    assert len(store.segments) == 2 and store.verify().ok


def test_open_reader_is_not_disturbed(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 300)
        kit.add(writer, "b", 2)
        writer.commit()
        writer.delete_documents(["b"])
    early, untouched = kit.open(store.path), kit.open(store.path)
    before = kit.contents(early)
    with store.writer() as writer:
        kit.add(writer, "a", 1, version=2)
        writer.compact()
    assert kit.contents(early) == before
    shutil.rmtree(store.path)
    assert kit.contents(untouched) == before


def test_opening_retries_when_a_writer_moves_on(
    tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kit.create(tmp_path / "i")
    for name in "ab":
        with store.writer() as writer:
            kit.add(writer, name, 1)
    stale = kit.open(store.path).manifest
    store.compact()
    manifests = iter([stale])
    read = Store.__init__.__globals__["read_manifest"]
    monkeypatch.setattr(
        "adaptive_search.store.read_manifest", lambda root: next(manifests, None) or read(root)
    )
    assert list(kit.contents(kit.open(store.path))) == ["a#0", "b#0"]


def test_two_writers_exclude_each_other_and_readers_do_not(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        with pytest.raises(StoreLockedError), kit.open(store.path).writer():
            pass
        kit.add(writer, "a", 1)
    with store.writer(wait=True) as writer:
        assert writer.generation == 1


def test_a_writer_continues_from_the_latest_generation(tmp_path: Path, kit: Any) -> None:
    stale = kit.create(tmp_path / "i")
    for name in "ab":
        with stale.writer() as writer:
            kit.add(writer, name, 1)
    assert list(kit.contents(kit.open(stale.path))) == ["a#0", "b#0"]


def test_reading_needs_no_write_permission(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 1)
    io = kit.FailingIO(0, lasting=True)
    store = Store.open(store.path, io=io)
    kit.contents(store)
    assert store.verify().ok and store.status().rows == 1
    assert io.calls == []


def test_shipped_without_upper_bands(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    for name in "ab":
        with store.writer() as writer:
            kit.add(writer, name, 2)
    full = kit.open(store.path)
    size = full.disk_usage()
    for segment in full.segments:
        (segment.directory / "band_0016.arrow").unlink()
    store = kit.open(store.path)
    assert store.dims == (4, 8) and store.verify().ok
    assert store.disk_usage() == size | {"band_0016": 0}
    assert store.segments[0].band(1).shape == (2, 4)
    for search in (lambda: store.segments[0].band(2), lambda: store.export(16, "x.arrow")):
        with pytest.raises(DimensionError, match=r"dim=16 .* 4, 8"):
            search()
    assert store.export(8, tmp_path / "x.arrow") == 4
    with pytest.raises(StoreError, match="without its bands above 8"), store.writer():
        pass


@pytest.mark.parametrize("name", ["band_0004.arrow", "band_0008.arrow", "band_0016.arrow"])
def test_a_band_missing_from_one_segment_is_damage(tmp_path: Path, kit: Any, name: str) -> None:
    store = kit.create(tmp_path / "i")
    for document in "ab":
        with store.writer() as writer:
            kit.add(writer, document, 2)
    for segment in kit.open(store.path).segments:
        (segment.directory / name).rename(tmp_path / "aside")
        with pytest.raises(StoreFormatError, match=name):
            kit.open(store.path)
        assert not store.verify(deep=False).ok
        (tmp_path / "aside").rename(segment.directory / name)
    kit.open(store.path)


def test_a_file_touched_since_the_commit_is_hashed_before_use(tmp_path: Path, kit: Any) -> None:
    """Of the same size, and with an older time of change than the file it replaces."""
    for name, version in (("i", 1), ("other", 2)):
        with kit.create(tmp_path / name).writer() as writer:
            kit.add(writer, "a", 300, version=version)
    store, other = (kit.open(tmp_path / name) for name in ("i", "other"))
    for name in ("band_0008.arrow", "chunks.arrow"):
        kept = store.segments[0].directory / name
        moved = other.segments[0].directory / name
        os.utime(moved, (0, 0))
        moved.replace(kept)
        damaged = kit.open(store.path).segments[0]
        damaged.band(0)
        read = damaged.chunks if name == "chunks.arrow" else damaged.band
        with pytest.raises(StoreFormatError, match=rf"{name} does not match its checksum"):
            read([1] if name == "chunks.arrow" else 1)


def test_untouched_files_are_not_hashed(
    tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 2)
        writer.commit()
        time.sleep(0.05)  # longer than the clock of any file system takes to move on
        writer.set_attributes({"name": "value"})
    hashed = []
    real = hashlib.sha256

    def observed(data: Any) -> Any:
        hashed.extend([] if isinstance(data, bytes) else [data])  # the manifest is bytes
        return real(data)

    monkeypatch.setattr(hashlib, "sha256", observed)
    segment = kit.open(store.path).segments[0]
    segment.band(0), segment.band(1), segment.chunks([0, 1])
    assert hashed == []
    (segment.directory / "chunks.arrow").touch()
    kit.open(store.path).segments[0].chunks([0, 1])
    assert len(hashed) == 1


def test_segments_that_stayed_are_not_mapped_again(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    for name in ("a", "b", "c"):
        with store.writer() as writer:
            kit.add(writer, name, 2)
        before, store = store, store.reopened()
        assert store.segments[:-1] == before.segments
    with store.writer() as writer:
        kit.add(writer, "a", 2, version=1)  # replaces a whole segment
        kit.add(writer, "b", 1, version=1)
        writer.delete_documents(["c"])
    assert store.reopened().segments[0] not in store.segments
    assert kit.contents(store.reopened()).keys() == {"a#0", "a#1", "b#0"}


def test_a_segment_that_was_touched_is_mapped_again(tmp_path: Path, kit: Any) -> None:
    with kit.create(tmp_path / "i").writer() as writer:
        kit.add(writer, "a", 300)
    store = kit.open(tmp_path / "i")
    chunks = store.segments[0].directory / "chunks.arrow"
    data = bytearray(chunks.read_bytes())
    data[len(data) // 2] ^= 1
    time.sleep(0.05)  # longer than the clock of any file system takes to move on
    chunks.write_bytes(data)
    for other in (store.reopened(), kit.open(store.path)):
        with pytest.raises(StoreFormatError, match="does not match its checksum"):
            other.segments[0].chunks([1])
    with pytest.raises(StoreFormatError, match="does not match its checksum"):  # never vouched for
        with store.writer() as writer:
            kit.add(writer, "b", 1)
    chunks.unlink()
    with pytest.raises(StoreFormatError, match="cannot be read"):
        store.reopened()


def test_a_copy_without_its_empty_directory_can_be_written(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    (store.path / "segments").rmdir()
    assert kit.open(store.path).verify().ok
    with kit.open(store.path).writer() as writer:
        kit.add(writer, "a", 1)
    assert kit.texts(kit.open(store.path)) == ["a v0 chunk 0 é"]


def test_a_commit_that_may_not_last_removes_nothing(tmp_path: Path, kit: Any) -> None:
    """A power cut could bring the manifest before it back, which needs its files."""

    class NeverLastingIO(kit.QuickIO):  # type: ignore[misc, name-defined]
        replaced = False

        def replace(self, source: Path, target: Path) -> None:
            super().replace(source, target)
            self.replaced = True

        def fsync_directory(self, path: Path) -> None:
            if self.replaced:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 2)
        kit.add(writer, "b", 2)
        writer.commit()
        writer.delete_documents(["a"])
    before = (store.path / "MANIFEST.json").read_bytes()
    contents = kit.contents(kit.open(store.path))
    with pytest.raises(StoreError, match="error"):
        kit.open(store.path, NeverLastingIO()).compact()
    assert kit.open(store.path).status().deleted == 0
    (store.path / "MANIFEST.json").write_bytes(before)
    assert kit.contents(kit.open(store.path)) == contents
    with kit.open(store.path).writer():
        pass
    report = kit.open(store.path).verify()
    assert report.ok and report.orphans == ()


def test_links_inside_an_index_are_refused(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 2)
    path = kit.open(store.path).segments[0].directory / "chunks.arrow"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreFormatError, match="not a regular file"):
        kit.open(store.path)


def test_fingerprint(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    store.check_fingerprint("weights-a")
    with pytest.raises(ModelMismatchError, match="weights-b"):
        store.check_fingerprint("weights-b")


def test_status_and_usage_add_up(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 3)
        kit.add(writer, "b", 2)
        writer.commit()
        writer.delete_documents(["a"])
    store = kit.open(store.path)
    status = store.status()
    assert (status.rows, status.deleted, status.documents, status.segments) == (2, 3, 1, 1)
    assert status.dims == kit.DIMS and status.generation == 2 and status.tokens == 9
    on_disk = sum(f.stat().st_size for f in store.path.rglob("*") if f.name != "writer.lock")
    directories = [d for d in store.path.rglob("*") if d.is_dir()]
    assert sum(status.bytes.values()) == on_disk - sum(d.stat().st_size for d in directories)
    assert status.bytes["deleted"] > 0 and status.bytes["band_0016"] > 0


def test_too_little_space_is_noticed_before_work(tmp_path: Path, kit: Any) -> None:
    class FullIO(StorageIO):
        def free_bytes(self, path: Path) -> int:
            return 10_000

    store = kit.create(tmp_path / "i")
    for name in "ab":
        with store.writer() as writer:
            kit.add(writer, name, 2)
    store = kit.open(store.path, FullIO())
    with store.writer() as writer:
        writer.check_space(1)
        with pytest.raises(StoreError, match="free some space"):
            writer.check_space(1_000)
    with pytest.raises(StoreError, match="free some space"), store.writer() as writer:
        writer.delete_documents(["a"])
        writer.check_space(10_000)


def test_lists_cache_is_checked_before_use(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    for name in "ab":
        with store.writer() as writer:
            kit.add(writer, name, 2)
    store = kit.open(store.path)
    first, second = store.segments
    assert read_cache(first, key="k") is None
    assert store.write_cache(first, b"payload", key="k")
    assert read_cache(first, key="k") == b"payload"
    assert read_cache(first, key="other") is None
    assert read_cache(first, key="") is None
    shutil.copy(first.directory / CACHE_FILE, second.directory / CACHE_FILE)
    assert read_cache(second, key="k") is None
    report = store.verify()
    assert report.ok and report.damaged_caches == (str(second.directory / CACHE_FILE),)
    path = first.directory / CACHE_FILE
    whole = path.read_bytes()
    for spoiled in (b"", whole[:20], whole[:-1], whole + b"x", b"P" + whole[1:]):
        path.write_bytes(spoiled)
        assert read_cache(first, key="k") is None
        assert len(store.verify(deep=False).damaged_caches) == 2
    with store.writer() as writer:
        assert not store.write_cache(first, b"payload", key="k")
        writer.write_cache(writer.segments[0], b"again", key="k")
    assert read_cache(first, key="k") == b"again"
    assert store.disk_usage()["shortlist"] > 0
    store.compact()
    assert not store.write_cache(first, b"payload", key="k")


READ = """
import sys
from adaptive_search.store import Store
for segment in Store.open(sys.argv[1]).segments:
    segment.band(0), segment.live, segment.chunks([0])
slow = {"pandas", "torch", "filelock", "pyarrow.compute", "pyarrow.parquet"}
print(sorted(slow & sys.modules.keys()))
"""


def test_reading_imports_nothing_slow(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 2)
        kit.add(writer, "b", 2)
        writer.commit()
        writer.delete_documents(["a"])
    command = [sys.executable, "-I", "-c", READ, str(store.path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 1)
    store.path.chmod(0o500)
    try:
        store = kit.open(store.path)
        assert not store.write_cache(store.segments[0], b"x", key="k")
        with pytest.raises(StoreError, match="permissions"), store.writer():
            pass
    finally:
        store.path.chmod(0o700)
