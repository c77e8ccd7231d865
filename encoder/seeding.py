"""Start above zero: the first weights come from the teacher, by linear algebra.

The embedding table holds what the teacher has for each vocabulary entry alone, turned so that
the leading principal directions of its text vectors come first (the first bands then carry them).
That is one of two things:

- "inputs": what enters its first layer. Blocks can then be led through its layers, one after
  another, and the pooling begins as the mean.
- "outputs": its vector. This alone says much of a text: the last direction, which carries least,
  is given to token frequency, and the pooling reads it, so that rare tokens weigh more
  (smooth inverse frequency, Arora et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from adaptive_search.encoder.data import Text
from adaptive_search.encoder.model import MatMambaEncoder
from adaptive_search.encoder.teacher import Teacher
from adaptive_search.encoder.tokenizer import Tokenizer
from adaptive_search.errors import TrainingError

SMOOTHING = 1e-3  # token probability at which a token's weight is halved


@dataclass(frozen=True)
class TeacherSpace:
    """What the teacher's vectors of a text sample look like.

    rotation is float32 (width, width): columns are principal directions, the
    leading first. log_weight is float32 (vocab,), the log pooling weight of a token.
    """

    rotation: Tensor
    log_weight: Tensor


def survey(teacher: Teacher, sample: list[Text], vocab_size: int) -> TeacherSpace:
    """Principal directions of the teacher's text vectors, and token weights.

    Args:
        teacher: gives the vectors.
        sample: texts.
        vocab_size: entries of the student's vocabulary.
    """
    vectors = teacher.vectors(sample).cpu()
    # Row-major, as a resumed run reads it: products round by the layout of their factors.
    rotation = torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1).contiguous()
    counts = 1 + np.bincount(np.concatenate([t.ids for t in sample]), minlength=vocab_size)
    log_weight = -np.log1p(counts / counts.sum() / SMOOTHING)
    return TeacherSpace(rotation, torch.from_numpy(log_weight.astype(np.float32)))


def vocabulary_vectors(teacher: Teacher, tokenizer: Tokenizer) -> Tensor:
    """The teacher's vector of each vocabulary entry alone, (vocab, width)."""
    entries = sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.__getitem__)
    texts = [
        Text(entry.removeprefix("##"), tokenizer.frame(np.array([i], np.int32), context=3))
        for i, entry in enumerate(entries)
    ]
    return teacher.vectors(texts).cpu()


@torch.no_grad()
def vocabulary_inputs(teacher: Teacher, tokenizer: Tokenizer) -> Tensor:
    """What enters the teacher's first layer for each vocabulary entry alone, (vocab, width).

    Raises:
        TrainingError: this is of another width than its vectors, so theirs cannot turn it.
    """
    entries = np.arange(tokenizer.vocab_size, dtype=np.int32).reshape(-1, 1)
    parts = []
    for some in np.array_split(entries, -(-len(entries) // 1024)):
        ids = np.stack([tokenizer.frame(entry, context=3) for entry in some]).astype(np.int64)
        lengths = torch.full((len(ids),), ids.shape[1])
        parts.append(teacher.states(torch.from_numpy(ids), lengths).layers[0][:, 1].float().cpu())
    table = torch.cat(parts)
    if table.shape[1] != teacher.width:
        raise TrainingError(
            f"what enters the teacher's layers has {table.shape[1]} dims and its vectors have "
            f'{teacher.width}; set "table": "outputs" in the recipe'
        )
    return table


def project(rotation: Tensor, d_model: int) -> Tensor:
    """The leading d_model directions, (teacher's width, d_model); zeros past its width."""
    return F.pad(rotation[:, :d_model], (0, max(0, d_model - rotation.shape[1])))


@torch.no_grad()
def seed_outputs(model: MatMambaEncoder, table: Tensor, space: TeacherSpace) -> None:
    """Set embedding, pooling and heads; the blocks stay the identity.

    Args:
        model: to be changed in place.
        table: float32 (vocab, teacher's width), from `vocabulary_vectors`.
        space: from `survey`.
    """
    turned = table @ project(space.rotation, model.config.d_model)
    turned /= turned.square().mean(1, keepdim=True).sqrt()
    spread = space.log_weight.std()
    turned[:, -1] = (space.log_weight - space.log_weight.mean()) / spread
    model.embedding.weight.copy_(turned)
    model.pooling["query"].zero_()
    model.pooling["query"][:, -1] = spread
    _seed_heads(model, read=model.config.d_model - 1)


@torch.no_grad()
def seed_inputs(model: MatMambaEncoder, table: Tensor, space: TeacherSpace) -> None:
    """The same with a table from `vocabulary_inputs`, and with mean pooling."""
    model.embedding.weight.copy_(table @ project(space.rotation, model.config.d_model))
    model.pooling["query"].zero_()
    _seed_heads(model, read=model.config.d_model)


def _seed_heads(model: MatMambaEncoder, read: int) -> None:
    """Let the bands hold the first `read` directions, in order, and then all of them, turned."""
    width, start = model.config.d_model, 0
    generator = torch.Generator().manual_seed(0)
    for head, band in zip(model.heads, model.config.band_widths, strict=True):
        weight = torch.zeros(band, width)
        if start + band <= width:
            weight[:, start : start + band] = torch.eye(band)
        else:
            # Past the teacher's rank a band sees the whole space, in another turn.
            side = max(band, width)
            turn = torch.linalg.qr(torch.randn(side, side, generator=generator)).Q
            weight = turn[:band, :width].contiguous()
        weight[:, read:] = 0
        head.weight.copy_(weight)  # type: ignore[operator]
        start += band
