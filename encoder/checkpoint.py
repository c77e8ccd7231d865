"""Weights on disk: a directory of config.json, tokenizer.json and model.safetensors.

Matrices may be int8 with one float32 scale a row, in a tensor named
`<matrix>.scale`. The fingerprint names the function that the weights compute:
the same bytes of config, vocabulary and tensors give the same fingerprint.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save as serialize

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.weight_file import map_file, read_tensors
from adaptive_search.errors import WeightsError

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
SCALE = ".scale"

Tensors = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Checkpoint:
    """Weights mapped into memory: float32 tensors, or int8 ones beside their `.scale`."""

    directory: Path
    config: EncoderConfig
    tensors: Tensors
    fingerprint: str


def shipped_weights() -> Path:
    """The directory of the weights that come with the package."""
    return Path(__file__).resolve().parent / "weights"


def load(directory: Path) -> Checkpoint:
    """Read and check a weights directory.

    Raises:
        WeightsError: a file is missing, damaged, or of another architecture.
    """
    if not directory.is_dir():
        raise WeightsError(
            f"{directory} is not a weights directory; it must hold {CONFIG}, {TOKENIZER} "
            f"and {WEIGHTS}"
        )
    files = {name: _map(directory / name) for name in (CONFIG, TOKENIZER, WEIGHTS)}
    digest = hashlib.sha256()
    for data in files.values():
        digest.update(hashlib.sha256(data).digest())
    config = _read_config(directory / CONFIG, files[CONFIG])
    tensors = _read_tensors(directory / WEIGHTS, files[WEIGHTS])
    _check_shapes(directory / WEIGHTS, config, tensors)
    return Checkpoint(directory, config, tensors, digest.hexdigest()[:16])


def save(
    directory: Path, config: EncoderConfig, tokenizer_json: str, tensors: Mapping[str, NDArray[Any]]
) -> None:
    """Write a weights directory; files replace old ones only when all are complete.

    Raises:
        WeightsError: the directory cannot be written; what it held before is kept.
    """
    partial = {n: directory / (n + ".partial") for n in (WEIGHTS, CONFIG, TOKENIZER)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # safetensors' own writer makes files that only their owner may read.
        content = serialize({k: np.ascontiguousarray(v) for k, v in tensors.items()})
        partial[WEIGHTS].write_bytes(content)
        partial[CONFIG].write_text(config.to_json(), encoding="utf-8")
        partial[TOKENIZER].write_text(tokenizer_json, encoding="utf-8")
        for name, path in partial.items():
            os.replace(path, directory / name)
    except (OSError, SafetensorError) as error:
        for path in partial.values():
            with contextlib.suppress(OSError):
                path.unlink()
        raise WeightsError(
            f"{directory} could not be written ({error}); what it held before is kept"
        ) from None


def quantize_rows(tensors: Mapping[str, NDArray[np.float32]]) -> Tensors:
    """Turn each matrix into int8 rows with a float32 scale a row; keep the rest.

    A row r becomes round(r / scale) with scale = max|r| / 127.
    """
    result: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or name == "pooling.query":
            result[name] = tensor.astype(np.float32)
            continue
        scale = np.abs(tensor).max(axis=1) / 127
        safe = np.where(scale > 0, scale, 1).astype(np.float32)
        result[name] = np.rint(tensor / safe[:, None]).astype(np.int8)
        result[name + SCALE] = safe
    return result


def dequantize(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Float32 tensors from int8 rows and scales."""
    result: dict[str, NDArray[np.float32]] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == np.int8:
            result[name] = tensor.astype(np.float32) * tensors[name + SCALE][:, None]
        elif not name.endswith(SCALE):
            result[name] = np.array(tensor)  # loaded tensors are read-only
    return result


def expected_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a config."""
    d, inner, channels = config.d_model, config.d_inner, config.d_inner + 2 * config.d_state
    block = {
        "mixer_norm.weight": (d,),
        "mixer.in_proj.weight": (inner + channels + config.nheads, d),
        "mixer.conv1d.weight": (channels, 1, config.d_conv),
        "mixer.conv1d.bias": (channels,),
        "mixer.dt_bias": (config.nheads,),
        "mixer.A_log": (config.nheads,),
        "mixer.D": (config.nheads,),
        "mixer.norm.weight": (inner,),
        "mixer.out_proj.weight": (d, inner),
        "mlp_norm.weight": (d,),
        "mlp.gate_up.weight": (2 * config.d_mlp, d),
        "mlp.down.weight": (d, config.d_mlp),
    }
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (config.vocab_size, d)}
    for i in range(config.n_layers):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    shapes["final_norm.weight"] = (d,)
    shapes["pooling.query"] = (len(config.dims), d)
    widths = config.band_widths
    shapes |= {f"heads.{b}.weight": (width, config.d_model) for b, width in enumerate(widths)}
    whole = config.dims[-1]
    shapes |= {f"completion.{b}.weight": (widths[b], whole) for b in config.completed}
    return shapes


def _unusable(path: Path, problem: str) -> WeightsError:
    return WeightsError(f"{path} {problem}; export or copy these weights again")


def _map(path: Path) -> mmap.mmap | bytes:
    try:
        return map_file(path)
    except ValueError:
        return b""  # an empty file
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from None


def _read_config(path: Path, data: mmap.mmap | bytes) -> EncoderConfig:
    try:
        return EncoderConfig.from_json(data[:].decode("utf-8"))
    except (ValueError, WeightsError) as error:
        raise _unusable(path, f"cannot be used: {error}") from None


def _read_tensors(path: Path, data: mmap.mmap | bytes) -> Tensors:
    try:
        return read_tensors(data)
    except ValueError as error:
        raise _unusable(path, f"is not a readable safetensors file: {error}") from None


def _check_shapes(path: Path, config: EncoderConfig, tensors: Tensors) -> None:
    if config.n_layers > len(tensors):
        raise _unusable(path, f"holds {len(tensors)} tensors, too few for {config.n_layers} layers")
    expected = expected_shapes(config)
    scales = {
        name + SCALE: shape[:1]
        for name, shape in expected.items()
        if len(shape) == 2 and name + SCALE in tensors
    }
    for name, shape in (expected | scales).items():
        found = tensors.get(name)
        if found is None or found.shape != shape:
            what = "missing" if found is None else f"of shape {found.shape}"
            raise _unusable(path, f"has tensor {name} {what}, where the config asks for {shape}")
        wanted = np.dtype(np.int8 if name + SCALE in scales else np.float32)
        if found.dtype != wanted:
            raise _unusable(path, f"has tensor {name} as {found.dtype}, not {wanted}")
        if found.dtype == np.float32 and not np.isfinite(found).all():
            raise _unusable(path, f"has NaN or infinite values in tensor {name}")
    unknown = sorted(set(tensors) - set(expected) - set(scales))
    if unknown:
        raise _unusable(path, f"has tensors unknown to the config: {', '.join(unknown[:3])}")
