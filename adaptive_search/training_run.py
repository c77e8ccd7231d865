"""One training run with its progress on stderr."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_search.errors import MissingExtra

if TYPE_CHECKING:
    from adaptive_search.encoder.training import Progress

REPORT_STEPS = 20
SMOOTHING = 0.9


def run_training(
    recipe: Path | None,
    data: Path,
    run: Path,
    teacher: Path | None,
    *,
    threads: int | None,
    quiet: bool,
) -> Path:
    """Train to the end of the recipe, from the run's checkpoint if there is one.

    Args:
        recipe: file that says what to do; that of the shipped weights by default.
        data: folder of texts and pairs.
        run: folder of the checkpoint.
        teacher: folder of the teacher; all-MiniLM-L6-v2 by default.
        threads: CPU threads; all by default.
        quiet: no progress.

    Returns:
        The folder of the finished weights.

    Raises:
        MissingExtra: torch is not installed.
        TrainingError: data, teacher, recipe or checkpoint cannot be used.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "train") from None
    from adaptive_search.encoder.encoder import available_threads
    from adaptive_search.encoder.recipe import Recipe, shipped_recipe
    from adaptive_search.encoder.training import Trainer

    torch.set_num_threads(threads or available_threads())
    trainer = Trainer(Recipe.load(recipe or shipped_recipe()), data, run, teacher)
    trainer.train(_Lines() if not quiet else lambda _: None)
    return run / "weights"


class _Lines:
    """A line of smoothed losses every so many steps."""

    def __init__(self) -> None:
        self._losses: dict[str, float] = {}
        self._begin = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        for name, value in progress.losses.items():
            before = self._losses.get(name, value)
            self._losses[name] = SMOOTHING * before + (1 - SMOOTHING) * value
        if progress.step % REPORT_STEPS and progress.step != progress.steps:
            return
        losses = " ".join(f"{name} {value:.4f}" for name, value in self._losses.items())
        print(  # noqa: T201
            f"{time.perf_counter() - self._begin:.0f} s, stage {progress.stage}, step "
            f"{progress.step}/{progress.steps}, {progress.tokens:,} tokens, "
            f"{progress.tokens_per_second:,.0f}/s: {losses}",
            file=sys.stderr,
            flush=True,
        )
