"""The MatMamba2 block: a Mamba-2 block whose narrower selves share its weights.

Glossary: d_model residual width; d_inner = expand * d_model; headdim P;
nheads = d_inner / P; d_state N; dt step size; A state decay; B, C input and
output maps of the state; D skip weight; z gate.

Source: Shukla et al. 2024, arXiv:2410.06718 (nesting); Dao and Gu 2024,
arXiv:2405.21060 (Mamba-2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from adaptive_search.kernels.torch_ops import (
    causal_conv1d_silu,
    gated_rms_norm,
    gated_rms_norm_plain,
    rms_norm,
    ssd_scan,
)

_SIZED = ("conv1d.weight", "A_log", "out_proj.weight")


class NestedWeights(NamedTuple):
    """The weights of the sub-model of a number of heads."""

    in_proj: Tensor  # (2 * d + 2 * ngroups * d_state + heads, d_model)
    conv: Tensor  # (d + 2 * ngroups * d_state, d_conv)
    conv_bias: Tensor
    norm: Tensor  # (d,)
    out_proj: Tensor  # (d_model, d)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        """Start with a scale of one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of x; float32."""
        return rms_norm(x, self.weight, self.eps)


class MatMamba2(nn.Module):
    """Mamba-2 with nested inner widths; without options, a regular Mamba2 block.

    It loads the state dict of a `mamba_ssm` Mamba2 or MatMamba block unchanged;
    `from_state_dict` also finds the sizes (MatMamba's headdim is d_model / 32).
    Set `mixnmatch = True` and `mixnmatch_dims` to give this layer a width of its
    own, whatever `mrl_level` the model is called with.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        *,
        ngroups: int = 1,
        chunk_size: int = 64,
        norm_eps: float = 1e-5,
    ) -> None:
        """Build the block with Mamba-2's initial values.

        Raises:
            ValueError: headdim does not divide expand * d_model, or ngroups the heads.
        """
        super().__init__()
        self.d_model, self.d_state, self.expand = d_model, d_state, expand
        self.d_inner, self.headdim, self.ngroups = expand * d_model, headdim, ngroups
        if self.d_inner % headdim:
            raise ValueError(f"headdim={headdim} must divide expand * d_model = {self.d_inner}")
        self.nheads = self.d_inner // headdim
        if ngroups < 1 or self.nheads % ngroups:
            raise ValueError(f"ngroups={ngroups} must divide the {self.nheads} heads")
        self.chunk_size = chunk_size
        self.mixnmatch = False
        self.mixnmatch_dims = d_model

        d_bc = 2 * ngroups * d_state
        # Order of the rows: z, x, B, C, dt
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner + d_bc + self.nheads, bias=False)
        channels = self.d_inner + d_bc
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1)
        # dt log-uniform in [0.001, 0.1]; the inverse of softplus of it is the bias.
        dt = torch.exp(torch.empty(self.nheads).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.log(torch.empty(self.nheads).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(self.nheads))
        self.norm = RMSNorm(self.d_inner, norm_eps)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, ngroups: int = 1) -> MatMamba2:
        """A block with the weights of a `mamba_ssm` Mamba2 or a MatMamba block.

        Args:
            state: tensors by name, as in the state dict of the block alone.
            ngroups: of the block, which its weights do not tell.

        Raises:
            ValueError: these are not the weights of such a block, or it was made with
                options that this block lacks.
        """
        missing = [name for name in _SIZED if name not in state]
        unsupported = _unsupported_options(state)
        if missing or unsupported:
            lacking = f"without {', '.join(missing)}" if missing else f"made with {unsupported}"
            raise ValueError(f"a Mamba2 block {lacking} cannot be loaded")
        try:
            d_model, d_inner = state["out_proj.weight"].shape
            channels, _, d_conv = state["conv1d.weight"].shape
            block = cls(
                d_model,
                (channels - d_inner) // (2 * ngroups),
                d_conv,
                d_inner // d_model,
                d_inner // len(state["A_log"]),
                ngroups=ngroups,
            )
            block.load_state_dict(state)
        except (RuntimeError, ValueError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"these are not the weights of a Mamba2 block: {error}") from None
        return block

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load, and say so where these are the weights of another kind of Mamba2 block."""
        own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if unsupported := _unsupported_options(own):
            error_msgs.append(
                f"this is a Mamba2 block made with {unsupported}; MatMamba2 has no such option"
            )
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def heads_at(self, mrl_level: int) -> int:
        """Heads of the sub-model with d_model / mrl_level, or of `mixnmatch_dims`.

        Raises:
            ValueError: mrl_level is below 1, or the width is not a whole number of heads
                of each group.
        """
        if mrl_level < 1:
            raise ValueError(f"mrl_level={mrl_level} must be at least 1")
        width = self.mixnmatch_dims if self.mixnmatch else self.d_model // mrl_level
        exact = self.mixnmatch or self.d_model % mrl_level == 0
        inner = self.expand * width
        whole = exact and 0 < inner <= self.d_inner and inner % self.headdim == 0
        if not whole or inner // self.headdim % self.ngroups:
            raise ValueError(
                f"a width of {width} of {self.d_model} is not a whole number of heads: "
                f"expand={self.expand} times it must be a multiple of headdim={self.headdim}"
            )
        return inner // self.headdim

    def nested(self, heads: int) -> NestedWeights:
        """The weights of the first `heads` heads, with all of B and C."""
        d, d_bc = heads * self.headdim, 2 * self.ngroups * self.d_state
        conv, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        assert bias is not None  # for the type checker: Conv1d was built with a bias
        if heads == self.nheads:
            whole = (self.in_proj.weight, conv, bias, self.norm.weight, self.out_proj.weight)
            return NestedWeights(*whole)
        z, x, BC, dt = self.in_proj.weight.split([self.d_inner, self.d_inner, d_bc, self.nheads])
        return NestedWeights(
            torch.cat([z[:d], x[:d], BC, dt[:heads]]),
            torch.cat([conv[:d], conv[self.d_inner :]]),
            torch.cat([bias[:d], bias[self.d_inner :]]),
            self.norm.weight[:d],
            self.out_proj.weight[:, :d],
        )

    def forward(self, u: Tensor, mrl_level: int = 1) -> Tensor:
        """Mix positions, looking back only.

        Args:
            u: (batch, seqlen, d_model).
            mrl_level: divisor of the width; 1 is the whole block.

        Returns:
            (batch, seqlen, d_model).

        Raises:
            ValueError: the width is not a whole number of heads.
        """
        return self.mix(u, self.heads_at(mrl_level))

    def mix(self, u: Tensor, heads: int) -> Tensor:
        """`forward` with the first `heads` heads.

        Raises:
            ValueError: the block has fewer heads, or they do not divide among its groups.
        """
        if not 0 < heads <= self.nheads or heads % self.ngroups:
            raise ValueError(
                f"heads={heads} must be from {self.ngroups} to the block's {self.nheads}, "
                f"a multiple of ngroups={self.ngroups}"
            )
        d, d_state = heads * self.headdim, self.d_state
        groups, d_bc = self.ngroups, self.ngroups * self.d_state
        weights = self.nested(heads)
        z, xBC, dt = F.linear(u, weights.in_proj).split([d, d + 2 * d_bc, heads], dim=-1)
        xBC = causal_conv1d_silu(xBC, weights.conv, weights.conv_bias)
        x, B, C = xBC.split([d, d_bc, d_bc], dim=-1)
        y = ssd_scan(
            x.unflatten(-1, (heads, self.headdim)),
            F.softplus(dt.float() + self.dt_bias[:heads]),
            -torch.exp(self.A_log[:heads].float()),
            B.unflatten(-1, (groups, d_state)),
            C.unflatten(-1, (groups, d_state)),
            self.D[:heads],
            chunk_size=self.chunk_size,
        )
        return F.linear(self._gated_norm(y.flatten(-2), z, weights.norm), weights.out_proj)

    def _gated_norm(self, y: Tensor, z: Tensor, weight: Tensor) -> Tensor:
        """Gate and normalise, each group of heads by itself."""
        if self.ngroups == 1:
            return gated_rms_norm(y, z, weight, self.norm.eps)
        y, z, weight = (t.view(*t.shape[:-1], self.ngroups, -1) for t in (y, z, weight))
        return gated_rms_norm_plain(y, z, weight, self.norm.eps).flatten(-2)


def _unsupported_options(state: Mapping[str, Tensor]) -> str:
    """Options of mamba_ssm's Mamba2 that its weights show and this block lacks; "" for none.

    norm_before_gate and dt_limit leave no trace; the block has their defaults.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    inner, norm = shapes.get("out_proj.weight", ())[1:], shapes.get("norm.weight", ())
    signs = {
        "bias=True": "in_proj.bias" in shapes or "out_proj.bias" in shapes,
        "conv_bias=False": "conv1d.weight" in shapes and "conv1d.bias" not in shapes,
        "rmsnorm=False": "out_proj.weight" in shapes and "norm.weight" not in shapes,
        "D_has_hdim=True": "D" in shapes and shapes["D"] != shapes.get("A_log", shapes["D"]),
        "learnable_init_states=True": "init_states" in shapes,
        "d_ssm": bool(norm) and bool(inner) and norm != inner,
    }
    return ", ".join(option for option, shows in signs.items() if shows)
