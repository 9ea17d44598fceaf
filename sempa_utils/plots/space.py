"""Pictures of an embedding space, from arrays of coordinates and cosines."""

import numpy as np
import seaborn
from matplotlib.figure import Figure

from sempa_utils.plots.style import COLOURS, page_style, panels

ROLES = {  # colour and marker both tell the role apart
    "anchor": ("black", "o"),
    "positive": ("blue", "^"),
    "negative": ("orange", "s"),
}


def projections(spaces: dict[str, dict], links: int = 6) -> Figure:
    """Draw one panel per space: {title: {"anchor"/"positive"/"negative": (n, 2), "explained": (2,)}}.

    Lines join the first `links` anchors to their positive (solid) and negative (dotted).
    """
    with page_style():
        figure, axes = panels(columns=len(spaces), height=3.9, squeeze=False)
        for one, (title, space) in zip(axes[0], spaces.items()):
            for index in range(min(links, len(space["anchor"]))):
                for role, line in (("positive", "-"), ("negative", ":")):
                    ends = np.array([space["anchor"][index], space[role][index]])
                    one.plot(*ends.T, line, color=COLOURS[ROLES[role][0]], linewidth=1.1, zorder=1)
            for role, (colour, marker) in ROLES.items():
                points = np.asarray(space[role])
                one.scatter(*points.T, s=16, marker=marker, color=COLOURS[colour], alpha=0.75, linewidths=0, label=role)
            first, second = (100 * share for share in space["explained"])
            one.set(title=title, xlabel=f"component 1 ({first:.0f} % of variance)",
                    ylabel=f"component 2 ({second:.0f} %)")  # fmt: skip
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def cosine_distributions(groups: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw the distribution of cosines of pairs: {title: {"entailed"/"neutral"/"contradicted": (n,)}}."""
    colours = {"entailed": "blue", "neutral": "grey", "contradicted": "orange"}
    with page_style():
        figure, axes = panels(columns=len(groups), height=3.0, squeeze=False, sharey=True)
        for one, (title, pairs) in zip(axes[0], groups.items()):
            for label, values in pairs.items():
                seaborn.kdeplot(values, ax=one, color=COLOURS[colours[label]], fill=True, alpha=0.25, label=label,
                                linestyle={"neutral": "--"}.get(label, "-"))  # fmt: skip
            one.set(title=title, xlabel="cosine with the premise")
        axes[0][0].set_ylabel("density")
        axes[0][0].legend()
    return figure


def similarity_heat_map(matrix, labels: list[str], title: str = "") -> Figure:
    """Draw a square matrix of cosines (n, n) with its sentences as labels."""
    matrix = np.asarray(matrix)
    with page_style():
        figure, axes = panels(height=0.55 * len(labels) + 1.2)
        # Upper cells repeat the lower ones, and the diagonal is 1.
        hidden = np.triu(np.ones_like(matrix, dtype=bool))
        seaborn.heatmap(matrix[1:, :-1], mask=hidden[1:, :-1], annot=True, fmt=".2f", cmap="cividis", ax=axes,
                        xticklabels=[f"{n}" for n in range(1, len(labels))],
                        yticklabels=[f"{n}  {label}" for n, label in enumerate(labels, start=1)][1:],
                        cbar_kws={"label": "cosine"}, linewidths=1)  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel(f"sentence (1: {labels[0]})")
        axes.tick_params(axis="y", rotation=0)
        axes.grid(False)
    return figure
