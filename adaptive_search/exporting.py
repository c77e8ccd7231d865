"""Writing one slice of an index as a plain Arrow or Parquet file, a record batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from adaptive_search.arrow_arrays import matrix_array, number_array
from adaptive_search.arrow_files import CHUNK_BATCH_ROWS, CHUNKS_SCHEMA, matrix_schema
from adaptive_search.errors import DimensionError, QueryError
from adaptive_search.segment import Segment
from adaptive_search.storage_io import StorageFile, StorageIO, check_free_space, disk_errors

if TYPE_CHECKING:
    from adaptive_search.store import Store

COLUMNS = ("chunk_id", "document_id", "path", "text")
SUFFIXES = (".arrow", ".parquet")


def export(store: Store, dim: int, path: Path, *, half: bool = False) -> int:
    """Write the live rows with their unit-length vectors; replaces the file when all is written.

    Args:
        store: an open index.
        dim: one of store.dims.
        path: ends in .arrow (Arrow IPC file) or .parquet.
        half: float16 instead of float32 vectors.

    Returns:
        Rows written.

    Raises:
        DimensionError: dim is not a dimension of this index.
        QueryError: the path has another ending.
        StoreError: the disk refuses.
    """
    if dim not in store.dims:
        raise DimensionError(dim, store.dims)
    if path.suffix not in SUFFIXES:
        raise QueryError(f"cannot export to {path.name!r}; its name must end in .arrow or .parquet")
    io = StorageIO()
    rows = store.status().rows
    check_free_space(io, path.absolute().parent, rows * dim * (2 if half else 4))
    kind = np.float16 if half else np.float32
    vector = matrix_schema(dim, pa.from_numpy_dtype(kind)).field(0)
    schema = pa.schema([*(CHUNKS_SCHEMA.field(name) for name in COLUMNS), vector])
    with disk_errors("export to", path):
        _write(io, path, schema, _batches(store, dim, schema))
    return rows


def _write(io: StorageIO, path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with suppress(FileNotFoundError):
        io.unlink(temporary)
    try:
        with StorageFile(io, temporary) as file, _sink(file, schema, path.suffix) as sink:
            for batch in batches:
                sink.write_batch(batch)
        io.replace(temporary, path)
        io.fsync_directory(path.absolute().parent)
    except BaseException:
        with suppress(OSError):
            io.unlink(temporary)
        raise


def _sink(file: StorageFile, schema: pa.Schema, suffix: str) -> ipc.RecordBatchFileWriter:
    if suffix == ".arrow":
        return ipc.new_file(file, schema)
    import pyarrow.parquet as parquet

    return parquet.ParquetWriter(file, schema)


def _batches(store: Store, dim: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    count = store.spec.bands_of(dim)
    for segment in store.segments:
        bands = [segment.band(index) for index in range(count)]
        for index, chunks in enumerate(segment.chunk_batches()):
            start = index * CHUNK_BATCH_ROWS
            rows = slice(start, start + chunks.num_rows)
            vectors = _unit([band[rows] for band in bands])
            keep = _live(segment, rows)
            if not keep.all():
                chunks, vectors = (
                    chunks.take(number_array(np.flatnonzero(keep), np.int64)),
                    vectors[keep],
                )
            if chunks.num_rows:
                yield _batch(chunks, vectors, schema)


def _batch(
    chunks: pa.RecordBatch, vectors: NDArray[np.float32], schema: pa.Schema
) -> pa.RecordBatch:
    kind = schema.field("vector").type
    half = kind.value_type == pa.float16()
    column = matrix_array(vectors.astype(np.float16 if half else np.float32), kind)
    return pa.record_batch([*(chunks.column(name) for name in COLUMNS), column], schema=schema)


def _unit(bands: list[NDArray[np.float16]]) -> NDArray[np.float32]:
    vectors = np.concatenate(bands, axis=1, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def _live(segment: Segment, rows: slice) -> NDArray[np.bool_]:
    if segment.live is None:
        return np.ones(rows.stop - rows.start, np.bool_)
    return segment.live[rows]
