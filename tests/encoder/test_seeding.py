"""Seeding: a model that starts as the teacher's vocabulary, weighted by rarity."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from adaptive_search.encoder import seeding  # noqa: E402
from adaptive_search.encoder.config import EncoderConfig  # noqa: E402
from adaptive_search.encoder.data import Text, pad  # noqa: E402
from adaptive_search.encoder.model import MatMambaEncoder  # noqa: E402
from adaptive_search.encoder.teacher import TeacherStates  # noqa: E402
from adaptive_search.encoder.tokenizer import Tokenizer  # noqa: E402
from adaptive_search.errors import TrainingError  # noqa: E402

WIDTH, VOCAB = 32, 60


class Bag:
    """A teacher whose vector of a text is the mean of what enters its layers for the tokens."""

    def __init__(self, vocab: int = VOCAB, width: int = WIDTH) -> None:
        generator = torch.Generator().manual_seed(4)
        # Directions of unequal importance, so that the leading ones are well defined.
        self.width = width
        self.table = torch.randn(vocab, width, generator=generator) * 0.9 ** torch.arange(width)

    def vectors(self, texts: Sequence[Text]) -> Tensor:
        pooled = torch.stack([self.table[text.ids].sum(0) for text in texts])
        return torch.nn.functional.normalize(pooled, dim=-1)

    def states(self, ids: Tensor, lengths: Tensor) -> TeacherStates:
        assert bool((lengths == ids.shape[1]).all())
        return TeacherStates((self.table[ids], torch.zeros(*ids.shape, self.width)), self.table)


@pytest.fixture
def sample() -> list[Text]:
    """Texts in which the id 5 is frequent and the ids from 40 on never stand."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 40, 9).astype(np.int32) for _ in range(64)]
    for text in texts:
        text[::3] = 5
    return [Text("", ids) for ids in texts]


@pytest.fixture
def space(sample: list[Text]) -> seeding.TeacherSpace:
    return seeding.survey(Bag(), sample, VOCAB)  # type: ignore[arg-type]


def test_directions_are_the_principal_ones(space: seeding.TeacherSpace, sample: list[Text]) -> None:
    torch.testing.assert_close(space.rotation @ space.rotation.T, torch.eye(WIDTH))
    vectors = Bag().vectors(sample)
    energy = (vectors @ space.rotation).square().sum(0)
    assert (energy.diff() <= 1e-4).all()


def test_rare_tokens_weigh_more_and_padding_is_not_counted(space: seeding.TeacherSpace) -> None:
    assert space.log_weight.shape == (VOCAB,)
    assert space.log_weight.argmin() == 5
    assert (space.log_weight[40:] == space.log_weight.max()).all()
    assert space.log_weight[0] > space.log_weight[5]


def test_each_vocabulary_entry_is_framed_alone(tokenizer: Tokenizer) -> None:
    bag = Bag(tokenizer.vocab_size)
    vectors = seeding.vocabulary_vectors(bag, tokenizer)  # type: ignore[arg-type]
    assert vectors.shape == (tokenizer.vocab_size, WIDTH)
    entry = tokenizer.vocabulary["##ing"]
    framed = tokenizer.frame(np.array([entry], np.int32), context=3)
    torch.testing.assert_close(vectors[entry], bag.vectors([Text("ing", framed)])[0])


def test_what_enters_the_layers_for_each_entry(tokenizer: Tokenizer) -> None:
    bag = Bag(tokenizer.vocab_size)
    table = seeding.vocabulary_inputs(bag, tokenizer)  # type: ignore[arg-type]
    torch.testing.assert_close(table, bag.table)
    bag.width = 7  # of its vectors
    with pytest.raises(TrainingError, match=r'32 dims and its vectors have 7.*"outputs"'):
        seeding.vocabulary_inputs(bag, tokenizer)  # type: ignore[arg-type]


def test_a_model_seeded_by_inputs_begins_where_its_teacher_does(
    config: EncoderConfig, space: seeding.TeacherSpace, sample: list[Text]
) -> None:
    bag = Bag()
    model = MatMambaEncoder(dataclasses.replace(config, vocab_size=VOCAB))
    seeding.seed_inputs(model, bag.table, space)
    turned = bag.table @ space.rotation
    torch.testing.assert_close(model.embedding.weight.detach(), turned)
    batch = pad([text.ids for text in sample])
    ids, lengths = torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths)
    with torch.no_grad():
        torch.testing.assert_close(model.states(ids, lengths)[-1], turned[ids])
        pooled = model.pool(model.hidden(ids, lengths), lengths)
        mean = model.final_norm(turned)[sample[0].ids].mean(0)
        torch.testing.assert_close(pooled[0], mean.expand_as(pooled[0]))
        vector = model.project(pooled)[0, :8]  # the leading directions, in order
    cosine = torch.nn.functional.cosine_similarity(vector, mean[:8], dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)


def make_seeded(
    config: EncoderConfig, space: seeding.TeacherSpace, dims: tuple[int, ...]
) -> MatMambaEncoder:
    sizes = dataclasses.replace(config, vocab_size=VOCAB, dims=dims)
    model = MatMambaEncoder(sizes)
    seeding.seed_outputs(model, Bag().table.clone(), space)
    return model


@pytest.mark.parametrize("dims", [(8, 16, 32), (8, 16, 48), (8, 16, 80)])
def test_a_seeded_model_sees_texts_much_as_its_teacher(
    config: EncoderConfig,
    space: seeding.TeacherSpace,
    sample: list[Text],
    dims: tuple[int, ...],
) -> None:
    model = make_seeded(config, space, dims)
    batch = pad([text.ids for text in sample])
    with torch.no_grad():
        vectors = model(torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths))
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(sample)))
    pairs = torch.triu_indices(len(sample), len(sample), 1)
    teacher = Bag().vectors(sample)
    ours, theirs = ((x @ x.T)[pairs[0], pairs[1]] for x in (vectors, teacher))
    assert float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1]) > 0.3


def test_the_direction_of_frequency_is_for_pooling_alone(
    config: EncoderConfig, space: seeding.TeacherSpace
) -> None:
    model = make_seeded(config, space, (8, 16, 48))
    state = model.state_dict()
    for band in range(3):
        head = state[f"heads.{band}.weight"]
        assert (head[:, -1] == 0).all()
        gram = head[:, :-1] @ head[:, :-1].T
        assert torch.linalg.matrix_norm(gram, 2) < 1.0001  # rows of a rotation, or fewer
    query = model.pooling["query"]
    assert (query[:, :-1] == 0).all() and (query[:, -1] > 0).all()
    last = model.embedding.weight[:, -1]
    assert last[5] == last.min()
    assert float(last.mean().detach()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("width", [24, 48])
def test_a_teacher_of_another_width_seeds_its_leading_directions(
    config: EncoderConfig, sample: list[Text], width: int
) -> None:
    bag = Bag(width=width)
    space = seeding.survey(bag, sample, VOCAB)  # type: ignore[arg-type]
    model = MatMambaEncoder(dataclasses.replace(config, vocab_size=VOCAB, dims=(8, 16, 32)))
    seeding.seed_outputs(model, bag.table.clone(), space)
    kept = min(width, config.d_model - 1)  # the last one is for frequency
    cosine = torch.nn.functional.cosine_similarity(
        model.embedding.weight[:, :kept], (bag.table @ space.rotation)[:, :kept], dim=-1
    )
    assert float(cosine.detach().min()) > 0.999


def test_seeding_twice_gives_the_same(config: EncoderConfig, space: seeding.TeacherSpace) -> None:
    first, second = (make_seeded(config, space, (8, 16, 48)) for _ in range(2))
    for name in ("embedding.weight", "pooling.query", "heads.2.weight"):
        assert torch.equal(first.state_dict()[name], second.state_dict()[name])
