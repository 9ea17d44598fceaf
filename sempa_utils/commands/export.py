"""`export`: a folder that sentence-transformers loads."""

from sempa_utils import profiles
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("export", help="write a folder that sentence-transformers loads")
    shared.add_model(command)
    shared.add_profile(command, sets="precision")
    command.add_argument("--adapter", metavar="FOLDER", help="a trained adapter")
    command.add_argument("--method", default="prompteol", help="prompteol or pretended_cot (default: prompteol)")
    command.add_argument("--beside", action="store_true", help="keep the adapter beside the weights, not merged")
    command.add_argument("--output", required=True, metavar="FOLDER", help="what SentenceTransformer(FOLDER) loads")
    command.set_defaults(run=run)


def run(options) -> None:
    """Write a SentenceTransformer folder and say how to load it."""
    from sempa_utils.embedding.export import export

    precision = options.precision or profiles.get(options.profile).evaluation_precision
    language_model = shared.load(options.model, precision, adapter=options.adapter)
    folder = export(language_model, options.output, method=options.method, merge=not options.beside)
    print(f'{folder}: load it with sentence_transformers.SentenceTransformer("{folder}")')
