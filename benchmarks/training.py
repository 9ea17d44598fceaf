"""Training speed: prefix-tree batches beside TRL's own, on the same rows, in one process.

Each side runs several times, in turn; the figures are medians, with all repeats beside them.

python benchmarks/training.py [--triplets 24] [--repeats 3] [--precision float32] [--record NAME]
"""

import argparse
import statistics
import tempfile

from sempa_utils import corpora, models, results, training


def main() -> None:
    """Time both kinds of batches in turn and print triplets per second, peak memory and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triplets", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--model", default="packaged")
    parser.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    options = parser.parse_args()

    rows = corpora.load_triplets(limit=options.triplets, seed=42)
    print(rows.describe(), flush=True)
    language_model = models.load(options.model, options.precision)
    kinds = {"prefix tree": True, "stock TRL": False}
    speeds, peaks = ({name: [] for name in kinds} for _ in range(2))
    for repeat in range(options.repeats + 1):
        for name, shared_prefix in kinds.items():
            recipe = training.Recipe(micro_batch=options.micro_batch, shared_prefix=shared_prefix)
            # The first round is short and only warms both sides up.
            corpus = rows if repeat else rows.sample(options.micro_batch, 1)
            with tempfile.TemporaryDirectory() as folder:
                record = training.train(language_model, corpus, recipe, folder, show_progress_bar=False)
            if repeat:
                speeds[name].append(record["triplets_per_second"])
                peaks[name].append(record["peak_memory_bytes"] / 2**30)
                print(f"{name:>12}: {speeds[name][-1]:.2f} triplets/s, peak {peaks[name][-1]:.1f} GiB", flush=True)
    figures = {
        name: {
            "triplets_per_second": statistics.median(speeds[name]),
            "repeats": speeds[name],
            "peak_memory_gigabytes": statistics.median(peaks[name]),
        }
        for name in kinds
    }
    ratio = figures["prefix tree"]["triplets_per_second"] / figures["stock TRL"]["triplets_per_second"]
    headline = f"prefix tree {ratio:.1f}× stock TRL in triplets per second ({options.precision})"
    print(headline)
    if options.record:
        settings = {"micro_batch": options.micro_batch, "gradient_checkpointing": False}
        results.save_run(options.record, figures | {"ratio": ratio}, headline, language_model.describe(),
                         rows.record(), settings, 42, folder=results.committed_folder())  # fmt: skip


if __name__ == "__main__":
    main()
