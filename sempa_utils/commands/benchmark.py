"""`benchmark`: generation benchmarks of a base and its adapters."""

from sempa_utils import profiles
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "benchmark", help="generation benchmarks of a base and its adapters; goes on by itself"
    )
    shared.add_model(command)
    shared.add_profile(command)
    shared.add_data(command)
    shared.add_seed(command)
    command.add_argument("--tasks", help="comma-separated: gsm8k, mmlu, hellaswag, drop, truthfulqa (default: all)")
    command.add_argument("--adapter", metavar="FOLDER", action="append", default=[],
                         help="run this adapter beside its base; may be repeated")  # fmt: skip
    command.add_argument("--limit", type=int, help="items per task (default: the profile's; 0: all)")
    command.add_argument("--batch-size", type=int, help="items per batch (default: found)")
    shared.add_record(command)
    command.set_defaults(run=run)


def run(options) -> None:
    """Run generation benchmarks on a base and adapters, and print the comparison."""
    import torch

    from sempa_utils import models, records
    from sempa_utils.evaluation import generation

    profile = profiles.get(options.profile)
    tasks = options.tasks.split(",") if options.tasks else list(generation.TASKS)
    limit = profile.generation_items if options.limit is None else options.limit or None
    # Unknown tasks, broken files, a context too short, no adapter: before a model is loaded. A wrong adapter: before
    # anything is computed.
    generation.check_tasks(tasks, options.data, options.model, limit, options.seed)
    labels = shared.labels(options.adapter)
    for folder in labels:
        models.base_of_adapter(folder)
    base = models.load(options.model, options.precision or profile.evaluation_precision)
    for folder in labels:
        models.check_adapter(base, folder)
    arguments = (tasks, options.data, limit, options.batch_size, options.seed)
    rows, adapters = {"base": generation.evaluate(base, *arguments)}, {}
    for folder, label in labels.items():
        with models.adapted(base, folder) as adapted:
            rows[label], adapters[label] = generation.evaluate(adapted, *arguments), adapted.adapter
    figures = generation.comparison(rows, "base")
    print("value ± standard error, and the paired difference from the base; "
          + (f"{limit} items a task at most: not the published measure" if limit else "all items"))  # fmt: skip
    for row, found in figures.items():
        for task, one in found.items():
            apart = f"{one['difference']:+8.2f} ± {one['difference_standard_error']:.2f}" if "difference" in one else ""
            print(f"{row:<24}{task:<12}{one['value']:8.2f} ± {one['standard_error']:.2f}{apart}")
    if options.record:
        means = "; ".join(f"{row} {found['mean']['value']:.1f}" for row, found in figures.items())
        took = {row: sum(one["seconds"] for one in found.values()) for row, found in rows.items()}
        measured = {task: {"metric": one["metric"], "shots": one["shots"]} for task, one in rows["base"].items()}
        settings = {"limit": limit, "tasks": measured, "seconds": took, "threads": torch.get_num_threads()}
        data = [result["data"] for result in rows["base"].values()]
        records.save_run(options.record, figures, f"mean of {len(tasks)} benchmarks: {means}",
                         base.describe() | adapters, data, settings, options.seed, folder="results")  # fmt: skip
