"""The worker that reads for other projects' parsers: its limits, its reuse, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptive_search.corpus import read_corpus
from adaptive_search.documents import Document, Skipped
from adaptive_search.readers import isolation

# Readers of misbehaviour, for the worker to find under the name of a format.
MISBEHAVIOUR = """
import os, time
from adaptive_search.documents import Document
from adaptive_search.readers.source import UnreadableFile

def read_pdf(source):
    what = source.read().decode().split()[-1]
    yield Document(source.path, source.path, f"{os.getpid()}")
    if what == "hang":
        while True: pass
    elif what == "hang-in-c":
        sum(range(10**15))
    elif what == "sleep":
        time.sleep(1000)
    elif what == "explode":
        held = [bytes(1 << 28) for _ in range(100)]
    elif what == "crash":
        os.abort()
    elif what == "print":
        os.write(1, b"not an answer" * 1000)
        print("not an answer")
    elif what == "recursion":
        def deeper(): deeper()
        deeper()
    elif what == "refuse":
        raise UnreadableFile("no")
    elif what == "many":
        for number in range(300):
            yield Document(f"{number}", source.path, "x" * 10_000, metadata={"n": 1e300})
"""


@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of files that misbehave as their content says."""
    folder = tmp_path / "readers"
    folder.mkdir()
    (folder / "bad_reader.py").write_text(MISBEHAVIOUR)
    child = isolation._CHILD.replace(
        "serve()",
        f"sys.path.append({str(folder)!r}); import bad_reader; "
        "sys.modules['adaptive_search.readers.pdf'] = bad_reader; serve()",
    )
    isolation.stop_idle_workers()
    monkeypatch.setattr(isolation, "_CHILD", child)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    yield corpus
    isolation.stop_idle_workers()


def read(corpus: Path, *behaviour: str) -> tuple[list[str], list[Skipped]]:
    """Texts of what was read from files that behave so, in this order, and what was not."""
    for number, what in enumerate(behaviour):
        (corpus / f"{number:02d}.pdf").write_text(what)
    items = list(read_corpus(corpus))
    texts = [item.text for item in items if isinstance(item, Document)]
    return texts, [item for item in items if isinstance(item, Skipped)]


def test_one_worker_reads_all_files(misbehaving: Path) -> None:
    workers, skipped = read(misbehaving, *["good", "print", "refuse", "recursion"] * 2)
    assert len(set(workers)) == 1 and int(workers[0]) != os.getpid()
    assert [item.reason[:33] for item in skipped] == ["no", "its reader failed (RecursionError"] * 2


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("crash", "crashed"),
        ("explode", "ran out of memory"),
    ],
)
def test_a_failure_costs_one_file_and_one_worker(
    misbehaving: Path, behaviour: str, reason: str
) -> None:
    workers, skipped = read(misbehaving, "good", behaviour, "good", "good")
    assert [(item.path, reason in item.reason) for item in skipped] == [("01.pdf", True)]
    first, last = workers[0], workers[-1]
    assert first != last and workers[-2] == last


@pytest.mark.parametrize("behaviour", ["hang", "hang-in-c", "sleep"])
def test_a_hanging_reader_is_given_up(
    misbehaving: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    read(misbehaving, "good")  # starts the worker, which may take longer than the limit
    monkeypatch.setattr(isolation, "SECONDS", 0.5)
    _, skipped = read(misbehaving, behaviour)
    assert "took longer than 0.5 s" in skipped[0].reason


def test_the_time_that_the_caller_takes_does_not_count(
    misbehaving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(misbehaving, "good")
    monkeypatch.setattr(isolation, "SECONDS", 0.2)
    (misbehaving / "00.pdf").write_text("many")
    items = read_corpus(misbehaving)
    next(items)
    time.sleep(2.5)
    rest = list(items)
    assert len(rest) == 300 and all(isinstance(item, Document) for item in rest)


def test_a_caller_that_stops_early_leaves_no_answer_behind(misbehaving: Path) -> None:
    (misbehaving / "00.pdf").write_text("many")
    items = read_corpus(misbehaving)
    next(items)
    items.close()
    assert len(read(misbehaving, "good")[0]) == 1


def test_an_idle_worker_ends(misbehaving: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(misbehaving, "good")[0]
    monkeypatch.setattr(isolation, "_IDLE_SECONDS", 0.0)
    assert read(misbehaving, "good")[0] != first


def test_a_worker_is_replaced_after_many_files(
    misbehaving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_FILES", 2)
    workers, _ = read(misbehaving, *["good"] * 4)
    assert workers[0] == workers[1] != workers[2] == workers[3]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(misbehaving: Path, end: signal.Signals) -> None:
    (misbehaving / "00.pdf").write_text("good")
    (misbehaving / "01.pdf").write_text("hang")
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from adaptive_search.readers import isolation; from adaptive_search.corpus import *\n"
        f"isolation._CHILD = {isolation._CHILD!r}; isolation.SECONDS = 1.0\n"
        f"for item in read_corpus({str(misbehaving)!r}): print(item.text, flush=True)\n"
    )
    parent: Any
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.send_signal(end)
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
    assert parent.returncode != 0
