"""The paper's analyses on one's own model: training templates, amount of data, seeds.

Each trains what is not trained yet, scores it, and returns a record whose `figures` `plots.analyses` draws.
Interrupted and started again, it goes on: a run is found by its fingerprint. One model is in memory at a time, first
for all training, then for all scoring.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sempa_utils import models, records, training
from sempa_utils.checks import InputError, pick
from sempa_utils.data import corpora
from sempa_utils.data.templates import PARAPHRASE_TEMPLATES
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import sts
from sempa_utils.experiments.series import BASE, Planned, Setting, each_model, trained_runs
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.objectives.objective import settings_of
from sempa_utils.records import DataSizeCurve, DataSizePoint, RowScores, RunRecord, SeedSpread, TrainingRecord

EXTRACTIONS = ("prompteol", "pretended_cot")  # of the template grid, as in the paper's Table 4
SEEDS = (42, 43, 44)  # the first is the seed of every run unless another is named
Tasks = dict[str, corpora.Corpus]


def template_grid(
    setting: Setting, objective: str = "pairwise", *, tasks: list[str] | None = None
) -> RunRecord[dict[str, dict[str, RowScores]]]:
    """Train an adapter for each paraphrase template and score each with PromptEOL and Pretended CoT.

    All see the same rows by the same recipe; the untrained base stands first, so the figures are
    {template or "base": {extraction template: scores}}. Raises `InputError` for an objective that asks for no
    paraphrase. Source: SemPA, Table 4.
    """
    if "template" not in settings_of(pick(objective, OBJECTIVES, what="objective")):
        asking = ", ".join(name for name, kind in OBJECTIVES.items() if "template" in settings_of(kind))
        raise InputError(f"{objective} asks for no paraphrase: all templates would be one run. Choose from: {asking}.")
    test = _tasks(setting, tasks)
    runs = trained_runs(setting, {name: _planned(setting, objective, template=name) for name in PARAPHRASE_TEMPLATES})
    base = setting.load(setting.profile.evaluation_precision)
    figures = {
        label: {method: _score(model, method, test) for method in EXTRACTIONS}
        for label, model in each_model(base, {BASE: None} | {name: run.adapter for name, run in runs.items()})
    }
    means = {(label, method): score.mean.value for label, row in figures.items() for method, score in row.items()}
    best = max(means, key=lambda cell: means[cell])
    headline = (
        f"mean ρ × 100: {means[best]:.2f} at best ({best[0]}, read with {best[1]}); "
        f"the base {' and '.join(f'{means[BASE, method]:.2f} ({method})' for method in EXTRACTIONS)}"
    )
    return _record("templates", figures, headline=headline, origin=_origin(setting, base, runs, test))


def data_size_curve(
    setting: Setting,
    objective: str = "pairwise",
    *,
    tasks: list[str] | None = None,
    folder: str | Path | None = None,
) -> RunRecord[DataSizeCurve]:
    """Score the base, each whole checkpoint and the final adapter of one finished run: ρ × 100 by triplets seen.

    `folder` is the run's, by default that of the profile's run, trained if it is not there. The dev split is that of
    `corpora.dev_task`. Raises `InputError` for a folder without a finished run, or with one of another base.

    A checkpoint stands in the midst of the run's cosine schedule: a run of that many triplets alone would have come
    to its end. The paper does not say which of the two its points are. Source: SemPA, Figure 3.
    """
    test, dev_task = _tasks(setting, tasks), corpora.dev_task(setting.directory)
    dev = sts.load_tasks([dev_task], setting.directory, split="dev", limit=setting.profile.sts_pairs, seed=setting.seed)
    if folder is None:
        run = trained_runs(setting, {objective: _planned(setting, objective)})[objective]
    elif (run := training.read_record(folder)) is None:
        raise InputError(
            f"{folder}: no finished run ({training.RECORD} is not there). Name the folder that `train` was given as "
            "--output, or give the same command again to finish it."
        )
    base = setting.load(setting.profile.evaluation_precision)
    models.check_adapter(base, run.adapter)  # it alone has a note of its base
    points = []
    for triplets, model in each_model(base, {0: None} | training.adapters_by_rows(run)):
        of_test, of_dev = (_score(model, _method(run), each) for each in (test, dev))
        points.append(DataSizePoint(triplets, of_dev.mean.value, of_test))
    first, last, best = points[0], points[-1], max(points, key=lambda point: point.dev)
    headline = (
        f"{dev_task} dev ρ × 100: {first.dev:.2f} on the base, {last.dev:.2f} after {last.triplets:,} triplets; "
        f"best {best.dev:.2f} after {best.triplets:,}, where the test mean is {best.test.mean.value:.2f}"
    )
    origin = _origin(setting, base, {objective: run}, test | {f"{name} dev": task for name, task in dev.items()})
    return _record("data_size", DataSizeCurve(dev_task, points), headline=headline, origin=origin)


def seed_spread(
    setting: Setting, objective: str = "pairwise", *, tasks: list[str] | None = None, seeds=SEEDS
) -> RunRecord[SeedSpread]:
    """Train the same run with several seeds; return each one's mean ρ × 100, their mean and standard deviation.

    A run's seed moves the adapter's first weights, which rows are drawn, and their order; the setting's draws the
    pairs, the same for all. The standard deviation is the sample's (ddof 1), as in the paper: three seeds, 78.10 and
    0.36. Raises `InputError` unless there are two different seeds or more. Source: SemPA, Table 8.
    """
    seeds = list(seeds)
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise InputError(f"A standard deviation needs at least two seeds, all different, not {seeds}.")
    test = _tasks(setting, tasks)
    runs = trained_runs(setting, {number: _planned(setting, objective, seed=number) for number in seeds})
    base = setting.load(setting.profile.evaluation_precision)
    adapters = {number: run.adapter for number, run in runs.items()}
    scored = {number: _score(model, _method(runs[number]), test) for number, model in each_model(base, adapters)}
    means = [scores.mean.value for scores in scored.values()]
    spread = SeedSpread(scored, float(np.mean(means)), float(np.std(means, ddof=1)))
    headline = f"{len(seeds)} seeds: mean ρ × 100 {spread.mean:.2f}, standard deviation {spread.sd:.2f}"
    return _record("seeds", spread, headline=headline, origin=_origin(setting, base, runs, test))


def _tasks(setting: Setting, names: list[str] | None) -> Tasks:
    """Return the pairs to be scored: missing or broken ones are found before anything is trained."""
    return sts.load_tasks(names, setting.directory, limit=setting.profile.sts_pairs, seed=setting.seed)


def _planned(setting: Setting, objective: str, **changes) -> Callable[[models.LanguageModel], Planned]:
    """Plan a run of the profile's recipe with changes: what `training.train_profile` trains is found here too."""

    def plan(base: models.LanguageModel) -> Planned:
        on: dict[str, Any] = {"parameters": base.parameters, "directory": setting.directory, "seed": setting.seed}
        run = training.profile_run(setting.profile, objective, **on | changes)
        return Planned(run.recipe, run.corpus)

    return plan


def _method(run: TrainingRecord) -> str:
    """Return the method that reads what was trained: of a slot its template's, of answers PromptEOL."""
    return run.recipe.get("extraction_template", "prompteol")


def _score(model: models.LanguageModel, method: str, tasks: Tasks) -> RowScores:
    return sts.row_scores(sts.evaluate(Embedder(model, method), tasks))


def _record(name: str, figures, *, headline: str, origin: records.Origin) -> RunRecord:
    pairs = origin.settings["pairs_per_task"]
    headline += f"; {pairs} pairs a task at most" if pairs else ""
    return records.run_record(name, figures, headline=headline, origin=origin)


def _origin(
    setting: Setting, base, runs: Mapping[str, TrainingRecord] | Mapping[int, TrainingRecord], tasks: Tasks
) -> records.Origin:
    recipes = [run.recipe for run in runs.values()]
    settings = {key: value for key, value in recipes[0].items() if all(recipe[key] == value for recipe in recipes)}
    settings |= {"training_precision": next(iter(runs.values())).model["precision"]}
    settings |= {"pairs_per_task": setting.profile.sts_pairs}
    settings |= {"adapters": [run.adapter_fingerprint for run in runs.values()]}
    trained_on = list({run.data["fingerprint"]: run.data for run in runs.values()}.values())
    return records.Origin(
        base.describe(), trained_on + [task.record() for task in tasks.values()], settings, setting.seed
    )
