"""`train`: an adapter by one of the objectives."""

import argparse

from sempa_utils import profiles
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("train", help="train an adapter by one of five objectives; resumes by itself")
    shared.add_model(command)
    shared.add_profile(command)
    shared.add_data(command)
    shared.add_seed(command)
    shared.add_recipe(command)
    command.add_argument("--output", required=True, metavar="FOLDER", help="gets adapter/, checkpoints/, training.json")
    command.add_argument("--triplets", type=int, help="how many training rows (default: the profile's; 0: all)")
    command.add_argument("--ranked", action="store_true", help="rows with all three labels, as listwise always takes")
    command.add_argument("--template", help="paraphrase template by id (default: keep_same_meaning), or an "
                         "extraction template: then no chat, the answer follows the prompt that is read")  # fmt: skip
    command.add_argument("--beta", type=float, help="weight on the reference (default: 0.1; one_word: 2)")
    command.add_argument("--temperature", type=float, help="of contrastive (default: 0.05)")
    command.add_argument("--kl-weight", type=float, help="of KL(base || model) of the next words in some anchors as "
                         "plain text, which keeps the model speaking (default: 0)")  # fmt: skip
    command.add_argument("--candidates", type=int, help="of best_of_n (default: 5)")
    command.add_argument("--symmetric", action="store_true", default=None, help="one_word in both directions")
    command.add_argument("--chunk", type=int, help="sentences per forward of one_word and contrastive (default: 32)")
    command.add_argument("--gradient-caching", action=argparse.BooleanOptionalAction, default=None,
                         help="of several chunks keep states alone: less memory, slower (default: yes)")  # fmt: skip
    command.add_argument("--epochs", type=int, help="passes over the rows (default: 1)")
    command.add_argument("--save-every", type=int, help="rows between checkpoints (default: the profile's)")
    command.add_argument("--learning-rate", type=float, help="peak (default: 1e-4; one_word and contrastive: 5e-4)")
    command.add_argument(
        "--stock-batches", action="store_true", help="TRL's own batches instead of prefix trees (slower)"
    )
    command.add_argument("--fresh", action="store_true", help="replace what the folder holds instead of resuming")
    shared.add_record(command)
    command.set_defaults(run=run)


def run(options) -> None:
    """Train an adapter and print what came of it."""
    from sempa_utils import models, objectives, records, training
    from sempa_utils.data import corpora
    from sempa_utils.training import trainer

    processes = trainer.processes()  # each process takes its own GPU before a model is loaded
    recipe, profile = shared.recipe(options), profiles.get(options.profile)
    ranked = options.ranked or objectives.OBJECTIVES[recipe.objective].ranked
    limit = profile.triplets if options.triplets is None else options.triplets or None
    corpus = (corpora.load_ranked_nli if ranked else corpora.load_triplets)(options.data, limit, options.seed)
    print(corpus.describe())
    language_model = models.load(options.model, options.precision or profile.precision)
    record = training.train(language_model, corpus, recipe, options.output, resume=not options.fresh)
    if not processes.is_main_process:
        return
    if record["rows_too_long"]:
        print(f"{record['rows_too_long']} rows were longer than {recipe.max_length} tokens and left out")
    first, last = record["curve"][0], record["last_quarter"]
    headline = (
        f"{recipe.objective}, {len(corpus):,} rows in {record['seconds']:.0f} s: loss {first['loss']:.4f} → "
        f"{last['loss']:.4f} and accuracy {100 * last['accuracy']:.0f} % over the last quarter, "
        f"peak memory {record['peak_memory_bytes'] / 2**30:.1f} GiB"
    )
    print(f"{headline}\nadapter: {record['adapter']}")
    if options.record:
        figures = {k: v for k, v in record.items() if k not in ("model", "data", "recipe", "adapter")}
        records.save_run(options.record, figures, headline, record["model"], record["data"], record["recipe"],
                         options.seed, folder="results")  # fmt: skip
