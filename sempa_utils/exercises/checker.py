"""What all checkers share: an exercise, the call of the reader's function, the comparison, the report.

An exercise is one decorated function in the module of its notebook. It takes the reader's function and yields its
checks, mostly by `compare`: a right answer, inputs with a title each, and slips. A slip is a wrong answer that people
give; its name and its docstring are what the reader is told when both give the same.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class Exercise:
    """One exercise. `checks` takes the reader's function and yields (title, check without arguments)."""

    signature: str
    task: str
    difficulty: int  # 1, 2 or 3
    minutes: int
    checks: Callable

    @property
    def name(self) -> str:
        return self.signature.split("(")[0]

    @property
    def module(self) -> str:
        """The notebook's short name: theory, training, space, sts or generation."""
        return self.checks.__module__.rsplit(".", 1)[-1]

    @property
    def stars(self) -> str:
        return "★" * self.difficulty


@dataclass(frozen=True)
class Report:
    """The outcome of an exercise: the checks passed, and for each failed check a message that helps."""

    exercise: Exercise
    passed: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        total = len(self.passed) + len(self.failed)
        end = " Well done." if self.ok else ""
        lines = [f"{self.exercise.name} {self.exercise.stars}: {len(self.passed)} of {total} checks passed.{end}"]
        lines += [f"  ✓ {title}" for title in self.passed] if self.failed else []
        lines += [f"  ✗ {title}\n      {message}" for title, message in self.failed.items()]
        return "\n".join(lines)

    __repr__ = __str__


EXERCISES: dict[str, Exercise] = {}


def exercise(signature: str, task: str, *, difficulty: int, minutes: int) -> Callable:
    """Return a decorator that makes an exercise known, for a function that yields its checks."""

    def register(checks):
        one = Exercise(signature, task, difficulty, minutes, checks)
        EXERCISES[one.name] = one
        return checks

    return register


def check(name: str, function: Callable) -> Report:
    """Try the reader's function on an exercise's checks.

    `name` is a key of EXERCISES. Returns a Report; print it, or let it end a notebook cell.
    Raises KeyError for an unknown exercise, and nothing else: whatever the function does wrong
    is in the report.
    """
    if name not in EXERCISES:
        raise KeyError(f"no exercise {name!r}; there are: {', '.join(EXERCISES)}")
    one = EXERCISES[name]
    if not callable(function):
        return Report(one, (), {"it is a function": f"got {type(function).__name__}; hand over the function itself"})
    passed, failed = [], {}
    for title, run in one.checks(_guarded(function, one.signature)):
        try:
            run()
        except _Unwritten:
            return Report(one, (), {"it is written": "replace `raise NotImplementedError` by your answer"})
        except Wrong as problem:
            failed[title] = str(problem)
        except (Exception, SystemExit) as problem:  # the checker must outlive whatever it is handed
            failed[title] = f"the result could not be used: {type(problem).__name__}: {problem}"
        else:
            passed.append(title)
    return Report(one, tuple(passed), failed)


def overview(module: str) -> str:
    """Return a notebook's exercises as a Markdown table: signature, difficulty, minutes, task."""
    rows = ["| exercise | difficulty | minutes | task |", "|---|---|---|---|"]
    for one in EXERCISES.values():
        if one.module == module:
            rows.append(f"| `{one.signature}` | {one.stars} | {one.minutes} | {one.task} |")
    return "\n".join(rows)


# --- for those who write an exercise --------------------------------------------------------------


class Wrong(Exception):
    """The reader's answer fails a check; the message says how."""


def numbers(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Return normal numbers of standard deviation `scale`, float64."""
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def compare(
    function: Callable,
    right: Callable,
    *,
    cases: Mapping[str, tuple],
    slips: Iterable[Callable] = (),
    tolerance: float = 1e-5,
) -> Iterator[tuple[str, Callable]]:
    """Yield a check for each of `cases` {title: inputs}: the reader's `function` gives what `right` gives.

    Where it gives what one of `slips` gives, the message is that slip's name and docstring.
    """
    for title, inputs in cases.items():

        def run(inputs=inputs):
            hints = ((slip(*_copies(inputs)), meaning(slip)) for slip in slips)
            close(function(*inputs), right(*_copies(inputs)), tolerance=tolerance, hints=hints)

        yield title, run


def meaning(slip: Callable) -> str:
    """Return what a reader is told who has made this slip: its name, and what its docstring explains."""
    return f"{slip.__name__.strip('_').replace('_', ' ').capitalize()}. {inspect.getdoc(slip)}"


def close(answer, expected, *, tolerance: float = 1e-5, hints: Iterable = ()) -> None:
    """Raise `Wrong` unless numbers, arrays, tensors, lists, or a tuple of these, are as expected.

    `tolerance` is a share of the largest number expected where that is above 1. `hints` are pairs (a known wrong
    answer, what it means), looked at when the answer is wrong.
    """
    ours, right = _parts(answer, expected), _parts(expected, expected)
    tolerance *= max([1.0, *(one.abs().max().item() for one in right if one.numel())])
    if _apart(ours, right) <= tolerance:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a slip may divide by zero
        for wrong, message in hints:
            if _apart(ours, _parts(wrong, wrong)) <= tolerance:
                raise Wrong(message)
    for one, wanted in zip(ours, right, strict=True):
        if one.shape != wanted.shape:
            raise Wrong(f"the shape should be {tuple(wanted.shape)}, yours is {tuple(one.shape)}")
        if not one.isfinite().all():
            raise Wrong("your answer holds nan or inf: does an exponential overflow, or a logarithm meet zero?")
        worst = (one - wanted).abs().max().item()
        if worst > tolerance:
            where = (one - wanted).abs().flatten().argmax()
            raise Wrong(
                f"expected {wanted.flatten()[where].item():.6g}, got {one.flatten()[where].item():.6g} "
                f"(largest difference {worst:.2g}, tolerance {tolerance:.0e})"
            )


def tensor(value) -> torch.Tensor:
    """Return numbers, an array, a tensor, or lists of these as a tensor of float64 without a gradient."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().double()
    if isinstance(value, (list, tuple)) and any(isinstance(one, (list, tuple, torch.Tensor)) for one in value):
        return torch.stack([tensor(one) for one in value])
    return torch.as_tensor(np.array(value, dtype=float, order="C"))


# --- the call of a stranger's function ------------------------------------------------------------


class _Unwritten(Exception):
    """The reader has not begun."""


def _guarded(function, signature):
    """The reader's function on copies of the inputs, its exceptions turned into messages."""

    def call(*arguments):
        given = _copies(arguments)
        try:
            result = function(*given)
        except NotImplementedError:
            raise _Unwritten from None
        except (Exception, SystemExit) as problem:
            message = f"your function raised {type(problem).__name__}: {problem}"
            if isinstance(problem, TypeError) and not _accepts(function, len(arguments)):
                message += f"; it is called as {signature}"
            raise Wrong(message) from None
        if result is None or result is Ellipsis:
            raise Wrong(f"your function returned {result}: is the `return` missing?")
        if not _equal(arguments, given):
            raise Wrong("your function changed its input in place: work on a copy")
        return result

    return call


def _accepts(function, count):
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _copies(inputs):
    """Copies of all but torch's generators, which draw on where they stand."""
    kept = (torch.Generator, str, int, float)
    return [
        one if isinstance(one, kept) else one.clone() if isinstance(one, torch.Tensor) else copy.deepcopy(one)
        for one in inputs
    ]


def _equal(before, after):
    """Whether tensors, arrays and lists of these are what they were."""
    if isinstance(before, torch.Tensor):
        return torch.equal(before, after)
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after)
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_equal, before, after))
    return before == after or isinstance(before, (torch.Generator, np.random.Generator))


# --- the comparison -------------------------------------------------------------------------------


def _parts(value, expected):
    """The tensors of a value; a tuple is taken apart where a tuple is expected."""
    if not isinstance(expected, tuple):
        return [tensor(value)]
    if not (isinstance(value, (tuple, list, np.ndarray, torch.Tensor)) and len(value) == len(expected)):
        raise Wrong(f"{len(expected)} values are asked for, `return first, second`")
    return [tensor(one) for one in value]


def _apart(ours, others):
    """The largest difference of two lists of tensors; infinite where their shapes differ."""
    if [one.shape for one in ours] != [other.shape for other in others]:
        return float("inf")
    gaps = [(one - other).abs().max().item() for one, other in zip(ours, others) if one.numel()]
    return float("inf") if any(gap != gap for gap in gaps) else max(gaps, default=0.0)
