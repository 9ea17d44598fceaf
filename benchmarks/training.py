"""Training speed: prefix-tree batches beside TRL's own, on the same rows, in one process.

python benchmarks/training.py [--triplets 48] [--precision float32] [--record NAME]
"""

import argparse
import tempfile
import time

from sempa_utils import corpora, models, results, training


def main() -> None:
    """Time both kinds of batches in turn and print triplets per second, peak memory and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triplets", type=int, default=48)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--model", default="packaged")
    parser.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    options = parser.parse_args()

    rows = corpora.load_triplets(limit=options.triplets, seed=42)
    print(rows.describe(), flush=True)
    language_model = models.load(options.model, options.precision)
    figures = {}
    for name, shared_prefix in (("prefix tree", True), ("stock TRL", False)):
        recipe = training.Recipe(micro_batch=options.micro_batch, shared_prefix=shared_prefix)
        with tempfile.TemporaryDirectory() as folder:
            # A few rows first, so that neither side pays for warming up.
            training.train(language_model, rows.sample(options.micro_batch, 1), recipe, f"{folder}/warm", True, False)
            started = time.perf_counter()
            record = training.train(language_model, rows, recipe, f"{folder}/run")
        figures[name] = {
            "triplets_per_second": record["triplets_per_second"],
            "peak_memory_gigabytes": record["peak_memory_bytes"] / 2**30,
            "seconds": time.perf_counter() - started,
            "last_loss": record["curve"][-1]["loss"],
        }
        print(name, results.plain(figures[name]), flush=True)
    ratio = figures["prefix tree"]["triplets_per_second"] / figures["stock TRL"]["triplets_per_second"]
    headline = f"prefix tree {ratio:.1f}× stock TRL in triplets per second ({options.precision})"
    print(headline)
    if options.record:
        settings = {"micro_batch": options.micro_batch, "gradient_checkpointing": False}
        results.save_run(options.record, figures | {"ratio": ratio}, headline, language_model.describe(),
                         rows.record(), settings, 42, folder=results.committed_folder())  # fmt: skip


if __name__ == "__main__":
    main()
