"""The shortlist: a FAISS index over the heads (shortest prefixes) of one segment's vectors.

Heads are brought to unit length and held as float16, 2 bytes a number: a flat scan of them finds
what exact heads find. Graphs and inverted files over so few dimensions lose recall that no rerank
brings back; 8-bit codes are no faster at this size, and 4-bit product codes need so much longer a
shortlist that their advantage is spent on rescoring.

The index is a cache of the first band. Its bytes are the codes alone: FAISS's own file format holds
nothing else of use here, and its reader is not made for files that may be damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from adaptive_search.errors import StoreFormatError
from adaptive_search.indexes.flat import unit_rows

# Heads brought to unit length at a time.
_BUILD_ROWS = 16_384


class Shortlist:
    """The nearest heads of one segment, by cosine.

    Attributes:
        rows: number of vectors.
        dim: coordinates of a head.
    """

    def __init__(self, index: Any) -> None:  # noqa: ANN401 - FAISS has no type information
        """Wrap a FAISS index made by `build` or `from_bytes`."""
        self._index = index
        self.rows = int(index.ntotal)
        self.dim = int(index.d)

    @classmethod
    def build(cls, heads: NDArray[np.float16]) -> Shortlist:
        """Index the heads of a segment.

        Args:
            heads: float16 or float32 (n, dim), of any length; zero vectors match nothing well.
        """
        index = _empty_index(heads.shape[1])
        for start in range(0, len(heads), _BUILD_ROWS):
            index.add(unit_rows(heads[start : start + _BUILD_ROWS]))
        return cls(index)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        mask: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k heads of largest cosine with each query.

        Args:
            queries: float32 (nq, dim), unit length, finite.
            k: hits per query, at least 1.
            mask: bool (rows,), the rows that may be returned; all if None.
            threads: threads to use for several queries.

        Returns:
            Scores, float32 (nq, min(k, rows)), and rows, int64 of the same shape, best first; where
            there are fewer hits, the rest is -inf and -1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"shortlist: queries must have shape (nq, {self.dim})")
        k = min(k, self.rows)
        if k < 1 or not len(queries):
            shape = (len(queries), max(k, 0))
            return np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
        params = None
        if mask is not None:
            # FAISS keeps only pointers: the selector and its bits live as long as this call.
            bits = np.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
            params = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        with _faiss_threads(threads):
            scores, rows = self._index.search(np.ascontiguousarray(queries), k, params=params)
        scores[rows < 0] = -np.inf
        return scores, rows

    def to_bytes(self) -> bytes:
        """Give the codes, float16 (rows, dim), as bytes for a cache beside the vectors."""
        return bytes(faiss.vector_to_array(self._index.codes))

    @classmethod
    def from_bytes(cls, data: bytes, *, rows: int, dim: int) -> Shortlist:
        """Restore an index from bytes whose checksum was found right.

        Args:
            data: what `to_bytes` gave.
            rows: vectors that the index must hold.
            dim: coordinates that they must have.

        Raises:
            StoreFormatError: the bytes cannot be those of such an index; build it anew.
        """
        index = _empty_index(dim)
        if len(data) != rows * index.code_size:
            raise StoreFormatError(
                f"shortlist cache has {len(data)} bytes instead of {rows * index.code_size} for "
                f"{rows} heads of {dim} dims; rebuild it"
            )
        faiss.copy_array_to_vector(np.frombuffer(data, np.uint8), index.codes)
        index.ntotal = rows
        return cls(index)


def _empty_index(dim: int) -> Any:  # noqa: ANN401
    return faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )


@contextmanager
def _faiss_threads(threads: int) -> Iterator[None]:
    """Run FAISS on this many threads; other users of the OpenMP runtime keep their number."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
