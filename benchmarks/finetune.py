r"""What fine-tuning on a domain gains there, and what it costs elsewhere.

Of a file of pairs the first rows are trained on with the packaged recipe, and the next ones, which
training never sees, are measured before and after: MRR@10 of each query's positive among all their
positives, by dimension. With --sets, nDCG@10 of other domains is measured as well.

    python benchmarks/finetune.py --pairs DATA/pairs-000.parquet --source python_docstring_code \
        --sets SETS --json build/finetune.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from adaptive_search import Encoder
from adaptive_search.encoder.data import COLUMNS, find_files, read_rows
from adaptive_search.encoder.development import mean_reciprocal_rank
from adaptive_search.encoder.recipe import Recipe, packaged_recipe
from adaptive_search.encoder.training import Trainer
from adaptive_search.evaluation_sets import find_sets
from adaptive_search.set_measurement import measure_sets
from adaptive_search.set_report import NDCG

Pair = tuple[str, ...]


def read_pairs(path: Path, source: str | None) -> Iterator[Pair]:
    """The pairs of a file, or those of one source in its column of that name."""
    columns = COLUMNS["pairs"] if source is None else (*COLUMNS["pairs"], "source")
    rows = read_rows(find_files(path, "pairs"), columns)
    return (row[:2] for row in rows if source is None or row[2] == source)


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """Write pairs as `train --pairs` reads them."""
    records = (dict(zip(COLUMNS["pairs"], pair, strict=True)) for pair in pairs)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def reciprocal_ranks(encoder: Encoder, pairs: list[Pair]) -> dict[int, float]:
    """MRR@10 by dimension."""
    queries, positives = (encoder.encode(list(column)) for column in zip(*pairs, strict=True))
    return {
        dim: mean_reciprocal_rank(
            encoder.truncate(queries, dim) @ encoder.truncate(positives, dim).T
        )
        for dim in encoder.dims
    }


def elsewhere(encoder: Encoder, sets: list[Path]) -> dict[str, dict[int, float]]:
    """NDCG@10 of an exact search by set and dimension."""
    found: dict[str, dict[int, float]] = {}
    if sets:
        note = partial(print, file=sys.stderr)
        rows = measure_sets(encoder, find_sets(sets), granularities=[1], note=note).retrieval
        for row in rows[rows["shortlist"].isna()].to_dict("records"):
            found.setdefault(row["set"], {})[row["dim"]] = row[NDCG]
    return found


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--source", help="take only the rows with this in the column `source`")
    parser.add_argument("--train", type=int, default=3000, help="pairs to train on")
    parser.add_argument("--test", type=int, default=500, help="pairs to measure on")
    parser.add_argument("--recipe", type=Path, default=packaged_recipe("finetune"))
    parser.add_argument("--sets", type=Path, nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = read_pairs(args.pairs, args.source)
    train, test = list(islice(rows, args.train)), list(islice(rows, args.test))
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder) / "pairs.jsonl", train)
        run = Path(folder) / "run"
        started = time.process_time()
        trainer = Trainer(Recipe.load(args.recipe), run, pairs=Path(folder) / "pairs.jsonl")
        trainer.train()
        seconds = time.process_time() - started
        encoders = {
            "before": Encoder.load(threads=args.threads),
            "after": Encoder.load(run / "weights", threads=args.threads),
        }
        record = {
            when: {"these pairs": reciprocal_ranks(e, test), **elsewhere(e, args.sets)}
            for when, e in encoders.items()
        }
    print(f"{len(train):,} pairs, {trainer.tokens:,} tokens, {seconds:.0f} s of CPU time")
    for when, measured in record.items():
        for name, found in measured.items():
            cells = "  ".join(f"{dim}: {value:.4f}" for dim, value in found.items())
            print(f"{when:<6} {name:<14} {cells}")
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
