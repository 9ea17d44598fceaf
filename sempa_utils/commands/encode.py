"""`encode`: lines in, vectors out."""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sempa_utils import profiles
from sempa_utils.checks import InputError, pick, require_space, write_whole
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
    """Read sentences, a line each, and write their vectors; several processes share them, and the first one writes."""
    import numpy as np

    from sempa_utils import models
    from sempa_utils.data.lines import lines_of
    from sempa_utils.embedding import METHODS, Embedder, chunks

    output = Path(options.output)
    if output.suffix not in (".npy", ".jsonl"):
        raise InputError(f"{output}: the output is .npy or .jsonl, by its name. Choose one of them.")
    pick(options.method, METHODS, what="method")
    together = models.processes()  # each process takes its own GPU before a model is loaded
    if options.input == "-" and together.num_processes > 1:
        raise InputError(f"--input -: {together.num_processes} processes cannot share standard input. Name a file.")
    precision = options.precision or profiles.get(options.profile).evaluation_precision
    with lines_of(options.input) as lines:
        how = {"adapter": options.adapter, "speaks": together.is_main_process}
        language_model = shared.load(options.model, precision, **how)
        embedder = Embedder(language_model, options.method, layer=options.layer)
        kept = output.with_name(f"{output.name}.part")
        require_space(output.parent, 2 * 4 * len(lines) * embedder.dimension, purpose=output.name)
        how = {"file": lines.name, "kept": kept, "batch_size": options.batch_size, "normalise": options.normalise}
        parts = chunks.encoded(embedder, lines, **how)
        if not together.is_main_process:
            list(parts)  # its share is computed, and the first process has the rest of the work
            return
        cut = 0
        with write_whole(output) as draft, open(draft, "wb") as file:
            if output.suffix == ".npy":
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(lines), embedder.dimension)}
                np.lib.format.write_array_header_1_0(file, header)
            for chunk in parts:
                file.write(chunk.vectors.astype("<f4").tobytes() if output.suffix == ".npy" else _lines(chunk))
                cut += chunk.cut
        shutil.rmtree(kept, ignore_errors=True)
        told = f"; {cut} over-long sentences were cut" if cut else ""
        print(f"{len(lines):,} sentences → {output}, {embedder.dimension} numbers each{told}", file=sys.stderr)


def _lines(chunk: "Chunk") -> bytes:
    rows = ({"sentence": text, "embedding": vector.tolist()} for text, vector in zip(chunk.sentences, chunk.vectors))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
