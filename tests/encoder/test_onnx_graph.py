"""The exported graph in ONNX Runtime against the float64 model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.encoder import reference_model
from adaptive_search.encoder.config import EncoderConfig

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

Tensors = dict[str, NDArray[np.float32]]
LENGTHS = [1, 2, 5, 40]


@pytest.mark.parametrize(
    ("direction", "completed"), [("causal", 0), ("alternating", 0), ("causal", 1)]
)
@pytest.mark.parametrize(("heads", "dim"), [((8, 8), 32), ((2, 2), 16), ((5, 1), 8)])
def test_equal_to_the_model_at_any_batch_and_length(
    config: EncoderConfig,
    random_tensors: Callable[[EncoderConfig], Tensors],
    direction: str,
    completed: int,
    heads: tuple[int, ...],
    dim: int,
) -> None:
    from adaptive_search.encoder import onnx_graph

    config = dataclasses.replace(config, direction=direction, completed_bands=completed)
    tensors = random_tensors(config)
    model = onnx_graph.build(config, tensors, heads, dim)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, config.vocab_size, n, dtype=np.int32) for n in LENGTHS]
    exact = {name: value.astype(np.float64) for name, value in tensors.items()}
    want = reference_model.encode(config, exact, texts, heads)[:, :dim]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    for batch in (slice(0, 4), slice(2, 3)):
        longest = max(LENGTHS[batch])
        ids = np.array([np.pad(text, (0, longest - len(text))) for text in texts[batch]])
        mask = np.arange(longest) < np.array(LENGTHS[batch])[:, None]
        feed = {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}
        (got,) = session.run(None, feed)
        assert got.shape == want[batch].shape
        assert np.linalg.norm(got - want[batch], axis=1).max() < 1e-4


def test_operators_are_those_of_the_standard(
    config: EncoderConfig, random_tensors: Callable[[EncoderConfig], Tensors]
) -> None:
    from adaptive_search.encoder import onnx_graph

    model = onnx_graph.build(config, random_tensors(config), (8, 8), 32)
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
