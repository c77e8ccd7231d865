"""The train command: from pairs to weights, in one process and in two, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from adaptive_search.cli import main  # noqa: E402
from adaptive_search.encoder import checkpoint  # noqa: E402
from adaptive_search.encoder.encoder import Encoder  # noqa: E402

WORDS = "the plants store energy light is heat leaf cell water sun green".split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with pairs.jsonl and recipe.json."""
    rng = np.random.default_rng(0)
    queries = [" ".join(rng.choice(WORDS, 3)) for _ in range(40)]
    rows = [{"query": query, "positive": f"{query} sun"} for query in queries]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "pairs.jsonl").write_text(lines, encoding="utf-8")
    stage = {"steps": 4, "batch_tokens": 128, "max_tokens": 16, "warmup_steps": 1}
    recipe = json.dumps({"stages": [stage], "checkpoint_steps": 2})
    (tmp_path / "recipe.json").write_text(recipe, encoding="utf-8")
    return tmp_path


def arguments(folder: Path, tiny_teacher_dir: Path, weights: Path) -> list[str]:
    named = {
        "--pairs": folder / "pairs.jsonl",
        "--run": folder / "run",
        "--recipe": folder / "recipe.json",
        "--distill-from": tiny_teacher_dir,
        "--weights": weights,
        "--threads": 1,
    }
    return ["train", *(str(part) for item in named.items() for part in item)]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_pairs_make_weights(folder: Path, tiny_teacher_dir: Path, tiny_weights_dir: Path) -> None:
    result = invoke(*arguments(folder, tiny_teacher_dir, tiny_weights_dir))
    assert result.exit_code == 0, result.stderr
    assert (result.exit_code, result.stdout) == (0, f"{folder / 'run' / 'weights'}\n")
    assert "stage 0, step 4/4" in result.stderr and "contrastive" in result.stderr
    by_dim = re.search(
        r"^  at ([\d ]+) dims: relational([ \d.]+), contrastive", result.stderr, re.M
    )
    assert by_dim and len(by_dim[1].split()) == len(by_dim[2].split()) > 1
    trained = checkpoint.load(folder / "run" / "weights")
    assert trained.fingerprint != checkpoint.load(tiny_weights_dir).fingerprint
    assert np.isfinite(Encoder.load(folder / "run" / "weights", threads=1).encode("sun")).all()
    again = invoke(*arguments(folder, tiny_teacher_dir, tiny_weights_dir))
    assert again.exit_code == 0 and "step" not in again.stderr  # nothing is left to do


@pytest.mark.slow
def test_two_processes_train_one_model(
    folder: Path, tiny_teacher_dir: Path, tiny_weights_dir: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "--", "adaptive_search.cli"]
    command += arguments(folder, tiny_teacher_dir, tiny_weights_dir)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,  # the installed package, not the checkout
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'run' / 'weights'}\n"  # one of them reports
    assert done.stderr.count("step 4/4") == 1
    alone = invoke(
        *arguments(folder, tiny_teacher_dir, tiny_weights_dir), "--run", str(folder / "alone")
    )
    assert alone.exit_code == 0
    both, one = (checkpoint.load(folder / run / "weights") for run in ("run", "alone"))
    assert both.fingerprint != one.fingerprint  # each step saw another batch as well


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"query": "sun"}\n', r"pairs.jsonl:1: no field positive"),
        ('{"query": "sun", "positive": ""}\n', r"pairs.jsonl:1: field 'positive' is empty"),
        ("", "no rows in"),
    ],
)
def test_bad_pairs_are_one_line(
    folder: Path, tiny_teacher_dir: Path, tiny_weights_dir: Path, rows: str, message: str
) -> None:
    (folder / "pairs.jsonl").write_text(rows, encoding="utf-8")
    result = invoke(*arguments(folder, tiny_teacher_dir, tiny_weights_dir))
    assert result.exit_code == 1 and message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (folder / "run").exists()


def test_training_needs_data(tmp_path: Path) -> None:
    result = invoke("train", "--run", str(tmp_path / "run"))
    assert result.exit_code == 2 and "--pairs, --texts or both" in result.stderr
