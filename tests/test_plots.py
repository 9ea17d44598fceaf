"""Each figure of training and scores draws what it was given, says what it is, and can be saved."""

import itertools
import math

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib import colors, pyplot
from matplotlib.figure import Figure

from sempa_utils.plots import scores, style, training
from sempa_utils.records import Comparison, CurvePoint, Difference, Interval, RowScores, TaskScore, TrainingCurve


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    pyplot.close("all")
    yield
    assert not pyplot.get_fignums(), "an open figure would be shown twice in a notebook"


def saved(figure, tmp_path):
    """Return the figure when it has the page's width and can be laid out and saved."""
    assert isinstance(figure, Figure) and figure.get_figwidth() == style.PAGE_WIDTH
    path = tmp_path / "figure.png"
    figure.savefig(path)
    sides = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    for texts in (titles(figure), *(axis.get_ticklabels() for axis in sides)):
        assert not overlapping(texts)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 2000
    return figure


def titles(figure) -> list:
    """Return the titles of a figure's panels, as they are drawn."""
    return [text for axes in figure.axes for text in (axes.title, axes._left_title) if text.get_text()]


def overlapping(texts) -> list[tuple[str, str]]:
    """Return the pairs of drawn texts that lie over one another, but for a pixel."""
    seen = [text for text in texts if text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent().padded(-0.5) for text in seen]
    pairs = itertools.combinations(range(len(seen)), 2)
    return [(seen[i].get_text(), seen[j].get_text()) for i, j in pairs if boxes[i].overlaps(boxes[j])]


def title(axes):
    return axes.get_title("left") or axes.get_title()


def colour(name):
    return colors.to_rgba(style.COLOURS[name])


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


# --- training ----------------------------------------------------------------------------------


def point(step: int, loss: float, accuracy: float, *, chosen: float, rejected: float) -> CurvePoint:
    return CurvePoint(step, loss, chosen - rejected, accuracy, chosen, rejected, 1e-4)


def record(curve=None) -> TrainingCurve:
    three = [
        point(1, 0.69, 0.5, chosen=0.0, rejected=0.0),
        point(2, 0.5, 0.75, chosen=-0.1, rejected=-0.4),
        point(3, 0.3, 1.0, chosen=-0.2, rejected=-1.0),
    ]
    return TrainingCurve(recipe={"micro_batch": 4, "accumulation": 2}, curve=curve or three)


def lines_of(axes) -> dict:
    return {line.get_label(): line for line in axes.lines}


def test_the_training_curve(tmp_path):
    figure = saved(training.training_curve(record()), tmp_path)
    loss, reward, accuracy = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[8, 0.69], [16, 0.5], [24, 0.3]])
    assert set(lines_of(loss)["ln 2: no preference"].get_ydata()) == {math.log(2)}
    np.testing.assert_allclose(lines_of(reward)["chosen"].get_ydata(), [0, -0.1, -0.2])
    np.testing.assert_allclose(lines_of(reward)["rejected"].get_ydata(), [0, -0.4, -1])
    assert {text.get_text() for text in reward.get_legend().get_texts()} == {"chosen", "rejected"}
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [50, 75, 100])
    assert {axes.get_xlabel() for axes in figure.axes} == {"triplets seen"}
    assert [title(axes) for axes in figure.axes] == ["Loss", "Implicit reward", "Preference accuracy"]
    assert "nats" in loss.get_ylabel() and "%" in accuracy.get_ylabel()


def test_a_long_training_curve_is_smoothed_by_an_eighth(tmp_path):
    points = [point(step, step % 2, 1.0, chosen=step, rejected=-step) for step in range(1, 17)]
    figure = saved(training.training_curve(record(points)), tmp_path)
    chosen = lines_of(figure.axes[1])["chosen"]
    # The mean of two steps stands at the later one.
    np.testing.assert_allclose(chosen.get_xydata(), [[8 * step, step - 0.5] for step in range(2, 17)])


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_length_histogram(tmp_path, parts):
    lengths = dict(list({"prompt": [10, 10, 11, 30], "chosen": [4, 5], "rejected": [3]}.items())[:parts])
    figure = saved(training.length_histogram(lengths), tmp_path)
    assert [title(axes) for axes in figure.axes] == list(lengths)
    for axes, values in zip(figure.axes, lengths.values(), strict=True):
        bars = {(bar.get_x(), bar.get_x() + bar.get_width()): bar.get_height() for bar in axes.patches}
        assert sum(bars.values()) == len(values), "the longest is inside the last bar"
        assert all(sum(low <= v < high for v in values) == height for (low, high), height in bars.items() if height)
    assert "mean 15.2" in figure.axes[0].get_xlabel()
    assert figure.axes[0].get_ylabel() == "rows"


# --- scores ------------------------------------------------------------------------------------

OURS = {"mean pooling": {"STS12": 40.0, "STS-B": 50.0}, "SemPA": {"STS12": 60.0, "STS-B": -5.0}}


def test_sts_bars(tmp_path):
    published = {"SemPA, LLaMA2-7B": {"STS12": 68.77, "STS-B": 79.76}}
    figure = saved(scores.sts_bars(OURS, published), tmp_path)
    ours, theirs = figure.axes
    assert title(ours) == "This run" and "Published" in title(theirs), "never in one bar group"
    for axes, table in ((ours, OURS), (theirs, published)):
        heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
        assert heights == [list(row.values()) for row in table.values()]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(table)
        assert ticks(axes.xaxis) == ["STS12", "STS-B"]
        assert "ρ × 100" in axes.get_ylabel()
        # Each group of bars stands around its task's tick.
        middle = np.mean([[bar.get_x() + bar.get_width() / 2 for bar in bars] for bars in axes.containers], axis=0)
        np.testing.assert_allclose(middle, [0, 1], atol=1e-9)
    assert ours.get_ylim()[0] < -5 and ours.get_ylim()[1] == 100, "a negative figure is seen"
    assert {text.get_text() for text in ours.texts} >= {"40.0", "50.0", "60.0", "-5.0"}


def test_sts_bars_without_published_figures_are_one_panel(tmp_path):
    figure = saved(scores.sts_bars(OURS), tmp_path)
    assert len(figure.axes) == 1


def row(value: float, low: float, high: float, difference: Difference | None = None) -> RowScores:
    return RowScores({}, TaskScore(value, 100, Interval(low, high), difference=difference))


SUMMARY = Comparison(
    "PromptEOL",
    {
        "PromptEOL": row(60.0, 55.0, 65.0),
        "SemPA": row(70.0, 66.0, 74.0, Difference(10.0, Interval(6.0, 14.0), p_value=0.001)),
        "mean pooling": row(59.0, 54.0, 64.0, Difference(-1.0, Interval(-4.0, 2.0), p_value=0.52)),
    },
)


def test_methods_compared(tmp_path):
    published = {"LLaMA2-7B": {"PromptEOL": 70.03, "SemPA": 77.69}}
    figure = saved(scores.methods_compared(SUMMARY, "mean of seven tasks", published=published), tmp_path)
    ours, less, theirs = figure.axes
    assert ticks(ours.yaxis) == list(SUMMARY.rows)
    values = [line for line in ours.lines if line.get_label() == "_value"]
    spans = [line for line in ours.lines if line.get_label() == "_interval"]
    assert [line.get_xydata().tolist() for line in values] == [[[60, 0]], [[70, 1]], [[59, 2]]]
    assert [list(line.get_xdata()) for line in spans] == [[55, 65], [66, 74], [54, 64]]
    shown = [(line.get_xydata().tolist(), line.get_color()) for line in less.lines if line.get_label() == "_value"]
    assert shown == [([[10, 1]], style.COLOURS["green"]), ([[-1, 2]], style.COLOURS["grey"])], "none of PromptEOL"
    assert {text.get_text() for text in less.texts} == {"p ≤ 0.001", "p = 0.520", "+10.0", "−1.0"}
    assert title(less) == "Less PromptEOL, paired" and "mean of seven tasks" in ours.get_xlabel()
    assert theirs.lines[0].get_xydata().tolist() == [[70.03, 0], [77.69, 1]], "each in its own method's line"
    assert theirs.lines[0].get_markerfacecolor() == "white" and "Published" in title(theirs)


def test_methods_compared_without_published_figures(tmp_path):
    assert len(saved(scores.methods_compared(SUMMARY, "mini-STS"), tmp_path).axes) == 2


def test_agreement(tmp_path):
    human = np.array([0.0, 2.5, 5.0])
    cosines = {"mean pooling": np.array([0.9, 0.91, 0.92]), "SemPA": np.array([0.1, 0.5, 0.9])}
    figure = saved(scores.agreement(cosines, human), tmp_path)
    assert [title(axes) for axes in figure.axes] == list(cosines)
    for axes, values in zip(figure.axes, cosines.values(), strict=True):
        points = axes.collections[0].get_offsets()
        np.testing.assert_allclose(points[:, 1], values)
        # Scores are moved a little to the side, so that equal ones do not hide each other.
        assert (np.abs(points[:, 0] - human) <= 0.12).all()
        assert axes.get_xlabel() == "human score"
    assert figure.axes[0].get_ylabel() == "cosine"


# --- style -------------------------------------------------------------------------------------


def test_the_style_ends_with_the_figure():
    before = dict(matplotlib.rcParams)
    training.training_curve(record())
    scores.sts_bars(OURS)
    assert dict(matplotlib.rcParams) == before


def test_every_figure_has_the_width_of_a_page():
    figures = [training.training_curve(record()), scores.sts_bars(OURS), scores.agreement({"a": [1, 2]}, [1, 2])]
    assert {figure.get_figwidth() for figure in figures} == {style.PAGE_WIDTH}


def test_neighbouring_colours_differ_in_lightness():
    # In print without colour, or to eyes that see few, two neighbours must still be two.
    def lightness(one):  # CIE L*, 0 to 100
        linear = [((part + 0.055) / 1.055) ** 2.4 for part in colors.to_rgb(one)]
        return 116 * np.dot([0.2126, 0.7152, 0.0722], linear) ** (1 / 3) - 16

    steps = np.diff([lightness(one) for one in style.CYCLE])
    assert np.abs(steps).min() > 5, steps
    assert len(set(style.COLOURS.values())) == len(style.COLOURS)
