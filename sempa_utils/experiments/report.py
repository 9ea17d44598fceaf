"""The tables and pictures of README, notebooks and model cards, made from the records in results/ and nowhere else.

A document holds a block `<!-- table NAME -->` … `<!-- end -->`; `fill` writes the table of that name into it. A run
of the grid that has no record, or not all of it, says so in its cells.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from sempa_utils import models, records
from sempa_utils.checks import fingerprint, pick, write_whole
from sempa_utils.data.corpora import STS_TASKS
from sempa_utils.evaluation.generation import CHANCE, TASKS, gold_answers
from sempa_utils.experiments.agreement import KINDS, agreement, here_and_there
from sempa_utils.experiments.cards import with_metadata
from sempa_utils.experiments.grid import ALL, BASE, FINISHED, RUNS, TRIALS, record_name
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.objectives.objective import settings_of
from sempa_utils.plots.generation import differences, frontier, gained_and_lost
from sempa_utils.plots.growth import growth
from sempa_utils.plots.space import movement_by_layer

OUTCOMES = {  # of a type of model
    "quick": "exact, in every quick way",
    "another way": "exact, another way",
    "refused": "refused",
    "not built": "could not be built here",
    "failed": "ends in an error of another kind",
    "wrong": "wrong",
}
BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_RUN = "not run"
Recorded = dict[str, records.RunRecord[records.GridFigures] | None]  # None: a run without a record
SHOWN_SUBSETS = 3
PEER = "all-MiniLM-L6-v2"  # an encoder that cannot speak, in the record below
SCORED = "sts_seven_tasks_finished"
SEMPA = "pairwise_kl_2048"  # the recipe of the finished SemPA adapter
CONTRASTIVE = "contrastive_kl"  # beside which the paper's objective is judged
SUMMARY = {  # what a newcomer sees first
    "the model as it is": BASE,
    "**SemPA**, the finished adapter: three runs, held to the base by a KL penalty, in one": "pairwise_kl_averaged",
    "a preference over single words, held and joined as that is": "one_word_kl_averaged",
    "SemPA at the paper's rate, nothing holds it": "pairwise",
    "contrastive learning, the paper's *baseline*": "contrastive",
    "the same, held to the base, the other finished adapter": CONTRASTIVE,
}
FIRST_SCREEN = (
    BASE,
    "pairwise",
    "pairwise_kl_averaged",
    "listwise",
    "one_word",
    "one_word_kl_averaged",
    "contrastive",
    CONTRASTIVE,
)
BENCHMARKS = {name: task.label.split(",")[0] for name, task in TASKS.items()}
PUBLISHED_STS = [("reference", "SBERT-NLI-base")]
PUBLISHED_STS += [(model, method) for model in ("LLaMA2-7B", "LLaMA3-8B") for method in ("PromptEOL", "SemPA")]

PUBLISHED_METHODS = {"mean": "Mean Pooling", "echo": "Echo Embedding", "prompteol": "PromptEOL"}
PUBLISHED_METHODS |= {name: name.replace("_", " ").title() for name in ("contrastive_prompting", "token_prepending")}


def recorded_runs(model: str = models.PACKAGED, folder: str | Path | None = None) -> Recorded:
    """Return {run of the grid or trial: its record, or None where there is none} for a model."""
    folder = Path(folder or records.committed_folder())
    paths = {run: folder / f"{record_name(model, run)}.json" for run in ALL}
    return {run: records.load_run(path, records.GridFigures) if path.is_file() else None for run, path in paths.items()}


def summary(recorded: Recorded) -> str:
    """Return what a newcomer sees first: similarity gained and speech lost, with what each seed alone gains."""
    base, rows = _figures(recorded, BASE), {}
    for label, run in SUMMARY.items():
        figures = _figures(recorded, run)
        seven = _seven(figures)
        gained = [_with_interval(seven.scores.mean), _difference(seven.scores.mean)] if seven else [NOT_RUN] * 2
        rows[label] = [*gained, _gains_by_seed(recorded, run), _perplexity(figures, base)]
    similar = "similarity: mean of seven STS tasks, ρ × 100 (95 % interval)"
    return _markdown("", [similar, "gain", "gain, each seed alone", "speech: perplexity, lower is better"], rows)


def overview(recorded: Recorded) -> str:
    """Return the first screen's table: what each objective gains in embeddings and what it costs in speech."""
    return _gains_and_costs(recorded, FIRST_SCREEN, seeds=True)


def grid(recorded: Recorded) -> str:
    """Return the same table of every run, also of those that were not run."""
    return _gains_and_costs(recorded, RUNS)


def _gains_and_costs(recorded: Recorded, runs, *, seeds: bool = False) -> str:
    base, rows = _figures(recorded, BASE), {}
    for run in runs:
        figures = _figures(recorded, run)
        seven = _seven(figures)
        rows[_name(run)] = [
            f"{figures.train.rows:,}" if figures.train else NOT_RUN,
            _with_interval(seven.scores.mean) if seven else NOT_RUN,
            _difference(seven.scores.mean) if seven else "" if run == BASE else NOT_RUN,
            *([_gains_by_seed(recorded, run)] if seeds else []),
            _perplexity(figures, base),
            _with_error(figures.generation.scores.mean) if figures.generation else NOT_RUN,
        ]
    columns = ["training triplets", "mean of seven STS tasks (95 % interval)", "change from the base"]
    columns += ["change, each seed alone"] if seeds else []
    columns += ["perplexity, change", "mean of five benchmarks (change)"]
    return _markdown("run", columns, rows)


def _by_seed(recorded: Recorded, run: str) -> dict[str, records.StsFigures]:
    """Return the runs of a recipe that differ by their seed, or that an average is made of; nothing of one alone."""
    names = RUNS[run].mean_of or (run, *(name for name in RUNS if name.startswith(f"{run}_seed_")))
    scored = {name: figures for name in names if (figures := _seven(_figures(recorded, name)))}
    return scored if len(scored) > 1 else {}


def _gains_by_seed(recorded: Recorded, run: str) -> str:
    differences = [figures.scores.mean.difference for figures in _by_seed(recorded, run).values()]
    return ", ".join(_signed(less.value) for less in differences if less)


def recipes(recorded: Recorded) -> str:
    """Return what the runs of the first screen differ in beside their objective."""
    runs = {}
    for run in FIRST_SCREEN:
        if run != BASE and (record := recorded.get(run)) and record.figures.train and "recipe" in record.settings:
            runs[_name(run)] = record.settings["recipe"], record.figures.train.rows
    return records.recipe_table(runs)


def sts(recorded: Recorded) -> str:
    """Return ρ × 100 of each run on each task, and the published rows."""
    rows = {}
    for run, figures in _having_seven(recorded):
        columns = figures.scores.columns
        values = [columns[name].value for name in (*STS_TASKS, "mean")]
        rows[_name(run)] = [f"{value:.2f}" for value in (*values, figures.without_training_sentences.mean.value)]
    for group, method in PUBLISHED_STS:
        row = records.published_sts(group, method)
        label = method if group == "reference" else f"{group} {method}"
        rows[f"{label}, *published*"] = [*(f"{row[task]:.2f}" for task in (*STS_TASKS, "Avg")), ""]
    return _markdown("", [*STS_TASKS, "mean", "mean without training sentences"], rows)


def generation(recorded: Recorded) -> str:
    """Return the benchmarks of each run ± standard error with its difference from the base, and the published rows."""
    rows = {}
    for run, figures in _having(recorded, "generation"):
        rows[_name(run)] = [_with_error(figures.scores.columns[task]) for task in (*BENCHMARKS, "mean")]
    for row in records.published("table6_generation"):
        figures = [f"{row[column]:.2f}" for column in (*(task.column for task in TASKS.values()), "Avg")]
        rows[f"{row['model']} {row['variant']}, *published*"] = figures
    return _markdown("", [*BENCHMARKS.values(), "mean"], rows)


def costs(recorded: Recorded) -> str:
    """Return how likely each run finds the benchmarks' right answers: the base in nats per token, the others less it.

    Beside it the change of perplexity, the same measure on a plain text.
    """
    rows, base = {}, _figures(recorded, BASE)
    for run, figures in _having(recorded, "gold_answers"):
        scores = [figures.scores.columns[task] for task in (*BENCHMARKS, "mean")]
        cells = [_nats_lost(score) if score.difference else _minus(f"{score.value:.3f}") for score in scores]
        rows[_name(run)] = [*cells, _perplexity(_figures(recorded, run), base)]
    return _markdown("", [*gold_answers.LABELS.values(), "mean", "perplexity, change"], rows)


def speech(recorded: Recorded) -> str:
    """Return the cheap signals of each run that has them."""
    columns = {
        "perplexity": "perplexity",
        "preference": "entailed likelier, %",
        "well_formed": "well-formed paraphrases, %",
        "unfinished": "unfinished, %",
        "copied": "copied, %",
        "looping": "looping, %",
        "length": "their length, tokens",
        "distinct_2": "distinct-2, %",
        "self_bleu": "self-BLEU",
        "entropy": "entropy of the next token, nats",
    }
    rows = {_name(run): [f"{signals[name]:.2f}" for name in columns] for run, signals in _having(recorded, "signals")}
    return _markdown("", list(columns.values()), rows)


def space(recorded: Recorded) -> str:
    """Return the shape of the space of each run that has it, and the paper's Table 5."""
    columns = {
        "uniformity": "uniformity",
        "isotropy": "isotropy",
        "isotropy_both_signs": "isotropy, both signs",
        "average_cosine": "average cosine",
        "effective_rank": "effective rank",
    }
    rows = {
        _name(run): [_minus(f"{shape[name]:.2f}") for name in columns] for run, shape in _having(recorded, "geometry")
    }
    for row in records.published("table5_geometry"):
        figures = [_minus(f"{row[name]:.2f}") if name in row else "" for name in columns]
        rows[f"{row['model']} {row['method']}, *published*"] = figures
    return _markdown("", list(columns.values()), rows)


def checkpoints(recorded: Recorded) -> str:
    """Return ρ × 100 on STS-B dev, in brackets the change of perplexity, a column for each number of triplets seen."""
    runs, base = curves(recorded)
    seen, reached = _reached(runs, base)
    rows = {BASE: [f"{base.sts:.1f}"] + [""] * len(seen)} if base else {}
    rows |= {_name(run): ["", *cells] for run, cells in reached.items()}
    return _markdown("triplets seen", ["0", *seen], rows)


def trials(recorded: Recorded) -> str:
    """Return the trials as `checkpoints` does, beside what their recipes differ in."""
    plain = [run for run, one in TRIALS.items() if not one.control]
    runs = {run: record for run in plain if (record := recorded.get(run)) and record.figures.frontier}
    points = {run: record.figures.frontier or [] for run, record in runs.items()}
    seen, reached = _reached(points, curves(recorded)[1])
    rows = {}
    for run, cells in reached.items():
        recipe = runs[run].settings["recipe"]
        asked = recipe["template"] if "template" in settings_of(OBJECTIVES[recipe["objective"]]) else ""
        batch = recipe["micro_batch"] * recipe["accumulation"]
        rows[_name(run)] = [f"{recipe['learning_rate']:g}", f"{batch}", f"{asked}", *cells]
    return _markdown("", ["learning rate", "batch", "answers asked for by", *seen], rows)


def controls(recorded: Recorded) -> str:
    """Return what is left of a gain on the dev tasks with one thing taken from the rows, below the run with all."""
    whole = next(run for run, one in TRIALS.items() if one == replace(RUNS[SEMPA], rows=one.rows))
    base, rows, tasks = curves(recorded)[1], {}, []
    for run in (whole, *(run for run, one in TRIALS.items() if one.control)):
        figures = _figures(recorded, run)
        if figures.dev and figures.frontier:
            tasks = list(figures.dev.scores.tasks)
            gains = [_difference(score) for score in (figures.dev.scores.mean, *figures.dev.scores.tasks.values())]
            lost = _change(figures.frontier[-1].perplexity, base.perplexity) if base else ""
            learned = figures.train and figures.train.last_quarter
            rows[_name(run)] = [f"{100 * learned.accuracy:.0f}" if learned else "", *gains, lost]
    columns = [
        "preferred answer likelier, last quarter of training, %",
        "mean of the dev tasks, change from the base",
        *tasks,
        "perplexity, change",
    ]
    return _markdown("", columns, rows)


def subsets(recorded: Recorded) -> str:
    """Return the `SHOWN_SUBSETS` parts of the STS tasks on which each run gains the most and the least, ρ × 100.

    Of runs that differ by their seed the first alone.
    """
    first = [(run, figures) for run, figures in _having_seven(recorded) if "_seed_" not in run]
    runs = {run: _parts(figures.scores.tasks) for run, figures in first}
    base, rows = runs.pop(BASE, {}), {}
    for run, parts in runs.items():
        if base:
            gains = {part: value - base[part] for part, value in parts.items()}
            falling = [
                f"{part} {_signed(gains[part], 1)}" for part in sorted(gains, key=gains.__getitem__, reverse=True)
            ]
            rows[_name(run)] = [", ".join(falling[:SHOWN_SUBSETS]), ", ".join(falling[: -SHOWN_SUBSETS - 1 : -1])]
    return _markdown("", ["gains most", "gains least"], rows)


def dev_sets(recorded: Recorded) -> str:
    """Return how well each kind of sentence pairs foretells, over the recorded runs, the tests it has no part in."""
    seven = {run: figures.scores for run, figures in _having_seven(recorded)}
    last = {run: points[-1].sts for run, points in _having(recorded, "frontier")}
    rows = {"STS-B dev, 500 pairs": (len(STS_TASKS), last, {run: scores.mean.value for run, scores in seven.items()})}
    for name, kind in KINDS.items():
        here, there = here_and_there(kind, {run: scores.tasks for run, scores in seven.items()})
        rows[name] = len(STS_TASKS) - len(dict(kind)), here, there
    cells = {}
    for name, (tests, here, there) in rows.items():
        if {BASE, "pairwise", CONTRASTIVE} <= here.keys() & there.keys():
            found = agreement(here, there)
            shares = [
                _minus(f"{100 * (figures['pairwise'] - figures[BASE]) / (figures[CONTRASTIVE] - figures[BASE]):.0f} %")
                for figures in (here, there)
            ]
            error = f"{found.error:.1f}"
            cells[name] = [f"{tests}", f"{found.runs}", f"{found.rank_correlation:.2f}", error, *shares]
    ends = [f"`pairwise`'s gain as a part of `{CONTRASTIVE}`'s: {where}" for where in ("here", "in the tests")]
    columns = ["tests without it", "runs", "rank correlation with them", "error of a foretold gain, points", *ends]
    return _markdown("judged by", columns, cells)


def dev_tasks(_) -> str:
    """Return the adapters that were scored on the dev tasks beside the base, with paired intervals."""
    rows = _comparison("dev_tasks").rows
    names = list(next(iter(rows.values())).tasks)
    counts = [f"{name}, {rows[next(iter(rows))].tasks[name].count} pairs" for name in names]
    cells = {}
    for row, scores in rows.items():
        label = row.partition(" + ")[2]
        values = [f"{scores.tasks[name].value:.2f}" for name in names]
        cells[f"`{label}`" if label else BASE] = [*values, _with_interval(scores.mean), _difference(scores.mean)]
    return _markdown("", [*counts, "mean (95 % interval)", "change from the base"], cells)


def finished(recorded: Recorded, run: str) -> str:
    """Return what the run of a finished adapter reaches beside the base and a peer: the table of its model card."""
    base, trained = _figures(recorded, BASE), _figures(recorded, run)
    rows, peer = {}, _comparison(SCORED).rows[PEER].columns
    if (before := _seven(base)) and (after := _seven(trained)):
        for task in (*STS_TASKS, "mean"):
            scores = [figures.scores.columns[task] for figures in (before, after)]
            shown = [*map(_with_interval, scores), _difference(scores[1])]
            rows[f"{task}, ρ × 100"] = [*shown, f"{peer[task].value:.2f}"]
        for name, other in _by_seed(recorded, run).items():
            if name != run:
                mean = other.scores.mean
                rows[f"mean, `{name}` alone"] = ["", _with_interval(mean), _difference(mean)]
        unseen = [figures.without_training_sentences.mean.value for figures in (before, after)]
        apart = _signed(unseen[1] - unseen[0])
        rows["mean without training sentences"] = [*(f"{value:.2f}" for value in unseen), apart]
    if base.signals and trained.signals:
        values = [signals["perplexity"] for signals in (base.signals, trained.signals)]
        rows["perplexity"] = [*(f"{value:.2f}" for value in values), _change(values[1], values[0])]
    if base.generation and trained.generation:
        for name, label in (BENCHMARKS | {"mean": "five benchmarks"}).items():
            scores = [figures.scores.columns[name] for figures in (base.generation, trained.generation)]
            cells = [f"{score.value:.1f} ± {score.standard_error:.1f}" for score in scores]
            rows[f"{label}, {scores[1].count} items"] = [*cells, _paired(scores[1])]
    columns = [BASE, _name(run), "difference", PEER]
    return _markdown("", columns, {name: [*cells, *[""] * (len(columns) - len(cells))] for name, cells in rows.items()})


def methods(_) -> str:
    """Return the methods without training on the seven tasks, PromptEOL's difference, and the paper's LLaMA2-7B."""
    rows = {}
    for name, row in _comparison("sts_seven_tasks").rows.items():
        published = name in PUBLISHED_METHODS and records.published_sts("LLaMA2-7B", PUBLISHED_METHODS[name])["Avg"]
        beside = f"{published:.2f}" if published else ""
        rows[f"`{name}`"] = [_with_interval(row.mean), _difference(row.mean), beside]
    return _markdown("", ["mean ρ × 100 (95 % interval)", "less PromptEOL", "LLaMA2-7B, *published*"], rows)


def compared(comparison: records.Comparison, what: str) -> str:
    """Return a run's own rows on its tasks, ρ × 100, with intervals; `what` names their mean."""
    less, rows = f"less {comparison.against} (95 % interval)", {}
    for name, row in comparison.rows.items():
        tasks = {task: f"{score.value:.1f}" for task, score in row.tasks.items()} if len(row.tasks) > 1 else {}
        rows[name] = tasks | {f"{what} (95 % interval)": _with_interval(row.mean), less: _difference(row.mean)}
        if row.mean.difference:
            rows[name]["p"] = f"{row.mean.difference.p_value:.3f}"
    return records.table(rows)


def beside_published(comparison: records.Comparison, named: dict[str, str], *, source: str) -> str:
    """Return the paper's Table 3 for {row: its name in the paper}, and below it the same rows of a comparison.

    A comparison of other tasks than the seven has no rows here: its figures may not be set beside these.
    """
    rows = {}
    for model in ("LLaMA2-7B", "LLaMA3-8B"):
        for method in named.values():
            published = records.published_sts(model, method)
            rows[f"{model}, {method}, *published*"] = {task: published[task] for task in (*STS_TASKS, "Avg")}
    for row, method in named.items():
        columns = comparison.rows[row].columns
        if set(STS_TASKS) <= set(columns):
            of_run = {"Avg" if task == "mean" else task: score.value for task, score in columns.items()}
            rows[f"{source}, {method}"] = of_run
    return records.table(rows)


def on_many_items(_) -> str:
    """Return HellaSwag and TruthfulQA on 817 items: the base, the finished contrastive adapter, the difference."""
    rows = {}
    for name, row in _comparison("generation_limit_817").rows.items():
        label = BASE if name == BASE else "finished contrastive adapter"
        rows[label] = {BENCHMARKS.get(task, task): _with_error(score) for task, score in row.columns.items()}
    chance = {BENCHMARKS[task]: f"{value:.1f}" for task, value in CHANCE.items() if task in ("hellaswag", "truthfulqa")}
    return records.table({**rows, "guessing": chance})


def first_trials(_) -> str:
    """Return the five objectives after 512 rows on STS-B, ρ × 100; on the test split those that were scored there."""
    rows = {}
    for split in ("dev", "test"):
        for name, row in _comparison(f"sts_b_{split}_512").rows.items():
            label, score = name.partition(" + ")[2], row.tasks["STS-B"]
            cells = [f"{score.value:.2f}", _difference(score)]
            rows.setdefault(f"`{label}`" if label else BASE, {})[split] = cells
    both = {name: [*splits["dev"], *splits.get("test", ["", ""])] for name, splits in rows.items()}
    return _markdown(
        "",
        ["STS-B dev, 500 pairs", "less the base (95 % interval)", "STS-B test", "less the base (95 % interval)"],
        both,
    )


def speed(_) -> str:
    """Return what `make bench` measured: how many times as fast the kit is as what stands beside it."""
    training, embedding, generation = (_benchmark(name) for name in ("training", "embedding", "generation"))
    rows = {}
    # A record from before --others has one ratio alone.
    for side, ratio in training.get("ratios", {"prefix tree": training["ratio"]}).items():
        if side != "stock TRL":
            name = "pairwise" if side == "prefix tree" else side
            rows[f"training by `{name}`, beside TRL's `DPOTrainer`"] = ratio
    rows |= {f"embedding by PromptEOL, beside {side}": ratio for side, ratio in embedding["ratio"].items()}
    for task, figures in generation.items():
        rows[f"{BENCHMARKS.get(task, task)}, beside the harness' own wrapper"] = figures["ratio"]
    return _markdown("what", ["times as fast"], {name: [f"{ratio:.1f}"] for name, ratio in rows.items()})


def _benchmark(name: str) -> dict[str, Any]:
    return records.load_run(records.committed_folder() / f"bench_{name}_cpu.json", dict[str, Any]).figures


def families(_) -> str:
    """Return what the kit makes of each type of causal model that transformers has: how many, and which."""
    types = _families().figures
    groups: dict[tuple[str, str], list[str]] = {}
    for kind, found in types.items():
        about = "; ".join(found.ways) if found.outcome == "another way" else found.reason or ""
        about = re.sub(r"more than \d+ tokens", "more than so many tokens", about)
        about = re.sub(r"^\w+: (no causal language model: )?|Name (another|a decoder-only) model\.", "", about)
        groups.setdefault((found.outcome, about.strip().replace("|", "/")), []).append(f"`{kind}`")
    order = sorted(groups, key=lambda group: (list(OUTCOMES).index(group[0]), -len(groups[group])))
    rows = [[OUTCOMES[group[0]], group[1], str(len(groups[group])), ", ".join(groups[group])] for group in order]
    return "\n".join(f"| {' | '.join(row)} |" for row in [["", "how, or why", "types", "which"], ["---"] * 4, *rows])


def families_run(_) -> str:
    """Return the counts of the table of types, and the versions and the day of its run."""
    record = _families()
    counts = Counter(found.outcome for found in record.figures.values())
    columns = {OUTCOMES[outcome]: str(counts[outcome]) for outcome in OUTCOMES}
    columns |= {name: record.versions[name] for name in ("transformers", "torch", "peft")} | {"date": record.date or ""}
    return _markdown("types", list(columns), {str(len(record.figures)): list(columns.values())})


def _families() -> records.RunRecord[dict[str, records.FamilyOutcome]]:
    return records.load_run(records.committed_folder() / "families.json", dict[str, records.FamilyOutcome])


def _comparison(name: str) -> records.Comparison:
    return records.load_run(records.committed_folder() / f"{name}.json", records.Comparison).figures


TABLES = {"summary": summary, "overview": overview, "grid": grid, "recipes": recipes, "sts": sts,
          "generation": generation, "costs": costs, "speech": speech,
          "space": space, "checkpoints": checkpoints, "trials": trials, "controls": controls, "subsets": subsets,
          "finished-sempa": functools.partial(finished, run=FINISHED["smollm2-135m-sempa"]),
          "finished-contrastive": functools.partial(finished, run=FINISHED["smollm2-135m-contrastive"]),
          "methods": methods, "first-trials": first_trials,
          "dev-sets": dev_sets, "dev-tasks": dev_tasks,
          "speed": speed, "families": families, "families-run": families_run}  # fmt: skip


def fill(text: str, recorded: Recorded) -> str:
    """Return `text` with each block's table made anew. Raises `InputError` for a block of no known name."""
    return BLOCK.sub(lambda match: match[1] + pick(match[2], TABLES, what="table")(recorded) + "\n" + match[3], text)


def written(path: Path, recorded: Recorded) -> str:
    """Return a document's text with its tables made anew, and of a finished adapter's card the metadata too."""
    text = fill(path.read_text(encoding="utf8"), recorded)
    name = path.parent.name
    if name not in FINISHED:
        return text
    figures = _figures(recorded, FINISHED[name])
    seven, signals = _seven(figures), figures.signals or {}
    return with_metadata(text, name, scores=seven.scores if seven else None, perplexity=signals.get("perplexity"))


def documents() -> list[Path]:
    """Return the repository's files that hold such blocks."""
    root = records.committed_folder().parent
    places = [
        *root.glob("*.md"),
        *root.glob("results/*.md"),
        *root.glob("teaching/*.md"),
        *models.FINISHED.glob("*/README.md"),
    ]
    return [path for path in sorted(places) if BLOCK.search(path.read_text(encoding="utf8"))]


def curves(recorded: Recorded) -> tuple[dict[str, list[records.FrontierPoint]], records.FrontierPoint | None]:
    """Return {run: its checkpoints' points} and the base's point, as `plots.generation.frontier` takes them."""
    runs = dict(_having(recorded, "frontier"))
    base = runs.pop(BASE, [None])[0]
    return runs, base


def _layers(recorded: Recorded) -> tuple[dict[str, records.LayerFigures], records.LayerFigures | None]:
    runs = dict(_having(recorded, "layers"))
    base = runs.pop(BASE, None)
    return runs, base


def _gold_answers(recorded: Recorded) -> tuple[dict[str, dict[str, records.Difference]], records.RowScores | None]:
    """Return {run: {task or "mean": its difference from the base}} and the base's own figures."""
    runs = {run: figures.scores for run, figures in _having(recorded, "gold_answers")}
    base = runs.pop(BASE, None)
    apart = {run: {task: score.difference for task, score in row.columns.items()} for run, row in runs.items()}
    return {run: {task: less for task, less in row.items() if less} for run, row in apart.items()}, base


def _gains(
    recorded: Recorded,
) -> tuple[dict[str, tuple[records.Difference, records.Difference]], records.GridFigures]:
    """Return {run: (its difference on the benchmarks, on the seven tasks)} of those that have both, and the base."""
    runs = {}
    for run, seven in _having_seven(recorded):
        generation = _figures(recorded, run).generation
        speech, embedding = generation and generation.scores.mean.difference, seven.scores.mean.difference
        if speech and embedding:
            runs[run] = speech, embedding
    return runs, _figures(recorded, BASE)


def _grown(_) -> tuple[dict[str, Any], dict | None]:
    """Return what the benchmark of growing cost recorded, and on what machine; neither where it was not run."""
    path = records.committed_folder() / "bench_growth_cpu.json"
    if not path.is_file():
        return {}, None
    record = records.load_run(path)
    return record.figures, record.machine


def _first_curves(recorded: Recorded) -> tuple[dict[str, list[records.FrontierPoint]], records.FrontierPoint | None]:
    """Return `curves` of the runs of the first screen: more would not be told apart."""
    runs, base = curves(recorded)
    return {run: points for run, points in runs.items() if run in FIRST_SCREEN}, base


PICTURES: dict[str, tuple[Callable, Callable]] = {  # what is read of the records as (runs, base), and what draws it
    "frontier": (_first_curves, functools.partial(frontier, text="WikiText-2", gained="STS-B dev")),
    "layers": (_layers, movement_by_layer),
    "gains": (
        _gains,
        lambda runs, _: gained_and_lost(runs, generation="mean of five benchmarks", sts="seven STS tasks"),
    ),
    "growth": (_grown, lambda axes, _: growth(axes)),
    "costs": (_gold_answers, lambda runs, base: differences(runs, BENCHMARKS | {"mean": "mean"})),
}


def pictures() -> dict[str, tuple[Figure, str]]:
    """Return {name: (figure, fingerprint of the records that it was drawn from)} of results/figures/."""
    recorded, drawn = recorded_runs(), {}
    for name, (read, draw) in PICTURES.items():
        runs, base = read(recorded)
        if runs and base:
            drawn[name] = draw(runs, base), fingerprint(records.plain(runs), records.plain(base))
    return drawn


def save_picture(figure: Figure, path: Path, *, mark: str) -> None:
    """Write a picture as PNG or SVG, by the ending of `path`: the same bytes each time, `mark` as its description.

    The mark is the fingerprint of its records, so that a test can tell a stale picture.
    """
    kind = path.suffix.removeprefix(".")
    undated = {"Date": None} if kind == "svg" else {}
    with write_whole(path) as draft, rc_context({"svg.hashsalt": mark}):
        figure.savefig(draft, format=kind, metadata={"Description": mark} | undated)


def _reached(
    runs: dict[str, list[records.FrontierPoint]], base: records.FrontierPoint | None
) -> tuple[list[str], dict]:
    """Return the numbers of rows seen in any run, and {run: a cell for each of them, blank where it has none}."""
    seen = sorted({point.rows for points in runs.values() for point in points})
    cells = {
        run: {
            point.rows: f"{point.sts:.1f}" + (f" ({_change(point.perplexity, base.perplexity)})" if base else "")
            for point in points
        }
        for run, points in runs.items()
    }
    return [f"{rows:,}" for rows in seen], {run: [row.get(rows, "") for rows in seen] for run, row in cells.items()}


def _markdown(corner: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])


def _having(recorded: Recorded, step: str) -> list[tuple[str, Any]]:
    """Return (run, the figures of its step) of the runs that have it."""
    figures = [(run, getattr(_figures(recorded, run), step)) for run in RUNS]
    return [(run, of_step) for run, of_step in figures if of_step]


def _seven(figures: records.GridFigures) -> records.StsFigures | None:
    """Return the STS scores of a run that was scored on the seven tasks, and not on the packaged sentences."""
    return figures.sts if figures.sts and set(STS_TASKS) <= set(figures.sts.scores.tasks) else None


def _having_seven(recorded: Recorded) -> list[tuple[str, records.StsFigures]]:
    return [(run, seven) for run in RUNS if (seven := _seven(_figures(recorded, run)))]


def _figures(recorded: Recorded, run: str) -> records.GridFigures:
    record = recorded.get(run)
    return record.figures if record else records.GridFigures()


def _name(run: str) -> str:
    return run if run == BASE else f"`{run}`"


def _difference(score: records.TaskScore) -> str:
    if not (less := score.difference):
        return ""
    return f"{_signed(less.value)} ({_signed(less.bounds.low, 1)} to {_signed(less.bounds.high, 1)})"


def _paired(score: records.TaskScore) -> str:
    less = score.difference
    return f"{_signed(less.value, 1)} ± {less.standard_error:.1f}" if less else ""


def _nats_lost(score: records.TaskScore) -> str:
    less = score.difference
    return f"{_signed(less.value, 3)} ({_signed(less.bounds.low, 3)} to {_signed(less.bounds.high, 3)})" if less else ""


def _perplexity(figures: records.GridFigures, base: records.GridFigures) -> str:
    if not figures.signals:
        return NOT_RUN
    value = figures.signals["perplexity"]
    if figures is base or not base.signals:
        return f"{value:.2f}"
    return f"{value:.2f}, {_change(value, base.signals['perplexity'])}"


def _change(perplexity: float, base: float) -> str:
    """Return how far a perplexity is from the base's."""
    return f"{_signed(100 * (perplexity / base - 1), 1)} %"


def _parts(tasks: dict[str, records.TaskScore]) -> dict[str, float]:
    """Return {part of a task, or the task if it has none: ρ × 100}."""
    return {
        f"{task} {part}".strip(): value
        for task, score in tasks.items()
        for part, value in (score.parts or {"": score.value}).items()
    }


def _with_interval(score: records.TaskScore) -> str:
    return f"{score.value:.2f} ({score.bounds.low:.1f} to {score.bounds.high:.1f})"


def _with_error(score: records.TaskScore) -> str:
    value = f"{score.value:.1f} ± {score.standard_error:.1f}"
    return f"{value} ({_paired(score)})" if score.difference else value


def _signed(value: float, decimals: int = 2) -> str:
    return _minus(f"{value:+.{decimals}f}")


def _minus(text: str) -> str:
    return text.replace("-", "−")
