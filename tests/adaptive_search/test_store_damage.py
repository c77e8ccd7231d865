"""Whatever happens to the bytes: a typed error, a rebuilt cache, or the right rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_search.errors import StoreError, StoreFormatError
from adaptive_search.lists_cache import CACHE_FILE, read_cache

FILES = (
    "MANIFEST.json",
    "chunks.arrow",
    "documents.arrow",
    "band_0004.arrow",
    "band_0016.arrow",
    "norms.arrow",
    "deleted-000002.arrow",
    CACHE_FILE,
)


def flip(place: float) -> Callable[[Path, Path], None]:
    """Flip one bit at a share of the file's length."""

    def damage(path: Path, other: Path) -> None:
        data = bytearray(path.read_bytes())
        at = int(place * (len(data) - 1))
        data[at] ^= 1 << (at % 8)
        path.write_bytes(data)

    return damage


DAMAGE: dict[str, Callable[[Path, Path], Any]] = {
    "deleted": lambda path, other: path.unlink(),
    "emptied": lambda path, other: path.write_bytes(b""),
    "halved": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte short": lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
    "zeroed": lambda path, other: path.write_bytes(bytes(path.stat().st_size)),
    "swapped": lambda path, other: shutil.copy(other, path),
    "a directory": lambda path, other: (path.unlink(), path.mkdir()),
    "garbage appended": lambda path, other: path.write_bytes(path.read_bytes() + b"garbage"),
    **{f"bit {place:.2f}": flip(place) for place in np.linspace(0, 1, 24)},
}


def build(kit: Any, path: Path, version: int) -> Any:
    store = kit.create(path, foreign=True)
    with store.writer() as writer:
        kit.add(writer, "a", 300, version=version, foreign=True)
        kit.add(writer, "b", 20, version=version, foreign=True)
        writer.commit()
        writer.delete_documents(["b"])
        writer.write_cache(writer.segments[0], b"payload" * version, key="k")
    return kit.open(path)


def locate(store: Any, name: str) -> Path:
    inside = store.segments[0].directory / name
    return inside if inside.exists() else store.path / name


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> tuple[Path, Path]:
    """Two indexes of the same shape and different contents."""
    root = tmp_path_factory.mktemp("damage")
    return tuple(build(kit, root / f"i{v}", v).path for v in (1, 2))  # type: ignore[return-value]


@pytest.mark.parametrize("name", FILES)
def test_damage(tmp_path: Path, kit: Any, originals: tuple[Path, Path], name: str) -> None:
    original, other = (kit.open(path) for path in originals)
    right = kit.contents(original)
    for kind, damage in DAMAGE.items():
        path = tmp_path / "i"
        shutil.copytree(original.path, path)
        target = locate(kit.open(path), name)
        damage(target, locate(other, name))
        read = None
        try:
            store = kit.open(path)
            read = kit.contents(store)
        except StoreError as error:
            assert str(path) in str(error), kind
            assert isinstance(error, StoreFormatError) or name == "MANIFEST.json"
        assert read in (None, right) or is_without_band(name, kind), kind
        if name == CACHE_FILE:
            assert read == right and read_cache(store.segments[0], key="k") is None, kind
            assert store.write_cache(store.segments[0], b"rebuilt", key="k") or target.is_dir()
        else:
            assert_noticed(kit, path, name, kind, read == right)
        shutil.rmtree(path)


def is_without_band(name: str, kind: str) -> bool:
    """Whether the damage makes an index like one that was shipped without its upper bands."""
    return (name, kind) == ("band_0016.arrow", "deleted")


def assert_noticed(kit: Any, path: Path, name: str, kind: str, is_right: bool) -> None:
    """A deep check finds the damage that a read may pass over."""
    try:
        store = kit.open(path)
    except StoreError:
        return
    if name == "MANIFEST.json":
        assert is_right, kind  # the bit was in white space or in the name of the writer
    elif is_without_band(name, kind):
        assert store.dims == (4, 8)  # as if shipped without it
    elif not (name.startswith("deleted") and kind == "swapped"):  # those have the same bytes
        assert not store.verify().ok, kind


def test_errors_name_file_rule_and_remedy(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i", 1)
    path = store.segments[0].directory / "band_0004.arrow"
    path.write_bytes(b"short")
    with pytest.raises(StoreFormatError) as caught:
        kit.open(store.path)
    message = str(caught.value)
    assert str(path) in message and "has 5 bytes, but the manifest says" in message
    assert "index the corpus again" in message


def test_a_writer_that_finds_damage_changes_nothing(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i", 1)
    path = store.segments[0].directory / "documents.arrow"
    flip(0.5)(path, path)
    with pytest.raises(StoreFormatError, match=r"documents\.arrow"), store.writer() as writer:
        kit.add(writer, "new", 1, foreign=True)
    assert kit.open(store.path).manifest == store.manifest


def test_a_commit_does_not_vouch_for_what_was_damaged_before_it(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i", 1)
    path = store.segments[0].directory / "band_0016.arrow"
    flip(0.5)(path, path)
    with pytest.raises(StoreFormatError, match=r"band_0016\.arrow"), store.writer() as writer:
        writer.delete_documents(["a"])
        kit.add(writer, "new", 1, foreign=True)
    assert kit.open(store.path).manifest == store.manifest


def test_hostile_arrow_is_refused_before_it_is_used(tmp_path: Path, kit: Any) -> None:
    """String offsets that point outside their buffer, in a file with the right checksum."""
    store = build(kit, tmp_path / "i", 1)
    path = store.segments[0].directory / "chunks.arrow"
    data = bytearray(path.read_bytes())
    at = data.index(np.array([0, 3, 6, 9], np.int32).tobytes())  # "a#0", "a#1", "a#2"
    data[at + 4 : at + 8] = np.array([1 << 30], np.int32).tobytes()
    path.write_bytes(data)
    kit.reseal(store.path)
    with pytest.raises(StoreFormatError, match=r"chunks\.arrow has a damaged record batch"):
        kit.contents(kit.open(store.path))
