"""Pictures of scores on STS tasks."""

import numpy as np
from matplotlib.figure import Figure

from sempa_utils.plots.style import COLOURS, CYCLE, page_style, panels
from sempa_utils.records import Comparison, Difference, TaskScore


def sts_bars(ours: dict[str, dict[str, float]], published: dict[str, dict[str, float]] | None = None) -> Figure:
    """Draw ρ × 100 by task: {method: {task: figure}}; published rows in a panel of their own below.

    The two panels never share a bar group, since another model stands behind the published figures.
    """
    tables = {"This run": ours} | ({"Published by the paper (other models, 7–8B)": published} if published else {})
    with page_style():
        figure, axes = panels(rows=len(tables), height=3.3, squeeze=False)
        for panel, (title, table) in zip(axes[:, 0], tables.items()):
            tasks = list(next(iter(table.values())))
            width = 0.8 / len(table)
            for index, (method, figures) in enumerate(table.items()):
                places = np.arange(len(tasks)) + (index - (len(table) - 1) / 2) * width
                values = [figures[task] for task in tasks]
                bars = panel.bar(places, values, width * 0.92, color=CYCLE[index % len(CYCLE)], label=method)
                panel.bar_label(bars, fmt="%.1f", fontsize=8 if len(tasks) > 3 else 10, padding=2)
            panel.set_xticks(np.arange(len(tasks)), tasks)
            panel.axhline(0, color=COLOURS["black"], linewidth=0.8)
            panel.set(title=title, ylabel="Spearman ρ × 100", ylim=(min(0, panel.get_ylim()[0]), 100))
            panel.grid(axis="x", visible=False)
            panel.legend(ncols=len(table), loc="upper left", fontsize=10)
    return figure


def methods_compared(
    comparison: Comparison, what: str, *, published: dict[str, dict[str, float]] | None = None
) -> Figure:
    """Draw each row's mean and its paired difference, with 95 % intervals; published figures beside.

    `comparison` is what `sts.summary` returns, `what` the name of its mean. `published` is {model: {row: ρ × 100}}:
    other models and the seven tasks, so a panel of its own with open marks.
    """
    rows, small = list(comparison.rows), {"va": "center", "fontsize": 9}
    with page_style():
        ratios = {"width_ratios": [1, 1.25, 0.8][: 3 if published else 2]}
        figure, axes = panels(
            columns=3 if published else 2, height=1.4 + 0.36 * len(rows), sharey=True, gridspec_kw=ratios
        )
        for place, row in enumerate(rows):
            mean = comparison.rows[row].mean
            _interval(axes[0], place, mean, "blue", "o")
            if less := mean.difference:
                colour = "green" if less.bounds.low > 0 else "vermillion" if less.bounds.high < 0 else "grey"
                _interval(axes[1], place, less, colour, "D")
                axes[1].annotate(
                    f"p {_p_value(less.p_value)}", (1, place), xycoords=axes[1].get_yaxis_transform(), **small
                )
        axes[1].axvline(0, color=COLOURS["black"], linewidth=0.8)
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].set(title="This run", xlabel=f"{what}, ρ × 100", ylim=(len(rows) - 0.5, -0.7))
        axes[1].set(title=f"Less {comparison.against}, paired", xlabel="difference (ρ × 100)")
        for (model, figures), mark, colour in zip((published or {}).items(), ("o", "s"), ("orange", "purple")):
            hollow = {"color": COLOURS[colour], "markerfacecolor": "white"}
            places = [rows.index(row) for row in figures]
            axes[2].plot(list(figures.values()), places, mark, label=model, **hollow)
        if published:
            axes[2].set(title="Published, 7–8B", xlabel="mean of 7 tasks, ρ × 100")
            axes[2].legend(loc="lower left", fontsize=9, handletextpad=0.2)
            axes[2].margins(x=0.12)
        for panel in axes:
            panel.grid(axis="y", color="#F0F0F0")
            panel.tick_params(axis="y", length=0)
    return figure


def _interval(axes, place: int, figure: TaskScore | Difference, colour: str, mark: str) -> None:
    value = figure.value
    axes.plot(
        [figure.bounds.low, figure.bounds.high], [place] * 2, color=COLOURS[colour], alpha=0.45, label="_interval"
    )
    axes.plot(value, place, mark, color=COLOURS[colour], label="_value")
    text = f"{value:.1f}" if mark == "o" else f"{value:+.1f}".replace("-", "−")
    axes.annotate(text, (value, place), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=9)


def _p_value(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"= {value:.3f}" if value >= 0.0015 else "≤ 0.001"


def agreement(similarities: dict[str, np.ndarray], scores) -> Figure:
    """Draw cosine against human score, one panel a method: {method: (n,)} and scores (n,)."""
    with page_style():
        figure, axes = panels(columns=len(similarities), height=3.1, squeeze=False, sharex=True)
        jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(scores))
        for panel, (method, values), colour in zip(axes[0], similarities.items(), CYCLE):
            panel.scatter(np.asarray(scores) + jitter, values, s=9, alpha=0.5, color=colour, linewidths=0)
            panel.set(title=method, xlabel="human score")
        axes[0][0].set_ylabel("cosine")
    return figure
