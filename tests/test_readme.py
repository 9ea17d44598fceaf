"""The README: its commands and files exist, its numbers stand in records."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sempa_utils.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf8")
FINDINGS = (ROOT / "results" / "findings.md").read_text(encoding="utf8")


def test_the_first_screen_says_what_this_is_and_how_to_start():
    first_screen = "\n".join(README.splitlines()[:40])
    for needed in ("SemPA", "make run", "make test", "](results/figures/"):
        assert needed in first_screen


PAGES = ["README.md", "results/README.md", "results/findings.md", "results/large_models.md",
         "sempa_utils/adapters/smollm2-135m-nli/README.md"]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    def headings(path: Path) -> list[str]:
        titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf8"), flags=re.MULTILINE)
        return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]

    path = ROOT / page
    targets = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", path.read_text(encoding="utf8"))
    assert targets
    for target, heading in targets:
        if not target.startswith("http"):
            found = path.parent / target if target else path
            assert found.exists(), target
            assert not heading or heading in headings(found), (target, heading)


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


@pytest.mark.parametrize("text", [README, FINDINGS], ids=["README", "findings"])
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


@pytest.mark.parametrize("text", [README.split("\n## The notebooks")[0], FINDINGS], ids=["first screen", "findings"])
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
        assert text == report.fill(text, found), f"{path.name}: write it again: make report"
    pictures = report.pictures()
    assert pictures
    for name, (_, mark) in pictures.items():
        with Image.open(ROOT / "results" / "figures" / f"{name}.png") as picture:
            assert picture.text["Description"] == mark, "draw it again: make report"


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
