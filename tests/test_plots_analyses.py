"""The figures of the analyses carry their values, and the paper's beside them, marked as published."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from test_plots import colour, lines_of, no_figure_stays_open, saved, ticks, title  # noqa: F401 (a fixture)

from sempa_utils import records
from sempa_utils.data.templates import PARAPHRASE_TEMPLATES
from sempa_utils.experiments import analyses as runs_of
from sempa_utils.plots import analyses
from sempa_utils.records import DataSizeCurve, DataSizePoint, RowScores, SeedSpread, TaskScore

MODEL = "somebody/Little-1M"
TASKS = {"STS12": TaskScore(50.0, 10), "STS-B": TaskScore(60.0, 10)}


def scores(mean: float, tasks=TASKS) -> RowScores:
    return RowScores(tasks, TaskScore(mean, 20))


def cells(first: float, second: float) -> dict[str, RowScores]:
    return {"prompteol": scores(first), "pretended_cot": scores(second)}


GRID = {"base": cells(50, 60)} | {
    name: cells(50 + row, 60 - row) for row, name in enumerate(PARAPHRASE_TEMPLATES, start=1)
}


def drawn(axes) -> np.ndarray:
    return np.asarray(axes.collections[0].get_array()).reshape(6, 2)


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_template_map(tmp_path):
    figure = saved(analyses.template_map(GRID, MODEL), tmp_path)
    ours, *published = figure.axes[:3]
    assert title(ours) == "This run:\nLittle-1M"
    assert [title(axes) for axes in published] == ["Published:\nLLaMA2-7B", "Published:\nLLaMA3-8B"]
    np.testing.assert_allclose(drawn(ours), [[row, -row] for row in range(6)])
    assert texts(ours)[:4] == ["50.0", "60.0", "51.0\n+1.0", "59.0\n−1.0"]
    assert ticks(ours.yaxis) == ["no training", *PARAPHRASE_TEMPLATES]
    assert [name.replace("\n", " ") for name in ticks(ours.xaxis)] == ["PromptEOL", "Pretended CoT"]
    assert ours.get_xlabel() == "read with (mean of 2 tasks)" and "7 tasks" in published[0].get_xlabel()
    # One colour means one change in every panel, and none is white.
    limits = {axes.collections[0].get_clim() for axes in figure.axes[:3]}
    assert len(limits) == 1 and sum(limits.pop()) == 0
    assert analyses.CHANGE(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.01)
    assert "against no training" in figure.axes[3].get_ylabel()


def test_the_published_cells_stand_in_their_rows(tmp_path):
    upside_down = dict(reversed(GRID.items()))
    figure = saved(analyses.template_map(upside_down, MODEL), tmp_path)
    llama2, llama3 = figure.axes[1:3]
    assert texts(llama2)[-2:] == ["70.0", "76.9"] and texts(llama3)[-2:] == ["71.9", "76.1"]
    assert texts(llama3)[-4:-2] == ["78.1\n+6.2", "79.0\n+2.9"], "keep_same_meaning"
    assert ticks(figure.axes[0].yaxis)[-1] == "no training"


def test_every_template_has_a_name_and_a_published_figure():
    assert tuple(analyses.EXTRACTIONS) == runs_of.EXTRACTIONS
    for paper in analyses.PAPERS:
        assert analyses._table4(paper, list(GRID)).shape == (6, 2)


CURVE = [(0, 60.0, 50.0), (64, 63.0, 51.0), (160, 62.0, 52.5)]  # triplets, dev, mean of the tests


def curve_on(dev_task: str, tasks=TASKS) -> DataSizeCurve:
    return DataSizeCurve(dev_task, [DataSizePoint(seen, dev, scores(test, tasks)) for seen, dev, test in CURVE])


def test_the_curve_of_data_size(tmp_path):
    figure = saved(analyses.data_size(curve_on("STS-B"), MODEL), tmp_path)
    ours, published = figure.axes
    assert title(ours) == "This run:\nLittle-1M" and "one run" in ours.get_xlabel()
    np.testing.assert_allclose(lines_of(ours)["STS-B dev"].get_xydata(), [[0, 60], [64, 63], [160, 62]])
    np.testing.assert_allclose(lines_of(ours)["mean of 2 tasks"].get_xydata(), [[0, 50], [64, 51], [160, 52.5]])
    assert title(published).startswith("Published: LLaMA2-7B, LLaMA3-8B") and "read off" in title(published)
    assert "thousands" in published.get_xlabel()
    table = records.published("figure3_data_size")
    lines = lines_of(published)
    assert len(lines) == 4
    dev = lines["LLaMA3-8B, STS-B dev"]
    np.testing.assert_allclose(dev.get_xdata(), [10 * row["triplets_10k"] for row in table])
    np.testing.assert_allclose(dev.get_ydata(), [row["llama3_dev"] for row in table])
    test = lines["LLaMA2-7B, mean of 7 tasks"]
    np.testing.assert_allclose(test.get_ydata(), [row["llama2_test"] for row in table])
    # Split is told by line and marker, the model by colour.
    assert (dev.get_linestyle(), dev.get_marker()) != (test.get_linestyle(), test.get_marker())
    assert len({line.get_color() for line in [*ours.lines, *published.lines]}) == 3
    for axes in figure.axes:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines_of(axes))


def test_a_single_task_is_called_by_its_name(tmp_path):
    curve = curve_on("mini-STS", {"mini-STS": TaskScore(1.0, 10)})
    figure = saved(analyses.data_size(curve, MODEL), tmp_path)
    assert list(lines_of(figure.axes[0])) == ["mini-STS dev", "mini-STS test"]


def test_the_seeds(tmp_path):
    runs = {42: scores(50.0), 43: scores(52.0), 44: scores(51.0)}
    figure = saved(analyses.seeds(SeedSpread(runs, 51.0, 1.0), MODEL), tmp_path)
    ours, published = figure.axes
    assert title(ours) == "This run:\nLittle-1M" and title(published) == "Published:\nLLaMA3-8B"
    for axes, values, name in ((ours, [50, 52, 51], "blue"), (published, [78.46, 78.10, 77.75], "orange")):
        [dots] = [line for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots.get_ydata(), values)
        band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
        assert (band.y0, band.y1) == pytest.approx(np.mean(values) + np.std(values, ddof=1) * np.array([-1, 1]))
        np.testing.assert_allclose(axes.patches[0].get_facecolor()[:3], colour(name)[:3])
        assert texts(axes) == [f"{value:.2f}" for value in values]
        low, high = axes.get_ylim()
        assert low < min(values) and max(values) < high
    assert ticks(ours.xaxis) == ["42", "43", "44"] and ticks(published.xaxis) == ["1", "2", "3"]
    assert "mean of 2 tasks" in ours.get_ylabel() and "mean of 7 tasks" in published.get_ylabel()
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes]
    assert legends == [["± sd 1.00", "mean 51.00"], ["± sd 0.36", "mean 78.10"]]
    # The same length of axis, so that one spread can be held against the other.
    assert np.ptp(ours.get_ylim()) == pytest.approx(np.ptp(published.get_ylim()))
