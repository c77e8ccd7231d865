"""Retrieval sets in the layout of BEIR, and how rankings of their documents are measured.

A set is a folder with `corpus.jsonl` ({"_id", "title", "text"}), `queries.jsonl` ({"_id", "text"})
and `qrels/test.tsv` (header; query id, document id, grade).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adaptive_search.evaluation import (
    Qrels,
    Query,
    judged,
    mean_ndcg,
    mean_recall,
    read_qrels,
    read_queries,
    relevant_documents,
)

DEPTH = 100  # documents of a ranking


@dataclass(frozen=True)
class Quality:
    """Means over the queries of a set."""

    ndcg_at_10: float
    recall_at_100: float


@dataclass(frozen=True)
class RetrievalSet:
    """One set; queries are those with a relevant document."""

    path: Path
    queries: Sequence[Query]
    qrels: Qrels

    @classmethod
    def load(cls, path: Path) -> RetrievalSet:
        """Read the queries and judgements of a folder."""
        qrels = read_qrels(path / "qrels" / "test.tsv")
        return cls(path, judged(read_queries(path / "queries.jsonl"), qrels), qrels)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def corpus(self) -> Path:
        """The file of documents."""
        return self.path / "corpus.jsonl"

    @property
    def query_texts(self) -> list[str]:
        """Texts of the queries, in order."""
        return [query.text for query in self.queries]

    @cached_property
    def digest(self) -> str:
        """Names the contents of the three files."""
        digest = hashlib.sha256()
        for file in (self.corpus, self.path / "queries.jsonl", self.path / "qrels" / "test.tsv"):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:16]

    def documents(self) -> tuple[list[str], list[str]]:
        """Ids of the documents, and for each its title and text."""
        ids, texts = [], []
        with self.corpus.open(encoding="utf-8") as file:
            for record in map(json.loads, file):
                ids.append(str(record["_id"]))
                texts.append(f"{record.get('title', '')} {record['text']}".strip())
        return ids, texts

    def measure(self, rankings: Sequence[Sequence[str]]) -> Quality:
        """Measure document ids, best first, of each query; without the query's own id."""
        relevant = relevant_documents(self.queries, self.qrels)
        return Quality(
            round(mean_ndcg(rankings, self.queries, self.qrels, 10), 4),
            round(mean_recall(rankings, relevant, DEPTH), 4),
        )

    def without_own(self, rankings: Sequence[Sequence[str]]) -> list[list[str]]:
        """Rankings with the document that has the query's own id left out."""
        return [
            [document for document in ranking if document != query.id][:DEPTH]
            for query, ranking in zip(self.queries, rankings, strict=True)
        ]


def find_sets(folder: Path, names: Sequence[str]) -> list[RetrievalSet]:
    """The sets in a folder, or the named ones among them."""
    found = sorted(path.parent for path in folder.glob("*/corpus.jsonl"))
    missing = set(names) - {path.name for path in found}
    if missing or not found:
        raise SystemExit(f"{folder} holds no set {', '.join(sorted(missing))}".rstrip())
    return [RetrievalSet.load(path) for path in found if not names or path.name in names]
