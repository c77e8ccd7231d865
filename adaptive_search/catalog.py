"""Which documents an index holds and where: 24 bytes a document, whatever the length of ids."""

from __future__ import annotations

import copy
import hashlib
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from adaptive_search.arrow_arrays import byte_rows
from adaptive_search.segment import Segment

# Both halves of each key, and the number of its segment times _SEGMENT plus the place in that.
_Columns = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]
_SEGMENT = 1 << 32
_PART_FACTOR = 8  # by which a part is larger than all that follow it, at the least


class Catalog:
    """Finds documents by id. Immutable: a new commit makes a new catalog.

    A document of more rows than a segment takes has one entry for each segment it is in. Entries
    are sorted in a few parts, each much larger than all that follow it, so that what a commit adds
    is not sorted in among millions.
    """

    def __init__(self, segments: Sequence[Segment], earlier: Catalog | None = None) -> None:
        """Index the documents of `earlier` and of these segments, deleted ones included."""
        known: list[Segment] = earlier.segments if earlier else []
        self.segments: list[Segment] = [*known, *segments]
        parts = earlier._parts if earlier else []
        added = [_columns(segment, len(known) + at) for at, segment in enumerate(segments)]
        self._use([*parts, *added])

    def keeping(self, names: Container[str]) -> Catalog:
        """The same of some of its segments, by name."""
        stay = np.array([segment.name in names for segment in self.segments], np.bool_)
        if stay.all():
            return self
        numbers = np.cumsum(stay, dtype=np.uint64) - np.uint64(1)
        catalog = copy.copy(self)
        catalog.segments = [segment for segment in self.segments if segment.name in names]
        catalog._use([_renumbered(part, stay, numbers) for part in self._parts])
        return catalog

    def _use(self, parts: Sequence[_Columns]) -> None:
        self._parts = _tidied(parts)
        self._starts = [0, *accumulate(len(high) for high, _, _ in self._parts)]
        # One document is found in a twentieth of the time that numpy's calls take.
        self._views = [tuple(column.data for column in part) for part in self._parts]

    def positions(self, document_id: str) -> list[int]:
        """Entries of a document in this catalog."""
        high, low = _key(document_id)
        found = []
        for start, (highs, lows, _) in zip(self._starts, self._views, strict=False):
            at = bisect_left(highs, high)
            while at < len(highs) and highs[at] == high:
                if lows[at] == low:
                    found.append(start + at)
                at += 1
        return found

    def may_hold(self, document_ids: Sequence[str]) -> list[bool]:
        """Whether each of some documents could be here; where not, `find` finds nothing.

        For many ids this takes a tenth of the time of asking for each.
        """
        high = _keys(tuple(document_ids))[0]
        order = np.argsort(high)  # neighbours are found in the same memory
        asked = high[order]
        held = np.zeros(len(high), np.bool_)
        for highs, _, _ in self._parts:
            found = np.minimum(np.searchsorted(highs, asked), len(highs) - 1)
            held[order] |= highs[found] == asked
        return list(held.tolist())

    def find(self, document_id: str) -> list[tuple[Segment, int]]:
        """Where a document is: segment and place in its documents table, for each entry."""
        return [self.place(position) for position in self.positions(document_id)]

    def place(self, position: int | np.intp) -> tuple[Segment, int]:
        """Segment of an entry, and place in that segment's documents table."""
        segment, document = self.numbers(position)
        return self.segments[segment], document

    def numbers(self, position: int | np.intp) -> tuple[int, int]:
        """Number of an entry's segment, and place in that segment's documents table."""
        part = bisect_right(self._starts, position) - 1
        return divmod(self._views[part][2][position - self._starts[part]], _SEGMENT)

    def in_entries(self, values: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Values of each segment's documents, in the order of the entries here: bool (entries,)."""
        starts = np.cumsum([0, *map(len, values)])[:-1].astype(np.uint64)
        flat = np.concatenate([np.zeros(0, np.bool_), *values])
        of_entries = [np.zeros(0, np.bool_)]
        for _, _, places in self._parts:
            segments, documents = np.divmod(places, np.uint64(_SEGMENT))
            of_entries.append(flat[starts[segments] + documents])
        return np.concatenate(of_entries)

    def in_order(self, positions: NDArray[np.intp]) -> NDArray[np.intp]:
        """These entries in the order of their rows in the index."""
        places = np.concatenate([np.zeros(0, np.uint64), *(part[2] for part in self._parts)])
        return positions[np.argsort(places[positions])]

    def __len__(self) -> int:
        """Entries, deleted ones included."""
        return self._starts[-1]


class KnownDocuments:
    """The documents of an index at one moment, to be ticked off while a corpus is read.

    `pop` gives the content hash that a document was indexed with; what is left in the end is what
    vanished from the corpus:

        known = writer.known_documents()
        for document in corpus:
            if known.pop(document.id) == content_hash(document): continue
            ...
        writer.delete_documents(known)
    """

    def __init__(self, catalog: Catalog, live: NDArray[np.bool_]) -> None:
        """Hold these entries of a catalog, one for each document."""
        self._catalog = catalog
        self._left = bytearray(live)  # found and changed one by one quicker than an array
        self._hashes = [byte_rows(s.documents.column("content_hash")) for s in catalog.segments]

    def __len__(self) -> int:
        """Documents that are left."""
        return self._left.count(1)

    def __contains__(self, document_id: object) -> bool:
        """Whether the index has a document, ticked off or not."""
        return isinstance(document_id, str) and bool(self._catalog.positions(document_id))

    def pop(self, document_id: str) -> bytes | None:
        """Tick a document off; gives its content hash, or None where it is not known."""
        positions = [at for at in self._catalog.positions(document_id) if self._left[at]]
        if not positions:
            return None
        for position in positions:
            self._left[position] = False
        segment, document = self._catalog.numbers(positions[0])
        content_hash: bytes = self._hashes[segment][document].tobytes()
        return content_hash

    def pop_all(self, document_ids: Sequence[str]) -> list[bytes | None]:
        """`pop` of each."""
        held = self._catalog.may_hold(document_ids)
        return [
            self.pop(name) if may else None for name, may in zip(document_ids, held, strict=True)
        ]

    def __iter__(self) -> Iterator[str]:
        """Ids of the documents that are left, in the order of their rows."""
        return (document_id for document_id, _ in self.items())

    def items(self) -> Iterator[tuple[str, str]]:
        """Id and path of the documents that are left, in the order of their rows."""
        for position in self._catalog.in_order(np.flatnonzero(np.frombuffer(self._left, np.bool_))):
            segment, index = self._catalog.place(position)
            documents = segment.documents
            yield (
                documents.column("document_id")[index].as_py(),
                documents.column("path")[index].as_py(),
            )


def _key(document_id: str) -> tuple[int, int]:
    digest = hashlib.blake2b(document_id.encode(), digest_size=16).digest()
    high, low = struct.unpack("=QQ", digest)
    return high, low


def document_keys(segment: Segment) -> NDArray[np.uint64]:
    """Hash of each document id, in two halves: uint64 (2, documents)."""
    return _keys(tuple(segment.document_ids()))


@lru_cache(maxsize=1)  # a commit asks twice for those that it adds
def _keys(document_ids: tuple[str, ...]) -> NDArray[np.uint64]:
    digests = [hashlib.blake2b(i.encode(), digest_size=16).digest() for i in document_ids]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2).T


def _columns(segment: Segment, number: int) -> _Columns:
    keys = document_keys(segment)
    places = np.arange(keys.shape[1], dtype=np.uint64) + np.uint64(number * _SEGMENT)
    order = np.argsort(keys[0], kind="stable")
    return keys[0][order], keys[1][order], places[order]


def _renumbered(part: _Columns, stay: NDArray[np.bool_], numbers: NDArray[np.uint64]) -> _Columns:
    """The entries of the segments that stay, which have other numbers now."""
    segments, documents = np.divmod(part[2], np.uint64(_SEGMENT))
    kept = stay[segments]
    places = numbers[segments[kept]] * np.uint64(_SEGMENT) + documents[kept]
    return part[0][kept], part[1][kept], places


def _tidied(parts: Sequence[_Columns]) -> list[_Columns]:
    """The same entries in parts of which each is much larger than all that follow it."""
    tidy = [part for part in parts if len(part[0])]
    sizes = [len(high) for high, _, _ in tidy]
    for at, size in enumerate(sizes):
        if size < _PART_FACTOR * sum(sizes[at + 1 :]):
            return [*tidy[:at], _merged(tidy[at:])]
    return tidy


def _merged(parts: Sequence[_Columns]) -> _Columns:
    """All entries, by the first halves of their keys; one column after the other, for memory.

    Each part is sorted already, which the sort knows to use.
    """
    order = np.argsort(np.concatenate([high for high, _, _ in parts]), kind="stable")
    high, low, places = (np.concatenate(column)[order] for column in zip(*parts, strict=True))
    return high, low, places
