"""The typed results of a run: frozen values, read and written by `store`.

A field that is None has not been measured, and is left out of the JSON. Tables whose names explain themselves (a
recipe, the shape of a space, the signals) stay tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

SCHEMA = 2  # of a record's JSON
JSON = Any  # what JSON can hold
F = TypeVar("F")


class Result:
    """What all types share: a field of an unknown name is an error where JSON is read."""

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}


@dataclass(frozen=True)
class Interval(Result):
    """A 95 % interval."""

    low: float
    high: float


class Estimate(Result):
    """A figure with what is known of its error."""

    @property
    def bounds(self: "Difference | TaskScore") -> Interval:
        """The 95 % interval: its own, or by the standard error, or the value itself."""
        reach = 1.96 * (self.standard_error or 0.0)
        return self.interval or Interval(self.value - reach, self.value + reach)


@dataclass(frozen=True)
class Difference(Estimate):
    """How far a figure is above that of another row on the same items; the p-value is two-sided."""

    value: float
    interval: Interval | None = None
    standard_error: float | None = None
    p_value: float | None = None

    @property
    def shown(self) -> bool:
        """Whether the 95 % interval leaves 0 out; where it does not, no difference can be shown."""
        return not self.bounds.low <= 0 <= self.bounds.high


@dataclass(frozen=True)
class TaskScore(Estimate):
    """A figure on one task, × 100 but for nats, or the mean over tasks, over `count` pairs or items."""

    value: float
    count: int
    interval: Interval | None = None
    standard_error: float | None = None
    parts: dict[str, float] | None = None  # the figure on each part of a task that has parts
    difference: Difference | None = None  # from the row that others are compared with


@dataclass(frozen=True)
class RowScores(Result):
    """One model or method on all tasks, and the mean over them."""

    tasks: dict[str, TaskScore]
    mean: TaskScore

    @classmethod
    def of(cls, tasks: Mapping[str, TaskScore]) -> "RowScores":
        """Return the tasks with their mean, of which the value and the count are known so far."""
        value = sum(score.value for score in tasks.values()) / len(tasks)
        return cls(dict(tasks), TaskScore(value, sum(score.count for score in tasks.values())))

    @property
    def columns(self) -> dict[str, TaskScore]:
        """The tasks' scores by name, and the mean's as "mean"."""
        return {**self.tasks, "mean": self.mean}


@dataclass(frozen=True)
class Comparison(Result):
    """Rows on the same items, with the difference of each from the row `against`, which itself has none."""

    against: str
    rows: dict[str, RowScores]


@dataclass(frozen=True)
class CurvePoint(Result):
    """A logged step of training; rewards are the scores of the preferred candidate and of the others."""

    step: int
    loss: float
    margin: float
    accuracy: float
    chosen_reward: float
    rejected_reward: float
    learning_rate: float
    gradient_norm: float | None = None  # None: a step that float16 skipped
    divergence: float | None = None  # KL(base ‖ model) in nats, where the recipe weighs it
    left_out: float | None = None  # candidates of an anchor that are no negatives, on average; None: none were


@dataclass(frozen=True)
class CurveMean(Result):
    """The mean of a stretch of a curve."""

    loss: float
    margin: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class TrainingCurve(Result):
    """What there is of a run while it goes on: its recipe by field, and the curve so far."""

    recipe: dict[str, JSON]
    candidates: int = 2  # of an anchor in a full batch
    curve: list[CurvePoint]

    @property
    def objective(self) -> str:
        """The objective's name."""
        return self.recipe.get("objective", "pairwise")  # the first records name none

    @property
    def batch(self) -> int:
        """Rows per optimiser step."""
        return self.recipe["micro_batch"] * self.recipe["accumulation"]


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(TrainingCurve):
    """A finished run of training."""

    fingerprint: str
    model: dict[str, JSON]
    data: dict[str, JSON]
    last_quarter: CurveMean
    steps: int
    rows_too_long: int  # left out
    candidates_left_out: int | None = None  # in the whole run: equal sentences, which are no negatives; None: none were
    trainable_parameters: int
    seconds: float
    peak_memory_bytes: int
    resumed_from_step: int
    triplets_per_second: float | None = None  # None: the clock saw a part of the run alone
    adapter_fingerprint: str
    adapter: Path = field(default=Path(), metadata={"written": False})  # where it lies on this machine


@dataclass(frozen=True)
class TrainingFigures(Result):
    """What a run of the grid tells of its training; the base has no rows and nothing else."""

    rows: int = 0
    last_quarter: CurveMean | None = None
    steps: int | None = None
    seconds: float | None = None
    triplets_per_second: float | None = None
    trainable_parameters: int | None = None
    rows_too_long: int | None = None

    @classmethod
    def of(cls, run: TrainingRecord | None) -> "TrainingFigures":
        """Return what there is to tell of a run; of the base, None, nothing."""
        told = {one.name: getattr(run, one.name) for one in fields(cls) if one.name != "rows"} if run else {}
        return cls(run.data["rows"] if run else 0, **told)


@dataclass(frozen=True)
class StsFigures(Result):
    """A run on the STS tasks, and on those of their pairs of which it was trained on neither sentence."""

    scores: RowScores
    without_training_sentences: RowScores


@dataclass(frozen=True)
class DevFigures(Result):
    """A run on the dev tasks, what they are, and how many of its training rows have a sentence of theirs."""

    scores: RowScores
    data: list[dict[str, JSON]]
    training_rows_with_their_sentences: dict[str, int]  # by task, and of any of them; of the base none


@dataclass(frozen=True)
class LayerFigures(Result):
    """A figure a layer: ρ × 100 (None where all pairs are alike), the rest as `geometry.displacement` gives it."""

    sts: list[float | None]
    moved: list[float] | None = None
    moved_alike: list[float] | None = None


@dataclass(frozen=True)
class FrontierPoint(Result):
    """A checkpoint: the rows it has seen, its ρ × 100 on the dev split, its perplexity."""

    rows: int
    sts: float
    perplexity: float


@dataclass(frozen=True)
class GenerationFigures(Result):
    """A run on the benchmarks, or in nats per token on their gold answers, and what was read."""

    scores: RowScores
    data: dict[str, dict[str, JSON]]


@dataclass(frozen=True)
class GridFigures(Result):
    """What is known of a run of the grid: a field a step."""

    train: TrainingFigures | None = None
    sts: StsFigures | None = None
    geometry: dict[str, int | float] | None = None
    layers: LayerFigures | None = None
    signals: dict[str, float] | None = None
    frontier: list[FrontierPoint] | None = None
    generation: GenerationFigures | None = None
    gold_answers: GenerationFigures | None = None
    dev: DevFigures | None = None


@dataclass(frozen=True)
class SearchPoint(Result):
    """A candidate on some rows: what its recipe changes, its dev scores, its perplexity; the base has 0 rows."""

    changes: dict[str, JSON]
    rows: int
    scores: RowScores
    perplexity: float
    training_seconds: float
    scoring_seconds: float

    @property
    def seconds(self) -> float:
        """What it took in all."""
        return self.training_seconds + self.scoring_seconds


@dataclass(frozen=True)
class LeftOut(Result):
    """A candidate for which the budget was too short, and the seconds that it would have taken."""

    changes: dict[str, JSON]
    rows: int
    seconds: float


@dataclass(frozen=True)
class SearchFigures(Result):
    """A search by successive halving over rows: all that was tried, in its order, within a budget of minutes."""

    minutes: float
    perplexity_limit: float  # % above the base's; who is further above ranks behind all others
    base: SearchPoint
    tried: list[SearchPoint]
    left_out: list[LeftOut]

    @property
    def seconds(self) -> float:
        """What all of it took."""
        return sum(point.seconds for point in (self.base, *self.tried))

    def change(self, point: SearchPoint) -> float:
        """Return how far a perplexity is from the base's, in %."""
        return 100 * (point.perplexity / self.base.perplexity - 1)

    def within(self, point: SearchPoint) -> bool:
        """Tell whether a candidate's perplexity stays within the limit."""
        return self.change(point) <= self.perplexity_limit

    def ranked(self, rows: int) -> list[SearchPoint]:
        """Return what was tried on so many rows, the best first: by its dev mean, those over the limit last."""
        rung = [point for point in self.tried if point.rows == rows]
        return sorted(rung, key=lambda point: (not self.within(point), -point.scores.mean.value))

    @property
    def best(self) -> SearchPoint | None:
        """The first of the longest rung; None where nothing was tried."""
        return self.ranked(self.tried[-1].rows)[0] if self.tried else None


@dataclass(frozen=True)
class DataSizePoint(Result):
    """A checkpoint on the dev split, ρ × 100, and on the test tasks."""

    triplets: int
    dev: float
    test: RowScores


@dataclass(frozen=True)
class DataSizeCurve(Result):
    """The base, the checkpoints and the final adapter of one run."""

    dev_task: str
    points: list[DataSizePoint]


@dataclass(frozen=True)
class SeedSpread(Result):
    """The same run by several seeds: the mean over them and the sample's standard deviation."""

    runs: dict[int, RowScores]
    mean: float
    sd: float


@dataclass(frozen=True)
class NotebookCost(Result):
    """What it took to execute a notebook, and its main figures in a sentence."""

    seconds: float
    peak_memory_bytes: int
    headline: str = ""


@dataclass(frozen=True)
class FamilyOutcome(Result):
    """What the kit makes of a type of model: "quick" and "another way" are exact, "refused" is one clear error."""

    outcome: str  # or "wrong", "failed", "not built"
    ways: list[str] = field(default_factory=list)  # what is computed another way
    apart: dict[str, float] = field(default_factory=dict)  # by what was compared: the largest difference
    reason: str | None = None


@dataclass(frozen=True)
class Origin(Result):
    """What figures depend on beside versions and machine; `LanguageModel.describe` and `Corpus.record` give two."""

    model: dict[str, JSON] = field(default_factory=dict)
    data: list[dict[str, JSON]] | dict[str, JSON] | None = None
    settings: dict[str, JSON] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord(Result, Generic[F]):
    """A run: what was found, on what, how and where; it holds numbers and counts, never a sentence of others."""

    schema: int = SCHEMA
    name: str
    headline: str  # the main figures in a sentence
    figures: F
    model: dict[str, JSON] = field(default_factory=dict)
    data: list[dict[str, JSON]] | dict[str, JSON] | None = None
    settings: dict[str, JSON] = field(default_factory=dict)
    seed: int | None = None
    command: str
    profile: str | None = None
    date: str | None = None
    versions: dict[str, str]
    machine: dict[str, JSON]
