"""The house keeps its own rules: floors, signatures, splats, hand-made lines, and the path that a newcomer is shown."""

import ast
import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import sempa_utils

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sempa_utils"
PATHS = sorted(PACKAGE.rglob("*.py"))
MOST_PARAMETERS, MOST_POSITIONAL, MOST_HAND_MADE = 6, 2, 10

# Wings that are being rewritten and do not keep a rule yet. Empty when this ships.
NOT_YET: dict[str, set[str]] = {}


def floors() -> dict[str, int]:
    """Read README's block: {wing or module: its line, counted from the top}."""
    block = (ROOT / "README.md").read_text(encoding="utf8").split("## Code layout")[1].split("```")[1]
    lines = [re.split(r"  +", line)[0].split(" · ") for line in block.strip().splitlines()]
    return {name.strip("/"): floor for floor, names in enumerate(lines) for name in names}


def wing(path: Path) -> str:
    """Return the folder or the module of the package that a file belongs to; "sempa_utils" for its head."""
    return "sempa_utils" if path == PACKAGE / "__init__.py" else path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST):
    """Yield (line, dotted name, name in the file) of each first-party import, at the top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            home = "." * node.level + (node.module or "")
            found = ((f"{home}.{alias.name}", alias) for alias in node.names)
        else:
            found = ((alias.name, alias) for alias in node.names) if isinstance(node, ast.Import) else ()
        for name, alias in found:
            if name.startswith(("sempa_utils", ".")):
                yield node.lineno, name, alias.asname or alias.name


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"))


@cache
def modules() -> dict[str, ModuleType]:
    """Import the whole package: {dotted name: module}."""
    names = [info.name for info in pkgutil.walk_packages([str(PACKAGE)], "sempa_utils.")]
    return {name: importlib.import_module(name) for name in ("sempa_utils", *names)}


def report(rule: str, violations: list[tuple[Path, str]]) -> None:
    """Fail with every violation in one message."""
    kept = [f"{path.relative_to(ROOT)}:{what}" for path, what in violations if wing(path) not in NOT_YET.get(rule, ())]
    assert not kept, f"{len(kept)} against the rule of {rule}:\n" + "\n".join(kept)


# --- Floors ------------------------------------------------------------------------------------


def test_every_wing_stands_on_one_floor():
    wings = {wing(path) for path in PATHS} - {"sempa_utils"}
    assert wings | {"notebooks"} == set(floors())


def test_an_import_leads_to_a_floor_below_or_stays_in_its_folder():
    floor, violations = floors(), []
    for path in PATHS:
        home = wing(path)
        for line, name, _ in imports(syntax(path)):
            target = name.split(".")[1] if "." in name else "sempa_utils"
            if name.startswith("."):
                violations.append((path, f"{line} imports {name}: write the whole name"))
            elif target in floor and home != target and (home == "sempa_utils" or floor[target] <= floor[home]):
                violations.append((path, f"{line} imports {name}, which is not below {home}"))
            elif target not in floor and f"sempa_utils.{target}" in modules():
                violations.append((path, f"{line} imports {name}, which stands on no floor"))
    report("imports", violations)


# --- Signatures --------------------------------------------------------------------------------


def public_functions(module: ModuleType):
    """Yield (name, function, whether its first parameter is the object) of what a module defines and shows.

    A dataclass or a NamedTuple has the constructor of its fields, and a method that a library's class has too is
    called by the library: neither is asked for here.
    """
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value, False
        elif inspect.isclass(value):
            for method, raw in vars(value).items():
                function = getattr(raw, "__func__", raw)  # of a classmethod or staticmethod
                foreign = (base for base in value.__mro__[1:-1] if not base.__module__.startswith("sempa_utils"))
                of_a_library = any(method in vars(base) for base in foreign)
                made = method == "__init__" and hasattr(value, "__dataclass_fields__")
                shown = not method.startswith("_") or method == "__init__"
                if inspect.isfunction(function) and shown and not made and not of_a_library:
                    yield f"{name}.{method}", function, not isinstance(raw, staticmethod)


def test_a_public_function_has_few_parameters_and_names_all_but_two():
    violations = []
    for module in modules().values():
        path = Path(inspect.getfile(module))
        for name, function, bound in public_functions(module):
            parameters = list(inspect.signature(function).parameters.values())[bound:]
            positional = sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters)
            count = positional + sum(one.kind == one.KEYWORD_ONLY for one in parameters)
            if count > MOST_PARAMETERS or positional > MOST_POSITIONAL:
                line = inspect.unwrap(function).__code__.co_firstlineno
                violations.append((path, f"{line} {name} has {count} parameters, {positional} of them by position"))
    report("signatures", violations)


# --- Splats ------------------------------------------------------------------------------------


def callee(node: ast.Call, module: ModuleType, names: dict[str, object]):
    """Return the object that a call names as `f`, `module.f` or `self.f`; None where the name leads elsewhere."""
    chain, function = [], node.func
    while isinstance(function, ast.Attribute):
        chain.append(function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return None
    if function.id in ("self", "cls") and len(chain) == 1:
        owners = (value for value in vars(module).values() if inspect.isclass(value))
        return next((vars(owner)[chain[0]] for owner in owners if chain[0] in vars(owner)), None)
    value = names.get(function.id, getattr(module, function.id, None))
    for name in reversed(chain):
        value = getattr(value, name, None)
    return value


def imported(tree: ast.AST) -> dict[str, object]:
    """Return what the first-party imports of a file name, inside functions too."""
    found = {}
    for _, name, alias in imports(tree):
        home, _, last = name.rpartition(".")
        if not name.startswith("."):
            found[alias] = getattr(importlib.import_module(home), last, None) if home else importlib.import_module(name)
    return found


def test_no_sequence_is_splatted_into_a_signature():
    """A star may lead into a library, and into a signature of ours that has a star itself."""
    violations = []
    for path in PATHS:
        module, names = modules()[dotted(path)], imported(syntax(path))
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.Call) and any(isinstance(argument, ast.Starred) for argument in node.args):
                function = callee(node, module, names)
                if (getattr(function, "__module__", None) or "").startswith("sempa_utils"):
                    kinds = {one.kind for one in inspect.signature(function).parameters.values()}
                    if inspect.Parameter.VAR_POSITIONAL not in kinds:
                        violations.append((path, f"{node.lineno} {ast.unparse(node)[:80]}"))
    report("splats", violations)


# --- Lines and the newcomer's path ----------------------------------------------------------------


def test_few_lines_are_hand_made():
    mark = "# fmt: " + "skip"
    folders = ("sempa_utils", "tests", "notebooks", "benchmarks")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    marked = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), start=1)
        if mark in line
    ]
    assert len(marked) <= MOST_HAND_MADE, f"{len(marked)} lines are formatted by hand:\n" + "\n".join(marked)


PLACES = ("objective", "extraction method", "STS task", "generation task", "figure", "command", "table")


def newcomers_path() -> dict[str, tuple[str, str, str]]:
    """Read the table at the head of the package: {thing: (its file, the name of its line, the file of that line)}."""
    rows = re.findall(r"^\| ([\w ]+) \| `([\w/.]+)` \| `(\w+)` in `([\w/.]+)` \|", sempa_utils.__doc__, re.MULTILINE)
    return {thing: (file, line, home) for thing, file, line, home in rows}


@pytest.mark.parametrize("thing", PLACES)
def test_the_newcomers_path_leads_to_a_file_and_a_line(thing):
    file, line, home = newcomers_path()[thing]
    # A file that is to be written stands for itself as NAME.py; its folder is there.
    place = PACKAGE / file
    assert place.is_file() or (place.name == "NAME.py" and place.parent.is_dir()), file
    known = {
        target.id
        for node in syntax(PACKAGE / home).body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    assert line in known, f"{home} has no {line}"
