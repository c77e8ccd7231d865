"""Fixtures of the encoder tests: a tiny model with random weights, and its directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.tokenizer import Tokenizer

Tensors = dict[str, NDArray[np.float32]]

TEXTS = [
    "the plants store energy",
    "light is heat",
    "a leaf of the green cell: water, sun and light. " * 4,
    "x",
    "energy to stores energy in storing 42 cells",
]


@pytest.fixture(scope="session")
def config(tokenizer: Tokenizer) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        direction="causal",  # which can also stream
        d_model=32,
        n_layers=2,
        d_state=8,
        headdim=8,
        context=64,
        dims=(8, 16, 32),
        prefix_energy=(0.5, 0.8, 1.0),
        granularities=(1, 2, 4),
    )


@pytest.fixture(scope="session")
def random_tensors() -> Callable[[EncoderConfig], Tensors]:
    """Weights under which every part of the model matters."""
    around = {"norm.weight": (1.0, 0.1), ".D": (1.0, 0.1), "A_log": (1.0, 1.0)}
    around |= {"dt_bias": (-2.0, 1.0), "conv1d.weight": (0.0, 0.5), "conv1d.bias": (0.0, 0.1)}

    def draw(config: EncoderConfig) -> Tensors:
        rng = np.random.default_rng(5)
        tensors = {}
        for name, shape in checkpoint.expected_shapes(config).items():
            default = (0.0, 1.0 if name == "embedding.weight" else shape[-1] ** -0.5)
            mean, scale = next((v for k, v in around.items() if name.endswith(k)), default)
            tensors[name] = (mean + scale * rng.standard_normal(shape)).astype(np.float32)
        return tensors

    return draw


@pytest.fixture(scope="session")
def tokenizer_json(tokenizer: Tokenizer) -> str:
    text: str = tokenizer._rust.to_str()
    return text


@pytest.fixture
def weights(
    tmp_path: Path,
    config: EncoderConfig,
    tokenizer_json: str,
    random_tensors: Callable[[EncoderConfig], Tensors],
) -> Path:
    """A weights directory of its own for each test."""
    directory = tmp_path / "weights"
    tensors = checkpoint.quantize_rows(random_tensors(config))
    checkpoint.save(directory, config, tokenizer_json, tensors)
    return directory


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS
