"""The picture of how the cost of training grows."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sempa_utils.plots.style import CYCLE, note, page_style, panels

LABELS = {
    "rows": "rows",
    "micro_batch": "rows of a micro-batch",
    "length": "tokens of a sentence, mean",
    "size": "weights (millions)",
}


def growth(figures: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw seconds above and peak memory below, by all that grows: a panel an axis, a line a kind of batches.

    `figures` as the benchmark records them: {axis: points with `at`, `seconds` and `peak_gigabytes` by kind}. Both
    scales begin at zero, so that what is linear is a straight line; the last points carry their ratio.
    """
    with page_style():
        figure, grid = panels(len(figures), 2, height=2.6, squeeze=False, sharex="col")
        for column, (axis, points) in enumerate(figures.items()):
            at = [point["at"] / (1e6 if axis == "size" else 1) for point in points]
            for axes, quantity in zip(grid[:, column], ("seconds", "peak_gigabytes")):
                for kind, colour in zip(points[0][quantity], CYCLE):
                    axes.plot(at, [point[quantity][kind] for point in points], "o-", color=colour, label=kind)
                first, *others = points[-1][quantity].values()
                for other in others:
                    note(axes, f"{other / first:.1f}×", at=(at[-1], other), offset=(-4, 4), ha="right", fontsize=10)
                axes.set_xlim(0, 1.08 * max(at))
                axes.set_ylim(0, 1.2 * max(max(point[quantity].values()) for point in points))
            grid[1, column].set_xlabel(LABELS[axis])
        grid[0, 0].set_ylabel("seconds")
        grid[1, 0].set_ylabel("peak memory, GiB")
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=2)
    return figure
