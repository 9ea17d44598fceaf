"""The picture of a search: what every candidate gains on dev, and what it costs in words."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sempa_utils.plots.generation import MARKS, scale_of_changes
from sempa_utils.plots.style import COLOURS, CYCLE, note, page_style, panels
from sempa_utils.records import SearchFigures


def search(figures: SearchFigures) -> Figure:
    """Draw the dev mean of each candidate against its change of perplexity: a mark a rung, a colour a learning rate.

    Hollow marks have no KL penalty; thin lines follow a candidate to its next rung. Right of the dashed line
    candidates rank behind all others. The best of the longest rung is ringed.
    """
    rungs = sorted({point.rows for point in figures.tried})
    rates = sorted({point.changes.get("learning_rate", 0.0) for point in figures.tried})
    colours = {rate: CYCLE[place % len(CYCLE)] for place, rate in enumerate(rates)}
    marks = {rows: MARKS[place % len(MARKS)] for place, rows in enumerate(rungs)}
    places = [(figures.change(point), point.scores.mean.value) for point in figures.tried]
    paths: dict[str, list[tuple[float, float]]] = {}
    for point, place in zip(figures.tried, places):
        paths.setdefault(str(point.changes), []).append(place)
    with page_style():
        figure, axes = panels(height=4.8)
        for path in paths.values():
            axes.plot(*zip(*path), color=COLOURS["grey"], linewidth=0.8, alpha=0.6, zorder=1, label="_path")
        for point, place in zip(figures.tried, places):
            colour = colours[point.changes.get("learning_rate", 0.0)]
            face = colour if point.changes.get("kl_weight") else "white"
            axes.plot(*place, marks[point.rows], color=colour, markerfacecolor=face, markersize=7, label="_candidate")
        axes.plot(0, figures.base.scores.mean.value, "o", color=COLOURS["black"], markersize=9, label="base", zorder=4)
        limit = f"limit, {figures.perplexity_limit:+g} %"
        axes.axvline(figures.perplexity_limit, color=COLOURS["grey"], linestyle="--", linewidth=1.2, label=limit)
        if best := figures.best:
            at = figures.change(best), best.scores.mean.value
            axes.plot(*at, "o", color=COLOURS["black"], markerfacecolor="none", markersize=15, label="best", zorder=5)
            note(axes, f"{at[1]:.2f}", at=at, offset=(11, 4), fontsize=10)
        changes = np.array([0.0, figures.perplexity_limit, *(change for change, _ in places)])
        band = max(3.0, figures.perplexity_limit)
        bent = scale_of_changes(axes, changes, band=band)
        axes.margins(y=0.12)
        scale = f" (scale: even within {band:g} %, logarithmic beyond)" if bent else ""
        axes.set(xlabel=f"perplexity, change from the base{scale}", ylabel="mean of the dev tasks (ρ × 100)")
        grey: dict[str, Any] = {"color": COLOURS["grey"], "linestyle": "", "markersize": 7}
        keys = [Line2D([], [], marker=marks[rows], label=f"{rows:,} rows", **grey) for rows in rungs]
        keys += [Line2D([], [], color=colours[rate], linewidth=5, label=f"rate {rate:g}") for rate in rates]
        keys += [Line2D([], [], marker="o", markerfacecolor="white", label="no KL penalty", **grey)]
        handles, _ = axes.get_legend_handles_labels()
        figure.legend(handles=[*handles, *keys], loc="outside right upper", fontsize=10)
    return figure
