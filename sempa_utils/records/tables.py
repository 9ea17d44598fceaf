"""Tables for a reader, as Markdown: the one place where rows become one."""

import math
from collections.abc import Mapping
from typing import Any

PAPER = {  # SemPA, appendix A; what a run of the kit sets against it stands in its recipe
    "model": "LLaMA-2-7B, LLaMA-3-8B",
    "training rows": "40,000 to 80,000 of 275,000 NLI triplets",
    "batch": "256 (4 cards × 8 × 8)",
    "adapter": "LoRA r 8, α 32, all linear layers but the head",
    "optimiser": "AdamW, peak 1e-4, 5 % warm-up, cosine",
    "KL(base ‖ model) on plain text": "none",
    "β": "not stated (their trainer's default: 0.1)",
}


def table(rows: Mapping[str, Mapping[str, Any]], *, digits: int | Mapping[str, int] = 2, corner: str = "") -> str:
    """Return {row: {column: cell}} as a Markdown table; a row that lacks a column has a blank there.

    Floats have `digits` decimals, one number or {column: number} (2 where a column has none), whole numbers commas.
    """
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    per_column = digits if isinstance(digits, Mapping) else dict.fromkeys(columns, digits)
    lines = [[corner, *columns], ["---"] * (1 + len(columns))]
    for name, cells in rows.items():
        lines.append([name, *(_cell(cells.get(column), per_column.get(column, 2)) for column in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def settings_table(rows: list[tuple[str, object, object]]) -> str:
    """Return a Markdown table *the paper's setting / this run's setting* of (what, paper, this run)."""
    lines = ["| | the paper's setting | this run's setting |", "|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {paper} | {ours} |" for what, paper, ours in rows])


def paper_settings(ours: Mapping[str, object]) -> list[tuple[str, object, object]]:
    """Return rows of `settings_table` for what both have: {a key of `PAPER`: this run's}, in that order."""
    return [(what, PAPER[what], setting) for what, setting in ours.items()]


def recipe_table(runs: Mapping[str, tuple[Mapping[str, Any], int]]) -> str:
    """Return what runs that are compared differ in: {run: (its recipe by field, the rows it was trained on)}.

    "β or τ" is how sharply the softmax decides; an objective has the one or the other.
    """
    rows = {}
    for name, (recipe, trained) in runs.items():
        contrastive = recipe["objective"] == "contrastive"  # the first records have a β that it did not use
        sharpness = f"τ {recipe['temperature']:g}" if contrastive else f"β {recipe['beta']:g}"
        rows[name] = {
            "objective": f"`{recipe['objective']}`",
            "β or τ": sharpness,
            "learning rate": f"{recipe['learning_rate']:g}",
            "rows a step": recipe["micro_batch"] * recipe["accumulation"],
            "KL weight": f"{recipe.get('kl_weight', 0.0):g}",
            "rows": trained,
        }
    return table(rows, corner="run")


def _cell(value: Any, digits: int) -> str:
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, str):
        return value
    text = f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
    return text.replace("-", "−")
