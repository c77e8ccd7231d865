"""The codes of an index's rows, kept beside its manifest: a cache that is mapped, not read.

`codes.bin` holds the codes of the first segments of an index, in the lists of its plan, as searches
scan them; an attribute of the manifest is its SHA-256. A reader compares the header with what the
manifest says, and the checksum where the file was touched since the commit. What does not fit is
simply not there; and whatever the bytes are, they can only make a shortlist worse.

The file is, little-endian: a magic word (8 bytes), a key (32), dims, lists, segments and bits of a
code (uint32 each; earlier versions wrote 0 for 8 bits), zeros up to byte 64; centre and step
(float32, one for each dim), rows of each list (uint32), zeros up to a multiple of 4,096; then the
lists. A list is its codes in blocks of 16 rows, and behind them the numbers of these rows (uint32),
2^32 - 1 behind the last.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adaptive_search.kernels.search import KeptCodes, codes_bytes
from adaptive_search.lists_cache import LISTS, map_checked
from adaptive_search.manifest import Manifest, Scalar, SegmentEntry, StoreSpec
from adaptive_search.storage_io import StorageFile, StorageIO, disk_errors

if TYPE_CHECKING:
    from adaptive_search.indexes.coding import CodedRows
    from adaptive_search.indexes.plan import Plan

CODES_FILE = "codes.bin"
CODES = "codes"  # the manifest attribute that is its SHA-256; empty where there is none
MAGIC = b"ADCODES1"
HEAD = struct.Struct("<8s32sIIII")
FIXED_BYTES = 64
ALIGNMENT = 4096


def read_codes(root: Path, manifest: Manifest, plan: Plan) -> KeptCodes | None:
    """The codes that are kept for a plan, mapped; None if they are missing, damaged or others."""
    checksum = manifest.attributes.get(CODES, "")
    data = map_checked(root / CODES_FILE, checksum, manifest.committed_ns)
    return None if data is None else _parse(data, manifest, plan)


def codes_parts(codes: CodedRows, manifest: Manifest, plan: Plan) -> Iterator[bytes | memoryview]:
    """The file of all codes of an index, piece by piece.

    Args:
        codes: of the rows of all segments of the manifest.
        manifest: of the generation that the codes are of.
        plan: that the codes are for.
    """
    entries = manifest.segments
    key = _key(manifest.spec, manifest.attributes, plan, entries)
    dim, lists = len(codes.centre), len(codes.list_rows)
    head = HEAD.pack(MAGIC, key, dim, lists, len(entries), codes.bits)
    arrays = (codes.centre, codes.step, codes.list_rows.astype(np.uint32))
    head = head.ljust(FIXED_BYTES, b"\0") + b"".join(array.tobytes() for array in arrays)
    yield head.ljust(_data_offset(dim, lists), b"\0")
    yield from (part.data for part in codes.parts)


def write_codes(io: StorageIO, root: Path, parts: Iterator[bytes | memoryview]) -> str:
    """Keep codes; gives their checksum for the manifest. The caller holds the writer lock.

    Raises:
        StoreError: the disk refuses.
    """
    path = root / CODES_FILE
    temporary = path.with_name(f"{CODES_FILE}.tmp")
    with disk_errors("write", path):
        with suppress(FileNotFoundError):
            io.unlink(temporary)
        try:
            with StorageFile(io, temporary) as file:
                for part in parts:
                    file.write(part)
            io.replace(temporary, path)
            io.fsync_directory(root)
        except OSError:
            with suppress(OSError):
                io.unlink(temporary)
            raise
    return file.entry.sha256


def _parse(data: NDArray[np.uint8], manifest: Manifest, plan: Plan) -> KeptCodes | None:
    if len(data) < FIXED_BYTES:
        return None
    magic, key, dim, lists, segments, bits = HEAD.unpack(data[: HEAD.size].tobytes())
    # Versions before there were codes of 4 bits wrote 0.
    wanted = (MAGIC, plan.head_dim, max(plan.lists, 1), plan.bits)
    fits = (magic, dim, lists, bits or 8) == wanted
    start = _data_offset(dim, lists)
    if not fits or not 0 < segments <= len(manifest.segments) or len(data) < start:
        return None
    entries = manifest.segments[:segments]
    if key != _key(manifest.spec, manifest.attributes, plan, entries):
        return None
    numbers = np.frombuffer(data[FIXED_BYTES : FIXED_BYTES + 8 * dim].tobytes(), "<f4")
    centre, step = np.split(numbers.astype(np.float32), 2)
    counts = data[FIXED_BYTES + 8 * dim : FIXED_BYTES + 8 * dim + 4 * lists].tobytes()
    list_rows = np.frombuffer(counts, "<u4").astype(np.int64)
    size = codes_bytes(list_rows, dim, plan.bits)
    rows = sum(entry.rows for entry in entries)
    if len(data) != start + size or int(list_rows.sum()) != rows:
        return None
    if not np.isfinite(numbers).all() or not (step > 0).all():
        return None
    return KeptCodes(data[start:], list_rows, centre, step, plan.bits)


def _data_offset(dim: int, lists: int) -> int:
    return aligned(FIXED_BYTES + 8 * dim + 4 * lists)


def aligned(size: int) -> int:
    """Where codes begin in a file, behind so many bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _key(
    spec: StoreSpec,
    attributes: Mapping[str, Scalar],
    plan: Plan,
    entries: Sequence[SegmentEntry],
) -> bytes:
    """A hash of all that codes depend on: heads, lists, and the bands of the segments."""
    files = spec.band_files[: spec.bands_of(plan.head_dim)]
    rows = [[entry.rows, *(entry.files[name].sha256 for name in files)] for entry in entries]
    lists = [plan.lists, attributes.get(LISTS) if plan.lists else ""]
    return hashlib.sha256(json.dumps([plan.head_dim, lists, rows]).encode()).digest()
