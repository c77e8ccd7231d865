"""DOCX: the paragraphs of word/document.xml, read as a stream with bounded memory."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from xml.parsers import expat

from adaptive_search.documents import Document
from adaptive_search.readers.source import Source, UnreadableFile, brief

_OLE_MARK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_BODY = "word/document.xml"
_PROPERTIES = "docProps/core.xml"
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_STRICT_WORD = "http://purl.oclc.org/ooxml/wordprocessingml/main "
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"
_TITLE = "http://purl.org/dc/elements/1.1/ title"
_MAX_RATIO = 100  # of what a part unpacks to; text and its tags reach 20
_ALWAYS_BYTES = 1 << 20  # that it may unpack to
_REPAIR = "open it in a word processor and save it again as .docx"


def read_docx(source: Source) -> Iterator[Document]:
    """The text of a document; headings become lines that begin with `#`.

    Raises:
        UnreadableFile: too large (also once unpacked), encrypted, or broken.
    """
    data = source.read()
    if data.startswith(_OLE_MARK):
        raise UnreadableFile("encrypted DOCX or old .doc: save it as .docx without a password")
    body, title = _Body(), _Title()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _parse(archive, _BODY, body, source)
            if _PROPERTIES in archive.namelist():
                _parse(archive, _PROPERTIES, title, source)
    except KeyError:
        raise UnreadableFile(f"not a DOCX: it has no {_BODY}; check the extension") from None
    except RuntimeError:  # zipfile's way to say that a password is needed
        raise UnreadableFile("encrypted DOCX: save it without a password") from None
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, NotImplementedError, EOFError) as e:
        raise UnreadableFile(f"broken DOCX ({brief(e)}); {_REPAIR}") from None
    text = body.text()
    yield Document(
        source.path, source.path, text, title=title.text() or body.title, kind="markdown"
    )


class _Body:
    """Text of a body part, paragraph by paragraph."""

    def __init__(self) -> None:
        self.title = ""
        self._parts: list[str] = []
        self._paragraph: list[str] = []
        self._style = ""
        self._in_text = False
        self._fallback = 0  # depth inside mc:Fallback, a second copy for old programs

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == _FALLBACK or self._fallback:
            self._fallback += 1
            return
        tag = _local_name(name)
        if tag == "t":
            self._in_text = True
        elif tag in ("tab", "br", "cr"):
            self._paragraph.append("\t" if tag == "tab" else "\n")
        elif tag == "pStyle":
            self._style = next((v for k, v in attributes.items() if k.endswith(" val")), "")

    def end(self, name: str) -> None:
        if self._fallback:
            self._fallback -= 1
            return
        tag = _local_name(name)
        if tag == "t":
            self._in_text = False
        elif tag == "p":
            self._end_paragraph()

    def characters(self, text: str) -> None:
        if self._in_text and not self._fallback:
            self._paragraph.append(text)

    def text(self) -> str:
        return "".join(self._parts)

    def _end_paragraph(self) -> None:
        text = "".join(self._paragraph).strip("\n")
        style, self._style, self._paragraph = self._style.lower(), "", []
        if not text.strip():
            return
        if style == "title" and not self.title:
            self.title = " ".join(text.split())
        if style.startswith("heading") and style[7:8].isdigit():
            text = "#" * min(6, max(1, int(style[7]))) + " " + text
        self._parts.append(text + "\n\n")


class _Title:
    """The dc:title of the core properties."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._inside = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._inside = name == _TITLE

    def end(self, name: str) -> None:
        self._inside = False

    def characters(self, text: str) -> None:
        if self._inside:
            self._parts.append(text)

    def text(self) -> str:
        return " ".join("".join(self._parts).split())


def _local_name(name: str) -> str:
    """The tag of a WordprocessingML element; empty for any other, such as DrawingML text."""
    for namespace in (_WORD, _STRICT_WORD):
        if name.startswith(namespace):
            return name[len(namespace) :]
    return ""


def _parse(archive: zipfile.ZipFile, member: str, handler: _Body | _Title, source: Source) -> None:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = handler.start
    parser.EndElementHandler = handler.end
    parser.CharacterDataHandler = handler.characters
    parser.StartDoctypeDeclHandler = _refuse_doctype
    unpacked, packed = 0, archive.getinfo(member).compress_size
    with archive.open(member) as file:
        while piece := file.read(1 << 16):
            unpacked += len(piece)
            if unpacked > source.max_bytes:
                raise UnreadableFile(source.too_large("DOCX, unpacked,"))
            if unpacked > max(_ALWAYS_BYTES, _MAX_RATIO * packed):
                raise UnreadableFile(
                    f"DOCX that unpacks to over {_MAX_RATIO} times its size: a bomb"
                )
            parser.Parse(piece, False)
    parser.Parse(b"", True)


def _refuse_doctype(*_: object) -> None:
    # No DOCX has one; entity bombs and external entities need one.
    raise UnreadableFile(f"broken DOCX (it declares a document type); {_REPAIR}")
