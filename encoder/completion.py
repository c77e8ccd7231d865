"""Bands that complete a vector: solved after training, so that texts are as alike as to a teacher.

Each band is trained with a head and a pooling of its own, and all bands together know more of the
teacher's vectors than any. Of few dims training makes more than a projection does, so the first two
bands stay. The next, up to the teacher's width, become what those two lack. With u all bands as
trained, each of unit length, C the mean of u u', W the least-squares map from u to the teacher's
vectors and N the quadratic form that gives the products of the first bands, they are the leading
eigenvectors of C^1/2 (W W' - N) C^1/2, as maps of u.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from adaptive_search.encoder.config import TRAINED_BANDS, EncoderConfig
from adaptive_search.encoder.data import Text, length_groups
from adaptive_search.encoder.model import MatMambaEncoder
from adaptive_search.encoder.teacher import Teacher

# Share of the squared length of the bands above those that are completed. With the whole vector
# drawn to the teacher's, they add little; more of them takes away.
REST = 0.03
RIDGE = 2e-3  # added to each square, in shares of their mean
_LEAST_ENERGY = 1e-4  # of a completed band, in shares of all


@torch.no_grad()
def complete(
    model: MatMambaEncoder, teacher: Teacher, texts: Sequence[Text], group_tokens: int
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Maps for the bands after the first two, up to the teacher's width.

    Args:
        model: trained; it is not changed.
        teacher: that it was trained by.
        texts: a sample.
        group_tokens: tokens that run through the model at once.

    Returns:
        The config, with the number of these bands and the share of energy that each band has now;
        and the maps, by name. Nothing changes where the first two bands lack nothing.
    """
    config = model.config
    begins = (0, *config.dims[:-1])
    bands = list(zip(begins, config.band_widths, config.band_weights, strict=True))
    widths = [width for begin, width, _ in bands[TRAINED_BANDS:] if begin < teacher.width]
    if not widths:
        return config, {}
    squares, products = _moments(model, teacher, texts, group_tokens)
    first = torch.eye(config.dims[TRAINED_BANDS - 1], len(squares)).to(squares)
    for begin, width, weight in bands[:TRAINED_BANDS]:
        first[begin : begin + width] *= weight
    maps, energies = _complement(squares, _least_squares(squares, products), first, sum(widths))
    shares = [float(energy.sum()) for energy in energies.split(widths)]
    kept = sum(share > _LEAST_ENERGY for share in shares)  # the strongest come first
    if not kept:
        return config, {}
    completed = {
        f"completion.{TRAINED_BANDS + number}.weight": part.float()
        for number, part in enumerate(maps.split(widths)[:kept])
    }
    return _with_energies(config, shares[:kept]), completed


def _with_energies(config: EncoderConfig, completed: Sequence[float]) -> EncoderConfig:
    """The config with bands of this energy after the first two, and little in those above."""
    shares = [weight**2 for weight in config.band_weights[:TRAINED_BANDS]] + list(completed)
    above = len(config.dims) - len(shares)
    scale = (1 - REST * (above > 0)) / sum(shares)
    shares = [share * scale for share in shares] + [REST / max(above, 1)] * above
    energy = (*itertools.accumulate(shares[:-1]), 1.0)
    return dataclasses.replace(config, completed_bands=len(completed), prefix_energy=energy)


def _moments(
    model: MatMambaEncoder, teacher: Teacher, texts: Sequence[Text], group_tokens: int
) -> tuple[Tensor, Tensor]:
    """Means over texts of u u', float64 (dims[-1], dims[-1]), and of u t', (dims[-1], width)."""
    device, whole = model.embedding.weight.device, model.config.dims[-1]
    squares = torch.zeros(whole, whole, dtype=torch.float64, device=device)
    products = torch.zeros(whole, teacher.width, dtype=torch.float64, device=device)
    for rows, group in length_groups([text.ids for text in texts], group_tokens):
        ids, lengths = (torch.from_numpy(part).to(device) for part in (group.ids, group.lengths))
        with torch.autocast(device.type, torch.bfloat16):
            pooled = model.pool(model.hidden(ids, lengths), lengths)
            bands = torch.cat(model.trained_bands(pooled), dim=-1)
        if teacher.shares_tokens:
            taught = teacher.states(ids, lengths).vectors
        else:
            taught = teacher.vectors([texts[row] for row in rows])
        squares += bands.T @ bands
        products += bands.T @ taught
    return squares / len(texts), products / len(texts)


def _least_squares(squares: Tensor, products: Tensor) -> Tensor:
    """The map W (d, width) to the teacher's vectors, scaled to a mean square length of 1."""
    ridge = RIDGE * squares.diagonal().mean() * torch.eye(len(squares)).to(squares)
    solution = torch.linalg.solve(squares + ridge, products)
    scaled: Tensor = solution / (solution * (squares @ solution)).sum().sqrt()
    return scaled


def _complement(
    squares: Tensor, taught: Tensor, trained: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """What the products of `taught` have and those of `trained` lack.

    Args:
        squares: float64 (d, d).
        taught: float64 (d, width).
        trained: float64 (dims, d).
        count: rows to solve.

    Returns:
        float64 (count, d), the strongest first, zero where nothing is lacking; and the mean square
        of what each gives, float64 (count,).
    """
    # All eigenvectors lie in what these columns span, so that the problem is as small as they are.
    columns = torch.cat([taught, trained.T], dim=1)
    signs = columns.new_ones(columns.shape[1])
    signs[taught.shape[1] :] = -1
    values, vectors = torch.linalg.eigh(columns.T @ squares @ columns)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(root * signs @ root))
    kept = values > _LEAST_ENERGY * values[0] / count
    scaled = torch.where(kept, values, torch.inf).rsqrt()
    rows = ((columns * signs) @ root @ (vectors * scaled)).T
    missing = max(count - len(rows), 0)
    return F.pad(rows[:count], (0, 0, 0, missing)), F.pad((values * kept)[:count], (0, missing))
