"""Indexes that released versions wrote stay readable for ever.

tests/fixtures/format-N holds what a writer of format N made. Those of format 1 were made by `make`
below, with pyarrow 26:

    python tests/adaptive_search/test_format_fixtures.py tests/fixtures/format-1

A new format brings a new folder; the files of an old one are never made again.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.errors import StoreVersionError
from adaptive_search.manifest import FORMAT_VERSION, MANIFEST_FILE, StoreSpec
from adaptive_search.segment import Row
from adaptive_search.store import Store
from adaptive_search.verification import verify_index

FIXTURES = Path(__file__).parents[1] / "fixtures"
DIMS = (2, 4)
INDEXES = {"nested": (0.5, 1.0), "foreign": None}  # name -> prefix energy
DOCUMENTS = {"a.txt": 2, "b.txt": 1, "c.txt": 2}  # b.txt is deleted, c.txt is in segment 2
LIVE = ["a.txt#0", "a.txt#1", "c.txt#0", "c.txt#1"]


def vectors(first: int, count: int) -> NDArray[np.float32]:
    """Vectors of length 1 whose halves have equal lengths; no two are alike."""
    angles = np.arange(first, first + count, dtype=np.float64)
    halves = [np.cos(angles), np.sin(angles), np.cos(2 * angles), np.sin(2 * angles)]
    return (np.stack(halves, axis=1) * np.sqrt(0.5)).astype(np.float32)


def make(path: Path, energy: tuple[float, ...] | None) -> None:
    """Write an index: three documents, two segments, one deletion."""
    spec = StoreSpec("fixture", DIMS, energy, chunking={"max_tokens": 256})
    store, first = Store.create(path, spec=spec), 0
    for name, count in DOCUMENTS.items():
        rows = [
            Row(name, name, at, f"{name} {at} é", bytes([at]) * 16, 3, metadata={"n": at})
            for at in range(count)
        ]
        with store.writer() as writer:
            writer.append(rows, vectors(first, count), {name: name[:1].encode() * 16})
            if name == "b.txt":
                writer.compact()
                writer.delete_documents(["b.txt"])
            writer.set_attributes({"corpus": "/corpus"})
        first += count
    (path / "writer.lock").unlink()


def read(store: Store) -> tuple[list[str], NDArray[np.float16]]:
    """Ids and vectors of the live rows."""
    names, parts = [], [np.empty((0, DIMS[-1]), np.float16)]
    for segment in store.segments:
        live = np.arange(segment.rows) if segment.live is None else np.flatnonzero(segment.live)
        names += [row.chunk_id for row in segment.chunks(live)]
        parts.append(np.concatenate([segment.band(0), segment.band(1)], axis=1)[live])
    return names, np.concatenate(parts)


def all_fixtures() -> list[Path]:
    return sorted(path.parent for path in FIXTURES.glob(f"format-*/*/{MANIFEST_FILE}"))


def test_every_format_has_fixtures() -> None:
    expected = [f"format-{n}/{name}" for n in range(1, FORMAT_VERSION + 1) for name in INDEXES]
    found = [str(path.relative_to(FIXTURES).as_posix()) for path in all_fixtures()]
    assert sorted(expected) == found


@pytest.mark.parametrize("path", all_fixtures(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_fixtures_are_read_searched_and_changed(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "i")
    store = Store.open(tmp_path / "i")
    assert (
        store.spec.prefix_energy == INDEXES[path.name] and store.attributes["corpus"] == "/corpus"
    )
    names, stored = read(store)
    assert names == LIVE
    np.testing.assert_allclose(stored, vectors(0, 5)[[0, 1, 3, 4]], atol=1e-3)
    row = store.segments[0].chunks([1])[0]
    assert (row.text, row.metadata, row.path) == ("a.txt 1 é", {"n": 1}, "a.txt")
    status = store.status()
    assert (status.rows, status.deleted, status.documents, status.segments) == (4, 1, 2, 2)
    report = store.verify()
    assert report.ok and report.orphans == ()
    with store.writer() as writer:
        assert list(writer.known_documents()) == ["a.txt", "c.txt"]
        writer.compact()
    store = Store.open(tmp_path / "i")
    again, moved = read(store)
    assert again == LIVE and moved.tobytes() == stored.tobytes() and store.verify().ok


@pytest.mark.parametrize("change", [{"format_version": FORMAT_VERSION + 1}, {"features": ["new"]}])
def test_what_a_later_version_wrote_is_refused_by_its_name(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """The upgrade of a format has yet to be needed: there is one, and others are refused."""
    shutil.copytree(all_fixtures()[0], tmp_path / "i")
    manifest = tmp_path / "i" / MANIFEST_FILE
    later = json.loads(manifest.read_text()) | change | {"writer": "adaptive-search 9.0"}
    manifest.write_text(json.dumps(later))
    with pytest.raises(StoreVersionError, match=r"adaptive-search 9\.0.*upgrade"):
        Store.open(tmp_path / "i")
    with pytest.raises(StoreVersionError):
        verify_index(tmp_path / "i")


if __name__ == "__main__":
    for name, energy in INDEXES.items():
        make(Path(sys.argv[1]) / name, energy)
