"""The fuzzer and the soak run for some seconds, and find nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they read /proc and set limits")


def record_of(script: str, *arguments: str, folder: Path) -> Any:
    """What a script writes as JSON, whatever its exit code."""
    target = folder / "record.json"
    command = [sys.executable, ROOT / "benchmarks" / script, *arguments, "--json", target]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert target.exists(), run.stderr
    return json.loads(target.read_text(encoding="utf-8"))


def test_damaged_files_of_every_kind_are_read_right_or_refused(tmp_path: Path) -> None:
    record = record_of("fuzz.py", "--cases", "400", "--seconds", "60", folder=tmp_path)
    assert record["findings"] == []
    assert record["cases"] > 40
    assert record["cases"] == sum(sum(row.values()) for row in record["targets"].values())


def test_readers_of_a_killed_writer_see_whole_generations(tmp_path: Path) -> None:
    options = "--updates 25 --readers 2 --kills 1 --kill-after 3 12".split()
    record = record_of("soak.py", *options, folder=tmp_path)
    assert record["updates"] >= 25 and record["kills"] == 1 and record["verified"]
    for reader in record["readers"]:
        assert reader["wrong"] == 0 and reader["reads"] > 0
