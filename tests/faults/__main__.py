"""`make faults`: every attack in a bounded edition; a record of each in results/, and all in results/faults.md."""

import argparse
import logging
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from faults import crowd, disks, inputs, kills, options, same, soak, tiny
from sempa_utils import records
from sempa_utils.models import packaged


@dataclass(frozen=True)
class Attack:
    """What was attacked, how often, and what came of it; a row that is lost or a file that is torn is a failure.

    `seconds` passed; `processor_seconds` were computed, by all processes, and do not grow with what runs beside.
    """

    what: str
    tries: int
    outcome: str
    seconds: float = 0.0
    processor_seconds: float | None = None


@dataclass(frozen=True)
class Size:
    """How much of everything is tried."""

    examples: int = 120  # inputs of a kind whose share is 1
    kills: int = 10  # of a command whose share is 1
    disks: int = 4  # of growing size, for each command
    processes: int = 30
    seconds_of_soak: float = 60  # of each work, at most


def main() -> int:
    """Run the attacks that the command line names; return 0. A broken promise ends it with an AssertionError."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--only", default="", help="input, kill, disk, crowd or bytes (default: all five)")
    parser.add_argument("--soak", action="store_true", help="instead: encode, train and run for long, memory flat")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs and of the moments (default: 0)")
    numbers = (("examples", "inputs of a kind"), ("kills", "of a command"), ("disks", "of growing size, a command"))
    for name, about in (*numbers, ("processes", "at once")):
        parser.add_argument(f"--{name}", type=int, default=getattr(Size, name), help=f"{about} (default: %(default)s)")
    parser.add_argument("--seconds-of-soak", type=float, default=Size.seconds_of_soak, help="(default: %(default)s)")
    beside = "bytes: a Python of another environment, for example with another torch; may be repeated"
    parser.add_argument("--python", action="append", default=[], help=beside)
    asked = parser.parse_args()
    size = Size(asked.examples, asked.kills, asked.disks, asked.processes, asked.seconds_of_soak)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = prepare(folder)
        stages: dict[str, Callable[[], Iterable[Attack]]] = {
            "input": lambda: feed(made, folder, size, seed=asked.seed),
            "kill": lambda: kill(made, folder, size, seed=asked.seed),
            "disk": lambda: fill(made, folder, size),
            "crowd": lambda: gather(folder, size),
        }
        if asked.soak:
            stages = {"soak": lambda: soaked(made, folder, size)}
        for stage, attack in stages.items():
            if asked.only in stage:
                run(stage, attack())
        if asked.only in "bytes" and not asked.soak:
            compare(folder / "bytes", asked.python)
    return 0


def prepare(folder: Path) -> tiny.Tiny:
    """Make what is attacked in a folder, and let nothing else be found: no data, no cache, no network."""
    os.environ.pop("SEMPA_DATA_DIR", None)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"SEMPA_CACHE_DIR": str(folder / "cache"), "SEMPA_BUILD_DIR": str(folder / "build")}
    # A record tells of nobody's machine: of a path its last name.
    given = [Path(part).name if Path(part).is_absolute() else part for part in sys.argv[1:]]
    os.environ["SEMPA_COMMAND"] = shlex.join(["make", "faults", f"FAULTS={shlex.join(given)}"])
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels")}
    (folder / "temporary").mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "temporary")
    whole = tiny.write_gguf(folder / "tiny.gguf").read_bytes()
    packaged.PACKAGED_MODELS["tiny"] = tiny.write_wheel(folder / "wheels", whole)
    return tiny.make(folder / "tiny")


def run(stage: str, attacks: Iterable[Attack]) -> None:
    """Make the attacks of a stage, each as it is asked for; print each, and write those that are done into results/."""
    done, before, started = {}, os.times(), time.perf_counter()
    for attack in attacks:
        now = os.times()
        seconds, computed = time.perf_counter() - started, sum(now[:4]) - sum(before[:4])
        attack = replace(attack, seconds=round(seconds, 1), processor_seconds=round(computed, 1))
        print(f"{attack.what:<45}{attack.tries:>7,}  {attack.outcome}  ({seconds:.0f} s)", flush=True)
        done[attack.what] = attack
        record = records.run_record(f"faults_{stage}", done, headline=SUMMARIES[stage](list(done.values())))
        records.save_run(record, records.committed_folder())
        write_page()
        before, started = os.times(), time.perf_counter()


def feed(made: tiny.Tiny, folder: Path, size: Size, *, seed: int) -> Iterable[Attack]:
    """Feed bad input of every kind."""
    for kind in [*inputs.kinds(made), options.kind(str(made.home))]:
        tally = inputs.attack(kind, folder / "inputs" / kind.name, examples=size.examples, seed=seed)
        outcome = f"{tally['read']:,} read, {tally['refused']:,} refused by one error"
        yield Attack(f"bad input: {kind.name}", tally["tried"], outcome)


def kill(made: tiny.Tiny, folder: Path, size: Size, *, seed: int) -> Iterable[Attack]:
    """Kill every command."""
    for command in warm(kills.commands(made, folder)):
        place, count = folder / "kills" / plain(command), max(1, round(size.kills * command.share))
        tally = kills.kill_often(command, place, kills=count, chance=random.Random(seed))
        outcome = f"{tally['lives']} runs came to the same bytes, none lost more than a checkpoint's interval"
        yield Attack(f"killed: {command.name}", tally["kills"], outcome)


def fill(made: tiny.Tiny, folder: Path, size: Size) -> Iterable[Attack]:
    """Let commands meet a full disk, a cache that is read-only, and file systems and clocks of all kinds."""
    commands = {command.name: command for command in warm(kills.commands(made, folder))}
    apart = "train, two processes", "make run", "train, listwise", "train, best_of_n", "train, contrastive"
    written = [command for name, command in commands.items() if name not in apart]
    if disks.can_mount():
        for command in written:
            times, full = disks.fill(command, folder / "disk" / plain(command), times=size.disks)
            outcome = f"{full} times full: one error each, no half file; then the same bytes"
            yield Attack(f"small disk: {command.name}", times, outcome)
        reads = commands["encode"]._replace(arguments=[*commands["encode"].arguments, "--model", "tiny"])
        disks.read_only_cache(commands["fetch"], reads, folder / "read-only")
        yield Attack("read-only cache: fetch, encode", 2, "empty: one error; with the model in it: the same bytes")
    else:
        print("no right to mount a disk here: files are kept from growing in its place", flush=True)
        for command in written:
            times = kills.fill_disk(command, folder / "disk" / plain(command), sizes=(100, 4000, 40_000))
            yield Attack(f"small disk: {command.name}", times, "one error each; then the same bytes")
    for command in (commands[name] for name in ("train, pairwise", "encode", "evaluate", "fetch")):
        times = disks.odd(command, folder / "odd" / plain(command))
        yield Attack(f"{'; '.join(disks.ODD)}: {command.name}", times, "the same bytes")


def gather(folder: Path, size: Size) -> Iterable[Attack]:
    """Let many processes begin at once."""
    found = crowd.gather(folder / "crowd", count=size.processes)
    assert (found["fetched"], found["results"]) == (1, 1), found
    outcome = "one fetched and converted, one trained; all have the same model, adapter and scores"
    yield Attack("at once on an empty cache and one build folder", found["processes"], outcome)


def soaked(made: tiny.Tiny, folder: Path, size: Size) -> Iterable[Attack]:
    """Work for long and hold memory, open files, processes and temporary files flat."""
    for name, work in soak.works(made, folder / "soak").items():
        found = soak.soak(work, seconds=size.seconds_of_soak)
        low, high = found.slope
        outcome = (
            f"memory {low:+.1f} to {high:+.1f} kB a round of {work.size:,} (95 %), {found.left:+d} files or processes"
        )
        yield Attack(f"soak: {name}, {work.unit}", found.rounds * work.size, outcome)


def warm(commands: list[kills.Command]) -> list[kills.Command]:
    """Import what the commands import late, so that no fork has to do it again; return the commands."""
    import lm_eval.evaluator  # noqa: F401
    import lm_eval.tasks  # noqa: F401
    import sentence_transformers  # noqa: F401

    return commands


def plain(command: kills.Command) -> str:
    """Return a command's name as a folder's."""
    return command.name.replace(", ", "-").replace(" ", "-")


def _tries(attacks: list[Attack]) -> str:
    return f"{sum(attack.tries for attack in attacks):,}"


# What a stage's attacks come to.
SUMMARIES: dict[str, Callable[[list[Attack]], str]] = {
    "input": lambda attacks: f"{_tries(attacks)} bad inputs, each read or refused by one error",
    "kill": lambda attacks: f"{_tries(attacks)} kills and interruptions, after each life the bytes of a quiet run",
    "disk": lambda attacks: f"{_tries(attacks)} small or odd disks and clocks, each survived",
    "crowd": lambda attacks: f"{_tries(attacks)} processes at once, and one result",
    "soak": lambda attacks: "memory, open files, processes and temporary files stay flat",
}


def compare(folder: Path, pythons: list[str]) -> None:
    """Try what leaves every byte as it was; write the record of it."""
    others = {f"torch {_torch_of(python)}": python for python in pythons}
    tried: dict[str, same.Tried] = {}
    for one in same.compare(folder, others=others):
        print(one, flush=True)
        tried[one.what] = one
        kept = sum(not any((each.encode, each.pairwise, each.one_word)) for each in tried.values())
        headline = f"{kept} of {len(tried)} changes leave every byte as it was; the others move results by rounding"
        records.save_run(records.run_record("faults_bytes", tried, headline=headline), records.committed_folder())
        write_page()


def _torch_of(python: str) -> str:
    asked = "import importlib.metadata as m; print(m.version('torch'))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def write_page() -> None:
    """Write results/faults.md from the records that there are."""
    folder = records.committed_folder()
    text = PAGE
    for stage in SUMMARIES:
        if (path := folder / f"faults_{stage}.json").is_file():
            record = records.load_run(path, dict[str, Attack])
            rows = ["| attack | tries | what came of it | seconds | of the processor |", "|---|---|---|---|---|"]
            for one in record.figures.values():
                computed = "" if one.processor_seconds is None else f"{one.processor_seconds:.0f}"
                rows.append(f"| {one.what} | {one.tries:,} | {one.outcome} | {one.seconds:.0f} | {computed} |")
            text += _section(TITLES[stage], record, rows)
    if (path := folder / "faults_bytes.json").is_file():
        record = records.load_run(path, dict[str, same.Tried])
        rows = ["| what is changed | `encode` | `pairwise` | `one_word` |", "|---|---|---|---|"]
        for one in record.figures.values():
            cells = (_apart(value) for value in (one.encode, one.pairwise, one.one_word))
            rows.append(f"| {one.what} | {' | '.join(cells)} |")
        text += _section(TITLES["bytes"], record, rows) + BYTES
    (folder / "faults.md").write_text(text, encoding="utf8")


def _apart(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}" if value else "same bytes"


def _section(title: str, record: records.RunRecord, rows: list[str]) -> str:
    libraries = ", ".join(f"{name} {record.versions[name]}" for name in ("torch", "transformers", "trl", "peft"))
    where = f"{record.machine['cores']} cores, {libraries}; other programs ran beside it"
    return f"\n## {title}\n\n{record.headline}. `{record.command}` on {where}.\n\n" + "\n".join(rows) + "\n"


TITLES = {
    "input": "Bad input",
    "kill": "Killed anywhere",
    "disk": "Full and odd disks",
    "crowd": "Many at once",
    "soak": "For long",
    "bytes": "Same bytes",
}
PAGE = """# Faults

What `make faults` does to the kit, and what came of it. It attacks tiny random models, so that a command takes seconds
and can be killed often; what is attacked is the code, which is the same for any model. A row stands here only if
nothing was lost: a half file, another byte, a second error or a traceback ends the attack. Seconds are of a machine
that had other work; those of the processor are what was computed.

Found so, and mended:

- Ctrl-C during `make run` waited for the notebooks that were running: a kernel does not hear it. They end at once.
- A kernel that the system had ended for want of memory left a traceback. It is one line.
- On a slow machine what a cell prints came in several pieces, so an executed notebook had other bytes. They are joined.
- An error that came while a progress bar was drawn stood at the bar's end. It has a line of its own.
- On a full disk `torch.save` can say "unexpected pos" or "iostream error" in place of the system's words. Both are
  told as what they are.
"""
BYTES = """
Held against one undisturbed run on one thread, in float32, of a random model of one layer, 192 wide: vectors of 32
sentences, and adapters after 16 rows. A number is the largest difference, as a share of the largest value.

- **Promised**: on one processor, with the same versions, threads and settings, a run gives the same bytes, whether it
  was interrupted or not.
- **Not promised**: the last digits. Other threads, batches, processors and versions of torch make sums in another
  order; and AdamW divides a gradient by its own size, so that weights can differ by more than rounding does.
- **Another run, not another rounding**: micro-batches of another size where an objective takes its candidates from
  them, or where they have more rows than the KL term's texts (`--kl-texts`), for these are the first of each.
"""


if __name__ == "__main__":
    sys.exit(main())
