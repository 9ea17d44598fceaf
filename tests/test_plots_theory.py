"""Each theory figure draws from small arrays, and what it draws is what it was given."""

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from sempa_utils.plots import interactive, theory


def texts(figure):
    return [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes]


def rendered(figure):
    assert isinstance(figure, Figure)
    figure.canvas.draw()  # every label and legend is laid out
    assert not pyplot.get_fignums(), "an open figure would be shown twice"
    return figure


def test_best_of_n():
    figure = rendered(theory.best_of_n(["a", "b", "c"], [1.0, -2.0, 0.5], probabilities=[0.6, 0.1, 0.3], anchor="x"))
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [1.0, -2.0, 0.5]
    assert [bar.get_width() for bar in right.patches] == [0.6, 0.1, 0.3]
    assert "0.51" in right.get_title("left")  # −ln 0.6
    assert len({bar.get_facecolor() for bar in right.patches}) == 2
    assert "nats" in left.get_xlabel()


def test_sampled_rankings_are_sorted_by_exact_probability():
    figure = rendered(theory.sampled_rankings(["ab", "ba"], [30, 70], probabilities=[0.25, 0.75], p_value=0.5))
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [70.0, 30.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ba", "ab"]
    exact = axes.containers[-1] if hasattr(axes.containers[-1], "lines") else axes.containers[0]
    np.testing.assert_allclose(exact.lines[0].get_ydata(), [75, 25])
    assert "%" in axes.get_ylabel()


def test_kl_world():
    reference = np.array([[0.5, 0.5], [0.9, 0.1]])
    optimal = np.array([[0.2, 0.8], [0.7, 0.3]])
    reward = np.array([[0.0, 1.0], [1.0, 2.0]])
    figure = rendered(
        theory.kl_world(
            ["a", "b"], reference, optimal=optimal, reward=reward, implicit_reward=reward - [[0.25], [0.5]], beta=1.0
        )
    )
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [0.5, 0.5, 0.2, 0.8]
    assert [text.get_text() for text in left.texts] == ["0.50", "0.50", "0.20", "0.80"], "also of a bar too low to see"
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert ["0.25" in labels[0], "0.50" in labels[1]] == [True, True]
    with pytest.raises(ValueError, match="prompts × answers"):
        theory.kl_world(["a", "b"], reference, optimal=optimal, reward=reward, implicit_reward=reward[:1], beta=1.0)


def test_gradient_weights():
    figure = rendered(
        theory.gradient_weights(
            [-1, 0, 1], {0.1: [3, 2, 1], 1.0: [6, 4, 2]}, cosines=[0.1, 0.9], negative_shares={0.05: [0.25, 0.75]}
        )
    )
    left, right = figure.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [3, 2, 1])
    np.testing.assert_array_equal(left.lines[1].get_ydata(), [6, 4, 2])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [25, 75])
    assert left.lines[0].get_linestyle() != left.lines[1].get_linestyle(), "told apart without colour"
    with pytest.raises(ValueError, match="lengths differ"):
        theory.gradient_weights([-1, 0], {0.1: [1, 2, 3]}, cosines=[0.1], negative_shares={0.05: [1.0]})


def test_one_word_estimates():
    figure = rendered(theory.one_word_estimates([1, 100], [[0.0, 2.0], [0.9, 1.1]], exact=1.0, standard_deviation=1.0))
    left, right = figure.axes
    points = next(line for line in left.lines if line.get_marker() == ".")
    np.testing.assert_array_equal(points.get_xdata(), [1, 1, 100, 100])
    np.testing.assert_array_equal(points.get_ydata(), [0.0, 2.0, 0.9, 1.1])
    for line in right.lines:  # measured, and σ / √words
        np.testing.assert_allclose(line.get_ydata(), [1.0, 0.1])
    assert left.get_xscale() == "log"


def test_score_against_cosine():
    figure = rendered(theory.score_against_cosine([1.0, 2.0], [[0.1, 0.2], [0.3, 0.0]], correlations=[1.0, -1.0]))
    for axes, expected, correlation in zip(figure.axes, ([0.1, 0.2], [0.3, 0.0]), ("1.00", "−1.00"), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1.0, 2.0])
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), expected)
        assert correlation in axes.get_title("left")


def test_falling_reward():
    figure = rendered(theory.falling_reward({"toy": ([0, -1, -2], [0, -3, -6]), "model": ([0, 1], [0, 0])}))
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_array_equal(lines["chosen"], [0, -1, -2])
    np.testing.assert_array_equal(lines["rejected"], [0, -3, -6])
    np.testing.assert_array_equal(lines["margin"], [0, 2, 4])
    assert [axes.get_title("left") for axes in figure.axes] == ["toy", "model"]
    with pytest.raises(ValueError, match="lengths differ"):
        theory.falling_reward({"toy": ([0, 1], [0])})


def test_ranking_landscape_arrows_point_downhill():
    gaps = np.linspace(-2, 2, 17)
    first, second = np.meshgrid(gaps, gaps)
    figure = rendered(theory.ranking_landscape(gaps, gaps, losses={"slope": 4 - first, "bowl": first**2 + second**2}))
    slope, bowl = (next(item for item in axes.collections if hasattr(item, "U")) for axes in figure.axes[:2])
    assert np.all(slope.U > 0) and np.allclose(slope.V, 0)
    assert np.all(bowl.U * bowl.X <= 0) and np.all(bowl.V * bowl.Y <= 0)
    with pytest.raises(ValueError, match="losses must be"):
        theory.ranking_landscape(gaps, gaps[:5], losses={"slope": first})


@pytest.mark.parametrize(
    "figure",
    [
        lambda: theory.best_of_n(["a", "b"], [0, 0], probabilities=[0.5, 0.5], anchor="x"),
        lambda: theory.gradient_weights([0, 1], {1.0: [1, 2]}, cosines=[0, 1], negative_shares={1.0: [0.5, 0.5]}),
        lambda: theory.one_word_estimates([1, 10], [[0.0, 2.0], [0.9, 1.1]], exact=1.0, standard_deviation=1.0),
        lambda: theory.falling_reward({"a": ([0, 1], [0, 1])}),
    ],
)
def test_every_panel_has_labelled_axes(figure):
    assert all(axes.get_xlabel() for axes in figure().axes)


# --- interactive -------------------------------------------------------------------------------


def draw(beta=0.0, n=0):
    return theory.falling_reward({f"{beta} {n}": ([0, beta], [0, n])})


class Kernel:
    """Stands for a live notebook's shell."""

    kernel = object()


@pytest.fixture
def live(monkeypatch):
    import IPython

    monkeypatch.delenv("SEMPA_STATIC", raising=False)
    monkeypatch.setattr(IPython, "get_ipython", Kernel)


def test_static_outside_a_notebook(monkeypatch):
    monkeypatch.delenv("SEMPA_STATIC", raising=False)
    assert not interactive.is_live()
    figure = interactive.sliders(draw, beta=(0.1, 2.0, 0.5), n=(1, 5, 3))
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_title("left") == "0.5 3"


def test_static_where_the_environment_asks_for_it(live, monkeypatch):
    assert interactive.is_live()
    monkeypatch.setenv("SEMPA_STATIC", "1")
    assert not interactive.is_live()
    assert isinstance(interactive.sliders(draw, beta=(0.1, 2.0, 0.5)), Figure)
    monkeypatch.setenv("SEMPA_STATIC", "0")
    assert interactive.is_live()


def test_static_without_ipywidgets(live, monkeypatch):
    find = interactive.importlib.util.find_spec
    monkeypatch.setattr(
        interactive.importlib.util, "find_spec", lambda name: None if name == "ipywidgets" else find(name)
    )
    assert not interactive.is_live()


def test_live_sliders_redraw_with_the_value_moved(live):
    import ipywidgets

    drawn = []

    def remember(**values):
        drawn.append(values)
        return draw(**values)

    box = interactive.sliders(remember, beta=(0.1, 2.0, 0.5), n=(1, 5, 3))
    beta, n = box.children[0].children
    assert isinstance(beta, ipywidgets.FloatSlider) and isinstance(n, ipywidgets.IntSlider)
    assert (beta.min, beta.max, beta.value, n.step) == (0.1, 2.0, 0.5, 1)
    n.value = 5
    assert drawn == [{"beta": 0.5, "n": 3}, {"beta": 0.5, "n": 5}]


@pytest.mark.parametrize("limits", [(1, 0, 1), (0, 1, 2), (0, 1), (1, 1, 1)])
def test_a_wrong_range_is_refused(limits):
    with pytest.raises(ValueError, match="beta must be"):
        interactive.sliders(draw, beta=limits)


def test_no_range_is_refused():
    with pytest.raises(ValueError, match="needs a range"):
        interactive.sliders(draw)
