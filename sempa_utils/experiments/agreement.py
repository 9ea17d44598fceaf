"""Which kind of sentence pairs foretells the rest: what the records tell of a dev set's worth.

A dev set is good if it orders runs as the tests do, and if a gain on it is a gain there. The recorded runs were scored
on the tests, part by part; so each kind of data is held against the tasks that it has no part in.
"""

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from sempa_utils.data.corpora import STS_TASKS
from sempa_utils.experiments.series import BASE
from sempa_utils.records import TaskScore

Part = tuple[str, str]  # a task and a part of it; the part "" is the whole task
KINDS: dict[str, tuple[Part, ...]] = {task: ((task, ""),) for task in STS_TASKS} | {
    "captions of videos (MSRvid)": (("STS12", "MSRvid"),),
    "captions of images": (("STS14", "images"), ("STS15", "images")),
    "news (MSRpar)": (("STS12", "MSRpar"),),
    "headlines": tuple((task, "headlines") for task in ("STS13", "STS14", "STS15", "STS16")),
    "forums": (("STS14", "deft-forum"), ("STS15", "answers-forums")),
    "MSRvid, MSRpar and SICK-R": (("STS12", "MSRvid"), ("STS12", "MSRpar"), ("SICK-R", "")),
}


class Agreement(NamedTuple):
    """How well the gains over the base on one kind of data foretell those on other data."""

    runs: int  # beside the base
    rank_correlation: float  # of all runs and the base
    error: float  # points by which a run's gain is off, root mean square, if foretold in one proportion


def agreement(here: Mapping[str, float], there: Mapping[str, float]) -> Agreement:
    """Compare {run: ρ × 100} on one kind of data with that on other data, over the runs that have both.

    The proportion is that of least squares through the base's figure. NaN where fewer than two runs stand beside it.
    """
    runs = [run for run in here if run in there and run != BASE]
    if BASE not in here or BASE not in there or len(runs) < 2:
        return Agreement(len(runs), float("nan"), float("nan"))
    ours, theirs = (np.array([row[run] - row[BASE] for run in runs]) for row in (here, there))
    off = theirs - ours * (ours @ theirs) / (ours @ ours)
    order = stats.spearmanr([0.0, *ours], [0.0, *theirs]).statistic
    return Agreement(len(runs), float(order), float(np.sqrt(np.mean(off**2))))


def here_and_there(
    kind: tuple[Part, ...], runs: Mapping[str, Mapping[str, TaskScore]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return {run: mean ρ × 100 over the parts of a kind} and {run: over the tasks that none of them is of}.

    A run that was scored on too few pairs of a part to have a figure there is left out.
    """
    here, there = {}, {}
    for run, tasks in runs.items():
        with contextlib.suppress(KeyError):
            found = [(tasks[task].parts or {})[part] if part else tasks[task].value for task, part in kind]
            here[run] = float(np.mean(found))
            there[run] = float(np.mean([score.value for task, score in tasks.items() if task not in dict(kind)]))
    return here, there
