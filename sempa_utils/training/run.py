"""The run: an adapter trained by a recipe, and the record of it.

The reference is the base with the adapter switched off, so a preference's first loss is that of
chance: ln 2 for two candidates. A run can be interrupted and resumed; what it leaves is an adapter
in PEFT's format and a record.
"""

import contextlib
import ctypes
import gc
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from sempa_utils import models, profiles
from sempa_utils.checks import InputError, alone, build_folder, pick, read_table, require_space, write_whole
from sempa_utils.data.corpora import Corpus, load_nli
from sempa_utils.data.templates import REQUEST_TEMPLATES, paraphrase_request
from sempa_utils.models import chat, processes
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.objectives.objective import settings_of
from sempa_utils.profiles import Profile
from sempa_utils.records import EXACT, CurveMean, CurvePoint, TrainingCurve, TrainingRecord, read_json, write_json
from sempa_utils.training import memory, step
from sempa_utils.training.recipe import Recipe
from sempa_utils.training.trainer import WHOLE, check, make_trainer, points, reference_table

RUN, RECORD = "run.json", "training.json"  # whose the folder is; what came of the run
KEY = 2  # what the fingerprint in `RUN` is made of; older kits wrote no number there


def run_fingerprint(language_model: models.LanguageModel, corpus: Corpus, *, recipe: Recipe) -> str:
    """Name a training run by all that its result depends on: base, tokenizer, data, the whole recipe, versions."""
    of_run = {"base": language_model.identity(), "data": corpus.fingerprint, "recipe": recipe.identity()}
    of_run |= {"objective": recipe.objective.revision, "templates": REQUEST_TEMPLATES}
    return models.figure_key("training", step.REVISION, packages=("peft", "trl", "accelerate"), **of_run)


def train(
    language_model: models.LanguageModel,
    corpus: Corpus,
    *,
    recipe: Recipe,
    folder: str | Path,
    resume: bool = True,
    on_curve: Callable[[TrainingCurve], None] | None = None,
) -> TrainingRecord:
    """Train an adapter by the recipe's objective; leave it in `folder`/adapter and return the run's record.

    A finished run of the same base, data and recipe is not trained again; an interrupted one goes on from its last
    whole checkpoint (`resume=False` starts anew). `on_curve` is called with the curve that there is, every few
    seconds. The base model is given back as it was. Started by `accelerate launch`, several processes share each
    batch. Raises `InputError` for a folder of another run, a full disk, a loss that is no number, or a GPU that is too
    small (then with what would fit).
    """
    folder, together = Path(folder), processes()
    check(language_model, corpus, recipe=recipe)
    with alone(folder) if together.is_main_process else contextlib.nullcontext():
        if not resume and together.is_main_process:
            _empty(folder)
        together.wait_for_everyone()
        return _trained(language_model, corpus, recipe=recipe, folder=folder, on_curve=on_curve)


def _trained(
    language_model: models.LanguageModel,
    corpus: Corpus,
    *,
    recipe: Recipe,
    folder: Path,
    on_curve: Callable[[TrainingCurve], None] | None,
) -> TrainingRecord:
    together = processes()
    identity = run_fingerprint(language_model, corpus, recipe=recipe)
    _take_over(folder, language_model, corpus=corpus, recipe=recipe)
    _refuse_another_run(folder, identity)
    finished = read_record(folder)
    if finished:
        return finished

    checkpoint = last_whole_checkpoint(folder)
    candidates = recipe.objective.candidate_count(min(recipe.micro_batch, len(corpus)))
    plan = {"recipe": recipe.settings(), "candidates": candidates}

    def show(curve: list[CurvePoint]) -> None:
        if on_curve:
            on_curve(TrainingCurve(**plan, curve=curve))

    base, described = language_model.identity(), language_model.describe()
    with models.given_back(language_model), _advice_where_memory_is_full(language_model, recipe):
        trainer = make_trainer(language_model, corpus, recipe=recipe, folder=folder, on_curve=show)
        described |= {"experts": line} if (line := models.reached_by(trainer.model)) else {}
        started = time.perf_counter()
        with write_whole(folder / RUN) as draft:
            draft.write_text(json.dumps({"fingerprint": identity, "key": KEY}) + "\n", encoding="utf8")
        require_space(folder, _bytes_needed(trainer), purpose="the checkpoints of this run")
        if recipe.cache_reference:
            trainer.reference = reference_table(trainer, base, corpus=corpus)
        with PeakMemory(language_model.device) as peak:
            began = time.perf_counter()  # TRL's own runtime is by the clock on the wall, which may be set back
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = round(time.perf_counter() - started, 1)
        speed = len(corpus) * recipe.epochs / (time.perf_counter() - began)
        if together.is_main_process:
            models.save_adapter(replace(language_model, model=trainer.model), folder / "adapter")
            curve = points(trainer.state.log_history)
            record = TrainingRecord(
                fingerprint=identity,
                model=described,
                data=corpus.record(),
                **plan,
                curve=curve,
                last_quarter=_mean(curve[len(curve) * 3 // 4 :]),
                steps=trainer.state.global_step,
                rows_too_long=len(corpus) - len(trainer.train_dataset),
                candidates_left_out=round(sum(point.left_out or 0 for point in curve) * recipe.batch) or None,
                trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
                seconds=seconds,
                peak_memory_bytes=peak.peak,
                resumed_from_step=int(checkpoint.name.split("-")[1]) if checkpoint else 0,
                triplets_per_second=None if checkpoint else round(speed, 3),
                adapter_fingerprint=models.adapter_fingerprint(folder / "adapter"),
            )
            write_json(folder / RECORD, record, digits=EXACT)
        together.wait_for_everyone()
    return _record_in(folder)


@contextlib.contextmanager
def _advice_where_memory_is_full(language_model: models.LanguageModel, recipe: Recipe) -> Generator[None, None, None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        capacity = torch.cuda.mem_get_info(language_model.device)[1]
        compute = models.compute_dtype(language_model.device.type)
        config, precision = language_model.config, language_model.precision
        advice = memory.advice(config, precision, recipe=recipe, capacity_bytes=capacity, compute_dtype=compute)
        raise InputError(f"The GPU's memory is full. {advice}") from error


class ProfileRun(NamedTuple):
    """What a profile's run is made of."""

    recipe: Recipe
    corpus: Corpus  # training rows
    held_out: Corpus


def profile_run(
    profile: Profile,
    objective: str = "pairwise",
    *,
    parameters: int,
    directory: str | Path | None = None,
    **changes,
) -> ProfileRun:
    """Return a profile's run, its recipe fitted to its rows and to a model of so many weights; `changes` go before."""
    seed = changes.get("seed", Recipe.seed)
    corpus = load_nli(directory, ranked=pick(objective, OBJECTIVES, what="objective").ranked)
    rows, held_out = corpus.split(profile.triplets, profile.picture_triplets, seed=seed)
    recipe = Recipe.fitted(profile, objective, parameters=parameters, rows=len(rows), **changes)
    return ProfileRun(recipe, rows, held_out)


class ProfileTrained(NamedTuple):
    """What came of a profile's run, its training rows, and the rows that were held out."""

    record: TrainingRecord
    corpus: Corpus
    held_out: Corpus


def train_profile(
    name: str = models.PACKAGED,
    profile: Profile | None = None,
    *,
    again: bool = False,
    on_curve: Callable[[TrainingCurve], None] | None = None,
    **changes,
) -> ProfileTrained:
    """Train what a profile says, or find it already trained.

    `changes` are an objective's name and of its recipe, as `profile_run` takes them; `again` trains anew what is there;
    `on_curve` as in `train`. The run's folder is build/adapters/<run's fingerprint>. No model is left in memory.
    """
    [trained] = train_profiles(name, profile, runs={"": changes}, again=again, on_curve=on_curve).values()
    return trained


def train_profiles(
    name: str = models.PACKAGED,
    profile: Profile | None = None,
    *,
    runs: Mapping[str, Mapping[str, Any]],
    again: bool = False,
    on_curve: Callable[[TrainingCurve], None] | None = None,
) -> dict[str, ProfileTrained]:
    """Train or find several runs of a profile, {label: changes as of `train_profile`}; the base is loaded once."""
    profile = profile or profiles.get()
    language_model, done = models.load(name, profile.precision), {}
    for label, changes in runs.items():
        planned = profile_run(profile, parameters=language_model.parameters, **changes)
        folder = run_folder(language_model, planned.corpus, recipe=planned.recipe)
        how = {"recipe": planned.recipe, "folder": folder, "resume": not again, "on_curve": on_curve}
        done[label] = ProfileTrained(train(language_model, planned.corpus, **how), planned.corpus, planned.held_out)
    del language_model
    gc.collect()  # a trainer refers to itself and to the model
    return done


def run_folder(language_model: models.LanguageModel, corpus: Corpus, *, recipe: Recipe) -> Path:
    """Return where a run lies if no other place is named: build/adapters/<run's fingerprint>.

    A finished run of an older kit that lies there under another name gets this one.
    """
    folder = build_folder() / "adapters" / run_fingerprint(language_model, corpus, recipe=recipe)
    if not folder.exists():
        for record in folder.parent.glob(f"*/{RECORD}"):
            if _take_over(record.parent, language_model, corpus=corpus, recipe=recipe):
                record.parent.rename(folder)
                break
    return folder


def read_record(folder: str | Path) -> TrainingRecord | None:
    """Return the record of a finished run with the path of its `adapter`, or None."""
    return _record_in(Path(folder)) if (Path(folder) / RECORD).is_file() else None


def _record_in(folder: Path) -> TrainingRecord:
    return replace(read_json(folder / RECORD, TrainingRecord), adapter=folder / "adapter")


def last_whole_checkpoint(folder: str | Path) -> Path | None:
    """Return the latest checkpoint of a run whose files were all written, or None."""
    whole = [mark.parent for mark in Path(folder).glob(f"checkpoints/checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def adapters_by_rows(run: TrainingRecord) -> dict[int, Path]:
    """Return {rows seen: folder} of a run's whole checkpoints and its final adapter, in order, from its record."""
    whole = [mark.parent for mark in run.adapter.parent.glob(f"checkpoints/checkpoint-*/{WHOLE}")]
    steps = {int(path.name.split("-")[1]): path for path in whole}
    steps[run.steps] = run.adapter  # a checkpoint at the last step is the same weights again
    rows = run.data["rows"] - run.rows_too_long

    def seen(step: int) -> int:
        epochs, rest = divmod(step, run.steps // run.recipe["epochs"])
        return epochs * rows + rest * run.batch  # an epoch's last batch may be smaller

    return {seen(step): steps[step] for step in sorted(steps)}


def give_back() -> None:
    """Give memory that was freed back to the system, where its allocator can: what is resident is then in use."""
    gc.collect()
    with contextlib.suppress(OSError, TypeError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """Measure the highest memory in use inside a `with` block, in bytes: `peak`.

    On a GPU what torch allocated there; on the CPU the process' resident memory, looked at ten
    times a second. What an earlier run has freed is given back to the system first, or it would count.
    """

    def __init__(self, device: torch.device):
        self.device = torch.device(device)
        self.peak = 0
        self._done = threading.Event()

    def _watch(self):
        process = psutil.Process()
        while not self._done.wait(0.1):
            self.peak = max(self.peak, process.memory_info().rss)

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            give_back()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_):
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._thread.join()
            self.peak = max(self.peak, psutil.Process().memory_info().rss)


def _take_over(folder: Path, language_model: models.LanguageModel, *, corpus: Corpus, recipe: Recipe) -> bool:
    """Give a finished run of an older kit today's fingerprint, once, if base, precision, data and recipe are alike.

    Older kits did not write down tokenizer and versions: those are taken on trust, and a line says so. They knew but
    the quick ways and a template's own chat, so a run of a model that takes others may be wrong, and is not taken over.
    """
    mark, path = folder / RUN, folder / RECORD
    if not (mark.is_file() and path.is_file()) or "key" in _table(mark):
        return False
    record = _table(path)
    try:
        theirs = record["model"]["fingerprint"], record["model"]["precision"], record["data"]["fingerprint"]
    except (KeyError, TypeError):
        return False
    alike = theirs == (language_model.fingerprint, language_model.precision, corpus.fingerprint)
    # What it did not know of yet it did not do.
    settings = settings_of(Recipe) | settings_of(type(recipe.objective))
    their_recipe = {name: setting.default for name, setting in settings.items()} | record["recipe"]
    template = recipe.settings().get("template")  # of the objectives over answers
    request = paraphrase_request("A", template) if template else ""
    exact = "ways" not in language_model.describe()
    exact = exact and (isinstance(request, str) or chat.is_plain(language_model.tokenizer, request))
    if not (alike and exact) or any(their_recipe.get(name) != value for name, value in recipe.settings().items()):
        return False
    record["fingerprint"] = run_fingerprint(language_model, corpus, recipe=recipe)
    for file, content in ((path, record), (mark, {"fingerprint": record["fingerprint"], "key": KEY})):
        with write_whole(file) as draft:
            draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf8")
    print(f"{folder}: a finished run of an older kit, which did not write down tokenizer and versions; taken as it is")
    return True


def _refuse_another_run(folder: Path, identity: str) -> None:
    path = folder / RUN
    if path.is_file() and _table(path).get("fingerprint") != identity:
        raise InputError(
            f"{folder}: belongs to another run (other base, tokenizer, precision, data, recipe or versions of the "
            "libraries), or to one of an older kit that was not finished. "
            "Name another folder, or pass resume=False (--fresh) to replace it."
        )


def _empty(folder: Path) -> None:
    """Take away all that a folder holds, but not the folder: its lock is ours."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _table(path: Path) -> dict[str, Any]:
    return read_table(path, remedy="Name another folder, or pass resume=False (--fresh) to replace this one.")


def _bytes_needed(trainer) -> int:
    # Adapter, its two AdamW moments and the final copy, for each checkpoint.
    trainable = sum(4 * p.numel() for p in trainer.model.parameters() if p.requires_grad)
    arguments = trainer.args
    steps = math.ceil(
        len(trainer.train_dataset) / arguments.per_device_train_batch_size / arguments.gradient_accumulation_steps
    )
    checkpoints = math.ceil(steps * arguments.num_train_epochs / arguments.save_steps)
    return 3 * trainable * (checkpoints + 1)


def _mean(points: list[CurvePoint]) -> CurveMean:
    names = ("loss", "margin", "accuracy")
    return CurveMean(**{name: sum(getattr(point, name) for point in points) / len(points) for name in names})
