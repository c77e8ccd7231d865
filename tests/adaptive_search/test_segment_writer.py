from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_search import segment_writer
from adaptive_search.segment_writer import SegmentWriter, make_block, split_bands


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v[:, :8], "shape"),
        (lambda v: v[0], "shape"),
        (lambda v: np.where(np.arange(3)[:, None] == 1, np.nan, v), "vector 1 .*finite"),
        (lambda v: np.where(np.arange(3)[:, None] == 2, np.inf, v), "vector 2 .*finite"),
        (lambda v: v * 1.01, "vector 0: the band that ends at 4 has length"),
        (lambda v: v * 0, "length"),
    ],
)
def test_bad_vectors_never_enter(kit: Any, spoil: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_bands(spoil(kit.vectors(3)), kit.spec())


def test_a_zero_foreign_vector_is_refused(kit: Any) -> None:
    vectors = kit.vectors(3, foreign=True)
    vectors[1] = 0
    with pytest.raises(ValueError, match="vector 1 is zero"):
        split_bands(vectors, kit.spec(foreign=True))


def test_rows_vectors_and_hashes_must_fit(kit: Any) -> None:
    rows, vectors, hashes = kit.rows("a", 3), kit.vectors(3), {"a": b"h" * 16}
    spec = kit.spec()
    with pytest.raises(ValueError, match="2 rows, but 3 vectors"):
        make_block(rows[:2], vectors, hashes, spec=spec, last=None)
    for bad in ({}, {"a": b"short"}):
        with pytest.raises(ValueError, match="content hash of 16 bytes"):
            make_block(rows, vectors, bad, spec=spec, last=None)
    with pytest.raises(ValueError, match="begins with chunk 1"):
        make_block(rows[1:], vectors[1:], hashes, spec=spec, last=None)
    with pytest.raises(ValueError, match="begins with chunk 2"):
        make_block(rows[2:], vectors[2:], {}, spec=spec, last=rows[0])
    make_block(rows[1:], vectors[1:], {}, spec=spec, last=rows[0])
    nan = [row._replace(metadata={"x": float("nan")}) for row in rows]
    with pytest.raises(ValueError, match="JSON"):
        make_block(nan, vectors, hashes, spec=spec, last=None)


def test_finished_segments_can_be_handed_over(tmp_path: Path, kit: Any) -> None:
    spec = kit.spec()
    infos = []
    for worker in range(2):
        writer = SegmentWriter(tmp_path / f"worker{worker}", spec, kit.QuickIO())
        writer.append(kit.rows(f"d{worker}", 2), kit.vectors(2), {f"d{worker}": b"h" * 16})
        writer.append(kit.rows(f"d{worker}", 1, first=2), kit.vectors(1), {})
        infos.append(writer.finish())
    store = kit.create(tmp_path / "i")
    with store.writer() as target:
        kit.add(target, "d0", 1, version=9)
        for info in infos:
            target.add_segment(info)
        assert target.generation == 0
    store = kit.open(store.path)
    assert store.manifest.generation == 1
    assert list(kit.contents(store)) == ["d0#0", "d0#1", "d0#2", "d1#0", "d1#1", "d1#2"]
    assert store.verify().ok


def test_an_empty_segment_is_refused(tmp_path: Path, kit: Any) -> None:
    writer = SegmentWriter(tmp_path / "s", kit.spec())
    with pytest.raises(ValueError, match="at least one row"):
        writer.finish()
    writer.close()


def test_no_descriptor_is_left_open(tmp_path: Path, kit: Any) -> None:
    fds = Path("/proc/self/fd")
    if not fds.exists():
        pytest.skip("needs /proc")
    store = kit.create(tmp_path / "i")
    before = len(list(fds.iterdir()))
    opened = []
    for version in range(5):
        with store.writer() as writer:
            kit.add(writer, "a", 3, version=version)
        opened.append(kit.open(store.path))
        kit.contents(opened[-1])
    assert len(list(fds.iterdir())) == before


@pytest.mark.parametrize("foreign", [False, True])
def test_rows_held_in_memory_and_in_files_make_the_same_segment(
    tmp_path: Path, kit: Any, foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for name, held_bytes in (("memory", 1 << 20), ("files", 0), ("both", 200)):
        monkeypatch.setattr(segment_writer, "HELD_BYTES", held_bytes)
        writer = SegmentWriter(tmp_path / name, kit.spec(foreign=foreign), kit.QuickIO())
        for number in range(5):
            vectors = kit.vectors(3, number, foreign=foreign)
            writer.append(kit.rows(f"d{number}", 3), vectors, {f"d{number}": b"h" * 16})
        files.append(dict(writer.finish().files))
        assert {path.name for path in (tmp_path / name).iterdir()} == set(files[-1])
    assert files[0] == files[1] == files[2]
