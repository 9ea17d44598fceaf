"""`train`: an adapter by one of the objectives."""

import sys

from sempa_utils import profiles
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("train", help="train an adapter by one of the objectives; resumes by itself")
    shared.add_model(command)
    shared.add_profile(command)
    shared.add_data(command)
    shared.add_seed(command)
    shared.add_recipe(command)
    command.add_argument("--output", required=True, metavar="FOLDER", help="gets adapter/, checkpoints/, training.json")
    command.add_argument("--triplets", type=int, help="how many training rows (default: the profile's; 0: all)")
    command.add_argument("--ranked", action="store_true", help="rows with all three labels, as listwise always takes")
    known = "leave out the rows with a sentence of the dev tasks, those that choices are made on"
    command.add_argument("--apart-from-dev", action="store_true", help=known)
    command.add_argument("--fresh", action="store_true", help="replace what the folder holds instead of resuming")
    shared.add_record(command)
    command.set_defaults(run=run)


def run(options) -> None:
    """Train an adapter and print what came of it."""
    from sempa_utils import models, records, training
    from sempa_utils.checks import pick
    from sempa_utils.data import corpora
    from sempa_utils.evaluation import sts
    from sempa_utils.objectives import OBJECTIVES

    processes = models.processes()  # each process takes its own GPU before a model is loaded
    profile, kind = profiles.get(options.profile), pick(options.objective, OBJECTIVES, what="objective")
    ranked = options.ranked or kind.ranked
    limit = profile.triplets if options.triplets is None else options.triplets or None
    corpus = corpora.load_nli(options.data, ranked=ranked)
    if options.apart_from_dev:
        corpus = corpus.apart_from(sts.load_dev_tasks(options.data).values())
    corpus = corpus.sample(limit, options.seed)
    speaks = processes.is_main_process
    if speaks:
        print(corpus.describe())
    shared.recipe(options, parameters=sys.maxsize, rows=len(corpus))  # a wrong setting ends it before a model is loaded
    language_model = shared.load(options.model, options.precision or profile.precision, speaks=speaks)
    recipe = shared.recipe(options, parameters=language_model.parameters, rows=len(corpus))
    if speaks:
        whose = "the paper's" if options.recipe == "paper" else "fitted to model and rows (--recipe paper: the paper's)"
        print(f"learning rate {recipe.learning_rate:g}, KL weight {recipe.kl_weight:g}: {whose}", flush=True)
    record = training.train(language_model, corpus, recipe=recipe, folder=options.output, resume=not options.fresh)
    if not speaks:
        return
    if record.rows_too_long:
        print(f"{record.rows_too_long} rows were longer than {recipe.max_length} tokens and left out")
    if left_out := record.candidates_left_out:
        print(f"{left_out} times another row's sentence was no negative, since it says the same, and was left out")
    first, last = record.curve[0], record.last_quarter
    headline = (
        f"{recipe.objective.name}, {len(corpus):,} rows in {record.seconds:.0f} s: loss {first.loss:.4f} → "
        f"{last.loss:.4f} and accuracy {100 * last.accuracy:.0f} % over the last quarter, "
        f"peak memory {record.peak_memory_bytes / 2**30:.1f} GiB"
    )
    if reached := record.model.get("experts"):
        print(reached)
    print(f"{headline}\nadapter: {record.adapter}")
    if options.record:
        origin = records.Origin(record.model, record.data, record.recipe, options.seed)
        records.save_run(records.run_record(options.record, record, headline=headline, origin=origin), "results")
