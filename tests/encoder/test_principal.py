"""Principal bands: the directions in which whole vectors differ most, strongest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from adaptive_search.encoder.config import EncoderConfig  # noqa: E402
from adaptive_search.encoder.data import Text, pad  # noqa: E402
from adaptive_search.encoder.model import MatMambaEncoder  # noqa: E402
from adaptive_search.encoder.principal import WHITENING, turn_heads  # noqa: E402

Tensors = dict[str, NDArray[np.float32]]
BANDS = 2


@pytest.fixture
def model(
    config: EncoderConfig, random_tensors: Callable[[EncoderConfig], Tensors]
) -> MatMambaEncoder:
    # Most of a vector lies where prefixes do not reach.
    config = dataclasses.replace(config, prefix_energy=(0.1, 0.3, 1.0))
    model = MatMambaEncoder(config).eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in random_tensors(config).items()})
    return model


@pytest.fixture
def texts(config: EncoderConfig) -> list[Text]:
    rng = np.random.default_rng(3)
    lengths = rng.integers(3, 12, 400)
    return [Text("", rng.integers(0, config.vocab_size, n, dtype=np.int32)) for n in lengths]


def turn(model: MatMambaEncoder, texts: list[Text]) -> MatMambaEncoder:
    config, heads = turn_heads(model, texts, BANDS, 512)
    turned = MatMambaEncoder(config).eval()
    turned.load_state_dict(model.state_dict() | heads)
    return turned


def pooled_states(model: MatMambaEncoder, texts: list[Text]) -> Tensor:
    batch = pad([text.ids for text in texts])
    lengths = torch.from_numpy(batch.lengths)
    with torch.no_grad():
        return model.pool(model.hidden(torch.from_numpy(batch.ids), lengths), lengths)


def neighbours(vectors: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return (unit @ unit.T - 2 * torch.eye(len(unit))).topk(10).indices


def test_prefixes_keep_more_of_the_neighbours(model: MatMambaEncoder, texts: list[Text]) -> None:
    turned = turn(model, texts)
    pooled = pooled_states(model, texts)
    before, after = model.project(pooled), turned.project(pooled)
    true = neighbours(before)
    for dim in model.config.dims[:BANDS]:
        old, new = (
            (neighbours(v[:, :dim])[:, :, None] == true[:, None, :]).any(2).float().mean()
            for v in (before, after)
        )
        assert new > old + 0.02


def test_directions_are_uncorrelated_strongest_first_and_without_what_is_common(
    model: MatMambaEncoder, texts: list[Text]
) -> None:
    turned = turn(model, texts)
    outputs = torch.cat(
        [pooled_states(model, texts).flatten(1) @ turned.heads[b].weight.T for b in range(BANDS)], 1
    )
    variances = outputs.square().mean(0)
    assert (variances.diff() < 0.1 * variances[0]).all() and variances[0] > 3 * variances[-1]
    mean = outputs.mean(0).norm() / outputs.norm(dim=1).mean()
    whole = model.project(pooled_states(model, texts))
    assert mean < 0.8 * whole.mean(0).norm()


def test_energy_is_divided_as_the_directions_divide_it(
    model: MatMambaEncoder, texts: list[Text]
) -> None:
    config, heads = turn_heads(model, texts, BANDS, 512)
    assert config.wide_heads == BANDS
    assert config.prefix_energy[BANDS - 1 :] == pytest.approx(
        model.config.prefix_energy[BANDS - 1 :]
    )
    assert 0.5 < config.prefix_energy[0] / config.prefix_energy[1] < 1  # 8 of 16 directions
    assert heads.keys() == {"heads.0.weight", "heads.1.weight"}
    assert 0 < WHITENING < 1
