"""Completed bands: vectors whose products are those of the teacher's, as far as states tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from adaptive_search.encoder import completion  # noqa: E402
from adaptive_search.encoder.config import EncoderConfig  # noqa: E402
from adaptive_search.encoder.data import Text, pad  # noqa: E402
from adaptive_search.encoder.model import MatMambaEncoder  # noqa: E402
from adaptive_search.encoder.teacher import Teacher  # noqa: E402

Tensors = dict[str, NDArray[np.float32]]
DIMS = (4, 8, 16, 24, 32)
ENERGY = (0.35, 0.5, 0.65, 0.8, 1.0)


@pytest.fixture
def config(config: EncoderConfig) -> EncoderConfig:
    return dataclasses.replace(config, dims=DIMS, prefix_energy=ENERGY, granularities=(1,))


@pytest.fixture
def model(
    config: EncoderConfig, random_tensors: Callable[[EncoderConfig], Tensors]
) -> MatMambaEncoder:
    model = MatMambaEncoder(config).eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in random_tensors(config).items()})
    return model


@pytest.fixture
def texts(config: EncoderConfig) -> list[Text]:
    rng = np.random.default_rng(3)
    lengths = rng.integers(3, 12, 600)
    return [Text("", rng.integers(0, config.vocab_size, n, dtype=np.int32)) for n in lengths]


def pooled_states(model: MatMambaEncoder, texts: Sequence[Text]) -> Tensor:
    batch = pad([text.ids for text in texts])
    lengths = torch.from_numpy(batch.lengths)
    with torch.no_grad():
        return model.pool(model.hidden(torch.from_numpy(batch.ids), lengths), lengths)


def teacher_of(model: MatMambaEncoder, width: int, *, shares_tokens: bool = False) -> Teacher:
    """One whose vectors follow from the model's bands by a linear map."""
    generator = torch.Generator().manual_seed(7)
    turn = torch.randn(model.config.dims[-1], width, generator=generator)

    def vectors(texts: Sequence[Text]) -> Tensor:
        found = torch.cat(model.trained_bands(pooled_states(model, texts)), dim=1) @ turn
        return torch.nn.functional.normalize(found, dim=1).detach()

    def states_of(ids: Tensor, lengths: Tensor) -> Any:
        rows = zip(ids.numpy(), lengths.tolist(), strict=True)
        return SimpleNamespace(vectors=vectors([Text("", row[:length]) for row, length in rows]))

    stub = {"width": width, "shares_tokens": shares_tokens, "vectors": vectors, "states": states_of}
    return cast(Teacher, SimpleNamespace(**stub))


def completed_by(
    model: MatMambaEncoder, teacher: Teacher, texts: Sequence[Text]
) -> MatMambaEncoder:
    config, maps = completion.complete(model, teacher, texts, 512)
    completed = MatMambaEncoder(config).eval()
    completed.load_state_dict(model.state_dict() | maps)
    return completed


def products(vectors: Tensor) -> NDArray[np.float32]:
    """Cosines of all pairs of different rows."""
    unit = torch.nn.functional.normalize(vectors.detach(), dim=1)
    rows, columns = np.triu_indices(len(unit), 1)
    return (unit @ unit.T).numpy()[rows, columns]


@pytest.mark.parametrize("shares_tokens", [False, True])
def test_texts_are_as_alike_as_to_the_teacher(
    model: MatMambaEncoder, texts: list[Text], shares_tokens: bool
) -> None:
    teacher = teacher_of(model, 20, shares_tokens=shares_tokens)
    completed = completed_by(model, teacher, texts[:400])
    states = pooled_states(model, texts[400:])
    wanted = products(teacher.vectors(texts[400:]))
    before, after = model.project(states), completed.project(states)

    def agreement(vectors: Tensor) -> float:
        return float(np.corrcoef(products(vectors), wanted)[0, 1])

    assert agreement(after) > 0.9 > agreement(before) + 0.1
    assert agreement(after[:, :16]) > agreement(before[:, :16])


def test_what_is_trained_best_stays(model: MatMambaEncoder, texts: list[Text]) -> None:
    completed = completed_by(model, teacher_of(model, 20), texts)
    config, states = completed.config, pooled_states(model, texts)
    assert config.completed_bands == 2  # 24 dims are the first that hold 20
    before, after = model.project(states), completed.project(states)
    for start, stop in ((0, 4), (4, 8), (24, 32)):
        a, b = (
            torch.nn.functional.normalize(vectors[:, start:stop], dim=1)
            for vectors in (before, after)
        )
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    first, second = config.prefix_energy[:2]
    assert first / second == pytest.approx(0.35 / 0.5)
    assert 1 - config.prefix_energy[3] == pytest.approx(completion.REST)


def test_weights_that_were_completed_can_be_completed_again(
    model: MatMambaEncoder, texts: list[Text]
) -> None:
    teacher = teacher_of(model, 20)
    once = completed_by(model, teacher, texts)
    twice = completed_by(once, teacher, texts)
    states = pooled_states(model, texts[:100])
    wanted = products(teacher.vectors(texts[:100]))
    for completed in (once, twice):
        found = products(completed.project(states))
        assert np.corrcoef(found, wanted)[0, 1] > 0.9


@pytest.mark.parametrize("width", [8, 3])
def test_nothing_is_lacking_where_the_first_bands_have_the_width(
    model: MatMambaEncoder, texts: list[Text], width: int
) -> None:
    assert completion.complete(model, teacher_of(model, width), texts, 512) == (model.config, {})


def test_a_teacher_that_says_less_than_the_bands_hold(
    model: MatMambaEncoder, texts: list[Text]
) -> None:
    """What is lacking may have fewer directions than a band has rows."""
    teacher = teacher_of(model, 30)
    first = torch.eye(30)[0]
    stub = SimpleNamespace(
        width=30,
        shares_tokens=False,
        vectors=lambda texts: first.expand(len(texts), -1) * teacher.vectors(texts)[:, :1].sign(),
    )
    completed = completed_by(model, cast(Teacher, stub), texts)
    vectors = completed.project(pooled_states(model, texts[:50])).detach()
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(50))


def test_nothing_changes_where_next_to_nothing_is_lacking(
    model: MatMambaEncoder, texts: list[Text], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_LEAST_ENERGY", 10.0)
    assert completion.complete(model, teacher_of(model, 20), texts, 512) == (model.config, {})
