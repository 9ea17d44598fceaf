"""Pictures of scores on STS tasks."""

import numpy as np
from matplotlib.figure import Figure

from sempa_utils.plots.style import COLOURS, CYCLE, page_style, panels


def sts_bars(ours: dict[str, dict[str, float]], published: dict[str, dict[str, float]] | None = None) -> Figure:
    """Draw ρ × 100 by task: {method: {task: figure}}; published rows in a panel of their own below.

    The two panels never share a bar group, since another model stands behind the published figures.
    """
    tables = {"This run": ours} | ({"Published by the paper (other models, 7–8B)": published} if published else {})
    with page_style():
        figure, axes = panels(rows=len(tables), height=3.3, squeeze=False)
        for one, (title, table) in zip(axes[:, 0], tables.items()):
            tasks = list(next(iter(table.values())))
            width = 0.8 / len(table)
            for index, (method, figures) in enumerate(table.items()):
                places = np.arange(len(tasks)) + (index - (len(table) - 1) / 2) * width
                values = [figures[task] for task in tasks]
                bars = one.bar(places, values, width * 0.92, color=CYCLE[index % len(CYCLE)], label=method)
                one.bar_label(bars, fmt="%.1f", fontsize=8 if len(tasks) > 3 else 10, padding=2)
            one.set_xticks(np.arange(len(tasks)), tasks)
            one.axhline(0, color=COLOURS["black"], linewidth=0.8)
            one.set(title=title, ylabel="Spearman ρ × 100", ylim=(min(0, one.get_ylim()[0]), 100))
            one.grid(axis="x", visible=False)
            one.legend(ncols=len(table), loc="upper left", fontsize=10)
    return figure


def agreement(similarities: dict[str, np.ndarray], scores) -> Figure:
    """Draw cosine against human score, one panel a method: {method: (n,)} and scores (n,)."""
    with page_style():
        figure, axes = panels(columns=len(similarities), height=3.1, squeeze=False, sharex=True)
        jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(scores))
        for one, (method, values), colour in zip(axes[0], similarities.items(), CYCLE):
            one.scatter(np.asarray(scores) + jitter, values, s=9, alpha=0.5, color=colour, linewidths=0)
            one.set(title=method, xlabel="human score")
        axes[0][0].set_ylabel("cosine")
    return figure
