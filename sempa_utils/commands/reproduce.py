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
        help="comma-separated: sts, geometry, layers, signals, frontier, generation, gold_answers, dev (default: all)",
    )
    command.add_argument("--triplets", type=int, help="training rows (default, and 0: all)")
    command.add_argument(
        "--sts-pairs", type=int, help="pairs per task (default, and 0: all); then it is not the published measure"
    )
    command.add_argument("--generation-items", type=int, help="per benchmark (default: 40; 0: all)")
    command.add_argument("--gold-items", type=int, help="per benchmark, of gold_answers (default: 500; 0: all)")
    command.add_argument("--state", action="store_true", help="say what is done and what is left, and do nothing")
    command.add_argument("--records", metavar="FOLDER", help="where the records go (default: build/records)")
    search = "in place of the grid, find a recipe of this objective on dev: many on few rows, the best on more"
    command.add_argument("--search", metavar="OBJECTIVE", help=search)
    command.add_argument("--minutes", type=float, help="a search's budget, with what earlier calls took (default: 60)")
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
    if options.search:
        _search(options, setting, sizes)
        return
    if options.minutes:
        raise InputError("--minutes is the budget of a search. Name its objective: --search pairwise.")
    if not options.state:
        grid.run(setting, runs=runs, steps=steps, sizes=sizes, folder=options.records)
    print(grid.table(grid.state(setting, runs=runs, steps=steps, sizes=sizes)))
    if runs and options.ship:
        print(grid.ship(setting, runs[0], name=options.ship, sizes=sizes))


def _search(options, setting, sizes) -> None:
    """Do what is left of a search, and draw all that it tried beside its record."""
    from pathlib import Path

    from sempa_utils.checks import build_folder
    from sempa_utils.experiments import search
    from sempa_utils.plots.search import search as picture

    if options.runs or options.steps or options.state or options.ship:
        raise InputError("--search tries recipes of its own. Leave --runs, --steps, --state and --ship out.")
    minutes = {} if options.minutes is None else {"minutes": options.minutes}
    folder = Path(options.records or build_folder() / "records")
    record = search.run(setting, search.Search(options.search, **minutes), sizes=sizes, folder=folder)
    path = folder / f"{record.name}.png"
    shared.save_figure(picture(record.figures), str(path))
    print(f"{folder / record.name}.json\n{path}")
