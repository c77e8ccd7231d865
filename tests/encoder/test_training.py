"""Training with a teacher of a few numbers: it learns, resumes exactly, and fails without loss."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from adaptive_search.encoder import losses, training  # noqa: E402
from adaptive_search.encoder.config import EncoderConfig  # noqa: E402
from adaptive_search.encoder.encoder import Encoder  # noqa: E402
from adaptive_search.encoder.recipe import Recipe, Stage  # noqa: E402
from adaptive_search.encoder.tokenizer import Tokenizer  # noqa: E402
from adaptive_search.encoder.training import Progress, Trainer  # noqa: E402
from adaptive_search.errors import TrainingError, WeightsError  # noqa: E402

WORDS = "the plants store energy light is heat leaf cell water sun green".split()
STATE = "state.safetensors"

MakeTrainer = Callable[..., Trainer]


class FakeTeacher:
    """Vectors that mix each token with the mean of its text, in place of a BERT."""

    def __init__(self, directory: Path, device: str = "cpu") -> None:
        sizes = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        self.width, self.vocab_size = sizes["width"], sizes["vocab_size"]
        generator = torch.Generator().manual_seed(9)
        self._table = torch.randn(self.vocab_size, self.width, generator=generator)

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).unsqueeze(-1)
        tokens = self._table[ids]
        mean = (tokens * mask).sum(1) / lengths.unsqueeze(1)
        tokens = tokens + mean.unsqueeze(1)
        return tokens, torch.nn.functional.normalize(mean, dim=-1)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, tokenizer_json: str
) -> Path:
    """A folder with data/ and teacher/."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "data").mkdir()
    (folder / "teacher").mkdir()
    (folder / "teacher" / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    sizes = json.dumps({"width": 32, "vocab_size": tokenizer.vocab_size})
    (folder / "teacher" / "config.json").write_text(sizes, encoding="utf-8")
    rng = np.random.default_rng(0)

    def words(most: int) -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(1, most)))

    texts = [{"text": words(20)} for _ in range(60)]
    pairs = [{"query": words(6), "positive": words(20)} for _ in range(60)]
    for name, rows in (("text", texts), ("pairs", pairs)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture
def recipe(config: EncoderConfig) -> Recipe:
    stage = Stage(6, 256, max_tokens=24, learning_rate=3e-3, warmup_steps=2, consistency=0.1)
    static = dataclasses.replace(stage, steps=4, static=True)
    return Recipe((static, stage), config, survey_batches=3, checkpoint_steps=3)


@pytest.fixture
def make_trainer(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeTrainer:
    monkeypatch.setattr(training, "Teacher", FakeTeacher)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def make(recipe: Recipe, run: str = "run", **other: Any) -> Trainer:
        paths = {"data": folder / "data", "teacher": folder / "teacher"} | other
        return Trainer(recipe, run=tmp_path / run, **paths)

    return make


class Stopped(Exception):
    """In place of a kill."""


def run(trainer: Trainer, stop: tuple[int, int] | None = None) -> list[Progress]:
    """What each step reported, up to a stage and step after which the run is killed."""
    seen: list[Progress] = []

    def report(progress: Progress) -> None:
        seen.append(progress)
        if (progress.stage, progress.step) == stop:
            raise Stopped

    if stop is None:
        trainer.train(report)
    else:
        with pytest.raises(Stopped):
            trainer.train(report)
    return seen


def losses_of(steps: list[Progress]) -> dict[tuple[int, int], dict[str, float]]:
    return {(p.stage, p.step): p.losses for p in steps}


def test_the_loss_falls(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    stage = dataclasses.replace(recipe.stages[1], steps=30, pairs_share=0.0, granularity=0.0)
    steps = run(make_trainer(dataclasses.replace(recipe, stages=(stage,))))
    totals = [sum(p.losses.values()) for p in steps]
    assert len(totals) == 30 and all(map(math.isfinite, totals))
    assert np.mean(totals[-5:]) < 0.9 * np.mean(totals[:5])


def test_steps_report_what_they_did(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    steps = run(make_trainer(recipe))
    assert [(p.stage, p.step) for p in steps] == [(0, i) for i in range(1, 5)] + [
        (1, i) for i in range(1, 7)
    ]
    tokens = [p.tokens for p in steps]
    assert tokens == sorted(set(tokens)) and tokens[0] > 0
    texts = {"token", "pooled", "bands", "relational", "consistency"}
    assert steps[0].losses.keys() == texts
    assert steps[1].losses.keys() == texts | {"contrastive"}  # every other step sees pairs
    assert steps[-1].losses.keys() == texts | {"contrastive", "granularity"}


def test_exported_weights_encode(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    trainer = make_trainer(recipe)
    run(trainer)
    encoder = Encoder.load(trainer.run / "weights", threads=1)
    assert encoder.config == recipe.config
    for granularity in encoder.granularities:
        vectors = encoder.encode(["plants store energy", "sun"], granularity=granularity)
        assert np.isfinite(vectors).all()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_exported_weights_are_the_trained_ones(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    trainer = make_trainer(recipe)
    run(trainer)
    texts = ["plants store energy from light", "the sun"]
    ids = trainer.tokenizer.encode_batch(texts, context=64)
    with torch.no_grad():
        want = torch.cat(
            [trainer.model(torch.from_numpy(i)[None].long(), torch.tensor([len(i)])) for i in ids]
        )
    got = Encoder.load(trainer.run / "weights", threads=1).encode(texts)
    cosine = (got * want.numpy()).sum(axis=1)
    assert (cosine > 0.999).all()  # int8 rows


@pytest.mark.parametrize("stop", [(0, 4), (1, 2), (1, 5)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    make_trainer: MakeTrainer, recipe: Recipe, stop: tuple[int, int]
) -> None:
    unbroken = make_trainer(recipe, "unbroken")
    want = losses_of(run(unbroken))
    run(make_trainer(recipe), stop)
    resumed = make_trainer(recipe)
    got = losses_of(run(resumed))
    assert got == {step: want[step] for step in got}
    assert max(got) == (1, 6) and min(got) <= (stop[0] + 1, stop[1] + 1)
    weights = [t.run / "weights" / "model.safetensors" for t in (resumed, unbroken)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_finished_run_only_exports_again(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    run(make_trainer(recipe))
    trainer = make_trainer(recipe)
    assert run(trainer) == []
    assert Encoder.load(trainer.run / "weights", threads=1).encode("sun").shape == (32,)


def test_a_loss_that_is_not_finite_keeps_the_checkpoint(
    make_trainer: MakeTrainer, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(recipe)
    real = losses.relational

    def broken(*arguments: Any) -> Tensor:
        result: Tensor = real(*arguments)
        return result * math.nan if trainer.step == 4 and trainer.stage == 1 else result

    monkeypatch.setattr(losses, "relational", broken)
    with pytest.raises(TrainingError, match=r"stage 1 step 4.*not finite.*Lower learning_rate"):
        trainer.train()
    monkeypatch.undo()
    monkeypatch.setattr(training, "Teacher", FakeTeacher)
    resumed = make_trainer(recipe)
    assert (resumed.stage, resumed.step) == (1, 3)
    assert all(torch.isfinite(p).all() for p in resumed.model.parameters())


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    make_trainer: MakeTrainer, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(recipe)
    real = losses.consistency

    def broken(vectors: Tensor, dims: Any) -> Tensor:
        flat = (vectors * 0).sum().clamp_min(0).sqrt()  # 0, with an infinite slope
        result: Tensor = real(vectors, dims)
        return result + flat

    monkeypatch.setattr(losses, "consistency", broken)
    with pytest.raises(TrainingError, match=r"stage 0 step 0.*gradient"):
        trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert not (trainer.run / STATE).exists()


def test_a_full_disk_keeps_the_checkpoint(
    make_trainer: MakeTrainer, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_trainer(recipe), (0, 4))
    trainer = make_trainer(recipe)
    before = (trainer.run / STATE).read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_file", full)
        with pytest.raises(TrainingError, match="No space left on device.*is kept"):
            trainer.train()
    assert (trainer.run / STATE).read_bytes() == before
    assert not (trainer.run / f"{STATE}.partial").exists()
    resumed = make_trainer(recipe)
    assert (resumed.stage, resumed.step) == (0, 4)


def test_a_run_directory_that_is_a_file(
    make_trainer: MakeTrainer, recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(TrainingError, match="could not be written"):
        make_trainer(recipe).train()


def test_a_checkpoint_of_another_config(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    run(make_trainer(recipe), (0, 4))
    other = dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, n_layers=3))
    with pytest.raises(TrainingError, match=r"state\.safetensors was made with another encoder"):
        make_trainer(other)


@pytest.mark.parametrize("damage", ["cut", "no position", "no config", "no rotation", "shape"])
def test_a_damaged_checkpoint(make_trainer: MakeTrainer, recipe: Recipe, damage: str) -> None:
    run(make_trainer(recipe), (0, 4))
    path = make_trainer(recipe).run / STATE
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if damage.startswith("no "):
        (tensors if damage == "no rotation" else metadata).pop(damage[3:])
    tensors["model.final_norm.weight"] = torch.ones(31 if damage == "shape" else 32)
    save_file(tensors, path, metadata)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TrainingError, match=r"state\.safetensors is not a checkpoint.*remove it"):
        make_trainer(recipe)


def test_a_teacher_of_another_size(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    wider = dataclasses.replace(recipe.config, d_model=64)
    with pytest.raises(TrainingError, match="teacher's width 32 .* must equal the config's 64"):
        make_trainer(dataclasses.replace(recipe, config=wider))


def test_a_teacher_without_a_tokenizer(
    make_trainer: MakeTrainer, recipe: Recipe, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "bare").mkdir()
    sizes = (folder / "teacher" / "config.json").read_bytes()
    (tmp_path / "bare" / "config.json").write_bytes(sizes)
    with pytest.raises(WeightsError, match=r"tokenizer\.json is not a tokenizer"):
        make_trainer(recipe, teacher=tmp_path / "bare")


def test_no_data(make_trainer: MakeTrainer, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"text\*\.jsonl"):
        make_trainer(recipe, data=tmp_path)


def test_without_the_teacher_pairs_alone_train(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    stage = dataclasses.replace(
        recipe.stages[1], pairs_share=1.0, token=0.0, pooled=0.0, bands=0.0, relational=0.0
    )
    steps = run(make_trainer(dataclasses.replace(recipe, stages=(stage,))))
    assert all({"contrastive", "granularity"} <= p.losses.keys() for p in steps)
    assert all(math.isfinite(sum(p.losses.values())) for p in steps)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    stage = Stage(100, 1, warmup_steps=10, decay_share=0.5)
    rates = [training._schedule(stage, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[100] == 0
    assert min(rates[:100]) > 0
