"""Vectors of real chunks and questions, for the benchmarks that take files of vectors.

    python benchmarks/corpus_vectors.py --texts data/text-*.parquet --pairs data/pairs-*.parquet \
        --rows 100000 --questions 1000 --out vectors/

The documents are the `text` column of the first files and the `positive` column of the second, in
turns; they are cut as `index --chunk-tokens` cuts them, until there are --rows chunks. The
questions are queries of pairs whose positive was read. Written are passages.npy and questions.npy,
float16.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from adaptive_search import Encoder
from adaptive_search.chunking import Chunker
from adaptive_search.documents import Document
from adaptive_search.encoder.tokenizer import Ids

BLOCK = 2048
SEED = 0


def rows(paths: Sequence[Path], *columns: str) -> Iterator[tuple[str, ...]]:
    """Rows of text columns, in the order of the files."""
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(columns=list(columns)):
            yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)


def chunks(texts: Iterator[str], chunker: Chunker) -> Iterator[Ids]:
    """Token ids of the chunks of distinct texts."""
    seen = set()
    for text in texts:
        if hash(text) not in seen:
            seen.add(hash(text))
            for chunk in chunker.chunks(Document("", "", text)):
                yield chunk.ids


def encode(encoder: Encoder, texts: Iterator[Ids], count: int, granularity: int, out: Path) -> None:
    """Encode texts into a mapped float16 file (count, dim), block by block."""
    shape = (count, encoder.dims[-1])
    found = np.lib.format.open_memmap(out, mode="w+", dtype=np.float16, shape=shape)
    start = 0
    while block := list(itertools.islice(texts, BLOCK)):
        found[start : start + len(block)] = encoder.encode_ids(block, granularity=granularity)
        start += len(block)
        print(f"\r{out.name}: {start:,} of {count:,}", end="", flush=True)
    print()
    if start < count:
        raise SystemExit(f"the files hold no more than {start:,}; ask for fewer --rows")


def main() -> None:
    """Encode a corpus and questions into two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=100_000, help="chunks")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64, help="of a chunk at most")
    parser.add_argument("--granularity", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    encoder = Encoder.load(threads=args.threads)
    queries: list[str] = []

    def documents() -> Iterator[str]:
        pairs = rows(args.pairs, "query", "positive")
        for (text,), pair in itertools.zip_longest(
            rows(args.texts, "text"), pairs, fillvalue=("",)
        ):
            if text:
                yield text
            if len(pair) == 2:
                queries.append(pair[0])
                yield pair[1]

    chunker = Chunker(encoder.tokenizer, max_tokens=args.tokens, context=encoder.config.context)
    passages = itertools.islice(chunks(documents(), chunker), args.rows)
    encode(encoder, passages, args.rows, args.granularity, args.out / "passages.npy")
    distinct = list(dict.fromkeys(query for query in queries if query.strip()))
    rng = np.random.default_rng(SEED)
    chosen = [distinct[i] for i in rng.choice(len(distinct), args.questions, replace=False)]
    ids = encoder.tokenizer.encode_batch(chosen, context=encoder.config.context)
    cut = (each[: args.tokens] for each in ids)
    encode(encoder, cut, args.questions, args.granularity, args.out / "questions.npy")


if __name__ == "__main__":
    main()
