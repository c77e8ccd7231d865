"""What searches through lists are kept in: caches that are checked before they are used.

`lists.bin`, beside the manifest, has what the lists of all segments share; an attribute of the
manifest is its SHA-256. `lists.cache`, in each segment, has the list of each row: the payload,
the key, the key's length (4 bytes, little-endian), a SHA-256 and a magic word. That hash covers the
checksum of the segment's lowest band, the payload and the key: a cache that was damaged, or that
belongs to other rows, is simply not there.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptive_search.kernels import mapping
from adaptive_search.manifest import Scalar
from adaptive_search.segment import Segment
from adaptive_search.storage_io import StorageIO, disk_errors, replace_file

CACHE_FILE = "lists.cache"
LISTS_FILE = "lists.bin"
LISTS = "lists"  # the manifest attribute that is its SHA-256; empty where there is none
MAGIC = b"ADSHORT1"
HASH_BYTES = hashlib.sha256().digest_size
TAIL_BYTES = 4 + HASH_BYTES + len(MAGIC)
MAX_CACHE_BYTES = 1 << 30


def read_cache(segment: Segment, *, key: str) -> bytes | None:
    """The payload kept for a segment under this key, or None: then rebuild it from the bands.

    Args:
        segment: the segment.
        key: whatever else the payload depends on, such as library version and settings.
    """
    data = _read(segment.directory / CACHE_FILE)
    name = key.encode()
    tail = len(data) - TAIL_BYTES
    if tail < len(name) or data[tail - len(name) :] != _trailer(
        segment, data[: tail - len(name)], name
    ):
        return None
    return data[: tail - len(name)]


def has_whole_cache(segment: Segment) -> bool:
    """Whether a segment has a cache, under any key, that is undamaged and its own."""
    data = _read(segment.directory / CACHE_FILE)
    tail = len(data) - TAIL_BYTES
    length = int.from_bytes(data[tail : tail + 4], "little") if tail >= 0 else 0
    payload, name = data[: max(tail - length, 0)], data[max(tail - length, 0) : max(tail, 0)]
    return data == payload + _trailer(segment, payload, name)


def write_cache(io: StorageIO, segment: Segment, payload: bytes, *, key: str) -> None:
    """Keep a payload for a segment; the caller holds the writer lock.

    Raises:
        StoreError: the disk refuses.
    """
    path = segment.directory / CACHE_FILE
    _replace(io, path, payload + _trailer(segment, payload, key.encode()))


def map_checked(path: Path, checksum: Scalar, committed_ns: int) -> NDArray[np.uint8] | None:
    """A cache beside the manifest, mapped; None if it is missing, or not what its SHA-256 says.

    The map is for reads here and there: what is to be read as a whole, the system must be told.

    Args:
        path: of the file.
        checksum: the attribute that a commit recorded; without one the file is a leftover.
        committed_ns: time of that commit: what was not touched since is not hashed.
    """
    if not checksum:
        return None
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        data = mapping.at_random(mapping.map_file(path))
    except OSError:
        return None
    if status.st_ctime_ns < committed_ns:
        return data
    mapping.will_read(data)
    return data if hashlib.sha256(data.data).hexdigest() == checksum else None


def write_lists_file(io: StorageIO, root: Path, data: bytes) -> None:
    """Keep what all lists of an index share; the caller holds the writer lock.

    Raises:
        StoreError: the disk refuses.
    """
    _replace(io, root / LISTS_FILE, data)


def _replace(io: StorageIO, path: Path, data: bytes) -> None:
    with disk_errors("write", path):
        try:
            replace_file(io, path, data)
        except OSError:
            with suppress(OSError):
                io.unlink(path.with_name(f"{path.name}.tmp"))
            raise


def _read(path: Path) -> bytes:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_CACHE_BYTES:
            return b""
        return path.read_bytes()
    except OSError:
        return b""


def _trailer(segment: Segment, payload: bytes, name: bytes) -> bytes:
    tail = name + len(name).to_bytes(4, "little")
    band = segment.entry.files[segment.spec.band_files[0]].sha256
    digest = hashlib.sha256(band.encode())
    digest.update(payload)
    digest.update(tail)
    return tail + digest.digest() + MAGIC
