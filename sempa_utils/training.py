"""The recipe and the run: semantic DPO on TRL's `DPOTrainer` with a LoRA adapter on a frozen base.

The reference is the base with the adapter switched off, so the first loss is ln 2. A run can be
interrupted and resumed; what it leaves is an adapter in PEFT's format and a record.
"""

import contextlib
import json
import math
import shutil
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import datasets
import psutil
import torch
from peft import LoraConfig
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer

from sempa_utils import __version__, models, prefix_tree, profiles
from sempa_utils.checks import InputError, build_folder, fingerprint, pick, require_space, write_whole
from sempa_utils.corpora import Corpus, load_triplets
from sempa_utils.preferences import preference_dataset
from sempa_utils.profiles import Profile
from sempa_utils.templates import PARAPHRASE_TEMPLATES

WHOLE = "whole"  # the file that a checkpoint gets last, when all its others are written
RECORD = "training.json"


@dataclass(frozen=True)
class Recipe:
    """The paper's recipe (appendix A); sizes come from a profile."""

    template: str = "keep_same_meaning"
    beta: float = 0.1
    learning_rate: float = 1e-4
    warmup_share: float = 0.05
    lora_rank: int = 8
    lora_alpha: int = 32
    epochs: int = 1
    micro_batch: int = 8
    accumulation: int = 1
    max_length: int = 256
    save_every: int = 20_000  # triplets
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0  # longer gradients are cut to this length
    gradient_checkpointing: bool = False
    shared_prefix: bool = True  # False: TRL's own batches, the same result more slowly
    seed: int = 42

    def __post_init__(self):
        pick(self.template, PARAPHRASE_TEMPLATES, "paraphrase template")
        for name in ("beta", "learning_rate", "lora_rank", "epochs", "micro_batch", "accumulation", "save_every"):
            if not getattr(self, name) > 0:
                raise InputError(f"Recipe: {name} must be greater than 0, not {getattr(self, name)}.")

    @classmethod
    def of_profile(cls, profile: Profile, **changes) -> "Recipe":
        """Return the recipe with a profile's sizes, and `changes` on top."""
        names = ("micro_batch", "accumulation", "max_length", "save_every", "gradient_checkpointing")
        return cls(**{name: getattr(profile, name) for name in names} | changes)

    @property
    def batch(self) -> int:
        """Triplets per optimiser step on one device."""
        return self.micro_batch * self.accumulation


def run_fingerprint(language_model: models.LanguageModel, corpus: Corpus, recipe: Recipe) -> str:
    """Name a training run by all that its result depends on: the kit, base, precision, data, recipe."""
    base = (language_model.fingerprint, language_model.precision)
    return fingerprint(__version__, *base, corpus.fingerprint, asdict(recipe))


def train(
    language_model: models.LanguageModel,
    corpus: Corpus,
    recipe: Recipe,
    folder: str | Path,
    resume: bool = True,
    show_progress_bar: bool = True,
) -> dict:
    """Train an adapter by semantic DPO; leave it in `folder`/adapter and return the run's record.

    A finished run of the same base, data and recipe is not trained again; an interrupted one goes
    on from its last whole checkpoint (`resume=False` starts anew). The record holds the curves of
    loss, margin and accuracy, triplets per second, and peak memory in bytes. The base model is
    given back as it was. Raises `InputError` for a folder of another run, a full disk, or a loss
    that is no number.
    """
    folder = Path(folder)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    identity = run_fingerprint(language_model, corpus, recipe)
    _claim(folder, identity)
    finished = read_record(folder)
    if finished:
        return finished

    checkpoint = last_whole_checkpoint(folder)
    trainer = make_trainer(language_model, corpus, recipe, folder, show_progress_bar)
    started = time.perf_counter()
    try:
        require_space(folder, _bytes_needed(trainer), "the checkpoints of this run")
        with PeakMemory(language_model.device) as memory:
            outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trained = replace(language_model, model=trainer.model)
        curve = [_point(entry) for entry in trainer.state.log_history if "loss" in entry]
        record = {
            "fingerprint": identity,
            "model": language_model.describe(),
            "data": corpus.record(),
            "recipe": asdict(recipe),
            "curve": curve,
            "last_quarter": _mean(curve[len(curve) * 3 // 4 :], ("loss", "margin", "accuracy")),
            "steps": trainer.state.global_step,
            "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "seconds": round(time.perf_counter() - started, 1),
            "peak_memory_bytes": memory.peak,
            "resumed_from_step": int(checkpoint.name.split("-")[1]) if checkpoint else 0,
        }
        if not checkpoint:  # else the clock saw a part of the run alone
            record["triplets_per_second"] = round(len(corpus) * recipe.epochs / outcome.metrics["train_runtime"], 3)
        models.save_adapter(trained, folder / "adapter")
        record["adapter_fingerprint"] = models.adapter_fingerprint(folder / "adapter")
        with write_whole(folder / RECORD) as draft:
            draft.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf8")
    finally:
        _give_back(replace(language_model, model=trainer.model))
    return read_record(folder)


def train_profile(
    name: str = models.PACKAGED,
    profile: Profile | None = None,
    seed: int = 42,
    directory: str | Path | None = None,
    folder: str | Path | None = None,
    show_progress_bar: bool = True,
) -> tuple[dict, Corpus, Corpus]:
    """Train what a profile says, or find it already trained; return (record, training rows, held-out rows).

    The run's folder is by default build/adapters/<run's fingerprint>. No model is left in memory.
    """
    profile = profile or profiles.get()
    corpus, held_out = load_triplets(directory).split(profile.triplets, profile.picture_triplets, seed)
    recipe = Recipe.of_profile(profile, seed=seed)
    language_model = models.load(name, profile.precision)
    folder = folder or build_folder() / "adapters" / run_fingerprint(language_model, corpus, recipe)
    return train(language_model, corpus, recipe, folder, show_progress_bar=show_progress_bar), corpus, held_out


def read_record(folder: str | Path) -> dict | None:
    """Return the record of a finished run with the path of its `adapter`, or None."""
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf8")) | {"adapter": str(Path(folder) / "adapter")}


def make_trainer(
    language_model: models.LanguageModel, corpus: Corpus, recipe: Recipe, folder: Path, show_progress_bar: bool = True
):
    """Return TRL's `DPOTrainer` set to the recipe, with a fresh LoRA adapter on the base."""
    device = language_model.device.type
    arguments = DPOConfig(
        output_dir=str(folder / "checkpoints"),
        beta=recipe.beta,
        loss_type=["sigmoid"],
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_share,  # below 1 it is a share of all steps
        optim="adamw_torch",
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_gradient_norm,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing,
        max_length=recipe.max_length,
        **mixed_precision(language_model),
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        seed=recipe.seed,
        save_strategy="steps",
        save_steps=max(1, recipe.save_every // recipe.batch),
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        report_to="none",
        disable_tqdm=True,
    )
    set_seed(recipe.seed)  # the adapter's first weights
    with _quiet_datasets():
        trainer = (SharedPrefixDPOTrainer if recipe.shared_prefix else DPOTrainer)(
            model=language_model.model,
            args=arguments,
            train_dataset=preference_dataset(corpus.rows, recipe.template),
            processing_class=language_model.tokenizer,
            peft_config=lora_config(recipe),
            callbacks=[Bookkeeper(show_progress_bar)],
        )
    trainer.remove_callback(PrinterCallback)
    # TRL casts the adapter on a 4-bit base to bfloat16. Float32 keeps small updates, and works on
    # cards without bfloat16; the products still run in the compute type.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


class SharedPrefixDPOTrainer(DPOTrainer):
    """TRL's trainer with prefix-tree batches: the same loss, each distinct prefix token computed once."""

    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        self.data_collator = self._collate

    def _collate(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        prompts = [example["prompt_ids"] for example in examples]
        answers = [
            # As in TRL's own batches, what exceeds the length is cut off the answer's end.
            [
                example[name][: self.args.max_length - len(example["prompt_ids"])]
                for name in ("chosen_ids", "rejected_ids")
            ]
            for example in examples
        ]
        return prefix_tree.build(prompts, answers)._asdict()

    def _compute_loss(self, model, inputs, return_outputs=False):
        tree = prefix_tree.PrefixTree(**inputs)
        policy = prefix_tree.log_probs(model, tree).view(-1, 2)
        with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
            reference = prefix_tree.log_probs(model, tree).view(-1, 2)
        rewards = self.beta * (policy - reference)  # (triplets, 2): chosen, rejected
        margins = rewards[:, 0] - rewards[:, 1]
        self._note(policy.detach(), rewards.detach(), margins.detach())
        loss = -torch.nn.functional.logsigmoid(margins).mean()
        return (loss, None) if return_outputs else loss

    def _note(self, policy, rewards, margins) -> None:
        """Keep the figures that TRL logs, under its names."""
        figures = {
            "rewards/chosen": rewards[:, 0],
            "rewards/rejected": rewards[:, 1],
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).float(),
            "logps/chosen": policy[:, 0],
            "logps/rejected": policy[:, 1],
        }
        mode = "train" if self.model.training else "eval"
        for name, values in figures.items():
            self._metrics[mode][name].append(self.accelerator.gather(values).mean().item())


def mixed_precision(language_model: models.LanguageModel) -> dict[str, bool]:
    """Return the trainer's switches: bf16 or fp16 autocast where the model computes so, else none."""
    nf4 = language_model.precision == "nf4"
    dtype = models.compute_dtype(language_model.device.type) if nf4 else language_model.model.dtype
    return {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}


def lora_config(recipe: Recipe) -> LoraConfig:
    """Return LoRA on all linear layers but the language-model head, as in the paper's appendix A."""
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


class Bookkeeper(TrainerCallback):
    """Shows progress, stops at a loss that is no number, and marks whole checkpoints."""

    def __init__(self, show_progress_bar: bool):
        self.show = show_progress_bar
        self.bar = None

    def on_train_begin(self, args, state, control, **_):
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=not self.show)

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **_):
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"Step {state.global_step}: the loss is {logs['loss']}. Lower the learning rate, or train in "
                "float32 or bfloat16; the last whole checkpoint stays."
            )
        self.bar.set_postfix(loss=f"{logs['loss']:.3f}", margin=f"{logs['rewards/margins']:.3f}")

    def on_save(self, args, state, control, **_):
        # Written last: a checkpoint without this file was interrupted and is not resumed from.
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


def last_whole_checkpoint(folder: str | Path) -> Path | None:
    """Return the latest checkpoint of a run whose files were all written, or None."""
    whole = [mark.parent for mark in Path(folder).glob(f"checkpoints/checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


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


def _claim(folder: Path, identity: str) -> None:
    """Write the run's name into its folder, or raise if the folder belongs to another run."""
    path = folder / "run.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf8"))["fingerprint"] != identity:
            raise InputError(
                f"{folder}: belongs to another run (other base, precision, data or recipe). "
                "Name another folder, or pass resume=False (--fresh) to replace it."
            )
        return
    with write_whole(path) as draft:
        draft.write_text(json.dumps({"fingerprint": identity}) + "\n", encoding="utf8")


def _bytes_needed(trainer) -> int:
    # Adapter, its two AdamW moments and the final copy, for each checkpoint.
    trainable = sum(4 * p.numel() for p in trainer.model.parameters() if p.requires_grad)
    arguments = trainer.args
    steps = math.ceil(
        len(trainer.train_dataset) / arguments.per_device_train_batch_size / arguments.gradient_accumulation_steps
    )
    checkpoints = math.ceil(steps * arguments.num_train_epochs / arguments.save_steps)
    return 3 * trainable * (checkpoints + 1)


def _point(entry: dict) -> dict:
    names = {
        "step": "step",
        "loss": "loss",
        "margin": "rewards/margins",
        "accuracy": "rewards/accuracies",
        "chosen_reward": "rewards/chosen",
        "rejected_reward": "rewards/rejected",
        "learning_rate": "learning_rate",
        "gradient_norm": "grad_norm",
    }
    point = {ours: entry[theirs] for ours, theirs in names.items() if theirs in entry}
    if not math.isfinite(point.get("gradient_norm", 0.0)):
        point["gradient_norm"] = None  # in float16 the scaler skips such a step and tries a smaller scale
    return point


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


@contextlib.contextmanager
def _quiet_datasets():
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
