"""The encoder's operations for training on CPU: native forward and backward.

Each function has the signature and the meaning of its namesake in `torch_ops`,
which calls it where `supports` says so. Activations are float32 or bfloat16;
parameters, sums and states are float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_TAPS = 4  # of the convolution


@functools.cache
def _native() -> ModuleType | None:
    try:
        from adaptive_search.kernels import _native as module
    except ImportError:
        return None
    return module.training


def _kernels() -> ModuleType:
    module = _native()
    assert module is not None  # callers asked supports() first
    return module


def supports(*activations: Tensor) -> bool:
    """Whether the native kernels can take these tensors: all of one type, on CPU."""
    dtype = activations[0].dtype
    return (
        dtype in (torch.float32, torch.bfloat16)
        and all(t.device.type == "cpu" and t.dtype == dtype for t in activations)
        and _native() is not None
    )


class _Context(Protocol):
    """What PyTorch hands from a forward to its backward, and eps, which the norms add."""

    saved_tensors: tuple[Tensor, ...]
    eps: float

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    apply = cast(Callable[..., Tensor], function.apply)  # PyTorch leaves it without types
    return apply(*arguments)


def _dense(x: Tensor) -> Tensor:
    """X with a dense last axis, which the kernels need; other axes may have any stride."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _parameter(x: Tensor) -> Tensor:
    return x.detach().float().contiguous()


class _CausalConv1dSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, taps = _dense(x), _taps(weight)
        y = x.new_empty(x.shape)
        _kernels().conv_forward(x.detach(), taps, _parameter(bias), y, torch.get_num_threads())
        ctx.save_for_backward(x, weight, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        taps = _taps(weight)
        dx, dtaps, dbias = x.new_empty(x.shape), torch.empty_like(taps), taps.new_empty(bias.shape)
        _kernels().conv_backward(
            *(x, taps, _parameter(bias), _dense(dy), dx, dtaps, dbias, torch.get_num_threads())
        )
        dweight = dtaps[MAX_TAPS - weight.shape[1] :].t()
        return dx, dweight.to(weight.dtype), dbias.to(bias.dtype)


def _taps(weight: Tensor) -> Tensor:
    """(channels, d_conv) as float32 (MAX_TAPS, channels), with zeros for the oldest taps."""
    return F.pad(weight.detach().float(), (MAX_TAPS - weight.shape[1], 0)).t().contiguous()


def causal_conv1d_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`torch_ops.causal_conv1d_silu` for d_conv up to MAX_TAPS; the dtype of x."""
    return _apply(_CausalConv1dSilu, x, weight, bias)


class _SsdScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
    ) -> Tensor:
        x, dt, B, C = _dense(x), _dense(dt.float()), _dense(B), _dense(C)
        y = x.new_empty(x.shape)
        threads = torch.get_num_threads()
        _kernels().scan_forward(
            *(x.detach(), dt.detach(), _parameter(A), B.detach(), C.detach(), _parameter(D), y),
            *(_head_groups(x.shape[0], A.shape[0], threads), threads),
        )
        ctx.save_for_backward(x, dt, A, B, C, D)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, dy: Tensor) -> tuple[Tensor, ...]:
        x, dt, A, B, C, D = ctx.saved_tensors
        batch, nheads, threads = x.shape[0], A.shape[0], torch.get_num_threads()
        groups = _head_groups(batch, nheads, threads)
        dx, ddt = x.new_empty(x.shape), dt.new_empty(dt.shape)
        dA, dD = dt.new_empty(2, batch, nheads)
        dB, dC = dt.new_empty(2, groups, *B.shape)
        _kernels().scan_backward(
            *(x, dt, _parameter(A), B, C, _parameter(D), _dense(dy)),
            *(dx, ddt, dA, dB, dC, dD, threads),
        )
        return (
            dx,
            ddt,
            dA.sum(0).to(A.dtype),
            dB.sum(0).to(B.dtype),
            dC.sum(0).to(C.dtype),
            dD.sum(0).to(D.dtype),
        )


def _head_groups(batch: int, nheads: int, threads: int) -> int:
    """Runs of heads for each sequence, so that every thread has work; they share B and C."""
    return max(1, min(nheads, -(-threads // max(1, batch))))


def ssd_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """`torch_ops.ssd_scan` for ngroups = 1."""
    y = _apply(_SsdScan, x.flatten(2), dt, A, B.squeeze(2), C.squeeze(2), D)
    return y.view(x.shape)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x = _dense(x)
        out = x.new_empty(x.shape, dtype=dtype)
        _kernels().norm_forward(x.detach(), _parameter(weight), eps, out, torch.get_num_threads())
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, dout: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        dx, dweight = x.new_empty(x.shape), x.new_empty(torch.get_num_threads(), x.shape[-1])
        _kernels().norm_backward(x, _parameter(weight), ctx.eps, _dense(dout), dx, dweight)
        return dx, dweight.sum(0).to(weight.dtype), None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`torch_ops.rms_norm` of float32 x; dtype is that of the result."""
    out = _apply(_RmsNorm, x.reshape(-1, x.shape[-1]), weight, eps, dtype)
    return out.view(x.shape)


class _GatedRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, z = _dense(y), _dense(z)
        out = y.new_empty(y.shape)
        _kernels().gated_norm_forward(
            y.detach(), z.detach(), _parameter(weight), eps, out, torch.get_num_threads()
        )
        ctx.save_for_backward(y, z, weight)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y, z, weight = ctx.saved_tensors
        dy, dz = y.new_empty(y.shape), z.new_empty(z.shape)
        dweight = weight.new_empty(torch.get_num_threads(), y.shape[-1], dtype=torch.float32)
        _kernels().gated_norm_backward(
            y, z, _parameter(weight), ctx.eps, _dense(dout), dy, dz, dweight
        )
        return dy, dz, dweight.sum(0).to(weight.dtype), None


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`torch_ops.gated_rms_norm`."""
    width = y.shape[-1]
    out = _apply(_GatedRmsNorm, y.reshape(-1, width), z.reshape(-1, width), weight, eps)
    return out.view(y.shape)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, gate_up: Tensor) -> Tensor:
        gate_up = _dense(gate_up)
        out = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
        _kernels().swiglu_forward(gate_up.detach(), out, torch.get_num_threads())
        ctx.save_for_backward(gate_up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, dout: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        dgate_up = gate_up.new_empty(gate_up.shape)
        _kernels().swiglu_backward(gate_up, _dense(dout), dgate_up, torch.get_num_threads())
        return dgate_up


def swiglu(gate_up: Tensor) -> Tensor:
    """`torch_ops.swiglu`."""
    width = gate_up.shape[-1]
    out = _apply(_Swiglu, gate_up.reshape(-1, width))
    return out.view(*gate_up.shape[:-1], width // 2)
