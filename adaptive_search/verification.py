"""Checking an index on disk against every rule of its format."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from adaptive_search.arrow_arrays import numbers
from adaptive_search.arrow_files import check_checksum, check_file, damaged
from adaptive_search.catalog import document_keys
from adaptive_search.codes_cache import CODES, CODES_FILE
from adaptive_search.errors import StoreFormatError
from adaptive_search.lists_cache import (
    CACHE_FILE,
    LISTS,
    LISTS_FILE,
    has_whole_cache,
    map_checked,
)
from adaptive_search.manifest import (
    CHUNKS_FILE,
    MANIFEST_FILE,
    NORMS_FILE,
    Manifest,
    SegmentEntry,
    read_manifest,
)
from adaptive_search.segment import SEGMENTS, Segment
from adaptive_search.segment_writer import has_weight, prefix_norms
from adaptive_search.storage_io import LOCK_FILE, FileEntry
from adaptive_search.store import present_bands

BLOCK_ROWS = 4096  # rows of a band checked at a time
NORM_TOLERANCE = 1e-5  # of a stored prefix length, relative


@dataclass(frozen=True)
class VerifyReport:
    """What a check of an index found."""

    path: Path
    deep: bool
    generation: int
    dims: tuple[int, ...]  # that can be searched
    segments: int
    rows: int
    deleted: int
    documents: int  # entries of the documents tables, deleted ones included
    files: int  # checked
    bytes: int  # of these files
    problems: tuple[str, ...]  # each names the file, the rule it breaks and the remedy
    damaged_caches: tuple[str, ...]  # not used: searches rebuild them, or do without
    orphans: tuple[str, ...]  # files that belong to no generation; the next writer removes its own
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every search gets the right rows."""
        return not self.problems


def verify_index(root: Path, *, deep: bool = True) -> VerifyReport:
    """Check an index; problems are reported, not raised.

    Args:
        root: the index directory.
        deep: read every byte: checksums, Arrow data, lengths and finiteness of the vectors.
            False checks the manifest, sizes, layouts and the documents tables.

    Raises:
        StoreError: the directory is no index.
        StoreVersionError: a newer program wrote it.
    """
    begin = time.perf_counter()
    while True:
        try:
            manifest = read_manifest(root)
        except StoreFormatError as error:
            return _report(root, None, IndexCheck(root, deep, [str(error)]), begin)
        check = IndexCheck(root, deep)
        check.run(manifest)
        # Files may vanish under a check only if a writer has moved on: then check again.
        if not check.problems or read_manifest(root).generation == manifest.generation:
            return _report(root, manifest, check, begin)


class IndexCheck:
    """One pass over the files of one generation.

    Attributes:
        problems: what is wrong, a line each.
        sound: segments without a problem.
    """

    def __init__(self, root: Path, deep: bool, problems: Sequence[str] = ()) -> None:
        """Begin with problems that are known."""
        self.root = root
        self.deep = deep
        self.problems = list(problems)
        self.sound: list[Segment] = []
        self.damaged_caches: list[str] = []
        self.orphans: list[str] = []
        self.files = self.bytes = self.bands = 0

    def run(self, manifest: Manifest) -> None:
        """Check all that a manifest names."""
        self.bands = len(manifest.spec.dims)
        self._try(lambda: self._count_bands(manifest))
        for entry in manifest.segments:
            known = len(self.problems)
            segment = self._segment(manifest, entry)
            if segment is not None and len(self.problems) == known:
                self.sound.append(segment)
        if not self.problems:
            self._try(lambda: _check_unique(self.root, self.sound))
        self._lists(manifest)
        self.orphans = sorted(_orphans(self.root, manifest))

    def _try(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except StoreFormatError as error:
            self.problems.append(str(error))
            return False
        return True

    def _count_bands(self, manifest: Manifest) -> None:
        self.bands = present_bands(self.root, manifest)

    def _lists(self, manifest: Manifest) -> None:
        for name, key in ((LISTS_FILE, LISTS), (CODES_FILE, CODES)):
            path, checksum = self.root / name, manifest.attributes.get(key, "")
            is_kept = checksum and os.path.lexists(path)
            if is_kept and map_checked(path, checksum, committed_ns=0) is None:
                self.damaged_caches.append(str(path))

    def _segment(self, manifest: Manifest, entry: SegmentEntry) -> Segment | None:
        """Check a segment; gives it if its files are all there."""
        directory = self.root / SEGMENTS / entry.name
        absent = manifest.spec.band_files[self.bands :]
        files = {name: file for name, file in entry.files.items() if name not in absent}
        if entry.tombstones:
            files[entry.tombstones.file] = entry.tombstones.entry
        sound = [
            self._try(partial(self._file, directory / name, file)) for name, file in files.items()
        ]
        self.files += len(files)
        self.bytes += sum(file.bytes for file in files.values())
        if not all(sound):
            return None
        committed_ns = None if self.deep else manifest.committed_ns
        segment = Segment(self.root, entry, manifest.spec, self.bands, committed_ns)
        if self._try(lambda: _check_layout(segment)) and self.deep:
            self._try(lambda: _check_chunks(segment))
            self._try(lambda: _check_vectors(segment))
        cache = segment.directory / CACHE_FILE
        if os.path.lexists(cache) and not has_whole_cache(segment):
            self.damaged_caches.append(str(cache))
        return segment

    def _file(self, path: Path, entry: FileEntry) -> None:
        check_file(path, entry)
        if self.deep:
            check_checksum(path, entry)


def _report(root: Path, manifest: Manifest | None, check: IndexCheck, begin: float) -> VerifyReport:
    entries = manifest.segments if manifest else ()
    rows = sum(entry.rows for entry in entries)
    return VerifyReport(
        path=root,
        deep=check.deep,
        generation=manifest.generation if manifest else 0,
        dims=manifest.spec.dims[: check.bands] if manifest else (),
        segments=len(entries),
        rows=rows,
        deleted=rows - sum(entry.live_rows for entry in entries),
        documents=sum(entry.documents for entry in entries),
        files=check.files,
        bytes=check.bytes,
        problems=tuple(check.problems),
        damaged_caches=tuple(check.damaged_caches),
        orphans=tuple(check.orphans),
        seconds=time.perf_counter() - begin,
    )


def _check_layout(segment: Segment) -> None:
    for index in range(segment.bands):
        segment.band(index)
    if segment.spec.is_foreign:
        _ = segment.norms
    _ = segment.documents, segment.live
    _ = segment.first_ordinal


def _check_chunks(segment: Segment) -> None:
    """Check every chunk against the documents table, and the count of tokens."""
    path = segment.directory / CHUNKS_FILE
    starts, counts = segment.document_rows()
    owners = np.repeat(np.array(segment.document_ids(), object), counts)
    begins = set(starts[1:].tolist())  # row 0 may go on with a document of the segment before
    row = tokens = 0
    previous = -1
    for batch in segment.chunk_batches():
        ids, names, ordinals = (
            batch.column(name).to_pylist() for name in ("document_id", "chunk_id", "ordinal")
        )
        for document_id, name, ordinal in zip(ids, names, ordinals, strict=True):
            if document_id != owners[row]:
                raise damaged(path, f"row {row} is not of the document that owns it")
            if name != f"{document_id}#{ordinal}":
                raise damaged(path, f"row {row} has a chunk_id that is not its document#ordinal")
            if row and ordinal != (0 if row in begins else previous + 1):
                raise damaged(path, f"row {row} has ordinal {ordinal} after {previous}")
            previous = ordinal
            row += 1
        tokens += int(numbers(batch.column("tokens")).sum(dtype=np.int64))
    if tokens != segment.entry.tokens:
        raise damaged(path, f"holds {tokens} tokens, but the manifest says {segment.entry.tokens}")


def _check_vectors(segment: Segment) -> None:
    spec = segment.spec
    for start in range(0, segment.rows, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        bands = [segment.band(index)[rows] for index in range(segment.bands)]
        for name, band in zip(spec.band_files, bands, strict=False):
            if not np.isfinite(band).all():
                raise damaged(segment.directory / name, "holds a number that is not finite")
        for name, band, weight in zip(
            spec.band_files, bands, spec.band_weights or (), strict=False
        ):
            if not has_weight(band, weight).all():
                raise damaged(segment.directory / name, f"has a row whose length is not {weight}")
        if not spec.is_foreign:
            continue
        expected, stored = prefix_norms(bands), segment.norms[rows, : segment.bands]
        if not np.allclose(stored, expected, rtol=NORM_TOLERANCE, atol=0):
            raise damaged(segment.directory / NORMS_FILE, "does not hold the bands' lengths")


def _check_unique(root: Path, segments: Sequence[Segment]) -> None:
    """Check that no chunk id is live twice: a document's entries must not overlap."""
    columns = []
    for segment in segments:
        live = segment.live_documents()
        ordinals = np.zeros(len(live), np.uint64)
        ordinals[0] = segment.first_ordinal
        _, counts = segment.document_rows()
        keys = document_keys(segment)
        columns.append(np.stack([*keys, ordinals, counts.astype(np.uint64)])[:, live])
    if not columns:
        return
    high, low, ordinals, counts = np.concatenate(columns, axis=1)
    order = np.lexsort((ordinals, low, high))
    high, low, ordinals, counts = high[order], low[order], ordinals[order], counts[order]
    same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    overlaps = int((same & (ordinals[:-1] + counts[:-1] > ordinals[1:])).sum())
    if overlaps:
        raise damaged(root / MANIFEST_FILE, f"has {overlaps} documents that are live twice")


def _orphans(root: Path, manifest: Manifest) -> Iterator[str]:
    """Files and directories that nothing in the index asks for."""
    named_here = {MANIFEST_FILE, SEGMENTS, LOCK_FILE}
    if manifest.attributes.get(LISTS):
        named_here.add(LISTS_FILE)
    if manifest.attributes.get(CODES):
        named_here.add(CODES_FILE)
    for child in root.iterdir():
        if child.name not in named_here:
            yield str(child)
    named = {entry.name: entry for entry in manifest.segments}
    segments = root / SEGMENTS
    for directory in segments.iterdir() if segments.is_dir() else ():
        entry = named.get(directory.name)
        if entry is None:
            yield str(directory)
            continue
        wanted = {*entry.files, CACHE_FILE}
        if entry.tombstones:
            wanted.add(entry.tombstones.file)
        yield from (str(child) for child in directory.iterdir() if child.name not in wanted)
