"""Merging segments: live rows in their order, a record batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from adaptive_search.arrow_arrays import number_array
from adaptive_search.arrow_files import CHUNK_BATCH_ROWS
from adaptive_search.manifest import MAX_SEGMENT_ROWS
from adaptive_search.segment import Segment
from adaptive_search.segment_writer import SEGMENT_ROWS, SegmentInfo, SegmentWriter, Vectors

FAN_IN = 8  # small segments that may stand side by side
MIN_DEAD_ROWS = 1024  # below this the space is not worth a rewrite


def runs_to_tidy(segments: Sequence[Segment]) -> list[list[Segment]]:
    """What every commit merges: small segments that have piled up, and mostly deleted ones.

    A reader maps each file, and systems limit the number of maps, so that an index must not grow by
    a segment with each of ten thousand commits. Since no segment is merged that holds more than
    half of the rows, a row is rewritten a logarithmic number of times.
    """
    first = len(segments)
    while first and segments[first - 1].entry.live_rows < SEGMENT_ROWS:
        first -= 1
    for start in range(first, len(segments) - FAN_IN + 1):
        rows = [segment.entry.live_rows for segment in segments[start:]]
        if 2 * max(rows) <= sum(rows):
            return [list(segments[start:])]
    return [[segment] for segment in segments if _is_mostly_dead(segment)]


def _is_mostly_dead(segment: Segment) -> bool:
    dead = segment.rows - segment.entry.live_rows
    return dead >= MIN_DEAD_ROWS and 2 * dead > segment.rows


def runs_to_merge(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Neighbours worth rewriting: small ones together, and those with deleted rows."""
    runs: list[list[Segment]] = [[]]
    for segment in segments:
        if segment.entry.tombstones or segment.rows < SEGMENT_ROWS:
            runs[-1].append(segment)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1 or any(s.entry.tombstones for s in run)]


def merge_segments(
    run: Sequence[Segment], new_segment: Callable[[], SegmentWriter]
) -> list[SegmentInfo]:
    """Write the live rows of some segments, in order, into as few new ones as they fill."""
    infos: list[SegmentInfo] = []
    writer, planned, last_id = new_segment(), 0, ""
    for segment in run:
        starts, counts = (column.tolist() for column in segment.document_rows())
        copied = 0
        for index in np.flatnonzero(segment.live_documents()).tolist():
            document_id, path, content_hash = (
                segment.documents.column(name)[index].as_py()
                for name in ("document_id", "path", "content_hash")
            )
            full = planned >= SEGMENT_ROWS and document_id != last_id
            if full or planned + counts[index] > MAX_SEGMENT_ROWS:
                copy_rows(segment, copied, starts[index], writer)
                infos.append(writer.finish())
                writer, planned, copied = new_segment(), 0, starts[index]
            # A document that was cut between two segments becomes one again.
            if not planned or document_id != last_id:
                writer.begin_document(document_id, path, content_hash, row=planned)
            planned += counts[index]
            last_id = document_id
        copy_rows(segment, copied, segment.rows, writer)
    infos.append(writer.finish())
    return infos


def copy_rows(segment: Segment, start: int, stop: int, writer: SegmentWriter) -> None:
    """Append the live rows from `start` to `stop` of a segment to another one."""
    bands = [segment.band(index) for index in range(segment.bands)]
    stored = Vectors(bands, segment.norms if segment.spec.is_foreign else None)
    while start < stop:
        at = start % CHUNK_BATCH_ROWS
        end = min(stop, start - at + CHUNK_BATCH_ROWS)
        batch = segment.chunk_batch(start // CHUNK_BATCH_ROWS).slice(at, end - start)
        vectors = stored[start:end]
        if segment.live is not None:
            live = segment.live[start:end]
            batch, vectors = batch.take(number_array(np.flatnonzero(live), np.int64)), vectors[live]
        if batch.num_rows:
            writer.append_batch(batch, vectors)
        start = end
