"""Other libraries as `search.py` measures them: full vectors, one thread, their usual settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

K = 10
Vectors = NDArray[np.float32]
Way = Callable[[Vectors], NDArray[np.int64]]


@dataclass
class Built:
    """An index and ways to ask it.

    Attributes:
        name: of the index.
        ways: for each setting, from queries float32 (nq, dim) to rows int64 (nq, 10).
        seconds: processor time of the build.
        resident_bytes: memory a vector.
        disk_bytes: of files a vector; 0 where everything is in memory.
    """

    name: str
    ways: Mapping[str, Way]
    seconds: float
    resident_bytes: float
    disk_bytes: float = 0.0


def _faiss(name: str, vectors: Vectors, index: Any, ways: Mapping[str, Way]) -> Built:  # noqa: ANN401
    import faiss

    faiss.omp_set_num_threads(1)
    start = time.process_time()
    index.train(vectors[:: max(1, len(vectors) // 50_000)])
    index.add(vectors)
    seconds = time.process_time() - start
    size = len(faiss.serialize_index(index)) / len(vectors)
    return Built(name, ways, seconds, size)


def faiss_flat(vectors: Vectors) -> Built:
    """Exact search."""
    import faiss

    faiss.omp_set_num_threads(1)

    def search(q: Vectors) -> Any:  # noqa: ANN401
        # What IndexFlatIP does, without a copy of the vectors.
        return faiss.knn(q, vectors, K, faiss.METRIC_INNER_PRODUCT)[1]

    return Built("FAISS flat", {"exact": search}, 0.0, 4.0 * vectors.shape[1])


def faiss_hnsw(vectors: Vectors) -> Built:
    """A graph."""
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80

    def way(ef: int) -> Way:
        def search(q: Vectors) -> Any:  # noqa: ANN401
            index.hnsw.efSearch = ef
            return index.search(q, K)[1]

        return search

    ways = {f"ef={ef}": way(ef) for ef in (32, 64, 128, 256)}
    return _faiss("FAISS HNSW32", vectors, index, ways)


def _refined(name: str, vectors: Vectors, coarse: Any) -> Built:  # noqa: ANN401
    import faiss

    dim = vectors.shape[1]
    exact = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index = faiss.IndexRefine(coarse, exact)

    def way(nprobe: int, factor: int) -> Way:
        def search(q: Vectors) -> Any:  # noqa: ANN401
            coarse.nprobe, index.k_factor = nprobe, factor
            return index.search(q, K)[1]

        return search

    probes = ((32, 20), (64, 50), (128, 100), (256, 100))
    ways = {f"nprobe={n}, k_factor={f}": way(n, f) for n, f in probes}
    return _faiss(name, vectors, index, ways)


def _lists(vectors: Vectors) -> str:
    return f"IVF{round(4 * len(vectors) ** 0.5)}"


def faiss_pq(vectors: Vectors) -> Built:
    """Lists of product codes, refined in float16."""
    import faiss

    index = faiss.index_factory(
        vectors.shape[1], f"{_lists(vectors)},PQ96x8", faiss.METRIC_INNER_PRODUCT
    )
    return _refined("FAISS IVF-PQ + refine", vectors, index)


def faiss_rabitq(vectors: Vectors) -> Built:
    """Lists of one-bit codes, refined in float16."""
    import faiss

    index = faiss.index_factory(
        vectors.shape[1], f"{_lists(vectors)},RaBitQfs", faiss.METRIC_INNER_PRODUCT
    )
    return _refined("FAISS IVF-RaBitQ + refine", vectors, index)


def faiss_panorama(vectors: Vectors) -> Built:
    """Lists of whole vectors, whose distances are bounded level by level.

    It rounds each list up to some thousand rows, so that lists as short as the others' would take
    thirteen times the memory.
    """
    import faiss

    dim, lists = vectors.shape[1], max(1, len(vectors) // 1000)
    index: Any = faiss.index_factory(dim, f"IVF{lists},FlatPanorama12", faiss.METRIC_INNER_PRODUCT)

    def way(nprobe: int) -> Way:
        def search(q: Vectors) -> Any:  # noqa: ANN401
            index.nprobe = nprobe
            return index.search(q, K)[1]

        return search

    ways = {f"nprobe={n}": way(n) for n in (4, 8, 16, 32)}
    return _faiss("FAISS IVF-Panorama", vectors, index, ways)


def hnswlib(vectors: Vectors) -> Built | None:
    """A graph."""
    try:
        import hnswlib
    except ImportError:
        return None
    start = time.process_time()
    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), M=16, ef_construction=100)
    index.set_num_threads(1)
    index.add_items(vectors)
    seconds = time.process_time() - start

    def way(ef: int) -> Way:
        def search(q: Vectors) -> Any:  # noqa: ANN401
            index.set_ef(ef)
            return index.knn_query(q, K)[0].astype(np.int64)

        return search

    ways = {f"ef={ef}": way(ef) for ef in (32, 64, 128, 256)}
    return Built("hnswlib M16", ways, seconds, index.index_file_size() / len(vectors))


def usearch(vectors: Vectors) -> Built | None:
    """A graph over float16."""
    try:
        from usearch.index import Index
    except ImportError:
        return None
    start = time.process_time()
    index: Any = Index(
        ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=16, expansion_add=100
    )
    index.add(np.arange(len(vectors)), vectors, threads=1)
    seconds = time.process_time() - start

    def way(ef: int) -> Way:
        def search(q: Vectors) -> Any:  # noqa: ANN401
            index.expansion_search = ef
            return index.search(q, K, threads=1).keys.reshape(len(q), -1).astype(np.int64)

        return search

    ways = {f"ef={ef}": way(ef) for ef in (64, 128, 256)}
    return Built("usearch M16 f16", ways, seconds, index.memory_usage / len(vectors))


def scann(vectors: Vectors) -> Built | None:
    """A tree of anisotropic codes, reordered in float32."""
    try:
        import scann as library
    except ImportError:
        return None
    start = time.process_time()
    leaves = round(2 * len(vectors) ** 0.5)
    index = (
        library.scann_ops_pybind.builder(vectors, K, "dot_product")
        .tree(num_leaves=leaves, num_leaves_to_search=40, training_sample_size=len(vectors) // 2)
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(100)
        .build()
    )
    seconds = time.process_time() - start

    def way(probed: int, reorder: int) -> Way:
        def search(q: Vectors) -> Any:  # noqa: ANN401
            options = {"leaves_to_search": probed, "pre_reorder_num_neighbors": reorder}
            if len(q) == 1:
                return index.search(q[0], **options)[0][None].astype(np.int64)
            return index.search_batched(q, **options)[0].astype(np.int64)

        return search

    settings = ((20, 100), (40, 200), (80, 200), (160, 400))
    ways = {f"leaves={n}, reorder={r}": way(n, r) for n, r in settings}
    codes = vectors.shape[1] / 4  # half a byte for each pair of dims
    return Built("ScaNN", ways, seconds, 4 * vectors.shape[1] + codes)


PEERS: Mapping[str, Callable[[Vectors], Built | None]] = {
    "faiss-flat": faiss_flat,
    "faiss-hnsw": faiss_hnsw,
    "faiss-pq": faiss_pq,
    "faiss-rabitq": faiss_rabitq,
    "faiss-panorama": faiss_panorama,
    "hnswlib": hnswlib,
    "usearch": usearch,
    "scann": scann,
}
