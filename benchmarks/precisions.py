"""What fewer bits a number cost in recall: final scores in fp16 and int8, heads in 8 bits and 1.

    python benchmarks/precisions.py --rows 100000

The vectors are synthetic (`synthetic.py`). Scores are computed by numpy from the rounded numbers,
so this is what each precision can reach, whatever computes it. Recall@10 is against exact search
in fp32; of heads, the share of the ten best that a shortlist holds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from synthetic import DIMS, SyntheticVectors

from adaptive_search import tables

K, AGAIN, HEAD = 10, 20, DIMS[0]
SHORTLISTS = (100, 1000)
Matrix = NDArray[np.float32]


def best(scores: Matrix, count: int) -> NDArray[np.int64]:
    """The rows of the highest scores of each query, best first: int64 (queries, count)."""
    part = np.argpartition(-scores, count, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Mean share of the true rows that were found."""
    return float(np.mean([np.isin(t, f).mean() for f, t in zip(found, truth, strict=True)]))


def int8(rows: Matrix) -> Matrix:
    """Rows as 8 bits a number with a scale each, and back."""
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    rounded: Matrix = np.round(rows / scale) * scale
    return rounded


def unit(rows: Matrix) -> Matrix:
    """Rows at unit length."""
    scaled: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def scores_of(source: SyntheticVectors, queries: Matrix) -> dict[str, Matrix]:
    """Scores of all rows, float32 (queries, rows), by precision; rows are made block by block."""
    heads = unit(queries[:, :HEAD])
    parts: dict[str, list[Matrix]] = {}
    for block in source.blocks():
        head = unit(block[:, :HEAD])
        for name, scores in {
            "fp32": queries @ block.T,
            "fp16": queries @ block.astype(np.float16).astype(np.float32).T,
            "int8": queries @ int8(block).T,
            "head, fp16": heads @ head.T,
            "head, 8 bits": heads @ int8(head).T,
            "head, 1 bit": heads @ np.sign(head).T,
        }.items():
            parts.setdefault(name, []).append(scores.astype(np.float32))
    return {name: np.concatenate(scores, axis=1) for name, scores in parts.items()}


def measure(rows: int, count: int) -> list[dict[str, Any]]:
    """Bytes a vector and recall@10 of each precision."""
    source = SyntheticVectors(rows)
    scores = scores_of(source, source.queries(count))
    truth = best(scores["fp32"], K)
    width = DIMS[-1]
    bits = {"fp16": 16, "8 bits": 8, "1 bit": 1}
    found: list[dict[str, Any]] = [
        {"kept as": name, "bytes": size, "recall": recall(best(scores[name], K), truth)}
        for name, size in (("fp32", 4 * width), ("fp16", 2 * width), ("int8", width + 4))
    ]
    again = best(scores["int8"], AGAIN)
    exact = np.take_along_axis(scores["fp16"], again, axis=1)
    rescored = np.take_along_axis(again, best(exact, K), axis=1)
    name = f"int8, {AGAIN} scored again in fp16"
    found.append({"kept as": name, "bytes": 3 * width + 4, "recall": recall(rescored, truth)})
    for kind, width_bits in bits.items():
        size = HEAD * width_bits // 8
        for shortlist in SHORTLISTS:
            share = recall(best(scores[f"head, {kind}"], shortlist), truth)
            name = f"{HEAD} dims, {kind}, shortlist of {shortlist:,}"
            found.append({"kept as": name, "bytes": size, "recall": share})
    return found


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.rows, args.queries)
    cells: tables.Cells = {"bytes": "{:,}".format, "recall": "{:.4f}".format}
    print(tables.to_text(pd.DataFrame(found), cells))
    if args.json:
        args.json.write_text(json.dumps({"rows": args.rows, "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
