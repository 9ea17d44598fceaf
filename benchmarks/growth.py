"""How the cost of training grows: seconds and peak memory by rows, micro-batch, length and size of the model.

Prefix-tree batches beside TRL's own, in turn, in one process: from one small run on, a single thing grows at a time.
Weights are random, in float32, since no figure depends on what they are.

python benchmarks/growth.py [--repeats 3] [--axes rows,micro_batch,length,size] [--record NAME] [--figure FILE]
"""

import argparse
import gc
import statistics
import tempfile
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sempa_utils import models, records, training
from sempa_utils.commands.shared import save_figure
from sempa_utils.data import corpora
from sempa_utils.plots.growth import growth
from sempa_utils.training import memory

KINDS = {"prefix tree": True, "stock TRL": False}


class Run(NamedTuple):
    """What a training run is made of."""

    rows: int = 4
    micro_batch: int = 4
    length: int = 1  # each sentence so many times over
    size: str = "smollm2-135m"  # a shape that `training.memory` knows


START = Run()
AXES = {
    "rows": (4, 8, 16),
    "micro_batch": (1, 2, 4),
    "length": (1, 2, 3),
    "size": ("smollm2-135m", "smollm2-360m", "tinyllama-1.1b"),
}


def main() -> None:
    """Time the runs of each axis and print seconds, peak memory and the ratio of both kinds of batches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", default=",".join(AXES), help="comma-separated (default: all)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    parser.add_argument("--figure", metavar="FILE", help="also draw the picture (.png)")
    options = parser.parse_args()
    print(records.environment()["machine"], flush=True)
    rows = corpora.load_triplets(seed=42)
    print(rows.describe(), flush=True)
    figures = measured(rows, options.axes.split(","), repeats=options.repeats)
    largest = {axis: points[-1] for axis, points in figures.items()}
    ratios = {axis: point["seconds"]["stock TRL"] / point["seconds"]["prefix tree"] for axis, point in largest.items()}
    headline = "stock TRL's seconds as a multiple of a prefix tree's, at the largest of each: " + ", ".join(
        f"{axis} {ratio:.1f}" for axis, ratio in ratios.items()
    )
    print(headline)
    if options.record:
        settings = vars(options) | {"start": START._asdict(), "threads": torch.get_num_threads()}
        origin = records.Origin({"weights": "random", "precision": "float32"}, rows.record(), settings, 42)
        records.save_run(records.run_record(options.record, figures, headline=headline, origin=origin), "results")
    if options.figure:
        save_figure(growth(figures), options.figure)


def measured(rows: corpora.Corpus, axes: list[str], *, repeats: int) -> dict[str, list[dict]]:
    """Return {axis: a point for each of its values}: what grows, seconds and peak GiB of either kind, all repeats.

    Equal runs of several axes are made once, and all runs of a model one after the other.
    """
    wanted = {axis: [START._replace(**{axis: value}) for value in AXES[axis]] for axis in axes}
    distinct = sorted(dict.fromkeys(run for runs in wanted.values() for run in runs), key=lambda run: run.size)
    points, base = {}, None
    for run in distinct:
        if base is None or base.name != run.size:
            base = None
            gc.collect()
            base = random_model(run.size)
            one_run(base, rows, run._replace(rows=1, micro_batch=1))  # warms it up
        points[run] = point(base, rows, run, repeats=repeats)
        print(f"{run}: {points[run]}", flush=True)

    def value(run: Run, axis: str):
        return points[run]["tokens" if axis == "length" else "parameters" if axis == "size" else axis]

    return {axis: [{"at": value(run, axis)} | points[run] for run in runs] for axis, runs in wanted.items()}


def random_model(shape: str) -> models.LanguageModel:
    """Return a model of a shape with random weights, and the packaged model's tokenizer."""
    config, tokenizer = memory.shape(shape), AutoTokenizer.from_pretrained(models.fetch_packaged())
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    torch.manual_seed(0)
    return models.wrap(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), tokenizer, name=shape)


def point(base: models.LanguageModel, rows: corpora.Corpus, run: Run, *, repeats: int) -> dict:
    """Return medians and all repeats of one run, either kind of batches in turn."""
    seconds, peaks = ({kind: [] for kind in KINDS} for _ in range(2))
    for _ in range(repeats):
        for kind, shared in KINDS.items():
            record = one_run(base, rows, run, shared_prefix=shared)
            seconds[kind].append(run.rows / record.triplets_per_second)
            peaks[kind].append(record.peak_memory_bytes / 2**30)
    words = [sentence for row in drawn(rows, run).rows for sentence in row[:3]]
    return {
        **run._asdict(),
        "parameters": base.parameters,
        "tokens": statistics.mean(map(len, base.tokenizer(words)["input_ids"])),
        "seconds": {kind: statistics.median(values) for kind, values in seconds.items()},
        "peak_gigabytes": {kind: statistics.median(values) for kind, values in peaks.items()},
        "repeats": seconds,
    }


def one_run(base: models.LanguageModel, rows: corpora.Corpus, run: Run, *, shared_prefix: bool = True):
    """Train one run and return its record."""
    recipe = training.Recipe(micro_batch=run.micro_batch, max_length=512, shared_prefix=shared_prefix)
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        return training.train(base, drawn(rows, run), recipe=recipe, folder=folder)


def drawn(rows: corpora.Corpus, run: Run) -> corpora.Corpus:
    """Return a run's rows, each sentence as often as its length says."""
    some = rows.sample(run.rows, 42)
    longer = [type(row)(*(" ".join([sentence] * run.length) for sentence in row)) for row in some.rows]
    return corpora.Corpus(some.name, longer, some.source, f"{some.fingerprint}, {run.length}", some.dropped)


if __name__ == "__main__":
    main()
