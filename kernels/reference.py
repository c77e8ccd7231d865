"""The kernels as plain numpy in float64: slow, obviously right.

Texts are packed: the rows of all texts stand one after the other, and text i is
rows offsets[i] up to offsets[i + 1]. `kernels.native` has the same functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def linear(x: Array, weight: Array) -> Array:
    """Multiply every row by a weight matrix.

    Args:
        x: (rows, inputs).
        weight: (outputs, inputs).

    Returns:
        (rows, outputs).
    """
    return x @ weight.T


def silu(x: Array) -> Array:
    """Return x * sigmoid(x), elementwise."""
    # The tanh form of the sigmoid does not overflow.
    return x * (0.5 * (1.0 + np.tanh(0.5 * x)))


def causal_conv1d_silu(x: Array, weight: Array, bias: Array, offsets: NDArray[np.int64]) -> Array:
    """Convolve each channel over the positions so far, then SiLU.

    Args:
        x: (rows, channels).
        weight: (channels, d_conv); the last column meets the current position.
        bias: (channels,).
        offsets: int64 (texts + 1,); zeros stand before each text.

    Returns:
        (rows, channels).
    """
    d_conv = weight.shape[1]
    out = np.empty_like(x)
    for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
        padded = np.concatenate([np.zeros((d_conv - 1, x.shape[1])), x[start:stop]])
        taps = [padded[j : j + stop - start] * weight[:, j] for j in range(d_conv)]
        out[start:stop] = np.sum(taps, axis=0) + bias
    return silu(out)


def softplus(x: Array, bias: Array) -> Array:
    """Return log(1 + exp(x + bias)) for x (rows, n) and bias (n,)."""
    return np.logaddexp(x + bias, 0.0)


def ssd_scan(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    offsets: NDArray[np.int64],
) -> Array:
    """Run the Mamba-2 recurrence, position by position.

    Per head, with state h of shape (headdim, d_state), zero before each text:
        h[t] = exp(dt[t] * A) * h[t-1] + dt[t] * outer(x[t], B[t])
        y[t] = h[t] @ C[t] + D * x[t]

    Args:
        x: (rows, heads * headdim).
        dt: (rows, heads), step size after softplus, > 0.
        A: (heads,), < 0.
        B: (rows, d_state), shared by all heads.
        C: same shape as B.
        D: (heads,).
        offsets: int64 (texts + 1,).

    Returns:
        y with the shape of x.

    Source: Dao and Gu 2024, arXiv:2405.21060, equation 1.
    """
    heads = dt.shape[1]
    values = x.reshape(len(x), heads, x.shape[1] // heads)  # (rows, heads, headdim)
    y = np.empty_like(values)
    for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
        state = np.zeros((heads, values.shape[2], B.shape[1]))
        for t in range(start, stop):
            step = dt[t][:, None] * values[t]  # (heads, headdim)
            state = np.exp(dt[t] * A)[:, None, None] * state + step[:, :, None] * B[t]
            y[t] = state @ C[t] + D[:, None] * values[t]
    return y.reshape(x.shape)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Return x / sqrt(mean(x^2) + eps) * weight for x (rows, n) and weight (n,)."""
    mean_square: Array = np.mean(x * x, axis=1, keepdims=True)
    return x / np.sqrt(mean_square + eps) * weight


def gated_rms_norm(y: Array, z: Array, weight: Array, eps: float) -> Array:
    """Return rms_norm(y * silu(z)) for y and z (rows, n) and weight (n,)."""
    return rms_norm(y * silu(z), weight, eps)


def swiglu(gate: Array, up: Array) -> Array:
    """Return silu(gate) * up for gate and up (rows, n)."""
    return silu(gate) * up


def softmax_pool(h: Array, logits: Array, offsets: NDArray[np.int64]) -> Array:
    """Average the rows of each text under the softmax of its logits.

    Args:
        h: (rows, d_model).
        logits: (rows, bands), one set of weights for each band.
        offsets: int64 (texts + 1,); no text may be empty.

    Returns:
        (texts, bands, d_model).
    """
    pooled = []
    for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
        weights = np.exp(logits[start:stop] - logits[start:stop].max(axis=0))
        pooled.append((weights / weights.sum(axis=0)).T @ h[start:stop])
    shape = (len(pooled), logits.shape[1], h.shape[1])
    return np.array(pooled).reshape(shape)
