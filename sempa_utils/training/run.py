"""The recipe and the run: an adapter trained by one of the five objectives, and the record of it.

The reference is the base with the adapter switched off, so a preference's first loss is that of
chance: ln 2 for two candidates. A run can be interrupted and resumed; what it leaves is an adapter
in PEFT's format and a record.
"""

import gc
import json
import math
import shutil
import threading
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import psutil
import torch

from sempa_utils import __version__, models, profiles
from sempa_utils.checks import InputError, build_folder, fingerprint, pick, require_space, write_whole
from sempa_utils.data.corpora import Corpus, load_ranked_nli, load_triplets
from sempa_utils.data.templates import EXTRACTION_TEMPLATES, REQUEST_TEMPLATES
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.profiles import Profile
from sempa_utils.training import memory
from sempa_utils.training.trainer import WHOLE, check, make_trainer, points, processes, reference_table

RUN, RECORD = "run.json", "training.json"  # whose the folder is; what came of the run
IN_BATCH = 16  # rows that are each other's candidates, at least


@dataclass(frozen=True)
class Recipe:
    """The paper's recipe (appendix A) and this kit's other objectives; sizes come from a profile."""

    objective: str = "pairwise"
    template: str = "keep_same_meaning"  # in which answers are asked for
    extraction_template: str = "prompteol"  # whose slot one_word and contrastive read
    beta: float = 0.1
    temperature: float = 0.05  # of contrastive
    kl_weight: float = 0.0  # of KL(base ‖ model) of the next words in plain text
    kl_texts: int = 4  # anchors of a micro-batch that are read as that plain text
    candidates: int = 5  # of best_of_n
    symmetric: bool = False  # one_word: each of anchor and positive is the other's anchor
    learning_rate: float = 1e-4
    warmup_share: float = 0.05
    lora_rank: int = 8
    lora_alpha: int = 32
    epochs: int = 1
    micro_batch: int = 8  # rows whose loss is computed together; candidates are shared among them
    accumulation: int = 1  # micro-batches per optimiser step, over all processes
    chunk: int = 32  # sentences per forward where states are read
    gradient_caching: bool = True  # where there are several chunks: less memory, a second forward
    max_length: int = 256
    save_every: int = 20_000  # rows
    optimizer: str = "adamw_torch"
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0  # longer gradients are cut to this length
    gradient_checkpointing: bool = False
    cache_reference: bool | None = None  # None: where more than one epoch wants it
    shared_prefix: bool = True  # False: TRL's own batches, the same result more slowly
    seed: int = 42

    def __post_init__(self):
        pick(self.objective, OBJECTIVES, "objective")
        pick(self.template, REQUEST_TEMPLATES, "paraphrase template")
        pick(self.extraction_template, EXTRACTION_TEMPLATES, "extraction template")
        pick(self.optimizer, memory.MOMENTS, "optimiser")
        positive = ("beta", "temperature", "learning_rate", "lora_rank", "epochs", "micro_batch", "accumulation",
                    "chunk", "kl_texts", "save_every")  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"Recipe: {name} must be greater than 0, not {getattr(self, name)}.")
        if self.kl_weight < 0 or (self.kl_weight and not self.shared_prefix):
            raise InputError(
                f"Recipe: kl_weight {self.kl_weight} must be 0 or greater, and needs prefix trees. Leave it out."
            )
        if self.objective == "best_of_n" and not 2 <= self.candidates <= self.micro_batch + 1:
            raise InputError(
                f"Recipe: {self.candidates} candidates cannot be had from {self.micro_batch} rows. Choose candidates "
                f"from 2 to {self.micro_batch + 1}, or a larger micro_batch."
            )
        if self.symmetric and self.objective != "one_word":
            raise InputError(f"Recipe: symmetric is a variant of one_word, not of {self.objective}. Leave it out.")
        if not self.shared_prefix and self.objective != "pairwise":
            raise InputError(f"Recipe: TRL's own batches know pairwise alone, not {self.objective}.")
        cacheable = self.shared_prefix and self.objective in ("pairwise", "listwise", "one_word")
        if self.cache_reference and not cacheable:
            raise InputError(
                "Recipe: cache_reference needs a reference that depends on a row alone: pairwise, listwise or "
                "one_word, on prefix trees. Leave it out."
            )
        if self.cache_reference is None:
            object.__setattr__(self, "cache_reference", cacheable and self.epochs > 1)

    @classmethod
    def of_profile(cls, profile: Profile, objective: str = "pairwise", **changes) -> "Recipe":
        """Return the recipe with a profile's sizes and an objective's settings, and `changes` on top.

        Where the rows of a batch are each other's candidates, a micro-batch has at least `IN_BATCH` rows.
        """
        names = ("micro_batch", "accumulation", "max_length", "save_every", "gradient_checkpointing")
        sizes = {name: getattr(profile, name) for name in names}
        chosen = pick(objective, OBJECTIVES, "objective")
        if chosen.reads == "slots":
            batch = profile.micro_batch * profile.accumulation
            rows = max(profile.micro_batch, IN_BATCH)
            sizes |= {"micro_batch": rows, "accumulation": max(1, batch // rows)}
        return cls(objective=objective, **sizes | chosen.settings | changes)

    @property
    def batch(self) -> int:
        """Rows per optimiser step, over all processes."""
        return self.micro_batch * self.accumulation


def run_fingerprint(language_model: models.LanguageModel, corpus: Corpus, recipe: Recipe) -> str:
    """Name a training run by all that its result depends on: the kit, base, precision, data, recipe."""
    base = (language_model.fingerprint, language_model.precision)
    # What a recipe leaves at its default is left out, so that a new option does not disown finished runs.
    chosen = {one.name: getattr(recipe, one.name) for one in fields(recipe) if getattr(recipe, one.name) != one.default}
    return fingerprint(__version__, *base, corpus.fingerprint, chosen)


def train(
    language_model: models.LanguageModel,
    corpus: Corpus,
    recipe: Recipe,
    folder: str | Path,
    resume: bool = True,
    show_progress_bar: bool = True,
    watch=None,
) -> dict:
    """Train an adapter by the recipe's objective; leave it in `folder`/adapter and return the run's record.

    A finished run of the same base, data and recipe is not trained again; an interrupted one goes
    on from its last whole checkpoint (`resume=False` starts anew). The record holds the curves of
    loss, margin and accuracy, triplets per second, and peak memory in bytes; `watch`, a function, is
    called with the part of it that there is, every few seconds. The base model is given back as it
    was. Started by `accelerate launch`, several processes share each batch. Raises `InputError` for a
    folder of another run, a full disk, a loss that is no number, or a GPU that is too small (then
    with what would fit).
    """
    folder, together = Path(folder), processes()
    check(language_model, corpus, recipe)
    if not resume and together.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    together.wait_for_everyone()
    identity = run_fingerprint(language_model, corpus, recipe)
    _refuse_another_run(folder, identity)
    finished = read_record(folder)
    if finished:
        return finished

    checkpoint = last_whole_checkpoint(folder)
    plan = {"recipe": asdict(recipe), "candidates": _candidates(recipe, len(corpus))}
    show = watch and (lambda points: watch(plan | {"curve": points}))
    trainer = make_trainer(language_model, corpus, recipe, folder, show_progress_bar, show)
    started = time.perf_counter()
    try:
        with write_whole(folder / RUN) as draft:
            draft.write_text(json.dumps({"fingerprint": identity}) + "\n", encoding="utf8")
        require_space(folder, _bytes_needed(trainer), "the checkpoints of this run")
        if recipe.cache_reference:
            trainer.reference = reference_table(trainer, language_model, corpus, recipe, show_progress_bar)
        with PeakMemory(language_model.device) as peak:
            outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trained = replace(language_model, model=trainer.model)
        curve = points(trainer.state.log_history)
        record = {
            "fingerprint": identity,
            "model": language_model.describe(),
            "data": corpus.record(),
            **plan,
            "curve": curve,
            "last_quarter": _mean(curve[len(curve) * 3 // 4 :], ("loss", "margin", "accuracy")),
            "steps": trainer.state.global_step,
            "rows_too_long": len(corpus) - len(trainer.train_dataset),  # left out
            "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "seconds": round(time.perf_counter() - started, 1),
            "peak_memory_bytes": peak.peak,
            "resumed_from_step": int(checkpoint.name.split("-")[1]) if checkpoint else 0,
        }
        if not checkpoint:  # else the clock saw a part of the run alone
            record["triplets_per_second"] = round(len(corpus) * recipe.epochs / outcome.metrics["train_runtime"], 3)
        if together.is_main_process:
            models.save_adapter(trained, folder / "adapter")
            record["adapter_fingerprint"] = models.adapter_fingerprint(folder / "adapter")
            with write_whole(folder / RECORD) as draft:
                draft.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf8")
        together.wait_for_everyone()
    except torch.OutOfMemoryError as error:
        capacity = torch.cuda.mem_get_info(language_model.device)[1]
        compute = models.compute_dtype(language_model.device.type)
        setting = (language_model.model.config, language_model.precision, recipe, capacity)
        advice = memory.advice(*setting, shared_prefix=recipe.shared_prefix, compute_dtype=compute)
        raise InputError(f"The GPU's memory is full. {advice}") from error
    finally:
        _give_back(replace(language_model, model=trainer.model))
    return read_record(folder)


def train_profile(
    name: str = models.PACKAGED,
    profile: Profile | None = None,
    seed: int = 42,
    directory: str | Path | None = None,
    folder: str | Path | None = None,
    objective: str = "pairwise",
    again: bool = False,
    show_progress_bar: bool = True,
    watch=None,
) -> tuple[dict, Corpus, Corpus]:
    """Train what a profile says, or find it already trained; return (record, training rows, held-out rows).

    The run's folder is by default build/adapters/<run's fingerprint>; `again` trains anew what is
    there; `watch` as in `train`. No model is left in memory.
    """
    profile = profile or profiles.get()
    recipe, corpus, held_out = profile_run(profile, objective, directory, seed=seed)
    language_model = models.load(name, profile.precision)
    folder = folder or run_folder(language_model, corpus, recipe)
    record = train(language_model, corpus, recipe, folder, not again, show_progress_bar, watch)
    del language_model
    gc.collect()  # a trainer refers to itself and to the model
    return record, corpus, held_out


def profile_run(
    profile: Profile, objective: str, directory: str | Path | None, **changes
) -> tuple[Recipe, Corpus, Corpus]:
    """Return (recipe, training rows, held-out rows) of a profile's run, with `changes` of its recipe."""
    recipe = Recipe.of_profile(profile, objective, **changes)
    load = load_ranked_nli if OBJECTIVES[objective].ranked else load_triplets
    corpus, held_out = load(directory).split(profile.triplets, profile.picture_triplets, recipe.seed)
    return recipe, corpus, held_out


def run_folder(language_model: models.LanguageModel, corpus: Corpus, recipe: Recipe) -> Path:
    """Return where a run lies if no other place is named: build/adapters/<run's fingerprint>."""
    return build_folder() / "adapters" / run_fingerprint(language_model, corpus, recipe)


def read_record(folder: str | Path) -> dict | None:
    """Return the record of a finished run with the path of its `adapter`, or None."""
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf8")) | {"adapter": str(Path(folder) / "adapter")}


def last_whole_checkpoint(folder: str | Path) -> Path | None:
    """Return the latest checkpoint of a run whose files were all written, or None."""
    whole = [mark.parent for mark in Path(folder).glob(f"checkpoints/checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def adapters_by_rows(run: dict) -> dict[int, Path]:
    """Return {rows seen: folder} of a run's whole checkpoints and its final adapter, in order, from its record."""
    adapter, recipe = Path(run["adapter"]), run["recipe"]
    whole = [mark.parent for mark in adapter.parent.glob(f"checkpoints/checkpoint-*/{WHOLE}")]
    steps = {int(path.name.split("-")[1]): path for path in whole}
    steps[run["steps"]] = adapter  # a checkpoint at the last step is the same weights again
    rows, batch = run["data"]["rows"] - run["rows_too_long"], recipe["micro_batch"] * recipe["accumulation"]

    def seen(step: int) -> int:
        epochs, rest = divmod(step, run["steps"] // recipe["epochs"])
        return epochs * rows + rest * batch  # an epoch's last batch may be smaller

    return {seen(step): steps[step] for step in sorted(steps)}


class PeakMemory:
    """Measure the highest memory in use inside a `with` block, in bytes: `peak`.

    On a GPU what torch allocated there; on the CPU the process' resident memory, looked at ten
    times a second.
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


def _refuse_another_run(folder: Path, identity: str) -> None:
    path = folder / RUN
    if path.is_file() and json.loads(path.read_text(encoding="utf8"))["fingerprint"] != identity:
        raise InputError(
            f"{folder}: belongs to another run (other base, precision, data or recipe). "
            "Name another folder, or pass resume=False (--fresh) to replace it."
        )


def _bytes_needed(trainer) -> int:
    # Adapter, its two AdamW moments and the final copy, for each checkpoint.
    trainable = sum(4 * p.numel() for p in trainer.model.parameters() if p.requires_grad)
    arguments = trainer.args
    steps = math.ceil(
        len(trainer.train_dataset) / arguments.per_device_train_batch_size / arguments.gradient_accumulation_steps
    )
    checkpoints = math.ceil(steps * arguments.num_train_epochs / arguments.save_steps)
    return 3 * trainable * (checkpoints + 1)


def _candidates(recipe: Recipe, rows: int) -> int:
    """Return how many candidates an anchor has in a full batch."""
    together = min(recipe.micro_batch, rows)
    others = {"listwise": 3, "best_of_n": min(recipe.candidates, together + 1)}
    in_batch = OBJECTIVES[recipe.objective].reads == "slots"
    return 2 * together if in_batch else others.get(recipe.objective, 2)


def _mean(points: list[dict], names) -> dict[str, float]:
    return {name: sum(point[name] for point in points) / len(points) for name in names}


def _give_back(trained: models.LanguageModel) -> None:
    """Take the adapter, TRL's patched forward and training's switches off the base model."""
    base = models.remove_adapter(trained).model
    base.__dict__.pop("forward", None)
    if base.is_activation_checkpointing:
        base.activation_checkpointing_disable()
        base.disable_input_require_grads()
    base.eval()
