"""Weights on disk: round trip, fingerprint, int8, damage of every kind, and replacing."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.errors import WeightsError

Tensors = dict[str, NDArray[Any]]
FILES = ("config.json", "tokenizer.json", "model.safetensors")


def test_round_trip(
    tmp_path: Path,
    config: EncoderConfig,
    tokenizer_json: str,
    random_tensors: Callable[[EncoderConfig], Tensors],
) -> None:
    tensors = random_tensors(config)
    checkpoint.save(tmp_path / "new" / "weights", config, tokenizer_json, tensors)
    loaded = checkpoint.load(tmp_path / "new" / "weights")
    assert loaded.config == config
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], tensor)
    assert sorted(p.name for p in loaded.directory.iterdir()) == sorted(FILES)


def test_the_fingerprint_is_of_the_content(weights: Path, tmp_path: Path) -> None:
    before = checkpoint.load(weights)
    assert len(before.fingerprint) == 16
    text = (weights / "tokenizer.json").read_text(encoding="utf-8")
    checkpoint.save(tmp_path / "again", before.config, text, before.tensors)
    assert checkpoint.load(tmp_path / "again").fingerprint == before.fingerprint


@pytest.mark.parametrize("name", FILES)
def test_any_byte_changes_the_fingerprint(weights: Path, name: str) -> None:
    before = checkpoint.load(weights).fingerprint
    path = weights / name
    content = bytearray(path.read_bytes())
    if name == "model.safetensors":
        content[-1] ^= 1  # the lowest bits of the last tensor; still finite
    else:
        content += b" "
    path.write_bytes(content)
    assert checkpoint.load(weights).fingerprint != before


matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False),
)


@given(matrices)
def test_int8_rows_are_within_half_a_step(matrix: NDArray[np.float32]) -> None:
    codes = checkpoint.quantize_rows({"heads.0.weight": matrix})
    assert codes["heads.0.weight"].dtype == np.int8
    restored = checkpoint.dequantize(codes)
    assert restored.keys() == {"heads.0.weight"}
    step = np.abs(matrix).max(axis=1, keepdims=True) / np.float64(127)
    error = np.abs(restored["heads.0.weight"].astype(np.float64) - matrix)
    assert (error <= 0.5001 * step + 1e-37).all()


def test_only_matrices_become_int8(
    config: EncoderConfig, random_tensors: Callable[[EncoderConfig], Tensors]
) -> None:
    tensors = random_tensors(config)
    codes = checkpoint.quantize_rows(tensors)
    assert codes["pooling.query"].dtype == np.float32
    assert codes["blocks.0.mixer.conv1d.weight"].dtype == np.float32
    assert codes["embedding.weight.scale"].shape == (config.vocab_size,)
    values = checkpoint.dequantize(codes)
    assert values.keys() == tensors.keys()
    assert all(value.dtype == np.float32 for value in values.values())


def test_a_row_of_zeros_stays_zero() -> None:
    codes = checkpoint.quantize_rows({"m": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(checkpoint.dequantize(codes)["m"], 0)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(weights: Path, name: str) -> None:
    (weights / name).unlink()
    with pytest.raises(WeightsError, match=f"{name} cannot be read.*again"):
        checkpoint.load(weights)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere is not a weights directory; .*config\.json"):
        checkpoint.load(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"n_layers": 0}', b"{" * 99_999])
def test_a_damaged_config_is_named(weights: Path, content: bytes) -> None:
    (weights / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json cannot be used"):
        checkpoint.load(weights)


def test_a_config_of_absurdly_many_layers_is_refused_at_once(weights: Path) -> None:
    raw = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    (weights / "config.json").write_text(json.dumps(raw | {"n_layers": 10**15}), encoding="utf-8")
    with pytest.raises(WeightsError, match="too few for 1000000000000000 layers"):
        checkpoint.load(weights)


def header(entries: object, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "empty": b"",
    "no header": b"\x08\x00\x00\x00\x00\x00\x00\x00",
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "header longer than the file": struct.pack("<Q", 99) + b"{}",
    "header is no JSON": struct.pack("<Q", 2) + b"}{",
    "header is a list": header([]),
    "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
    "offsets beyond the file": header({"a": entry("F32", [4], 0, 16)}),
    "offsets overlap": header(
        {"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, b"\0" * 4
    ),
    "shape against offsets": header({"a": entry("F32", [9], 0, 4)}, b"\0" * 4),
    "shape overflows": header({"a": entry("F32", [2**62, 2**62], 0, 4)}, b"\0" * 4),
    "unknown dtype": header({"a": entry("F33", [1], 0, 4)}, b"\0" * 4),
    "dtype without numpy": header({"a": entry("BF16", [2], 0, 4)}, b"\0" * 4),
    "dtype of 8 bits": header({"a": entry("F8_E4M3", [4], 0, 4)}, b"\0" * 4),
    "no tensors": header({}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_of_tensors(weights: Path, content: bytes) -> None:
    (weights / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors .*; export or copy"):
        checkpoint.load(weights)


def test_a_cut_file_of_tensors(weights: Path) -> None:
    path = weights / "model.safetensors"
    content = path.read_bytes()
    for size in (3, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(WeightsError, match=r"model\.safetensors is not a readable"):
            checkpoint.load(weights)


def test_a_directory_in_place_of_a_file(weights: Path) -> None:
    (weights / "model.safetensors").unlink()
    (weights / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read"):
        checkpoint.load(weights)


CHANGES: dict[str, tuple[Callable[[Tensors], dict[str, NDArray[Any] | None]], str]] = {
    "missing": (lambda t: {"final_norm.weight": None}, "final_norm.weight missing"),
    "unknown": (lambda t: {"blocks.9.D": t["final_norm.weight"]}, "unknown.*blocks.9.D"),
    "short": (lambda t: {"final_norm.weight": t["final_norm.weight"][:-1]}, r"shape \(31,\)"),
    "transposed": (
        lambda t: {"blocks.1.mlp.down.weight": t["blocks.1.mlp.down.weight"].T.copy()},
        "blocks.1.mlp.down.weight of shape",
    ),
    "float64": (
        lambda t: {"pooling.query": t["pooling.query"].astype(np.float64)},
        "pooling.query as float64, not float32",
    ),
    "int8 without scale": (
        lambda t: {"final_norm.weight": np.ones(32, np.int8)},
        "final_norm.weight as int8",
    ),
    "scale lost": (lambda t: {"heads.0.weight.scale": None}, "heads.0.weight as int8"),
    "scale of a float matrix": (
        lambda t: {"heads.0.weight": t["heads.0.weight"].astype(np.float32)},
        "heads.0.weight as float32, not int8",
    ),
    "scale of a vector": (
        lambda t: {
            "final_norm.weight": np.ones(32, np.int8),
            "final_norm.weight.scale": np.ones(32, np.float32),
        },
        "final_norm.weight as int8",
    ),
    "scale too long": (
        lambda t: {"heads.0.weight.scale": np.ones(9, np.float32)},
        "heads.0.weight.scale of shape",
    ),
    "NaN": (
        lambda t: {"blocks.0.mixer.D": np.full(8, np.nan, np.float32)},
        "NaN or infinite values in tensor blocks.0.mixer.D",
    ),
    "infinite scale": (
        lambda t: {"heads.0.weight.scale": np.full(8, np.inf, np.float32)},
        "infinite values in tensor heads.0.weight.scale",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_tensors_of_another_architecture(
    weights: Path, change: Callable[[Tensors], dict[str, NDArray[Any] | None]], message: str
) -> None:
    path = weights / "model.safetensors"
    tensors = load_file(path)
    changed = {**tensors, **change(tensors)}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path)
    with pytest.raises(WeightsError, match=rf"model\.safetensors has .*{message}"):
        checkpoint.load(weights)


def test_a_flipped_bit_is_refused_or_loads(weights: Path) -> None:
    path = weights / "model.safetensors"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    positions = [*rng.integers(0, 4000, 40), *rng.integers(0, len(content), 40)]
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            Encoder.load(weights, threads=1)
        except WeightsError:
            pass


@pytest.mark.parametrize("failing", ["write_bytes", "replace", "write_text"])
def test_a_failed_save_keeps_the_old_weights(
    weights: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    old = checkpoint.load(weights)
    tensors = {name: np.zeros_like(tensor) for name, tensor in old.tensors.items()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    where = {"write_bytes": Path, "replace": os, "write_text": Path}[failing]
    with monkeypatch.context() as patch:
        patch.setattr(where, failing, full)
        with pytest.raises(WeightsError, match="No space left on device.*is kept"):
            checkpoint.save(weights, old.config, "{}", tensors)
    assert checkpoint.load(weights).fingerprint == old.fingerprint
    assert sorted(p.name for p in weights.iterdir()) == sorted(FILES)


def test_weights_may_be_read_by_whom_their_config_may(weights: Path) -> None:
    modes = {(weights / name).stat().st_mode for name in (checkpoint.WEIGHTS, checkpoint.CONFIG)}
    assert len(modes) == 1


def test_a_save_where_a_file_stands(weights: Path) -> None:
    old = checkpoint.load(weights)
    with pytest.raises(WeightsError, match="could not be written"):
        checkpoint.save(weights / "config.json", old.config, "{}", old.tensors)
    assert checkpoint.load(weights).fingerprint == old.fingerprint


def test_saving_over_old_weights(weights: Path, tmp_path: Path) -> None:
    old = checkpoint.load(weights)
    shutil.copytree(weights, tmp_path / "copy")
    tensors = dict(old.tensors) | {"final_norm.weight": np.ones(32, np.float32)}
    text = (weights / "tokenizer.json").read_text(encoding="utf-8")
    checkpoint.save(weights, old.config, text, tensors)
    np.testing.assert_array_equal(checkpoint.load(weights).tensors["final_norm.weight"], 1)
    assert checkpoint.load(tmp_path / "copy").fingerprint == old.fingerprint


def test_the_shipped_weights_load_and_are_int8() -> None:
    shipped = checkpoint.load(checkpoint.shipped_weights())
    trained = EncoderConfig()
    assert shipped.config.completed_bands == 2  # up to 512 dims, the first to hold the teacher's
    energy = trained.prefix_energy
    assert dataclasses.replace(shipped.config, completed_bands=0, prefix_energy=energy) == trained
    assert shipped.tensors["embedding.weight"].dtype == np.int8


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_gives_a_typed_error_or_unit_vectors(weights: Path, data: st.DataObject) -> None:
    path = weights / data.draw(st.sampled_from(FILES))
    content = path.read_bytes()
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    # Another file, as a copy would put it there; what is mapped may not change.
    spoilt = path.with_suffix(".spoilt")
    spoilt.write_bytes(damaged[: data.draw(st.sampled_from([len(damaged), len(damaged) // 2]))])
    spoilt.replace(path)
    try:
        vector = Encoder.load(weights, threads=1).encode("plants store energy")
    except WeightsError:
        pass
    else:
        np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-5)
    finally:
        spoilt.write_bytes(content)
        spoilt.replace(path)
