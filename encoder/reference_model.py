"""The encoder's forward pass in numpy: the truth that the native engine is tested against.

Runs text by text in float64. Names and order of the
steps are those of the checkpoint; shapes are written (tokens T, width).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.kernels import reference as ops

Array = NDArray[np.float64]


def encode(
    config: EncoderConfig,
    tensors: Mapping[str, Array],
    texts: Sequence[NDArray[np.int32]],
    heads: Sequence[int],
) -> Array:
    """Encode texts, given as token ids.

    Args:
        config: sizes of the model.
        tensors: float64 arrays of the checkpoint by name.
        texts: int32 (T,) each, T >= 1.
        heads: active heads of each layer.

    Returns:
        float64 (texts, dims[-1]), unit length.
    """
    return np.array([_encode_text(config, tensors, ids, heads) for ids in texts])


def _encode_text(
    config: EncoderConfig,
    tensors: Mapping[str, Array],
    ids: NDArray[np.int32],
    heads: Sequence[int],
) -> Array:
    x = tensors["embedding.weight"][ids]  # (T, d_model)
    for i, active in enumerate(heads):
        block = {
            name.removeprefix(f"blocks.{i}."): value
            for name, value in tensors.items()
            if name.startswith(f"blocks.{i}.")
        }
        step = -1 if config.direction == "alternating" and i % 2 else 1
        normed = ops.rms_norm(x, block["mixer_norm.weight"], config.norm_eps)
        x = x + _mix(config, block, normed[::step], active)[::step]
        normed = ops.rms_norm(x, block["mlp_norm.weight"], config.norm_eps)
        x = x + _transform(config, block, normed, active)
    h = ops.rms_norm(x, tensors["final_norm.weight"], config.norm_eps)
    logits = ops.linear(h, tensors["pooling.query"])  # (T, bands)
    pooled = ops.softmax_pool(h, logits, np.array([0, len(h)]))[0]  # (bands, d_model)
    bands = [_unit(tensors[f"heads.{b}.weight"] @ state) for b, state in enumerate(pooled)]
    whole = np.concatenate(bands)
    for b in config.completed:
        bands[b] = _unit(tensors[f"completion.{b}.weight"] @ whole)
    weighted = zip(bands, config.band_weights, strict=True)
    return np.concatenate([band * weight for band, weight in weighted])


def _unit(band: Array) -> Array:
    return band / max(float(np.linalg.norm(band)), 1e-12)


def _mix(config: EncoderConfig, block: Mapping[str, Array], u: Array, heads: int) -> Array:
    """The MatMamba2 mixer with the first `heads` heads; u and the result are (T, d_model)."""
    inner, full, d_state = heads * config.headdim, config.d_inner, config.d_state
    projected = ops.linear(u, block["mixer.in_proj.weight"])
    z, x, BC, dt = np.split(projected, np.cumsum([full, full, 2 * d_state]), axis=1)
    channels = np.r_[:inner, full : full + 2 * d_state]  # of the convolution: x, B, C
    xBC = ops.causal_conv1d_silu(
        np.concatenate([x[:, :inner], BC], axis=1),
        block["mixer.conv1d.weight"][channels, 0],
        block["mixer.conv1d.bias"][channels],
        np.array([0, len(u)]),
    )
    x, B, C = np.split(xBC, [inner, inner + d_state], axis=1)
    y = ops.ssd_scan(
        x,
        ops.softplus(dt[:, :heads], block["mixer.dt_bias"][:heads]),
        -np.exp(block["mixer.A_log"][:heads]),
        B,
        C,
        block["mixer.D"][:heads],
        np.array([0, len(u)]),
    )
    y = ops.gated_rms_norm(y, z[:, :inner], block["mixer.norm.weight"][:inner], config.norm_eps)
    return ops.linear(y, block["mixer.out_proj.weight"][:, :inner])


def _transform(config: EncoderConfig, block: Mapping[str, Array], u: Array, heads: int) -> Array:
    """The swish-gated MLP at the width that belongs to `heads` heads."""
    width = config.d_mlp * heads // config.nheads
    gate, up = np.split(ops.linear(u, block["mlp.gate_up.weight"]), 2, axis=1)
    return ops.linear(
        ops.swiglu(gate[:, :width], up[:, :width]), block["mlp.down.weight"][:, :width]
    )
