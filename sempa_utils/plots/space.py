"""Pictures of an embedding space, from arrays of coordinates, cosines and measures.

Spaces are named by their reader: a method, or the adapter that it is read through. A space has the same colour and
mark in every figure that is given the same spaces in the same order.
"""

import html
import textwrap

import numpy as np
import seaborn
from matplotlib.figure import Figure

from sempa_utils.plots.style import COLOURS, CYCLE, in_lines, note, page_style, panels
from sempa_utils.records import LayerFigures

ROLES = {  # colour and marker both tell the role apart
    "anchor": ("black", "o"),
    "positive": ("blue", "^"),
    "negative": ("orange", "s"),
}
KINDS = {"entailed": ("blue", "-"), "neutral": ("grey", "--"), "contradicted": ("orange", "-")}
MARKS, LINES = ["o", "s", "^", "D", "v", "P"], ["-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1))]
MODELS = ["D", "s", "^", "o"]  # marks of the published models, hollow
MATCHES = {  # of a token with its sentence: also told apart by the type's weight and slope
    "exact": ("b", "#b7dcf2"),
    "stem": ("i", "#f6d6a8"),
    "none": ("span", "transparent"),
}


def projections(
    spaces: dict[str, dict], links: int = 6, *, columns: int | None = None, common: bool = False, height: float = 3.6
) -> Figure:
    """Draw one panel per space: {title: {"anchor"/"positive"/"negative": (n, 2), "explained": (2,)}}.

    Lines join the first `links` anchors, drawn larger, to their positive (solid) and negative (dotted). `columns` is
    the number of panels side by side; `common` gives all the same axes, for spaces that were projected on one base.
    """
    columns = columns or _columns(len(spaces))
    with page_style():
        figure, axes = _grid(len(spaces), columns, height, sharex=common, sharey=common)
        for panel, (title, space) in zip(axes, spaces.items()):
            for index in range(min(links, len(space["anchor"]))):
                for role, line in (("positive", "-"), ("negative", ":")):
                    ends = np.array([space["anchor"][index], space[role][index]])
                    panel.plot(*ends.T, line, color=COLOURS[ROLES[role][0]], linewidth=1.4, zorder=3)
            for role, (colour, marker) in ROLES.items():
                points = np.asarray(space[role])
                sizes = np.where(np.arange(len(points)) < links, 42, 13)
                look = {"marker": marker, "color": COLOURS[colour], "alpha": 0.7, "linewidths": 0}
                panel.scatter(*points.T, s=sizes, label=role, **look)
            panel.set_title(in_lines(title, columns=columns), fontsize=11)
            if not common:
                first, second = (100 * share for share in space["explained"])
                panel.set_xlabel(f"component 1 ({first:.0f} % of variance)", fontsize=9.5)
                panel.set_ylabel(f"component 2 ({second:.0f} %)", fontsize=9.5)
        if common:
            first, second = (100 * share for share in next(iter(spaces.values()))["explained"])
            figure.supxlabel(f"component 1 of the base ({first:.0f} % of its variance)", fontsize=10)
            figure.supylabel(f"component 2 of the base ({second:.0f} %)", fontsize=10)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, markerscale=1.6)
    return figure


def cosine_distributions(groups: dict[str, dict[str, np.ndarray]], notes: dict[str, str] | None = None) -> Figure:
    """Draw the distribution of cosines of pairs: {title: {"entailed"/"neutral"/"contradicted": (n,)}}.

    `notes` {title: text} stand in the panels. All panels have the same cosines across; densities are each panel's own.
    """
    columns = _columns(len(groups))
    with page_style():
        figure, axes = _grid(len(groups), columns, height=2.5, sharex=True)
        for panel, (title, pairs) in zip(axes, groups.items()):
            for label, values in pairs.items():
                colour, line = KINDS[label]
                look = {"color": COLOURS[colour], "linestyle": line, "fill": True, "alpha": 0.25}
                seaborn.kdeplot(np.asarray(values), ax=panel, label=label, warn_singular=False, **look)
            panel.set_title(in_lines(title, columns=columns), fontsize=11)
            panel.set(xlabel="cosine with the premise", ylabel="density")
            panel.set_yticks([])
            if notes and title in notes:
                panel.text(0.02, 0.97, notes[title], transform=panel.transAxes, va="top", fontsize=9.5)
        axes[0].set_xlim(right=1.02)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def layer_curves(
    curves: dict[str, dict[str, np.ndarray]], layers: list[int], *, published: dict[str, dict[str, dict[str, float]]]
) -> Figure:
    """Draw four measures layer by layer: {measure: {space: (layers,)}}.

    Beside a measure's curves stand its `published` values, {measure: {model: {method: value}}}, on the same scale and
    marked as such.
    """
    with page_style():
        figure, axes = panels(4, 2, height=2.9, gridspec_kw={"width_ratios": [3, 1.1, 3, 1.1]})
        grid = axes[0][0].get_gridspec()
        for number, (measure, spaces) in enumerate(curves.items()):
            row, column = divmod(number, 2)
            beside = axes[row][2 * column + 1]
            if measure not in published:
                beside.remove()
                axes[row][2 * column].remove()
                axes[row][2 * column] = figure.add_subplot(grid[row, 2 * column : 2 * column + 2])
            main = axes[row][2 * column]
            for place, (space, values) in enumerate(spaces.items()):
                main.plot(layers, values, linewidth=1.8, label=space, **_line(place))
            main.set(title=measure, xlabel="layer")
            if measure in published:
                _beside(beside, published[measure], main)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def movement_by_layer(runs: dict[str, LayerFigures], base: LayerFigures, *, what: str = "STS-B dev") -> Figure:
    """Draw what training did layer by layer, the base's ρ × 100 beside; `what` names the pairs of that figure."""
    titles = {
        "sts": f"{what}, ρ × 100",
        "moved": "movement of the state / its length",
        "moved_alike": "share that is the same for all",
    }
    with page_style():
        figure, axes = panels(3, height=3.6)
        for panel, (measure, title) in zip(axes, titles.items()):
            if measure == "sts":
                panel.plot(np.array(base.sts, dtype=float), color=COLOURS["black"], linewidth=1.2, label="base")
            for place, (run, figures) in enumerate(runs.items()):
                values = np.array(getattr(figures, measure), dtype=float)
                panel.plot(values, linewidth=1.8, label=run, **_line(place))
            panel.set_title(title, fontsize=11)
            panel.set_xlabel("layer")
        axes[2].set_ylim(-0.03, 1.03)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _beside(axes, models: dict[str, dict[str, float]], main) -> None:
    """Draw published values {model: {method: value}} on the scale of the panel `main`."""
    axes.sharey(main)
    methods = list(next(iter(models.values())))
    for (model, values), mark in zip(models.items(), MODELS):
        hollow = {"color": COLOURS["black"], "markerfacecolor": "white", "linewidth": 1}
        axes.plot(methods, [values[method] for method in methods], mark + ":", label=model, **hollow)
    axes.set_xticks(range(len(methods)), methods, rotation=30, ha="right", fontsize=8)
    axes.set_xlim(-0.4, len(methods) - 0.6)
    axes.tick_params(axis="y", labelleft=False)
    axes.set_title("published", fontsize=10, style="italic")
    axes.legend(loc="best", fontsize=7.5, handlelength=0.8, handletextpad=0.3, borderaxespad=0.2)


def uniformity_against_isotropy(
    ours: dict[str, dict[str, tuple[float, float]]], published: dict[str, dict[str, tuple[float, float]]]
) -> Figure:
    """Draw isotropy over uniformity: ours {"positive"/"both": {space: (uniformity, isotropy)}}, and published ones.

    `published` is {model: {method: (uniformity, isotropy)}}, drawn hollow. The lines are what a cone of many vectors
    of pairwise cosine c has, all else spread evenly: uniformity 4c − 4, isotropy exp(−√c) or, with both signs,
    exp(−2√c).
    """
    cosine = np.linspace(0, 1, 200)
    every = [point for group in (ours, published) for spaces in group.values() for point in spaces.values()]
    with page_style():
        figure, axes = panels(height=3.8)
        for sign, power, line in (("positive", 1, "-"), ("both", 2, "--")):
            label = f"a cone, {'the positive sign' if sign == 'positive' else 'both signs'} of each eigenvector"
            axes.plot(4 * cosine - 4, np.exp(-power * np.sqrt(cosine)), line, color=COLOURS["grey"], label=label)
            for place, (space, point) in enumerate(ours[sign].items()):
                look = {"color": _of(CYCLE, place), "markersize": 8, "alpha": 0.85}
                axes.plot(*point, _of(MARKS, place), label=space if sign == "positive" else "_both", **look)
        for (model, spaces), mark in zip(published.items(), MODELS):
            hollow = {"color": COLOURS["black"], "markerfacecolor": "none", "markersize": 9, "markeredgewidth": 1.5}
            axes.plot(*np.array(list(spaces.values())).T, mark, label=f"{model}, published", **hollow)
        axes.set(xlabel="uniformity (lower: more even)", ylabel="isotropy (higher: more even)")
        axes.set_xlim(1.12 * min(point[0] for point in every) - 0.05, 0.05)
        axes.set_ylim(0, 1.3 * max(point[1] for point in every))
        figure.legend(loc="outside right center", fontsize=9.5)
    return figure


def spectra(shares: dict[str, np.ndarray], ranks: dict[str, float]) -> Figure:
    """Draw each space's eigenvalue shares of the covariance, {space: (k,)}, and its effective rank as a bar."""
    with page_style():
        height = max(3.2, 1 + 0.52 * len(ranks))
        figure, (left, right) = panels(2, height=height, gridspec_kw={"width_ratios": [1.25, 1]})
        for place, (space, values) in enumerate(shares.items()):
            values = 100 * np.asarray(values)
            values = values[values > 1e-4 * values[0]]  # beyond it stands nothing but rounding
            left.plot(np.arange(1, len(values) + 1), values, label=space, **_line(place))
        left.set(title="spectrum", xscale="log", yscale="log", xlabel="component", ylabel="share of the variance (%)")
        left.legend(fontsize=9.5)
        _bars(right, ranks, [_of(CYCLE, place) for place in range(len(ranks))], "{:.0f}")
        right.set(title="effective rank", xlabel="directions")
    return figure


def aligned_tokens(tokens: dict[str, dict[str, list[tuple[str, str]]]]) -> str:
    """Return an HTML table of nearest tokens: {sentence: {space: [(token, "exact"/"stem"/"none"), …]}}.

    Exact matches are bold on blue, the same stem italic on orange. A token's leading space is shown as ␣.
    """
    cell = "padding:2px 6px;text-align:left;white-space:nowrap"

    def token(text: str, match: str) -> str:
        tag, colour = MATCHES[match]
        shown = html.escape(text.replace("\n", "⏎").replace(" ", "␣")) or "∅"
        return f'<{tag} style="background:{colour};border-radius:3px;padding:1px 3px">{shown}</{tag}>'

    lines = []
    for sentence, spaces in tokens.items():
        width = 1 + max(map(len, spaces.values()))
        text = html.escape(sentence)
        lines.append(f'<tr><td colspan="{width}" style="{cell};white-space:normal;padding-top:10px">“{text}”</td></tr>')
        for space, nearest in spaces.items():
            cells = "".join(f'<td style="{cell}">{token(text, match)}</td>' for text, match in nearest)
            lines.append(f'<tr><th style="{cell}">{html.escape(space)}</th>{cells}</tr>')
    legend = " ".join(token(text, match) for match, text in (("exact", "exact"), ("stem", "stem"), ("none", "none")))
    table = f'<table style="font-size:13px">{"".join(lines)}</table>'
    return f'<div style="overflow-x:auto"><p style="font-size:13px">a word of the sentence: {legend}</p>{table}</div>'


def gar_bars(
    ours: dict[str, dict[str, tuple[float, float]]], published: dict[str, float], *, published_model: str
) -> Figure:
    """Draw GAR of this run, {space: {"by number"/"folded": (GAR, control)}}, and the `published` {method: GAR}.

    A control, drawn as a tick on its bar, is what the aligned tokens of other sentences reach.
    """
    labels = {"by number": "tokens by number", "folded": "space and case aside"}
    with page_style():
        figure, (left, right) = panels(2, height=1.6 + 0.42 * len(ours), gridspec_kw={"width_ratios": [2.2, 1]})
        for (key, label), colour, shift in zip(labels.items(), ("blue", "sky"), (-0.19, 0.19)):
            values, controls = zip(*(row[key] for row in ours.values()))
            places = np.arange(len(ours)) + shift
            left.barh(places, values, height=0.36, color=COLOURS[colour], label=label)
            tick = {"color": COLOURS["black"], "markersize": 13, "markeredgewidth": 2}
            label = "the same with other sentences' tokens" if key == "folded" else "_control"
            left.plot(controls, places, "|", label=label, **tick)
            for place, value, control in zip(places, values, controls):
                at = (max(value, control), place)
                note(left, f"{value:.3f}", at=at, offset=(5, 0), va="center", fontsize=9)
        left.set_yticks(range(len(ours)), [textwrap.fill(name, 16) for name in ours])
        left.invert_yaxis()
        left.set(title="this run", xlabel="GAR")
        left.set_xlim(0, 1.15 * max(max(pair) for row in ours.values() for pair in row.values()) + 0.01)
        left.grid(axis="y", visible=False)
        _bars(right, published, ["white"] * len(published), "{:.3f}", hatch="///", edgecolor=COLOURS["black"])
        right.set(title=f"published, {published_model}", xlabel="GAR")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9.5)
    return figure


def similarity_heat_map(matrix, labels: list[str], *, title: str = "") -> Figure:
    """Draw a square matrix of cosines (n, n) with its sentences as labels."""
    matrix = np.asarray(matrix)
    with page_style():
        figure, axes = panels(height=0.55 * len(labels) + 1.2)
        # Upper cells repeat the lower ones, and the diagonal is 1.
        hidden = np.triu(np.ones_like(matrix, dtype=bool))
        names = {"xticklabels": [f"{n}" for n in range(1, len(labels))]}
        names["yticklabels"] = [f"{n}  {label}" for n, label in enumerate(labels, start=1)][1:]
        lowest, highest = (limit(matrix[1:, :-1][~hidden[1:, :-1]]) for limit in (np.min, np.max))
        bar = {"label": f"cosine: the colours go from {lowest:.2f} to {highest:.2f}"}
        look = {"annot": True, "fmt": ".2f", "cmap": "cividis", "linewidths": 1}
        seaborn.heatmap(matrix[1:, :-1], mask=hidden[1:, :-1], ax=axes, cbar_kws=bar, **names, **look)
        axes.set_title(title)
        axes.set_xlabel(f"sentence (1: {labels[0]})")
        axes.tick_params(axis="y", rotation=0)
        axes.grid(False)
    return figure


def _of(choices: list, place: int):
    return choices[place % len(choices)]


def _line(place: int) -> dict:
    """Return colour and line of a space by its place; beyond six, colours come back with another line."""
    return {"color": _of(CYCLE, place), "linestyle": _of(LINES, place + place // len(CYCLE))}


def _columns(count: int) -> int:
    """Return how many panels stand side by side so that rows are full, or nearly so, and no panel is too narrow."""
    return count if count <= 3 else 2 if count == 4 else 3


def _grid(count: int, columns: int, height: float, **keywords):
    """Return (figure, `count` axes) on a grid of page width; what is left over of the last row stays empty."""
    figure, axes = panels(columns, -(-count // columns), height=height, squeeze=False, **keywords)
    for place, spare in enumerate(axes.flat[count:], start=count):
        spare.remove()
        if place >= columns:  # the panel above is the lowest of its column now
            axes.flat[place - columns].tick_params(labelbottom=True)
            axes.flat[place - columns].xaxis.label.set_visible(True)
    return figure, list(axes.flat[:count])


def _bars(axes, values: dict[str, float], colours: list[str], form: str, **style) -> None:
    places = np.arange(len(values))
    axes.barh(places, list(values.values()), height=0.6, color=colours, **style)
    for place, value in zip(places, values.values()):
        note(axes, form.format(value), at=(value, place), offset=(4, 0), va="center", fontsize=9.5)
    axes.set_yticks(places, [textwrap.fill(name, 14) for name in values], fontsize=10)
    axes.set_xlim(0, 1.18 * max(values.values()))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
