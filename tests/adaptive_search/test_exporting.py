from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as parquet
import pytest

from adaptive_search.errors import DimensionError, QueryError, StoreError
from adaptive_search.exporting import export


@pytest.fixture
def store(tmp_path: Path, kit: Any) -> Any:
    """An index of two segments, with deleted rows."""
    store = kit.create(tmp_path / "i")
    with store.writer() as writer:
        kit.add(writer, "a", 300)
        kit.add(writer, "b", 300)
        writer.commit()
        kit.add(writer, "c", 5)
        writer.delete_documents(["a"])
    return kit.open(tmp_path / "i")


@pytest.mark.parametrize("dim", [4, 8, 16])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
def test_live_rows_with_unit_vectors(
    tmp_path: Path, kit: Any, store: Any, dim: int, half: bool, suffix: str
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"an older export")
    assert store.export(dim, path, half=half) == 305
    if suffix == ".arrow":
        with ipc.open_file(path) as file:
            table = file.read_all()
    else:
        table = parquet.read_table(path)
    found = kit.contents(store)
    assert table.column("chunk_id").to_pylist() == list(found)
    assert table.column("text").to_pylist() == [row.text for row, _ in found.values()]
    assert table.column_names == ["chunk_id", "document_id", "path", "text", "vector"]
    kind = table.schema.field("vector").type
    assert kind.list_size == dim and kind.value_type == (pa.float16() if half else pa.float32())
    vectors = np.array(table.column("vector").to_pylist(), np.float64)
    stored = np.stack([np.frombuffer(raw, np.float16)[:dim] for _, raw in found.values()])
    unit = stored / np.linalg.norm(stored.astype(np.float64), axis=1, keepdims=True)
    assert np.abs(vectors - unit).max() < (1e-3 if half else 1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i", path.name]


def test_refusals(tmp_path: Path, store: Any) -> None:
    with pytest.raises(DimensionError, match="4, 8, 16"):
        store.export(5, tmp_path / "x.arrow")
    with pytest.raises(QueryError, match=r"\.arrow or \.parquet"):
        store.export(4, tmp_path / "x.csv")
    with pytest.raises(StoreError, match="missing"):
        export(store, 4, tmp_path / "missing" / "x.arrow")
    assert [p.name for p in tmp_path.iterdir()] == ["i"]
