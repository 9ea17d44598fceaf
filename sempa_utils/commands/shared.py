"""What several commands take, as options, and what several do with them."""

import argparse
import dataclasses
import os
from pathlib import Path

from sempa_utils import profiles
from sempa_utils.checks import InputError, write_whole


def add_model(command) -> None:
    """Add --model."""
    command.add_argument("--model", default="packaged", help="packaged, a hub id, or a directory (default: packaged)")


def add_profile(command, default: str = "the profile's", sets: str = "sizes and precision") -> None:
    """Add --precision and --profile; `default` and `sets` are words of their help."""
    command.add_argument("--precision", help=f"float32, bfloat16 or nf4 (default: {default})")
    command.add_argument("--profile", default=os.environ.get("SEMPA_PROFILE", "cpu"),
                         help=f"{sets}: {', '.join(profiles.PROFILES)} (default: cpu)")  # fmt: skip


def add_data(command) -> None:
    """Add --data."""
    command.add_argument("--data", metavar="DIRECTORY", help="where nli/ and senteval/ lie (default: SEMPA_DATA_DIR)")


def add_seed(command) -> None:
    """Add --seed."""
    command.add_argument("--seed", type=int, default=42, help="of everything that is drawn (default: 42)")


def add_recipe(command) -> None:
    """Add what of a recipe decides how much memory training takes."""
    command.add_argument("--objective", default="pairwise",
                         help="pairwise, listwise, best_of_n, one_word or contrastive (default: pairwise)")  # fmt: skip
    command.add_argument(
        "--micro-batch", type=int, help="rows whose loss is computed together (default: the profile's)"
    )
    command.add_argument("--accumulation", type=int, help="micro-batches per step, over all processes")
    command.add_argument("--max-length", type=int, help="tokens of one training sequence (default: the profile's)")
    command.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=None,
                         help="less memory, a second forward (default: the profile's)")  # fmt: skip
    command.add_argument("--optimizer", help="adamw_torch or paged_adamw_8bit (default: adamw_torch)")


def add_record(command) -> None:
    """Add --record."""
    command.add_argument("--record", metavar="NAME", help="also write results/NAME.json")


def recipe(options):
    """Return the recipe of a profile with what the command line changes."""
    from sempa_utils.training import Recipe

    names = {one.name for one in dataclasses.fields(Recipe)} - {"objective"}
    changes = {name: value for name, value in vars(options).items() if name in names and value is not None}
    changes["shared_prefix"] = not getattr(options, "stock_batches", False)
    return Recipe.of_profile(profiles.get(options.profile), options.objective, **changes)


def labels(folders: list[str]) -> dict[str, str]:
    """Return a name for each adapter: "adapter" for a single one, else the objective or folder it came from."""
    from sempa_utils import models

    if len(folders) == 1:
        return {folders[0]: "adapter"}
    found = {one: one if models.adapter_folder(one) != Path(one) else Path(one).resolve().parent.name
             for one in folders}  # fmt: skip
    if len(set(found.values())) < len(found):
        raise InputError(f"The adapters' parent folders have the same name: {', '.join(folders)}. Rename one.")
    return found


def save_figure(figure, file: str) -> None:
    """Write a figure as what its file's name ends in, or as PNG."""
    with write_whole(file) as draft:
        figure.savefig(draft, format=Path(file).suffix[1:] or "png")
