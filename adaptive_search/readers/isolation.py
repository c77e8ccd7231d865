"""Formats that other projects' parsers read, in a process of their own.

A file that hangs, crashes or explodes its parser costs that process, and is skipped. One worker
reads file after file; it is started with the first, replaced after a file that it failed on, and
ends when nothing is asked of it for a while.
The request is one line of JSON on its standard input, and so is each answer on its output: some
documents, and in the last one what went wrong.
"""

from __future__ import annotations

import atexit
import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from adaptive_search.documents import Document, Skipped
from adaptive_search.readers.source import Source, UnreadableFile, failure_reason

SECONDS = 60.0  # of computing, for the next answer
_PATIENCE = 10  # times as many may pass on the clock, on a busy machine or a slow disk
_IDLE_SECONDS = 60.0
_READERS = {
    "pdf": "pdf.read_pdf",
    "docx": "docx.read_docx",
    "parquet": "columnar.read_parquet",
    "arrow": "columnar.read_arrow",
}
# A worker may use this much, and so many times --max-file-size.
_MEMORY_BYTES = 1 << 30
_MEMORY_FACTOR = 16
_FILES = 1000  # of one worker, for parsers that leak
_ANSWER_CHARS = 1 << 18
# -I keeps the current folder and the environment out; the parent's own path is handed over, so
# every kind of installation works.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from adaptive_search.readers.isolation import serve; serve()"
)
# Pools that reserve address space would use up the limit before anything is read.
_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

_idle: list[_Worker] = []


def read_isolated(source: Source, *, reader: str) -> Iterator[Document | Skipped]:
    """All documents of a file, by a reader of this package that runs in a worker.

    Args:
        source: the file.
        reader: a format: pdf, docx, parquet or arrow.

    Raises:
        UnreadableFile: the reader refuses the file, fails, or goes beyond its limits.
    """
    worker = _take()
    try:
        yield from worker.read(source, reader)
    finally:  # also when the caller reads no further, or Ctrl-C comes: no answer may be left over
        if worker.is_ready:
            _idle.append(worker)
        else:
            worker.stop()


def stop_idle_workers() -> None:
    """End the workers that wait for a file; the next file starts another one."""
    while _idle:
        _idle.pop().stop()


atexit.register(stop_idle_workers)


def _take() -> _Worker:
    while _idle:
        worker = _idle.pop()
        if worker.is_usable():
            return worker
        worker.stop()
    return _Worker()


class _Worker:
    """A child process that reads files, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-c", _CHILD, json.dumps([p for p in sys.path if p])]
        self.is_ready = False
        self._owner = os.getpid()
        self._last_answer = 0.0
        self._files_left = _FILES
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT,
        )

    def is_usable(self) -> bool:
        """Whether it is ours, and will still be there when the next file is asked for."""
        is_ours = self._owner == os.getpid()  # after a fork it is still the parent's
        return is_ours and time.monotonic() - self._last_answer < _IDLE_SECONDS / 2

    def read(self, source: Source, reader: str) -> Iterator[Document | Skipped]:
        """All documents of a file; is_ready afterwards if the worker can read another one."""
        self.is_ready = False
        self._files_left -= 1
        self._ask({"source": dataclasses.asdict(source), "reader": reader, "seconds": SECONDS})
        while True:
            answer = self._answer()
            for fields in answer["items"]:
                yield Skipped(**fields) if "reason" in fields else Document(**fields)
            if answer["is_last"]:
                break
        self.is_ready = answer["is_fit"] and self._files_left > 0
        if answer["failure"]:
            raise UnreadableFile(answer["failure"])

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; reading its answer says so
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        begin = time.monotonic()
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            is_slow = time.monotonic() - begin >= SECONDS
            what = f"took longer than {SECONDS:g} s" if is_slow else "crashed or ran out of memory"
            raise UnreadableFile(f"its reader {what}; repair the file or convert it to text")
        self._last_answer = time.monotonic()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process."""
        if self._owner != os.getpid():
            return
        with suppress(OSError), self._process:
            self._process.kill()


def serve() -> None:
    """Read the files that are asked for on standard input, until it ends: the worker's program."""
    import faulthandler
    import signal

    # Ctrl-C reaches the whole group of processes; the parent decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a parser prints goes nowhere
    _limit("RLIMIT_CORE", 0)
    # A thread of C, which ends the process whatever a parser does.
    watch = partial(faulthandler.dump_traceback_later, exit=True)
    watch(_IDLE_SECONDS)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        source, seconds = Source(**request["source"]), request["seconds"]
        _limit("RLIMIT_AS", _MEMORY_BYTES + _MEMORY_FACTOR * source.max_bytes)
        _limit("RLIMIT_CPU", math.ceil(time.process_time() + seconds))
        watch(_PATIENCE * seconds)
        for answer in _answers(source, request["reader"]):
            data = json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")
            faulthandler.cancel_dump_traceback_later()  # the parent takes its time to read
            answers.write(data + b"\n")
            answers.flush()
            _limit("RLIMIT_CPU", math.ceil(time.process_time() + seconds))
            watch(_PATIENCE * seconds)
        watch(_IDLE_SECONDS)


def _answers(source: Source, reader: str) -> Iterator[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    size, failure, is_fit = 0, "", True
    module, name = _READERS[reader].split(".")
    try:
        read = getattr(importlib.import_module(f"adaptive_search.readers.{module}"), name)
        for item in read(source):
            items.append({f.name: getattr(item, f.name) for f in dataclasses.fields(item)})
            size += len(item.text) if isinstance(item, Document) else len(item.reason)
            if size >= _ANSWER_CHARS:
                yield {"items": items, "is_last": False}
                items, size = [], 0
    except Exception as error:  # a hostile file raises anything, RecursionError included
        failure = failure_reason(error)
        is_fit = not isinstance(error, MemoryError)
    yield {"items": items, "is_last": True, "failure": failure, "is_fit": is_fit}


def _limit(name: str, value: int) -> None:
    try:
        import resource

        kind = getattr(resource, name)
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
    except (ImportError, OSError, ValueError):
        return  # Windows has no such limits; the clock still holds
