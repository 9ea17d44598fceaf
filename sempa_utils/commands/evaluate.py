"""`evaluate`: methods, models and adapters in one table of STS scores."""

import contextlib
from pathlib import Path

from sempa_utils import profiles
from sempa_utils.checks import InputError, pick
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    what = "score methods, models and adapters on STS tasks; goes on where it stopped"
    command = commands.add_parser("evaluate", help=what)
    shared.add_data(command)
    shared.add_seed(command)
    add, repeated = command.add_argument, {"action": "append", "default": []}
    methods = "mean, echo, prompteol, pretended_cot, knowledge_enhancement, contrastive_prompting, token_prepending"
    add("--methods", default="mean,prompteol", help=f"comma-separated: {methods} (default: mean,prompteol)")
    add("--tasks", help="comma-separated: STS12 … STS16, STS-B, SICK-R, mini-STS (default: all that is here)")
    add("--split", default="test", help="test, or dev for STS-B and mini-STS (default: test)")
    add("--dev", action="store_true", help="score what choices are made on, less the tests' pairs, in place of tasks")
    model = "packaged, a hub id, or a directory; may be repeated (default: packaged)"
    add("--model", action="append", metavar="MODEL", help=model)
    shared.add_profile(command, default="the profile's for evaluation", sets="precision")
    add("--adapter", metavar="FOLDER", help="score this adapter beside its base; may be repeated", **repeated)
    baseline = "a sentence-transformers model as a row, for comparison; may be repeated"
    add("--baseline", metavar="MODEL", help=baseline, **repeated)
    layer = "read this layer (an index of hidden_states), or 'dev': for each row the best on STS-B dev"
    add("--layer", help=f"{layer} (default: each method's own)")
    add("--against", metavar="ROW", help="the row to compare the others with (default: prompteol, or the first)")
    add("--limit", type=int, help="pairs per task; then the figures are not the published measure")
    shared.add_batch_size(command, "sentences")
    shared.add_record(command)
    command.set_defaults(run=run)


def run(options) -> None:
    """Score rows (method × model × adapter, and baselines) on STS tasks and print a table."""
    from tqdm.auto import tqdm

    from sempa_utils import models, records
    from sempa_utils.data import corpora
    from sempa_utils.embedding import METHODS
    from sempa_utils.embedding.sharing import among_processes
    from sempa_utils.evaluation import sts

    methods = options.methods.split(",")
    for method in methods:
        pick(method, METHODS, what="method")
    if options.layer not in (None, "dev") and not options.layer.lstrip("-").isdigit():
        raise InputError(f"--layer {options.layer}: neither a number nor 'dev'. Give one of them.")
    if options.dev and (options.tasks or options.split != "test"):
        raise InputError("--dev names tasks and split by itself. Leave --tasks and --split out.")
    drawn = {"limit": options.limit, "seed": options.seed}
    # Broken or missing data end the command before a model is loaded.
    if options.dev:
        options.split, tasks = "dev tasks", sts.load_dev_tasks(options.data, **drawn)
    else:
        asked = options.tasks.split(",") if options.tasks else corpora.sts_tasks(options.data)
        tasks = sts.load_tasks(asked, options.data, split=options.split, **drawn)
    speaks = models.processes().is_main_process  # each process takes its own GPU before a model is loaded
    precision = options.precision or profiles.get(options.profile).evaluation_precision
    adapters = _adapters(options, precision)
    count = len(methods) * (len(options.model or [1]) + sum(map(len, adapters.values()))) + len(options.baseline)
    scores, described, layers = {}, {}, {}
    total = count * sum(map(len, tasks.values()))
    with tqdm(total=total, unit="pair", desc="evaluate", smoothing=0.05, disable=None if speaks else True) as bar:
        for row, embedder, about in _rows(options, methods, adapters, precision):
            bar.set_description(row)
            if options.layer == "dev" and hasattr(embedder, "at_layer"):
                layers[row], _ = sts.best_layer(embedder, options.data, seed=options.seed)
                embedder = embedder.at_layer(layers[row])
            how = {"batch_size": options.batch_size, "show_progress_bar": speaks, "progress": bar.update}
            scores[row] = sts.evaluate(among_processes(embedder), tasks, **how)
            described |= about

    if not speaks:
        return
    against = options.against or ("prompteol" if "prompteol" in scores else next(iter(scores)))
    comparison = sts.summary(scores, against, seed=options.seed)
    _print_table(comparison, list(tasks), layers, options)
    if options.record:
        means = "; ".join(f"{row} {figures.mean.value:.2f}" for row, figures in comparison.rows.items())
        settings = {"split": options.split, "limit": options.limit, "against": against, "layers from dev": layers}
        origin = records.Origin(described, [task.record() for task in tasks.values()], settings, options.seed)
        headline = f"mean ρ × 100: {means}"
        records.save_run(records.run_record(options.record, comparison, headline=headline, origin=origin), "results")


def _adapters(options, precision: str) -> dict[str, dict[str, str]]:
    """Return {model: {adapter's folder: its label}}; with several models, each adapter with those that it fits.

    Of several that it fits by its weights alone, those whose name it bears, if there are any.
    """
    from sempa_utils import models

    chosen, labels = options.model or ["packaged"], shared.labels(options.adapter)
    for model in chosen:
        models.fetch(model)  # a folder without weights is found before anything runs
    named = {folder: models.base_of_adapter(folder) for folder in labels}
    if len(chosen) == 1:
        return {chosen[0]: labels}
    fitting = {folder: [] for folder in labels}
    for model in chosen if labels else []:
        base = models.load(model, precision)
        for folder in labels:
            with contextlib.suppress(InputError):
                models.check_adapter(base, folder)
                fitting[folder].append(model)
    for folder, fits in fitting.items():
        if not fits:
            raise InputError(
                f"{folder}: an adapter for {named[folder]}, which is none of the models {', '.join(chosen)}."
            )
        last = Path(named[folder] or "").name
        fitting[folder] = [model for model in fits if Path(models.plain_name(model)).name == last] or fits
    return {model: {folder: labels[folder] for folder in labels if model in fitting[folder]} for model in chosen}


def _rows(options, methods: list[str], adapters: dict[str, dict[str, str]], precision: str):
    """Yield (row's name, embedder, what a record keeps of the model), one model in memory at a time."""
    from sempa_utils import models
    from sempa_utils.embedding import Embedder

    layer = int(options.layer) if options.layer not in (None, "dev") else None
    for name in adapters:
        base = shared.load(name, precision, speaks=models.processes().is_main_process)
        for folder in adapters[name]:
            models.check_adapter(base, folder)
        prefix = f"{base.name.split('/')[-1]}: " if len(adapters) > 1 else ""
        about = {prefix.rstrip(": "): base.describe()} if prefix else base.describe()
        for method in methods:
            yield f"{prefix}{method}", Embedder(base, method, layer=layer), about
        for folder, label in adapters[name].items():
            with models.adapted(base, folder) as adapted:
                for method in methods:
                    row = f"{prefix}{method} + {label}"
                    yield row, Embedder(adapted, method, layer=layer), {f"{prefix}{label}": adapted.adapter}
        del base
    for address in options.baseline:
        from sempa_utils.embedding.export import load_baseline

        baseline = load_baseline(address)
        about = baseline.describe()
        yield about["name"], baseline, {about["name"]: about}


def _print_table(comparison, tasks: list[str], layers: dict[str, int], options) -> None:
    rows, names = comparison.rows, [*tasks, "mean"]
    width = max(map(len, rows)) + 2
    limit = f", {options.limit} pairs a task: not the published measure" if options.limit else ""
    print(f"Spearman ρ × 100 with its 95 % bootstrap interval, {options.split}{limit}")
    print(" " * width + "".join(f"{name:>14}" for name in names))
    for row, figures in rows.items():
        scores = [figures.columns[name] for name in names]
        print(f"{row:<{width}}" + "".join(f"{score.value:14.2f}" for score in scores))
        between = (f"{score.interval.low:.1f} to {score.interval.high:.1f}" for score in scores)
        print(" " * width + "".join(f"{text:>14}" for text in between))
    for row, figures in rows.items():
        for name, score in figures.columns.items():
            if less := score.difference:
                between = f"95 % interval {less.interval.low:+.2f} to {less.interval.high:+.2f}, p = {less.p_value:.4f}"
                print(f"{name}, {row}, less {comparison.against}: {less.value:+.2f}, {between}")
    for row, layer in layers.items():
        print(f"{row}: layer {layer}, chosen on dev")
