"""PDF: the text of all pages; read by a worker, see isolation.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adaptive_search.documents import Document
from adaptive_search.readers.source import Source, UnreadableFile, brief

_PAGE_BREAK = "\n\n"


def read_pdf(source: Source) -> Iterator[Document]:
    """The text of all pages; lines are those of the extracted text.

    Raises:
        UnreadableFile: too large, encrypted, broken, or without text.
    """
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        with source.open() as file:
            source.check_size(file.seek(0, 2))
            reader = PdfReader(file)
            if reader.is_encrypted and not _decrypt(reader):
                raise UnreadableFile("encrypted PDF: save it without a password")
            text = _text(source, reader)
            title = (reader.metadata.title if reader.metadata else None) or ""
    except PyPdfError as error:
        raise UnreadableFile(
            f"broken PDF ({brief(error)}); repair it or convert it to text"
        ) from None
    yield Document(source.path, source.path, text, title=_valid(" ".join(str(title).split())))


def _text(source: Source, reader: Any) -> str:  # noqa: ANN401
    pages, size = [], 0
    for page in reader.pages:
        pages.append(page.extract_text().strip())
        size += len(pages[-1])
        if size > source.max_bytes:
            raise UnreadableFile(source.too_large("text of this PDF"))
    text = _PAGE_BREAK.join(pages)
    if not text.strip():
        raise UnreadableFile("no text: the PDF holds only images; run OCR on it first")
    return _valid(text)


def _decrypt(reader: Any) -> bool:  # noqa: ANN401
    """Try the empty password: such a file opens in any viewer."""
    try:
        return bool(reader.decrypt(""))
    except Exception:  # its cipher may need a package that is not installed
        return False


def _valid(text: str) -> str:
    """Text without the lone surrogates and NULs of a font without a proper character map."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
