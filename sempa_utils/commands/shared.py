"""What several commands take, as options, and what several do with them."""

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sempa_utils import profiles
from sempa_utils.checks import InputError, check_name, check_seed, pick, write_whole

PICTURES = (".png", ".pdf", ".svg")


class Parser(argparse.ArgumentParser):
    """A parser whose costly options are added when it is used: `--help` of all commands imports no model library."""

    later: Callable[["Parser"], None] | None = None

    def complete(self) -> None:
        """Add what was put off."""
        later, self.later = self.later, None
        if later:
            later(self)

    def parse_known_args(self, args=None, namespace=None):
        """Parse, with all options."""
        self.complete()
        return super().parse_known_args(args, namespace)


def add_model(command) -> None:
    """Add --model."""
    names = "packaged, gemma-3-270m, a hub id, or a directory"
    command.add_argument("--model", default="packaged", help=f"{names} (default: packaged)")


def add_profile(command, default: str = "the profile's", *, sets: str = "sizes and precision") -> None:
    """Add --precision and --profile; `default` and `sets` are words of their help."""
    command.add_argument("--precision", help=f"float32, bfloat16 or nf4 (default: {default})")
    names = f"{sets}: {', '.join(profiles.PROFILES)} (default: cpu)"
    command.add_argument("--profile", default=os.environ.get("SEMPA_PROFILE", "cpu"), help=names)


def add_data(command) -> None:
    """Add --data."""
    command.add_argument("--data", metavar="DIRECTORY", help="where nli/ and senteval/ lie (default: SEMPA_DATA_DIR)")


def add_seed(command) -> None:
    """Add --seed."""
    command.add_argument("--seed", type=seed, default=42, help="of everything that is drawn (default: 42)")


def add_recipe(command: Parser) -> None:
    """Add the objective and an option for each setting of a recipe and of the objectives."""
    command.later = _add_recipe


def _add_recipe(command: Parser) -> None:
    from sempa_utils.objectives import OBJECTIVES
    from sempa_utils.objectives.objective import settings_of
    from sempa_utils.training.recipe import OF_PROFILE, RECIPES, Recipe

    about = "learning rate and KL weight, if not given: fitted to model and rows, or the paper's (default: fitted)"
    command.add_argument("--recipe", choices=RECIPES, default="fitted", help=about)
    command.add_argument("--objective", default="pairwise", help=f"{', '.join(OBJECTIVES)} (default: pairwise)")
    known: dict[str, dict[str, dataclasses.Field]] = {}
    for name, kind in OBJECTIVES.items():
        for setting in settings_of(kind).values():
            known.setdefault(setting.name, {})[name] = setting
    for settings in known.values():
        first, *others = settings.items()
        values = f"{', '.join(settings)}; default: {first[1].default}"
        unlike = (option for option in others if option[1].default != first[1].default)
        values += "".join(f", {kind}: {setting.default}" for kind, setting in unlike)
        _add_setting(command, first[1], values)
    for setting in settings_of(Recipe).values():
        default = "the profile's" if setting.name in OF_PROFILE else setting.default
        _add_setting(command, setting, "" if default is None else f"default: {default}")
    command.add_argument(
        "--stock-batches", action="store_true", help="TRL's own batches instead of prefix trees (slower)"
    )


def _add_setting(command, setting: dataclasses.Field, values: str) -> None:
    kind, about = setting.metadata["kind"], setting.metadata["about"]
    how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
    text = f"{about} ({values})" if values else about
    command.add_argument(f"--{setting.name.replace('_', '-')}", default=None, help=text, **how)


def add_record(command) -> None:
    """Add --record."""
    command.add_argument("--record", metavar="NAME", type=record_name, help="also write results/NAME.json")


def add_figure(command, drawn: str) -> None:
    """Add --figure."""
    command.add_argument("--figure", metavar="FILE", type=picture, help=f"also draw {drawn} ({', '.join(PICTURES)})")


def add_batch_size(command, unit: str, *, default: str = "by tokens") -> None:
    """Add --batch-size."""
    about = f"{unit} per batch, at most (default: {default})"
    command.add_argument("--batch-size", type=size, metavar="N", help=about)


# What an option's value must be is said before anything is computed.


def _checked(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of an option's value that tells argparse what its `InputError` says."""

    @functools.wraps(read)
    def told(text: str) -> Any:
        try:
            return read(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return told


@_checked
def seed(text: str) -> int:
    """Read a seed."""
    check_seed(number := int(text))
    return number


@_checked
def record_name(text: str) -> str:
    """Read a record's name."""
    return check_name(text, what="record")


@_checked
def picture(text: str) -> str:
    """Read the name of a file that a picture can be written to."""
    pick(Path(text).suffix, PICTURES, what="kind of picture")
    return text


@_checked
def size(text: str) -> int:
    """Read a number of at least one."""
    if (number := int(text)) < 1:
        raise InputError(f"{number} is less than 1. Give a number of 1 or more.")
    return number


def recipe(options, *, parameters: int, rows: int):
    """Return a profile's recipe, the paper's or fitted to a model and its rows, with what the command line changes."""
    from sempa_utils.objectives import OBJECTIVES
    from sempa_utils.objectives.objective import settings_of
    from sempa_utils.training import Recipe

    names = {"seed"}.union(*map(settings_of, (Recipe, *OBJECTIVES.values())))
    changes = {name: value for name, value in vars(options).items() if name in names and value is not None}
    changes["shared_prefix"] = not options.stock_batches
    profile = profiles.get(options.profile)
    if options.recipe == "paper":
        return Recipe.of_profile(profile, options.objective, **changes)
    return Recipe.fitted(profile, options.objective, parameters=parameters, rows=rows, **changes)


def setting(options):
    """Return on what a series of runs is made."""
    from sempa_utils.experiments.series import Setting

    profile = profiles.get(options.profile)
    return Setting(options.model, profile, options.data, options.seed, options.precision)


def load(name: str, precision: str, *, adapter: str | None = None, speaks: bool = True):
    """Return a loaded model, and say on standard error what of it is computed in another way than usual.

    Of several processes one `speaks`.
    """
    from sempa_utils import models

    language_model = models.load(name, precision, adapter=adapter)
    for line in language_model.lines() if speaks else ():
        print(f"{language_model.name}: {line}", file=sys.stderr, flush=True)
    return language_model


def labels(folders: list[str]) -> dict[str, str]:
    """Return a name for each adapter: "adapter" for a single one, else the objective or folder it came from."""
    from sempa_utils import models

    if len(folders) == 1:
        return {folders[0]: "adapter"}
    shipped = {folder for folder in folders if models.adapter_folder(folder) != Path(folder)}
    names = {folder: folder if folder in shipped else Path(folder).resolve().parent.name for folder in folders}
    if len(set(names.values())) < len(names):
        raise InputError(f"The adapters' parent folders have the same name: {', '.join(folders)}. Rename one.")
    return names


def save_figure(figure, file: str) -> None:
    """Write a figure as what its file's name ends in, or as PNG."""
    with write_whole(file) as draft:
        figure.savefig(draft, format=Path(file).suffix[1:] or "png")
