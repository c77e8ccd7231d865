"""The losses: where they vanish, what they prefer, and what they leave out."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from adaptive_search.encoder import losses  # noqa: E402

DIMS = (4, 8, 16)
TEMPERATURE = 0.05


def unit(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    result: Tensor = torch.nn.functional.normalize(drawn, dim=-1)
    return result


def test_slices_are_prefixes_of_unit_length() -> None:
    vectors = unit(5, 16)
    for dim, part in zip(DIMS, losses.slices(vectors, DIMS), strict=True):
        assert part.shape == (5, dim)
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(5))
        torch.testing.assert_close(part[0] / part[0, 0], vectors[0, :dim] / vectors[0, 0])


def test_cosine_distance_is_of_directions() -> None:
    a = unit(6, 16)
    assert float(losses.cosine_distances(a, 3 * a).mean()) == pytest.approx(0, abs=1e-6)
    assert float(losses.cosine_distances(a, -a).mean()) == pytest.approx(2, abs=1e-6)


def test_relative_distance_is_of_the_variance() -> None:
    a = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) + 5
    assert float(losses.relative_distances(a, a).max()) == 0
    mean = a.mean(0).expand_as(a)
    assert float(losses.relative_distances(mean, a).mean()) == pytest.approx(1, abs=1e-5)
    scaled = losses.relative_distances(3 * mean + 1, 3 * a + 1)
    torch.testing.assert_close(scaled, losses.relative_distances(mean, a), rtol=1e-4, atol=0)
    assert torch.isfinite(losses.relative_distances(a[:1] + 1, a[:1])).all()  # no variance


def test_relational_vanishes_where_neighbourhoods_agree() -> None:
    teacher = unit(6, 16)
    turned = teacher @ torch.linalg.qr(unit(16, 16, seed=1)).Q  # a rotation keeps neighbours
    each = losses.relational(turned, teacher, DIMS, TEMPERATURE)
    assert each.shape == (3,)
    assert float(each[-1]) == pytest.approx(0, abs=1e-4)
    assert (each[:2] > 0.01).all()
    assert float(losses.relational(unit(6, 16, seed=2), teacher, (16,), TEMPERATURE)) > 0.01


def test_contrastive_by_hand_for_two_pairs() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positives = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    none = torch.zeros(2, 2, dtype=torch.bool)
    (loss,) = losses.contrastive(queries, positives, none, (2,), TEMPERATURE)
    score = (queries @ positives.T / TEMPERATURE).tolist()

    def cross_entropy(true: float, other: float) -> float:
        return math.log1p(math.exp(other - true))

    rows = cross_entropy(score[0][0], score[0][1]) + cross_entropy(score[1][1], score[1][0])
    columns = cross_entropy(score[0][0], score[1][0]) + cross_entropy(score[1][1], score[0][1])
    assert float(loss) == pytest.approx((rows + columns) / 4, rel=1e-5)


def test_a_false_negative_does_not_repel() -> None:
    queries, positives = unit(4, 16), unit(4, 16)
    positives = positives[[0, 0, 2, 3]].requires_grad_()  # rows 0 and 1 are one text
    skip = torch.zeros(4, 4, dtype=torch.bool)
    skip[0, 1] = skip[1, 0] = True
    with_skip = losses.contrastive(queries, positives, skip, DIMS, TEMPERATURE).sum()
    without = losses.contrastive(
        queries, positives, torch.zeros_like(skip), DIMS, TEMPERATURE
    ).sum()
    assert with_skip < without


def test_false_negatives_are_what_the_teacher_finds_as_close() -> None:
    positives = unit(5, 64)
    positives[3] = positives[1]
    queries = positives + 0.1 * unit(5, 64, seed=1)
    queries = torch.nn.functional.normalize(queries, dim=-1)
    found = losses.find_false_negatives(queries, positives)
    want = torch.zeros(5, 5, dtype=torch.bool)
    want[1, 3] = want[3, 1] = True
    assert torch.equal(found, want)


def test_consistency_vanishes_where_every_slice_agrees() -> None:
    same = unit(5, 4).repeat(1, 4)
    assert float(losses.consistency(same, DIMS).sum()) == pytest.approx(0, abs=1e-10)
    vectors = unit(5, 16).requires_grad_()
    loss = losses.consistency(vectors, DIMS).sum()
    loss.backward()
    assert float(loss.detach()) > 1e-3
    assert vectors.grad is not None
    assert (vectors.grad[:, 8:] == 0).all()  # the full vector is the target, not the pupil


def test_every_loss_is_finite_for_rows_all_alike() -> None:
    vectors = unit(1, 16).repeat(4, 1).requires_grad_()
    skip = losses.find_false_negatives(vectors.detach(), vectors.detach())
    total = (
        losses.relational(vectors, vectors.detach(), DIMS, TEMPERATURE).sum()
        + losses.contrastive(vectors, vectors, skip, DIMS, TEMPERATURE).sum()
        + losses.consistency(vectors, DIMS).sum()
    )
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(vectors.grad).all()


def test_a_batch_of_one_is_finite() -> None:
    vectors = unit(1, 16)
    none = torch.zeros(1, 1, dtype=torch.bool)
    assert torch.isfinite(losses.relational(vectors, unit(1, 16, seed=1), DIMS, TEMPERATURE)).all()
    assert (losses.contrastive(vectors, vectors, none, DIMS, TEMPERATURE).abs() < 1e-6).all()
