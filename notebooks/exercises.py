"""Write two editions of the notebooks for a class; `make exercises` calls this.

build/exercises/student has no solutions, build/exercises/solved has each one where the reader would write it. With a
list of names, build/exercises/class has the student's edition for each of them, with a seed of their own.
"""

import argparse
import copy
import re
import sys
from pathlib import Path

import jupytext
from sempa_utils.checks import InputError, check_name, decode_text

import address

HERE = Path(__file__).parent
EDITIONS = ("student", "solved")
SOLUTION = re.compile(
    r"<details><summary>Solution</summary>\n+```python\n(.*?)```.*?</details>", re.DOTALL
)
SEED = re.compile(r"^SEED = \d+", re.MULTILINE)
FIRST_SEED = 101  # of the first name in a list
UNWRITTEN = re.compile(r"^def (\w+)\([^\n]*\):\n    raise NotImplementedError$", re.MULTILINE)


def main() -> int:
    """Write both editions of every notebook; return 0, or 1 with one clear error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=HERE.parent / "build", help="where they go")
    about = "a text file with a name on each line: for each an edition with a seed of its own"
    parser.add_argument("--students", type=Path, metavar="FILE", help=about)
    options = parser.parse_args()
    folder, found = options.build / "exercises", address.address()
    try:
        seeds = read_seeds(options.students) if options.students else {}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for source in sorted((HERE / "source").glob("[0-9]*.py")):
        text = source.read_text(encoding="utf8")
        notebook = jupytext.reads(address.with_address(text, found, notebooks=[]), fmt="py:percent")
        try:
            editions = dict(zip(EDITIONS, (student(notebook), solved(notebook))))
        except InputError as error:
            print(f"error: {source.name}: {error}", file=sys.stderr)
            return 1
        editions |= {
            f"class/{name}": with_seed(editions["student"], seed) for name, seed in seeds.items()
        }
        for edition, written in editions.items():
            path = folder / edition / f"{source.stem}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            jupytext.write(written, path)
        print(f"{source.stem}: {len(solutions(notebook))} exercises")
    print(f"for the class {folder / 'student'}, with solutions {folder / 'solved'}")
    if seeds:
        print(f"{len(seeds)} with seeds {FIRST_SEED} to {max(seeds.values())}: {folder / 'class'}")
    return 0


def read_seeds(path: Path) -> dict[str, int]:
    """Return {name: seed} of a list of names, in its order. Raises `InputError` for no list, or a name that is none."""
    try:
        lines = decode_text(path.read_bytes(), path).splitlines()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}. Name a text file with a name on each line."
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{path}: {', '.join(sorted(twice))} stands there twice. Tell them apart.")
    if not names:
        raise InputError(f"{path}: no names there. Write one on each line.")
    return {
        check_name(name, what="student"): FIRST_SEED + place for place, name in enumerate(names)
    }


def with_seed(notebook, seed: int):
    """Return a copy whose cell of parameters has that seed."""
    edition = copy.deepcopy(notebook)
    for cell in edition.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = SEED.sub(f"SEED = {seed}", cell.source)
    return edition


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
