"""An index directory: create it, open one generation of it, ask what it holds.

Example:
    store = Store.create("my.index", spec=spec)
    with store.writer() as writer:
        writer.append(rows, vectors, hashes)
    store = Store.open("my.index")
    first = store.segments[0]
    first.band(0), first.live, first.chunks([0])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_search.errors import StoreError, StoreFormatError, StoreLockedError
from adaptive_search.manifest import (
    MANIFEST_FILE,
    Manifest,
    Scalar,
    SegmentEntry,
    StoreSpec,
    check_fingerprint,
    is_index,
    read_manifest,
    write_manifest,
)
from adaptive_search.segment import SEGMENTS, Segment
from adaptive_search.storage_io import (
    LOCK_FILE,
    StorageIO,
    disk_errors,
    make_directory,
    writer_lock,
)

if TYPE_CHECKING:
    from adaptive_search.catalog import Catalog
    from adaptive_search.store_writer import StoreWriter
    from adaptive_search.verification import VerifyReport

OPEN_ATTEMPTS = 10  # a writer may replace the generation while it is being opened


@dataclass(frozen=True)
class StoreStatus:
    """What one generation holds."""

    generation: int
    segments: int
    rows: int  # live
    deleted: int  # rows that the next compaction removes
    documents: int
    tokens: int
    dims: tuple[int, ...]
    bytes: Mapping[str, int]  # on disk, by kind of file


class Store:
    """One generation of an index, opened for reading; later commits do not disturb it."""

    def __init__(
        self, root: Path, manifest: Manifest, io: StorageIO, known: Sequence[Segment] = ()
    ) -> None:
        """Map all files that a manifest names, but those of `known` segments that stayed."""
        self.path = root
        self.spec = manifest.spec
        self.manifest = manifest
        self._io = io
        self._catalog: Catalog | None = None  # that the last writer ended with
        self._bands = present_bands(root, manifest)
        by_name = {segment.name: segment for segment in known}
        self.segments = tuple(
            self._segment(entry, by_name.get(entry.name)) for entry in manifest.segments
        )

    def _segment(self, entry: SegmentEntry, known: Segment | None) -> Segment:
        if known and known.entry == entry and known.bands == self._bands and known.is_untouched():
            return known
        return Segment(self.path, entry, self.spec, self._bands, self.manifest.committed_ns)

    @classmethod
    def create(cls, path: str | Path, *, spec: StoreSpec, io: StorageIO | None = None) -> Store:
        """Make an empty index in a directory that is new or empty.

        Raises:
            StoreError: something is there already, or the disk refuses.
        """
        root, io = Path(path), io or StorageIO()
        with disk_errors("create", root):
            make_directory(io, root.absolute())
            with writer_lock(root):
                _check_vacant(root)
                make_directory(io, root / SEGMENTS)
                write_manifest(io, root, Manifest(spec))
        return cls.open(root, io=io)

    @classmethod
    def open(
        cls, path: str | Path, *, io: StorageIO | None = None, known: Sequence[Segment] = ()
    ) -> Store:
        """Open the latest generation. Takes no lock and writes nothing.

        Args:
            path: of the directory.
            io: the disk.
            known: segments of an earlier generation, whose files need not be mapped again.

        Raises:
            StoreError: the directory is no index.
            StoreVersionError: a newer program wrote it.
            StoreFormatError: a file is missing or damaged.
        """
        root = Path(path)
        manifest = read_manifest(root)
        for _ in range(OPEN_ATTEMPTS):
            try:
                return cls(root, manifest, io or StorageIO(), known)
            except StoreFormatError:
                latest = read_manifest(root)
                if latest.generation == manifest.generation:
                    raise
                manifest = latest
        raise StoreError(f"{root} changes faster than it can be opened; try again")

    def reopened(self) -> Store:
        """The latest generation, opened, which remembers the documents that this one knows.

        Raises:
            StoreError: as for `open`.
        """
        latest = Store.open(self.path, io=self._io, known=self.segments)
        latest._catalog = self._catalog
        return latest

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions that can be searched: all, or fewer where bands were not shipped."""
        return self.spec.dims[: self._bands]

    @property
    def rows(self) -> int:
        """Rows of all segments, deleted ones included."""
        return sum(segment.rows for segment in self.segments)

    @property
    def attributes(self) -> Mapping[str, Scalar]:
        """What `StoreWriter.set_attributes` recorded."""
        return self.manifest.attributes

    def check_fingerprint(self, fingerprint: str) -> None:
        """Refuse vectors of other weights than the index was made with.

        Raises:
            ModelMismatchError: the fingerprints differ.
        """
        check_fingerprint(self.spec, fingerprint, self.path)

    @contextmanager
    def writer(self, *, wait: bool = False) -> Iterator[StoreWriter]:
        """Hold the writer lock; commit when the block ends well, discard when it raises.

        Args:
            wait: wait for another writer instead of refusing at once.

        Raises:
            StoreLockedError: another process is writing, and wait is False.
        """
        from adaptive_search.publisher import Publisher
        from adaptive_search.store_writer import StoreWriter

        with writer_lock(self.path, wait=wait):
            latest = Store.open(self.path, io=self._io, known=self.segments)
            if latest.dims != latest.spec.dims:
                raise StoreError(
                    f"{self.path} was shipped without its bands above {latest.dims[-1]} and can "
                    "only be read; change the index that it was made from"
                )
            publisher = Publisher(
                self.path, latest.manifest, latest.segments, self._io, earlier=self._catalog
            )
            with disk_errors("clean up", self.path):
                make_directory(self._io, self.path / SEGMENTS)  # copies may lack an empty one
                publisher.sweep()
            writer = StoreWriter(publisher, latest.spec)
            try:
                yield writer
                writer.commit()
                self._catalog = publisher.latest_catalog
            finally:
                writer.close()

    def compact(self, *, wait: bool = False) -> int:
        """Merge small segments and drop deleted rows; gives the generation.

        Open readers keep what they have; `Store.open` shows the result.
        """
        with self.writer(wait=wait) as writer:
            return writer.compact()

    def remove_if_unused(self) -> None:
        """Remove the index from disk if nothing was ever committed to it.

        Only what `create` made goes, so that a directory that holds anything else stays.
        """
        with disk_errors("remove", self.path):
            with writer_lock(self.path):
                if read_manifest(self.path).generation:
                    return
                self._io.unlink(self.path / MANIFEST_FILE)
                self._io.fsync_directory(self.path)  # no manifest without its segments
                self._io.rmdir(self.path / SEGMENTS)
            self._io.unlink(self.path / LOCK_FILE)
            if not any(self.path.iterdir()):
                self._io.rmdir(self.path)

    def write_cache(self, segment: Segment, payload: bytes, *, key: str) -> bool:
        """Keep the lists of a segment's rows for the next reader, if nothing stands in the way.

        Returns:
            Whether it was kept: not while a writer runs, and not on a read-only disk.
        """
        from adaptive_search.lists_cache import write_cache

        try:
            with writer_lock(self.path):
                if segment.directory.is_dir():
                    write_cache(self._io, segment, payload, key=key)
                    return True
        except (StoreLockedError, StoreError):
            return False
        return False

    def status(self) -> StoreStatus:
        """Counts and bytes of this generation."""
        entries = self.manifest.segments
        live = sum(entry.live_rows for entry in entries)
        return StoreStatus(
            generation=self.manifest.generation,
            segments=len(entries),
            rows=live,
            deleted=self.rows - live,
            documents=sum(map(_documents_begun, self.segments)),
            tokens=sum(entry.tokens for entry in entries),
            dims=self.dims,
            bytes=self.disk_usage(),
        )

    def disk_usage(self) -> dict[str, int]:
        """Bytes on disk by kind: manifest, chunks, documents, band_0064, ..., shortlist."""
        from adaptive_search.codes_cache import CODES_FILE
        from adaptive_search.lists_cache import CACHE_FILE, LISTS_FILE

        usage = {"manifest": (self.path / MANIFEST_FILE).stat().st_size}
        usage |= {name.removesuffix(".arrow"): 0 for name in self.spec.data_files}
        usage |= {"deleted": 0, "shortlist": 0}
        absent = set(self.spec.band_files[self._bands :])
        for segment in self.segments:
            for name, entry in segment.entry.files.items():
                usage[name.removesuffix(".arrow")] += 0 if name in absent else entry.bytes
            if segment.entry.tombstones:
                usage["deleted"] += segment.entry.tombstones.entry.bytes
            cache = segment.directory / CACHE_FILE
            usage["shortlist"] += cache.stat().st_size if cache.is_file() else 0
        for name in (LISTS_FILE, CODES_FILE):
            path = self.path / name
            usage["shortlist"] += path.stat().st_size if path.is_file() else 0
        return usage

    def verify(self, *, deep: bool = True) -> VerifyReport:
        """Check the index on disk; see `verification.verify_index`."""
        from adaptive_search.verification import verify_index

        return verify_index(self.path, deep=deep)

    def export(self, dim: int, path: str | Path, *, half: bool = False) -> int:
        """Write all live rows at one dimension to a file; see `exporting.export`."""
        from adaptive_search.exporting import export

        return export(self, dim, Path(path), half=half)


def present_bands(root: Path, manifest: Manifest) -> int:
    """Number of bands, from the lowest, that the directory holds.

    Raises:
        StoreFormatError: the lowest band is missing, or segments differ in what they hold.
    """
    files, bands = manifest.spec.band_files, len(manifest.spec.band_files)
    if not manifest.segments:
        return bands
    first = root / SEGMENTS / manifest.segments[0].name
    while bands > 1 and not (first / files[bands - 1]).exists():
        bands -= 1
    for entry in manifest.segments:
        for name in files[bands:]:
            extra = root / SEGMENTS / entry.name / name
            if extra.exists():
                raise StoreFormatError(
                    f"{first / name} is missing, but {extra} is there: bands may be left out of "
                    "an index only from all segments; restore the file from a backup, or index "
                    "the corpus again"
                )
    return bands


def _documents_begun(segment: Segment) -> int:
    """Live documents of a segment, less the one that began in the segment before."""
    live = segment.live_documents()
    return int(live.sum()) - bool(live[0] and segment.first_ordinal)


def _check_vacant(root: Path) -> None:
    if is_index(root):
        raise StoreError(f"{root} is an index already; open it, or choose another directory")
    # What an interrupted create leaves behind is no obstacle.
    ours = {LOCK_FILE, SEGMENTS, f"{MANIFEST_FILE}.tmp"}
    others = sorted(child.name for child in root.iterdir() if child.name not in ours)
    if others:
        raise StoreError(
            f"{root} is not empty (it holds {others[0]!r}) and not an index; choose another "
            "directory"
        )
