"""What decides the weights: the stages of training, in one JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.errors import TrainingError, WeightsError


@dataclass(frozen=True)
class Stage:
    """One stretch of training; a loss with weight 0 is off.

    Tokens are counted without padding. `static` trains the embedding, pooling
    and heads with the blocks left out.
    """

    steps: int
    batch_tokens: int
    max_tokens: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_share: float = 1.0  # share of the steps, at the end, over which the rate falls to 0
    static: bool = False
    pairs_share: float = 0.5  # share of the steps that see pairs; the others see texts
    token: float = 0.5
    pooled: float = 1.0
    bands: float = 0.5
    relational: float = 0.5
    contrastive: float = 0.5
    consistency: float = 0.0
    granularity: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that no stage can have."""
        _check_numbers(self, at_least_one=("steps", "batch_tokens"))
        if self.max_tokens < 2:
            raise TrainingError(f"recipe: max_tokens={self.max_tokens} must hold [CLS] and [SEP]")
        if self.pairs_share > 1:
            raise TrainingError(f"recipe: pairs_share={self.pairs_share} must be at most 1")

    @property
    def needs_teacher(self) -> bool:
        """Whether any of the teacher's losses is on."""
        return any((self.token, self.pooled, self.bands, self.relational))


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the data and the machine."""

    stages: tuple[Stage, ...]
    config: EncoderConfig = field(default_factory=EncoderConfig)
    seed: int = 0
    survey_batches: int = 100
    checkpoint_steps: int = 100
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        """Refuse numbers that no run can have."""
        _check_numbers(self, at_least_one=("survey_batches", "checkpoint_steps"))
        if not self.stages:
            raise TrainingError("recipe: stages must hold at least one stage")

    def to_json(self) -> str:
        """The recipe as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe file.

        Raises:
            TrainingError: the file is missing or not a recipe.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            stages = tuple(Stage(**stage) for stage in raw.pop("stages"))
            config = EncoderConfig.from_json(json.dumps(raw.pop("config", {})))
            return cls(stages=stages, config=config, **raw)
        except (
            *(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError),
            *(TrainingError, WeightsError),
        ) as error:
            raise TrainingError(f"{path} is not a training recipe: {error}") from None


def _check_numbers(settings: Stage | Recipe, *, at_least_one: tuple[str, ...]) -> None:
    kinds = {"int": (int,), "float": (int, float), "bool": (bool,)}
    for setting in dataclasses.fields(settings):
        name, value = setting.name, getattr(settings, setting.name)
        if str(setting.type) not in kinds:
            continue
        if type(value) not in kinds[str(setting.type)]:
            raise TrainingError(f"recipe: {name}={value!r} must be of type {setting.type}")
        least = 1 if name in at_least_one else 0
        if not least <= value < math.inf:
            raise TrainingError(f"recipe: {name}={value} must be at least {least}")


def shipped_recipe() -> Path:
    """The recipe that the shipped weights were trained with."""
    return Path(__file__).resolve().parent / "recipes" / "cpu.json"
