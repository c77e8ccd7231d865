"""Parquet, and Arrow IPC files and streams: one document a row, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adaptive_search.documents import Document, Skipped
from adaptive_search.readers.records import record_document
from adaptive_search.readers.source import Source, UnreadableFile, brief

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 256
_ADVICE = "write the file again"


def read_parquet(source: Source) -> Iterator[Document | Skipped]:
    """One record a row of a Parquet file; columns that are no text or scalar stay on disk.

    Raises:
        UnreadableFile: broken, or without a usable column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with source.open() as handle, pq.ParquetFile(handle, pre_buffer=False) as file:
            names = _usable_columns(file.schema_arrow)
            batches = file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False)
            yield from _records(source, batches, names)
    except MemoryError:  # Arrow's is an ArrowException too
        raise
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFile(_reason("Parquet", error)) from None


def read_arrow(source: Source) -> Iterator[Document | Skipped]:
    """One record a row of an Arrow IPC file or stream.

    Raises:
        UnreadableFile: broken, or without a usable column.
    """
    import pyarrow as pa

    try:
        with source.open() as handle:
            is_file = handle.read(6) == b"ARROW1"
            handle.seek(0)
            batches = _file_batches(handle) if is_file else iter(pa.ipc.open_stream(handle))
            yield from _slices(source, batches)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFile(_reason("Arrow", error)) from None


def _file_batches(handle: object) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    file = pa.ipc.open_file(handle)
    for index in range(file.num_record_batches):
        yield file.get_batch(index)


def _slices(source: Source, batches: Iterator[pa.RecordBatch]) -> Iterator[Document | Skipped]:
    number = 0
    for batch in batches:
        # Offsets of an untrusted file may point outside its buffers.
        batch.validate(full=True)
        names = _usable_columns(batch.schema)
        pieces = (batch.slice(at, _BATCH_ROWS) for at in range(0, len(batch), _BATCH_ROWS))
        yield from _records(source, pieces, names, first=number)
        number += len(batch)


def _records(
    source: Source, batches: Iterator[pa.RecordBatch], names: list[str], *, first: int = 0
) -> Iterator[Document | Skipped]:
    number = first
    for batch in batches:
        try:
            rows = batch.select(names).to_pylist()
        except UnicodeDecodeError:
            # Parquet and Arrow promise UTF-8, but nobody checks when writing.
            for offset in range(len(batch)):
                yield source.skipped(number + offset + 1, "its batch holds invalid UTF-8; fix it")
            number += len(batch)
            continue
        for row in rows:
            number += 1
            yield record_document(source, number, row)


def _usable_columns(schema: pa.Schema) -> list[str]:
    names = [field.name for field in schema if _is_usable(field.type)]
    if not any(True for field in schema if _is_text(field.type)):
        raise UnreadableFile("no text: none of its columns holds strings")
    if len(set(names)) < len(names):
        raise UnreadableFile(f"two columns have the same name; {_ADVICE} with one name for each")
    return names


def _is_usable(kind: pa.DataType) -> bool:
    import pyarrow as pa

    scalars = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_decimal,
        pa.types.is_date,
        pa.types.is_timestamp,
        pa.types.is_struct,  # an object called metadata
    )
    return _is_text(kind) or any(test(kind) for test in scalars)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type)
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _reason(what: str, error: Exception) -> str:
    return f"broken {what} file ({brief(error)}); {_ADVICE}"
