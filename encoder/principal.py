"""Prefixes that keep most: the first bands take the principal directions of the trained vectors.

A head reads the pooled states of its own band, and the first heads, which have few rows, learn
less than the whole vector knows. After training their rows are replaced by the directions in which
whole vectors differ most (principal component analysis), as maps of the pooled states of all bands.
What all vectors have in common tells none of them apart; it is left out of these directions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.data import Text, length_groups
from adaptive_search.encoder.model import MatMambaEncoder

# Directions are scaled by their variance to the power of -WHITENING / 2: a little less of the
# strongest ones finds more.
WHITENING = 0.2
_LEAST_VARIANCE = 1e-6  # of the first direction's; rounding errors lie below


@torch.no_grad()
def turn_heads(
    model: MatMambaEncoder, texts: Iterable[Text], bands: int, group_tokens: int
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Heads of the first bands that hold the principal directions of the model's vectors.

    Args:
        model: trained; it is not changed.
        texts: a sample, which runs through each granularity in turns.
        bands: how many, of at most d_model dims together.
        group_tokens: tokens that run through the model at once.

    Returns:
        The config with wide heads, and with the share of energy that these bands have together
        divided as the directions divide their own; and the heads, by name.
    """
    config = model.config
    pooled = _pooled_states(model, texts, group_tokens)
    vectors = model.project(pooled).double()
    common = torch.nn.functional.normalize(vectors.mean(0), dim=0)
    own = vectors - torch.outer(vectors @ common, common)
    variances, directions = torch.linalg.eigh(own.T @ own / len(own))
    width = config.dims[bands - 1]
    kept = variances.flip(0)[:width].clamp_min(_LEAST_VARIANCE * variances[-1])
    rows = (directions.flip(1)[:, :width] * kept ** (-WHITENING / 2)).T @ _as_map(model, pooled)
    reached = (kept ** (1 - WHITENING)).cumsum(0)[[dim - 1 for dim in config.dims[:bands]]]
    shares = config.prefix_energy[bands - 1] * reached / reached[-1]
    turned = dataclasses.replace(
        config,
        wide_heads=max(bands, config.wide_heads),
        prefix_energy=(*shares.tolist(), *config.prefix_energy[bands:]),
    )
    heads = rows.float().split(list(config.band_widths[:bands]))
    return turned, {f"heads.{band}.weight": head for band, head in enumerate(heads)}


def _pooled_states(model: MatMambaEncoder, texts: Iterable[Text], group_tokens: int) -> Tensor:
    """Pooled states of texts in any order, float32 (texts, bands, d_model)."""
    device = model.embedding.weight.device
    parts = []
    groups = length_groups([text.ids for text in texts], group_tokens)
    for number, (_, group) in enumerate(groups):
        granularity = model.config.granularities[number % len(model.config.granularities)]
        ids, lengths = (torch.from_numpy(part).to(device) for part in (group.ids, group.lengths))
        parts.append(model.pool(model.hidden(ids, lengths, granularity), lengths))
    return torch.cat(parts)


def _as_map(model: MatMambaEncoder, pooled: Tensor) -> Tensor:
    """The map from pooled states to vectors: float64 (dims[-1], bands * d_model).

    The length of each text's band before it is fixed, which no linear map knows, counts as the mean
    of all texts.
    """
    config = model.config
    whole = []
    for band, (head, weight) in enumerate(zip(model.heads, config.band_weights, strict=True)):
        wide = band < config.wide_heads
        state = pooled.flatten(1) if wide else pooled[:, band]
        rows = head.weight.double() * (weight / head(state).norm(dim=1).mean().double())
        before = 0 if wide else band * config.d_model
        after = pooled[0].numel() - before - rows.shape[1]
        whole.append(torch.nn.functional.pad(rows, (before, after)))
    return torch.cat(whole)
