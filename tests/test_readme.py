"""The README: its commands and files exist, its numbers stand in records."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

import sempa_utils
from sempa_utils import records
from sempa_utils.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf8")
FINDINGS = (ROOT / "results" / "findings.md").read_text(encoding="utf8")
TEACHING = "\n".join(path.read_text(encoding="utf8") for path in sorted((ROOT / "teaching").glob("*.md")))


def test_the_first_screen_says_what_this_is_and_how_to_start():
    first_screen = "\n".join(README.splitlines()[:40])
    for needed in ("SemPA", "make run", "make test", "](results/figures/"):
        assert needed in first_screen


# Every page of the repository, so that a new one is checked, and missed where it stands on no list.
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "results/*.md", "teaching/*.md", "sempa_utils/**/*.md")
    for path in ROOT.glob(pattern)
)
NOTEBOOKS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))}
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SOURCES = sorted(
    path for folder in ("sempa_utils", "benchmarks", "notebooks") for path in (ROOT / folder).rglob("*.py")
)


def headings(path: Path) -> list[str]:
    """Return the anchors of a page's headings: GitHub's, or of a notebook Jupyter's, which keep case and marks."""
    if path.suffix == ".ipynb":
        cells = jupytext.read(path).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        return [title.replace(" ", "-") for title in HEADING.findall(text)]
    titles = HEADING.findall(path.read_text(encoding="utf8"))
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def links(path: Path) -> list[tuple[str, str]]:
    """Return (target, anchor) of each link that a page, or a notebook's source, has."""
    return re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", path.read_text(encoding="utf8"))


LINKING = [path for path in (*(ROOT / page for page in PAGES), *NOTEBOOKS.values()) if links(path)]


@pytest.mark.parametrize("path", LINKING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path):
    beside = ROOT / "notebooks" if path in NOTEBOOKS.values() else path.parent  # where a source's notebook lies
    for target, heading in links(path):
        if not target.startswith("http"):
            place = beside / target if target else path
            assert place.exists(), target
            assert not heading or heading in headings(place), (target, heading)


# --- Pointers by number or by name -----------------------------------------------------------------

# The paper's tables and figures: those whose numbers are kept, and two that are only spoken of.
PAPERS = {("Table", 2), ("Figure", 4)}
PAPERS |= {(name[:-1].title(), int(name[-1])) for name in (key.split("_")[0] for key in records.PUBLISHED)}


def prose(path: Path) -> str:
    """Return a file's text with the breaks inside a comment or paragraph as blanks."""
    return re.sub(r"\s*\n *(?:# ?)?(?=\S)", " ", path.read_text(encoding="utf8"))


def numbered(path: Path, pattern: str) -> set[int]:
    return {int(number) for number in re.findall(pattern, path.read_text(encoding="utf8"), flags=re.MULTILINE)}


def missing_pointers(path: Path) -> list[str]:
    """Return the pointers to notebooks, sections, claims, tables and figures that do not exist."""
    text, own = prose(path), next((number for number, source in NOTEBOOKS.items() if source == path), None)
    missing = [match[0] for match in re.finditer(r"[Nn]otebooks? (\d+)", text) if match[1] not in NOTEBOOKS]
    missing += [
        match[0] for match in re.finditer(r"(Table|Figure) (\d+)", text) if (match[1], int(match[2])) not in PAPERS
    ]
    if own or path.suffix == ".md":
        for kind, heading in (("[Ss]ection", r"^# ## (\d+) · "), ("[Cc]laim", r"\*\*[Cc]laim (\d+)")):
            # Of the notebook named beside it, else of this one; "section 4.4" or "SemPA, section 5" is in the paper.
            pattern = rf"(?:[Nn]otebook (\d+),? |(SemPA|paper)\S*,? )?{kind}s? (\d+)(?![.\d])(?: of notebook (\d+))?"
            for match in re.finditer(pattern, text):
                notebook = NOTEBOOKS.get(match[1] or match[4] or own)
                if not match[2] and (not notebook or int(match[3]) not in numbered(notebook, heading)):
                    missing.append(match[0])
    return missing


@pytest.mark.parametrize("path", [*(ROOT / page for page in PAGES), *SOURCES], ids=lambda path: path.stem)
def test_every_pointer_leads_somewhere(path):
    assert missing_pointers(path) == []


WRONG = ["see notebook 07", "as section 12 shows", "in section\n# 0", "notebook 04, section 10"]
WRONG += ["section 11 of notebook 02", "by claim 99", "the paper's Table 9", "Figure 1"]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_pointer_to_nothing_is_noticed(tmp_path, monkeypatch, wrong):
    page = tmp_path / "03_page.py"
    page.write_text(f"# Text before, {wrong}, and after.\n# ## 1 · A heading\n", encoding="utf8")
    monkeypatch.setitem(NOTEBOOKS, "03", page)
    assert len(missing_pointers(page)) == 1
    page.write_text(
        "# section 1, notebook 04, section 9, notebook 01, claim 3, Table 5, section 4.4\n# ## 1 · A heading\n"
    )
    assert missing_pointers(page) == []


@pytest.mark.parametrize("path", [*(ROOT / page for page in PAGES), *SOURCES], ids=lambda path: path.stem)
def test_every_module_and_file_that_is_named_exists(path):
    text = path.read_text(encoding="utf8")
    for name in set(re.findall(r"sempa_utils(?:\.[A-Za-z_]\w*)+", text)):
        place = sempa_utils
        for part in name.split(".")[1:]:
            known = importlib.util.find_spec(f"{place.__name__}.{part}") if hasattr(place, "__path__") else None
            place = importlib.import_module(f"{place.__name__}.{part}") if known else getattr(place, part, None)
            assert place is not None, name
    for name in set(
        re.findall(
            r"(?<![\w/.])(?:results|notebooks|tests|benchmarks|sempa_utils)/[\w./-]*\w\.(?:py|md|json|csv|png)\b", text
        )
    ):
        assert (ROOT / name).exists() or "NAME" in name, name


def test_every_make_target_and_command_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make (\w+)", README, flags=re.MULTILINE)) <= targets
    shown = subprocess.run([sys.executable, "-m", "sempa_utils", "--help"], capture_output=True, text=True, check=True)
    for command in set(re.findall(r"python -m sempa_utils (\w+)", README)):
        assert command in shown.stdout


def test_every_option_of_a_shown_command_exists():
    from sempa_utils.__main__ import _parser

    commands = _parser()._subparsers._group_actions[0].choices
    shown = re.findall(r"^python -m sempa_utils (\w+)(.*)$", README.replace("\\\n", " "), flags=re.MULTILINE)
    assert len(shown) >= 4
    for command, rest in shown:
        known = set(commands[command]._option_string_actions)
        assert set(re.findall(r"--[\w-]+", rest)) <= known, (command, rest)


def test_every_module_is_in_the_map():
    for path in (ROOT / "sempa_utils").iterdir():
        if path.name.startswith("_") or path.name.endswith(".egg-info"):
            continue
        assert f"`{path.stem}`" in README, path.name


@pytest.mark.parametrize("text", [README, FINDINGS, TEACHING], ids=["README", "findings", "teaching"])
def test_every_marked_number_is_that_of_its_record(text):
    """The number before <!-- results/NAME.json: KEY.KEY --> is that figure, rounded as it is written."""
    marks = re.findall(r"([^\n]*?)<!-- (results/[\w.-]+): (.+?) -->", text)
    assert len(marks) >= 10
    for line, name, path in marks:
        value = json.loads((ROOT / name).read_text(encoding="utf8"))
        for key in path.split("."):
            value = value[int(key) if isinstance(value, list) else key]
        shown = re.findall(r"[-−]?\d+\.?\d*", line)[-1].replace("−", "-")
        decimals = len(shown.partition(".")[2])
        assert float(shown) == round(value, decimals), (line, value)


@pytest.mark.parametrize("page", ["README.md", "teaching/README.md"])
def test_the_minutes_of_make_run_are_those_of_its_record(page):
    headline = records.load_run(ROOT / "results" / "make_run_cpu.json").headline
    told = re.findall(r"\[(\d+) minutes\]\(\S*results/make_run_cpu\.json\)", (ROOT / page).read_text(encoding="utf8"))
    assert told == [f"{float(re.search(r'in ([0-9.]+) minutes', headline)[1]):.0f}"]


def test_the_record_in_the_committed_notebook_is_the_committed_one():
    from sempa_utils.experiments import report

    cells = json.loads((ROOT / "notebooks" / "04_sts.ipynb").read_text(encoding="utf8"))["cells"]
    outputs = [output.get("data", {}).get("text/markdown", "") for cell in cells for output in cell.get("outputs", [])]
    shown = ["".join(output) for output in outputs]
    for table in (report.overview, report.sts):
        assert table(report.recorded_runs()) in shown, "execute the notebook again: make notebooks"


def test_the_tables_of_figures_have_no_unmarked_number():
    from sempa_utils.experiments import report

    text = README.split("## What was measured")[1].split("\n## ")[0]
    rows = [
        line
        for line in report.BLOCK.sub("", text).splitlines()
        if line.startswith("| ") and not line.startswith("| what")
    ]
    assert rows and all("<!-- results/" in row for row in rows)


FOUND = {"first screen": README.split("\n## The notebooks")[0], "findings": FINDINGS, "teaching": TEACHING}


@pytest.mark.parametrize("text", FOUND.values(), ids=FOUND)
def test_what_was_found_has_no_unmarked_number(text):
    from sempa_utils.experiments import report

    text = report.BLOCK.sub("", text)  # these are written from records
    text = re.sub(r"Python \d\.\d+", "", text)
    marked = re.sub(r"\d+\.\d+ <!-- results/", "<!-- results/", text)
    unmarked = [line for line in marked.splitlines() if re.search(r"\d\.\d", re.sub(r"<!--.*?-->", "", line))]
    assert marked != text and all("*published*" in line for line in unmarked), unmarked


def test_tables_and_pictures_are_those_of_the_committed_records():
    from PIL import Image

    from sempa_utils.experiments import report

    found, documents = report.recorded_runs(), report.documents()
    assert ROOT / "README.md" in documents
    for path in documents:
        text = path.read_text(encoding="utf8")
        assert text == report.written(path, found), f"{path.name}: write it again: make report"
    pictures = report.pictures()
    assert pictures
    for name, (_, mark) in pictures.items():
        place = ROOT / "results" / "figures" / name
        with Image.open(place.with_suffix(".png")) as picture:
            assert picture.text["Description"] == mark, "draw it again: make report"
        drawing = place.with_suffix(".svg").read_text(encoding="utf8")
        assert f"<dc:description>{mark}</dc:description>" in drawing, "draw it again: make report"


def test_the_scored_adapters_are_the_trained_ones():
    def record(name: str) -> dict:
        return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf8"))

    trained = {name: record(f"train_{name}_512") for name in OBJECTIVES}
    assert len({one["data"]["fingerprint"] for one in trained.values()}) == 1, "the same rows"
    for scored, names in (("sts_b_dev_512", OBJECTIVES), ("sts_b_test_512", ("pairwise", "one_word"))):
        model = record(scored)["model"]
        for name in names:
            assert model[name] == trained[name]["figures"]["adapter_fingerprint"]
            assert model["fingerprint"] == trained[name]["model"]["fingerprint"]


def test_one_word_gains_what_was_aimed_at():
    for name, gain in (("sts_b_dev_512", 3), ("sts_b_test_512", 6)):
        found = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf8"))["figures"]
        assert found["less the base"]["prompteol + one_word"]["STS-B"]["difference"] > gain
