"""Thousands of small updates by one process, read by others all the while; Linux only.

The writer adds, replaces, deletes and compacts, a commit each; before each commit it notes what
the next generation will hold. It is killed now and then, and another one goes on. Readers open
the index, check all they find against that note, search for what they found, and come back to
indexes that they opened long ago. In the end nothing may have leaked.

    python benchmarks/soak.py --updates 3000 --readers 2 --kills 20 --json soak.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing as mp
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_search.index import AdaptiveIndex
from adaptive_search.store import Store

DIMS = (8, 16)
DOCUMENTS = 200  # ids to choose from
KEPT = 8  # indexes that a reader comes back to
PAUSE = 0.02  # seconds between two reads, for the writer to get on
WARM_UP = 0.2  # of the run, before memory is first measured


def vector(text: str) -> NDArray[np.float32]:
    """The vector of a text: float32 (16,)."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(DIMS[-1]).astype(np.float32)


def digest(texts: Mapping[str, str]) -> str:
    """Names what an index holds: its ids with their texts."""
    return hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()


def held(index: AdaptiveIndex) -> dict[str, str]:
    """Ids and texts of all rows that are not deleted."""
    found: dict[str, str] = {}
    for segment in index.store.segments:
        live = np.ones(segment.rows, bool) if segment.live is None else segment.live
        for row in segment.chunks(np.flatnonzero(live)):
            if row.document_id in found:
                raise SystemExit(f"{row.document_id} is there twice")
            found[row.document_id] = row.text
    return found


def resources() -> dict[str, float]:
    """Memory of this process in MB, and its open descriptors."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    memory = int(fields["RssAnon"].split()[0]) * 1024 / 1e6
    return {"mb": round(memory, 1), "descriptors": len(os.listdir("/proc/self/fd"))}


def write(path: Path, notes: Path, seed: int, until: int, results: Connection) -> None:
    """Change the index until it has reached a generation."""
    index = AdaptiveIndex.open(path, threads=1)
    generation = index.status().generation
    rng = random.Random(f"{seed} {generation}")
    texts, before, warm = held(index), resources(), generation + WARM_UP * (until - generation)
    with notes.open("a", encoding="ascii") as notebook:
        while generation < until:
            change = rng.random()
            ids = rng.sample(range(DOCUMENTS), rng.randint(1, 4))
            gone = [name for name in map(str, ids) if name in texts]
            is_deletion = change < 0.3 and gone
            if is_deletion:
                texts = {name: text for name, text in texts.items() if name not in gone}
            elif change < 0.9:
                texts |= {str(at): f"{at} as of {generation}" for at in ids}
            notebook.write(f"{generation + 1} {digest(texts)}\n")
            notebook.flush()
            if is_deletion:
                index.delete(gone)
            elif change < 0.9:
                new = [texts[str(at)] for at in ids]
                index.add_vectors(map(str, ids), map(vector, new), texts=new)
            else:
                index.compact()
            generation = index.status().generation
            if generation <= warm:
                before = resources()
    index.compact()
    results.send({"before": before, "after": resources()})


def read(path: Path, notes: Path, seed: int, stop: Any, results: Connection) -> None:  # noqa: ANN401
    """Check what the index holds, again and again."""
    rng = random.Random(seed)
    expected: dict[int, str] = {}
    kept: deque[AdaptiveIndex] = deque(maxlen=KEPT)
    generations: list[int] = []
    wrong, before, unfinished = 0, resources(), ""
    with notes.open(encoding="ascii") as notebook:
        while not stop.is_set() or not generations:
            if rng.random() < 0.7 or not kept:
                kept.append(AdaptiveIndex.open(path, threads=1))
            index = rng.choice(kept)
            # What a killed writer did not reach is noted again by the next: the last note counts.
            *lines, unfinished = (unfinished + notebook.read()).split("\n")
            for line in lines:
                number, name = line.split()
                expected[int(number)] = name
            generations.append(index.status().generation)
            # A commit that also merges small segments makes two generations of one content.
            noted = next(at for at in range(generations[-1], -1, -1) if at in expected)
            wrong += not is_right(index, expected[noted], rng)
            time.sleep(PAUSE)
            if len(generations) == 4 * KEPT:
                before = resources()
    results.send(
        {"reads": len(generations), "generations": len(set(generations)), "wrong": wrong}
        | {"before": before, "after": resources()}
    )


def is_right(index: AdaptiveIndex, expected: str, rng: random.Random) -> bool:
    """Whether an index holds what it should, and finds a document by its vector."""
    texts = held(index)
    if digest(texts) != expected:
        return False
    name = rng.choice(sorted(texts) or [""])
    if not name:
        return True
    (hit,) = index.search_vector(vector(texts[name]), k=1)
    return (hit.document_id, hit.text) == (name, texts[name]) and hit.score > 0.99


def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start all processes, kill writers, and gather what they report."""
    path, notes = folder / "index", folder / "notes"
    index = AdaptiveIndex.create(path, dims=DIMS, threads=1)
    notes.write_text(f"0 {digest({})}\n", encoding="ascii")
    rng, context = random.Random(asked.seed), mp.get_context("spawn")
    stop = context.Event()
    readers = [
        _start(context, read, path, notes, seed, stop) for seed in range(1, asked.readers + 1)
    ]
    begin = time.perf_counter()
    kills = 0
    while True:
        writer, results = _start(context, write, path, notes, asked.seed, asked.updates)
        if kills < asked.kills:
            last = Store.open(path).manifest.generation + rng.randint(*asked.kill_after)
            while writer.is_alive() and Store.open(path).manifest.generation < last:
                writer.join(0.01)
            if writer.is_alive():
                writer.kill()
                kills += 1
        writer.join()
        if writer.exitcode == 0:
            break
        if writer.exitcode != -9:
            raise SystemExit(f"the writer ended with {writer.exitcode}")
    written = results.recv()
    stop.set()
    report = {
        "updates": Store.open(path).manifest.generation,
        "kills": kills,
        "seconds": round(time.perf_counter() - begin, 1),
        "writer": written,
        "readers": [results.recv() for _, results in readers],
        "files": sum(1 for file in path.rglob("*") if file.is_file()),
        "bytes": sum(file.stat().st_size for file in path.rglob("*")),
        "verified": AdaptiveIndex.open(index.path).verify().ok,
    }
    for reader, _ in readers:
        reader.join()
    return report


def _start(context: Any, work: Any, *arguments: object) -> tuple[Any, Connection]:  # noqa: ANN401
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*arguments, theirs))
    process.start()
    theirs.close()
    return process, ours


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--kill-after", type=int, nargs=2, default=(20, 100), help="updates, from and to"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(asked, Path(folder))
    text = json.dumps(report, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    if not report["verified"] or any(reader["wrong"] for reader in report["readers"]):
        raise SystemExit("a reader got something else than the writer noted")


if __name__ == "__main__":
    main()
