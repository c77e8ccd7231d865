"""PDF, in a process of its own so that a hanging or exploding file is only skipped.

The file is the child's standard input; the child answers with one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from adaptive_search.documents import Document
from adaptive_search.readers.source import Source, UnreadableFile

PDF_SECONDS = 60
_MEMORY_BYTES = 2 << 30
_PAGE_BREAK = "\n\n"
# -I keeps the current folder and the environment out; the parent's own path is
# handed over, so every kind of installation works.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from adaptive_search.readers.pdf import main; main(int(sys.argv[2]))"
)


def read_pdf(source: Source) -> Iterator[Document]:
    """The text of all pages; lines are those of the extracted text.

    Raises:
        UnreadableFile: too large, encrypted, broken, without text, or too slow.
    """
    command = [sys.executable, "-I", "-c", _CHILD, json.dumps([p for p in sys.path if p])]
    with source.open() as file:
        source.check_size(os.fstat(file.fileno()).st_size)
        try:
            done = subprocess.run(
                [*command, str(source.max_bytes)],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=PDF_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise UnreadableFile(
                f"PDF took longer than {PDF_SECONDS} s to read; convert it to text first"
            ) from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise UnreadableFile(
            "broken PDF (its reader crashed or ran out of memory); repair it or convert it to text"
        ) from None
    if "reason" in answer:
        raise UnreadableFile(answer["reason"])
    yield Document(source.path, source.path, answer["text"], title=answer["title"])


def main(max_bytes: int) -> None:
    """Read the PDF on standard input and print its text, or the reason why not."""
    _limit_memory()
    try:
        answer = _extract(sys.stdin.buffer, max_bytes)
    except UnreadableFile as error:
        answer = {"reason": str(error)}
    except Exception as error:  # a hostile PDF raises anything, RecursionError included
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        answer = {"reason": f"broken PDF ({detail}); repair it or convert it to text"}
    json.dump(answer, sys.stdout)


def _extract(file: BinaryIO, max_bytes: int) -> dict[str, Any]:
    from pypdf import PdfReader

    reader = PdfReader(file)
    if reader.is_encrypted and not _decrypt(reader):
        raise UnreadableFile("encrypted PDF: save it without a password")
    pages, size = [], 0
    for page in reader.pages:
        pages.append(page.extract_text().strip())
        size += len(pages[-1])
        if size > max_bytes:
            raise UnreadableFile("the text of this PDF is too large; raise it with --max-file-size")
    text = _PAGE_BREAK.join(pages)
    if not text.strip():
        raise UnreadableFile("no text: the PDF holds only images; run OCR on it first")
    title = (reader.metadata.title if reader.metadata else None) or ""
    return {"text": _valid(text), "title": _valid(" ".join(str(title).split()))}


def _decrypt(reader: Any) -> bool:  # noqa: ANN401
    """Try the empty password: such a file opens in any viewer."""
    try:
        return bool(reader.decrypt(""))
    except Exception:  # its cipher may need a package that is not installed
        return False


def _valid(text: str) -> str:
    """Text without the lone surrogates and NULs of a font without a proper character map."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    except (ImportError, OSError, ValueError):
        return  # Windows has no such limit; the time limit still holds
