"""Mapped tensors against the library's own reader, and files that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from adaptive_search.encoder.weight_file import map_file, read_tensors

TENSORS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "codes": np.arange(-7, 8, dtype=np.int8).reshape(5, 3),
    "wide": np.linspace(0, 1, 7),
    "half": np.ones((2, 1, 3), np.float16),
    "nothing": np.zeros((0, 4), np.float32),
    "single": np.array(3, np.int64),
}


def test_what_the_library_wrote(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "t", metadata={"made": "by hand"})
    tensors = read_tensors(map_file(tmp_path / "t"))
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        np.testing.assert_array_equal(tensor, TENSORS[name])
        assert tensor.flags.aligned
        assert tensor.size == 0 or not tensor.flags.writeable


def test_a_replaced_file_leaves_the_mapped_one(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "t")
    tensors = read_tensors(map_file(tmp_path / "t"))
    save_file({"matrix": np.zeros(3)}, tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "t")
    np.testing.assert_array_equal(tensors["matrix"], TENSORS["matrix"])


def test_an_unaligned_tensor_is_copied() -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry}).encode()
    header += b" " * (1 - len(header) % 4)
    data = struct.pack("<Q", len(header)) + header + np.float32([1, 2]).tobytes()
    array = read_tensors(data)["a"]
    assert array.flags.aligned
    np.testing.assert_array_equal(array, np.float32([1, 2]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    content = bytearray(save(TENSORS))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        tensors = read_tensors(bytes(content[:cut]))
    except ValueError:
        return
    for tensor in tensors.values():
        tensor.tobytes()  # every byte is there


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_tensors(content + b"noise")
