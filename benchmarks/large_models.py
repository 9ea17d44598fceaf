"""The table of suggested models in results/large_models.md: planned memory of public models, without a download.

python benchmarks/large_models.py      # writes the table again; a minute
"""

import re
from pathlib import Path
from typing import NamedTuple

from sempa_utils import profiles
from sempa_utils.checks import pick, write_whole
from sempa_utils.training import Recipe, memory

PAGE = Path(__file__).parent.parent / "results" / "large_models.md"
WAYS = {"nf4 t4": ("nf4", "t4"), "nf4 24gb": ("nf4", "24gb"), "bfloat16": ("bfloat16", "24gb")}  # precision, profile
CARDS = {"16 GB": 16 * 10**9, "24 GB": 24 * 10**9}  # bytes


class Suggestion(NamedTuple):
    """A row of the table of suggested models."""

    shape: str
    model: str
    parameters: int
    licence: str
    access: str
    planned: dict[str, int]  # bytes at the peak of each of `WAYS`
    fits: dict[str, list[str]]  # by card: the ways that leave `memory.SPARE` of it free
    operations: int  # of a triplet under the 24gb profile


def suggested(names: list[str] | None = None) -> list[Suggestion]:
    """Return rows of public models (all of `memory.SHAPES`, or `names`) with what pairwise training is planned to take.

    Bytes are the sum of `plan` for the longest micro-batch (`LONGEST`), as in `advice`; some seconds a model,
    and no download. In nf4 they differ by some 50 MB from call to call. Raises `InputError` for a name that
    is not in `memory.SHAPES`.
    """
    rows = []
    for name in names or memory.SHAPES:
        published, config = pick(name, memory.SHAPES, what="shape"), memory.shape(name)
        planned = {
            way: memory.total(
                memory.plan(config, precision, recipe=Recipe.of_profile(profiles.get(profile)), tokens=memory.LONGEST)
            )
            for way, (precision, profile) in WAYS.items()
        }
        fits = {
            card: [way for way, size in planned.items() if size <= (1 - memory.SPARE) * capacity]
            for card, capacity in CARDS.items()
        }
        parameters = sum(parameter.numel() for parameter in memory.empty(config).parameters())
        about = (published.model, parameters, published.licence, published.access)
        work = memory.operations(config, Recipe.of_profile(profiles.get("24gb")))
        rows.append(Suggestion(name, *about, planned, fits, work))
    return rows


def suggested_table(rows: list[Suggestion]) -> str:
    """Return rows of `suggested` as a Markdown table: planned GiB, and operations in units of 10¹²."""
    ways, cards = " | ".join(WAYS), " | ".join(f"fits {card}" for card in CARDS)
    lines = [
        f"| model | shape | parameters | licence | access | {ways} | {cards} | 10¹² operations a triplet |",
        "|---|---|---:|---|---|" + "---:|" * len(WAYS) + "---|" * len(CARDS) + "---:|",
    ]
    for row in rows:
        sizes = " | ".join(f"{size / memory.GIB:.1f}" for size in row.planned.values())
        fits = " | ".join(", ".join(found) or "nothing" for found in row.fits.values())
        about = f"`{row.model}` | `{row.shape}` | {row.parameters:,} | {row.licence} | {row.access}"
        lines.append(f"| {about} | {sizes} | {fits} | {row.operations / 1e12:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Write the table of the page anew."""
    text = PAGE.read_text(encoding="utf8")
    table = suggested_table(suggested())
    with write_whole(PAGE) as draft:
        block = r"(<!-- suggested models -->\n).*?(\n<!-- end -->)"
        draft.write_text(
            re.sub(block, lambda match: match[1] + table + match[2], text, flags=re.DOTALL), encoding="utf8"
        )


if __name__ == "__main__":
    main()
