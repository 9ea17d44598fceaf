"""`benchmark`: generation benchmarks of a base and its adapters."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sempa_utils import profiles
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    what = "generation benchmarks of a base and its adapters; goes on by itself"
    command = commands.add_parser("benchmark", help=what)
    shared.add_model(command)
    shared.add_profile(command)
    shared.add_data(command)
    shared.add_seed(command)
    command.add_argument("--tasks", help="comma-separated: gsm8k, mmlu, hellaswag, drop, truthfulqa (default: all)")
    beside = "run this adapter beside its base; may be repeated"
    command.add_argument("--adapter", metavar="FOLDER", action="append", default=[], help=beside)
    gold = "instead of asking: how likely the right answers are, in nats per token, without few-shots"
    command.add_argument("--gold-answers", action="store_true", help=gold)
    command.add_argument(
        "--limit", type=int, help="items per task (default: the profile's, of --gold-answers 500; 0: all)"
    )
    shared.add_batch_size(command, "items", default="by length")
    shared.add_record(command)
    command.set_defaults(run=run)


class Measure(NamedTuple):
    """What is taken of a model, and how it is printed."""

    score: Callable[[Any], dict[str, Any]]  # a `LanguageModel`: {task: `BenchmarkResult`}
    what: str
    digits: int  # behind the point


def _measure(options, benchmarks) -> Measure:
    """Return what is taken. Unknown tasks, broken files, a context too short are said before a model is loaded."""
    from sempa_utils.evaluation import generation
    from sempa_utils.evaluation.generation import gold_answers

    if options.gold_answers:
        tasks = gold_answers.load(benchmarks)
        return Measure(lambda model: gold_answers.evaluate(model, tasks), "gold answers, nats per token", 4)
    generation.check_tasks(benchmarks, options.model)
    size = options.batch_size
    return Measure(lambda model: generation.evaluate(model, benchmarks, batch_size=size), "benchmarks", 2)


def run(options) -> None:
    """Run generation benchmarks on a base and adapters, and print the comparison."""
    import torch

    from sempa_utils import models, records
    from sempa_utils.evaluation import generation
    from sempa_utils.evaluation.generation import gold_answers

    profile = profiles.get(options.profile)
    tasks = options.tasks.split(",") if options.tasks else list(generation.TASKS)
    usual = gold_answers.ITEMS if options.gold_answers else profile.generation_items
    limit = usual if options.limit is None else options.limit or None
    # No adapter: before a model is loaded. A wrong adapter: before anything is computed.
    measure = _measure(options, generation.Benchmarks(tasks, options.data, limit, options.seed))
    labels = shared.labels(options.adapter)
    for folder in labels:
        models.base_of_adapter(folder)
    base = shared.load(options.model, options.precision or profile.evaluation_precision)
    for folder in labels:
        models.check_adapter(base, folder)
    rows, adapters = {"base": measure.score(base)}, {}
    for folder, label in labels.items():
        with models.adapted(base, folder) as adapted:
            rows[label] = measure.score(adapted)
            adapters[label] = adapted.adapter
    comparison, digits = generation.comparison(rows, "base"), measure.digits
    items = f"{limit} items a task at most: not the published measure" if limit else "all items"
    print(f"{measure.what}: value ± standard error, and the paired difference from the base; {items}")
    for row, figures in comparison.rows.items():
        for task, score in figures.columns.items():
            less = score.difference
            apart = f"{less.value:+9.{digits}f} ± {less.standard_error:.{digits}f}" if less else ""
            print(f"{row:<24}{task:<12}{score.value:8.{digits}f} ± {score.standard_error:.{digits}f}{apart}")
    if options.record:
        means = "; ".join(f"{row} {figures.mean.value:.{digits - 1}f}" for row, figures in comparison.rows.items())
        took = {row: sum(result.seconds for result in results.values()) for row, results in rows.items()}
        measured = {task: {"metric": result.metric, "shots": result.shots} for task, result in rows["base"].items()}
        settings = {"limit": limit, "tasks": measured, "seconds": took, "threads": torch.get_num_threads()}
        data = [result.data for result in rows["base"].values()]
        origin = records.Origin(base.describe() | adapters, data, settings, options.seed)
        headline = f"mean of {len(tasks)} {measure.what}: {means}"
        records.save_run(records.run_record(options.record, comparison, headline=headline, origin=origin), "results")
