"""A search on dev alone: halving over rows, one record, a budget that is kept, and the picture of what was tried."""

from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import pytest
from conftest import tiny_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from test_plots import no_figure_stays_open, saved  # noqa: F401 (a fixture)

from sempa_utils import __main__ as command_line
from sempa_utils import models, profiles, records, training
from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import sts
from sempa_utils.evaluation.generation import signals
from sempa_utils.experiments import search
from sempa_utils.experiments.grid import Sizes
from sempa_utils.experiments.search import Search
from sempa_utils.experiments.series import Setting
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.plots.search import search as picture
from sempa_utils.records import LeftOut, RowScores, SearchFigures, SearchPoint, TaskScore

SIZES = Sizes(triplets=24, dev_pairs=30, text_tokens=200)
VALUES = {"learning_rate": (1e-3, 2e-2), "batch": (4,), "kl_weight": (0.0, 10.0)}
SMALL = Search("pairwise", minutes=600, first_rows=8, perplexity_limit=2.0, values=VALUES)
PROFILE = replace(profiles.get("smoke"), max_length=256)
NAME = "search_tiny_pairwise.json"


@pytest.fixture
def place(no_data, tmp_path, monkeypatch):
    """A tiny model as a directory, and a build folder of its own."""
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    tiny_model().save_pretrained(tmp_path / "Tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "Tiny")
    return tmp_path


@pytest.fixture
def trainings(monkeypatch):
    """The runs that are really trained, in their order; the one whose number is in `stop_at` is interrupted."""
    done, train = [], training.train

    def counted(base, corpus, *, recipe, folder):
        if not training.read_record(folder):
            if len(done) == counted.stop_at:
                counted.stop_at = None
                raise KeyboardInterrupt
            done.append((len(corpus), recipe.learning_rate, recipe.kl_weight))
        return train(base, corpus, recipe=recipe, folder=folder)

    counted.stop_at = None
    monkeypatch.setattr("sempa_utils.experiments.series.training.train", counted)
    return done, counted


def do(place, what=SMALL, *, folder="records"):
    """Do what is left of a search; return its record and the lines that were announced."""
    lines = []
    setting = Setting(str(place / "Tiny"), PROFILE, precision="float32")
    return search.run(setting, what, sizes=SIZES, folder=place / folder, announce=lines.append), lines


def untimed(figures: SearchFigures) -> list:
    points = [figures.base, *figures.tried]
    return [replace(point, training_seconds=0.0, scoring_seconds=0.0) for point in points] + figures.left_out


def test_the_best_third_goes_on_and_a_second_call_computes_nothing(place, trainings):
    done, _ = trainings
    record, lines = do(place)
    figures = record.figures
    assert [point.rows for point in figures.tried] == [8, 8, 8, 8, 16, 16, 24] and not figures.left_out
    assert [rows for rows, _, _ in done] == [8, 8, 8, 8, 16, 16, 24]
    for rows, more in ((8, 16), (16, 24)):
        going_on = [point.changes for point in figures.tried if point.rows == more]
        assert going_on == [point.changes for point in figures.ranked(rows)][: len(going_on)]
    assert len({str(point.changes) for point in figures.tried[:4]}) == 4
    assert figures.best == figures.tried[-1] and lines[-1] == record.headline
    assert len(lines) == 8 and lines[4].startswith("16 rows, learning_rate ")
    assert f"dev mean {figures.best.scores.mean.value:.2f}, perplexity " in record.headline

    path = place / "records" / NAME
    before = path.read_bytes()
    again, _ = do(place)
    assert path.read_bytes() == before and again == record and len(done) == 7
    # Elsewhere, from nothing: the same but for the seconds.
    other = records.load_run(path, SearchFigures)
    assert records.plain(other.figures) == records.plain(figures)
    assert other.data[0]["name"] == "NLI triplets" and other.settings["values"]["kl_weight"] == [0.0, 10.0]
    assert "learning_rate" not in other.settings["recipe"] and other.settings["recipe"]["objective"] == "pairwise"


def test_an_interrupted_search_goes_on_and_ends_as_another_one_does(place, trainings, monkeypatch):
    done, train = trainings
    train.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        do(place)
    assert len(records.load_run(place / "records" / NAME, SearchFigures).figures.tried) == 2
    first, _ = do(place)
    assert len(done) == 7, "none was trained twice"
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(place / "another"))
    second, _ = do(place, folder="others")
    assert len(done) == 14 and untimed(first.figures) == untimed(second.figures)


def test_a_candidate_beyond_the_budget_is_not_started_and_said(place, trainings):
    done, _ = trainings
    whole, _ = do(place)
    points = [whole.figures.base, *whole.figures.tried]
    # Room for three, and for half of what the next is expected to take.
    room = sum(point.seconds for point in points[:4]) + search.expected(points[:4], 8) / 2
    record, lines = do(place, replace(SMALL, minutes=room / 60), folder="short")
    figures = record.figures
    assert figures.tried == whole.figures.tried[:3] and len(done) == 7
    assert [(one.changes, one.rows) for one in figures.left_out] == [(whole.figures.tried[3].changes, 8)]
    assert figures.left_out[0].seconds == pytest.approx(search.expected(points[:4], 8), rel=1e-4)
    assert "left out: 1 on 8 rows, each some" in lines[-1] and "and all longer runs" in lines[-1]
    # More minutes go on from there; none at all leave everything out, and say so.
    longer, _ = do(place, folder="short")
    assert untimed(longer.figures) == untimed(whole.figures)
    again, _ = do(place, replace(SMALL, minutes=room / 60), folder="short")
    assert again == longer, "a smaller budget takes nothing away"
    nothing, lines = do(place, replace(SMALL, minutes=1e-6), folder="nothing")
    assert nothing.figures.best is None and len(nothing.figures.left_out) == 4 and "left out: 4" in lines[-1]


def test_a_candidates_figures_are_those_of_the_plain_calls(place):
    one = replace(SMALL, values={"learning_rate": (2e-2,), "batch": (4,), "kl_weight": (10.0,)})
    record, _ = do(place, one)
    [*_, last] = record.figures.tried
    assert [point.rows for point in record.figures.tried] == [8]
    setting = Setting(str(place / "Tiny"), PROFILE, precision="float32")
    base, dev = setting.load(), sts.load_dev_tasks(limit=30)
    rows = corpora.load_triplets().apart_from(sts.load_dev_tasks().values()).sample(24, 42).sample(8, 42)
    chosen = search.recipe(one, last.changes, setting=setting)
    assert (chosen.batch, chosen.kl_weight, chosen.learning_rate) == (4, 10.0, 2e-2)
    with models.adapted(base, training.run_folder(base, rows, recipe=chosen) / "adapter") as model:
        scores = sts.row_scores(sts.evaluate(Embedder(model), dev))
        surprise = signals.perplexity(model, signals.load_text().rows, limit=200)
    assert last.scores.mean.value == pytest.approx(scores.mean.value, abs=1e-3)
    assert last.perplexity == pytest.approx(surprise.value, rel=1e-4)
    assert last.perplexity != record.figures.base.perplexity


def test_a_record_of_another_search_stays(place):
    one = replace(SMALL, values={"learning_rate": (2e-2,)})
    do(place, one)
    before = (place / "records" / NAME).read_bytes()
    with pytest.raises(InputError, match="not alike: settings"):
        do(place, replace(one, first_rows=12))
    assert (place / "records" / NAME).read_bytes() == before


def test_no_candidate_is_trained_on_a_dev_sentence(place, monkeypatch):
    known = sts.load_dev_tasks()["mini-STS dev"].rows[5].second.lower() + " !"
    rows = [corpora.Triplet(known, "Something else.", "Nothing of it."), *corpora.load_triplets().rows[:20]]
    monkeypatch.setattr(corpora, "load_triplets", lambda *_, **__: corpora._corpus("NLI triplets", rows, "made here"))
    record, _ = do(place, replace(SMALL, values={"learning_rate": (2e-2,)}))
    assert record.data[0]["rows"] == 20 and record.data[0]["dropped"] == {"with a sentence of the dev tasks": 1}


# --- ranks, grids and recipes ----------------------------------------------------------------------


def point(mean: float, perplexity: float, rows: int = 8, **changes) -> SearchPoint:
    scores = RowScores.of({"dev": TaskScore(mean, 30)})
    return SearchPoint({"learning_rate": 1e-3, "kl_weight": 10.0} | changes, rows, scores, perplexity, 4.0, 2.0)


@given(st.lists(st.tuples(st.floats(0, 90), st.floats(20, 40), st.sampled_from([8, 16])), min_size=1, max_size=12))
def test_who_is_over_the_limit_ranks_behind_all_who_are_within(tried):
    points = [point(mean, perplexity, rows) for mean, perplexity, rows in tried]
    figures = SearchFigures(60.0, 1.0, point(50.0, 30.0, 0), points, [])
    for rows in (8, 16):
        ranked = figures.ranked(rows)
        assert len(ranked) == sum(one.rows == rows for one in points)
        for first, second in zip(ranked, ranked[1:]):
            assert figures.within(first) or not figures.within(second)
            if figures.within(first) == figures.within(second):
                assert first.scores.mean.value >= second.scores.mean.value
    assert figures.best in figures.ranked(points[-1].rows)
    assert all(figures.within(one) == (one.perplexity <= 30.3 + 1e-9) for one in points if one.perplexity != 30.3)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 300), st.floats(0.1, 20))
def test_halving_keeps_to_its_budget_and_tells_what_it_left_out(count, first, rows, minutes):
    rungs = search.rungs_to(rows, first)
    assert rungs == sorted(set(rungs)) and rungs[-1] == rows and rungs[0] == min(first, rows)
    candidates = [{"learning_rate": 1e-3 * (number + 1)} for number in range(count)]

    def judge(changes, rows):
        return replace(point(1e3 * changes["learning_rate"], 30.0, rows), changes=changes, training_seconds=rows / 10)

    start = SearchFigures(minutes, 1.0, replace(point(50.0, 30.0, 0), training_seconds=0.0), [], [])
    every = list(search.halving(start, candidates, rungs=rungs, judge=judge))
    last = every[-1]
    assert last.seconds <= max(60 * minutes, 2.0 + 2.0 + rungs[0] / 10), "the first one alone is started on trust"
    assert [len(one.tried) for one in every if not one.left_out] == list(range(1, len(last.tried) + 1))
    # All of a rung are tried or left out, and the best third of it goes on, down to one.
    expected = count
    for number, rung in enumerate(rungs):
        tried = [one.changes for one in last.tried if one.rows == rung]
        left = [one.changes for one in last.left_out if one.rows == rung]
        assert len(tried) + len(left) == expected
        if left or expected == 1:
            assert not any(one.rows > rung for one in (*last.tried, *last.left_out))
            break
        expected = -(-expected // 3)
        best = sorted((changes["learning_rate"] for changes in tried), reverse=True)[:expected]
        if number + 1 < len(rungs):
            following = [one.changes for one in (*last.tried, *last.left_out) if one.rows == rungs[number + 1]]
            assert [changes["learning_rate"] for changes in following] == best


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_combination_is_a_recipe_once(objective):
    what, setting = Search(objective), Setting(profile=profiles.get("cpu"))
    candidates = what.candidates(42)
    recipes = [search.recipe(what, changes, setting=setting) for changes in candidates]
    assert len(set(recipes)) == len(candidates) == 24 and {one.objective.name for one in recipes} == {objective}
    assert [one.batch for one in recipes] == [changes["batch"] for changes in candidates]
    assert all(one.micro_batch == one.batch for one in recipes if OBJECTIVES[objective].in_batch)
    assert what.candidates(42) == candidates != what.candidates(43)
    assert {str(one) for one in what.candidates(43)} == {str(one) for one in candidates}


def test_the_speed_so_far_tells_what_the_next_one_takes():
    base, one = replace(point(50.0, 30.0, 0), training_seconds=0.0), point(50.0, 30.0, 8)
    assert search.expected([base], 100) == 2.0
    assert search.expected([base, one], 16) == 8.0 + 2.0
    assert search.expected([base, one, point(50.0, 30.0, 24)], 8) == 2.0 + 2.0


@pytest.mark.parametrize("wrong", [{"minutes": 0.0}, {"first_rows": 0}])
def test_a_search_of_nothing_is_refused(wrong):
    with pytest.raises(InputError, match="tries nothing"):
        Search("pairwise", **wrong)
    with pytest.raises(InputError, match="Unknown objective 'pairs'"):
        Search("pairs")


# --- the command and the picture ---------------------------------------------------------------------


def test_the_command_writes_record_and_picture(place, monkeypatch, capsys):
    monkeypatch.setattr(search, "grid_of", lambda _: {"learning_rate": (1e-3, 2e-2)})
    arguments = ["reproduce", "--model", str(place / "Tiny"), "--precision", "float32", "--triplets", "8"]
    arguments += ["--search", "pairwise", "--minutes", "600", "--records", str(place / "out")]
    assert command_line.main(arguments) == 0
    assert sorted(path.name for path in (place / "out").iterdir()) == [NAME, NAME.replace(".json", ".png")]
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("8 rows, learning_rate") and out[2].startswith("pairwise: 2 runs tried; base")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--search", "pairs"], "Unknown objective 'pairs'"),
        (["--search", "pairwise", "--runs", "base"], "Leave --runs, --steps, --state and --ship out"),
        (["--minutes", "5"], "--search pairwise"),
    ],
)
def test_what_does_not_go_together_is_said(no_data, capsys, arguments, says):
    assert command_line.main(["reproduce", *arguments]) == 1
    assert says in capsys.readouterr().err


def test_the_picture_has_a_mark_for_each_candidate_and_rung(tmp_path):
    held, free = point(60.0, 30.15), point(70.0, 36.0, kl_weight=0.0)
    later = point(65.0, 30.1, rows=16)
    left = [LeftOut({"learning_rate": 1e-3}, 32, 9.0)]
    figures = SearchFigures(60.0, 1.0, point(50.0, 30.0, 0), [held, free, later], left)
    [axes] = saved(picture(figures), tmp_path).axes
    lines = {label: [line for line in axes.lines if line.get_label() == label] for label in ("_candidate", "best")}
    places = [tuple(line.get_xydata()[0]) for line in lines["_candidate"]]
    assert places == [pytest.approx(one) for one in ((0.5, 60.0), (20.0, 70.0), (1 / 3, 65.0))]
    assert [line.get_marker() for line in lines["_candidate"]] == ["o", "o", "s"]
    assert [line.get_markerfacecolor() == "white" for line in lines["_candidate"]] == [False, True, False]
    assert tuple(lines["best"][0].get_xydata()[0]) == pytest.approx((1 / 3, 65.0))
    texts = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert {"base", "8 rows", "16 rows", "rate 0.001", "limit, +1 %", "no KL penalty"} <= set(texts)
    saved(picture(replace(figures, tried=[])), tmp_path)  # a budget for nothing is a picture of the base
