"""The Arrow files of a segment: their schemas, and reading them without trusting them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from adaptive_search.arrow_arrays import matrix_array, numbers
from adaptive_search.errors import StoreFormatError
from adaptive_search.kernels import mapping
from adaptive_search.storage_io import FileEntry, StorageFile, StorageIO, hash_file

HASH_BYTES = 16  # of a content hash
CHUNK_BATCH_ROWS = 256  # rows of every record batch of chunks.arrow but the last
REMEDY = "restore the file from a backup, or index the corpus again"
# What lies before and behind the numbers of matrices that were read, by rows, width, dtype and
# size: most files of an index are laid out alike, and Arrow takes a while to say so of each.
_known_ends: dict[tuple[int, int, str, int], tuple[bytes, bytes]] = {}
_MOST_KNOWN = 256
_MOST_END_BYTES = 1 << 14


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


CHUNKS_SCHEMA = _schema(
    chunk_id=pa.string(),
    document_id=pa.string(),
    path=pa.string(),
    ordinal=pa.int32(),
    byte_start=pa.int64(),
    byte_end=pa.int64(),
    line_start=pa.int32(),
    line_end=pa.int32(),
    tokens=pa.int32(),
    content_hash=pa.binary(HASH_BYTES),
    metadata=pa.string(),
    text=pa.large_string(),
)
DOCUMENTS_SCHEMA = _schema(
    document_id=pa.string(),
    path=pa.string(),
    content_hash=pa.binary(HASH_BYTES),
    first_row=pa.int32(),
    rows=pa.int32(),
)
TOMBSTONES_SCHEMA = _schema(row=pa.int32())


def matrix_schema(width: int, kind: pa.DataType) -> pa.Schema:
    """Schema of a file that holds one vector of `width` numbers a row."""
    item = pa.field("item", kind, nullable=False)
    return _schema(vector=pa.list_(item, width))


def damaged(path: Path, invariant: str, remedy: str = REMEDY) -> StoreFormatError:
    """The error for a file that breaks a rule of the format."""
    return StoreFormatError(f"{path} {invariant}; {remedy}")


def check_file(path: Path, entry: FileEntry) -> os.stat_result:
    """Check that a file is there, plain, and of the size that the manifest records.

    Raises:
        StoreFormatError: it is not.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, "is not a regular file")
    if status.st_size != entry.bytes:
        raise damaged(path, f"has {status.st_size:,} bytes, but the manifest says {entry.bytes:,}")
    return status


def check_checksum(path: Path, entry: FileEntry) -> None:
    """Read a whole file and compare its checksum with the manifest's.

    Raises:
        StoreFormatError: they differ, or the file cannot be read.
    """
    try:
        found = hash_file(path)
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error
    if found != entry:
        raise damaged(path, "does not match its checksum in the manifest")


def map_file(path: Path, entry: FileEntry) -> tuple[pa.Buffer, os.stat_result]:
    """Map a file of the recorded size.

    The map outlives a removal of the file and holds no descriptor.

    Returns:
        The map, and the file's status. Its time of change is when the file was last touched in any
        way; no program can set that back, where a file system keeps it.

    Raises:
        StoreFormatError: the file is missing, not plain, or of another size.
    """
    status = check_file(path, entry)
    try:
        buffer = pa.py_buffer(mapping.map_file(path))
    except OSError as error:
        raise damaged(path, f"cannot be mapped ({error})") from error
    if buffer.size != entry.bytes:
        raise damaged(path, "changed its size while it was opened")
    return buffer, status


def open_batches(
    buffer: pa.Buffer, schema: pa.Schema, batches: int, path: Path
) -> ipc.RecordBatchFileReader:
    """Open a mapped Arrow file that must have this schema and number of record batches.

    Raises:
        StoreFormatError: it is not such a file.
    """
    try:
        reader = ipc.open_file(buffer)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise damaged(path, f"is not an Arrow file ({error})") from error
    if not reader.schema.equals(schema):
        raise damaged(path, "has another Arrow schema than the format asks for")
    if reader.num_record_batches != batches:
        raise damaged(path, f"has {reader.num_record_batches} record batches, not {batches}")
    return reader


def read_batch(
    reader: ipc.RecordBatchFileReader, index: int, rows: int, path: Path
) -> pa.RecordBatch:
    """Read one record batch of an open file and validate all of it.

    Raises:
        StoreFormatError: it is damaged, holds nulls, or has another number of rows.
    """
    try:
        batch = reader.get_batch(index)
        batch.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise damaged(path, f"has a damaged record batch ({error})") from error
    if batch.num_rows != rows:
        raise damaged(path, f"has {batch.num_rows} rows in batch {index}, not {rows}")
    if any(column.null_count for column in batch.columns):
        raise damaged(path, "holds nulls")
    return batch


def read_matrix(
    buffer: pa.Buffer, rows: int, width: int, dtype: type[np.floating], path: Path
) -> NDArray[np.floating]:
    """View a mapped matrix file as numpy.

    Only the layout is checked, in constant time: any bits are a legal float.

    Returns:
        dtype (rows, width), read-only, no copy.

    Raises:
        StoreFormatError: the file is not such a matrix.
    """
    layout = rows, width, np.dtype(dtype).char, buffer.size
    data = np.frombuffer(buffer, np.uint8)
    if (ends := _known_ends.get(layout)) and _has_ends(data, *ends):
        start, stop = len(ends[0]), len(data) - len(ends[1])
    else:
        flat = _matrix_values(buffer, rows, width, dtype, path)
        start = flat.ctypes.data - data.ctypes.data
        stop = start + flat.nbytes
        if len(data) - flat.nbytes <= _MOST_END_BYTES:
            if len(_known_ends) >= _MOST_KNOWN:
                _known_ends.clear()
            _known_ends[layout] = data[:start].tobytes(), data[stop:].tobytes()
    matrix: NDArray[np.floating] = data[start:stop].view(dtype).reshape(rows, width)
    return matrix


def _has_ends(data: NDArray[np.uint8], head: bytes, tail: bytes) -> bool:
    return data[: len(head)].tobytes() == head and data[len(data) - len(tail) :].tobytes() == tail


def _matrix_values(
    buffer: pa.Buffer, rows: int, width: int, dtype: type[np.floating], path: Path
) -> NDArray[np.floating]:
    kind = pa.from_numpy_dtype(dtype)
    reader = open_batches(buffer, matrix_schema(width, kind), 1, path)
    try:
        batch = reader.get_batch(0)
        batch.validate()
        column = batch.column(0)
        values = column.values.slice(column.offset * width, len(column) * width)
        flat: NDArray[np.floating] = numbers(values)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise damaged(path, f"has a damaged record batch ({error})") from error
    if batch.num_rows != rows or column.null_count or len(flat) != rows * width:
        raise damaged(path, f"does not hold {rows} rows of {width} numbers")
    return flat


def write_batches(
    io: StorageIO, path: Path, schema: pa.Schema, batches: Sequence[pa.RecordBatch]
) -> FileEntry:
    """Write a new Arrow file and fsync it."""
    with StorageFile(io, path) as file, ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return file.entry


def write_matrix(io: StorageIO, path: Path, matrix: NDArray[np.floating]) -> FileEntry:
    """Write a matrix as one record batch: float (rows, width)."""
    schema = matrix_schema(matrix.shape[1], pa.from_numpy_dtype(matrix.dtype))
    column = matrix_array(matrix, schema.field(0).type)
    batch = pa.record_batch([column], schema=schema)
    return write_batches(io, path, schema, [batch])
