"""What an index survives: errors and kills at every call, power cuts, damaged files; as counts.

Each scenario changes an index on a simulated disk (see simulated_disk.py). After each accident the
index must open as the generation before or after a commit, with exactly its rows; a deep check must
find nothing; and the same change, made again, must end as if nothing had happened. Damaged files
are read in a child process: it must answer right or with a typed error, and never crash.

    python benchmarks/durability.py                   # everything: some minutes
    python benchmarks/durability.py --stride 9        # every ninth accident
    python benchmarks/durability.py --only compact --json durability.json
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from simulated_disk import (
    CUTS,
    CallingIO,
    Image,
    PowerCutIO,
    ShortWritesIO,
    exiting,
    failing,
    load,
    save,
)

from adaptive_search.codes_cache import CODES, CODES_FILE, read_codes
from adaptive_search.compaction import FAN_IN
from adaptive_search.errors import AdaptiveSearchError, StoreError, StoreFormatError
from adaptive_search.indexes import tuning
from adaptive_search.lists_cache import LISTS, LISTS_FILE, map_checked, read_cache
from adaptive_search.manifest import StoreSpec, is_index, read_manifest
from adaptive_search.repair import repair_index
from adaptive_search.segment import Row
from adaptive_search.segment_search import keep_codes, make_plan, read_plan
from adaptive_search.storage_io import StorageIO
from adaptive_search.store import Store
from adaptive_search.verification import verify_index

DIMS = (4, 8, 16)
ENERGY = (0.5, 0.75, 1.0)
CACHE_KEY = "heads"
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
# Exit codes of a child that reads a damaged index, and then repairs it.
OUTCOMES = {0: "right answer", 3: "typed error", 4: "wrong answer", 5: "damage not seen by verify"}
OUTCOMES |= {6: "not repaired"}
RIGHT, REFUSED, WRONG, UNSEEN, UNREPAIRED = OUTCOMES

Corpus = dict[str, int]  # document -> chunks
FIRST: Corpus = {"a": 2, "b": 3, "c": 1, "d": 4, "e": 2}
SECOND: Corpus = {"a": 2, "b": 4, "d": 4, "e": 2, "f": 3}  # b changed, c vanished, f is new
State = dict[str, Any]


# -- a small index ---------------------------------------------------------------


def spec(*, foreign: bool = False) -> StoreSpec:
    """Three small bands."""
    return StoreSpec("weights", DIMS, None if foreign else ENERGY)


def vectors(text: str, count: int, *, foreign: bool = False) -> NDArray[np.float32]:
    """Vectors that follow from a text: float32 (count, 16)."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    raw = np.random.default_rng(seed).standard_normal((count, DIMS[-1])).astype(np.float32)
    if foreign:
        return raw
    parts = np.split(raw, DIMS[:-1], axis=1)
    weights = spec().band_weights or ()
    pairs = zip(parts, weights, strict=True)
    units = [p / np.linalg.norm(p, axis=1, keepdims=True) * w for p, w in pairs]
    return np.concatenate(units, axis=1).astype(np.float32)


def mirror(store: Store, corpus: Corpus, *, foreign: bool = False) -> None:
    """Bring an index up to date with a corpus, as `adaptive-search index` does."""
    with store.writer() as writer:
        known = writer.known_documents()
        for name, chunks in corpus.items():
            if known.pop(name) == bytes([chunks]) * 16:
                continue
            rows = [
                Row(name, f"{name}.txt", ordinal, f"{name} of {chunks}: {ordinal}", bytes(16), 1)
                for ordinal in range(chunks)
            ]
            hashes = {name: bytes([chunks]) * 16}
            writer.append(rows, vectors(f"{name} {chunks}", chunks, foreign=foreign), hashes)
        writer.delete_documents(known)


def keep_caches(store: Store) -> None:
    """Write a cache for each segment that has none, as a search does."""
    for segment in store.segments:
        if read_cache(segment, key=CACHE_KEY) is None:
            store.write_cache(segment, segment.band(0).tobytes(), key=CACHE_KEY)


def readable(path: Path) -> State:
    """What a reader sees of the latest generation; nothing but that it is damaged, if it is."""
    store = Store.open(path)
    try:
        return state(store)
    except StoreFormatError:
        return {"damaged": True}


def state(store: Store) -> State:
    """All that a reader can see: live rows with the bytes of their vectors and prefix lengths."""
    rows: State = {}
    for segment in store.segments:
        live = np.ones(segment.rows, np.bool_) if segment.live is None else segment.live
        matrices: list[NDArray[np.floating[Any]]] = [
            segment.band(index) for index in range(segment.bands)
        ]
        if segment.spec.is_foreign:
            matrices.append(segment.norms)
        assert read_cache(segment, key=CACHE_KEY) in (None, matrices[0].tobytes()), "wrong cache"
        for at, row in enumerate(segment.chunks(range(segment.rows))):
            if live[at]:
                assert row.chunk_id not in rows, f"{row.chunk_id} is live twice"
                rows[row.chunk_id] = row, b"".join(matrix[at].tobytes() for matrix in matrices)
    return rows


# -- scenarios -------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A change of an index: what it starts from, and how it is made."""

    name: str
    start: Callable[[Path], None]
    change: Callable[[Path, StorageIO], object]


def _created(path: Path, io: StorageIO) -> Store:
    return Store.open(path, io=io) if is_index(path) else Store.create(path, spec=spec(), io=io)


def _start_first(path: Path) -> None:
    mirror(_created(path, CallingIO()), FIRST)


def _start_both(path: Path) -> None:
    _start_first(path)
    mirror(Store.open(path, io=CallingIO()), SECOND)


def _delete(path: Path, io: StorageIO) -> None:
    with Store.open(path, io=io).writer() as writer:
        writer.delete_documents(["a", "b", "d"])


def _keep_caches(path: Path, io: StorageIO) -> None:
    # A disk that refuses the cache is no error: then the next search builds it again.
    with contextlib.suppress(StoreError):
        keep_caches(Store.open(path, io=io))


def _plan(path: Path, io: StorageIO) -> None:
    """Choose how to search the index: through lists, since a scan of all codes costs more here."""
    with contextlib.ExitStack() as patches:
        for owner, name, value in (
            (tuning, "tune", partial(tuning.tune, lists=4)),
            (tuning, "_CONFIDENCE", -100.0),
            (tuning._Table, "cost", lambda _, plan: -plan.lists),
        ):
            patches.enter_context(mock.patch.object(owner, name, value))
        make_plan(Store.open(path, io=io), threads=1)
    keep_codes(Store.open(path, io=io), threads=1)
    store = Store.open(path)
    plan = read_plan(store.attributes)
    assert kept(store, LISTS_FILE, LISTS), "no lists"
    assert plan is not None and read_codes(path, store.manifest, plan), "no codes"


def kept(store: Store, name: str, key: str) -> bytes | None:
    """What a reader takes a cache of the index for; None where it does not use it."""
    checksum = store.attributes.get(key, "")
    data = map_checked(store.path / name, checksum, store.manifest.committed_ns)
    return None if data is None else data.tobytes()


def _start_damaged(path: Path) -> None:
    _start_first(path)
    spoiled = path / "segments" / "000002" / "band_0008.arrow"
    spoiled.write_bytes(bytes(spoiled.stat().st_size))


def _repair(path: Path, io: StorageIO) -> None:
    repair_index(path, drop_damaged=True, io=io)


def _start_pile(path: Path) -> None:
    for chunks in range(1, FAN_IN):
        mirror(_created(path, CallingIO()), {"a": chunks, "b": 1 + chunks % 2})


SCENARIOS = [
    Scenario("first index", lambda path: None, lambda path, io: mirror(_created(path, io), FIRST)),
    Scenario("incremental", _start_first, lambda path, io: mirror(Store.open(path, io=io), SECOND)),
    Scenario("delete", _start_first, _delete),
    Scenario("compact", _start_both, lambda path, io: Store.open(path, io=io).compact()),
    Scenario(
        "tidy", _start_pile, lambda path, io: mirror(Store.open(path, io=io), {"a": 9, "c": 1})
    ),
    Scenario("cache rebuild", _start_first, _keep_caches),
    Scenario("plan", _start_both, _plan),
    Scenario("repair", _start_damaged, lambda path, io: _repair(path, io)),
]


@dataclass
class Tally:
    """Accidents so far, and those after which something was wrong."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def count(self, row: str, column: str) -> None:
        """Note one accident."""
        self.counts[row, column] = self.counts.get((row, column), 0) + 1

    def fail(self, what: str) -> None:
        """Note, and show at once, an accident after which something was wrong."""
        self.failures.append(what)
        print(what, file=sys.stderr, flush=True)

    def record(self) -> dict[str, dict[str, int]]:
        """Counts by row and column."""
        found: dict[str, dict[str, int]] = {}
        for (row, column), number in self.counts.items():
            found.setdefault(row, {})[column] = number
        return found

    def table(self) -> str:
        """Counts as Markdown, with sums."""
        rows = list(dict.fromkeys(row for row, _ in self.counts))
        columns = list(dict.fromkeys(column for _, column in self.counts))
        head = ["", *columns, "all"]
        lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(columns) + 1)]
        for row in rows:
            cells = [self.counts.get((row, column), 0) for column in columns]
            lines.append(f"| {row} | " + " | ".join(f"{n:,}" for n in [*cells, sum(cells)]) + " |")
        return "\n".join(lines)


class Matrix:
    """All accidents of one scenario."""

    def __init__(self, scenario: Scenario, work: Path, tally: Tally, stride: int = 1) -> None:
        """Make the start, and a run without an accident, whose generations are the legal states."""
        self.scenario = scenario
        self.work = work
        self.tally = tally
        self.stride = stride
        self.legal: dict[int, State] = {}
        self.calls: list[str] = []
        start = work / "start"
        start.mkdir(parents=True)
        scenario.start(start / "i")
        self.start = load(start)
        clean = self._fresh(self.start)
        scenario.change(clean, CallingIO(lambda number, name: self._observe(clean, name)))
        self._observe(clean, "")
        clean = self._fresh(self.start)
        begin = time.perf_counter()
        scenario.change(clean, CallingIO())
        self.seconds = time.perf_counter() - begin
        self.final = self.legal[max(self.legal)] if self.legal else {}

    def _observe(self, path: Path, name: str) -> None:
        self.calls.append(name)
        if is_index(path) and read_manifest(path).generation not in self.legal:
            self.legal[read_manifest(path).generation] = readable(path)

    def _fresh(self, image: Image) -> Path:
        shutil.rmtree(self.work / "now", ignore_errors=True)
        save(image, self.work / "now")
        return self.work / "now" / "i"

    def _points(self) -> range:
        calls = len(self.calls) - 1
        first = random.Random(self.scenario.name).randrange(min(self.stride, calls))
        return range(first, calls, self.stride)

    def check(self, path: Path, accident: str, label: str, *, clean: bool = False) -> bool:
        """Judge an index after an accident and make the change again; gives whether all is well."""
        self.tally.count(self.scenario.name, accident)
        try:
            self._check(path, clean=clean)
        except Exception as error:  # noqa: BLE001 - any is a finding
            self.tally.fail(f"{self.scenario.name}, {accident} {label}: {error!r}")
            return False
        return True

    def _check(self, path: Path, *, clean: bool) -> None:
        if is_index(path) or self.scenario.start is not SCENARIOS[0].start:
            found = readable(path)
            assert found == self.legal[read_manifest(path).generation], "another state"
            report = verify_index(path)
            assert report.ok != ("damaged" in found), report.problems
            assert not clean or not report.orphans, report.orphans
        self.scenario.change(path, CallingIO())
        assert readable(path) == self.final, "does not converge"
        report = verify_index(path)
        wrong = report.problems, report.orphans, report.damaged_caches
        assert not any(wrong), wrong

    # -- accidents -----------------------------------------------------------------

    def run(self, kills: int) -> None:
        """Make them all happen."""
        self.errors()
        self.short_writes()
        self.exits()
        self.power_cuts()
        self.kills(kills)

    def errors(self) -> None:
        """Each call fails, once or with all that follow; then the power goes as well."""
        for k in self._points():
            for lasting in (False, True):
                code = ERRORS[k % len(ERRORS)]
                path = self._fresh(self.start)
                io = PowerCutIO(path.parent, failing(k, code, lasting=lasting))
                self._attempt(path, io)
                images = [
                    load(path.parent),
                    *(io.cut(kind, seed) for seed, kind in enumerate(CUTS, k)),
                ]
                kinds = ["error", *("error + power cut" for kind in CUTS)]
                for image, kind in zip(images, kinds, strict=True):
                    label = f"call {k} ({self.calls[k]}), {errno.errorcode[code]}, {lasting=}"
                    # Where the last fsync of a commit fails, what the generation before names
                    # stays for the next writer to remove.
                    clean = not lasting and kind == "error" and self.calls[k] != "fsync_directory"
                    self.check(self._fresh(image), kind, label, clean=clean)

    def _attempt(self, path: Path, io: StorageIO) -> None:
        with contextlib.suppress(StoreError):
            self.scenario.change(path, io)

    def short_writes(self) -> None:
        """Writes take some of their bytes; one of them fails half-way."""
        for k in self._points():
            if self.calls[k] == "write":
                path = self._fresh(self.start)
                self._attempt(path, ShortWritesIO(k, fail_at=None if k % 5 == 0 else k))
                self.check(path, "short write", f"call {k}")

    def exits(self) -> None:
        """The process ends at each call, without any clean-up."""
        for k in self._points():
            path = self._fresh(self.start)
            code = in_child(partial(self.scenario.change, path, CallingIO(exiting(k))))
            assert code == 9, f"{self.scenario.name}: exit code {code} at call {k}"
            self.check(path, "exit", f"call {k} ({self.calls[k]})")

    def power_cuts(self, make: Callable[..., PowerCutIO] = PowerCutIO) -> None:
        """The power goes at each call; then once more while the change is made again."""
        images = self._cut(self.start, set(self._points()), CUTS, make)
        survived = [
            (label, image)
            for label, image in images
            if self.check(self._fresh(image), "power cut", label)
        ]
        for label, image in survived[:: len(CUTS)]:
            number = random.Random(label).randrange(len(self.calls))
            for then, again in self._cut(image, {number}, ["mixed"], make):
                self.check(self._fresh(again), "two cuts", f"{label}, then {then}")

    def _cut(
        self, start: Image, points: set[int], kinds: Sequence[str], make: Callable[..., PowerCutIO]
    ) -> list[tuple[str, Image]]:
        """What power cuts leave, at some calls of one change."""
        images = []

        def before(number: int, name: str) -> None:
            if number in points:
                for seed, kind in enumerate(kinds, number):
                    images.append((f"call {number} ({name}), {kind} {seed}", io.cut(kind, seed)))

        path = self._fresh(start)
        io = make(path.parent, before)
        self.scenario.change(path, io)
        return images

    def kills(self, count: int) -> None:
        """SIGKILL at random times while the change is made."""
        chance = random.Random(self.scenario.name)
        for number in range(count):
            path = self._fresh(self.start)
            child = os.fork()
            if not child:
                with contextlib.suppress(BaseException):
                    self.scenario.change(path, CallingIO())
                os._exit(0)
            time.sleep(chance.uniform(0, 1.2 * self.seconds))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            self.check(path, "SIGKILL", f"number {number}")


def in_child(action: Callable[[], object]) -> int:
    """Exit code of a forked child that makes a call; below 0 the signal that ended it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            result = action()
            code = result if isinstance(result, int) else 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# -- damaged files ---------------------------------------------------------------

Damage = Callable[[Path, Path], object]  # of a file, with the same file of another index


def _flip(place: float) -> Damage:
    def damage(path: Path, other: Path) -> None:
        data = bytearray(path.read_bytes())
        at = int(place * (len(data) - 1))
        data[at] ^= 1 << (at % 8)
        path.write_bytes(data)

    return damage


def _instead(make: Callable[[Path, Path], object]) -> Damage:
    def damage(path: Path, other: Path) -> None:
        path.rename(path.with_name("aside"))
        make(path, other)
        if not path.is_symlink():
            path.with_name("aside").unlink()

    return damage


def _copy(path: Path) -> Path:
    """A copy beside a file, with its dates."""
    return Path(shutil.copy2(path, path.with_name("copy")))


DAMAGE: dict[str, Damage] = {
    "deleted": lambda path, other: path.unlink(),
    "empty": lambda path, other: path.write_bytes(b""),
    "half": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte short": lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
    "garbage appended": lambda path, other: path.write_bytes(path.read_bytes() + b"garbage"),
    "zeroed": lambda path, other: path.write_bytes(bytes(path.stat().st_size)),
    "of another index": lambda path, other: shutil.copy2(other, path),
    "moved from another index": _instead(lambda path, other: _copy(other).rename(path)),
    "a directory": _instead(lambda path, other: path.mkdir()),
    "a link": _instead(lambda path, other: path.symlink_to("aside")),
    "a pipe": _instead(lambda path, other: os.mkfifo(path)),
    **{f"bit flipped at {place:.3f}": _flip(place) for place in np.linspace(0, 1, 64)},
}


class DamageMatrix:
    """All damage to each file of an index whose first segment has every kind of file."""

    def __init__(self, work: Path, tally: Tally, *, foreign: bool) -> None:
        """Make the index, and another one of the same sizes."""
        self.work = work
        self.tally = tally
        self.foreign = foreign
        self.corpora = FIRST, {name.upper(): chunks for name, chunks in FIRST.items()}
        for name, corpus in zip(("one", "other"), self.corpora, strict=True):
            store = Store.create(work / name, spec=spec(foreign=foreign), io=CallingIO())
            mirror(store, corpus, foreign=foreign)
            with store.writer() as writer:
                writer.delete_documents(["a", "A"])
                lists = hashlib.sha512(name.encode()).digest()
                writer.write_lists(lists)
                writer.set_attributes({LISTS: hashlib.sha256(lists).hexdigest()})
                codes = hashlib.sha512(lists).digest()
                writer.set_attributes({CODES: writer.write_codes(iter([codes]))})
            keep_caches(Store.open(work / name, io=CallingIO()))
        self.right = state(Store.open(work / "one"))
        self.lists, self.codes = (
            (work / "one" / name).read_bytes() for name in (LISTS_FILE, CODES_FILE)
        )
        with Store.open(work / "one", io=CallingIO()).writer() as writer:
            segment = writer.segments[0].directory
        names = sorted(path.name for path in segment.iterdir())
        self.files = [
            Path("MANIFEST.json"),
            Path(LISTS_FILE),
            Path(CODES_FILE),
            *(segment.relative_to(work / "one") / n for n in names),
        ]

    def run(self, stride: int) -> None:
        """Damage one file after the other, each in every way."""
        cases = [(file, kind) for file in self.files for kind in DAMAGE]
        for file, kind in cases[::stride]:
            path = self.work / "now"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(self.work / "one", path)
            DAMAGE[kind](path / file, self.work / "other" / file)
            code = in_child(partial(self._read, path))
            outcome = OUTCOMES.get(code, f"ended with {code}")
            self.tally.count(file.name.partition("-0")[0], outcome)
            if code not in (RIGHT, REFUSED):
                self.tally.fail(f"{file} {kind}, {self.foreign=}: {outcome}")

    def _answer(self, path: Path) -> int:
        try:
            store = Store.open(path)
            store.status()
            is_right = state(store) == self.right
            is_right &= kept(store, LISTS_FILE, LISTS) in (None, self.lists)
            is_right &= kept(store, CODES_FILE, CODES) in (None, self.codes)
            return RIGHT if is_right else WRONG
        except AdaptiveSearchError as error:
            assert str(path) in str(error), error
            return REFUSED

    def _read(self, path: Path) -> int:
        """Read a damaged index, write to it and read again, verify it and repair it."""
        outcome = self._answer(path)
        with contextlib.suppress(StoreError), Store.open(path, io=CallingIO()).writer() as writer:
            writer.set_attributes({"vouched": True})
        if WRONG in (outcome, self._answer(path)):
            return WRONG
        try:
            sound = verify_index(path).ok
        except StoreError:
            sound = False
        if outcome == REFUSED and sound:
            return UNSEEN
        try:
            repair_index(path, drop_damaged=True, io=CallingIO())
        except StoreError:
            return outcome if self._has_no_manifest(path) else UNREPAIRED
        corpus = {name: chunks for name, chunks in FIRST.items() if name != "a"}
        mirror(Store.open(path, io=CallingIO()), corpus, foreign=self.foreign)
        report = verify_index(path)
        repaired = report.ok and not report.damaged_caches and self._answer(path) == RIGHT
        return outcome if repaired else UNREPAIRED

    def _has_no_manifest(self, path: Path) -> bool:
        """Whether an index has lost the one file that nothing can repair."""
        try:
            read_manifest(path)
        except StoreError:
            return True
        return False


@contextlib.contextmanager
def small_segments() -> Iterator[None]:
    """Segments of 4 rows, 8 at most, so that one change makes several."""
    with contextlib.ExitStack() as stack:
        for module in ("store_writer", "compaction", "segment_writer"):
            stack.enter_context(mock.patch(f"adaptive_search.{module}.SEGMENT_ROWS", 4))
            stack.enter_context(mock.patch(f"adaptive_search.{module}.MAX_SEGMENT_ROWS", 8))
        yield


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stride", type=int, default=1, help="take every n-th accident")
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs of each scenario")
    parser.add_argument("--only", action="append", help="a scenario, or damage; may be repeated")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    begin = time.perf_counter()
    crashes, damage = Tally(), Tally()
    with tempfile.TemporaryDirectory() as folder, small_segments():
        for scenario in SCENARIOS:
            if scenario.name in (options.only or [scenario.name]):
                matrix = Matrix(scenario, Path(folder) / scenario.name, crashes, options.stride)
                matrix.run(options.kills)
        for foreign in (False, True) if "damage" in (options.only or ["damage"]) else ():
            DamageMatrix(Path(folder) / f"{foreign=}", damage, foreign=foreign).run(options.stride)
    for title, tally in (("accidents", crashes), ("damaged files", damage)):
        if tally.counts:
            print(f"{sum(tally.counts.values()):,} {title}\n\n{tally.table()}\n")
    failures = crashes.failures + damage.failures
    print(*failures, f"{len(failures)} failures, {time.perf_counter() - begin:.0f} s", sep="\n")
    if options.json:
        record = {"crashes": crashes.record(), "damage": damage.record(), "failures": failures}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
