"""What `fuzz.py` loads: real files, and the loaders that meet their damaged copies."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adaptive_search.chunking import Chunker
from adaptive_search.codes_cache import CODES, CODES_FILE, read_codes
from adaptive_search.corpus import read_corpus
from adaptive_search.documents import Document, Scalar, Skipped
from adaptive_search.encoder import checkpoint
from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.encoder.recipe import Recipe
from adaptive_search.encoder.selection import Measurements
from adaptive_search.encoder.tokenizer import Tokenizer
from adaptive_search.evaluation import read_qrels, read_queries
from adaptive_search.evaluation_sets import PairSet, RetrievalSet
from adaptive_search.index import AdaptiveIndex
from adaptive_search.indexes.funnel import Funnel
from adaptive_search.lists_cache import CACHE_FILE, read_cache, write_cache
from adaptive_search.manifest import MANIFEST_FILE
from adaptive_search.segment import SEGMENTS
from adaptive_search.segment_search import funnel_segment
from adaptive_search.storage_io import StorageIO
from adaptive_search.store import Store
from adaptive_search.vector_files import VectorFile, read_query_vector
from adaptive_search.vectors import VectorChecker

Load = Callable[[bytes], object]
TEXTS = (
    "Chlorophyll turns sunlight into sugar. Plants store energy in a leaf.",
    "The bank raised its interest rate.\n\n# Heading\n\nÉtude, naïve façade. 植物 😀",
    "Water is green in the light of the sun, and heat is energy.",
)


class WrongAnswer(Exception):
    """A damaged file was believed, and gave something else than the good one."""


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        name: of the kind.
        seeds: good files.
        load: reads one file; raises WrongAnswer, or what the loader raises.
    """

    name: str
    seeds: Sequence[bytes]
    load: Load


def make_targets(root: Path | None) -> list[Target]:
    """All targets, their files in a folder; without one, their names alone."""
    if root is None:
        return [Target(name, (), bytes) for name in NAMES]
    tools = _Tools(root)
    return [factory(tools, name) for factory, names in FACTORIES.items() for name in names]


class _Tools:
    """What several targets need: a folder, small weights, and an index of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.weights = root / "weights"
        _write_weights(self.weights)
        self.encoder = Encoder.load(self.weights, threads=1)
        tokenizer = Tokenizer.load(self.weights / checkpoint.TOKENIZER)
        self.chunker = Chunker(tokenizer, 32)
        self.index = root / "index"
        index = AdaptiveIndex.create(self.index, encoder=self.encoder, chunk_tokens=16, threads=1)
        for number in range(3):
            ids = [f"{number}/{at}" for at in range(len(TEXTS))]
            fields: list[dict[str, Scalar]] = [
                {"n": at, "lang": "en", "ok": True} for at in range(len(TEXTS))
            ]
            index.add_texts(TEXTS, ids=ids, metadata=fields)
        index.delete(["1/1"])
        self.foreign = root / "foreign"
        vectors = AdaptiveIndex.create(self.foreign, dims=(4, 8), threads=1)
        vectors.add_vectors(range(5), np.random.default_rng(0).standard_normal((5, 8)))

    def folder(self, name: str, like: Path | None = None) -> Path:
        """A new folder, a copy of another one."""
        path = self.root / f"case-{name}"
        if like:
            shutil.copytree(like, path)
        else:
            path.mkdir()
        return path


def _write_weights(path: Path) -> None:
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    vocabulary = {token: at for at, token in enumerate(dict.fromkeys(tokens))}
    rust = RustTokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    rust.normalizer, rust.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    size = rust.get_vocab_size()
    config = EncoderConfig(
        vocab_size=size, d_model=32, n_layers=1, d_state=8, headdim=8, context=512
    )
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32) * 0.1
        for name, shape in checkpoint.expected_shapes(config).items()
    }
    checkpoint.save(path, config, rust.to_str(), tensors)


def contents(path: Path, encoder: Encoder | None) -> list[object]:
    """All that a reader can get from an index: rows, vectors, hits."""
    index = AdaptiveIndex.open(path, encoder=encoder, threads=1)
    width = index.dims[-1]
    query = np.ones(width, np.float32) / np.float32(np.sqrt(width))
    found: list[object] = [asdict(index.status()) | {"bytes": 0}]
    for segment in index.store.segments:
        live = np.ones(segment.rows, bool) if segment.live is None else segment.live
        found += segment.chunks(np.flatnonzero(live))
        found += [segment.band(i).tobytes() for i in range(segment.bands)]
        found += [segment.document_ids(), segment.live_documents().tolist()]
    found += [(hit.id, hit.score, hit.text) for hit in index.search_vector(query, k=5)]
    return found


def _store_target(tools: _Tools, name: str) -> Target:
    """A file of an index; "signed" when the manifest is made to agree with its damage."""
    kind, _, signed = name.partition(" ")
    source = tools.foreign if kind == "norms.arrow" else tools.index
    encoder = None if kind == "norms.arrow" else tools.encoder
    folder = tools.folder(name, source)
    good = contents(source, encoder)
    places = sorted(folder.glob(f"{SEGMENTS}/*/{kind}")) if kind != MANIFEST_FILE else []
    place = places[0] if places else folder / MANIFEST_FILE
    seed = place.read_bytes()
    manifest = (folder / MANIFEST_FILE).read_bytes()

    def load(data: bytes) -> None:
        place.write_bytes(data)
        if place.name != MANIFEST_FILE and signed:
            (folder / MANIFEST_FILE).write_bytes(_signed(_with_entry(manifest, place, data)))
        elif signed:
            place.write_bytes(_signed(data))
        found = contents(folder, encoder)
        if not signed and found != good:
            raise WrongAnswer(f"{place} was believed")

    return Target(name, [seed], load)


def _with_entry(manifest: bytes, place: Path, data: bytes) -> bytes:
    raw = json.loads(manifest)
    for segment in raw["segments"]:
        if segment["name"] != place.parent.name:
            continue
        entry = segment["files"].get(place.name) or segment["tombstones"]
        entry |= {"bytes": max(1, len(data)), "sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps(raw).encode()


def _signed(data: bytes) -> bytes:
    """A manifest with the checksum that it should have, if it can have one."""
    try:
        raw = json.loads(data)
        raw.pop("sha256")
        canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"), allow_nan=False)
        raw["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
        return json.dumps(raw).encode()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return data


def _cache_target(tools: _Tools, name: str) -> Target:
    segment = Store.open(tools.index).segments[0]
    place, payload, key = segment.directory / CACHE_FILE, bytes(range(200)), "some key"
    write_cache(StorageIO(), segment, payload, key=key)
    seed = place.read_bytes()

    def load(data: bytes) -> None:
        place.write_bytes(data)
        if read_cache(segment, key=key) not in (payload, None):
            raise WrongAnswer(f"{place} was believed")

    return Target(name, [seed], load)


def _codes_target(tools: _Tools, name: str) -> Target:
    """Codes that are believed: whatever they are, what is found is there, with its right score."""
    rows = np.random.default_rng(1).standard_normal((60, 8)).astype(np.float32)
    index = AdaptiveIndex.create(tools.root / "coded", dims=(4, 8), threads=1)
    index.add_vectors(range(len(rows)), rows)
    plan = index.tune()
    store = index.store
    place, segments = store.path / name, [funnel_segment(store, s) for s in store.segments]
    seed, queries = place.read_bytes(), rows[:3]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit[:3] @ unit.T

    def load(data: bytes) -> None:
        place.unlink()  # the last case may still be mapped
        place.write_bytes(data)
        attributes = {**store.attributes, CODES: hashlib.sha256(data).hexdigest()}
        kept = read_codes(store.path, replace(store.manifest, attributes=attributes), plan)
        if kept is None:
            return
        funnel = Funnel(segments, store.spec.dims, plan=plan, kept=kept, threads=1)
        result = funnel.search(queries, 5, shortlist=10)
        for found, scores, right in zip(result.rows, result.scores, cosines, strict=True):
            hits = found[found >= 0]
            if (hits >= len(rows)).any():
                raise WrongAnswer(f"rows {found}")
            if np.abs(scores[found >= 0] - right[hits]).max(initial=0) > 1e-2:
                raise WrongAnswer(f"scores {scores}")

    return Target(name, [seed], load)


def _weights_target(tools: _Tools, name: str) -> Target:
    folder = tools.folder(name, tools.weights)
    seed = (folder / name).read_bytes()

    def load(data: bytes) -> None:
        (folder / name).write_bytes(data)
        vectors = Encoder.load(folder, threads=1).encode(list(TEXTS[:1]))
        if vectors.shape[0] != 1 or vectors.dtype != np.float32:
            raise WrongAnswer(f"{vectors.shape} {vectors.dtype}")

    return Target(name, [seed], load)


def _reader_target(tools: _Tools, name: str) -> Target:
    folder = tools.folder(name)

    def load(data: bytes) -> None:
        (folder / f"a.{name}").write_bytes(data)
        for item in read_corpus(folder):
            check_item(item, tools.chunker)

    return Target(name, [make(name) for make in (_file, _other_file)], load)


def check_item(item: Document | Skipped, chunker: Chunker) -> None:
    """A reader's item can be shown, chunked and stored."""
    if isinstance(item, Skipped):
        if not item.path.isprintable() or "\n" in item.reason or len(item.reason) > 1000:
            raise WrongAnswer(f"odd reason: {item}")
        return
    item.content_hash  # noqa: B018 - it encodes every part
    json.dumps(dict(item.metadata), allow_nan=False)
    text = "".join(chunk.text for chunk in chunker.chunks(item))
    if text != item.text or not text.strip() or not item.path.isprintable():
        raise WrongAnswer(f"odd document: {item.path}")
    item.id.encode()
    text.encode()


def _ignore_target(tools: _Tools, name: str) -> Target:
    folder = tools.folder(name)
    for path in ("a.txt", "b.log", "dir/c.txt", "dir/deep/d[1].txt"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("text")

    def load(data: bytes) -> None:
        (folder / ".gitignore").write_bytes(data)
        for item in read_corpus(folder):
            check_item(item, tools.chunker)

    return Target(name, [b"*.log\n/dir/\n!dir/c.txt\n**/deep/*.t?t\n[a-c].txt\n# note\n"], load)


def _set_target(tools: _Tools, name: str) -> Target:
    folder = tools.folder(name.replace("/", "-"))
    files = {
        "corpus.jsonl": "".join(
            json.dumps({"_id": f"{n}", "title": "t", "text": text}) + "\n"
            for n, text in enumerate(TEXTS)
        ),
        "queries.jsonl": "".join(
            json.dumps({"_id": f"q{n}", "text": "plants"}) + "\n" for n in "12"
        ),
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\t0\t1\nq2\t1\t2\n",
        "pairs.tsv": "score\tsentence1\tsentence2\n1.5\ta\tb\n5\tc d\te\n",
    }
    (folder / "qrels").mkdir()
    for path, text in files.items():
        (folder / path).write_text(text)

    def load(data: bytes) -> None:
        (folder / name).write_bytes(data)
        if name == "pairs.tsv":
            PairSet.load(folder / name)
            return
        found = RetrievalSet.load(folder)
        found.measure([["0", "1"]] * len(found.queries))
        read_queries(folder / "queries.jsonl")
        read_qrels(folder / "qrels/test.tsv")

    return Target(name, [files[name].encode()], load)


def _file_target(tools: _Tools, name: str) -> Target:
    """A single file that is read whole."""
    path = tools.folder(name) / name
    seeds = {
        "recipe.json": Recipe.load(_packaged_recipe()).to_json(),
        "measurements.json": (checkpoint.shipped_weights() / "measurements.json").read_text(),
        "query.json": json.dumps([0.5, -1, 2e-3]),
    }

    fingerprint = json.loads(seeds["measurements.json"])["fingerprint"]

    def load(data: bytes) -> None:
        path.write_bytes(data)
        if name == "recipe.json":
            Recipe.load(path)
        elif name == "query.json":
            read_query_vector(path)
        else:
            Measurements.read(path.parent, fingerprint)

    return Target(name, [seeds[name].encode()], load)


def _packaged_recipe() -> Path:
    folder = Path(checkpoint.__file__).parent
    return sorted(path for path in folder.rglob("*.json") if "recipe" in str(path))[0]


def _vectors_target(tools: _Tools, name: str) -> Target:
    folder = tools.folder(f"vectors{name}")
    spec = Store.open(tools.foreign).spec
    path = folder / f"v{name}"

    def load(data: bytes) -> None:
        path.write_bytes(data)
        for batch in VectorFile(path).batches(VectorChecker(spec)):
            if not np.isfinite(batch.vectors).all():
                raise WrongAnswer("numbers that are not finite")

    return Target(f"vectors{name}", [_vector_file(name)], load)


def _vector_file(name: str) -> bytes:
    vectors = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    sink = io.BytesIO()
    if name == ".npy":
        np.save(sink, vectors)
        return sink.getvalue()
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8)
    table = pa.table({"id": ["a", "b", "c"], "vector": column, "text": list(TEXTS)})
    return _table_bytes(table, name.strip("."))


def _table_bytes(table: pa.Table, kind: str) -> bytes:
    sink = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, sink)
    else:
        with (pa.ipc.new_stream if kind == "arrows" else pa.ipc.new_file)(
            sink, table.schema
        ) as writer:
            writer.write_table(table)
    return sink.getvalue()


def _records() -> list[dict[str, object]]:
    return [
        {"_id": f"r{n}", "title": "T", "text": text, "year": 1999 + n, "lang": "en"}
        for n, text in enumerate(TEXTS)
    ]


def _file(kind: str) -> bytes:
    """A file of each format that is read."""
    records = _records()
    if kind in ("parquet", "arrow", "arrows"):
        return _table_bytes(pa.Table.from_pylist(records), kind)
    if kind in ("csv", "tsv"):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue().encode()
    if kind == "jsonl":
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    if kind == "json":
        return json.dumps(records, indent=1, ensure_ascii=False).encode()
    if kind == "docx":
        return _docx()
    if kind == "pdf":
        return _pdf()
    if kind == "html":
        body = "".join(f"<p class='x'>{text}</p><!-- no -->" for text in TEXTS)
        return f"<!doctype html><title>T &amp; U</title><h1>Head</h1>{body}".encode()
    heading = {"md": "# Head\n\n```py\n# no\n```\n\n", "rst": "Head\n====\n\n"}.get(kind, "")
    return (heading + "\n\n".join(TEXTS * 4)).encode()


def _other_file(kind: str) -> bytes:
    """Another file of the format, or of another encoding."""
    text = _file("txt").decode()
    if kind in ("txt", "md", "rst", "html", "unnamed"):
        return text.encode("utf-16") if kind == "txt" else text.encode("cp1252", "replace")
    if kind == "parquet":
        table = pa.Table.from_pylist(_records() * 100)
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", row_group_size=50)
        return sink.getvalue()
    return _file(kind)


def _docx() -> bytes:
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in TEXTS)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>',
        )
    return sink.getvalue()


def _pdf() -> bytes:
    """One page of one line, with a cross-reference table."""
    stream = b"BT /F1 12 Tf 72 700 Td (Plants store energy) Tj ET"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        b"/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj%sendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    tail = (
        b"xref\n0 6\n0000000000 65535 f \n%strailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n"
    )
    return data + tail % (table, len(data))


READERS = "txt md rst py html csv tsv json jsonl docx pdf parquet arrow arrows unnamed".split()
STORE = [
    f"{name}{signed}"
    for name in (
        *(MANIFEST_FILE, "chunks.arrow", "documents.arrow", "band_0064.arrow"),
        *("deleted-*.arrow", "norms.arrow"),
    )
    for signed in ("", " signed")
]
FACTORIES: Mapping[Callable[[_Tools, str], Target], Sequence[str]] = {
    _store_target: STORE,
    _cache_target: [CACHE_FILE],
    _codes_target: [CODES_FILE],
    _weights_target: [checkpoint.WEIGHTS, checkpoint.CONFIG, checkpoint.TOKENIZER],
    _reader_target: READERS,
    _ignore_target: ["gitignore"],
    _set_target: ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "pairs.tsv"],
    _file_target: ["recipe.json", "measurements.json", "query.json"],
    _vectors_target: [".npy", ".parquet", ".arrow"],
}
NAMES = [
    f"vectors{name}" if factory is _vectors_target else name
    for factory, names in FACTORIES.items()
    for name in names
]
