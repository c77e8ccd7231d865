"""From documents to committed rows: compare, chunk, encode, append.

Chunks of the next batch are cut while the batch before is encoded, and at most
two batches of chunks and vectors are held, whatever the corpus.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adaptive_search.chunking import Chunk, Chunker
from adaptive_search.documents import Document, Scalar, Skipped
from adaptive_search.errors import CorpusError
from adaptive_search.segment import Row

if TYPE_CHECKING:
    from adaptive_search.catalog import KnownDocuments
    from adaptive_search.encoder.encoder import Encoder, Vectors
    from adaptive_search.store import Store
    from adaptive_search.store_writer import StoreWriter

BATCH_TOKENS = 16_384


@dataclass
class IndexSummary:
    """What an indexing run did; seen = indexed + unchanged + len(skipped)."""

    seen: int = 0
    indexed: int = 0
    unchanged: int = 0
    deleted: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    chunks: int = 0
    tokens: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, in the shape that `index --format json` prints."""
        return {
            "seen": self.seen,
            "indexed": self.indexed,
            "unchanged": self.unchanged,
            "deleted": self.deleted,
            "skipped": [{"path": s.path, "reason": s.reason} for s in self.skipped],
            "chunks": self.chunks,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }


def index_documents(
    store: Store,
    encoder: Encoder,
    chunker: Chunker,
    documents: Iterable[Document | Skipped],
    *,
    prune: bool,
    attributes: Mapping[str, Scalar],
    wait: bool = False,
    report: Callable[[IndexSummary], None] = lambda _: None,
) -> IndexSummary:
    """Bring an index up to date with documents, and commit.

    An unchanged document is not encoded again. Ctrl-C commits what is complete.

    Args:
        store: the index.
        encoder: the one that the index was made with.
        chunker: cuts the documents.
        documents: documents to add or replace, and items that could not be read.
        prune: the documents are the whole corpus: delete those that vanished from it. A
            file that could not be read keeps the rows it has.
        attributes: what to record in the manifest.
        wait: wait for another writer instead of refusing.
        report: called with the running summary after each batch.

    Raises:
        CorpusError: prune is asked, and there is no document at all.
        StoreError: another process is writing, or the disk refuses; what was committed
            before is whole.
    """
    run = _Run(encoder, chunker, IndexSummary(), report)
    begin = time.perf_counter()
    with store.writer(wait=wait) as writer:
        writer.set_attributes(attributes)
        try:
            run.add(writer, documents, prune=prune)
        except KeyboardInterrupt:
            writer.commit(complete=False)
            run.summary.interrupted = True
        writer.commit()
        _cache_shortlists(writer)
    run.summary.seconds = time.perf_counter() - begin
    return run.summary


@dataclass
class _Batch:
    """Chunks that are encoded together, with the hash of each document that begins here."""

    chunks: list[Chunk] = field(default_factory=list)
    hashes: dict[str, bytes] = field(default_factory=dict)
    tokens: int = 0


@dataclass
class _Run:
    encoder: Encoder
    chunker: Chunker
    summary: IndexSummary
    report: Callable[[IndexSummary], None]

    def add(
        self, writer: StoreWriter, documents: Iterable[Document | Skipped], *, prune: bool
    ) -> None:
        known = writer.known_documents()
        unread: set[str] = set()
        with ThreadPoolExecutor(1, thread_name_prefix="encode") as pool:
            pending: tuple[_Batch, Future[Vectors]] | None = None
            for batch in self._batches(self._changed(documents, known, unread)):
                future = pool.submit(self._encode, writer.spec.granularity, batch)
                self._append(writer, pending)
                pending = batch, future
            self._append(writer, pending)
        if prune and not self.summary.seen:
            raise CorpusError("the corpus holds no files to index; the index was left as it was")
        if prune:
            vanished = (i for i, path in known.items() if path and path not in unread)
            self.summary.deleted += writer.delete_documents(vanished)

    def _changed(
        self,
        documents: Iterable[Document | Skipped],
        known: KnownDocuments,
        unread: set[str],
    ) -> Iterator[Document]:
        """Documents that are new or have changed; counts every item."""
        for item in documents:
            self.summary.seen += 1
            if isinstance(item, Skipped):
                self.summary.skipped.append(item)
                # A bad record, "file.jsonl:17", keeps the rows of its whole file.
                unread |= {item.path, item.path.rpartition(":")[0]}
            elif known.pop(item.id) == item.content_hash:
                self.summary.unchanged += 1
            else:
                yield item

    def _batches(self, documents: Iterable[Document]) -> Iterator[_Batch]:
        batch = _Batch()
        for document in documents:
            batch.hashes[document.id] = document.content_hash
            for chunk in self.chunker.chunks(document):
                batch.chunks.append(chunk)
                batch.tokens += len(chunk.ids)
                if batch.tokens >= BATCH_TOKENS:
                    yield batch
                    batch = _Batch()
            self.summary.indexed += 1
        if batch.chunks:
            yield batch

    def _encode(self, granularity: int, batch: _Batch) -> Vectors:
        return self.encoder.encode_ids([c.ids for c in batch.chunks], granularity=granularity)

    def _append(self, writer: StoreWriter, pending: tuple[_Batch, Future[Vectors]] | None) -> None:
        if pending is None:
            return
        batch, future = pending
        writer.append([_row(c) for c in batch.chunks], future.result(), batch.hashes)
        self.summary.chunks += len(batch.chunks)
        self.summary.tokens += batch.tokens
        self.report(self.summary)


def _row(chunk: Chunk) -> Row:
    text = chunk.text
    return Row(
        document_id=chunk.document_id,
        path=chunk.path,
        ordinal=chunk.ordinal,
        text=text,
        content_hash=hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest(),
        tokens=len(chunk.ids),
        byte_start=chunk.byte_start,
        byte_end=chunk.byte_end,
        line_start=chunk.line_start,
        line_end=chunk.line_end,
        metadata=chunk.metadata,
    )


def _cache_shortlists(writer: StoreWriter) -> None:
    from adaptive_search.segment_search import build_shortlist, shortlist_key

    for segment in writer.segments:
        shortlist = build_shortlist(segment)
        if shortlist is not None:
            writer.write_cache(segment, shortlist.to_bytes(), key=shortlist_key())
