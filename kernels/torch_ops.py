"""The encoder's kernels in PyTorch: differentiable, on CPU or CUDA.

On CPU they run in native code (`training_ops`). On CUDA the scan and the
convolution come from mamba-ssm and causal-conv1d when they are installed.
Everything else takes the plain forms, whose names end in `_plain`.
Batches are dense (batch, seqlen, ...); right padding never reaches a real
position, because both operations only look back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from adaptive_search.kernels import training_ops


@functools.cache
def _mamba_chunk_scan() -> Callable[..., Any] | None:
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError:
        return None
    scan: Callable[..., Any] = mamba_chunk_scan_combined
    return scan


@functools.cache
def _causal_conv1d() -> Callable[..., Any] | None:
    try:
        from causal_conv1d import causal_conv1d_fn
    except ImportError:
        return None
    conv: Callable[..., Any] | None = causal_conv1d_fn
    return conv


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale the last axis to unit root mean square, then by weight.

    Args:
        x: (..., width), any float dtype; the sum of squares is taken in float32.
        weight: (width,).
        eps: added to the mean square.

    Returns:
        The shape of x; float32, or under CPU autocast to bfloat16 that type at once.
    """
    if x.dtype == torch.float32 and training_ops.supports(x):
        return training_ops.rms_norm(x, weight, eps, _autocast_dtype())
    return rms_norm_plain(x, weight, eps)


def _autocast_dtype() -> torch.dtype:
    """What the next linear layer on CPU would cast float32 to, of the two supported types."""
    enabled = torch.is_autocast_enabled("cpu")
    halved = enabled and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return torch.bfloat16 if halved else torch.float32


def rms_norm_plain(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` in tensor operations; float32, or float64 for float64."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` of y * silu(z).

    Args:
        y: (..., width).
        z: the shape and dtype of y.
        weight: (width,).
        eps: added to the mean square.

    Returns:
        The shape and dtype of y.
    """
    if training_ops.supports(y, z):
        return training_ops.gated_rms_norm(y, z, weight, eps)
    return gated_rms_norm_plain(y, z, weight, eps)


def gated_rms_norm_plain(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`gated_rms_norm` in tensor operations."""
    return rms_norm_plain(y * F.silu(z), weight, eps).to(y.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """Multiply up by silu(gate).

    Args:
        gate_up: (..., 2 * width), gate first.

    Returns:
        (..., width), the dtype of gate_up.
    """
    if training_ops.supports(gate_up):
        return training_ops.swiglu(gate_up)
    return swiglu_plain(gate_up)


def swiglu_plain(gate_up: Tensor) -> Tensor:
    """`swiglu` in tensor operations."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def causal_conv1d_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise causal convolution over time, then SiLU.

    Args:
        x: (batch, seqlen, channels).
        weight: (channels, d_conv); the last tap meets the current position.
        bias: (channels,).

    Returns:
        The shape and dtype of x.
    """
    if weight.shape[1] <= training_ops.MAX_TAPS and training_ops.supports(x):
        return training_ops.causal_conv1d_silu(x, weight, bias)
    fused = _causal_conv1d() if x.is_cuda else None
    if fused is not None:
        y: Tensor = fused(
            x.transpose(1, 2), weight.to(x.dtype), bias.to(x.dtype), activation="silu"
        )
        return y.transpose(1, 2)
    return causal_conv1d_silu_plain(x, weight, bias)


def causal_conv1d_silu_plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`causal_conv1d_silu` in tensor operations."""
    taps = weight.shape[1]
    seqlen = x.shape[1]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    y = bias + padded[:, :seqlen] * weight[:, 0]
    for k in range(1, taps):
        y = y + padded[:, k : k + seqlen] * weight[:, k]
    return F.silu(y).to(x.dtype)


def ssd_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, chunk_size: int = 64
) -> Tensor:
    """Run the Mamba-2 state recurrence over a batch of sequences.

    Per head, with state h of shape (headdim, d_state):
        h[t] = exp(dt[t] * A) * h[t-1] + dt[t] * outer(x[t], B[t])
        y[t] = h[t] @ C[t] + D * x[t]

    Args:
        x: (batch, seqlen, nheads, headdim).
        dt: float32 (batch, seqlen, nheads), step size after softplus, > 0.
        A: float32 (nheads,), < 0.
        B: (batch, seqlen, ngroups, d_state); ngroups divides nheads.
        C: same shape as B.
        D: float32 (nheads,), skip weight.
        chunk_size: positions per chunk off the CPU; the result does not depend on
            it beyond rounding, and seqlen need not be a multiple of it.

    Returns:
        y with the shape of x.

    Source: Dao and Gu 2024, arXiv:2405.21060, section 6 and Listing 1.
    """
    if B.shape[2] == 1 and training_ops.supports(x, B, C):
        return training_ops.ssd_scan(x, dt, A, B, C, D)
    fused = _mamba_chunk_scan() if x.is_cuda else None
    if fused is not None:
        y: Tensor = fused(x, dt, A, B, C, chunk_size=chunk_size, D=D)
        return y
    return ssd_scan_plain(x, dt, A, B, C, D, chunk_size=chunk_size)


def ssd_scan_plain(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, chunk_size: int = 64
) -> Tensor:
    """`ssd_scan` in tensor operations, for any device and number of groups."""
    seqlen = x.shape[1]
    chunk_size = min(chunk_size, seqlen)
    tail = -seqlen % chunk_size
    if tail:
        # dt = 0 leaves the state as it is, so padded positions change nothing.
        x_in, B, C = (F.pad(t, (0, 0, 0, 0, 0, tail)) for t in (x, B, C))
        dt = F.pad(dt, (0, 0, 0, tail))
    else:
        x_in = x
    y = _chunked_scan(x_in, dt, A, B, C, chunk_size)[:, :seqlen]
    return y + D[:, None].to(x.dtype) * x


def _chunked_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int
) -> Tensor:
    batch, seqlen, nheads, headdim = x.shape
    ngroups, d_state = B.shape[2:]
    chunks, per_group = seqlen // chunk_size, nheads // ngroups
    # b batch, c chunk, g group, r head in group, l/s position in chunk
    xs = x.view(batch, chunks, chunk_size, ngroups, per_group, headdim)
    xs = xs.permute(0, 1, 3, 4, 2, 5)  # (b, c, g, r, s, headdim)
    Bs = B.view(batch, chunks, chunk_size, ngroups, d_state).transpose(2, 3)  # (b, c, g, s, n)
    Cs = C.view(batch, chunks, chunk_size, ngroups, d_state).transpose(2, 3)  # (b, c, g, l, n)
    dts = dt.view(batch, chunks, chunk_size, ngroups, per_group).permute(0, 1, 3, 4, 2)
    decay = torch.cumsum(dts * A.view(ngroups, per_group, 1), dim=-1)  # (b, c, g, r, l), <= 0

    xs = xs * dts.unsqueeze(-1).to(x.dtype)

    # 1. Within a chunk: y[l] += sum over s <= l of (C[l].B[s]) exp(decay[l]-decay[s]) dt[s] x[s]
    scores = (Cs @ Bs.transpose(-1, -2)).tril()  # (b, c, g, l, s)
    # Clamped, because the entries of the future, which tril drops, would overflow.
    span = (decay.unsqueeze(-1) - decay.unsqueeze(-2)).clamp_max(0.0)  # (b, c, g, r, l, s)
    y = (span.exp().to(x.dtype) * scores.unsqueeze(3)) @ xs  # (b, c, g, r, l, headdim)
    if chunks > 1:
        # 2. The state that each chunk adds, and 3. the recurrence over chunks, in float32.
        to_end = (decay[..., -1:] - decay).exp().unsqueeze(-1).to(x.dtype)
        added = (xs * to_end).transpose(-1, -2) @ Bs.unsqueeze(3)
        states = _carry_states(added.float(), decay[..., -1])  # (b, c, g, r, headdim, n)
        # 4. What the state before the chunk contributes.
        carried = Cs.unsqueeze(3) @ states.to(x.dtype).transpose(-1, -2)
        y = y + carried * decay.exp().unsqueeze(-1).to(x.dtype)
    return y.permute(0, 1, 4, 2, 3, 5).reshape(batch, seqlen, nheads, headdim)


def _carry_states(added: Tensor, decay: Tensor) -> Tensor:
    """State before each chunk, from what each adds and its total log decay.

    Args:
        added: float32 (batch, chunks, ngroups, heads, headdim, d_state).
        decay: float32 (batch, chunks, ngroups, heads).
    """
    state = torch.zeros_like(added[:, 0])
    before = []
    for chunk in range(added.shape[1]):
        before.append(state)
        state = state * decay[:, chunk].exp()[..., None, None] + added[:, chunk]
    return torch.stack(before, dim=1)
