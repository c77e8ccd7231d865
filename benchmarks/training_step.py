"""Tokens a second of a training step on CPU, and what each part of it is worth.

A naive step runs texts in the order in which they come, padded to the longest, in float32 and with
plain tensor operations. The parts are added one after the other: groups of almost equal length,
bfloat16 autocast, native kernels. All run the same texts in turn, so that a busy machine slows all
alike; medians of the thread's processor time are printed.

    python benchmarks/training_step.py --texts DATA
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.data import (
    COLUMNS,
    TokenBatch,
    find_files,
    join,
    length_groups,
    pad,
    read_rows,
)
from adaptive_search.encoder.model import MatMambaEncoder
from adaptive_search.encoder.tokenizer import Ids, Tokenizer
from adaptive_search.kernels import training_ops

GROUP_TOKENS = 2048  # that run through the model at once, as in the packaged recipes


@dataclass(frozen=True)
class Step:
    """What a training step is made of."""

    grouped: bool = False
    bfloat16: bool = False
    native: bool = False

    def batches(self, texts: Sequence[Ids]) -> Iterator[TokenBatch]:
        """The texts as they run through the model."""
        if self.grouped:
            yield from (batch for _, batch in length_groups(texts, GROUP_TOKENS))
        else:
            for run in join([len(text) for text in texts], GROUP_TOKENS):
                yield pad([texts[place] for place in run], multiple=1)

    def seconds(self, model: MatMambaEncoder, texts: Sequence[Ids], granularity: int) -> float:
        """Run forward and backward once; processor time of this thread."""
        model.zero_grad()
        plain = mock.patch.object(training_ops, "supports", return_value=False)
        started = time.thread_time()
        with contextlib.nullcontext() if self.native else plain:
            for batch in self.batches(texts):
                ids, lengths = torch.from_numpy(batch.ids), torch.from_numpy(batch.lengths)
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                    vectors = model(ids, lengths, granularity)
                (vectors @ vectors.T).square().sum().backward()
        return time.thread_time() - started


STEPS = {
    "naive": Step(),
    "+ groups of equal length": Step(grouped=True),
    "+ bfloat16": Step(grouped=True, bfloat16=True),
    "+ native kernels": Step(grouped=True, bfloat16=True, native=True),
    "native kernels alone": Step(native=True),
}


def batches_of_texts(path: Path, tokens: int, max_tokens: int, count: int) -> list[list[Ids]]:
    """Token ids of the first texts at a path, in as many batches."""
    tokenizer = Tokenizer.load(checkpoint.shipped_weights() / checkpoint.TOKENIZER)
    rows = read_rows(find_files(path, "texts"), COLUMNS["texts"])
    strings = [text for (text,) in itertools.islice(rows, count * tokens // 8)]
    ids = tokenizer.encode_batch(strings, context=max_tokens)
    runs = join([len(text) for text in ids], tokens)[:count]
    return [[ids[place] for place in run] for run in runs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True, help="as of `train --texts`")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--granularity", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MatMambaEncoder(EncoderConfig(direction="alternating"))
    batches = batches_of_texts(args.texts, args.batch_tokens, args.max_tokens, args.repeats + 1)
    rates: dict[str, list[float]] = {name: [] for name in STEPS}
    for number, texts in enumerate(batches):
        for name, step in STEPS.items():
            seconds = step.seconds(model, texts, args.granularity)
            if number > 0:  # the first warms up
                rates[name].append(sum(map(len, texts)) / seconds)
    naive = statistics.median(rates["naive"])
    for name, taken in rates.items():
        rate = statistics.median(taken)
        print(f"{name:26} {rate:8,.0f} tokens/s {rate / naive:6.2f}")


if __name__ == "__main__":
    main()
