from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from adaptive_search.arrow_files import write_matrix
from adaptive_search.errors import StoreError, StoreVersionError
from adaptive_search.manifest import MANIFEST_FILE, write_manifest
from adaptive_search.storage_io import StorageIO
from adaptive_search.verification import verify_index


def build(kit: Any, path: Path, *, foreign: bool = False) -> Any:
    """Two segments; the first has a tombstone and a cache."""
    store = kit.create(path, foreign=foreign)
    with store.writer() as writer:
        kit.add(writer, "a", 300, foreign=foreign)
        kit.add(writer, "b", 3, foreign=foreign)
        writer.commit()
        kit.add(writer, "c", 2, foreign=foreign)
        writer.delete_documents(["b"])
        writer.write_cache(writer.segments[0], b"payload", key="k")
    return kit.open(path)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_sound_index_has_counts_and_no_problems(tmp_path: Path, kit: Any, foreign: bool) -> None:
    store = build(kit, tmp_path / "i", foreign=foreign)
    for deep in (False, True):
        report = store.verify(deep=deep)
        assert report.ok and report.problems == report.orphans == report.damaged_caches == ()
        assert (report.segments, report.rows, report.deleted, report.documents) == (2, 305, 3, 3)
        assert report.files == 2 * (6 if foreign else 5) + 1
        assert report.dims == kit.DIMS and report.generation == store.manifest.generation
        assert 0 < report.bytes < sum(p.stat().st_size for p in store.path.rglob("*"))


def test_no_index_and_newer_formats_are_errors(tmp_path: Path, kit: Any) -> None:
    with pytest.raises(StoreError, match="is not an index"):
        verify_index(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text(
        '{"format": "adaptive-search-index", "format_version": 9, "features": [], "writer": "w"}'
    )
    with pytest.raises(StoreVersionError):
        verify_index(tmp_path)


def test_a_damaged_manifest_is_a_problem(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i")
    (store.path / MANIFEST_FILE).write_text("{")
    (problem,) = store.verify().problems
    assert MANIFEST_FILE in problem


def test_all_damaged_files_are_listed_at_once(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i")
    first, second = (segment.directory for segment in store.segments)
    (first / "chunks.arrow").unlink()
    (second / "band_0008.arrow").write_bytes(b"")
    problems = store.verify().problems
    assert len(problems) == 2
    assert str(first / "chunks.arrow") in problems[0] and "cannot be read" in problems[0]
    assert str(second / "band_0008.arrow") in problems[1] and "0 bytes" in problems[1]


def test_orphans_are_listed_and_only_our_own_removed(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i")
    segments = store.path / "segments"
    ours = [segments / ".new-000009", segments / "000008"]
    for path in ours:
        path.mkdir()
        (path / "chunks.arrow").write_bytes(b"1")
    ours.append(store.segments[0].directory / "deleted-000099.arrow")
    ours[-1].write_bytes(b"1")
    foreign = store.path / "notes.txt"
    foreign.write_text("mine")
    assert store.verify().orphans == tuple(sorted(map(str, [*ours, foreign])))
    with store.writer():
        pass
    report = store.verify()
    assert report.ok and report.orphans == (str(foreign),)


def spoil_band(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        path = directory / "band_0008.arrow"
        with ipc.open_file(path) as file:
            column = file.read_all().column("vector").combine_chunks()
        matrix = column.values.to_numpy().reshape(-1, 4).copy()
        path.unlink()
        write_matrix(StorageIO(), path, change(matrix))

    return spoil


def spoil_table(
    name: str, column: str, change: Callable[[list[Any]], Any]
) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        path = directory / name
        with ipc.open_file(path) as file:
            table = file.read_all()
        field = table.schema.field(column)
        values = change(table.column(column).to_pylist())
        table = table.set_column(
            table.schema.get_field_index(column), field, pa.array(values, field.type)
        )
        batch_rows = 256 if name == "chunks.arrow" else None
        with ipc.new_file(path, table.schema) as writer:
            writer.write_table(table.combine_chunks(), batch_rows)

    return spoil


def at(index: int, value: Any) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[index] = value
        return values

    return change


SPOILS = {
    "nan": (spoil_band(at(7, np.nan)), "not finite"),
    "infinite": (spoil_band(at(7, np.inf)), "not finite"),
    "length": (spoil_band(lambda m: m * np.float16(1.01)), "length is not 0.5"),
    "fewer rows": (spoil_band(lambda m: m[:-1]), "does not hold 303 rows of 4"),
    "wider": (spoil_band(lambda m: m.reshape(-1, 2)), "schema"),
    "other dtype": (spoil_band(lambda m: m.astype(np.float32)), "schema"),
    "chunk id": (spoil_table("chunks.arrow", "chunk_id", at(3, "x#3")), "chunk_id"),
    "ordinal": (spoil_table("chunks.arrow", "ordinal", at(3, 4)), "chunk_id"),
    "owner": (spoil_table("chunks.arrow", "document_id", at(3, "x")), "not of the document"),
    "tokens": (spoil_table("chunks.arrow", "tokens", at(3, 0)), "tokens"),
    "rows": (spoil_table("documents.arrow", "rows", at(0, 299)), "divide the 303 rows"),
    "first row": (spoil_table("documents.arrow", "first_row", at(1, 299)), "in the order"),
    "name": (spoil_table("documents.arrow", "document_id", at(1, "x")), "not of the document"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILS.values(), ids=SPOILS.keys())
def test_each_rule_is_checked_even_with_right_checksums(
    tmp_path: Path, kit: Any, spoil: Callable[[Path], None], message: str
) -> None:
    store = build(kit, tmp_path / "i")
    spoil(store.segments[0].directory)
    kit.reseal(store.path)
    (problem,) = store.verify().problems
    assert message in problem and store.segments[0].name in problem


def test_wrong_prefix_lengths_are_noticed(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i", foreign=True)
    path = store.segments[0].directory / "norms.arrow"
    norms = store.segments[0].norms * np.float32(1.001)
    path.unlink()
    write_matrix(StorageIO(), path, norms)
    kit.reseal(store.path)
    (problem,) = store.verify().problems
    assert "norms.arrow does not hold the bands' lengths" in problem


def test_a_document_that_is_live_twice_is_noticed(tmp_path: Path, kit: Any) -> None:
    store = build(kit, tmp_path / "i")
    manifest = store.manifest
    second = manifest.segments[1]
    copy = dataclasses.replace(second, name=f"{manifest.next_segment:06d}")
    segments = store.path / "segments"
    shutil.copytree(segments / second.name, segments / copy.name)
    write_manifest(
        StorageIO(),
        store.path,
        dataclasses.replace(
            manifest,
            segments=(*manifest.segments, copy),
            next_segment=manifest.next_segment + 1,
        ),
    )
    (problem,) = store.verify(deep=False).problems
    assert "1 documents that are live twice" in problem
