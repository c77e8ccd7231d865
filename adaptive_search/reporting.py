"""Reports over an open index: what `report storage` and `report quality` show."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adaptive_search.encoder.granularity import Granularity
from adaptive_search.errors import QueryError, StoreError
from adaptive_search.evaluation import Query
from adaptive_search.index import CORPUS, AdaptiveIndex
from adaptive_search.prefix_recall import prefix_recall
from adaptive_search.reports import QualityReport, StorageReport, quality_report, storage_report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adaptive_search.indexes.funnel import SearchResult

QUERY_WORDS = 32  # of a chunk that serves as a query


class Reports:
    """The reports of one index."""

    def __init__(self, index: AdaptiveIndex) -> None:
        """Report on the generation that the index shows."""
        self._index = index

    def storage(self) -> StorageReport:
        """Bytes on disk and in memory, for each dimension."""
        store = self._index.store
        return storage_report(
            store.disk_usage(),
            dims=store.dims,
            chunks=store.status().rows,
            resident_bytes=self._index.funnel.resident_bytes if store.rows else 0,
        )

    def quality(
        self,
        queries: Sequence[Query] | None = None,
        qrels: Mapping[str, Mapping[str, int]] | None = None,
        *,
        all_granularities: bool = False,
    ) -> QualityReport:
        """Recall, nDCG and latency for each dimension, funnel and granularity.

        Args:
            queries: what to search for; chunks of the index by default, of which an index
                without an encoder takes the vectors.
            qrels: for each query id the grade of each relevant document id.
            all_granularities: also measure documents at the other granularities, which
                encodes the corpus anew for each, in a temporary directory.

        Raises:
            QueryError: the index is empty, or no query has a relevant document.
            StoreError: all_granularities is asked of an index that mirrors no corpus.
        """
        if self._index.store.spec.is_foreign:
            return self._quality_of_vectors(queries)
        with ExitStack() as stack:
            others = []
            if all_granularities:
                others = [stack.enter_context(copy) for copy in self._other_granularities()]
            return quality_report(
                IndexSearcher(self._index),
                queries,
                qrels,
                others=[IndexSearcher(other) for other in others],
            )

    def _quality_of_vectors(self, queries: Sequence[Query] | None) -> QualityReport:
        if queries is not None:
            _ = self._index.encoder  # says that there is none
        kept = prefix_recall(self._index.store)
        measured = quality_report(open_searcher(self._index))
        return replace(measured, note=kept.to_text() if kept else "")

    def _other_granularities(self) -> Iterator[AbstractContextManager[AdaptiveIndex]]:
        corpus = self._index.store.attributes.get(CORPUS)
        if corpus is None:
            raise StoreError(
                f"{self._index.path} mirrors no corpus that could be encoded anew; index a folder"
            )
        own = self._index.store.spec.granularity
        for granularity in self._index.encoder.granularities:
            if granularity != own:
                yield _copy_at(self._index, Path(str(corpus)), granularity)


@contextmanager
def _copy_at(
    index: AdaptiveIndex, corpus: Path, granularity: Granularity
) -> Iterator[AdaptiveIndex]:
    """An index of the same corpus at another granularity, for as long as it is needed."""
    tokens = index.store.spec.chunking["max_tokens"]
    with tempfile.TemporaryDirectory(prefix="adaptive-search-") as folder:
        copy = AdaptiveIndex.create(
            Path(folder) / "index",
            encoder=index.encoder,
            granularity=granularity,
            chunk_tokens=int(tokens),
            threads=index.threads,
        )
        copy.add(corpus)
        yield copy


class IndexSearcher:
    """An index as evaluations see it; see `adaptive_search.evaluation.Searcher`."""

    def __init__(self, index: AdaptiveIndex) -> None:
        """Search the generation that the index shows."""
        self._index = index
        self._documents = self._document_ids()

    @property
    def dims(self) -> Sequence[int]:
        """Nesting dimensions that the index holds."""
        return self._index.dims

    @property
    def rows(self) -> int:
        """Number of vectors, deleted ones among them."""
        return self._index.store.rows

    @property
    def granularity(self) -> Granularity:
        """Width of the encoder for the documents."""
        return self._index.store.spec.granularity

    @property
    def granularities(self) -> Sequence[Granularity]:
        """The trained widths, and that of the documents."""
        trained = self._index.encoder.granularities
        return trained if self.granularity in trained else (*trained, self.granularity)

    def encode_queries(self, texts: Sequence[str], granularity: Granularity) -> NDArray[np.float32]:
        """Vectors of texts, float32 (n, dims[-1])."""
        return self._index.encode_queries(texts, granularity, self.dims[-1])

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        dim: int,
        shortlist: int | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """Search as `Funnel.search` does."""
        return self._index.funnel.search(queries, k, dim=dim, shortlist=shortlist, exact=exact)

    def document_of(self, rows: NDArray[np.int64]) -> Sequence[str]:
        """Document id of each row."""
        names, numbers = self._documents
        return [names[numbers[row]] for row in rows]

    def sample_queries(self, count: int, seed: int) -> Sequence[Query]:
        """The first words of random live chunks, each under the id of its document."""
        return [
            Query(row.document_id, " ".join(row.text.split()[:QUERY_WORDS]))
            for row in self._index.rows(self._sample_rows(count, seed))
        ]

    def _sample_rows(self, count: int, seed: int) -> NDArray[np.int64]:
        segments = self._index.store.segments
        live = [np.ones(s.rows, bool) if s.live is None else s.live for s in segments]
        rows = np.flatnonzero(np.concatenate(live))
        if not len(rows):
            raise QueryError(f"{self._index.path} holds no chunks to measure; index a corpus first")
        drawn = np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False)
        return np.sort(drawn)

    def _document_ids(self) -> tuple[list[str], NDArray[np.int32]]:
        """Ids of all documents, and for each row the place of its document among them."""
        names: list[str] = []
        numbers: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
        for segment in self._index.store.segments:
            _, counts = segment.document_rows()
            places = np.arange(len(names), len(names) + len(counts), dtype=np.int32)
            numbers.append(np.repeat(places, counts))
            names += segment.document_ids()
        return names, np.concatenate(numbers)


class VectorSearcher(IndexSearcher):
    """An index without an encoder, searched with vectors of its own: the text of a query is a row.

    Both are at hand for vectors of any model, and what the nearest of them are is what an
    evaluation without judgements measures.
    """

    @property
    def granularities(self) -> Sequence[Granularity]:
        """None: there is no encoder."""
        return ()

    def sample_queries(self, count: int, seed: int) -> Sequence[Query]:
        """Random live rows, each under the id of its document."""
        rows = self._sample_rows(count, seed)
        return [Query(d, str(row)) for d, row in zip(self.document_of(rows), rows, strict=True)]

    def encode_queries(self, texts: Sequence[str], granularity: Granularity) -> NDArray[np.float32]:
        """The vectors of rows, float32 (n, dims[-1])."""
        found = np.zeros((len(texts), self.dims[-1]), np.float32)
        segments = self._index.store.segments
        starts = np.cumsum([0, *(segment.rows for segment in segments)])
        for vector, row in zip(found, map(int, texts), strict=True):
            at = int(np.searchsorted(starts, row, side="right")) - 1
            bands = range(len(self.dims))
            np.concatenate([segments[at].band(b)[row - starts[at]] for b in bands], out=vector)
        return found


def open_searcher(index: AdaptiveIndex) -> IndexSearcher:
    """An index as evaluations see it, whether it has an encoder or not."""
    return VectorSearcher(index) if index.store.spec.is_foreign else IndexSearcher(index)
