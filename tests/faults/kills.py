"""Killed anywhere: a command is killed at random moments and started again, until it has the bytes of a quiet run.

Commands run in forks of this process, which has imported everything already: so a start costs nothing, and many kills
can be afforded.
"""

import json
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import tqdm.auto

from faults.tiny import Tiny, files
from sempa_utils import __main__ as command_line
from sempa_utils import training
from sempa_utils.embedding import chunks
from sempa_utils.objectives import OBJECTIVES

# What differs from run to run: how long it took, and when and where it was.
TAKEN = {
    "seconds",
    "peak_memory_bytes",
    "triplets_per_second",
    "resumed_from_step",
    "training_seconds",
}  # as long as it took
OF_DAY = {"command", "date", "versions", "machine"}


class Command(NamedTuple):
    """A command, how its arguments are made for a folder, and what must come of it, by name."""

    name: str
    arguments: Callable[[Path], list[str]]
    outcome: Callable[[Path], dict[str, bytes]]


class Ended(NamedTuple):
    """How a fork ended: its code, or less the number of the signal that ended it; and what it printed."""

    code: int
    said: str


SAID: dict[int, int] = {}  # where a fork's output is read


def fork(work: Callable[[], int], folder: Path, *, largest_file: int | None = None) -> int:
    """Run `work` in a fork of this process, in a folder of its own; return the fork's number.

    Writing past `largest_file` bytes fails in whatever library, as on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    if number := os.fork():
        os.close(writing)
        SAID[number] = reading
        return number
    code = 70
    try:
        _apart_from_the_parent()
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False, encoding="utf8") for number in (1, 2))
        os.chdir(folder)
        os.environ |= {"SEMPA_BUILD_DIR": str(folder / "build"), "SEMPA_CACHE_DIR": str(folder / "cache")}
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        code = work()
    except KeyboardInterrupt:  # before the command had begun
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _apart_from_the_parent() -> None:
    """Take locks and threads of this fork's own: a shared lock would stay held by who is killed with it."""
    lock = threading.RLock()
    for bar in (tqdm.std.tqdm, tqdm.auto.tqdm):
        bar.set_lock(lock)
    torch.set_num_threads(1)  # the other threads of OpenMP did not come along


def wait(number: int) -> Ended:
    """Wait for a fork and tell how it ended."""
    with open(SAID.pop(number), encoding="utf8", errors="replace") as said:
        text = said.read()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), text[-2000:])


def _json(data: bytes) -> bytes:
    """Return a record without what differs from run to run: how long it took, and when and where it was."""

    def plain(value, left_out=TAKEN):
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items() if key not in left_out}
        return [plain(part) for part in value] if isinstance(value, list) else value

    return json.dumps(plain(json.loads(data), TAKEN | OF_DAY), sort_keys=True).encode()


def _outcome(*parts: str) -> Callable[[Path], dict[str, bytes]]:
    """Return what reads the files under some parts of a folder, records without what differs from run to run."""

    def read(folder: Path) -> dict[str, bytes]:
        found = {}
        for part in parts:
            place = folder / part
            content = files(place) if place.is_dir() else {place.name: place.read_bytes()}
            found |= {f"{part}: {name}": data for name, data in content.items()}
        return {name: _json(data) if name.endswith(".json") else data for name, data in found.items()}

    return read


def commands(tiny: Tiny, sentences: Path) -> list[Command]:
    """Return the commands that are killed, in tiny sizes."""
    model = ["--model", str(tiny.home), "--profile", "smoke"]
    adapter = ["--adapter", str(tiny.home.parent / "trained" / "adapter")]

    def train(objective: str) -> Callable[[Path], list[str]]:
        how = ["--precision", "float32", "--triplets", "24", "--ranked", "--save-every", "8", "--epochs", "2"]
        return lambda _: ["train", *model, *how, "--objective", objective, "--output", "run"]

    def evaluate(_: Path) -> list[str]:
        tasks = ["--tasks", "mini-STS", "--limit", "40", "--methods", "mean,prompteol,echo"]
        return ["evaluate", *model, *adapter, *tasks, "--record", "scores"]

    def reproduce(_: Path) -> list[str]:
        sizes = ["--triplets", "16", "--sts-pairs", "40", "--generation-items", "2"]
        return ["reproduce", *model, "--runs", "base,pairwise", "--steps", "sts,geometry,layers", *sizes]

    encoded = ["--input", str(sentences), "--output", "v.npy"]
    trained = _outcome("run/adapter", "run/training.json")
    return [
        *(Command(f"train, {name}", train(name), trained) for name in OBJECTIVES),
        Command("encode", lambda _: ["encode", *model, *encoded], _outcome("v.npy")),
        Command("evaluate", evaluate, _outcome("results", "build/sts")),
        Command("export", lambda _: ["export", *model, *adapter, "--output", "exported"], _outcome("exported")),
        Command("reproduce", reproduce, _outcome("build/records", "build/reproduce", "build/sts")),
        Command("fetch", lambda _: ["fetch", "--model", "tiny"], _outcome("cache/models")),
    ]


def work(command: Command, folder: Path) -> Callable[[], int]:
    """Return what runs a command in a fork."""

    def run() -> int:
        chunks.CHUNK = 16
        return command_line.main(command.arguments(folder))

    return run


def quiet_run(command: Command, folder: Path) -> tuple[dict[str, bytes], float]:
    """Run a command undisturbed; return what came of it, and the seconds that it took."""
    started = time.perf_counter()
    ended = wait(fork(work(command, folder), folder))
    assert ended.code == 0, f"{command.name} ends with {ended.code}: {ended.said}"
    return command.outcome(folder), time.perf_counter() - started


def compare(command: Command, folder: Path, expected: dict[str, bytes]) -> None:
    """Run a command that was disturbed in a folder once more; raise an AssertionError unless all is as expected."""
    before = training.last_whole_checkpoint(folder / "run")
    found, _ = quiet_run(command, folder)
    unlike = [name for name in expected | found if found.get(name) != expected.get(name)]
    assert not unlike, f"{command.name}, disturbed and started again, has other bytes in {unlike}"
    left = [str(path.relative_to(folder)) for path in folder.rglob(".*")]
    assert not left, f"{command.name}, disturbed and started again, leaves behind {left}"
    record = training.read_record(folder / "run")
    if before and record and record.resumed_from_step:
        assert record.resumed_from_step == int(before.name.split("-")[1]), "more than an interval was lost"


def kill_often(command: Command, folder: Path, *, kills: int, chance: random.Random) -> Counter:
    """Kill a command so many times, in lives of up to four kills; hold each life's end against a quiet run."""
    expected, took = quiet_run(command, folder / "quiet")
    tally = Counter({"kills": 0, "lives": 0})
    while tally["kills"] < kills:
        life = folder / f"life-{tally['lives']:03d}"
        for _ in range(min(chance.randint(1, 4), kills - tally["kills"])):
            number = fork(work(command, life), life)
            time.sleep(chance.uniform(0, took))
            how = chance.choice([signal.SIGKILL, signal.SIGINT])
            if psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
                tally["kills"] += 1
                os.kill(number, how)
            ended = wait(number)
            assert ended.code in (0, 130, -how), f"{command.name} ends with {ended.code}: {ended.said}"
        compare(command, life, expected)
        tally["lives"] += 1
    return tally


def fill_disk(command: Command, folder: Path, *, sizes: tuple[int, ...]) -> int:
    """Let no file grow beyond each of `sizes`: one error, no half file, and the same bytes when there is room again.

    Returns how many times the disk was full.
    """
    expected, _ = quiet_run(command, folder / "quiet")
    times = 0
    for size in sizes:
        place = folder / str(size)
        ended = wait(fork(work(command, place), place, largest_file=size))
        assert ended.code in (0, 1), f"{command.name} ends with {ended.code}: {ended.said}"
        if ended.code:
            errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1 and "disk is full" in errors[0], f"{command.name}: {ended.said}"
            assert "Traceback" not in ended.said
            times += 1
        compare(command, place, expected)
    return times


def lines(folder: Path) -> Path:
    """Write some chunks' sentences into a file of a folder; return it."""
    path = folder / "lines.txt"
    path.write_text("".join(f"The kettle {n} is {'very ' * (n % 7)}hot.\n" for n in range(100)), encoding="utf8")
    return path
