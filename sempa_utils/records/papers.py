"""The paper's tables: figures to be shown as *published*, beside ours and never as ours."""

import csv
from pathlib import Path

from sempa_utils.checks import pick

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


def published(name: str) -> list[dict]:
    """Return a table of the paper as rows of strings and numbers; to be shown as *published* only."""
    pick(name, PUBLISHED, what="published table")
    lines = (PUBLISHED_FOLDER / f"{name}.csv").read_text(encoding="utf8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [{column: _number(cell) for column, cell in row.items()} for row in rows]


def published_sts(group: str, method: str) -> dict[str, float]:
    """Return one row of the paper's Table 3 as {task: ρ × 100}, the mean under "Avg"."""
    rows = {f"{row['group']}: {row['method']}": row for row in published("table3_sts")}
    row = pick(f"{group}: {method}", rows, what="row of Table 3")
    return {task: value for task, value in row.items() if isinstance(value, float)}


def _number(cell: str):
    try:
        return float(cell)
    except ValueError:
        return cell
