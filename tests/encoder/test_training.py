"""Training with a teacher of a few numbers: it learns, resumes exactly, and fails without loss."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from adaptive_search.encoder import checkpoint, losses, training  # noqa: E402
from adaptive_search.encoder.config import EncoderConfig  # noqa: E402
from adaptive_search.encoder.data import Text  # noqa: E402
from adaptive_search.encoder.encoder import Encoder  # noqa: E402
from adaptive_search.encoder.optimizers import schedule  # noqa: E402
from adaptive_search.encoder.recipe import Recipe, Stage  # noqa: E402
from adaptive_search.encoder.teacher import TeacherStates  # noqa: E402
from adaptive_search.encoder.tokenizer import Tokenizer  # noqa: E402
from adaptive_search.encoder.training import Progress, Trainer  # noqa: E402
from adaptive_search.errors import TrainingError, WeightsError  # noqa: E402

WORDS = "the plants store energy light is heat leaf cell water sun green".split()
STATE = "state.safetensors"

MakeTrainer = Callable[..., Trainer]


class FakeTeacher:
    """Vectors that mix each token with the mean of its text, in place of a BERT."""

    def __init__(self, directory: Path, tokenizer: Tokenizer, device: str = "cpu") -> None:
        self.width = int((directory / "width").read_text(encoding="utf-8"))
        self.shares_tokens = self.width == 32
        generator = torch.Generator().manual_seed(9)
        self._table = torch.randn(tokenizer.vocab_size, self.width, generator=generator)

    def states(self, ids: Tensor, lengths: Tensor) -> TeacherStates:
        mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).unsqueeze(-1)
        tokens = self._table[ids]
        mean = (tokens * mask).sum(1) / lengths.unsqueeze(1)
        layers = (tokens, tokens + mean.unsqueeze(1))
        return TeacherStates(layers, torch.nn.functional.normalize(mean, dim=-1))

    def vectors(self, texts: Sequence[Text]) -> Tensor:
        means = torch.stack([self._table[text.ids].mean(0) for text in texts])
        return torch.nn.functional.normalize(means, dim=-1)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_json: str,
    config: EncoderConfig,
    random_tensors: Callable[[EncoderConfig], dict[str, NDArray[np.float32]]],
) -> Path:
    """A folder with data/, weights/, and teacher/ and foreign/ of other tokens and width."""
    folder = tmp_path_factory.mktemp("training")
    for name in ("data", "teacher", "foreign"):
        (folder / name).mkdir()
    (folder / "teacher" / "width").write_text("32", encoding="utf-8")
    (folder / "foreign" / "width").write_text("24", encoding="utf-8")
    checkpoint.save(folder / "weights", config, tokenizer_json, random_tensors(config))
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
        usual = {"texts": folder / "data", "pairs": folder / "data", "from_scratch": True}
        usual |= {"teacher": folder / "teacher", "weights": folder / "weights"}
        return Trainer(recipe, tmp_path / run, **(usual | other))

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


@pytest.mark.parametrize("cached", [False, True])
def test_steps_report_the_loss_at_each_dimension(
    make_trainer: MakeTrainer, recipe: Recipe, cached: bool
) -> None:
    stage = dataclasses.replace(recipe.stages[1], cached=cached, curriculum_steps=0)
    steps = run(make_trainer(dataclasses.replace(recipe, stages=(stage,))))
    kinds = {name for p in steps for name in p.losses_by_dim}
    assert kinds == {"relational", "consistency", "contrastive"}
    for p in steps:
        for name, each in p.losses_by_dim.items():
            assert len(each) == len(recipe.config.dims)
            want = getattr(stage, name) * float(
                np.mean(each)
            )  # without a curriculum all weigh alike
            assert p.losses[name] == pytest.approx(want, rel=1e-4, abs=1e-6)
        # The full vector is what the others are to agree with.
        assert p.losses_by_dim["consistency"][-1] == 0 < p.losses_by_dim["consistency"][0]


@pytest.mark.parametrize("table", ["inputs", "outputs"])
def test_states_between_layers_are_drawn_to_the_teachers(
    make_trainer: MakeTrainer, recipe: Recipe, table: str
) -> None:
    stage = Stage(30, 256, max_tokens=24, learning_rate=3e-3, warmup_steps=2, token=0, layers=1.0)
    steps = run(make_trainer(dataclasses.replace(recipe, stages=(stage,), table=table)))
    layers = [p.losses["layers"] for p in steps]
    assert np.mean(layers[-5:]) < 0.7 * np.mean(layers[:5])


def test_the_table_begins_as_the_recipe_says(
    make_trainer: MakeTrainer, recipe: Recipe, folder: Path
) -> None:
    def first_table(run: str, **other: Any) -> Tensor:
        table = make_trainer(dataclasses.replace(recipe, table=run), run, **other).model.embedding
        return table.weight.detach()

    inputs, outputs = first_table("inputs"), first_table("outputs")
    assert not torch.allclose(inputs, outputs, atol=0.1)
    # A teacher with other tokens has vectors of the vocabulary and nothing before them.
    foreign = make_trainer(recipe, "foreign", teacher=folder / "foreign")
    torch.testing.assert_close(
        foreign.model.embedding.weight.detach().square().mean(1)[9],
        torch.tensor(1.0),
        rtol=0.2,
        atol=0,
    )


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


def test_exported_bands_can_be_completed(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    plain = make_trainer(recipe, "plain")
    run(plain)
    completed = make_trainer(dataclasses.replace(recipe, complete=True), "completed")
    run(completed)
    encoders = [Encoder.load(t.run / "weights", threads=1) for t in (plain, completed)]
    assert encoders[1].config.completed_bands == 1
    before, after = (encoder.encode(["plants store energy", "sun"]) for encoder in encoders)
    cosines = (before[:, :8] * after[:, :8]).sum(1) / (
        np.linalg.norm(before[:, :8], axis=1) * np.linalg.norm(after[:, :8], axis=1)
    )
    np.testing.assert_allclose(cosines, 1, atol=1e-4)  # the first band is as it was trained
    assert np.abs(after[:, 16:] - before[:, 16:]).max() > 0.1
    # Training goes on from such weights as from any others.
    further = make_trainer(recipe, "further", from_scratch=False, weights=completed.run / "weights")
    run(further)
    assert Encoder.load(further.run / "weights", threads=1).config.completed_bands == 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop", [(0, 4), (1, 2), (1, 5)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    make_trainer: MakeTrainer, recipe: Recipe, stop: tuple[int, int], optimizer: str
) -> None:
    changes: dict[str, Any] = {"optimizer": optimizer, "mined_share": 1.0, "dropout": 0.1}
    stages = (recipe.stages[0], dataclasses.replace(recipe.stages[1], **changes))
    recipe = dataclasses.replace(recipe, stages=stages, average=0.9)
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


def test_a_checkpoint_without_its_average(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    run(make_trainer(recipe), (0, 4))
    path = make_trainer(recipe).run / STATE
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors.pop("average.final_norm.weight")
    save_file(tensors, path, metadata)
    with pytest.raises(TrainingError, match=r"is not a checkpoint.*average|final_norm"):
        make_trainer(recipe)


def test_a_vocabulary_of_another_size(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    other = dataclasses.replace(recipe.config, vocab_size=7)
    with pytest.raises(TrainingError, match=r"vocab_size=7 must be \d+, as .*tokenizer\.json"):
        make_trainer(dataclasses.replace(recipe, config=other))


def test_weights_that_are_none(make_trainer: MakeTrainer, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"tokenizer\.json is not a tokenizer"):
        make_trainer(recipe, weights=tmp_path)


def test_no_data(make_trainer: MakeTrainer, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"text\*\.jsonl"):
        make_trainer(recipe, texts=tmp_path)
    with pytest.raises(TrainingError, match="needs texts or pairs"):
        make_trainer(recipe, texts=None, pairs=None)


@pytest.mark.parametrize("missing", ["texts", "pairs"])
def test_one_kind_of_data_is_enough(
    make_trainer: MakeTrainer, recipe: Recipe, missing: str
) -> None:
    steps = run(make_trainer(recipe, **{missing: None}))
    assert len(steps) == 10
    assert all(("contrastive" in p.losses) == (missing == "texts") for p in steps)


def test_one_row_trains(make_trainer: MakeTrainer, recipe: Recipe, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "sun", "positive": "light"}\n', encoding="utf-8")
    recipe = dataclasses.replace(recipe, development_steps=2)
    steps = run(make_trainer(recipe, texts=None, pairs=pairs))
    assert all(math.isfinite(sum(p.losses.values())) for p in steps)
    assert not any(p.development for p in steps)  # nothing to hold out


def test_pairs_that_come_twice_do_not_repel_each_other(
    make_trainer: MakeTrainer, recipe: Recipe, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "sun", "positive": "light"}\n' * 9, encoding="utf-8")
    steps = run(make_trainer(recipe, texts=None, pairs=pairs))
    contrastive = [p.losses_by_dim["contrastive"] for p in steps]
    assert len(contrastive) == 10 and not np.any(contrastive)  # the others are no negatives


def test_training_goes_on_from_weights(
    make_trainer: MakeTrainer, recipe: Recipe, folder: Path
) -> None:
    other = dataclasses.replace(recipe, config=EncoderConfig())  # the weights' own is taken
    trainer = make_trainer(other, from_scratch=False)
    assert trainer.recipe.config == recipe.config
    want = checkpoint.load(folder / "weights")
    for name, tensor in trainer.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), want.tensors[name])
    run(trainer)
    assert checkpoint.load(trainer.run / "weights").fingerprint != want.fingerprint


@pytest.mark.parametrize("name", ["teacher", "foreign"])
def test_trained_weights_go_on_near_their_teacher(
    make_trainer: MakeTrainer, recipe: Recipe, folder: Path, name: str
) -> None:
    rates = {"learning_rate": 3e-3, "warmup_steps": 2, "pairs_share": 0.0}
    stage = Stage(60, 256, max_tokens=24, token=0.2, layers=0.2, bands=1.0, **rates)
    recipe = dataclasses.replace(recipe, stages=(stage,), precision="float32")
    teacher = folder / name
    first = make_trainer(recipe, "first", teacher=teacher)
    steps = run(first)
    more = {"teacher": teacher, "weights": first.run / "weights", "from_scratch": False}
    again = run(make_trainer(recipe, "second", **more), stop=(0, 4))
    for part in ("pooled", "bands", "layers") if name == "teacher" else ("pooled", "bands"):
        at_first, reached = steps[0].losses[part], np.mean([p.losses[part] for p in steps[-5:]])
        assert again[0].losses[part] < reached + 0.3 * (at_first - reached), part
    resumed = run(make_trainer(recipe, "second", **more))
    unbroken = run(make_trainer(recipe, "third", **more))
    assert losses_of(resumed).items() <= losses_of(unbroken).items()


def test_a_teacher_of_other_tokens_and_width(
    make_trainer: MakeTrainer, recipe: Recipe, folder: Path
) -> None:
    steps = run(make_trainer(recipe, teacher=folder / "foreign"))
    assert {"pooled", "bands", "relational"} <= steps[-1].losses.keys()
    assert all(p.losses["token"] == 0 for p in steps)  # it cannot teach token by token
    assert all(math.isfinite(sum(p.losses.values())) for p in steps)


def gradients(trainer: Trainer, stage: Stage, batches: int = 3) -> dict[str, Tensor]:
    """What some batches of pairs add up to."""
    stream = trainer._stream(stage, "pairs")
    for step in range(batches):
        trainer.objective.backward(stage, step, next(stream), (step,))
    named = trainer.objective.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def test_caching_changes_no_gradient(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    stage = dataclasses.replace(recipe.stages[1], batch_tokens=600, dropout=0.1)
    small = dataclasses.replace(recipe, group_tokens=64, precision="float32")  # many groups
    plain = gradients(make_trainer(small), stage)
    cached = gradients(make_trainer(small), dataclasses.replace(stage, cached=True))
    assert plain.keys() == cached.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "part", [{"squared": 0.9}, {"dropout": 0.5}, {"mined_share": 1.0}, {"long_share": 1.0}], ids=str
)
def test_parts_that_a_recipe_can_switch_on(
    make_trainer: MakeTrainer, recipe: Recipe, part: dict[str, float]
) -> None:
    plain = dataclasses.replace(recipe, stages=recipe.stages[1:])
    stage = dataclasses.replace(recipe.stages[1], long_tokens=60, **part)  # type: ignore[arg-type]
    more = dataclasses.replace(recipe, stages=(stage,))
    without, with_part = (run(make_trainer(r, str(i))) for i, r in enumerate((plain, more)))
    assert all(math.isfinite(sum(p.losses.values())) for p in with_part)
    assert [p.losses for p in with_part] != [p.losses for p in without]


def test_dropout_follows_the_seed(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    stage = dataclasses.replace(recipe.stages[1], dropout=0.5)
    trainer = make_trainer(recipe)
    block: Any = trainer.objective.model.blocks[0]
    block.mixer.out_proj.weight.data.normal_()
    batch = next(trainer._stream(stage, "texts"))
    once, again, other = (
        trainer.objective.backward(stage, 0, batch, seed).parts["pooled"]
        for seed in ((0, 1, 2, 0), (0, 1, 2, 0), (0, 1, 2, 1))
    )
    assert once == again != other


def test_every_other_text_step_can_be_joined_beside_pairs(
    make_trainer: MakeTrainer, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = dataclasses.replace(recipe.stages[1], steps=8, pairs_share=0.5, long_share=0.5)
    trainer = make_trainer(dataclasses.replace(recipe, stages=(stage,)))
    joined, join = [], trainer.objective._joined

    def counted(texts: Sequence[Text], tokens: int) -> Any:
        joined.append(trainer.step)
        return join(texts, tokens)

    monkeypatch.setattr(trainer.objective, "_joined", counted)
    run(trainer)
    assert joined == [2, 6]


def test_long_texts_are_drawn_to_the_mean_of_their_parts(
    make_trainer: MakeTrainer, recipe: Recipe
) -> None:
    trainer = make_trainer(recipe)
    texts = next(trainer._stream(recipe.stages[1], "texts"))[0]
    ids, taught = trainer.objective._joined(texts, 60)
    assert sum(len(i) - 2 for i in ids) == sum(len(t.ids) - 2 for t in texts)
    assert len(ids) == len(taught.vectors) == len(taught.layers) < len(texts)
    teacher = trainer.objective.teacher
    part = teacher.vectors(texts)
    lengths = torch.tensor([float(len(t.ids)) for t in texts])
    count = next(
        n
        for n in range(1, len(texts) + 1)
        if len(ids[0]) - 2 == sum(len(t.ids) - 2 for t in texts[:n])
    )
    mean = (part[:count] * lengths[:count, None]).sum(0)
    torch.testing.assert_close(taught.vectors[0], mean / mean.norm())
    # A token's state is that in its own part, whatever stands before and after it.
    for number, layer in enumerate(taught.layers[0]):
        assert len(layer) == len(ids[0])
        start = 1
        for text in texts[:count]:
            one, length = torch.from_numpy(text.ids[None]).long(), torch.tensor([len(text.ids)])
            inner = teacher.states(one, length).layers[number][0, 1:-1]
            torch.testing.assert_close(layer[start : start + len(inner)], inner)
            start += len(inner)
    joined = dataclasses.replace(recipe.stages[1], layers=1.0, long_share=1.0, long_tokens=60)
    found = trainer.objective.backward(joined, 0, (texts,), (0, 0, 0, 0)).parts
    assert math.isfinite(found["layers"]) and found["layers"] > 0 and found["token"] > 0


def test_a_curriculum_takes_in_one_dimension_after_another(
    make_trainer: MakeTrainer, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []
    real = losses.dim_weights

    def spy(*arguments: int) -> list[float]:
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(losses, "dim_weights", spy)
    trainer = make_trainer(dataclasses.replace(recipe, stages=()))
    trainer.curriculum(2, batch_tokens=256, max_tokens=24)
    dims = len(recipe.config.dims)
    assert trainer.step == len(seen) == 2 * (dims + 1)
    assert seen[0] == [1.0, 0.0, 0.0] and seen[2][:2] == [0.5, 0.5] and min(seen[-1]) > 0.3
    trainer.distill(3, batch_tokens=256, max_tokens=24)
    assert (trainer.stage, trainer.step) == (1, 3)
    assert Encoder.load(trainer.run / "weights", threads=1).encode("sun").shape == (32,)


def test_calls_resume_like_recipes(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    bare = dataclasses.replace(recipe, stages=())

    def train(name: str, stop: tuple[int, int] | None) -> list[Progress]:
        seen: list[Progress] = []

        def report(progress: Progress) -> None:
            seen.append(progress)
            if (progress.stage, progress.step) == stop:
                raise Stopped

        trainer = make_trainer(bare, name)
        size = {"batch_tokens": 256, "max_tokens": 24}
        trainer.distill(4, report, **size)
        trainer.curriculum(2, report, **size)
        return seen

    want = losses_of(train("whole", None))
    with pytest.raises(Stopped):
        train("broken", (1, 5))
    got = losses_of(train("broken", None))
    assert got == {step: want[step] for step in got} and min(got) == (1, 4)


def test_the_average_is_what_is_exported(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    frozen = make_trainer(dataclasses.replace(recipe, average=0.999999), "slow")
    start = {k: v.clone() for k, v in frozen.average.state().items()}
    run(frozen)
    exported = checkpoint.dequantize(checkpoint.load(frozen.run / "weights").tensors)
    moved = frozen.model.state_dict()
    for name in ("final_norm.weight", "blocks.0.mixer.dt_bias"):
        np.testing.assert_allclose(exported[name], start[name].numpy(), atol=1e-4)
        assert float((moved[name] - start[name]).abs().max()) > 1e-3


def test_held_out_pairs_are_measured(
    make_trainer: MakeTrainer, recipe: Recipe, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    rows = [{"query": " ".join(rng.choice(WORDS, 3)), "positive": "sun leaf"} for _ in range(1000)]
    for row in rows:
        row["positive"] = f"{row['query']} {row['positive']}"
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    steps = run(make_trainer(dataclasses.replace(recipe, development_steps=3), pairs=pairs))
    measured = {(p.stage, p.step): p.development for p in steps if p.development}
    assert list(measured) == [(0, 3), (0, 4), (1, 3), (1, 6)]
    for ranks in measured.values():
        assert ranks.keys() == set(recipe.config.dims)
        assert all(0.2 <= rank <= 1 for rank in ranks.values())  # of five; chance is 0.46


def test_without_the_teacher_pairs_alone_train(make_trainer: MakeTrainer, recipe: Recipe) -> None:
    stage = dataclasses.replace(
        recipe.stages[1], pairs_share=1.0, token=0.0, pooled=0.0, bands=0.0, relational=0.0
    )
    steps = run(make_trainer(dataclasses.replace(recipe, stages=(stage,))))
    assert all({"contrastive", "granularity"} <= p.losses.keys() for p in steps)
    assert all(math.isfinite(sum(p.losses.values())) for p in steps)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    stage = Stage(100, 1, warmup_steps=10, decay_share=0.5)
    rates = [schedule(stage, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[100] == 0
    assert min(rates[:100]) > 0
