"""A folder or file to documents, in one deterministic stream."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from adaptive_search.documents import Document, Skipped, printable_path
from adaptive_search.errors import CorpusError
from adaptive_search.id_set import IdSet
from adaptive_search.ignore import IgnoreRules, compile_patterns
from adaptive_search.manifest import FORMAT, MANIFEST_FILE
from adaptive_search.readers.formats import read_file
from adaptive_search.readers.source import Source, UnreadableFile

MAX_FILE_BYTES = 64 << 20
_VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr", ".jj", "_darcs", "CVS"}


def read_corpus(
    root: Path,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    hidden: bool = False,
) -> Iterator[Document | Skipped]:
    """Read every document of a corpus, and name every item that could not be one.

    Files come in byte order of their names, folder by folder. Ignored and hidden
    files, version control folders and indexes are no part of the corpus; symbolic
    links are named but not followed. One bad file never stops the rest.

    Args:
        root: a folder, or a single file (which no rule leaves out).
        max_file_bytes: most bytes of a file, or of one record of a streamed file,
            that may be held in memory.
        include: gitignore patterns; when given, only files that match are read.
        exclude: gitignore patterns of files and folders to leave out.
        hidden: also read files and folders whose name begins with a dot.

    Raises:
        CorpusError: root is missing, cannot be read, or is an index.
    """
    if max_file_bytes < 1:
        raise CorpusError(f"max_file_bytes={max_file_bytes} must be at least 1")
    walk = _Walk(
        check_corpus(root),
        compile_patterns(include) if include else None,
        compile_patterns(exclude),
        hidden,
    )
    return _unique(_read_files(walk, max_file_bytes))


def check_corpus(root: Path) -> Path:
    """The real path of a corpus that can be read.

    Raises:
        CorpusError: it is missing, cannot be read, is an index, or is no folder or file.
    """
    try:
        real = Path(root).resolve(strict=True)
        mode = real.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(real).close()
        elif stat.S_ISREG(mode):
            real.open("rb").close()
        else:
            raise CorpusError(f"corpus {printable_path(str(root))} is neither a folder nor a file")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(
            f"corpus {printable_path(str(root))} cannot be read: {reason}; "
            "give an existing folder or file"
        ) from None
    if is_index(real):
        raise CorpusError(
            f"corpus {printable_path(str(root))} is an index; give the folder it was made from"
        )
    return real


def is_index(folder: Path) -> bool:
    """Whether a folder is an index of ours, even a damaged one."""
    manifest = folder / MANIFEST_FILE
    try:
        if not manifest.is_file():
            return False
        with manifest.open("rb") as file:
            return FORMAT.encode() in file.read(4096) or (folder / "segments").is_dir()
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class _Walk:
    """The files of a corpus, without recursion and without following links."""

    root: Path
    include: GitIgnoreSpec | None
    exclude: GitIgnoreSpec
    hidden: bool

    def entries(self) -> Iterator[str | Skipped]:
        """The absolute path of each regular file, or why an entry is none."""
        if not self.root.is_dir():
            yield str(self.root)
            return
        rules = IgnoreRules.above(self.root).entering(str(self.root))
        pending = self._children(str(self.root), rules)
        while pending:
            entry, rules = pending.pop()
            if isinstance(entry, Skipped):
                yield entry
            elif not self._is_wanted(entry, rules):
                continue
            elif entry.is_dir(follow_symlinks=False):
                pending += self._children(entry.path, rules.entering(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield entry.path
            else:
                yield Skipped(self.shown(entry.path), self._why_not_a_file(entry))

    def shown(self, path: str) -> str:
        """A path as users see it, relative to the root."""
        relative = os.path.relpath(path, self.root) if self.root.is_dir() else self.root.name
        return printable_path(relative.replace(os.sep, "/"))

    def _children(
        self, folder: str, rules: IgnoreRules
    ) -> list[tuple[os.DirEntry[str] | Skipped, IgnoreRules]]:
        """Entries of a folder, last first, to be popped from a stack."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda e: os.fsencode(e.name), reverse=True)
        except OSError as error:
            return [(Skipped(self.shown(folder), f"folder cannot be listed: {_why(error)}"), rules)]
        return [(entry, rules) for entry in found]

    def _is_wanted(self, entry: os.DirEntry[str], rules: IgnoreRules) -> bool:
        if entry.name in _VERSION_CONTROL or (entry.name.startswith(".") and not self.hidden):
            return False
        is_dir = entry.is_dir(follow_symlinks=False)
        relative = os.path.relpath(entry.path, self.root) + ("/" if is_dir else "")
        if self.exclude.match_file(relative) or rules.ignores(entry.path, is_dir=is_dir):
            return False
        if is_dir:
            return not is_index(Path(entry.path))
        return self.include is None or self.include.match_file(relative)

    def _why_not_a_file(self, entry: os.DirEntry[str]) -> str:
        if not entry.is_symlink():
            return "neither a file nor a folder (a pipe, socket or device)"
        try:
            target = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):
            return "symbolic link that leads nowhere or in a circle; remove it"
        if target.is_relative_to(self.root):
            return "symbolic link inside the corpus; its target is read under its own path"
        return "symbolic link out of the corpus; index its target as a corpus of its own"


def _read_files(walk: _Walk, max_bytes: int) -> Iterator[Document | Skipped]:
    for entry in walk.entries():
        if isinstance(entry, Skipped):
            yield entry
            continue
        source = Source(entry, walk.shown(entry), max_bytes)
        try:
            yield from read_file(source)
        except UnreadableFile as error:
            yield Skipped(source.path, str(error))
        except OSError as error:
            yield Skipped(source.path, f"cannot be read: {_why(error)}")
        except Exception as error:
            # Parsers of other projects meet hostile bytes here: whatever they raise,
            # one file must not end a run over a million others.
            detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            yield Skipped(source.path, f"its reader failed ({detail}); check the file")


def _unique(items: Iterator[Document | Skipped]) -> Iterator[Document | Skipped]:
    """The same items, an empty document or the second of an id turned into Skipped."""
    ids = IdSet()
    for item in items:
        if isinstance(item, Skipped):
            yield item
            continue
        where = f"{item.path}:{item.line}" if item.kind == "record" else item.path
        if not item.text.strip():
            yield Skipped(where, "no text: the file is empty or blank")
        elif ids.add(item.id):
            yield item
        else:
            shown = printable_path(item.id[:100])
            yield Skipped(where, f"duplicate id {shown!r}; the first one is kept")


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "permission denied; change its permissions"
    return f"{error.strerror or error}; check the file"
