"""`encode`: lines in, vectors out."""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sempa_utils import profiles
from sempa_utils.checks import InputError, decode_text, pick, require_space, write_whole
from sempa_utils.commands import shared

if TYPE_CHECKING:
    from sempa_utils.embedding.chunks import Chunk


def add(commands) -> None:
    """Add the command and its options."""
    command = commands.add_parser("encode", help="lines in, vectors out (.npy or .jsonl); goes on where it stopped")
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
    shared.add_batch_size(command, "sentences")
    command.add_argument("--normalise", action="store_true", help="vectors of length 1")
    command.set_defaults(run=run)


def run(options) -> None:
    """Read sentences, a line each, and write their vectors."""
    import numpy as np

    from sempa_utils.embedding import METHODS, Embedder, chunks

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
    kept, cut = output.with_name(f"{output.name}.part"), 0
    require_space(output.parent, 2 * 4 * len(sentences) * embedder.dimension, purpose=output.name)
    how = {"file": options.input, "kept": kept, "batch_size": options.batch_size, "normalise": options.normalise}
    with write_whole(output) as draft, open(draft, "wb") as file:
        if output.suffix == ".npy":
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(sentences), embedder.dimension)}
            np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks.encoded(embedder, sentences, **how):
            file.write(chunk.vectors.astype("<f4").tobytes() if output.suffix == ".npy" else _lines(chunk))
            cut += chunk.cut
    shutil.rmtree(kept, ignore_errors=True)
    told = f"; {cut} over-long sentences were cut" if cut else ""
    print(f"{len(sentences):,} sentences → {output}, {embedder.dimension} numbers each{told}", file=sys.stderr)


def _lines(chunk: "Chunk") -> bytes:
    rows = ({"sentence": text, "embedding": vector.tolist()} for text, vector in zip(chunk.sentences, chunk.vectors))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
