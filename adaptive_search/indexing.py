"""From documents to committed rows: compare, chunk, encode, append.

Chunks of the next batch are cut while the batch before is encoded and stored, and at
most two batches are held, whatever the corpus.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from adaptive_search.chunking import Chunk, Chunker
from adaptive_search.documents import Document, Scalar, Skipped, is_text
from adaptive_search.errors import CorpusError, QueryError
from adaptive_search.id_set import IdSet
from adaptive_search.segment import Row
from adaptive_search.store import Store
from adaptive_search.vectors import VectorBatch, checked_fields

if TYPE_CHECKING:
    from adaptive_search.catalog import KnownDocuments
    from adaptive_search.encoder.encoder import Encoder
    from adaptive_search.store_writer import StoreWriter

BATCH_TOKENS = 16_384
_Made = TypeVar("_Made")
MAX_NUMBER_DIGITS = 18  # of a document id that counts as a running number
BYTES_PER_TOKEN = 8  # of text, at the most: prose has 4 to 5


class LeastText(Protocol):
    """Bytes of text that are new to an index, at the least; see `corpus.least_new_text`."""

    def __call__(self, known: Container[str], *, is_first: bool) -> int:
        """Of a corpus, given the ids that the index has, and whether it is empty."""


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
    least_text: LeastText = lambda *_, **__: 0,
    wait: bool = False,
    report: Callable[[IndexSummary], None] = lambda _: None,
) -> IndexSummary:
    """Bring an index up to date with documents, and commit.

    An unchanged document is not encoded again. Ctrl-C commits the documents that are complete.

    Args:
        store: the index.
        encoder: the one that the index was made with.
        chunker: cuts the documents.
        documents: documents to add or replace, and items that could not be read.
        prune: the documents are the whole corpus: delete those that vanished from it. A
            file that could not be read keeps the rows it has.
        attributes: what to record in the manifest with the first document.
        least_text: bytes of text that the documents bring at the least, given those that the
            index has. It is asked once, before anything is encoded.
        wait: wait for another writer instead of refusing.
        report: called with the running summary after each batch.

    Raises:
        CorpusError: prune is asked, and there is no document at all.
        StoreError: another process is writing, or the disk refuses; what was committed
            before is whole.
    """
    summary = IndexSummary()
    begin = time.perf_counter()
    try:
        with store.writer(wait=wait) as writer, _storing_thread() as thread:
            run = _Run(writer, encoder, chunker, thread, attributes, summary, report, least_text)
            run.add(documents, prune=prune)
    except KeyboardInterrupt:
        summary.interrupted = True
        # What was read and not committed will be read again.
        summary.seen = summary.indexed + summary.unchanged + len(summary.skipped)
    summary.seconds = time.perf_counter() - begin
    return summary


def index_vectors(
    store: Store,
    batches: Iterable[VectorBatch],
    *,
    rows: int = 0,
    wait: bool = False,
    report: Callable[[IndexSummary], None] = lambda _: None,
) -> IndexSummary:
    """Add vectors that are new, replace those that changed, and commit.

    Ctrl-C commits the batches that are complete. What was committed before that or an error is
    found unchanged the next time.

    Args:
        store: the index.
        batches: checked rows, each a document of its own.
        rows: how many there are in all, if that is known; an empty index then sees at once whether
            the disk takes them.
        wait: wait for another writer instead of refusing.
        report: called with the running summary after each batch.

    Raises:
        StoreError: another process is writing, or the disk refuses.
    """
    summary = IndexSummary()
    begin = time.perf_counter()
    try:
        with store.writer(wait=wait) as writer, _storing_thread() as thread:
            known = writer.known_documents()
            if not writer.segments:
                writer.check_space(rows, text_bytes=0)
            try:
                each = partial(_store_vectors, writer, known, summary)
                _store_each(batches, each, thread, partial(report, summary))
            except KeyboardInterrupt:
                thread.submit(writer.commit).result()
                raise
            thread.submit(writer.commit).result()
    except KeyboardInterrupt:
        summary.interrupted = True
    summary.seconds = time.perf_counter() - begin
    return summary


def _store_vectors(
    writer: StoreWriter, known: KnownDocuments, summary: IndexSummary, batch: VectorBatch
) -> None:
    """Append the rows of a batch that are new or have changed."""
    before = known.pop_all(batch.ids)
    changed = [at for at, found in enumerate(before) if found != batch.hashes[at]]
    new = batch if len(changed) == len(batch) else batch.only(changed)
    if len(new):
        writer.check_space(len(new))
        writer.append_documents(new.ids, new.texts, new.metadata, new.hashes, new.vectors)
    summary.seen += len(batch)
    summary.indexed += len(new)
    summary.unchanged += len(batch) - len(new)
    summary.chunks += len(new)


def text_documents(
    index: Path,
    texts: Iterable[str],
    ids: Iterable[str] | None,
    metadata: Iterable[Mapping[str, Scalar]] | None,
) -> Iterator[Document]:
    """A document for each text; see `AdaptiveIndex.add_texts`.

    Raises:
        QueryError: ids or metadata do not match the texts one to one, an id comes twice,
            a text is empty, or a field is no text, finite number or boolean.
    """
    names = _free_ids(index) if ids is None else iter(ids)
    fields = itertools.repeat({}) if metadata is None else iter(metadata)
    seen = IdSet()
    for row, text in enumerate(texts):
        name, field = next(names, None), next(fields, None)
        if name is None or field is None:
            raise QueryError("there are fewer ids or metadata than texts")
        if not isinstance(name, str) or not name or not is_text(name):
            raise QueryError(f"id {name!r} must be a str, not empty, that UTF-8 can hold")
        if not isinstance(text, str) or not text.strip() or not is_text(text):
            raise QueryError(f"text {name!r} must be a str, not empty, that UTF-8 can hold")
        if not seen.add(name):
            raise QueryError(f"id {name!r} comes twice")
        yield Document(name, "", text, metadata=checked_fields(field, row))
    if ids is not None and next(names, None) is not None:
        raise QueryError("there are more ids than texts")
    if metadata is not None and next(fields, None) is not None:
        raise QueryError("there are more metadata than texts")


def _free_ids(index: Path) -> Iterator[str]:
    # Runs when the first text is read, under the writer's lock: nobody else adds any then.
    numbers = (
        int(name)
        for segment in Store.open(index).segments
        for name in segment.document_ids()
        if name.isdecimal() and len(name) <= MAX_NUMBER_DIGITS
    )
    yield from map(str, itertools.count(max(numbers, default=-1) + 1))


def _store_each(
    batches: Iterable[_Made],
    store: Callable[[_Made], None],
    thread: ThreadPoolExecutor,
    stored: Callable[[], None],
) -> None:
    """Make each batch while the one before is stored."""
    pending: Future[None] | None = None
    for batch in batches:
        if pending is not None:
            pending.result()
            stored()
        pending = thread.submit(store, batch)
    if pending is not None:
        pending.result()
        stored()


@contextmanager
def _storing_thread() -> Iterator[ThreadPoolExecutor]:
    """The one thread that changes the store.

    Ctrl-C reaches only the main thread, so that nothing is ever stored by half; however often
    it is pressed, what was begun is waited for.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="store")
    try:
        yield pool
    finally:
        done = False
        while not done:
            with suppress(KeyboardInterrupt):
                pool.shutdown()
                done = True


@dataclass
class _Batch:
    """Chunks that are encoded together.

    Attributes:
        chunks: the chunks.
        hashes: of each document that begins here.
        tokens: in all chunks.
        finished: documents that end here.
        whole: the last document ends here.
    """

    chunks: list[Chunk] = field(default_factory=list)
    hashes: dict[str, bytes] = field(default_factory=dict)
    tokens: int = 0
    finished: int = 0
    whole: bool = False


@dataclass
class _Run:
    writer: StoreWriter
    encoder: Encoder
    chunker: Chunker
    thread: ThreadPoolExecutor
    attributes: Mapping[str, Scalar]
    summary: IndexSummary
    report: Callable[[IndexSummary], None]
    least_text: LeastText
    whole: bool = True  # the document stored last is complete
    unread: set[str] = field(default_factory=set)  # paths that keep their rows

    def add(self, documents: Iterable[Document | Skipped], *, prune: bool) -> None:
        """Store and commit documents; after Ctrl-C those that are complete."""
        known = self.writer.known_documents()
        check = partial(self._check_space, known, is_first=not len(known))
        try:
            self._store_all(self._changed(documents, known), check)
            if prune and not self.summary.seen:
                raise CorpusError(
                    "the corpus holds no files to index; hidden, ignored and excluded files do "
                    "not count (see --hidden, --include, --exclude)"
                )
            self.thread.submit(self._finish, known if prune else None).result()
        except KeyboardInterrupt:
            self.thread.submit(self._commit_complete).result()
            raise

    def _store_all(self, documents: Iterable[Document], check: Callable[[], None]) -> None:
        batches = self._batches(documents)
        first = list(itertools.islice(batches, 1))
        if first:
            check()
        report = partial(self.report, self.summary)
        _store_each(itertools.chain(first, batches), self._store, self.thread, report)

    def _check_space(self, known: KnownDocuments, *, is_first: bool) -> None:
        """Refuse a run that the disk cannot take to its end, before the time is spent."""
        chunk_bytes = self.chunker.max_tokens * BYTES_PER_TOKEN
        chunks = self.least_text(known, is_first=is_first) // chunk_bytes
        self.writer.check_space(chunks, text_bytes=chunk_bytes)

    def _changed(
        self, documents: Iterable[Document | Skipped], known: KnownDocuments
    ) -> Iterator[Document]:
        """Documents that are new or have changed; counts every item."""
        for item in documents:
            self.summary.seen += 1
            if isinstance(item, Skipped):
                self.summary.skipped.append(item)
                # A bad record, "file.jsonl:17", keeps the rows of its whole file.
                self.unread |= {item.path, item.path.rpartition(":")[0]}
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
            batch.finished += 1
        if batch.finished:
            batch.whole = True
            yield batch

    def _store(self, batch: _Batch) -> None:
        if batch.chunks:
            self.writer.check_space(len(batch.chunks))  # before the time is spent
            self.writer.set_attributes(self.attributes)
            granularity = self.writer.spec.granularity
            ids = [chunk.ids for chunk in batch.chunks]
            vectors = self.encoder.encode_ids(ids, granularity=granularity)
            self.writer.append([_row(chunk) for chunk in batch.chunks], vectors, batch.hashes)
        self.whole = batch.whole
        self.summary.indexed += batch.finished
        self.summary.chunks += len(batch.chunks)
        self.summary.tokens += batch.tokens

    def _finish(self, vanished: KnownDocuments | None) -> None:
        if vanished is not None:
            ids = (name for name, path in vanished.items() if path and not self._is_unread(path))
            self.summary.deleted += self.writer.delete_documents(ids)
        self.writer.commit()

    def _commit_complete(self) -> None:
        if self.summary.indexed:
            self.writer.commit(complete=self.whole)

    def _is_unread(self, path: str) -> bool:
        """Whether a file, or a folder above it, could not be read."""
        return not self.unread.isdisjoint((path, *map(str, PurePosixPath(path).parents)))


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
