"""Killed anywhere: a command is killed at random moments and started again, until it has the bytes of a quiet run.

Commands run in forks of this process, which has imported everything already: so a start costs nothing, and many kills
can be afforded.
"""

import contextlib
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
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import tqdm.auto
from accelerate.state import AcceleratorState, PartialState
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from faults.tiny import Tiny, files
from sempa_utils import __main__ as command_line
from sempa_utils import training
from sempa_utils.embedding import chunks
from sempa_utils.objectives import OBJECTIVES

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))
import run as runner  # noqa: E402

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
    """A command, its arguments, what must come of it in a folder, by name, and what runs it."""

    name: str
    arguments: list[str]
    outcome: Callable[[Path], dict[str, bytes]]
    run: Callable[[list[str]], int] = command_line.main
    share: float = 1.0  # of the kills that are asked for: the quicker, the more


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
        with contextlib.suppress(OSError):  # it has done so itself, or is gone
            os.setpgid(number, number)
        return number
    code = 70
    try:
        os.setpgid(0, 0)  # Ctrl-C reaches it and all that it starts, and not us
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
    for state in (AcceleratorState, PartialState):  # one of two processes finds out anew which one it is
        state._reset_state()


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


def commands(tiny: Tiny, folder: Path) -> list[Command]:
    """Return the commands that are killed, in tiny sizes; what they all read is written into a folder."""
    model = ["--model", str(tiny.home), "--profile", "smoke"]
    adapter = ["--adapter", str(tiny.home.parent / "trained" / "adapter")]
    recipe = ["--precision", "float32", "--triplets", "24", "--ranked", "--save-every", "8", "--epochs", "2"]
    train = ["train", *model, *recipe, "--output", "run", "--objective"]
    encode = ["encode", *model, "--input", str(lines(folder)), "--output", "v.npy"]
    pairs = ["--tasks", "mini-STS", "--limit", "40"]
    evaluate = ["evaluate", *model, *adapter, *pairs, "--methods", "mean,prompteol,echo", "--record", "scores"]
    seeds = ["analyse", "seeds", *model, "--precision", "float32", "--tasks", "mini-STS", "--record", "seeds"]
    benchmark = ["benchmark", *model, *adapter, "--limit", "4", "--record", "asked", "--tasks"]
    sizes = ["--triplets", "16", "--sts-pairs", "40", "--generation-items", "2"]
    reproduce = ["reproduce", *model, "--runs", "base,pairwise", "--steps", "sts,geometry,layers", *sizes]
    notebooks = ["--profile", "smoke", "--model", str(tiny.home), "--build", "build"]
    trained = _outcome("run/adapter", "run/training.json")
    pages = _outcome(*(f"build/{name}.{form}" for name in small_notebooks(folder) for form in ("ipynb", "html")))
    scored = _outcome("results", "build/generation")
    done = _outcome("build/records", "build/reproduce", "build/sts")
    return [
        *(Command(f"train, {name}", [*train, name], trained, share=0.5) for name in OBJECTIVES),
        Command("train, two processes", [*train, "pairwise", "--accumulation", "2"], trained, in_two_processes, 0.25),
        Command("encode", encode, _outcome("v.npy"), share=2),
        Command("evaluate", evaluate, _outcome("results", "build/sts")),
        Command("analyse", seeds, _outcome("results"), share=0.25),
        Command("benchmark", [*benchmark, "hellaswag,truthfulqa"], scored),
        Command("benchmark, gold answers", [*benchmark, "drop,mmlu", "--gold-answers"], scored),
        Command("export", ["export", *model, *adapter, "--output", "exported"], _outcome("exported"), share=2),
        Command("reproduce", reproduce, done, share=0.5),
        Command("fetch", ["fetch", "--model", "tiny"], _outcome("cache/models")),
        Command("make run", notebooks, pages, partial(make_run, folder), 0.25),
    ]


def in_two_processes(arguments: list[str]) -> int:
    """Run a command in two processes under torchrun's own agent, which forks them: nothing is imported anew."""
    two = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "max_restarts": 0, "start_method": "fork"}
    meeting = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": str(os.getpid())}
    try:
        return max(elastic_launch(LaunchConfig(**two, **meeting), command_line.main)(arguments).values())
    except SignalException:  # with which torchrun answers Ctrl-C
        return 130
    except ChildFailedError:
        return 1


NOTEBOOKS = ("01_alone", "02_beside", "03_beside")  # the last two run side by side


def small_notebooks(folder: Path, cells: int = 3) -> tuple[str, ...]:
    """Write quick notebooks of so many cells for `make run` into a folder; return their names."""
    source = folder / "notebooks" / "source"
    source.mkdir(parents=True, exist_ok=True)
    for name in NOTEBOOKS:
        text = "".join(f"\n# %%\nimport time; time.sleep(0.1); print({number})\n" for number in range(cells))
        (source / f"{name}.py").write_text(f"# %% [markdown]\n# # {name}\n{text}", encoding="utf8")
    return NOTEBOOKS


def make_run(folder: Path, arguments: list[str]) -> int:
    """Do what `make run` does, with the quick notebooks of a folder."""
    runner.HERE, sys.argv = folder / "notebooks", ["run.py", *arguments]
    return runner.main()


def work(command: Command) -> Callable[[], int]:
    """Return what runs a command in a fork."""

    def run() -> int:
        chunks.CHUNK = 16
        return command.run(command.arguments)

    return run


def quiet_run(command: Command, folder: Path) -> tuple[dict[str, bytes], float]:
    """Run a command undisturbed; return what came of it, and the seconds that it took."""
    started = time.perf_counter()
    ended = wait(fork(work(command), folder))
    assert ended.code == 0, f"{command.name} ends with {ended.code}: {ended.said}"
    return command.outcome(folder), time.perf_counter() - started


def compare(command: Command, folder: Path, expected: dict[str, bytes]) -> None:
    """Run a command that was disturbed in a folder once more; raise an AssertionError unless all is as expected."""
    run = folder / "run"
    before, finished = training.last_whole_checkpoint(run), training.read_record(run)
    found, _ = quiet_run(command, folder)
    unlike = [name for name in expected | found if found.get(name) != expected.get(name)]
    assert not unlike, f"{command.name}, disturbed and started again, has other bytes in {unlike}"
    left = [str(path.relative_to(folder)) for path in folder.rglob(".*")]
    assert not left, f"{command.name}, disturbed and started again, leaves behind {left}"
    if before and not finished:
        record = training.read_record(run)
        assert record and record.resumed_from_step == int(before.name.split("-")[1]), "more than an interval was lost"


def kill_often(command: Command, folder: Path, *, kills: int, chance: random.Random) -> Counter:
    """Kill a command so many times, in lives of up to four kills; hold each life's end against a quiet run."""
    expected, took = quiet_run(command, folder / "quiet")
    tally = Counter({"kills": 0, "lives": 0})
    while tally["kills"] < kills:
        life = folder / f"life-{tally['lives']:03d}"
        for _ in range(min(chance.randint(1, 4), kills - tally["kills"])):
            number = fork(work(command), life)
            time.sleep(chance.uniform(0, took))
            if psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
                tally["kills"] += 1
                kill(number, chance)
            check_end(command, wait(number))
        compare(command, life, expected)
        tally["lives"] += 1
    return tally


def kill(number: int, chance: random.Random) -> None:
    """Interrupt a command and all that it started, as Ctrl-C does, or kill one of its processes, as want of memory."""
    if chance.random() < 0.5:
        os.killpg(number, signal.SIGINT)
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [number, *(child.pid for child in psutil.Process(number).children(recursive=True))]
        os.kill(chance.choice(family), signal.SIGKILL)


def check_end(command: Command, ended: Ended) -> None:
    """Raise an AssertionError unless a command ended well, was killed or interrupted, or said one error."""
    said = ended.said
    if ended.code == 1:  # it lost a process that it had started
        told = len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
        assert told and "Traceback" not in said or command.run is in_two_processes, f"{command.name}: {said}"
    assert ended.code in (0, 1, 130, -signal.SIGKILL), f"{command.name} ends with {ended.code}: {said}"


def fill_disk(command: Command, folder: Path, *, sizes: tuple[int, ...]) -> int:
    """Let no file grow beyond each of `sizes`: one error, no half file, and the same bytes when there is room again.

    Returns how many times the disk was full.
    """
    expected, _ = quiet_run(command, folder / "quiet")
    times = 0
    for size in sizes:
        place = folder / str(size)
        times += check_full(command, wait(fork(work(command), place, largest_file=size)))
        compare(command, place, expected)
    return times


def check_full(command: Command, ended: Ended) -> bool:
    """Tell whether a command met a full disk. Raises an AssertionError unless it then ended with one error."""
    assert ended.code in (0, 1), f"{command.name} ends with {ended.code}: {ended.said}"
    if ended.code:
        errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and ("disk is full" in errors[0] or "MB free" in errors[0]), ended.said
        assert "Traceback" not in ended.said, ended.said
    return bool(ended.code)


def lines(folder: Path) -> Path:
    """Write some chunks' sentences into a file of a folder; return it."""
    path = folder / "lines.txt"
    path.write_text("".join(f"The kettle {n} is {'very ' * (n % 7)}hot.\n" for n in range(100)), encoding="utf8")
    return path
