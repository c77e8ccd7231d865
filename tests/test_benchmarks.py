"""The benchmarks of quality run, on weights and texts that are tiny."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def record_of(script: str, *arguments: str | Path, folder: Path) -> Any:
    """What a benchmark writes as JSON."""
    target = folder / "record.json"
    command = [sys.executable, ROOT / "benchmarks" / script, *arguments, "--json", target]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("filler", ["synthetic", "given"])
def test_needle(filler: str, tmp_path: Path, tiny_weights_dir: Path) -> None:
    options: list[str | Path] = ["--weights", tiny_weights_dir, "--threads", "1"]
    if filler == "given":
        (tmp_path / "book.txt").write_text("A leaf is green. " + "light and heat " * 400)
        options += ["--texts", tmp_path / "book.txt", "--granularity", "1/2"]
    options += ["--lengths", "128,512", "--documents", "6"]
    record = record_of("needle.py", *options, folder=tmp_path)
    rows = record["rows"]
    assert [(row["kind"], row["tokens"]) for row in rows] == [
        (kind, tokens) for kind in ("passkey", "fact") for tokens in (128, 512)
    ]
    for row in rows:
        thirds = [row[f"{name} third"] for name in ("first", "second", "last")]
        assert row["recall@1"] == pytest.approx(sum(thirds) / 3)
    assert (record["dim"], record["documents"]) == (1536, 6)


def test_quality_writes_what_the_encoder_chooses_from(
    tmp_path: Path, tiny_weights_dir: Path
) -> None:
    folder = tmp_path / "sets" / "plants"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        lines = [json.dumps({"_id": f"{name}{n}", "text": "the leaf" * n}) for n in range(1, 4)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "qrels" / "test.tsv").write_text("queries1\tcorpus1\t1\n")
    record = record_of(
        "quality.py",
        *(tmp_path / "sets", "--weights", tiny_weights_dir, "--threads", "1", "--no-peers"),
        *("--granularities", "1", "1/2", "--measurements", tmp_path / "measurements.json"),
        folder=tmp_path,
    )
    assert {"fingerprint", "cpu", "level", "sets", "retrieval", "sts"} == set(record)
    found = json.loads((tmp_path / "measurements.json").read_text(encoding="utf-8"))
    assert "plants" in found["source"] and found["fingerprint"] == record["fingerprint"]
    assert [(row["dim"], row["granularity"]) for row in found["rows"]][:3] == [
        (64, 1),
        (64, 2),
        (128, 1),
    ]
    assert all(row["latency_ms"] > 0 for row in found["rows"])
    assert found["rows"][-2]["accuracy"] == 1


def test_widths_measures_mixes_beside_uniform_ones(tmp_path: Path, tiny_weights_dir: Path) -> None:
    folder = tmp_path / "sets" / "plants"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        lines = [json.dumps({"_id": f"{name}{n}", "text": "the leaf" * n}) for n in range(1, 4)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "qrels" / "test.tsv").write_text("queries1\tcorpus1\t1\n")
    options: list[str | Path] = ["--weights", tiny_weights_dir, "--threads", "1"]
    record = record_of("widths.py", tmp_path / "sets", *options, folder=tmp_path)
    assert [row["granularity"] for row in record["rows"]] == ["1", "1/2", "1/4", "1/8"]
    for row in record["rows"]:
        assert set(row["ndcg_at_10"]) == set(row["cosine"]) == {"64", "512", "1536"}


def test_the_page_on_scale_has_the_table_of_its_script() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "scale.py"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
