"""MANIFEST.json: what an index holds, read strictly and replaced atomically.

docs/format.md states the rules; each check below names the one that a file breaks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_search.errors import (
    DimensionError,
    ModelMismatchError,
    StoreError,
    StoreFormatError,
    StoreVersionError,
)
from adaptive_search.json_text import parse_json
from adaptive_search.storage_io import FileEntry, StorageIO, replace_file

if TYPE_CHECKING:
    from adaptive_search.encoder.granularity import Granularity

FORMAT = "adaptive-search-index"
FORMAT_VERSION = 1
LAYER_WIDTHS = "layer-widths"  # the feature of a granularity layer by layer
FEATURES = frozenset({LAYER_WIDTHS})  # flags that this program understands
MANIFEST_FILE = "MANIFEST.json"
CHUNKS_FILE = "chunks.arrow"
DOCUMENTS_FILE = "documents.arrow"
NORMS_FILE = "norms.arrow"
DTYPES = ("float16",)
METRICS = ("cosine",)

MAX_MANIFEST_BYTES = 64 << 20
MAX_SEGMENTS = 999_999
MAX_SEGMENT_ROWS = 1 << 16
MAX_DIMS = 64
MAX_DIM = 1 << 16
MAX_LAYERS = 1 << 10
MAX_COUNT = (1 << 63) - 1
MAX_TEXT = 1 << 16

Scalar = str | int | float | bool

_SEGMENT_NAME = re.compile(r"[0-9]{6}")
_TOMBSTONE_NAME = re.compile(r"deleted-[0-9]{6,19}\.arrow")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoreSpec:
    """What all rows of an index share; fixed when the index is made.

    prefix_energy is None for vectors of other models, whose prefix lengths are stored row by row.
    """

    fingerprint: str  # of the encoder's weights, or a name for the source of foreign vectors
    dims: tuple[int, ...]
    prefix_energy: tuple[float, ...] | None
    granularity: Granularity = 1
    dtype: str = "float16"
    metric: str = "cosine"
    chunking: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a spec that no index can have."""
        _text(self.fingerprint, "spec.fingerprint")
        if not self.fingerprint:
            raise ValueError("spec.fingerprint must not be empty")
        _require(0 < len(self.dims) <= MAX_DIMS, f"spec.dims must hold 1 to {MAX_DIMS} numbers")
        for dim in self.dims:
            _integer(dim, "spec.dims", 1, MAX_DIM)
        _require(_rises(self.dims), f"spec.dims={list(self.dims)} must rise")
        widths = self.granularity if isinstance(self.granularity, tuple) else (self.granularity,)
        _require(0 < len(widths) <= MAX_LAYERS, "spec.granularity must hold some numbers")
        for width in widths:
            _integer(width, "spec.granularity", 1, 1 << 10)
        _require(self.dtype in DTYPES, f"spec.dtype={self.dtype!r} must be one of {DTYPES}")
        _require(self.metric in METRICS, f"spec.metric={self.metric!r} must be one of {METRICS}")
        _scalars(self.chunking, "spec.chunking")
        if self.prefix_energy is not None:
            self._check_energy(self.prefix_energy)

    def _check_energy(self, energy: tuple[float, ...]) -> None:
        _require(
            len(energy) == len(self.dims)
            and all(isinstance(e, float) and 0 < e < 1.001 for e in energy)
            and _rises(energy)
            and math.isclose(energy[-1], 1.0, abs_tol=1e-6),
            "spec.prefix_energy must rise to 1, one number for each of spec.dims",
        )

    @property
    def features(self) -> list[str]:
        """What a reader must understand beyond the first version of the format."""
        return [LAYER_WIDTHS] if isinstance(self.granularity, tuple) else []

    @property
    def is_foreign(self) -> bool:
        """Whether prefix lengths differ from row to row and are stored beside the bands."""
        return self.prefix_energy is None

    @cached_property
    def band_widths(self) -> tuple[int, ...]:
        """Width of each band; band i holds the coordinates from dims[i-1] to dims[i]."""
        return tuple(b - a for a, b in zip((0, *self.dims), self.dims, strict=False))

    @cached_property
    def band_files(self) -> tuple[str, ...]:
        """Name of each band's file."""
        return tuple(f"band_{dim:04d}.arrow" for dim in self.dims)

    @property
    def band_weights(self) -> tuple[float, ...] | None:
        """Fixed length of each band, or None for foreign vectors."""
        energy = self.prefix_energy
        if energy is None:
            return None
        return tuple(math.sqrt(b - a) for a, b in zip((0.0, *energy), energy, strict=False))

    @property
    def data_files(self) -> tuple[str, ...]:
        """Names of the files that every segment has, apart from tombstones and caches."""
        norms = (NORMS_FILE,) if self.is_foreign else ()
        return (CHUNKS_FILE, DOCUMENTS_FILE, *self.band_files, *norms)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's vector on disk."""
        return 2 * self.dims[-1] + (4 * len(self.dims) if self.is_foreign else 0)

    def bands_of(self, dim: int) -> int:
        """Number of bands in the prefix of `dim` coordinates.

        Raises:
            DimensionError: dim is not one of the nesting dimensions.
        """
        if dim not in self.dims:
            raise DimensionError(dim, self.dims)
        return self.dims.index(dim) + 1


@dataclass(frozen=True, slots=True)
class Tombstones:
    """The file that lists the deleted rows of a segment."""

    file: str
    rows: int
    entry: FileEntry


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """One segment: its directory's name, its sizes, and its files with their checksums."""

    name: str
    rows: int
    tokens: int
    documents: int
    files: Mapping[str, FileEntry]
    tombstones: Tombstones | None = None

    @property
    def live_rows(self) -> int:
        """Rows that are not deleted."""
        return self.rows - (self.tombstones.rows if self.tombstones else 0)


@dataclass(frozen=True)
class Manifest:
    """One generation of an index."""

    spec: StoreSpec
    generation: int = 0
    next_segment: int = 1
    segments: tuple[SegmentEntry, ...] = ()
    attributes: Mapping[str, Scalar] = field(default_factory=dict)
    committed_ns: int = field(default=0, compare=False)  # when the file came to be, for readers

    def to_json(self, writer: str) -> bytes:
        """The bytes of MANIFEST.json; `writer` names the program and its version."""
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "features": self.spec.features,
            "writer": writer,
            "generation": self.generation,
            "next_segment": self.next_segment,
            "spec": dataclasses.asdict(self.spec),
            "attributes": dict(self.attributes),
            "segments": [_segment_json(segment) for segment in self.segments],
        }
        body["sha256"] = _checksum(body)
        return (json.dumps(body, indent=1, allow_nan=False) + "\n").encode()


def check_fingerprint(spec: StoreSpec, fingerprint: str, root: Path) -> None:
    """Refuse to mix vectors of two models.

    Raises:
        ModelMismatchError: the index was made by other weights.
    """
    if spec.fingerprint != fingerprint:
        raise ModelMismatchError(
            f"{root} was made by weights {spec.fingerprint}, but the loaded weights are "
            f"{fingerprint}; load the first, or make a new index with: adaptive-search index "
            "CORPUS --index NEW_DIRECTORY"
        )


def is_index(root: Path) -> bool:
    """Whether a directory holds a manifest."""
    return (root / MANIFEST_FILE).is_file()


def write_manifest(io: StorageIO, root: Path, manifest: Manifest) -> None:
    """Make a generation the one that readers see: the commit point of every change."""
    replace_file(io, root / MANIFEST_FILE, manifest.to_json(_program()))


def read_manifest(root: Path) -> Manifest:
    """Read and check the manifest of an index directory.

    Raises:
        StoreError: the directory is no index, or cannot be read.
        StoreVersionError: a newer program wrote it.
        StoreFormatError: it breaks a rule of the format.
    """
    path = root / MANIFEST_FILE
    try:
        data, committed_ns = _read_bytes(path)
        return dataclasses.replace(_parse(data, path), committed_ns=committed_ns)
    except ValueError as error:
        raise StoreFormatError(
            f"{path}: {error}; restore it from a backup, or index the corpus again"
        ) from None


def _read_bytes(path: Path) -> tuple[bytes, int]:
    try:
        status = os.lstat(path)
        _require(stat.S_ISREG(status.st_mode), "must be a regular file")
        _require(status.st_size <= MAX_MANIFEST_BYTES, f"is over {MAX_MANIFEST_BYTES:,} bytes")
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES), os.fstat(file.fileno()).st_ctime_ns
    except (FileNotFoundError, NotADirectoryError):
        root = path.parent
        raise StoreError(
            f"{root} is not an index; run: adaptive-search index CORPUS --index {root}"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(data: bytes, path: Path) -> Manifest:
    raw = parse_json(
        data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant
    )
    _require(isinstance(raw, dict), "must be a JSON object")
    _check_version(raw, path)
    names = "format format_version features writer generation next_segment spec attributes"
    top = _object(raw, "manifest", f"{names} segments sha256")
    _require(top.pop("sha256") == _checksum(top), "does not match its own checksum")
    spec = _parse_spec(top["spec"])
    _require(top["features"] == spec.features, f"features must be {spec.features} for this spec")
    segments = tuple(
        _parse_segment(item, spec) for item in _array(top["segments"], "segments", MAX_SEGMENTS)
    )
    seen = [segment.name for segment in segments]
    _require(len(set(seen)) == len(seen), "a segment is named twice")
    following = _integer(top["next_segment"], "next_segment", 1, MAX_SEGMENTS + 1)
    _require(all(int(name) < following for name in seen), "next_segment must be above all names")
    return Manifest(
        spec=spec,
        generation=_integer(top["generation"], "generation", 0, MAX_COUNT),
        next_segment=following,
        segments=segments,
        attributes=_scalars(top["attributes"], "attributes"),
    )


def _check_version(raw: dict[str, Any], path: Path) -> None:
    _require(raw.get("format") == FORMAT, f"format must be {FORMAT!r}")
    version = _integer(raw.get("format_version"), "format_version", 1, MAX_COUNT)
    features = _array(raw.get("features"), "features", 1000)
    unknown = sorted({_text(flag, "features") for flag in features} - FEATURES)
    writer = _text(raw.get("writer"), "writer")
    if version > FORMAT_VERSION or unknown:
        what = f"format {version}" if version > FORMAT_VERSION else f"features {unknown}"
        raise StoreVersionError(
            f"{path} was written by {writer[:100]!r} with {what}; this program reads format "
            f"{FORMAT_VERSION}: upgrade adaptive-search, or index the corpus again"
        )


def _parse_spec(value: object) -> StoreSpec:
    names = "fingerprint dims prefix_energy granularity dtype metric chunking"
    raw = _object(value, "spec", names)
    energy, width = raw["prefix_energy"], raw["granularity"]
    if energy is not None:
        energy = tuple(_array(energy, "spec.prefix_energy", MAX_DIMS))
    return StoreSpec(
        fingerprint=raw["fingerprint"],
        dims=tuple(_array(raw["dims"], "spec.dims", MAX_DIMS)),
        prefix_energy=energy,
        granularity=tuple(width) if isinstance(width, list) else width,
        dtype=_text(raw["dtype"], "spec.dtype"),
        metric=_text(raw["metric"], "spec.metric"),
        chunking=raw["chunking"],
    )


def _parse_segment(value: object, spec: StoreSpec) -> SegmentEntry:
    raw = _object(value, "segment", "name rows tokens documents files tombstones")
    name = _text(raw["name"], "segment.name")
    _require(_SEGMENT_NAME.fullmatch(name) is not None, "segment.name must be six digits")
    rows = _integer(raw["rows"], "segment.rows", 1, MAX_SEGMENT_ROWS)
    files = _object(raw["files"], f"segment {name}: files", " ".join(spec.data_files))
    return SegmentEntry(
        name=name,
        rows=rows,
        tokens=_integer(raw["tokens"], "segment.tokens", 0, MAX_COUNT),
        documents=_integer(raw["documents"], "segment.documents", 1, rows),
        files={file: _parse_file(item) for file, item in files.items()},
        tombstones=_parse_tombstones(raw["tombstones"], rows),
    )


def _parse_file(value: object) -> FileEntry:
    raw = _object(value, "file", "bytes sha256")
    sha256 = _text(raw["sha256"], "file.sha256")
    _require(_SHA256.fullmatch(sha256) is not None, "file.sha256 must be 64 hexadecimal digits")
    return FileEntry(_integer(raw["bytes"], "file.bytes", 1, MAX_COUNT), sha256)


def _parse_tombstones(value: object, rows: int) -> Tombstones | None:
    if value is None:
        return None
    raw = _object(value, "tombstones", "file rows bytes sha256")
    file = _text(raw["file"], "tombstones.file")
    _require(_TOMBSTONE_NAME.fullmatch(file) is not None, "tombstones.file has a wrong name")
    entry = _parse_file({"bytes": raw["bytes"], "sha256": raw["sha256"]})
    return Tombstones(file, _integer(raw["rows"], "tombstones.rows", 1, rows), entry)


def _segment_json(segment: SegmentEntry) -> dict[str, Any]:
    tombstones = segment.tombstones
    return {
        "name": segment.name,
        "rows": segment.rows,
        "tokens": segment.tokens,
        "documents": segment.documents,
        "files": {name: dataclasses.asdict(entry) for name, entry in segment.files.items()},
        "tombstones": tombstones
        and {
            "file": tombstones.file,
            "rows": tombstones.rows,
            **dataclasses.asdict(tombstones.entry),
        },
    }


def _checksum(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _program() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"adaptive-search {version('adaptive-search')}"
    except PackageNotFoundError:
        return "adaptive-search"


def _require(condition: bool, invariant: str) -> None:
    if not condition:
        raise ValueError(invariant)


def _rises(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    _require(len(set(names)) == len(names), "a name occurs twice in one JSON object")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON allows")


def _object(value: object, where: str, names: str) -> dict[str, Any]:
    _require(
        isinstance(value, dict) and value.keys() == set(names.split()),
        f"{where} must be an object of: {names}",
    )
    return dict(value)  # type: ignore[call-overload, no-any-return]


def _array(value: object, where: str, limit: int) -> list[Any]:
    _require(
        isinstance(value, list) and len(value) <= limit,
        f"{where} must be an array of at most {limit:,}",
    )
    return value  # type: ignore[return-value]


def _integer(value: object, where: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{where} must be a whole number from {low:,} to {high:,}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"{where} must be a text of at most {MAX_TEXT:,} characters")
    return value


def _scalars(value: object, where: str) -> dict[str, Scalar]:
    ok = isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(item, str | int | float | bool)
        for name, item in value.items()
    )
    _require(ok, f"{where} must be an object of texts, numbers and booleans")
    return dict(value)  # type: ignore[call-overload, no-any-return]
