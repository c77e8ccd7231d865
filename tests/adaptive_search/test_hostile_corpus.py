"""Corpora made to hurt: each file is a document or a skip with a reason, in little memory."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adaptive_search import corpus
from adaptive_search.corpus import read_corpus
from adaptive_search.documents import Document, Skipped

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes pipes, links and odd names")

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
MEMORY_BYTES = 5 << 30  # of address space, most of which libraries reserve; each bomb needs more


def docx(body: str, *, prolog: str = "", members: int = 0) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "word/document.xml", f'{prolog}<w:document xmlns:w="{WORD}">{body}</w:document>'
        )
        for number in range(members):
            archive.writestr(f"{number}", "")
    return sink.getvalue()


def large_docx(path: Path) -> None:
    """133 MB of paragraphs in half a MB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("word/document.xml", "w", force_zip64=True) as file,
    ):
        file.write(f'<w:document xmlns:w="{WORD}">'.encode())
        for _ in range(128):
            file.write(b"<w:p><w:t>bomb</w:t></w:p>" * 40_000)


def parquet_bomb(path: Path) -> None:
    """256 rows of 32 MB, stored once: 8 GiB in one batch."""
    values = pa.array(["x" * (32 << 20)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 256, pa.int32()), values)
    pq.write_table(pa.table({"text": column}), path, compression="zstd", store_schema=False)


def arrow_with_bad_offsets(path: Path) -> None:
    """A string column whose second value begins a gigabyte behind its bytes."""
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1 << 30, 3)))
    column = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abc")])
    with pa.ipc.new_file(path, pa.schema({"text": pa.string()})) as writer:
        writer.write_batch(pa.record_batch([column], names=["text"]))


def sparse(path: Path, head: bytes, size: int) -> None:
    """A file of one line without an end, which takes no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def one_line(head: str, piece: str, tail: str = "") -> Callable[[Path], object]:
    return lambda path: path.write_text(head + piece + tail)


BOMBS: dict[str, Callable[[Path], object]] = {
    "bomb.docx": large_docx,
    "entities.docx": lambda path: (
        path.write_bytes(
            docx("&b;", prolog='<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>')
        )
        and None
    ),
    "members.docx": lambda path: path.write_bytes(docx("", members=2_000)) and None,
    "bomb.parquet": parquet_bomb,
    "offsets.arrow": arrow_with_bad_offsets,
    "deep.json": one_line("", "[" * 50_000),
    "deep.jsonl": one_line('{"text": "x", "a":', "[" * 1_000_000, "\n"),
    "inf.jsonl": one_line('{"text": "kept", "x": 1e999}', "\n"),
    "numbers.jsonl": one_line('{"text": "x", "n": ', "9" * 100_000, "}\n"),
    "line.jsonl": one_line('{"text": "', "x" * (9 << 20), '"}\n'),
    "line.txt": lambda path: sparse(path, b"x" * 100, 1 << 40),
    "field.csv": one_line('id,text\n1,"', "x" * (9 << 20), '"\n'),
    "quote.csv": one_line('id,text\n1,"', "never closed\n" * 10_000),
    "columns.csv": one_line("", ",".join(map(str, range(20_000))), "\n"),
    "tags.html": one_line("", "<div>" * 100_000),
    "loop.pdf": one_line("%PDF-1.4\n1 0 obj<</Pages 1 0 R>>endobj\n", "trailer<</Root 1 0 R>>"),
    "noise.pdf": lambda path: path.write_bytes(os.urandom(100_000)),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all of it, beside one good file."""
    root = tmp_path_factory.mktemp("hostile") / "corpus"
    root.mkdir()
    (root / "good.txt").write_text("Plants store energy in a leaf.")
    for name, make in BOMBS.items():
        make(root / name)
    for raw in (b"new\nline.txt", b"\x1b[2Jclear.txt", b"\xff\xfe.txt", "\u202egnp.txt".encode()):
        with open(os.path.join(os.fsencode(root), raw), "wb") as file:
            file.write(b"Light is heat.")
    (root / ".gitignore").write_text("*a" * 40 + "b\n[z-a]\n")
    os.mkfifo(root / "pipe.txt")
    (root / "out").symlink_to(root.parent)
    (root / "loop").symlink_to("loop")
    (root / "dev.txt").symlink_to("/dev/zero")
    here = os.getcwd()
    os.chdir(root)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(here)
    return root


def limited(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line with little memory."""
    program = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES},) * 2); "
        "from adaptive_search.cli import main; main()"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_hostile_folder_is_indexed_in_little_memory(
    hostile: Path, tmp_path: Path, tiny_weights_dir: Path
) -> None:
    command = ["index", hostile, "--index", tmp_path / "i", "--weights", tiny_weights_dir]
    run = limited(*command, "--max-file-size", "8", "--format", "json", "--threads", "1")
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    assert all(line.isprintable() for line in run.stderr.splitlines())
    summary = json.loads(run.stdout)
    skipped = {item["path"]: item["reason"] for item in summary["skipped"]}
    assert summary["seen"] == summary["indexed"] + summary["unchanged"] + len(summary["skipped"])
    assert all(path.isprintable() and reason.isprintable() for path, reason in skipped.items())
    good = {"good.txt", "inf.jsonl", "new\\u000aline.txt", "\\u001b[2Jclear.txt", "\\xff\\xfe.txt"}
    expected = {
        "bomb.docx": "--max-file-size",
        "entities.docx": "document type",
        "members.docx": "no text",
        "bomb.parquet": "memory",
        "offsets.arrow": "broken Arrow",
        "deep.jsonl:1": "levels deep",
        "numbers.jsonl:1": "number is too long",
        "line.jsonl:1": "--max-file-size",
        "line.txt": "--max-file-size",
        "field.csv:2": "--max-file-size",
        "quote.csv:2": "fix the quotes",
        "tags.html": "no text",
        "loop.pdf": "",
        "noise.pdf": "",
        "pipe.txt": "pipe",
        "socket": "socket",
        "out": "out of the corpus",
        "dev.txt": "out of the corpus",
        "loop": "circle",
        ".gitignore:1": "three stars",
    }
    other = {path: skipped.get(path) for path in expected if expected[path] not in skipped[path]}
    assert not other
    assert not good & set(skipped)


def test_files_that_vanish_or_change_while_the_corpus_is_read(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    for number in range(5):
        (root / f"{number}.txt").write_text("text")
    (root / "5").mkdir()
    items = read_corpus(root)
    next(items)  # names are listed by now
    for number in (1, 2, 3):
        (root / f"{number}.txt").unlink()
    os.mkfifo(root / "2.txt")
    (root / "3.txt").symlink_to("../outside.txt")
    (root / "4.txt").write_text("longer text")
    (root / "5").rmdir()
    rest = list(items)
    assert [item.path for item in rest if isinstance(item, Document)] == ["4.txt"]
    skipped = {item.path for item in rest if isinstance(item, Skipped)}
    assert skipped == {"1.txt", "2.txt", "3.txt", "5"}


@pytest.mark.parametrize("kind", ["pipe", "link", "nothing"])
def test_a_file_replaced_just_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "outside.txt").write_text("secret")
    (tmp_path / "root").mkdir()
    path = tmp_path / "root" / "a.txt"
    path.write_text("text")
    read = corpus.read_file

    def replace_and_read(source: object) -> object:
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to("../outside.txt")
        return read(source)  # type: ignore[arg-type]

    monkeypatch.setattr(corpus, "read_file", replace_and_read)
    (item,) = read_corpus(tmp_path / "root")
    assert isinstance(item, Skipped)


def test_paths_longer_than_the_system_takes_are_skipped(tmp_path: Path) -> None:
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
    (item,) = read_corpus(tmp_path)
    assert isinstance(item, Skipped) and "name too long" in item.reason
    shutil.rmtree(tmp_path / ("d" * 250))


def peak_bytes(count: int, root: Path) -> int:
    """Most memory that reading a folder of so many tiny files takes, all of it forgotten."""
    root.mkdir()
    for number in range(count):
        (root / f"file number {number:06d}.txt").write_bytes(b"x")
    list(read_corpus(root))  # what is loaded once is no part of it
    tracemalloc.start()
    try:
        assert sum(isinstance(item, Document) for item in read_corpus(root)) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_tiny_file_takes_a_name_and_a_hash(tmp_path: Path) -> None:
    # Ten million would take 1.3 GB in one folder; the names are those of one folder at a time.
    few, many = (peak_bytes(count, tmp_path / f"{count}") for count in (200, 3200))
    assert (many - few) / 3000 < 130


def test_stars_in_a_row_are_not_matched(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.l" + "*" * 20_000 + "\n**/kept/**\n")
    (tmp_path / "long.lxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.txt").write_text("Light is heat.")
    items = list(read_corpus(tmp_path))
    assert [item.path for item in items if isinstance(item, Document)] == [
        "long.lxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.txt"
    ]
    assert [item.path for item in items if isinstance(item, Skipped)] == [".gitignore:1"]
