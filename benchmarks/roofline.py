"""Where the engine's time goes and how near each stage comes to what a core can do.

One thread. Shares are of processor time, by the engine's own clock. Operations and bytes are
counted from the shape of the model: multiply-adds as two, bytes as floats and codes that a stage
must read and write. Peaks are measured in turn with the engine: products in registers alone, and
a copy within the second-level cache. Figures are medians.

    python benchmarks/roofline.py --granularity 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.kernels import native

CHUNK = 32  # positions that the scan takes as one product
CACHED = 65_536  # floats of a copy that stays in the second-level cache


def work(config: EncoderConfig, heads: int, precision: str) -> dict[str, tuple[str, float]]:
    """What bounds each stage, and its operations or bytes a token."""
    d, layers, states = config.d_model, config.n_layers, 2 * config.d_state
    inner, mlp = heads * config.headdim, config.d_mlp * heads // config.nheads
    cell = {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    scan = heads * config.headdim * (2 * config.d_state + (CHUNK + 1) / 2)
    scan += config.d_state * CHUNK
    return {
        "embedding": ("bytes", d * 5),
        "norm": ("bytes", layers * 2 * d * (4 + cell)),
        "in_proj": (precision, layers * 2 * d * (2 * inner + states + heads)),
        "convolution": ("bytes", layers * 8 * (inner + states)),
        "softplus": ("bytes", layers * 8 * heads),
        "scan": ("fp32" if precision == "fp32" else "bf16", layers * 2 * scan),
        "gated_norm": ("bytes", layers * inner * (8 + cell)),
        "out_proj": (precision, layers * 2 * inner * d),
        "gate_up": (precision, layers * 2 * 2 * mlp * d),
        "swiglu": ("bytes", layers * mlp * (8 + cell)),
        "down": (precision, layers * 2 * mlp * d),
        "pooling": ("fp32", 2 * 2 * len(config.dims) * d),
        "heads": (precision, 0),  # of texts, not of tokens
    }


def rate_of(run: Callable[[], float]) -> float:
    """What one run says it has done, in billions a second of processor time."""
    start = time.thread_time()
    done = run()
    return done / (time.thread_time() - start) / 1e9


def peaks(rounds: int = 1_000_000) -> dict[str, float]:
    """What this core reaches now: GOP/s by precision, and GB/s of a copy, read and written."""
    found: dict[str, float] = {
        name: rate_of(lambda name=name: 2.0 * native.spin(name, rounds))  # type: ignore[misc]
        for name in native.PRECISIONS
    }
    source, target = np.ones(CACHED, np.float32), np.empty(CACHED, np.float32)

    def copy() -> float:
        for _ in range(200):
            np.copyto(target, source)
        return 200.0 * 2 * source.nbytes

    found["bytes"] = rate_of(copy)
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each stage and the peaks, in turn."""
    weights = checkpoint.load(arguments.weights or checkpoint.shipped_weights())
    config = weights.config
    engine = native.Engine(config.to_dict(), dict(weights.tensors), arguments.precision)
    heads = np.array(config.heads(arguments.granularity), np.int32)
    tokens = arguments.texts * arguments.tokens
    ids = np.random.default_rng(0).integers(0, config.vocab_size, tokens, dtype=np.int32)
    offsets = np.arange(arguments.texts + 1, dtype=np.int64) * arguments.tokens
    vectors = engine.encode(ids, offsets, heads, len(config.dims), 1)
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5):
        raise SystemExit("the engine's vectors are not of unit length")
    seconds: list[dict[str, float]] = []
    limits: list[dict[str, float]] = []
    for _ in range(arguments.repeats):
        limits.append(peaks())
        seconds.append(engine.profile(ids, offsets, heads, len(config.dims)))
    limit = {name: statistics.median(row[name] for row in limits) for name in limits[0]}
    spent = {name: statistics.median(row[name] for row in seconds) for name in seconds[0]}
    total = sum(spent.values())
    rows = []
    for name, (bound, amount) in work(config, int(heads[0]), arguments.precision).items():
        rate = amount * tokens / spent[name] / 1e9 if amount else 0.0
        rows.append(
            {
                "stage": name,
                "share": round(spent[name] / total, 4),
                "ns_a_token": round(1e9 * spent[name] / tokens),
                "bound": bound,
                "rate": round(rate, 1),
                "of_peak": round(rate / limit[bound], 3),
            }
        )
    return {
        "level": native.level(),
        "tokens_per_second": round(tokens / total),
        "peaks": {name: round(value, 1) for name, value in limit.items()},
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """The stages as a Markdown table."""
    lines = ["| stage | share | ns a token | reached | of the peak |", "|---|---:|---:|---:|---:|"]
    for row in report["rows"]:
        unit = "GB/s" if row["bound"] == "bytes" else f"GOP/s, {row['bound']}"
        reached = f"{row['rate']:,.0f} {unit} | {row['of_peak']:.0%}" if row["rate"] else " | "
        lines.append(f"| {row['stage']} | {row['share']:.1%} | {row['ns_a_token']:,} | {reached} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a weights directory; the shipped ones")
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each text")
    parser.add_argument("--granularity", type=int, default=1)
    parser.add_argument("--precision", choices=native.PRECISIONS, default="int8")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    report = measure(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    peak = report["peaks"]
    print(f"{report['tokens_per_second']:,} tokens a second; peaks:", end=" ")
    print(", ".join(f"{name} {value:,.0f}" for name, value in peak.items()))
    print(table(report))


if __name__ == "__main__":
    main()
