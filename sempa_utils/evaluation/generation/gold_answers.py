"""How likely a model finds the benchmarks' own right answers: speech that can be lost where nothing is solved.

A model of 135M parameters solves next to nothing of GSM8K, DROP and MMLU: its accuracy lies on the floor and cannot
fall. How likely it finds the right answer behind its question can, and one reading of some hundred items shows it.
The items are those that the benchmarks draw; no examples stand before them.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sempa_utils import models, records
from sempa_utils.checks import InputError, build_folder, fingerprint
from sempa_utils.evaluation.generation import harness
from sempa_utils.evaluation.generation.harness import BenchmarkResult, Benchmarks

REVISION = 1  # of what is read and how it is scored; raised with every change that moves a figure
ITEMS = 500  # of a task, by default
PACKED_TOKENS = 128  # up to here short items are read together: a short forward costs up to half more a token


class GoldAnswer(NamedTuple):
    """A question as the model reads it, and the benchmark's own answer, which begins with a space."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class GoldTask:
    """A task's drawn items, and the record of where they come from."""

    items: list[GoldAnswer]
    data: dict


# --- what is read ----------------------------------------------------------------------------------


def _gsm8k(row: dict) -> GoldAnswer:
    solution = re.sub(r"<<.*?>>", "", row["answer"])  # a calculator's marks, which no other text has
    solution = re.sub(r"\s*\n#### (.*)", r"\nThe answer is \1.", solution)
    return GoldAnswer(f"Question: {row['question']}\nAnswer:", " " + solution)


def _mmlu(row: dict) -> GoldAnswer:
    return GoldAnswer(f"Question: {row['question'].strip()}\nAnswer:", " " + row["choices"][row["answer"]])


def _hellaswag(row: dict) -> GoldAnswer:
    return GoldAnswer(row["query"], " " + row["choices"][row["gold"]])


def _drop(row: dict) -> GoldAnswer:
    question = f"Passage: {row['passage']}\nQuestion: {row['question']}\nAnswer:"
    return GoldAnswer(question, " " + ", ".join(row["answers"][0]))


def _truthfulqa(row: dict) -> GoldAnswer:
    return GoldAnswer(f"Question: {row['question']}\nAnswer:", " " + row["mc1_targets"]["choices"][0])


READ: dict[str, Callable[[dict], GoldAnswer]] = {
    "gsm8k": _gsm8k,
    "mmlu": _mmlu,
    "hellaswag": _hellaswag,
    "drop": _drop,
    "truthfulqa": _truthfulqa,
}
LABELS = {
    "gsm8k": "GSM8K, worked solution",
    "mmlu": "MMLU, text of the right option",
    "hellaswag": "HellaSwag, right ending",
    "drop": "DROP, answer behind its passage",
    "truthfulqa": "TruthfulQA, best answer",
}


def load(benchmarks: Benchmarks | None = None) -> dict[str, GoldTask]:
    """Return the drawn items of each task, by default `ITEMS` of each. Raises `InputError` as `check_tasks` does."""
    benchmarks = benchmarks or Benchmarks(limit=ITEMS)
    tasks = {}
    for name, prepared in harness.prepare_all(benchmarks).items():
        with harness.quiet():
            items = [READ[name](row) for part in prepared.parts.values() for row in part.eval_docs]
        drawn = {"fingerprint": fingerprint(*(text for item in items for text in item)), "items": len(items)}
        tasks[name] = GoldTask(items, prepared.data | drawn)
    return tasks


def sentences(item: GoldAnswer) -> list[str]:
    """Return an item's sentences, whatever stands between them."""
    return [part for part in re.split(r"(?<=[.:!?])\s+|\n", item.prompt + item.answer) if part]


# --- how likely it is ------------------------------------------------------------------------------


def evaluate(
    language_model: models.LanguageModel,
    tasks: Mapping[str, GoldTask],
    *,
    max_length: int | None = None,
    show_progress_bar: bool = True,
) -> dict[str, BenchmarkResult]:
    """Return each task's log-likelihood per token of its gold answers, in nats: the mean over its items.

    Scores are the items' own means over the answer's tokens, at most 0; `comparison` takes what is returned. An item
    of more than `max_length` tokens, by default what the model's context holds, is left out and counted in `data`.
    Results are kept as those of the benchmarks are. Raises `InputError` where fewer than two items fit.
    """
    context = harness.context_length(language_model.model.config, language_model.tokenizer)
    longest, results = min(max_length or context, context), {}
    for name, task in tasks.items():
        path = _kept(language_model, name, task, longest)
        if path and path.is_file():
            results[name] = records.read_json(path, BenchmarkResult)
            continue
        results[name] = _read(language_model, name, task, max_length=longest, show_progress_bar=show_progress_bar)
        if path:
            records.write_json(path, results[name], digits=records.EXACT)
    return results


def _kept(language_model, name: str, task: GoldTask, max_length: int) -> Path | None:
    if language_model.adapter == models.UNSAVED:  # no later run will have it again
        return None
    asked = {"task": name, "data": task.data, "max_length": max_length}
    key = models.figure_key("gold_answers", REVISION, packages=("lm_eval",), model=language_model.identity(), **asked)
    return build_folder() / "generation" / f"{key}.json"


def _read(language_model, name: str, task: GoldTask, *, max_length: int, show_progress_bar: bool) -> BenchmarkResult:
    from sempa_utils.evaluation.generation.harness_model import HarnessModel

    started = time.perf_counter()
    with harness.quiet(name, show_progress_bar):
        how = {"tokenizer": language_model.tokenizer, "batch_size": "auto", "max_length": max_length}
        wrapped = HarnessModel(language_model.model, packed_tokens=PACKED_TOKENS, **how)
        pairs = [wrapped._encode_pair(item.prompt, item.answer) for item in task.items]
        fitting = [pair for pair in pairs if sum(map(len, pair)) <= max_length]
        if len(fitting) < 2:
            raise InputError(
                f"{name}: {len(fitting)} of {len(pairs)} items have no more than {max_length:,} tokens, which is what "
                f"is read at most. Leave {name} out, or take a model with a longer context."
            )
        totals = [total for total, _ in wrapped._loglikelihood_tokens([(("", ""), *pair) for pair in fitting])]
    lengths = [len(answer) for _, answer in fitting]
    scores = [total / length for total, length in zip(totals, lengths, strict=True)]
    left_out = {f"longer than {max_length} tokens": len(pairs) - len(fitting)}
    return BenchmarkResult(
        value=float(np.mean(scores)),
        standard_error=harness.standard_error(scores),
        items=len(fitting),
        metric=f"{LABELS[name]}: nats per token",
        shots=0,
        scores=scores,
        all_metrics={"tokens": float(sum(lengths)), "of all tokens alike": sum(totals) / sum(lengths)},
        data=task.data | {"dropped": task.data["dropped"] | left_out},
        samples=[],
        seconds=round(time.perf_counter() - started, 1),
    )
