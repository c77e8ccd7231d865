"""Tokens a second of a training step on CPU, with plain tensor operations and native ones.

The two alternate, so that a busy machine slows both alike; medians are printed.

    python benchmarks/training_step.py --batch 16 --seqlen 128
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from unittest import mock

import torch

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.model import MatMambaEncoder
from adaptive_search.kernels import training_ops


def step(model: MatMambaEncoder, ids: torch.Tensor, granularity: int) -> float:
    """Run forward and backward once; seconds."""
    lengths = torch.full((ids.shape[0],), ids.shape[1])
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        vectors = model(ids, lengths, granularity)
    (vectors @ vectors.T).square().sum().backward()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--granularity", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = EncoderConfig()
    model = MatMambaEncoder(config)
    ids = torch.randint(0, config.vocab_size, (args.batch, args.seqlen))
    seconds: dict[str, list[float]] = {"plain": [], "native": []}
    for repeat in range(args.repeats + 1):
        for name, taken in seconds.items():
            plain = mock.patch.object(training_ops, "supports", return_value=False)
            with plain if name == "plain" else contextlib.nullcontext():
                elapsed = step(model, ids, args.granularity)
            if repeat > 0:  # the first warms up
                taken.append(elapsed)
    for name, taken in seconds.items():
        print(f"{name:7} {ids.numel() / statistics.median(taken):8.0f} tokens/s")


if __name__ == "__main__":
    main()
