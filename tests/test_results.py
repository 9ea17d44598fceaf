"""Published tables, the record of a run, and tables that set the two side by side."""

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


def save(folder, figures=None, **keywords):
    return records.save_run("a_run", {"rho": 1.5} if figures is None else figures, "rho 1.5", folder=folder, **keywords)


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
    assert record["figures"] == {"rho": 59.1235, "curve": [1.0, 1.0], "missing": None}
    assert (record["name"], record["headline"], record["seed"], record["profile"]) == ("a_run", "rho 1.5", 7, "smoke")
    assert record["model"] == model and record["data"] == data
    assert record["settings"] == {"beta": 0.1, "pairs": None}
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(records.VERSIONED) < set(record["versions"])
    assert record["machine"]["cores"] >= 1 and record["machine"]["memory_gigabytes"] >= 1
    assert len(record["date"].split("-")) == 3
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
    assert records.save_run("a_run", {}, "nothing") == tmp_path / "records" / "a_run.json"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/opt/kit/sempa_utils/__main__.py", "train", "--output", "/home/anna/out"],
         "python -m sempa_utils train --output out"),
        (["/opt/bin/pytest", "--data=/home/anna/data", "--seed=3"], "pytest --data=data --seed=3"),
        (["/opt/bin/kernel.py", "-f", "/home/anna/.local/share/kernel-1.json"], "kernel.py -f kernel-1.json"),
        (["it's.py", "two words", "build/adapter"], """'it'"'"'s.py' 'two words' build/adapter"""),
        (["x.py", "--adapter", "../../home/anna/one", "--adapter=~/two", "a=/home/anna/b,/home/anna/c,build/d"],
         "x.py --adapter one --adapter=two a=b,c,build/d"),
        ([""], "''"),
    ],
)  # fmt: skip
def test_the_command_has_no_path_of_somebodys_machine(tmp_path, monkeypatch, arguments, command):
    monkeypatch.delenv("SEMPA_COMMAND", raising=False)
    monkeypatch.setattr(sys, "argv", arguments)
    assert records.load_run(save(tmp_path))["command"] == command


def test_the_command_may_be_named_by_who_started_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_COMMAND", "make run PROFILE=cpu")
    assert records.load_run(save(tmp_path))["command"] == "make run PROFILE=cpu"


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
    assert records.load_run(path)["model"] == {"name": "llama", "adapter": "mine", "parameters": 3}


def test_committed_records_have_no_path_of_a_machine():
    paths = sorted(records.committed_folder().rglob("*.json"))
    assert len(paths) > 20
    for path in paths:
        values = [records.load_run(path)]
        while values:
            value = values.pop()
            if isinstance(value, (dict, list)):
                values.extend(value.values() if isinstance(value, dict) else value)
            elif isinstance(value, str):
                assert not Path(value).is_absolute(), (path.name, value)
                assert not re.search(r"(^|[\s=,'\"])(/|~|\.\./)\w", value), (path.name, value)
    assert records.committed_folder().name == "results"


# --- Tables ------------------------------------------------------------------------------------


def test_a_settings_table_has_a_row_for_each_difference():
    table = records.settings_table([("triplets", "40K–80K", 256), ("precision", "bf16", "nf4")])
    assert table.splitlines() == [
        "| | the paper's setting | this run's setting |",
        "|---|---|---|",
        "| triplets | 40K–80K | 256 |",
        "| precision | bf16 | nf4 |",
    ]


def run_of(gpu=None, **notebooks) -> str:
    machine = {"gpu": gpu, "cores": 2, "system": "Linux x86_64"}
    costs = {name: {"seconds": seconds, "peak_memory_bytes": size} for name, (seconds, size) in notebooks.items()}
    return json.dumps({"machine": machine, "notebooks": costs})


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
