"""The engine in PyTorch: the same vectors as the native one, whatever the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from adaptive_search.encoder import checkpoint, torch_engine  # noqa: E402
from adaptive_search.encoder.config import EncoderConfig  # noqa: E402
from adaptive_search.encoder.granularity import Granularity  # noqa: E402
from adaptive_search.encoder.torch_engine import TorchEngine  # noqa: E402
from adaptive_search.errors import BackendUnavailable  # noqa: E402
from adaptive_search.kernels.native import Engine  # noqa: E402

LENGTHS = (3, 1, 30, 130, 2, 30, 64)


@pytest.fixture(params=["causal", "alternating"])
def loaded(
    request: pytest.FixtureRequest,
    config: EncoderConfig,
    random_tensors: Callable[[EncoderConfig], checkpoint.Tensors],
) -> checkpoint.Checkpoint:
    directed = dataclasses.replace(config, direction=request.param)
    tensors = checkpoint.quantize_rows(random_tensors(directed))  # type: ignore[arg-type]
    return checkpoint.Checkpoint(Path(), directed, tensors, "0")


def encode(
    engine: TorchEngine | Engine,
    config: EncoderConfig,
    granularity: Granularity = 1,
    bands: int = 3,
) -> NDArray[np.float32]:
    rng = np.random.default_rng(2)
    ids = rng.integers(0, config.vocab_size, sum(LENGTHS), dtype=np.int32)
    offsets = np.cumsum([0, *LENGTHS], dtype=np.int64)
    heads = np.array(config.heads(granularity), np.int32)
    return engine.encode(ids, offsets, heads, bands, 1)


def make_native(weights: checkpoint.Checkpoint) -> Engine:
    return Engine(weights.config.to_dict(), checkpoint.dequantize(weights.tensors))


@pytest.mark.parametrize("granularity", [1, 2, 4, (8, 3), (1, 6)])
def test_it_equals_the_native_engine(
    loaded: checkpoint.Checkpoint, granularity: Granularity
) -> None:
    got = encode(TorchEngine(loaded, "cpu"), loaded.config, granularity)
    want = encode(make_native(loaded), loaded.config, granularity)
    assert got.dtype == np.float32
    assert np.linalg.norm(got - want, axis=1).max() < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("granularity", [1, 2, 4, (8, 3), (1, 6)])
def test_it_equals_the_native_engine_on_cuda(
    loaded: checkpoint.Checkpoint, granularity: Granularity
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    got = encode(TorchEngine(loaded, "cuda"), loaded.config, granularity)
    want = encode(make_native(loaded), loaded.config, granularity)
    assert np.linalg.norm(got - want, axis=1).max() < 1e-3


def test_a_prefix_of_bands(loaded: checkpoint.Checkpoint) -> None:
    engine = TorchEngine(loaded, "cpu")
    full = encode(engine, loaded.config)
    np.testing.assert_array_equal(encode(engine, loaded.config, bands=2), full[:, :16])


def test_a_vector_does_not_depend_on_its_batch(
    loaded: checkpoint.Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(loaded, "cpu")
    want = encode(engine, loaded.config)
    for tokens in (1, 70, 150):
        monkeypatch.setattr(torch_engine, "BATCH_TOKENS", tokens)
        np.testing.assert_allclose(encode(engine, loaded.config), want, atol=1e-6)


def test_batches_are_bounded_and_hold_every_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "BATCH_TOKENS", 64)
    lengths = np.random.default_rng(0).integers(1, 90, 200)
    buckets = torch_engine._length_buckets(lengths)
    assert sorted(np.concatenate(buckets).tolist()) == list(range(200))
    for rows in buckets:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= 64


def test_no_texts(loaded: checkpoint.Checkpoint) -> None:
    heads = np.full(2, 8, np.int32)
    none = np.empty(0, np.int32), np.zeros(1, np.int64)
    assert TorchEngine(loaded, "cpu").encode(*none, heads, 2, 1).shape == (0, 16)


def test_a_machine_without_cuda(
    loaded: checkpoint.Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="not on this machine; choose cpu"):
        TorchEngine(loaded, "cuda")
