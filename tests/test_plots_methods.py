"""Each figure of the extraction methods draws what it was given, says what it is, and can be saved."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch, Rectangle
from test_plots import colour, no_figure_stays_open, saved, ticks, title  # noqa: F401 (a fixture)

from sempa_utils.embedding.embedder import METHODS
from sempa_utils.plots import methods, style
from sempa_utils.records import Interval

WORDS = "Cats like milk."


class Configuration:
    """What a method asks of a model's configuration."""

    num_hidden_layers = 30
    vocab_size = 49_152


def made(*names: str) -> dict:
    return {name: METHODS[name](Configuration) for name in names}


# --- what a last token knows ---------------------------------------------------------------------


def test_the_attention_of_the_last_token(tmp_path):
    attention = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    drawn = methods.last_token_attention(
        attention, ["The", "cat", "slept"], layers=[1, 30], share=[0.25, 0.5], title="a title"
    )
    axes = saved(drawn, tmp_path).axes[0]
    assert ticks(axes.xaxis) == ["The", "cat", "slept"] and ticks(axes.yaxis) == ["layer 1", "layer 30"]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:6] == ["50", "30", "20", "10", "10", "80"], "in per cent, row by row"
    assert texts[6:8] == ["25 %", "50 %"], "the share of all attention at each row's end"
    assert title(axes) == "a title" and "%" in axes.get_xlabel()


def test_attention_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="2 layers × 3 tokens"):
        methods.last_token_attention(np.ones((3, 2)), ["a", "b", "c"], layers=[1, 2], share=[1, 1])


def test_the_lens_shows_words_and_their_probability(tmp_path):
    words = [["rain\nheavy", "cat"], ["storm", "music\nsound"]]
    base, trained = [[0.1, 0.2], [0.3, 0.4]], [[0.1, 0.2], [0.3, 0.8]]
    figure = saved(
        methods.lens({"base": (words, base), "SemPA": (words, trained)}, [1, 30], sentences=["One.", "Two."]), tmp_path
    )
    for axes, name, probabilities in zip(figure.axes, ("base", "SemPA"), (base, trained), strict=True):
        assert [text.get_text() for text in axes.texts] == [word for row in words for word in row]
        np.testing.assert_allclose(axes.collections[0].get_array().ravel(), np.ravel(probabilities))
        assert ticks(axes.xaxis) == ["One.", "Two."] and title(axes) == name
        assert axes.collections[0].get_clim() == (0, pytest.approx(1.2)), "one scale for all panels"
    assert ticks(figure.axes[0].yaxis) == ["layer 1", "layer 30"]
    assert "80 %" in figure._supxlabel.get_text()


# --- where the vector comes from -----------------------------------------------------------------


def boxes(axes, kind: str) -> list[Rectangle]:
    """The boxes of a kind of token; their layers have its colour too, at less than full strength."""
    wanted = matplotlib.colors.to_rgba(methods.FILLS[kind])
    return [one for one in axes.patches if isinstance(one, Rectangle) and one.get_facecolor() == wanted]


def cells(axes, wanted: str) -> list[Rectangle]:
    wanted = matplotlib.colors.to_rgba(wanted)
    return [one for one in axes.patches if isinstance(one, Rectangle) and one.get_facecolor() == wanted]


@pytest.mark.parametrize(("name", "read", "copies"), [("mean", 3, 1), ("echo", 3, 2), ("prompteol", 1, 1)])
def test_the_sketch_reads_the_states_that_the_method_reads(tmp_path, name, read, copies):
    axes = saved(methods.where_vectors_come_from(made(name), 30, sentence=WORDS), tmp_path).axes[0]
    words = boxes(axes, "sentence")
    assert len(words) == 3 * copies
    marked = cells(axes, methods.READ)
    assert len(marked) == read
    tops = {round(one.get_y() + one.get_height(), 6) for one in marked}
    assert tops == {methods.BOX + methods.LANE}, "the last layer lies on top"
    if name != "prompteol":  # the last copy's words, box by box
        assert [one.get_x() for one in marked] == [one.get_x() for one in words[-3:]]
    else:
        assert marked[0].get_x() > max(one.get_x() for one in words)


def test_the_sketch_of_an_inner_layer_and_of_steering(tmp_path):
    both = made("contrastive_prompting", "token_prepending")
    axes = saved(methods.where_vectors_come_from(both, 30, sentence=WORDS), tmp_path).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert sum("layer 25 of 30" in text for text in texts) == 2
    assert len(boxes(axes, "placeholder")) == 1
    assert len(boxes(axes, "sentence")) == 9, "the auxiliary prompt holds the sentence too"
    assert len(cells(axes, methods.STEERED)) == 3, "A, B, and the placeholder"
    assert sum(isinstance(one, FancyArrowPatch) for one in axes.patches) == 2
    heights = [one.get_y() + one.get_height() for one in cells(axes, methods.READ)]
    assert heights[0] == pytest.approx(methods.BOX + methods.LANE * 25 / 30)


def test_all_boxes_of_the_sketch_fit_beside_the_names(tmp_path):
    every = made("mean", "echo", "prompteol", "pretended_cot", "contrastive_prompting", "token_prepending")
    figure = saved(methods.where_vectors_come_from(every, 30, sentence=WORDS), tmp_path)
    axes = figure.axes[0]
    left = min(one.get_x() for kind in methods.FILLS for one in boxes(axes, kind))
    assert left > methods.LABELS - 2
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keys == ["template", "sentence", "placeholder", "read", "steered"]


# --- layers, errors, a search --------------------------------------------------------------------


def test_dev_by_layer(tmp_path):
    curves = {"PromptEOL": {1: 10.0, 2: 30.0, 3: 20.0}, "SemPA": {1: 5.0, 2: 6.0, 3: 7.0}}
    figure = saved(methods.dev_by_layer(curves, {"PromptEOL": 2, "SemPA": 3}, task="STS-B"), tmp_path)
    axes = figure.axes[0]
    lines = [line.get_xydata().tolist() for line in axes.lines]
    assert lines == [[[1, 10], [2, 30], [3, 20]], [[2, 30]], [[1, 5], [2, 6], [3, 7]], [[3, 7]]]
    keys = [text.get_text() for text in axes.get_legend().get_texts()]
    assert keys == ["PromptEOL: 30.0 at layer 2, 20.0 at the last", "SemPA: 7.0 at layer 3, the last"]
    assert "STS-B dev" in axes.get_ylabel() and "layer" in axes.get_xlabel()


def test_rank_errors_are_drawn_with_their_line(tmp_path):
    shared = np.array([0.0, 0.5, 1.0])
    errors = {name: np.array([-10.0, 0.0, 10.0]) * factor for factor, name in enumerate("abcde", start=1)}
    figure = saved(methods.rank_errors(errors, shared, no_skill=np.array([20.0, 0.0, -20.0])), tmp_path)
    panels = [axes for axes in figure.axes if axes.axison]
    assert [title(axes) for axes in panels] == list("abcde")
    for factor, axes in enumerate(panels, start=1):
        np.testing.assert_allclose(axes.collections[0].get_offsets()[:, 0], 100 * shared)
        np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0, -10 * factor], [100, 10 * factor]], atol=1e-9)
        np.testing.assert_allclose(axes.lines[1].get_xydata(), [[0, 20], [100, -20]], atol=1e-9)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fit", "fit of no skill at all"]
    assert "%" in figure._supxlabel.get_text() and "too alike" in figure._supylabel.get_text()


def test_search_scores(tmp_path):
    found = {
        "shared words": methods.SearchScore(20.0, Interval(12.0, 30.0), 35.0),
        "SemPA": methods.SearchScore(80.0, Interval(70.0, 87.0), 85.0),
    }
    figure = saved(methods.search_scores(found), tmp_path)
    axes = figure.axes[0]
    assert ticks(axes.yaxis) == list(found)
    recall, rank = axes.lines
    assert recall.get_xydata().tolist() == [[20, 0], [80, 1]] and rank.get_xydata().tolist() == [[35, 0], [85, 1]]
    assert [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()] == [[12, 30], [70, 87]]
    assert colour("blue") == matplotlib.colors.to_rgba(recall.get_color())
    assert len(figure.legends[0].get_texts()) == 2


def test_marks_and_colours_go_together():
    assert len(set(methods.MARKS)) == len(methods.MARKS) == len(style.CYCLE)


def test_long_names_of_methods_lie_clear_of_each_other(tmp_path):
    values = np.array([-10.0, 0.0, 10.0])
    names = [f"a-model-with-a-long-name-{n}, finished" for n in range(8)]
    saved(methods.rank_errors(dict.fromkeys(names, values), values, no_skill=values), tmp_path)
