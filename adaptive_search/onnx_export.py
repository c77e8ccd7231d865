"""The encoder in a directory for ONNX runtimes."""

from __future__ import annotations

import shutil
from pathlib import Path

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.granularity import Granularity
from adaptive_search.errors import MissingExtra
from adaptive_search.storage_io import disk_errors

MODEL = "model.onnx"


def export_onnx(
    directory: Path,
    weights: Path | None = None,
    dim: int | None = None,
    granularity: Granularity = 1,
) -> int:
    """Write the graph, its tokenizer and its config; standard operators alone, in float32.

    Args:
        directory: made if need be; files of an earlier export are replaced.
        weights: a weights directory; the shipped ones by default.
        dim: one of the nesting dimensions; the largest by default.
        granularity: as for `Encoder.encode`.

    Returns:
        The dimension of the vectors.

    Raises:
        MissingExtra: onnx is not installed.
        DimensionError: dim is not a nesting dimension.
        QueryError: no sub-model has this granularity.
        WeightsError: the weights are not usable.
        StoreError: the directory cannot be written.
    """
    try:
        from adaptive_search.encoder.onnx_graph import build
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingExtra("onnx", "onnx") from None
    source = checkpoint.load(weights or checkpoint.shipped_weights())
    dim = source.config.dims[-1] if dim is None else dim
    heads = source.config.heads(granularity)
    model = build(source.config, checkpoint.dequantize(source.tensors), heads, dim)
    with disk_errors("write", directory):
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / (MODEL + ".partial")
        partial.write_bytes(model.SerializeToString())
        partial.replace(directory / MODEL)
        for name in (checkpoint.TOKENIZER, checkpoint.CONFIG):
            shutil.copyfile(source.directory / name, directory / name)
    return dim
