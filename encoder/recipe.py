"""What decides the weights: the stages of training, in one JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from adaptive_search.encoder.config import EncoderConfig
from adaptive_search.errors import TrainingError, WeightsError
from adaptive_search.json_text import parse_json

OPTIMIZERS = ("adamw", "muon")
PRECISIONS = ("bfloat16", "float32")
TABLES = ("inputs", "outputs")


@dataclass(frozen=True)
class Stage:
    """One stretch of training; a loss with weight 0 is off.

    Attributes:
        steps: optimizer steps.
        batch_tokens: tokens of a batch, all columns together, on each process.
        max_tokens: longer texts are cut.
        learning_rate: the highest; the embedding table takes half.
        warmup_steps: over which the rate rises.
        decay_share: share of the steps, at the end, over which it falls to 0.
        optimizer: "adamw", or "muon" for the blocks' matrices (Jordan et al. 2024) and
            AdamW for the rest.
        static: train the embedding, pooling and heads with the blocks left out.
        dropout: share of each block's output that is dropped.
        cached: hold the vectors of a batch only and run its texts twice, so that memory
            does not grow with batch_tokens (Gao et al. 2021, arXiv:2101.06983).
        pairs_share: share of the steps that see pairs; the others see texts.
        mined_share: share of the steps with pairs whose batch holds pairs that the
            model finds alike, as hard negatives of each other.
        sentence_share: share of the texts whose sentences are trained on one by one.
        long_share: share of the steps with texts that join them to `long_tokens`.
        long_tokens: tokens of a joined text.
        curriculum_steps: steps after which the next dimension, from the smallest up, joins
            the losses over dims; 0 trains all from the start.
        token: weight of the tokens' states towards the teacher's.
        layers: weight of the states after every second block, mapped, towards the teacher's
            as far up (squared distance, over the teacher's variance).
        pooled: weight of the cosine of the full vector, mapped, to the teacher's.
        squared: weight of the squared distance of the same.
        bands: weight of the first bands towards the teacher's principal directions.
        relational: weight of in-batch neighbour distributions at each dim as the teacher's.
        contrastive: weight of pairs against the rest of the batch at each dim.
        consistency: weight of each dim's similarities as the full vector's.
        granularity: weight of one narrower sub-model a step towards the full width.
        temperature: of relational and contrastive.
    """

    steps: int
    batch_tokens: int
    max_tokens: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_share: float = 1.0
    optimizer: str = "adamw"
    static: bool = False
    dropout: float = 0.0
    cached: bool = False
    pairs_share: float = 0.5
    mined_share: float = 0.0
    sentence_share: float = 0.0
    long_share: float = 0.0
    long_tokens: int = 2048
    curriculum_steps: int = 0
    token: float = 0.5
    layers: float = 0.0
    pooled: float = 1.0
    squared: float = 0.0
    bands: float = 0.5
    relational: float = 0.5
    contrastive: float = 0.5
    consistency: float = 0.0
    granularity: float = 1.0
    temperature: float = 0.05

    def __post_init__(self) -> None:
        """Refuse numbers that no stage can have."""
        _check_numbers(self, at_least_one=("steps", "batch_tokens"))
        if self.max_tokens < 3:
            raise TrainingError(f"recipe: max_tokens={self.max_tokens} must hold more than a frame")
        shares = "decay_share", "dropout", "pairs_share", "mined_share"
        for name in (*shares, "sentence_share", "long_share"):
            if not getattr(self, name) <= 1:
                raise TrainingError(f"recipe: {name}={getattr(self, name)} must be at most 1")
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.dropout == 1 or self.temperature == 0:
            raise TrainingError("recipe: dropout must be below 1 and temperature above 0")

    def sees_pairs(self, step: int) -> bool:
        """Whether a step sees pairs."""
        return is_turn(step, self.pairs_share)

    def joins_texts(self, step: int) -> bool:
        """Whether a step with texts joins them to long ones."""
        with_texts = step - int(step * self.pairs_share)  # steps with texts before it
        return self.needs_teacher and is_turn(with_texts, self.long_share)

    @property
    def needs_alignment(self) -> bool:
        """Whether a loss is on that maps the student's space to the teacher's."""
        return any((self.token, self.layers, self.pooled, self.squared, self.bands))

    @property
    def needs_teacher(self) -> bool:
        """Whether any of the teacher's losses is on."""
        return self.needs_alignment or bool(self.relational)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the data and the machine.

    Attributes:
        stages: what to do, in order.
        config: sizes of the encoder.
        seed: of everything random.
        table: what the embedding table begins with, if nothing else is given: for each
            vocabulary entry alone, what enters the teacher's first layer ("inputs") or its
            vector ("outputs", also of a teacher with other tokens).
        survey_batches: batches of 4,096 tokens by which the teacher's space is turned.
        group_tokens: tokens that run through the model at once.
        weight_decay: of matrices, not of the embedding table.
        average: decay of the moving average of the weights, which is what is exported;
            0 exports the last weights.
        precision: type of matrix products, "bfloat16" or "float32".
        checkpoint_steps: steps from one checkpoint to the next.
        development_steps: steps from one measurement on held-out pairs to the next; 0 for
            none.
        complete: solve the bands after the first two, up to the teacher's width, when the weights
            are exported, so that texts are as alike as to the teacher.
    """

    stages: tuple[Stage, ...]
    config: EncoderConfig = field(default_factory=EncoderConfig)
    seed: int = 0
    table: str = "inputs"
    survey_batches: int = 100
    group_tokens: int = 2048
    weight_decay: float = 0.01
    average: float = 0.0
    precision: str = "bfloat16"
    checkpoint_steps: int = 100
    development_steps: int = 0
    complete: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that no run can have."""
        counts = ("survey_batches", "checkpoint_steps", "group_tokens")
        _check_numbers(self, at_least_one=counts)
        if not self.average < 1:
            raise TrainingError(f"recipe: average={self.average} must be below 1")
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("table", self.table, TABLES)

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
            raw = parse_json(path.read_text(encoding="utf-8"))
            stages = tuple(Stage(**stage) for stage in raw.pop("stages"))
            if not stages:
                raise TrainingError("stages must hold at least one stage")
            config = EncoderConfig.from_json(json.dumps(raw.pop("config", {})))
            return cls(stages=stages, config=config, **raw)
        except (
            *(OSError, ValueError, TypeError, KeyError, AttributeError),
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


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise TrainingError(f"recipe: {name}={value!r} must be one of {', '.join(choices)}")


def is_turn(number: int, share: float) -> bool:
    """Whether one of an endless count, from 0, belongs to a share that is spread over it evenly."""
    return int((number + 1) * share) > int(number * share)


def packaged_recipe(name: str) -> Path:
    """A recipe that comes with the package.

    Args:
        name: "scratch", with which the shipped weights were trained, or "finetune".
    """
    return Path(__file__).resolve().parent / "recipes" / f"{name}.json"
