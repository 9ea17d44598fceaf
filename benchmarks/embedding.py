"""Embedding speed: this kit's PromptEOL beside the authors' way and sentence-transformers, on the same texts.

The same model, weights and vectors on all sides (the lowest cosine between them is reported). The sides
run several times, in turn; the figures are medians, with all repeats beside them.

- authors' way: batches of 16 in file order, all hidden states, logits of every token
- sentence-transformers: the exported model, `SentenceTransformer(folder).encode` with its own defaults
- this kit, and once more on texts without repeats, to tell apart what saving repeats alone is worth

python benchmarks/embedding.py [--pairs 200] [--repeats 5] [--task SICK-R] [--record NAME]
"""

import argparse
import statistics
import tempfile
import time

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from sempa_utils import models, records
from sempa_utils.data import corpora
from sempa_utils.data.templates import EXTRACTION_TEMPLATES, fill, prepare_sentence
from sempa_utils.embedding import Embedder
from sempa_utils.embedding.export import export


def main() -> None:
    """Time the sides in turn and print sentences per second, the ratios and the lowest cosine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200, help="pairs of each task; 0: all")
    parser.add_argument("--task", action="append", help="may be repeated (default: all that is here)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--model", default="packaged")
    parser.add_argument("--record", metavar="NAME", help="also write NAME.json, into results/ or --records")
    parser.add_argument("--records", metavar="FOLDER", default="results")
    options = parser.parse_args()
    print(records.environment()["machine"], flush=True)

    tasks = [corpora.load_sts(name).sample(options.pairs or None, 42) for name in options.task or corpora.sts_tasks()]
    # As they stand in the files: the first sentences of a task's pairs, then the second ones.
    texts = [text for task in tasks for side in (0, 1) for text in (pair[side] for pair in task.rows)]
    distinct = list(dict.fromkeys(texts))
    print(f"{len(texts):,} sentences, {len(distinct):,} distinct, of {', '.join(task.name for task in tasks)}")
    language_model = models.load(options.model, options.precision)
    embedder = Embedder(language_model, "prompteol")
    with tempfile.TemporaryDirectory() as folder:
        export(language_model, f"{folder}/exported")
        stock = SentenceTransformer(f"{folder}/exported", device=str(language_model.device))
    sides = {
        "this kit": lambda texts: embedder.encode(texts),
        "authors' way": lambda texts: authors_way(language_model, texts),
        "sentence-transformers": lambda texts: stock.encode(texts),
    }
    sides_on_distinct = {f"{name}, no repeats": encode for name, encode in sides.items()}
    seconds, vectors = {name: [] for name in [*sides, *sides_on_distinct]}, {}
    for encode in sides.values():
        encode(texts[:64])  # warms it up
    for _ in range(options.repeats):
        for given, some in ((texts, sides), (distinct, sides_on_distinct)):
            for name, encode in some.items():
                started = time.perf_counter()
                vectors[name] = encode(given)
                seconds[name].append(time.perf_counter() - started)
                print(f"{name:>36}: {len(given) / seconds[name][-1]:7.1f} sentences/s", flush=True)
    counts = {name: len(distinct if name.endswith("no repeats") else texts) for name in seconds}
    figures = {
        name: {
            "sentences_per_second": counts[name] / statistics.median(values),
            "repeats": [counts[name] / value for value in values],
            "lowest_cosine_with_this_kit": lowest_cosine(
                vectors[name], vectors["this kit, no repeats" if name.endswith("no repeats") else "this kit"]
            ),
        }
        for name, values in seconds.items()
    }
    ours = figures["this kit"]["sentences_per_second"]
    ratios = {name: ours / figures[name]["sentences_per_second"] for name in ("authors' way", "sentence-transformers")}
    ours = figures["this kit, no repeats"]["sentences_per_second"]
    ratios |= {
        name: ours / figures[name]["sentences_per_second"] for name in sides_on_distinct if name.split(",")[0] in ratios
    }
    lowest = min(side["lowest_cosine_with_this_kit"] for side in figures.values())
    headline = (
        ", ".join(f"{ratio:.2f}× {name}" for name, ratio in ratios.items())
        + f" in sentences per second; lowest cosine {lowest:.6f} ({options.precision})"
    )
    print(headline)
    if options.record:
        settings = vars(options) | {"sentences": len(texts), "distinct": len(distinct)}
        data = [task.record() for task in tasks]
        origin = records.Origin(language_model.describe(), data, settings, 42)
        figures |= {"ratio": ratios}
        records.save_run(records.run_record(options.record, figures, headline=headline, origin=origin), options.records)


@torch.no_grad()
def authors_way(language_model, texts: list[str], batch_size: int = 16) -> np.ndarray:
    """Encode as the authors' evaluation script is described: (n, width)."""
    tokenizer, vectors = language_model.tokenizer, []
    prompts = [fill(EXTRACTION_TEMPLATES["prompteol"], prepare_sentence(text)) for text in texts]
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(prompts[start : start + batch_size], padding=True, return_tensors="pt")
        outputs = language_model.model(
            **batch.to(language_model.device), output_hidden_states=True, return_dict=True, use_cache=False
        )
        vectors.append(outputs.hidden_states[-1][:, -1].float().cpu())
    return torch.cat(vectors).numpy()


def lowest_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the lowest cosine of equally placed rows."""
    ours, theirs = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (ours, theirs))
    return float((ours * theirs).sum(axis=1).min())


if __name__ == "__main__":
    main()
