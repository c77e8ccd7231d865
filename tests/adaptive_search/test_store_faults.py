"""Whatever call fails, or ends the process: the old generation or the new one, never a mixture."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptive_search.errors import StoreError

Contents = dict[str, Any]
Action = Callable[[Any, Any], None]


def first_run(kit: Any, store: Any) -> None:
    with store.writer() as writer:
        kit.add(writer, "a", 2)
        kit.add(writer, "b", 1)


def change(kit: Any, store: Any) -> None:
    with store.writer() as writer:
        kit.add(writer, "c", 2, version=1)
        kit.add(writer, "b", 2, version=1)
        writer.delete_documents(["a"])


def two_commits(kit: Any, store: Any) -> None:
    with store.writer() as writer:
        kit.add(writer, "d", 2, version=1)
        writer.commit()
        kit.add(writer, "a", 1, version=1)


def compact(kit: Any, store: Any) -> None:
    store.compact()


def cache(kit: Any, store: Any) -> None:
    with store.writer() as writer:
        writer.write_cache(writer.segments[0], b"payload", key="k")


ACTIONS = {action.__name__: action for action in (first_run, change, two_commits, compact, cache)}


def prepare(kit: Any, path: Path, name: str) -> None:
    """The index that an action starts from."""
    store = kit.create(path)
    if name != "first_run":
        first_run(kit, store)
    if name in ("compact", "cache"):
        two_commits(kit, store)


def states(kit: Any, start: Path, path: Path, name: str) -> tuple[list[Contents], int]:
    """Contents before, between the commits of and after an action; and how many calls it makes."""
    shutil.copytree(start, path)
    seen = [kit.contents(kit.open(path))]
    io = kit.FailingIO()
    replace = io.replace

    def observed(source: Path, target: Path) -> None:
        replace(source, target)
        seen.append(kit.contents(kit.open(path)))

    io.replace = observed
    ACTIONS[name](kit, kit.open(path, io))
    return seen, len(io.calls)


def check(kit: Any, path: Path, name: str, legal: list[Contents]) -> None:
    """The index is in a legal state, and running the action again ends as if nothing happened."""
    store = kit.open(path)
    assert kit.contents(store) in legal
    assert store.verify().problems == ()
    ACTIONS[name](kit, store)
    store = kit.open(path)
    assert kit.contents(store) == legal[-1]
    assert store.verify(deep=False).orphans == ()


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("name", ACTIONS)
def test_every_call_may_fail(tmp_path: Path, kit: Any, name: str, lasting: bool) -> None:
    prepare(kit, tmp_path / "start", name)
    legal, calls = states(kit, tmp_path / "start", tmp_path / "clean", name)
    assert calls >= 6
    # The second commit takes the way of the first, which `change` fails at every call.
    for k in range(0, calls, 3 if lasting or name == "two_commits" else 1):
        path = tmp_path / f"fail{k}"
        shutil.copytree(tmp_path / "start", path)
        try:
            ACTIONS[name](kit, kit.open(path, kit.FailingIO(k, lasting=lasting)))
        except StoreError as error:
            assert "No space left on device" in str(error) and "\n" not in str(error)
        if not lasting:
            assert kit.open(path).verify().orphans == ()
        check(kit, path, name, legal)
        shutil.rmtree(path)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import conftest, test_store_faults
kit = conftest.Kit()
store = kit.open(Path(sys.argv[2]), kit.FailingIO(int(sys.argv[4]), exits=True))
test_store_faults.ACTIONS[sys.argv[3]](kit, store)
"""


@pytest.mark.parametrize("name", ACTIONS)
def test_process_may_end_at_any_call(tmp_path: Path, kit: Any, name: str) -> None:
    prepare(kit, tmp_path / "start", name)
    legal, calls = states(kit, tmp_path / "start", tmp_path / "clean", name)
    for k in {calls // 2, calls - 4}:
        path = tmp_path / f"kill{k}"
        shutil.copytree(tmp_path / "start", path)
        here = str(Path(__file__).parent)
        command = [sys.executable, "-c", KILLED, here, str(path), name, str(k)]
        assert subprocess.run(command, check=False).returncode == 9
        check(kit, path, name, legal)


def test_create_may_fail_at_any_call(tmp_path: Path, kit: Any) -> None:
    io = kit.FailingIO()
    kit.create(tmp_path / "clean", io=io)
    for k in range(len(io.calls)):
        path = tmp_path / f"fail{k}"
        try:
            kit.create(path, io=kit.FailingIO(k, lasting=True))
        except StoreError:
            pass
        if not (path / "MANIFEST.json").exists():
            kit.create(path)
        assert kit.open(path).verify().problems == ()
