"""What every series of runs is made of: a setting, runs that are trained or found, and models to measure."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

from tqdm.auto import tqdm

from sempa_utils import models, profiles, training
from sempa_utils.checks import InputError, build_folder, fingerprint
from sempa_utils.data.corpora import Corpus
from sempa_utils.profiles import Profile
from sempa_utils.records import CurveMean, TrainingRecord
from sempa_utils.training import Recipe

BASE = "base"  # the row of the model without an adapter
Label = TypeVar("Label", str, int)


@dataclass(frozen=True)
class Setting:
    """On what a series is run: the base, sizes and precisions, the data directory, what draws the samples."""

    model: str = models.PACKAGED
    profile: Profile = field(default_factory=profiles.get)
    directory: str | Path | None = None
    seed: int = 42
    precision: str | None = None  # None: the profile's for training

    def load(self, precision: str | None = None) -> models.LanguageModel:
        """Return the base, by default in the setting's precision."""
        return models.load(self.model, precision or self.precision or self.profile.precision)


class Planned(NamedTuple):
    """A run before it is trained."""

    recipe: Recipe
    corpus: Corpus


def trained(base: models.LanguageModel, planned: Planned) -> TrainingRecord:
    """Return the record of a run, trained now if it is not finished."""
    folder = training.run_folder(base, planned.corpus, recipe=planned.recipe)
    return training.train(base, planned.corpus, recipe=planned.recipe, folder=folder)


def finished(base: models.LanguageModel, planned: Planned) -> TrainingRecord | None:
    """Return the record of a finished run, or None."""
    return training.read_record(training.run_folder(base, planned.corpus, recipe=planned.recipe))


def averaged_folder(runs: Sequence[TrainingRecord], times: float) -> Path:
    """Return where the mean of runs' adapters lies, `times` as far from the base."""
    return build_folder() / "adapters" / fingerprint("mean", *(run.adapter_fingerprint for run in runs), f"{times:g}")


def averaged(
    base: models.LanguageModel, runs: Sequence[TrainingRecord], *, corpus: Corpus, times: float = 1.0
) -> TrainingRecord:
    """Return runs of one recipe as one run on their rows together, `corpus`: their adapters' mean, made if not there.

    The mean lies `times` as far from the base as it is: more than 1 goes on where training stopped (Zheng et al. 2024,
    *Model extrapolation expedites alignment*). Steps, seconds and rows that were too long are the runs' sums, means of
    the curve their means. Raises `InputError` where two of the runs are one, as with a seed that another names.
    """
    if len({run.adapter_fingerprint for run in runs}) < len(runs):
        raise InputError("Two of the runs whose mean is asked for are the same. Give a --seed that none of them names.")
    folder = averaged_folder(runs, times)
    adapter = folder / "adapter"
    if not adapter.is_dir():
        models.combine_adapters(base, {run.adapter: times / len(runs) for run in runs}, folder=adapter)
    last = {one.name: fmean(getattr(run.last_quarter, one.name) for run in runs) for one in fields(CurveMean)}
    return replace(
        runs[0],
        fingerprint=folder.name,
        data=corpus.record(),
        last_quarter=CurveMean(**last),
        steps=sum(run.steps for run in runs),
        rows_too_long=sum(run.rows_too_long for run in runs),
        seconds=sum(run.seconds for run in runs),
        peak_memory_bytes=max(run.peak_memory_bytes for run in runs),
        triplets_per_second=None,
        adapter=adapter,
        adapter_fingerprint=models.adapter_fingerprint(adapter),
    )


def trained_runs(
    setting: Setting, runs: Mapping[Label, Callable[[models.LanguageModel], Planned]]
) -> dict[Label, TrainingRecord]:
    """Return each run's record, planned for the base and trained now if it is not there; no model is left in memory."""
    base = setting.load()
    done = {label: trained(base, plan(base)) for label, plan in tqdm(runs.items(), desc="training", unit="run")}
    del base
    gc.collect()  # a trainer refers to itself, and would keep the base in memory beside the next
    return done


def each_model(
    base: models.LanguageModel, adapters: Mapping[Label, Path | None]
) -> Iterator[tuple[Label, models.LanguageModel]]:
    """Yield (label, the base with that adapter on it) for {label: folder, or None for the bare base}."""
    for label, folder in tqdm(adapters.items(), desc="scoring", unit="adapter"):
        with models.adapted(base, folder) as model:
            yield label, model
