"""Bytes to text, exactly or not at all."""

from __future__ import annotations

import codecs
import re

from adaptive_search.readers.source import UnreadableFile

SAMPLE_BYTES = 1 << 16
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Never guessed: without a mark, two bytes of anything are a character of UTF-16.
_NEVER_GUESSED = ["utf_7", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le"]
_CONTROL = re.compile(rb"[\x00-\x07\x0e-\x1a\x1c-\x1f]")
_MAX_CONTROL_SHARE = 0.05
_ADVICE = "convert it to UTF-8"


def mark_of(head: bytes) -> tuple[int, str | None]:
    """Length of the byte order mark, and the encoding it stands for."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return len(mark), encoding
    return 0, None


def is_binary(head: bytes) -> bool:
    """Whether the first bytes of a file cannot be text of any encoding read here."""
    if mark_of(head)[1] is not None:
        return False
    return b"\0" in head or is_noise(head)


def is_noise(head: bytes) -> bool:
    """Whether bytes without a mark hold more control characters than a stray few."""
    return len(_CONTROL.findall(head)) > _MAX_CONTROL_SHARE * len(head)


def decode(data: bytes) -> tuple[str, int]:
    """All of a file as text.

    Returns:
        The text, and the length of the byte order mark before it.

    Raises:
        UnreadableFile: no encoding reads every byte.
    """
    skip, encoding = mark_of(data)
    if encoding is None:
        if b"\0" in data:
            raise UnreadableFile(
                f"binary file: NUL at byte {data.index(0)}; if it is text, {_ADVICE}"
            )
        encoding = guess_encoding(data, complete=True)
    try:
        return data[skip:].decode(encoding), skip
    except UnicodeDecodeError as error:
        raise UnreadableFile(
            f"invalid {encoding} at byte {skip + error.start}; repair it or {_ADVICE}"
        ) from None


def guess_encoding(data: bytes, *, complete: bool = False) -> str:
    """Encoding of text without a mark, from its first bytes or (complete) from all.

    Raises:
        UnreadableFile: nothing fits.
    """
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=complete)
        return "utf-8"
    except UnicodeDecodeError:
        pass
    if _is_damaged_utf8(data):
        return "utf-8"
    if is_binary(data[:SAMPLE_BYTES]):
        raise UnreadableFile(f"binary file; if it is text, {_ADVICE}")
    from charset_normalizer import from_bytes

    matches = from_bytes(data, cp_exclusion=_NEVER_GUESSED)
    best = matches.best()
    if best is None:
        raise UnreadableFile(f"unknown text encoding; {_ADVICE}")
    # The Latin code pages are told apart by a few letters; among near equals the
    # most common one is the likeliest.
    western = next((m for m in matches if "cp1252" in m.could_be_from_charset), None)
    is_latin = any(page in best.could_be_from_charset for page in ("cp1250", "cp1257", "cp1006"))
    if western and is_latin and western.chaos <= best.chaos + 0.1:
        return "cp1252"
    return str(best.encoding)


def _is_damaged_utf8(data: bytes) -> bool:
    """Whether a few bad bytes stand among many good multi-byte characters."""
    text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return len(data) - len(text) > 2 * bad
