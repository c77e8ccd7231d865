"""What others reach on a retrieval set: BM25, and the teacher of our encoder.

Both are slow beside ours and never change, so their figures can be kept in a folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from retrieval_sets import DEPTH, Quality, RetrievalSet

TEACHER_TOKENS = 256
TEACHER_BATCH = 32


def bm25(data: RetrievalSet) -> Quality:
    """bm25s with Lucene's scoring, English stop words and the Snowball stemmer."""
    import bm25s
    import Stemmer

    ids, texts = data.documents()
    stemmer = Stemmer.Stemmer("english")

    def tokenize(batch: list[str]) -> object:
        return bm25s.tokenize(batch, stopwords="en", stemmer=stemmer, show_progress=False)

    ranker = bm25s.BM25(method="lucene")
    ranker.index(tokenize(texts), show_progress=False)
    depth = min(DEPTH + 1, len(ids))
    rows, _ = ranker.retrieve(tokenize(data.query_texts), k=depth, show_progress=False)
    return data.measure(data.without_own([[ids[row] for row in found] for found in rows]))


def teacher(data: RetrievalSet) -> Quality:
    """all-MiniLM-L6-v2 in float32 over the first 256 tokens of title and text, exact search."""
    ids, texts = data.documents()
    documents, queries = _teacher_vectors(texts), _teacher_vectors(data.query_texts)
    order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, : DEPTH + 1]
    return data.measure(data.without_own([[ids[row] for row in found] for found in order]))


def _teacher_vectors(texts: list[str]) -> NDArray[np.float32]:
    """Mean-pooled unit vectors, float32 (texts, 384)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from adaptive_search.encoder.teacher import default_teacher_dir

    directory = str(default_teacher_dir())
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = AutoModel.from_pretrained(directory, local_files_only=True).eval()
    # Texts of one length share a batch, so that little is padded.
    order = np.argsort([len(text) for text in texts], kind="stable")
    vectors = np.empty((len(texts), int(model.config.hidden_size)), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(texts), TEACHER_BATCH):
            rows = order[start : start + TEACHER_BATCH]
            batch = tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=TEACHER_TOKENS,
                return_tensors="pt",
            )
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (states * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    return vectors


BASELINES: dict[str, Callable[[RetrievalSet], Quality]] = {"BM25": bm25, "MiniLM-L6": teacher}


def baseline(name: str, data: RetrievalSet, cache: Path | None) -> Quality:
    """Measure a baseline, or read what the cache has of it."""
    kept = cache / f"{data.name}-{name}-{data.digest}.json" if cache else None
    if kept is not None and kept.is_file():
        return Quality(**json.loads(kept.read_text(encoding="utf-8")))
    found = BASELINES[name](data)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(dataclasses.asdict(found)) + "\n", encoding="utf-8")
    return found
