"""A recipe found on dev alone: successive halving over training rows, within a budget of minutes.

All candidates of a small grid are trained on a few rows and scored on the dev tasks; the best third goes on to twice
the rows, until one is left, the rows are at an end, or the budget is. Those whose perplexity rises too far rank behind
all others. A longer run starts from the base again and not from the shorter run's weights: the rate of that one has
already fallen to nothing, and a run's schedule is part of its recipe.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from sempa_utils import models, records, training
from sempa_utils.checks import InputError, build_folder, pick
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder, embedder
from sempa_utils.evaluation import sts
from sempa_utils.evaluation.generation import signals
from sempa_utils.experiments.grid import ALL, SAVE_EVERY, record_name, recorded
from sempa_utils.experiments.series import Planned, Setting, trained
from sempa_utils.experiments.steps import Sizes
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.objectives.objective import settings_of
from sempa_utils.records import LeftOut, RunRecord, SearchFigures, SearchPoint

REVISION = 1  # of a candidate's figures; raised with every change that moves one
Changes = dict[str, Any]  # settings of a recipe by name, and "batch": its rows per step


@dataclass(frozen=True)
class Search:
    """What is tried and how it is judged; `values` are the grid, {setting of a recipe, or "batch": its values}."""

    objective: str
    minutes: float = 60.0  # of all training and scoring, an earlier call's included
    first_rows: int = 256
    perplexity_limit: float = 1.0  # % above the base; who is further above ranks behind all others
    values: Mapping[str, tuple] | None = None  # None: `grid_of` the objective

    def __post_init__(self):
        pick(self.objective, OBJECTIVES, what="objective")
        if not (self.minutes > 0 and self.first_rows > 0):
            raise InputError(f"A search of {self.minutes:g} minutes from {self.first_rows} rows on tries nothing.")

    @property
    def grid(self) -> Mapping[str, tuple]:
        """The values that are tried, by setting."""
        return self.values or grid_of(self.objective)

    def candidates(self, seed: int) -> list[Changes]:
        """Return every combination of the values, in an order drawn by `seed`: a short budget is not a corner of it."""
        every = [dict(zip(self.grid, one)) for one in itertools.product(*self.grid.values())]
        return random.Random(seed).sample(every, len(every))


def grid_of(objective: str) -> dict[str, tuple]:
    """Return the values that are tried of an objective: rate, batch, KL weight, and the strength of its own scores."""
    kind = OBJECTIVES[objective]
    strength = "beta" if "beta" in settings_of(kind) else "temperature"
    default = getattr(kind, strength)
    return {
        "learning_rate": (2e-4, 5e-4, 1e-3),
        "batch": (8, 16),
        "kl_weight": (0.0, 10.0),
        strength: (default, 2 * default),
    }


def recipe(search: Search, changes: Changes, *, setting: Setting) -> training.Recipe:
    """Return the recipe of a candidate: the grid's of that objective, in a profile's sizes, with the changes."""
    kind, profile = OBJECTIVES[search.objective], setting.profile
    own = ALL[search.objective].changes if search.objective in ALL else {}
    batch = changes["batch"] if "batch" in changes else own.get("micro_batch", 8) * own.get("accumulation", 1)
    micro = batch if kind.in_batch else min(batch, profile.micro_batch)
    sizes = {"micro_batch": micro, "accumulation": -(-batch // micro), "save_every": SAVE_EVERY, "seed": setting.seed}
    sizes |= {"cache_reference": kind.cacheable}  # candidates share their rows, and so what the base says of them
    other = {name: value for name, value in changes.items() if name != "batch"}
    return training.Recipe.of_profile(profile, search.objective, **own | sizes | other)


def run(
    setting: Setting,
    search: Search,
    *,
    sizes: Sizes | None = None,
    folder: str | Path | None = None,
    announce: Callable[[str], object] = print,
) -> RunRecord[SearchFigures]:
    """Do what is left of a search, `announce` each candidate in a line, and return its record.

    The record is written into `folder` (build/records) as search_MODEL_OBJECTIVE.json after every candidate. What was
    trained and scored before is found again with the seconds that it took, so the same budget gives the same record,
    a larger one goes on, and a smaller one than the record's is that of the record. Of `sizes` it takes triplets, dev
    pairs and text tokens. Rows with a sentence of the dev tasks are left out. Raises `InputError` for a record in the
    way that tells of another search.
    """
    sizes, folder = sizes or Sizes(), Path(folder or build_folder() / "records")
    corpus, dev = _load(setting, search, sizes)
    base = setting.load()
    name = record_name(base.name, search.objective, series="search")
    origin = _origin(setting, search, base, corpus, dev)
    alike = records.run_record(name, None, headline="", origin=origin)
    before = recorded(folder / f"{name}.json", alike, kind=SearchFigures)
    known = before.figures.tried if before else []
    minutes = max(search.minutes, before.figures.minutes if before else 0.0)

    def judge(changes: Changes, rows: int) -> SearchPoint:
        planned = Planned(recipe(search, changes, setting=setting), corpus.sample(rows, setting.seed))
        return _judged(base, planned, changes=changes, dev=dev)

    def save(figures: SearchFigures) -> RunRecord[SearchFigures]:
        found = headline(search.objective, figures)
        record = records.run_record(name, figures, headline=found, origin=origin)
        records.save_run(record, folder)
        return record

    start = SearchFigures(minutes, search.perplexity_limit, _judged(base, None, changes={}, dev=dev), [], [])
    rungs, figures = rungs_to(len(corpus), search.first_rows), start
    for figures in halving(start, search.candidates(setting.seed), rungs=rungs, judge=judge):
        if not figures.left_out:
            announce(described(figures, figures.tried[-1]))
            if figures.tried[-1] not in known:
                save(figures)
    announce(headline(search.objective, figures))
    # A record to which nothing is new says when and by what command it was made.
    same = before and records.plain(before.figures) == records.plain(figures)
    return before if same else save(figures)


def rungs_to(rows: int, first: int) -> list[int]:
    """Return the numbers of rows of a search's rungs: each twice the one before, the last all there are."""
    rungs = [min(first, rows)]
    while rungs[-1] < rows:
        rungs.append(min(2 * rungs[-1], rows))
    return rungs


def halving(
    figures: SearchFigures,
    candidates: list[Changes],
    *,
    rungs: list[int],
    judge: Callable[[Changes, int], SearchPoint],
) -> Iterator[SearchFigures]:
    """Yield the figures after each candidate: all on the first number of rows, on each further one the best third.

    `judge` trains and scores a candidate on so many rows. One that does not fit into the budget by the speed so far is
    not started: then the last figures tell what is left out.
    """
    for rows in rungs:
        for number, changes in enumerate(candidates):
            needed = expected([figures.base, *figures.tried], rows)
            if figures.seconds + needed > 60 * figures.minutes:
                yield replace(figures, left_out=[LeftOut(one, rows, needed) for one in candidates[number:]])
                return
            figures = replace(figures, tried=[*figures.tried, judge(changes, rows)])
            yield figures
        if len(candidates) == 1:
            return
        candidates = [point.changes for point in figures.ranked(rows)][: -(-len(candidates) // 3)]


def expected(points: list[SearchPoint], rows: int) -> float:
    """Return the seconds that a candidate will take by the speed so far; before the first, its scoring alone."""
    known = sum(point.rows for point in points)
    training_seconds = rows * sum(point.training_seconds for point in points) / known if known else 0.0
    return training_seconds + sum(point.scoring_seconds for point in points) / len(points)


def described(figures: SearchFigures, point: SearchPoint) -> str:
    """Return a candidate and what came of it in words, with how much of the budget is gone."""
    what = f"{point.rows:,} rows, {_words(point.changes)}"
    change = f"{figures.change(point):+.1f} %".replace("-", "−")
    spent = f"{figures.seconds / 60:.1f} of {figures.minutes:g} minutes"
    return f"{what}: dev mean {point.scores.mean.value:.2f}, perplexity {change}, {point.seconds:.0f} s ({spent})"


def headline(objective: str, figures: SearchFigures) -> str:
    """Return what was found in a sentence: the best of the longest rung, beside the base; and what was left out."""
    told = f"{objective}: {len(figures.tried)} runs tried; base: dev mean {figures.base.scores.mean.value:.2f}"
    if best := figures.best:
        over = "" if figures.within(best) else f"; none stays within {figures.perplexity_limit:g} % of its perplexity"
        told += f"; best{over}: {described(figures, best)}"
    if rest := figures.left_out:
        told += (
            f"; left out: {len(rest)} on {rest[0].rows:,} rows, each some {rest[0].seconds / 60:.1f} minutes, "
            "and all longer runs"
        )
    return told


def _words(changes: Changes) -> str:
    words = (f"{value:g}" if isinstance(value, float) else str(value) for value in changes.values())
    return ", ".join(map(" ".join, zip(changes, words)))


class _Dev(NamedTuple):
    """What candidates are judged on."""

    tasks: dict[str, corpora.Corpus]
    text: corpora.Corpus
    text_tokens: int


def _load(setting: Setting, search: Search, sizes: Sizes) -> tuple[corpora.Corpus, _Dev]:
    tasks = sts.load_dev_tasks(setting.directory)
    corpus = corpora.load_nli(setting.directory, ranked=OBJECTIVES[search.objective].ranked)
    corpus = corpus.apart_from(tasks.values()).sample(sizes.triplets, setting.seed)
    drawn = {name: task.sample(sizes.dev_pairs, setting.seed) for name, task in tasks.items()}
    return corpus, _Dev(drawn, signals.load_text(setting.directory), sizes.text_tokens)


def _origin(
    setting: Setting, search: Search, base: models.LanguageModel, corpus: corpora.Corpus, dev: _Dev
) -> records.Origin:
    recipes = [recipe(search, one, setting=setting).settings() for one in search.candidates(setting.seed)]
    settings = {
        "values": search.grid,
        "recipe": {key: value for key, value in recipes[0].items() if all(one[key] == value for one in recipes)},
        "first_rows": search.first_rows,
        "perplexity_limit": search.perplexity_limit,
        "text_tokens": dev.text_tokens,
    }
    data = [one.record() for one in (corpus, *dev.tasks.values(), dev.text)]
    return records.Origin(base.describe(), data, settings, setting.seed)


def _judged(base: models.LanguageModel, planned: Planned | None, *, changes: Changes, dev: _Dev) -> SearchPoint:
    """Return the figures of a candidate, or of the base; they are kept by all that they depend on."""
    started = time.perf_counter()
    run = trained(base, planned) if planned else None
    training_seconds = max(run.seconds, time.perf_counter() - started) if run else 0.0  # found again: what it took then
    depends_on = {
        "base": base.identity(),
        "run": run and [run.fingerprint, run.adapter_fingerprint],
        "data": [*(task.fingerprint for task in dev.tasks.values()), dev.text.fingerprint, dev.text_tokens],
        "schema": records.SCHEMA,
        "producers": {module.__name__: module.REVISION for module in (embedder, sts, signals)},
    }
    key = models.figure_key("search", REVISION, packages=("peft", "numpy", "scipy"), **depends_on)
    path = build_folder() / "search" / f"{key}.json"
    if not path.is_file():
        started = time.perf_counter()
        with models.adapted(base, run.adapter if run else None) as model:
            scores = sts.row_scores(sts.evaluate(Embedder(model), dev.tasks, show_progress_bar=True))
            surprise = signals.perplexity(model, dev.text.rows, limit=dev.text_tokens).value
        seconds = time.perf_counter() - started
        rows = len(planned.corpus) if planned else 0
        records.write_json(path, SearchPoint(changes, rows, scores, surprise, training_seconds, seconds))
    return records.read_json(path, SearchPoint)
