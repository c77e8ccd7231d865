"""The command line as people and programs use it: formats, exit codes, one-line errors."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from adaptive_search import benchmarking, doctor
from adaptive_search.cli import main
from adaptive_search.encoder import checkpoint, width_search
from adaptive_search.errors import ModelMismatchError
from adaptive_search.index import AdaptiveIndex
from adaptive_search.vector_files import VectorFile
from adaptive_search.vectors import VectorBatch

DIMS = [64, 128, 256, 512, 768, 1024, 1536]
ESCAPE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@dataclass
class Outcome:
    """Exit code and both streams of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def fails_with(self, code: int, *parts: str) -> None:
        """One line on stderr that names all parts, nothing on stdout."""
        assert (self.code, self.out) == (code, "")
        assert self.err.count("\n") == 1 and self.err.startswith("Error: ")
        assert [part for part in parts if part not in self.err] == []


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, tiny_weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, with small weights in the place of the shipped ones."""
    monkeypatch.setattr(checkpoint, "shipped_weights", lambda: tiny_weights_dir)
    monkeypatch.delenv("ADAPTIVE_SEARCH_INDEX", raising=False)
    monkeypatch.setenv("ADAPTIVE_SEARCH_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: str | Path, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main.main([str(a) for a in arguments], prog_name="adaptive-search")
        captured = capfd.readouterr()
        return Outcome(int(exit_.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def corpus(here: Path) -> Path:
    root = here / "corpus"
    (root / "deep").mkdir(parents=True)
    (root / "plants.txt").write_text("plants store energy in a green leaf\n")
    (root / "deep" / "sun.md").write_text("# Sun\n\nthe sun is light and heat\n")
    (root / "water.txt").write_text("water of the cell\n")
    return root


@pytest.fixture
def index(corpus: Path, run: Run) -> Path:
    assert run("index", corpus).code == 0
    return corpus.parent / ".adaptive-index"


def shape(value: Any) -> Any:
    """A JSON value with types in the place of values; a list by its first item."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


# -- index ---------------------------------------------------------------------


def test_index_json_is_the_contract(corpus: Path, run: Run) -> None:
    (corpus / "bad.bin").write_bytes(b"\x00\x01\x02")
    first = run("index", corpus, "--format", "json")
    assert (first.code, first.err) == (0, "")
    skipped = [{"path": "str", "reason": "str"}]
    counts = dict.fromkeys(("seen", "indexed", "unchanged", "deleted"), "int")
    assert shape(first.json) == counts | {
        "skipped": skipped,
        "chunks": "int",
        "tokens": "int",
        "seconds": "float",
    }
    assert list(first.json) == [
        *counts,
        "skipped",
        "chunks",
        "tokens",
        "seconds",
    ]
    assert (first.json["seen"], first.json["indexed"], first.json["chunks"]) == (4, 3, 3)
    assert first.json["tokens"] > 0
    again = run("index", corpus, "--format", "json").json
    assert (again["seen"], again["indexed"], again["unchanged"], again["chunks"]) == (4, 0, 3, 0)


def test_index_prints_one_line_and_names_what_it_skipped(corpus: Path, run: Run) -> None:
    (corpus / "bad.bin").write_bytes(b"\x00\x01\x02")
    result = run("index", corpus)
    assert result.out.startswith("4 seen = 3 indexed + 0 unchanged + 1 skipped; 0 deleted; ")
    assert result.out.count("\n") == 1
    assert result.err.startswith("skipped bad.bin: ") and result.err.count("\n") == 1
    assert run("index", corpus, "--quiet").err == ""


def test_index_follows_the_corpus(corpus: Path, index: Path, run: Run) -> None:
    (corpus / "plants.txt").unlink()
    (corpus / "water.txt").write_text("water has changed\n")
    (corpus / "new.txt").write_text("new\n")
    found = run("index", corpus, "--format", "json").json
    counts = (found["seen"], found["indexed"], found["unchanged"], found["deleted"])
    assert counts == (3, 2, 1, 1)
    paths = {hit["path"] for hit in run("query", "water", "--format", "json").json["hits"]}
    assert paths == {"deep/sun.md", "water.txt", "new.txt"}


def test_index_directory_comes_from_option_or_environment_or_default(
    corpus: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("index", corpus, "--index", "one").code == 0
    monkeypatch.setenv("ADAPTIVE_SEARCH_INDEX", "two")
    assert run("index", corpus).code == 0
    assert run("query", "water").code == 0
    monkeypatch.delenv("ADAPTIVE_SEARCH_INDEX")
    run("query", "water").fails_with(1, ".adaptive-index is not an index", "index CORPUS")
    assert run("index", corpus).code == 0
    assert {p.name for p in corpus.parent.iterdir()} == {"corpus", "one", "two", ".adaptive-index"}


def test_index_takes_patterns(corpus: Path, run: Run) -> None:
    (corpus / ".hidden.txt").write_text("hidden\n")
    (corpus / ".gitignore").write_text("water.txt\n")
    found = run("index", corpus, "--index", "a", "--hidden", "--exclude", "deep", "--format=json")
    assert found.json["indexed"] == 2 + 1  # .gitignore itself is a hidden text file
    found = run("index", corpus, "--index", "b", "--include", "*.md", "--format", "json")
    assert found.json["indexed"] == 1
    found = run("index", corpus, "--index", "c", "--max-file-size", "0.00002", "--format", "json")
    assert [item["path"] for item in found.json["skipped"]] == ["deep/sun.md", "plants.txt"]


def test_a_corpus_that_gives_nothing_leaves_no_index(here: Path, run: Run) -> None:
    (here / "empty").mkdir()
    (here / "bad").mkdir()
    (here / "bad" / "x.bin").write_bytes(b"\x00\x01")
    (here / "bad" / "y.pdf").write_bytes(b"%PDF-1.4 broken")
    run("index", "missing").fails_with(1, "missing", "give an existing folder or file")
    run("index", "empty").fails_with(1, "no files to index", "--hidden")
    run("index", "bad", "--include", "*.txt").fails_with(1, "no files to index", "--include")
    result = run("index", "bad", "--format", "json", "--quiet")
    assert result.code == 1 and len(result.json["skipped"]) == 2
    assert result.err.startswith("Error: nothing in bad could be indexed, 2 skipped")
    assert result.err.count("\n") == 1
    assert {path.name for path in here.iterdir()} == {"empty", "bad"}


def test_a_failed_run_keeps_what_was_there(corpus: Path, index: Path, run: Run) -> None:
    before = (index / "MANIFEST.json").read_bytes()
    other = corpus.parent / "other"
    other.mkdir()
    run("index", other).fails_with(1, "mirrors", str(corpus), "another index directory")
    (other / "x.txt").write_text("x\n")
    run("index", other).fails_with(1, "mirrors", str(corpus))
    run("index", corpus, "--chunk-tokens", "99").fails_with(1, "chunk_tokens 256, not 99")
    run("index", corpus, "--granularity", "1/4").fails_with(1, "granularity 1, not 1/4")
    for child in sorted(corpus.rglob("*"), reverse=True):
        child.rmdir() if child.is_dir() else child.unlink()
    run("index", corpus).fails_with(1, "no files to index")
    assert (index / "MANIFEST.json").read_bytes() == before


def test_a_directory_of_other_things_is_left_alone(corpus: Path, here: Path, run: Run) -> None:
    (here / "full").mkdir()
    (here / "full" / "mine.txt").write_text("mine")
    run("index", corpus, "--index", "full").fails_with(1, "not empty", "mine.txt")
    run("query", "x", "--index", "full").fails_with(1, "full is not an index")
    assert [path.name for path in (here / "full").iterdir() if path.name != "writer.lock"] == [
        "mine.txt"
    ]


def test_an_index_of_other_weights_names_both_and_the_command(
    corpus: Path, index: Path, run: Run, here: Path, tiny_weights_dir: Path
) -> None:
    loaded = checkpoint.load(tiny_weights_dir)
    tokenizer = (tiny_weights_dir / checkpoint.TOKENIZER).read_text()
    tensors = {name: tensor * np.float32(0.5) for name, tensor in loaded.tensors.items()}
    checkpoint.save(here / "weights", loaded.config, tokenizer, tensors)
    other = checkpoint.load(here / "weights").fingerprint
    parts = (loaded.fingerprint, other, "adaptive-search index CORPUS --index")
    run("index", corpus, "--weights", "weights").fails_with(1, *parts)
    run("query", "water", "--weights", "weights").fails_with(1, *parts)
    with pytest.raises(ModelMismatchError):
        AdaptiveIndex.open(index, encoder=AdaptiveIndex.create("e").encoder.load("weights"))


def test_no_space_left_is_one_line_and_leaves_no_index(here: Path, tiny_weights_dir: Path) -> None:
    (here / "corpus").mkdir()
    (here / "corpus" / "a.txt").write_text("plants store energy. " * 2000)
    arguments = ["index", "corpus", "--weights", str(tiny_weights_dir)]

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    result = process(*arguments, preexec_fn=small_files)
    assert result.code == 1
    assert result.err.startswith("Error: cannot") and result.err.count("\n") == 1
    assert "what was committed before is intact" in result.err
    assert not (here / ".adaptive-index").exists()
    assert process(*arguments).code == 0


# -- query ---------------------------------------------------------------------

QUERY_SHAPE = {
    "query": "str",
    "dim": "int",
    "shortlist": "int",
    "granularity": "str",
    "hits": [
        {
            "rank": "int",
            "score": "float",
            "id": "str",
            "document_id": "str",
            "path": "str",
            "line_start": "int",
            "line_end": "int",
            "text": "str",
        }
    ],
    "timings_ms": {"encode": "float", "shortlist": "float", "rerank": "float", "total": "float"},
}


def test_query_json_is_the_contract(index: Path, run: Run) -> None:
    result = run("query", "plants store energy in a green leaf", "--format", "json")
    assert (result.code, result.err) == (0, "")
    assert shape(result.json) == QUERY_SHAPE
    assert list(result.json) == list(QUERY_SHAPE)
    assert (result.json["dim"], result.json["shortlist"]) == (512, 1000)
    first = result.json["hits"][0]
    assert (first["rank"], first["id"], first["path"]) == (1, "plants.txt#0", "plants.txt")
    assert first["document_id"] == "plants.txt"
    assert (first["line_start"], first["line_end"]) == (1, 1)
    assert first["text"] == "plants store energy in a green leaf\n"
    assert first["score"] == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("dim", DIMS)
def test_query_at_every_dimension(index: Path, run: Run, dim: int) -> None:
    found = run("query", "water of the cell", "--dim", str(dim), "-k", "2", "--format", "json").json
    assert found["dim"] == dim
    assert [hit["rank"] for hit in found["hits"]] == [1, 2]
    assert found["hits"][0]["path"] == "water.txt"


@pytest.mark.parametrize("granularity", ["1", "1/2", "1/4", "1/8", "3,"])
def test_granularity_is_spelled_as_it_was_given(index: Path, run: Run, granularity: str) -> None:
    found = run("query", "water", "--granularity", granularity, "--format", "json").json
    assert found["granularity"] == granularity


def test_query_at_as_many_dimensions_as_it_needs(index: Path, run: Run) -> None:
    found = run("query", "water of the cell", "--dim", "auto", "-k", "2", "--format", "json").json
    assert found["dim"] in DIMS and found["hits"][0]["path"] == "water.txt"
    run("query", "water", "--dim", "many").fails_with(2, "neither a whole number nor auto")


def test_shortlist_is_null_only_for_exact_search(index: Path, run: Run) -> None:
    def shortlist(*options: str) -> object:
        return run("query", "water", "--format", "json", *options).json["shortlist"]

    assert shortlist() == 1000
    assert shortlist("-k", "90") == 3000  # 3 times as long for 9 times as many hits
    assert shortlist("-k", "2", "--shortlist", "2") == 2
    assert shortlist("--exact") is None


def test_query_jsonl_and_csv_hold_the_same_hits(index: Path, run: Run) -> None:
    hits = run("query", "water", "--format", "json").json["hits"]
    lines = run("query", "water", "--format", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == hits
    rows = list(csv.DictReader(io.StringIO(run("query", "water", "--format", "csv").out)))
    assert rows == [{name: str(value) for name, value in hit.items()} for hit in hits]


def test_query_table_shows_place_and_snippet(index: Path, run: Run) -> None:
    result = run("query", "the sun is light and heat", "-k", "1")
    head, snippet = result.out.splitlines()
    assert re.fullmatch(r"  1  [01]\.\d{4} deep/sun\.md:\d", head)
    assert snippet.strip().endswith("the sun is light and heat")


def test_query_from_stdin(index: Path, run: Run) -> None:
    found = run("query", "-", "--format", "json", stdin="water of the cell é\n".encode()).json
    assert found["hits"][0]["path"] == "water.txt"
    assert run("query", "-", stdin=b"\xff\xfe water").code == 0
    run("query", "-", stdin=b"\n").fails_with(1, "the query is empty")
    run("query", "-", stdin=b"a " * (1 << 20)).fails_with(1, "longer than", "shorten it")


def test_query_explains_its_stages_on_stderr(index: Path, run: Run) -> None:
    plain, explained = run("query", "water"), run("query", "water", "--explain")
    assert explained.out == plain.out
    assert re.fullmatch(r"exact: 3 scored at 512 dims, 3 kept, [\d.]+ ms\n", explained.err)


def test_query_filters(index: Path, run: Run) -> None:
    found = run("query", "water", "--filter", "path=deep/*", "--format", "json").json
    assert [hit["path"] for hit in found["hits"]] == ["deep/sun.md"]
    run("query", "water", "--filter", "path").fails_with(2, "FIELD=VALUE")
    run("query", "water", "--filter", "lang=en").fails_with(1, "no chunk has the field lang")
    run("query", "water", "--filter", "path>=a", "--filter", "path>=b").fails_with(
        2, "second bound"
    )
    others = run("query", "water", "--filter", "path!=deep/*", "--format", "json").json
    assert {hit["path"] for hit in others["hits"]} == {"plants.txt", "water.txt"}
    after = run("query", "water", "--filter", "path>e", "--filter", "path<=plants.txt")
    assert after.out.count("\n") == 2
    none = run("query", "water", "--filter", "path=nowhere")
    assert (none.code, none.out, none.err) == (0, "", "no hits\n")


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["", "--format", "json"], 1, ["the query is empty", "at least one word"]),
        ([" \t\n"], 1, ["the query is empty"]),
        (["word " * 100_000], 1, ["tokens", "512", "shorten it"]),
        (["x", "--dim", "200"], 1, ["dim=200", *map(str, DIMS)]),
        (["x", "--dim", "-1"], 1, ["dim=-1"]),
        (["x", "-k", "0"], 2, ["-k", "0 is not in the range", "query --help"]),
        (["x", "--k", "-3"], 2, ["-k"]),
        (["x", "--k", "many"], 2, ["-k", "many"]),
        (["x", "--shortlist", "0"], 2, ["--shortlist"]),
        (["x", "--shortlist", "3"], 1, ["shortlist=3", "at least k=10"]),
        (["x", "--granularity", "1/3"], 1, ["1/3", "1, 1/2, 1/4, 1/8"]),
        (["x", "--granularity", "8,8"], 1, ["8,8", "1 numbers, one a layer, from 1 to 8"]),
        (["x", "--granularity", "0.5"], 2, ["0.5", "1/2", "24,12,12,6,6,3"]),
        (["x", "--threads", "0"], 2, ["--threads"]),
        (["x", "--format", "xml"], 2, ["--format", "xml"]),
        (["x", "--weights", "nowhere"], 1, ["nowhere", "config.json"]),
        (["x", "y"], 2, ["unexpected extra argument"]),
        (["x", "--bogus"], 2, ["--bogus"]),
        ([], 2, ["TEXT"]),
    ],
)
def test_bad_queries(
    index: Path, run: Run, arguments: list[str], code: int, parts: list[str]
) -> None:
    run("query", *arguments).fails_with(code, *parts)


def test_huge_numbers_are_no_problem(index: Path, run: Run) -> None:
    huge = str(10**30)
    found = run("query", "water", "-k", huge, "--format", "json").json
    assert len(found["hits"]) == 3
    assert run("query", "water", "--shortlist", huge).code == 0


def test_arguments_that_are_not_utf8(index: Path, run: Run) -> None:
    argument = os.fsdecode(b"water \xff")
    found = run("query", argument, "--format", "json").json
    assert found["query"] == "water \N{REPLACEMENT CHARACTER}"
    assert run("encode", argument, "--dim", "64").code == 0


def test_bad_index_directories(index: Path, here: Path, run: Run) -> None:
    (here / "folder").mkdir()
    (here / "file").write_text("x")
    for path in ("folder", "nowhere"):
        for command in (("query", "x"), ("status",), ("compact",), ("report", "storage")):
            run(*command, "--index", path).fails_with(1, f"{path} is not an index", "index CORPUS")
    run("query", "x", "--index", "file").fails_with(2, "file")
    manifest = index / "MANIFEST.json"
    newer = json.loads(manifest.read_text()) | {"format_version": 99}
    manifest.write_text(json.dumps(newer))
    for command in (("query", "x"), ("status",), ("index", "corpus")):
        run(*command).fails_with(1, "format 99", "reads format 1", "upgrade")
    manifest.write_text("{")
    run("query", "x").fails_with(1, "MANIFEST.json")


def test_nothing_of_a_document_reaches_the_terminal_raw(here: Path, run: Run) -> None:
    corpus = here / "evil\x1b[2J"
    corpus.mkdir()
    evil = "sun \x1b]0;title\x07 \x9b31m \x1b[2J \u202e light\x08\n"
    (corpus / "a\x1b[31m\n.txt").write_text(evil)
    record = {"_id": "id\x1b[2J\n", "title": "t\x1b[1m", "text": evil}
    (corpus / "b.jsonl").write_text(json.dumps(record) + "\nbroken \x1b[2J\n")
    results = [run("index", corpus), run("status"), run("query", evil.replace("\x00", ""))]
    results += [run("query", "sun", "--format", name) for name in ("csv", "json", "jsonl")]
    results += [run("query", "x", "--index", "no\x1b[2J\nindex"), run("index", "no\x1b[2J")]
    with_override = results[3]  # bidi marks are text to a spreadsheet, not a command
    with_override.out = with_override.out.replace("\u202e", "")
    for result in results:
        assert not ESCAPE.search(result.out + result.err)
    assert results[2].out.count("\n") == 4
    text = json.loads(results[4].out)["hits"][0]["text"]
    assert text.strip() == evil.strip()  # programs get every byte


# -- encode --------------------------------------------------------------------


@pytest.mark.parametrize("dim", DIMS)
def test_encode_json_is_the_contract(run: Run, dim: int) -> None:
    result = run("encode", "plants", "water", "--dim", str(dim), "--granularity", "1/2")
    found = result.json
    assert list(found) == ["dim", "granularity", "vectors"]
    assert (found["dim"], found["granularity"]) == (dim, "1/2")
    vectors = np.array(found["vectors"])
    assert vectors.shape == (2, dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_encode_reads_lines_from_stdin(run: Run) -> None:
    lines = run("encode", "-", "--dim", "64", "--format", "jsonl", stdin=b"plants\nwater\n").out
    vectors = [json.loads(line) for line in lines.splitlines()]
    assert vectors == run("encode", "plants", "water", "--dim", "64").json["vectors"]
    run("encode", "-", stdin=b"a\n\nb\n").fails_with(2, "a text is empty")
    run("encode", "-").fails_with(2, "a text is empty")
    run("encode", "").fails_with(2, "a text is empty")
    run("encode", "x", "--dim", "200").fails_with(1, *map(str, DIMS))


# -- vectors from elsewhere ----------------------------------------------------


@pytest.fixture
def vectors(here: Path) -> NDArray[np.float32]:
    """Some vectors, in a .npy file and in a Parquet file with ids, texts and years."""
    found = np.random.default_rng(0).standard_normal((60, 96)).astype(np.float32)
    np.save(here / "v.npy", found)
    np.save(here / "q.npy", found[5])
    names = [f"r{n}" for n in range(60)]
    columns = {"id": names, "vector": list(found), "text": names, "year": range(2000, 2060)}
    pd.DataFrame(columns).to_parquet(here / "v.parquet")
    return found


def test_index_vectors_and_query_by_vector(vectors: NDArray[np.float32], run: Run) -> None:
    first = run("index", "--vectors", "v.parquet", "--dims", "16,96", "--format", "json").json
    assert (first["seen"], first["indexed"], first["chunks"]) == (60, 60, 60)
    assert list(first)[-1] == "prefix_recall@10" and first["prefix_recall@10"]["96"] == 1
    again = run("index", "--vectors", "v.parquet").out.splitlines()
    assert again[0].startswith("60 seen = 0 indexed + 60 unchanged + 0 skipped; ")
    assert again[1].endswith("are they Matryoshka vectors?")
    assert run("status").out.splitlines()[-1].startswith("vectors ")
    hits = run("query", "--vector", "q.npy", "-k", "2", "--format", "json").json
    assert (hits["query"], hits["dim"], len(hits["hits"])) == ("", 96, 2)
    assert (hits["hits"][0]["id"], hits["hits"][0]["text"]) == ("r5#0", "r5")
    piped = json.dumps({"vectors": [vectors[5].tolist()]}).encode()
    assert (
        run("query", "--vector", "-", "-k", "2", "--format", "json", stdin=piped).json["hits"]
        == (hits["hits"])
    )
    late = ("--filter", "year>=2030", "--filter", "year<2033", "--format", "json")
    found = run("query", "--vector", "q.npy", *late).json["hits"]
    assert {hit["id"] for hit in found} == {"r30#0", "r31#0", "r32#0"}
    report = run("report", "quality")
    assert "16" in report.out and "Matryoshka" in report.out
    assert "search, funnel, 96 dims, p50" in run("benchmark", "--queries", "5").out


def test_index_vectors_interrupted(
    vectors: NDArray[np.float32], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = VectorFile.batches

    def stopped(*given: Any) -> Iterator[VectorBatch]:
        yield from read(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(VectorFile, "batches", stopped)
        result = run("index", "--vectors", "v.parquet", "--dims", "16,96")
    assert result.code == 130 and result.out.startswith("60 seen = 60 indexed")
    assert result.out.count("\n") == 1
    assert result.err.endswith("what was complete is committed; run it again to go on\n")
    assert run("index", "--vectors", "v.parquet", "--format", "json").json["unchanged"] == 60


def test_a_matrix_takes_the_usual_dims(vectors: NDArray[np.float32], run: Run) -> None:
    run("index", "--vectors", "v.npy")
    assert run("status", "--format", "json").json["dims"] == [64, 96]
    assert run("query", "--vector", "q.npy", "-k", "1", "--format", "jsonl").json["id"] == "5#0"


def test_bad_indexes_of_vectors(
    vectors: NDArray[np.float32], here: Path, corpus: Path, run: Run
) -> None:
    run("index").fails_with(2, "either a CORPUS or --vectors FILE")
    run("index", corpus, "--vectors", "v.npy").fails_with(2, "either a CORPUS or --vectors FILE")
    run("index", corpus, "--dims", "16").fails_with(2, "--dims needs --vectors")
    run("index", "--vectors", "v.npy", "--include", "*").fails_with(2, "--include is for texts")
    run("index", "--vectors", "v.npy", "--dims", "9,x").fails_with(2, "--dims")
    run("index", "--vectors", "v.npy", "--dims", "96,16").fails_with(2, "must rise")
    run("index", "--vectors", "no.npy").fails_with(1, "no.npy cannot be read")
    run("index", "--vectors", "v.parquet", "--id-column", "key").fails_with(1, "--id-column")
    run("index", "--vectors", "v.npy", "--dims", "16,64").fails_with(1, "row 0 has 96 numbers")
    assert not (here / ".adaptive-index").exists()
    run("index", "--vectors", "v.npy", "--dims", "16,96")
    run("index", "--vectors", "v.npy", "--dims", "96").fails_with(1, "made with dims 16,96, not 96")
    run("index", corpus).fails_with(1, "has no encoder for texts")
    run("query", "water").fails_with(1, "has no encoder for texts", "--vector")
    run("query").fails_with(2, "either a TEXT or --vector FILE")
    run("query", "water", "--vector", "q.npy").fails_with(2, "either a TEXT or --vector FILE")
    run("query", "--vector", "q.npy", "--granularity", "1/2").fails_with(2, "is for a TEXT")
    run("query", "--vector", "v.npy").fails_with(1, "v.npy holds 60 vectors")
    run("query", "--vector", "-", stdin=b"[1]").fails_with(1, "at least 96")
    run("query", "--vector", "-", stdin=b"[" + b"1," * (3 << 20)).fails_with(1, "longer than")


# -- reports and care ----------------------------------------------------------


def test_report_storage_json_is_the_contract(index: Path, run: Run) -> None:
    found = run("report", "storage", "--format", "json").json
    row = {"dim": "int", "bytes": "int", "bytes_per_vector": "float", "share_of_full": "float"}
    row |= dict.fromkeys(("fp32", "fp16", "int8"), "int")
    assert shape(found) == {
        "chunks": "int",
        "disk_bytes": "int",
        "resident_bytes": "int",
        "rows": [row],
    }
    assert [row["dim"] for row in found["rows"]] == DIMS
    assert found["rows"][-1]["share_of_full"] == 1
    for name in ("table", "csv", "markdown"):
        assert "1536" in run("report", "storage", "--format", name).out


QUALITY_KEYS = {
    "rows": ["dim", "recall@10", "ndcg@10"],
    "funnels": [
        "shortlist_dim",
        "rerank_dim",
        "shortlist",
        "recall@10",
        "ndcg@10",
        "p50_ms",
        "p99_ms",
    ],
    "granularities": ["document", "query", "ndcg@10", "recall@10"],
}


def beir(here: Path) -> tuple[Path, Path, Path]:
    """A corpus, queries and judgements in the layout of BEIR."""
    texts = {"d1": "plants store energy", "d2": "the sun is light", "d3": "water of the cell"}
    corpus, queries, qrels = (here / n for n in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"))
    lines = [json.dumps({"_id": i, "title": "", "text": text}) for i, text in texts.items()]
    corpus.write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": f"q{i}", "text": texts[i]}) for i in texts]
    queries.write_text("\n".join(lines) + "\n")
    judged = "".join(f"q{i}\t{i}\t1\n" for i in texts)
    qrels.write_text("query-id\tcorpus-id\tscore\n" + judged)
    return corpus, queries, qrels


def test_report_quality_of_judged_queries(here: Path, run: Run) -> None:
    corpus, queries, qrels = beir(here)
    assert run("index", corpus, "--format", "json").json["indexed"] == 3
    found = run(
        *("report", "quality", "--queries", queries, "--qrels", qrels, "--format", "json")
    ).json
    assert {name: list(rows[0]) for name, rows in found.items()} == QUALITY_KEYS
    assert [row["dim"] for row in found["rows"]] == DIMS
    assert found["rows"][-1]["ndcg@10"] == pytest.approx(1)
    assert found["rows"][-1]["recall@10"] == 1
    assert {(f["shortlist_dim"], f["rerank_dim"]) for f in found["funnels"]} == {
        (64, 512),
        (64, 1536),
    }
    assert {row["document"] for row in found["granularities"]} == {"1"}
    assert {row["query"] for row in found["granularities"]} == {"1", "1/2", "1/4", "1/8"}


def test_report_quality_without_judgements_measures_recall(index: Path, run: Run) -> None:
    found = run("report", "quality", "--format", "json").json
    assert found["rows"][-1] == {"dim": 1536, "recall@10": 1.0, "ndcg@10": None}
    everywhere = run("report", "quality", "--all-granularities", "--format", "json").json
    documents = [row["document"] for row in everywhere["granularities"]]
    assert set(documents) == {"1", "1/2", "1/4", "1/8"} and len(documents) == 16
    for name in ("table", "csv", "markdown"):
        assert "1536" in run("report", "quality", "--format", name).out


def test_bad_quality_reports(index: Path, here: Path, run: Run) -> None:
    _, queries, qrels = beir(here)
    run("report", "quality", "--qrels", qrels).fails_with(2, "--qrels needs --queries")
    run("report", "quality", "--queries", "nowhere").fails_with(1, "nowhere")
    run("report", "quality", "--queries", qrels).fails_with(1, "not JSON")
    (here / "other.tsv").write_text("q9\td9\t1\n")
    run("report", "quality", "--queries", queries, "--qrels", "other.tsv").fails_with(
        1, "no query has a relevant document"
    )
    run("report", "quality", "--html", "nowhere/page.html").fails_with(2, "no such folder")


@pytest.fixture
def sets(here: Path) -> Path:
    """A folder with one retrieval set, and a file of sentence pairs beside it."""
    folder = here / "sets" / "plants"
    (folder / "qrels").mkdir(parents=True)
    names = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    for source, name in zip(beir(here), names, strict=True):
        source.rename(folder / name)
    (here / "pairs.tsv").write_text(
        "score\tsentence1\tsentence2\n5\tthe sun\tthe sun\n1\tthe sun\twater of the cell\n"
    )
    return here / "sets"


def test_report_quality_of_sets_and_pairs(here: Path, sets: Path, run: Run) -> None:
    asked = ("report", "quality", "--sets", sets, "--sts", "pairs.tsv")
    widths = ("--granularity", "1", "--granularity", "1/8", "--document-tokens", "64")
    result = run(*asked, *widths, "--format", "json")
    assert (result.code, result.err) == (0, "")
    found = result.json
    assert list(found) == ["fingerprint", "sets", "retrieval", "sts"]
    assert found["sets"] == [{"set": "plants", "documents": 3, "queries": 3}]
    assert {(r["document"], r["query"]) for r in found["retrieval"]} == {
        ("1", "1"),
        ("1", "1/8"),
        ("1/8", "1/8"),
    }
    assert {r["vectors"] for r in found["retrieval"]} == {"chunks", "documents"}
    assert {r["dim"] for r in found["sts"]} == set(DIMS)
    for name, text in {"table": "64 -> 512", "csv": "sts,pairs", "markdown": "### nDCG@10"}.items():
        assert text in run(*asked, "--granularity", "1/8", "--format", name).out


def test_report_quality_of_bad_sets(here: Path, index: Path, sets: Path, run: Run) -> None:
    quality = ("report", "quality")
    run(*quality, "--sets", "nowhere").fails_with(1, "nowhere: no folder with corpus.jsonl")
    run(*quality, "--sts", "nowhere").fails_with(1, "nowhere: No such file")
    (here / "bad.tsv").write_text("score\tsentence1\tsentence2\nnan\ta\tb\n")
    run(*quality, "--sts", "bad.tsv").fails_with(1, "bad.tsv:2: score 'nan'")
    run(*quality, "--peers").fails_with(2, "--peers needs --sets or --sts")
    run(*quality, "--granularity", "1/2").fails_with(2, "--granularity needs --sets or --sts")
    run(*quality, "--sets", sets, "--index", index).fails_with(2, "--index is for an index")
    run(*quality, "--sts", "bad.tsv", "--all-granularities").fails_with(2, "--all-granularities")
    run(*quality, "--sts", "bad.tsv", "--document-tokens", "9").fails_with(2, "needs --sets")
    run(*quality, "--sets", sets, "--document-tokens", "9999").fails_with(1, "from 3 to 512")


def test_peers_need_their_extra(sets: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    run("report", "quality", "--sets", sets, "--peers").fails_with(1, "adaptive-search[eval]")


def test_tune_says_what_it_chose(index: Path, run: Run) -> None:
    assert "not measured" in run("status").out
    assert "of 0.9 asked for" in run("tune", "--recall", "0.9").out
    assert "of 0.9 asked for" in run("status", "--format", "json").json["plan"]
    run("tune", "--recall", "2").fails_with(1, "recall=2.0")


def test_status_verify_compact_and_export(index: Path, here: Path, run: Run) -> None:
    status = run("status", "--format", "json").json
    assert (status["documents"], status["chunks"], status["dims"]) == (3, 3, DIMS)
    assert status["corpus"] == str(here / "corpus")
    assert sum(status["bytes"].values()) == status["disk_bytes"]
    assert "fingerprint" in run("status").out
    assert run("verify", "--format", "json").json["ok"] is True
    assert run("compact").out.startswith(".adaptive-index is at generation ")
    assert run("export", "x.parquet", "--dim", "64", "--half").out == (
        "wrote 3 rows of 64 dims to x.parquet\n"
    )
    run("export", "x.csv", "--dim", "64").fails_with(1, ".arrow or .parquet")
    run("export", "x.arrow", "--dim", "65").fails_with(1, *map(str, DIMS))
    run("export", "nowhere/x.arrow", "--dim", "64").fails_with(1, "nowhere")
    run("export", "x.arrow").fails_with(2, "--dim")
    run("export", "--dim", "64").fails_with(2, "FILE")
    run("export", "--onnx", "model", "--half").fails_with(2, "--half makes no sense with --onnx")
    run("export", "x.arrow", "--dim", "64", "--granularity", "1/2").fails_with(2, "needs --onnx")
    run("export", "--onnx", "model", "--dim", "65").fails_with(1)


def test_delete_takes_ids_and_says_how_many_there_were(index: Path, run: Run) -> None:
    before = run("status", "--format", "json").json
    result = run("delete", "plants.txt", "plants.txt", "never", "--format", "json")
    assert result.json == {"generation": before["generation"] + 1, "deleted": 1, "unknown": 1}
    assert "plants.txt" not in run("query", "plants", "--format", "jsonl").out
    assert run("delete", "never", "--wait").out.split()[-4:] == ["deleted", "0", "unknown", "1"]
    again = run("index", "corpus", "--format", "json").json
    assert (again["indexed"], again["unchanged"]) == (1, 2)  # its file is still there
    piped = run("delete", "-", "--format", "json", stdin=b"plants.txt\n\ndeep/sun.md\n").json
    assert (piped["deleted"], piped["unknown"]) == (2, 0)
    run("delete").fails_with(2, "IDS")
    run("delete", "a", "--index", "nowhere").fails_with(1, "nowhere is not an index")
    with AdaptiveIndex.open(index).store.writer():
        run("delete", "water.txt").fails_with(1, "--wait")
    assert run("status", "--format", "json").json["documents"] == 1


def test_verify_names_damage(index: Path, run: Run) -> None:
    band = next(index.glob("segments/*/band_0064.arrow"))
    data = bytearray(band.read_bytes())
    data[len(data) // 2] ^= 1
    band.write_bytes(data)
    result = run("verify", "--format", "json")
    assert (result.code, result.json["ok"]) == (1, False)
    assert "band_0064" in result.json["problems"][0]
    assert result.err.count("\n") == 1 and "restore it from a backup" in result.err


def test_repair_and_index_bring_back_what_was_damaged(index: Path, run: Run) -> None:
    assert run("repair", "--format", "json").json["segments_lost"] == []
    next(index.glob("segments/*/band_0064.arrow")).unlink()
    run("repair").fails_with(1, "band_0064", "3 chunks", "--drop-damaged")
    report = run("repair", "--drop-damaged", "--format", "json").json
    assert (len(report["documents_lost"]), report["chunks_lost"], report["unnamed"]) == (3, 3, [])
    assert run("verify").code == 0
    assert run("index", "corpus", "--format", "json").json["indexed"] == 3


def test_benchmark_doctor_and_analyze(
    index: Path, here: Path, run: Run, tiny_weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_gpu", lambda: None)  # importing torch takes seconds
    monkeypatch.setattr(benchmarking, "REPEATS", 1)
    monkeypatch.setattr(benchmarking, "PASSAGES", 2)
    rows = run("benchmark", "--queries", "2", "--format", "json").json
    assert {"measurement", "value", "unit"} == set(rows[0])
    assert "tokens/s" in run("benchmark", "--queries", "1").out
    found = run("doctor", "--format", "json").json
    assert found["weights"] == str(tiny_weights_dir) and found["level"] in found["levels"]
    run("analyze").fails_with(1, "measurements")
    weights = here / "measured"
    shutil.copytree(tiny_weights_dir, weights)
    row = {"dim": 64, "granularity": 2, "accuracy": 0.9, "latency_ms": 1.0}
    record = {"source": "here", "fingerprint": found["fingerprint"], "rows": [row]}
    (weights / "measurements.json").write_text(json.dumps(record))
    best = run("analyze", "--weights", weights, "--format", "json").json["recommended"]
    assert (best["dim"], best["granularity"], best["megabytes"]) == (64, "1/2", 12.8)
    assert "measured: here" in run("analyze", "--weights", weights).out
    run("analyze", "--weights", weights, "--min-accuracy", "0.95").fails_with(1, "90.0%")
    run("analyze", "--min-accuracy", "2").fails_with(2, "--min-accuracy")
    run("analyze", "--min-accuracy", "nan").fails_with(1, "min_accuracy=nan must be from 0 to 1")
    run("analyze", "--max-latency-ms", "0").fails_with(1, "max_latency_ms=0.0 must be above 0")
    fast = run("analyze", "--weights", weights, "--prefer", "speed", "--format", "json").json
    assert fast["recommended"]["reason"].startswith("the fastest")


def test_widths(corpus: Path, run: Run) -> None:
    found = run("widths", corpus, "--max-compute", "0.6", "--format", "json").json
    assert {"best", "mixes", "uniform", "measured", "passages"} <= set(found)
    assert found["best"]["compute"] <= 0.6
    width = found["best"]["granularity"]
    assert f"--granularity {width}" in run("widths", corpus, "--max-compute", "0.6").out
    run("encode", "water", "--granularity", width)
    run("widths", corpus, "--max-compute", "0.01").fails_with(1, "1.0%", "the least is")
    run("widths", corpus, "--max-compute", "0").fails_with(2, "--max-compute")
    run("widths", "nowhere").fails_with(1, "nowhere", "give an existing folder or file")


def test_widths_interrupted(corpus: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    search = width_search.search_widths

    def stopped(*given: Any) -> Iterator[width_search.Mix]:
        yield from itertools.islice(search(*given), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(width_search, "search_widths", stopped)
    result = run("widths", corpus, "--max-compute", "1")
    assert result.code == 130 and "2 mixes measured" in result.out
    assert result.err == "interrupted: this is what was measured so far\n"


# -- the program ---------------------------------------------------------------


def test_help_of_every_command(run: Run) -> None:
    listed = run("--help").out
    for command in main.commands:
        assert command in listed
        assert run(command, "--help").out.startswith(f"Usage: adaptive-search {command}")
    assert run("--version").out.startswith("adaptive-search, version ")
    run("bogus").fails_with(2, "No such command 'bogus'")
    assert "quality" in run("report").err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError(), 1, "Error: not enough memory; close other programs or use fewer threads"),
        (OSError(5, "Input/output error", "some/file"), 1, "Error: some/file: Input/output error"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_of_the_machine_are_one_line(
    index: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AdaptiveIndex, "search", fail)
    result = run("query", "water")
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert result.err.startswith(line)


def test_debug_shows_the_traceback(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="not an index"):
        main.main(["--debug", "query", "x"], prog_name="adaptive-search")


def process(*arguments: str, preexec_fn: Callable[[], None] | None = None) -> Outcome:
    """Run the program as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "adaptive_search.cli", *arguments],
        capture_output=True,
        text=True,
        preexec_fn=preexec_fn,
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_a_query_loads_neither_torch_nor_pandas_nor_faiss(
    index: Path, tiny_weights_dir: Path
) -> None:
    code = """
import sys
from adaptive_search.cli import main
try:
    main(["query", "water", "--weights", sys.argv[1]], prog_name="adaptive-search")
finally:
    print(*{"torch", "pandas", "faiss", "matplotlib", "pypdf"} & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tiny_weights_dir)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "\n")
    assert done.stdout.startswith("  1  ")


def test_a_reader_that_goes_away_is_no_error(index: Path, tiny_weights_dir: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "adaptive_search.cli", "query", "water"]
            + ["--weights", str(tiny_weights_dir)],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_one_line(
    index: Path, tiny_weights_dir: Path, unbuffered: str
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "adaptive_search.cli", "query", "water"]
            + ["--weights", str(tiny_weights_dir)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: No space left on device") and done.stderr.count("\n") == 1


def test_ctrl_c_commits_whole_documents(here: Path, tiny_weights_dir: Path, run: Run) -> None:
    corpus = here / "corpus"
    corpus.mkdir()
    for number in range(120):
        words = " ".join(f"{number} plants store energy {i}" for i in range(400))
        (corpus / f"{number:03d}.txt").write_text(words)
    running = subprocess.Popen(
        [sys.executable, "-m", "adaptive_search.cli", "index", "corpus", "--format", "json"]
        + ["--weights", str(tiny_weights_dir), "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A caller in the background may have it ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(here.glob(".adaptive-index/segments/.new-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err == "interrupted: what was complete is committed; run it again to go on\n"
    first = json.loads(out)
    assert 0 < first["indexed"] == first["seen"] < 120
    assert run("verify").code == 0
    again = run("index", "corpus", "--format", "json").json
    assert (again["unchanged"], again["indexed"]) == (first["indexed"], 120 - first["indexed"])
    fresh = run("index", "corpus", "--index", "fresh", "--format", "json").json
    assert run("status", "--format", "json").json["chunks"] == fresh["chunks"]
