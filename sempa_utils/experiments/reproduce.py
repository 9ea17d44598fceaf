"""The record: a grid of runs on one base model, each trained, scored and made to speak, one JSON record each.

A run goes through the `STEPS`; each keeps what it found, so `reproduce` goes on where it stopped, and a second
call computes nothing. Whatever could be chosen was chosen on STS-B dev; the tests are read and never tuned on.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from sempa_utils import models, profiles, records, training
from sempa_utils.checks import InputError, build_folder, pick
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder, embedder
from sempa_utils.evaluation import geometry, sts
from sempa_utils.evaluation.generation import Benchmarks, check_tasks, comparison, evaluate, harness, signals
from sempa_utils.evaluation.sts import ScoredTask
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.profiles import Profile

BASE = "base"
HELD = 10.0  # weight of the divergence from the base: of 0, 1 and 10, alike on dev, the one nearest to the base


@dataclass(frozen=True)
class Run:
    """An objective and what its recipe changes; None is the base as it is."""

    objective: str | None
    changes: dict = field(default_factory=dict)
    rows: int | None = None  # at most; None: what the sizes say


_ANSWERS = {"micro_batch": 8, "accumulation": 4}
_SLOTS = {"micro_batch": 16, "accumulation": 1, "chunk": 16}
_WORDS = _SLOTS | {"cache_reference": True}  # the runs that differ by their seed share what the base says
_WHOLE = {"gradient_caching": False}  # a batch of short sentences fits, and a second forward is saved
_HELD = {"kl_weight": HELD}

RUNS = {
    BASE: Run(None),
    "pairwise": Run("pairwise", _ANSWERS),
    "pairwise_kl": Run("pairwise", _ANSWERS | _HELD),
    "listwise": Run("listwise", _ANSWERS),
    "one_word": Run("one_word", _WORDS),
    "one_word_seed_43": Run("one_word", _WORDS | {"seed": 43}),
    "one_word_seed_44": Run("one_word", _WORDS | {"seed": 44}),
    "one_word_kl": Run("one_word", _WORDS | _HELD),
    "contrastive": Run("contrastive", _SLOTS | _WHOLE),
    "contrastive_kl": Run("contrastive", _SLOTS | _WHOLE | _HELD),
}
RECOMMENDED = "contrastive_kl"  # for small models: the point of the frontier whose perplexity is the base's
# What a choice in a recipe does, on fewer rows and on dev alone: the first of each objective is the grid's recipe.
TRIALS = {
    "pairwise_2048": Run("pairwise", _ANSWERS, 2048),
    "pairwise_2048_swapped": Run("pairwise", {"micro_batch": 8, "accumulation": 2, "learning_rate": 5e-4}, 2048),
    "pairwise_2048_bare": Run("pairwise", _ANSWERS | {"template": "prompteol"}, 2048),
    "one_word_2048": Run("one_word", _WORDS, 2048),
    "one_word_2048_swapped": Run("one_word", _WORDS | {"accumulation": 2, "learning_rate": 1e-4}, 2048),
}
ALL = RUNS | TRIALS
SAVE_EVERY = 1024  # rows between the checkpoints that the frontier is drawn from


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


STEPS = {  # and the sizes that a step's data do not tell
    "sts": (),
    "geometry": (),
    "layers": (),
    "signals": ("text_tokens",),
    "frontier": ("frontier_points", "text_tokens"),
    "generation": ("generation_items",),
}
PRODUCERS = {  # the modules whose arithmetic a step's figures are
    "sts": (embedder, sts),
    "geometry": (embedder, geometry),
    "layers": (embedder, sts, geometry),
    "signals": (signals,),
    "frontier": (embedder, sts, signals),
    "generation": (harness,),
}
REVISION = 1  # of what the steps make of that
TRIAL_STEPS = ("frontier",)


def reproduce(
    name: str = models.PACKAGED,
    runs: list[str] | None = None,
    steps: list[str] | None = None,
    profile: Profile | None = None,
    precision: str | None = None,
    directory: str | Path | None = None,
    sizes: Sizes | None = None,
    seed: int = 42,
    folder: str | Path | None = None,
    state_only: bool = False,
    watch: Callable = print,
) -> dict[str, dict[str, bool]]:
    """Do what is left of `runs` (keys of `ALL`) and `steps` (of `STEPS`); return {run: {step: whether it is done}}.

    A trial has but `TRIAL_STEPS`. Training and scoring are in one `precision`, by default the profile's for
    training. After its steps a run's record is written into `folder` (build/records) as reproduce_MODEL_RUN.json, or
    its new steps are added to the one that is there. `state_only` does nothing and says what is done. `watch` is
    called with a line for each step. Raises `InputError` for an unknown run or step, for a record in the way that
    tells of another run, and whatever training and the benchmarks raise.
    """
    runs, steps = runs or list(ALL), steps or list(STEPS)
    for run in runs:
        pick(run, ALL, what="run")
    for step in steps:
        pick(step, STEPS, what="step")
    todo = {run: [step for step in steps if run in RUNS or step in TRIAL_STEPS] for run in runs}
    if not all(todo.values()):
        raise InputError(f"A trial is read on dev alone. Name its step: --steps {','.join(TRIAL_STEPS)}.")
    profile, sizes = profile or profiles.get(), sizes or Sizes()
    benchmarks = None
    if any("generation" in own for own in todo.values()):  # what is wrong with the files is said before hours pass
        items = Benchmarks(directory=directory, limit=sizes.generation_items, seed=seed)
        benchmarks = check_tasks(items, None if state_only else name)
    base = models.load(name, precision or profile.precision)
    data = _Data.load(directory, sizes, seed, benchmarks)
    folder = Path(folder or build_folder() / "records")
    state = {}
    for run, own in todo.items():
        rows = _training_rows(run, data)
        trained = _trained(base, run, rows, profile, seed, train=not state_only, watch=watch)
        work = _Work(base, run, rows, trained, data)
        for step in own:
            if not state_only and not work.path(step).is_file():
                watch(f"{run}: {step}")
                work.keep(step)
        ready = run == BASE or trained is not None
        state[run] = {"train": ready} | {step: ready and work.path(step).is_file() for step in own}
        if not state_only:
            work.write(folder, own)
    return state


def ship(run: str, name: str, model: str, profile: Profile, precision: str | None, directory, sizes: Sizes, seed: int):
    """Put a finished run's adapter among those that come with the kit; return its folder."""
    base = models.load(model, precision or profile.precision)
    rows = _training_rows(run, _Data.load(directory, sizes, seed))
    trained = _trained(base, run, rows, profile, seed, train=False, watch=print)
    if trained is None:
        raise InputError(f"{run}: not trained yet in these sizes. Run the command without --state.")
    return models.ship_adapter(trained.adapter, name)


def table(state: dict[str, dict[str, bool]]) -> str:
    """Return what is done and what is left as lines of text."""
    steps = list(max(state.values(), key=len))
    width = max(map(len, state)) + 2
    lines = [" " * width + "".join(f"{step:>12}" for step in steps)]
    for run, done in state.items():
        words = ["" if step not in done else "done" if done[step] else "left" for step in steps]
        lines.append(f"{run:<{width}}" + "".join(f"{word:>12}" for word in words))
    return "\n".join(lines)


def record_name(model: str, run: str) -> str:
    """Return how the record of a run is called: reproduce_MODEL_RUN, the model by the last part of its name."""
    return f"reproduce_{models.plain_name(model).split('/')[-1].lower()}_{run}"


def recipe(run: str, profile: Profile, seed: int = 42) -> training.Recipe:
    """Return the recipe of a run, in a profile's sequence length and memory switches."""
    one = ALL[run]
    return training.Recipe.of_profile(
        profile, one.objective or run, **{"seed": seed, "save_every": SAVE_EVERY} | one.changes
    )


def _trained(
    base, run: str, rows: corpora.Corpus, profile, seed: int, train: bool, watch
) -> records.TrainingRecord | None:
    """Return the record of a run's training, trained now if it has to be and `train`; None for the base."""
    if run == BASE:
        return None
    chosen = recipe(run, profile, seed)
    folder = training.run_folder(base, rows, recipe=chosen)
    if train and not training.read_record(folder):
        watch(f"{run}: training on {len(rows):,} rows")
        training.train(base, rows, recipe=chosen, folder=folder)
    return training.read_record(folder)


@dataclass(frozen=True)
class _Data:
    """What is read of every run."""

    directory: str | Path | None
    sizes: Sizes
    seed: int
    tasks: dict[str, corpora.Corpus]
    dev: corpora.Corpus
    text: corpora.Corpus
    held_out: corpora.Corpus
    benchmarks: dict[str, dict] | None  # the records of their data, where they are to be run

    @classmethod
    def load(cls, directory, sizes: Sizes, seed: int, benchmarks: dict[str, dict] | None = None) -> "_Data":
        tasks = sts.load_tasks(None, directory, limit=sizes.sts_pairs, seed=seed)
        dev = corpora.load_sts(corpora.dev_task(directory), directory, split="dev")
        dev = dev.sample(sizes.frontier_pairs, seed)
        # The kit's own rows: a data directory may have nothing else that was not trained on.
        held_out = corpora.packaged_ranked_nli().sample(sizes.held_out, seed)
        return cls(directory, sizes, seed, tasks, dev, signals.load_text(directory), held_out, benchmarks)

    def records(self) -> list[dict]:
        """Return the records of all but the benchmarks, whose step tells its own."""
        return [one.record() for one in (*self.tasks.values(), self.dev, self.text, self.held_out)]


def _training_rows(run: str, data: _Data) -> corpora.Corpus:
    """Return what a run is trained on, less the held-out rows; for the base, what the triplets' objectives are."""
    one = ALL[run]
    ranked = bool(one.objective) and OBJECTIVES[one.objective].ranked
    rows = min((number for number in (one.rows, data.sizes.triplets) if number), default=None)
    return (
        corpora.load_nli(data.directory, ranked=ranked, seed=data.seed).without(data.held_out).sample(rows, data.seed)
    )


class _Work:
    """One run's model and data, and its steps by name."""

    def __init__(self, base, run: str, rows: corpora.Corpus, trained: records.TrainingRecord | None, data: _Data):
        self.base, self.run, self.rows, self.trained, self.data = base, run, rows, trained, data

    def _reads(self, step: str) -> list:
        """Return what tells one step's data from others."""
        data = self.data
        return {
            "sts": [*(task.fingerprint for task in data.tasks.values()), self.rows.fingerprint],
            "geometry": [data.dev.fingerprint],
            "layers": [data.dev.fingerprint],
            "signals": [data.text.fingerprint, data.held_out.fingerprint],
            "frontier": [data.dev.fingerprint, data.text.fingerprint],
            "generation": [data.benchmarks],
        }[step]

    def path(self, step: str) -> Path:
        """Return where a step keeps what it found: under a fingerprint of all that it depends on."""
        run = self.trained and [self.trained.fingerprint, self.trained.adapter_fingerprint]
        sizes = {name: getattr(self.data.sizes, name) for name in STEPS[step]}
        of_step = {"base": self.base.identity(), "run": run, "sizes": sizes, "seed": self.data.seed}
        of_step |= {"reads": self._reads(step), "producers": {part.__name__: part.REVISION for part in PRODUCERS[step]}}
        key = models.figure_key(step, REVISION, packages=("peft", "numpy", "scipy"), schema=records.SCHEMA, **of_step)
        return build_folder() / "reproduce" / f"{self.run}_{step}_{key}.json"

    def keep(self, step: str) -> None:
        """Compute a step and keep what it found."""
        records.write_json(self.path(step), records.GridFigures(**{step: getattr(self, step)()}))

    def write(self, folder: Path, asked: list[str]) -> None:
        """Write the run's record with what the steps that were asked for found, or add that to the record there."""
        trained, data = self.trained, self.data.records()
        model = self.base.describe() | {"adapter": trained and trained.adapter_fingerprint}
        settings = {"recipe": trained and trained.recipe, "sizes": asdict(self.data.sizes)}
        origin = records.Origin(model, [trained.data, *data] if trained else data, settings, self.data.seed)
        name = record_name(self.base.name, self.run)
        record = records.run_record(name, records.GridFigures(self._training()), headline="", origin=origin)
        before = _recorded(folder / f"{name}.json", record)
        figures = replace(before.figures if before else record.figures, **{step: self._kept(step) for step in asked})
        if before and figures == before.figures:
            return  # the record says when and by what command it was made
        headline = f"{self.run}: {'; '.join(self._main_figures(figures))}"
        records.save_run(replace(record, figures=figures, headline=headline), folder)

    def _kept(self, step: str):
        return getattr(records.read_json(self.path(step), records.GridFigures), step)

    def _training(self) -> records.TrainingFigures:
        if not self.trained:
            return records.TrainingFigures()
        names = ("last_quarter", "steps", "seconds", "triplets_per_second", "trainable_parameters", "rows_too_long")
        figures = {name: getattr(self.trained, name) for name in names}
        return records.TrainingFigures(self.trained.data["rows"], **figures)

    def _main_figures(self, figures: records.GridFigures) -> list[str]:
        parts = []
        if figures.sts:
            pairs = f", {self.data.sizes.sts_pairs} pairs a task" if self.data.sizes.sts_pairs else ""
            parts.append(f"{len(self.data.tasks)} STS tasks{pairs}: mean {figures.sts.scores.mean.value:.2f}")
        if figures.frontier and not parts:
            last = figures.frontier[-1]
            parts.append(f"after {last.rows:,} rows STS dev {last.sts:.2f}, perplexity {last.perplexity:.2f}")
        if figures.signals:
            parts.append(f"perplexity {figures.signals['perplexity']:.2f}")
        if figures.generation:
            parts.append(f"generation mean {figures.generation.scores.mean.value:.1f}")
        return parts

    def _model(self, adapter: str | Path | None = None):
        """Give the base with an adapter, by default the run's own, for a `with` block."""
        return models.adapted(self.base, adapter or (self.trained.adapter if self.trained else None))

    def _beside_the_base(self, score: Callable) -> dict[str, dict]:
        """Return {BASE: what `score` gives of the base, run: of the run's model}; the base's is found again."""
        rows = {BASE: score(self.base)}
        if self.trained:
            with self._model() as model:
                rows[self.run] = score(model)
        return rows

    def sts(self) -> records.StsFigures:
        """Score the STS tasks with PromptEOL, beside the base on the same pairs; and without the training sentences."""
        rows = self._beside_the_base(
            lambda model: sts.evaluate(Embedder(model), self.data.tasks, show_progress_bar=True)
        )
        comparison = sts.summary(rows, BASE, seed=self.data.seed)
        return records.StsFigures(comparison.rows[self.run], self._unseen(rows[self.run]))

    def _unseen(self, scored: dict[str, ScoredTask]) -> records.RowScores:
        """Return the scores on the pairs of which neither sentence was trained on."""
        trained = {_letters(sentence) for row in self.rows.rows for sentence in row}
        scores = {}
        for name, task in self.data.tasks.items():
            unseen = np.array([not {_letters(pair.first), _letters(pair.second)} & trained for pair in task.rows])
            rho = sts.spearman(scored[name].similarities[unseen], scored[name].human[unseen])
            scores[name] = records.TaskScore(rho, int(unseen.sum()))
        return records.RowScores.of(scores)

    def geometry(self) -> dict:
        """Measure the space of STS-B dev's sentences, read with PromptEOL."""
        sentences = list(
            dict.fromkeys(sentence for pair in self.data.dev.rows for sentence in (pair.first, pair.second))
        )
        with self._model() as model:
            vectors = Embedder(model).encode(sentences, show_progress_bar=True)
        return {
            "sentences": len(sentences),
            "uniformity": geometry.uniformity(vectors),
            "isotropy": geometry.isotropy(vectors),
            "isotropy_both_signs": geometry.isotropy(vectors, sign="both"),
            "average_cosine": geometry.average_cosine(vectors),
            "effective_rank": geometry.effective_rank(vectors),
        }

    def layers(self) -> records.LayerFigures:
        """Follow PromptEOL's state up the layers: STS-B dev at each, and how far training has moved it."""
        sentences = [pair.first for pair in self.data.dev.rows] + [pair.second for pair in self.data.dev.rows]
        before = Embedder(self.base).encode_layers(sentences, show_progress_bar=True)
        with self._model() as model:
            after = Embedder(model).encode_layers(sentences, show_progress_bar=True) if self.trained else before
        scores = sts.layer_scores(after, [pair.score for pair in self.data.dev.rows])
        rhos = [scores.get(layer) for layer in range(len(after))]
        if not self.trained:
            return records.LayerFigures(rhos)
        moved, alike = zip(*(geometry.displacement(old, new) for old, new in zip(before, after)))
        return records.LayerFigures(rhos, list(moved), list(alike))

    def signals(self) -> dict:
        """Take the cheap signals: perplexity of a text, preference, paraphrases, entropy."""
        given = {"rows": self.data.held_out.rows, "limit": self.data.sizes.text_tokens, "show_progress_bar": True}
        with self._model() as model:
            return signals.signals(model, self.data.text.rows, **given)

    def generation(self) -> records.GenerationFigures:
        """Run the benchmarks, beside the base on the same items."""
        data = self.data
        items = Benchmarks(directory=data.directory, limit=data.sizes.generation_items, seed=data.seed)
        rows = self._beside_the_base(lambda model: evaluate(model, items))
        about = {
            task: result.data | {"metric": result.metric, "shots": result.shots}
            for task, result in rows[self.run].items()
        }
        return records.GenerationFigures(comparison(rows, BASE).rows[self.run], about)

    def frontier(self) -> list[records.FrontierPoint]:
        """Follow STS-B dev and perplexity over the checkpoints of the run."""
        if not self.trained:
            return [self._point(self.base, 0)]
        adapters = list(training.adapters_by_rows(self.trained).items())
        # The first ones lie nearer to each other: most happens early.
        places = np.geomspace(1, len(adapters), self.data.sizes.frontier_points).round().astype(int) - 1
        points = []
        for rows, folder in tqdm([adapters[place] for place in np.unique(places)], desc="checkpoints"):
            with self._model(folder) as model:
                points.append(self._point(model, rows))
        return points

    def _point(self, model: models.LanguageModel, rows: int) -> records.FrontierPoint:
        scored = sts.score_task(Embedder(model).encode, self.data.dev)
        surprise = signals.perplexity(model, self.data.text.rows, limit=self.data.sizes.text_tokens)
        return records.FrontierPoint(rows, scored.score.value, surprise.value)


def _recorded(path: Path, record: records.RunRecord) -> records.RunRecord[records.GridFigures] | None:
    """Return the record at `path`, which must depend on the same as `record`; None where there is no record."""
    if not path.is_file():
        return None
    before = records.load_run(path, records.GridFigures)
    same = ("model", "data", "settings", "seed", "versions", "machine")
    other = [name for name in same if getattr(before, name) != getattr(record, name)]
    if other:
        raise InputError(
            f"{path}: this record tells of another run; not alike: {', '.join(other)}. It stays as it is, and what was "
            "found now is kept. Give the command again with --records FOLDER, or move the file away."
        )
    return before


def _letters(sentence: str) -> str:
    """Return what an exact match is by: SentEval's text is lower-cased and its marks stand apart."""
    return "".join(character for character in sentence.lower() if character.isalnum())
