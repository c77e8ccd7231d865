"""What an index run takes besides encoding: memory by corpus size, commits, unchanged files.

`memory` indexes records through the whole pipeline with vectors that cost nothing, each size in a
process of its own, and shows the highest memory. `updates` indexes small files with the shipped
weights, then all of them unchanged, then with one changed. `files` only reads a folder of tiny
files. Linux only.

    python benchmarks/resources.py memory --chunks 10000 1000000
    python benchmarks/resources.py updates --documents 20000 --threads 2
    python benchmarks/resources.py files --files 1000000
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_search.corpus import read_corpus
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.encoder.granularity import Granularity
from adaptive_search.encoder.tokenizer import Ids
from adaptive_search.index import AdaptiveIndex
from adaptive_search.indexing import IndexSummary
from adaptive_search.store_writer import StoreWriter

WORDS = "plants store energy water light leaf green heat the a of in to and is sun cell".split()
SENTENCE = 12  # words
CHUNK_TOKENS = 64
WORDS_PER_FILE = 150
POOL = 4096  # different vectors
MOST_LINKS = 30_000  # to one file
INTERVAL = 0.02  # seconds between two samples of memory


class QuickEncoder(Encoder):
    """The shipped encoder, but with vectors out of a pool."""

    def encode_ids(
        self, ids: Sequence[Ids], dim: int | None = None, *, granularity: Granularity = 1
    ) -> NDArray[np.float32]:
        """As many vectors as there are texts: float32 (n, dims[-1])."""
        pool = self._pool()
        return pool[np.arange(len(ids)) % POOL]

    def _pool(self) -> NDArray[np.float32]:
        if not hasattr(self, "_vectors"):
            raw = np.random.default_rng(0).standard_normal((POOL, self.dims[-1]), np.float32)
            for start, end, weight in zip(
                (0, *self.dims), self.dims, self.config.band_weights, strict=False
            ):
                band = raw[:, start:end]
                band *= weight / np.linalg.norm(band, axis=1, keepdims=True)
            self._vectors = raw
        return self._vectors


def text(rng: random.Random, words: int) -> str:
    """Sentences of common words."""
    chosen = rng.choices(WORDS, k=words)
    sentences = (chosen[at : at + SENTENCE] for at in range(0, words, SENTENCE))
    return " ".join(" ".join(sentence).capitalize() + "." for sentence in sentences)


def write_records(path: Path, chunks: int, per_document: int) -> None:
    """A file of records that make about so many chunks."""
    rng = random.Random(0)
    texts = [text(rng, per_document * CHUNK_TOKENS * 3 // 4) for _ in range(100)]
    with path.open("w", encoding="ascii") as file:
        for number in range(chunks // per_document):
            record = {"_id": f"document {number}", "text": f"{number}. {texts[number % 100]}"}
            file.write(json.dumps(record) + "\n")


def memory_mb() -> dict[str, float]:
    """Memory of this process in MB: its own, and with the pages of mapped files."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    own, resident = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("RssAnon", "VmRSS"))
    return {"own_mb": own, "resident_mb": resident}


def highest_memory(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run something, and sample the memory of this process meanwhile."""
    highest, done = memory_mb(), threading.Event()

    def sample() -> None:
        while not done.wait(INTERVAL):
            for name, value in memory_mb().items():
                highest[name] = max(highest[name], value)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        result = work()
    finally:
        done.set()
        sampler.join()
    return result, {name: round(value, 1) for name, value in highest.items()}


def measure_memory(chunks: int, per_document: int, scratch: Path | None) -> dict[str, Any]:
    """Index so many chunks in this process."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        records = Path(folder, "records.jsonl")
        write_records(records, chunks, per_document)
        encoder = QuickEncoder.load(threads=1)
        index = AdaptiveIndex.create(
            Path(folder, "index"), encoder=encoder, chunk_tokens=CHUNK_TOKENS, threads=1
        )
        summary, memory = highest_memory(lambda: index.add(records))
        segments = index.status().segments
    return {
        "chunks": summary.chunks,
        "documents": summary.indexed,
        "segments": segments,
        "seconds": round(summary.seconds, 1),
    } | memory


def measure_updates(documents: int, threads: int, scratch: Path | None) -> dict[str, Any]:
    """Index files, then again, then with one changed."""
    rng = random.Random(0)
    commits = _timed_commits()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        corpus = Path(folder, "corpus")
        for number in range(documents):
            path = corpus / f"{number // 1000}" / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(rng, WORDS_PER_FILE))
        index = AdaptiveIndex.create(
            Path(folder, "index"), encoder=Encoder.load(threads=threads), threads=threads
        )
        first, first_cpu = _with_cpu(index, corpus)
        committing = sum(commits)
        unchanged, unchanged_cpu = _with_cpu(index, corpus)
        path.write_text("Changed.")
        changed, changed_cpu = _with_cpu(index, corpus)
    assert (unchanged.unchanged, changed.indexed) == (documents, 1)
    return {
        "documents": documents,
        "threads": threads,
        "first_seconds": round(first.seconds, 2),
        "first_cpu_seconds": first_cpu,
        "first_tokens": first.tokens,
        "commit_seconds": round(committing, 3),
        "commit_percent": round(100 * committing / first.seconds, 2),
        "unchanged_seconds": round(unchanged.seconds, 2),
        "unchanged_times_faster": round(first.seconds / unchanged.seconds, 1),
        "unchanged_cpu_us_a_file": round(1e6 * unchanged_cpu / documents, 1),
        "unchanged_times_less_cpu": round(first_cpu / unchanged_cpu, 1),
        "one_changed_seconds": round(changed.seconds, 2),
        "one_changed_cpu_seconds": changed_cpu,
    }


def measure_files(files: int, scratch: Path | None) -> dict[str, Any]:
    """Read a folder of tiny files without indexing them."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for number in range(files):
            path = Path(folder, f"file number {number:08d}.txt")
            if number % MOST_LINKS == 0:
                linked = path
                linked.write_text("x")
            else:
                path.hardlink_to(linked)
        before = memory_mb()["own_mb"]
        begin = time.process_time()
        count, memory = highest_memory(lambda: sum(1 for _ in read_corpus(Path(folder))))
        cpu = time.process_time() - begin
    assert count == files
    return {
        "files": files,
        "bytes_a_file": round(1e6 * (memory["own_mb"] - before) / files),
        "cpu_us_a_file": round(1e6 * cpu / files, 1),
    } | memory


def _with_cpu(index: AdaptiveIndex, corpus: Path) -> tuple[IndexSummary, float]:
    """Bring an index up to date; what it did, and the CPU seconds of all threads."""
    begin = time.process_time()
    summary = index.add(corpus)
    return summary, round(time.process_time() - begin, 3)


def _timed_commits() -> list[float]:
    """Seconds of each commit and each cache that is written from now on."""
    seconds: list[float] = []

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            begin = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - begin)

        return call

    for name in ("_commit", "write_cache"):
        setattr(StoreWriter, name, timed(getattr(StoreWriter, name)))
    return seconds


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["memory", "updates", "files"])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--chunks-per-document", type=int, default=10)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="folder with room for 4 KB a chunk")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report: Any
    if asked.what == "updates":
        report = measure_updates(asked.documents, asked.threads, asked.scratch)
    elif asked.what == "files":
        report = measure_files(asked.files, asked.scratch)
    elif len(asked.chunks) == 1:
        report = measure_memory(asked.chunks[0], asked.chunks_per_document, asked.scratch)
    else:
        report = [_in_a_process(asked, chunks) for chunks in asked.chunks]
    result = json.dumps(report, indent=1)
    print(result)
    if asked.json:
        asked.json.write_text(result + "\n", encoding="utf-8")


def _in_a_process(asked: argparse.Namespace, chunks: int) -> Any:  # noqa: ANN401
    command = [sys.executable, __file__, "memory", "--chunks", str(chunks)]
    command += ["--chunks-per-document", str(asked.chunks_per_document)]
    command += ["--scratch", str(asked.scratch)] if asked.scratch else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    main()
