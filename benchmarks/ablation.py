"""What each part of the training recipe is worth, from short runs that differ in one part.

Every run starts from the teacher, sees the same rows in the same order for the same number of
steps, and is measured on held-out training pairs: MRR@10 of each query's positive among all
positives, by dimension. No evaluation set is touched.

    python benchmarks/ablation.py --data DATA --steps 80 --json build/ablation.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from adaptive_search.encoder import development, seeding
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.recipe import Recipe, Stage
from adaptive_search.encoder.teacher import Teacher
from adaptive_search.encoder.tokenizer import Tokenizer
from adaptive_search.encoder.training import Progress, Trainer

STAGE: dict[str, Any] = {
    "batch_tokens": 2048,
    "max_tokens": 64,
    "warmup_steps": 10,
    "optimizer": "muon",
    "mined_share": 0.5,
    "token": 0.0,
    "layers": 3.0,
    "contrastive": 0.3,
    "granularity": 0.5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "AdamW for all weights": {"optimizer": "adamw"},
    "mined batches alone": {"mined_share": 1.0},
    "no distillation between layers": {"layers": 0.0},
    "that of the last states instead": {"layers": 0.0, "token": 0.3},
    "that of the last states as well": {"token": 0.3},
    "no pooled distillation": {"pooled": 0.0, "bands": 0.0},
    "no band targets": {"bands": 0.0},
    "no relational KL": {"relational": 0.0},
    "no contrastive loss": {"contrastive": 0.0},
    "squared distance as well": {"squared": 0.5},
    "consistency of dims": {"consistency": 1.0},
    "curriculum over dims": {"curriculum_steps": 8},
    "no narrower sub-model": {"granularity": 0.0},
    "dropout 0.1": {"dropout": 0.1},
    "texts alone": {"pairs_share": 0.0},
    "pairs alone": {"pairs_share": 1.0},
    "half of the texts joined to long ones": {"long_share": 0.5, "long_tokens": 1024},
    "products in float32": {"precision": "float32"},
    "moving average of 0.9": {"average": 0.9},
    "causal direction": {"direction": "causal"},
    "mean pooling": {"pooling": "mean"},
    "first table: the teacher's outputs": {"table": "outputs"},
    "first table: random": {"table": "random"},
}


def random_table(teacher: Teacher, tokenizer: Tokenizer) -> Tensor:
    """A table that knows nothing of the teacher."""
    return torch.randn(tokenizer.vocab_size, teacher.width)


def pool_by_mean(trainer: Trainer) -> None:
    """Weigh all tokens alike, for good."""
    query = trainer.model.pooling["query"]
    query.data.zero_()
    query.requires_grad_(requires_grad=False)


def train(name: str, data: Path, steps: int, seed: int) -> dict[str, Any]:
    """Run one variant; MRR@10 by dimension, and tokens a second of CPU time."""
    changes = dict(VARIANTS[name])
    config = EncoderConfig(direction=changes.pop("direction", "alternating"))
    table, pooling = changes.pop("table", "inputs"), changes.pop("pooling", "learned")
    general = {key: changes.pop(key) for key in ("precision", "average") if key in changes}
    stage = Stage(**({"steps": steps} | STAGE | changes))
    recipe = Recipe(
        (stage,),
        config,
        seed=seed,
        table="outputs" if table == "outputs" else "inputs",
        survey_batches=10,
        development_steps=steps,
        **general,
    )
    inputs = random_table if table == "random" else seeding.vocabulary_inputs
    last: list[Progress] = []
    with tempfile.TemporaryDirectory() as run:
        with mock.patch.object(seeding, "vocabulary_inputs", inputs):
            trainer = Trainer(recipe, Path(run), texts=data, pairs=data, from_scratch=True)
        if pooling == "mean":
            pool_by_mean(trainer)
        started = time.process_time()
        trainer.train(lambda progress: last.append(dataclasses.replace(progress)))
        seconds = time.process_time() - started
    final = last[-1]
    reached = final.development
    if recipe.average:
        trainer.model.load_state_dict(trainer.average.state())
        held_out = trainer._held_out(stage)
        reached = development.mean_reciprocal_ranks(trainer.objective.embed, held_out, config)
    return {
        "variant": name,
        "tokens": final.tokens,
        "tokens_per_cpu_second": final.tokens / seconds,
        "mrr_at_10": reached,
    }


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """The runs as a table."""
    dims = [64, 128, 256, 512, 1536]
    lines = [
        "| recipe | " + " | ".join(str(d) for d in dims) + " |",
        "|---|" + "---:|" * len(dims),
    ]
    for row in rows:
        cells = " | ".join(f"{row['mrr_at_10'][dim]:.4f}" for dim in dims)
        lines.append(f"| {row['variant']} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="names of variants, by commas")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.only.split(",") if args.only else VARIANTS:
        rows.append(train(name, args.data, args.steps, args.seed))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(to_markdown(rows))


if __name__ == "__main__":
    main()
