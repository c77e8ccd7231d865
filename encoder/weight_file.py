"""Tensors of a safetensors file, mapped into memory: read when used, and shared by processes."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from adaptive_search.json_text import parse_json

_DTYPES: dict[str, np.dtype[np.generic]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_LENGTH_BYTES = 8


def map_file(path: Path) -> mmap.mmap:
    """The file's bytes, read-only.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty.
    """
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_tensors(data: mmap.mmap | bytes) -> dict[str, NDArray[np.generic]]:
    """The arrays of a mapped safetensors file, read-only and in place.

    Raises:
        ValueError: the header does not describe the bytes after it, to the last one.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    begin = _LENGTH_BYTES + length
    if begin > len(data):
        raise ValueError("the header is longer than the file")
    header = parse_json(data[_LENGTH_BYTES:begin])
    if not isinstance(header, dict):
        raise ValueError("the header is not an object")
    header.pop("__metadata__", None)
    arrays = {name: _read_array(name, entry, data, begin) for name, entry in header.items()}
    ends = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    bounds = [0, *(bound for pair in ends for bound in pair), len(data) - begin]
    if bounds[::2] != bounds[1::2]:
        raise ValueError("tensors overlap, or leave bytes unused")
    return arrays


def _read_array(
    name: str, entry: object, data: mmap.mmap | bytes, begin: int
) -> NDArray[np.generic]:
    if not isinstance(entry, dict):
        raise ValueError(f"tensor {name} is not described")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"tensor {name} has an unknown type")
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name} has an odd shape or place")
    kind, size = _DTYPES[dtype], math.prod(shape)
    if offsets[1] - offsets[0] != size * kind.itemsize or begin + offsets[1] > len(data):
        raise ValueError(f"tensor {name} does not fit its place")
    if size == 0:
        return np.empty(shape, kind)
    flat: NDArray[np.generic] = np.frombuffer(data, kind, size, begin + offsets[0])
    return np.require(flat.reshape(shape), requirements="A")  # writers align, but need not


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)
