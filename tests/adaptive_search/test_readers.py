from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_search.corpus import read_corpus
from adaptive_search.documents import Document, Skipped
from adaptive_search.readers.html import visible_text


def read(root: Path, name: str, data: bytes | str, **options: int) -> list[Document | Skipped]:
    (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read_corpus(root / name, **options))


def one(root: Path, name: str, data: bytes | str, **options: int) -> Document:
    (item,) = read(root, name, data, **options)
    assert isinstance(item, Document), item
    return item


def reason(root: Path, name: str, data: bytes | str, **options: int) -> str:
    (item,) = read(root, name, data, **options)
    assert isinstance(item, Skipped), item
    assert item.path == name
    assert "\n" not in item.reason
    return item.reason


class TestText:
    @pytest.mark.parametrize(
        ("name", "kind", "title"),
        [
            ("a.txt", "text", ""),
            ("a.md", "markdown", "Head"),
            ("a.py", "code", "a.py"),
            ("a.unknown", "text", ""),
            ("README", "text", ""),
        ],
    )
    def test_kind_and_title_by_extension(
        self, tmp_path: Path, name: str, kind: str, title: str
    ) -> None:
        document = one(tmp_path, name, "# Head\n\nbody\n")
        assert (document.kind, document.title, document.id) == (kind, title, name)

    def test_rst_title(self, tmp_path: Path) -> None:
        assert one(tmp_path, "a.rst", "====\nHead\n====\n\nbody\n").title == "Head"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    def test_unicode_is_read_exactly(self, tmp_path: Path, encoding: str) -> None:
        text = "Zażółć 植物 😀\r\nline\n"
        assert one(tmp_path, "a.txt", text.encode(encoding)).text == text

    @pytest.mark.parametrize(
        ("text", "encoding"),
        [
            ("L'été, déjà vu: la façade naïve est très belle.", "cp1252"),
            ("Größe, Straße für Übung und Maß.", "latin-1"),
            ("Привет мир, это проверка кодировки текста.", "cp1251"),
            ("日本語のテキストです。これは文字コードの検出テスト。", "shift_jis"),
        ],
    )
    def test_older_encodings_are_detected(self, tmp_path: Path, text: str, encoding: str) -> None:
        assert one(tmp_path, "a.txt", text.encode(encoding)).text == text

    def test_damaged_utf8_is_not_taken_for_something_else(self, tmp_path: Path) -> None:
        data = ("naïve façade déjà vu " * 50).encode() + b"\xff" + b" end"
        assert "invalid utf-8 at byte 1250" in reason(tmp_path, "a.txt", data)

    @pytest.mark.parametrize("name", ["a.txt", "a.py", "a.md", "a.csv", "a.jsonl", "a", "a.html"])
    def test_binary_files_are_skipped(self, tmp_path: Path, name: str) -> None:
        assert "binary" in reason(tmp_path, name, bytes(range(256)) * 64)

    def test_nul_deep_in_a_text_is_found(self, tmp_path: Path) -> None:
        assert "NUL at byte 200000" in reason(tmp_path, "a.txt", b"a" * 200_000 + b"\0")

    @given(st.binary(max_size=300))
    def test_any_bytes_are_a_document_or_a_reason(
        self, tmp_path_factory: pytest.TempPathFactory, data: bytes
    ) -> None:
        root = tmp_path_factory.getbasetemp()
        for name in ("any.txt", "any.csv", "any.jsonl", "any.html", "any.docx", "any"):
            for item in read(root, name, data):
                assert isinstance(item, Document | Skipped)


class TestJson:
    def test_beir_corpus_works_as_it_is(self, tmp_path: Path) -> None:
        line = json.dumps({"_id": "7", "title": "T", "text": "body", "metadata": {"url": "u"}})
        document = one(tmp_path, "corpus.jsonl", line)
        assert (document.id, document.title, document.text) == ("7", "T", "body")
        assert document.metadata == {"url": "u"}

    def test_a_bad_line_is_skipped_alone(self, tmp_path: Path) -> None:
        lines = [b'{"text": "a"}', b"{oops", b"", b"[1]", b'{"text": "\xff"}', b'{"n": 1}']
        lines += [b'{"text": "\\ud800"}', b'{"text": "a\0"}', b"[" * 100_000, b'{"a": 1} x']
        lines += [b'{"n": ' + b"9" * 5000 + b"}", b'{"text": "b"}']
        items = read(tmp_path, "a.jsonl", b"\n".join(lines))
        assert [i.id for i in items if isinstance(i, Document)] == ["a.jsonl:1", "a.jsonl:12"]
        skipped = [i.path for i in items if isinstance(i, Skipped)]
        assert skipped == [f"a.jsonl:{n}" for n in (2, 4, 5, 6, 7, 8, 9, 10, 11)]

    def test_a_line_above_the_limit_is_passed_over(self, tmp_path: Path) -> None:
        data = b'{"text": "' + b"x" * 5000 + b'"}\n{"text": "ok"}\n'
        first, second = read(tmp_path, "a.jsonl", data, max_file_bytes=1000)
        assert isinstance(first, Skipped)
        assert "--max-file-size" in first.reason
        assert isinstance(second, Document)
        assert second.line == 2

    def test_a_huge_single_line_takes_no_memory(self, tmp_path: Path) -> None:
        import tracemalloc

        with open(tmp_path / "a.jsonl", "wb") as file:
            file.write(b'{"text": "')
            for _ in range(64):
                file.write(b"x" * (1 << 20))
        tracemalloc.start()
        (item,) = read_corpus(tmp_path / "a.jsonl", max_file_bytes=1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert isinstance(item, Skipped)
        assert peak < 16 << 20

    def test_utf16_lines(self, tmp_path: Path) -> None:
        text = '{"text": "é"}\n{"text": "ü"}\n'
        found = read(tmp_path, "a.jsonl", text.encode("utf-16"))
        assert [i.text for i in found if isinstance(i, Document)] == ["é", "ü"]

    def test_a_list_of_objects_is_records(self, tmp_path: Path) -> None:
        items = read(tmp_path, "a.json", '[{"id": 5, "text": "a"}, 3, {"text": "b"}]')
        assert [getattr(i, "id", i.path) for i in items] == ["5", "a.json:2", "a.json:3"]

    @pytest.mark.parametrize("tail", ["", ", ", ', {"text": ', " oops", ", oops]"])
    def test_a_broken_list_gives_what_came_before(self, tmp_path: Path, tail: str) -> None:
        first, second = read(tmp_path, "a.json", '[{"text": "a"}' + tail)
        assert isinstance(first, Document)
        assert isinstance(second, Skipped)

    def test_other_json_is_one_text(self, tmp_path: Path) -> None:
        text = '{"a": [1, 2]} // with a comment\n'
        assert one(tmp_path, "a.json", text).text == text


class TestRecords:
    @pytest.mark.parametrize("name", ["text", "content", "body", "contents", "Text"])
    def test_names_of_the_text(self, tmp_path: Path, name: str) -> None:
        line = json.dumps({name: "body", "lang": "en", "year": 1999, "ok": True, "x": None})
        document = one(tmp_path, "a.jsonl", line)
        assert document.text == "body"
        assert document.metadata == {"lang": "en", "year": 1999, "ok": True}

    def test_without_a_text_all_strings_are(self, tmp_path: Path) -> None:
        long = "x" * 500
        line = json.dumps({"title": "T", "name": "Ada", "note": long, "year": 1843})
        document = one(tmp_path, "a.jsonl", line)
        assert document.text == f"name: Ada\nnote: {long}"
        assert document.metadata == {"name": "Ada", "year": 1843}

    def test_a_title_alone_is_the_text(self, tmp_path: Path) -> None:
        document = one(tmp_path, "a.jsonl", '{"_id": "1", "title": "T", "text": ""}')
        assert (document.text, document.title) == ("T", "")

    def test_lists_of_strings_are_text(self, tmp_path: Path) -> None:
        assert one(tmp_path, "a.jsonl", '{"text": ["a", "b"]}').text == "a\nb"

    def test_what_no_index_can_hold_is_left_out(self, tmp_path: Path) -> None:
        line = '{"text": "a", "x": 1e999, "y": -1e999, "z": NaN, "long": "%s", "n": 1}'
        assert one(tmp_path, "a.jsonl", line % ("x" * 2000)).metadata == {"n": 1}

    def test_metadata_are_small_because_every_chunk_repeats_them(self, tmp_path: Path) -> None:
        line = json.dumps({"text": "a"} | {f"name {n}": "x" * 1000 for n in range(20)})
        (item,) = read(tmp_path, "a.jsonl", line)
        assert isinstance(item, Skipped) and "16,384 characters" in item.reason


class TestDelimited:
    @pytest.mark.parametrize("delimiter", [",", ";", "|"])
    def test_rows_are_records(self, tmp_path: Path, delimiter: str) -> None:
        rows = [["id", "text", "year", "code"], ["a", '"x, y; z|"', "1999", "007"]]
        document = one(tmp_path, "a.csv", "\n".join(delimiter.join(row) for row in rows))
        assert (document.id, document.text, document.line) == ("a", "x, y; z|", 2)
        assert document.metadata == {"year": 1999, "code": "007"}

    def test_a_cell_may_hold_lines(self, tmp_path: Path) -> None:
        items = read(tmp_path, "a.csv", 'text,n\n"a\nb",1\nc,2\n')
        assert [(i.text, i.line) for i in items if isinstance(i, Document)] == [
            ("a\nb", 2),
            ("c", 4),
        ]

    def test_bad_rows_are_skipped_alone(self, tmp_path: Path) -> None:
        data = (
            'naïve façade déjà,n\nok,1\n"a"b,2\nbad '.encode()
            + b'\xff,3\nx,1,too,many\nok,2,\n"open,3\n'
        )
        items = read(tmp_path, "a.csv", data)
        assert [i.line for i in items if isinstance(i, Document)] == [2, 6]
        assert [i.path for i in items if isinstance(i, Skipped)] == [
            f"a.csv:{n}" for n in (3, 4, 5, 7)
        ]

    def test_an_open_quote_swallows_no_more_than_the_limit(self, tmp_path: Path) -> None:
        data = 'text\n"open\n' + "line\n" * 1000
        items = read(tmp_path, "a.csv", data, max_file_bytes=200)
        assert isinstance(items[0], Skipped)
        assert "quote" in items[0].reason
        assert sum(isinstance(i, Document) for i in items) > 900

    def test_a_tsv_has_plain_quotes(self, tmp_path: Path) -> None:
        items = read(tmp_path, "a.tsv", 'id\ttext\n1\t"Hi" he said\n2\t"a ""b"" c"\n3\t5" disk\n')
        texts = [i.text for i in items if isinstance(i, Document)]
        assert texts == ['"Hi" he said', 'a "b" c', '5" disk']

    def test_a_file_without_names(self, tmp_path: Path) -> None:
        items = read(tmp_path, "a.tsv", "0\tfirst passage\n1\tsecond passage\n")
        assert [i.text for i in items if isinstance(i, Document)] == [
            "column 2: first passage",
            "column 2: second passage",
        ]

    def test_latin1_is_detected(self, tmp_path: Path) -> None:
        text = "text,n\nL'été est très beau à la façade,1\n"
        assert one(tmp_path, "a.csv", text.encode("latin-1")).text.startswith("L'été est")


class TestColumnar:
    TABLE = pa.table(
        {
            "_id": ["a", "b", None],
            "text": ["one", "two", "three"],
            "year": pa.array([1, None, 3], pa.int32()),
            "vector": pa.array([[0.1], [0.2], [0.3]], pa.list_(pa.float32())),
            "lang": pa.array(["en", "de", "en"]).dictionary_encode(),
        }
    )

    def data(self, kind: str) -> bytes:
        sink = io.BytesIO()
        if kind == "parquet":
            pq.write_table(self.TABLE, sink)
        else:
            new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
            with new(sink, self.TABLE.schema) as writer:
                writer.write_table(self.TABLE)
        return sink.getvalue()

    @pytest.mark.parametrize("kind", ["parquet", "arrow", "arrows"])
    def test_rows_are_records(self, tmp_path: Path, kind: str) -> None:
        items = read(tmp_path, f"a.{kind}", self.data(kind))
        documents = [i for i in items if isinstance(i, Document)]
        assert [d.id for d in documents] == ["a", "b", f"a.{kind}:3"]
        assert documents[0].metadata == {"year": 1, "lang": "en"}
        assert [d.line for d in documents] == [1, 2, 3]

    @pytest.mark.parametrize("kind", ["parquet", "arrow"])
    def test_known_by_their_first_bytes(self, tmp_path: Path, kind: str) -> None:
        assert len(read(tmp_path, "unnamed", self.data(kind))) == 3

    @pytest.mark.parametrize("kind", ["parquet", "arrow", "arrows"])
    def test_cut_files_are_skipped(self, tmp_path: Path, kind: str) -> None:
        data = self.data(kind)
        for size in range(0, len(data) - 8, 37):
            items = read(tmp_path, f"a.{kind}", data[:size])
            assert isinstance(items[-1], Skipped) or kind == "arrows"

    @pytest.mark.parametrize("kind", ["parquet", "arrow", "arrows"])
    @given(data=st.data())
    def test_flipped_bytes_never_crash(
        self, tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
    ) -> None:
        content = bytearray(self.data(kind))
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
            content[at] ^= 0xFF
        read(tmp_path_factory.getbasetemp(), f"flip.{kind}", bytes(content))

    def test_a_file_without_strings(self, tmp_path: Path) -> None:
        sink = io.BytesIO()
        pq.write_table(pa.table({"n": [1, 2]}), sink)
        assert "no text" in reason(tmp_path, "a.parquet", sink.getvalue())


class TestHtml:
    PAGE = (
        "<!doctype html><html><head><title>A &amp; B</title><style>p{}</style>"
        "<script>if (a < b) '</p>'</script></head><body><h2>Head</h2><p>One\n <b>two</b>"
        "<p>caf&eacute; 1 < 2<br>next<!-- hidden > --><ul><li>item</ul>"
        "<pre>  a\n   b</pre><a title='x>y'>link</a></body>"
    )

    def test_visible_text(self, tmp_path: Path) -> None:
        document = one(tmp_path, "a.html", self.PAGE)
        assert document.title == "A & B"
        assert document.text == (
            "## Head\n\nOne two\n\ncafé 1 < 2\nnext\n\n- item\n\n  a\n   b\n\nlink\n"
        )

    def test_known_without_an_extension(self, tmp_path: Path) -> None:
        assert one(tmp_path, "page", self.PAGE).title == "A & B"

    def test_declared_encoding(self, tmp_path: Path) -> None:
        page = '<meta charset="windows-1250"><p>Zażółć gęślą jaźń'
        assert one(tmp_path, "a.html", page.encode("cp1250")).text == "Zażółć gęślą jaźń\n"

    @pytest.mark.parametrize("name", ["undefined", "unicode_escape", "zlib", "no-such", "utf-7"])
    def test_a_false_declaration_does_no_harm(self, tmp_path: Path, name: str) -> None:
        page = f'<meta charset="{name}"><p>L\'été est très beau \\ud800'
        assert "très beau" in one(tmp_path, "a.html", page.encode("cp1252")).text

    @pytest.mark.parametrize(
        "piece", ["<", "<!--", "<a ", '<a "', "<div>", "&", "</", "<script>", "<![CDATA[", "<a '\""]
    )
    def test_hostile_pages_take_linear_time(self, piece: str) -> None:
        start = time.perf_counter()
        visible_text(piece * 100_000)
        assert time.perf_counter() - start < 5

    @given(st.text(alphabet="<>/!-&;\"' apbrscriptle=", max_size=200))
    def test_any_page_has_a_text(self, page: str) -> None:
        text, title = visible_text(page)
        assert isinstance(text, str)
        assert "\n" not in title


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx(body: str, prolog: str = "", title: str = "", padding: int = 0) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        document = f'{prolog}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
        archive.writestr("word/document.xml", document + " " * padding)
        if title:
            dc = "http://purl.org/dc/elements/1.1/"
            archive.writestr(
                "docProps/core.xml", f'<c xmlns:d="{dc}"><d:title>{title}</d:title></c>'
            )
    return sink.getvalue()


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


class TestDocx:
    BODY = paragraph("Head", "Heading2") + paragraph("One &amp; two") + "<w:p/>"

    @pytest.mark.parametrize("name", ["a.docx", "unnamed"])
    def test_paragraphs_and_headings(self, tmp_path: Path, name: str) -> None:
        document = one(tmp_path, name, docx(self.BODY, title="The title"))
        assert document.text == "## Head\n\nOne & two\n\n"
        assert document.title == "The title"

    def test_a_bomb_is_stopped(self, tmp_path: Path) -> None:
        data = docx(self.BODY, padding=50 << 20)
        assert len(data) < 1 << 20
        assert "--max-file-size" in reason(tmp_path, "a.docx", data, max_file_bytes=1 << 20)

    def test_a_bomb_below_the_limit_is_told_by_its_ratio(self, tmp_path: Path) -> None:
        assert "bomb" in reason(tmp_path, "a.docx", docx(self.BODY, padding=5 << 20))

    def test_entities_are_refused(self, tmp_path: Path) -> None:
        prolog = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b SYSTEM "file:///etc/passwd">]>'
        assert "document type" in reason(tmp_path, "a.docx", docx(paragraph("&b;"), prolog))

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "password"),
            (b"PK\x03\x04 broken", "broken DOCX"),
            (b"plain text", "broken DOCX"),
            (docx("<w:p>"), "broken DOCX"),
            (docx(BODY)[:-30], "broken DOCX"),
            (docx(""), "no text"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, data: bytes, expected: str) -> None:
        assert expected in reason(tmp_path, "a.docx", data)

    def test_a_zip_that_is_no_docx(self, tmp_path: Path) -> None:
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            archive.writestr("a.txt", "x")
        assert "not a DOCX" in reason(tmp_path, "a.docx", sink.getvalue())
        assert "binary" in reason(tmp_path, "a.zip", sink.getvalue())


def make_pdf(*pages: str, password: str = "") -> bytes:
    """A PDF written by hand, a line of Helvetica on each page."""
    from pypdf import PdfReader, PdfWriter

    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for index, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
        objects.append(
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>"
            f"/Contents {5 + 2 * index} 0 R>>"
        )
        objects.append(f"<</Length {len(stream)}>>stream\n{stream}\nendstream")
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj{body}endobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    tail = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Size {size}/Root 1 0 R>>\n"
    data += f"{tail}startxref\n{len(data)}\n%%EOF\n".encode()
    if not password:
        return data
    writer, sink = PdfWriter(clone_from=PdfReader(io.BytesIO(data))), io.BytesIO()
    writer.encrypt(password, algorithm="RC4-128")
    writer.write(sink)
    return sink.getvalue()


class TestPdf:
    def test_pages_are_paragraphs(self, tmp_path: Path) -> None:
        document = one(tmp_path, "a.pdf", make_pdf("First page.", "Second page."))
        assert document.text == "First page.\n\nSecond page."

    def test_known_without_an_extension(self, tmp_path: Path) -> None:
        assert one(tmp_path, "paper", make_pdf("Page.")).text == "Page."

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"%PDF-1.4 nothing", "broken PDF"),
            (make_pdf("Page.")[:200], "PDF"),
            (make_pdf(""), "no text"),
            (make_pdf("Page.", password="secret"), "encrypted PDF"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, data: bytes, expected: str) -> None:
        assert expected in reason(tmp_path, "a.pdf", data)
