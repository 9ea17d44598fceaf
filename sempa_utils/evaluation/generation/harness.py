"""Generation benchmarks by lm-evaluation-harness: the paper's five tasks on a loaded model, adapter or not.

The harness writes the prompts, extracts the answers and scores them; here it is told on which rows and with
how many shots, and each task's result is kept.
"""

import contextlib
import importlib.util
import io
import json
import logging
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from sempa_utils import models, records
from sempa_utils.checks import InputError, build_folder, fingerprint, installing, pick
from sempa_utils.evaluation.generation import local_tasks
from sempa_utils.records import Comparison, Difference, RowScores, TaskScore

REVISION = 1  # of what is asked and how it is scored; raised with every change that moves a figure
SAMPLES = 3  # items that a result shows whole
GENERATION_TOKENS = 16384  # of a batch on the CPU, padding included: about a gigabyte in the packaged model


@dataclass(frozen=True)
class Task:
    """A benchmark as the paper runs it; `repair` holds the fields of the harness' definition that are changed."""

    name: str  # the harness' task or group
    shots: int
    metric: str  # as the harness names it: metric,filter
    label: str  # for tables
    column: str  # of the paper's Table 6
    definition: str  # folder of the harness' tasks that defines it
    repair: dict = field(default_factory=dict)


# The harness gives DROP's few-shots the names of the answer's fields for an answer ("number,date,spans"),
# nothing between question and answer, and cuts an answer at its decimal point (its issue 2137). The paper
# used "a repaired task file" that it does not show; ours changes these three fields.
DROP_REPAIR = {
    "doc_to_target": "{{answers[0]|join(', ')}}",
    "target_delimiter": " ",
    "generation_kwargs": {"until": ["\n"]},
}

TASKS = {
    "gsm8k": Task("gsm8k_cot", 8, "exact_match,strict-match", "GSM8K, accuracy", "GSM8K_acc", "gsm8k"),
    "mmlu": Task("mmlu", 5, "acc,none", "MMLU, accuracy", "MMLU_acc", "mmlu/default"),
    "hellaswag": Task("hellaswag", 0, "acc_norm,none", "HellaSwag, acc_norm", "HellaSwag_acc_norm", "hellaswag"),
    "drop": Task("drop", 3, "f1,none", "DROP, F1", "DROP_f1", "drop", DROP_REPAIR),
    "truthfulqa": Task("truthfulqa_mc1", 0, "acc,none", "TruthfulQA, MC1", "TruthfulQA_mc1", "truthfulqa"),
}

# What guessing gets, × 100, where one answer is chosen; TruthfulQA's questions have 2 to 13 answers, so it is a mean.
CHANCE = {"mmlu": 25.0, "hellaswag": 25.0, "truthfulqa": 22.25}


@dataclass(frozen=True)
class Benchmarks:
    """What is run: tasks, from which directory, how many items of each, drawn by the seed (MMLU's over subjects)."""

    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    directory: str | Path | None = None
    limit: int | None = None
    seed: int = 42


@dataclass(frozen=True)
class Sample:
    """An item shown whole: what the model read and answered, what was right, the item's score × 100."""

    prompt: str
    answer: str
    target: str
    score: float


@dataclass(frozen=True)
class BenchmarkResult:
    """A task's figure with the harness' own standard error, and the scores of its items in order, all × 100.

    `all_metrics` are named as the harness does; `samples` are for a notebook and never for a record. Of gold answers
    the scores are nats per token, as they are.
    """

    value: float
    standard_error: float
    items: int
    metric: str
    shots: int
    scores: list[float]
    all_metrics: dict[str, float]
    data: dict
    samples: list[Sample]
    seconds: float = 0.0

    @property
    def score(self) -> TaskScore:
        """The figure as all comparisons have it."""
        return TaskScore(self.value, self.items, standard_error=self.standard_error)


@dataclass(frozen=True)
class Prepared:
    """The harness' tasks (MMLU: one a subject) holding only the items to be run, and what they were drawn from."""

    parts: dict[str, Any]
    data: dict
    items: int


def evaluate(
    language_model: models.LanguageModel,
    benchmarks: Benchmarks | None = None,
    *,
    batch_size: int | None = None,
    show_progress_bar: bool = True,
) -> dict[str, BenchmarkResult]:
    """Run benchmarks on a model as it is, its adapter on or switched off.

    `batch_size` is found where it is None. Each task's result is kept in the build folder under a fingerprint of
    what it depends on, so a run goes on at the next task. Raises `InputError` as `check_tasks` does.
    """
    benchmarks = benchmarks or Benchmarks()
    limit, seed, prepared = benchmarks.limit, benchmarks.seed, prepare_all(benchmarks)
    kept = {name: _kept(language_model, name, prepared[name], limit, seed) for name in prepared}
    missing = [name for name, path in kept.items() if not (path and path.is_file())]
    context = context_length(language_model.config, language_model.tokenizer)
    longest = {name: _check_context(name, prepared[name], language_model.tokenizer, context, seed) for name in missing}
    results = {}
    for name, path in kept.items():
        if path and name not in missing:
            results[name] = records.read_json(path, BenchmarkResult)
            continue
        size = batch_size or _batch_size(language_model, longest[name])
        started = time.perf_counter()
        result = _run(language_model, name, prepared[name], longest[name], size, seed, show_progress_bar)
        results[name] = replace(result, seconds=round(time.perf_counter() - started, 1))
        if path:
            records.write_json(path, results[name], digits=records.EXACT)
    return results


def check_tasks(benchmarks: Benchmarks | None = None, model: str | None = None) -> dict[str, dict]:
    """Check tasks, files and, with `model` named, its context, without its weights; return {task: data record}.

    Raises `InputError` for an unknown task, a missing or malformed file, a limit below 2 (no standard error
    comes of a single item), and a context that is too short for the shots.
    """
    benchmarks = benchmarks or Benchmarks()
    prepared = prepare_all(benchmarks)
    if model:
        config, tokenizer = _config_and_tokenizer(model)
        for name in prepared:
            _check_context(name, prepared[name], tokenizer, context_length(config, tokenizer), benchmarks.seed)
    return {name: task.data | {"items": task.items} for name, task in prepared.items()}


def comparison(rows: Mapping[str, Mapping[str, BenchmarkResult]], against: str) -> Comparison:
    """Compare {row: what `evaluate` returned} with the row `against`, task by task and in the mean.

    A difference is paired: its standard error is that of the mean over items of the differences of scores. Tasks
    count as independent in the mean, the paper's Avg. Raises `InputError` for rows that were not run on the same items.
    """
    base, compared = pick(against, rows, what="row to compare with"), {}
    for row, results in rows.items():
        _require_same_items(row, results, against, base)
        scores = {task: result.score for task, result in results.items()}
        if row != against:
            scores = {
                task: replace(score, difference=_difference(results[task], base[task]))
                for task, score in scores.items()
            }
        mean = RowScores.of(scores).mean
        mean = replace(mean, standard_error=_error_of_mean([score.standard_error for score in scores.values()]))
        if differences := [score.difference for score in scores.values() if score.difference]:
            value = sum(apart.value for apart in differences) / len(differences)
            error = _error_of_mean([apart.standard_error for apart in differences])
            mean = replace(mean, difference=Difference(value, standard_error=error))
        compared[row] = RowScores(scores, mean)
    return Comparison(against, compared)


def _difference(result: BenchmarkResult, base: BenchmarkResult) -> Difference:
    apart = np.subtract(result.scores, base.scores)
    return Difference(result.value - base.value, standard_error=standard_error(apart))


def _error_of_mean(errors) -> float:
    return math.hypot(*errors) / len(errors)


def _require_same_items(row: str, results: Mapping, against: str, base: Mapping) -> None:
    if list(results) != list(base):
        raise InputError(f"{row} ran {', '.join(results)} and {against} ran {', '.join(base)}. Run the same tasks.")
    for task, result in results.items():
        if (result.data, len(result.scores)) != (base[task].data, len(base[task].scores)):
            raise InputError(f"{task}: {row} and {against} ran on different items. Run both with one limit and seed.")


def standard_error(values) -> float:
    """Return the standard error of the mean of values."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def prepare_all(benchmarks: Benchmarks) -> dict[str, Prepared]:
    """Return the tasks with their drawn items. Raises `InputError` as `check_tasks` does."""
    if not importlib.util.find_spec("lm_eval"):
        raise InputError(f"lm-evaluation-harness is not installed. Run: {installing('lm_eval', 'evaluation')}")
    for name in benchmarks.tasks:
        pick(name, TASKS, what="task")
    limit = benchmarks.limit
    if limit is not None and limit < 2:
        raise InputError(f"A limit of {limit} items gives no standard error. Give at least 2, or none for all.")
    return {name: _prepare(name, benchmarks.directory, limit, benchmarks.seed) for name in benchmarks.tasks}


def _prepare(name: str, directory, limit: int | None, seed: int) -> Prepared:
    """Load the harness' definitions on local rows or the hub's, and leave the drawn items in them."""
    import datasets
    import lm_eval.tasks

    task, documents = TASKS[name], local_tasks.find(name, directory)
    folder = Path(lm_eval.tasks.__file__).parent / task.definition
    with quiet():
        manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=str(folder))
        wanted = [{"task": task.name, **task.repair}]
        if documents:
            for part in documents.splits:
                pick(part, manager.all_subtasks, what=f"part of {name}")
            wanted = [
                {"task": part, "custom_dataset": _given(splits), **task.repair}
                for part, splits in documents.splits.items()
            ]
        # As members of a group they are the harness' definitions with changes; alone they would be new ones.
        changed = documents or task.repair
        parts = manager.load({"group": "sempa", "task": wanted} if changed else task.name)["tasks"]
    sizes, digests = {}, []
    for part, loaded in parts.items():
        loaded.set_config("num_fewshot", task.shots)
        split = _split(loaded)
        sizes[part] = len(loaded.dataset[split])
        shown = (loaded.config.fewshot_split or loaded.config.training_split) if task.shots else None
        for rows in (loaded.dataset[name] for name in (split, shown) if name):
            digests += [json.dumps(row, sort_keys=True, default=str) for row in rows]
    chosen = draw(sizes, limit, seed=seed)
    for part, rows in chosen.items():
        if len(rows) < sizes[part]:
            split = _split(parts[part])
            parts[part].dataset = datasets.DatasetDict(parts[part].dataset)
            parts[part].dataset[split] = parts[part].dataset[split].select(rows)
    record = {
        "name": name,
        "rows": sum(sizes.values()),
        "source": documents.source if documents else "hub",
        "fingerprint": fingerprint(*digests),
        "dropped": documents.dropped if documents else {},
    }
    if len(sizes) > 1:
        record["subjects"] = len(sizes)
    items = sum(map(len, chosen.values()))
    if items < 2:
        raise InputError(f"{name}: {items} item from {record['source']} gives no standard error. Give at least 2.")
    return Prepared({part: parts[part] for part in chosen}, record, items)


def _given(splits: dict[str, list[dict]]):
    def dataset(**_):
        import datasets

        return datasets.DatasetDict(**{split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})

    return dataset


def _split(loaded) -> str:
    return loaded.config.test_split or loaded.config.validation_split


def draw(sizes: dict[str, int], limit: int | None, *, seed: int) -> dict[str, list[int]]:
    """Draw `limit` rows by `seed`, as many of each part as of the others where it has them: {part: rows in order}.

    Parts of which no row is drawn are left out; None keeps all.
    """
    if limit is None or limit >= sum(sizes.values()):
        return {part: list(range(size)) for part, size in sizes.items()}
    generator, turns = random.Random(seed), []
    places = generator.sample(range(len(sizes)), len(sizes))
    for place, (part, size) in zip(places, sizes.items()):
        turns += [(turn, place, part, row) for turn, row in enumerate(generator.sample(range(size), size))]
    drawn = {part: [] for part in sizes}
    for _, _, part, row in sorted(turns)[:limit]:
        drawn[part].append(row)
    return {part: sorted(rows) for part, rows in drawn.items() if rows}


def _requests(prepared: Prepared, seed: int) -> list:
    """Return all that will be asked of the model, as the harness' instances."""
    instances = []
    with quiet():
        for part in prepared.parts.values():
            part.set_fewshot_seed(seed)
            part.build_all_requests()
            instances += part.instances
    return instances


def _check_context(name: str, prepared: Prepared, tokenizer, context: int, seed: int) -> int:
    """Return the longest request's tokens, room for the answer included; raise unless all fit into `context`."""
    needed = []
    for instance in _requests(prepared, seed):
        prompt, answer = instance.args
        room = 0 if isinstance(answer, str) else answer.get("max_gen_toks", _generated_tokens())
        needed.append((prompt + answer if isinstance(answer, str) else prompt, room))
    # A token is at least a byte, but for a few special ones: only texts that could be too long are counted, and
    # the longest in any case.
    needed.sort(key=lambda request: len(request[0].encode()) + request[1], reverse=True)
    long = needed[:1] + [(text, room) for text, room in needed[1:] if len(text.encode()) + room + 8 > context]
    counted = [len(tokenizer(text)["input_ids"]) + room for text, room in long]
    longest = max(counted)
    if longest > context:
        raise InputError(
            f"{name}: {longest:,} tokens are needed, {TASKS[name].shots} shots and the answer included, and the "
            f"model's context holds {context:,}. Leave {name} out, or take a model with a longer context."
        )
    return longest


def _generated_tokens() -> int:
    from lm_eval.defaults import DEFAULT_MAX_GEN_TOKS

    return DEFAULT_MAX_GEN_TOKS


def context_length(config, tokenizer) -> int:
    """Return how many tokens a model reads: what its configuration or its tokenizer says, else 2048."""
    from lm_eval.models.utils import resolve_max_length

    return resolve_max_length(config, tokenizer, default=2048)


def _config_and_tokenizer(model: str):
    from transformers import AutoConfig, AutoTokenizer

    source = models.fetch(model)
    try:
        how = {"trust_remote_code": False}
        return AutoConfig.from_pretrained(source, **how), AutoTokenizer.from_pretrained(source, **how)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{model}: its configuration and tokenizer cannot be read ({str(error).splitlines()[0][:200]}). Name a "
            "model directory, a hub id that this machine can reach, or 'packaged'."
        ) from error


def _kept(language_model, name: str, prepared: Prepared, limit: int | None, seed: int) -> Path | None:
    if language_model.adapter == models.UNSAVED:  # no later run will have it again
        return None
    asked = {"task": TASKS[name], "data": prepared.data, "limit": limit, "seed": seed}
    key = models.figure_key("generation", REVISION, packages=("lm_eval",), model=language_model.identity(), **asked)
    return build_folder() / "generation" / f"{key}.json"


def _batch_size(language_model, longest: int) -> int | str:
    # On a GPU the harness tries what fits. On a CPU nothing fails before memory is full, so the longest prompt
    # decides; a generated token costs nearly the same for one row or many. Scored answers need no batch size.
    if not language_model.ways.together(longest, left=True):  # a generated batch is padded there
        return 1
    return "auto" if language_model.device.type != "cpu" else max(1, min(16, GENERATION_TOKENS // longest))


def _run(language_model, name: str, prepared: Prepared, longest: int, batch_size, seed: int, show_progress_bar):
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr
    from lm_eval.evaluator import evaluate as run_harness

    from sempa_utils.evaluation.generation.harness_model import HarnessModel

    task, parts = TASKS[name], prepared.parts
    metric, chosen_filter = task.metric.split(",")
    for part in parts.values():
        part.set_fewshot_seed(seed)
    with quiet(name, show_progress_bar):
        how = {"tokenizer": language_model.tokenizer, "batch_size": batch_size, "max_length": longest}
        wrapped = HarnessModel(language_model.model, **how)
        outcome = run_harness(wrapped, {"tasks": parts, "groups": {}})
    scores, samples = [], []
    for part in parts:
        rows = [row for row in outcome["samples"][part] if row["filter"] == chosen_filter]
        scores += [100 * float(row[metric]) for row in rows]
        samples += [_sample(parts[part], row, metric) for row in rows[: SAMPLES - len(samples)]]
    results = [outcome["results"][part] for part in parts]
    sizes = [result["sample_len"] for result in results]
    figures = {
        key: 100 * float(aggregate_subtask_metrics([result[key] for result in results], sizes))
        for key in results[0]
        if "," in key and "_stderr" not in key
    }
    errors = [result[f"{metric}_stderr,{chosen_filter}"] for result in results]
    # A subject with a single item has no error to pool; then all items count as one sample.
    pooled = min(sizes) > 1
    return BenchmarkResult(
        value=figures[task.metric],
        standard_error=100 * float(pooled_sample_stderr(errors, sizes)) if pooled else standard_error(scores),
        items=prepared.items,
        metric=task.label,
        shots=task.shots,
        scores=scores,
        all_metrics=figures,
        data=prepared.data,
        samples=samples,
    )


def _sample(part, row: dict, metric: str) -> Sample:
    answer, target = row["resps"][0][0], row["target"]
    if part.OUTPUT_TYPE == "multiple_choice":
        choices = part.doc_to_choice(row["doc"])
        likelihoods = np.array([likelihood for likelihood, _ in row["filtered_resps"]])
        lengths = np.array([len(choice) for choice in choices]) if metric == "acc_norm" else 1.0
        answer, target = choices[int(np.argmax(likelihoods / lengths))], choices[target]
    return Sample(row["arguments"][0][0], answer, str(target), 100 * float(row[metric]))


@contextlib.contextmanager
def quiet(name: str = "", show_progress_bar: bool = False):
    """Draw at most one bar, under our name, and hold back the harness' notes to those who write tasks."""
    import datasets
    from tqdm.auto import tqdm

    def bar(total: int, **_):
        return tqdm(total=total, desc=name, disable=not show_progress_bar)

    logger, bars = logging.getLogger("lm_eval"), datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with (
            mock.patch("lm_eval.api.task.tqdm", lambda rows, **_: rows),
            mock.patch("lm_eval.api.model.tqdm", lambda rows, **_: rows),
            mock.patch("lm_eval.models.huggingface.tqdm", bar),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
