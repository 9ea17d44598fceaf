"""Same bytes: what of a run may be changed and leaves every byte as it was, and what moves a result by rounding.

Run as a script it makes the vectors and adapters of a folder's model: so another environment, or the instructions of
another processor, can be held against this one.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from conftest import tiny_model, tiny_tokenizer
from safetensors.numpy import load_file

from faults import kills
from sempa_utils import __main__ as command_line
from sempa_utils.models import certificate

OBJECTIVES = ("pairwise", "one_word")  # one over answers, one over the state at the slot
OLDER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
ENCODE = ["encode", "--model", "model", "--precision", "float32", "--input", "lines.txt", "--output", "v.npy"]
TRAIN = ["train", "--model", "model", "--profile", "smoke", "--precision", "float32", "--triplets", "16"]
TRAIN += ["--micro-batch", "4", "--accumulation", "2", "--save-every", "8", "--ranked"]
SMALLER = ["--micro-batch", "2", "--accumulation", "4"]


@dataclass(frozen=True)
class Tried:
    """What was changed, and the largest difference that came of it over the largest value: 0 for the same bytes."""

    what: str
    encode: float | None = None
    pairwise: float | None = None
    one_word: float | None = None


def prepare(home: Path) -> None:
    """Write what is read: a random model wide enough for threads to share its work, and sentences of many lengths."""
    tiny_model(layers=1, width=192).save_pretrained(home / "model")
    tiny_tokenizer().save_pretrained(home / "model")
    words = (f"The kettle {n} is {'very ' * (n * 7 % 40)}hot.\n" for n in range(32))
    (home / "lines.txt").write_text("".join(words), encoding="utf8")


def encode(*options: str) -> int:
    """Encode the sentences."""
    return command_line.main([*ENCODE, *options])


def train(*options: str, by: Iterable[str] = OBJECTIVES) -> int:
    """Train by objectives."""
    return max(command_line.main([*TRAIN, "--objective", name, "--output", name, *options]) for name in by)


def both() -> int:
    """Encode and train."""
    return encode() or train()


def with_threads(count: int) -> int:
    """Do both on so many threads."""
    torch.set_num_threads(count)
    return both()


def padded() -> int:
    """Do both on padded batches in place of prefix trees."""
    measure = certificate.measure
    certificate.measure = lambda *given: replace(measure(*given), tree=False)
    return both()


def in_other_order() -> int:
    """Encode the sentences backwards, and turn the vectors round."""
    lines = Path("lines.txt")
    lines.write_text("".join(reversed(lines.read_text(encoding="utf8").splitlines(keepends=True))), encoding="utf8")
    code = encode()
    np.save("v.npy", np.load("v.npy")[::-1])
    return code


def go_on() -> int:
    """Train, take away all that came after the first checkpoint, and go on from there."""
    code = train()
    for name in OBJECTIVES:
        run = Path(name)
        checkpoints = sorted(run.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        assert len(checkpoints) > 1
        for path in [run / "adapter", *checkpoints[1:]]:
            shutil.rmtree(path)
        (run / "training.json").unlink()
    return code or train()


def in_two_processes() -> int:
    """Encode and train in two processes."""
    run = kills.in_two_processes
    return max(run(ENCODE), *(run([*TRAIN, "--objective", name, "--output", name]) for name in OBJECTIVES))


# What is changed, by what it is called.
CHANGES: dict[str, Callable[[], int]] = {
    "nothing: the same again": both,
    "gone on from a checkpoint": go_on,
    "sentences in another order": in_other_order,
    "batches of one sentence": partial(encode, "--batch-size", "1"),
    "batches of 7 sentences": partial(encode, "--batch-size", "7"),
    # Whose candidates are those of its micro-batch, `one_word`, would be asked something else.
    "micro-batches of half the size, twice as many": partial(train, *SMALLER, by=["pairwise"]),
    "the reference computed beforehand": partial(train, "--cache-reference", by=["pairwise"]),
    "padded batches in place of prefix trees": padded,
    "two processes in place of one": in_two_processes,
    "two threads in place of one": partial(with_threads, 2),
}


def results(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return what was made in a folder: {encode or objective: arrays by name}."""
    found = {"encode": {"vectors": np.load(folder / "v.npy")}} if (folder / "v.npy").is_file() else {}
    for name in OBJECTIVES:
        if (path := folder / name / "adapter" / "adapter_model.safetensors").is_file():
            found[name] = load_file(path)
    return found


def apart(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest difference over the largest value; 0 alone for the same bytes."""
    assert found.keys() == expected.keys()
    if all(found[name].tobytes() == expected[name].tobytes() for name in expected):
        return 0.0
    most = max(float(np.abs(found[name] - expected[name]).max()) for name in expected)
    return max(most, np.finfo(np.float32).tiny) / max(float(np.abs(value).max()) for value in expected.values())


def compare(folder: Path, *, others: dict[str, str]) -> Iterator[Tried]:
    """Try change after change; `others` are the interpreters of other environments, by what is said of them."""
    home = folder / "home"
    prepare(home)

    def made(name: str, work: Callable[[], int]) -> Path:
        place = folder / name.translate(str.maketrans(" :,", "---"))
        shutil.copytree(home, place)
        ended = kills.wait(kills.fork(work, place))
        assert ended.code == 0, f"{name}: {ended.said}"
        return place

    def elsewhere(python: str, **surroundings: str) -> int:
        tests = Path(__file__).parents[1]
        surroundings |= {"PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent)))}
        return subprocess.run([python, "-m", "faults.same"], env=os.environ | surroundings).returncode

    expected = results(made("undisturbed", both))
    changes = {"an older processor's instructions (AVX2)": partial(elsewhere, sys.executable, **OLDER)}
    changes |= {name: partial(elsewhere, python) for name, python in others.items()}
    for name, work in (changes | CHANGES).items():
        found = results(made(name, work))
        yield Tried(name, **{part: apart(found[part], expected[part]) for part in found})


if __name__ == "__main__":
    sys.exit(both())
