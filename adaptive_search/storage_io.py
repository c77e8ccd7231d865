"""The one way to a disk: every change the store makes passes through StorageIO.

A test hands in a subclass that fails, or ends the process, at a chosen call; nothing else in
the store opens, writes, renames or removes a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import TracebackType

from adaptive_search.errors import StoreError, StoreLockedError

LOCK_FILE = "writer.lock"
HASH_BLOCK_BYTES = 1 << 20
HASHED_ASIDE_BYTES = 1 << 19  # a thread takes some 50 us to start, and hashing these 300
BUFFER_BYTES = 1 << 16  # of small writes that go to the disk together

_REMEDIES = {
    errno.ENOSPC: "free some space on that disk and run again",
    errno.EDQUOT: "free some space under your quota and run again",
    errno.EACCES: "check the permissions of that directory",
    errno.EPERM: "check the permissions of that directory",
    errno.EROFS: "that file system is mounted read-only; use a writable place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size and SHA-256 of a file, as the manifest records them."""

    bytes: int
    sha256: str


class StorageIO:
    """The file-system calls that change an index."""

    def create(self, path: Path) -> int:
        """Open a file that must not exist yet, for writing; gives its descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, 0o666)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the bytes; gives how many."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Make the bytes of a file survive a power cut."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor that `create` gave."""
        os.close(descriptor)

    def mkdir(self, path: Path) -> None:
        """Make one directory."""
        path.mkdir()

    def rename(self, source: Path, target: Path) -> None:
        """Give a finished directory its name."""
        source.rename(target)

    def replace(self, source: Path, target: Path) -> None:
        """Put a finished file in the place of another, atomically."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove one file."""
        path.unlink()

    def rmdir(self, path: Path) -> None:
        """Remove one empty directory."""
        path.rmdir()

    def fsync_directory(self, path: Path) -> None:
        """Make the names in a directory survive a power cut."""
        if not hasattr(os, "O_DIRECTORY"):  # Windows has no such call
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: Path) -> int:
        """Bytes that a file in this directory may still take."""
        import shutil  # brings the compression modules, which a query does not need

        return shutil.disk_usage(path).free


class StorageFile:
    """A new file: written once from start to end, hashed on the way, fsynced when closed well.

    It has the methods that pyarrow asks of a Python sink.
    """

    def __init__(self, io: StorageIO, path: Path, *, hashed: bool = True) -> None:
        """Create the file, which must not exist. `entry` knows its checksum if it is `hashed`."""
        self._io = io
        self._hash = hashlib.sha256() if hashed else None
        self._bytes = 0
        self._buffer = bytearray()
        self._descriptor = io.create(path)
        self.closed = False

    @property
    def entry(self) -> FileEntry:
        """Size and checksum of what was written so far."""
        assert self._hash is not None
        return FileEntry(self._bytes, self._hash.hexdigest())

    def write(self, data: bytes | memoryview) -> int:
        """Write all of the bytes, now or with the next ones."""
        view = memoryview(data).cast("B")
        self._bytes += len(view)
        with self._hashing(view):
            if len(self._buffer) + len(view) < BUFFER_BYTES:
                self._buffer += view
            else:
                self.flush()
                self._write(view)
        return len(view)

    @contextmanager
    def _hashing(self, view: memoryview) -> Iterator[None]:
        """Hash bytes, many of them beside what is done with them meanwhile."""
        thread = None
        if self._hash is not None and len(view) >= HASHED_ASIDE_BYTES:
            thread = Thread(target=self._hash.update, args=(view,))
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads
                thread = None
        if self._hash is not None and thread is None:
            self._hash.update(view)
        try:
            yield
        finally:
            if thread is not None:
                thread.join()

    def _write(self, rest: memoryview) -> None:
        while rest:
            rest = rest[self._io.write(self._descriptor, rest) :]

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def flush(self) -> None:
        """Hand the held back bytes to the operating system."""
        held, self._buffer = self._buffer, bytearray()
        self._write(memoryview(held))

    def close(self) -> None:
        """Give the descriptor back, without a flush or an fsync."""
        if not self.closed:
            self.closed = True
            self._io.close(self._descriptor)

    def __enter__(self) -> StorageFile:
        """Give this file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush, fsync and close; only close after an error."""
        try:
            if kind is None:
                self.flush()
                self._io.fsync(self._descriptor)
        finally:
            self.close()


def write_file(io: StorageIO, path: Path, data: bytes | memoryview) -> FileEntry:
    """Write a new file and fsync it."""
    with StorageFile(io, path) as file:
        file.write(data)
    return file.entry


def replace_file(io: StorageIO, path: Path, data: bytes | memoryview) -> FileEntry:
    """Write a file in the place of another; a reader sees all of the old or all of the new."""
    temporary = path.with_name(f"{path.name}.tmp")
    with suppress(FileNotFoundError):
        io.unlink(temporary)
    entry = write_file(io, temporary, data)
    io.replace(temporary, path)
    io.fsync_directory(path.parent)
    return entry


def make_directory(io: StorageIO, path: Path) -> None:
    """Make a directory that may be there, and those above it, to survive a power cut."""
    if path.is_dir():
        return
    make_directory(io, path.parent)
    try:
        io.mkdir(path)
    except FileExistsError:
        if not path.is_dir():  # another process may have made it meanwhile
            raise
    io.fsync_directory(path.parent)


def remove_directory(io: StorageIO, path: Path) -> None:
    """Remove a directory of plain files, or the link that stands in its place."""
    if path.is_symlink() or not path.is_dir():
        io.unlink(path)
        return
    # Bands go last: a reader that comes too late must not take a torn segment for one that was
    # shipped without its upper bands.
    for child in sorted(path.iterdir(), reverse=True):
        remove_directory(io, child)
    io.rmdir(path)


def hash_file(path: Path) -> FileEntry:
    """Read a whole file and give its size and checksum."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return FileEntry(size, digest.hexdigest())


@contextmanager
def disk_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one line that says what to do.

    Raises:
        StoreError: the operating system refused.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "check that disk")
        raise StoreError(
            f"cannot {action} {path}: {reason}; {remedy}; what was committed before is intact"
        ) from error


def check_free_space(io: StorageIO, path: Path, needed: int) -> None:
    """Refuse to start a write that the disk cannot take.

    Raises:
        StoreError: fewer than `needed` bytes are free.
    """
    with disk_errors("measure the free space of", path):
        free = io.free_bytes(path)
    if free < needed:
        raise StoreError(
            f"{path} needs about {needed / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB "
            "free; free some space, or put the index on another disk"
        )


@contextmanager
def writer_lock(root: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the index's writer lock, which the operating system drops with the process.

    Raises:
        StoreLockedError: another process holds it, and wait is False; or this thread does.
        StoreError: the disk refuses, or knows no locks.
    """
    import filelock

    lock = filelock.FileLock(root / LOCK_FILE, timeout=-1 if wait else 0)
    with disk_errors("lock", root):
        try:
            lock.acquire()
        except filelock.Timeout:
            raise StoreLockedError(
                f"another process is writing to {root}; try again when it has finished, or wait "
                "for it with wait=True (--wait)"
            ) from None
        except RuntimeError as error:  # waiting for oneself would take for ever
            raise StoreLockedError(f"{root} cannot be locked: {error}") from None
        if isinstance(lock, filelock.SoftFileLock):  # a mere file, which outlives a killed process
            lock.release()
            raise StoreError(f"the file system of {root} has no locks; put the index on another")
    try:
        yield
    finally:
        lock.release()
