"""The encoder in PyTorch, for training and for CUDA.

Token ids -> embedding -> blocks of (MatMamba2, swish-gated MLP) -> norm ->
one learned pooling and one head a band -> bands of fixed length, side by side.
The native engine computes the same function without PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.granularity import Granularity
from adaptive_search.encoder.matmamba2 import MatMamba2, RMSNorm
from adaptive_search.kernels.torch_ops import swiglu


class GatedMLP(nn.Module):
    """Swish-gated MLP whose inner width nests like the block's."""

    def __init__(self, d_model: int, d_mlp: int) -> None:
        """Build both projections; gate and up share one matrix, gate first."""
        super().__init__()
        self.d_mlp = d_mlp
        self.gate_up = nn.Linear(d_model, 2 * d_mlp, bias=False)
        self.down = nn.Linear(d_mlp, d_model, bias=False)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Map x (..., d_model) to the same shape, with the first `width` of d_mlp inner units."""
        gate_up, down = self.gate_up.weight, self.down.weight
        if width != self.d_mlp:
            gate, up = gate_up.split(self.d_mlp)
            gate_up, down = torch.cat([gate[:width], up[:width]]), down[:, :width]
        return F.linear(swiglu(F.linear(x, gate_up)), down)


class Block(nn.Module):
    """One pre-norm MatMamba2 block followed by one gated MLP."""

    def __init__(self, config: EncoderConfig, *, backward: bool) -> None:
        """Build the layer; a backward one mixes from right to left."""
        super().__init__()
        self.backward_in_time = backward
        self.mixer_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = MatMamba2(
            config.d_model,
            config.d_state,
            config.d_conv,
            config.expand,
            config.headdim,
            norm_eps=config.norm_eps,
        )
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = GatedMLP(config.d_model, config.d_mlp)
        self.dropout = nn.Dropout(0.0)  # training sets its share

    def forward(self, x: Tensor, order: Tensor | None, heads: int) -> Tensor:
        """Run with the first `heads` heads, and an MLP as wide in proportion.

        Args:
            x: float32 (batch, seqlen, d_model).
            order: int64 (batch, seqlen), places that reverse each text.
            heads: active heads of the mixer.

        Returns:
            The shape of x.
        """
        u = self.mixer_norm(x)
        if self.backward_in_time and order is not None:
            index = order.unsqueeze(-1).expand_as(u)
            x = x + self.dropout(self.mixer.mix(u.gather(1, index), heads).gather(1, index))
        else:
            x = x + self.dropout(self.mixer.mix(u, heads))
        width = self.mlp.d_mlp * heads // self.mixer.nheads
        wide: Tensor = self.dropout(self.mlp(self.mlp_norm(x), width))
        return x + wide


class MatMambaEncoder(nn.Module):
    """Texts as nested vectors, one set of weights for every granularity."""

    def __init__(self, config: EncoderConfig) -> None:
        """Build the model; each block starts as the identity."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        alternating = config.direction == "alternating"
        self.blocks = nn.ModuleList(
            Block(config, backward=alternating and i % 2 == 1) for i in range(config.n_layers)
        )
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.pooling = nn.ParameterDict(
            {"query": nn.Parameter(torch.zeros(len(config.dims), config.d_model))}
        )
        widths = config.band_widths
        self.heads = nn.ModuleList(nn.Linear(config.d_model, width, bias=False) for width in widths)
        self.completion = nn.ModuleDict(
            {str(b): nn.Linear(config.dims[-1], widths[b], bias=False) for b in config.completed}
        )
        for block in self.blocks:
            assert isinstance(block, Block)  # for the type checker: ModuleList forgets it
            nn.init.zeros_(block.mixer.out_proj.weight)
            nn.init.zeros_(block.mlp.down.weight)

    def states(self, ids: Tensor, lengths: Tensor, granularity: Granularity = 1) -> list[Tensor]:
        """States of the tokens after each block.

        Args:
            ids: int64 (batch, seqlen), padded on the right with any valid id.
            lengths: int64 (batch,), tokens of each text.
            granularity: divisor of the inner widths, or the heads of each layer. A layer with
                `mixer.mixnmatch` set has a width of its own, whatever the divisor.

        Returns:
            n_layers of float32 (batch, seqlen, d_model); those of padded positions mean nothing.
        """
        order = None
        if self.config.direction == "alternating":
            position = torch.arange(ids.shape[1], device=ids.device)
            last = lengths.unsqueeze(1) - 1
            order = torch.where(position <= last, last - position, position)
        states = []
        x = self.embedding(ids)
        for block, heads in zip(self.blocks, self._heads(granularity), strict=True):
            x = block(x, order, heads)
            states.append(x)
        return states

    def hidden(self, ids: Tensor, lengths: Tensor, granularity: Granularity = 1) -> Tensor:
        """Final states of the tokens, normalised: the shape of one of `states`."""
        normed: Tensor = self.final_norm(self.states(ids, lengths, granularity)[-1])
        return normed

    def embed(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Pool final states into vectors.

        Args:
            hidden: float32 (batch, seqlen, d_model).
            lengths: int64 (batch,).

        Returns:
            float32 (batch, dims[-1]), unit length; band i has length band_weights[i].
        """
        return self.project(self.pool(hidden, lengths))

    def pool(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """The mean of the states for each band, weighted as the band learned to.

        Args:
            hidden: float32 (batch, seqlen, d_model).
            lengths: int64 (batch,).

        Returns:
            float32 (batch, bands, d_model).
        """
        position = torch.arange(hidden.shape[1], device=hidden.device)
        padded = (position >= lengths.unsqueeze(1)).unsqueeze(1)  # (batch, 1, seqlen)
        logits = self.pooling["query"] @ hidden.transpose(1, 2)  # (batch, bands, seqlen)
        weights = logits.float().masked_fill(padded, -torch.inf).softmax(-1)
        pooled: Tensor = weights @ hidden.masked_fill(padded.transpose(1, 2), 0.0).float()
        return pooled

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled states (batch, bands, d_model) through the heads; see `embed`."""
        bands = self.trained_bands(pooled)
        whole = torch.cat(bands, dim=-1)
        for band, head in self.completion.items():
            bands[int(band)] = F.normalize(head(whole).float(), dim=-1)
        weighted = zip(bands, self.config.band_weights, strict=True)
        return torch.cat([band * weight for band, weight in weighted], dim=-1)

    def trained_bands(self, pooled: Tensor) -> list[Tensor]:
        """What the heads make of pooled states: (batch, width) of unit length for each band."""
        states = pooled.unbind(1)
        return [
            F.normalize(head(state).float(), dim=-1)
            for head, state in zip(self.heads, states, strict=True)
        ]

    def forward(self, ids: Tensor, lengths: Tensor, granularity: Granularity = 1) -> Tensor:
        """Vectors of a padded batch; see `hidden` and `embed`."""
        return self.embed(self.hidden(ids, lengths, granularity), lengths)

    def _heads(self, granularity: Granularity) -> tuple[int, ...]:
        if isinstance(granularity, tuple):
            return granularity
        mixers = (part for part in self.blocks.modules() if isinstance(part, MatMamba2))
        return tuple(mixer.heads_at(granularity) for mixer in mixers)
