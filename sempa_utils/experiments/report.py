"""The tables and pictures of README, notebooks and model cards, made from the records in results/ and nowhere else.

A document holds a block `<!-- table NAME -->` … `<!-- end -->`; `fill` writes the table of that name into it. A run
of the grid that has no record, or not all of it, says so in its cells.
"""

import re
from pathlib import Path

from matplotlib.figure import Figure

from sempa_utils import models, records
from sempa_utils.checks import fingerprint, pick
from sempa_utils.data.corpora import STS_TASKS
from sempa_utils.evaluation.generation import TASKS
from sempa_utils.experiments.reproduce import ALL, BASE, RECOMMENDED, RUNS, TRIALS, record_name
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.objectives.objective import settings_of
from sempa_utils.plots.generation import frontier
from sempa_utils.plots.space import movement_by_layer

BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_RUN = "not run"
SHOWN_SUBSETS = 3
FIRST_SCREEN = (BASE, "pairwise", "listwise", "one_word", "contrastive", "contrastive_kl")
BENCHMARKS = {name: task.label.split(",")[0] for name, task in TASKS.items()}
PUBLISHED_STS = [("reference", "SBERT-NLI-base"), ("LLaMA2-7B", "PromptEOL"), ("LLaMA2-7B", "SemPA"),
                 ("LLaMA3-8B", "PromptEOL"), ("LLaMA3-8B", "SemPA")]  # fmt: skip

PUBLISHED_METHODS = {"mean": "Mean Pooling", "echo": "Echo Embedding", "prompteol": "PromptEOL",
                     "contrastive_prompting": "Contrastive Prompting",
                     "token_prepending": "Token Prepending"}  # fmt: skip


def recorded_runs(model: str = models.PACKAGED, folder: str | Path | None = None) -> dict[str, dict | None]:
    """Return {run of the grid or trial: its record, or None where there is none} for a model."""
    folder = Path(folder or records.committed_folder())
    paths = {run: folder / f"{record_name(model, run)}.json" for run in ALL}
    return {run: records.load_run(path) if path.is_file() else None for run, path in paths.items()}


def overview(found: dict[str, dict | None]) -> str:
    """Return the first screen's table: what each objective gains in embeddings and what it costs in speech."""
    return _gains_and_costs(found, FIRST_SCREEN)


def grid(found: dict[str, dict | None]) -> str:
    """Return the same table of every run, also of those that were not run."""
    return _gains_and_costs(found, RUNS)


def _gains_and_costs(found: dict[str, dict | None], runs) -> str:
    base, rows = _figures(found, BASE), {}
    for run in runs:
        own = _figures(found, run)
        scores = own.get("sts", {}) if _is_seven(own) else {}
        rows[_name(run)] = [
            f"{own['train']['rows']:,}" if own else NOT_RUN,
            _with_interval(scores["mean"]) if scores else NOT_RUN,
            "" if run == BASE else _difference(scores["difference"]["mean"]) if scores else NOT_RUN,
            _perplexity(own, base),
            _with_error(own["generation"]["tasks"]["mean"]) if "generation" in own else NOT_RUN,
        ]
    columns = ["training triplets", "mean of seven STS tasks (95 % interval)", "change from the base",
               "perplexity, change", "mean of five benchmarks (change)"]  # fmt: skip
    return _markdown("run", columns, rows)


def sts(found: dict[str, dict | None]) -> str:
    """Return ρ × 100 of each run on each task, and the published rows."""
    rows = {}
    for run, own in _having_seven(found):
        tasks = [f"{own['tasks'][task]['spearman']:.2f}" for task in STS_TASKS]
        mean, unseen = own["mean"]["spearman"], own["without_training_sentences"]["mean"]
        rows[_name(run)] = [*tasks, f"{mean:.2f}", f"{unseen:.2f}"]
    for group, method in PUBLISHED_STS:
        row = records.published_sts(group, method)
        label = method if group == "reference" else f"{group} {method}"
        rows[f"{label}, *published*"] = [*(f"{row[task]:.2f}" for task in (*STS_TASKS, "Avg")), ""]
    return _markdown("", [*STS_TASKS, "mean", "mean without training sentences"], rows)


def generation(found: dict[str, dict | None]) -> str:
    """Return the benchmarks of each run ± standard error with its difference from the base, and the published rows."""
    rows = {}
    for run, own in _having(found, "generation"):
        rows[_name(run)] = [_with_error(own["tasks"][task]) for task in (*BENCHMARKS, "mean")]
    for row in records.published("table6_generation"):
        figures = [f"{row[column]:.2f}" for column in (*(task.column for task in TASKS.values()), "Avg")]
        rows[f"{row['model']} {row['variant']}, *published*"] = figures
    return _markdown("", [*BENCHMARKS.values(), "mean"], rows)


def speech(found: dict[str, dict | None]) -> str:
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
    rows = {_name(run): [f"{own[name]:.2f}" for name in columns] for run, own in _having(found, "signals")}
    return _markdown("", list(columns.values()), rows)


def space(found: dict[str, dict | None]) -> str:
    """Return the shape of the space of each run that has it, and the paper's Table 5."""
    columns = {
        "uniformity": "uniformity",
        "isotropy": "isotropy",
        "isotropy_both_signs": "isotropy, both signs",
        "average_cosine": "average cosine",
        "effective_rank": "effective rank",
    }
    rows = {_name(run): [_minus(f"{own[name]:.2f}") for name in columns] for run, own in _having(found, "geometry")}
    for row in records.published("table5_geometry"):
        figures = [_minus(f"{row[name]:.2f}") if name in row else "" for name in columns]
        rows[f"{row['model']} {row['method']}, *published*"] = figures
    return _markdown("", list(columns.values()), rows)


def checkpoints(found: dict[str, dict | None]) -> str:
    """Return ρ × 100 on STS-B dev, in brackets the change of perplexity, a column for each number of triplets seen."""
    runs, base = curves(found)
    seen, reached = _reached(runs, base)
    rows = {BASE: [f"{base['sts']:.1f}"] + [""] * len(seen)} if base else {}
    rows |= {_name(run): ["", *cells] for run, cells in reached.items()}
    return _markdown("triplets seen", ["0", *seen], rows)


def trials(found: dict[str, dict | None]) -> str:
    """Return the trials as `checkpoints` does, beside what their recipes differ in."""
    runs = {run: _figures(found, run)["frontier"]["points"] for run in TRIALS
            if "frontier" in _figures(found, run)}  # fmt: skip
    seen, reached = _reached(runs, curves(found)[1])
    rows = {}
    for run, cells in reached.items():
        recipe = found[run]["settings"]["recipe"]
        asked = recipe["template"] if "template" in settings_of(OBJECTIVES[recipe["objective"]]) else ""
        batch = recipe["micro_batch"] * recipe["accumulation"]
        rows[_name(run)] = [f"{recipe['learning_rate']:g}", f"{batch}", f"{asked}", *cells]
    return _markdown("", ["learning rate", "batch", "answers asked for by", *seen], rows)


def subsets(found: dict[str, dict | None]) -> str:
    """Return the `SHOWN_SUBSETS` parts of the STS tasks on which each run gains the most and the least, ρ × 100."""
    runs = dict(_having_seven(found))
    base, rows = _parts(runs.pop(BASE, {}).get("tasks", {})), {}
    for run, own in runs.items():
        if base:
            gains = {part: value - base[part] for part, value in _parts(own["tasks"]).items()}
            falling = [f"{part} {_signed(gains[part], 1)}" for part in sorted(gains, key=gains.get, reverse=True)]
            rows[_name(run)] = [", ".join(falling[:SHOWN_SUBSETS]), ", ".join(falling[: -SHOWN_SUBSETS - 1 : -1])]
    return _markdown("", ["gains most", "gains least"], rows)


def recommended(found: dict[str, dict | None]) -> str:
    """Return what the recommended run reaches beside the base, task by task: the table of its model card."""
    base, own = _figures(found, BASE), _figures(found, RECOMMENDED)
    rows = {}
    if _is_seven(base) and _is_seven(own):
        for task in (*STS_TASKS, "mean"):
            both = [one["sts"]["mean"] if task == "mean" else one["sts"]["tasks"][task] for one in (base, own)]
            rows[f"{task}, ρ × 100"] = [*map(_with_interval, both), _difference(own["sts"]["difference"][task])]
        unseen = [one["sts"]["without_training_sentences"]["mean"] for one in (base, own)]
        apart = _signed(unseen[1] - unseen[0])
        rows["mean without training sentences"] = [*(f"{value:.2f}" for value in unseen), apart]
    if "signals" in base and "signals" in own:
        values = [one["signals"]["perplexity"] for one in (base, own)]
        rows["perplexity"] = [*(f"{value:.2f}" for value in values), _change(own["signals"], base["signals"])]
    if "generation" in base and "generation" in own:
        for name, label in (BENCHMARKS | {"mean": "five benchmarks"}).items():
            tasks = [one["generation"]["tasks"][name] for one in (base, own)]
            scores = [f"{task['value']:.1f} ± {task['standard_error']:.1f}" for task in tasks]
            error = f"{tasks[1]['difference_standard_error']:.1f}"
            rows[f"{label}, {tasks[1]['items']} items"] = [*scores, f"{_signed(tasks[1]['difference'], 1)} ± {error}"]
    return _markdown("", [BASE, _name(RECOMMENDED), "difference"], rows)


def methods(_) -> str:
    """Return the methods without training on the seven tasks, PromptEOL's difference, and the paper's LLaMA2-7B."""
    figures = records.load_run(records.committed_folder() / "sts_seven_tasks.json")["figures"]
    rows = {}
    for name, own in figures.items():
        apart = _difference(own["difference"]["mean"]) if "difference" in own else ""
        published = name in PUBLISHED_METHODS and records.published_sts("LLaMA2-7B", PUBLISHED_METHODS[name])["Avg"]
        rows[f"`{name}`"] = [_with_interval(own["mean"]), apart, f"{published:.2f}" if published else ""]
    return _markdown("", ["mean ρ × 100 (95 % interval)", "less PromptEOL", "LLaMA2-7B, *published*"], rows)


def first_trials(_) -> str:
    """Return the five objectives after 512 rows on STS-B, ρ × 100; on the test split those that were scored there."""
    rows = {}
    for split in ("dev", "test"):
        figures = records.load_run(records.committed_folder() / f"sts_b_{split}_512.json")["figures"]
        apart = figures.pop("less the base")
        for name, own in figures.items():
            label = name.partition(" + ")[2]
            less = _difference(apart[name]["STS-B"]) if name in apart else ""
            rows.setdefault(f"`{label}`" if label else BASE, {})[split] = [f"{own['STS-B']['spearman']:.2f}", less]
    cells = {name: [*found["dev"], *found.get("test", ["", ""])] for name, found in rows.items()}
    return _markdown(
        "",
        ["STS-B dev, 500 pairs", "less the base (95 % interval)", "STS-B test", "less the base (95 % interval)"],
        cells,
    )


TABLES = {"overview": overview, "grid": grid, "sts": sts, "generation": generation, "speech": speech, "space": space,
          "checkpoints": checkpoints, "trials": trials, "subsets": subsets,
          "recommended": recommended, "methods": methods, "first-trials": first_trials}  # fmt: skip


def fill(text: str, found: dict[str, dict | None]) -> str:
    """Return `text` with each block's table made anew. Raises `InputError` for a block of no known name."""
    return BLOCK.sub(lambda match: match[1] + pick(match[2], TABLES, "table")(found) + "\n" + match[3], text)


def documents() -> list[Path]:
    """Return the repository's files that hold such blocks."""
    root = records.committed_folder().parent
    places = [*root.glob("*.md"), *root.glob("results/*.md"), *models.FINISHED.glob("*/README.md")]
    return [path for path in sorted(places) if BLOCK.search(path.read_text(encoding="utf8"))]


def pictures() -> dict[str, tuple[Figure, str]]:
    """Return {name: (figure, fingerprint of the records that it was drawn from)} of results/figures/."""
    found, drawn = recorded_runs(), {}
    runs, base = curves(found)
    if runs and base:
        drawn["frontier"] = frontier(runs, base, text="WikiText-2", gained="STS-B dev"), fingerprint(runs, base)
    runs = dict(_having(found, "layers"))
    base = runs.pop(BASE, None)
    if runs and base:
        drawn["layers"] = movement_by_layer(runs, base), fingerprint(runs, base)
    return drawn


def curves(found: dict[str, dict | None]) -> tuple[dict[str, list[dict]], dict | None]:
    """Return {run: its checkpoints' points} and the base's point, as `plots.generation.frontier` takes them."""
    runs = {run: own["points"] for run, own in _having(found, "frontier")}
    base = (runs.pop(BASE, None) or [None])[0]
    return {run: own for run, own in runs.items() if own}, base


def _reached(runs: dict[str, list[dict]], base: dict | None) -> tuple[list[str], dict[str, list[str]]]:
    """Return the numbers of rows seen in any run, and {run: a cell for each of them, blank where it has none}."""
    seen = sorted({point["rows"] for points in runs.values() for point in points})
    told = {run: {point["rows"]: f"{point['sts']:.1f}" + (f" ({_change(point, base)})" if base else "")
                  for point in points} for run, points in runs.items()}  # fmt: skip
    return [f"{rows:,}" for rows in seen], {run: [one.get(rows, "") for rows in seen] for run, one in told.items()}


def _markdown(corner: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])


def _having(found, step: str) -> list[tuple[str, dict]]:
    """Return (run, what its step found) of the runs that have it."""
    return [(run, _figures(found, run)[step]) for run in RUNS if step in _figures(found, run)]


def _is_seven(own: dict) -> bool:
    """Return whether a run was scored on the seven tasks, and not on the packaged sentences."""
    return set(STS_TASKS) <= set(own.get("sts", {}).get("tasks", {}))


def _having_seven(found) -> list[tuple[str, dict]]:
    return [(run, own) for run, own in _having(found, "sts") if _is_seven(_figures(found, run))]


def _figures(found, run: str) -> dict:
    return (found.get(run) or {"figures": {}})["figures"]


def _name(run: str) -> str:
    return run if run == BASE else f"`{run}`"


def _difference(one: dict) -> str:
    return f"{_signed(one['difference'])} ({_signed(one['low'], 1)} to {_signed(one['high'], 1)})"


def _perplexity(own: dict, base: dict) -> str:
    if "signals" not in own:
        return NOT_RUN
    value = own["signals"]["perplexity"]
    if own is base or "signals" not in base:
        return f"{value:.2f}"
    return f"{value:.2f}, {_change(own['signals'], base['signals'])}"


def _change(own: dict, base: dict) -> str:
    """Return how far a perplexity is from the base's."""
    return f"{_signed(100 * (own['perplexity'] / base['perplexity'] - 1), 1)} %"


def _parts(tasks: dict) -> dict[str, float]:
    """Return {part of a task, or the task if it has none: ρ × 100}."""
    return {
        f"{task} {part}".strip(): value
        for task, row in tasks.items()
        for part, value in (row["subsets"] or {"": row["spearman"]}).items()
    }


def _with_interval(one: dict) -> str:
    return f"{one['spearman']:.2f} ({one['low']:.1f} to {one['high']:.1f})"


def _with_error(one: dict) -> str:
    value = f"{one['value']:.1f} ± {one['standard_error']:.1f}"
    if "difference" not in one:
        return value
    return f"{value} ({_signed(one['difference'], 1)} ± {one['difference_standard_error']:.1f})"


def _signed(value: float, decimals: int = 2) -> str:
    return _minus(f"{value:+.{decimals}f}")


def _minus(text: str) -> str:
    return text.replace("-", "−")
