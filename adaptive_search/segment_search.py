"""Segments of a store as the funnel sees them: bands, live rows, shortlists, filters."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adaptive_search.documents import Scalar
from adaptive_search.errors import QueryError, StoreFormatError
from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.segment import Segment
from adaptive_search.store import Store

if TYPE_CHECKING:
    from adaptive_search.indexes.shortlist import Shortlist

Filter = Mapping[str, Scalar | Sequence[Scalar]]

# Below this a scan of the heads takes less time than loading FAISS.
MIN_SHORTLIST_ROWS = 8192
PATH = "path"  # the filter that every index has; its value may hold * and ?


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


def allowed_rows(store: Store, wanted: Filter) -> list[NDArray[np.bool_]]:
    """Rows of each segment whose metadata meet every condition.

    Args:
        store: the index.
        wanted: for each field a value, or several of which one must match; `path` takes
            patterns with * and ?.

    Raises:
        QueryError: no row has such a field.
    """
    names = [name for name in wanted if name != PATH]
    found: set[str] = set()
    masks = [_segment_mask(segment, wanted, found) for segment in store.segments]
    unknown = sorted(set(names) - found)
    if unknown and store.rows:
        fields = ", ".join(sorted({PATH} | found)) or PATH
        raise QueryError(
            f"filter: no chunk has the field {', '.join(unknown)}; there are: {fields}"
        )
    return masks


def _segment_mask(segment: Segment, wanted: Filter, found: set[str]) -> NDArray[np.bool_]:
    parts = [np.zeros(0, dtype=bool)]
    verdicts: dict[tuple[str, str], bool] = {}
    for batch in segment.chunk_batches():
        paths, metadata = batch.column(PATH).to_pylist(), batch.column("metadata").to_pylist()
        mask = np.empty(batch.num_rows, dtype=bool)
        for i, key in enumerate(zip(paths, metadata, strict=True)):
            verdict = verdicts.get(key)
            if verdict is None:
                fields = json.loads(key[1]) if key[1] else {}
                found.update(fields)
                verdict = _meets({PATH: key[0]} | fields, wanted)
                if len(verdicts) < 1 << 16:
                    verdicts[key] = verdict
            mask[i] = verdict
        parts.append(mask)
    return np.concatenate(parts)


def _meets(fields: Mapping[str, Scalar], wanted: Filter) -> bool:
    for name, condition in wanted.items():
        values = [condition] if isinstance(condition, str | int | float | bool) else condition
        if name not in fields or not any(_equal(name, fields[name], v) for v in values):
            return False
    return True


def _equal(name: str, value: Scalar, wanted: Scalar) -> bool:
    if name == PATH:
        return fnmatch.fnmatchcase(str(value), str(wanted))
    if isinstance(wanted, str) and not isinstance(value, str):
        return json.dumps(value) == wanted  # a command line knows only strings
    return type(value) is type(wanted) and value == wanted or _same_number(value, wanted)


def _same_number(a: Scalar, b: Scalar) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
    return numbers and a == b


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
