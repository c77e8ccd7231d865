"""Evaluation sets: retrieval sets in the layout of BEIR, and files of scored sentence pairs.

A retrieval set is a folder with `corpus.jsonl` ({"_id", "title", "text"}), `queries.jsonl`
({"_id", "text"}) and `qrels/test.tsv` (header; query id, document id, grade). A file of pairs is
tab-separated, with a header that names the columns score, sentence1 and sentence2.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adaptive_search.errors import CorpusError, QueryError
from adaptive_search.evaluation import (
    Qrels,
    Query,
    judged,
    mean_ndcg,
    mean_recall,
    read_lines,
    read_qrels,
    read_queries,
    relevant_documents,
)
from adaptive_search.json_text import parse_json
from adaptive_search.storage_io import hash_file

DEPTH = 100  # documents of a ranking
CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"
PAIR_COLUMNS = ("score", "sentence1", "sentence2")


@dataclass(frozen=True)
class Quality:
    """Means over the queries of a set."""

    ndcg_at_10: float
    recall_at_100: float


@dataclass(frozen=True)
class RetrievalSet:
    """One retrieval set.

    Attributes:
        path: its folder.
        queries: those with a relevant document.
        qrels: the judgements.
        size: number of documents.
    """

    path: Path
    queries: Sequence[Query]
    qrels: Qrels
    size: int

    @classmethod
    def load(cls, path: Path) -> RetrievalSet:
        """Read and check the files of a folder; documents are not kept.

        Raises:
            CorpusError: the corpus cannot be read, is empty, or has a bad line.
            QueryError: so for the queries or the judgements, or none of them belong together.
        """
        size = sum(1 for _ in _read_documents(path / CORPUS))
        if not size:
            raise CorpusError(f"{path / CORPUS}: holds no documents")
        queries, qrels = read_queries(path / QUERIES), read_qrels(path / QRELS)
        try:
            return cls(path, judged(queries, qrels), qrels, size)
        except QueryError as error:
            raise QueryError(f"{path}: {error}") from None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def corpus(self) -> Path:
        """The file of documents."""
        return self.path / CORPUS

    @property
    def query_texts(self) -> list[str]:
        """Texts of the queries, in order."""
        return [query.text for query in self.queries]

    @cached_property
    def digest(self) -> str:
        """Names the contents of the three files."""
        digest = hashlib.sha256()
        for name in (CORPUS, QUERIES, QRELS):
            digest.update(bytes.fromhex(hash_file(self.path / name).sha256))
        return digest.hexdigest()[:16]

    def documents(self) -> Iterator[tuple[str, str]]:
        """Id of each document, and its title and text."""
        return _read_documents(self.corpus)

    def measure(self, rankings: Sequence[Sequence[str]]) -> Quality:
        """Measure document ids, best first, of each query; without the query's own id."""
        relevant = relevant_documents(self.queries, self.qrels)
        return Quality(
            round(mean_ndcg(rankings, self.queries, self.qrels, 10), 4),
            round(mean_recall(rankings, relevant, DEPTH), 4),
        )


@dataclass(frozen=True)
class PairSet:
    """Sentence pairs, each with how similar people found them."""

    name: str
    scores: Sequence[float]
    first: Sequence[str]
    second: Sequence[str]

    @classmethod
    def load(cls, path: Path) -> PairSet:
        """Read a file of pairs.

        Raises:
            QueryError: the file cannot be read, lacks a column, has a bad line, or has no two
                pairs of different scores.
        """
        lines = read_lines(path)
        number, header = next(lines, (1, ""))
        names = header.split("\t")
        if missing := [name for name in PAIR_COLUMNS if name not in names]:
            raise QueryError(
                f"{path}:{number}: no column {', '.join(missing)}; expected a header with "
                f"{', '.join(PAIR_COLUMNS)}, separated by tabs"
            )
        places = [names.index(name) for name in PAIR_COLUMNS]
        pairs = [_pair(f"{path}:{n}", line.split("\t"), places, len(names)) for n, line in lines]
        if len({score for score, _, _ in pairs}) < 2:
            raise QueryError(f"{path}: holds no two pairs of different scores to compare")
        scores, first, second = zip(*pairs, strict=True)
        return cls(path.stem, scores, first, second)


def find_sets(paths: Sequence[Path]) -> list[RetrievalSet]:
    """The retrieval sets that are these folders, or folders in them, in order of their paths.

    Raises:
        CorpusError: a folder is or holds no set, two have one name, or a corpus is bad.
        QueryError: the queries or judgements of a set are bad.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if (path / CORPUS).exists():
            folders = [path]
        else:
            folders = sorted(corpus.parent for corpus in path.glob(f"*/{CORPUS}"))
        if not folders:
            raise CorpusError(f"{path}: no folder with {CORPUS}, {QUERIES} and {QRELS}")
        for folder in folders:
            name = folder.resolve().name
            if name in found:
                raise CorpusError(f"{found[name]} and {folder} have one name; rename one")
            found[name] = folder
    return [RetrievalSet.load(folder) for folder in found.values()]


def find_pairs(paths: Sequence[Path]) -> list[PairSet]:
    """The pairs of these files.

    Raises:
        QueryError: a file is bad, or two have one name.
    """
    found = [PairSet.load(path) for path in paths]
    names = [pairs.name for pairs in found]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise QueryError(f"two files of pairs have the name {doubled[0]}; rename one")
    return found


def _read_documents(path: Path) -> Iterator[tuple[str, str]]:
    """Id of each line's document, and its title and text."""
    seen: set[str] = set()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                identity, text = _document(f"{path}:{number}", line)
                if identity in seen:
                    raise CorpusError(f"{path}:{number}: document id {identity!r} occurs twice")
                seen.add(identity)
                yield identity, text
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or error}") from None


def _document(where: str, line: bytes) -> tuple[str, str]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise CorpusError(f"{where}: not JSON: {error}") from None
    if isinstance(record, dict):
        identity = record.get("_id", record.get("id"))
        title, text = record.get("title") or "", record.get("text")
        if isinstance(identity, str | int) and isinstance(title, str) and isinstance(text, str):
            return str(identity), f"{title} {text}".strip()
    raise CorpusError(f"{where}: expected an object with _id, title and text")


def _pair(
    where: str, fields: Sequence[str], places: Sequence[int], width: int
) -> tuple[float, str, str]:
    if len(fields) != width:
        raise QueryError(f"{where}: {len(fields)} columns; expected {width}, separated by tabs")
    score, first, second = (fields[place].strip() for place in places)
    try:
        number = float(score)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise QueryError(f"{where}: score {score!r} is not a finite number")
    if not first or not second:
        raise QueryError(f"{where}: a sentence is empty")
    return number, first, second
