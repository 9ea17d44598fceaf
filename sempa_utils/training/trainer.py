"""TRL's `DPOTrainer`, taught the five objectives on prefix-tree batches.

Logging, checkpoints, callbacks and several devices stay TRL's and accelerate's; what is ours is which
tokens a batch holds, and the loss over them.
"""

import contextlib
import math
import time
from functools import partial
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer

from sempa_utils import __version__, models, objectives
from sempa_utils.checks import InputError, build_folder, fingerprint, write_whole
from sempa_utils.data.corpora import Corpus
from sempa_utils.models import prefix_tree
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.objectives.preferences import answers_dataset, preference_dataset, slots_dataset

WHOLE = "whole"  # the file that a checkpoint gets last, when all its others are written
WATCH_SECONDS = 5  # between two looks at a running curve


def processes() -> PartialState:
    """Return accelerate's view of the processes that share this run; without a GPU they talk by gloo."""
    return PartialState(cpu=not torch.cuda.is_available())


def make_trainer(
    language_model: models.LanguageModel,
    corpus: Corpus,
    recipe,
    folder: Path,
    show_progress_bar: bool = True,
    watch=None,
):
    """Return a trainer set to the recipe (a `training.Recipe`), with a fresh LoRA adapter on the base.

    `watch`, a function, is called with the curve's points every few seconds.
    The recipe's batch is that of all processes together. Raises `InputError` as `check` does.
    """
    device = language_model.device.type
    check(language_model, corpus, recipe)
    arguments = DPOConfig(
        output_dir=str(folder / "checkpoints"),
        beta=recipe.beta,
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
        **mixed_precision(language_model),
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
    set_seed(recipe.seed)  # the adapter's first weights
    kind = partial(SemanticTrainer, recipe=recipe) if recipe.shared_prefix else DPOTrainer
    with _quiet_datasets():
        trainer = kind(
            model=language_model.model,
            args=arguments,
            train_dataset=_dataset(language_model.tokenizer, corpus, recipe),
            processing_class=language_model.tokenizer,
            peft_config=lora_config(recipe),
            callbacks=[Bookkeeper(show_progress_bar and processes().is_main_process, watch)],
        )
    trainer.remove_callback(PrinterCallback)
    # TRL casts the adapter on a 4-bit base to bfloat16. Float32 keeps small updates, and works on
    # cards without bfloat16; the products still run in the compute type.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def check(language_model: models.LanguageModel, corpus: Corpus, recipe) -> None:
    """Raise an `InputError` for rows that the objective cannot read, or options that do not fit the machine."""
    device, together = language_model.device.type, processes().num_processes
    if OBJECTIVES[recipe.objective].ranked and len(corpus.rows[0]) < 4:
        raise InputError(
            f"{corpus.name}: {recipe.objective} needs an entailed, a neutral and a contradicted sentence per premise. "
            "Load the rows with corpora.load_ranked_nli (--ranked)."
        )
    if recipe.shared_prefix and (recipe.objective != "contrastive" or recipe.kl_weight):
        objectives.check_head(language_model.model.config)
    if recipe.accumulation % together:
        raise InputError(
            f"{recipe.accumulation} micro-batches a step cannot be shared by {together} processes. "
            f"Set --accumulation to a multiple of {together}."
        )
    if recipe.optimizer.startswith("paged") and device != "cuda":
        raise InputError(f"{recipe.optimizer} needs a CUDA device, and this is {device!r}. Use adamw_torch.")


def _dataset(tokenizer, corpus: Corpus, recipe):
    if not recipe.shared_prefix:
        return preference_dataset(corpus.rows, recipe.template)
    objective = OBJECTIVES[recipe.objective]
    if objective.reads == "answers":
        return answers_dataset(tokenizer, corpus.rows, recipe.template, recipe.max_length, objective.ranked)
    return slots_dataset(tokenizer, corpus.rows, recipe.extraction_template, recipe.max_length)


class SemanticTrainer(DPOTrainer):
    """TRL's trainer on prefix trees: each distinct prefix token computed once, any of the five objectives."""

    def __init__(self, *args, recipe, **keywords):
        self.recipe = recipe
        self.objective = OBJECTIVES[recipe.objective]
        self.reference = None  # per row, if it was computed beforehand
        super().__init__(*args, **keywords)
        self.data_collator = self.collate

    def _prepare_dataset(self, dataset, *_):
        return dataset  # `preferences` has tokenised it

    def collate(self, examples: list[dict]) -> dict:
        """Return a batch: the rows' numbers, and the trees that policy and reference compute."""
        rows = torch.tensor([example["row"] for example in examples])
        if self.objective.reads == "answers":
            answers = [example["answers"] for example in examples]
            if self.recipe.objective == "best_of_n":
                answers = objectives.with_other_anchors(answers, self.recipe.candidates)
            tree = prefix_tree.build([example["prompt"] for example in examples], answers)
            return {"rows": rows, "trees": [tree._asdict()], **self._plain(examples)}
        anchors, positives, negatives = zip(*(example["sentences"] for example in examples))
        moved = anchors if self.objective.reference else anchors + positives + negatives
        if self.recipe.symmetric:
            moved = anchors + positives
        batch = {"rows": rows, "trees": self._slots(moved), **self._plain(examples)}
        if self.objective.reference and self.reference is None:
            batch["reference_trees"] = self._slots(anchors + positives + negatives)
        return batch

    def _plain(self, examples: list[dict]) -> dict:
        """Return what the divergence from the base is computed on, if the recipe wants it."""
        texts = [example["plain"] for example in examples[: self.recipe.kl_texts]]
        return {"plain_tree": prefix_tree.build_texts(texts)._asdict()} if self.recipe.kl_weight else {}

    def _slots(self, sentences) -> list[dict]:
        size = self.recipe.chunk
        parts = [sentences[start : start + size] for start in range(0, len(sentences), size)]
        return [prefix_tree.build_slots(part)._asdict() for part in parts]

    def _compute_loss(self, model, inputs, return_outputs=False):
        if self.objective.reads == "answers":
            loss, scores = self._answer_loss(model, inputs)
        else:
            # In bfloat16 or float16 the differences between states would be rounded away.
            with torch.autocast(inputs["rows"].device.type, enabled=False):
                loss, scores = self._slot_loss(model, inputs)
        if self.recipe.kl_weight:
            loss = loss + self.recipe.kl_weight * self._divergence(model, inputs["plain_tree"])
        if not torch.isfinite(loss):
            # The number in the corpus, from 1: what a reader can look up.
            numbers = ", ".join(str(row + 1) for row in inputs["rows"].tolist())
            raise InputError(
                f"Step {self.state.global_step + 1}: the loss is {loss.item()} in the batch of training rows "
                f"{numbers}. Lower the learning rate, or train in float32 or bfloat16; the last whole checkpoint stays."
            )
        self._note(scores.detach().float())
        return (loss, None) if return_outputs else loss

    def _answer_loss(self, model, inputs):
        policy = self._answers(model, inputs)
        reference = self.reference_of(model, inputs) if self.reference is None else self._cached(inputs)
        if not policy.isfinite().all():
            return policy.sum(), policy
        return objectives.answer_loss(self.recipe.objective, policy, reference, self.recipe.beta)

    def _slot_loss(self, model, inputs):
        count, recipe = len(inputs["rows"]), self.recipe
        states = self._states(model, inputs["trees"])
        if not states.isfinite().all():
            return states.sum(), states
        if not self.objective.reference:
            scores = objectives.cosine_scores(states[:count], states[count:], recipe.temperature)
            return objectives.slot_loss(scores), scores
        reference = self.reference_of(model, inputs) if self.reference is None else self._cached(inputs)
        anchors, positives, negatives = reference.unbind(dim=1)  # each (rows, width)
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        words = objectives.expected_words(head, torch.cat([positives, negatives]))
        scores = objectives.one_word_scores(head, states[:count], anchors, words, recipe.beta)
        loss = objectives.slot_loss(scores)
        if recipe.symmetric:
            words = objectives.expected_words(head, anchors)
            back = objectives.one_word_scores(head, states[count:], positives, words, recipe.beta)
            loss = (loss + objectives.slot_loss(back)) / 2
        return loss, scores

    def _divergence(self, model, tree: dict) -> torch.Tensor:
        """Return the mean KL(base ‖ model) of the next words in the batch's anchors as plain text, in nats."""
        unwrapped = self.accelerator.unwrap_model(model)
        with torch.no_grad(), unwrapped.disable_adapter():
            reference = self._states(model, [tree])
        found = objectives.divergence(unwrapped.get_output_embeddings(), self._states(model, [tree]), reference)
        gathered = self.accelerator.gather(found.detach()).mean().item()
        self._metrics["train" if self.model.training else "eval"]["divergence"].append(gathered)
        return found

    @torch.no_grad()
    def reference_of(self, model, inputs) -> torch.Tensor:
        """Return what the frozen base gives for a batch: log-probabilities (rows, N) or states (rows, 3, width)."""
        with self.accelerator.unwrap_model(model).disable_adapter():
            if self.objective.reads == "answers":
                return self._answers(model, inputs)
            states = self._states(model, inputs["reference_trees"])
        return states.view(3, len(inputs["rows"]), -1).transpose(0, 1)

    def _answers(self, model, inputs) -> torch.Tensor:
        return prefix_tree.log_probs(model, prefix_tree.PrefixTree(**inputs["trees"][0])).view(len(inputs["rows"]), -1)

    def _states(self, model, trees: list[dict]) -> torch.Tensor:
        # Gradient caching (Gao et al., 2021): of several chunks only the states are kept, and each chunk is computed
        # again when its gradient is wanted, so memory does not grow with the batch.
        with self.compute_loss_context_manager():
            again = self.recipe.gradient_caching and torch.is_grad_enabled() and len(trees) > 1
            parts = []
            for tree in trees:
                read = partial(prefix_tree.states, model, prefix_tree.PrefixTree(**tree))
                parts.append(checkpoint(read, use_reentrant=False) if again else read())
        return torch.cat([part.float() for part in parts])

    def _cached(self, inputs) -> torch.Tensor:
        rows = inputs["rows"]
        return self.reference[rows.cpu()].to(rows.device)

    def _note(self, scores: torch.Tensor) -> None:
        """Keep the figures that TRL logs, under its names; row i's preferred candidate is i, or the first."""
        best = torch.arange(len(scores), device=scores.device) if self.objective.reads == "slots" else 0
        best = torch.zeros(len(scores), dtype=torch.long, device=scores.device) + best
        preferred = scores.gather(1, best[:, None])[:, 0]
        others = (scores.sum(dim=1) - preferred) / (scores.shape[1] - 1)
        highest_other = scores.scatter(1, best[:, None], -math.inf).amax(dim=1)
        figures = {
            "rewards/chosen": preferred,
            "rewards/rejected": others,
            "rewards/margins": preferred - others,
            "rewards/accuracies": (preferred > highest_other).float(),
        }
        mode = "train" if self.model.training else "eval"
        for name, values in figures.items():
            self._metrics[mode][name].append(self.accelerator.gather(values).mean().item())


def reference_table(trainer: SemanticTrainer, language_model, corpus: Corpus, recipe, show_progress_bar: bool):
    """Return the frozen base's log-probabilities or states of each row, from the cache or computed once.

    Shape (rows of the corpus, …), float32, on the CPU. The file's name is a fingerprint of all that
    the values depend on, so one of another model, precision, data or template is never found.
    """
    objective = OBJECTIVES[recipe.objective]
    template = recipe.template if objective.reads == "answers" else recipe.extraction_template
    base = (language_model.fingerprint, language_model.precision, language_model.device.type)
    reads = (objective.reads, objective.ranked, template, recipe.max_length)
    path = build_folder() / "references" / f"{fingerprint(__version__, *base, corpus.fingerprint, *reads)}.safetensors"
    with processes().main_process_first():
        if not path.is_file():
            found = {}
            data, size = trainer.train_dataset, recipe.micro_batch
            starts = range(0, len(data), size)
            for start in tqdm(starts, desc="reference", unit="batch", disable=not show_progress_bar):
                batch = trainer.collate([data[index] for index in range(start, min(start + size, len(data)))])
                inputs = trainer._prepare_inputs(batch)
                with trainer.compute_loss_context_manager():
                    values = trainer.reference_of(trainer.model, inputs).float().cpu()
                found |= dict(zip(batch["rows"].tolist(), values))
            table = torch.zeros(len(corpus), *next(iter(found.values())).shape)
            for row, values in found.items():
                table[row] = values
            with write_whole(path) as draft:
                save_file({"reference": table}, draft)
    return load_file(path)["reference"]


def mixed_precision(language_model: models.LanguageModel) -> dict[str, bool]:
    """Return the trainer's switches: bf16 or fp16 autocast where the model computes so, else none."""
    nf4 = language_model.precision == "nf4"
    dtype = models.compute_dtype(language_model.device.type) if nf4 else language_model.model.dtype
    return {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}


def lora_config(recipe) -> LoraConfig:
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

    def __init__(self, show_progress_bar: bool, watch=None):
        self.show = show_progress_bar
        self.watch = watch
        self.bar = None
        self.watched = time.monotonic()

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
        if self.watch and time.monotonic() - self.watched > WATCH_SECONDS:
            self.watch(points(state.log_history))
            self.watched = time.monotonic()

    def on_save(self, args, state, control, **_):
        processes().wait_for_everyone()  # each process writes a file of its own
        if state.is_world_process_zero:
            # Written last: a checkpoint without this file was interrupted and is not resumed from.
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


def points(log_history: list[dict]) -> list[dict]:
    """Return a run's curve: step, loss, margin, accuracy, rewards, learning rate, gradient norm at each logged step."""
    return [_point(entry) for entry in log_history if "loss" in entry]


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
        "divergence": "divergence",
    }
    point = {ours: entry[theirs] for ours, theirs in names.items() if theirs in entry}
    if not math.isfinite(point.get("gradient_norm", 0.0)):
        point["gradient_norm"] = None  # in float16 the scaler skips such a step and tries a smaller scale
    return point


@contextlib.contextmanager
def _quiet_datasets():
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
