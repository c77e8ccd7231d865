"""Damage real files at random and load them: how every loader meets bytes that nobody wrote.

A case is a file of a good index, set of weights, corpus or set of queries with some bytes changed.
It must give the right answer, a typed error of this project, or a recorded skip; a case depends on
its target, seed and number alone. Cases run in a child process with limits of time and memory, so
that a crash or a hang is a finding too.

    python benchmarks/fuzz.py --seconds 60
    python benchmarks/fuzz.py --cases 100000 --seed 7
    python benchmarks/fuzz.py --target manifest --only 1234        # one case again
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_targets import Target, make_targets
from numpy.typing import NDArray

from adaptive_search.errors import AdaptiveSearchError

CASE_SECONDS = 60  # more is a hang
MEMORY_BYTES = 6 << 30
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
LARGE = (2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
TOKENS = (
    *(b"[", b"{", b'"', b"<", b"\\", b"*", b"\0", b"\n", b",", b"\x1b[2J", b"../", b"\xff"),
    *(b"\xed\xa0\x80", b"\\ud800", b"1e999", b"-1", b"9" * 30, b"NaN", b"null", b"true", b"[]"),
    *(b'{"a":', b"\t", b"\xef\xbb\xbf", "é".encode(), b"/", b"<!--", b"&#x110000;", b"%PDF-"),
)
RIGHT, REFUSED = 0, 1


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to four changes of some bytes, some of them from another file."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(MUTATIONS)(data, other, rng)
    return data


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + int(2 ** rng.uniform(0, 12)))


def _flip(data: bytes, _: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _number(data: bytes, _: bytes, rng: random.Random) -> bytes:
    """A binary number of some width, as if it were a length or an offset."""
    width = rng.choice((1, 2, 4, 8))
    at = rng.randint(0, max(0, len(data) - width))
    value = rng.choice(INTERESTING + LARGE) + rng.randint(-1, 1)
    number: bytes = (value % 256**width).to_bytes(width, "little")
    return data[:at] + (number if rng.random() < 0.5 else number[::-1]) + data[at + width :]


def _cut(data: bytes, _: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _drop(data: bytes, _: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _double(data: bytes, _: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] + data[end:]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start, end = _span(other, rng)
    at = rng.randint(0, len(data))
    return data[:at] + other[start:end] + data[at + rng.choice((0, end - start)) :]


def _insert(data: bytes, _: bytes, rng: random.Random) -> bytes:
    at, times = rng.randint(0, len(data)), rng.choice((1, 1, 1, 2, 100, 20_000))
    return data[:at] + rng.choice(TOKENS) * times + data[at:]


def _digits(data: bytes, _: bytes, rng: random.Random) -> bytes:
    """Another number in the place of one that is written out."""
    places = [at for at in range(len(data)) if data[at : at + 1].isdigit()] if data else []
    if not places:
        return data
    start = end = rng.choice(places)
    while data[end : end + 1].isdigit():
        end += 1
    value = rng.choice((*map(str, INTERESTING + LARGE), "-1", "1.5", "1e999", "null", '"x"', "[]"))
    return data[:start] + value.encode() + data[end:]


MUTATIONS = (_flip, _flip, _number, _cut, _drop, _double, _splice, _insert, _digits)


def case_bytes(target: Target, seed: int, number: int) -> bytes:
    """The file of one case."""
    rng = random.Random(f"{seed} {target.name} {number}")
    data, other = (rng.choice(target.seeds) for _ in range(2))
    return mutate(data, other, rng)


def try_case(target: Target, data: bytes) -> int:
    """Load one file; gives RIGHT or REFUSED, and raises whatever else comes out."""
    try:
        target.load(data)
    except AdaptiveSearchError:
        return REFUSED
    return RIGHT


def work(asked: argparse.Namespace, scratch: Path) -> None:
    """Run cases, each time of the target that had least time so far; a line for each finding."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        targets = {t.name: t for t in make_targets(Path(folder)) if t.name in asked.targets}
        counts = _counts(asked, scratch)
        spent = dict.fromkeys(targets, 0.0)
        for name in targets:  # the good files are good
            for data in targets[name].seeds:
                if try_case(targets[name], data) != RIGHT:
                    raise SystemExit(f"{name} refuses a file as it was written")
        end = time.monotonic() + asked.seconds
        while time.monotonic() < end and counts[:, :2].sum() < asked.cases:
            name = min(spent, key=spent.__getitem__)
            row = counts[asked.targets.index(name)]
            number, row[2] = int(row[2]), row[2] + 1
            counts[-1] = asked.targets.index(name), number, 0
            begin = time.monotonic()
            _run_case(asked, targets[name], number, row)
            spent[name] += time.monotonic() - begin
        counts[-1] = -1


def _run_case(
    asked: argparse.Namespace, target: Target, number: int, row: NDArray[np.int64]
) -> None:
    faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
    data = case_bytes(target, asked.seed, number)
    try:
        row[try_case(target, data)] += 1
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        finding = f"{type(error).__name__} at {place}: {str(error)[:200]}"
        print(json.dumps({"target": target.name, "case": number, "finding": finding}), flush=True)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _counts(asked: argparse.Namespace, scratch: Path) -> NDArray[np.int64]:
    """Right, refused and next number of each target, then the case that runs; outlives a crash."""
    path, shape = scratch / "counts", (len(asked.targets) + 1, 3)
    if not path.exists():
        np.zeros(shape, np.int64).tofile(path)
    return np.memmap(path, np.int64, "r+", shape=shape)


def watch(asked: argparse.Namespace, scratch: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Run children until the time or the cases are used up; gives counts and findings."""
    findings: dict[str, str] = {}
    end = time.monotonic() + asked.seconds
    while True:
        left = max(0.0, end - time.monotonic())
        command = [sys.executable, __file__, "--scratch", str(scratch), "--seed", str(asked.seed)]
        command += ["--seconds", str(left), "--cases", str(asked.cases)]
        command += [word for name in asked.targets for word in ("--target", name)]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        counts = _counts(asked, scratch)
        found = [json.loads(line) for line in child.stdout.splitlines()]
        if child.returncode > 1 or (child.returncode == 1 and not counts[:, 2].any()):
            raise SystemExit("the fuzzer itself failed")
        if counts[-1, 0] >= 0 and child.returncode:
            name, number = asked.targets[counts[-1, 0]], int(counts[-1, 1])
            ended = f"the process ended with {child.returncode}"
            found.append({"target": name, "case": number, "finding": ended})
        for each in found:
            findings.setdefault(f"{each['target']}: {each['finding']}", f"case {each['case']}")
        if not child.returncode or time.monotonic() >= end:
            break
    return counts, [f"{what} ({where})" for what, where in findings.items()]


def report(
    asked: argparse.Namespace, counts: NDArray[np.int64], findings: list[str]
) -> Mapping[str, Any]:
    """Cases and outcomes of each target."""
    rows = {
        name: {"right": int(right), "refused": int(refused)}
        for name, (right, refused, _) in zip(asked.targets, counts[:-1], strict=True)
    }
    cases = int(counts[:-1, 2].sum())
    return {"seed": asked.seed, "cases": cases, "findings": findings, "targets": rows}


def main() -> None:
    """Run, print, write."""
    names = [target.name for target in make_targets(None)]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--cases", type=int, default=10**12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", dest="targets", action="append", choices=names)
    parser.add_argument("--only", type=int, help="number of one case, shown with its traceback")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.targets = asked.targets or names
    if asked.scratch:
        work(asked, asked.scratch)
        return
    with tempfile.TemporaryDirectory() as folder:
        if asked.only is not None:
            targets = {target.name: target for target in make_targets(Path(folder))}
            target = targets[asked.targets[0]]
            target.load(case_bytes(target, asked.seed, asked.only))
            return
        counts, findings = watch(asked, Path(folder))
    text = json.dumps(report(asked, counts, findings), indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    if findings:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
