"""Pictures of the extraction methods: what a last token knows, where each vector comes from, what it is good for.

No function here loads a model or counts anything: what is drawn is what is handed in.
"""

import textwrap
from dataclasses import dataclass

import numpy as np
import seaborn
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle

from sempa_utils.embedding.method import PLACEHOLDER, Method
from sempa_utils.plots.style import COLOURS, CYCLE, full_columns, in_lines, note, page_style, panels
from sempa_utils.records import Interval

MARKS = ["o", "s", "^", "D", "v", "P"]  # a second sign beside colour

FITS = {  # the lines of `rank_errors`
    "fit": {"color": COLOURS["orange"]},
    "fit of no skill at all": {"color": COLOURS["black"], "linestyle": "--", "linewidth": 1.2},
}

# The schematic's boxes and layers.
FILLS = {"template": "#E4E4E4", "sentence": "#BBDFF4", "placeholder": "#F8DDA6"}
READ, STEERED = COLOURS["black"], COLOURS["vermillion"]
READS = {"all": "mean over all tokens", "second": "mean over the second copy", "last": "last token"}
# Where the two steering methods set in, as shares of the depth: the authors' settings for LLaMA-2-7B's 32 layers.
AUXILIARY_DEPTH, PLACEHOLDER_DEPTH = (4 / 32, 5 / 32), (1 / 32, 7 / 32)
BOX, LANE, ROW = 1.0, 1.9, 4.2  # heights of a token's box, of its layers, and of a whole row
LABELS, END = 34, 146  # where the boxes may begin, and the width of the page, in letters


# --- what a last token knows ---------------------------------------------------------------------


def last_token_attention(attention, tokens: list[str], *, layers: list[int], share, title: str = "") -> Figure:
    """Draw how the last token's attention is spread over a sentence's tokens, layer by layer.

    `attention` (layers, tokens) sums to 1 in each row; `share` (layers,) is the part of all attention that goes
    to the sentence at all, and stands at the row's end.
    """
    attention, share = np.asarray(attention, dtype=float), np.asarray(share, dtype=float)
    if attention.shape != (len(layers), len(tokens)) or share.shape != (len(layers),):
        raise ValueError(f"{len(layers)} layers × {len(tokens)} tokens, not {attention.shape} and {share.shape}")
    with page_style():
        figure, axes = panels(height=1.3 + 0.36 * len(layers))
        style = {"cmap": "Blues", "vmin": 0, "vmax": 150 * attention.max(), "linewidths": 1, "cbar": False}
        ink = {"fontsize": 9, "color": COLOURS["black"]}
        seaborn.heatmap(100 * attention, ax=axes, annot=True, fmt=".0f", annot_kws=ink, **style)
        axes.set_xticks(np.arange(len(tokens)) + 0.5, tokens, rotation=0)
        axes.set_yticks(np.arange(len(layers)) + 0.5, [f"layer {layer}" for layer in layers], rotation=0)
        for place, value in enumerate(share):
            axes.text(len(tokens) + 0.15, place + 0.5, f"{100 * value:.0f} %", va="center", fontsize=10)
        axes.text(len(tokens) + 0.15, -0.1, "of all", va="bottom", fontsize=10, color="#5A5A5A")
        axes.tick_params(length=0)
        axes.set_title(title)
        axes.set_xlabel("% of what the last token gives to the sentence")
        axes.grid(False)
    return figure


def lens(spaces: dict[str, tuple], layers: list[int], *, sentences: list[str]) -> Figure:
    """Draw the words that the head would say at each layer: {title: (words, probabilities)}, a panel each.

    `words` and `probabilities` have the shape (layers, sentences); a cell's words stand one below the other, and
    the more probable the first of them, the darker the cell.
    """
    highest = max(np.max(probabilities) for _, probabilities in spaces.values())
    with page_style():
        figure, axes = panels(columns=len(spaces), height=1.4 + 0.44 * len(layers), squeeze=False, sharey=True)
        for panel, (title, (words, probabilities)) in zip(axes[0], spaces.items()):
            style = {"cmap": "Blues", "vmin": 0, "vmax": 1.5 * highest, "linewidths": 1, "cbar": False}
            ink = {"fontsize": 9, "color": COLOURS["black"]}
            seaborn.heatmap(probabilities, ax=panel, annot=np.array(words), fmt="", annot_kws=ink, **style)
            labels = [textwrap.fill(sentence, 18) for sentence in sentences]
            panel.set_xticks(np.arange(len(sentences)) + 0.5, labels, rotation=0, fontsize=8)
            panel.set_title(title)
            panel.tick_params(length=0)
            panel.grid(False)
        axes[0][0].set_yticks(np.arange(len(layers)) + 0.5, [f"layer {layer}" for layer in layers], rotation=0)
        figure.supxlabel(f"darker: more probable (the darkest {100 * highest:.0f} %)", fontsize=10)
    return figure


# --- where the vector comes from -----------------------------------------------------------------


def where_vectors_come_from(methods: dict[str, Method], layers: int, *, sentence: str) -> Figure:
    """Sketch each method: its template around a sentence's words, the states that are read, what is steered.

    `methods` are {name: `Embedder.method`}, `layers` the model's number of layers. Above a box stand its layers,
    the first at the bottom. Where steering sets in is drawn for the authors' LLaMA-2-7B.
    """
    words = sentence.split()
    count = sum(2 if method.auxiliary else 1 for method in methods.values())
    with page_style():
        figure, axes = panels(height=0.72 * count + 0.5)
        base, right = 0.0, END - 16
        for name, method in methods.items():
            layer = method.layer if method.layer >= 0 else layers + 1 + method.layer
            if method.auxiliary:
                _strip(axes, _pieces(method.auxiliary, words), right, base - ROW + 0.8, 0, AUXILIARY_DEPTH[1])
                _steered(axes, right - 3, 3, base - ROW + 0.8, AUXILIARY_DEPTH)
            places = _strip(axes, _pieces(method.template, words), right, base, layer / layers)
            for index in _read(method, places):
                left, width, _ = places[index]
                top = base + BOX + LANE * layer / layers
                axes.add_patch(Rectangle((left, top - 0.36), width, 0.36, color=READ, linewidth=0, zorder=3))
            _steering(axes, method, places, base)
            axes.text(0, base + BOX + LANE, name, va="top", fontsize=10.5, fontweight="bold")
            depth = "the last layer" if layer == layers else f"layer {layer} of {layers}"
            axes.text(0, base + BOX + LANE - 1.15, f"{READS[method.reads]},\n{depth}", va="top", fontsize=8.5)
            base -= ROW * (2 if method.auxiliary else 1) - (0.8 if method.auxiliary else 0)
        axes.set(xlim=(0, END), ylim=(base + ROW - 0.4, BOX + LANE + 0.3))
        axes.set_axis_off()
        handles = [Patch(facecolor=colour, label=kind) for kind, colour in FILLS.items()]
        handles += [Patch(facecolor=READ, label="read"), Patch(facecolor=STEERED, label="steered")]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=10)
    return figure


def _pieces(template: str, words: list[str]) -> list[tuple[str, str]]:
    """Cut a template around `words` into (text, kind); its last sign stands alone, for it is what is read."""
    pieces, parts = [], template.split("{x}")
    for number, part in enumerate(parts):
        before, placeholder, after = part.partition(PLACEHOLDER)
        pieces += [(before, "template")] + ([(PLACEHOLDER, "placeholder")] if placeholder else [])
        pieces += [(after, "template")]
        if number < len(parts) - 1:
            pieces += [(word, "sentence") for word in words]
    pieces = [(" ".join(text.split()), kind) for text, kind in pieces if text.strip()]
    text, kind = pieces[-1]
    return pieces[:-1] + [(text[:-1], kind), (text[-1], kind)] if kind == "template" else pieces


def _strip(axes, pieces, right: float, base: float, computed: float, height: float = 1.0) -> list[tuple]:
    """Draw boxes that end at `right` with their layers above; return (left, width, kind) of each.

    The lanes reach up to `height`, a share of the depth, and are filled up to `computed`.
    """
    widths = [max(len(text) + 2, 3) * (0.94 if kind == "template" else 1.0) for text, kind in pieces]
    left, places = right - sum(widths), []
    for (text, kind), width in zip(pieces, widths):
        axes.add_patch(Rectangle((left + 0.15, base), width - 0.3, BOX, facecolor=FILLS[kind], linewidth=0))
        axes.text(left + width / 2, base + BOX / 2, text, ha="center", va="center", family="monospace", fontsize=7)
        for share, alpha in ((height, 0.25), (computed, 0.45)):
            area = Rectangle((left + 0.15, base + BOX + 0.08), width - 0.3, max(0, LANE * share - 0.08))
            area.set(facecolor=FILLS[kind], alpha=alpha, linewidth=0)
            axes.add_patch(area)
        places.append((left + 0.15, width - 0.3, kind))
        left += width
    return places


def _read(method: Method, places: list[tuple]) -> list[int]:
    """Return which boxes' states are read."""
    inside = [index for index, (_, _, kind) in enumerate(places) if kind == "sentence"]
    return {"all": inside, "second": inside[len(inside) // 2 :], "last": [len(places) - 1]}[method.reads]


def _steered(axes, left: float, width: float, base: float, depth: tuple[float, float]) -> None:
    low, high = (base + BOX + LANE * share for share in depth)
    axes.add_patch(Rectangle((left, low), width, max(high - low, 0.36), color=STEERED, linewidth=0, zorder=3))


def _steering(axes, method: Method, places: list[tuple], base: float) -> None:
    """Draw what is written where: Token Prepending's arrow to the placeholder, Contrastive Prompting's difference."""
    left, width, _ = places[-1]
    arrow = {"arrowstyle": "-|>", "mutation_scale": 9, "color": STEERED, "linewidth": 1.2, "zorder": 4}
    holders = [place for place in places if place[2] == "placeholder"]
    if holders:
        height = base + BOX + LANE * sum(PLACEHOLDER_DEPTH) / 2
        _steered(axes, holders[0][0], holders[0][1], base, PLACEHOLDER_DEPTH)
        ends = (left + width, height), (holders[0][0] + holders[0][1], height)
        axes.add_patch(FancyArrowPatch(*ends, shrinkA=0, shrinkB=0, **arrow))
        middle = (ends[0][0] + ends[1][0]) / 2
        above = {"ha": "center", "va": "bottom", "fontsize": 8, "color": STEERED}
        axes.text(middle, height + 0.15, "the last token's state, before each early layer", **above)
    if method.auxiliary:
        _steered(axes, left, width, base, AUXILIARY_DEPTH)
        start, end = (low + BOX + LANE * AUXILIARY_DEPTH[0] + 0.18 for low in (base - ROW + 0.8, base))
        ends = (left + width, start), (left + width, end)
        axes.add_patch(FancyArrowPatch(*ends, connectionstyle="arc3,rad=0.35", shrinkA=1, shrinkB=1, **arrow))
        axes.text(left + width + 5, (start + end) / 2, "A becomes\nC · (A − B)", va="center", fontsize=8, color=STEERED)
        for letter, height in (("A", end), ("B", start)):
            axes.text(left - 0.8, height, letter, ha="right", va="center", fontsize=9, color=STEERED, fontweight="bold")


# --- which layer to read -------------------------------------------------------------------------


def dev_by_layer(curves: dict[str, dict[int, float]], chosen: dict[str, int], *, task: str) -> Figure:
    """Draw dev ρ × 100 by the layer that is read: {row: {layer: figure}}, with the `chosen` layer of each."""
    with page_style():
        figure, axes = panels(height=3.3)
        widths = np.linspace(4, 1.4, len(curves))  # curves that coincide are both seen
        for width, (row, curve), colour, mark in zip(widths, curves.items(), CYCLE, MARKS):
            axes.plot(list(curve), list(curve.values()), color=colour, linewidth=width, alpha=0.9)
            best, last = curve[chosen[row]], max(curve)
            beside = "the last" if chosen[row] == last else f"{curve[last]:.1f} at the last"
            label = f"{row}: {best:.1f} at layer {chosen[row]}, {beside}"
            axes.plot(
                chosen[row], best, mark, color=colour, markersize=5 + 1.5 * width, markeredgecolor="white", label=label
            )
        axes.margins(y=0.12)
        axes.set(xlabel="layer read (an index of hidden_states)", ylabel=f"{task} dev, ρ × 100")
        axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="white")
    return figure


# --- where methods go wrong, and what they are good for ------------------------------------------


def rank_errors(errors: dict[str, np.ndarray], shared, *, no_skill) -> Figure:
    """Draw how far each pair's place by cosine is from its place by score, against the words it shares.

    `errors` are {method: (n,)} in per cent of the ranks, above 0 where a pair was taken for too alike; `shared` (n,)
    the share of words that the two sentences have in common; `no_skill` (n,) the errors of a method that puts all pairs
    in the middle. The lines are least-squares fits.
    """
    shared = np.asarray(shared, dtype=float)
    ends = np.array([shared.min(), shared.max()])
    columns = full_columns(len(errors))
    rows = -(-len(errors) // columns)
    with page_style():
        figure, axes = panels(columns, rows, height=2.5, squeeze=False, sharex=True, sharey=True)
        for panel, (method, values) in zip(axes.flat, errors.items()):
            panel.scatter(100 * shared, values, s=10, alpha=0.45, color=COLOURS["blue"], linewidths=0)
            for points, (label, look) in zip((values, no_skill), FITS.items()):
                panel.plot(100 * ends, np.polyval(np.polyfit(shared, points, 1), ends), label=label, **look)
            panel.axhline(0, color=COLOURS["black"], linewidth=0.8)
            panel.set_title(in_lines(method, columns=columns), fontsize=10.5)
        for panel in axes.flat[len(errors) :]:
            panel.set_axis_off()
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
        figure.supxlabel("words that the two sentences share (%)", fontsize=11)
        figure.supylabel("taken for too alike (% of ranks)", fontsize=11)
    return figure


@dataclass(frozen=True)
class SearchScore:
    """What a search reached, in per cent: recall@1 with its 95 % interval, and the mean reciprocal rank."""

    recall: float
    interval: Interval
    mean_reciprocal_rank: float


def search_scores(methods: dict[str, SearchScore]) -> Figure:
    """Draw a search's recall@1 with its 95 % interval and its mean reciprocal rank, one line a method."""
    places, scores = np.arange(len(methods)), methods.values()
    with page_style():
        figure, axes = panels(height=1.2 + 0.36 * len(methods))
        recall, mrr = [score.recall for score in scores], [score.mean_reciprocal_rank for score in scores]
        low, high = [score.interval.low for score in scores], [score.interval.high for score in scores]
        axes.hlines(places, low, high, color=COLOURS["blue"], linewidth=2.5, alpha=0.4)
        axes.plot(recall, places, "o", color=COLOURS["blue"], markersize=8, label="recall@1, 95 % interval")
        axes.plot(mrr, places, "D", color=COLOURS["orange"], markersize=7, label="mean reciprocal rank")
        for place, value, end in zip(places, recall, np.maximum(high, mrr)):
            note(axes, f"{value:.0f} %", at=(end, place), offset=(8, 0), va="center", fontsize=10)
        axes.set_yticks(places, list(methods))
        axes.invert_yaxis()
        axes.set(xlabel="per cent", xlim=(0, 108))
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper right", ncols=2)
    return figure
