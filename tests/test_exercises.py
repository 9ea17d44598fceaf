"""The checkers: right answers pass, each plausible slip is named, and no answer can crash them."""

import ast
import importlib
import re
import sys
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from scipy import stats

from sempa_utils import exercises

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))
import exercises as editions  # noqa: E402

SOURCES = dict(zip(("theory", "training", "space", "sts", "generation"), sorted((NOTEBOOKS / "source").glob("0*.py"))))
ANSWERS = {module: importlib.import_module(f"answers_{module}") for module in SOURCES}
RIGHT = [answer for module in ANSWERS.values() for answer in module.RIGHT]
WRONG = [answer for module in ANSWERS.values() for answer in module.WRONG]
IN_NOTEBOOK = {module: jupytext.read(path) for module, path in SOURCES.items()}


IMPORTS = {
    "import torch": ("torch", torch),
    "import numpy as np": ("np", np),
    "from scipy import stats": ("stats", stats),
}


def imported(module: str) -> dict:
    """What a solution may use: the libraries that its notebook has imported."""
    text = SOURCES[module].read_text(encoding="utf8")
    return dict(named for line, named in IMPORTS.items() if f"\n{line}\n" in text)


def names(module: str) -> list[str]:
    return [one.name for one in exercises.EXERCISES.values() if one.module == module]


@pytest.mark.parametrize("module", SOURCES)
def test_a_notebook_has_six_exercises_or_more_of_different_difficulty(module):
    own = [exercises.EXERCISES[name] for name in names(module)]
    assert len(own) >= 6
    assert len({one.difficulty for one in own}) >= 2
    assert all(one.difficulty in (1, 2, 3) and one.minutes > 0 and one.task for one in own)


@pytest.mark.parametrize("module", SOURCES)
def test_the_notebook_has_every_exercise_of_its_module_with_a_solution(module):
    assert list(editions.solutions(IN_NOTEBOOK[module])) == names(module)
    text = SOURCES[module].read_text(encoding="utf8")
    assert f'exercises.overview("{module}")' in text
    for name in names(module):
        one = exercises.EXERCISES[name]
        assert f"def {one.signature}:\n    raise NotImplementedError" in text, name
        assert f'exercises.check("{name}", {name})' in text
        assert re.search(rf"\({one.stars}, {one.minutes} minutes\)", text), name


@pytest.mark.parametrize("module", SOURCES)
def test_an_exercise_takes_no_name_that_the_notebook_needs_afterwards(module):
    code = [cell.source for cell in IN_NOTEBOOK[module].cells if cell.cell_type == "code"]
    last = max(place for place, source in enumerate(code) if "exercises.check(" in source)
    used = {
        node.id for source in code[last + 1 :] for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)
    }
    assert not used & set(names(module))


@pytest.mark.parametrize("module, name", [(module, name) for module in SOURCES for name in names(module)])
def test_the_folded_solution_passes(module, name):
    namespace = imported(module)
    exec(editions.solutions(IN_NOTEBOOK[module])[name], namespace)
    report = exercises.check(name, namespace[name])
    assert report.ok, str(report)
    assert report.passed and "Well done" in str(report)


@pytest.mark.parametrize("name, function", RIGHT, ids=[f"{name}-{place}" for place, (name, _) in enumerate(RIGHT)])
def test_a_right_answer_of_another_style_passes(name, function):
    report = exercises.check(name, function)
    assert report.ok, str(report)


@pytest.mark.parametrize("name, function, message", WRONG, ids=[f"{name}: {message}" for name, _, message in WRONG])
def test_a_wrong_answer_fails_with_a_message_that_helps(name, function, message):
    torch.manual_seed(0)
    np.random.seed(0)
    report = exercises.check(name, function)
    assert not report.ok
    assert message in str(report), str(report)
    assert "Well done" not in str(report)


def test_every_exercise_is_fed_right_answers_and_five_different_wrong_ones():
    told = Counter(name for name, message in {(name, message) for name, _, message in WRONG})
    assert {name: told[name] for name in exercises.EXERCISES if told[name] < 5} == {}
    assert {name for name, _ in RIGHT} == set(exercises.EXERCISES)


def raises(*arguments):
    raise RuntimeError("a bug of mine")


def leaves(*arguments):
    raise SystemExit("gone")


BROKEN = [
    (raises, "raised RuntimeError: a bug of mine"),
    (leaves, "raised SystemExit"),
    (lambda *arguments: None, "returned None"),
    (lambda *arguments: ..., "returned Ellipsis"),
    (lambda *arguments: "text", "✗"),
    (lambda *arguments: object(), "✗"),
    (lambda *arguments: torch.tensor(torch.nan), "✗"),
    (lambda *arguments: torch.zeros(0), "✗"),
]


@pytest.mark.parametrize("name", exercises.EXERCISES)
@pytest.mark.parametrize("function, message", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_function_never_crashes_the_checker(name, function, message):
    report = exercises.check(name, function)
    assert not report.ok
    assert message in str(report)


@pytest.mark.parametrize("name", [name for name, one in exercises.EXERCISES.items() if "()" not in one.signature])
def test_the_wrong_number_of_arguments_is_told_the_signature(name):
    assert f"it is called as {exercises.EXERCISES[name].signature}" in str(exercises.check(name, lambda: 1))


def test_an_overwritten_input_is_told_and_does_not_spoil_the_next_check():
    def overwrites(scores):
        return scores.mul_(0)

    def overwrites_a_list(sentences):
        sentences[0][0] = 0.0
        return 1.0

    assert "in place" in str(exercises.check("best_of_probability", overwrites))
    assert "in place" in str(exercises.check("perplexity_of", overwrites_a_list))
    assert exercises.check("best_of_probability", lambda scores: scores.softmax(-1)[..., 0]).ok


def unwritten(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("name", exercises.EXERCISES)
def test_an_unwritten_function_is_told_so_once(name):
    assert list(exercises.check(name, unwritten).failed) == ["it is written"]


def test_not_a_function():
    assert "hand over the function itself" in str(exercises.check("dpo_loss", 3.0))


def test_an_unknown_exercise_names_the_known_ones():
    with pytest.raises(KeyError, match="best_of_probability"):
        exercises.check("no_such", print)


@pytest.mark.parametrize("module", SOURCES)
def test_the_overview_lists_the_exercises_of_a_notebook(module):
    table = exercises.overview(module).splitlines()
    assert len(table) == 2 + len(names(module))
    assert all(row.count("|") == 5 for row in table)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_states_of_a_padded_batch_are_those_of_each_sentence_alone(tiny, side):
    sentences = ["The shop opens at nine.", "My sister plays the cello on Sundays.", "It rains."]
    namespace = imported("sts")
    exec(editions.solutions(IN_NOTEBOOK["sts"])["last_states"], namespace)
    batch = tiny.tokenizer(sentences, padding=True, padding_side=side, return_tensors="pt")
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = tiny.model.model(**batch.to(tiny.device), position_ids=positions).last_hidden_state.numpy()
        alone = [tiny.model.model(**tiny.tokenizer(one, return_tensors="pt"))[0][0, -1].numpy() for one in sentences]
    found = namespace["last_states"](padded, batch["attention_mask"].numpy())
    assert np.allclose(found, alone, atol=1e-4)


# --- the two editions -----------------------------------------------------------------------------

SMALL = """# %% [markdown]
# # Small
# **1** (★, 5 minutes). Write it.

# %%
from sempa_utils import exercises


def best_of_probability(scores):
    raise NotImplementedError


exercises.check("best_of_probability", best_of_probability)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def best_of_probability(scores):
#     return scores.softmax(dim=-1)[..., 0]
# ```
# Why so.
# </details>

# %%
print("and on it goes")
"""


def make(tmp_path, monkeypatch, text: str) -> int:
    """Run the tool on one notebook in a folder of its own."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "01_small.py").write_text(text, encoding="utf8")
    monkeypatch.setattr(editions, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["exercises.py", "--build", str(tmp_path / "build")])
    return editions.main()


def run(path: Path) -> str:
    """Execute a notebook and return what its cells show."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=None, startup_timeout=600, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_both_editions_of_a_small_notebook_run_from_end_to_end(tmp_path, monkeypatch):
    assert make(tmp_path, monkeypatch, SMALL) == 0
    student, solved = (tmp_path / "build" / "exercises" / edition / "01_small.ipynb" for edition in editions.EDITIONS)
    assert "details" not in student.read_text("utf8") and "softmax" not in student.read_text("utf8")
    shown = run(student)
    assert "replace `raise NotImplementedError` by your answer" in shown and "and on it goes" in shown
    assert "Well done" in run(solved)


def test_an_exercise_without_a_solution_is_one_clear_error(tmp_path, monkeypatch, capsys):
    assert make(tmp_path, monkeypatch, SMALL.split("# <details>")[0]) == 1
    assert "best_of_probability has no folded solution" in capsys.readouterr().err


@pytest.mark.parametrize("module", SOURCES)
def test_the_editions_of_a_real_notebook(module):
    notebook = IN_NOTEBOOK[module]
    student, solved = editions.student(notebook), editions.solved(notebook)
    for edition in (student, solved):
        nbformat.validate(nbformat.reads(jupytext.writes(edition, "ipynb"), as_version=4))
    assert "Solution</summary>" not in jupytext.writes(student, "py:percent")
    for edition, told in ((student, "it is written"), (solved, "Well done")):
        cells = [cell.source for cell in edition.cells if "exercises.check(" in cell.source]
        assert len(cells) == len(names(module))
        for source in cells:
            definitions, call = source.rsplit("exercises.check(", 1)
            namespace = imported(module) | {"exercises": exercises}
            exec(definitions, namespace)
            assert told in str(eval(f"exercises.check({call}", namespace))
