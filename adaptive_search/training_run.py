"""One training run with its progress on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_search.errors import MissingExtra

if TYPE_CHECKING:
    from adaptive_search.encoder.training import Progress

REPORT_STEPS = 20
SMOOTHING = 0.9


def run_training(
    run: Path,
    *,
    texts: Path | None,
    pairs: Path | None,
    weights: Path | None = None,
    from_scratch: bool = False,
    teacher: Path | None = None,
    recipe: Path | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> Path | None:
    """Train to the end of the recipe, from the run's checkpoint if there is one.

    Args:
        run: folder of the checkpoint.
        texts: file or folder of texts.
        pairs: file or folder of pairs.
        weights: folder of the weights to go on from; the shipped ones by default.
        from_scratch: start from the teacher instead.
        teacher: folder of the teacher; all-MiniLM-L6-v2 by default.
        recipe: file that says what to do; the packaged one for either start by default.
        threads: CPU threads; all by default, shared among the processes of `torchrun`.
        quiet: no progress.

    Returns:
        The folder of the finished weights; None in a process that only helps another.

    Raises:
        MissingExtra: torch is not installed.
        TrainingError: data, teacher, recipe or checkpoint cannot be used.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "train") from None
    from adaptive_search.encoder.encoder import available_threads
    from adaptive_search.encoder.recipe import Recipe, packaged_recipe
    from adaptive_search.encoder.training import Trainer

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, available_threads() // processes))
    trainer = Trainer(
        Recipe.load(recipe or packaged_recipe("scratch" if from_scratch else "finetune")),
        run,
        texts=texts,
        pairs=pairs,
        teacher=teacher,
        weights=weights,
        from_scratch=from_scratch,
    )
    if quiet or not trainer.workers.leads:
        trainer.train()
    else:
        trainer.train(_Lines(trainer.recipe.config.dims))
    return run / "weights" if trainer.workers.leads else None


class _Lines:
    """Smoothed losses every so many steps: each in all, and at each dimension."""

    def __init__(self, dims: Sequence[int]) -> None:
        self._dims = " ".join(map(str, dims))
        self._losses: dict[str, tuple[float, ...]] = {}
        self._by_dim: dict[str, tuple[float, ...]] = {}
        self._begin = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        _smooth(self._losses, {name: (value,) for name, value in progress.losses.items()})
        _smooth(self._by_dim, progress.losses_by_dim)
        if progress.step % REPORT_STEPS == 0 or progress.step == progress.steps:
            _say(
                f"{time.perf_counter() - self._begin:.0f} s, stage {progress.stage}, step "
                f"{progress.step}/{progress.steps}, {progress.tokens:,} tokens, "
                f"{progress.tokens_per_second:,.0f}/s: {_row(self._losses, 4, ' ')}"
            )
            if self._by_dim:
                _say(f"  at {self._dims} dims: {_row(self._by_dim, 3, ', ')}")
        if progress.development:
            ranks = " ".join(f"{dim} {value:.4f}" for dim, value in progress.development.items())
            _say(f"held-out pairs, MRR@10 by dimension: {ranks}")


def _smooth(known: dict[str, tuple[float, ...]], now: dict[str, tuple[float, ...]]) -> None:
    for name, values in now.items():
        before = known.get(name, values)
        known[name] = tuple(
            SMOOTHING * old + (1 - SMOOTHING) * new for old, new in zip(before, values, strict=True)
        )


def _row(losses: dict[str, tuple[float, ...]], digits: int, between: str) -> str:
    return between.join(
        " ".join([name, *(f"{value:.{digits}f}" for value in values)])
        for name, values in losses.items()
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
