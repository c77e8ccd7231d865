"""Tokens per second of the native engine on one thread, as JSON; checks its answers first.

Random weights of the shipped size: the speed does not depend on their values.
    python benchmarks/engine.py --texts 32 --tokens 128 --repeats 7
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder import reference_model
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.kernels import native

CONFIG = EncoderConfig(vocab_size=1000)


def random_tensors() -> dict[str, NDArray[np.float32]]:
    """Weights of the default config under the names of a checkpoint."""
    c = CONFIG
    inner, channels = c.d_inner, c.d_inner + 2 * c.d_state
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (c.vocab_size, c.d_model)}
    for i in range(c.n_layers):
        block, mixer = f"blocks.{i}", f"blocks.{i}.mixer"
        shapes |= {
            f"{block}.mixer_norm.weight": (c.d_model,),
            f"{block}.mlp_norm.weight": (c.d_model,),
            f"{block}.mlp.gate_up.weight": (2 * c.d_mlp, c.d_model),
            f"{block}.mlp.down.weight": (c.d_model, c.d_mlp),
            f"{mixer}.in_proj.weight": (inner + channels + c.nheads, c.d_model),
            f"{mixer}.conv1d.weight": (channels, 1, c.d_conv),
            f"{mixer}.conv1d.bias": (channels,),
            f"{mixer}.dt_bias": (c.nheads,),
            f"{mixer}.A_log": (c.nheads,),
            f"{mixer}.D": (c.nheads,),
            f"{mixer}.norm.weight": (inner,),
            f"{mixer}.out_proj.weight": (c.d_model, inner),
        }
    shapes |= {"final_norm.weight": (c.d_model,), "pooling.query": (len(c.dims), c.d_model)}
    shapes |= {f"heads.{b}.weight": (w, c.d_model) for b, w in enumerate(c.band_widths)}
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in shapes.items()
    }


def largest_error(engine: native.Engine, tensors: dict[str, NDArray[np.float32]]) -> float:
    """Distance of unit vectors from the float64 model, over all granularities."""
    exact = {name: value.astype(np.float64) for name, value in tensors.items()}
    ids = np.arange(40, dtype=np.int32)
    errors = []
    for granularity in CONFIG.granularities:
        heads = np.full(CONFIG.n_layers, CONFIG.nheads // granularity, np.int32)
        got = engine.encode(ids, np.array([0, len(ids)]), heads, len(CONFIG.dims), 1)
        want = reference_model.encode(CONFIG, exact, [ids], heads.tolist())
        errors.append(float(np.linalg.norm(got - want)))
    return max(errors)


def measure(engine: native.Engine, texts: int, tokens: int, repeats: int) -> list[dict[str, float]]:
    """Median and best tokens per second of each granularity."""
    ids = np.random.default_rng(1).integers(0, CONFIG.vocab_size, texts * tokens, dtype=np.int32)
    offsets = np.arange(texts + 1, dtype=np.int64) * tokens
    rows: list[dict[str, float]] = []
    for granularity in CONFIG.granularities:
        heads = np.full(CONFIG.n_layers, CONFIG.nheads // granularity, np.int32)
        seconds = []
        for _ in range(repeats + 1):  # the first one warms up
            start = time.perf_counter()
            engine.encode(ids, offsets, heads, len(CONFIG.dims), 1)
            seconds.append(time.perf_counter() - start)
        rows.append(
            {
                "granularity": granularity,
                "tokens_per_second": round(len(ids) / statistics.median(seconds[1:])),
                "best_tokens_per_second": round(len(ids) / min(seconds[1:])),
            }
        )
    return rows


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each text")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    tensors = random_tensors()
    engine = native.Engine(dataclasses.asdict(CONFIG), dict(tensors))
    error = largest_error(engine, tensors)
    if error > 1e-5:
        raise SystemExit(f"the engine differs from the reference by {error:.1e}")
    report = {
        "level": native.level(),
        "machine": platform.machine(),
        "threads": 1,
        "error": error,
        "rows": measure(engine, arguments.texts, arguments.tokens, arguments.repeats),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
