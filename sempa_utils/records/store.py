"""The record of a run, and tables that set published figures beside ours.

A record says what was run, on what, with which versions, seed, data fingerprint and machine. It
holds numbers and counts, never a sentence of a third party.
"""

import csv
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import sys
from pathlib import Path

from sempa_utils.checks import build_folder, pick, write_whole

PUBLISHED_FOLDER = Path(__file__).parent / "published"
PUBLISHED = {
    "table3_sts": "Table 3: STS, Spearman ρ × 100",
    "table4_templates": "Table 4: training and extraction templates, mean ρ × 100",
    "table5_geometry": "Table 5: uniformity and isotropy",
    "table6_generation": "Table 6: generation benchmarks",
    "table7_gar": "Table 7: GAR",
    "table8_seeds": "Table 8: three seeds",
    "figure3_data_size": "Figure 3, read off the paper's figure",
}
VERSIONED = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "numpy", "scipy")


def published(name: str) -> list[dict]:
    """Return a table of the paper as rows of strings and numbers; to be shown as *published* only."""
    pick(name, PUBLISHED, "published table")
    lines = (PUBLISHED_FOLDER / f"{name}.csv").read_text(encoding="utf8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [{column: _number(cell) for column, cell in row.items()} for row in rows]


def published_sts(group: str, method: str) -> dict[str, float]:
    """Return one row of the paper's Table 3 as {task: ρ × 100}, the mean under "Avg"."""
    for row in published("table3_sts"):
        if (row["group"], row["method"]) == (group, method):
            return {task: value for task, value in row.items() if isinstance(value, float)}
    groups = [f"{row['group']}: {row['method']}" for row in published("table3_sts")]
    return pick(f"{group}: {method}", groups, "row of Table 3")


def environment() -> dict:
    """Return the versions and the machine that a record needs."""
    import psutil
    import torch

    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in VERSIONED}
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gigabytes": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {"versions": versions, "machine": machine}


def committed_folder() -> Path:
    """Where the repository keeps its records: results/ beside the package."""
    return Path(__file__).parents[2] / "results"


def costs(notebook: str) -> str:
    """Return a Markdown table of a notebook's time and memory per profile, from recorded runs."""
    from sempa_utils.profiles import PROFILES

    lines = ["| profile | for | time | peak memory | measured on |", "|---|---|---|---|---|"]
    for name, profile in PROFILES.items():
        path = committed_folder() / f"make_run_{name}.json"
        if name == "smoke":
            continue
        run = load_run(path) if path.is_file() else {"notebooks": {}}
        if notebook in run["notebooks"]:
            cost, machine = run["notebooks"][notebook], run["machine"]
            where = machine["gpu"] or f"{machine['cores']} cores, {machine['system']}"
            cells = f"{cost['seconds'] / 60:.1f} min | {cost['peak_memory_bytes'] / 2**30:.1f} GiB | {where}"
        else:
            cells = "not yet measured | | "
        lines.append(f"| {name} | {profile.purpose} | {cells} |")
    return "\n".join(lines)


def save_run(
    name: str,
    figures: dict,
    headline: str,
    model: dict | None = None,
    data: list[dict] | dict | None = None,
    settings: dict | None = None,
    seed: int | None = None,
    folder: str | Path | None = None,
) -> Path:
    """Write the record of a run as JSON, whole or not at all, and return its path.

    `figures` holds the numbers (NaN and infinity are refused), `headline` says the main ones in a
    sentence, `model` and `data` are what `LanguageModel.describe` and `Corpus.record` return.
    """
    record = {"name": name, "headline": headline, "figures": plain(figures)} | origin(model, data, settings, seed)
    record |= {"command": _command(), "profile": os.environ.get("SEMPA_PROFILE"),
               "date": datetime.date.today().isoformat()}  # fmt: skip
    path = Path(folder or build_folder() / "records") / f"{name}.json"
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with write_whole(path) as draft:
        draft.write_text(text, encoding="utf8")
    return path


def origin(model: dict | None, data: list[dict] | dict | None, settings: dict | None, seed: int | None) -> dict:
    """Return what the figures of a record depend on: two of the same origin may stand in one."""
    return {
        "model": {key: _bare(value) for key, value in model.items()} if model else None,
        "data": data,
        "settings": plain(settings or {}),
        "seed": seed,
        **environment(),
    }


def load_run(path: str | Path) -> dict:
    """Return a record that `save_run` wrote."""
    return json.loads(Path(path).read_text(encoding="utf8"))


def plain(value):
    """Return `value` with tensors and NumPy values as plain Python, floats rounded to 6 digits."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value


def settings_table(rows: list[tuple[str, object, object]]) -> str:
    """Return a Markdown table *the paper's setting / this run's setting* of (what, paper, this run)."""
    lines = ["| | the paper's setting | this run's setting |", "|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {paper} | {ours} |" for what, paper, ours in rows])


def _command() -> str:
    if os.environ.get("SEMPA_COMMAND"):
        return os.environ["SEMPA_COMMAND"]
    program = Path(sys.argv[0]).name
    program = ["python", "-m", "sempa_utils"] if program == "__main__.py" else [program]
    return shlex.join([*program, *map(_bare, sys.argv[1:])])


def _bare(value):
    """Return `value` with only the last name of a path that leaves the folder: a record tells of nobody's machine."""
    if not isinstance(value, str):
        return value
    return re.sub(r"(^|[=,])((?:/|~|\.\./)[^=,]*)", lambda match: match[1] + Path(match[2]).name, value)


def _number(cell: str):
    try:
        return float(cell)
    except ValueError:
        return cell
