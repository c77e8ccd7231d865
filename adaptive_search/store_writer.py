"""Changing an index: append, replace, delete, compact, commit. One writer, holding the lock."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptive_search.catalog import KnownDocuments
from adaptive_search.codes_cache import write_codes
from adaptive_search.compaction import copy_rows, merge_segments, runs_to_merge, runs_to_tidy
from adaptive_search.errors import StoreError
from adaptive_search.lists_cache import write_cache, write_lists_file
from adaptive_search.manifest import MAX_SEGMENT_ROWS, Scalar, StoreSpec
from adaptive_search.publisher import Publisher
from adaptive_search.segment import Row, Segment
from adaptive_search.segment_writer import (
    SEGMENT_ROWS,
    Block,
    SegmentInfo,
    SegmentWriter,
    make_block,
    make_block_of_documents,
)
from adaptive_search.storage_io import (
    StorageIO,
    check_free_space,
    disk_errors,
)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A finished segment that waits for a commit."""

    info: SegmentInfo
    begun: int  # documents that had begun in this writer before its first
    continues: bool  # whether its first document began in the piece before


class StoreWriter:
    """Appends to an index and commits generations of it; made by `Store.writer`.

    A document that is appended replaces the one of the same id, in the commit that brings it.
    What is not committed is not seen by readers and leaves no trace.
    """

    def __init__(self, publisher: Publisher, spec: StoreSpec) -> None:
        """Continue from the publisher's generation; the caller holds the writer lock."""
        self.spec = spec
        self._publisher = publisher
        self._io: StorageIO = publisher.io
        self._path: Path = publisher.root
        self._pieces: list[_Piece] = []
        self._open: SegmentWriter | None = None
        self._open_begun = 0
        self._open_continues = False
        self._begun = 0  # documents since this writer was made
        self._fresh: set[str] = set()  # ids of uncommitted documents, and perhaps some more
        self._removed: dict[str, int] = {}  # fresh id -> documents begun when it was deleted
        self._last: Row | None = None
        self._last_document = ("", "", b"")
        self._usable = True

    @property
    def generation(self) -> int:
        """The generation that was committed last."""
        return self._publisher.manifest.generation

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments of that generation."""
        return self._publisher.segments

    def known_documents(self) -> KnownDocuments:
        """The documents of that generation, less those deleted since, with their hashes."""
        return KnownDocuments(self._publisher.catalog(), self._publisher.live_documents())

    def append(
        self, rows: Sequence[Row], vectors: NDArray[np.float32], hashes: Mapping[str, bytes]
    ) -> None:
        """Append chunks. A full segment is committed where the next document begins.

        Args:
            rows: chunks; those of a document follow one another from ordinal 0, also over
                several calls.
            vectors: float32 (len(rows), dims[-1]).
            hashes: 16-byte content hash of each document that begins in rows.

        Raises:
            ValueError: rows, vectors and hashes do not fit together; nothing was appended.
            StoreError: the disk refuses.
        """
        block = make_block(rows, vectors, hashes, spec=self.spec, last=self._last)
        self._append(block)
        self._last = rows[-1] if rows else self._last

    def append_documents(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Scalar]],
        hashes: Sequence[bytes],
        vectors: NDArray[np.float32],
    ) -> None:
        """Append documents of one chunk each, which have no path; as `append` does.

        Args:
            ids: of the documents, all different.
            texts: of each.
            metadata: of each.
            hashes: content hash of each, 16 bytes.
            vectors: float32 (len(ids), dims[-1]).

        Raises:
            ValueError: they do not fit together; nothing was appended.
            StoreError: the disk refuses.
        """
        block = make_block_of_documents(ids, texts, metadata, hashes, vectors, spec=self.spec)
        self._append(block)
        self._last = None

    def _append(self, block: Block) -> None:
        starts, rows = block.documents.rows, block.batch.num_rows
        with self._changing("write to"):
            position = 0
            while position < rows:
                if self._open_rows >= SEGMENT_ROWS and block.documents.begin_at(position):
                    self._commit(complete=True)
                elif self._open_rows == MAX_SEGMENT_ROWS:
                    self._close_piece()
                stop = min(rows, position + MAX_SEGMENT_ROWS - self._open_rows)
                full = max(position + 1, position + SEGMENT_ROWS - self._open_rows)
                stop = min([stop, *starts[bisect_left(starts, full) :][:1]])
                self._write(block, position, stop)
                position = stop

    def add_segment(self, info: SegmentInfo) -> None:
        """Take over a segment that a SegmentWriter finished on the same disk, to be committed.

        Raises:
            StoreError: the disk refuses.
            StoreFormatError: its files are not what `info` says.
        """
        with self._changing("write to"):
            self._close_piece()
            directory = self._publisher.temporary_directory()
            self._io.rename(info.directory, directory)
            self._pieces.append(_Piece(replace(info, directory=directory), self._begun, False))
            self._begun += info.documents
            self._fresh.update(info.document_ids)
            self._last = None

    def delete_documents(self, document_ids: Iterable[str]) -> int:
        """Delete documents by id, with the next commit; unknown ids are ignored.

        Returns:
            How many committed documents go.
        """
        with self._changing("read"):
            count = 0
            for document_id in document_ids:
                if document_id in self._fresh:
                    self._removed[document_id] = self._begun
                count += self._publisher.bury(document_id)
            return count

    def set_attributes(self, attributes: Mapping[str, Scalar]) -> None:
        """Record settings in the manifest with the next commit, beside those that are there."""
        self._publisher.attributes |= attributes

    def check_space(self, rows: int, *, text_bytes: int = 2048) -> None:
        """Refuse at once to add so many rows if the disk cannot take them.

        Args:
            rows: rows to come.
            text_bytes: estimate of the text and names of one row.

        Raises:
            StoreError: too little space is free.
        """
        # The segment being written is copied from its raw form when it is closed.
        spool = min(rows + self._open_rows, MAX_SEGMENT_ROWS) * self.spec.row_bytes
        check_free_space(self._io, self._path, rows * (self.spec.row_bytes + text_bytes) + spool)

    def commit(self, *, complete: bool = True) -> int:
        """Make all appended and deleted documents visible at once.

        Small segments that have piled up are merged then, in a commit of their own.

        Args:
            complete: False when the document appended last may still go on, as after an
                interrupt: it stays uncommitted, and its next chunks may follow.

        Returns:
            The generation that readers see now; the same as before if nothing changed.

        Raises:
            StoreError: the disk refuses; readers see the old generation or the new one.
        """
        with self._changing("commit to"):
            self._commit(complete=complete)
        if complete:
            self._tidy()
        return self.generation

    def compact(self) -> int:
        """Commit, then merge small segments and those with deleted rows, keeping the order.

        Returns:
            The generation that readers see now.

        Raises:
            StoreError: too little space, or the disk refuses.
        """
        with self._changing("commit to"):
            self._commit(complete=True)
        if runs := runs_to_merge(self.segments):
            self._check_merge_space(runs)
            self._merge(runs)
        return self.generation

    def _tidy(self) -> None:
        if runs := runs_to_tidy(self.segments):
            try:
                self._check_merge_space(runs)
            except StoreError:
                return  # a later commit tidies, when there is space
            self._merge(runs)

    def _check_merge_space(self, runs: Sequence[Sequence[Segment]]) -> None:
        self.check_space(sum(segment.entry.live_rows for run in runs for segment in run))

    def _merge(self, runs: Sequence[Sequence[Segment]]) -> None:
        """Rewrite runs of neighbours, and commit."""
        with self._changing("compact"):
            result, rest = [], list(self.segments)
            for run in runs:
                at = rest.index(run[0])
                infos = merge_segments(run, self._new_segment)
                result += [*rest[:at], *map(self._publisher.adopt, infos)]
                rest = rest[at + len(run) :]
            self._publisher.publish([*result, *rest])

    def write_cache(self, segment: Segment, payload: bytes, *, key: str) -> None:
        """Keep the lists of a committed segment's rows; see `lists_cache`.

        Raises:
            StoreError: the disk refuses.
        """
        write_cache(self._io, segment, payload, key=key)

    def write_lists(self, data: bytes) -> None:
        """Keep what all lists share; the attribute `lists` is to be its checksum.

        Raises:
            StoreError: the disk refuses.
        """
        write_lists_file(self._io, self._path, data)

    def write_codes(self, parts: Iterator[bytes | memoryview]) -> str:
        """Keep codes; gives what the attribute `codes` is to be. See `codes_cache`.

        Raises:
            StoreError: the disk refuses.
        """
        return write_codes(self._io, self._path, parts)

    def close(self) -> None:
        """Drop what was not committed and remove its files."""
        self._usable = False
        with suppress(OSError, StoreError):
            if self._open:
                self._open.close()
            self._publisher.discard()

    @contextmanager
    def _changing(self, action: str) -> Iterator[None]:
        """Turn disk errors into StoreError; after any error this writer is of no more use."""
        if not self._usable:
            raise StoreError(
                f"this writer of {self._path} failed or was closed; open another one, which "
                "continues from the last commit"
            )
        self._usable = False
        with disk_errors(action, self._path):
            yield
        self._usable = True

    def _new_segment(self) -> SegmentWriter:
        return SegmentWriter(self._publisher.temporary_directory(), self.spec, self._io)

    @property
    def _open_rows(self) -> int:
        return self._open.rows if self._open else 0

    def _write(self, block: Block, start: int, stop: int) -> None:
        if self._open is None:
            self._open = self._new_segment()
            self._open_continues = not block.documents.begin_at(start)
            self._open_begun = self._begun - self._open_continues
            if self._open_continues:
                self._open.begin_document(*self._last_document, row=0)
        self._open.append_block(block, start, stop)
        begun = block.documents.between(start, stop)
        if len(begun):
            self._last_document = begun.ids[-1], begun.paths[-1], begun.hashes[-1]
        self._fresh.update(begun.ids)
        self._begun += len(begun)

    def _close_piece(self) -> None:
        if self._open is not None:
            info = self._open.finish()
            self._pieces.append(_Piece(info, self._open_begun, self._open_continues))
            self._open = None

    def _commit(self, *, complete: bool) -> None:
        held, carried = 0, 0
        if self._open is None or complete:
            self._close_piece()
        elif self._open.last_document_row:
            carried = self._open.rows - self._open.last_document_row
            self._close_piece()
        elif self._open_continues:
            held = self._unfinished_pieces()
        ready = self._pieces[: len(self._pieces) - held]
        if ready or self._publisher.has_changes():
            added = [self._publisher.adopt(piece.info) for piece in ready]
            self._bury_replaced(ready, added, carried)
            self._publisher.publish([*self.segments, *added])
        self._pieces = self._pieces[len(ready) :]
        if carried:
            self._reopen(added[-1], carried)
        elif self._open is None:
            self._fresh.clear()
            self._removed.clear()
            self._last = None

    def _unfinished_pieces(self) -> int:
        """Number of the last pieces that hang on the unfinished document."""
        held = 1
        while self._pieces[-held].continues:
            held += 1
        return held

    def _bury_replaced(
        self, pieces: Sequence[_Piece], added: Sequence[Segment], carried: int
    ) -> None:
        """Mark what the added documents replace, and those of them that do not stay."""
        bury_rows = self._publisher.bury_rows
        latest: dict[str, list[tuple[Segment, int, int]]] = {}
        added_times = Counter(name for piece in pieces for name in piece.info.document_ids)
        for piece, segment in zip(pieces, added, strict=True):
            starts, counts = segment.document_rows()
            ids = piece.info.document_ids
            known = self._publisher.catalog().may_hold(ids)
            for index, document_id in enumerate(ids):
                is_alone = not known[index] and added_times[document_id] == 1
                if is_alone and document_id not in self._removed and index + 1 < len(ids):
                    continue  # it replaces none; only the last of a segment may be unfinished
                place = segment, int(starts[index]), int(counts[index])
                if carried and place[1] == segment.rows - carried and segment is added[-1]:
                    bury_rows(*place)
                    continue
                if index or not piece.continues:
                    if known[index]:
                        self._publisher.bury(document_id)
                    for earlier in latest.pop(document_id, ()):
                        bury_rows(*earlier)
                latest.setdefault(document_id, []).append(place)
                if piece.begun + index < self._removed.get(document_id, 0):
                    bury_rows(*place)

    def _reopen(self, segment: Segment, rows: int) -> None:
        """Go on with an unfinished document, whose rows so far are the last of a segment."""
        self._open = self._new_segment()
        self._open_begun, self._open_continues = self._begun, False
        self._begun += 1
        self._fresh.add(self._last_document[0])
        self._open.begin_document(*self._last_document, row=0)
        copy_rows(segment, segment.rows - rows, segment.rows, self._open)
