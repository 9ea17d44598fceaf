"""The files of records: written and read whole, with the versions and the machine that a run had."""

import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sempa_utils.checks import InputError, build_folder, check_name, decode_text, parse_json, write_whole
from sempa_utils.records.migration import migrate
from sempa_utils.records.types import JSON, SCHEMA, F, NotebookCost, Origin, RunRecord

VERSIONED = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "numpy", "scipy")
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # instructions of a processor, as torch names them
DIGITS = 6  # of a recorded figure
EXACT = 17  # digits that tell any two floats apart
T = TypeVar("T")


def environment() -> dict:
    """Return the versions and the machine that a record needs."""
    import psutil
    import torch

    processor = torch.cpu.get_capabilities()
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in VERSIONED}
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "processor": processor.get("cpu_name") or platform.processor(),
        "bfloat16": any(processor.get(name, False) for name in BFLOAT16),
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
        run = load_run(path, dict[str, NotebookCost]) if path.is_file() else None
        if run and notebook in run.figures:
            cost, machine = run.figures[notebook], run.machine
            where = machine["gpu"] or f"{machine['cores']} cores, {machine['system']}"
            cells = f"{cost.seconds / 60:.1f} min | {cost.peak_memory_bytes / 2**30:.1f} GiB | {where}"
        else:
            cells = "not yet measured | | "
        lines.append(f"| {name} | {profile.purpose} | {cells} |")
    return "\n".join(lines)


def run_record(name: str, figures: F, *, headline: str, origin: Origin | None = None) -> RunRecord[F]:
    """Return the record of a run that has just been made: its figures with command, date, versions and machine."""
    origin = origin or Origin()
    return RunRecord(
        name=name,
        headline=headline,
        figures=figures,
        model={key: _bare(value) for key, value in origin.model.items()},
        data=origin.data,
        settings=plain(origin.settings),
        seed=origin.seed,
        command=_command(),
        profile=os.environ.get("SEMPA_PROFILE"),
        date=datetime.date.today().isoformat(),
        **environment(),
    )


def save_run(record: RunRecord, folder: str | Path | None = None) -> Path:
    """Write a record as NAME.json, by default into the build folder, and return its path.

    Raises `ValueError` for a figure that is NaN or infinite, `InputError` for a name that is a path.
    """
    check_name(record.name, what="record")
    return write_json(Path(folder or build_folder() / "records") / f"{record.name}.json", record)


def load_run(path: str | Path, figures: Any = dict[str, JSON]) -> RunRecord:
    """Return a record with its `figures` of that type, by default as a table. Raises `InputError` as `read_json` does.

    Records of schema 1 are read through the migration.
    """
    record = _read(path)
    if isinstance(record, dict) and record.get("schema", SCHEMA) != SCHEMA:
        raise InputError(
            f"{path}: its schema is {record['schema']}, and this kit reads up to {SCHEMA}. Update the kit."
        )
    try:
        record = migrate(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not the record of a run ({error!r}). Name a file that --record wrote.") from error
    return _typed(record, RunRecord[figures], path)


def write_json(path: str | Path, value, *, digits: int = DIGITS) -> Path:
    """Write any result as JSON, whole or not at all, floats to that many digits; return the path."""
    text = json.dumps(plain(value, digits), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with write_whole(path) as draft:
        draft.write_text(text, encoding="utf8")
    return Path(path)


def read_json(path: str | Path, kind: type[T]) -> T:
    """Return what `write_json` wrote as a value of type `kind`.

    Raises `InputError` for a file that holds no JSON, or a field that the type does not have, lacks or has otherwise.
    """
    return _typed(_read(path), kind, path)


def _read(path: str | Path):
    text = decode_text(Path(path).read_bytes(), path)
    return parse_json(text, path, remedy="Make it again, or put the old file back.")


def _typed(tables, kind, path: str | Path):
    try:
        return _adapter(kind).validate_python(tables)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise InputError(f"{path}: {faults[0]}{more}. Correct the field, or make the file again.") from error


@functools.cache
def _adapter(kind) -> TypeAdapter:
    return TypeAdapter(kind)


def plain(value, digits: int = DIGITS):
    """Return `value` as JSON holds it: results as tables, tensors and arrays as lists, floats to `digits` digits."""
    if is_dataclass(value):
        written = (field.name for field in fields(value) if field.metadata.get("written", True))
        items = {name: getattr(value, name) for name in written}
        return {name: plain(item, digits) for name, item in items.items() if item is not None}
    if isinstance(value, dict):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, digits) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), digits)
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{digits}g}")
    return value


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
