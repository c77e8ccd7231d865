"""Which reader a file gets: by its extension, else by its first bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial

from adaptive_search.documents import Document, Skipped
from adaptive_search.readers.delimited import read_delimited
from adaptive_search.readers.encoding import SAMPLE_BYTES, is_binary
from adaptive_search.readers.html import read_html
from adaptive_search.readers.isolation import read_isolated
from adaptive_search.readers.json_records import read_json, read_json_lines
from adaptive_search.readers.source import Source, UnreadableFile
from adaptive_search.readers.text import read_text

Reader = Callable[[Source], Iterator[Document | Skipped]]

_plain = partial(read_text, kind="text")
_code = partial(read_text, kind="code")
_pdf, _docx, _parquet, _arrow = (
    partial(read_isolated, reader=name) for name in ("pdf", "docx", "parquet", "arrow")
)
_EXTENSIONS: tuple[tuple[str, Reader], ...] = (
    ("txt text log tex org adoc asciidoc srt vtt", _plain),
    ("md markdown mdown mkd mdx rmd qmd", partial(read_text, kind="markdown")),
    ("rst rest", partial(read_text, kind="rst")),
    ("html htm xhtml", read_html),
    ("pdf", _pdf),
    ("docx", _docx),
    ("csv", partial(read_delimited, delimiter=None)),
    ("tsv tab", partial(read_delimited, delimiter="\t")),
    ("json", read_json),
    ("jsonl ndjson", read_json_lines),
    ("parquet pq", _parquet),
    ("arrow arrows feather ipc", _arrow),
    (
        "py pyi pyx pxd c h cc cpp cxx hh hpp hxx cu cuh m mm cs java kt kts scala groovy "
        "gradle go rs swift js mjs cjs jsx ts tsx vue svelte css scss sass less rb php pl pm "
        "lua r jl dart ex exs erl hrl hs ml mli fs fsx clj cljs cljc edn lisp el scm vb bas "
        "pas f f90 f95 for asm s zig nim d v sv vhd vhdl sol sh bash zsh fish ps1 psm1 bat "
        "cmd awk sed sql proto thrift graphql gql tf hcl toml yaml yml ini cfg conf "
        "properties xml xsd xsl svg cmake mk make dockerfile nix bzl star diff patch ipynb "
        "geojson",
        _code,
    ),
)
_READERS = {f".{name}": reader for names, reader in _EXTENSIONS for name in names.split()}
_STREAMED = tuple(f".{name}" for name in "csv tsv tab jsonl ndjson".split())
_HTML = re.compile(
    rb"\s*(?:<!--.{0,500}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)


def least_text(path: str, size: int, max_bytes: int, *, records: bool) -> int:
    """How much of a file of this name and size will be indexed as text, at the least.

    Files that the name alone does not tell to be text count nothing; those of records, if they
    count, half of what they take, since they have other fields.
    """
    extension = os.path.splitext(path)[1].lower()
    if extension in _STREAMED:
        return size // 2 if records else 0
    reader = _READERS.get(extension)
    is_text = isinstance(reader, partial) and reader.func is read_text
    return size if is_text and size <= max_bytes else 0


def read_file(source: Source) -> Iterator[Document | Skipped]:
    """All documents of a file.

    Raises:
        UnreadableFile: the whole file cannot be read.
        OSError: the file cannot be opened.
    """
    extension = os.path.splitext(source.file)[1].lower()
    reader = _READERS.get(extension) or _sniff(source)
    return reader(source)


def _sniff(source: Source) -> Reader:
    with source.open() as file:
        head = file.read(SAMPLE_BYTES)
    if head.startswith(b"%PDF-"):
        return _pdf
    if head.startswith(b"PAR1"):
        return _parquet
    if head.startswith(b"ARROW1"):
        return _arrow
    # Not by zipfile: the table of contents of a large archive takes hundreds of megabytes.
    if head.startswith(b"PK\x03\x04") and b"word/document.xml" in head:
        return _docx
    if is_binary(head):
        raise UnreadableFile("binary file of a type that is not read; convert it to text")
    if _HTML.match(head):
        return read_html
    return _code if head.startswith(b"#!") else _plain
