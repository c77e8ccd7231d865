"""Start above zero: the first weights come from the teacher, by linear algebra.

The embedding table holds the teacher's output for each vocabulary entry alone,
turned so that the leading principal directions of its text vectors come first
(the first bands then carry them). The last direction, which carries least, is
given to token frequency, and the pooling reads it: rare tokens weigh more
(smooth inverse frequency, Arora et al. 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptive_search.encoder.data import TokenBatch
from adaptive_search.encoder.model import MatMambaEncoder
from adaptive_search.encoder.teacher import Teacher

SMOOTHING = 1e-3  # token probability at which a token's weight is halved


@dataclass(frozen=True)
class TeacherSpace:
    """What the teacher's vectors of a text sample look like.

    rotation is float32 (width, width): columns are principal directions, the
    leading first. log_weight is float32 (vocab,), the log pooling weight of a token.
    """

    rotation: Tensor
    log_weight: Tensor


def survey(teacher: Teacher, sample: list[TokenBatch]) -> TeacherSpace:
    """Principal directions of the teacher's text vectors, and token weights."""
    counts = np.ones(teacher.vocab_size)
    moment = torch.zeros(teacher.width, teacher.width)
    for batch in sample:
        ids, lengths = torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths)
        pooled = teacher.states(ids, lengths)[1].cpu()
        moment += pooled.T @ pooled
        for row, length in zip(batch.ids, batch.lengths, strict=True):
            np.add.at(counts, row[:length], 1)
    # Row-major, as a resumed run reads it: products round by the layout of their factors.
    rotation = torch.linalg.eigh(moment).eigenvectors.flip(1).contiguous()
    log_weight = -np.log1p(counts / counts.sum() / SMOOTHING)
    return TeacherSpace(rotation, torch.from_numpy(log_weight.astype(np.float32)))


def vocabulary_outputs(teacher: Teacher, cls_id: int, sep_id: int) -> Tensor:
    """The teacher's pooled output for each vocabulary entry alone, (vocab, width)."""
    outputs = []
    for part in torch.arange(teacher.vocab_size).split(2048):
        frame = torch.tensor([cls_id, 0, sep_id]).repeat(len(part), 1)
        frame[:, 1] = part
        outputs.append(teacher.states(frame, torch.full((len(part),), 3))[1].cpu())
    return torch.cat(outputs)


@torch.no_grad()
def seed(model: MatMambaEncoder, table: Tensor, space: TeacherSpace) -> None:
    """Set embedding, pooling and heads; the blocks stay the identity.

    Args:
        model: to be changed in place; d_model equals the teacher's width.
        table: float32 (vocab, width), from `vocabulary_outputs`.
        space: from `survey`.
    """
    width = table.shape[1]
    turned = table @ space.rotation
    turned /= turned.square().mean(1, keepdim=True).sqrt()
    spread = space.log_weight.std()
    turned[:, -1] = (space.log_weight - space.log_weight.mean()) / spread
    model.embedding.weight.copy_(turned)
    model.pooling["query"].zero_()
    model.pooling["query"][:, -1] = spread
    start = 0
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
        weight[:, -1] = 0
        head.weight.copy_(weight)  # type: ignore[operator]
        start += band
