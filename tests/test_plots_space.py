"""Each figure of an embedding space draws what it was given, says what it is, and can be saved."""

import html.parser
import xml.etree.ElementTree

import matplotlib

matplotlib.use("Agg")

import IPython
import numpy as np
import pytest
import torch
from test_plots import colour, no_figure_stays_open, saved, ticks, title  # noqa: F401 (a fixture)

from sempa_utils.plots import interactive, space, style
from sempa_utils.records import LayerFigures

# --- projections -------------------------------------------------------------------------------


def spaces(count: int, points: int = 5) -> dict:
    random = np.random.default_rng(0)
    return {
        f"space {n}": {role: random.standard_normal((points, 2)) for role in space.ROLES} | {"explained": (0.5, 0.25)}
        for n in range(count)
    }


def test_projections(tmp_path):
    given = spaces(2)
    figure = saved(space.projections(given, links=2), tmp_path)
    assert [title(axes) for axes in figure.axes] == list(given)
    for axes, one in zip(figure.axes, given.values(), strict=True):
        for points, (role, (name, _)) in zip(axes.collections, space.ROLES.items(), strict=True):
            np.testing.assert_allclose(points.get_offsets(), one[role])
            np.testing.assert_allclose(points.get_facecolors()[0][:3], colour(name)[:3])
        # Two anchors, each joined to its own positive (solid) and negative (dotted).
        assert [line.get_linestyle() for line in axes.lines] == ["-", ":", "-", ":"]
        for index, line in enumerate(axes.lines):
            role = ("positive", "negative")[index % 2]
            np.testing.assert_allclose(line.get_xydata(), [one["anchor"][index // 2], one[role][index // 2]])
        assert "50 % of variance" in axes.get_xlabel() and "25 %" in axes.get_ylabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(space.ROLES)
    assert figure.axes[0].get_xlim() != figure.axes[1].get_xlim()


def test_spaces_on_common_axes_share_one_frame(tmp_path):
    figure = saved(space.projections(spaces(3), common=True), tmp_path)
    assert len({axes.get_xlim() + axes.get_ylim() for axes in figure.axes}) == 1
    assert "base (50 % of its variance)" in figure.get_supxlabel() and "25 %" in figure.get_supylabel()


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 3)])
def test_many_spaces_stand_in_rows(count, rows):
    figure = space.projections(spaces(count))
    assert len(figure.axes) == count, "no empty frame is left"
    assert len({round(axes.get_subplotspec().rowspan.start) for axes in figure.axes}) == rows


@pytest.mark.parametrize("common", [False, True])
def test_the_lowest_panel_of_each_column_has_its_scale(common):
    figure = space.projections(spaces(5), common=common)
    figure.canvas.draw()
    lowest = figure.axes[2:]  # of two rows of three, the last is empty
    assert all(label.get_visible() for axes in lowest for label in axes.get_xticklabels())


def test_a_film_has_the_columns_it_is_given():
    figure = space.projections(spaces(8), columns=4, common=True)
    assert [axes.get_subplotspec().colspan.start for axes in figure.axes] == [0, 1, 2, 3] * 2


def test_more_links_than_points_are_no_error(tmp_path):
    assert len(saved(space.projections(spaces(1, points=3), links=6), tmp_path).axes[0].lines) == 6


def test_roles_and_spaces_differ_in_more_than_colour():
    assert len({marker for _, marker in space.ROLES.values()}) == len(space.ROLES)
    assert len({name for name, _ in space.ROLES.values()}) == len(space.ROLES)
    assert len(set(space.MARKS)) == len(set(space.LINES)) == len(style.CYCLE)


# --- cosines -----------------------------------------------------------------------------------


def test_cosine_distributions(tmp_path):
    random = np.random.default_rng(0)
    centres = {"entailed": 0.8, "neutral": 0.5, "contradicted": 0.2}
    pairs = {label: random.normal(centre, 0.05, 200) for label, centre in centres.items()}
    drawn = space.cosine_distributions({"before": pairs, "after": pairs}, {"after": "AUC 0.93"})
    figure = saved(drawn, tmp_path)
    assert [title(axes) for axes in figure.axes] == ["before", "after"]
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], ["AUC 0.93"]]
    for axes in figure.axes:
        filled = {shape.get_label(): shape for shape in axes.collections}
        assert list(filled) == list(centres)
        for label, centre in centres.items():
            outline = filled[label].get_paths()[0].vertices
            peak = outline[outline[:, 1].argmax(), 0]
            assert peak == pytest.approx(centre, abs=0.05), "the curve lies where its cosines lie"
        assert "cosine" in axes.get_xlabel()
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    five = space.cosine_distributions({f"space {n}": pairs for n in range(5)})
    five.canvas.draw()
    for axes in five.axes[2:]:
        assert axes.xaxis.label.get_visible() and axes.get_xticklabels()[0].get_visible()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(centres)


def test_the_similarity_heat_map_shows_each_pair_once(tmp_path):
    matrix = np.array([[1.0, 0.11, 0.22], [0.11, 1.0, 0.33], [0.22, 0.33, 1.0]])
    figure = saved(
        space.similarity_heat_map(torch.tensor(matrix), ["first", "second", "third"], title="a map"), tmp_path
    )
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["0.11", "0.22", "0.33"]
    # Row 2 by column 1 is the first cell; what a cell shows is what stands at its place in the matrix.
    cells = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert len(cells) == 3
    assert ticks(axes.yaxis) == ["2  second", "3  third"]
    assert ticks(axes.xaxis) == ["1", "2"]
    assert "1: first" in axes.get_xlabel() and title(axes) == "a map"
    drawn = np.ma.asarray(axes.collections[0].get_array()).reshape(2, 2)
    np.testing.assert_allclose(drawn[0, 0], 0.11)
    np.testing.assert_allclose(drawn[1], [0.22, 0.33])
    assert np.ma.getmaskarray(drawn)[0, 1]


# --- measures ----------------------------------------------------------------------------------

PUBLISHED = {"LLaMA2-7B": {"PromptEOL": -1.0, "SemPA": -1.9}, "LLaMA3-8B": {"PromptEOL": -1.3, "SemPA": -2.3}}


def test_layer_curves(tmp_path):
    measures = ("uniformity", "isotropy", "average cosine", "effective rank")
    curves = {measure: {"PromptEOL": [n, n + 1.0, n + 2.0], "SemPA": [n, n, n]} for n, measure in enumerate(measures)}
    figure = saved(space.layer_curves(curves, [1, 2, 3], published={"uniformity": PUBLISHED}), tmp_path)
    by_title = {title(axes): axes for axes in figure.axes}
    for measure, rows in curves.items():
        lines = {line.get_label(): line for line in by_title[measure].lines}
        assert list(lines) == list(rows) and by_title[measure].get_xlabel() == "layer"
        for name, line in lines.items():
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_array_equal(line.get_ydata(), rows[name])
        assert len({line.get_linestyle() for line in lines.values()}) == 2
    beside = [axes for axes in figure.axes if title(axes) == "published"]
    assert len(beside) == 1, "isotropy has none here"
    assert beside[0].get_ylim() == by_title["uniformity"].get_ylim()
    for line, (model, values) in zip(beside[0].lines, PUBLISHED.items(), strict=True):
        assert line.get_label() == model and line.get_markerfacecolor() == "white"
        np.testing.assert_array_equal(line.get_ydata(), list(values.values()))
    assert ticks(beside[0].xaxis) == ["PromptEOL", "SemPA"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["PromptEOL", "SemPA"]


def test_movement_by_layer(tmp_path):
    runs = {
        name: LayerFigures([None, n, n + 1.0], [0.0, 0.1 * n, 0.2 * n], [0.0, 0.5, 0.6])
        for n, name in enumerate(["pairwise", "one_word"], start=1)
    }
    figure = saved(space.movement_by_layer(runs, LayerFigures([None, 3.0, 4.0])), tmp_path)
    scores, moved, alike = figure.axes
    lines = {line.get_label(): line for line in scores.lines}
    assert list(lines) == ["base", "pairwise", "one_word"]
    np.testing.assert_array_equal(lines["base"].get_ydata(), [np.nan, 3, 4])
    np.testing.assert_array_equal(lines["one_word"].get_ydata(), [np.nan, 2, 3])
    for axes, measure in ((moved, "moved"), (alike, "moved_alike")):
        assert [line.get_label() for line in axes.lines] == list(runs), "the base does not move from itself"
        for line, row in zip(axes.lines, runs.values(), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), getattr(row, measure))
    assert "STS-B dev" in title(scores) and "length" in title(moved)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)


def test_uniformity_against_isotropy(tmp_path):
    ours = {"positive": {"PromptEOL": (-0.5, 0.39)}, "both": {"PromptEOL": (-0.5, 0.15)}}
    theirs = {"LLaMA2-7B": {"PromptEOL": (-1.0, 0.42), "SemPA": (-1.9, 0.49)}}
    [axes] = saved(space.uniformity_against_isotropy(ours, theirs), tmp_path).axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(lines["PromptEOL"], [[-0.5, 0.39]])
    np.testing.assert_allclose(lines["_both"], [[-0.5, 0.15]])
    np.testing.assert_allclose(lines["LLaMA2-7B, published"], [[-1.0, 0.42], [-1.9, 0.49]])
    one, two = (next(xy for label, xy in lines.items() if sign in label) for sign in ("positive", "both signs"))
    np.testing.assert_allclose(one[[0, -1]], [[-4, 1], [0, np.exp(-1)]])
    np.testing.assert_allclose(two[[0, -1]], [[-4, 1], [0, np.exp(-2)]])
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left < -1.9 and right >= 0 and low == 0 and high > 0.49


def test_spectra(tmp_path):
    shares = {"PromptEOL": np.array([0.7, 0.2, 0.1, 1e-9]), "SemPA": np.array([0.4, 0.3, 0.3])}
    left, right = saved(space.spectra(shares, {"PromptEOL": 2.2, "SemPA": 2.9}), tmp_path).axes
    for line, (name, expected) in zip(left.lines, (("PromptEOL", [70, 20, 10]), ("SemPA", [40, 30, 30])), strict=True):
        assert line.get_label() == name
        np.testing.assert_allclose(line.get_xydata(), list(zip([1, 2, 3], expected)))
    assert [bar.get_width() for bar in right.patches] == [2.2, 2.9]
    assert ticks(right.yaxis) == list(shares)
    assert "%" in left.get_ylabel() and left.get_yscale() == "log"


def test_no_space_is_left_out_and_no_two_look_alike():
    names = [f"space {n}" for n in range(9)]
    axes = space.spectra({name: [0.6, 0.4] for name in names}, dict.fromkeys(names, 1.9)).axes[0]
    assert [line.get_label() for line in axes.lines] == names
    assert len({tuple(map(str, space._line(place).values())) for place in range(9)}) == 9
    assert all(line.get_color() == space._line(place)["color"] for place, line in enumerate(axes.lines))
    point = dict.fromkeys(names, (-0.5, 0.4))
    drawn = space.uniformity_against_isotropy({"positive": point, "both": point}, {}).axes[0]
    assert [line.get_label() for line in drawn.lines if "space" in line.get_label()] == names


# --- aligned tokens ----------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """The text inside each tag of a page, in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)

    def handle_starttag(self, tag, _):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags close in order"

    def handle_data(self, data):
        self.found.append((self.open[-1], data))


def test_the_table_of_aligned_tokens_tells_matches_apart():
    rows = {"PromptEOL": [(" rain", "exact"), ("rainy", "stem"), ("The", "none")]}
    tags = Tags(space.aligned_tokens({"Heavy rain.": rows}))
    assert not tags.open
    cells = [found for found in tags.found if found[1] in ("␣rain", "rainy", "The")]
    assert cells == [("b", "␣rain"), ("i", "rainy"), ("span", "The")]
    assert ("th", "PromptEOL") in tags.found and ("td", "“Heavy rain.”") in tags.found
    assert len({shade for _, shade in space.MATCHES.values()}) == 3


def test_a_sentence_is_text_and_never_markup():
    wicked = '<script>alert("1")</script> & co'
    tags = Tags(space.aligned_tokens({wicked: {"<b>": [("<i>", "none"), ("\n", "none"), ("", "none")]}}))
    assert "script" not in [tag for tag, _ in tags.found]
    assert ("td", f"“{wicked}”") in tags.found and ("th", "<b>") in tags.found
    assert [text for tag, text in tags.found if tag == "span"][-3:] == ["<i>", "⏎", "∅"]


def test_gar_bars(tmp_path):
    ours = {
        "PromptEOL": {"by number": (0.05, 0.02), "folded": (0.2, 0.1)},
        "SemPA": {"by number": (0.06, 0.03), "folded": (0.3, 0.08)},
    }
    drawn = space.gar_bars(ours, {"PromptEOL": 0.185, "SemPA": 0.324}, published_model="LLaMA2-7B")
    left, right = saved(drawn, tmp_path).axes
    assert [[bar.get_width() for bar in bars] for bars in left.containers] == [[0.05, 0.06], [0.2, 0.3]]
    assert [list(line.get_xdata()) for line in left.lines] == [[0.02, 0.03], [0.1, 0.08]]
    for bars, line in zip(left.containers, left.lines, strict=True):
        np.testing.assert_allclose([bar.get_y() + bar.get_height() / 2 for bar in bars], line.get_ydata())
    assert {text.get_text() for text in left.texts} == {"0.050", "0.060", "0.200", "0.300"}
    assert [bar.get_width() for bar in right.patches] == [0.185, 0.324] and right.patches[0].get_hatch()
    assert title(right) == "published, LLaMA2-7B" and title(left) == "this run"


# --- interactive -------------------------------------------------------------------------------

POINTS = {"anchor": [[0.0, 0.0], [4.0, 1.0]], "negative": [[1.0, 2.0], [2.0, 2.0]]}
TEXTS = {"anchor": ["One sentence.", 'A "quoted" one & <more>.'], "negative": ["Third.", "Fourth."]}


class Kernel:
    """Stands for a live notebook's shell."""

    kernel = object()


def test_a_live_scatter_tells_each_point_its_sentence(monkeypatch):
    monkeypatch.delenv("SEMPA_STATIC", raising=False)
    monkeypatch.setattr(IPython, "get_ipython", Kernel)
    drawing = xml.etree.ElementTree.fromstring(interactive.scatter(POINTS, TEXTS).data)
    name = "{http://www.w3.org/2000/svg}"
    marks = [group for group in drawing.iter(f"{name}g") if group.find(f"{name}title") is not None]
    told = [mark.find(f"{name}title").text for mark in marks]
    assert told == [f"{role}: {text}" for role, texts in TEXTS.items() for text in texts]
    places = [tuple(map(float, mark.get("transform").removeprefix("translate(").rstrip(")").split())) for mark in marks]
    # Right is right and up is up: on a page y grows downwards.
    assert places[0][0] < places[2][0] < places[3][0] < places[1][0]
    assert places[0][1] > places[1][1] > places[2][1] == places[3][1]
    assert {text.text for text in drawing.iter(f"{name}text")} == set(POINTS)


def test_one_point_can_be_drawn_alone(monkeypatch):
    monkeypatch.delenv("SEMPA_STATIC", raising=False)
    monkeypatch.setattr(IPython, "get_ipython", Kernel)
    assert "nan" not in interactive.scatter({"anchor": [[3.0, 3.0]]}, {"anchor": ["Alone."]}).data


def test_a_saved_scatter_tells_points_far_apart_and_their_neighbours(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_STATIC", "1")
    left, right = saved(interactive.scatter(POINTS, TEXTS, numbered=2), tmp_path).axes
    for points, values in zip(left.collections, POINTS.values(), strict=True):
        np.testing.assert_allclose(points.get_offsets(), values)
    # The point farthest from the middle and the one farthest from it, each with the point nearest to it.
    told = {note.get_text(): note.xy for note in left.texts}
    every = np.concatenate(list(POINTS.values()))
    assert list(told) == ["1a", "1b", "2a", "2b"]
    assert told["1a"] == (4.0, 1.0) and told["2a"] == (0.0, 0.0)
    for number in "12":
        apart = np.sort(np.linalg.norm(every - told[f"{number}a"], axis=1))
        assert np.linalg.norm(np.subtract(told[f"{number}a"], told[f"{number}b"])) == pytest.approx(apart[1])
    lines = right.texts[0].get_text().splitlines()
    assert lines[0] == '1a  A "quoted" one & <more>. (anchor)' and "2a  One sentence. (anchor)" in lines


def test_a_sentence_may_hold_a_dollar_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_STATIC", "1")
    texts = TEXTS | {"anchor": ["It cost $5, not $6_7.", "Free."]}
    told = saved(interactive.scatter(POINTS, texts), tmp_path).axes[1].texts[0]
    assert "$5" in told.get_text() and not told.get_parse_math(), "what lies between two of them is no formula"


def test_each_point_needs_a_sentence():
    with pytest.raises(ValueError, match="anchor: 2 sentences"):
        interactive.scatter({"anchor": [[0.0, 1.0]]}, TEXTS)


LONG = [f"a-model-with-a-long-name-{n}, finished" for n in range(6)]


def test_long_names_lie_clear_of_each_other(tmp_path):
    cosines = dict.fromkeys(("entailed", "neutral", "contradicted"), np.linspace(0, 1, 9))
    saved(space.cosine_distributions(dict.fromkeys(LONG, cosines)), tmp_path)
    saved(space.projections(dict(zip(LONG, spaces(6).values()))), tmp_path)
    saved(space.spectra(dict.fromkeys(LONG, np.array([0.6, 0.4])), dict.fromkeys(LONG, 1.9)), tmp_path)
