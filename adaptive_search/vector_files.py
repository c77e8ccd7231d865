"""Files of vectors: Parquet, Arrow IPC files and streams, and .npy, read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from adaptive_search.errors import QueryError
from adaptive_search.json_text import parse_json
from adaptive_search.readers.records import scalar_value
from adaptive_search.vectors import VectorBatch, VectorChecker, query_matrix

ID_COLUMN, VECTOR_COLUMN, TEXT_COLUMN = "id", "vector", "text"
NUMPY, PARQUET, ARROW = ".npy", ".parquet", (".arrow", ".arrows", ".feather")
READ_ROWS = 1024

# Ids, vectors, other fields, and texts of some rows.
Part = tuple[
    Sequence[Any], "NDArray[Any] | pa.Array", Sequence[Mapping[str, Any]], Sequence[str | None]
]


@dataclass(frozen=True)
class VectorFile:
    """A file of vectors with what belongs to them.

    A .npy file holds one matrix, whose rows have their numbers for ids. In the others the column
    `text`, if there is one, is what hits show, and other columns of plain values are metadata.

    Attributes:
        path: of the file.
        id_column: column of texts or whole numbers.
        vector_column: column of lists of floats.
    """

    path: Path
    id_column: str = ID_COLUMN
    vector_column: str = VECTOR_COLUMN

    def __post_init__(self) -> None:
        """Refuse other kinds of file."""
        kinds = (PARQUET, *ARROW, NUMPY)
        if self.path.suffix not in kinds:
            raise QueryError(f"{self.path}: vectors are read from files in {', '.join(kinds)}")

    @cached_property
    def width(self) -> int:
        """Numbers in the first vector.

        Raises:
            QueryError: there is none, or the file cannot be read.
        """
        for _, vectors, _, _ in self.parts():
            if len(vectors):
                return int(query_matrix(vectors[:1]).shape[1])
        raise QueryError(f"{self.path} holds no vectors")

    @cached_property
    def rows(self) -> int:
        """Vectors in the file; 0 where only reading it would tell.

        Raises:
            QueryError: the file cannot be read.
        """
        with _reading(self.path):
            if self.path.suffix == NUMPY:
                return len(self._matrix_of_rows())
            if self.path.suffix == PARQUET:
                import pyarrow.parquet as parquet

                return int(parquet.read_metadata(self.path).num_rows)
        return 0

    def batches(self, checker: VectorChecker) -> Iterator[VectorBatch]:
        """All rows, checked.

        Raises:
            QueryError: the file cannot be read, or a row cannot be stored.
        """
        for part in self.parts():
            try:
                yield from checker.batches(*part)
            except QueryError as error:
                raise QueryError(f"{self.path}: {error}") from None

    def parts(self) -> Iterator[Part]:
        """All rows as they are, some at a time.

        Raises:
            QueryError: the file cannot be read, or lacks a column.
        """
        with _reading(self.path):
            yield from self._matrix() if self.path.suffix == NUMPY else self._columns()

    def _matrix(self) -> Iterator[Part]:
        matrix = self._matrix_of_rows()
        for start in range(0, len(matrix), READ_ROWS):
            rows = matrix[start : start + READ_ROWS]
            yield range(start, start + len(rows)), rows, [{}] * len(rows), [None] * len(rows)

    def _matrix_of_rows(self) -> NDArray[Any]:
        matrix: NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if getattr(matrix, "ndim", None) != 2:
            raise QueryError(f"{self.path} holds no matrix of the shape (number, width)")
        return matrix

    def _columns(self) -> Iterator[Part]:
        own = (self.id_column, self.vector_column, TEXT_COLUMN)
        for batch in self._batches():
            texts = [None] * len(batch)
            if TEXT_COLUMN in batch.schema.names:
                texts = batch.column(TEXT_COLUMN).to_pylist()
            others = batch.select([name for name in batch.schema.names if name not in own])
            fields = [
                {name: scalar_value(value) for name, value in record.items()}
                for record in others.to_pylist()
            ]
            yield batch.column(own[0]).to_pylist(), batch.column(own[1]), fields, texts

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if self.path.suffix == PARQUET:
            import pyarrow.parquet as parquet

            with parquet.ParquetFile(self.path, memory_map=True, pre_buffer=False) as file:
                names = self._names(file.schema_arrow)
                yield from file.iter_batches(READ_ROWS, columns=names, use_threads=False)
            return
        with pa.memory_map(str(self.path)) as file:
            for batch in _arrow_batches(file):
                batch.validate(full=True)  # offsets of a damaged file may point anywhere
                chosen = batch.select(self._names(batch.schema))
                yield from (chosen.slice(at, READ_ROWS) for at in range(0, len(chosen), READ_ROWS))

    def _names(self, schema: pa.Schema) -> list[str]:
        """Columns that are read: the two that must be there, and those of plain values."""
        required = {"id": self.id_column, "vector": self.vector_column}
        for option, name in required.items():
            if schema.names.count(name) != 1:
                raise QueryError(
                    f"{self.path} must have one column {name}; it has {', '.join(schema.names)}; "
                    f"choose another with --{option}-column"
                )
        plain = (field.name for field in schema if _is_plain(field.type))
        return list(dict.fromkeys([*required.values(), *plain]))


def read_query_vector(source: Path | str) -> NDArray[np.float32]:
    """One vector to search with: float32 (width,).

    Args:
        source: path of a .npy file or of one with JSON; or the JSON itself, as a str: an array of
            numbers, or what `encode` prints.

    Raises:
        QueryError: it cannot be read, or does not hold exactly one vector.
    """
    name = source if isinstance(source, Path) else "the vector"
    with _reading(name):
        if isinstance(source, Path) and source.suffix == NUMPY:
            value = np.load(source, allow_pickle=False)
        else:
            text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
            value = parse_json(text)
    if isinstance(value, dict):
        value = value.get("vectors", value.get("vector"))
    is_one = isinstance(value, np.ndarray | list) and np.ndim(value[:1]) == 1
    matrix = query_matrix([value] if is_one else value)
    count, width = matrix.shape
    if count != 1 or not width:
        raise QueryError(f"{name} holds {count} vectors of {width} numbers; give one vector")
    vector: NDArray[np.float32] = matrix[0]
    return vector


@contextmanager
def _reading(name: Path | str) -> Iterator[None]:
    try:
        yield
    except QueryError:
        raise
    except OSError as error:
        raise QueryError(f"{name} cannot be read: {error.strerror or error}") from None
    except (
        *(pa.ArrowException, ValueError, EOFError, RecursionError),
        *(OverflowError, SyntaxError, TokenError),  # numpy on the header of a hostile .npy
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise QueryError(f"{name} is damaged or of another kind: {reason}") from None


def _arrow_batches(file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    if not is_file:
        yield from ipc.open_stream(file)
        return
    reader = ipc.open_file(file)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    tests = (
        *(types.is_integer, types.is_floating, types.is_boolean, types.is_decimal),
        *(types.is_string, types.is_large_string, types.is_date, types.is_timestamp),
    )
    return any(test(kind) for test in tests)
