"""Turning finished segments and deletions into the next generation of an index."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from adaptive_search.arrow_arrays import number_array
from adaptive_search.arrow_files import TOMBSTONES_SCHEMA, write_batches
from adaptive_search.catalog import Catalog
from adaptive_search.codes_cache import CODES, CODES_FILE
from adaptive_search.lists_cache import LISTS, LISTS_FILE, map_checked
from adaptive_search.manifest import (
    DOCUMENTS_FILE,
    MANIFEST_FILE,
    Manifest,
    Scalar,
    SegmentEntry,
    Tombstones,
    read_manifest,
    write_manifest,
)
from adaptive_search.segment import SEGMENTS, Segment
from adaptive_search.segment_writer import SegmentInfo
from adaptive_search.storage_io import StorageIO, remove_directory

_OUR_DIRECTORY = re.compile(r"[0-9]{6}|\.new-[0-9]{6}")
_CACHES = {LISTS_FILE: LISTS, CODES_FILE: CODES}  # and the attributes with their checksums
_OUR_LEFTOVER = re.compile(r"deleted-[0-9]+\.arrow|.*\.tmp")


class Publisher:
    """The committed side of a writer: the current generation, and the step to the next."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        segments: Sequence[Segment],
        io: StorageIO,
        *,
        earlier: Catalog | None = None,
    ) -> None:
        """Start from the latest generation; the caller holds the writer lock.

        Args:
            root: the index directory.
            manifest: of that generation.
            segments: of that generation.
            io: the disk.
            earlier: a catalog of this or an earlier generation, which need not be made again.
        """
        self.root = root
        self.io = io
        self.manifest = manifest
        self.segments = tuple(segments)
        self.attributes: dict[str, Scalar] = dict(manifest.attributes)
        self._next_segment = manifest.next_segment
        self._catalog: Catalog | None = None
        self._earlier = earlier
        self._dead: dict[str, NDArray[np.bool_]] = {}  # of segments where that has changed
        self._unpublished: set[str] = set()  # directories that the sweep must spare

    def temporary_directory(self) -> Path:
        """A name for a segment being written; its number is never used again."""
        number = self._next_segment
        self._next_segment += 1
        self._unpublished.add(f".new-{number:06d}")
        return self.root / SEGMENTS / f".new-{number:06d}"

    def catalog(self) -> Catalog:
        """Where the committed documents are."""
        if self._catalog is None:
            self._catalog = self._continued(self._earlier) or Catalog(self.segments)
        return self._catalog

    @property
    def latest_catalog(self) -> Catalog | None:
        """The catalog of the generation that was published last, if there is one."""
        return self._catalog or self._continued(self._earlier)

    def _continued(self, earlier: Catalog | None) -> Catalog | None:
        """The catalog of an earlier generation, brought up to this one if that is easy."""
        if earlier is None:
            return None
        tables = {segment.name: segment.entry.files[DOCUMENTS_FILE] for segment in self.segments}
        stay = {
            segment.name
            for segment in earlier.segments
            if tables.get(segment.name) == segment.entry.files[DOCUMENTS_FILE]
        }
        added = [segment for segment in self.segments if segment.name not in stay]
        if any(segment.name in stay for segment in self.segments[len(stay) :]):
            return None  # a catalog has its segments in the order of their rows
        catalog = earlier.keeping(stay)
        return Catalog(added, catalog) if added else catalog

    def dead_rows(self, segment: Segment) -> NDArray[np.bool_]:
        """Which rows of a segment are deleted, or will be with the next generation."""
        if segment.name in self._dead:
            return self._dead[segment.name]
        # A catalog may hold the segment as it was before its latest tombstones.
        latest = [known for known in self.segments if known.name == segment.name]
        live = (latest or [segment])[0].live
        return np.zeros(segment.rows, np.bool_) if live is None else ~live

    def bury_rows(self, segment: Segment, first: int, rows: int) -> bool:
        """Mark rows of a document as deleted; gives whether they were live."""
        dead = self.dead_rows(segment)
        if dead[first]:
            return False
        dead[first : first + rows] = True
        self._dead[segment.name] = dead
        return True

    def bury(self, document_id: str) -> bool:
        """Mark a committed document as deleted; gives whether it was live."""
        found = False
        for segment, index in self.catalog().find(document_id):
            first, rows = segment.document_rows()
            found |= self.bury_rows(segment, int(first[index]), int(rows[index]))
        return found

    def live_documents(self) -> NDArray[np.bool_]:
        """Which entries of the catalog are the beginning of a live document."""
        catalog = self.catalog()
        if not self._dead and all(_is_whole(segment) for segment in self.segments):
            return np.ones(len(catalog), np.bool_)
        parts = []
        for segment in catalog.segments:
            first, _ = segment.document_rows()
            live = ~self.dead_rows(segment)[first]
            live[0] &= segment.first_ordinal == 0
            parts.append(live)
        return catalog.in_entries(parts)

    def adopt(self, info: SegmentInfo) -> Segment:
        """Give a finished segment its final name; no manifest names it yet."""
        name = info.directory.name.removeprefix(".new-")
        self.io.rename(info.directory, self.root / SEGMENTS / name)
        entry = SegmentEntry(name, info.rows, info.tokens, info.documents, info.files)
        return Segment(self.root, entry, self.manifest.spec, len(self.manifest.spec.dims))

    def has_changes(self) -> bool:
        """Whether deletions or attributes wait for a commit."""
        return bool(self._dead) or self.attributes != self.manifest.attributes

    def publish(self, segments: Sequence[Segment]) -> None:
        """Make these segments, without their buried rows, the next generation.

        Raises:
            StoreFormatError: a file of theirs was changed since it was committed.
        """
        committed_ns = self.manifest.committed_ns
        for segment in segments:
            segment.check_suspects()
        # What a commit names is trusted from then on.
        for name, key in _CACHES.items():
            checksum = self.attributes.get(key, "")
            if checksum and map_checked(self.root / name, checksum, committed_ns) is None:
                self.attributes[key] = ""
        generation = self.manifest.generation + 1
        kept = [self._with_tombstones(segment, generation) for segment in segments]
        remaining = tuple(segment for segment in kept if segment is not None)
        self.io.fsync_directory(self.root / SEGMENTS)
        manifest = dataclasses.replace(
            self.manifest,
            generation=generation,
            next_segment=self._next_segment,
            segments=tuple(segment.entry for segment in remaining),
            attributes=dict(self.attributes),
        )
        write_manifest(self.io, self.root, manifest)
        self._advance(manifest, remaining)
        with suppress(OSError):  # committed all the same; the next writer removes the rest
            self.sweep()

    def _advance(self, manifest: Manifest, segments: tuple[Segment, ...]) -> None:
        self.manifest, self.segments, self._dead = manifest, segments, {}
        self._catalog = self._continued(self._catalog)

    def _with_tombstones(self, segment: Segment, generation: int) -> Segment | None:
        dead = self._dead.get(segment.name)
        if dead is None:
            return segment
        if dead.all():
            return None
        rows = number_array(np.flatnonzero(dead), np.int32)
        batch = pa.record_batch([rows], schema=TOMBSTONES_SCHEMA)
        file = f"deleted-{generation:06d}.arrow"
        written = write_batches(self.io, segment.directory / file, TOMBSTONES_SCHEMA, [batch])
        self.io.fsync_directory(segment.directory)
        entry = dataclasses.replace(segment.entry, tombstones=Tombstones(file, len(rows), written))
        return Segment(self.root, entry, segment.spec, segment.bands, segment.committed_ns)

    def discard(self) -> None:
        """Remove all that is not published."""
        self._unpublished.clear()
        self.sweep()

    def sweep(self) -> None:
        """Remove what a writer left behind: only names of our own, that no manifest mentions."""
        # A commit that was cut short may have put a manifest in place that a power cut takes back,
        # and with it the need for what only the generation before names.
        self.io.fsync_directory(self.root)
        spared: dict[str, set[str]] = {}
        unused = {f"{name}.tmp" for name in (MANIFEST_FILE, *_CACHES)} | set(_CACHES)
        for manifest in (self.manifest, read_manifest(self.root)):
            unused -= {name for name, key in _CACHES.items() if manifest.attributes.get(key)}
            for entry in manifest.segments:
                files = {entry.tombstones.file} if entry.tombstones else set()
                spared.setdefault(entry.name, set()).update(files)
        for child in (self.root / SEGMENTS).iterdir():
            if child.name in spared:
                self._sweep_segment(child, spared[child.name])
            elif child.name not in self._unpublished and _OUR_DIRECTORY.fullmatch(child.name):
                remove_directory(self.io, child)
        for name in sorted(unused):
            with suppress(FileNotFoundError):
                remove_directory(self.io, self.root / name)

    def _sweep_segment(self, directory: Path, needed: set[str]) -> None:
        for name in os.listdir(directory):  # an index has thousands of them, mostly bands
            if name not in needed and _OUR_LEFTOVER.fullmatch(name):
                self.io.unlink(directory / name)


def _is_whole(segment: Segment) -> bool:
    """Whether all of a segment's documents begin in it and are live."""
    return segment.live is None and segment.first_ordinal == 0
