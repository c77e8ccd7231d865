"""AdaptiveIndex: the door to everything.

Example:
    index = AdaptiveIndex.create("my.index")
    index.add("corpus/")
    hits = index.search("how do plants store energy", k=10, dim=512)

    index = AdaptiveIndex.create("vectors.index", dims=[256, 512, 1024, 3072])
    index.add_vectors(ids, vectors)
    hits = index.search_vector(vector, k=10, dim=1024)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from adaptive_search.documents import Document, Scalar, Skipped, is_text
from adaptive_search.encoder.granularity import Granularity, granularity_name
from adaptive_search.errors import QueryError, StoreError, StoreLockedError
from adaptive_search.filters import Filter, Filters
from adaptive_search.hits import Hit, Hits
from adaptive_search.indexes.plan import DEFAULT_RECALL, Plan
from adaptive_search.manifest import StoreSpec, is_index
from adaptive_search.segment_search import (
    is_plan_due,
    keep_codes,
    make_plan,
    open_funnel,
    read_plan,
)
from adaptive_search.store import Store, StoreStatus
from adaptive_search.vectors import SOURCE, VectorChecker, checked_dims, query_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adaptive_search.encoder.encoder import Encoder
    from adaptive_search.indexes.funnel import Funnel, SearchResult
    from adaptive_search.indexing import IndexSummary
    from adaptive_search.prefix_recall import PrefixRecall
    from adaptive_search.repair import RepairReport
    from adaptive_search.reporting import Reports
    from adaptive_search.segment import Row
    from adaptive_search.vectors import Fields, Id, VectorBatch, Vectors
    from adaptive_search.verification import VerifyReport

DEFAULT_DIM = 512
Dim = int | Literal["auto"]
CHUNK_TOKENS = 256
CORPUS = "corpus"  # the manifest attribute that names the mirrored corpus


class AdaptiveIndex:
    """An index directory with the encoder that made it.

    It shows one generation; `add`, `add_texts`, `delete` and `compact` of this
    object move it to the generation that they commit, other writers do not disturb it.
    """

    def __init__(self, store: Store, encoder: Encoder | None, *, threads: int | None) -> None:
        """Use `create` or `open`."""
        self._store = store
        self._given_encoder = encoder
        self._asked_threads = threads
        self._filters = Filters()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        dims: Iterable[int] | None = None,
        encoder: Encoder | None = None,
        granularity: Granularity = 1,
        chunk_tokens: int = CHUNK_TOKENS,
        threads: int | None = None,
    ) -> AdaptiveIndex:
        """Make an empty index in a new or empty directory.

        Args:
            path: of the directory.
            dims: nesting dimensions of vectors from elsewhere, rising to their full width. The
                index then has no encoder, and takes vectors alone.
            encoder: what encodes documents and queries; the shipped weights by default.
            granularity: width of the encoder for documents; see `Encoder.encode`.
            chunk_tokens: most tokens of a chunk.
            threads: CPU threads; all by default.

        Raises:
            StoreError: something is there already, or the disk refuses.
            QueryError: dims, granularity or chunk_tokens make no sense.
        """
        if dims is not None:
            if encoder is not None:
                raise QueryError("an index has either an encoder or dims for vectors of others")
            spec = StoreSpec(SOURCE, checked_dims(dims), prefix_energy=None)
            return cls(Store.create(path, spec=spec), None, threads=threads)
        from adaptive_search.encoder.encoder import Encoder

        encoder = encoder or Encoder.load(threads=threads)
        granularity = encoder.config.canonical(granularity)
        if not 16 <= chunk_tokens <= encoder.config.context:
            raise QueryError(
                f"chunk_tokens={chunk_tokens} must be from 16 to {encoder.config.context}"
            )
        spec = StoreSpec(
            fingerprint=encoder.fingerprint,
            dims=encoder.dims,
            prefix_energy=encoder.config.prefix_energy,
            granularity=granularity,
            chunking={"max_tokens": chunk_tokens},
        )
        return cls(Store.create(path, spec=spec), encoder, threads=threads)

    @classmethod
    def open(
        cls, path: str | Path, *, encoder: Encoder | None = None, threads: int | None = None
    ) -> AdaptiveIndex:
        """Open the latest generation of an index. The encoder is loaded when first needed.

        Args:
            path: of the directory.
            encoder: the one that the index was made with; the shipped weights by default.
            threads: CPU threads; all by default.

        Raises:
            StoreError: the directory is no index, or a file of it is damaged.
            ModelMismatchError: the index was made by other weights than the encoder's.
        """
        index = cls(Store.open(path), encoder, threads=threads)
        if encoder is not None and not index._store.spec.is_foreign:
            index._store.check_fingerprint(encoder.fingerprint)
        return index

    @property
    def path(self) -> Path:
        """The directory."""
        return self._store.path

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions that can be searched."""
        return self._store.dims

    @property
    def store(self) -> Store:
        """The generation that this object shows."""
        return self._store

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that made the index.

        Raises:
            ModelMismatchError: the shipped weights are not those of the index.
            QueryError: the index is of vectors from elsewhere, and has none.
        """
        if self._store.spec.is_foreign:
            raise QueryError(
                f"{self.path} holds vectors from elsewhere and has no encoder for texts; give "
                "vectors of the model that made them (search_vector and add_vectors, or query "
                "--vector and index --vectors)"
            )
        if self._given_encoder is not None:
            return self._given_encoder
        from adaptive_search.encoder.encoder import Encoder

        encoder = Encoder.load(threads=self._asked_threads)
        self._store.check_fingerprint(encoder.fingerprint)
        return encoder

    @cached_property
    def threads(self) -> int:
        """CPU threads for encoding and searching."""
        if self._asked_threads:
            return self._asked_threads
        from adaptive_search.encoder.encoder import available_threads

        return available_threads()

    def require(
        self,
        *,
        granularity: Granularity | None = None,
        chunk_tokens: int | None = None,
        dims: tuple[int, ...] | None = None,
    ) -> None:
        """Refuse settings that differ from those the index was made with.

        Raises:
            StoreError: they differ; the message names both.
        """
        spec = self._store.spec
        if isinstance(granularity, tuple):
            granularity = self.encoder.config.canonical(granularity)
        for name, asked, own in (
            ("granularity", granularity, spec.granularity),
            ("chunk_tokens", chunk_tokens, spec.chunking.get("max_tokens")),
            ("dims", dims, spec.dims),
        ):
            if asked is None or asked == own:
                continue
            shown: Callable[[Any], str] = granularity_name if name == "granularity" else _shown
            raise StoreError(
                f"{self.path} was made with {name} {shown(own)}, not {shown(asked)}; "
                f"leave {name} out, or make another index"
            )

    def __len__(self) -> int:
        """Chunks that can be found."""
        return self._store.status().rows

    # -- change ------------------------------------------------------------

    def add(
        self,
        corpus: str | Path,
        *,
        wait: bool = False,
        report: Callable[[IndexSummary], None] = lambda _: None,
        **reading: Any,  # noqa: ANN401
    ) -> IndexSummary:
        """Mirror a file or folder: add what is new, replace what changed, drop what vanished.

        An index mirrors one corpus; texts from `add_texts` live beside it untouched.

        Args:
            corpus: file or directory.
            wait: wait for another writer instead of refusing.
            report: called with the running summary.
            reading: options of `adaptive_search.corpus.read_corpus`: include, exclude,
                hidden, max_file_bytes.

        Raises:
            CorpusError: the corpus is missing, unreadable, or holds nothing to index.
            StoreError: the index mirrors another corpus, is being written, or the disk refuses.
        """
        from adaptive_search.corpus import least_new_text, read_corpus

        root = Path(corpus).resolve()
        documents = read_corpus(root, **reading)
        known = self._store.attributes.get(CORPUS)
        if known not in (None, str(root)):
            raise StoreError(
                f"{self.path} mirrors {known}; indexing {root} into it would delete that. "
                "Choose another index directory"
            )
        return self._index(
            documents,
            prune=True,
            attributes={CORPUS: str(root)},
            least_text=partial(least_new_text, root, **reading),
            wait=wait,
            report=report,
        )

    def add_texts(
        self,
        texts: Iterable[str],
        *,
        ids: Iterable[str] | None = None,
        metadata: Iterable[Mapping[str, Scalar]] | None = None,
        wait: bool = False,
    ) -> IndexSummary:
        """Add or replace texts.

        Args:
            texts: the texts.
            ids: their document ids; by default numbers above all that are there.
            metadata: fields of each, to filter on.
            wait: wait for another writer instead of refusing.

        Raises:
            QueryError: ids or metadata do not match the texts one to one, an id comes
                twice, a text is empty, or a field is no text, finite number or boolean.
            StoreError: the index is being written, or the disk refuses.
        """
        from adaptive_search.indexing import text_documents

        documents = text_documents(self.path, texts, ids, metadata)
        return self._index(documents, prune=False, attributes={}, wait=wait)

    def add_vectors(
        self,
        ids: Iterable[Id],
        vectors: Vectors,
        metadata: Iterable[Fields] | None = None,
        texts: Iterable[str | None] | None = None,
        *,
        wait: bool = False,
    ) -> IndexSummary:
        """Add or replace vectors; those that the index holds already are not written again.

        Iterables are read as they come, and the vectors a batch at a time. What was stored before
        an error stays, full segments at most: mend the rest and repeat the call.

        Args:
            ids: a whole number of 64 bits, or a text, for each vector. 7 and "7" are the same.
            vectors: floats of any length but 0, as wide as the index's highest dimension: a
                matrix (n, width), an Arrow list column, or an iterable of vectors or of these.
                An index that has an encoder takes vectors that `Encoder.encode` gave, at full
                dimension, and refuses others by the lengths of their bands.
            metadata: fields of each, to filter on; None and NaN leave a field out.
            texts: of each, to show with hits; None for none.
            wait: wait for another writer instead of refusing.

        Raises:
            QueryError: a vector has another width or dtype, is zero or not finite; an id comes
                twice, or is neither number nor text; or there are not as many of each.
            StoreError: the index is being written, or the disk refuses.
        """
        batches = VectorChecker(self._store.spec).batches(ids, vectors, metadata, texts)
        return self._add_vectors(batches, wait=wait)

    def add_vector_file(
        self,
        path: str | Path,
        *,
        id_column: str = "id",
        vector_column: str = "vector",
        wait: bool = False,
        report: Callable[[IndexSummary], None] = lambda _: None,
    ) -> IndexSummary:
        """Add or replace the vectors of a Parquet, Arrow or .npy file, as `add_vectors` does.

        Args:
            path: of the file; it is streamed. Rows of .npy have their numbers for ids.
            id_column: column of texts or whole numbers.
            vector_column: column of lists of floats. A column `text` is shown with hits, and
                other columns of plain values become metadata.
            wait: wait for another writer instead of refusing.
            report: called with the running summary after each batch.

        Raises:
            QueryError: the file cannot be read, or a row cannot be stored.
            StoreError: the index is being written, or the disk refuses.
        """
        from adaptive_search.vector_files import VectorFile

        file = VectorFile(Path(path), id_column, vector_column)
        batches = file.batches(VectorChecker(self._store.spec))
        return self._add_vectors(batches, rows=file.rows, wait=wait, report=report)

    def delete(self, document_ids: Iterable[str], *, wait: bool = False) -> int:
        """Delete documents by id; gives how many there were. Unknown ids are ignored."""
        with self._store.writer(wait=wait) as writer:
            count = writer.delete_documents(document_ids)
        self._refresh()
        return count

    def compact(self, *, wait: bool = False) -> None:
        """Merge small segments and drop deleted rows."""
        self._store.compact(wait=wait)
        self._refresh()

    def tune(self, recall: float = DEFAULT_RECALL, *, wait: bool = False) -> Plan:
        """Choose how to search, so that a share of the true ten best is found, and record it.

        Indexes of 10,000 chunks and more do it of themselves, at the recall asked for last, when
        they are filled and whenever they have doubled or halved.

        Args:
            recall: the share to find, above 0 and at most 1, at full dims.
            wait: wait for another writer instead of refusing.

        Raises:
            QueryError: recall makes no sense, or the index has no rows or not all its bands.
            StoreError: the index is being written, or the disk refuses.
        """
        plan = make_plan(self._store, recall=recall, threads=self.threads, wait=wait)
        self._refresh()
        self._keep_codes()
        return plan

    def remove_if_unused(self) -> None:
        """Remove the index from disk if nothing was ever committed to it."""
        self._store.remove_if_unused()

    # -- search ------------------------------------------------------------

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        dim: Dim | None = None,
        shortlist: int | None = None,
        filter: Filter | None = None,
        granularity: Granularity | None = None,
        exact: bool = False,
    ) -> Hits:
        """Find the chunks nearest to a query.

        Args:
            query: text.
            k: hits.
            dim: dimension of the final scores; 512 by default, or the largest below it. "auto"
                goes up to the highest, or stops where higher ones no longer change the hits.
            shortlist: candidates of the 64-d stage; chosen by the funnel by default.
            filter: metadata that hits must have, as in {"lang": ["en", "de"], "year": {">=":
                2020}}; see `adaptive_search.filters.Filters.rows`.
            granularity: width of the encoder for the query; the documents' by default.
            exact: score every chunk at `dim`, without a shortlist.

        Raises:
            QueryError: the query is empty, or an argument makes no sense.
            DimensionError: dim is not a nesting dimension of this index.
        """
        options: dict[str, Any] = {"dim": dim, "shortlist": shortlist, "filter": filter}
        return self.search_batch([query], k, granularity=granularity, exact=exact, **options)[0]

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        dim: Dim | None = None,
        shortlist: int | None = None,
        filter: Filter | None = None,
        granularity: Granularity | None = None,
        exact: bool = False,
    ) -> list[Hits]:
        """Search for several queries at once; see `search`."""
        if any(not query.strip() for query in queries):
            raise QueryError("the query is empty; give at least one word")
        dim = self._choose_dim(dim)
        _ = self.encoder  # loading it is no part of the time to encode
        level = self._store.spec.granularity if granularity is None else granularity
        begin = time.perf_counter()
        vectors = self.encode_queries(
            queries, level, self.dims[-1] if isinstance(dim, str) else dim
        )
        encode_ms = (time.perf_counter() - begin) * 1e3
        result = self._search(vectors, k, dim, shortlist, filter, exact)
        used = None if exact else self.funnel.plan.for_hits(k, shortlist).shortlist
        return self._hits(queries, result, used, level, encode_ms)

    def search_vector(
        self,
        vector: NDArray[np.floating[Any]] | Sequence[float],
        k: int = 10,
        *,
        dim: Dim | None = None,
        shortlist: int | None = None,
        filter: Filter | None = None,
        exact: bool = False,
    ) -> Hits:
        """Find the chunks nearest to a vector, floats (>= dim,) of any length; see `search`."""
        options: dict[str, Any] = {"dim": dim, "shortlist": shortlist, "filter": filter}
        batch = query_matrix([vector])
        if len(batch) != 1:
            raise QueryError(f"{len(batch)} vectors were given; search_vectors takes several")
        return self.search_vectors(batch, k, exact=exact, **options)[0]

    def search_vectors(
        self,
        vectors: Vectors,
        k: int = 10,
        *,
        dim: Dim | None = None,
        shortlist: int | None = None,
        filter: Filter | None = None,
        exact: bool = False,
    ) -> list[Hits]:
        """Search for several vectors at once; see `search_vector`.

        Args:
            vectors: as `add_vectors` takes them, or prefixes of at least dim numbers.
            k: hits of each.
            dim: dimension of the final scores; 512 by default, or the largest below it.
            shortlist: candidates of the first stage; chosen by the funnel by default.
            filter: what metadata hits must have; see `search`.
            exact: score every chunk at `dim`, without a shortlist.

        Raises:
            QueryError: a vector is too short, zero or not finite, or an argument makes no sense.
            DimensionError: dim is not a nesting dimension of this index.
        """
        dim = self._choose_dim(dim)
        batch = query_matrix(vectors)
        if not len(batch):
            return []
        result = self._search(batch, k, dim, shortlist, filter, exact)
        used = None if exact else self.funnel.plan.for_hits(k, shortlist).shortlist
        return self._hits([""] * len(batch), result, used, self._store.spec.granularity, 0.0)

    def encode_queries(
        self, queries: Sequence[str], granularity: Granularity, dim: int | None = None
    ) -> NDArray[np.float32]:
        """Vectors of queries, float32 (queries, dim), as `search_vector` takes them.

        Raises:
            QueryError: a query is no text, or has more tokens than the encoder reads.
        """
        if not all(map(is_text, queries)):
            raise QueryError("a query holds half a surrogate pair, which is no text")
        encoder, context = self.encoder, self.encoder.config.context
        ids = encoder.tokenizer.encode_batch(queries, context=sys.maxsize)
        longest = max(map(len, ids), default=0)
        if longest > context:
            raise QueryError(
                f"the query has {longest:,} tokens and at most {context:,} can be read; shorten it"
            )
        return encoder.encode_ids(ids, dim, granularity=granularity)

    @cached_property
    def funnel(self) -> Funnel:
        """The funnel over this generation."""
        return open_funnel(self._store, threads=self.threads)

    def rows(self, numbers: Iterable[int]) -> Iterator[Row]:
        """The stored chunks of row numbers, as `SearchResult.rows` has them."""
        segments = self._store.segments
        starts = np.cumsum([0, *(segment.rows for segment in segments)])
        wanted = np.array(list(numbers), np.int64)
        at = np.searchsorted(starts, wanted, side="right") - 1
        places = list(zip(at.tolist(), (wanted - starts[at]).tolist(), strict=True))
        for number in set(at.tolist()):
            segments[number].fetch_chunks([row for place, row in places if place == number])
        for place, row in places:
            yield from segments[place].chunks([row])

    # -- look --------------------------------------------------------------

    def status(self) -> StoreStatus:
        """Counts and bytes."""
        return self._store.status()

    def verify(self, *, deep: bool = True) -> VerifyReport:
        """Check every file; see `Store.verify`."""
        return self._store.verify(deep=deep)

    @staticmethod
    def repair(path: str | Path, *, drop_damaged: bool = False, wait: bool = False) -> RepairReport:
        """Mend an index that may be too damaged to be opened; see `repair.repair_index`."""
        from adaptive_search.repair import repair_index

        return repair_index(Path(path), drop_damaged=drop_damaged, wait=wait)

    def export(self, dim: int, path: str | Path, *, half: bool = False) -> int:
        """Write chunks and their unit vectors at one dimension to .arrow or .parquet."""
        return self._store.export(dim, path, half=half)

    def prefix_recall(self) -> PrefixRecall | None:
        """What the vectors keep of their recall at each dimension; see `prefix_recall`."""
        from adaptive_search.prefix_recall import prefix_recall

        return prefix_recall(self._store)

    def report(self) -> Reports:
        """Storage and quality reports over this index."""
        from adaptive_search.reporting import Reports

        return Reports(self)

    # -- within ------------------------------------------------------------

    def _index(
        self,
        documents: Iterable[Document | Skipped],
        **options: Any,  # noqa: ANN401
    ) -> IndexSummary:
        from adaptive_search.chunking import Chunker
        from adaptive_search.indexing import index_documents

        encoder, spec = self.encoder, self._store.spec
        tokens = int(spec.chunking.get("max_tokens", CHUNK_TOKENS))
        chunker = Chunker(encoder.tokenizer, max_tokens=tokens, context=encoder.config.context)
        return self._changed(
            partial(index_documents, self._store, encoder, chunker, documents, **options)
        )

    def _add_vectors(
        self,
        batches: Iterable[VectorBatch],
        **options: Any,  # noqa: ANN401
    ) -> IndexSummary:
        from adaptive_search.indexing import index_vectors

        return self._changed(partial(index_vectors, self._store, batches, **options))

    def _changed(self, change: Callable[[], IndexSummary]) -> IndexSummary:
        """Show what a change committed, also before an error, and see that its plan fits."""
        try:
            summary = change()
        finally:
            self._refresh()
        if not summary.interrupted:
            self._keep_plan()
            self._keep_codes()
        return summary

    def _keep_plan(self) -> None:
        if is_plan_due(self._store):
            before = read_plan(self._store.attributes)
            with suppress(StoreLockedError):  # then the writer that runs will do it
                self.tune(DEFAULT_RECALL if before is None else before.recall_target)

    def _keep_codes(self) -> None:
        with suppress(StoreLockedError):  # a cache, so the next change will do
            if keep_codes(self._store, threads=self.threads):
                self._refresh()

    def _refresh(self) -> None:
        self._store = self._store.reopened()
        self.__dict__.pop("funnel", None)

    def _choose_dim(self, dim: Dim | None) -> Dim:
        if isinstance(dim, str):
            return dim
        if dim is None:
            return max(d for d in self.dims if d <= max(DEFAULT_DIM, self.dims[0]))
        self._store.spec.bands_of(dim)
        return dim

    def _search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        dim: Dim,
        shortlist: int | None,
        filter: Filter | None,
        exact: bool,
    ) -> SearchResult:
        allowed = self._filters.rows(self._store, filter) if filter else None
        return self.funnel.search(
            vectors, k, dim=dim, shortlist=shortlist, allowed=allowed, exact=exact
        )

    def _hits(
        self,
        queries: Sequence[str],
        result: SearchResult,
        shortlist: int | None,
        granularity: Granularity,
        encode_ms: float,
    ) -> list[Hits]:
        timings = {"encode": encode_ms, "shortlist": 0.0, "rerank": 0.0}
        for stage in result.stages:
            timings["shortlist" if stage.name == "shortlist" else "rerank"] += stage.ms
        timings["total"] = sum(timings.values())
        timings = {name: round(ms, 3) for name, ms in timings.items()}
        return [
            Hits(
                query=query,
                dim=int(dim),
                shortlist=shortlist,
                granularity=granularity,
                hits=self._hit_rows(rows, scores),
                timings_ms=timings,
                stages=result.stages,
            )
            for query, rows, scores, dim in zip(
                queries, result.rows, result.scores, result.dims, strict=True
            )
        ]

    def _hit_rows(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> tuple[Hit, ...]:
        found = rows >= 0
        return tuple(
            Hit(
                rank,
                round(float(score), 6),
                row.chunk_id,
                row.document_id,
                row.path,
                row.line_start,
                row.line_end,
                row.text,
                row.metadata,
            )
            for rank, (row, score) in enumerate(
                zip(self.rows(rows[found]), scores[found], strict=True), start=1
            )
        )


def _shown(setting: object) -> str:
    return ",".join(map(str, setting)) if isinstance(setting, tuple) else str(setting)


def exists(path: str | Path) -> bool:
    """Whether a directory is an index."""
    return is_index(Path(path))
