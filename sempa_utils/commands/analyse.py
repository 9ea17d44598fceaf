"""`analyse`: the paper's analyses on a model of your own."""

import dataclasses
import json
from collections.abc import Callable

from sempa_utils.checks import InputError
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    tables = "the paper's Table 4, Figure 3 or Table 8 on your model, in a profile's sizes; goes on where it stopped"
    command = commands.add_parser("analyse", help=tables)
    shared.add_model(command)
    shared.add_profile(command)
    shared.add_data(command)
    shared.add_seed(command)
    what = "training and extraction templates; checkpoints of one run; several seeds"
    command.add_argument("what", choices=["templates", "data-size", "seeds"], help=what)
    command.add_argument("--objective", default="pairwise", help="as in train (default: pairwise)")
    command.add_argument("--folder", help="data-size: a finished run's (default: the profile's own run)")
    command.add_argument("--tasks", help="comma-separated (default: all that is here)")
    shared.add_figure(command, "it")
    shared.add_record(command)
    command.set_defaults(run=run)


def run(options) -> None:
    """Run one of the paper's analyses and print the result."""
    from sempa_utils import records
    from sempa_utils.experiments import analyses
    from sempa_utils.plots import analyses as pictures

    runs: dict[str, tuple[Callable, Callable]] = {
        "templates": (analyses.template_grid, pictures.template_map),
        "data-size": (analyses.data_size_curve, pictures.data_size),
        "seeds": (analyses.seed_spread, pictures.seeds),
    }
    analysis, draw = runs[options.what]
    if options.folder and options.what != "data-size":
        raise InputError(f"--folder names the one run of data-size; {options.what} trains several. Leave it out.")
    setting = shared.setting(options)
    if options.precision:
        profile = dataclasses.replace(setting.profile, evaluation_precision=options.precision)
        setting = dataclasses.replace(setting, profile=profile)
    tasks = options.tasks.split(",") if options.tasks else None
    where = {"folder": options.folder} if options.folder else {}
    record = analysis(setting, options.objective, tasks=tasks, **where)
    print(json.dumps(records.plain(record.figures), indent=1, ensure_ascii=False))
    print(record.headline)
    if options.figure:
        shared.save_figure(draw(record.figures, record.model["name"]), options.figure)
    if options.record:
        records.save_run(dataclasses.replace(record, name=options.record), "results")
