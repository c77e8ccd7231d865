from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from adaptive_search.errors import DimensionError, StoreFormatError
from adaptive_search.manifest import CHUNKS_FILE
from adaptive_search.segment import Row


def test_bands_are_zero_copy_and_hold_the_vectors(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    vectors = kit.vectors(600)
    with store.writer() as writer:
        writer.append(kit.rows("a", 600), vectors, {"a": b"h" * 16})
    (segment,) = kit.open(store.path).segments
    bands = [segment.band(index) for index in range(3)]
    assert [band.shape for band in bands] == [(600, 4), (600, 4), (600, 8)]
    assert all(
        b.dtype == np.float16 and not b.flags.writeable and not b.flags.owndata for b in bands
    )
    assert np.array_equal(np.concatenate(bands, axis=1), vectors.astype(np.float16))
    assert segment.live is None
    assert segment.prefix_norms(8) is None
    with pytest.raises(DimensionError):
        segment.prefix_norms(5)


def test_files_are_plain_arrow_for_anyone(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 600)
    directory = kit.open(store.path).segments[0].directory
    for name, width in (("band_0004", 4), ("band_0008", 4), ("band_0016", 8)):
        with ipc.open_file(directory / f"{name}.arrow") as file:
            assert file.num_record_batches == 1
            table = file.read_all()
        assert table.schema.field("vector").type.list_size == width
        assert table.schema.field("vector").type.value_type == pa.float16()
        assert table.num_rows == 600
    with ipc.open_file(directory / "chunks.arrow") as file:
        assert file.read_all().column("chunk_id").to_pylist() == [f"a#{i}" for i in range(600)]


def test_chunks_come_back_as_they_went_in(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    rows = kit.rows("a", 600)
    with store.writer() as writer:
        writer.append(rows, kit.vectors(600), {"a": b"h" * 16})
    segment = kit.open(store.path).segments[0]
    wanted = [599, 0, 255, 256, 0]
    assert segment.chunks(wanted) == [rows[i] for i in wanted]
    assert segment.chunks(np.array([3])) == [rows[3]]
    for row in (-1, 600):
        with pytest.raises(IndexError, match="600 rows"):
            segment.chunks([row])


def test_only_the_batches_of_the_hits_are_read(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 1000)
    segment = kit.open(store.path).segments[0]
    segment.fetch_chunks([300, 0, 999])
    assert not segment._checked
    segment.chunks([300, 301])
    assert segment._checked == {1}
    segment.fetch_chunks([300, 0, 999])
    segment.fetch_chunks([])
    assert [row.ordinal for row in segment.chunks([0, 999])] == [0, 999]


def test_a_damaged_batch_is_named_when_it_is_read(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 1000)
    path = kit.open(store.path).segments[0].directory / CHUNKS_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    segment = kit.open(store.path).segments[0]
    segment._unhashed.clear()  # as if the file were damaged where nobody looks
    segment.fetch_chunks(range(1000))
    with pytest.raises(StoreFormatError, match="chunks.arrow"):
        segment.chunks(range(1000))


def test_strange_texts_survive(tmp_path: Path, kit: Any) -> None:
    texts = ["", "\x00\x1b[31m\n\r\t", "é" * 10_000, "\U0001f642", "\ufeff\u202e"]
    rows = [
        Row(f"id\n{n}", "p\x7f", 0, text, b"h" * 16, metadata={"k\u2028": text})
        for n, text in enumerate(texts)
    ]
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        writer.append(rows, kit.vectors(5), {row.document_id: b"h" * 16 for row in rows})
    assert kit.open(store.path).segments[0].chunks(range(5)) == rows


def test_foreign_vectors_keep_their_prefix_lengths(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i", foreign=True)
    vectors = kit.vectors(50, foreign=True) * 1000
    vectors[7, :4] = 0
    with store.writer() as writer:
        writer.append(kit.rows("a", 50), vectors, {"a": b"h" * 16})
    segment = kit.open(store.path).segments[0]
    stored = np.concatenate([segment.band(index) for index in range(3)], axis=1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(stored - unit).max() < 1e-3
    for dim in kit.DIMS:
        norms = segment.prefix_norms(dim)
        expected = np.linalg.norm(stored[:, :dim].astype(np.float64), axis=1)
        expected[expected == 0] = 1
        assert norms is not None and norms.dtype == np.float32
        assert np.allclose(norms, expected, rtol=1e-6)
    assert kit.open(store.path).verify().ok


def test_tombstones_that_point_outside_are_refused(tmp_path: Path, kit: Any) -> None:
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 3)
        kit.add(writer, "b", 3)
        writer.commit()
        writer.delete_documents(["a"])
    segment = kit.open(store.path).segments[0]
    assert segment.live is not None
    assert segment.live.tolist() == [False] * 3 + [True] * 3
    path = segment.directory / segment.entry.tombstones.file
    data = bytearray(path.read_bytes())
    at = data.index(np.array([0, 1, 2], np.int32).tobytes())
    data[at + 11] = 0x7F
    path.write_bytes(data)
    with pytest.raises(StoreFormatError, match=r"deleted-.*checksum"):
        _ = kit.open(store.path).segments[0].live
