"""Which files of a corpus are left out: .gitignore, .adaptiveignore and patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

IGNORE_FILES = (".gitignore", ".adaptiveignore")  # the later one has the last word
_MAX_IGNORE_BYTES = 1 << 20
# Each star multiplies the time of a match by the length of the path.
_MAX_STARS = 3
_STARS = re.compile(r"\*+")


def compile_patterns(lines: Iterable[str]) -> GitIgnoreSpec:
    """Gitignore patterns, without the lines git too would find meaningless."""
    kept = []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except (ValueError, re.error):
            continue
        kept.append(line)
    return GitIgnoreSpec.from_lines(kept)


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The ignore files that govern one folder, outermost first.

    Attributes:
        layers: (folder the patterns are relative to, patterns), in real paths.
        refused: the lines of this folder's own ignore files, as "path:line", with more than
            three stars, or three in a row: a hostile one would take years to match.
    """

    layers: tuple[tuple[str, GitIgnoreSpec], ...] = ()
    refused: tuple[str, ...] = ()

    @classmethod
    def above(cls, root: Path) -> IgnoreRules:
        """Rules of the folders between a corpus root and the top of its git checkout."""
        parents = list(root.parents)
        top = next((i for i, p in enumerate((root, *parents)) if (p / ".git").exists()), 0)
        rules = cls()
        for folder in reversed(parents[:top]):
            rules = rules.entering(str(folder))
        # Whoever names an ignored folder as the corpus wants it read.
        return cls() if rules.ignores(str(root), is_dir=True) else rules

    def entering(self, folder: str) -> IgnoreRules:
        """The rules inside a folder: these, and those of its own ignore files."""
        layers = self.layers
        refused: list[str] = []
        for name in IGNORE_FILES:
            path = Path(folder, name)
            kept = []
            for number, line in enumerate(_read_lines(path), 1):
                if _is_slow(line):
                    refused.append(f"{path}:{number}")
                else:
                    kept.append(line)
            if kept:
                layers = (*layers, (folder, compile_patterns(kept)))
        return IgnoreRules(layers, tuple(refused))

    def ignores(self, path: str, *, is_dir: bool) -> bool:
        """Whether the innermost pattern that matches leaves this path out."""
        for folder, patterns in reversed(self.layers):
            relative = path[len(folder.rstrip("/")) + 1 :] + ("/" if is_dir else "")
            include = patterns.check_file(relative).include
            if include is not None:
                return include
        return False


def _is_slow(line: str) -> bool:
    runs = [] if line.startswith("#") else _STARS.findall(line)
    return len(runs) > _MAX_STARS or any(len(run) > len("**") for run in runs)


def _read_lines(path: Path) -> list[str]:
    try:
        # A link or a device here could lead anywhere, or never end.
        if path.is_symlink() or not path.is_file():
            return []
        with path.open("rb") as file:
            data = file.read(_MAX_IGNORE_BYTES)
    except OSError:
        return []
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").splitlines()
