"""Files mapped into memory, and what the operating system should know of memory's use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptive_search.kernels import _native

Bytes = NDArray[np.uint8]


def map_file(path: Path) -> Bytes:
    """Map a file: uint8 (bytes,), read-only.

    The map outlives a removal of the file and holds no descriptor. Nothing is read before it is
    used.

    Raises:
        OSError: the file is missing, empty or cannot be read.
    """
    if not hasattr(_native, "map_file"):  # Windows
        return np.memmap(path, np.uint8, "r")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _native.map_file(descriptor)
    finally:
        os.close(descriptor)


def at_random(data: Bytes) -> Bytes:
    """The same bytes of a mapped file, in a map for reads here and there.

    A disk then reads what is asked for, not megabytes around it. Where the system cannot do that,
    or the bytes are not mapped, these are the bytes that were given.
    """
    return _native.at_random(data)


def will_read(data: Bytes) -> None:
    """Have the system read bytes of a mapped file, without waiting for it."""
    _native.will_read(data)


def release_memory() -> None:
    """Give memory that was freed back to the system, as far as the allocator can."""
    _native.release_memory()
