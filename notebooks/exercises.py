"""Write two editions of the notebooks for a class; `make exercises` calls this.

build/exercises/student has no solutions, build/exercises/solved has each one where the reader would write it.
"""

import argparse
import copy
import re
import sys
from pathlib import Path

import jupytext
from sempa_utils.checks import InputError

HERE = Path(__file__).parent
EDITIONS = ("student", "solved")
SOLUTION = re.compile(
    r"<details><summary>Solution</summary>\n+```python\n(.*?)```.*?</details>", re.DOTALL
)
UNWRITTEN = re.compile(r"^def (\w+)\([^\n]*\):\n    raise NotImplementedError$", re.MULTILINE)


def main() -> int:
    """Write both editions of every notebook; return 0, or 1 with one clear error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=HERE.parent / "build", help="where they go")
    folder = parser.parse_args().build / "exercises"
    for source in sorted((HERE / "source").glob("[0-9]*.py")):
        notebook = jupytext.read(source)
        try:
            editions = student(notebook), solved(notebook)
        except InputError as error:
            print(f"error: {source.name}: {error}", file=sys.stderr)
            return 1
        for edition, written in zip(EDITIONS, editions):
            path = folder / edition / f"{source.stem}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            jupytext.write(written, path)
        print(f"{source.stem}: {len(solutions(notebook))} exercises")
    print(f"for the class {folder / 'student'}, with solutions {folder / 'solved'}")
    return 0


def solutions(notebook) -> dict[str, str]:
    """Return the folded solutions: {name of the last function: code}."""
    codes = [
        code.strip()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for code in SOLUTION.findall(cell.source)
    ]
    return {re.findall(r"^def (\w+)", code, re.MULTILINE)[-1]: code for code in codes}


def student(notebook):
    """Return a copy without the folded solutions."""
    edition = copy.deepcopy(notebook)
    for cell in edition.cells:
        if cell.cell_type == "markdown":
            cell.source = SOLUTION.sub("", cell.source).strip()
    edition.cells = [cell for cell in edition.cells if cell.source]
    return edition


def solved(notebook):
    """Return a copy in which each folded solution stands where the reader would write it.

    Raises `InputError` for an exercise without a solution.
    """
    codes, edition = solutions(notebook), copy.deepcopy(notebook)

    def written(match):
        if match[1] not in codes:
            raise InputError(f"the exercise {match[1]} has no folded solution. Write one below it.")
        return codes[match[1]]

    for cell in edition.cells:
        if cell.cell_type == "code":
            cell.source = UNWRITTEN.sub(written, cell.source)
    return edition


if __name__ == "__main__":
    sys.exit(main())
