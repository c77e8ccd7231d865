"""Mending an index: drop its damaged caches and, when told to, its damaged segments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from adaptive_search.arrow_files import damaged, map_file
from adaptive_search.errors import StoreError, StoreFormatError
from adaptive_search.manifest import (
    DOCUMENTS_FILE,
    MAX_SEGMENT_ROWS,
    Manifest,
    SegmentEntry,
    read_manifest,
)
from adaptive_search.publisher import Publisher
from adaptive_search.segment import SEGMENTS, Segment, read_documents, read_live
from adaptive_search.segment_writer import SEGMENT_ROWS
from adaptive_search.storage_io import (
    FileEntry,
    StorageIO,
    disk_errors,
    remove_directory,
    writer_lock,
)
from adaptive_search.verification import IndexCheck


@dataclass(frozen=True)
class LostSegment:
    """A segment that was left out of the index.

    document_ids are those of the live documents with chunks in it, or None where the table that
    names them is damaged as well.
    """

    name: str
    rows: int  # live
    document_ids: tuple[str, ...] | None


@dataclass(frozen=True)
class RepairReport:
    """What a repair found and did."""

    path: Path
    generation: int
    problems: tuple[str, ...]  # found and mended; each names the file and the rule it breaks
    lost: tuple[LostSegment, ...]
    cut_document_ids: tuple[str, ...]  # sound chunks of these went too, as other ones are lost
    cut_rows: int  # such chunks
    damaged_caches: tuple[str, ...]  # removed

    @property
    def rows_lost(self) -> int:
        """Chunks that were live before."""
        return sum(segment.rows for segment in self.lost) + self.cut_rows


def repair_index(
    root: Path, *, drop_damaged: bool = False, wait: bool = False, io: StorageIO | None = None
) -> RepairReport:
    """Check every byte of an index and mend what can be mended, in one commit.

    Damaged caches and leftovers are removed. The next search rebuilds the lists of a segment's
    rows; without `lists.bin` it scans all codes, until a plan is made again. An index whose files
    were touched since its last commit, as by copying it, is committed again, so that readers need
    not hash them any more.

    Args:
        root: the index directory.
        drop_damaged: leave damaged segments out of the index, with all documents that have a
            part in them. The next `index` run adds these documents again.
        wait: wait for another writer instead of refusing at once.
        io: the disk.

    Raises:
        StoreError: the directory is no index, is being written to, or the disk refuses.
        StoreFormatError: the manifest is damaged; or segments are, and drop_damaged is False.
    """
    io = io or StorageIO()
    with writer_lock(root, wait=wait), disk_errors("repair", root):
        manifest = read_manifest(root)
        check = IndexCheck(root, deep=True)
        check.run(manifest)
        sound = {segment.name for segment in check.sound}
        lost = [_lose(root, entry) for entry in manifest.segments if entry.name not in sound]
        if check.problems and not (lost and drop_damaged):
            raise StoreFormatError(_refusal(root, check.problems, lost))
        publisher = Publisher(root, manifest, check.sound, io)
        try:
            return _mend(publisher, check, lost)
        finally:
            with suppress(OSError, StoreError):  # what is left, the next writer removes
                publisher.discard()


def _mend(publisher: Publisher, check: IndexCheck, lost: Sequence[LostSegment]) -> RepairReport:
    manifest = publisher.manifest
    cut = _cut_documents(manifest, {segment.name: segment for segment in check.sound}, lost)
    live = sum(segment.entry.live_rows for segment in check.sound)
    for document_id in cut:
        publisher.bury(document_id)
    if lost or any(segment.touched_ns >= manifest.committed_ns for segment in check.sound):
        publisher.publish(check.sound)
    for cache in check.damaged_caches:
        with suppress(FileNotFoundError):  # gone with its segment
            remove_directory(publisher.io, Path(cache))
    left = sum(segment.entry.live_rows for segment in publisher.segments)
    return RepairReport(
        path=publisher.root,
        generation=publisher.manifest.generation,
        problems=tuple(check.problems),
        lost=tuple(lost),
        cut_document_ids=tuple(cut),
        cut_rows=live - left,
        damaged_caches=tuple(check.damaged_caches),
    )


def _refusal(root: Path, problems: Sequence[str], lost: Sequence[LostSegment]) -> str:
    if not lost:
        return f"{problems[0]}; this cannot be repaired"
    rows = sum(segment.rows for segment in lost)
    return (
        f"{root} has {len(lost)} damaged segments with {rows:,} chunks; the first problem: "
        f"{problems[0]}; or drop these segments with drop_damaged=True (--drop-damaged)"
    )


def _lose(root: Path, entry: SegmentEntry) -> LostSegment:
    try:
        ids = tuple(_live_ids(root / SEGMENTS / entry.name, entry))
    except StoreFormatError:
        return LostSegment(entry.name, entry.live_rows, None)
    return LostSegment(entry.name, entry.live_rows, ids)


def _live_ids(directory: Path, entry: SegmentEntry) -> Iterator[str]:
    buffer = _map_sound(directory / DOCUMENTS_FILE, entry.files[DOCUMENTS_FILE])
    documents = read_documents(buffer, entry, directory)
    live = np.ones(entry.rows, np.bool_)
    if entry.tombstones:
        buffer = _map_sound(directory / entry.tombstones.file, entry.tombstones.entry)
        live = read_live(buffer, entry, directory)
    for document_id, row in zip(
        documents.column("document_id").to_pylist(),
        documents.column("first_row").to_pylist(),
        strict=True,
    ):
        if live[row]:
            yield document_id


def _map_sound(path: Path, entry: FileEntry) -> pa.Buffer:
    buffer, _ = map_file(path, entry)
    if hashlib.sha256(buffer).hexdigest() != entry.sha256:
        raise damaged(path, "does not match its checksum in the manifest")
    return buffer


def _cut_documents(
    manifest: Manifest, sound: dict[str, Segment], lost: Sequence[LostSegment]
) -> list[str]:
    """Live documents with a part in a lost segment and another in a sound one beside it."""
    names = [entry.name for entry in manifest.segments]
    cut: dict[str, None] = {}
    for segment in lost:
        at = names.index(segment.name)
        before = sound.get(names[at - 1]) if at else None
        after = sound.get(names[at + 1]) if at + 1 < len(names) else None
        if before is not None and before.live_documents()[-1] and _goes_on(before, segment):
            cut[before.document_ids()[-1]] = None
        if after is not None and after.live_documents()[0] and after.first_ordinal:
            cut[after.document_ids()[0]] = None
    return list(cut)


def _goes_on(before: Segment, lost: LostSegment) -> bool:
    """Whether the last document of a segment may go on in a lost one."""
    last = before.document_ids()[-1]
    if lost.document_ids is not None:
        return last in lost.document_ids
    _, counts = before.document_rows()
    # A writer cuts only a document that began before SEGMENT_ROWS and fills the segment.
    return bool(counts[-1] > MAX_SEGMENT_ROWS - SEGMENT_ROWS)
