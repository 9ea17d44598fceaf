"""Read what a class has solved from the notebooks that it hands in; `make progress HANDED_IN=folder` calls this.

The checkers' reports stand in a notebook's outputs, as they were when it was saved. Nothing is executed, and nothing
proves that an output was not written by hand: it shows who needs help, and is no examination.
"""

import argparse
import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from sempa_utils.checks import InputError, write_whole
from sempa_utils.exercises.checker import EXERCISES
from sempa_utils.records import table

HERE = Path(__file__).parent
# A report, unless it says that nothing was written yet.
REPORT = re.compile(
    r"^(\w+) ★+: (\d+) of (\d+) checks passed\.(?!\n  ✗ it is written)", re.MULTILINE
)
SEED = re.compile(r"^SEED = (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class HandedIn:
    """A notebook that was handed in: whose, which, with what seed, and {exercise: (checks passed, of how many)}."""

    student: str
    notebook: str
    seed: int | None
    reports: dict[str, tuple[int, int]]

    @property
    def solved(self) -> int:
        """The number of exercises of which every check passed."""
        return sum(passed == of > 0 for passed, of in self.reports.values())


def main() -> int:
    """Print a table, a row for each student, and write every exercise's outcome as CSV; return 0, or 1 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, help="STUDENT/01_theory.ipynb or 01_theory_STUDENT.ipynb, at any depth"
    )
    build = HERE.parent / "build" / "progress.csv"
    parser.add_argument(
        "--output", type=Path, default=build, help="the CSV (default: build/progress.csv)"
    )
    options = parser.parse_args()
    try:
        found = collect(options.folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_csv(found, options.output)
    print(overview(found))
    print(f"\nevery exercise: {options.output}")
    return 0


def collect(folder: Path) -> list[HandedIn]:
    """Return the notebooks of a folder that have reports. Raises `InputError` for a file that is no notebook, or none."""
    paths = [
        path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts
    ]
    if not paths:
        raise InputError(
            f"{folder}: no notebooks there. Name the folder into which the class handed them in."
        )
    return [read(path, folder) for path in paths]


def read(path: Path, folder: Path) -> HandedIn:
    """Return what a notebook says. Raises `InputError` for a file that is none of this kit's notebooks."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises of many kinds
        raise InputError(f"{path}: not readable as a notebook. Ask for the file again.") from error
    sources = "\n".join(cell.source for cell in notebook.cells)
    names = [source.stem for source in sorted((HERE / "source").glob("[0-9]*.py"))]
    name = next(
        (name for name in names if f'"{name}"' in sources), None
    )  # its costs and its record are named so
    if name is None:
        raise InputError(f"{path}: none of this kit's notebooks. Take it out of the folder.")
    seed = SEED.search(sources)
    reports = {
        match[1]: (int(match[2]), int(match[3])) for match in REPORT.finditer(_outputs(notebook))
    }
    known = {exercise: reports[exercise] for exercise in EXERCISES if exercise in reports}
    whose = [*path.relative_to(folder).parent.parts, path.stem.replace(name, "").strip("_- ()")]
    return HandedIn(
        " ".join(filter(None, whose)) or "(no name)", name, int(seed[1]) if seed else None, known
    )


def _outputs(notebook) -> str:
    """Return the text of all outputs, one under the other; a cell that was run last shows last."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts.append(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


def overview(found: list[HandedIn]) -> str:
    """Return a table: for each student and notebook the exercises solved, of those that were tried."""
    notebooks = sorted({one.notebook for one in found})
    rows = {}
    for student in sorted({one.student for one in found}):
        own = {one.notebook: one for one in found if one.student == student}
        seeds = sorted({str(one.seed) for one in own.values() if one.seed is not None})
        solved = {
            name: f"{own[name].solved} of {len(own[name].reports)}"
            for name in notebooks
            if name in own
        }
        rows[student] = {"seed": ", ".join(seeds)} | solved
    return table(rows, corner="solved, of tried")


def write_csv(found: list[HandedIn], path: Path) -> None:
    """Write a row for each student, notebook and exercise that was tried."""
    with write_whole(path) as draft, open(draft, "w", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["student", "notebook", "seed", "exercise", "checks passed", "of"])
        for one in found:
            for exercise, (passed, of) in one.reports.items():
                writer.writerow([one.student, one.notebook, one.seed, exercise, passed, of])


if __name__ == "__main__":
    sys.exit(main())
