"""Training losses over nested vectors.

Shapes: vectors float32 (batch, dims[-1]) whose prefix d has the length
sqrt(prefix_energy[d]) for every text; teacher float32 (batch, width), unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def slices(vectors: Tensor, dims: Sequence[int]) -> Iterator[Tensor]:
    """Each nested slice of the vectors, at unit length."""
    return (F.normalize(vectors[:, :d], dim=-1) for d in dims)


def cosine_distances(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of each row of a with the same row of b."""
    return 1 - F.cosine_similarity(a, b, dim=-1)


def relative_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of each row of a from the same row of b, over the variance of b's rows."""
    variance = b.var(0, correction=0).sum().clamp_min(torch.finfo(b.dtype).eps)
    return (a - b).square().sum(-1) / variance


def relational(vectors: Tensor, teacher: Tensor, dims: Sequence[int], temperature: float) -> Tensor:
    """KL from the teacher's in-batch neighbour distribution to each slice's.

    Args:
        vectors: (batch, dims[-1]).
        teacher: (batch, width).
        dims: the slices.
        temperature: similarities are divided by it.

    Returns:
        (len(dims),), one divergence a dim.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)

    def log_neighbours(x: Tensor) -> Tensor:
        return (x @ x.T / temperature).masked_fill(itself, -1e4).log_softmax(-1)

    target = log_neighbours(teacher)
    return torch.stack(
        [
            F.kl_div(log_neighbours(s), target, reduction="batchmean", log_target=True)
            for s in slices(vectors, dims)
        ]
    )


def contrastive(
    queries: Tensor,
    positives: Tensor,
    false_negatives: Tensor,
    dims: Sequence[int],
    temperature: float,
) -> Tensor:
    """InfoNCE with in-batch negatives, both ways, at each slice.

    Args:
        queries: (batch, dims[-1]).
        positives: (batch, dims[-1]), row i answers query i.
        false_negatives: bool (batch, batch), pairs that must not repel each other.
        dims: the slices.
        temperature: similarities are divided by it.

    Returns:
        (len(dims),).

    Source: van den Oord et al. 2018, arXiv:1807.03748; per slice as in
    Kusupati et al. 2022, arXiv:2205.13147, equation 1.
    """
    target = torch.arange(len(queries), device=queries.device)
    losses = []
    for q, p in zip(slices(queries, dims), slices(positives, dims), strict=True):
        scores = (q @ p.T / temperature).masked_fill(false_negatives, -1e4)
        both = F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)
        losses.append(both / 2)
    return torch.stack(losses)


def find_false_negatives(queries: Tensor, positives: Tensor, margin: float = 0.05) -> Tensor:
    """In-batch pairs that the teacher finds about as close as the true ones.

    Args:
        queries: teacher vectors (batch, width).
        positives: teacher vectors (batch, width).
        margin: how far below the true pair a false negative may lie.

    Returns:
        bool (batch, batch), False on the diagonal.
    """
    scores = queries @ positives.T
    true = scores.diagonal().unsqueeze(1)
    duplicate = positives @ positives.T > 0.95
    close = (scores > true - margin) & (scores > 0.5)
    return (duplicate | close).fill_diagonal_(False)


def consistency(vectors: Tensor, dims: Sequence[int]) -> Tensor:
    """Mean squared distance of each slice's similarities from the full vector's.

    Returns:
        (len(dims),); the last is 0.
    """
    *_, full = slices(vectors, dims)
    target = (full @ full.T).detach()
    return torch.stack([F.mse_loss(s @ s.T, target) for s in slices(vectors, dims)])


def dim_weights(dims: int, step: int, curriculum_steps: int) -> list[float]:
    """Weight of each dim in the losses over dims; they sum to 1.

    Without a curriculum all weigh alike. With one, dim i joins at step
    i * curriculum_steps and gains its weight over half as many steps.
    """
    if not curriculum_steps:
        return [1 / dims] * dims
    warm = max(1, curriculum_steps // 2)
    shares = [min(1.0, max(0.0, (step - i * curriculum_steps + 1) / warm)) for i in range(dims)]
    return [share / sum(shares) for share in shares]
