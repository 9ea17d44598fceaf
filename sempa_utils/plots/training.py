"""Pictures of preference training: its data, its arithmetic, its memory and its runs.

No function here loads a model or counts anything: what is drawn is what is handed in.
"""

import html
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from sempa_utils.plots.style import COLOURS, CYCLE, note, page_style, panels
from sempa_utils.records import Difference, TrainingCurve

# A part of the training sequence has one colour in every figure; its names start with these words.
PARTS = {
    "instruction": "blue",
    "anchor": "sky",
    "chosen": "green",
    "rejected": "vermillion",
    "both": "purple",
    "padding": "grey",
}


# --- data ----------------------------------------------------------------------------------------


def length_histogram(lengths: dict[str, list[int]], unit: str = "tokens") -> Figure:
    """Draw how long the parts of the training rows are: {part: counts of `unit`}, one panel a part."""
    if not lengths or not all(len(values) for values in lengths.values()):
        raise ValueError("each part needs at least one count")
    with page_style():
        figure, axes = panels(columns=len(lengths), height=2.6, squeeze=False, sharey=True)
        top = max(max(values) for values in lengths.values())
        for panel, (part, values), colour in zip(axes[0], lengths.items(), _part_colours(lengths)):
            panel.hist(values, bins=range(0, top + 3, 2), color=colour)
            panel.set(title=part, xlabel=f"{unit} (mean {np.mean(values):.1f})")
            panel.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
        axes[0][0].set_ylabel("rows")
    return figure


def coloured_tokens(prompt: list[str], answers: dict[str, list[str]]) -> str:
    """Return HTML in which each answer stands behind the prompt, {chosen or rejected: its tokens}: grey is read.

    A token is scored where it is coloured. Line breaks are shown as ⏎.
    """
    lines = []
    for part, answer in answers.items():
        shades = [(token, "#ececec") for token in prompt]
        shades += [(token, COLOURS[PARTS[part]] + "55") for token in answer]
        spans = "".join(
            f'<span style="background:{shade};margin:1px;padding:0 2px;border-radius:3px">'
            f"{html.escape(token).replace(chr(10), '⏎')}</span>"
            for token, shade in shades
        )
        lines.append(f'<p style="font-family:monospace;font-size:13px;line-height:1.9">{spans}</p>')
    return "".join(lines)


def part_bars(tree_tokens: dict[str, int], stock_tokens: dict[str, int]) -> Figure:
    """Draw how many tokens one batch computes, stock and as a prefix tree: {part: tokens} each."""
    rows = {"stock batch": stock_tokens, "prefix tree": tree_tokens}
    with page_style():
        figure, axes = panels(height=2.9)
        bars = _stacked_bars(axes, rows, _part_colours)
        longest = max(sum(parts.values()) for parts in rows.values())
        for row, parts in enumerate(rows.values()):
            beside = 0
            for (part, segments), colour in zip(bars.items(), _part_colours(bars)):
                count, middle = parts.get(part, 0), segments[row].get_x() + segments[row].get_width() / 2
                if count >= 0.06 * longest:
                    axes.text(middle, row, f"{count:,}", ha="center", va="center", color=_ink(colour))
                elif count:
                    # Too narrow for a number inside: above the bar and below it in turn, so that neighbours fit.
                    place = row + (-0.4 if beside % 2 == 0 else 0.4)
                    middle = max(middle, 0.017 * longest)  # clear of the axis
                    axes.text(middle, place, f"{count:,}", ha="center", va="center", fontsize=10)
                    beside += 1
            total = sum(parts.values())
            axes.text(total + 0.01 * longest, row, f"{total:,}", va="center", fontweight="bold")
        axes.set(xlabel="tokens the model computes", xlim=(0, 1.1 * longest), ylim=(1.55, -0.55))
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        figure.legend(loc="outside upper center", ncols=len(bars), columnspacing=1.4, handlelength=1.2)
    return figure


def tree_mask(may_attend, parts=None, *, labels=None, title: str = "Who may attend to whom") -> Figure:
    """Draw a prefix tree's attention mask, shape (N, N), as an image: row attends to column.

    With `parts` (N,), integers that say which of `labels` each token belongs to, a cell has the colour
    of the part attended to.
    """
    allowed = np.asarray(may_attend).astype(bool)
    if allowed.ndim != 2 or allowed.shape[0] != allowed.shape[1]:
        raise ValueError(f"a mask is N × N, not {allowed.shape}")
    labels = ["instruction", "anchor", "chosen answer", "rejected answer"] if labels is None else list(labels)
    with page_style():
        figure, axes = panels(height=4.6)
        if parts is None:
            axes.imshow(allowed, cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
        else:
            parts = np.asarray(parts)
            if parts.shape != allowed.shape[:1] or not np.isin(parts, np.arange(len(labels))).all():
                raise ValueError(f"parts must be {len(allowed)} integers from 0 to {len(labels) - 1}")
            cells = np.ma.masked_where(~allowed, np.broadcast_to(parts, allowed.shape))
            colours = _part_colours(labels)
            axes.imshow(cells, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(labels) - 0.5, interpolation="nearest")
            patches = [Patch(color=colour, label=label) for colour, label in zip(colours, labels)]
            axes.legend(handles=patches, title="attended to", loc="upper left", bbox_to_anchor=(1.02, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        axes.grid(False)
        axes.set(title=title, xlabel="token attended to (position in the sequence)", ylabel="token that attends")
    return figure


# --- four bits and the adapter -------------------------------------------------------------------


def four_bits(weights, levels, *, errors, bytes_by_precision: dict[str, int]) -> Figure:
    """Draw what NF4 does to one matrix: its weights on the 16 levels, the rounding errors, the bytes.

    `weights` (n,) are divided by the largest magnitude of their block, `levels` (16,) lie in −1 to 1, `errors`
    (n,) are restored minus true weights in standard deviations of the weights; bytes as {precision: bytes}.
    """
    weights, levels, errors = (np.asarray(values, dtype=float) for values in (weights, levels, errors))
    if weights.ndim != 1 or weights.shape != errors.shape or levels.shape != (16,):
        raise ValueError(f"(n,) weights, 16 levels, (n,) errors, not {weights.shape}, {levels.shape}, {errors.shape}")
    with page_style():
        figure, (left, middle, right) = panels(columns=3, height=3.1)
        left.hist(weights, bins=np.linspace(-1, 1, 81), color=COLOURS["sky"])
        for index, level in enumerate(levels):
            left.axvline(level, color=COLOURS["vermillion"], linewidth=1, label=None if index else "the 16 levels")
        # Room above the bars, so that the legend hides none of them.
        left.set_ylim(top=1.2 * left.get_ylim()[1])
        left.legend(loc="upper left", fontsize=9, frameon=True, framealpha=1, edgecolor="white", borderpad=0.2)
        left.set(title="Weights and levels", xlabel="weight / largest of its block", ylabel="weights")
        middle.hist(errors, bins=61, color=COLOURS["purple"])
        root_mean_square = np.sqrt((errors**2).mean())
        middle.set(
            title="Rounding errors", xlabel=f"error / σ of the weights\n(root mean square {root_mean_square:.3f})"
        )
        for axes in (left, middle):
            axes.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        megabytes = [size / 1e6 for size in bytes_by_precision.values()]
        bars = right.barh(list(bytes_by_precision), megabytes, color=CYCLE[: len(megabytes)])
        right.bar_label(bars, [f"{size:,.2f} MB" for size in megabytes], padding=3, fontsize=10)
        right.set(title="Memory", xlabel="MB", xlim=(0, 1.5 * max(megabytes)))
        right.invert_yaxis()
        right.grid(axis="y", visible=False)
    return figure


def lora_sketch(width_in: int, width_out: int, *, rank: int, frozen_weights: int, trained_weights: int) -> Figure:
    """Sketch LoRA: the frozen W (d_out × d_in) beside the trained B (d_out × r) and A (r × d_in).

    `frozen_weights` and `trained_weights` are counts; the proportions of the boxes are indicative.
    """
    if not 0 < rank <= min(width_in, width_out):
        raise ValueError(f"rank {rank} is not between 1 and the smaller of {width_in} and {width_out}")
    # The longer side is 3; a side is drawn no shorter than can be seen and labelled.
    wide, high = (max(1.2, 3 * width / max(width_in, width_out)) for width in (width_in, width_out))
    narrow = max(0.45, 3 * rank / max(width_in, width_out))
    boxes = {  # left edge, width, height, colour, label
        "W": (0, wide, high, "grey", f"frozen\n{width_out:,} × {width_in:,}"),
        "B": (wide + 1.9, narrow, high, "orange", f"trained\n{width_out:,} × {rank}"),
        "A": (wide + narrow + 2.6, wide, narrow, "blue", f"trained\n{rank} × {width_in:,}"),
    }
    with page_style():
        figure, axes = panels(height=3.8)
        for name, (left, width, height, colour, size) in boxes.items():
            axes.add_patch(Rectangle((left, -height / 2), width, height, color=COLOURS[colour], label=name))
            axes.text(left + width / 2, 0, name, ha="center", va="center", fontsize=15, color=_ink(COLOURS[colour]))
            axes.text(left + width / 2, -height / 2 - 0.12, size, ha="center", va="top", fontsize=10)
        axes.text(wide + 0.9, 0, r"$+\;\frac{\alpha}{r}\;\cdot$", ha="center", va="center", fontsize=20)
        axes.text(wide + narrow + 2.25, 0, r"$\cdot$", ha="center", va="center", fontsize=20)
        end = 2 * wide + narrow + 2.9
        counts = f"frozen weights   {frozen_weights:,}\ntrained weights  {trained_weights:,}"
        counts += f"\n                 ({100 * trained_weights / frozen_weights:.2g} % of the frozen)"
        axes.text(end, 0.2, r"$y = W x + \frac{\alpha}{r}\, B A x$", fontsize=18, va="bottom")
        axes.text(end, -0.2, counts, family="monospace", fontsize=10, va="top", linespacing=1.5)
        axes.set(xlim=(-0.1, end + 4.6), ylim=(-high / 2 - 0.8, high / 2 + 0.1), aspect="equal")
        axes.set_axis_off()
    return figure


# --- runs ----------------------------------------------------------------------------------------


def chance_loss(objective: str, candidates: int, *, recipe: Mapping[str, Any] | None = None) -> float | None:
    """Return the loss, in nats, of a model without a preference among its N candidates, as the objective says.

    Its settings are those of `recipe`, else its defaults. None where it starts elsewhere, as `contrastive` does.
    Raises `ValueError` for an unknown objective or one candidate.
    """
    from sempa_utils.objectives import OBJECTIVES  # not above: it brings torch, which other pictures do without

    if candidates < 2:
        raise ValueError(f"a preference needs 2 candidates or more, not {candidates}")
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}")
    kind = OBJECTIVES[objective]
    settings = {field.name: recipe[field.name] for field in fields(kind) if recipe and field.name in recipe}
    return kind(**settings).chance_loss(candidates)


def training_curve(run: TrainingCurve) -> Figure:
    """Draw loss, scores and accuracy over the triplets seen, of a run that goes on or of a finished one's record.

    Thin lines are single steps, thick ones the mean of an eighth of the run.
    """
    curve, objective, candidates = run.curve, run.objective, run.candidates
    chance = chance_loss(objective, candidates, recipe=run.recipe)
    if objective == "pairwise":
        title, score, above = "Implicit reward", "β log(π / π_ref)", "chosen above rejected (%)"
        names = ("chosen", "rejected")
    else:
        title, score, above = "Score of the preferred\ncandidate and of the others", "score", "preferred first (%)"
        names = ("preferred", "others (mean)")
    with page_style():
        figure, (left, middle, right) = panels(columns=3, height=3.3)
        seen = [point.step * run.batch for point in curve]
        _noisy_line(left, seen, [point.loss for point in curve], "blue")
        if chance is not None:
            whole = round(math.exp(chance))
            name = f"ln {whole}" if math.isclose(chance, math.log(whole)) else f"{chance:.3g}"
            name += f" = ln {candidates}!" if objective == "listwise" else ""
            _dashed_line(left, chance, f"{name}: no preference")
        left.set(title="Loss", ylabel="loss (nats)")
        _noisy_line(middle, seen, [point.chosen_reward for point in curve], "green", names[0])
        _noisy_line(middle, seen, [point.rejected_reward for point in curve], "vermillion", names[1])
        _dashed_line(middle, 0)
        middle.set(title=title, ylabel=score)
        middle.legend(loc="best", fontsize=9)
        _noisy_line(right, seen, [100 * point.accuracy for point in curve], "purple")
        _dashed_line(right, 100 / candidates, "chance")
        right.set(title="Preference accuracy", ylabel=above, ylim=(0, 104))
        for axes in (left, middle, right):
            axes.set_xlabel("triplets seen")
    return figure


def objectives_compared(
    rows: dict[str, tuple[float, Difference]], published: dict[str, tuple[float, Difference]] | None = None
) -> Figure:
    """Draw ρ × 100 before and after training, and the difference with its 95 % interval, one line an objective.

    Rows are {objective: (before, difference)}. `published` rows need no interval and stand below a line with open
    marks, since other models stand behind them.
    """
    both, bounds = rows | (published or {}), [difference.bounds for _, difference in rows.values()]
    if not rows or any(interval.low > interval.high for interval in bounds):
        raise ValueError("each objective needs a row whose low is not above its high")
    with page_style():
        figure, (left, right) = panels(columns=2, height=1.3 + 0.5 * len(both), sharey=True)
        for place, (before, difference) in enumerate(both.values()):
            fill = {} if place < len(rows) else {"markerfacecolor": "white"}
            change, after = difference.value, before + difference.value
            left.plot([before, after], [place] * 2, color=COLOURS["grey"], label="_link", zorder=1)
            left.plot(before, place, "o", color=COLOURS["orange"], label="_" * (place > 0) + "before", **fill)
            left.plot(after, place, "D", color=COLOURS["blue"], label="_" * (place > 0) + "after", **fill)
            if interval := difference.interval:
                right.plot([interval.low, interval.high], [place] * 2, color=COLOURS["blue"], label="_interval")
            right.plot(change, place, "D", color=COLOURS["blue"], label="_change", **fill)
            note(right, _signed(change), at=(change, place), offset=(0, 6), ha="center", fontsize=9)
        right.axvline(0, color=COLOURS["black"], linewidth=0.8)
        left.set_yticks(range(len(both)), list(both))
        left.set(title="Before and after", xlabel="Spearman ρ × 100", ylim=(len(both) - 0.5, -0.6))
        right.set(title="Difference, 95 % interval", xlabel="after − before (ρ × 100)")
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
            if published:
                axes.axhline(len(rows) - 0.5, color=COLOURS["grey"], linewidth=0.8, label="_published below")
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def memory_bars(
    plans: dict[str, dict[str, int]], capacity: int | None = None, *, measured: dict[str, int] | None = None
) -> Figure:
    """Draw what fills the memory, one bar a setting: {setting: {weights, adapter, gradients, …: bytes}}, in GiB.

    `capacity` is the card's memory in bytes, `measured` the peaks of real runs as {setting: bytes}.
    """
    measured = measured or {}
    if unknown := set(measured) - set(plans):
        raise ValueError(f"measured, but not planned: {sorted(unknown)}")
    with page_style():
        figure, axes = panels(height=1.5 + 0.5 * len(plans))
        gibibytes = {row: {name: size / 2**30 for name, size in plan.items()} for row, plan in plans.items()}
        bars = _stacked_bars(axes, gibibytes, lambda names: CYCLE[: len(names)])
        longest = max([capacity or 0, *measured.values(), *(sum(plan.values()) for plan in plans.values())]) / 2**30
        for place, (row, plan) in enumerate(gibibytes.items()):
            total, peak = sum(plan.values()), measured.get(row, 0) / 2**30
            label = f"{total:.1f} GiB" + (f" (measured {peak:.1f})" if row in measured else "")
            text = axes.text(max(total, peak) + 0.02 * longest, place, label, va="center", zorder=4)
            text.set_bbox({"color": "white", "pad": 1})  # readable where the capacity's line passes
        keys = list(bars.values())
        if measured:
            peaks = [size / 2**30 for size in measured.values()], [list(plans).index(row) for row in measured]
            mark = {"color": COLOURS["black"], "markeredgecolor": "white", "zorder": 3}
            keys += axes.plot(*peaks, "D", label="measured peak", **mark)
        if capacity:
            label = f"capacity {capacity / 2**30:.1f} GiB"
            keys.append(
                axes.axvline(capacity / 2**30, color=COLOURS["black"], linestyle="--", linewidth=1.2, label=label)
            )
        axes.set(xlabel="memory (GiB)", xlim=(0, (1.32 if measured else 1.14) * longest))
        figure.legend(handles=keys, loc="outside upper center", ncols=4)
    return figure


# --- shared --------------------------------------------------------------------------------------


def _noisy_line(axes, places, values, colour: str, label: str | None = None) -> None:
    axes.plot(places, values, color=COLOURS[colour], linewidth=0.8, alpha=0.45)
    window = max(1, len(values) // 8)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    axes.plot(places[window - 1 :], smooth, color=COLOURS[colour], label=label)


def _dashed_line(axes, height: float, label: str | None = None) -> None:
    axes.axhline(height, color=COLOURS["grey"], linestyle="--", linewidth=1, label=label)
    if label:
        # Written on the line and at the end of the run, where a curve that learned is far from it.
        place = {"at": (1, height), "xycoords": axes.get_yaxis_transform(), "offset": (0, 3)}
        note(axes, label, ha="right", fontsize=9, color="#5A5A5A", **place)
        axes.margins(y=0.1)


def _part_colours(names) -> list[str]:
    """One colour a part, the same in every figure; what is no known part gets a colour that is left."""
    known = [next((colour for part, colour in PARTS.items() if name.startswith(part)), None) for name in names]
    left = iter(colour for colour in COLOURS if colour not in known)
    return [COLOURS[colour or next(left)] for colour in known]


def _stacked_bars(axes, rows: Mapping[str, Mapping[str, float]], colours_of) -> dict:
    """Draw {row: {part: amount}} as stacked horizontal bars, the first on top; return {part: its bars}."""
    parts = list(dict.fromkeys(part for amounts in rows.values() for part in amounts))
    if not parts or any(amount < 0 for amounts in rows.values() for amount in amounts.values()):
        raise ValueError("stacked bars need amounts, none of them negative")
    starts, bars = np.zeros(len(rows)), {}
    for part, colour in zip(parts, colours_of(parts), strict=True):
        amounts = np.array([amounts.get(part, 0) for amounts in rows.values()])
        bars[part] = axes.barh(range(len(rows)), amounts, 0.6, starts, color=colour, label=part)
        starts = starts + amounts
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return bars


def _ink(colour: str) -> str:
    """Black or white, whichever is easier to read on this colour."""
    linear = [((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return "white" if np.dot([0.2126, 0.7152, 0.0722], linear) < 0.18 else COLOURS["black"]


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
