"""Recipes: round trip, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.encoder.recipe import Recipe, Stage, packaged_recipe
from adaptive_search.errors import TrainingError


def test_round_trip(tmp_path: Path, config: EncoderConfig) -> None:
    stages = (Stage(3, 64, static=True), Stage(10, 128, decay_share=0.5, token=0))
    recipe = Recipe(stages, config, seed=7, checkpoint_steps=2)
    (tmp_path / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    assert Recipe.load(tmp_path / "recipe.json") == recipe


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('{"stages": [{"steps": 3, "batch_tokens": 64}]}', encoding="utf-8")
    assert Recipe.load(path) == Recipe((Stage(3, 64),))


def test_a_stage_needs_the_teacher_unless_all_its_losses_are_off() -> None:
    names = ("token", "layers", "pooled", "squared", "bands", "relational")
    off = dict.fromkeys(names, 0.0)
    assert not Stage(1, 1, **off).needs_teacher  # type: ignore[arg-type]
    for name in off:
        assert Stage(1, 1, **(off | {name: 0.1})).needs_teacher  # type: ignore[arg-type]


@pytest.mark.parametrize("pairs_share", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("long_share", [0.0, 0.25, 0.5, 1.0])
def test_shares_of_a_stage_hold_together(pairs_share: float, long_share: float) -> None:
    stage = Stage(1, 1, pairs_share=pairs_share, long_share=long_share)
    with_texts = [step for step in range(240) if not stage.sees_pairs(step)]
    assert len(with_texts) == round(240 * (1 - pairs_share))
    joined = sum(map(stage.joins_texts, with_texts))
    assert abs(joined - long_share * len(with_texts)) <= 1


@pytest.mark.parametrize("name", ["scratch", "finetune"])
def test_the_packaged_recipes_are_recipes(name: str) -> None:
    recipe = Recipe.load(packaged_recipe(name))
    assert recipe.config == EncoderConfig()


STAGE = {"steps": 3, "batch_tokens": 64}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        {"stages": []},
        {"stages": 3},
        {"stages": ["fast"]},
        {"stages": [{}]},
        {"stages": [STAGE | {"speed": 2}]},
        {"stages": [STAGE | {"steps": 0}]},
        {"stages": [STAGE | {"steps": "3"}]},
        {"stages": [STAGE | {"steps": 3.5}]},
        {"stages": [STAGE | {"static": "yes"}]},
        {"stages": [STAGE | {"batch_tokens": -1}]},
        {"stages": [STAGE | {"max_tokens": 1}]},
        {"stages": [STAGE | {"pairs_share": 1.5}]},
        {"stages": [STAGE | {"mined_share": 1.5}]},
        {"stages": [STAGE | {"dropout": 1.0}]},
        {"stages": [STAGE | {"temperature": 0}]},
        {"stages": [STAGE | {"optimizer": "sgd"}]},
        {"stages": [STAGE], "average": 1.0},
        {"stages": [STAGE], "precision": "float8"},
        {"stages": [STAGE], "table": "middles"},
        {"stages": [STAGE | {"learning_rate": None}]},
        {"stages": [STAGE | {"learning_rate": float("nan")}]},
        {"stages": [STAGE], "checkpoint_steps": 0},
        {"stages": [STAGE], "survey_batches": 0},
        {"stages": [STAGE], "complete": 1},
        {"stages": [STAGE], "seed": "lucky"},
        {"stages": [STAGE], "seed": -1},
        {"stages": [STAGE], "teacher": "x"},
        {"stages": [STAGE], "config": {"n_layers": 0}},
        {"stages": [STAGE], "config": {"layers": 2}},
        {"stages": [STAGE], "config": None},
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: object) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"recipe\.json is not a training recipe"):
        Recipe.load(path)


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(TrainingError, match=r"recipe\.json is not a training recipe"):
        Recipe.load(tmp_path / "recipe.json")
