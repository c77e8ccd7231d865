from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from adaptive_search.arrow_arrays import (
    byte_rows,
    bytes_array,
    matrix_array,
    number_array,
    numbers,
    text_array,
)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float16, np.float32])
def test_numbers_go_there_and_back(dtype: type) -> None:
    array = number_array([3, 1, 2], dtype)
    array.validate(full=True)
    assert array.equals(pa.array(np.array([3, 1, 2], dtype)))
    assert numbers(array).tolist() == [3, 1, 2] and numbers(array).dtype == dtype
    assert numbers(array.slice(1, 1)).tolist() == [1]


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(OverflowError):
        number_array([1 << 31], np.int32)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_texts(kind: pa.DataType) -> None:
    for texts in (["", "é", "a\x00b", "\U0001f642"], []):
        array = text_array(texts, kind)
        array.validate(full=True)
        assert array.type == kind and array.to_pylist() == texts
    with pytest.raises(ValueError, match="surrogates"):
        text_array(["\udc80"], kind)


def test_names_that_exceed_their_type_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptive_search.arrow_arrays.MAX_STRING_BYTES", 3)
    assert text_array(["abcd"], pa.large_string()).to_pylist() == ["abcd"]
    with pytest.raises(ValueError, match="exceed"):
        text_array(["abcd"], pa.string())


def test_bytes_and_matrices() -> None:
    hashes = bytes_array([b"ab", b"cd"], 2)
    hashes.validate(full=True)
    assert hashes.to_pylist() == [b"ab", b"cd"]
    assert byte_rows(hashes).tobytes() == b"abcd" and byte_rows(hashes[1:]).tobytes() == b"cd"
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    array = matrix_array(matrix, pa.list_(pa.float32(), 2))
    array.validate(full=True)
    assert array.to_pylist() == matrix.tolist()
