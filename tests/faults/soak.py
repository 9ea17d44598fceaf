"""Work for long: memory has no slope, and open files and temporary files are as many as at the start."""

import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from scipy import stats

from faults import kills
from faults.tiny import Tiny
from sempa_utils import __main__ as command_line
from sempa_utils.embedding import Embedder
from sempa_utils.training.run import give_back

WARM_UP = 3  # rounds in which caches fill


class Work(NamedTuple):
    """What is done over and over, how much of what a round is, and how many rounds are enough."""

    do: Callable[[int], None]  # by the number of the round
    size: int
    unit: str
    rounds: int
    most: float = 100  # kB a round by which memory may certainly grow


class Soaked(NamedTuple):
    """Rounds done, memory's slope in kB a round (95 % interval), and how many more files and processes there are."""

    rounds: int
    slope: tuple[float, float]
    left: int


def works(tiny: Tiny, folder: Path) -> dict[str, Work]:
    """Return what is done over and over, by name."""
    embedder = Embedder(tiny.base)
    make_run = partial(kills.make_run, folder)

    def encode(number: int) -> None:
        embedder.encode([f"The kettle {number} {n} is {'very ' * (n % 60)}hot." for n in range(2000)])

    def train(number: int) -> None:
        how = ["--model", str(tiny.home), "--profile", "smoke", "--precision", "float32", "--triplets", "250"]
        how += ["--epochs", "4", "--micro-batch", "25", "--save-every", "250"]
        assert command_line.main(["train", *how, "--output", str(folder / "run"), "--fresh"]) == 0

    def execute(number: int) -> None:
        kills.small_notebooks(folder, cells=9)
        build = folder / f"build-{number}"
        assert make_run(["--profile", "smoke", "--model", str(tiny.home), "--build", str(build)]) == 0
        shutil.rmtree(build)

    return {
        "encode, sentences of many lengths": Work(encode, 2000, "sentences", 100),
        "train": Work(train, 1000, "rows", 20),
        "make run, a kernel for each notebook": Work(execute, 27, "cells", 20, most=300),  # 3 kernels
    }


def soak(work: Work, *, seconds: float) -> Soaked:
    """Do a work for so long at most. Raises an AssertionError if memory certainly grows by more than it may, or files
    stay open, or processes or temporary files stay.
    """
    process, memory, started, number = psutil.Process(), [], time.monotonic(), 0
    before = 0
    while number < work.rounds and time.monotonic() - started < seconds or len(memory) < 4:
        with contextlib.redirect_stdout(io.StringIO()):
            work.do(number)
        number += 1
        give_back()
        if number > WARM_UP:
            memory.append(process.memory_info().rss / 1000)
            before = before or left_behind(process)
    fit = stats.linregress(np.arange(len(memory)), memory)
    half = stats.t.ppf(0.975, len(memory) - 2) * fit.stderr
    found = Soaked(number, (fit.slope - half, fit.slope + half), left_behind(process) - before)
    assert found.slope[0] < work.most and found.left <= 0, found
    return found


def left_behind(process: psutil.Process) -> int:
    """Count open files, processes that were started, and temporary files."""
    temporary = len(list(Path(tempfile.gettempdir()).iterdir()))
    return process.num_fds() + len(process.children(recursive=True)) + temporary
