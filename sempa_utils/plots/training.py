"""Pictures of a training run, from its record's curve."""

import math

import numpy as np
from matplotlib.figure import Figure

from sempa_utils.plots.style import COLOURS, page_style, panels


def training_curve(record: dict) -> Figure:
    """Draw loss, rewards and accuracy over the triplets seen, from a record of `training.train`.

    Thin lines are single steps, thick ones the mean of an eighth of the run.
    """
    curve = record["curve"]
    batch = record["recipe"]["micro_batch"] * record["recipe"]["accumulation"]
    seen = [point["step"] * batch for point in curve]
    with page_style():
        figure, (left, middle, right) = panels(columns=3, height=3.3)
        _noisy_line(left, seen, [point["loss"] for point in curve], "blue")
        left.axhline(math.log(2), color=COLOURS["grey"], linestyle="--", linewidth=1, label="ln 2: no preference")
        left.set(title="Loss", ylabel="DPO loss (nats)")
        for name, colour, label in (
            ("chosen_reward", "green", "chosen"),
            ("rejected_reward", "vermillion", "rejected"),
        ):
            _noisy_line(middle, seen, [point[name] for point in curve], colour, label)
        middle.axhline(0, color=COLOURS["grey"], linestyle="--", linewidth=1)
        middle.set(title="Implicit reward", ylabel="β log(π / π_ref)")
        _noisy_line(right, seen, [100 * point["accuracy"] for point in curve], "purple")
        right.axhline(50, color=COLOURS["grey"], linestyle="--", linewidth=1, label="chance")
        right.set(title="Preference accuracy", ylabel="chosen above rejected (%)", ylim=(0, 104))
        for axes in (left, middle, right):
            axes.set_xlabel("triplets seen")
            axes.legend(loc="lower left", fontsize=9)
    return figure


def _noisy_line(axes, places, values, colour: str, label: str | None = None) -> None:
    axes.plot(places, values, color=COLOURS[colour], linewidth=0.8, alpha=0.45)
    window = max(1, len(values) // 8)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    axes.plot(places[window - 1 :], smooth, color=COLOURS[colour], label=label)


def length_histogram(lengths: dict[str, list[int]]) -> Figure:
    """Draw how long the parts of the training sequences are: {part: token counts}, one panel a part."""
    with page_style():
        figure, axes = panels(columns=len(lengths), height=2.6, squeeze=False, sharey=True)
        top = max(max(values) for values in lengths.values())
        for one, (part, values), colour in zip(axes[0], lengths.items(), ("blue", "green", "vermillion")):
            one.hist(values, bins=range(0, top + 3, 2), color=COLOURS[colour])
            one.set(title=part, xlabel=f"tokens (mean {sum(values) / len(values):.1f})")
        axes[0][0].set_ylabel("triplets")
    return figure


def tree_mask(may_attend, title: str = "Who may attend to whom") -> Figure:
    """Draw a prefix tree's attention mask, shape (N, N), as an image."""
    with page_style():
        figure, axes = panels(height=4.6)
        axes.imshow(may_attend, cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
        axes.grid(False)
        axes.set(title=title, xlabel="token attended to (position in the sequence)", ylabel="token that attends")
    return figure
