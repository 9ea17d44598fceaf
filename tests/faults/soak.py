"""Work for long: memory has no slope, and open files and temporary files are as many as at the start."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from scipy import stats

from faults.tiny import Tiny
from sempa_utils import __main__ as command_line
from sempa_utils.embedding import Embedder

WARM_UP = 3  # rounds in which caches fill


class Soaked(NamedTuple):
    """Rounds done, memory's slope in kB a round (95 % interval), and how many more files are open."""

    rounds: int
    slope: tuple[float, float]
    handles: int


def works(tiny: Tiny, folder: Path) -> dict[str, Callable[[int], None]]:
    """Return what is done over and over, by the number of the round."""
    embedder = Embedder(tiny.base)

    def encode(number: int) -> None:
        embedder.encode([f"The kettle {number} {n} is {'very ' * (n % 60)}hot." for n in range(200)])

    def train(number: int) -> None:
        how = ["--model", str(tiny.home), "--profile", "smoke", "--precision", "float32", "--triplets", "16"]
        assert command_line.main(["train", *how, "--output", str(folder / "run"), "--fresh"]) == 0

    return {"sentences of many lengths, 200 a round": encode, "training, 16 rows a round": train}


def soak(work: Callable[[int], None], *, seconds: float) -> Soaked:
    """Do a work for so long. Raises an AssertionError where memory certainly grows by more than 100 kB a round."""
    process, memory, started, number = psutil.Process(), [], time.monotonic(), 0
    handles = None
    while time.monotonic() - started < seconds or len(memory) < 4:
        work(number)
        number += 1
        gc.collect()
        if number > WARM_UP:
            memory.append(process.memory_info().rss / 1000)
            handles = process.num_fds() if handles is None else handles
    fit = stats.linregress(np.arange(len(memory)), memory)
    half = stats.t.ppf(0.975, len(memory) - 2) * fit.stderr
    found = Soaked(number, (fit.slope - half, fit.slope + half), process.num_fds() - handles)
    assert found.slope[0] < 100 and found.handles <= 0, found
    return found
