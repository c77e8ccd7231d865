"""Fields of a record to a document: one set of rules for every format of records."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Mapping

from adaptive_search.documents import Document, Scalar, Skipped
from adaptive_search.readers.source import Source

_ID_FIELDS = ("_id", "id")
_TITLE_FIELDS = ("title",)
_TEXT_FIELDS = ("text", "content", "body", "contents")
_MAX_ID_CHARS = 1024
# A string that became part of the text can still be filtered on when it is a label.
_MAX_LABEL_CHARS = 128
# Metadata are stored with every chunk: what a hostile record repeats must be small.
_MAX_VALUE_CHARS = 1024
_MAX_METADATA_CHARS = 1 << 14


def record_document(
    source: Source, number: int, fields: Mapping[str, object]
) -> Document | Skipped:
    """One record as a document.

    The id is `_id` or `id`, else path:number; the title is `title`; the text is the
    first of `text`, `content`, `body`, `contents` that is not empty, else all other
    string fields as `name: value` lines, else the title. Other scalar fields, and
    those of an object called `metadata`, become metadata, unless they are longer than
    1,024 characters or no finite number. Names match in any case.

    Args:
        source: the file.
        number: 1-based line or row of the record.
        fields: name -> value as parsed.
    """
    names = {name.lower(): name for name in reversed(list(fields))}
    id_name, record_id = _first(fields, names, _ID_FIELDS)
    title_name, title = _first(fields, names, _TITLE_FIELDS)
    text_name, text = _first(fields, names, _TEXT_FIELDS)
    rest = {k: v for k, v in fields.items() if k not in (id_name, title_name, text_name)}
    metadata = _metadata(rest)
    if not text:
        strings = {name: _as_text(value) for name, value in rest.items()}
        text = "\n".join(f"{name}: {value}" for name, value in strings.items() if value)
        metadata = {
            name: value
            for name, value in metadata.items()
            if not strings.get(name) or len(strings[name]) <= _MAX_LABEL_CHARS
        }
    if not text:
        text, title = title, ""
    if not text:
        return source.skipped(number, "no text: no field of this record holds a string")
    if len(record_id) > _MAX_ID_CHARS:
        return source.skipped(number, f"its id is longer than {_MAX_ID_CHARS} characters")
    if sum(len(name) + len(str(value)) for name, value in metadata.items()) > _MAX_METADATA_CHARS:
        return source.skipped(
            number, f"its fields beside the text have over {_MAX_METADATA_CHARS:,} characters"
        )
    if len(text) > source.max_bytes:
        return source.skipped(number, source.too_large("record"))
    if not _is_unicode(record_id, title, text, metadata):
        return source.skipped(number, "it holds half a surrogate pair (\\ud800 to \\udfff)")
    return Document(
        id=record_id or f"{source.path}:{number}",
        path=source.path,
        text=text,
        title=title,
        line=number,
        metadata=metadata,
        kind="record",
    )


def _first(
    fields: Mapping[str, object], names: Mapping[str, str], candidates: tuple[str, ...]
) -> tuple[str | None, str]:
    """Name and text of the first candidate that has a value."""
    for candidate in candidates:
        name = names.get(candidate)
        if name is None:
            continue
        value = fields[name]
        is_number = isinstance(value, int) and not isinstance(value, bool)
        text = str(value) if is_number and candidate in _ID_FIELDS else _as_text(value)
        if text:
            return name, text
    return None, ""


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value if value.strip() else ""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return ""


def _metadata(fields: Mapping[str, object]) -> dict[str, Scalar]:
    metadata: dict[str, Scalar] = {}
    for name, value in fields.items():
        nested = value if isinstance(value, dict) and name.lower() == "metadata" else {name: value}
        for key, item in nested.items():
            scalar = scalar_value(item)
            if scalar is not None:
                metadata[str(key)] = scalar
    return metadata


def scalar_value(value: object) -> Scalar | None:
    """A value as metadata hold it, or None where it is none: dates and decimals become texts."""
    if isinstance(value, float) and not math.isfinite(value):  # NaN says "no value"
        return None
    if isinstance(value, str) and len(value) > _MAX_VALUE_CHARS:
        return None
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    return None


def _is_unicode(record_id: str, title: str, text: str, metadata: Mapping[str, Scalar]) -> bool:
    try:
        for part in (record_id, title, text):
            if not part.isascii():
                part.encode()
        for name, value in metadata.items():
            name.encode()
            if isinstance(value, str):
                value.encode()
    except UnicodeEncodeError:
        return False
    return True
