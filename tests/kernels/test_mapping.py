"""Mapped files, and second maps of them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adaptive_search.kernels.mapping import at_random, map_file, will_read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 100)
    return file


def test_a_map_has_the_bytes_of_the_file_and_outlives_it(path: Path) -> None:
    expected = path.read_bytes()
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    data = map_file(path)
    assert data.dtype == np.uint8 and not data.flags.writeable
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
    path.unlink()
    assert data.tobytes() == expected


def test_a_second_map_outlives_the_first(path: Path) -> None:
    expected = path.read_bytes()
    data = map_file(path)
    parts = [at_random(data[start:stop]) for start, stop in ((0, 1), (5000, 25_600), (1, 9000))]
    del data
    path.unlink()
    for part, (start, stop) in zip(parts, ((0, 1), (5000, 25_600), (1, 9000)), strict=True):
        will_read(part)
        assert part.tobytes() == expected[start:stop] and not part.flags.writeable


def test_what_is_not_mapped_stays_what_it_is() -> None:
    for data in (
        np.arange(100, dtype=np.uint8),
        np.zeros(1 << 22, np.uint8),
        np.zeros(0, np.uint8),
    ):
        will_read(data)
        assert at_random(data).tobytes() == data.tobytes()


def test_what_cannot_be_mapped_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty", "."):
        with pytest.raises(OSError):
            map_file(tmp_path / name)


HOLES = """
import numpy as np
from pathlib import Path
from adaptive_search.kernels.mapping import release_memory

def own() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])

blocks = [np.ones(12_500) for _ in range(400)]  # 40 MB, in pieces too small for maps of their own
del blocks[:-1]
before = own()
release_memory()
assert before - own() > 20_000, (before, own())
assert (blocks[0] == 1).all()
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="only the allocator of glibc can be asked",
)
def test_memory_that_was_freed_below_a_block_in_use_goes_back(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", HOLES], check=True, cwd=tmp_path)
