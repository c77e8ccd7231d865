from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from adaptive_search import corpus
from adaptive_search.corpus import least_new_text, read_corpus
from adaptive_search.documents import Document, Skipped
from adaptive_search.errors import CorpusError


def put(root: Path, name: str, text: str = "text\n") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def read(root: Path, **options: object) -> tuple[list[str], dict[str, str]]:
    """Paths of the documents, and path -> reason of what was skipped."""
    items = list(read_corpus(root, **options))
    documents = [item.path for item in items if isinstance(item, Document)]
    return documents, {item.path: item.reason for item in items if isinstance(item, Skipped)}


def test_files_come_in_byte_order_folder_by_folder(tmp_path: Path) -> None:
    for name in ("b.txt", "B.txt", "a/z.txt", "a.txt", "é.txt", "a/b/c.txt", " a.txt"):
        put(tmp_path, name)
    expected = [" a.txt", "B.txt", "a/b/c.txt", "a/z.txt", "a.txt", "b.txt", "é.txt"]
    assert read(tmp_path) == (expected, {})
    assert read(tmp_path) == (expected, {})


def test_a_single_file_is_a_corpus(tmp_path: Path) -> None:
    path = put(tmp_path, ".hidden.txt")
    put(tmp_path, ".gitignore", "*")
    assert read(path) == ([".hidden.txt"], {})


def test_spans_of_a_document_begin_after_the_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    (document,) = read_corpus(tmp_path)
    assert isinstance(document, Document)
    assert (document.text, document.byte, document.line) == ("hello", 3, 1)


@pytest.mark.parametrize("name", ["missing", "missing/\udcff", "nul\0byte"])
def test_a_missing_corpus_is_an_error_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus(tmp_path / name)


def test_a_pipe_or_a_loop_is_no_corpus(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "loop"):
        with pytest.raises(CorpusError):
            read_corpus(tmp_path / name)


def test_an_index_is_no_corpus_and_no_part_of_one(tmp_path: Path) -> None:
    put(tmp_path, "index/MANIFEST.json", '{"format": "adaptive-search-index"}')
    put(tmp_path, "index/notes.txt")
    put(tmp_path, "damaged/MANIFEST.json", "")
    put(tmp_path, "damaged/segments/x.txt")
    put(tmp_path, "other/MANIFEST.json", '{"name": "a browser extension"}')
    assert read(tmp_path, hidden=True)[0] == ["other/MANIFEST.json"]
    with pytest.raises(CorpusError, match="is an index"):
        read_corpus(tmp_path / "index")


def test_hidden_files_are_read_only_on_request(tmp_path: Path) -> None:
    put(tmp_path, ".a/b.txt")
    put(tmp_path, ".c.txt")
    put(tmp_path, ".git/config.txt")
    put(tmp_path, "d.txt")
    assert read(tmp_path)[0] == ["d.txt"]
    assert read(tmp_path, hidden=True)[0] == [".a/b.txt", ".c.txt", "d.txt"]


def test_nested_ignore_files_and_negation(tmp_path: Path) -> None:
    put(tmp_path, ".gitignore", "*.log\nbuild/\n/top.txt\n# comment\n!\n")
    put(tmp_path, "sub/.gitignore", "!keep.log\nlocal.txt\n")
    put(tmp_path, "sub/.adaptiveignore", "!local.txt\nsecret.txt\n")
    for name in ("a.log", "top.txt", "build/x.txt", "sub/keep.log", "sub/other.log"):
        put(tmp_path, name)
    for name in ("sub/top.txt", "sub/local.txt", "sub/secret.txt", "local.txt"):
        put(tmp_path, name)
    assert read(tmp_path)[0] == ["local.txt", "sub/keep.log", "sub/local.txt", "sub/top.txt"]


def test_the_rules_of_the_checkout_hold_for_a_folder_in_it(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    put(tmp_path, ".gitignore", "*.tmp\nout/\n")
    put(tmp_path, "docs/a.txt")
    put(tmp_path, "docs/b.tmp")
    put(tmp_path, "out/c.txt")
    assert read(tmp_path / "docs")[0] == ["a.txt"]
    # Named as the corpus, an ignored folder is meant.
    assert read(tmp_path / "out")[0] == ["c.txt"]


def test_a_pattern_that_is_none_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, ".gitignore", "[a-\n[z-a]\n!\n*.log\n")
    put(tmp_path, "a.log")
    put(tmp_path, "a.txt")
    assert read(tmp_path) == (["a.txt"], {})


def test_a_pattern_that_would_take_years_is_named_and_not_used(tmp_path: Path) -> None:
    put(tmp_path, ".gitignore", "# * * * * *\n*.log\n" + "*a" * 30 + "b\n")
    put(tmp_path, "sub/.adaptiveignore", "**/a/" * 30 + "b\n")
    name = "a" * 200
    put(tmp_path, name)
    put(tmp_path, "a.log")
    documents, skipped = read(tmp_path)
    assert documents == [name]
    assert set(skipped) == {".gitignore:3", "sub/.adaptiveignore:1"}


def test_include_and_exclude_are_patterns(tmp_path: Path) -> None:
    for name in ("a.md", "a.txt", "docs/b.md", "old/c.md"):
        put(tmp_path, name)
    assert read(tmp_path, include=["*.md"], exclude=["old/"])[0] == ["a.md", "docs/b.md"]


def test_links_are_named_and_never_followed(tmp_path: Path) -> None:
    put(tmp_path, "outside/secret.txt")
    root = tmp_path / "root"
    put(root, "a.txt")
    (root / "loop").symlink_to(root)
    (root / "inside.txt").symlink_to(root / "a.txt")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "out.txt").symlink_to("../outside/secret.txt")
    (root / "nowhere").symlink_to("missing")
    (root / "self").symlink_to("self")
    documents, skipped = read(root)
    assert documents == ["a.txt"]
    assert set(skipped) == {"loop", "inside.txt", "out", "out.txt", "nowhere", "self"}
    assert "out of the corpus" in skipped["out"]
    assert "circle" in skipped["self"]
    assert "own path" in skipped["loop"]


def test_an_ignore_file_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere", "*.txt\n")
    root = tmp_path / "root"
    put(root, "a.txt")
    (root / ".gitignore").symlink_to("../elsewhere")
    assert read(root)[0] == ["a.txt"]


def test_pipes_and_sockets_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert set(read(tmp_path)[1]) == {"pipe.txt", "socket"}


def test_strange_names_are_read_and_shown_safely(tmp_path: Path) -> None:
    put(tmp_path, "a\nb\x1b[2J.txt")
    with open(os.path.join(os.fsencode(tmp_path), b"\xff\xfe.txt"), "wb") as file:
        file.write(b"text")
    items = list(read_corpus(tmp_path))
    assert [item.path for item in items] == ["a\\u000ab\\u001b[2J.txt", "\\xff\\xfe.txt"]
    assert all(isinstance(item, Document) and item.id.isprintable() for item in items)


def test_names_that_differ_by_case_or_form_stay_apart(tmp_path: Path) -> None:
    for name in ("A.txt", "a.txt", "é.txt", "e\u0301.txt"):
        put(tmp_path, name)
    ids = [item.id for item in read_corpus(tmp_path) if isinstance(item, Document)]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(5, "I/O error")])
def test_a_file_that_cannot_be_opened_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(source: object) -> None:
        raise error

    put(tmp_path, "a.txt")
    monkeypatch.setattr(corpus, "read_file", fail)
    documents, skipped = read(tmp_path)
    assert documents == []
    assert skipped["a.txt"].startswith("cannot be read: ")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_permissions_are_respected(tmp_path: Path) -> None:
    put(tmp_path, "a.txt").chmod(0)
    put(tmp_path, "dir/b.txt")
    (tmp_path / "dir").chmod(0)
    try:
        documents, skipped = read(tmp_path)
    finally:
        (tmp_path / "dir").chmod(0o700)
    assert documents == []
    assert set(skipped) == {"a.txt", "dir"}


def test_a_reader_that_fails_skips_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.txt")
    monkeypatch.setattr(corpus, "read_file", lambda source: 1 / 0)
    assert "ZeroDivisionError" in read(tmp_path)[1]["a.txt"]


def test_an_error_of_the_caller_is_not_swallowed(tmp_path: Path) -> None:
    put(tmp_path, "a.txt")
    with pytest.raises(ZeroDivisionError):
        for _ in read_corpus(tmp_path):
            _ = 1 / 0


def test_empty_and_blank_files_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "")
    put(tmp_path, "b.md", " \n\t\n")
    documents, skipped = read(tmp_path)
    assert documents == []
    assert all("no text" in reason for reason in skipped.values())
    assert len(skipped) == 2


def test_the_second_of_an_id_is_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", '{"_id": "1", "text": "x"}\n{"_id": 1, "text": "y"}\n')
    put(tmp_path, "b.jsonl", '{"_id": "1", "text": "z"}\n')
    documents, skipped = read(tmp_path)
    assert documents == ["a.jsonl"]
    assert set(skipped) == {"a.jsonl:2", "b.jsonl:1"}
    assert "duplicate id" in skipped["b.jsonl:1"]


def test_a_file_above_the_limit_names_the_option(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "x" * 101)
    put(tmp_path, "b.txt", "x" * 100)
    documents, skipped = read(tmp_path, max_file_bytes=100)
    assert documents == ["b.txt"]
    assert "--max-file-size" in skipped["a.txt"]


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(1 << 34)  # sparse: takes no room
    assert "--max-file-size" in read(tmp_path)[1]["huge.txt"]


def test_folders_deeper_than_the_stack_are_walked(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(300):
        deep = deep / "d"
    put(deep, "a.txt")
    assert read(tmp_path)[0] == ["d/" * 300 + "a.txt"]


def test_new_text_is_what_is_text_by_its_name_and_not_known(tmp_path: Path) -> None:
    for name in ("a.txt", "b.MD", "deep/c.py", "known.txt", "x.bin", "x.pdf", "no_extension"):
        put(tmp_path, name, "0123456789")
    put(tmp_path, "r.jsonl", "0123456789" * 2)
    put(tmp_path, "long.txt", "0" * 101)
    put(tmp_path, "skipped/d.txt", "0123456789")
    (tmp_path / "link.txt").symlink_to("a.txt")

    def text(*, is_first: bool) -> int:
        options = {"max_file_bytes": 100, "exclude": ["skipped"]}
        return least_new_text(tmp_path, {"known.txt"}, is_first=is_first, **options)

    assert text(is_first=True) == 40
    assert text(is_first=False) == 30
