"""Vectors from elsewhere on their way into an index: from arrays and streams to checked rows.

At most one batch of them is converted at a time, whatever they come as. What cannot be stored is
refused by the number of its row among those given, counted from 0.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, repeat
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from adaptive_search.arrow_arrays import numbers
from adaptive_search.documents import Scalar, is_text
from adaptive_search.errors import QueryError
from adaptive_search.id_set import IdSet
from adaptive_search.manifest import MAX_DIM, MAX_DIMS, StoreSpec

# A matrix, an Arrow list column, or an iterable of these and of single vectors.
Vectors: TypeAlias = NDArray[Any] | pa.Array | pa.ChunkedArray | Iterable[Any]
Id: TypeAlias = str | int
Fields: TypeAlias = Mapping[str, Scalar | None]

SOURCE = "vectors"  # in place of an encoder's fingerprint
STANDARD_DIMS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096)
MAX_ID_CHARS = 1024
BATCH_BYTES = 8 << 20
ENERGY_TOLERANCE = 5e-4  # of a band's length, relative; the store allows twice as much

_NO_FIELDS: Mapping[str, Scalar] = MappingProxyType({})
_END = object()


@dataclass(frozen=True)
class VectorBatch:
    """Rows that may be stored, column by column.

    Attributes:
        ids: of the rows, all different.
        texts: of each; "" for none.
        metadata: of each, fields without a value left out.
        hashes: 16 bytes of each, which tell a row that has changed.
        vectors: float32 (len(ids), width).
    """

    ids: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[Mapping[str, Scalar]]
    hashes: Sequence[bytes]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        """How many rows."""
        return len(self.ids)

    def only(self, rows: Sequence[int]) -> VectorBatch:
        """Some of the rows."""
        return VectorBatch(
            [self.ids[row] for row in rows],
            [self.texts[row] for row in rows],
            [self.metadata[row] for row in rows],
            [self.hashes[row] for row in rows],
            self.vectors[rows],
        )


class VectorChecker:
    """Makes batches of the rows that one call or file brings, in one or several goes."""

    def __init__(self, spec: StoreSpec) -> None:
        """Check for an index of this spec."""
        self._spec = spec
        self._ids = IdSet()  # of all rows so far, so that its length is their number

    def batches(
        self,
        ids: Iterable[Id],
        vectors: Vectors,
        metadata: Iterable[Fields] | None = None,
        texts: Iterable[str | None] | None = None,
    ) -> Iterator[VectorBatch]:
        """Check vectors and what belongs to each; see `AdaptiveIndex.add_vectors`.

        Raises:
            QueryError: a vector, id, text or field cannot be stored, an id comes twice, or there
                are not as many of each as there are vectors.
        """
        begin = len(self._ids)
        given = {"ids": ids, "metadata": metadata, "texts": texts}
        columns = {name: _items(name, values) for name, values in given.items()}
        for block in _blocks(vectors, self._spec.dims[-1], begin):
            first = len(self._ids)
            self._check_values(block, first)
            parts = {name: list(islice(column, len(block))) for name, column in columns.items()}
            for name, part in parts.items():
                if len(part) < len(block):
                    count = first - begin + len(part)
                    raise QueryError(f"there are fewer {name} than vectors: {count:,}")
            yield self._batch(first, block, **parts)
        for name, column in columns.items():
            if given[name] is not None and next(column, _END) is not _END:
                count = len(self._ids) - begin
                raise QueryError(f"there are more {name} than vectors, which are {count:,}")

    def _check_values(self, block: NDArray[np.float32], first: int) -> None:
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = first + int(np.argmin(finite))
            raise QueryError(f"the vector of row {row:,} has a number that is not finite")
        nonzero = block.any(axis=1)
        if not nonzero.all():
            row = first + int(np.argmin(nonzero))
            raise QueryError(f"the vector of row {row:,} is zero, so it has no direction")
        start = 0
        for dim, weight in zip(self._spec.dims, self._spec.band_weights or (), strict=False):
            lengths = np.linalg.norm(block[:, start:dim], axis=1)
            good = np.abs(lengths - weight) <= ENERGY_TOLERANCE * weight
            if not good.all():
                at = int(np.argmin(good))
                raise QueryError(
                    f"the vector of row {first + at:,} is not of this index's encoder: its "
                    f"coordinates {start} to {dim} have the length {lengths[at]:.4f}, not "
                    f"{weight:.4f}; give those of Encoder.encode(texts) as they are, or make an "
                    "index of your own vectors with AdaptiveIndex.create(path, dims=...)"
                )
            start = dim

    def _batch(
        self,
        first: int,
        block: NDArray[np.float32],
        ids: Sequence[object],
        metadata: Sequence[object],
        texts: Sequence[object],
    ) -> VectorBatch:
        numbers = range(first, first + len(block))
        names = list(map(_checked_id, ids, numbers))
        for name, row in zip(names, numbers, strict=True):
            earlier = self._ids.number(name)
            if earlier != row:
                raise QueryError(f"id {name!r} comes twice, in rows {earlier:,} and {row:,}")
        good_texts = list(map(_checked_text, texts, numbers))
        fields = list(map(_checked_metadata, metadata, numbers))
        size, data = block[0].nbytes, block.data.cast("B")
        vectors = (data[start : start + size] for start in range(0, len(data), size))
        hashes = list(map(_content_hash, vectors, good_texts, fields))
        return VectorBatch(names, good_texts, fields, hashes, block)


def _content_hash(vector: memoryview, text: str, fields: Mapping[str, Scalar]) -> bytes:
    """What tells a row that has changed: 16 bytes.

    Vectors are long, and whoever makes two of one XXH3 deceives only himself; texts may come from
    others.
    """
    digest: bytes = xxhash.xxh3_128_digest(vector)
    if not text and not fields:
        return digest
    rest = repr((text, sorted(fields.items()))).encode()
    return hashlib.blake2b(digest + rest, digest_size=16).digest()


def query_matrix(vectors: Vectors) -> NDArray[np.float32]:
    """Vectors to search with as one matrix, float32 (n, width).

    Raises:
        QueryError: they are no numbers, or not all of one width.
    """
    matrices = [_matrix(part, 0) for part in _parts(vectors, sys.maxsize)]
    if len({matrix.shape[1] for matrix in matrices}) > 1:
        raise QueryError("the vectors to search with differ in width")
    return np.concatenate(matrices) if matrices else np.zeros((0, 0), np.float32)


def standard_dims(width: int) -> tuple[int, ...]:
    """The usual nesting dimensions up to a width, which is the last of them."""
    return (*(dim for dim in STANDARD_DIMS if dim < width), width)


def checked_dims(dims: Iterable[int]) -> tuple[int, ...]:
    """Nesting dimensions as plain whole numbers.

    Raises:
        QueryError: they are not, or do not rise from at least 1 to at most 65,536, or are too many.
    """
    found = [dim.item() if isinstance(dim, np.integer) else dim for dim in dims]
    if not found or len(found) > MAX_DIMS or not all(type(dim) is int for dim in found):
        raise QueryError(f"dims={found} must be 1 to {MAX_DIMS} whole numbers")
    if not all(a < b for a, b in pairwise([0, *found, MAX_DIM + 1])):
        raise QueryError(f"dims={found} must rise, from at least 1 to at most {MAX_DIM:,}")
    return tuple(found)


# -- vectors of any kind as float32 ------------------------------------------------


def _blocks(vectors: Vectors, width: int, first: int) -> Iterator[NDArray[np.float32]]:
    """All vectors, as many at a time as BATCH_BYTES allow: float32 (n, width) each."""
    most = max(1, BATCH_BYTES // (4 * width))
    # What comes bit by bit may come in the same memory each time.
    is_whole = hasattr(vectors, "__array__") or isinstance(vectors, pa.Array | pa.ChunkedArray)
    waiting: list[NDArray[np.float32]] = []
    held = 0
    for part in _parts(vectors, most):
        block = _matrix(part, first)
        if block.shape[1] != width:
            raise QueryError(
                f"the vector of row {first:,} has {block.shape[1]:,} numbers, but the highest "
                f"dimension of the index is {width:,}"
            )
        first += len(block)
        if held + len(block) > most:
            yield _joined(waiting)
            waiting, held = [], 0
        waiting.append(block if is_whole else block.copy())
        held += len(block)
    if held:
        yield _joined(waiting)


def _joined(blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _parts(vectors: Vectors, most: int, *, single: bool = False) -> Iterator[Any]:
    """Matrices and Arrow arrays of at most so many rows, as they were given.

    Args:
        vectors: as given.
        most: rows of a part.
        single: a row of numbers is one vector, and a list holds numbers or such rows.
    """
    if isinstance(vectors, pa.ChunkedArray):
        for chunk in vectors.chunks:
            yield from _slices(chunk, most)
    elif isinstance(vectors, pa.Array):
        yield from _slices(vectors, most)
    elif single or hasattr(vectors, "__array__"):
        matrix = _array(vectors)
        if matrix.ndim == 1 and matrix.dtype == object and not single:  # a column of lists
            yield from _parts(list(matrix), most)
        elif matrix.ndim == 1 and single:
            yield matrix[None]
        elif matrix.ndim == 2:
            yield from _slices(matrix, most)
        else:
            raise QueryError(f"vectors have the shape {matrix.shape}, not (number, width)")
    elif isinstance(vectors, Iterable) and not isinstance(vectors, str | bytes | Mapping):
        for part in vectors:
            yield from _parts(part, most, single=True)
    else:
        kind = type(vectors).__name__
        raise QueryError(f"vectors are given as a matrix, a list column or batches, not as {kind}")


def _slices(rows: Any, most: int) -> Iterator[Any]:  # noqa: ANN401
    return (rows[start : start + most] for start in range(0, len(rows), most))


def _array(vectors: object) -> NDArray[Any]:
    try:
        array = np.asarray(vectors)
    except ValueError:
        raise QueryError("a batch of vectors holds rows of different widths") from None
    # A list may hold whole numbers; an array of them is something else, such as packed bits.
    return array.astype(np.float64) if isinstance(vectors, list) and array.dtype == int else array


def _matrix(part: Any, first: int) -> NDArray[np.float32]:  # noqa: ANN401
    """A part as float32 (n, width); what float32 cannot hold becomes infinite."""
    matrix = _list_values(part, first) if isinstance(part, pa.Array) else part
    if matrix.dtype.kind != "f" or matrix.dtype.itemsize > 8:
        raise QueryError(f"vectors have the dtype {matrix.dtype}; give float16, float32 or float64")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(matrix, np.float32)


def _list_values(column: pa.Array, first: int) -> NDArray[Any]:
    """The numbers of an Arrow list column: (rows, width), without a copy where it is contiguous."""
    kind = column.type
    is_fixed = pa.types.is_fixed_size_list(kind)
    is_list = is_fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise QueryError(f"vectors have the Arrow type {kind}; give lists of floats")
    if column.null_count:
        row = next(row for row, value in enumerate(column) if not value.is_valid)
        raise QueryError(f"the vector of row {first + row:,} is null")
    values = column.flatten()
    if values.null_count:
        raise QueryError(f"a vector from row {first:,} on holds a null")
    width = len(values) // len(column)
    if not is_fixed:
        odd = np.flatnonzero(np.diff(numbers(column.offsets)) != width)
        if len(odd):
            raise QueryError(f"the vectors from row {first:,} on differ in width")
    return numbers(values).reshape(len(column), width)


# -- what belongs to a vector ---------------------------------------------------------


def _items(name: str, values: Any) -> Iterator[Any]:  # noqa: ANN401
    """The values one by one; none at all, endlessly, where none were given."""
    if values is None:
        return repeat(None)
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise QueryError(f"{name} must be one for each vector, not {type(values).__name__}")
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return (value.as_py() for value in values)
    return iter(values)


def _checked_id(given: object, row: int) -> str:
    value = given.item() if isinstance(given, np.generic) else given
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(1 << 63) <= value < 1 << 63:
            raise QueryError(f"the id {value} of row {row:,} is beyond 64 bits; give it as a text")
        return str(value)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS or not is_text(value):
        raise QueryError(
            f"the id of row {row:,} is {value!r:.80}; give a whole number, or a text of 1 to "
            f"{MAX_ID_CHARS:,} characters"
        )
    return value


def _checked_text(given: object, row: int) -> str:
    if given is None:
        return ""
    if not isinstance(given, str) or not is_text(given):
        raise QueryError(f"the text of row {row:,} must be a str that UTF-8 can hold, or None")
    return given


def _checked_metadata(given: object, row: int) -> Mapping[str, Scalar]:
    """The fields that have a value: pandas writes NaN, and Arrow null, where one has none."""
    if given is None:
        return _NO_FIELDS
    if isinstance(given, Mapping):
        given = {
            name: value
            for name, value in given.items()
            if value is not None and not (isinstance(value, float) and math.isnan(value))
        }
    return checked_fields(given, row)


def checked_fields(given: object, row: int) -> dict[str, Scalar]:
    """The metadata of a row as plain values.

    Raises:
        QueryError: they are no mapping, or a name or value cannot be stored.
    """
    if not isinstance(given, Mapping):
        raise QueryError(f"the metadata of row {row:,} must be a mapping")
    fields: dict[str, Scalar] = {}
    for name, value in given.items():
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(name, str) or not is_text(name):
            raise QueryError(f"the metadata of row {row:,} have the name {name!r}; give a text")
        is_good = is_text(value) if isinstance(value, str) else isinstance(value, int | float)
        if not is_good or (isinstance(value, float) and not math.isfinite(value)):
            raise QueryError(
                f"the field {name} of row {row:,} is {value!r:.80}; give a text, finite number or "
                "boolean"
            )
        fields[name] = value
    return fields
