"""Published tables, the record of a run and its types, old records, and tables that set the two side by side."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sempa_utils import records
from sempa_utils.checks import InputError
from sempa_utils.data.corpora import STS_TASKS
from sempa_utils.experiments.effect import Effect

# --- Published figures -------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["table3_sts", "table8_seeds"])
def test_the_average_of_a_published_row_is_the_mean_of_its_tasks(table):
    rows = records.published(table)
    assert len(rows) == {"table3_sts": 18, "table8_seeds": 3}[table]
    for row in rows:
        mean = sum(row[task] for task in STS_TASKS) / 7
        # Rounding of the tasks and of the mean can add up to one hundredth.
        assert row["Avg"] == pytest.approx(mean, abs=0.0101), row


def test_published_tables_agree_where_they_show_the_same_figure():
    trained = records.published("table4_templates")[0]
    assert trained["paraphrase_template_id"] == "keep_same_meaning"
    assert trained["promptEOL_llama2"] == records.published_sts("LLaMA2-7B", "SemPA")["Avg"]
    assert trained["promptEOL_llama3"] == records.published_sts("LLaMA3-8B", "SemPA")["Avg"]
    averages = [row["Avg"] for row in records.published("table8_seeds")]
    assert np.mean(averages) == pytest.approx(78.10, abs=0.01)
    assert np.std(averages, ddof=1) == pytest.approx(0.36, abs=0.01)


@pytest.mark.parametrize("name", records.PUBLISHED)
def test_every_published_table_is_rectangular(name):
    rows = records.published(name)
    assert rows
    for row in rows:
        assert None not in row and None not in row.values() and "" not in row.values()
        assert not any(isinstance(value, float) and math.isnan(value) for value in row.values())


def test_what_was_read_off_a_plot_says_so():
    text = (records.PUBLISHED_FOLDER / "figure3_data_size.csv").read_text(encoding="utf8")
    assert text.startswith("# read off the plot")
    assert "read off" in records.PUBLISHED["figure3_data_size"]
    assert records.published("figure3_data_size")[0]["triplets_10k"] == 0


def test_one_published_row():
    row = records.published_sts("LLaMA2-7B", "PromptEOL")
    assert list(row) == [*STS_TASKS, "Avg"]
    assert (row["STS12"], row["SICK-R"], row["Avg"]) == (58.81, 69.64, 70.03)


def test_unknown_tables_and_rows_name_the_nearest():
    with pytest.raises(InputError, match="Unknown published table 'table3'. Did you mean 'table3_sts'"):
        records.published("table3")
    with pytest.raises(
        InputError, match="Unknown row of Table 3 'LLaMA2-7B: PromptEol'. Did you mean 'LLaMA2-7B: PromptEOL'"
    ):
        records.published_sts("LLaMA2-7B", "PromptEol")


# --- plain -------------------------------------------------------------------------------------


def test_plain_python_comes_of_tensors_and_arrays():
    value = {
        "tensor": torch.tensor([[1.0, 2.0]]),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "half": torch.tensor(0.5, dtype=torch.bfloat16),
        "array": np.array([1, 2]),
        "number": np.float64(0.25),
        "truth": np.bool_(True),
        1: (1, 2.5, None, "text"),
    }
    plain = records.plain(value)
    assert plain == {
        "tensor": [[1.0, 2.0]],
        "scalar": 3,
        "half": 0.5,
        "array": [1, 2],
        "number": 0.25,
        "truth": True,
        "1": [1, 2.5, None, "text"],
    }
    assert json.loads(json.dumps(plain)) == plain
    assert type(plain["truth"]) is bool and type(plain["number"]) is float


@pytest.mark.parametrize(
    ("value", "kept"),
    [(1 / 3, 0.333333), (123456.789, 123457.0), (1.23456789e-9, 1.23457e-9), (0.1 + 0.2, 0.3), (7, 7)],
)
def test_floats_keep_six_digits_and_integers_all(value, kept):
    assert records.plain(value) == kept
    assert records.plain(10**12 + 1) == 10**12 + 1


# --- save_run ----------------------------------------------------------------------------------


def save(folder, figures=None, **origin):
    figures = {"rho": 1.5} if figures is None else figures
    record = records.run_record("a_run", figures, headline="rho 1.5", origin=records.Origin(**origin))
    return records.save_run(record, folder)


def test_a_record_comes_back_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_PROFILE", "smoke")
    model = {"name": "org/model", "precision": "nf4", "fingerprint": "0" * 16, "adapter": None, "parameters": 3}
    data = [{"name": "NLI triplets", "rows": 5, "source": "mini corpus", "fingerprint": "1" * 16, "dropped": {}}]
    path = save(
        tmp_path / "records",
        {"rho": np.float64(59.123456789), "curve": torch.ones(2), "missing": None},
        model=model,
        data=data,
        settings={"beta": 0.1, "pairs": None},
        seed=7,
    )
    assert path == tmp_path / "records" / "a_run.json"
    record = records.load_run(path)
    assert record.schema == records.SCHEMA
    assert record.figures == {"rho": 59.1235, "curve": [1.0, 1.0], "missing": None}
    assert (record.name, record.headline, record.seed, record.profile) == ("a_run", "rho 1.5", 7, "smoke")
    assert record.model == model and record.data == data
    assert record.settings == {"beta": 0.1, "pairs": None}
    assert record.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(records.VERSIONED) < set(record.versions)
    assert record.machine["cores"] >= 1 and record.machine["memory_gigabytes"] >= 1
    assert record.machine["processor"] and isinstance(record.machine["bfloat16"], bool)
    assert len(record.date.split("-")) == 3
    assert [entry.name for entry in path.parent.iterdir()] == ["a_run.json"]


@pytest.mark.parametrize(
    "wrong", [math.nan, -math.inf, torch.tensor(math.nan), [np.float32("inf")], {"a": {"b": math.nan}}]
)
def test_a_figure_that_is_no_number_is_refused_and_nothing_is_written(tmp_path, wrong):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(tmp_path / "records", {"rho": wrong})
    assert not list(tmp_path.rglob("*"))


def test_a_refused_record_leaves_the_old_one(tmp_path):
    path = save(tmp_path, {"rho": 1.0})
    before = path.read_bytes()
    with pytest.raises(ValueError):
        save(tmp_path, {"rho": math.nan})
    with pytest.raises(TypeError):
        save(tmp_path, {"rho": {1, 2}})  # JSON has no sets
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a_run.json"]


def test_the_default_place_is_the_build_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path))
    record = records.run_record("a_run", {}, headline="nothing")
    assert records.save_run(record) == tmp_path / "records" / "a_run.json"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ["/opt/kit/sempa_utils/__main__.py", "train", "--output", "/home/anna/out"],
            "python -m sempa_utils train --output out",
        ),
        (["/opt/bin/pytest", "--data=/home/anna/data", "--seed=3"], "pytest --data=data --seed=3"),
        (["/opt/bin/kernel.py", "-f", "/home/anna/.local/share/kernel-1.json"], "kernel.py -f kernel-1.json"),
        (["it's.py", "two words", "build/adapter"], """'it'"'"'s.py' 'two words' build/adapter"""),
        (
            ["x.py", "--adapter", "../../home/anna/one", "--adapter=~/two", "a=/home/anna/b,/home/anna/c,build/d"],
            "x.py --adapter one --adapter=two a=b,c,build/d",
        ),
        ([""], "''"),
    ],
)
def test_the_command_has_no_path_of_somebodys_machine(tmp_path, monkeypatch, arguments, command):
    monkeypatch.delenv("SEMPA_COMMAND", raising=False)
    monkeypatch.setattr(sys, "argv", arguments)
    assert records.load_run(save(tmp_path)).command == command


def test_the_command_may_be_named_by_who_started_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_COMMAND", "make run PROFILE=cpu")
    assert records.load_run(save(tmp_path)).command == "make run PROFILE=cpu"


def test_a_record_has_no_absolute_path(tmp_path, monkeypatch):
    monkeypatch.delenv("SEMPA_COMMAND", raising=False)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "tool.py"), str(tmp_path / "input")])
    # A model in a local directory and its adapter are named by their paths when they are loaded.
    model = {
        "name": str(tmp_path / "models" / "llama"),
        "adapter": str(tmp_path / "adapters" / "mine"),
        "parameters": 3,
    }
    path = save(tmp_path, model=model)
    text = path.read_text(encoding="utf8")
    for place in (tmp_path, Path.home(), Path(records.__file__).parents[2], Path(sys.prefix)):
        assert str(place) not in text
    assert records.load_run(path).model == {"name": "llama", "adapter": "mine", "parameters": 3}


def test_committed_records_have_no_path_of_a_machine():
    paths = sorted(records.committed_folder().rglob("*.json"))
    assert len(paths) > 20
    for path in paths:
        values = [json.loads(path.read_text(encoding="utf8"))]
        while values:
            value = values.pop()
            if isinstance(value, (dict, list)):
                values.extend(value.values() if isinstance(value, dict) else value)
            elif isinstance(value, str):
                assert not Path(value).is_absolute(), (path.name, value)
                assert not re.search(r"(^|[\s=,'\"])(/|~|\.\./)\w", value), (path.name, value)
    assert records.committed_folder().name == "results"


# --- types -------------------------------------------------------------------------------------

INTERVAL = records.Interval(-1.25, 2.5)
DIFFERENCE = records.Difference(0.5, INTERVAL, 0.25, 0.04)
SCORE = records.TaskScore(73.1, 40, INTERVAL, 1.5, {"FNWN": 1.0}, DIFFERENCE)
ROW = records.RowScores({"STS12": SCORE, "bare": records.TaskScore(1.0, 2)}, records.TaskScore(37.0, 42))
COMPARISON = records.Comparison("base", {"base": ROW, "pairwise": ROW})
POINT = records.CurvePoint(1, 0.7, 0.0, 0.5, 0.1, -0.1, 1e-4, 2.5, 0.01)
MEAN = records.CurveMean(0.5, 0.1, 0.75)
RECIPE = {"objective": "listwise", "micro_batch": 8, "accumulation": 4, "cache_reference": None}
TRAINING = records.TrainingRecord(
    recipe=RECIPE,
    candidates=3,
    curve=[POINT],
    fingerprint="0" * 16,
    model={"name": "m"},
    data={"rows": 5},
    last_quarter=MEAN,
    steps=1,
    rows_too_long=0,
    trainable_parameters=9,
    seconds=1.5,
    peak_memory_bytes=10**10,
    resumed_from_step=0,
    triplets_per_second=2.25,
    adapter_fingerprint="1" * 16,
)
GRID = records.GridFigures(
    train=records.TrainingFigures(5, MEAN, 1, 2.5, 2.0, 9, 0),
    sts=records.StsFigures(ROW, ROW),
    geometry={"sentences": 40, "uniformity": -1.5},
    layers=records.LayerFigures([None, 1.5], [0.0, 0.5], [0.0, 0.25]),
    signals={"perplexity": 29.5},
    frontier=[records.FrontierPoint(8, 64.5, 29.25)],
    generation=records.GenerationFigures(ROW, {"gsm8k": {"rows": 3}}),
    dev=records.DevFigures(ROW, [{"name": "STS-B dev", "rows": 3}], {"STS-B dev": 1, "any": 1}),
    gold_answers=records.GenerationFigures(ROW, {"drop": {"rows": 3, "tokens": 9}}),
)
CURVE = records.DataSizeCurve("STS-B", [records.DataSizePoint(8, 61.5, ROW)])
VALUES = [INTERVAL, DIFFERENCE, SCORE, ROW, COMPARISON, POINT, MEAN, TRAINING, GRID, CURVE]
VALUES += [records.SeedSpread({42: ROW, 43: ROW}, 1.5, 0.25), records.NotebookCost(6.5, 10**9, "a figure")]
VALUES += [records.TrainingCurve(recipe=RECIPE, candidates=3, curve=[POINT]), records.GridFigures()]
FOUND = records.SearchPoint({"batch": 8}, 256, ROW, 29.5, 60.0, 30.0)
VALUES += [
    FOUND,
    LEFT := records.LeftOut({"batch": 16}, 512, 180.5),
    records.SearchFigures(60.0, 1.0, FOUND, [FOUND], [LEFT]),
]
VALUES += [records.Origin({"name": "m"}, [{"rows": 5}], {"beta": 0.1, "limit": None}, 42), records.Origin()]
VALUES += [records.FamilyOutcome("wrong", ["padded"], {"perplexity": 0.5}, "perplexity")]
VALUES += [CURVE.points[0], GRID.train, GRID.sts, GRID.layers, GRID.frontier[0], GRID.generation, GRID.dev]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_type_comes_back_from_its_json(tmp_path, value):
    path = records.write_json(tmp_path / "value.json", value)
    assert records.read_json(path, type(value)) == value
    record = records.run_record("a_run", value, headline="all of it", origin=records.Origin(seed=42))
    path = records.save_run(record, tmp_path)
    assert records.load_run(path, type(value)) == record
    assert list(tmp_path.iterdir()) and "null" not in records.write_json(path, ROW).read_text(encoding="utf8")


def test_every_type_is_tried():
    types = {name for name, kind in vars(records).items() if isinstance(kind, type)}
    assert types - {"RunRecord"} == {type(value).__name__ for value in VALUES}


def test_floats_are_rounded_in_a_record_and_exact_where_it_is_asked_for(tmp_path):
    value = records.Interval(1 / 3, 2 / 3)
    rounded, exact = (
        records.write_json(tmp_path / f"{digits}.json", value, digits=digits) for digits in (6, records.EXACT)
    )
    assert records.read_json(rounded, records.Interval) == records.Interval(0.333333, 0.666667)
    assert records.read_json(exact, records.Interval) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widht": 3}, "widht: Unexpected keyword argument"),
        ({"high": None}, "high: Input should be a valid number"),
        ({"high": "wide"}, "high: Input should be a valid number"),
        ({"low": "x", "high": "y"}, "low: .*, and 1 more"),
    ],
)
def test_a_field_that_a_type_does_not_have_is_one_error_that_names_the_file(tmp_path, change, message):
    path = tmp_path / "interval.json"
    path.write_text(json.dumps({"low": 1.0, "high": 2.0} | change), encoding="utf8")
    with pytest.raises(InputError, match=f"interval.json: {message}.*Correct the field") as refusal:
        records.read_json(path, records.Interval)
    assert "\n" not in str(refusal.value)


def test_an_unknown_field_deep_in_a_record_is_named_with_its_place(tmp_path):
    path = records.save_run(records.run_record("deep", COMPARISON, headline="x"), tmp_path)
    tables = json.loads(path.read_text(encoding="utf8"))
    tables["figures"]["rows"]["pairwise"]["tasks"]["STS12"]["interval"]["middle"] = 0
    path.write_text(json.dumps(tables), encoding="utf8")
    with pytest.raises(InputError, match=r"deep.json: figures.rows.pairwise.tasks.STS12.interval.middle: Unexpected"):
        records.load_run(path, records.Comparison)
    tables["schema"] = 3
    path.write_text(json.dumps(tables), encoding="utf8")
    with pytest.raises(InputError, match="deep.json: its schema is 3, and this kit reads up to 2. Update the kit"):
        records.load_run(path, records.Comparison)


@pytest.mark.parametrize("text", ["", "{", '{"low": 1', "\xff"])
def test_a_broken_file_is_one_error_that_names_it(tmp_path, text):
    (tmp_path / "cut.json").write_bytes(text.encode("latin1"))
    for read in (records.load_run, lambda path: records.read_json(path, records.Interval)):
        with pytest.raises(InputError, match="cut.json: not (readable as JSON|UTF-8 text)"):
            read(tmp_path / "cut.json")
    (tmp_path / "cut.json").write_text('["no record"]')
    with pytest.raises(InputError, match="cut.json: not the record of a run"):
        records.load_run(tmp_path / "cut.json")


# --- records of schema 1 -----------------------------------------------------------------------

KINDS = {
    "reproduce": records.GridFigures,
    "train": records.TrainingRecord,
    "sts": records.Comparison,
    "generation": records.Comparison,
    "dev": records.Comparison,
    "search": records.SearchFigures,
    "make": dict[str, records.NotebookCost],
    "families": dict[str, records.FamilyOutcome],
    "effect": dict[str, Effect],
}
COMMITTED = sorted(records.committed_folder().rglob("*.json"))


def old(name: str) -> dict:
    return json.loads((records.committed_folder() / f"{name}.json").read_text(encoding="utf8"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_committed_record_is_read_as_its_type_and_comes_back(tmp_path, path):
    kind = KINDS.get(path.stem.split("_")[0], dict)
    record = records.load_run(path, kind)
    raw = json.loads(path.read_text(encoding="utf8"))
    assert record.name == raw["name"] and record.machine == raw["machine"] and record.schema == 2
    assert (record.data, record.seed, record.date) == (raw.get("data"), raw.get("seed"), raw.get("date"))
    if kind is dict:
        assert record.figures == raw["figures"], "notebooks and benchmarks have tables of their own"
    assert records.load_run(records.save_run(record, tmp_path), kind) == record


def leaves(value) -> list:
    if isinstance(value, (dict, list)):
        return [leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in leaves(item)]
    return [] if value is None else [value]


OLD = [path for path in COMMITTED if path.stem.split("_")[0] in ("sts", "generation")]
OLD = [path for path in OLD if "schema" not in json.loads(path.read_text(encoding="utf8"))]


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_no_figure_of_an_old_comparison_is_lost_or_made_up(path):
    before = json.loads(path.read_text(encoding="utf8"))["figures"]
    figures = records.load_run(path, records.Comparison).figures
    after = leaves(records.plain(figures.rows))
    assert {leaf for leaf in leaves(before) if isinstance(leaf, float)} == {
        leaf for leaf in after if isinstance(leaf, float)
    }
    assert figures.against in figures.rows and set(figures.rows) == set(before) - {"less the base"}


def test_an_old_record_of_the_grid_keeps_its_figures_in_their_new_places():
    raw = old("reproduce_smollm2-135m-instruct_contrastive_kl")["figures"]
    path = records.committed_folder() / "reproduce_smollm2-135m-instruct_contrastive_kl.json"
    figures = records.load_run(path, records.GridFigures).figures
    scores, unseen = figures.sts.scores, figures.sts.without_training_sentences
    for task, score in raw["sts"]["tasks"].items():
        migrated, less = scores.tasks[task], raw["sts"]["difference"][task]
        assert (migrated.value, migrated.count, migrated.parts or {}) == (
            score["spearman"],
            score["pairs"],
            score["subsets"],
        )
        assert migrated.interval == records.Interval(score["low"], score["high"])
        span = records.Interval(less["low"], less["high"])
        assert migrated.difference == records.Difference(less["difference"], span, p_value=less["p_value"])
        others = raw["sts"]["without_training_sentences"][task]
        assert unseen.tasks[task] == records.TaskScore(others["spearman"], score["pairs"] - others["left_out"])
    assert unseen.mean.value == raw["sts"]["without_training_sentences"]["mean"]
    assert scores.mean.count == sum(score["pairs"] for score in raw["sts"]["tasks"].values())
    assert records.plain(figures.train) == raw["train"] and records.plain(figures.layers) == raw["layers"]
    assert figures.geometry == raw["geometry"] and figures.signals == raw["signals"]
    assert records.plain(figures.frontier) == raw["frontier"]["points"]
    for task, score in raw["generation"]["tasks"].items():
        less = records.Difference(score["difference"], standard_error=score["difference_standard_error"])
        assert figures.generation.scores.columns[task] == records.TaskScore(
            score["value"], score["items"], standard_error=score["standard_error"], difference=less
        )
    assert figures.generation.data == raw["generation"]["data"]


def test_an_old_record_of_training_is_a_training_record():
    raw = old("train_contrastive_kl_weight_10")
    path = records.committed_folder() / "train_contrastive_kl_weight_10.json"
    run = records.load_run(path, records.TrainingRecord).figures
    assert records.plain(run.curve) == raw["figures"]["curve"] and run.curve[63].divergence > 0
    assert (run.objective, run.batch, run.recipe) == ("contrastive", 16, raw["settings"])
    assert run.model == raw["model"] and run.data == raw["data"] and run.adapter == Path()
    assert records.plain(run.last_quarter) == raw["figures"]["last_quarter"]


def test_the_first_records_name_no_objective():
    run = records.TrainingCurve(recipe={"micro_batch": 4, "accumulation": 2}, curve=[])
    assert (run.objective, run.candidates, run.batch) == ("pairwise", 2, 8)


def test_the_mean_of_a_row_is_that_of_its_tasks():
    row = records.RowScores.of({"a": records.TaskScore(10.0, 3), "b": records.TaskScore(40.0, 5)})
    assert row.mean == records.TaskScore(25.0, 8) and list(row.columns) == ["a", "b", "mean"]


# --- Tables ------------------------------------------------------------------------------------


def test_a_settings_table_has_a_row_for_each_difference():
    table = records.settings_table([("triplets", "40K–80K", 256), ("precision", "bf16", "nf4")])
    assert table.splitlines() == [
        "| | the paper's setting | this run's setting |",
        "|---|---|---|",
        "| triplets | 40K–80K | 256 |",
        "| precision | bf16 | nf4 |",
    ]


def test_a_table_has_a_cell_for_each_row_and_column():
    rows = {"one": {"a": -1.234, "b": 12000}, "two": {"b": "text", "c": float("nan")}, "three": {"c": None}}
    assert records.table(rows, digits={"a": 1}, corner="x").splitlines() == [
        "| x | a | b | c |",
        "| --- | --- | --- | --- |",
        "| one | −1.2 | 12,000 |  |",
        "| two |  | text |  |",
        "| three |  |  |  |",
    ]
    assert "| −1.23 |" in records.table({"one": {"a": -1.234}})


def test_a_table_of_recipes_says_what_runs_differ_in():
    preference = {"objective": "pairwise", "beta": 0.1, "learning_rate": 1e-4, "micro_batch": 8, "accumulation": 4}
    baseline = {"objective": "contrastive", "temperature": 0.05, "learning_rate": 5e-4, "micro_batch": 16}
    runs = {"SemPA": (preference, 1024), "other": (baseline | {"accumulation": 1, "kl_weight": 10.0, "beta": 0.1}, 96)}
    lines = records.recipe_table(runs).splitlines()
    assert lines[0] == "| run | objective | β or τ | learning rate | rows a step | KL weight | rows |"
    assert lines[2] == "| SemPA | `pairwise` | β 0.1 | 0.0001 | 32 | 0 | 1,024 |"
    assert lines[3] == "| other | `contrastive` | τ 0.05 | 0.0005 | 16 | 10 | 96 |"


def test_the_papers_settings_stand_in_one_place():
    assert records.paper_settings({"β": 2.0}) == [("β", records.PAPER["β"], 2.0)]
    with pytest.raises(KeyError):
        records.paper_settings({"of no name": 1})


def run_of(gpu=None, **notebooks) -> str:
    machine = {"gpu": gpu, "cores": 2, "system": "Linux x86_64"}
    costs = {name: {"seconds": seconds, "peak_memory_bytes": size} for name, (seconds, size) in notebooks.items()}
    about = {"name": "make_run", "headline": "done", "command": "make run", "model": "packaged", "versions": {}}
    return json.dumps(about | {"machine": machine, "notebooks": costs})


def test_costs_come_from_recorded_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(records.store, "committed_folder", lambda: tmp_path)
    (tmp_path / "make_run_cpu.json").write_text(run_of(two=(150, 3 * 2**30), one=(6, 2**29)))
    (tmp_path / "make_run_24gb.json").write_text(run_of("NVIDIA A10", one=(60, 2**30)))
    lines = records.costs("two").splitlines()
    assert lines[:2] == ["| profile | for | time | peak memory | measured on |", "|---|---|---|---|---|"]
    rows = {line.split(" | ")[0].strip("| "): line for line in lines[2:]}
    assert list(rows) == ["cpu", "t4", "24gb", "paper"], "the tests' own profile is not shown"
    assert rows["cpu"] == "| cpu | a laptop with two cores | 2.5 min | 3.0 GiB | 2 cores, Linux x86_64 |"
    # No record, or a record without this notebook: said, not guessed.
    assert "not yet measured" in rows["paper"] and "not yet measured" in rows["24gb"]
    assert "1.0 min | 1.0 GiB | NVIDIA A10" in records.costs("one")
    assert {line.count("|") for line in lines} == {6}
