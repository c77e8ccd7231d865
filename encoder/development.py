"""How well a model in training finds the other half of held-out pairs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.data import held_out_rows, read_rows
from adaptive_search.encoder.tokenizer import Ids, Tokenizer

PAIRS = 500  # that are measured on
DEPTH = 10

Embed = Callable[[Sequence[Ids]], NDArray[np.float32]]
Pairs = tuple[list[Ids], list[Ids]]  # queries, and the positive of each


def read_pairs(files: Sequence[Path], tokenizer: Tokenizer, max_tokens: int) -> Pairs:
    """Held-out queries and their positives; the first PAIRS of them."""
    rows = held_out_rows(read_rows(files, ("query", "positive")))
    columns = list(zip(*itertools.islice(rows, PAIRS), strict=True)) or [(), ()]
    queries, positives = (tokenizer.encode_batch(c, context=max_tokens) for c in columns)
    return queries, positives


def mean_reciprocal_ranks(embed: Embed, pairs: Pairs, config: EncoderConfig) -> dict[int, float]:
    """MRR@10 of each query's positive among all positives, by dimension; empty without pairs."""
    if not pairs[0]:
        return {}
    queries, positives = map(embed, pairs)
    # Prefixes all have one length, so products order them as cosines do.
    return {
        dim: mean_reciprocal_rank(queries[:, :dim] @ positives[:, :dim].T) for dim in config.dims
    }


def mean_reciprocal_rank(scores: NDArray[np.float32]) -> float:
    """MRR@10 of the diagonal of float32 (queries, positives)."""
    ranks = (scores > scores.diagonal()[:, None]).sum(axis=1) + 1
    return float(np.where(ranks <= DEPTH, 1 / ranks, 0).mean())
