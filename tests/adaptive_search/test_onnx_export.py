"""A directory for ONNX runtimes: what it holds, and what stops its writing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from adaptive_search.encoder.encoder import Encoder
from adaptive_search.errors import DimensionError, MissingExtra, QueryError, StoreError
from adaptive_search.onnx_export import export_onnx


def test_the_shipped_weights_in_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert export_onnx(tmp_path / "model") == 1536
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {"model.onnx", "tokenizer.json", "config.json"}
    encoder = Encoder.load(threads=1, precision="fp32")
    ids = encoder.tokenizer.encode_batch(["how do plants store energy?", "light"], context=64)
    session = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx")
    for text in ids:
        feed = {
            "input_ids": text[None].astype(np.int64),
            "attention_mask": np.ones((1, len(text)), np.int64),
        }
        (vectors,) = session.run(None, feed)
        np.testing.assert_allclose(vectors, encoder.encode_ids([text]), rtol=0, atol=1e-4)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    with pytest.raises(DimensionError, match="65"):
        export_onnx(tmp_path / "model", dim=65)
    with pytest.raises(QueryError, match="granularity 1/3"):
        export_onnx(tmp_path / "model", granularity=3)
    assert not (tmp_path / "model").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file"):
        export_onnx(tmp_path / "file", dim=64, granularity=8)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "adaptive_search.encoder.onnx_graph", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"adaptive-search\[onnx\]"):
        export_onnx(tmp_path / "model")
