"""Measures an encoder on evaluation sets: what `report quality --sets --sts` does."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_search.encoder.granularity import Granularity, granularity_name
from adaptive_search.errors import QueryError
from adaptive_search.evaluation import Searcher, rank_documents
from adaptive_search.evaluation_sets import DEPTH, PairSet, Quality, RetrievalSet
from adaptive_search.index import AdaptiveIndex, exists
from adaptive_search.indexes.flat import FunnelSegment
from adaptive_search.indexes.funnel import Funnel, SearchResult
from adaptive_search.indexes.plan import DEFAULT_SHORTLIST
from adaptive_search.metrics import spearman
from adaptive_search.reporting import IndexSearcher
from adaptive_search.reports import rerank_dims
from adaptive_search.set_report import (
    CHUNKS,
    DOCUMENTS,
    NDCG,
    RECALL,
    RETRIEVAL_COLUMNS,
    SET_COLUMNS,
    SPEARMAN,
    STS_COLUMNS,
    SetReport,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adaptive_search.encoder.encoder import Encoder
    from adaptive_search.peers import Peer

BATCH = 64  # texts that are encoded at once; documents can be long
Row = dict[str, Any]


def measure_sets(
    encoder: Encoder,
    sets: Sequence[RetrievalSet],
    pairs: Sequence[PairSet] = (),
    *,
    granularities: Sequence[Granularity] | None = None,
    document_tokens: int | None = None,
    peers: Sequence[Peer] = (),
    cache: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> SetReport:
    """Measure an encoder on retrieval sets and sentence pairs.

    Each retrieval set is indexed at each granularity, chunks and all, and a document scores as its
    best chunk. Every dimension is searched exactly, and through the funnels from the lowest.
    Queries are encoded at the granularity of the documents; for the widest documents also at every
    other.

    Args:
        encoder: the encoder.
        sets: the retrieval sets.
        pairs: the sentence pairs.
        granularities: see `Encoder.encode`; all trained ones by default.
        document_tokens: also measure each document as one vector of its first so many tokens.
        peers: what to measure beside the encoder.
        cache: folder that keeps indexes and the figures of peers for the next time.
        note: told what is measured next.

    Raises:
        QueryError: no sub-model has a granularity, or the encoder does not read so many tokens.
    """
    import pandas as pd

    context = encoder.config.context
    if document_tokens is not None and not 3 <= document_tokens <= context:
        raise QueryError(f"{document_tokens:,} tokens of a document; give from 3 to {context:,}")
    heads = {width: encoder.config.heads(width) for width in granularities or encoder.granularities}
    widths = sorted(heads, key=lambda width: sum(heads[width]), reverse=True)
    retrieval: list[Row] = []
    with ExitStack() as stack:
        folder = cache or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="adaptive-search-"))
        )
        for data in sets:
            for width in widths:
                note(f"{data.name} at width {granularity_name(width)}")
                queries = widths if width == widths[0] else [width]
                index = IndexSearcher(_index(data, encoder, width, folder))
                retrieval += _searches(data, index, queries, CHUNKS)
                if document_tokens:
                    whole = WholeDocuments(data, encoder, width, document_tokens)
                    retrieval += _searches(data, whole, queries, DOCUMENTS)
            for peer in peers:
                note(f"{data.name} with {peer.name}")
                retrieval.append(_row(data, _peer_quality(peer, data, cache), search=peer.name))
    sts: list[Row] = []
    for file in pairs:
        note(f"pairs of {file.name}")
        sts += [row for width in widths for row in _similarities(file, encoder, width)]
        sts += [row for peer in peers for row in _peer_similarity(file, peer)]
    counts = [[data.name, data.size, len(data.queries)] for data in sets]
    frame = partial(pd.DataFrame, dtype=object)  # whole numbers stay whole beside None
    return SetReport(
        encoder.fingerprint,
        frame(counts, columns=SET_COLUMNS),
        frame(retrieval, columns=RETRIEVAL_COLUMNS).astype({NDCG: float, RECALL: float}),
        frame(sts, columns=STS_COLUMNS).astype({SPEARMAN: float}),
    )


class WholeDocuments:
    """The documents of a set as one vector each; see `adaptive_search.evaluation.Searcher`."""

    def __init__(
        self, data: RetrievalSet, encoder: Encoder, granularity: Granularity, tokens: int
    ) -> None:
        """Encode the first tokens of each document."""
        self.dims = encoder.dims
        self.granularity = granularity
        self.granularities = encoder.granularities
        self._encoder = encoder
        self._ids: list[str] = []
        bands: list[list[NDArray[np.float16]]] = [[] for _ in self.dims]
        documents = data.documents()
        while batch := list(islice(documents, BATCH)):
            self._ids += [identity for identity, _ in batch]
            vectors = self._encode([text for _, text in batch], granularity, tokens)
            for band, part in zip(bands, np.split(vectors, self.dims[:-1], axis=1), strict=True):
                band.append(part.astype(np.float16))
        self._funnel = Funnel(
            [FunnelSegment([np.concatenate(band) for band in bands])],
            self.dims,
            prefix_energy=encoder.config.prefix_energy,
            threads=encoder.threads,
        )

    @property
    def rows(self) -> int:
        """Number of documents."""
        return len(self._ids)

    def encode_queries(self, texts: Sequence[str], granularity: Granularity) -> NDArray[np.float32]:
        """Vectors of texts, float32 (n, dims[-1])."""
        return self._encode(texts, granularity, self._encoder.config.context)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        dim: int,
        shortlist: int | None = None,
        exact: bool = False,
    ) -> SearchResult:
        """Search as `Funnel.search` does."""
        return self._funnel.search(queries, k, dim=dim, shortlist=shortlist, exact=exact)

    def document_of(self, rows: NDArray[np.int64]) -> Sequence[str]:
        """Document id of each row."""
        return [self._ids[row] for row in rows]

    def _encode(
        self, texts: Sequence[str], granularity: Granularity, tokens: int
    ) -> NDArray[np.float32]:
        ids = self._encoder.tokenizer.encode_batch(texts, context=tokens)
        return self._encoder.encode_ids(ids, granularity=granularity)


# -- retrieval -------------------------------------------------------------------


def _index(
    data: RetrievalSet, encoder: Encoder, granularity: Granularity, folder: Path
) -> AdaptiveIndex:
    """The index of a set at a granularity, made in a folder unless it is there."""
    width = granularity_name(granularity).removeprefix("1/")
    name = f"{data.name}-{data.digest}-{encoder.fingerprint[:12]}-{width}"
    path = folder / name
    if exists(path):
        index = AdaptiveIndex.open(path, encoder=encoder, threads=encoder.threads)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        index = AdaptiveIndex.create(
            path, encoder=encoder, granularity=granularity, threads=encoder.threads
        )
    index.add(data.corpus)
    return index


def _searches(
    data: RetrievalSet, searcher: Searcher, granularities: Sequence[Granularity], vectors: str
) -> Iterator[Row]:
    """Every dimension and funnel, with queries at each granularity."""
    head = searcher.dims[0]
    funnels = [(dim, DEFAULT_SHORTLIST) for dim in rerank_dims(searcher.dims)]
    for granularity in granularities:
        queries = searcher.encode_queries(data.query_texts, granularity)
        for dim, shortlist in [*((dim, None) for dim in searcher.dims), *funnels]:
            yield _row(
                data,
                _quality(data, searcher, queries, dim, shortlist),
                vectors=vectors,
                document=granularity_name(searcher.granularity),
                query=granularity_name(granularity),
                search=f"{head} -> {dim}" if shortlist else str(dim),
                dim=dim,
                shortlist=shortlist,
            )


def _quality(
    data: RetrievalSet,
    searcher: Searcher,
    queries: NDArray[np.float32],
    dim: int,
    shortlist: int | None,
) -> Quality:
    def search(k: int) -> SearchResult:
        return searcher.search(queries, k, dim=dim, shortlist=shortlist, exact=shortlist is None)

    most = min(searcher.rows, shortlist or searcher.rows)
    return data.measure(rank_documents(searcher, data.queries, search, DEPTH, most=most))


def _row(data: RetrievalSet, quality: Quality, **how: Any) -> Row:  # noqa: ANN401
    figures = {NDCG: quality.ndcg_at_10, RECALL: quality.recall_at_100}
    return {**dict.fromkeys(RETRIEVAL_COLUMNS), "set": data.name, **how, **figures}


def _peer_quality(peer: Peer, data: RetrievalSet, cache: Path | None) -> Quality:
    """Measure a peer, or read what the cache has of it: peers are slow and never change."""
    kept = cache / f"{data.name}-{peer.name}-{data.digest}.json" if cache else None
    if kept is not None and kept.is_file():
        return Quality(**json.loads(kept.read_text(encoding="utf-8")))
    ids, texts = zip(*data.documents(), strict=True)
    # One more than is measured, for the document that has the query's own id.
    rows = peer.rank(texts, data.query_texts, DEPTH + 1)
    rankings = [
        [ids[row] for row in best if ids[row] != query.id][:DEPTH]
        for query, best in zip(data.queries, rows, strict=True)
    ]
    found = data.measure(rankings)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(dataclasses.asdict(found)) + "\n", encoding="utf-8")
    return found


# -- sentence pairs --------------------------------------------------------------


def _similarities(data: PairSet, encoder: Encoder, granularity: Granularity) -> Iterator[Row]:
    """Correlation of the scores with the cosines at each dimension."""
    encode = partial(encoder.encode_batch, granularity=granularity, batch_size=BATCH)
    parts = []
    for first, second in zip(encode(data.first), encode(data.second), strict=True):
        cut = [(encoder.truncate(first, d) * encoder.truncate(second, d)) for d in encoder.dims]
        parts.append(np.stack([product.sum(axis=1) for product in cut], axis=1))
    cosines = np.concatenate(parts)
    for dim, column in zip(encoder.dims, cosines.T, strict=True):
        yield {
            "set": data.name,
            "width": granularity_name(granularity),
            "search": str(dim),
            "dim": dim,
            SPEARMAN: round(spearman(column, data.scores), 4),
        }


def _peer_similarity(data: PairSet, peer: Peer) -> Iterator[Row]:
    cosines = peer.similarities(data.first, data.second)
    if cosines is not None:
        value = round(spearman(cosines, data.scores), 4)
        row: Row = {"set": data.name, "search": peer.name, SPEARMAN: value}
        yield {**dict.fromkeys(STS_COLUMNS), **row}
