"""Commands with strange options: each ends well, or with one line that says what is wrong, and leaves no half file."""

import contextlib
import io
import os
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from faults.inputs import Kind
from sempa_utils import __main__ as command_line
from sempa_utils.checks import InputError

NUMBERS = ["0", "1", "-1", "2", "3.5", "nan", "inf", "1e400", "99999999999999999999", "", "x"]
WORDS = [
    "",
    " ",
    ",",
    "mean,",
    "x",
    "../outside",
    "a/b",
    "/nowhere/at/all",
    "é",
    "-",
    "--",
    "mini-STS",
    "pairwise",
    "{x}",
]
NOT_HERE = {
    "help",
    "triplets",
    "ship",
    "search",
    "minutes",
    "baseline",
    "accept_licence",
}  # for long runs, or the network


class Call(NamedTuple):
    """A command that would end well, and the options that are put behind it."""

    command: str
    options: tuple[str, ...]


def usual(model: str) -> dict[str, list[str]]:
    """Return for each command the options with which it ends well, within a second on a tiny model."""
    tiny = ["--model", model, "--profile", "smoke"]
    trained = ["--precision", "float32", "--triplets", "8"]
    return {
        "encode": [*tiny, "--input", "lines.txt", "--output", "vectors.npy"],
        "evaluate": [*tiny, "--methods", "mean", "--tasks", "mini-STS", "--limit", "20"],
        "plan": tiny,
        "train": [*tiny, *trained, "--output", "run"],
        "export": [*tiny, "--output", "exported"],
        "reproduce": [*tiny, "--state"],
        "fetch": ["--model", model],
    }


@st.composite
def calls(draw, model: str) -> Call:
    """A command with one or two options set to something strange."""
    command = draw(st.sampled_from(sorted(usual(model))))
    parser = command_line._parser()._subparsers._group_actions[0].choices[command]
    parser.complete()
    known = [action for action in parser._actions if action.dest not in NOT_HERE and action.option_strings]
    options: list[str] = []
    for _ in range(draw(st.integers(1, 2))):
        action = draw(st.sampled_from(known))
        options.append(action.option_strings[0])
        if action.nargs != 0:
            numeric = action.type in (int, float)
            options.append(draw(st.sampled_from(NUMBERS if numeric or draw(st.integers(0, 4)) == 0 else WORDS)))
    return Call(command, tuple(options))


def kind(model: str, share: float = 1.0) -> Kind:
    """Return the attack on the commands, with a tiny model's folder."""

    def run(call: Call, folder: Path) -> None:
        (folder / "lines.txt").write_text("The kettle is on.\nRain again\n", encoding="utf8")
        (inside := folder / "here").mkdir()
        (inside / "lines.txt").write_bytes((folder / "lines.txt").read_bytes())
        before, printed, said = os.getcwd(), io.StringIO(), io.StringIO()
        os.chdir(inside)
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
                try:
                    code = command_line.main([call.command, *usual(model)[call.command], *call.options])
                except SystemExit as end:
                    code = end.code
        finally:
            os.chdir(before)
        named = {"outside"} if "--output" in call.options else set()  # who names a path means it
        assert {path.name for path in folder.iterdir()} - named == {"here", "lines.txt"}, "written outside"
        left = [str(path) for path in inside.rglob(".*")]
        assert not left, f"left behind: {left}"
        errors = [line for line in said.getvalue().splitlines() if line.startswith("error: ") or ": error: " in line]
        assert code in (0, 1, 2) and (code == 0) == (not errors), (code, said.getvalue()[-500:])
        if code == 2:  # the parser's own refusal names the option
            raise InputError(f"{errors[0]} Use --help.")
        if code:
            raise InputError(errors[0])

    return Kind("options of commands", calls(model), run, "", share)
