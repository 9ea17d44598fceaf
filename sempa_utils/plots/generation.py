"""Pictures of what training did to a model's speech: benchmarks, the price of a better embedding, the next token."""

import itertools
import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sempa_utils.plots.style import COLOURS, CYCLE, full_columns, in_lines, note, page_style, panels
from sempa_utils.records import Comparison, Difference, FrontierPoint

MARKS = ["o", "s", "^", "D", "v", "P"]  # a second sign beside colour
QUIET = "#5A5A5A"


def _signs():
    """Yield a colour and a mark for each row, a pair that no other one has for the first 36."""
    for turn in itertools.count():
        for place, colour in enumerate(CYCLE):
            yield colour, MARKS[(place + turn) % len(MARKS)]


# --- benchmarks ----------------------------------------------------------------------------------


def task_scores(comparison: Comparison, tasks: dict[str, str], *, chance: dict[str, float] | None = None) -> Figure:
    """Draw each model's figure ± its standard error, a panel a task.

    `tasks` is {task: its name}; the first model's figure is a thin line in each panel; `chance` {task: the figure of
    guessing} a dashed one.
    """
    rows, chance = comparison.rows, chance or {}
    places, models = np.arange(len(rows)), list(rows)
    with page_style():
        figure, axes = panels(columns=len(tasks), height=1.5 + 0.34 * len(rows), squeeze=False, sharey=True)
        for panel, (task, name) in zip(axes[0], tasks.items()):
            scores = [row.columns[task] for row in rows.values()]
            values, errors = (np.array([getattr(s, name) for s in scores]) for name in ("value", "standard_error"))
            if task in chance:
                panel.axvline(chance[task], color=COLOURS["grey"], linestyle="--", linewidth=1.2, label="guessing")
            panel.axvline(values[0], color=COLOURS["blue"], linewidth=0.8, label=models[0])
            panel.hlines(places, values - errors, values + errors, color=COLOURS["blue"], alpha=0.4, linewidth=2.5)
            panel.plot(values, places, "o", color=COLOURS["blue"], label="_value")
            for place, value in zip(places, values):
                text = f"{value:.0f}" if value >= 10 or not value else f"{value:.1f}"
                above = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "fontsize": 9}
                panel.annotate(text, (value, place), **above)
            high = 1.12 * max(10.0, chance.get(task, 0), *(values + errors))
            panel.set(title=name, xlim=(min(-0.06 * high, *(values - errors)), high), ylim=(len(rows) - 0.5, -0.75))
            panel.xaxis.set_major_locator(ticker.MaxNLocator(3, integer=True))
            panel.grid(axis="y", visible=False)
            panel.tick_params(axis="y", length=0)
        axes[0][0].set_yticks(places, models)
        figure.supxlabel("figure × 100, ± one standard error", fontsize=11)
        if chance:
            handle = Line2D([], [], color=COLOURS["grey"], linestyle="--", linewidth=1.2, label="guessing")
            figure.legend(handles=[handle], loc="outside upper right", fontsize=10)
    return figure


def differences(
    runs: dict[str, dict[str, Difference]],
    tasks: dict[str, str],
    *,
    label: str = "right answers' log-likelihood, nats per token, less the base's, 95 % interval",
) -> Figure:
    """Draw how far each run is from the base with its 95 % interval, a panel a task, all on one scale.

    `runs` is {run: {task: difference}}, `tasks` {task: its name}; a difference whose interval holds 0 is hollow.
    """
    places = np.arange(len(runs))
    with page_style():
        figure, axes = panels(len(tasks), height=1.4 + 0.3 * len(runs), squeeze=False, sharey=True, sharex=True)
        for panel, (task, name) in zip(axes[0], tasks.items()):
            panel.axvline(0, color=COLOURS["black"], linewidth=0.8, label="_base")
            for place, row in zip(places, runs.values()):
                apart, bounds = row[task], row[task].bounds
                colour = COLOURS["vermillion" if bounds.high < 0 else "blue"]
                face = "white" if bounds.low <= 0 <= bounds.high else colour
                panel.hlines(place, bounds.low, bounds.high, color=colour, linewidth=2)
                panel.plot(apart.value, place, "o", color=colour, markerfacecolor=face, markersize=6, label="_run")
            panel.set(title=name, ylim=(len(runs) - 0.5, -0.5))
            panel.xaxis.set_major_locator(ticker.MaxNLocator(3))
            panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
            panel.grid(axis="y", visible=False)
            panel.tick_params(axis="y", length=0)
        axes[0][0].set_yticks(places, list(runs))
        figure.supxlabel(label, fontsize=11)
    return figure


# --- what is gained and what is lost -------------------------------------------------------------


def gained_and_lost(
    ours: dict[str, tuple[Difference, Difference]],
    published: dict[str, tuple[float, float | None]] | None = None,
    *,
    generation: str = "mean of the benchmarks",
    sts: str = "STS, ρ × 100",
) -> Figure:
    """Draw STS gained (y) against generation gained or lost (x), both as differences from the base, in points.

    `ours` is {model: (generation, STS)}, with 95 % intervals by their own or 1.96 standard errors. `published` is the
    same without intervals: other models and other tests, so hollow; one of which the paper has no STS is a line.
    `generation` and `sts` name the measures.
    """
    published = published or {}
    with page_style():
        figure, axes = panels(height=5.2)
        handles, hollow = [], []
        for (model, (x, y)), (colour, mark) in zip(ours.items(), _signs()):
            across, up = x.bounds, y.bounds
            if x.standard_error == 0 and x.interval is None:
                model = f"{model} (no item differs:\nno interval)"
            line = {"color": colour, "linewidth": 1.6, "alpha": 0.5}
            axes.hlines(y.value, across.low, across.high, **line)
            axes.vlines(x.value, up.low, up.high, **line)
            handles += axes.plot(x.value, y.value, mark, color=colour, markersize=9, label=model, zorder=3)
        marks, lines = iter(MARKS), iter([":", "-.", "--"])
        for name, (x, y) in published.items():
            if y is None:
                line = {"color": COLOURS["grey"], "linestyle": next(lines), "linewidth": 1.4, "zorder": 0.5}
                hollow.append(axes.axvline(x, label=f"{name}\n(STS not given)", **line))
            else:
                style = {"color": COLOURS["black"], "markerfacecolor": "white", "markersize": 8, "linestyle": ""}
                hollow += axes.plot(x, y, next(marks), label=name, **style)
        _name_quadrants(axes)
        axes.set_xlabel(f"generation: {generation}, less the base (points)")
        axes.set_ylabel(f"embedding: {sts},\nless the base")
        legend = {"alignment": "left", "fontsize": 9.5, "title_fontsize": 9.5}
        figure.legend(handles=handles, title="ours, 95 % intervals", loc="outside right upper", **legend)
        if hollow:
            title = "published (7–8B,\nfull benchmarks)"
            figure.legend(handles=hollow, title=title, loc="outside right lower", **legend)
    return figure


def _name_quadrants(axes) -> None:
    """Draw the base's two lines, leave each quadrant at least a quarter of the axis, and write what it means."""
    for limits, set_limits in ((axes.get_xlim, axes.set_xlim), (axes.get_ylim, axes.set_ylim)):
        low, high = min(limits()[0], 0.0), max(limits()[1], 0.0)
        low, high = min(low, -high / 3), max(high, -low / 3)
        set_limits(low - 0.1 * (high - low), high + 0.1 * (high - low))
    axes.axhline(0, color=COLOURS["black"], linewidth=0.8, label="_no gain")
    axes.axvline(0, color=COLOURS["black"], linewidth=0.8, label="_no loss")
    for left in (True, False):
        for above in (True, False):
            words = f"{'better' if above else 'worse'} embedding,\n{'speaks worse' if left else 'speaks no worse'}"
            look = {"color": QUIET, "fontsize": 9.5, "style": "italic", "bbox": {"color": "white", "pad": 1.5}}
            look |= {"ha": "left" if left else "right", "va": "top" if above else "bottom"}
            place = 0.012 if left else 0.988, 0.985 if above else 0.015
            axes.text(*place, words, transform=axes.transAxes, **look)


def frontier(
    curves: dict[str, list[FrontierPoint]],
    base: FrontierPoint,
    *,
    band: float = 3.0,
    text: str = "a text",
    gained: str = "STS",
) -> Figure:
    """Draw STS gained against the change of perplexity, a curve an objective over its checkpoints.

    A curve's points are in the order of training, and each curve begins at `base`. `text` and `gained` name what the
    two are taken on. The band holds what stays within `band` % of the base's perplexity. Above 30 % the scale becomes
    logarithmic outside the band.
    """
    with page_style():
        figure, axes = panels(height=4.6)
        axes.axvspan(-band, band, color=COLOURS["sky"], alpha=0.22, linewidth=0, label=f"within {band:g} % of the base")
        axes.axhline(0, color=COLOURS["black"], linewidth=0.8, label="_base")
        changes, ends = [], []
        for (objective, points), (colour, mark) in zip(curves.items(), _signs()):
            x = np.array([0.0, *(100 * (point.perplexity / base.perplexity - 1) for point in points)])
            y = np.array([0.0, *(point.sts - base.sts for point in points)])
            changes.append(x)
            axes.plot(x, y, color=colour, linewidth=1.6, alpha=0.8, label="_path")
            axes.plot(x[1:], y[1:], mark, color=colour, markersize=7, label=objective)
            ends.append((x[-1], y[-1], f"{points[-1].rows:,} rows", colour))
        axes.plot(0, 0, "o", color=COLOURS["black"], markersize=9, label="base", zorder=4)
        bent = scale_of_changes(axes, np.concatenate(changes), band=band)
        axes.margins(x=0.12, y=0.14)
        _name_ends(axes, ends)
        scale = f"\n(scale: even within {band:g} %, logarithmic beyond)" if bent else ""
        axes.set(xlabel=f"perplexity of {text}, change from the base{scale}", ylabel=f"{gained} gained (ρ × 100)")
        figure.legend(loc="outside right upper", fontsize=10)
    return figure


def _name_ends(axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each (x, y, text, colour) beside its point, on that of four sides where it covers the least of any line."""
    figure = axes.figure
    figure.draw_without_rendering()
    lines = [axes.transData.transform(_dense(line)) for line in axes.lines if len(line.get_xdata()) > 1]
    drawn = np.concatenate(lines)
    for x, y, text, colour in ends:
        placed = []
        for across, ha in ((13, "left"), (-13, "right")):
            for up, va in ((-2, "top"), (2, "bottom")):
                look = {"va": va, "ha": ha, "fontsize": 9, "color": colour}
                written = note(axes, text, at=(x, y), offset=(across, up), **look)
                box = written.get_window_extent()
                inside = (drawn >= [box.x0 - 3, box.y0 - 3]) & (drawn <= [box.x1 + 3, box.y1 + 3])
                placed.append((int(inside.all(axis=1).sum()), written))
        best = min(range(len(placed)), key=lambda place: placed[place][0])
        for place, (_, written) in enumerate(placed):
            if place != best:
                written.remove()


def _dense(line) -> np.ndarray:
    """Return points along a line, so many that no text fits between two of them."""
    corners = np.column_stack([np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)])
    steps = np.linspace(0, 1, 50)[:, None]
    return np.concatenate([start + steps * (end - start) for start, end in itertools.pairwise(corners)])


def scale_of_changes(axes, changes: np.ndarray, *, band: float) -> bool:
    """Give an axis of changes in % its scale: above 30 % logarithmic outside the band around 0. Tell if it is so."""
    bent = bool(np.abs(changes).max() > 30)
    if bent:
        axes.set_xscale("symlog", linthresh=band, linscale=0.6)
        low, top = min(changes.min(), -band), max(changes.max(), band)
        ticks = [-30, -10, -3, 0, 3, 10, 30, 100, 300, 1000, 3000, 10_000]
        axes.set_xticks([tick for tick in ticks if low <= tick <= 1.5 * top])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.set_xlim(1.8 * low, 1.8 * top)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_signed_per_cent))
    return bent


def _signed_per_cent(value: float, _=None) -> str:
    return f"{value:+g} %".replace("-", "−") if value else "0 %"


# --- the next token ------------------------------------------------------------------------------


@dataclass(frozen=True)
class NextTokens:
    """The next tokens, the likeliest first, their probabilities, and the entropy of the whole distribution in nats."""

    tokens: list[str]
    probabilities: list[float]
    entropy: float


def next_tokens(prompt: str, models: dict[str, NextTokens]) -> Figure:
    """Draw the likeliest next tokens of one prompt, a panel a model; those that the first does not have are orange."""
    columns = full_columns(len(models))
    rows = -(-len(models) // columns)
    known = set(next(iter(models.values())).tokens)
    longest = max(max(model.probabilities) for model in models.values())
    with page_style():
        height = 1.1 + 0.25 * max(len(model.tokens) for model in models.values())
        figure, axes = panels(columns, rows, height=height, squeeze=False)
        for panel, (name, model) in zip(axes.flat, models.items()):
            places = np.arange(len(model.tokens))
            colours = [COLOURS["blue" if token in known else "orange"] for token in model.tokens]
            panel.barh(places, [100 * p for p in model.probabilities], 0.7, color=colours)
            panel.set_yticks(places, [_visible(token) for token in model.tokens], fontsize=9)
            panel.invert_yaxis()
            panel.set(xlim=(0, 108 * longest))
            panel.set_title(f"{in_lines(name, columns=columns)}\nentropy {model.entropy:.2f} nats", fontsize=10.5)
            panel.grid(axis="y", visible=False)
            panel.tick_params(axis="y", length=0)
        for panel in axes.flat[len(models) :]:
            panel.set_axis_off()
        key = "probability of the next token (%); orange: not among the first model's likeliest"
        figure.supxlabel(key, fontsize=10)
        figure.suptitle(textwrap.fill(prompt.replace("$", r"\$"), 95), x=0.01, ha="left", fontsize=11)
    return figure


def _visible(token: str) -> str:
    """A token with its white space to be seen, and not longer than a label may be."""
    token = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·").replace("$", r"\$")
    return token if len(token) <= 14 else token[:13] + "…"


def spread_by_prompt(
    kinds: dict[str, dict[str, np.ndarray]], label: str = "entropy of the next token (nats)"
) -> Figure:
    """Draw a number per prompt and model, a panel a kind of prompt: {kind: {model: (n,)}}; a bar marks the median.

    The scale is logarithmic, and says so, where medians differ by more than a factor of 30; what is 0 then stands at
    its left end.
    """
    models = list(next(iter(kinds.values())))
    generator = np.random.default_rng(0)
    every = [np.asarray(values, dtype=float) for kind in kinds.values() for values in kind.values()]
    highest, medians = max(values.max() for values in every), [float(np.median(values)) for values in every]
    logarithmic = min(medians) > 0 and max(medians) > 30 * min(medians)
    lowest = min(medians) / 3 if logarithmic else -0.03 * highest
    with page_style():
        figure, axes = panels(columns=len(kinds), height=1.2 + 0.42 * len(models), squeeze=False, sharey=True)
        for panel, (kind, of_models) in zip(axes[0], kinds.items()):
            for place, (model, (colour, _)) in enumerate(zip(models, _signs())):
                values = np.maximum(np.asarray(of_models[model], dtype=float), lowest)
                heights = place + generator.uniform(-0.2, 0.2, len(values))
                panel.scatter(values, heights, s=11, alpha=0.45, color=colour, linewidths=0)
                median = float(np.median(values))
                panel.vlines(median, place - 0.34, place + 0.34, color=COLOURS["black"], linewidth=2)
                text = f"{median:.2f}" if median >= 0.1 else f"{median:.1g}"
                above = {"xytext": (0, 1), "textcoords": "offset points", "ha": "center", "fontsize": 8.5}
                panel.annotate(text, (median, place - 0.34), va="bottom", **above)
            panel.set(title=kind, ylim=(len(models) - 0.5, -0.8), xscale="log" if logarithmic else "linear")
            panel.set_xlim(lowest, (2 if logarithmic else 1.05) * highest)
            panel.grid(axis="y", visible=False)
            panel.tick_params(axis="y", length=0)
        axes[0][0].set_yticks(range(len(models)), models)
        figure.supxlabel(label + f"; bar: median{', logarithmic scale' if logarithmic else ''}", fontsize=11)
    return figure
