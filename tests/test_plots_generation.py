"""Each figure of generation draws what it was given, says what it is, and can be saved."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from test_plots import colour, no_figure_stays_open, saved, ticks, title  # noqa: F401 (a fixture)

from sempa_utils.plots import generation, style
from sempa_utils.plots.generation import NextTokens
from sempa_utils.records import Comparison, Difference, FrontierPoint, Interval, RowScores, TaskScore


def marks_of(axes) -> dict[str, tuple[float, float]]:
    """What is drawn as one mark with a name: {name: (x, y)}."""
    named = [line for line in axes.lines if not line.get_label().startswith("_") and len(line.get_xdata()) == 1]
    return {line.get_label(): tuple(line.get_xydata()[0]) for line in named}


def keys(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def words_of(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


# --- benchmarks ----------------------------------------------------------------------------------


def compared(rows: dict[str, dict[str, tuple[float, float]]]) -> Comparison:
    """Return {model: {task: (value, standard error)}} as a comparison with the first model."""
    scores = {
        model: {task: TaskScore(value, 40, standard_error=error) for task, (value, error) in row.items()}
        for model, row in rows.items()
    }
    return Comparison(next(iter(rows)), {model: RowScores.of(tasks) for model, tasks in scores.items()})


def test_task_scores_with_their_errors_and_the_line_of_guessing(tmp_path):
    rows = compared(
        {"base": {"mmlu": (30.0, 4.0), "drop": (5.5, 1.0)}, "SemPA": {"mmlu": (26.0, 3.0), "drop": (12.0, 2.0)}}
    )
    figure = saved(generation.task_scores(rows, {"mmlu": "MMLU", "drop": "DROP"}, chance={"mmlu": 25.0}), tmp_path)
    left, right = figure.axes
    assert [title(left), title(right)] == ["MMLU", "DROP"] and ticks(left.yaxis) == ["base", "SemPA"]
    assert left.lines[-1].get_xydata().tolist() == [[30, 0], [26, 1]]
    assert [segment[:, 0].tolist() for segment in left.collections[0].get_segments()] == [[26, 34], [23, 29]]
    upright = {line.get_label(): line.get_xdata()[0] for line in left.lines[:-1]}
    assert upright == {"guessing": 25, "base": 30}
    assert [line.get_label() for line in right.lines[:-1]] == ["base"], "no line where nobody can guess"
    assert words_of(right) == ["5.5", "12"]
    assert keys(figure.legends[0]) == ["guessing"] and "standard error" in figure._supxlabel.get_text()


def test_errors_below_zero_are_drawn_to_their_end(tmp_path):
    rows = compared({"base": {"drop": (2.0, 5.0)}})
    axes = saved(generation.task_scores(rows, {"drop": "DROP"}), tmp_path).axes[0]
    assert axes.get_xlim()[0] == -3


def test_differences_are_drawn_with_their_intervals_by_task_and_run(tmp_path):
    runs = {
        "pairwise": {"gsm8k": Difference(-0.02, Interval(-0.03, -0.01)), "drop": Difference(0.5, standard_error=1.0)},
        "contrastive": {"gsm8k": Difference(-0.4), "drop": Difference(1.0, Interval(0.5, 1.5))},
    }
    figure = saved(generation.differences(runs, {"gsm8k": "GSM8K", "drop": "DROP"}), tmp_path)
    left, right = figure.axes
    assert [title(left), title(right)] == ["GSM8K", "DROP"] and ticks(left.yaxis) == list(runs)
    assert [segment[:, 0].tolist() for one in left.collections for segment in one.get_segments()] == [
        [-0.03, -0.01],
        [-0.4, -0.4],
    ]
    assert [line.get_xydata().tolist() for line in right.lines[1:]] == [[[0.5, 0]], [[1.0, 1]]]
    lost = to_rgba(style.COLOURS["vermillion"])
    assert [to_rgba(line.get_color()) == lost for line in (*left.lines[1:], *right.lines[1:])] == [True] * 2 + [
        False
    ] * 2
    faces = [line.get_markerfacecolor() for line in right.lines[1:]]
    assert faces[0] == "white" and faces[1] != "white", "hollow where the interval holds 0"
    assert left.get_xlim() == right.get_xlim() and "nats" in figure._supxlabel.get_text()


# --- gained and lost -----------------------------------------------------------------------------

OURS = {
    "contrastive": (Difference(-5.0, standard_error=4 / 1.96), Difference(12.0, Interval(8.0, 16.0))),
    "SemPA": (Difference(-0.5), Difference(0.4)),
}


def test_gained_and_lost_has_our_points_with_intervals_and_published_ones_hollow(tmp_path):
    published = {"SemPA, 7B": (0.9, 7.7), "contrastive, 7B": (-7.6, None)}
    figure = saved(generation.gained_and_lost(OURS, published, generation="mean of two"), tmp_path)
    axes = figure.axes[0]
    marks = marks_of(axes)
    assert marks == {"contrastive": (-5, 12), "SemPA": (-0.5, 0.4), "SemPA, 7B": (0.9, 7.7)}
    segments = [segment.tolist() for one in axes.collections for segment in one.get_segments()]
    assert segments[:2] == [[[-9, 12], [-1, 12]], [[-5, 8], [-5, 16]]]
    assert segments[2:] == [[[-0.5, 0.4]] * 2] * 2, "no interval, no bar"
    lines = {line.get_label(): line for line in axes.lines}
    assert to_rgba(lines["SemPA, 7B"].get_markerfacecolor()) == to_rgba("white")
    assert to_rgba(lines["contrastive"].get_markerfacecolor()) != to_rgba("white")
    assert set(lines["contrastive, 7B\n(STS not given)"].get_xdata()) == {-7.6}
    ours, theirs = figure.legends
    assert keys(ours) == list(OURS) and "ours" in ours.get_title().get_text()
    assert len(keys(theirs)) == 2 and "published" in theirs.get_title().get_text()
    assert "mean of two" in axes.get_xlabel() and "STS" in axes.get_ylabel()


def test_the_quadrants_are_named_where_they_are(tmp_path):
    axes = saved(generation.gained_and_lost(OURS), tmp_path).axes[0]
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert len(places) == 4
    for words, (across, up) in places.items():
        assert ("speaks worse" in words) == (across < 0.5) and words.startswith("better") == (up > 0.5)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert -left / (right - left) > 0.2 and right / (right - left) > 0.2, "zero lies well inside"
    assert -low / (high - low) > 0.2 and high / (high - low) > 0.2


def test_a_dozen_models_all_have_a_point_and_no_two_the_same_sign(tmp_path):
    many = {f"model {number}": (Difference(-number), Difference(number)) for number in range(12)}
    axes = saved(generation.gained_and_lost(many), tmp_path).axes[0]
    assert list(marks_of(axes)) == list(many)
    signs = {(line.get_color(), line.get_marker()) for line in axes.lines if line.get_label() in many}
    assert len(signs) == 12


# --- the frontier --------------------------------------------------------------------------------

BASE = FrontierPoint(0, 60.0, 20.0)


def test_the_frontier_starts_at_the_base_and_shades_the_band(tmp_path):
    curves = {
        "pairwise": [FrontierPoint(256, 59.0, 20.2)],
        "one_word": [FrontierPoint(256, 66.0, 21.0), FrontierPoint(512, 70.0, 22.0)],
    }
    figure = saved(generation.frontier(curves, BASE, band=3, text="a story"), tmp_path)
    axes = figure.axes[0]
    paths = [line.get_xydata() for line in axes.lines if line.get_label() == "_path"]
    np.testing.assert_allclose(paths[0], [[0, 0], [1, -1]])
    np.testing.assert_allclose(paths[1], [[0, 0], [5, 6], [10, 10]], atol=1e-9)
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-3, 3))
    assert words_of(axes) == ["256 rows", "512 rows"] and axes.get_xscale() == "linear"
    assert keys(figure.legends[0]) == ["within 3 % of the base", "pairwise", "one_word", "base"]
    assert "a story" in axes.get_xlabel() and "STS" in axes.get_ylabel()


def test_a_ruined_model_bends_the_scale_and_everything_stays_in_the_picture(tmp_path):
    curves = {
        "contrastive": [FrontierPoint(512, 80.0, 400.0)],
        "pairwise": [FrontierPoint(512, 61.0, 19.5)],
    }
    axes = saved(generation.frontier(curves, BASE), tmp_path).axes[0]
    assert axes.get_xscale() == "symlog"
    low, high = axes.get_xlim()
    assert low < -3 and high > 1900
    assert {"−3 %", "0 %", "+3 %", "+1000 %"} <= set(ticks(axes.xaxis))
    assert "even within 3 %, logarithmic beyond" in axes.get_xlabel(), "a bent scale says so"


def test_the_number_of_rows_stands_on_no_curve(tmp_path):
    curves = {  # the second ends where the first passes to the right of it
        "one": [FrontierPoint(256, 62.0, 21.0), FrontierPoint(512, 64.0, 22.0)],
        "other": [FrontierPoint(256, 62.1, 21.0)],
    }
    figure = saved(generation.frontier(curves, BASE), tmp_path)
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    for line in axes.lines:
        if line.get_label() == "_path":
            points = axes.transData.transform(generation._dense(line))
            assert not any(box.contains(*point) for box in boxes for point in points)


def test_a_difference_in_which_no_item_differs_has_no_interval(tmp_path):
    same, gain = Difference(0.0, standard_error=0.0), Difference(5.0, Interval(2.0, 8.0))
    figure = saved(generation.gained_and_lost({"SemPA": (same, gain)}), tmp_path)
    assert "no item differs" in keys(figure.legends[0])[0]


# --- the next token ------------------------------------------------------------------------------


def test_next_tokens_shows_what_the_first_model_would_not_say_in_orange(tmp_path):
    models = {
        "base": NextTokens([" the", " a"], [0.5, 0.2], 1.5),
        "contrastive": NextTokens([" cat", " the"], [0.4, 0.1], 3.25),
    }
    figure = saved(generation.next_tokens("The cat sat on …", models), tmp_path)
    left, right = figure.axes
    assert title(left) == "base\nentropy 1.50 nats" and title(right) == "contrastive\nentropy 3.25 nats"
    assert [bar.get_width() for bar in left.patches] == pytest.approx([50, 20])
    assert [bar.get_facecolor() for bar in right.patches] == [colour("orange"), colour("blue")]
    assert ticks(right.yaxis) == ["·cat", "·the"] and left.get_xlim() == right.get_xlim()
    assert figure._suptitle.get_text() == "The cat sat on …"


def test_white_space_can_be_seen_and_a_dollar_is_no_formula(tmp_path):
    models = {"base": NextTokens(["\n", " $x$", "incomprehensibilities"], [0.3] * 3, 1.0)}
    axes = saved(generation.next_tokens("from $2 to $3", models), tmp_path).axes[0]
    assert axes.figure._suptitle.get_text() == r"from \$2 to \$3"
    assert ticks(axes.yaxis) == ["⏎", r"·\$x\$", "incomprehensi…"]


def test_five_models_take_two_rows_of_panels(tmp_path):
    one = NextTokens(["a"], [0.5], 1.0)
    figure = saved(generation.next_tokens("A", {f"model {n}": one for n in range(5)}), tmp_path)
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False]


@pytest.mark.parametrize(("panels", "empty"), [(1, 0), (2, 0), (4, 0), (5, 1), (6, 0), (7, 1), (8, 0), (9, 0)])
def test_rows_of_panels_are_full_or_nearly_so(panels, empty):
    columns = style.full_columns(panels)
    assert columns <= 4 and -panels % columns == empty


def test_spread_by_prompt_draws_every_value_and_the_median(tmp_path):
    kinds = {
        "open": {"base": np.array([1.0, 2.0, 6.0]), "SemPA": np.array([2.0, 4.0])},
        "slot": {"base": np.array([0.5]), "SemPA": np.array([3.0])},
    }
    figure = saved(generation.spread_by_prompt(kinds, "a measure"), tmp_path)
    left, right = figure.axes
    assert [title(left), title(right)] == list(kinds) and ticks(left.yaxis) == ["base", "SemPA"]
    points = [one.get_offsets() for one in left.collections if isinstance(one, PathCollection)]
    assert points[0][:, 0].tolist() == [1, 2, 6] and points[1][:, 0].tolist() == [2, 4]
    for place, drawn in enumerate(points):
        assert np.abs(drawn[:, 1] - place).max() <= 0.2
    assert words_of(left) == ["2.00", "3.00"] and words_of(right) == ["0.50", "3.00"]
    assert figure._supxlabel.get_text().startswith("a measure") and left.get_xlim() == right.get_xlim()


def test_values_that_differ_by_orders_of_magnitude_are_all_to_be_seen(tmp_path):
    kinds = {"open": {"base": np.array([0.001, 0.002, 0.0])}, "slot": {"base": np.array([5.0, 9.0])}}
    figure = saved(generation.spread_by_prompt(kinds, "KL"), tmp_path)
    for axes in figure.axes:
        assert axes.get_xscale() == "log" and axes.get_xlim()[0] > 0
        points = next(one for one in axes.collections if isinstance(one, PathCollection)).get_offsets()[:, 0]
        assert (points >= axes.get_xlim()[0]).all() and (points <= axes.get_xlim()[1]).all()
    assert figure._supxlabel.get_text().endswith("logarithmic scale")


def test_there_is_a_mark_for_each_colour():
    assert len(set(generation.MARKS)) == len(generation.MARKS) == len(style.CYCLE)
