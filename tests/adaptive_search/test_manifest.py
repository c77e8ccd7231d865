from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.errors import (
    DimensionError,
    ModelMismatchError,
    StoreError,
    StoreFormatError,
    StoreVersionError,
)
from adaptive_search.manifest import (
    MANIFEST_FILE,
    Manifest,
    SegmentEntry,
    StoreSpec,
    Tombstones,
    check_fingerprint,
    is_index,
    read_manifest,
    write_manifest,
)
from adaptive_search.storage_io import FileEntry, StorageIO

SPEC = StoreSpec("weights-a", (4, 8), (0.5, 1.0), chunking={"max_tokens": 256})
FILE = FileEntry(10, "ab" * 32)
FILES = {name: FILE for name in SPEC.data_files}
MANIFEST = Manifest(
    SPEC,
    generation=3,
    next_segment=9,
    segments=(
        SegmentEntry("000002", 5, 50, 2, FILES),
        SegmentEntry("000001", 7, 70, 3, FILES, Tombstones("deleted-000003.arrow", 2, FILE)),
    ),
    attributes={"corpus": "docs", "recall": 0.98},
)


def raw() -> dict[str, Any]:
    """The manifest as JSON, to be spoiled."""
    loaded: dict[str, Any] = json.loads(MANIFEST.to_json("adaptive-search 0.1.0"))
    return loaded


def save(root: Path, body: dict[str, Any], *, seal: bool = True) -> None:
    """Write a manifest, with a checksum that fits it."""
    if seal:
        body.pop("sha256", None)
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        body["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (root / MANIFEST_FILE).write_text(json.dumps(body))


def test_round_trip(tmp_path: Path) -> None:
    assert not is_index(tmp_path)
    write_manifest(StorageIO(), tmp_path, MANIFEST)
    assert is_index(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST


def test_bytes_do_not_depend_on_the_run() -> None:
    assert MANIFEST.to_json("w") == MANIFEST.to_json("w")


def test_spec_derives_bands_from_dims() -> None:
    assert SPEC.band_widths == (4, 4)
    assert SPEC.band_files == ("band_0004.arrow", "band_0008.arrow")
    assert SPEC.band_weights == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))
    assert SPEC.bands_of(8) == 2
    with pytest.raises(DimensionError, match="4, 8"):
        SPEC.bands_of(5)


def test_foreign_spec_has_norms_and_no_weights() -> None:
    spec = StoreSpec("openai", (256, 512), None)
    assert spec.is_foreign and spec.band_weights is None
    assert "norms.arrow" in spec.data_files and "norms.arrow" not in SPEC.data_files
    assert spec.row_bytes == 2 * 512 + 4 * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": ""},
        {"dims": ()},
        {"dims": (8, 4)},
        {"dims": (4, 4)},
        {"dims": (0, 4)},
        {"dims": (4, 1 << 20)},
        {"prefix_energy": (0.5,)},
        {"prefix_energy": (0.9, 0.5)},
        {"prefix_energy": (0.5, 2.0)},
        {"prefix_energy": (float("nan"), 1.0)},
        {"granularity": 0},
        {"granularity": "1/2"},
        {"granularity": None},
        {"granularity": ()},
        {"granularity": (24, 0)},
        {"granularity": (24, 1.0)},
        {"granularity": ((1,),)},
        {"granularity": (1,) * 2000},
        {"dtype": "float8"},
        {"metric": "hamming"},
        {"chunking": {"nested": {}}},
    ],
)
def test_impossible_specs_are_refused(changes: dict[str, Any]) -> None:
    values = {"fingerprint": "a", "dims": (4, 8), "prefix_energy": (0.5, 1.0)} | changes
    with pytest.raises(ValueError, match="spec"):
        StoreSpec(**values)


def test_a_directory_that_is_no_index_says_how_to_make_one(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreError, match="run: adaptive-search index CORPUS --index"):
            read_manifest(path)


def test_newer_version_and_unknown_features_name_the_writer(tmp_path: Path) -> None:
    for change in ({"format_version": 2, "new": 1}, {"features": ["int8-bands"]}):
        save(tmp_path, raw() | {"writer": "adaptive-search 9.1"} | change)
        with pytest.raises(StoreVersionError, match=r"adaptive-search 9\.1"):
            read_manifest(tmp_path)


def test_widths_of_layers_are_a_feature(tmp_path: Path) -> None:
    mixed = dataclasses.replace(SPEC, granularity=(24, 12, 3))
    write_manifest(StorageIO(), tmp_path, Manifest(mixed))
    assert read_manifest(tmp_path).spec == mixed
    stored = json.loads((tmp_path / "MANIFEST.json").read_text())
    assert stored["spec"]["granularity"] == [24, 12, 3]
    assert stored["features"] == ["layer-widths"]
    for features, granularity in (([], [24]), (["layer-widths"], 1), (["layer-widths"] * 2, [24])):
        spec = raw()["spec"] | {"granularity": granularity}
        save(tmp_path, raw() | {"features": features, "spec": spec})
        with pytest.raises(StoreFormatError, match="features must be"):
            read_manifest(tmp_path)


def test_fingerprints_must_agree(tmp_path: Path) -> None:
    check_fingerprint(SPEC, "weights-a", tmp_path)
    with pytest.raises(ModelMismatchError, match=r"weights-a.*weights-b.*adaptive-search index"):
        check_fingerprint(SPEC, "weights-b", tmp_path)


def set_at(*keys: Any) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    """A change of one value in a manifest."""

    def to(value: Any) -> Callable[[dict[str, Any]], None]:
        def change(body: dict[str, Any]) -> None:
            place = body
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = value

        return change

    return to


def rename_file(name: str) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        files = body["segments"][0]["files"]
        files[name] = files.pop("chunks.arrow")

    return change


SPOILS = {
    "format": set_at("format")("zip"),
    "version": set_at("format_version")(0),
    "version is a text": set_at("format_version")("1"),
    "features": set_at("features")("x"),
    "unknown name": set_at("surprise")(1),
    "generation": set_at("generation")(-1),
    "generation is huge": set_at("generation")(10**30),
    "generation is a boolean": set_at("generation")(True),
    "next segment": set_at("next_segment")(2),
    "segments": set_at("segments")({}),
    "segment twice": set_at("segments", 1, "name")("000002"),
    "segment is a path": set_at("segments", 0, "name")("../../etc"),
    "segment is absolute": set_at("segments", 0, "name")("/etc/x"),
    "segment is a newline": set_at("segments", 0, "name")("000002\n"),
    "segment in other digits": set_at("segments", 0, "name")("٠٠٠٠٠٢"),
    "no rows": set_at("segments", 0, "rows")(0),
    "too many rows": set_at("segments", 0, "rows")(10**9),
    "more documents than rows": set_at("segments", 0, "documents")(6),
    "tokens": set_at("segments", 0, "tokens")(-1),
    "file is a path": rename_file("../chunks.arrow"),
    "file is absolute": rename_file("/etc/passwd"),
    "file is missing": set_at("segments", 0, "files")({}),
    "file is empty": set_at("segments", 0, "files", "chunks.arrow", "bytes")(0),
    "checksum": set_at("segments", 0, "files", "chunks.arrow", "sha256")("AB" * 32),
    "tombstones are a path": set_at("segments", 1, "tombstones", "file")("../deleted-1.arrow"),
    "tombstones exceed rows": set_at("segments", 1, "tombstones", "rows")(8),
    "spec": set_at("spec")([]),
    "dims": set_at("spec", "dims")([8, 4]),
    "dims are texts": set_at("spec", "dims")(["4", "8"]),
    "too many dims": set_at("spec", "dims")(list(range(1, 100))),
    "energy": set_at("spec", "prefix_energy")([0.5, "1"]),
    "dtype": set_at("spec", "dtype")(["float16"]),
    "fingerprint": set_at("spec", "fingerprint")(7),
    "chunking": set_at("spec", "chunking")([]),
    "attributes": set_at("attributes")({"a": [1]}),
    "deep": set_at("attributes")(json.loads("[" * 500 + "]" * 500)),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_each_broken_rule_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None]
) -> None:
    body = raw()
    spoil(body)
    save(tmp_path, body)
    with pytest.raises(StoreFormatError, match=MANIFEST_FILE):
        read_manifest(tmp_path)


def test_a_change_without_the_checksum_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, raw() | {"generation": 4}, seal=False)
    with pytest.raises(StoreFormatError, match="checksum"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format": NaN}',
        b'{"format": 1, "format": 2}',
        b"[" * 100_000,
        b"1" * 10_000,
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(text)
    with pytest.raises(StoreFormatError, match=MANIFEST_FILE):
        read_manifest(tmp_path)


def test_manifest_must_be_a_plain_file_of_sane_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").write_bytes(MANIFEST.to_json("w"))
    (tmp_path / MANIFEST_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreFormatError, match="regular file"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_FILE).unlink()
    write_manifest(StorageIO(), tmp_path, MANIFEST)
    monkeypatch.setattr("adaptive_search.manifest.MAX_MANIFEST_BYTES", 100)
    with pytest.raises(StoreFormatError, match="over 100 bytes"):
        read_manifest(tmp_path)


@given(data=st.data())
def test_flipped_bits_never_pass(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    root = tmp_path_factory.mktemp("flip")
    text = bytearray(MANIFEST.to_json("adaptive-search 0.1.0"))
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= 1 << data.draw(st.integers(0, 7))
    (root / MANIFEST_FILE).write_bytes(text)
    try:
        assert read_manifest(root) == MANIFEST  # white space changed, or the writer's name
    except StoreError:
        pass
