"""The record: a grid of runs on one base model, each trained, scored and made to speak, one JSON record each.

A run goes through the `STEPS`; each keeps its figures, so `run` goes on where it stopped, and a second call computes
nothing. What could be chosen was chosen on STS-B dev, of which three in four pairs turned out to be pairs of STS12–16;
the dev tasks have none of these. The tests are read and never tuned on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sempa_utils import models, records, training
from sempa_utils.checks import InputError, build_folder, pick
from sempa_utils.data import corpora
from sempa_utils.evaluation import sts
from sempa_utils.evaluation.generation import Benchmarks, check_tasks, gold_answers, signals
from sempa_utils.experiments.controls import CONTROLS
from sempa_utils.experiments.series import BASE, Planned, Setting, averaged, averaged_folder, finished, trained
from sempa_utils.experiments.steps import STEPS, Data, Sizes, Work, headline
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.profiles import Profile
from sempa_utils.records import GridFigures, RunRecord, TrainingFigures
from sempa_utils.records.types import F

KL_WEIGHT = 10.0  # of 0, 1 and 10, alike on dev, the one nearest to the base
SAVE_EVERY = 1024  # rows between the checkpoints that the frontier is drawn from


@dataclass(frozen=True)
class Run:
    """An objective and what its recipe changes; None is the base as it is."""

    objective: str | None
    changes: dict = field(default_factory=dict)
    rows: int | None = None  # at most; None: what the sizes say
    control: str | None = None  # of `CONTROLS`: what is taken away from the rows
    mean_of: tuple[str, ...] = ()  # runs of this recipe: their adapters' mean, and nothing is trained
    times: float = 1.0  # as far from the base as their mean is


_ANSWERS = {"micro_batch": 8, "accumulation": 4, "learning_rate": 1e-4}  # the paper's rate
_QUICK = {"micro_batch": 8, "accumulation": 2, "learning_rate": 5e-4}  # the rate that a small model needs
_SLOTS = {"micro_batch": 16, "accumulation": 1, "learning_rate": 5e-4, "chunk": 16}
_WORDS = _SLOTS | {"cache_reference": True}  # the runs that differ by their seed share what the base says
_WHOLE = {"gradient_caching": False}  # a batch of short sentences fits, and a second forward is saved
_KL = {"kl_weight": KL_WEIGHT}


def _seeds(run: str) -> tuple[str, ...]:
    """Return the runs of one recipe that differ by their seed, and so by their draw of the rows."""
    return run, f"{run}_seed_43", f"{run}_seed_44"


RUNS = {
    BASE: Run(None),
    "pairwise": Run("pairwise", _ANSWERS),
    "pairwise_kl": Run("pairwise", _QUICK | _KL),
    "pairwise_kl_2048": Run("pairwise", _QUICK | _KL, 2048),
    "pairwise_kl_2048_seed_43": Run("pairwise", _QUICK | _KL | {"seed": 43}, 2048),
    "pairwise_kl_2048_seed_44": Run("pairwise", _QUICK | _KL | {"seed": 44}, 2048),
    "pairwise_kl_averaged": Run("pairwise", _QUICK | _KL, 2048, mean_of=_seeds("pairwise_kl_2048"), times=1.5),
    "listwise": Run("listwise", _ANSWERS),
    "one_word": Run("one_word", _WORDS),
    "one_word_seed_43": Run("one_word", _WORDS | {"seed": 43}),
    "one_word_seed_44": Run("one_word", _WORDS | {"seed": 44}),
    "one_word_kl": Run("one_word", _WORDS | _KL),
    "one_word_kl_2048": Run("one_word", _WORDS | _KL, 2048),
    "one_word_kl_2048_seed_43": Run("one_word", _WORDS | _KL | {"seed": 43}, 2048),
    "one_word_kl_2048_seed_44": Run("one_word", _WORDS | _KL | {"seed": 44}, 2048),
    "one_word_kl_averaged": Run("one_word", _WORDS | _KL, 2048, mean_of=_seeds("one_word_kl_2048"), times=1.5),
    "contrastive": Run("contrastive", _SLOTS | _WHOLE),
    "contrastive_kl": Run("contrastive", _SLOTS | _WHOLE | _KL),
}
# {adapter that comes with the kit: its run}
FINISHED = {"smollm2-135m-sempa": "pairwise_kl_averaged", "smollm2-135m-contrastive": "contrastive_kl"}
# What a choice in a recipe does, on fewer rows and on dev alone: the first of each objective is the grid's recipe.
TRIALS = {
    "pairwise_2048": Run("pairwise", _ANSWERS, 2048),
    "pairwise_2048_swapped": Run("pairwise", _QUICK, 2048),
    "pairwise_2048_bare": Run("pairwise", _ANSWERS | {"template": "prompteol"}, 2048),
    "pairwise_kl_1024": Run("pairwise", _QUICK | _KL, 1024),
    "pairwise_kl_slower": Run("pairwise", _QUICK | _KL | {"learning_rate": 2e-4}, 1024),
    "pairwise_kl_faster": Run("pairwise", _QUICK | _KL | {"learning_rate": 1e-3}, 1024),
    "pairwise_kl_mean": Run("pairwise", _QUICK | _KL, 2048, mean_of=_seeds("pairwise_kl_2048")),
    "pairwise_kl_mean_twice": Run("pairwise", _QUICK | _KL, 2048, mean_of=_seeds("pairwise_kl_2048"), times=2.0),
    "pairwise_kl_2048_further": Run("pairwise", _QUICK | _KL, 2048, mean_of=_seeds("pairwise_kl_2048")[:1], times=1.5),
    "pairwise_without_entailment": Run("pairwise", _QUICK | _KL, 1024, "without_entailment"),
    "pairwise_without_contradiction": Run("pairwise", _QUICK | _KL, 1024, "without_contradiction"),
    "pairwise_without_either": Run("pairwise", _QUICK | _KL, 1024, "without_either"),
    "pairwise_alike_long": Run("pairwise", _QUICK | _KL, 1024, "alike_long"),
    "listwise_kl_1024": Run("listwise", _QUICK | _KL, 1024),
    "best_of_n_kl_1024": Run("best_of_n", _QUICK | _KL, 1024),
    "one_word_kl_mean": Run("one_word", _WORDS | _KL, 2048, mean_of=_seeds("one_word_kl_2048")),
    "one_word_2048": Run("one_word", _WORDS, 2048),
    "one_word_2048_swapped": Run("one_word", _WORDS | {"accumulation": 2, "learning_rate": 1e-4}, 2048),
    "contrastive_kl_2048": Run("contrastive", _SLOTS | _WHOLE | _KL, 2048),
}
ALL = RUNS | TRIALS
TRIAL_STEPS = ("frontier", "dev")
State = dict[str, dict[str, bool]]  # {run: {"train" or step: whether it is done}}


def state(
    setting: Setting,
    *,
    runs: list[str] | None = None,
    steps: list[str] | None = None,
    sizes: Sizes | None = None,
) -> State:
    """Return what is done of `runs` (keys of `ALL`) and `steps` (of `STEPS`); compute nothing. Errors as in `run`."""
    asked, sizes = _asked(runs, steps), sizes or Sizes()
    base, data = setting.load(), _load(setting, sizes, asked, check_context=False)
    done = {}
    for name, own in asked.items():
        work = _work(name, base, setting=setting, data=data, sizes=sizes)
        ready = name == BASE or work.trained is not None
        done[name] = {"train": ready} | {step: ready and kept(work, step).is_file() for step in own}
    return done


def run(
    setting: Setting,
    *,
    runs: list[str] | None = None,
    steps: list[str] | None = None,
    sizes: Sizes | None = None,
    folder: str | Path | None = None,
    announce: Callable[[str], object] = print,
) -> None:
    """Do what is left of `runs` (keys of `ALL`) and `steps` (of `STEPS`), and `announce` each in a line.

    A trial has but `TRIAL_STEPS`. Training and scoring are in one precision, the setting's. After its steps a run's
    record is written into `folder` (build/records) as reproduce_MODEL_RUN.json, or its new steps are added to the one
    that is there. Raises `InputError` for an unknown run or step, for a record in the way that tells of another run,
    and whatever training and the benchmarks raise.
    """
    asked, sizes = _asked(runs, steps), sizes or Sizes()
    data = _load(setting, sizes, asked, check_context=True)
    base, folder = setting.load(), Path(folder or build_folder() / "records")
    for name, own in asked.items():
        work = _work(name, base, setting=setting, data=data, sizes=sizes, announce=announce)
        for step in own:
            path = kept(work, step)
            if not path.is_file():
                announce(f"{name}: {step}")
                records.write_json(path, GridFigures(**{step: STEPS[step].compute(work)}))
        _write(work, folder, own)


def ship(setting: Setting, run: str, *, name: str, sizes: Sizes | None = None) -> Path:
    """Put a finished run's adapter among those that come with the kit; return its folder."""
    sizes = sizes or Sizes()
    data = _load(setting, sizes, {run: []}, check_context=False)
    work = _work(run, setting.load(), setting=setting, data=data, sizes=sizes)
    if work.trained is None:
        raise InputError(f"{run}: not trained yet in these sizes. Run the command without --state.")
    return models.ship_adapter(work.trained.adapter, name)


def table(state: State) -> str:
    """Return what is done and what is left as lines of text."""
    steps = list(max(state.values(), key=len))
    width = max(map(len, state)) + 2
    lines = [" " * width + "".join(f"{step:>14}" for step in steps)]
    for run, done in state.items():
        words = ["" if step not in done else "done" if done[step] else "left" for step in steps]
        lines.append(f"{run:<{width}}" + "".join(f"{word:>14}" for word in words))
    return "\n".join(lines)


def record_name(model: str, run: str, *, series: str = "reproduce") -> str:
    """Return how the record of a run is called: reproduce_MODEL_RUN, the model by the last part of its name."""
    return f"{series}_{models.plain_name(model).split('/')[-1].lower()}_{run}"


def recipe(run: str, profile: Profile, *, seed: int = 42) -> training.Recipe:
    """Return the recipe of a run, in a profile's sequence length and memory switches."""
    changes = {"seed": seed, "save_every": SAVE_EVERY} | ALL[run].changes
    if (objective := ALL[run].objective) is None:
        raise InputError(f"{run}: the base is not trained, so it has no recipe. Name another run.")
    return training.Recipe.of_profile(profile, objective, **changes)


def training_rows(run: str, setting: Setting, *, held_out: corpora.Corpus, limit: int | None = None) -> corpora.Corpus:
    """Return what a run is trained on, less the held-out rows; for the base, what the triplets' objectives are."""
    if parts := ALL[run].mean_of:
        corpora_of = [training_rows(part, setting, held_out=held_out, limit=limit) for part in parts]
        together = list(dict.fromkeys(row for corpus in corpora_of for row in corpus.rows))
        return corpora_of[0].changed(together, f"rows of {', '.join(parts)}")
    objective = ALL[run].objective
    ranked = objective is not None and OBJECTIVES[objective].ranked
    rows = min((number for number in (ALL[run].rows, limit) if number), default=None)
    corpus = corpora.load_nli(setting.directory, ranked=ranked, seed=setting.seed).without(held_out)
    seed = ALL[run].changes.get("seed", setting.seed)  # another seed is another draw of the rows, too
    if control := ALL[run].control:
        corpus = CONTROLS[control](corpus, seed)
    return corpus.sample(rows, seed)


def kept(work: Work, step: str) -> Path:
    """Return where a step keeps its figures: under the key of all that they depend on."""
    value = STEPS[step]
    run = work.trained and [work.trained.fingerprint, work.trained.adapter_fingerprint]
    depends_on = {
        "base": work.base.identity(),
        "run": run,
        "sizes": {name: getattr(work.sizes, name) for name in value.sizes},
        "seed": work.seed,
        "reads": value.reads(work),
        "schema": records.SCHEMA,
        "producers": {module.__name__: module.REVISION for module in value.producers},
    }
    key = models.figure_key(step, value.revision, packages=("peft", "numpy", "scipy"), **depends_on)
    return build_folder() / "reproduce" / f"{work.name}_{step}_{key}.json"


def _asked(runs: list[str] | None, steps: list[str] | None) -> dict[str, list[str]]:
    """Return {run: its steps} of what is asked for."""
    runs, steps = runs or list(ALL), steps or list(STEPS)
    for run in runs:
        pick(run, ALL, what="run")
    for step in steps:
        pick(step, STEPS, what="step")
    asked = {run: [step for step in steps if run in RUNS or step in TRIAL_STEPS] for run in runs}
    if not all(asked.values()):
        raise InputError(f"A trial is read on dev alone. Name its step: --steps {','.join(TRIAL_STEPS)}.")
    return asked


def _load(setting: Setting, sizes: Sizes, asked: dict[str, list[str]], *, check_context: bool) -> Data:
    """Return what is read of every run; what is wrong with the benchmarks' files is said before hours pass."""
    directory, seed = setting.directory, setting.seed
    benchmarks = Benchmarks(directory=directory, limit=sizes.generation_items, seed=seed)
    wanted = {step for steps in asked.values() for step in steps}
    context_of = setting.model if check_context else None
    benchmark_data = check_tasks(benchmarks, context_of) if "generation" in wanted else None
    gold = gold_answers.load(replace(benchmarks, limit=sizes.gold_items)) if "gold_answers" in wanted else None
    dev = corpora.load_sts(corpora.dev_task(directory), directory, split="dev")
    dev_wanted = any("dev" in steps for steps in asked.values())
    return Data(
        tasks=sts.load_tasks(None, directory, limit=sizes.sts_pairs, seed=seed),
        dev=dev.sample(sizes.frontier_pairs, seed),
        text=signals.load_text(directory),
        # The kit's own rows: a data directory may have nothing else that was not trained on.
        held_out=corpora.packaged_ranked_nli().sample(sizes.held_out, seed),
        benchmarks=benchmarks,
        benchmark_data=benchmark_data,
        dev_tasks=sts.load_dev_tasks(directory, limit=sizes.dev_pairs, seed=seed) if dev_wanted else None,
        gold=gold,
    )


def _work(
    name: str,
    base: models.LanguageModel,
    *,
    setting: Setting,
    data: Data,
    sizes: Sizes,
    announce: Callable[[str], object] | None = None,
) -> Work:
    """Return a run with its training as it is found, or, with `announce`, trained now if it has to be."""
    rows, record = training_rows(name, setting, held_out=data.held_out, limit=sizes.triplets), None
    run, how = ALL[name], {"setting": setting, "data": data, "sizes": sizes, "announce": announce}
    if run.mean_of:
        parts = [part.trained for part in (_work(other, base, **how) for other in run.mean_of) if part.trained]
        if len(parts) == len(run.mean_of) and (announce or averaged_folder(parts, run.times).is_dir()):
            record = averaged(base, parts, corpus=rows, times=run.times)
    elif name != BASE:
        planned = Planned(recipe(name, setting.profile, seed=setting.seed), rows)
        record = finished(base, planned)
        if announce and not record:
            announce(f"{name}: training on {len(rows):,} rows")
            record = trained(base, planned)
    return Work(name, base, rows, record, data, sizes, setting.seed)


def _write(work: Work, folder: Path, steps: list[str]) -> None:
    """Write the run's record with the figures of `steps`, or add those to the record that is there."""
    run, data = work.trained, work.data.records()
    model = work.base.describe() | {"adapter": run and run.adapter_fingerprint}
    settings: dict[str, Any] = {"recipe": run and run.recipe, "sizes": work.sizes.recorded()}
    if parts := ALL[work.name].mean_of:
        settings |= {"mean_of": list(parts), "times": ALL[work.name].times}
    origin = records.Origin(model, [run.data, *data] if run else data, settings, work.seed)
    name = record_name(work.base.name, work.name)
    figures = GridFigures(TrainingFigures.of(run))
    record = records.run_record(name, figures, headline="", origin=origin)
    before = recorded(folder / f"{name}.json", record, kind=GridFigures)
    computed = {step: getattr(records.read_json(kept(work, step), GridFigures), step) for step in steps}
    figures = replace(before.figures if before else figures, **computed)
    if not before or figures != before.figures:  # else the record says when and by what command it was made
        records.save_run(replace(record, figures=figures, headline=headline(figures, work)), folder)


def recorded(path: Path, record: RunRecord, *, kind: type[F]) -> RunRecord[F] | None:
    """Return the record at `path` with figures of a `kind`; None where there is none.

    Raises `InputError` unless it depends on the same as `record`.
    """
    if not path.is_file():
        return None
    before = records.load_run(path, kind)
    told = [*(one.name for one in fields(records.Origin)), "versions", "machine"]
    other = [name for name in told if getattr(before, name) != getattr(record, name)]
    if other:
        raise InputError(
            f"{path}: this record tells of another run; not alike: {', '.join(other)}. It stays as it is, and what was "
            "computed now is kept. Give the command again with --records FOLDER, or move the file away."
        )
    return before
