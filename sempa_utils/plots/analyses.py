"""Pictures of the analyses, drawn from the `figures` of their records.

The paper's figures stand beside ours in panels of their own, marked as published and with their model's name.
"""

import textwrap

import numpy as np
import seaborn
from matplotlib import ticker
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from sempa_utils import records
from sempa_utils.plots.style import COLOURS, page_style, panels
from sempa_utils.records import DataSizeCurve, RowScores, SeedSpread

# Of Table 4, as `analyses.EXTRACTIONS`.
EXTRACTIONS = {"prompteol": "PromptEOL", "pretended_cot": "Pretended\nCoT"}
PAPERS = {"llama2": "LLaMA2-7B", "llama3": "LLaMA3-8B"}  # columns of the published tables
SPLITS = {"dev": ("--", "o"), "test": ("-", "s")}  # line and marker tell the split apart, colour the model
CHANGE = LinearSegmentedColormap.from_list("change", [COLOURS["orange"], "white", COLOURS["blue"]])


def template_map(figures: dict[str, dict[str, RowScores]], model: str) -> Figure:
    """Draw ρ × 100 by training template (rows) and extraction template (columns), Table 4 beside.

    `figures` are those of `analyses.template_grid`, `model` the name of ours. A cell's colour is its change against
    the untrained base read with the same template, on one scale for all panels.
    """
    rows, tasks = list(figures), figures["base"]["prompteol"].tasks
    ours = np.array([[figures[row][column].mean.value for column in EXTRACTIONS] for row in rows])
    tables = {_ours(model): ours} | {_published(paper): _table4(column, rows) for column, paper in PAPERS.items()}
    changes = {title: table - table[rows.index("base")] for title, table in tables.items()}
    widest = max(np.abs(change).max() for change in changes.values())
    with page_style():
        figure, axes = panels(columns=3, height=1.6 + 0.45 * len(rows), sharey=True)
        for panel, (title, table) in zip(axes, tables.items()):
            texts = [[_cell(score, change) for score, change in zip(*row)] for row in zip(table, changes[title])]
            grid = {"linewidths": 1, "linecolor": "#D5D5D5", "annot_kws": {"fontsize": 9}, "cbar": False}
            seaborn.heatmap(
                changes[title], annot=np.array(texts), fmt="", cmap=CHANGE, vmin=-widest, vmax=widest, ax=panel, **grid
            )
            panel.set_xticks(np.arange(len(EXTRACTIONS)) + 0.5, EXTRACTIONS.values(), rotation=0, fontsize=9)
            panel.set_title(title, fontsize=11)
            panel.set_xlabel(f"read with ({_tasks(tasks) if title == _ours(model) else 'mean of 7 tasks'})", fontsize=9)
            panel.tick_params(length=0)
            panel.grid(False)
        names = ["no training" if row == "base" else row for row in rows]
        axes[0].set_yticks(np.arange(len(rows)) + 0.5, names, rotation=0, fontsize=9)
        axes[0].set_ylabel("trained with", fontsize=9)
        bar = figure.colorbar(axes[0].collections[0], ax=axes, shrink=0.8)
        bar.set_label("change of ρ × 100 against no training", fontsize=9)
    return figure


def data_size(curve: DataSizeCurve, model: str) -> Figure:
    """Draw ρ × 100 on the dev split and over the test tasks against the triplets seen, Figure 3 beside.

    `model` is the name of ours.
    """
    points = curve.points
    seen = [point.triplets for point in points]
    ours = {
        "dev": (f"{curve.dev_task} dev", [point.dev for point in points]),
        "test": (_tasks(points[0].test.tasks), [point.test.mean.value for point in points]),
    }
    theirs = records.published("figure3_data_size")
    with page_style():
        figure, (left, right) = panels(columns=2, height=3.8)
        for split in SPLITS:
            name, values = ours[split]
            _line(left, seen, values, split, "blue", name)
            for (column, paper), colour in zip(PAPERS.items(), ("green", "orange")):
                values = [point[f"{column}_{split}"] for point in theirs]
                thousands = [10 * point["triplets_10k"] for point in theirs]
                name = "STS-B dev" if split == "dev" else "mean of 7 tasks"
                _line(right, thousands, values, split, colour, f"{paper}, {name}")
        left.set(title=_ours(model), xlabel="triplets seen (checkpoints of one run)", ylabel="Spearman ρ × 100")
        left.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
        left.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        right.set(title="Published: LLaMA2-7B, LLaMA3-8B\nread off the paper's figure", xlabel="triplets (thousands)")
        for axes in (left, right):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=9)
    return figure


def seeds(spread: SeedSpread, model: str) -> Figure:
    """Draw each seed's mean ρ × 100, their mean and a band of one standard deviation, Table 8 beside.

    `model` is the name of ours. The two axes differ in where they lie and not in their length, so that the spreads
    can be compared.
    """
    ours = {seed: scores.mean.value for seed, scores in spread.runs.items()}
    theirs = {int(row["seed"]): row["Avg"] for row in records.published("table8_seeds")}
    groups = {
        _ours(model): (ours, "blue", _tasks(next(iter(spread.runs.values())).tasks)),
        _published("LLaMA3-8B"): (theirs, "orange", "mean of 7 tasks"),
    }
    with page_style():
        figure, both = panels(columns=2, height=3.6)
        for axes, (title, (means, colour, what)) in zip(both, groups.items()):
            _spread(axes, means, colour)
            axes.set(title=title, xlabel="seed", ylabel=f"{what}, ρ × 100")
        length = max(np.ptp(axes.get_ylim()) for axes in both)
        for axes in both:
            middle = np.mean(axes.get_ylim())
            axes.set_ylim(middle - length / 2, middle + length / 2)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=9)
    return figure


def _ours(model: str) -> str:
    return f"This run:\n{textwrap.fill(model.rsplit('/', 1)[-1], 22)}"


def _published(model: str) -> str:
    return f"Published:\n{model}"


def _tasks(tasks) -> str:
    return f"{next(iter(tasks))} test" if len(tasks) == 1 else f"mean of {len(tasks)} tasks"


def _table4(paper: str, rows: list[str]) -> np.ndarray:
    """Return the published figures of one model in the order of `rows`: (rows, extraction templates)."""
    table = {row["paraphrase_template_id"]: row for row in records.published("table4_templates")}
    table["base"] = table["no_training_baseline"]
    columns = [f"{'promptEOL' if name == 'prompteol' else name}_{paper}" for name in EXTRACTIONS]
    return np.array([[table[row][column] for column in columns] for row in rows])


def _cell(score: float, change: float) -> str:
    signed = f"{change:+.1f}".replace("-", "−")
    return f"{score:.1f}\n{signed}" if change else f"{score:.1f}"


def _line(axes, places, values, split: str, colour: str, label: str) -> None:
    style, marker = SPLITS[split]
    axes.plot(places, values, style, marker=marker, markersize=5, color=COLOURS[colour], label=label)


def _spread(axes, means: dict[int, float], colour: str) -> None:
    """Draw a dot a seed with its figure, a line at the mean, a band of one standard deviation to each side."""
    values = list(means.values())
    mean, sd = np.mean(values), np.std(values, ddof=1)
    axes.axhspan(mean - sd, mean + sd, color=COLOURS[colour], alpha=0.18, linewidth=0, label=f"± sd {sd:.2f}")
    axes.axhline(mean, color=COLOURS["black"], linestyle="--", linewidth=1.2, label=f"mean {mean:.2f}")
    axes.plot(range(len(values)), values, "o", color=COLOURS[colour], markersize=9)
    above = {"xytext": (0, 10), "textcoords": "offset points", "ha": "center", "fontsize": 10}
    for place, value in enumerate(values):
        text = axes.annotate(f"{value:.2f}", (place, value), **above)
        text.set_bbox({"color": "white", "alpha": 0.8, "pad": 1})  # readable where the mean's line passes
    axes.set_xticks(range(len(values)), list(map(str, means)))
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.margins(y=0.25)
    axes.grid(axis="x", visible=False)
