"""The list of each row of a segment, kept beside it: a cache that is checked before it is used.

The file is the payload followed by the key, the key's length (4 bytes, little-endian), a SHA-256
and a magic word. The hash covers the checksum of the segment's lowest band, the payload and the
key: a cache that was damaged, or that belongs to other rows, is simply not there.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

from adaptive_search.segment import Segment
from adaptive_search.storage_io import StorageIO, disk_errors, replace_file

CACHE_FILE = "lists.cache"
LISTS_FILE = "lists.bin"  # beside the manifest, which knows its checksum
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
    data = _read(segment)
    name = key.encode()
    tail = len(data) - TAIL_BYTES
    if tail < len(name) or data[tail - len(name) :] != _trailer(
        segment, data[: tail - len(name)], name
    ):
        return None
    return data[: tail - len(name)]


def has_whole_cache(segment: Segment) -> bool:
    """Whether a segment has a cache, under any key, that is undamaged and its own."""
    data = _read(segment)
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
    with disk_errors("write", path):
        try:
            replace_file(io, path, payload + _trailer(segment, payload, key.encode()))
        except OSError:
            with suppress(OSError):
                io.unlink(path.with_name(f"{CACHE_FILE}.tmp"))
            raise


def _read(segment: Segment) -> bytes:
    path = segment.directory / CACHE_FILE
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
