"""Files of vectors: the same rows from every kind, and what is said of files that hold none."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as parquet
import pytest

from adaptive_search import vector_files
from adaptive_search.errors import QueryError
from adaptive_search.manifest import StoreSpec
from adaptive_search.vector_files import VectorFile, read_query_vector
from adaptive_search.vectors import VectorChecker

WIDTH, ROWS = 4, 10
GIVEN = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
SPEC = StoreSpec("vectors", (2, WIDTH), None)


def table(**columns: Any) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(GIVEN.ravel()), WIDTH)
    return pa.table({"id": list(range(ROWS)), "vector": vectors} | columns)


def write(path: Path, content: pa.Table) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(content, path, row_group_size=4)
    elif path.suffix == ".arrows":
        with ipc.new_stream(path, content.schema) as sink:
            sink.write_table(content, max_chunksize=3)
    else:
        with ipc.new_file(path, content.schema) as sink:
            sink.write_table(content, max_chunksize=3)
    return path


def rows_of(file: VectorFile) -> list[tuple[str, str, Any]]:
    """Id, text and metadata of each row."""
    return [
        row
        for batch in file.batches(VectorChecker(SPEC))
        for row in zip(batch.ids, batch.texts, batch.metadata, strict=True)
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows", ".feather"])
@pytest.mark.parametrize("read_rows", [2, 1024])
def test_tables(
    tmp_path: Path, suffix: str, read_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "READ_ROWS", read_rows)
    day = datetime.date(2024, 2, 29)
    content = table(
        text=[f"text {n}" if n else None for n in range(ROWS)],
        n=pa.array([None, *range(1, ROWS)]),
        name=pa.array(["x"] * ROWS).dictionary_encode(),
        day=[day] * ROWS,
        price=[Decimal("1.50")] * ROWS,
        ok=[True] * ROWS,
        nan=[float("nan")] * ROWS,
        tags=[["a"]] * ROWS,  # no plain value: left out
    )
    file = VectorFile(write(tmp_path / f"v{suffix}", content))
    assert file.width == WIDTH
    rows = rows_of(file)
    ids, texts, metadata = zip(*rows, strict=True)
    assert list(ids) == [str(n) for n in range(ROWS)]
    assert list(texts) == ["", *(f"text {n}" for n in range(1, ROWS))]
    plain = {"name": "x", "day": "2024-02-29", "price": "1.50", "ok": True}
    assert metadata[0] == plain and metadata[3] == plain | {"n": 3}
    found = np.concatenate([batch.vectors for batch in file.batches(VectorChecker(SPEC))])
    assert np.array_equal(found, GIVEN)


def test_a_matrix_has_row_numbers_for_ids(tmp_path: Path) -> None:
    for name, matrix in (("c", GIVEN), ("f", np.asfortranarray(GIVEN.astype(np.float64)))):
        np.save(tmp_path / f"{name}.npy", matrix)
        file = VectorFile(tmp_path / f"{name}.npy")
        assert file.width == WIDTH
        assert [name for name, _, _ in rows_of(file)] == [str(n) for n in range(ROWS)]
        (batch,) = file.batches(VectorChecker(SPEC))
        assert np.array_equal(batch.vectors, GIVEN)


def test_other_columns_by_name(tmp_path: Path) -> None:
    content = table().rename_columns(["key", "embedding"])
    path = write(tmp_path / "v.parquet", content)
    assert len(rows_of(VectorFile(path, "key", "embedding"))) == ROWS
    for file, reason in (
        (VectorFile(path), "one column id; it has key, embedding; .* --id-column"),
        (VectorFile(path, "key"), "one column vector; .* --vector-column"),
        (VectorFile(path, "embedding", "embedding"), "id of row 0 is \\["),
        (VectorFile(path, "key", "key"), "Arrow type int64"),
    ):
        with pytest.raises(QueryError, match=reason):
            rows_of(file)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "text.arrow").write_text("no table")
    (tmp_path / "text.npy").write_text("no matrix")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "row.npy", GIVEN[0])
    np.savez(tmp_path / "archive.npz", GIVEN)
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    whole = write(tmp_path / "cut.arrow", table()).read_bytes()
    (tmp_path / "cut.arrow").write_bytes(whole[: len(whole) // 2])
    for name in "text.parquet text.arrow text.npy empty.npy objects.npy cut.arrow".split():
        with pytest.raises(QueryError, match=f"{name} is damaged or of another kind"):
            rows_of(VectorFile(tmp_path / name))
    for name in ("row.npy", "archive.npy"):
        with pytest.raises(QueryError, match="no matrix"):
            rows_of(VectorFile(tmp_path / name))
    for name in ("missing.parquet", "missing.arrow", "missing.npy"):
        with pytest.raises(QueryError, match=f"{name} cannot be read"):
            rows_of(VectorFile(tmp_path / name))
    with pytest.raises(QueryError, match="in .parquet, .arrow"):
        VectorFile(tmp_path / "v.csv")
    np.save(tmp_path / "none.npy", GIVEN[:0])
    with pytest.raises(QueryError, match="holds no vectors"):
        _ = VectorFile(tmp_path / "none.npy").width
    twice = write(
        tmp_path / "twice.arrow", table(n=[0] * ROWS).rename_columns(["id", "vector", "id"])
    )
    with pytest.raises(QueryError, match="one column id"):
        rows_of(VectorFile(twice))


def test_a_bad_row_is_named_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_files, "READ_ROWS", 4)
    path = write(tmp_path / "v.parquet", table().set_column(0, "id", pa.array([*range(9), 3])))
    with pytest.raises(QueryError, match="v.parquet: id '3' comes twice, in rows 3 and 9"):
        rows_of(VectorFile(path))


@pytest.mark.parametrize(
    "text", ["[1, 2.5]", "[[1, 2.5]]", '{"vector": [1, 2.5]}', '{"dim": 2, "vectors": [[1, 2.5]]}']
)
def test_a_vector_to_search_with(text: str, tmp_path: Path) -> None:
    assert read_query_vector(text).tolist() == [1, 2.5]
    (tmp_path / "q.json").write_text(text)
    assert read_query_vector(tmp_path / "q.json").tolist() == [1, 2.5]
    for array in ([1, 2.5], [[1, 2.5]]):
        np.save(tmp_path / "q.npy", np.array(array))
        assert read_query_vector(tmp_path / "q.npy").tolist() == [1, 2.5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "damaged or of another kind"),
        ("plants", "damaged or of another kind"),
        ("[[1], [2]]", "holds 2 vectors of 1 numbers; give one vector"),
        ("[]", "of 0 numbers"),
        ("{}", "not as NoneType"),
        ("5", "not as int"),
        ('"abc"', "not as str"),
        ('["a"]', "dtype"),
        ("[" * 100_000, "damaged or of another kind"),
        (json.dumps([[1.0], [1.0, 2.0]]), "differ in width"),
    ],
)
def test_bad_vectors_to_search_with(text: str, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        read_query_vector(text)
