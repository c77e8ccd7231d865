"""Vectors of real passages and questions, for the benchmarks that take files of vectors.

    python benchmarks/corpus_vectors.py --texts data/text-*.parquet --pairs data/pairs-*.parquet \
        --rows 100000 --questions 1000 --out vectors/

The passages are the `text` column of the first files and the `positive` column of the second, half
and half where there are enough, each cut to --tokens; the questions are the `query` column of pairs
whose passage is among them. Written are passages.npy and questions.npy, float16.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from adaptive_search import Encoder

BLOCK = 2048
SEED = 0


def column(paths: Sequence[Path], name: str) -> Iterator[str]:
    """Distinct non-empty values of a text column, in the order of the files."""
    seen = set()
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(columns=[name]):
            for text in batch.column(0).to_pylist():
                if text.strip() and text not in seen:
                    seen.add(text)
                    yield text


def encode(
    encoder: Encoder, texts: Sequence[str], tokens: int, granularity: int, out: Path
) -> NDArray[np.float16]:
    """Encode texts, cut to `tokens`, into a mapped float16 file (texts, dim), block by block."""
    shape = (len(texts), encoder.dims[-1])
    found = np.lib.format.open_memmap(out, mode="w+", dtype=np.float16, shape=shape)
    for start in range(0, len(texts), BLOCK):
        block = encoder.tokenizer.encode_batch(
            texts[start : start + BLOCK], context=encoder.config.context
        )
        cut = [ids[:tokens] for ids in block]
        found[start : start + BLOCK] = encoder.encode_ids(cut, granularity=granularity)
        print(f"\r{out.name}: {min(start + BLOCK, len(texts)):,} of {len(texts):,}", end="")
    print()
    return found


def main() -> None:
    """Encode a corpus and questions into two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--granularity", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    positives = list(itertools.islice(column(args.pairs, "positive"), args.rows // 2))
    passages = list(itertools.islice(column(args.texts, "text"), args.rows - len(positives)))
    passages += positives
    rng = np.random.default_rng(SEED)
    passages = [passages[i] for i in rng.permutation(len(passages))]
    questions = list(itertools.islice(column(args.pairs, "query"), args.rows // 2))
    chosen = [questions[i] for i in rng.choice(len(questions), args.questions, replace=False)]
    encoder = Encoder.load(threads=args.threads)
    options = {"tokens": args.tokens, "granularity": args.granularity}
    encode(encoder, chosen, out=args.out / "questions.npy", **options)
    encode(encoder, passages, out=args.out / "passages.npy", **options)


if __name__ == "__main__":
    main()
