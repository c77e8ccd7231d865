"""Vectors from elsewhere: every form they come in, and each thing that is refused by its row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from adaptive_search import vectors
from adaptive_search.errors import QueryError
from adaptive_search.manifest import StoreSpec
from adaptive_search.vectors import VectorChecker, checked_dims, query_matrix, standard_dims

WIDTH = 8
SPEC = StoreSpec("vectors", (2, 4, WIDTH), None)
GIVEN = np.random.default_rng(0).standard_normal((7, WIDTH)).astype(np.float32)


def checked(ids: Any, given: Any, *more: Any, spec: StoreSpec = SPEC) -> Any:
    """Ids, vectors, texts and metadata as they would be stored."""
    batches = list(VectorChecker(spec).batches(ids, given, *more))
    matrices = [batch.vectors for batch in batches]
    return (
        [name for batch in batches for name in batch.ids],
        np.concatenate(matrices) if matrices else np.zeros((0, WIDTH)),
        [text for batch in batches for text in batch.texts],
        [fields for batch in batches for fields in batch.metadata],
    )


def fixed(matrix: NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), WIDTH)


FORMS: dict[str, Callable[[], Any]] = {
    "float32": lambda: GIVEN,
    "float64": lambda: GIVEN.astype(np.float64),
    "strided": lambda: np.repeat(GIVEN, 2, axis=1)[:, ::2],
    "big-endian": lambda: GIVEN.astype(">f4"),
    "lists": lambda: GIVEN.tolist(),
    "batch of lists": lambda: iter([GIVEN.tolist()]),
    "vectors one by one": lambda: iter(GIVEN),
    "batches": lambda: (GIVEN[at : at + 3] for at in range(0, 7, 3)),
    "mixed": lambda: [
        GIVEN[:2].astype(np.float64),
        GIVEN[2],
        GIVEN[3:5].tolist(),
        fixed(GIVEN[5:]),
    ],
    "fixed-size lists": lambda: fixed(GIVEN),
    "sliced": lambda: fixed(np.concatenate([GIVEN, GIVEN]))[7:],
    "fixed-size lists of float64": lambda: fixed(GIVEN.astype(np.float64)),
    "arrow lists": lambda: pa.array(GIVEN.tolist(), pa.list_(pa.float32())),
    "sliced arrow lists": lambda: pa.array([[1.0], *GIVEN.tolist()], pa.large_list(pa.float64()))[
        1:
    ],
    "chunks": lambda: pa.chunked_array([fixed(GIVEN[:3]), fixed(GIVEN[3:])]),
    "frame": lambda: pd.DataFrame(GIVEN),
    "series": lambda: pd.Series(GIVEN.tolist()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_bytes", [1, 4 * 4 * WIDTH, 1 << 20])
def test_every_form_gives_the_same_rows(
    form: str, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "BATCH_BYTES", batch_bytes)
    ids, found, _, _ = checked(range(7), FORMS[form]())
    assert ids == list("0123456")
    np.testing.assert_allclose(found, GIVEN, rtol=1e-6)
    np.testing.assert_allclose(query_matrix(FORMS[form]()), GIVEN, rtol=1e-6)


def test_a_stream_is_read_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BATCH_BYTES", 4 * 4 * WIDTH)
    taken: list[int] = []

    def stream() -> Iterator[NDArray[np.float32]]:
        for row in range(7):
            taken.append(row)
            yield GIVEN[row : row + 1]

    batches = VectorChecker(SPEC).batches(iter(range(7)), stream())
    assert (len(next(batches)), taken) == (4, [0, 1, 2, 3, 4])
    assert len(next(batches)) == 3


def test_a_stream_may_use_its_memory_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BATCH_BYTES", 4 * 4 * WIDTH)

    def stream(rows: int) -> Iterator[NDArray[np.float32]]:
        own = np.empty((rows, WIDTH), np.float32)
        for start in range(0, 7, rows):
            part = GIVEN[start : start + rows]
            own[: len(part)] = part
            yield own[: len(part)]

    for rows in (1, 3, 4, 7):
        assert np.array_equal(checked(range(7), stream(rows))[1], GIVEN)


def test_half_precision_and_whole_numbers() -> None:
    assert np.array_equal(checked(["a"], [[1, 0] * 4])[1], [[1, 0] * 4])
    half = GIVEN.astype(np.float16)
    assert np.array_equal(checked(range(7), half)[1], half)
    assert np.array_equal(checked(range(7), fixed(half))[1], half)


def test_ids_texts_and_metadata() -> None:
    fields = [
        {"a": 1, "b": None, "c": math.nan, "d": np.float32(0.5), "e": np.True_},
        {},
        None,
        {"f": "x"},
    ]
    ids, _, texts, metadata = checked(
        pa.array([-(2**63), 2**63 - 1, 0, 7]), GIVEN[:4], fields, ["one", None, "", "é"]
    )
    assert ids == ["-9223372036854775808", "9223372036854775807", "0", "7"]
    assert texts == ["one", "", "", "é"]
    assert metadata == [{"a": 1, "d": 0.5, "e": True}, {}, {}, {"f": "x"}]
    assert checked(np.array(["x", "y"]), GIVEN[:2])[0] == ["x", "y"]
    assert checked(pd.Series([3, 4]), GIVEN[:2])[0] == ["3", "4"]
    assert checked([], GIVEN[:0])[0] == checked([], [])[0] == []


def test_the_hash_tells_vectors_texts_and_fields_apart() -> None:
    def hashes(*given: Any) -> list[bytes]:
        (batch,) = VectorChecker(SPEC).batches(range(2), *given)
        return list(batch.hashes)

    first = hashes(GIVEN[:2])
    assert first == hashes(GIVEN[:2].astype(np.float64)) and first[0] != first[1]
    variants = [first[0], hashes(GIVEN[1:3])[0]]
    variants += [hashes(GIVEN[:2], [{"a": 1}, {}])[0], hashes(GIVEN[:2], [{"a": "1"}, {}])[0]]
    variants += [hashes(GIVEN[:2], None, ["x", "y"])[0]]
    assert len(set(variants)) == len(variants)


WIDE = np.ones((1, WIDTH))
BAD_VECTORS = {
    "has 9 numbers, but the highest dimension of the index is 8": np.ones((1, 9)),
    "row 2 has 4 numbers": iter([GIVEN[:2], GIVEN[2:4, :4]]),
    "shape \\(8,\\)": GIVEN[0],
    "shape \\(1, 1, 8\\)": GIVEN[None, :1],
    "dtype int8": WIDE.astype(np.int8),
    "dtype bool": WIDE.astype(bool),
    "dtype complex128": WIDE.astype(complex),
    "dtype <U1": [["a"] * WIDTH],
    "different widths": iter([[[1.0] * WIDTH, [1.0]]]),
    "row 0 has a number that is not finite": WIDE * np.nan,
    "row 3 has a number": np.concatenate([GIVEN[:3], WIDE * np.inf]),
    "row 0 has a number that": WIDE * 1e300,
    "row 1 is zero": np.concatenate([GIVEN[:1], WIDE * 0, GIVEN[:1]]),
    "row 0 is zero": WIDE * 1e-300,
    "not as str": "vectors",
    "not as int": 5,
    "not as dict": {"a": 1},
    "Arrow type int64": pa.array([1]),
    "Arrow type list<item: int64>": pa.array([[1] * WIDTH]),
    "row 1 is null": pa.array([[1.0] * WIDTH, None]),
    "holds a null": pa.array([[1.0] * 7 + [None]]),
    "differ in width": pa.array([[1.0] * 7, [1.0] * 9]),
}


@pytest.mark.parametrize("reason", BAD_VECTORS)
def test_bad_vectors(reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        checked(map(str, range(9)), BAD_VECTORS[reason])


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (["x", "y", "x"], "id 'x' comes twice, in rows 0 and 2"),
        ([7, 8, "7"], "id '7' comes twice, in rows 0 and 2"),
        ([1, None, 3], "id of row 1 is None"),
        ([1, 2, 2**63], "id 9223372036854775808 of row 2 is beyond 64 bits"),
        ([1, 2, -(2**63) - 1], "row 2 is beyond 64 bits"),
        ([1, 2.0, 3], "id of row 1 is 2.0"),
        ([True, 2, 3], "id of row 0 is True"),
        (["", 2, 3], "id of row 0 is ''"),
        (["\ud800", 2, 3], "id of row 0 is '.ud800'"),
        ([b"x", 2, 3], "id of row 0 is b'x'"),
        (["x" * 1025, 2, 3], "text of 1 to 1,024 characters"),
        ([1, 2], "fewer ids than vectors: 2"),
        ([1, 2, 3, 4], "more ids than vectors, which are 3"),
        ("abc", "ids must be one for each vector, not str"),
        (5, "not int"),
    ],
)
def test_bad_ids(ids: Any, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        checked(ids, GIVEN[:3])


@pytest.mark.parametrize(
    ("metadata", "texts", "reason"),
    [
        ([{}, {}], None, "fewer metadata than vectors: 2"),
        ([{}] * 4, None, "more metadata"),
        (None, ["x"] * 2, "fewer texts"),
        (None, ["x"] * 4, "more texts"),
        (None, ["x", 3, "y"], "text of row 1 must be a str"),
        (None, ["x", "y", "\ud800"], "text of row 2"),
        ([{}, [1], {}], None, "metadata of row 1 must be a mapping"),
        ([{}, {}, {"a": [1]}], None, "field a of row 2 is \\[1\\]"),
        ([{"a": math.inf}, {}, {}], None, "field a of row 0 is inf"),
        ([{"a": "\ud800"}, {}, {}], None, "field a of row 0"),
        ([{1: "a"}, {}, {}], None, "have the name 1"),
        ({"a": 1}, None, "not dict"),
    ],
)
def test_bad_metadata_and_texts(metadata: Any, texts: Any, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        checked(range(3), GIVEN[:3], metadata, texts)


def test_rows_are_numbered_over_several_goes() -> None:
    checker = VectorChecker(SPEC)
    assert len(list(checker.batches([0, 1], GIVEN[:2]))) == 1
    with pytest.raises(QueryError, match="comes twice, in rows 1 and 2"):
        list(checker.batches([1], GIVEN[:1]))


def test_an_encoder_knows_its_own(kit: Any) -> None:
    own = kit.vectors(3)
    assert np.array_equal(checked(range(3), own, spec=kit.spec())[1], own)
    with pytest.raises(QueryError, match="row 2 is not of this index's encoder.* 4 to 8 have the"):
        own[2, 4:8] *= 1.01
        checked(range(3), own, spec=kit.spec())


def test_dims() -> None:
    assert checked_dims(np.array([1, 2, 3072])) == (1, 2, 3072)
    assert standard_dims(1536) == (64, 128, 256, 512, 768, 1024, 1536)
    assert standard_dims(3072)[-3:] == (1536, 2048, 3072)
    assert (standard_dims(64), standard_dims(7), standard_dims(100)) == ((64,), (7,), (64, 100))
    for bad in ([], [0, 4], [4, 4], [8, 4], [4.0], ["4"], [True, 2], [1 << 17], range(1, 70)):
        with pytest.raises(QueryError, match="dims="):
            checked_dims(bad)


def test_vectors_to_search_with() -> None:
    assert query_matrix([]).shape == (0, 0)
    with pytest.raises(QueryError, match="differ in width"):
        query_matrix([[1.0], [1.0, 2.0]])
