"""Training data: texts and pairs from Parquet or JSONL, streamed as token batches.

Files are read in order and for ever; every batch is a function of the seed and
its number alone, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder.tokenizer import Ids, Tokenizer
from adaptive_search.errors import TrainingError

POOL_ROWS = 4096  # rows that are shuffled and bucketed by length together


@dataclass(frozen=True)
class TokenBatch:
    """Texts of similar length, padded on the right with zeros.

    ids is int64 (batch, seqlen) and lengths int64 (batch,).
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Tokens of the texts, padding left out."""
        return int(self.lengths.sum())


def pad(sequences: Sequence[Ids], multiple: int = 8) -> TokenBatch:
    """Put sequences into one batch whose seqlen is a multiple of `multiple`."""
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    seqlen = -(-int(lengths.max()) // multiple) * multiple
    ids = np.zeros((len(sequences), seqlen), dtype=np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return TokenBatch(ids, lengths)


def find_files(path: Path, prefix: str) -> list[Path]:
    """The data files at a path: itself, or a directory's `prefix*.parquet|.jsonl`.

    Raises:
        TrainingError: there is none.
    """
    if path.is_dir():
        kinds = (".parquet", ".jsonl")
        files = sorted(p for p in path.iterdir() if p.name.startswith(prefix))
        files = [p for p in files if p.suffix in kinds]
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise TrainingError(f"{path} holds no {prefix}*.parquet or {prefix}*.jsonl files")
    return files


def read_rows(files: Sequence[Path], columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The rows of all files once, each as its non-empty strings in column order.

    Raises:
        TrainingError: a file cannot be read, a column is missing, or a value is
            not a string; the message names file and row.
    """
    for path in files:
        reader = _parquet_rows if path.suffix == ".parquet" else _jsonl_rows
        for number, row in enumerate(reader(path, columns), start=1):
            for column, value in zip(columns, row, strict=True):
                if not isinstance(value, str) or not value.strip():
                    found = "is empty" if isinstance(value, str) else f"is {value!r}"
                    raise TrainingError(
                        f"{path}:{number}: field '{column}' {found}; it must be a text"
                    )
            yield row


def _parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(columns) - set(file.schema_arrow.names))
            if missing:
                raise TrainingError(f"{path} has no column {', '.join(missing)}")
            for batch in file.iter_batches(batch_size=POOL_ROWS, columns=list(columns)):
                yield from zip(*(batch[c].to_pylist() for c in columns), strict=True)
    except (pa.ArrowException, OSError) as error:
        raise TrainingError(f"{path} cannot be read as Parquet: {error}") from None


def _jsonl_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                record = json.loads(line) if line.strip() else {}
                missing = [c for c in columns if not isinstance(record, dict) or c not in record]
                if missing:
                    raise TrainingError(f"{path}:{number}: no field {', '.join(missing)}")
                yield tuple(record[c] for c in columns)
    except json.JSONDecodeError as error:
        raise TrainingError(f"{path}:{number}: not JSON: {error}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise TrainingError(f"{path} cannot be read as JSONL: {error}") from None


class TokenStream:
    """Endless token batches of texts, or of pairs, bucketed by length."""

    def __init__(
        self,
        files: Sequence[Path],
        columns: tuple[str, ...],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        batch_tokens: int,
        seed: int,
    ) -> None:
        """Prepare to stream; nothing is read yet.

        Args:
            files: Parquet or JSONL files.
            columns: the text columns to take: one for texts, two for pairs.
            tokenizer: turns texts into ids.
            max_tokens: longer texts are cut.
            batch_tokens: padded tokens of a batch, all columns together.
            seed: of the order within a pool of rows.
        """
        self._files, self._columns, self._tokenizer = list(files), columns, tokenizer
        self._max_tokens, self._batch_tokens, self._seed = max_tokens, batch_tokens, seed

    def batches(self, start: int = 0) -> Iterator[tuple[TokenBatch, ...]]:
        """Batches from number `start` on, one TokenBatch for each column."""
        number = 0
        for pool_number, pool in enumerate(self._pools()):
            rng = np.random.default_rng([self._seed, pool_number])
            columns = [self._encode(texts) for texts in zip(*pool, strict=True)]
            rows = list(zip(*columns, strict=True))
            for rows_of_batch in self._buckets(rows, rng):
                if number >= start:
                    yield tuple(pad(column) for column in zip(*rows_of_batch, strict=True))
                number += 1

    def _pools(self) -> Iterator[list[tuple[str, ...]]]:
        while True:
            pool: list[tuple[str, ...]] = []
            found = False
            for row in read_rows(self._files, self._columns):
                found = True
                pool.append(row)
                if len(pool) == POOL_ROWS:
                    yield pool
                    pool = []
            if not found:
                raise TrainingError(f"no rows in {', '.join(str(p) for p in self._files)}")
            if pool:
                yield pool

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        return self._tokenizer.encode_batch(texts, context=self._max_tokens)

    def _buckets(
        self, rows: list[tuple[Ids, ...]], rng: np.random.Generator
    ) -> list[list[tuple[Ids, ...]]]:
        # Jitter keeps equal lengths from always meeting the same neighbours.
        lengths = np.array([max(len(ids) for ids in row) for row in rows]) + rng.random(len(rows))
        buckets: list[list[tuple[Ids, ...]]] = [[]]
        widest = [0] * len(self._columns)
        for index in np.argsort(lengths):
            row = rows[index]
            widest = [max(w, len(ids)) for w, ids in zip(widest, row, strict=True)]
            if buckets[-1] and sum(widest) * (len(buckets[-1]) + 1) > self._batch_tokens:
                buckets.append([])
                widest = [len(ids) for ids in row]
            buckets[-1].append(row)
        rng.shuffle(buckets)  # type: ignore[arg-type]
        return buckets
