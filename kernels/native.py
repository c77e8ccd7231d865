"""The kernels in C++: the operations of `kernels.reference` in float32, and the engine.

Matrices may have rows that lie apart (a slice of a wider array), but the values of a row
must be neighbours. The level (reference, avx2, avx512, neon) is the fastest that
this machine has, unless the environment variable ADAPTIVE_SEARCH_LEVEL names another.

The linear layers compute in one of three precisions. At one level and precision a text's vector
is always the same, bit for bit. Between levels it differs by rounding: the integer sums of int8
are exact everywhere, but the activations that are rounded to codes come out of float32
operations that levels order differently.
"""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from adaptive_search.kernels import _native
from adaptive_search.kernels._native import (
    Engine,
    Stream,
    causal_conv1d_silu,
    gated_rms_norm,
    level,
    levels,
    linear,
    rms_norm,
    softplus,
    spin,
    ssd_scan,
    swiglu,
)

__all__ = [
    "PRECISIONS",
    "Engine",
    "Precision",
    "Stream",
    "causal_conv1d_silu",
    "gated_rms_norm",
    "level",
    "levels",
    "linear",
    "rms_norm",
    "softmax_pool",
    "softplus",
    "spin",
    "ssd_scan",
    "swiglu",
]

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def softmax_pool(
    h: NDArray[np.float32],
    logits: NDArray[np.float32],
    offsets: NDArray[np.int64],
    *,
    chunk: int = 128,
) -> NDArray[np.float32]:
    """Average the rows of each text under the softmax of its logits.

    Args:
        h: float32 (rows, d_model).
        logits: float32 (rows, bands).
        offsets: int64 (texts + 1,); no text may be empty.
        chunk: rows read at a time; the result depends on it only by rounding.

    Returns:
        float32 (texts, bands, d_model).

    Raises:
        ValueError: shapes disagree, or offsets do not describe the rows.
    """
    pooled = _native.softmax_pool(h, logits, offsets, chunk)
    return cast("NDArray[np.float32]", pooled.reshape(-1, logits.shape[1], h.shape[1]))
