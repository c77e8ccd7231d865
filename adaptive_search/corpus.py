"""A folder or file to documents, in one deterministic stream."""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from adaptive_search.documents import Document, Skipped, printable_path
from adaptive_search.errors import CorpusError
from adaptive_search.id_set import IdSet
from adaptive_search.ignore import IgnoreRules, compile_patterns
from adaptive_search.manifest import FORMAT, MANIFEST_FILE
from adaptive_search.readers.formats import least_text, read_file
from adaptive_search.readers.source import Source, failure_reason

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
    return _unique(_read_files(_walk(root, include, exclude, hidden), max_file_bytes))


def least_new_text(
    root: Path,
    known: Container[str],
    *,
    is_first: bool,
    max_file_bytes: int = MAX_FILE_BYTES,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    hidden: bool = False,
) -> int:
    """Bytes of text that a corpus adds to an index, at the least, by the names and sizes of files.

    Args:
        root: a folder, or a single file.
        known: paths that count nothing, because the index has them.
        is_first: whether the index is empty; else files of records count nothing.
        max_file_bytes: as for `read_corpus`, like the others.
        include: see there.
        exclude: see there.
        hidden: see there.

    Raises:
        CorpusError: root is missing, cannot be read, or is an index.
    """
    walk = _walk(root, include, exclude, hidden)
    total = 0
    for entry in walk.entries():
        if isinstance(entry, str) and walk.shown(entry) not in known:
            with suppress(OSError):
                size = os.lstat(entry).st_size
                total += least_text(entry, size, max_file_bytes, records=is_first)
    return total


def _walk(root: Path, include: Sequence[str], exclude: Sequence[str], hidden: bool) -> _Walk:
    return _Walk(
        check_corpus(root),
        compile_patterns(include) if include else None,
        compile_patterns(exclude) if exclude else None,
        hidden,
    )


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
    exclude: GitIgnoreSpec | None
    hidden: bool

    def entries(self) -> Iterator[str | Skipped]:
        """The absolute path of each regular file, or why an entry is none."""
        top = str(self.root)
        if not self.root.is_dir():
            yield top
            return
        # Names alone are held: of a folder with ten million files, some 80 bytes for each.
        rules = IgnoreRules.above(self.root).entering(top)
        yield from self._refused(rules)
        pending = [(top, rules, _names(top))]
        while pending:
            folder, rules, names = pending[-1]
            if not names:
                pending.pop()
                continue
            path = os.path.join(folder, os.fsdecode(names.pop()))
            if self._is_hidden(path):
                continue
            try:
                mode = os.lstat(path).st_mode
                is_dir = stat.S_ISDIR(mode)
                if not self._is_wanted(path, rules, is_dir=is_dir):
                    continue
                if is_dir:
                    rules = rules.entering(path)
                    pending.append((path, rules, _names(path)))
                    yield from self._refused(rules)
                    continue
            except OSError as error:
                yield Skipped(self.shown(path), failure_reason(error))
                continue
            if stat.S_ISREG(mode):
                yield path
            else:
                yield Skipped(self.shown(path), self._why_not_a_file(path, mode))

    def _refused(self, rules: IgnoreRules) -> Iterator[Skipped]:
        for line in rules.refused:
            yield Skipped(self.shown(line), "pattern with more than three stars, or three in a row")

    def shown(self, path: str) -> str:
        """A path as users see it, relative to the root."""
        return printable_path((self._relative(path) or self.root.name).replace(os.sep, "/"))

    def _relative(self, path: str) -> str:
        return path[len(str(self.root)) :].lstrip(os.sep)

    def _is_hidden(self, path: str) -> bool:
        name = os.path.basename(path)
        return name in _VERSION_CONTROL or (name.startswith(".") and not self.hidden)

    def _is_wanted(self, path: str, rules: IgnoreRules, *, is_dir: bool) -> bool:
        relative = self._relative(path) + ("/" if is_dir else "")
        if self.exclude is not None and self.exclude.match_file(relative):
            return False
        if rules.ignores(path, is_dir=is_dir):
            return False
        if is_dir:
            return not is_index(Path(path))
        return self.include is None or self.include.match_file(relative)

    def _why_not_a_file(self, path: str, mode: int) -> str:
        if not stat.S_ISLNK(mode):
            return "neither a file nor a folder (a pipe, socket or device)"
        try:
            target = Path(path).resolve(strict=True)
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
        except Exception as error:
            # Readers meet hostile bytes: whatever they raise, one file must not end a run over
            # a million others.
            yield Skipped(source.path, failure_reason(error))


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


def _names(folder: str) -> list[bytes]:
    """Names in a folder, in descending byte order, to be popped."""
    return sorted(os.listdir(os.fsencode(folder)), reverse=True)
