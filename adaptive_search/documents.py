"""What a corpus is made of: documents, and the items that could not be one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Scalar = str | int | float | bool
Kind = Literal["text", "markdown", "rst", "code", "record"]


@dataclass(frozen=True, slots=True)
class Document:
    """One text with an identity: a file, or one record of a file of records.

    Attributes:
        id: unique in the corpus; a file's path, or a record's own id.
        path: of the file, relative to the corpus root, printable (see printable_path).
        text: never empty.
        title: context for every chunk; may be empty.
        line: 1-based line of the file where the text begins; for a record its line or row.
        byte: where the text begins in the file; 0 unless a byte order mark precedes it.
        metadata: scalar fields that searches can filter on.
        kind: how the text is cut. In a "record" every chunk has the record's line.
    """

    id: str
    path: str
    text: str
    title: str = ""
    line: int = 1
    byte: int = 0
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    kind: Kind = "text"

    @property
    def content_hash(self) -> bytes:
        """16 bytes that change whenever path, title, text or metadata change."""
        digest = hashlib.blake2b(digest_size=16)
        parts = [self.path, self.title, self.text]
        for name in sorted(self.metadata):
            value = self.metadata[name]
            parts += [name, type(value).__name__, str(value)]
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            # The length frames each part: ("ab", "c") and ("a", "bc") must differ.
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Skipped:
    """An item of the corpus that was not read, and why.

    Attributes:
        path: printable, relative to the corpus root; "file.jsonl:17" for one record.
        reason: one line with the remedy.
    """

    path: str
    reason: str


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: not if it holds half a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable_path(name: str) -> str:
    r"""A file name as it can be shown; two different names never look the same.

    Control characters, bidi overrides and bytes that are not UTF-8 (surrogate
    escapes) become \xNN or \uNNNN, and a backslash is doubled.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(map(_printable, name))


def _printable(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    # \xNN is kept for raw bytes, so that U+0085 and the byte 0x85 differ.
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
