"""`reproduce`: the kit's own record, run by run."""

from sempa_utils.checks import InputError
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    what = "the kit's own record: train, score and question every run of the grid; goes on where it stopped"
    command = commands.add_parser("reproduce", help=what)
    shared.add_model(command)
    shared.add_profile(command)
    shared.add_data(command)
    shared.add_seed(command)
    command.add_argument("--runs", help="comma-separated (default: the grid and its trials; --state lists them)")
    command.add_argument(
        "--steps",
        help="comma-separated: sts, geometry, layers, signals, frontier, generation, gold_answers (default: all)",
    )
    command.add_argument("--triplets", type=int, help="training rows (default, and 0: all)")
    command.add_argument(
        "--sts-pairs", type=int, help="pairs per task (default, and 0: all); then it is not the published measure"
    )
    command.add_argument("--generation-items", type=int, help="per benchmark (default: 40; 0: all)")
    command.add_argument("--gold-items", type=int, help="per benchmark, of gold_answers (default: 500; 0: all)")
    command.add_argument("--state", action="store_true", help="say what is done and what is left, and do nothing")
    command.add_argument("--records", metavar="FOLDER", help="where the records go (default: build/records)")
    command.add_argument("--ship", metavar="NAME", help="afterwards put the adapter of that run into the package")
    command.set_defaults(run=run)


def run(options) -> None:
    """Do what is left of the grid and print what is done."""
    from sempa_utils.experiments import grid

    given = {"triplets": options.triplets or None, "sts_pairs": options.sts_pairs or None}
    for name in ("generation_items", "gold_items"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name) or None
    sizes = grid.Sizes(**given)
    runs, steps = (value.split(",") if value else None for value in (options.runs, options.steps))
    if options.ship and (not runs or len(runs) != 1 or runs == [grid.BASE]):
        raise InputError("--ship puts one adapter into the package. Name its run, and no other: --runs contrastive_kl.")
    setting = shared.setting(options)
    if not options.state:
        grid.run(setting, runs=runs, steps=steps, sizes=sizes, folder=options.records)
    print(grid.table(grid.state(setting, runs=runs, steps=steps, sizes=sizes)))
    if runs and options.ship:
        print(grid.ship(setting, runs[0], name=options.ship, sizes=sizes))
