"""Training speed: prefix-tree batches beside TRL's own, on the same rows, in one process.

Each side runs several times, in turn; the figures are medians, with all repeats beside them. The
arithmetic bound is what the tree's floating-point operations alone would take at the rate of a
matrix product of the model's own shape, measured in the same run.

python benchmarks/training.py [--triplets 24] [--repeats 5] [--precision float32] [--others all] [--record NAME]
python benchmarks/training.py --shape llama-3-8b --precision nf4      # random weights; wants a GPU
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from sempa_utils import models, records, training
from sempa_utils.data import corpora
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.training import memory
from sempa_utils.training.trainer import make_trainer


def main() -> None:
    """Time both kinds of batches in turn and print triplets per second, peak memory and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triplets", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--objective", default="pairwise", help="of the prefix trees; stock TRL has pairwise always")
    parser.add_argument("--kl-weight", type=float, default=0.0, help="of the prefix trees")
    others = (
        "comma-separated objectives to time in the same turns, with _kl for 10 × KL beside it; all: each, both ways"
    )
    parser.add_argument("--others", default="", help=others)
    parser.add_argument("--model", default="packaged")
    parser.add_argument("--shape", help="random weights of this shape instead of --model: llama-2-7b, llama-3-8b")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="on both sides")
    parser.add_argument("--record", metavar="NAME", help="also write NAME.json, into results/ or --records")
    parser.add_argument("--records", metavar="FOLDER", default="results")
    options = parser.parse_args()
    print(records.environment()["machine"], flush=True)

    rows = corpora.load_triplets(limit=options.triplets, seed=42)
    print(rows.describe(), flush=True)
    with random_weights(options.shape, rows) if options.shape else contextlib.nullcontext(options.model) as name:
        language_model = models.load(str(name), options.precision)
    how = {"micro_batch": options.micro_batch, "gradient_checkpointing": options.gradient_checkpointing}
    sides = {
        "prefix tree": Side(training.Recipe.make(options.objective, kl_weight=options.kl_weight, **how), rows),
        "stock TRL": Side(training.Recipe.make("pairwise", shared_prefix=False, **how), rows),
    }
    sides |= {name: side(name, options.triplets, **how) for name in other_sides(options.others)}
    speeds, peaks = ({kind: [] for kind in sides} for _ in range(2))
    for repeat in range(options.repeats + 1):
        for kind, (recipe, rows_of) in sides.items():
            # The first round is short and only warms all sides up.
            corpus = rows_of if repeat else rows_of.sample(options.micro_batch, 1)
            with tempfile.TemporaryDirectory() as folder:
                record = training.train(language_model, corpus, recipe=recipe, folder=folder)
            if repeat:
                speeds[kind].append(record.triplets_per_second)
                peaks[kind].append(record.peak_memory_bytes / 2**30)
                print(f"{kind:>12}: {speeds[kind][-1]:.2f} triplets/s, peak {peaks[kind][-1]:.1f} GiB", flush=True)
    figures = {
        kind: {
            "triplets_per_second": statistics.median(speeds[kind]),
            "repeats": speeds[kind],
            "peak_memory_gigabytes": statistics.median(peaks[kind]),
            "planned_memory_gigabytes": planned_bytes(language_model, recipe) / 2**30,
        }
        for kind, (recipe, _) in sides.items()
    }
    ratios = {
        kind: one["triplets_per_second"] / figures["stock TRL"]["triplets_per_second"] for kind, one in figures.items()
    }
    ratio, bound = ratios["prefix tree"], arithmetic_bound(language_model, rows, sides["prefix tree"].recipe)
    figures |= {"ratio": ratio, "ratios": ratios, "arithmetic bound": bound}
    reached = figures["prefix tree"]["triplets_per_second"] / figures["arithmetic bound"]["triplets_per_second"]
    figures["share_of_the_bound"] = reached
    headline = (
        f"{options.objective} in prefix trees {ratio:.1f}× stock TRL's pairwise in triplets per second and "
        f"{100 * reached:.0f} % of the arithmetic bound ({options.precision}, micro-batch {options.micro_batch})"
    )
    print(headline)
    if options.record:
        origin = records.Origin(language_model.describe(), rows.record(), vars(options), 42)
        records.save_run(records.run_record(options.record, figures, headline=headline, origin=origin), options.records)


class Side(NamedTuple):
    """A recipe that is timed, and the rows that it is timed on."""

    recipe: training.Recipe
    rows: corpora.Corpus


def other_sides(asked: str) -> list[str]:
    """Return the names that `--others` stands for."""
    if asked == "all":
        return [f"{name}{ending}" for name in OBJECTIVES for ending in ("", "_kl") if f"{name}{ending}" != "pairwise"]
    return asked.split(",") if asked else []


def side(name: str, triplets: int, **how) -> Side:
    """Return an objective's prefix trees, held to the base where its name says so, on rows of its kind."""
    objective = name.removesuffix("_kl")
    recipe = training.Recipe.make(objective, kl_weight=10.0 if name != objective else 0.0, **how)
    return Side(recipe, corpora.load_nli(None, triplets, ranked=OBJECTIVES[objective].ranked, seed=42))


def planned_bytes(language_model, recipe) -> int:
    """Return what the planner says that the run takes, arrays alone."""
    compute = models.compute_dtype(language_model.device.type)
    config = language_model.model.config
    return memory.total(memory.plan(config, language_model.precision, recipe=recipe, compute_dtype=compute))


def arithmetic_bound(language_model, rows, recipe) -> dict[str, float]:
    """Return the bound in triplets per second, the operations of a triplet, and the measured rate of products."""
    with tempfile.TemporaryDirectory() as folder, models.given_back(language_model):
        trainer = make_trainer(language_model, rows, recipe=recipe, folder=Path(folder))
        examples, size = list(trainer.train_dataset), recipe.micro_batch
        tokens = 0
        with FlopCounterMode(display=False) as counter:
            for start in range(0, len(examples), size):
                batch = trainer._prepare_inputs(trainer.collate(examples[start : start + size]))
                tokens = max(tokens, batch.policy[0].input_ids.shape[1])
                trainer.compute_loss(trainer.model, batch).backward()
        operations = counter.get_total_flops() / len(examples)
    rate = matmul_rate(language_model, tokens)
    return {
        "triplets_per_second": rate / operations,
        "operations_per_triplet": operations,
        "operations_per_second": rate,
    }


def matmul_rate(language_model, tokens: int, repeats: int = 30) -> float:
    """Return operations per second of (tokens × width) · (width × inner width), the best of some repeats."""
    config, device = language_model.model.config, language_model.device
    dtype = models.compute_dtype(device.type) if language_model.precision == "nf4" else language_model.model.dtype
    left = torch.randn(tokens, config.hidden_size, dtype=dtype, device=device)
    right = torch.randn(config.hidden_size, config.intermediate_size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * tokens * config.hidden_size * config.intermediate_size / best


@contextlib.contextmanager
def random_weights(shape: str, rows):
    """Yield a folder with random weights of a public shape and a tokenizer trained on the rows' sentences.

    The real loading path then quantises them: nothing is downloaded. Needs the disk space of the
    model in bfloat16.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as tokenizer_models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    config = memory.shape(shape)
    special = ["<pad>", "<s>", "</s>"]
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = min(16_000, config.vocab_size)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator((sentence for row in rows.rows for sentence in row), trainer)
    with tempfile.TemporaryDirectory() as folder:
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
        fast.save_pretrained(folder)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        del model
        yield folder


if __name__ == "__main__":
    main()
