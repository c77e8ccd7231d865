"""A segment as a reader sees it: immutable rows, mapped when the index is opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from adaptive_search.arrow_arrays import numbers
from adaptive_search.arrow_files import (
    CHUNK_BATCH_ROWS,
    CHUNKS_SCHEMA,
    DOCUMENTS_SCHEMA,
    TOMBSTONES_SCHEMA,
    damaged,
    map_file,
    open_batches,
    read_batch,
    read_matrix,
)
from adaptive_search.errors import DimensionError
from adaptive_search.json_text import parse_json
from adaptive_search.kernels import mapping
from adaptive_search.manifest import (
    CHUNKS_FILE,
    DOCUMENTS_FILE,
    NORMS_FILE,
    Scalar,
    SegmentEntry,
    StoreSpec,
)
from adaptive_search.storage_io import FileEntry

SEGMENTS = "segments"
_ENDS_BYTES = 4096
ROW_COLUMNS = [name for name in CHUNKS_SCHEMA.names if name not in ("chunk_id", "metadata")]


class Row(NamedTuple):
    """One chunk: where it comes from, what it says, and what else is known of it.

    content_hash identifies what the encoder saw; 16 bytes.
    """

    document_id: str
    path: str
    ordinal: int  # of the chunk in its document
    text: str
    content_hash: bytes
    tokens: int = 0
    byte_start: int = 0
    byte_end: int = 0
    line_start: int = 1
    line_end: int = 1
    metadata: Mapping[str, Scalar] = MappingProxyType({})

    @property
    def chunk_id(self) -> str:
        """Name of the chunk, unique in the index."""
        return chunk_id(self.document_id, self.ordinal)


def chunk_id(document_id: str, ordinal: int) -> str:
    """Name of a chunk, unique in the index."""
    return f"{document_id}#{ordinal}"


class Segment:
    """Rows of one generation; stays whole whatever a writer does afterwards."""

    def __init__(
        self,
        root: Path,
        entry: SegmentEntry,
        spec: StoreSpec,
        bands: int,
        committed_ns: int | None = None,
    ) -> None:
        """Map the files of a segment and the lowest `bands` of its bands.

        Args:
            root: the index directory.
            entry: the segment, as the manifest has it.
            spec: of the index.
            bands: how many to map.
            committed_ns: time of the commit; a file that was changed since is hashed before it
                is used. None: this process wrote or hashed them all.

        Raises:
            StoreFormatError: a file is missing or has a wrong size.
        """
        self.directory = root / SEGMENTS / entry.name
        self.entry = entry
        self.spec = spec
        self.bands = bands
        self.committed_ns = committed_ns
        names = [CHUNKS_FILE, DOCUMENTS_FILE, *spec.band_files[:bands]]
        if spec.is_foreign:
            names.append(NORMS_FILE)
        files = {name: entry.files[name] for name in names}
        if entry.tombstones:
            files[entry.tombstones.file] = entry.tombstones.entry
        self._status: dict[str, os.stat_result] = {}  # of each file when it was mapped
        self._suspects: dict[str, FileEntry] = {}  # files touched since the commit
        self._unhashed: set[str] = set()  # files that are hashed before they are used
        self._maps = {name: self._map(name, file) for name, file in files.items()}
        for name in names:
            if name != DOCUMENTS_FILE:  # which only writers read
                _fetch_ends(self._maps[name])
        self._checked: set[int] = set()
        self._read_bands: dict[int, NDArray[np.float16]] = {}

    def _map(self, name: str, entry: FileEntry) -> pa.Buffer:
        buffer, status = map_file(self.directory / name, entry)
        self._status[name] = status
        # The commit comes after the files that it names; what was touched since is suspect.
        if self.committed_ns is not None and status.st_ctime_ns >= self.committed_ns:
            self._suspects[name] = entry
        # A writer's decisions hang on the small ones.
        if name in self._suspects or name == DOCUMENTS_FILE or name not in self.spec.data_files:
            self._unhashed.add(name)
        return buffer

    @property
    def touched_ns(self) -> int:
        """When one of its files was last touched in any way, in nanoseconds."""
        return max(status.st_ctime_ns for status in self._status.values())

    def is_untouched(self) -> bool:
        """Whether its files are still those that were mapped, and nobody touched them since."""
        try:
            latest = {name: os.lstat(self.directory / name) for name in self._status}
        except OSError:
            return False
        return all(
            (latest[name].st_ino, latest[name].st_ctime_ns) == (status.st_ino, status.st_ctime_ns)
            for name, status in self._status.items()
        )

    def check_suspects(self) -> None:
        """Hash what was touched since the commit: the next commit will vouch for it.

        Raises:
            StoreFormatError: a file is not what was committed.
        """
        for name, entry in self._suspects.items():
            self._buffer(name, entry)

    def _buffer(self, name: str, entry: FileEntry) -> pa.Buffer:
        """A mapped file whose checksum was compared if it had to be."""
        buffer = self._maps[name]
        if name in self._unhashed:
            if hashlib.sha256(buffer).hexdigest() != entry.sha256:
                raise damaged(self.directory / name, "does not match its checksum in the manifest")
            self._unhashed.discard(name)
        return buffer

    def _data(self, name: str) -> pa.Buffer:
        return self._buffer(name, self.entry.files[name])

    @property
    def name(self) -> str:
        """Name of the segment's directory."""
        return self.entry.name

    @property
    def rows(self) -> int:
        """Rows, deleted ones included."""
        return self.entry.rows

    def band(self, index: int) -> NDArray[np.float16]:
        """Coordinates dims[index-1] to dims[index] of every row.

        Returns:
            float16 (rows, width), read-only, mapped, no copy.

        Raises:
            DimensionError: the index was shipped without this band.
            StoreFormatError: the file is damaged.
        """
        if not 0 <= index < self.bands:
            raise DimensionError(self.spec.dims[index], self.spec.dims[: self.bands])
        if index not in self._read_bands:
            name, width = self.spec.band_files[index], self.spec.band_widths[index]
            path = self.directory / name
            self._read_bands[index] = read_matrix(
                self._data(name), self.rows, width, np.float16, path
            )
        return self._read_bands[index]

    def scattered_band(self, index: int) -> NDArray[np.float16]:
        """The same as `band`, in a map for reads here and there."""
        band = self.band(index)
        data = mapping.at_random(band.reshape(-1).view(np.uint8))
        scattered: NDArray[np.float16] = data.view(np.float16).reshape(band.shape)
        return scattered

    def prefix_norms(self, dim: int) -> NDArray[np.float32] | None:
        """Length of each row's prefix of `dim` coordinates: float32 (rows,).

        None where every row has the same, because the spec gives the prefix energy.
        """
        column = self.spec.bands_of(dim) - 1
        return self.norms[:, column] if self.spec.is_foreign else None

    @cached_property
    def norms(self) -> NDArray[np.float32]:
        """Prefix lengths of foreign vectors: float32 (rows, dims)."""
        path = self.directory / NORMS_FILE
        count = len(self.spec.dims)
        return read_matrix(self._data(NORMS_FILE), self.rows, count, np.float32, path)

    @cached_property
    def live(self) -> NDArray[np.bool_] | None:
        """Which rows are not deleted: bool (rows,); None when all are live."""
        tombstones = self.entry.tombstones
        if tombstones is None:
            return None
        buffer = self._buffer(tombstones.file, tombstones.entry)
        return read_live(buffer, self.entry, self.directory)

    @cached_property
    def documents(self) -> pa.RecordBatch:
        """The documents table."""
        return read_documents(self._data(DOCUMENTS_FILE), self.entry, self.directory)

    def document_ids(self) -> list[str]:
        """Ids of the documents, deleted ones included."""
        ids: list[str] = self.documents.column("document_id").to_pylist()
        return ids

    def document_rows(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """First row and number of rows of each document: int32 (documents,) each."""
        documents = self.documents
        return numbers(documents.column("first_row")), numbers(documents.column("rows"))

    @property
    def first_ordinal(self) -> int:
        """Ordinal of the first row; above 0 if its document began in the segment before."""
        return int(self.chunk_batch(0).column("ordinal")[0].as_py())

    def live_documents(self) -> NDArray[np.bool_]:
        """Which entries of the documents table are not deleted: bool (documents,)."""
        first, _ = self.document_rows()
        live = np.ones(self.rows, np.bool_) if self.live is None else self.live
        return live[first]

    @cached_property
    def _chunks(self) -> ipc.RecordBatchFileReader:
        return self._open_chunks(self._data(CHUNKS_FILE))

    @cached_property
    def _scattered_chunks(self) -> ipc.RecordBatchFileReader:
        return self._open_chunks(pa.py_buffer(self._scattered_chunk_bytes))

    @cached_property
    def _scattered_chunk_bytes(self) -> NDArray[np.uint8]:
        return mapping.at_random(np.frombuffer(self._data(CHUNKS_FILE), np.uint8))

    def _open_chunks(self, buffer: pa.Buffer) -> ipc.RecordBatchFileReader:
        batches = -(-self.rows // CHUNK_BATCH_ROWS)
        return open_batches(buffer, CHUNKS_SCHEMA, batches, self.directory / CHUNKS_FILE)

    def chunk_batch(self, index: int) -> pa.RecordBatch:
        """Record batch `index` of chunks.arrow: rows from index * CHUNK_BATCH_ROWS on.

        Raises:
            StoreFormatError: the file is damaged.
        """
        return self._chunk_batch(self._chunks, index)

    def _chunk_batch(self, reader: ipc.RecordBatchFileReader, index: int) -> pa.RecordBatch:
        rows = min(CHUNK_BATCH_ROWS, self.rows - index * CHUNK_BATCH_ROWS)
        if index in self._checked:
            return reader.get_batch(index)
        batch = read_batch(reader, index, rows, self.directory / CHUNKS_FILE)
        self._checked.add(index)
        return batch

    def fetch_chunks(self, rows: Sequence[int]) -> None:
        """Have the system read what the chunks of these rows need, without waiting for it."""
        for index in {row // CHUNK_BATCH_ROWS for row in rows} - self._checked:
            file = self._scattered_chunk_bytes
            with suppress(OSError, ValueError, pa.ArrowException):  # whoever reads it will say so
                columns = self._scattered_chunks.get_batch(index).columns
                parts = [part for column in columns for part in column.buffers() if part]
                begin = min(part.address for part in parts) - file.ctypes.data
                end = max(part.address + part.size for part in parts) - file.ctypes.data
                mapping.will_read(file[max(begin, 0) : end])

    def chunk_batches(self) -> Iterator[pa.RecordBatch]:
        """All record batches of chunks.arrow, in order."""
        for index in range(-(-self.rows // CHUNK_BATCH_ROWS)):
            yield self.chunk_batch(index)

    def chunks(self, rows: Sequence[int] | NDArray[np.int64]) -> list[Row]:
        """The chunks of these rows, in this order; reads only the record batches they are in.

        Raises:
            IndexError: a row is not in this segment.
            StoreFormatError: the file is damaged.
        """
        return [self._row(int(row)) for row in rows]

    def _row(self, row: int) -> Row:
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} is not one of the {self.rows} rows of segment {self.name}")
        batch = self._chunk_batch(self._scattered_chunks, row // CHUNK_BATCH_ROWS)
        at = row % CHUNK_BATCH_ROWS
        values = {name: batch.column(name)[at].as_py() for name in ROW_COLUMNS}
        return Row(**values, metadata=self._metadata(batch.column("metadata")[at].as_py()))

    def _metadata(self, text: str) -> dict[str, Scalar]:
        try:
            value = parse_json(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise damaged(self.directory / CHUNKS_FILE, "has metadata that is no JSON object")
        return value


def _fetch_ends(buffer: pa.Buffer) -> None:
    """Have the system read what says how an Arrow file is laid out, of all files at a time."""
    data = np.frombuffer(buffer, np.uint8)
    mapping.will_read(data[:_ENDS_BYTES])
    mapping.will_read(data[-_ENDS_BYTES:])


def read_documents(buffer: pa.Buffer, entry: SegmentEntry, directory: Path) -> pa.RecordBatch:
    """Read the mapped documents table of a segment.

    Raises:
        StoreFormatError: it does not divide the segment's rows among its documents.
    """
    path = directory / DOCUMENTS_FILE
    reader = open_batches(buffer, DOCUMENTS_SCHEMA, 1, path)
    batch = read_batch(reader, 0, entry.documents, path)
    rows = numbers(batch.column("rows")).astype(np.int64)
    starts = np.concatenate(([0], np.cumsum(rows)))
    if (rows < 1).any() or starts[-1] != entry.rows:
        raise damaged(path, f"must divide the {entry.rows} rows among its documents")
    if not np.array_equal(numbers(batch.column("first_row")), starts[:-1]):
        raise damaged(path, "must list documents in the order of their rows")
    return batch


def read_live(buffer: pa.Buffer, entry: SegmentEntry, directory: Path) -> NDArray[np.bool_]:
    """Read the mapped tombstones of a segment: bool (rows,), False where a row is deleted.

    Raises:
        StoreFormatError: they are not rising rows of the segment.
    """
    assert entry.tombstones is not None
    path = directory / entry.tombstones.file
    reader = open_batches(buffer, TOMBSTONES_SCHEMA, 1, path)
    dead = numbers(read_batch(reader, 0, entry.tombstones.rows, path).column(0))
    if dead[0] < 0 or dead[-1] >= entry.rows or (np.diff(dead) <= 0).any():
        raise damaged(path, f"must list rising rows below {entry.rows}")
    live = np.ones(entry.rows, np.bool_)
    live[dead] = False
    return live
