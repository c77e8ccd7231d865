"""The model in PyTorch: against the native engine and numpy, padding, and its start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from adaptive_search.encoder import checkpoint, reference_model  # noqa: E402
from adaptive_search.encoder.config import EncoderConfig  # noqa: E402
from adaptive_search.encoder.data import pad  # noqa: E402
from adaptive_search.encoder.granularity import Granularity  # noqa: E402
from adaptive_search.encoder.matmamba2 import MatMamba2  # noqa: E402
from adaptive_search.encoder.model import MatMambaEncoder  # noqa: E402
from adaptive_search.kernels.native import Engine  # noqa: E402

Tensors = dict[str, NDArray[np.float32]]
LENGTHS = (1, 2, 17, 64, 65, 130)


@pytest.fixture(params=[("causal", 0), ("alternating", 0), ("causal", 1)], ids=str)
def directed(request: pytest.FixtureRequest, config: EncoderConfig) -> EncoderConfig:
    direction, completed = request.param
    return dataclasses.replace(config, direction=direction, completed_bands=completed, n_layers=3)


@pytest.fixture
def tensors(directed: EncoderConfig, random_tensors: Callable[[EncoderConfig], Tensors]) -> Tensors:
    return random_tensors(directed)


def make_model(config: EncoderConfig, tensors: Tensors) -> MatMambaEncoder:
    model = MatMambaEncoder(config).eval().requires_grad_(False)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return model


def random_ids(config: EncoderConfig) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, config.vocab_size, n, dtype=np.int32) for n in LENGTHS]


def run(
    model: MatMambaEncoder, ids: list[NDArray[np.int32]], granularity: Granularity = 1
) -> NDArray[Any]:
    batch = pad(ids)
    vectors = model(torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths), granularity)
    result: NDArray[np.float32] = vectors.numpy()
    return result


def test_names_and_shapes_are_those_of_the_checkpoint(directed: EncoderConfig) -> None:
    state = MatMambaEncoder(directed).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == checkpoint.expected_shapes(directed)


@pytest.mark.parametrize("granularity", [1, 2, 4, (8, 3, 1), (1, 1, 8), (5, 7, 2)])
def test_native_torch_and_numpy_agree(
    directed: EncoderConfig, tensors: Tensors, granularity: Granularity
) -> None:
    ids = random_ids(directed)
    heads = np.array(directed.heads(granularity), np.int32)
    offsets = np.cumsum([0, *LENGTHS], dtype=np.int64)
    engine = Engine(directed.to_dict(), tensors)
    native = engine.encode(np.concatenate(ids), offsets, heads, len(directed.dims), 1)
    model = run(make_model(directed, tensors), ids, granularity)
    exact = {name: value.astype(np.float64) for name, value in tensors.items()}
    truth = reference_model.encode(directed, exact, ids, heads.tolist())
    # All are unit vectors, so that distances are relative errors.
    assert np.linalg.norm(native - model, axis=1).max() < 1e-4
    assert np.linalg.norm(model - truth, axis=1).max() < 1e-4


def test_mixnmatch_of_a_layer_is_the_width_of_its_block(
    directed: EncoderConfig, tensors: Tensors
) -> None:
    model = make_model(directed, tensors)
    ids = random_ids(directed)
    want = run(model, ids, (2, 6, 2))
    mixer = model.get_submodule("blocks.1.mixer")
    assert isinstance(mixer, MatMamba2)
    mixer.mixnmatch, mixer.mixnmatch_dims = True, directed.d_model * 6 // directed.nheads
    np.testing.assert_array_equal(run(model, ids, 4), want)
    np.testing.assert_array_equal(run(model, ids, (2, 6, 2)), want)
    assert np.abs(run(model, ids, (2, 2, 2)) - want).max() > 1e-3


@pytest.mark.parametrize("heads", [(8, 8), (8,) * 4, (0, 8, 8), (8, 8, 9)])
def test_heads_that_the_layers_lack(
    directed: EncoderConfig, tensors: Tensors, heads: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="heads=|zip"):
        run(make_model(directed, tensors), random_ids(directed), heads)


def test_agreement_at_the_shipped_size(
    random_tensors: Callable[[EncoderConfig], Tensors],
) -> None:
    config = EncoderConfig(vocab_size=50, n_layers=2, direction="alternating")
    tensors = random_tensors(config)
    engine, model = Engine(config.to_dict(), tensors), make_model(config, tensors)
    ids = [np.arange(n, dtype=np.int32) % 50 for n in (5, 33)]
    widths: list[Granularity] = [*config.granularities, (24, 5), (7, 12)]
    for granularity in widths:
        heads = np.array(config.heads(granularity), np.int32)
        native = engine.encode(np.concatenate(ids), np.array([0, 5, 38]), heads, 7, 1)
        assert np.linalg.norm(native - run(model, ids, granularity), axis=1).max() < 1e-4


def test_a_vector_does_not_depend_on_padding_or_batch(
    directed: EncoderConfig, tensors: Tensors
) -> None:
    model = make_model(directed, tensors)
    ids = random_ids(directed)
    together = run(model, ids)
    for sequence, vector in zip(ids, together, strict=True):
        np.testing.assert_allclose(run(model, [sequence])[0], vector, atol=1e-6)
    batch = pad(ids)
    for row, length in zip(batch.ids, batch.lengths, strict=True):
        row[length:] = 7  # padded with another id
    other = model(torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths))
    np.testing.assert_allclose(other.numpy(), together, atol=1e-6)


def test_bands_have_their_weights(directed: EncoderConfig, tensors: Tensors) -> None:
    vectors = run(make_model(directed, tensors), random_ids(directed), 2)
    bands = np.split(vectors, directed.dims[:-1], axis=1)
    for band, weight in zip(bands, directed.band_weights, strict=True):
        np.testing.assert_allclose(np.linalg.norm(band, axis=1), weight, rtol=1e-5)


def test_what_a_token_learns_of_its_future(directed: EncoderConfig, tensors: Tensors) -> None:
    model = make_model(directed, tensors)
    ids = torch.arange(12)[None] + 5
    changed = ids.clone()
    changed[0, -1] = 90
    lengths = torch.tensor([12])
    difference = (model.hidden(ids, lengths) - model.hidden(changed, lengths))[0, 0].abs().max()
    assert (difference > 1e-4) == (directed.direction == "alternating")


def test_hidden_states_are_what_the_last_block_leaves(
    directed: EncoderConfig, tensors: Tensors
) -> None:
    model = make_model(directed, tensors)
    ids, lengths = torch.arange(12)[None] + 5, torch.tensor([12])
    states = model.states(ids, lengths, 2)
    assert len(states) == directed.n_layers
    assert all(state.shape == (1, 12, directed.d_model) for state in states)
    assert not torch.equal(states[0], states[-1])
    torch.testing.assert_close(model.final_norm(states[-1]), model.hidden(ids, lengths, 2))


def test_each_block_starts_as_the_identity(directed: EncoderConfig) -> None:
    model = MatMambaEncoder(directed)
    ids, lengths = torch.arange(9)[None], torch.tensor([9])
    for level in directed.granularities:
        want = model.final_norm(model.embedding(ids))
        torch.testing.assert_close(model.hidden(ids, lengths, level), want)


def test_every_parameter_learns(directed: EncoderConfig, tensors: Tensors) -> None:
    model = make_model(directed, tensors).requires_grad_(True)
    batch = pad(random_ids(directed))
    vectors = model(torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths), 1)
    (vectors @ torch.randn(directed.dims[-1])).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
