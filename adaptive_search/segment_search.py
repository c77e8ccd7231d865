"""Segments of a store as the funnel sees them: bands, live rows, shortlists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adaptive_search.errors import StoreFormatError
from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.segment import Segment
from adaptive_search.store import Store

if TYPE_CHECKING:
    from adaptive_search.indexes.shortlist import Shortlist

# Below this a scan of the heads takes less time than loading FAISS.
MIN_SHORTLIST_ROWS = 8192


def open_funnel(store: Store, *, threads: int) -> Funnel:
    """The funnel over all segments of a store; damaged or missing shortlists are rebuilt."""
    bands = len(store.dims)
    return Funnel(
        [
            FunnelSegment(
                bands=[segment.band(i) for i in range(bands)],
                live=segment.live,
                lengths=_lengths(segment, bands) if store.spec.is_foreign else None,
                shortlist=_load_shortlist(store, segment),
            )
            for segment in store.segments
        ],
        store.spec.dims,
        prefix_energy=store.spec.prefix_energy,
        threads=threads,
    )


def build_shortlist(segment: Segment) -> Shortlist | None:
    """The FAISS shortlist of a segment, or None where a scan of the heads is faster."""
    if segment.rows < MIN_SHORTLIST_ROWS:
        return None
    from adaptive_search.indexes.shortlist import Shortlist

    return Shortlist.build(segment.band(0))


def shortlist_key() -> str:
    """What a kept shortlist depends on besides the segment's heads."""
    return "fp16-codes-v1"


def _lengths(segment: Segment, bands: int) -> list[NDArray[np.float32]]:
    return [np.ascontiguousarray(segment.norms[:, i]) for i in range(bands)]


def _load_shortlist(store: Store, segment: Segment) -> Shortlist | None:
    if segment.rows < MIN_SHORTLIST_ROWS:
        return None
    from adaptive_search.indexes.shortlist import Shortlist
    from adaptive_search.shortlist_cache import read_cache

    kept = read_cache(segment, key=shortlist_key())
    if kept is not None:
        try:
            return Shortlist.from_bytes(kept, rows=segment.rows, dim=store.spec.dims[0])
        except StoreFormatError:
            kept = None
    shortlist = Shortlist.build(segment.band(0))
    store.write_cache(segment, shortlist.to_bytes(), key=shortlist_key())
    return shortlist
