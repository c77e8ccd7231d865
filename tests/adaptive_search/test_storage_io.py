from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from adaptive_search.errors import StoreError, StoreLockedError
from adaptive_search.storage_io import (
    HASHED_ASIDE_BYTES,
    FileEntry,
    StorageFile,
    StorageIO,
    check_free_space,
    disk_errors,
    hash_file,
    make_directory,
    remove_directory,
    replace_file,
    write_file,
    writer_lock,
)


class OneByteIO(StorageIO):
    """Writes one byte a call, as a busy pipe or a signal might make it."""

    def write(self, descriptor: int, data: memoryview) -> int:
        return super().write(descriptor, data[:1])


def test_short_writes_are_completed(tmp_path: Path) -> None:
    entry = write_file(OneByteIO(), tmp_path / "a", b"hello")
    assert (tmp_path / "a").read_bytes() == b"hello"
    assert entry == FileEntry(5, hashlib.sha256(b"hello").hexdigest())
    assert hash_file(tmp_path / "a") == entry


@pytest.mark.parametrize("threads", [True, False])
def test_long_and_short_pieces_are_hashed_in_order(
    tmp_path: Path, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    if not threads:
        monkeypatch.setattr(threading.Thread, "start", refused)
    pieces = [bytes([n]) * size for n, size in enumerate((3, HASHED_ASIDE_BYTES, 1, 1 << 20))]
    with StorageFile(StorageIO(), tmp_path / "a") as file:
        for piece in pieces:
            file.write(piece)
    assert file.entry == hash_file(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"".join(pieces)


def test_create_refuses_an_existing_file(tmp_path: Path) -> None:
    write_file(StorageIO(), tmp_path / "a", b"1")
    with pytest.raises(FileExistsError):
        write_file(StorageIO(), tmp_path / "a", b"2")


def test_file_is_synced_when_closed_well_and_not_after_an_error(tmp_path: Path, kit: Any) -> None:
    io = kit.FailingIO()
    write_file(io, tmp_path / "a", b"1")
    assert io.calls == ["create", "write", "fsync", "close"]
    io.calls.clear()
    with pytest.raises(ZeroDivisionError), StorageFile(io, tmp_path / "b"):
        raise ZeroDivisionError
    assert io.calls == ["create", "close"]


def test_replace_syncs_the_file_before_and_the_directory_after(tmp_path: Path, kit: Any) -> None:
    io = kit.FailingIO()
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a.tmp").write_bytes(b"left by a crash")
    replace_file(io, tmp_path / "a", b"new")
    assert io.calls == "unlink create write fsync close replace fsync_directory".split()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_replace_keeps_the_old_file(tmp_path: Path, kit: Any) -> None:
    for k in range(6):
        (tmp_path / "a").write_bytes(b"old")
        with pytest.raises(OSError):
            replace_file(kit.FailingIO(k, lasting=True), tmp_path / "a", b"new")
        assert (tmp_path / "a").read_bytes() == b"old"


def test_new_directories_are_synced_from_the_top(tmp_path: Path, kit: Any) -> None:
    io = kit.FailingIO()
    make_directory(io, tmp_path / "a" / "b")
    assert io.calls == ["mkdir", "fsync_directory"] * 2
    make_directory(io, tmp_path / "a" / "b")
    assert len(io.calls) == 4
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        make_directory(io, tmp_path / "file")


def test_remove_directory_removes_a_link_and_not_its_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").write_bytes(b"1")
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "link").symlink_to(target)
    (doomed / "file").write_bytes(b"1")
    remove_directory(StorageIO(), doomed)
    assert not doomed.exists()
    assert (target / "precious").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_disk_errors_become_one_line_with_path_and_remedy(tmp_path: Path, number: int) -> None:
    with pytest.raises(StoreError) as caught, disk_errors("write", tmp_path):
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert str(tmp_path) in message and os.strerror(number) in message and "intact" in message
    assert "\n" not in message


def test_free_space_is_checked_before_work(tmp_path: Path) -> None:
    class FullIO(StorageIO):
        def free_bytes(self, path: Path) -> int:
            return 1_000_000

    check_free_space(FullIO(), tmp_path, 1_000_000)
    with pytest.raises(StoreError, match="needs about 3 MB and its disk has 1 MB free"):
        check_free_space(FullIO(), tmp_path, 3_000_000)
    assert StorageIO().free_bytes(tmp_path) > 0


def test_second_writer_is_refused_at_once(tmp_path: Path) -> None:
    with (
        writer_lock(tmp_path),
        pytest.raises(StoreLockedError, match="another process"),
        writer_lock(tmp_path),
    ):
        pass
    with writer_lock(tmp_path):  # the file that is left behind is no lock
        pass


HOLDER = """
    import sys, time
    from pathlib import Path
    from adaptive_search.storage_io import writer_lock
    with writer_lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""


def test_lock_dies_with_its_process_and_wait_waits_for_it(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-c", textwrap.dedent(HOLDER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError), writer_lock(tmp_path):
            pass
        holder.kill()
        with writer_lock(tmp_path, wait=True):
            pass


def test_waiting_for_oneself_is_an_error_at_once(tmp_path: Path) -> None:
    with (
        writer_lock(tmp_path),
        pytest.raises(StoreLockedError),
        writer_lock(tmp_path, wait=True),
    ):
        pass


def test_a_lock_that_outlives_its_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filelock = pytest.importorskip("filelock")
    monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)  # as where flock is missing
    with pytest.raises(StoreError, match="has no locks"), writer_lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []
