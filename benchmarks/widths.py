"""Whether the search for layer widths finds mixes that also retrieve better.

Widths are searched on passages of each set's corpus, without its judgements. Then documents, cut
at so many tokens, and queries are encoded with one width for all layers, and with the best mix
of at most the same cost; nDCG@10 is measured with the judgements.

    python benchmarks/widths.py SETS --only time,cisi --json build/widths.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptive_search import Encoder
from adaptive_search.encoder.granularity import Granularity, granularity_name
from adaptive_search.encoder.width_search import best_mix, sample_ids, search_widths
from adaptive_search.evaluation_sets import RetrievalSet, find_sets

DIMS = (64, 512, 1536)
BATCH = 256


@dataclass(frozen=True)
class Row:
    """One way to run the layers on one set; figures are by dimension."""

    set: str
    granularity: str
    cost: float
    cosine: dict[int, float]
    ndcg_at_10: dict[int, float]


def measure_set(data: RetrievalSet, encoder: Encoder, tokens: int) -> Iterator[Row]:
    """Each uniform width, and after it the best mix of at most its cost."""
    texts = [text for _, text in data.documents()]
    mixes = list(search_widths(encoder, sample_ids(encoder, texts)))
    uniform = [mix for mix in mixes if mix.granularity in encoder.granularities]
    budgets = [mix.cost for mix in uniform]
    between = [best_mix(mixes, (a + b) / 2) for a, b in zip(budgets, budgets[1:], strict=False)]
    chosen = [*uniform, *between, *(best_mix(mixes, budget) for budget in budgets)]
    once = {mix.granularity: mix for mix in chosen}
    for mix in sorted(once.values(), key=lambda mix: -mix.cost):
        found = ndcg(data, encoder, mix.granularity, texts, tokens)
        cosine = {dim: round(mix.cosines[dim], 4) for dim in DIMS}
        yield Row(data.name, granularity_name(mix.granularity), round(mix.cost, 4), cosine, found)


def ndcg(
    data: RetrievalSet, encoder: Encoder, granularity: Granularity, texts: list[str], tokens: int
) -> dict[int, float]:
    """nDCG@10 of exact search at each dimension, one vector a document."""

    def encode(batch: list[str]) -> NDArray[np.float32]:
        ids = encoder.tokenizer.encode_batch(batch, context=tokens)
        return encoder.encode_ids(ids, granularity=granularity)

    ids = [document for document, _ in data.documents()]
    documents = np.concatenate([encode(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])
    queries = encode(data.query_texts)
    found = {}
    for dim in DIMS:
        scores = encoder.truncate(queries, dim) @ encoder.truncate(documents, dim).T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :101]
        rankings = [
            [ids[row] for row in best if ids[row] != query.id]
            for query, best in zip(data.queries, order, strict=True)
        ]
        found[dim] = data.measure(rankings).ndcg_at_10
    return found


def to_markdown(rows: list[Row]) -> str:
    """One line a row."""
    heads = [f"cosine {dim}" for dim in DIMS] + [f"nDCG@10 {dim}" for dim in DIMS]
    lines = [
        f"| set | granularity | compute | {' | '.join(heads)} |",
        "|---|---|" + "---:|" * (1 + len(heads)),
    ]
    for row in rows:
        cells = [f"{figures[dim]:.4f}" for figures in (row.cosine, row.ndcg_at_10) for dim in DIMS]
        name = f"{row.set} | {row.granularity} | {row.cost:.1%}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path, help="folder of sets in BEIR layout")
    parser.add_argument("--only", default="", help="names of sets, by comma")
    parser.add_argument("--tokens", type=int, default=128, help="of each document")
    parser.add_argument("--weights", type=Path, help="the shipped ones by default")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    encoder = Encoder.load(asked.weights, threads=asked.threads)
    only = [name for name in asked.only.split(",") if name]
    rows: list[Row] = []
    for data in find_sets([asked.sets]):
        if not only or data.name in only:
            rows += measure_set(data, encoder, asked.tokens)
            print(f"{data.name}: measured", file=sys.stderr)
    print(to_markdown(rows))
    if asked.json:
        record = {
            "fingerprint": encoder.fingerprint,
            "tokens": asked.tokens,
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
