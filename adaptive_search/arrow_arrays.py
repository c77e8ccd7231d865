"""Arrow arrays from numpy buffers and back.

pyarrow's own conversions (pa.array, Array.to_numpy) import pandas where it is installed, which
costs more time than a whole query; its buffers do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_DTYPES = {
    pa.from_numpy_dtype(kind): np.dtype(kind)
    for kind in (np.int32, np.int64, np.float16, np.float32, np.float64)
}
MAX_STRING_BYTES = (1 << 31) - 1  # of all texts in one string array


def numbers(array: pa.Array) -> NDArray[Any]:
    """View an array of numbers without nulls as numpy: (len(array),), no copy."""
    dtype = _DTYPES[array.type]
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def number_array(values: Sequence[int] | NDArray[Any], dtype: type[np.number[Any]]) -> pa.Array:
    """Numbers as an array of this type.

    Raises:
        OverflowError: a number is out of the type's range.
    """
    column = np.ascontiguousarray(values, dtype)
    kind = pa.from_numpy_dtype(column.dtype)
    return pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(column)])


def text_array(texts: Sequence[str], kind: pa.DataType) -> pa.Array:
    """Texts as an array of pa.string() or pa.large_string().

    Raises:
        ValueError: a text is not valid Unicode, or all are too long for the type.
    """
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    if kind == pa.string():
        if offsets[-1] > MAX_STRING_BYTES:
            raise ValueError(f"names and metadata of {len(texts)} rows exceed 2 GiB")
        offsets = offsets.astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(kind, len(encoded), buffers)


def bytes_array(values: Sequence[bytes], width: int) -> pa.Array:
    """Byte strings that all have `width` bytes as an array of pa.binary(width)."""
    buffers = [None, pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(width), len(values), buffers)


def byte_rows(array: pa.Array) -> NDArray[np.uint8]:
    """View an array of pa.binary(width) without nulls as numpy: uint8 (len(array), width)."""
    width = array.type.byte_width
    flat = np.frombuffer(array.buffers()[1], np.uint8, len(array) * width, array.offset * width)
    return flat.reshape(len(array), width)


def matrix_array(matrix: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A C-contiguous matrix (rows, width) as an array of the fixed-size list type `kind`."""
    flat = number_array(matrix.reshape(-1), matrix.dtype.type)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
