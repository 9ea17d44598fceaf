"""The paper's analyses on one's own model: training templates, amount of data, seeds.

Each trains what is not trained yet, scores it, and returns a record whose `figures` `plots.analyses` draws.
Interrupted and started again, it goes on: a run is found by its fingerprint. One model is in memory at a time, first
for all training, then for all scoring.
"""

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from sempa_utils import models, profiles, records, training
from sempa_utils.checks import InputError, pick
from sempa_utils.data import corpora
from sempa_utils.data.templates import PARAPHRASE_TEMPLATES
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import sts
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.objectives.objective import settings_of
from sempa_utils.profiles import Profile
from sempa_utils.records import DataSizeCurve, DataSizePoint, RowScores, RunRecord, SeedSpread, TrainingRecord

EXTRACTIONS = ("prompteol", "pretended_cot")  # of the template grid, as in the paper's Table 4
BASE = "base"  # the row of the model without an adapter
SEEDS = (42, 43, 44)  # the first is the seed of every run unless another is named


def template_grid(
    name: str = models.PACKAGED,
    profile: Profile | None = None,
    seed: int = 42,
    directory: str | Path | None = None,
    objective: str = "pairwise",
    tasks: list[str] | None = None,
    show_progress_bar: bool = True,
) -> RunRecord[dict[str, dict[str, RowScores]]]:
    """Train an adapter for each paraphrase template and score each with PromptEOL and Pretended CoT.

    All see the same rows by the same recipe; the untrained base stands first, so the figures are
    {template or "base": {extraction template: scores}}. Raises `InputError` for an objective that asks for no
    paraphrase. Source: SemPA, Table 4.
    """
    if "template" not in settings_of(pick(objective, OBJECTIVES, what="objective")):
        asking = ", ".join(name for name, kind in OBJECTIVES.items() if "template" in settings_of(kind))
        raise InputError(f"{objective} asks for no paraphrase: all templates would be one run. Choose from: {asking}.")
    profile = profile or profiles.get()
    tasks = tasks or corpora.sts_tasks(directory)
    data = _sts_data(tasks, directory, profile, seed)
    changes = [{"template": template, "seed": seed} for template in PARAPHRASE_TEMPLATES]
    runs = _train(name, profile, directory, objective, changes, show_progress_bar)
    base = models.load(name, profile.evaluation_precision)
    adapters = {BASE: None} | {run.recipe["template"]: run.adapter for run in runs}
    figures = {
        label: {method: _score(model, method, tasks, directory, profile, seed) for method in EXTRACTIONS}
        for label, model in _with_each(base, adapters, show_progress_bar)
    }
    means = {(label, method): score.mean.value for label, row in figures.items() for method, score in row.items()}
    best = max(means, key=means.__getitem__)
    headline = (
        f"mean ρ × 100: {means[best]:.2f} at best ({best[0]}, read with {best[1]}); "
        f"the base {' and '.join(f'{means[BASE, method]:.2f} ({method})' for method in EXTRACTIONS)}"
    )
    return _record("templates", figures, headline, base, profile, runs, data, seed)


def data_size_curve(
    name: str = models.PACKAGED,
    profile: Profile | None = None,
    seed: int = 42,
    directory: str | Path | None = None,
    folder: str | Path | None = None,
    objective: str = "pairwise",
    tasks: list[str] | None = None,
    show_progress_bar: bool = True,
) -> RunRecord[DataSizeCurve]:
    """Score the base, each whole checkpoint and the final adapter of one finished run: ρ × 100 by triplets seen.

    `folder` is the run's, by default that of the profile's run, trained if it is not there. The dev split is that of
    STS-B, or of mini-STS where the seven are not there. Raises `InputError` for a folder without a finished run, or
    with one of another base.

    A checkpoint stands in the midst of the run's cosine schedule: a run of that many triplets alone would have come
    to its end. The paper does not say which of the two its points are. Source: SemPA, Figure 3.
    """
    profile = profile or profiles.get()
    tasks = tasks or corpora.sts_tasks(directory)
    dev = [corpora.MINI_STS if corpora.MINI_STS in tasks else "STS-B"]
    data = _sts_data(tasks, directory, profile, seed) + _sts_data(dev, directory, profile, seed, "dev")
    if folder is None:
        [run] = _train(name, profile, directory, objective, [{"seed": seed}], show_progress_bar)
    else:
        run = training.read_record(folder)
    if run is None:
        raise InputError(
            f"{folder}: no finished run ({training.RECORD} is not there). Name the folder that `train` was given as "
            "--output, or give the same command again to finish it."
        )
    base = models.load(name, profile.evaluation_precision)
    models.check_adapter(base, run.adapter)  # it alone has a note of its base
    method = run.recipe.get("extraction_template", "prompteol")
    points = []
    for triplets, model in _with_each(base, {0: None} | training.adapters_by_rows(run), show_progress_bar):
        test = _score(model, method, tasks, directory, profile, seed)
        of_dev = _score(model, method, dev, directory, profile, seed, "dev")
        points.append(DataSizePoint(triplets, of_dev.mean.value, test))
    first, last, best = points[0], points[-1], max(points, key=lambda point: point.dev)
    headline = (
        f"{dev[0]} dev ρ × 100: {first.dev:.2f} on the base, {last.dev:.2f} after {last.triplets:,} triplets; "
        f"best {best.dev:.2f} after {best.triplets:,}, where the test mean is {best.test.mean.value:.2f}"
    )
    return _record("data_size", DataSizeCurve(dev[0], points), headline, base, profile, [run], data, seed)


def seed_spread(
    name: str = models.PACKAGED,
    profile: Profile | None = None,
    seeds=SEEDS,
    seed: int = 42,
    directory: str | Path | None = None,
    objective: str = "pairwise",
    tasks: list[str] | None = None,
    show_progress_bar: bool = True,
) -> RunRecord[SeedSpread]:
    """Train the same run with several seeds; return each one's mean ρ × 100, their mean and standard deviation.

    A run's seed moves the adapter's first weights, which rows are drawn, and their order; `seed` draws the pairs,
    the same for all. The standard deviation is the sample's (ddof 1), as in the paper: three seeds, 78.10 and 0.36.
    Raises `InputError` unless there are two different seeds or more. Source: SemPA, Table 8.
    """
    seeds = list(seeds)
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise InputError(f"A standard deviation needs at least two seeds, all different, not {seeds}.")
    profile = profile or profiles.get()
    tasks = tasks or corpora.sts_tasks(directory)
    data = _sts_data(tasks, directory, profile, seed)
    runs = _train(name, profile, directory, objective, [{"seed": number} for number in seeds], show_progress_bar)
    base = models.load(name, profile.evaluation_precision)
    method = runs[0].recipe.get("extraction_template", "prompteol")
    adapters = {run.recipe["seed"]: run.adapter for run in runs}
    scored = {
        label: _score(model, method, tasks, directory, profile, seed)
        for label, model in _with_each(base, adapters, show_progress_bar)
    }
    means = [scores.mean.value for scores in scored.values()]
    spread = SeedSpread(scored, float(np.mean(means)), float(np.std(means, ddof=1)))
    headline = f"{len(seeds)} seeds: mean ρ × 100 {spread.mean:.2f}, standard deviation {spread.sd:.2f}"
    return _record("seeds", spread, headline, base, profile, runs, data, seed)


def _sts_data(tasks: list[str], directory, profile: Profile, seed: int, split: str = "test") -> list[dict]:
    """Return the records of the pairs to be scored: missing or broken ones are found before anything is trained."""
    return [corpora.load_sts(task, directory, split=split).sample(profile.sts_pairs, seed).record() for task in tasks]


def _train(
    name: str, profile: Profile, directory, objective: str, changes: list[dict], show: bool
) -> list[TrainingRecord]:
    """Train a run for each change of the profile's recipe, or find it trained; return their records.

    Rows and folders are those of `training.train_profile`, so what it trained is found here and the other way round.
    """
    base, runs = models.load(name, profile.precision), []
    for change in tqdm(changes, desc="training", unit="run", disable=not show):
        recipe, corpus, _ = training.profile_run(profile, objective, directory=directory, **change)
        folder = training.run_folder(base, corpus, recipe=recipe)
        runs.append(training.train(base, corpus, recipe=recipe, folder=folder))
    del base
    gc.collect()  # a trainer refers to itself, and would keep the base in memory beside the next
    return runs


def _with_each(base: models.LanguageModel, adapters: dict, show: bool) -> Iterator[tuple]:
    """Yield (label, the base with that adapter on it) for {label: folder, or None for the bare base}."""
    for label, folder in tqdm(adapters.items(), desc="scoring", unit="adapter", disable=not show):
        with models.adapted(base, folder) as model:
            yield label, model


def _score(language_model, method, tasks, directory, profile: Profile, seed: int, split: str = "test") -> RowScores:
    pairs = sts.load_tasks(tasks, directory, split=split, limit=profile.sts_pairs, seed=seed)
    return sts.row_scores(sts.evaluate(Embedder(language_model, method), pairs))


def _record(name: str, figures, headline: str, base, profile: Profile, runs, data: list, seed: int) -> RunRecord:
    recipes = [run.recipe for run in runs]
    settings = {key: value for key, value in recipes[0].items() if all(recipe[key] == value for recipe in recipes)}
    settings |= {"training_precision": runs[0].model["precision"], "pairs_per_task": profile.sts_pairs}
    settings |= {"adapters": [run.adapter_fingerprint for run in runs]}
    headline += f"; {profile.sts_pairs} pairs a task at most" if profile.sts_pairs else ""
    trained_on = list({run.data["fingerprint"]: run.data for run in runs}.values())
    origin = records.Origin(base.describe(), trained_on + data, settings, seed)
    return records.run_record(name, figures, headline=headline, origin=origin)
