"""Segments of a store as the funnel sees them: bands, live rows, and the plan of their search.

The plan is an attribute of the manifest. A plan with lists needs two things more, which are caches:
the file of centroids and means, whose checksum the manifest has, and for each segment the list of
each row. The second is made anew where it is missing; without the first, all codes are scanned.
The codes themselves are kept too, for most rows: those of segments that were added since, or of all
where they are missing, are made when the first search needs them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adaptive_search.codes_cache import CODES, aligned, codes_parts, read_codes
from adaptive_search.errors import QueryError
from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.indexes.plan import DEFAULT_RECALL, Plan
from adaptive_search.kernels import mapping
from adaptive_search.kernels.search import KeptCodes, codes_bytes
from adaptive_search.lists_cache import LISTS, LISTS_FILE, map_checked, read_cache
from adaptive_search.manifest import Scalar, StoreSpec
from adaptive_search.segment import Segment
from adaptive_search.store import Store

if TYPE_CHECKING:
    from adaptive_search.indexes.heads import Lists

PLAN = "plan"  # the manifest attribute of the plan, as JSON
# Codes are kept anew when those of fewer rows than this share are kept: an open then makes at most
# the rest, and each row's are written some eight times while an index grows.
_CODED_SHARE = 0.875
_ROUTER_BITS = 8


@dataclass(frozen=True, eq=False)
class KeptLists:
    """The lists of an index as they were written."""

    centroids: NDArray[np.float16]
    means: NDArray[np.float16]
    router: KeptCodes  # of the means
    key: str  # what the lists of a segment's rows are kept under

    def rows_of(self, segment: FunnelSegment, spec: StoreSpec) -> NDArray[np.uint32]:
        """The list of each row of a segment, worked out: uint32 (rows,)."""
        from adaptive_search.indexes.heads import assign

        mapping.will_read(self.centroids.reshape(-1).view(np.uint8))
        return assign(segment, self.centroids, dims=spec.dims)


def open_funnel(store: Store, *, threads: int, kept_codes: bool = True) -> Funnel:
    """The funnel over all segments of a store, by its plan.

    Args:
        store: the index.
        threads: threads to use.
        kept_codes: map the codes that are kept; otherwise all are made anew.
    """
    lists = read_lists(store)
    plan = _usable_plan(store, lists)
    kept = read_codes(store.path, store.manifest, plan) if plan is not None and kept_codes else None
    segments = [funnel_segment(store, segment) for segment in store.segments]
    with_lists = lists is not None and plan is not None and plan.lists > 0
    if lists is not None and with_lists:
        coded = 0 if kept is None else kept.rows
        starts = np.cumsum([0, *(segment.rows for segment in segments)])
        segments = [
            part if start < coded else _with_lists(store, segment, part, lists)
            for segment, part, start in zip(store.segments, segments, starts[:-1], strict=True)
        ]
    return Funnel(
        segments,
        store.spec.dims,
        prefix_energy=store.spec.prefix_energy,
        plan=plan,
        means=lists.means if lists is not None and with_lists else None,
        kept=kept,
        kept_router=lists.router if lists is not None and with_lists else None,
        threads=threads,
    )


def _usable_plan(store: Store, lists: KeptLists | None) -> Plan | None:
    """The plan of an index, as far as its bands and lists are there."""
    plan = read_plan(store.attributes)
    if plan is None or plan.head_dim not in store.dims:
        return None
    return plan.without_lists() if lists is None else plan


def keep_codes(store: Store, *, threads: int) -> bool:
    """Write the codes of all rows for the next reader, where too many of them would be made anew.

    Returns:
        Whether they were written.

    Raises:
        StoreError: the index is being written, or the disk refuses.
    """
    if not are_codes_due(store):
        return False
    from adaptive_search.indexes.coding import code_rows

    lists = read_lists(store)
    plan = _usable_plan(store, lists)
    assert plan is not None  # or none would be due
    segments = [funnel_segment(store, segment) for segment in store.segments]
    if lists is not None and plan.lists:
        segments = [
            _with_lists(store, segment, part, lists)
            for segment, part in zip(store.segments, segments, strict=True)
        ]
    bands = store.spec.bands_of(plan.head_dim)
    codes = code_rows(segments, bands, bits=plan.bits, lists=plan.lists, threads=threads)
    with store.writer() as writer:
        parts = codes_parts(codes, store.manifest, plan)
        writer.set_attributes({CODES: writer.write_codes(parts)})
    return True


def are_codes_due(store: Store) -> bool:
    """Whether an index with a plan has no codes that are kept, or those of too few rows."""
    plan = _usable_plan(store, read_lists(store))
    if plan is None or not plan.rows or not store.rows or store.dims != store.spec.dims:
        return False
    kept = read_codes(store.path, store.manifest, plan)
    return kept is None or _CODED_SHARE * store.rows > kept.rows


def make_plan(
    store: Store, *, recall: float = DEFAULT_RECALL, threads: int, wait: bool = False
) -> Plan:
    """Measure the rows of an index, choose how to search them, and record it.

    Args:
        store: the index, with all its bands.
        recall: share of the true ten best that searches are to find.
        threads: threads to use.
        wait: wait for another writer instead of refusing.

    Raises:
        QueryError: recall is no share, or the index has no rows or not all its bands.
        StoreError: the index is being written, or the disk refuses.
    """
    from adaptive_search.indexes.tuning import tune

    if not 0 < recall <= 1:
        raise QueryError(f"recall={recall} must be above 0 and at most 1")
    if not store.rows or store.dims != store.spec.dims:
        raise QueryError(f"{store.path} has no rows or lacks bands; nothing can be measured")
    segments = [funnel_segment(store, segment) for segment in store.segments]
    tuned = tune(
        segments,
        store.spec.dims,
        prefix_energy=store.spec.prefix_energy,
        recall_target=recall,
        threads=threads,
    )
    attributes: dict[str, Scalar] = {PLAN: tuned.plan.to_json(), LISTS: ""}
    with store.writer(wait=wait) as writer:
        if tuned.lists is not None and tuned.assigned is not None:
            data = _lists_data(tuned.lists)
            attributes[LISTS] = hashlib.sha256(data).hexdigest()
            writer.write_lists(data)
            for segment, rows in zip(store.segments, tuned.assigned, strict=True):
                if segment.directory.is_dir():
                    writer.write_cache(segment, rows.tobytes(), key=str(attributes[LISTS]))
        writer.set_attributes(attributes)
    return tuned.plan


def is_plan_due(store: Store) -> bool:
    """Whether the plan should be made anew: the index has grown or shrunk a lot, or lost lists."""
    from adaptive_search.indexes.tuning import MIN_TUNED_ROWS

    if store.rows < MIN_TUNED_ROWS or store.dims != store.spec.dims:
        return False
    plan = read_plan(store.attributes)
    if plan is None or not plan.fits(store.rows):
        return True
    return plan.lists > 0 and read_lists(store) is None


def plan_text(store: Store) -> str:
    """What `status` says of the plan, and whether it should be made anew."""
    plan = read_plan(store.attributes) or Plan(store.spec.dims[0])
    due = "; it does not fit the index any more: run `tune`" if is_plan_due(store) else ""
    return plan.to_text() + due


def read_plan(attributes: Mapping[str, Scalar]) -> Plan | None:
    """The plan that a manifest records; None if there is none that this program understands."""
    try:
        return Plan.from_json(str(attributes[PLAN]))
    except (KeyError, ValueError):
        return None


def read_lists(store: Store) -> KeptLists | None:
    """The lists of an index's plan; None if it has none, or they are missing or damaged."""
    from adaptive_search.indexes.heads import CLUSTER_DIM, ROUTE_DIM, dim_up_to

    plan = read_plan(store.attributes)
    if plan is None or not plan.lists:
        return None
    count, key = plan.lists, store.attributes.get(LISTS, "")
    widths = [dim_up_to(store.spec.dims, dim) for dim in (CLUSTER_DIM, ROUTE_DIM)]
    data = map_checked(store.path / LISTS_FILE, key, store.manifest.committed_ns)
    list_rows = np.array([count])
    parts = [2 * count * width for width in widths] + [4 * widths[1]] * 2
    start = aligned(sum(parts))
    if data is None or len(data) != start + codes_bytes(list_rows, widths[1], _ROUTER_BITS):
        return None
    centroids, means, centre, step, _ = np.split(data, np.cumsum(parts))
    scale = centre.view(np.float32), step.view(np.float32)
    if not np.isfinite(scale).all() or not (scale[1] > 0).all():
        return None
    return KeptLists(
        centroids.view(np.float16).reshape(count, widths[0]),
        means.view(np.float16).reshape(count, widths[1]),
        KeptCodes(data[start:], list_rows, *scale, _ROUTER_BITS),
        str(key),
    )


def _lists_data(lists: Lists) -> bytes:
    """What `read_lists` reads."""
    from adaptive_search.indexes.heads import router

    codes = router(lists.means)
    head = b"".join(
        part.tobytes() for part in (lists.centroids, lists.means, codes.centre, codes.step)
    )
    return head.ljust(aligned(len(head)), b"\0") + codes.data.tobytes()


def funnel_segment(store: Store, segment: Segment) -> FunnelSegment:
    """A segment's vectors, without lists."""
    bands = len(store.dims)
    return FunnelSegment(
        bands=[segment.band(i) for i in range(bands)],
        live=segment.live,
        lengths=[segment.norms[:, i] for i in range(bands)] if store.spec.is_foreign else None,
        scattered=[segment.scattered_band(i) for i in range(bands)],
    )


def kept_rows(segment: Segment, lists: KeptLists) -> NDArray[np.uint32] | None:
    """The list of each row of a segment, as kept; None if that is missing or damaged."""
    kept = read_cache(segment, key=lists.key)
    if kept is None or len(kept) != 4 * segment.rows:
        return None
    rows = np.frombuffer(kept, np.uint32)
    return rows if int(rows.max(initial=0)) < len(lists.means) else None


def _with_lists(
    store: Store, segment: Segment, part: FunnelSegment, lists: KeptLists
) -> FunnelSegment:
    rows = kept_rows(segment, lists)
    if rows is None:
        rows = lists.rows_of(part, store.spec)
        store.write_cache(segment, rows.tobytes(), key=lists.key)
    return dataclasses.replace(part, lists=rows)
