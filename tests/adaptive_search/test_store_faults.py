"""Whatever call fails, or ends the process, or loses power: one generation or the next, whole."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adaptive_search.storage_io import LOCK_FILE, StorageIO

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="accidents happen to children")


def test_accidents_and_damage(tmp_path: Path) -> None:
    """Some hundreds of those that `benchmarks/durability.py` makes happen."""
    target = tmp_path / "record.json"
    command = [sys.executable, str(BENCHMARKS / "durability.py"), "--stride", "40", "--kills", "2"]
    run = subprocess.run([*command, "--json", str(target)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    record = json.loads(target.read_text(encoding="utf-8"))
    scenarios = "first index,incremental,delete,compact,tidy,cache rebuild,plan,repair".split(",")
    assert list(record["crashes"]) == scenarios and record["failures"] == []
    seen = {accident for counts in record["crashes"].values() for accident in counts}
    kinds = {"error", "error + power cut", "short write", "exit", "power cut", "two cuts"}
    assert seen == kinds | {"SIGKILL"}
    assert sum(sum(counts.values()) for counts in record["crashes"].values()) > 100
    assert "MANIFEST.json" in record["damage"] and len(record["damage"]) == 11


@pytest.fixture
def durability(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("durability")
    with module.small_segments():
        yield module


@pytest.mark.parametrize("forgotten", ["fsync", "fsync_directory"])
def test_a_forgotten_fsync_would_be_noticed(
    tmp_path: Path, durability: Any, forgotten: str
) -> None:
    disk = importlib.import_module("simulated_disk")
    lying = type("LyingIO", (disk.PowerCutIO,), {forgotten: lambda self, target: None})
    scenario = next(s for s in durability.SCENARIOS if s.name == "incremental")
    tally = durability.Tally()
    durability.Matrix(scenario, tmp_path / "work", tally, 9).power_cuts(make=lying)
    assert tally.failures


def test_the_simulated_disk_loses_what_was_not_synced(tmp_path: Path, durability: Any) -> None:
    disk = importlib.import_module("simulated_disk")
    (tmp_path / "kept").write_bytes(b"old")
    io = disk.PowerCutIO(tmp_path)
    descriptor = io.create(tmp_path / "new")
    io.write(descriptor, memoryview(b"bytes"))
    assert io.cut("lost", 0) == {"kept": b"old"}
    assert io.cut("names", 0) == {"kept": b"old", "new": b""}
    io.fsync(descriptor)
    io.close(descriptor)
    assert io.cut("lost", 0) == {"kept": b"old"}
    io.fsync_directory(tmp_path)
    assert io.cut("lost", 0) == {"kept": b"old", "new": b"bytes"}
    io.replace(tmp_path / "new", tmp_path / "kept")
    assert io.cut("lost", 0) == {"kept": b"old", "new": b"bytes"}
    assert io.cut("names", 0) == {"kept": b"bytes"} == disk.load(tmp_path)
    both = [io.cut("mixed", seed) for seed in range(20)]
    assert all(image in (io.cut("lost", 0), io.cut("names", 0)) for image in both)
    assert both.count(both[0]) < 20


@pytest.mark.parametrize("number", range(8))
def test_every_change_passes_through_the_one_layer(
    tmp_path: Path, durability: Any, number: int
) -> None:
    """The interpreter itself tells of every file that is opened for writing, renamed or removed."""
    scenario = durability.SCENARIOS[number]
    root = tmp_path / "work"
    root.mkdir()
    scenario.start(root / "i")
    report = tmp_path / "strays"
    assert durability.in_child(lambda: report.write_text(strays(scenario, root)) and 0) == 0
    changes, *others = report.read_text().splitlines()
    assert others == [] and int(changes) > 3


NAMELESS = getattr(os, "O_TMPFILE", -1)  # of Linux


def strays(scenario: Any, root: Path) -> str:
    """How many changes a child process makes below a folder, and those not made by StorageIO."""
    inside, made, found = [0], [0], []
    for name, method in vars(StorageIO).items():
        if not name.startswith("_"):
            setattr(StorageIO, name, _counted(method, inside))

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            # A file without a name, by which filelock probes the disk, changes nothing that stays.
            changes = changes and arguments[2] & NAMELESS != NAMELESS
        else:
            changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
        path = str(arguments[0]) if arguments else ""
        # To lock, filelock makes a directory, which is there already.
        changes = changes and not (event == "os.mkdir" and Path(path).is_dir())
        if changes and path.startswith(str(root)) and not path.endswith(LOCK_FILE):
            made[0] += 1
            if not inside[0]:
                found.append(f"{event} {path}")

    sys.addaudithook(hear)
    scenario.change(root / "i", StorageIO())
    return "\n".join([str(made[0]), *found])


def _counted(method: Any, inside: list[int]) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        inside[0] += 1
        try:
            return method(*arguments, **options)
        finally:
            inside[0] -= 1

    return call
