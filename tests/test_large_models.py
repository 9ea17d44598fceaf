"""The page on large models: its table is the planner's, its commands parse, its arithmetic holds."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_benchmarks import load_benchmark

from sempa_utils import profiles
from sempa_utils.__main__ import _parser
from sempa_utils.training import memory

large_models = load_benchmark("large_models")
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "results" / "large_models.md").read_text(encoding="utf8")
SHELL = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line for line in SHELL.splitlines() if line.startswith("python -m sempa_utils")]
TABLE = re.search(r"<!-- suggested models -->\n(.*?)\n<!-- end -->", PAGE, flags=re.DOTALL)[1]
ROWS = {cells[2].strip(" `"): line for line in TABLE.splitlines()[2:] for cells in [line.split("|")]}


def test_the_table_has_every_suggested_model():
    assert list(ROWS) == list(memory.SHAPES)


def planned(line: str) -> list[float]:
    return [float(cell) for cell in line.split("|")[6:9]]


# One of each family and kind of head: all rows come from the same planner, and a plan takes seconds.
@pytest.mark.parametrize("name", ["smollm2-360m", "mistral-7b-v0.3", "qwen2.5-7b", "llama-3-8b"])
def test_a_row_is_what_the_planner_gives(name):
    (row,) = large_models.suggested([name])
    made = large_models.suggested_table([row]).splitlines()
    advice = "write the table again: python benchmarks/large_models.py"
    assert made[:2] == TABLE.splitlines()[:2], advice
    # A plan in nf4 differs by some tens of megabytes from call to call; the page rounds to 0.1.
    assert planned(ROWS[name]) == pytest.approx([size / memory.GIB for size in row.planned.values()], abs=0.13), advice
    assert made[2].split("|")[9:] == ROWS[name].split("|")[9:], advice


def test_every_row_has_its_models_figures(monkeypatch):
    """All but the plans, which are taken from the page."""
    for name, line in ROWS.items():
        sizes = iter(planned(line))
        monkeypatch.setattr(memory, "plan", lambda *_, sizes=sizes, **__: {"all": round(next(sizes) * memory.GIB)})
        assert large_models.suggested_table(large_models.suggested([name])).splitlines()[2] == line


@pytest.mark.parametrize("line", COMMANDS)
def test_every_shown_command_parses(line):
    words = shlex.split(line)[3:]
    options = _parser().parse_args(words)
    assert options.run.__module__ == f"sempa_utils.commands.{words[0]}"
    if getattr(options, "profile", "24gb") != "24gb":
        assert words[0] in ("doctor", "fetch"), "for one 24 GB card"


def test_each_model_is_planned_trained_scored_and_benchmarked():
    hub = {one.model: name for name, one in memory.SHAPES.items()}
    words = [shlex.split(line)[3:] for line in COMMANDS]
    trained = {options[options.index("--model") + 1] for options in words if options[0] == "train"}
    assert len(trained) == 3
    for model in trained:
        own = [options[0] for options in words if model in options or hub[model] in options]
        assert own == ["plan", "train", "train", "evaluate", "benchmark"]
    written = [options[options.index("--output") + 1] for options in words if "--output" in options]
    for options in words:
        for place, word in enumerate(options):
            if word == "--adapter":
                assert options[place + 1].removesuffix("/adapter") in written
    records = re.findall(r"--record (\w+)", SHELL)
    assert len(records) == len(set(records)), "one record would overwrite another"


def test_the_benchmark_knows_its_options():
    (line,) = (line for line in SHELL.splitlines() if line.startswith("python benchmarks/"))
    script, *rest = shlex.split(line)[1:]
    shown = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for option in re.findall(r"--[\w-]+", " ".join(rest)):
        assert option in shown.stdout


def test_the_arithmetic_of_time_holds():
    profile = profiles.get("24gb")
    steps = -(-profile.triplets // (profile.micro_batch * profile.accumulation))
    assert f"{profile.triplets:,} triplets are {steps} steps" in PAGE
    rates, hours = (
        [float(cell) for cell in re.findall(r"\| ([\d.]+)", line)]
        for line in PAGE.splitlines()
        if line.startswith(("| triplets a second, which", "| hours for 40,000"))
    )
    assert len(rates) == 5 and hours == [round(profile.triplets / rate / 3600, 1) for rate in rates]
    pairs = [
        int(number)
        for number in re.search(r"seven tasks of ([\d, and]+) pairs", PAGE)[1]
        .replace("and", ",")
        .replace(" ", "")
        .split(",")
    ]
    assert len(pairs) == 7 and f"have {sum(pairs):,} pairs" in PAGE


def test_the_page_says_what_was_not_run():
    assert "Not yet run by us on a GPU" in PAGE.split("## ")[0]


def test_what_a_reader_is_told_to_look_at_stands_in_a_record():
    trained = json.loads((ROOT / "results" / "train_pairwise_512.json").read_text(encoding="utf8"))
    scored = json.loads((ROOT / "results" / "sts_seven_tasks.json").read_text(encoding="utf8"))
    fields = re.findall(
        r"`((?:model|machine|versions|figures|settings|data|command)[\w.]*)`",
        PAGE.split("| look at |")[1].split("\n\n")[0],
    )
    assert len(fields) >= 10
    for field in fields:
        value = scored if field.startswith(("settings", "data")) else trained
        for key in field.split("."):
            assert key in value, field
            value = value[key]


def test_a_reader_has_records_where_there_is_a_row():
    rows = PAGE.split("| model | objective | card |")[1].splitlines()[2:]
    assert rows
    for row in rows:
        links = re.findall(r"\]\(([\w.-]+\.json)\)", row)
        assert row.startswith("| none yet |") or (links and all((ROOT / "results" / link).is_file() for link in links))
