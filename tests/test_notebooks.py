"""The notebooks run from end to end, share their set-up, and what is committed came from a clean run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
MOST_LINES = 20  # of a code cell: one idea
SOURCES = sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))
COMMITTED = [ROOT / "notebooks" / f"{source.stem}.ipynb" for source in SOURCES]

sys.path.insert(0, str(ROOT / "notebooks"))
import run as runner  # noqa: E402

from sempa_utils import records  # noqa: E402


def tagged(notebook, tag: str) -> str:
    found = [cell.source for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    assert len(found) == 1, f"one cell tagged {tag}"
    return found[0]


def test_there_are_five_notebooks():
    assert [source.stem[:2] for source in SOURCES] == ["01", "02", "03", "04", "05"]


@pytest.mark.long
@pytest.mark.model
def test_every_notebook_runs_at_the_smallest_size(tmp_path):
    surroundings = {name: value for name, value in os.environ.items() if name != "SEMPA_DATA_DIR"}
    command = [sys.executable, "notebooks/run.py", "--profile", "smoke", "--build", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = records.load_run(tmp_path / "summary.json", dict[str, records.NotebookCost])
    index = (tmp_path / "index.html").read_text(encoding="utf8")
    assert list(summary.figures) == [*runner.SCRIPTS, *(source.stem for source in SOURCES)]
    assert "What SemPA did" in index and "http-equiv" not in index and "mini-STS ρ × 100" in index
    for name, title in runner.SCRIPTS.items():
        assert summary.figures.pop(name).headline in index and title in index
    for name, cost in summary.figures.items():
        assert cost.seconds > 0 and cost.peak_memory_bytes > 5e7
        assert re.search(r"\d", cost.headline), f"{name}: the headline names a figure"
        assert f'href="{name}.html"' in index
        page = (tmp_path / f"{name}.html").read_text(encoding="utf8")
        assert "data:image/png" in page and "mathjax" not in page.lower()
        source = (ROOT / "notebooks" / "source" / f"{name}.py").read_text(encoding="utf8")
        assert ("<math" in page) == ("# $$" in source or " $" in source)
        executed = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
        nbformat.validate(executed)
        assert not any(o.output_type == "error" for cell in executed.cells for o in cell.get("outputs", []))
    assert not (tmp_path / "state.json").exists()


def small_kit(tmp_path, monkeypatch, *cells: str) -> Path:
    """Make a folder with two quick notebooks for the runner; the second holds `cells`."""
    source = tmp_path / "notebooks" / "source"
    source.mkdir(parents=True)
    (source / "01_first.py").write_text("# %% [markdown]\n# # First\n\n# %%\nprint('one')\n", encoding="utf8")
    text = "# %% [markdown]\n# # Second\n" + "".join(f"\n# %%\n{cell}\n" for cell in cells)
    (source / "02_second.py").write_text(text, encoding="utf8")
    monkeypatch.setattr(runner, "HERE", tmp_path / "notebooks")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["run.py", "--profile", "smoke", "--build", str(tmp_path / "build")])
    return tmp_path


def test_an_interrupted_run_goes_on_at_the_notebook_it_was_in(tmp_path, monkeypatch, capsys):
    folder = small_kit(tmp_path, monkeypatch, "import pathlib; assert pathlib.Path('go').exists(), 'not yet'")
    assert runner.main() == 1
    assert "not yet" in capsys.readouterr().err
    assert not (folder / "build" / "summary.json").exists()
    (folder / "notebooks" / "go").touch()
    assert runner.main() == 0
    assert "01_first: done before the interruption" in capsys.readouterr().out
    summary = records.load_run(folder / "build" / "summary.json", dict[str, records.NotebookCost])
    assert list(summary.figures) == ["01_first", "02_second"] and summary.model == {"name": "packaged"}
    assert (summary.name, summary.command, summary.profile) == ("make_run_smoke", "make run PROFILE=smoke", "smoke")
    # A third run starts anew.
    assert runner.main() == 0
    assert "before the interruption" not in capsys.readouterr().out


def test_ctrl_c_ends_a_notebook_at_once_and_a_dead_kernel_is_told(tmp_path, monkeypatch, capsys):
    # A kernel does not hear Ctrl-C: the runner would wait for a cell that sleeps this long.
    interrupt = "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(10**6)"
    small_kit(tmp_path, monkeypatch, interrupt)
    assert runner.main() == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    source = tmp_path / "notebooks" / "source" / "02_second.py"
    source.write_text("# %% [markdown]\n# # Second\n\n# %%\nimport os; os.abort()\n", encoding="utf8")
    assert runner.main() == 1
    assert "error: 02_second failed" in (said := capsys.readouterr().err) and "for want of memory" in said

    def die(*_, **__):  # as jupyter_client says it of a kernel that was ended before it had begun
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr(runner.NotebookClient, "execute", die)
    assert runner.main() == 1
    assert "for want of memory" in capsys.readouterr().err


def test_what_is_printed_slowly_is_one_output(tmp_path, monkeypatch):
    slowly = "import time\nprint(1, flush=True)\ntime.sleep(1)\nprint(2, flush=True)"
    folder = small_kit(tmp_path, monkeypatch, slowly)
    assert runner.main() == 0
    executed = nbformat.read(folder / "build" / "02_second.ipynb", as_version=4)
    assert [output.text for output in executed.cells[1].outputs] == ["1\n2\n"]


def test_the_index_page_fills_while_the_rest_runs(tmp_path, monkeypatch):
    page = "import pathlib; shown = pathlib.Path('../build/index.html').read_text('utf8'); "
    check = page + "assert shown.count('running') == 2 and 'href=\"01_first.html\"' in shown and 'refresh' in shown"
    folder = small_kit(tmp_path, monkeypatch, check)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert runner.main() == 0
    index = (folder / "build" / "index.html").read_text(encoding="utf8")
    assert index.count("href=") == 3 and "refresh" not in index, "two notebooks and the summary"


def test_two_notebooks_run_side_by_side_on_a_thread_each(tmp_path, monkeypatch):
    # Each waits for the other: one after the other they would wait for ever.
    meet = (
        "import os, pathlib, time\n{}.touch()\nwhile not {}.exists(): time.sleep(0.05)\n"
        "assert os.environ['OMP_NUM_THREADS'] == '1'"
    )
    one, other = "pathlib.Path('one')", "pathlib.Path('other')"
    folder = small_kit(tmp_path, monkeypatch, meet.format(one, other))
    (folder / "notebooks" / "source" / "01_first.py").write_text(
        f"# %% [markdown]\n# # First\n\n# %%\n{meet.format(other, one)}\n", encoding="utf8"
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert runner.main() == 0


def test_sempa_comes_first_then_what_others_wait_for_and_one_core_has_one_at_a_time(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    first, beside = ([path.stem for path in stage] for stage in runner.stages(SOURCES, scripts=True))
    assert first == ["first"] and beside[0] == "others" and sorted(beside[1:]) == [path.stem for path in SOURCES]
    assert set(runner.SIDE_BY_SIDE) == {"others", *(path.stem[:2] for path in SOURCES)}
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    stages = runner.stages(SOURCES, scripts=True)
    assert [path.stem for stage in stages for path in stage] == ["first", "others", *(path.stem for path in SOURCES)]
    assert all(len(stage) == 1 for stage in stages)


def test_after_an_error_nothing_more_is_begun(tmp_path, monkeypatch, capsys):
    folder = small_kit(tmp_path, monkeypatch, "import time; time.sleep(2)")
    source = folder / "notebooks" / "source"
    (source / "01_first.py").write_text("# %% [markdown]\n# # First\n\n# %%\nraise ValueError('no')\n", encoding="utf8")
    for number in ("03", "04", "05"):
        (source / f"{number}_more.py").write_text((source / "02_second.py").read_text(encoding="utf8"), encoding="utf8")
    monkeypatch.setattr(runner, "SIDE_BY_SIDE", ())
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert runner.main() == 1
    begun = capsys.readouterr().out
    assert "02_second: starting" in begun and "_more" not in begun


def test_a_changed_notebook_is_not_taken_for_done(tmp_path, monkeypatch, capsys):
    folder = small_kit(tmp_path, monkeypatch, "raise SystemExit('stop')")
    runner.main()
    first = folder / "notebooks" / "source" / "01_first.py"
    first.write_text(first.read_text(encoding="utf8").replace("one", "two"), encoding="utf8")
    capsys.readouterr()
    runner.main()
    assert "before the interruption" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "cpuu"], "'cpu'"),
        (["--model", "./nowhere"], "no such directory"),
        (["--only", "05"], "no notebook"),
    ],
)
def test_wrong_arguments_are_one_clear_error_before_anything_runs(tmp_path, monkeypatch, capsys, arguments, message):
    folder = small_kit(tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "argv", [*sys.argv, *arguments])
    assert runner.main() == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert not (folder / "build" / "summary.json").exists()


def test_progress_bars_and_warnings_are_not_kept():
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="  5%|█  | 1/20\r100%|██| 20/20\n"),
        nbformat.v4.new_output("stream", name="stdout", text="step 1\rstep 2\nresult\n"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    runner.tidy(notebook)
    assert [output.text for output in notebook.cells[0].outputs] == ["step 2\nresult\n"]


def test_formulas_become_mathml_and_code_stays():
    text = runner.with_mathml(
        "Cost `$5$` and $\\frac{1}{2}$\n```\n$x$\n```\n$$\\begin{aligned} a &= b \\end{aligned}$$"
    )
    assert "`$5$`" in text and "```\n$x$\n```" in text
    assert text.count("<math") == 2 and "<mfrac>" in text and "<mtable" in text and "&amp;" not in text


def test_set_up_and_parameter_cells_are_the_same_everywhere():
    notebooks = [jupytext.read(source) for source in SOURCES]
    setups = [tagged(notebook, "setup").replace(path.stem, "NAME") for notebook, path in zip(notebooks, SOURCES)]
    assert len(set(setups)) == 1 and 'hosted.prepare("NAME"' in setups[0]
    parameters = [tagged(notebook, "parameters").split("profile = ")[0] for notebook in notebooks]
    assert len(set(parameters)) == 1
    for name in ("PROFILE = ", "MODEL = ", "SEED = "):
        assert name in parameters[0]


def test_every_notebook_opens_and_closes_as_the_others_do():
    for source in SOURCES:
        notebook = jupytext.read(source)
        assert notebook.cells[0].source.startswith(f"# {source.stem[:2]} · ")
        assert "You will learn" in "".join(cell.source for cell in notebook.cells[:3])
        text = source.read_text(encoding="utf8")
        assert f'records.costs("{source.stem}")' in text
        assert f'"notebook_{source.stem}"' in text and "records.settings_table" in text


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_cell_holds_one_idea(source):
    code = [cell.source for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    long = {cell.splitlines()[0]: lines for cell in code if (lines := len(cell.splitlines())) > MOST_LINES}
    assert not long, f"cells of more than {MOST_LINES} lines: {long}"
    assert not [cell for cell in code if "|---" in cell or "| ---" in cell], "`records.table` makes tables"
    assert not [cell for cell in code if "import matplotlib" in cell], "`sempa_utils.plots` draws"


def glossary() -> dict[str, str]:
    """Read notebook 01's table: {term: its line}."""
    cells = [cell.source for cell in jupytext.read(SOURCES[0]).cells if cell.source.startswith("## Glossary")]
    assert len(cells) == 1
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", cells[0], re.MULTILINE)[1:])


def test_the_glossary_has_the_words_of_the_notebooks_and_each_notebook_leads_to_it():
    asked = "PromptEOL,slot,triplet,policy,reference,nat,implicit reward,β,NF4,LoRA,isotropy,uniformity,perplexity,DPO"
    listed = {term for terms in glossary() for term in terms.split(", ")}
    assert set(asked.split(",")) <= listed
    for source in SOURCES:
        assert "(01_theory.ipynb#Glossary)" in jupytext.read(source).cells[0].source, source.stem
    text = re.sub(r"[*_`]", "", "".join(source.read_text(encoding="utf8") for source in SOURCES)).lower()
    for term in listed:
        assert text.count(term.split("(")[0].lower()) > 1, f"{term} stands in no notebook"


def test_a_link_to_a_notebook_leads_to_its_page():
    text = "[words](01_theory.ipynb#Glossary), [again](https://example.org/01_theory.ipynb)"
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_markdown_cell("## Glossary")]
    page = runner.page(nbformat.v4.new_notebook(cells=cells), "one")
    assert 'href="01_theory.html#Glossary"' in page and 'id="Glossary"' in page
    assert 'href="https://example.org/01_theory.ipynb"' in page


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_notebook_is_its_source_executed(path):
    notebook = nbformat.read(path, as_version=4)
    source = jupytext.read(ROOT / "notebooks" / "source" / f"{path.stem}.py")
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in source.cells]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 4_000_000


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "notebooks").glob("0*.ipynb"))])
def test_a_committed_notebook_shows_the_committed_costs(name):
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf8")
    cells = json.loads(text)["cells"]
    outputs = [output.get("data", {}).get("text/markdown", "") for cell in cells for output in cell.get("outputs", [])]
    assert records.costs(name) in ["".join(output) for output in outputs]


def test_a_published_output_is_replaced_and_nothing_else(tmp_path):
    output = nbformat.v4.new_output("display_data", {"text/markdown": "old"})
    other = nbformat.v4.new_output("display_data", {"text/markdown": "older"})
    cells = [nbformat.v4.new_code_cell("costs", outputs=[output, other]), nbformat.v4.new_markdown_cell("old")]
    path = tmp_path / "one.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    runner.replace_output(path, "old", "new")
    code, text = nbformat.read(path, as_version=4).cells
    assert [output["data"]["text/markdown"] for output in code.outputs] == ["new", "older"] and text.source == "old"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_notebook_shows_our_sentences_only_and_no_machine(path):
    record = json.loads((ROOT / "results" / f"notebook_{path.stem}.json").read_text(encoding="utf8"))
    sources = {data["source"] for data in record["data"] or []}
    assert all(source.startswith("mini corpus (packaged)") for source in sources)
    text = path.read_text(encoding="utf8")
    for place in (Path.home(), ROOT):
        assert f"{place}/" not in text
    assert "PosixPath" not in text and "WindowsPath" not in text
