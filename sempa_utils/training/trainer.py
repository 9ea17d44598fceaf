"""TRL's `DPOTrainer`, taught the objectives on prefix-tree batches.

Logging, checkpoints, callbacks and several devices stay TRL's and accelerate's; what is ours is which
tokens a batch holds, and the loss over them.
"""

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer

from sempa_utils import models, objectives
from sempa_utils.checks import InputError, build_folder, write_whole
from sempa_utils.data.corpora import Corpus
from sempa_utils.data.templates import REQUEST_TEMPLATES, paraphrase_request
from sempa_utils.models import chat, processes
from sempa_utils.records import CurvePoint
from sempa_utils.training.recipe import Recipe, lora_config, train_in_float32
from sempa_utils.training.step import REVISION, Batch, Outcome, Step

# Between TRL and transformers, about a name that their next release takes away; the pins hold them where they are.
warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing` is deprecated", category=FutureWarning)

WHOLE = "whole"  # the file that a checkpoint gets last, when all its others are written
SECONDS_BETWEEN_CURVES = 5  # that a callback is given of a running run


def make_trainer(
    language_model: models.LanguageModel,
    corpus: Corpus,
    *,
    recipe: Recipe,
    folder: Path,
    on_curve: Callable[[list[CurvePoint]], None] | None = None,
) -> Any:
    """Return a trainer set to the recipe, with a fresh LoRA adapter on the base.

    `on_curve` is called with the curve's points every few seconds. The recipe's batch is that of all processes
    together. Raises `InputError` as `check` does.
    """
    device = language_model.device.type
    check(language_model, corpus, recipe=recipe)
    arguments = DPOConfig(
        output_dir=str(folder / "checkpoints"),
        beta=getattr(recipe.objective, "beta", 0.1),  # of TRL's own batches
        loss_type=["sigmoid"],
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_share,  # below 1 it is a share of all steps
        optim=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_gradient_norm,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.accumulation // processes().num_processes,
        gradient_checkpointing=recipe.gradient_checkpointing,
        max_length=recipe.max_length,
        **models.mixed_precision(language_model),
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        ddp_find_unused_parameters=False,
        remove_unused_columns=not recipe.shared_prefix,  # our batches' columns are not TRL's
        seed=recipe.seed,
        save_strategy="steps",
        save_steps=max(1, recipe.save_every // recipe.batch),
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        report_to="none",
        disable_tqdm=True,
    )
    ways = language_model.ways
    set_seed(recipe.seed)  # the adapter's first weights
    with _quiet_datasets():
        given: dict[str, Any] = {
            "model": language_model.model,
            "args": arguments,
            "train_dataset": _dataset(language_model.tokenizer, corpus, recipe),
            "processing_class": language_model.tokenizer,
            "peft_config": lora_config(recipe, language_model.model),
            "callbacks": [Bookkeeper(on_curve)],
        }
        ours = {"recipe": recipe, "ways": ways}
        trainer: Any = SemanticTrainer(**given, **ours) if recipe.shared_prefix else DPOTrainer(**given)
    trainer.remove_callback(PrinterCallback)
    if not recipe.train_router:
        models.hold_routers(trainer.model)
    train_in_float32(trainer.model)
    return trainer


def check(language_model: models.LanguageModel, corpus: Corpus, *, recipe: Recipe) -> None:
    """Raise an `InputError` for rows that the objective cannot read, or options that do not fit the machine."""
    device, together = language_model.device.type, processes().num_processes
    if recipe.objective.ranked and len(corpus.rows[0]) < 4:
        raise InputError(
            f"{corpus.name}: {recipe.objective.name} needs an entailed, a neutral and a contradicted sentence per "
            "premise. Load the rows with corpora.load_ranked_nli (--ranked)."
        )
    request = paraphrase_request("A", recipe.settings()["template"]) if not recipe.shared_prefix else ""
    if not isinstance(request, str) and not chat.is_plain(language_model.tokenizer, request):
        raise InputError(
            f"{language_model.name}: TRL's own batches render a chat as its template stands, and this one would not "
            "take the request so (no system role, thinking, or a date). Leave out --stock-batches."
        )
    if recipe.accumulation % together:
        raise InputError(
            f"{recipe.accumulation} micro-batches a step cannot be shared by {together} processes. "
            f"Set --accumulation to a multiple of {together}."
        )
    if recipe.optimizer.startswith("paged") and device != "cuda":
        raise InputError(f"{recipe.optimizer} needs a CUDA device, and this is {device!r}. Use adamw_torch.")


def _dataset(tokenizer, corpus: Corpus, recipe: Recipe) -> datasets.Dataset:
    if not recipe.shared_prefix:
        return recipe.objective.stock_dataset(corpus.rows)
    return objectives.tokenised(recipe.objective, tokenizer, rows=corpus.rows, max_length=recipe.max_length)


class SemanticTrainer(DPOTrainer):
    """TRL's trainer on prefix trees: each distinct prefix token computed once, whatever the objective."""

    def __init__(self, *args, recipe: Recipe, ways: models.Ways, **keywords):
        self.step = Step(recipe, ways, self.compute_loss_context_manager)
        self.reference = None  # by row, if it was computed beforehand
        super().__init__(*args, **keywords)
        self.data_collator = self.collate  # pyrefly: ignore[bad-assignment] (TRL's batches are dictionaries)

    def _prepare_dataset(self, dataset, *_):  # pyrefly: ignore[bad-override] (whatever TRL hands over)
        return dataset  # tokenised already

    def collate(self, rows: list) -> Batch:
        """Return the batch of tokenised rows."""
        return self.step.collate(rows, cached=self.reference is not None)

    def _prepare_inputs(self, inputs: Batch) -> Batch:  # pyrefly: ignore[bad-override] (as above)
        return inputs.to(self.args.device)

    def _compute_loss(self, model, inputs: Batch, return_outputs=False):
        reference = None if self.reference is None else self.reference[inputs.rows.cpu()].to(inputs.rows.device)
        outcome = self.step.compute(model, inputs, reference=reference)
        if not torch.isfinite(outcome.loss):
            # The number in the corpus, from 1: what a reader can look up.
            numbers = ", ".join(str(row + 1) for row in inputs.rows.tolist())
            raise InputError(
                f"Step {self.state.global_step + 1}: the loss is {outcome.loss.item()} in the batch of training rows "
                f"{numbers}. Lower the learning rate, or train in float32 or bfloat16; the last whole checkpoint stays."
            )
        self._keep_metrics(outcome, inputs.left_out, "train" if model.training else "eval")
        return (outcome.loss, None) if return_outputs else outcome.loss

    def reference_of(self, batch: Batch) -> torch.Tensor:
        """Return what the frozen base gives for a batch, row by row."""
        return self.step.reference(self.model, batch)

    def _keep_metrics(self, outcome: Outcome, left_out: torch.Tensor | None, mode: str) -> None:
        """Keep the figures that TRL logs, under its names, and how many candidates were no negatives."""
        scores, preferred = outcome.scores.scores.detach().float(), outcome.scores.preferred[:, None]
        best = scores.gather(1, preferred)[:, 0]
        negatives = torch.ones_like(scores, dtype=torch.bool) if left_out is None else ~left_out
        negatives = negatives.scatter(1, preferred, False)
        count = negatives.sum(dim=1)
        others = torch.where(negatives, scores, 0).sum(dim=1) / count.clamp(min=1)
        figures = {
            "rewards/chosen": best,
            "rewards/rejected": others,
            "rewards/margins": best - others,
            "rewards/accuracies": (best > scores.scatter(1, preferred, -math.inf).amax(dim=1)).float(),
            "left_out": (scores.shape[1] - 1 - count).float(),
        }
        if outcome.divergence is not None:
            figures["divergence"] = outcome.divergence.detach()
        for name, values in figures.items():
            self._metrics[mode][name].append(self.accelerator.gather(values).mean().item())


def reference_table(trainer: SemanticTrainer, base: dict[str, Any], *, corpus: Corpus) -> torch.Tensor:
    """Return the frozen base's log-probabilities or states of each row, from the cache or computed once.

    Shape (rows of the corpus, …), float32, on the CPU. The file's name is the key of all that the values depend on;
    `base` is the `LanguageModel.identity` of the base as it was before training.
    """
    recipe = trainer.step.recipe
    reads = {"reading": recipe.objective.reading(), "max_length": recipe.max_length, "templates": REQUEST_TEMPLATES}
    revision = {"objective": recipe.objective.revision}
    key = models.figure_key("reference", REVISION, base=base, data=corpus.fingerprint, **reads, **revision)
    path = build_folder() / "references" / f"{key}.safetensors"
    with processes().main_process_first():
        if not path.is_file():
            by_row = {}
            size, data = recipe.micro_batch, cast(datasets.Dataset, trainer.train_dataset)
            starts = range(0, len(data), size)
            for start in tqdm(starts, desc="reference", unit="batch"):
                batch = trainer.collate([data[index] for index in range(start, min(start + size, len(data)))])
                values = trainer.reference_of(trainer._prepare_inputs(batch)).float().cpu()
                by_row |= dict(zip(batch.rows.tolist(), values))
            table = torch.zeros(len(corpus), *next(iter(by_row.values())).shape)
            for row, values in by_row.items():
                table[row] = values
            with write_whole(path) as draft:
                save_file({"reference": table}, draft)
    return load_file(path)["reference"]


class Bookkeeper(TrainerCallback):
    """Shows progress, stops at a loss that is no number, and marks whole checkpoints."""

    def __init__(self, on_curve: Callable[[list[CurvePoint]], None] | None = None):
        self.on_curve = on_curve
        self.bar: Any = None
        self.called = time.monotonic()

    def on_train_begin(self, args, state, control, **_):
        hidden: dict[str, Any] = {} if processes().is_main_process else {"disable": True}  # else as TQDM_DISABLE says
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", **hidden)

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
        if self.on_curve and time.monotonic() - self.called > SECONDS_BETWEEN_CURVES:
            self.on_curve(points(state.log_history))
            self.called = time.monotonic()

    def on_save(self, args, state, control, **_):
        processes().wait_for_everyone()  # each process writes a file of its own
        if state.is_world_process_zero:
            # Written last: a checkpoint without this file was interrupted and is not resumed from.
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


def points(log_history: list[dict]) -> list[CurvePoint]:
    """Return a run's curve from what TRL has logged."""
    return [_point(entry) for entry in log_history if "loss" in entry]


def _point(entry: dict) -> CurvePoint:
    gradient_norm = entry.get("grad_norm", math.inf)
    return CurvePoint(
        step=entry["step"],
        loss=entry["loss"],
        margin=entry["rewards/margins"],
        accuracy=entry["rewards/accuracies"],
        chosen_reward=entry["rewards/chosen"],
        rejected_reward=entry["rewards/rejected"],
        learning_rate=entry["learning_rate"],
        # In float16 the scaler skips such a step and tries a smaller scale.
        gradient_norm=gradient_norm if math.isfinite(gradient_norm) else None,
        divergence=entry.get("divergence"),
        left_out=entry.get("left_out") or None,
    )


@contextlib.contextmanager
def _quiet_datasets():
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
