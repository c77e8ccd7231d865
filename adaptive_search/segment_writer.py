"""Writing one segment: rows in, a directory of fsynced Arrow files out, memory bounded."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from adaptive_search.arrow_arrays import bytes_array, number_array, numbers, text_array
from adaptive_search.arrow_files import (
    CHUNK_BATCH_ROWS,
    CHUNKS_SCHEMA,
    DOCUMENTS_SCHEMA,
    HASH_BYTES,
    write_batches,
    write_matrix,
)
from adaptive_search.kernels import bands as kernels
from adaptive_search.manifest import (
    CHUNKS_FILE,
    DOCUMENTS_FILE,
    MAX_SEGMENT_ROWS,
    NORMS_FILE,
    Scalar,
    StoreSpec,
)
from adaptive_search.segment import Row, chunk_id
from adaptive_search.storage_io import FileEntry, StorageFile, StorageIO

SEGMENT_ROWS = MAX_SEGMENT_ROWS // 2  # a segment ends with the document that reaches this
HELD_BYTES = 32 << 20  # of the rows that a segment holds in memory while it is written
LENGTH_TOLERANCE = 1e-3  # of a band's length against its weight, relative


@dataclass(frozen=True)
class SegmentInfo:
    """A finished segment that no manifest names yet."""

    directory: Path
    rows: int
    tokens: int
    document_ids: Sequence[str]
    files: Mapping[str, FileEntry]

    @property
    def documents(self) -> int:
        """Entries of the documents table."""
        return len(self.document_ids)


@dataclass(frozen=True, slots=True)
class Vectors:
    """Rows of vectors as they are stored: one float16 (n, width) a band, and prefix lengths."""

    bands: Sequence[NDArray[np.float16]]
    norms: NDArray[np.float32] | None

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> Vectors:
        """The same for some of the rows."""
        norms = None if self.norms is None else self.norms[rows]
        return Vectors([band[rows] for band in self.bands], norms)


def split_bands(vectors: NDArray[np.float32], spec: StoreSpec) -> Vectors:
    """Cut vectors into bands, refusing what must not enter an index.

    Foreign vectors are brought to unit length; a prefix that is zero gets the length 1, so that
    it scores 0.

    Args:
        vectors: float32 (n, dims[-1]).
        spec: of the index.

    Raises:
        ValueError: a wrong shape, a number that is not finite, or a band of a wrong length.
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != spec.dims[-1]:
        raise ValueError(f"vectors have shape {vectors.shape}, not (n, {spec.dims[-1]})")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(f"vector {int(np.argmin(finite))} has a number that is not finite")
    widths = np.diff((0, *spec.dims)).tolist()
    bands, squares = kernels.split_bands(vectors, widths, unit=spec.is_foreign)
    if not spec.is_foreign:
        _check_lengths(np.sqrt(squares), spec)
        return Vectors(bands, None)
    nonzero = squares.any(axis=1)
    if not nonzero.all():
        raise ValueError(f"vector {int(np.argmin(nonzero))} is zero")
    return Vectors(bands, _norms(squares))


def prefix_norms(bands: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
    """Lengths of all prefixes: float32 (n, dims); 1 where a prefix is zero."""
    return _norms(np.stack([_squares(band) for band in bands], axis=1))


def _norms(squares: NDArray[np.float64]) -> NDArray[np.float32]:
    norms = np.sqrt(np.cumsum(squares, axis=1)).astype(np.float32)
    return np.where(norms == 0, np.float32(1), norms)


def has_weight(band: NDArray[np.float16], weight: float) -> NDArray[np.bool_]:
    """Whether each row of a band has the length that the spec asks for: bool (n,)."""
    return _is_close(np.sqrt(_squares(band)), weight)


def _is_close(lengths: NDArray[np.float64], weight: float) -> NDArray[np.bool_]:
    close: NDArray[np.bool_] = np.abs(lengths - weight) <= LENGTH_TOLERANCE * weight
    return close


def _check_lengths(lengths: NDArray[np.float64], spec: StoreSpec) -> None:
    for of_band, weight, dim in zip(lengths.T, spec.band_weights or (), spec.dims, strict=True):
        good = _is_close(of_band, weight)
        if not good.all():
            row = int(np.argmin(good))
            raise ValueError(
                f"vector {row}: the band that ends at {dim} has length {of_band[row]:.6f}, but the "
                f"index expects {weight:.6f}"
            )


def _squares(band: NDArray[np.float16]) -> NDArray[np.float64]:
    wide = band.astype(np.float32)
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", wide, wide, dtype=np.float64)
    return squares


@dataclass(frozen=True, slots=True)
class BegunDocuments:
    """Documents that begin in some rows, one column after the other.

    A tuple for each of many would keep Python's garbage collector busy.
    """

    rows: list[int] = field(default_factory=list)  # first row of each, rising
    ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def begin_at(self, row: int) -> bool:
        """Whether one begins at a row."""
        at = bisect_left(self.rows, row)
        return at < len(self.rows) and self.rows[at] == row

    def between(self, start: int, stop: int) -> BegunDocuments:
        """Those that begin from row `start` to `stop`, counted from `start`."""
        some = slice(bisect_left(self.rows, start), bisect_left(self.rows, stop))
        rows = [row - start for row in self.rows[some]]
        return BegunDocuments(rows, self.ids[some], self.paths[some], self.hashes[some])

    def extend(self, more: BegunDocuments, *, first_row: int) -> None:
        """Append documents whose rows are counted from `first_row`."""
        self.rows.extend(row + first_row for row in more.rows)
        self.ids.extend(more.ids)
        self.paths.extend(more.paths)
        self.hashes.extend(more.hashes)


@dataclass(frozen=True)
class Block:
    """Checked rows, ready to be written."""

    batch: pa.RecordBatch
    vectors: Vectors
    documents: BegunDocuments  # that begin in it


def make_block(
    rows: Sequence[Row],
    vectors: NDArray[np.float32],
    hashes: Mapping[str, bytes],
    *,
    spec: StoreSpec,
    last: Row | None,
) -> Block:
    """Check rows that follow the row `last` and bring them to the form they are stored in.

    Args:
        rows: chunks; those of a document follow one another from ordinal 0.
        vectors: float32 (len(rows), dims[-1]).
        hashes: 16-byte content hash of each document that begins in rows.
        spec: of the index.
        last: the row before these.

    Raises:
        ValueError: rows, vectors and hashes do not fit together, or break the spec.
    """
    stored = _stored(vectors, spec, len(rows))
    starts = _document_starts(rows, last)
    begun = [rows[start] for start in starts]
    ids = [row.document_id for row in begun]
    of_documents = [hashes.get(document_id, b"") for document_id in ids]
    for document_id, content_hash in zip(ids, of_documents, strict=True):
        if len(content_hash) != HASH_BYTES:
            raise ValueError(f"document {document_id!r} needs a content hash of {HASH_BYTES} bytes")
    documents = BegunDocuments(starts, ids, [row.path for row in begun], of_documents)
    columns: dict[str, Sequence[Any]] = {name: () for name in CHUNKS_SCHEMA.names}
    columns |= zip(Row._fields, zip(*rows, strict=True), strict=False)  # no columns of no rows
    return Block(_to_batch(columns), stored, documents)


def make_block_of_documents(
    ids: Sequence[str],
    texts: Sequence[str],
    metadata: Sequence[Mapping[str, Scalar]],
    hashes: Sequence[bytes],
    vectors: NDArray[np.float32],
    *,
    spec: StoreSpec,
) -> Block:
    """The same for documents of one chunk each, without a path, of which the columns are given.

    Raises:
        ValueError: they do not fit together, or break the spec.
    """
    count = len(ids)
    stored = _stored(vectors, spec, count)
    zeros, ones, paths = [0] * count, [1] * count, [""] * count
    names: dict[str, Sequence[Any]] = dict.fromkeys(CHUNKS_SCHEMA.names, zeros)
    names |= {"document_id": ids, "path": paths, "text": texts, "metadata": metadata}
    names |= {"content_hash": hashes, "line_start": ones, "line_end": ones}
    documents = BegunDocuments(list(range(count)), list(ids), paths, list(hashes))
    return Block(_to_batch(names), stored, documents)


def _stored(vectors: NDArray[np.float32], spec: StoreSpec, rows: int) -> Vectors:
    stored = split_bands(vectors, spec)
    if len(stored.bands[0]) != rows:
        raise ValueError(f"{rows} rows, but {len(stored.bands[0])} vectors")
    return stored


def _document_starts(rows: Sequence[Row], last: Row | None) -> list[int]:
    starts = []
    for position, row in enumerate(rows):
        follows = (
            last is not None
            and row.document_id == last.document_id
            and row.ordinal == last.ordinal + 1
        )
        if not follows and row.ordinal != 0:
            raise ValueError(
                f"document {row.document_id!r} begins with chunk {row.ordinal}; append its "
                "chunks in order, and commit with complete=False while it is unfinished"
            )
        if not follows:
            starts.append(position)
        last = row
    return starts


def _to_batch(fields: Mapping[str, Sequence[Any]]) -> pa.RecordBatch:
    """Rows of chunks.arrow from the columns of their fields."""
    columns = dict(fields)
    columns["chunk_id"] = list(map(chunk_id, fields["document_id"], fields["ordinal"]))
    columns["metadata"] = [_json(some) if some else "{}" for some in fields["metadata"]]
    if any(len(value) != HASH_BYTES for value in columns["content_hash"]):
        raise ValueError(f"the content hash of a chunk has {HASH_BYTES} bytes")
    arrays = [_column(columns[field.name], field.type) for field in CHUNKS_SCHEMA]
    return pa.record_batch(arrays, schema=CHUNKS_SCHEMA)


def _json(metadata: Mapping[str, Scalar]) -> str:
    return json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True, allow_nan=False)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.binary(HASH_BYTES):
        return bytes_array(values, HASH_BYTES)
    if kind in (pa.int32(), pa.int64()):
        return number_array(values, np.int32 if kind == pa.int32() else np.int64)
    return text_array(values, kind)


class SegmentWriter:
    """A segment being written in a directory of its own.

    Chunks go straight to their file. Bands are held, since an Arrow record batch must be written in
    one piece: a few in memory, more in raw files that are copied from a memory map in the end.
    """

    def __init__(self, directory: Path, spec: StoreSpec, io: StorageIO | None = None) -> None:
        """Make the directory, which must not exist."""
        self.directory = directory
        self.rows = 0
        self._spec = spec
        self._io = io or StorageIO()
        self._tokens = 0
        self._documents = BegunDocuments()
        self._last: Row | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._io.mkdir(directory)
        self._files: list[StorageFile] = []
        self._chunks = self._create(CHUNKS_FILE)
        self._held: list[list[NDArray[Any]]] = [[] for _ in self._matrices()]
        self._held_bytes = 0
        self._spools: list[StorageFile] = []
        self._arrow = ipc.new_file(self._chunks, CHUNKS_SCHEMA)

    def _matrices(self) -> list[str]:
        norms = [NORMS_FILE] if self._spec.is_foreign else []
        return [*self._spec.band_files, *norms]

    def _create(self, name: str, *, hashed: bool = True) -> StorageFile:
        file = StorageFile(self._io, self.directory / name, hashed=hashed)
        self._files.append(file)
        return file

    @property
    def last_document_row(self) -> int:
        """First row of the document that began last."""
        return self._documents.rows[-1]

    def append(
        self, rows: Sequence[Row], vectors: NDArray[np.float32], hashes: Mapping[str, bytes]
    ) -> None:
        """Append chunks; the arguments are those of `make_block`."""
        block = make_block(rows, vectors, hashes, spec=self._spec, last=self._last)
        self.append_block(block, 0, len(rows))
        self._last = rows[-1] if rows else self._last

    def append_block(self, block: Block, start: int, stop: int) -> None:
        """Append the rows of a block from `start` to `stop`."""
        self._documents.extend(block.documents.between(start, stop), first_row=self.rows)
        self.append_batch(block.batch.slice(start, stop - start), block.vectors[start:stop])

    def begin_document(self, document_id: str, path: str, content_hash: bytes, *, row: int) -> None:
        """Record that a document begins at a row that is appended next."""
        begun = BegunDocuments([0], [document_id], [path], [content_hash])
        self._documents.extend(begun, first_row=row)

    def append_batch(self, batch: pa.RecordBatch, vectors: Vectors) -> None:
        """Append rows of chunks.arrow with their stored vectors."""
        if self.rows + batch.num_rows > MAX_SEGMENT_ROWS:
            raise ValueError(f"a segment holds at most {MAX_SEGMENT_ROWS:,} rows")
        matrices: list[NDArray[Any]] = list(vectors.bands)
        if vectors.norms is not None:
            matrices.append(vectors.norms)
        for held, matrix in zip(self._held, matrices, strict=True):
            held.append(matrix)
            self._held_bytes += matrix.nbytes
        if self._held_bytes > HELD_BYTES:
            self._spill()
        self.rows += batch.num_rows
        self._tokens += int(numbers(batch.column("tokens")).sum(dtype=np.int64))
        self._waiting.append(batch)
        if sum(waiting.num_rows for waiting in self._waiting) >= CHUNK_BATCH_ROWS:
            self._write_chunks(keep_rest=True)

    def _write_chunks(self, *, keep_rest: bool) -> None:
        table = pa.Table.from_batches(self._waiting, CHUNKS_SCHEMA).combine_chunks()
        batches = table.to_batches(max_chunksize=CHUNK_BATCH_ROWS)
        rest = batches.pop() if keep_rest and batches[-1].num_rows < CHUNK_BATCH_ROWS else None
        for batch in batches:
            self._arrow.write_batch(batch)
        self._waiting = [rest] if rest is not None else []

    def _spill(self) -> None:
        """Move what is held in memory to files."""
        if not self._spools:
            # Whoever reads them has just written them; their checksums are of no use.
            self._spools = [self._create(f"{name}.raw", hashed=False) for name in self._matrices()]
        for spool, held in zip(self._spools, self._held, strict=True):
            for matrix in held:
                spool.write(np.ascontiguousarray(matrix).data.cast("B"))
            held.clear()
        self._held_bytes = 0

    def finish(self) -> SegmentInfo:
        """Write and fsync all files of the segment, and the directory.

        Raises:
            ValueError: no row was appended.
        """
        if not self.rows:
            raise ValueError("a segment holds at least one row")
        if self._waiting:
            self._write_chunks(keep_rest=False)
        self._arrow.close()
        with self._chunks:
            files = {CHUNKS_FILE: self._chunks.entry}
        files[DOCUMENTS_FILE] = self._write_documents()
        if self._spools:
            self._spill()
        for number, name in enumerate(self._matrices()):
            files[name] = self._write_matrix(number, name)
        self._io.fsync_directory(self.directory)
        ids = tuple(self._documents.ids)
        return SegmentInfo(self.directory, self.rows, self._tokens, ids, files)

    def _write_documents(self) -> FileEntry:
        begun = self._documents
        first = np.array(begun.rows, np.int32)
        rows = np.diff(first, append=np.int32(self.rows))
        columns: list[Any] = [begun.ids, begun.paths, begun.hashes, first, rows]
        arrays = [
            _column(column, field.type)
            for column, field in zip(columns, DOCUMENTS_SCHEMA, strict=True)
        ]
        batch = pa.record_batch(arrays, schema=DOCUMENTS_SCHEMA)
        return write_batches(self._io, self.directory / DOCUMENTS_FILE, DOCUMENTS_SCHEMA, [batch])

    def _write_matrix(self, number: int, name: str) -> FileEntry:
        if not self._spools:
            whole = np.concatenate(self._held[number])
            self._held[number].clear()
            return write_matrix(self._io, self.directory / name, whole)
        self._spools[number].flush()
        self._spools[number].close()
        raw = self.directory / f"{name}.raw"
        dtype = np.float32 if name == NORMS_FILE else np.float16
        matrix = np.memmap(raw, dtype, "r").reshape(self.rows, -1)
        entry = write_matrix(self._io, self.directory / name, matrix)
        del matrix  # Windows removes no mapped file
        self._io.unlink(raw)
        return entry

    def close(self) -> None:
        """Give the descriptors back, leaving the files behind."""
        for file in self._files:
            file.close()
