"""The tables of README and model cards: made from records, stale ones are told."""

import math
from dataclasses import replace

import pytest

from sempa_utils import records
from sempa_utils.checks import InputError
from sempa_utils.experiments import report
from sempa_utils.experiments.agreement import KINDS, agreement, here_and_there
from sempa_utils.experiments.grid import ALL, RUNS, record_name
from sempa_utils.records import (
    Difference,
    FrontierPoint,
    GenerationFigures,
    GridFigures,
    Interval,
    LayerFigures,
    RowScores,
    StsFigures,
    TaskScore,
    TrainingFigures,
)


def sts_figures(mean: float, tasks=report.STS_TASKS, trained: bool = True) -> StsFigures:
    apart = Difference(9.5, Interval(8.06, 11.0), p_value=0.001) if trained else None
    score = TaskScore(mean, 1000, Interval(mean - 1, mean + 1), difference=apart)
    return StsFigures(RowScores(dict.fromkeys(tasks, score), score), RowScores({}, TaskScore(70.0, 900)))


def nats(trained: bool = True) -> RowScores:
    apart = Difference(-0.0214, standard_error=0.005) if trained else None
    score = TaskScore(-1.4142, 500, standard_error=0.1, difference=apart)
    return RowScores(dict.fromkeys(report.BENCHMARKS, score), score)


def figures(mean: float, perplexity: float, trained: bool = True) -> GridFigures:
    """What a run's record holds, in small."""
    apart = Difference(-0.84, standard_error=0.5) if trained else None
    score = TaskScore(30.0, 10, standard_error=1.5, difference=apart)
    return GridFigures(
        train=TrainingFigures(8816 if trained else 0),
        sts=sts_figures(mean, trained=trained),
        signals={
            "perplexity": perplexity,
            "preference": 80.0,
            "well_formed": 90.0,
            "unfinished": 5.0,
            "copied": 1.0,
            "looping": 0.0,
            "length": 12.5,
            "distinct_2": 70.0,
            "self_bleu": 8.0,
            "entropy": 3.25,
        },
        generation=GenerationFigures(RowScores(dict.fromkeys(report.BENCHMARKS, score), score), {}),
        gold_answers=GenerationFigures(nats(trained), {}),
        geometry={
            "uniformity": -1.5,
            "isotropy": 0.5,
            "isotropy_both_signs": 0.3,
            "average_cosine": 0.6,
            "effective_rank": 100.0,
        },
        layers=LayerFigures([None, mean], *([[0.0, 0.5], [0.0, 0.2]] if trained else [])),
        frontier=[FrontierPoint(1024, mean, perplexity)],
    )


def recorded_as(run: str, of_run: GridFigures, **settings) -> records.RunRecord:
    origin = records.Origin(settings=settings)
    return records.run_record(record_name("packaged", run), of_run, headline="", origin=origin)


def changed(recorded: dict, run: str, **changes) -> dict:
    record = recorded[run]
    return recorded | {run: replace(record, figures=replace(record.figures, **changes))}


@pytest.fixture
def found():
    rows = {"base": figures(63.62, 20.0, trained=False), "pairwise": figures(73.12, 21.0)}
    return {run: recorded_as(run, rows[run]) if run in rows else None for run in ALL}


def cells(table: str, row: str) -> list[str]:
    [line] = [line for line in table.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_overview_has_a_row_a_run_and_says_what_was_not_run(found):
    table = report.overview(found)
    assert len(table.splitlines()) == 2 + len(report.FIRST_SCREEN)
    assert "`one_word_seed_43`" not in table and cells(table, "`one_word`")[3] == ""
    assert len(report.grid(found).splitlines()) == 2 + len(RUNS)
    assert cells(table, "base") == ["0", "63.62 (62.6 to 64.6)", "", "", "20.00", "30.0 ± 1.5"]
    assert cells(table, "`pairwise`") == [
        "8,816",
        "73.12 (72.1 to 74.1)",
        "+9.50 (+8.1 to +11.0)",
        "",
        "21.00, +5.0 %",
        "30.0 ± 1.5 (−0.8 ± 0.5)",
    ]
    assert cells(table, "`listwise`") == ["not run"] * 3 + [""] + ["not run"] * 2
    assert cells(report.grid(found), "`listwise`") == ["not run"] * 5
    again = recorded_as("one_word_seed_44", figures(75.0, 21.0))
    assert cells(report.overview(found | {"one_word_seed_44": again}), "`one_word`")[3] == "", "a seed alone"
    seeds = {f"one_word{name}": recorded_as(f"one_word{name}", figures(75.0, 21.0)) for name in ("", "_seed_44")}
    assert cells(report.overview(found | seeds), "`one_word`")[3] == "+9.50, +9.50"
    parts = {name: recorded_as(name, figures(75.0, 21.0)) for name in RUNS["pairwise_kl_averaged"].mean_of}
    assert cells(report.overview(found | parts), "`pairwise_kl_averaged`")[3] == "+9.50, +9.50, +9.50"


def test_the_other_tables_hold_what_was_run_beside_what_is_published(found):
    sts = report.sts(found)
    assert cells(sts, "`pairwise`") == ["73.12"] * 8 + ["70.00"]
    assert cells(sts, "SBERT-NLI-base, *published*")[-2] == "74.86" and "`listwise`" not in sts
    generation = report.generation(found)
    assert cells(generation, "base") == ["30.0 ± 1.5"] * 6
    assert cells(generation, "`pairwise`")[0] == "30.0 ± 1.5 (−0.8 ± 0.5)"
    assert cells(generation, "LLaMA2-7B base, *published*")[0] == "14.03"
    assert cells(report.speech(found), "base")[0] == "20.00"
    assert cells(report.costs(found), "base") == ["−1.414"] * 6 + ["20.00"]
    assert cells(report.costs(found), "`pairwise`") == ["−0.021 (−0.031 to −0.012)"] * 6 + ["21.00, +5.0 %"]
    assert cells(report.space(found), "`pairwise`") == ["−1.50", "0.50", "0.30", "0.60", "100.00"]
    assert cells(report.space(found), "LLaMA2-7B SemPA, *published*")[:2] == ["−1.91", "0.49"]
    for table in report.TABLES.values():
        assert len({line.count("|") for line in table(found).splitlines()}) == 1, "every row has every column"
        assert table({}).count("\n") >= 1, "no record at all is a table too"


@pytest.mark.parametrize(
    "step", ["sts", "signals", "generation", "gold_answers", "geometry", "layers", "frontier", "the record"]
)
@pytest.mark.parametrize("run", ["base", "pairwise", "contrastive_kl"])
def test_a_table_is_written_whatever_is_not_there_yet(found, run, step):
    found["contrastive_kl"] = found["pairwise"]
    whole = {name: table(found).splitlines() for name, table in report.TABLES.items()}
    found = found | {run: None} if step == "the record" else changed(found, run, **{step: None})
    for name, table in report.TABLES.items():
        lines = table(found).splitlines()
        assert 2 <= len(lines) <= len(whole[name])
        assert len({line.count("|") for line in lines}) == 1, "every row has every column"


def test_a_kind_of_data_is_held_against_the_tasks_that_it_has_no_part_in():
    def scored(parts: float, others: float) -> dict[str, TaskScore]:
        apart = {"images": parts, "OnWN": 99.0}
        return {"STS14": TaskScore(90.0, 5, parts=apart), "STS15": TaskScore(80.0, 5, parts=apart)} | {
            "STS-B": TaskScore(others, 5),
            "SICK-R": TaskScore(others + 2, 5),
        }

    runs = {"base": scored(10.0, 50.0), "one": scored(20.0, 55.0), "two": scored(40.0, 65.0)}
    kind = KINDS["captions of images"]
    here, there = here_and_there(kind, runs | {"without": {"STS14": TaskScore(1.0, 1), "STS15": TaskScore(1.0, 1)}})
    assert here == {"base": 10.0, "one": 20.0, "two": 40.0} and there == {"base": 51.0, "one": 56.0, "two": 66.0}
    assert agreement(here, there) == (2, pytest.approx(1.0), pytest.approx(0.0)), "in proportion: 10 for 5, 30 for 15"
    turned = agreement(here, {"base": 51.0, "one": 66.0, "two": 56.0})
    assert turned.rank_correlation == pytest.approx(0.5) and turned.error > 5
    for few in ({"base": 1.0, "one": 2.0}, {"one": 1.0, "two": 2.0}):
        assert math.isnan(agreement(few, there).error)


def test_the_dev_sets_are_judged_by_what_is_recorded():
    recorded = report.recorded_runs()
    table, scored = report.dev_sets(recorded), [one for one in recorded.values() if one and one.figures.sts]
    assert cells(table, "STS14")[:2] == ["6", f"{len(scored) - 1}"] and cells(table, "STS-B dev, 500 pairs")[0] == "7"
    assert len(table.splitlines()) == 3 + len(KINDS)


def test_packaged_sentences_are_not_the_seven_tasks(found):
    found = changed(found, "pairwise", sts=sts_figures(50.0, ["mini-STS"]))
    assert cells(report.overview(found), "`pairwise`")[1:3] == ["not run", "not run"]
    assert "`pairwise`" not in report.sts(found) + report.subsets(found)


def test_checkpoints_stand_under_the_triplets_seen(found):
    table = report.checkpoints(found)
    assert table.splitlines()[0] == "| triplets seen | 0 | 1,024 |"
    assert cells(table, "base") == ["63.6", ""]
    assert cells(table, "`pairwise`") == ["", "73.1 (+5.0 %)"]


def test_a_trial_stands_beside_what_its_recipe_differs_in(found):
    points = [FrontierPoint(1024, 66.0, 20.2), FrontierPoint(2048, 70.0, 22.0)]
    recipe = {"objective": "pairwise", "learning_rate": 5e-4, "micro_batch": 8, "accumulation": 2, "template": "asked"}
    for run, reached, objective in (
        ("pairwise_2048_swapped", points, "pairwise"),
        ("one_word_2048", points[1:], "one_word"),
    ):
        own = recipe | {"objective": objective}
        found[run] = recorded_as(run, GridFigures(frontier=reached), recipe=own)
    table = report.trials(found)
    assert len(table.splitlines()) == 4 and "| 1,024 | 2,048 |" in table.splitlines()[0]
    assert cells(table, "`pairwise_2048_swapped`") == ["0.0005", "16", "asked", "66.0 (+1.0 %)", "70.0 (+10.0 %)"]
    assert cells(table, "`one_word_2048`") == ["0.0005", "16", "", "", "70.0 (+10.0 %)"]
    # The grid's own tables and the picture know nothing of it.
    told = report.checkpoints(found) + report.overview(found)
    assert "pairwise_2048_swapped" not in told and "one_word_2048" not in told


def test_a_finished_adapters_run_stands_beside_the_base_task_by_task(found):
    assert len(report.finished(found, "contrastive_kl").splitlines()) == 2  # not run
    found["contrastive_kl"] = found["pairwise"]
    table = report.finished(found, "contrastive_kl")
    peer = records.load_run(records.committed_folder() / f"{report.SCORED}.json", records.Comparison).figures.rows
    assert cells(table, "STS12, ρ × 100") == [
        "63.62 (62.6 to 64.6)",
        "73.12 (72.1 to 74.1)",
        "+9.50 (+8.1 to +11.0)",
        f"{peer[report.PEER].tasks['STS12'].value:.2f}",
    ]
    assert cells(table, "perplexity") == ["20.00", "21.00", "+5.0 %", ""]
    assert cells(table, "five benchmarks, 10 items")[-2] == "−0.8 ± 0.5"
    assert len(table.splitlines()) == 2 + 7 + 1 + 1 + 1 + 5 + 1
    found["one_word"] = found["one_word_seed_43"] = found["pairwise"]
    seed = cells(report.finished(found, "one_word"), "mean, `one_word_seed_43` alone")
    assert seed == ["", "73.12 (72.1 to 74.1)", "+9.50 (+8.1 to +11.0)", ""]


def test_the_parts_with_the_most_and_the_least_gain(found):
    gains = {"a": 3.0, "b": -2.0, "c": 1.0, "d": 0.5}
    for run, sign in (("base", 0), ("pairwise", 1)):
        tasks = {name: TaskScore(50.0 + sign * 0.75, 10) for name in report.STS_TASKS}
        tasks["STS12"] = TaskScore(50.0, 10, parts={part: 50 + sign * gain for part, gain in gains.items()})
        tasks |= {"SICK-R": TaskScore(50.0 + sign * 7, 10), "STS13": TaskScore(50.0 + sign * 0.7, 10)}
        found = changed(found, run, sts=StsFigures(RowScores.of(tasks), RowScores.of(tasks)))
    assert cells(report.subsets(found), "`pairwise`") == [
        "SICK-R +7.0, STS12 a +3.0, STS12 c +1.0",
        "STS12 b −2.0, STS12 d +0.5, STS13 +0.7",
    ]
    assert "base" not in report.subsets(found)


def test_a_block_is_written_anew_and_the_rest_stays(found):
    text = "before\n<!-- table overview -->\nstale\n<!-- end -->\nbetween\n<!-- table sts -->\n<!-- end -->\nafter\n"
    filled = report.fill(text, found)
    assert "stale" not in filled and report.overview(found) in filled and report.sts(found) in filled
    assert filled.startswith("before\n") and filled.endswith("\nafter\n") and "\nbetween\n" in filled
    assert report.fill(filled, found) == filled
    other = changed(found, "pairwise", sts=sts_figures(73.2))
    assert report.fill(filled, other) != filled, "a stale table is told"
    with pytest.raises(InputError, match="Unknown table 'overviev'.*'overview'"):
        report.fill("<!-- table overviev -->\n<!-- end -->", found)


def test_the_first_table_has_what_is_gained_and_what_it_costs(found):
    table = report.summary(found)
    assert len(table.splitlines()) == 2 + len(report.SUMMARY) and set(report.SUMMARY.values()) <= set(
        report.FIRST_SCREEN
    )
    paper = next(label for label, run in report.SUMMARY.items() if run == "pairwise")
    assert cells(table, paper) == ["73.12 (72.1 to 74.1)", "+9.50 (+8.1 to +11.0)", "", "21.00, +5.0 %"]
    assert cells(table, next(iter(report.SUMMARY))) == ["63.62 (62.6 to 64.6)", "", "", "20.00"]
    assert cells(table, list(report.SUMMARY)[1]) == ["not run", "not run", "", "not run"]


def test_records_are_read_by_model_and_run(found, tmp_path, monkeypatch):
    for run in ("pairwise", "base"):
        records.save_run(found[run], tmp_path)
    read = report.recorded_runs(folder=tmp_path)
    assert read == found
    assert report.recorded_runs("some/Other-1B", tmp_path) == dict.fromkeys(ALL)
    assert record_name("some/Other-1B", "base") == "reproduce_other-1b_base"
    monkeypatch.setattr(records, "committed_folder", lambda: tmp_path)
    drawn = report.pictures()
    assert set(drawn) == {"frontier", "layers", "gains", "costs"}
    first = drawn["frontier"][1]
    records.save_run(changed(found, "pairwise", frontier=[FrontierPoint(1024, 74.12, 21.0)])["pairwise"], tmp_path)
    assert report.pictures()["frontier"][1] != first


def test_curves_leave_out_what_was_not_run(found):
    runs, base = report.curves(found)
    assert list(runs) == ["pairwise"] and base.perplexity == 20.0
    assert report.curves(dict.fromkeys(RUNS)) == ({}, None)


def test_types_of_models_stand_by_what_came_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "committed_folder", lambda: tmp_path)
    looks_ahead = "BertLMHeadModel: no causal language model: a state depends on others. Name a decoder-only model."
    found = {
        "llama": records.FamilyOutcome("quick"),
        "doge": records.FamilyOutcome("another way", ["of more than 16 tokens", "no cache"]),
        "axk2": records.FamilyOutcome("another way", ["of more than 8 tokens", "no cache"]),
        "bert": records.FamilyOutcome("refused", reason=looks_ahead),
        "odd": records.FamilyOutcome("wrong", reason="a | b"),
    }
    records.save_run(records.run_record("families", found, headline=""), tmp_path)
    rows = [line.strip("| ").split(" | ") for line in report.families({}).splitlines()[2:]]
    assert rows == [
        ["exact, in every quick way", "", "1", "`llama`"],
        ["exact, another way", "of more than so many tokens; no cache", "2", "`doge`, `axk2`"],
        ["refused", "a state depends on others.", "1", "`bert`"],
        ["wrong", "a / b", "1", "`odd`"],
    ]
    assert cells(report.families_run({}), "5")[:6] == ["1", "2", "1", "0", "0", "1"]


# --- What notebooks show ---------------------------------------------------------------------------


def of_tasks(tasks) -> records.Comparison:
    base = TaskScore(50.0, 10, Interval(48.0, 52.0))
    better = replace(base, value=55.0, difference=Difference(5.0, Interval(3.0, 7.0), p_value=0.002))
    rows = {"PromptEOL": base, "SemPA": better}
    return records.Comparison(
        "PromptEOL", {name: RowScores(dict.fromkeys(tasks, score), score) for name, score in rows.items()}
    )


def test_a_comparison_of_several_tasks_has_a_column_for_each():
    several = report.compared(of_tasks(["A", "B"]), "mean of two").splitlines()
    assert several[0].startswith("|  | A | B | mean of two (95 % interval) | less PromptEOL (95 % interval) | p |")
    assert several[3].endswith("| 55.0 | 55.0 | 55.00 (48.0 to 52.0) | +5.00 (+3.0 to +7.0) | 0.002 |")
    one = report.compared(of_tasks(["A"]), "A").splitlines()
    assert one[2] == "| PromptEOL | 50.00 (48.0 to 52.0) |  |  |"


def test_only_the_seven_tasks_stand_beside_the_papers():
    named = {"PromptEOL": "PromptEOL", "SemPA": "SemPA"}
    whole = report.beside_published(of_tasks(report.STS_TASKS), named, source="this run").splitlines()
    assert len(whole) == 2 + 4 + 2 and whole[-1] == "| this run, SemPA | " + " | ".join(["55.00"] * 8) + " |"
    assert all("*published*" in line for line in whole[2:6])
    assert len(report.beside_published(of_tasks(["mini-STS"]), named, source="this run").splitlines()) == 2 + 4


def test_the_recipes_of_recorded_runs_say_what_they_differ_in(found):
    recipe = {"objective": "pairwise", "beta": 0.1, "learning_rate": 1e-4, "micro_batch": 8, "accumulation": 4}
    runs = found | {"pairwise": recorded_as("pairwise", figures(65.0, 22.0), recipe=recipe)}
    runs |= {run: None for run in report.FIRST_SCREEN if run not in ("base", "pairwise")}
    lines = report.recipes(runs).splitlines()
    assert lines[2:] == ["| `pairwise` | `pairwise` | β 0.1 | 0.0001 | 32 | 0 | 8,816 |"]


def test_the_figures_on_many_items_have_the_line_of_guessing():
    table = report.on_many_items({})
    assert table.splitlines()[-1] == "| guessing | 25.0 | 22.2 |  |" and "(" in table.splitlines()[3]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_drawn_twice_is_the_same_to_the_byte(tmp_path, ending):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        curves = {"pairwise": [FrontierPoint(1024, 66.0, 31.0)]}
        picture = report.PICTURES["frontier"][1](curves, FrontierPoint(0, 64.0, 30.0))
        report.save_picture(picture, tmp_path / folder / f"one.{ending}", mark="a1b2")
    first, second = ((tmp_path / folder / f"one.{ending}").read_bytes() for folder in ("first", "second"))
    assert first == second and b"a1b2" in first


def test_the_controls_stand_below_the_run_that_nothing_was_taken_from():
    recorded = report.recorded_runs()
    assert report.replace(report.RUNS[report.SEMPA], rows=1024) == report.TRIALS["pairwise_kl_1024"]
    whole, *others = report.controls(recorded).splitlines()[2:]
    assert whole.startswith("| `pairwise_kl_1024` |")
    assert [line.split("`")[1] for line in others] == [run for run, one in report.TRIALS.items() if one.control]
    without = report.controls(recorded | {"pairwise_alike_long": None})
    assert "alike_long" not in without and len(without.splitlines()) == len(others) + 2
