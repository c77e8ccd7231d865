"""Disks for tests of the store: one that can fail or kill at any call, one that loses power.

`PowerCutIO` does what is asked on the real disk and keeps a second, strict account of it: the bytes
of a file last only when they were fsynced, and a name only when its directory was. All else may be
there after a power cut, or not, or by half, each independently of the others. No real file system
loses more, most lose much less.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from adaptive_search.storage_io import StorageIO

Image = dict[str, bytes | None]  # relative path -> contents, None for a directory
SECTOR = 64  # bytes that are written or lost together, smaller than real ones to fit small files
CUTS = ("lost", "names", "mixed", "mixed")


class CallingIO(StorageIO):
    """A disk that tells of each call before it is made. It never syncs, to be quick."""

    def __init__(self, before: Callable[[int, str], None] = lambda number, name: None) -> None:
        """Call `before` with the number and name of each call."""
        self.calls = 0
        self._before = before

    def _call(self, name: str) -> None:
        self.calls += 1
        self._before(self.calls - 1, name)

    def create(self, path: Path) -> int:  # noqa: D102
        self._call("create")
        return super().create(path)

    def write(self, descriptor: int, data: memoryview) -> int:  # noqa: D102
        self._call("write")
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:  # noqa: D102
        self._call("fsync")

    def close(self, descriptor: int) -> None:  # noqa: D102
        super().close(descriptor)  # the system takes it back even where it reports an error
        self._call("close")

    def mkdir(self, path: Path) -> None:  # noqa: D102
        self._call("mkdir")
        super().mkdir(path)

    def rename(self, source: Path, target: Path) -> None:  # noqa: D102
        self._call("rename")
        super().rename(source, target)

    def replace(self, source: Path, target: Path) -> None:  # noqa: D102
        self._call("replace")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:  # noqa: D102
        self._call("unlink")
        super().unlink(path)

    def rmdir(self, path: Path) -> None:  # noqa: D102
        self._call("rmdir")
        super().rmdir(path)

    def fsync_directory(self, path: Path) -> None:  # noqa: D102
        self._call("fsync_directory")


def failing(at: int, code: int, *, lasting: bool) -> Callable[[int, str], None]:
    """For CallingIO: fail with an error of the system at one call, or from it on."""

    def before(number: int, name: str) -> None:
        if number == at or (lasting and number > at):
            raise OSError(code, os.strerror(code))

    return before


def exiting(at: int) -> Callable[[int, str], None]:
    """For CallingIO: end the process at one call, with status 9 and without any clean-up."""

    def before(number: int, name: str) -> None:
        if number == at:
            os._exit(9)

    return before


class ShortWritesIO(CallingIO):
    """A disk that writes some of the bytes, and sometimes fails in the middle of a write."""

    def __init__(self, seed: int, fail_at: int | None = None) -> None:
        """Fail at one call, after half of what it was given; by default at none."""
        super().__init__()
        self._random = random.Random(seed)
        self._fail_at = fail_at

    def write(self, descriptor: int, data: memoryview) -> int:  # noqa: D102
        if self.calls == self._fail_at:
            super().write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(descriptor, data[: self._random.randint(1, len(data))])


@dataclass(eq=False)
class File:
    """Bytes that last, and bytes as a running program sees them."""

    synced: bytes = b""
    current: bytes = b""


@dataclass(eq=False)
class Folder:
    """Names that last, and the changes of names that wait for an fsync."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def current(self) -> dict[str, File | Folder]:
        """The names as a running program sees them."""
        return self.after(self.changes)

    def after(self, changes: list[dict[str, File | Folder | None]]) -> dict[str, File | Folder]:
        """The names once some changes have been made."""
        names: dict[str, File | Folder | None] = dict(self.names)
        for change in changes:
            names |= change
        return {name: node for name, node in names.items() if node is not None}


class PowerCutIO(CallingIO):
    """A disk from which the power may go at any call; `cut` shows what is left then."""

    def __init__(
        self, root: Path, before: Callable[[int, str], None] = lambda number, name: None
    ) -> None:
        """Take what is below `root` for durable."""
        super().__init__(before)
        self._root = root
        self._top = _load(root)
        self._open: dict[int, File] = {}

    def _folder(self, path: Path) -> Folder:
        folder = self._top
        for name in path.relative_to(self._root).parts:
            child = folder.current()[name]
            assert isinstance(child, Folder)
            folder = child
        return folder

    def _node(self, path: Path) -> File | Folder:
        return self._folder(path.parent).current()[path.name]

    def _change(self, path: Path, node: File | Folder | None) -> None:
        self._folder(path.parent).changes.append({path.name: node})

    def create(self, path: Path) -> int:  # noqa: D102
        descriptor = super().create(path)
        self._open[descriptor] = File()
        self._change(path, self._open[descriptor])
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:  # noqa: D102
        written = super().write(descriptor, data)
        self._open[descriptor].current += data[:written]
        return written

    def fsync(self, descriptor: int) -> None:  # noqa: D102
        super().fsync(descriptor)
        self._open[descriptor].synced = self._open[descriptor].current

    def mkdir(self, path: Path) -> None:  # noqa: D102
        super().mkdir(path)
        self._change(path, Folder())

    def _move(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent, "a move between directories is two changes"
        change = {target.name: self._node(source), source.name: None}
        self._folder(source.parent).changes.append(change)

    def rename(self, source: Path, target: Path) -> None:  # noqa: D102
        super().rename(source, target)
        self._move(source, target)

    def replace(self, source: Path, target: Path) -> None:  # noqa: D102
        super().replace(source, target)
        self._move(source, target)

    def unlink(self, path: Path) -> None:  # noqa: D102
        super().unlink(path)
        self._change(path, None)

    def rmdir(self, path: Path) -> None:  # noqa: D102
        super().rmdir(path)
        self._change(path, None)

    def fsync_directory(self, path: Path) -> None:  # noqa: D102
        super().fsync_directory(path)
        folder = self._folder(path)
        folder.names, folder.changes = folder.current(), []

    def cut(self, kind: str, seed: int) -> Image:
        """What a power cut leaves.

        Args:
            kind: "lost" keeps only what was synced; "names" keeps all names, and of bytes that
                were not synced none; "mixed" decides for each change of a name and each file.
            seed: of these decisions.
        """
        image: Image = {}
        self._keep(self._top, "", kind, random.Random(seed), image)
        return image

    def _keep(
        self, folder: Folder, prefix: str, kind: str, chance: random.Random, image: Image
    ) -> None:
        kept = [
            c
            for c in folder.changes
            if kind == "names" or kind == "mixed" and chance.random() < 0.5
        ]
        for name, node in folder.after(kept).items():
            if isinstance(node, Folder):
                image[prefix + name] = None
                self._keep(node, f"{prefix}{name}/", kind, chance, image)
            else:
                image[prefix + name] = _torn(node, chance) if kind == "mixed" else node.synced


def _torn(file: File, chance: random.Random) -> bytes:
    """Bytes of a file after a power cut: whole if synced, else any of what disks leave."""
    new = file.current
    if file.synced == new:
        return new
    sectors = [new[at : at + SECTOR] for at in range(0, len(new), SECTOR)]
    zeroed = [s if chance.random() < 0.5 else bytes(len(s)) for s in sectors]
    return chance.choice(
        [file.synced, b"", new, bytes(len(new)), new[: len(new) // 2], b"".join(zeroed)]
    )


def _load(path: Path) -> Folder:
    folder = Folder()
    for child in path.iterdir():
        if child.is_dir():
            folder.names[child.name] = _load(child)
        else:
            data = child.read_bytes()
            folder.names[child.name] = File(data, data)
    return folder


def save(image: Image, target: Path) -> None:
    """Write an image into a new directory."""
    target.mkdir()
    for name, data in image.items():
        if data is None:
            (target / name).mkdir(parents=True, exist_ok=True)
        else:
            (target / name).write_bytes(data)


def load(root: Path) -> Image:
    """Read a directory as an image."""
    paths = sorted(root.rglob("*"))
    return {str(p.relative_to(root)): None if p.is_dir() else p.read_bytes() for p in paths}
