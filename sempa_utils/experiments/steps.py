"""What is measured of every run of the grid: a step each, with what its figures depend on and the tables made of them.

A step computes its figures from a run's `Work`; `grid` keeps them and writes them into the run's record. A new step is
a function, a field of `records.GridFigures` and a line of `STEPS`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from sempa_utils import models, training
from sempa_utils.data.corpora import Corpus, letters, sentences
from sempa_utils.embedding import Embedder, embedder
from sempa_utils.evaluation import geometry, sts
from sempa_utils.evaluation.generation import Benchmarks, comparison, evaluate, gold_answers, harness, signals
from sempa_utils.experiments.series import BASE
from sempa_utils.records import (
    DevFigures,
    FrontierPoint,
    GenerationFigures,
    GridFigures,
    LayerFigures,
    RowScores,
    StsFigures,
    TaskScore,
    TrainingRecord,
)

Scores = TypeVar("Scores")


@dataclass(frozen=True)
class Sizes:
    """How much each step takes. None means all there is."""

    triplets: int | None = None
    sts_pairs: int | None = None  # a task; with a number the figures are not the published measure
    frontier_pairs: int = 500  # of STS-B dev, for a checkpoint's figure
    frontier_points: int = 4  # checkpoints of a run, closer to each other at its start
    text_tokens: int = 8000  # that the perplexity is taken over
    held_out: int = 60  # NLI rows of the kit's own for preference accuracy and paraphrases
    generation_items: int | None = 40  # a benchmark
    gold_items: int | None = gold_answers.ITEMS  # a benchmark, whose right answers are read
    dev_pairs: int | None = 500  # a dev task

    def recorded(self) -> dict[str, Any]:
        """Return what a run's record keeps of the sizes; of some steps the figures' own data tell how much it was."""
        return {name: value for name, value in asdict(self).items() if name not in ("dev_pairs", "gold_items")}


@dataclass(frozen=True)
class Data:
    """What is read of every run."""

    tasks: dict[str, Corpus]
    dev: Corpus
    text: Corpus
    held_out: Corpus
    benchmarks: Benchmarks
    benchmark_data: dict[str, dict] | None  # the records of the benchmarks' data, where they are to be run
    dev_tasks: dict[str, Corpus] | None  # where they are to be scored
    gold: dict[str, gold_answers.GoldTask] | None  # the benchmarks' right answers, where they are to be read

    def records(self) -> list[dict]:
        """Return the records of all but the benchmarks and the dev tasks, whose steps tell their own."""
        return [corpus.record() for corpus in (*self.tasks.values(), self.dev, self.text, self.held_out)]


@dataclass(frozen=True)
class Work:
    """A run of the grid: base, training rows, what came of training (None for the base), and what is read of it."""

    name: str
    base: models.LanguageModel
    rows: Corpus
    trained: TrainingRecord | None
    data: Data
    sizes: Sizes
    seed: int

    def model(self, adapter: Path | None = None) -> AbstractContextManager[models.LanguageModel]:
        """Give the base with an adapter, by default the run's own, for a `with` block."""
        return models.adapted(self.base, adapter or (self.trained.adapter if self.trained else None))

    def beside_the_base(self, score: Callable[[models.LanguageModel], Scores]) -> dict[str, Scores]:
        """Return {BASE: what `score` gives of the base, run: of the run's model}; the base's is kept from before."""
        rows = {BASE: score(self.base)}
        if self.trained:
            with self.model() as model:
                rows[self.name] = score(model)
        return rows


@dataclass(frozen=True)
class Step:
    """A measure of every run."""

    compute: Callable[[Work], Any]
    reads: Callable[[Work], list]  # what tells its data from others
    sizes: tuple[str, ...] = ()  # that its data do not tell
    producers: tuple[ModuleType, ...] = ()  # whose arithmetic its figures are, each with a REVISION
    headline: Callable[[Any, Work], str] | None = None  # its main figure in words
    revision: int = 1  # of what it makes of that


def _sts(work: Work) -> StsFigures:
    """Score the STS tasks with PromptEOL, beside the base on the same pairs; and without the training sentences."""
    rows = work.beside_the_base(lambda model: sts.evaluate(Embedder(model), work.data.tasks, show_progress_bar=True))
    trained = _trained_on(work)
    scores = {}
    for name, task in work.data.tasks.items():
        unseen = np.array([trained.isdisjoint(sentences(pair)) for pair in task.rows])
        scored = rows[work.name][name]
        scores[name] = TaskScore(sts.spearman(scored.similarities[unseen], scored.human[unseen]), int(unseen.sum()))
    return StsFigures(sts.summary(rows, BASE, seed=work.seed).rows[work.name], RowScores.of(scores))


def _trained_on(work: Work) -> set[str]:
    return {sentence for row in work.rows.rows for sentence in sentences(row)}


def _dev_tasks(work: Work) -> DevFigures:
    """Score the dev tasks with PromptEOL, beside the base on the same pairs; count the training rows they know."""
    tasks = work.data.dev_tasks or {}
    rows = work.beside_the_base(lambda model: sts.evaluate(Embedder(model), tasks, show_progress_bar=True))
    known = {name: [task] for name, task in tasks.items()} | {"any": list(tasks.values())}
    shared = {name: len(work.rows) - len(work.rows.apart_from(of)) for name, of in known.items()}
    scores = sts.summary(rows, BASE, seed=work.seed).rows[work.name]
    return DevFigures(scores, [task.record() for task in tasks.values()], shared if work.trained else {})


def _geometry(work: Work) -> dict[str, int | float]:
    """Measure the space of STS-B dev's sentences, read with PromptEOL."""
    sentences = list(dict.fromkeys(sentence for pair in work.data.dev.rows for sentence in pair[:2]))
    with work.model() as model:
        vectors = Embedder(model).encode(sentences, show_progress_bar=True)
    return {
        "sentences": len(sentences),
        "uniformity": geometry.uniformity(vectors),
        "isotropy": geometry.isotropy(vectors),
        "isotropy_both_signs": geometry.isotropy(vectors, sign="both"),
        "average_cosine": geometry.average_cosine(vectors),
        "effective_rank": geometry.effective_rank(vectors),
    }


def _layers(work: Work) -> LayerFigures:
    """Follow PromptEOL's state up the layers: STS-B dev at each, and how far training has moved it."""
    pairs = work.data.dev.rows
    sentences = [pair.first for pair in pairs] + [pair.second for pair in pairs]
    before = Embedder(work.base).encode_layers(sentences, show_progress_bar=True)
    with work.model() as model:
        after = Embedder(model).encode_layers(sentences, show_progress_bar=True) if work.trained else before
    scores = sts.layer_scores(after, [pair.score for pair in pairs])
    rhos = [scores.get(layer) for layer in range(len(after))]
    if not work.trained:
        return LayerFigures(rhos)
    moved, moved_alike = zip(*(geometry.displacement(old, new) for old, new in zip(before, after)))
    return LayerFigures(rhos, list(moved), list(moved_alike))


def _signals(work: Work) -> dict[str, float]:
    """Take the cheap signals: perplexity of a text, preference, paraphrases, entropy."""
    rows, limit = work.data.held_out.rows, work.sizes.text_tokens
    with work.model() as model:
        return signals.signals(model, work.data.text.rows, rows=rows, limit=limit, show_progress_bar=True)


def _frontier(work: Work) -> list[FrontierPoint]:
    """Follow STS-B dev and perplexity over the checkpoints of the run."""
    if not work.trained:
        return [_point(work, work.base, 0)]
    adapters = list(training.adapters_by_rows(work.trained).items())
    # The first ones lie nearer to each other: most happens early.
    places = np.geomspace(1, len(adapters), work.sizes.frontier_points).round().astype(int) - 1
    points = []
    for rows, folder in tqdm([adapters[place] for place in np.unique(places)], desc="checkpoints"):
        with work.model(folder) as model:
            points.append(_point(work, model, rows))
    return points


def _point(work: Work, model: models.LanguageModel, rows: int) -> FrontierPoint:
    scored = sts.score_task(Embedder(model).encode, work.data.dev)
    surprise = signals.perplexity(model, work.data.text.rows, limit=work.sizes.text_tokens)
    return FrontierPoint(rows, scored.score.value, surprise.value)


def _generation(work: Work) -> GenerationFigures:
    """Run the benchmarks, beside the base on the same items."""
    rows = work.beside_the_base(lambda model: evaluate(model, work.data.benchmarks))
    results = rows[work.name]
    data = {task: result.data | {"metric": result.metric, "shots": result.shots} for task, result in results.items()}
    return GenerationFigures(comparison(rows, BASE).rows[work.name], data)


def _gold_answers(work: Work) -> GenerationFigures:
    """Read the benchmarks' right answers, beside the base; count the items that hold a sentence of the training."""
    tasks = work.data.gold or {}
    rows = work.beside_the_base(lambda model: gold_answers.evaluate(model, tasks))
    trained, data = _trained_on(work), {}
    for name, result in rows[work.name].items():
        seen = sum(any(letters(part) in trained for part in gold_answers.sentences(item)) for item in tasks[name].items)
        told = {"metric": result.metric, "tokens": int(result.all_metrics["tokens"])}
        data[name] = result.data | told | {"items_with_a_training_sentence": seen}
    return GenerationFigures(comparison(rows, BASE).rows[work.name], data)


def _sts_headline(figures: StsFigures, work: Work) -> str:
    pairs = f", {work.sizes.sts_pairs} pairs a task" if work.sizes.sts_pairs else ""
    return f"{len(work.data.tasks)} STS tasks{pairs}: mean {figures.scores.mean.value:.2f}"


def _frontier_headline(points: list[FrontierPoint], work: Work) -> str:
    last = points[-1]
    return f"after {last.rows:,} rows STS dev {last.sts:.2f}, perplexity {last.perplexity:.2f}"


def _dev(work: Work) -> list:
    return [work.data.dev.fingerprint]


STEPS: dict[str, Step] = {
    "sts": Step(
        _sts,
        lambda work: [*(task.fingerprint for task in work.data.tasks.values()), work.rows.fingerprint],
        producers=(embedder, sts),
        headline=_sts_headline,
    ),
    "geometry": Step(_geometry, _dev, producers=(embedder, geometry)),
    "layers": Step(_layers, _dev, producers=(embedder, sts, geometry)),
    "signals": Step(
        _signals,
        lambda work: [work.data.text.fingerprint, work.data.held_out.fingerprint],
        sizes=("text_tokens",),
        producers=(signals,),
        headline=lambda figures, work: f"perplexity {figures['perplexity']:.2f}",
    ),
    "frontier": Step(
        _frontier,
        lambda work: [work.data.dev.fingerprint, work.data.text.fingerprint],
        sizes=("frontier_points", "text_tokens"),
        producers=(embedder, sts, signals),
        headline=_frontier_headline,
    ),
    "generation": Step(
        _generation,
        lambda work: [work.data.benchmark_data],
        sizes=("generation_items",),
        producers=(harness,),
        headline=lambda figures, work: f"generation mean {figures.scores.mean.value:.1f}",
    ),
    "dev": Step(
        _dev_tasks,
        lambda work: [*(task.fingerprint for task in (work.data.dev_tasks or {}).values()), work.rows.fingerprint],
        producers=(embedder, sts),
        headline=lambda figures, work: f"{len(figures.scores.tasks)} dev tasks: mean {figures.scores.mean.value:.2f}",
    ),
    "gold_answers": Step(
        _gold_answers,
        lambda work: [*(task.data for task in (work.data.gold or {}).values()), work.rows.fingerprint],
        producers=(harness, gold_answers),
        headline=lambda figures, work: f"gold answers {figures.scores.mean.value:.3f} nats per token",
    ),
}


def headline(figures: GridFigures, work: Work) -> str:
    """Return the main figures of a run in a sentence; of the frontier where the STS tasks were not scored."""
    of_step: Mapping[str, Any] = {name: getattr(figures, name) for name in STEPS}
    told = [name for name in STEPS if of_step[name] and not (name == "frontier" and figures.sts)]
    words = [step(of_step[name], work) for name in told if (step := STEPS[name].headline)]
    return f"{work.name}: {'; '.join(words)}"
