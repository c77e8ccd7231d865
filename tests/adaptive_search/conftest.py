"""What the tests of the store share: small specs, rows, and disks that fail."""

from __future__ import annotations

import dataclasses
import errno
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.manifest import StoreSpec, read_manifest, write_manifest
from adaptive_search.segment import SEGMENTS, Row
from adaptive_search.storage_io import StorageIO, hash_file
from adaptive_search.store import Store
from adaptive_search.store_writer import StoreWriter

DIMS = (4, 8, 16)
OPERATIONS = "create write fsync close mkdir rename replace unlink rmdir fsync_directory".split()


class QuickIO(StorageIO):
    """A disk that never syncs, for tests that commit hundreds of times."""

    def fsync(self, descriptor: int) -> None:
        """Trust the page cache."""

    def fsync_directory(self, path: Path) -> None:
        """Trust the page cache."""


class FailingIO(QuickIO):
    """A disk whose call number `fail_at` fails, and all later ones too if it is broken for good.

    With fail_at None it only counts.
    """

    def __init__(self, fail_at: int | None = None, *, lasting: bool = False):
        self.fail_at = fail_at
        self.lasting = lasting
        self.calls: list[str] = []

    def count(self, name: str) -> None:
        """Note a call, and fail if it is its turn."""
        self.calls.append(name)
        number = len(self.calls) - 1
        if self.fail_at is None or number < self.fail_at:
            return
        if number == self.fail_at or self.lasting:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _counted(name: str) -> Callable[..., object]:
    def call(self: FailingIO, *arguments: object) -> object:
        if name == "close":  # a descriptor is given back even by a close that fails
            StorageIO.close(self, *arguments)  # type: ignore[arg-type]
            return self.count(name)
        self.count(name)
        return getattr(QuickIO, name)(self, *arguments)

    return call


for _name in OPERATIONS:
    setattr(FailingIO, _name, _counted(_name))


class Kit:
    """Makes rows, vectors and whole indexes for tests."""

    DIMS = DIMS
    QuickIO = QuickIO
    FailingIO = FailingIO

    @staticmethod
    def spec(*, foreign: bool = False, **changes: object) -> StoreSpec:
        """A spec of three small bands."""
        energy = None if foreign else (0.5, 0.75, 1.0)
        return StoreSpec("weights-a", DIMS, energy, **changes)  # type: ignore[arg-type]

    @staticmethod
    def vectors(count: int, seed: int = 0, *, foreign: bool = False) -> NDArray[np.float32]:
        """Float32 (count, 16) that fit the spec."""
        raw = np.random.default_rng(seed).standard_normal((count, DIMS[-1])).astype(np.float32)
        if foreign:
            return raw
        parts = np.split(raw, DIMS[:-1], axis=1)
        weights = Kit.spec().band_weights or ()
        return np.concatenate(
            [
                part / np.linalg.norm(part, axis=1, keepdims=True) * weight
                for part, weight in zip(parts, weights, strict=True)
            ],
            axis=1,
        ).astype(np.float32)

    @staticmethod
    def rows(document_id: str, count: int, *, version: int = 0, first: int = 0) -> list[Row]:
        """Chunks of a document."""
        return [
            Row(
                document_id=document_id,
                path=f"folder/{document_id}.txt",
                ordinal=ordinal,
                text=f"{document_id} v{version} chunk {ordinal} é",
                content_hash=bytes([ordinal % 256]) * 16,
                tokens=ordinal + 1,
                byte_start=10 * ordinal,
                byte_end=10 * ordinal + 9,
                line_start=ordinal + 1,
                line_end=ordinal + 2,
                metadata={"lang": "en", "n": ordinal, "x": 0.5, "ok": True},
            )
            for ordinal in range(first, first + count)
        ]

    @staticmethod
    def add(
        writer: StoreWriter,
        document_id: str,
        count: int,
        *,
        version: int = 0,
        first: int = 0,
        foreign: bool = False,
    ) -> None:
        """Append chunks of a document; their vectors follow from its name and version."""
        seed = zlib.crc32(f"{document_id} {version} {first}".encode())
        writer.append(
            Kit.rows(document_id, count, version=version, first=first),
            Kit.vectors(count, seed, foreign=foreign),
            {document_id: bytes([version]) * 16},
        )

    @staticmethod
    def create(path: Path, *, foreign: bool = False, io: StorageIO | None = None) -> Store:
        """An empty index."""
        return Store.create(path, spec=Kit.spec(foreign=foreign), io=io or QuickIO())

    @staticmethod
    def open(path: Path, io: StorageIO | None = None) -> Store:
        """The latest generation."""
        return Store.open(path, io=io or QuickIO())

    @staticmethod
    def reseal(root: Path) -> None:
        """Record the files as they are in the manifest, as a broken or hostile writer would."""
        manifest = read_manifest(root)
        segments = [
            dataclasses.replace(
                entry,
                files={
                    name: hash_file(root / SEGMENTS / entry.name / name) for name in entry.files
                },
            )
            for entry in manifest.segments
        ]
        manifest = dataclasses.replace(manifest, segments=tuple(segments))
        write_manifest(StorageIO(), root, manifest)

    @staticmethod
    def contents(store: Store) -> dict[str, tuple[Row, bytes]]:
        """All live chunks by id, read as a search would: with the bytes of their vectors."""
        found: dict[str, tuple[Row, bytes]] = {}
        for segment in store.segments:
            bands = [segment.band(index) for index in range(segment.bands)]
            live = np.ones(segment.rows, np.bool_) if segment.live is None else segment.live
            numbers = np.flatnonzero(live)
            for number, row in zip(numbers, segment.chunks(numbers), strict=True):
                assert row.chunk_id not in found
                found[row.chunk_id] = row, b"".join(band[number].tobytes() for band in bands)
        return found

    @staticmethod
    def texts(store: Store) -> list[str]:
        """Texts of all live chunks, in order."""
        return [row.text for row, _ in Kit.contents(store).values()]


@pytest.fixture(scope="session")
def kit() -> Kit:
    """The helpers above."""
    return Kit()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sequence[int]]:
    """Let segments end at 4 rows, and hold at most 8."""
    for module in ("store_writer", "compaction", "segment_writer"):
        monkeypatch.setattr(f"adaptive_search.{module}.SEGMENT_ROWS", 4)
        monkeypatch.setattr(f"adaptive_search.{module}.MAX_SEGMENT_ROWS", 8)
    yield (4, 8)
