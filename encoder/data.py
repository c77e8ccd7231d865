"""Training data: texts and pairs from Parquet or JSONL, streamed as token batches.

Files are read in order and for ever. Every 200th row is kept apart for development.
A stream's place can be saved, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder.recipe import is_turn
from adaptive_search.encoder.tokenizer import Ids, Tokenizer
from adaptive_search.errors import TrainingError
from adaptive_search.json_text import parse_json

POOL_ROWS = 4096  # rows that are put into batches together
COLUMNS = {"texts": ("text",), "pairs": ("query", "positive")}
HELD_OUT = 200  # one row in so many is for development
MIN_WORDS = 3  # of a sentence that is trained on alone
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Text(NamedTuple):
    """A text of the data, and its framed token ids, cut to the stage's length."""

    string: str
    ids: Ids


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


def length_groups(
    sequences: Sequence[Ids], group_tokens: int
) -> Iterator[tuple[NDArray[np.int64], TokenBatch]]:
    """Put sequences of similar length into padded batches, with almost no padding.

    Args:
        sequences: token ids of each text.
        group_tokens: most tokens of a batch, padding included; a longer text has its own.

    Yields:
        Positions in `sequences`, int64 (batch,), and their batch; each text once.
    """
    lengths = np.array([len(s) for s in sequences])
    group: list[int] = []
    for position in np.argsort(-lengths, kind="stable").tolist():
        if group and (len(group) + 1) * lengths[group[0]] > group_tokens:
            yield np.array(group), pad([sequences[p] for p in group], multiple=1)
            group = []
        group.append(position)
    yield np.array(group), pad([sequences[p] for p in group], multiple=1)


def join(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Runs of consecutive texts that add up to at most `tokens`; a longer text is a run."""
    runs: list[list[int]] = []
    room = 0
    for position, length in enumerate(lengths):
        if length > room:
            runs.append([])
            room = tokens
        runs[-1].append(position)
        room -= length
    return runs


def sentences(text: str) -> list[str]:
    """The sentences of a text that are not very short; the whole text if there is none."""
    parts = [part for part in _SENTENCE_END.split(text) if len(part.split()) >= MIN_WORDS]
    return parts or [text]


def training_rows(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The rows that are trained on."""
    return (row for number, row in enumerate(rows, start=1) if number % HELD_OUT)


def held_out_rows(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The rows that are kept apart to measure development; none below HELD_OUT rows."""
    return itertools.islice(rows, HELD_OUT - 1, None, HELD_OUT)


def find_files(path: Path, kind: str) -> list[Path]:
    """The data files at a path: itself, or those of a kind in a directory.

    Args:
        path: a file; or a directory of `text*` or `pairs*`, .parquet or .jsonl.
        kind: a key of COLUMNS.

    Raises:
        TrainingError: there is none.
    """
    prefix = {"texts": "text", "pairs": "pairs"}[kind]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.startswith(prefix))
    else:
        files = [path] if path.is_file() else []
    files = [p for p in files if p.suffix in (".parquet", ".jsonl")]
    if not files:
        raise TrainingError(
            f"{path} holds no {kind}: neither a .parquet or .jsonl file nor a folder of "
            f"{prefix}*.parquet or {prefix}*.jsonl"
        )
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
                record = parse_json(line) if line.strip() else {}
                missing = [c for c in columns if not isinstance(record, dict) or c not in record]
                if missing:
                    raise TrainingError(f"{path}:{number}: no field {', '.join(missing)}")
                yield tuple(record[c] for c in columns)
    except json.JSONDecodeError as error:
        raise TrainingError(f"{path}:{number}: not JSON: {error}") from None
    except (ValueError, OSError) as error:
        raise TrainingError(f"{path} cannot be read as JSONL: {error}") from None


class TokenStream:
    """Endless batches of texts, or of pairs, with a place that can be saved.

    Rows are taken a pool at a time. A pool is cut into batches of rows of similar
    length, or of similar meaning, and the batches are shuffled.
    """

    def __init__(
        self,
        files: Sequence[Path],
        columns: tuple[str, ...],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        batch_tokens: int,
        seed: int,
        embed: Callable[[Sequence[Ids]], NDArray[np.float32]] | None = None,
        mined_share: float = 0.0,
        sentence_share: float = 0.0,
        first_pool: int = 0,
    ) -> None:
        """Prepare to stream; nothing is read yet.

        Args:
            files: Parquet or JSONL files.
            columns: the text columns to take: one for texts, two for pairs.
            tokenizer: turns texts into ids.
            max_tokens: longer texts are cut.
            batch_tokens: tokens of a batch, all columns together.
            seed: of the order within a pool of rows.
            embed: gives the vectors of the first column's texts, for mining.
            mined_share: share of the pools in which rows of close vectors share a batch,
                as each other's hard negatives; in the others, rows of similar length do.
            sentence_share: share of the rows, if they are single texts, whose sentences each
                become a row.
            first_pool: pools before it are passed over.
        """
        self._files, self._columns, self._tokenizer = list(files), columns, tokenizer
        self._max_tokens, self._batch_tokens, self._seed = max_tokens, batch_tokens, seed
        self._embed, self._mined_share = embed, mined_share
        self._sentence_share = sentence_share if len(columns) == 1 else 0.0
        self._pools = self._read_pools()
        self._rows: list[tuple[Text, ...]] = []
        self._starts: NDArray[np.int64] = np.zeros(1, np.int64)
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)
        self._pool, self._batch, self._first_pool = -1, 0, first_pool

    def __iter__(self) -> Iterator[tuple[list[Text], ...]]:
        """This stream; each batch is one list of texts for each column."""
        return self

    def __next__(self) -> tuple[list[Text], ...]:
        """The next batch.

        Raises:
            TrainingError: a file cannot be read, or there are no rows.
        """
        while self._batch == len(self._starts) - 1:
            while self._pool + 1 < self._first_pool:
                self._open_pool(tokenize=False)
            self._open_pool()
            self._cut(self._arranged())
        start, stop = self._starts[self._batch : self._batch + 2]
        self._batch += 1
        rows = [self._rows[row] for row in self._order[start:stop]]
        return tuple(list(column) for column in zip(*rows, strict=True))

    @property
    def next_pool(self) -> int:
        """The first pool that nothing was taken of."""
        return max(self._pool + 1, self._first_pool)

    def state(self) -> dict[str, NDArray[np.int64]]:
        """The place in the data, for `restore`."""
        return {
            "place": np.array([self._pool, self._batch]),
            "order": self._order,
            "starts": self._starts,
        }

    def restore(self, state: dict[str, NDArray[np.int64]]) -> None:
        """Go on where a stream of the same files, sizes and seed was.

        Raises:
            TrainingError: the files no longer hold the rows of that place.
        """
        pool, batch = (int(x) for x in state["place"])
        while self._pool < pool:
            self._open_pool(tokenize=self._pool == pool - 1)
        self._batch = batch
        self._order, self._starts = state["order"], state["starts"]
        if len(self._order) != len(self._rows):
            raise TrainingError("the training data has changed since the checkpoint was written")

    def _open_pool(self, *, tokenize: bool = True) -> None:
        rows = next(self._pools)
        self._pool, self._batch = self._pool + 1, 0
        if tokenize:
            rows = list(self._in_sentences(rows))
            columns = [self._encode(column) for column in zip(*rows, strict=True)]
            self._rows = list(zip(*columns, strict=True))

    def _in_sentences(self, rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
        for number, row in enumerate(rows):
            if is_turn(number, self._sentence_share):
                yield from ((sentence,) for sentence in sentences(row[0]))
            else:
                yield row

    def _encode(self, strings: Sequence[str]) -> list[Text]:
        ids = self._tokenizer.encode_batch(strings, context=self._max_tokens)
        return [Text(*pair) for pair in zip(strings, ids, strict=True)]

    def _read_pools(self) -> Iterator[list[tuple[str, ...]]]:
        while True:
            rows = training_rows(read_rows(self._files, self._columns))
            pool = list(itertools.islice(rows, POOL_ROWS))
            if not pool:
                raise TrainingError(f"no rows in {', '.join(str(p) for p in self._files)}")
            while pool:
                yield pool
                pool = list(itertools.islice(rows, POOL_ROWS))

    def _arranged(self) -> NDArray[np.int64]:
        """The pool's rows in an order that puts together what shares a batch."""
        rng = np.random.default_rng([self._seed, self._pool])
        if self._embed is None or not is_turn(self._pool, self._mined_share):
            # Jitter keeps equal lengths from always meeting the same neighbours.
            lengths = np.array([_tokens(row) for row in self._rows])
            return np.argsort(lengths + rng.random(len(lengths)))
        vectors = self._embed([row[0].ids for row in self._rows])
        return np.array(_alike(np.arange(len(vectors)), vectors), dtype=np.int64)

    def _cut(self, order: NDArray[np.int64]) -> None:
        """Cut an order into batches of at most batch_tokens, and shuffle the batches."""
        lengths = [_tokens(self._rows[row]) for row in order]
        batches = [order[run] for run in join(lengths, self._batch_tokens)]
        np.random.default_rng([self._seed, self._pool, 1]).shuffle(batches)  # type: ignore[arg-type]
        self._order = np.concatenate(batches)
        self._starts = np.cumsum([0, *map(len, batches)])


def _tokens(row: tuple[Text, ...]) -> int:
    return sum(len(text.ids) for text in row)


def _alike(rows: NDArray[np.int64], vectors: NDArray[np.float32], leaf: int = 8) -> list[int]:
    """Order rows so that close ones have close vectors: halve along the widest direction."""
    if len(rows) <= leaf:
        return [int(row) for row in rows]
    centred = vectors[rows] - vectors[rows].mean(axis=0)
    direction = centred[np.argmax((centred**2).sum(axis=1))]  # towards the farthest
    for _ in range(3):  # power iteration: near enough to the first principal direction
        direction = centred.T @ (centred @ direction)
        direction /= max(float(np.linalg.norm(direction)), 1e-12)
    along = rows[np.argsort(centred @ direction, kind="stable")]
    half = len(rows) // 2
    return _alike(along[:half], vectors, leaf) + _alike(along[half:], vectors, leaf)
