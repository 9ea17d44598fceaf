"""`encode`: lines in, vectors out."""

import json
import sys
from pathlib import Path

from sempa_utils import profiles
from sempa_utils.checks import InputError, decode_text, pick, write_whole
from sempa_utils.commands import shared


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("encode", help="lines in, vectors out (.npy or .jsonl)")
    shared.add_model(command)
    shared.add_profile(command, sets="precision")
    command.add_argument(
        "--input", default="-", metavar="FILE", help="UTF-8 text, a sentence a line (default: standard input)"
    )
    command.add_argument(
        "--output", required=True, metavar="FILE", help=".npy: float32 (n, width); .jsonl: an object a line"
    )
    command.add_argument("--method", default="prompteol", help="as in evaluate (default: prompteol)")
    command.add_argument("--layer", type=int, help="an index of hidden_states (default: the method's own)")
    command.add_argument("--adapter", metavar="FOLDER", help="a trained adapter")
    command.add_argument("--batch-size", type=int, help="sentences per batch, at most (default: by tokens)")
    command.add_argument("--normalise", action="store_true", help="vectors of length 1")
    command.set_defaults(run=run)


def run(options) -> None:
    """Read sentences, a line each, and write their vectors."""
    import numpy as np

    from sempa_utils.embedding import METHODS, Embedder

    output = Path(options.output)
    if output.suffix not in (".npy", ".jsonl"):
        raise InputError(f"{output}: the output is .npy or .jsonl, by its name. Choose one of them.")
    pick(options.method, METHODS, what="method")
    if options.input != "-" and not Path(options.input).is_file():
        raise InputError(f"{options.input}: no such file. Name a text file with a sentence a line, or - .")
    data = sys.stdin.buffer.read() if options.input == "-" else Path(options.input).read_bytes()
    sentences = decode_text(data, options.input).split("\n")
    sentences = sentences[:-1] if sentences[-1] == "" else sentences
    blank = [number for number, sentence in enumerate(sentences, start=1) if not sentence.strip()]
    if blank or not sentences:
        where = f", row {blank[0]}: a blank line" if blank else ": an empty file"
        raise InputError(f"{options.input}{where}. Each line must hold a sentence, so that rows and vectors agree.")
    precision = options.precision or profiles.get(options.profile).evaluation_precision
    language_model = shared.load(options.model, precision, adapter=options.adapter)
    embedder = Embedder(language_model, options.method, layer=options.layer)
    how = {"show_progress_bar": True, "normalize_embeddings": options.normalise}
    vectors = embedder.encode(sentences, options.batch_size, **how)
    with write_whole(output) as draft:
        if output.suffix == ".npy":
            np.save(draft, vectors)
        else:
            with open(draft, "w", encoding="utf8") as file:
                for sentence, vector in zip(sentences, vectors):
                    row = {"sentence": sentence, "embedding": vector.tolist()}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    cut = f"; {embedder.truncated} over-long sentences were cut" if embedder.truncated else ""
    print(f"{len(sentences):,} sentences → {output}, {vectors.shape[1]} numbers each{cut}", file=sys.stderr)
