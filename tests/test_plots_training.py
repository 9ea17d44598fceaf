"""Each figure of preference training draws what it was given, says what it is, and refuses what does not fit."""

import math

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch
from matplotlib import colors
from test_plots import lines_of, no_figure_stays_open, saved, ticks, title  # noqa: F401 (a fixture for every test)

from sempa_utils.plots import style, training
from sempa_utils.records import CurvePoint, Difference, Interval, TrainingCurve

GIB = 2**30


def texts(holder):
    return [text.get_text() for text in holder.texts]


def legend(holder):
    return [text.get_text() for text in holder.get_texts()]


def segments(axes) -> dict:
    """{label: [(start, length) per bar]} of horizontal bars."""
    return {bars.get_label(): [(bar.get_x(), bar.get_width()) for bar in bars] for bars in axes.containers}


# --- data ----------------------------------------------------------------------------------------

PARTS = ["instruction", "anchor", "chosen answer", "rejected answer"]


def test_the_lengths_of_four_parts(tmp_path):
    lengths = dict(zip(PARTS, ([37, 37], [10, 21], [4, 5], [3, 8])))
    figure = saved(training.length_histogram(lengths), tmp_path)
    assert [title(axes) for axes in figure.axes] == PARTS
    assert [axes.get_xlabel() for axes in figure.axes] == [f"tokens (mean {mean})" for mean in (37.0, 15.5, 4.5, 5.5)]
    assert len({axes.patches[0].get_facecolor() for axes in figure.axes}) == 4, "each part has a colour of its own"
    for axes, values in zip(figure.axes, lengths.values()):
        assert sum(bar.get_height() for bar in axes.patches) == len(values)
        assert axes.get_xlim()[0] <= 0 and axes.get_xlim()[1] > 37, "one scale: the parts can be compared"


@pytest.mark.parametrize("lengths", [{}, {"anchor": []}])
def test_lengths_without_a_count_are_refused(lengths):
    with pytest.raises(ValueError, match="at least one"):
        training.length_histogram(lengths)


def test_tokens_are_grey_where_they_are_read_and_coloured_where_they_are_scored():
    page = training.coloured_tokens(["<a>", "\n"], {"chosen": ["yes"], "rejected": ["no"]})
    assert page.count("<p") == 2 and page.count("#ececec") == 4 and page.count("&lt;a&gt;") == 2 and "⏎" in page
    for part, word in (("chosen", "yes"), ("rejected", "no")):
        shade = style.COLOURS[training.PARTS[part]]
        assert f'background:{shade}55;margin:1px;padding:0 2px;border-radius:3px">{word}<' in page


TREE = {"instruction": 40, "anchors": 130, "chosen answers": 81, "rejected answers": 85}
STOCK = {"instruction": 640, "anchors": 260, "chosen answers": 81, "rejected answers": 85, "padding": 1000}


def test_part_bars(tmp_path):
    figure = saved(training.part_bars(TREE, STOCK), tmp_path)
    (axes,) = figure.axes
    assert ticks(axes.yaxis) == ["stock batch", "prefix tree"] and axes.yaxis_inverted()
    assert segments(axes) == {
        "instruction": [(0, 640), (0, 40)],
        "anchors": [(640, 260), (40, 130)],
        "chosen answers": [(900, 81), (170, 81)],
        "rejected answers": [(981, 85), (251, 85)],
        "padding": [(1066, 1000), (336, 0)],
    }
    assert legend(figure.legends[0]) == list(STOCK)
    counts = ["640", "260", "81", "85", "1,000", "2,066", "40", "130", "81", "85", "336"]
    assert texts(axes) == counts, "each count once, no 0 for what the tree does not pad, the totals last"
    assert axes.get_xlim()[1] > 2066


def test_narrow_segments_have_their_counts_outside_the_bar_and_not_on_each_other(tmp_path):
    (axes,) = saved(training.part_bars(TREE, STOCK), tmp_path).axes
    places = {(text.get_text(), round(text.get_position()[1])): text.get_position() for text in axes.texts}
    assert places["130", 1][1] == 1 and places["640", 0] == (320, 0), "a wide segment holds its count"
    assert places["40", 1][1] == pytest.approx(0.6)
    assert places["81", 1][1] == pytest.approx(1.4) and places["85", 1][1] == pytest.approx(0.6)


def test_part_bars_refuse_negative_counts_and_none():
    for tree in (TREE | {"anchors": -1}, {}):
        with pytest.raises(ValueError, match="amounts"):
            training.part_bars(tree, tree)


MASK = torch.tensor(
    [[True, False, False, False], [True, True, False, False], [True, True, True, False], [True, True, False, True]]
)


def test_the_tree_mask(tmp_path):
    figure = saved(training.tree_mask(MASK, title="four tokens"), tmp_path)
    (axes,) = figure.axes
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), MASK.numpy())
    assert title(axes) == "four tokens" and axes.get_legend() is None
    # Row attends to column, and the labels say which is which.
    assert "attended to" in axes.get_xlabel() and "that attends" in axes.get_ylabel()


def test_a_tree_mask_has_the_colours_of_the_parts_attended_to(tmp_path):
    (axes,) = saved(training.tree_mask(MASK, torch.tensor([0, 1, 2, 3])), tmp_path).axes
    drawn = axes.images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), ~MASK.numpy())
    np.testing.assert_array_equal(drawn[3].compressed(), [0, 1, 3])
    rgba = axes.images[0].to_rgba(drawn)
    for column, name in enumerate(("blue", "sky", "green", "vermillion")):
        np.testing.assert_allclose(rgba[column, column], colors.to_rgba(style.COLOURS[name]), atol=0.003)
    assert rgba[0, 1, 3] == 0 and colors.to_rgb(axes.get_facecolor()) == (1, 1, 1), "not allowed is white"
    assert legend(axes.get_legend()) == PARTS
    handles = [colors.to_hex(patch.get_facecolor()) for patch in axes.get_legend().get_patches()]
    assert handles == [colors.to_hex(style.COLOURS[name]) for name in ("blue", "sky", "green", "vermillion")]


def test_a_tree_mask_names_other_parts(tmp_path):
    (axes,) = saved(training.tree_mask(MASK, [0, 0, 1, 1], labels=["request", "chosen answer"]), tmp_path).axes
    assert legend(axes.get_legend()) == ["request", "chosen answer"]


@pytest.mark.parametrize(
    "mask, parts",
    [(MASK[:3], None), (MASK[0], None), (MASK, [0, 1, 2]), (MASK, [0, 1, 2, 4]), (MASK, [0, 1, 2, -1])],
)
def test_a_tree_mask_of_other_sizes_is_refused(mask, parts):
    with pytest.raises(ValueError):
        training.tree_mask(mask, parts)


# --- four bits and the adapter -------------------------------------------------------------------

LEVELS = np.linspace(-1, 1, 16)
BYTES = {"float32": 4_000_000, "bfloat16": 2_000_000, "nf4": 516_000}


def test_four_bits(tmp_path):
    random = np.random.default_rng(0)
    weights, errors = random.uniform(-1, 1, 500), random.normal(0, 0.1, 500)
    left, middle, right = saved(
        training.four_bits(weights, LEVELS, errors=errors, bytes_by_precision=BYTES), tmp_path
    ).axes
    np.testing.assert_allclose([line.get_xdata()[0] for line in left.lines], LEVELS)
    assert sum(bar.get_height() for bar in left.patches) == 500 and legend(left.get_legend()) == ["the 16 levels"]
    heights = {round(bar.get_x() + 1, 6): bar.get_height() for bar in left.patches}
    assert heights[0] == np.sum(weights < -0.975), "a bar counts its own weights"
    assert sum(bar.get_height() for bar in middle.patches) == 500
    assert middle.patches[0].get_x() == pytest.approx(errors.min())
    assert f"{np.sqrt((errors**2).mean()):.3f}" in middle.get_xlabel() and "σ of the weights" in middle.get_xlabel()
    np.testing.assert_allclose([bar.get_width() for bar in right.patches], [4, 2, 0.516])
    assert ticks(right.yaxis) == list(BYTES) and right.yaxis_inverted()
    assert texts(right) == ["4.00 MB", "2.00 MB", "0.52 MB"]
    assert right.get_xlim()[1] > 4


def test_the_largest_weight_of_a_block_is_in_the_histogram():
    left = training.four_bits([-1, 0, 1], LEVELS, errors=[0, 0, 0], bytes_by_precision=BYTES).axes[0]
    assert sum(bar.get_height() for bar in left.patches) == 3


@pytest.mark.parametrize(
    "weights, levels, errors",
    [([0.1, 0.2], LEVELS, [0.1]), ([0.1], LEVELS[:8], [0.1]), ([[0.1]], LEVELS, [[0.1]])],
)
def test_four_bits_of_other_sizes_are_refused(weights, levels, errors):
    with pytest.raises(ValueError, match="16 levels"):
        training.four_bits(weights, levels, errors=errors, bytes_by_precision=BYTES)


def boxes(axes) -> dict:
    return {box.get_label(): box for box in axes.patches}


def test_the_lora_sketch(tmp_path):
    (axes,) = saved(
        training.lora_sketch(576, 1536, rank=8, frozen_weights=134_515_008, trained_weights=2_442_240), tmp_path
    ).axes
    drawn = boxes(axes)
    assert list(drawn) == ["W", "B", "A"]
    assert drawn["W"].get_facecolor() == colors.to_rgba(style.COLOURS["grey"])
    assert len({box.get_facecolor() for box in drawn.values()}) == 3
    # B is as high as W and narrow, A as wide as W and low; W is higher than wide, as d_out is above d_in.
    assert drawn["B"].get_height() == drawn["W"].get_height() > drawn["W"].get_width() == drawn["A"].get_width()
    assert drawn["B"].get_width() == drawn["A"].get_height() < drawn["A"].get_width() / 2
    edges = [(box.get_x(), box.get_x() + box.get_width()) for box in drawn.values()]
    assert edges[0][1] < edges[1][0] and edges[1][1] < edges[2][0], "side by side, none on another"
    said = "\n".join(texts(axes))
    for part in ("frozen\n1,536 × 576", "1,536 × 8", "8 × 576", "W x", r"\frac{\alpha}{r}\, B A x"):
        assert part in said
    assert "134,515,008" in said and "2,442,240" in said and "1.8 %" in said


@pytest.mark.parametrize("sizes", [(576, 1536, 8), (1536, 576, 8), (64, 64, 64), (11008, 4096, 8)])
def test_the_lora_sketch_lies_inside_its_axes(tmp_path, sizes):
    *widths, rank = sizes
    sketch = training.lora_sketch(*widths, rank=rank, frozen_weights=1_000_000, trained_weights=10_000)
    figure = saved(sketch, tmp_path)
    page = figure.bbox
    for artist in (*figure.axes[0].patches, *figure.axes[0].texts):
        box = artist.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, artist


@pytest.mark.parametrize("sizes", [(8, 8, 9), (8, 8, 0), (0, 8, 1)])
def test_a_rank_that_no_matrix_has_is_refused(sizes):
    *widths, rank = sizes
    with pytest.raises(ValueError, match="rank"):
        training.lora_sketch(*widths, rank=rank, frozen_weights=64, trained_weights=16)


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective, candidates, expected",
    [("pairwise", 2, 2), ("best_of_n", 5, 5), ("one_word", 16, 16), ("listwise", 3, 6), ("listwise", 2, 2)],
)
def test_the_loss_of_no_preference(objective, candidates, expected):
    assert training.chance_loss(objective, candidates) == pytest.approx(math.log(expected))


def test_a_contrastive_loss_has_no_chance_value():
    assert training.chance_loss("contrastive", 16) is None


@pytest.mark.parametrize("objective, candidates", [("pairwise", 1), ("contrastive", 0), ("triplewise", 2)])
def test_no_objective_and_no_candidates_are_refused(objective, candidates):
    with pytest.raises(ValueError):
        training.chance_loss(objective, candidates)


def record(objective: str, candidates: int) -> TrainingCurve:
    curve = [CurvePoint(1, 1.6, 0.0, 0.25, 0.0, 0.0, 1e-4), CurvePoint(2, 0.9, 0.6, 0.75, 0.4, -0.2, 1e-4)]
    recipe = {"micro_batch": 4, "accumulation": 2, "objective": objective}
    return TrainingCurve(recipe=recipe, candidates=candidates, curve=curve)


@pytest.mark.parametrize(
    "objective, candidates, name, height",
    [
        ("pairwise", 2, "ln 2: no preference", math.log(2)),
        ("best_of_n", 5, "ln 5: no preference", math.log(5)),
        ("one_word", 16, "ln 16: no preference", math.log(16)),
        ("listwise", 3, "ln 6 = ln 3!: no preference", math.log(6)),
    ],
)
def test_a_curve_shows_the_loss_and_the_accuracy_of_no_preference(tmp_path, objective, candidates, name, height):
    loss, _, accuracy = saved(training.training_curve(record(objective, candidates)), tmp_path).axes
    line = lines_of(loss)[name]
    np.testing.assert_allclose(line.get_ydata(), height)
    assert line.get_linestyle() == "--" and texts(loss) == [name]
    assert loss.get_ylim()[0] < min(0.9, height) and loss.get_ylim()[1] > max(1.6, height)
    np.testing.assert_allclose(lines_of(accuracy)["chance"].get_ydata(), 100 / candidates)
    assert title(loss) == "Loss" and loss.get_ylabel() == "loss (nats)"


def test_the_curve_of_a_contrastive_run_has_no_line_for_the_loss(tmp_path):
    loss, _, accuracy = saved(training.training_curve(record("contrastive", 16)), tmp_path).axes
    assert [line.get_linestyle() for line in loss.lines] == ["-", "-"] and not texts(loss)
    np.testing.assert_allclose(lines_of(accuracy)["chance"].get_ydata(), 100 / 16)


@pytest.mark.parametrize("objective", ["listwise", "best_of_n", "one_word", "contrastive"])
def test_a_curve_of_many_candidates_has_neutral_names(tmp_path, objective):
    _, score, accuracy = saved(training.training_curve(record(objective, 3)), tmp_path).axes
    assert title(score).replace("\n", " ") == "Score of the preferred candidate and of the others"
    assert legend(score.get_legend()) == ["preferred", "others (mean)"]
    np.testing.assert_allclose(lines_of(score)["preferred"].get_xydata(), [[8, 0], [16, 0.4]])
    np.testing.assert_allclose(lines_of(score)["others (mean)"].get_ydata(), [0, -0.2])
    assert "π_ref" not in score.get_ylabel() and "chosen" not in accuracy.get_ylabel()


def test_a_curve_without_an_objective_is_a_pairwise_one(tmp_path):
    old = TrainingCurve(recipe={"micro_batch": 4, "accumulation": 2}, curve=record("pairwise", 2).curve)
    loss, reward, accuracy = saved(training.training_curve(old), tmp_path).axes
    assert "ln 2: no preference" in lines_of(loss)
    assert legend(reward.get_legend()) == ["chosen", "rejected"] and reward.get_ylabel() == "β log(π / π_ref)"
    np.testing.assert_allclose(lines_of(accuracy)["chance"].get_ydata(), 50)


ROWS = {
    "pairwise": (61.0, Difference(5.0, Interval(4.0, 7.0))),
    "one word": (61.0, Difference(-1.0, Interval(-2.5, 0.5))),
    "contrastive": (61.0, Difference(13.0, Interval(11.0, 15.0))),
}


def points(axes, marker) -> list:
    return [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == marker]


def test_objectives_compared(tmp_path):
    figure = saved(training.objectives_compared(ROWS), tmp_path)
    left, right = figure.axes
    assert points(left, "o") == [(61, 0), (61, 1), (61, 2)]
    assert points(left, "D") == [(66, 0), (60, 1), (74, 2)]
    assert [list(line.get_xdata()) for line in left.lines if line.get_label() == "_link"] == [
        [61, 66],
        [61, 60],
        [61, 74],
    ]
    assert points(right, "D") == [(5, 0), (-1, 1), (13, 2)]
    intervals = [line for line in right.lines if line.get_label() == "_interval"]
    assert [list(line.get_xdata()) for line in intervals] == [[4, 7], [-2.5, 0.5], [11, 15]]
    assert [list(line.get_ydata()) for line in intervals] == [[0, 0], [1, 1], [2, 2]]
    assert texts(right) == ["+5.0", "−1.0", "+13.0"]
    assert [0, 0] in [list(line.get_xdata()) for line in right.lines], "a line at no difference"
    assert ticks(left.yaxis) == ["pairwise", "one word", "contrastive"] and left.yaxis_inverted()
    assert not any(label.get_visible() for label in right.get_yticklabels()), "names stand there once"
    assert legend(figure.legends[0]) == ["before", "after"]
    for axes in (left, right):
        assert "ρ × 100" in axes.get_xlabel()
    assert right.get_xlim()[0] < -2.5 and right.get_xlim()[1] > 15


def test_published_objectives_stand_apart_with_open_marks(tmp_path):
    published = {"LLaMA2-7B (published)": (71.7, Difference(79.8 - 71.7))}
    left, right = saved(training.objectives_compared(ROWS, published), tmp_path).axes
    assert ticks(left.yaxis) == ["pairwise", "one word", "contrastive", "LLaMA2-7B (published)"]
    for axes in (left, right):
        np.testing.assert_allclose(lines_of(axes)["_published below"].get_ydata(), 2.5)
        marks = [line for line in axes.lines if line.get_marker() == "D"]
        assert [line.get_markerfacecolor() == "white" for line in marks] == [False, False, False, True]
    assert texts(right)[-1] == "+8.1"
    assert sum(line.get_label() == "_interval" for line in right.lines) == 3, "no interval that nobody published"


@pytest.mark.parametrize("rows", [{}, {"pairwise": (61.0, Difference(5.0, Interval(8.0, 7.0)))}])
def test_objectives_without_a_row_or_with_an_upside_down_interval_are_refused(rows):
    with pytest.raises(ValueError):
        training.objectives_compared(rows)


PLANS = {
    "LoRA": {
        "weights": 13 * GIB,
        "adapter": GIB,
        "gradients": GIB,
        "optimiser": 2 * GIB,
        "activations": 4 * GIB,
        "logits": 2 * GIB,
    },
    "QLoRA": {
        "weights": 4 * GIB,
        "adapter": GIB,
        "gradients": GIB,
        "optimiser": 2 * GIB,
        "activations": 4 * GIB,
        "logits": 2 * GIB,
    },
}


def test_memory_bars(tmp_path):
    figure = saved(training.memory_bars(PLANS), tmp_path)
    (axes,) = figure.axes
    assert ticks(axes.yaxis) == ["LoRA", "QLoRA"] and axes.yaxis_inverted()
    drawn = segments(axes)
    assert legend(figure.legends[0]) == list(drawn) == list(PLANS["LoRA"])
    assert drawn["weights"] == [(0, 13), (0, 4)]
    assert drawn["activations"] == [(17, 4), (8, 4)] and drawn["logits"] == [(21, 2), (12, 2)]
    assert len({bars[0].get_facecolor() for bars in axes.containers}) == 6
    assert texts(axes) == ["23.0 GiB", "14.0 GiB"] and not axes.lines
    assert [text.get_position()[0] > end for text, end in zip(axes.texts, (23, 14))] == [True, True]
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > 23 and "GiB" in axes.get_xlabel()


def test_memory_bars_with_a_card_and_measured_peaks(tmp_path):
    figure = saved(training.memory_bars(PLANS, 80 * GIB, measured={"QLoRA": 19 * GIB}), tmp_path)
    (axes,) = figure.axes
    np.testing.assert_allclose(lines_of(axes)["capacity 80.0 GiB"].get_xdata(), 80)
    np.testing.assert_allclose(lines_of(axes)["measured peak"].get_xydata(), [[19, 1]])
    assert legend(figure.legends[0]) == [*PLANS["LoRA"], "measured peak", "capacity 80.0 GiB"]
    assert texts(axes) == ["23.0 GiB", "14.0 GiB (measured 19.0)"]
    assert axes.texts[1].get_position()[0] > 19, "the number hides no mark"
    assert axes.get_xlim()[1] > 80


def test_a_setting_may_lack_a_part():
    plans = PLANS | {"no adapter": {"weights": 4 * GIB}}
    drawn = segments(training.memory_bars(plans).axes[0])
    assert drawn["weights"][2] == (0, 4) and drawn["logits"][2] == (4, 0)


@pytest.mark.parametrize(
    "plans, measured",
    [({}, None), ({"LoRA": {"weights": -1}}, None), (PLANS, {"full": GIB}), ({"a": dict.fromkeys("bcdefgh", 1)}, None)],
)
def test_memory_that_cannot_be_drawn_is_refused(plans, measured):
    with pytest.raises(ValueError):
        training.memory_bars(plans, measured=measured)


# --- style ---------------------------------------------------------------------------------------


def test_the_style_ends_with_the_figure():
    before = dict(matplotlib.rcParams)
    training.part_bars(TREE, STOCK)
    training.objectives_compared(ROWS)
    training.memory_bars(PLANS)
    assert dict(matplotlib.rcParams) == before


def test_the_length_histogram_names_its_unit(tmp_path):
    figure = saved(training.length_histogram({"premise": [3, 5], "neutral": [2]}, unit="words"), tmp_path)
    assert [axes.get_xlabel() for axes in figure.axes] == ["words (mean 4.0)", "words (mean 2.0)"]
