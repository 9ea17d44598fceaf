"""Speed of the generation benchmarks: this kit's wrapper beside the harness' own, on the same items and weights.

Both sides run in turn and must say the same: equal answers, log-likelihoods equal to rounding. Time is the process' own
processor time, so that what else runs on the machine counts for little; the figures are medians.

- the harness: `HFLM`, batches of equally many rows, padded; a batch waits for its longest answer
- this kit: what prompts share is read once, where it is exact; a complete row makes room for the next
- paraphrases: the kit's own, and with `transformers`' `generate` on batches of eight

python benchmarks/generation.py [--items 10] [--repeats 5] [--tasks gsm8k,drop,mmlu,hellaswag,truthfulqa,paraphrases]
"""

import argparse
import statistics
import time

import numpy as np
from lm_eval.models.huggingface import HFLM

from sempa_utils import models, records
from sempa_utils.data import corpora
from sempa_utils.evaluation.generation import TASKS, harness, signals
from sempa_utils.evaluation.generation.harness_model import HarnessModel
from sempa_utils.models import Ways
from sempa_utils.models.certificate import KEPT

PARAPHRASES = "paraphrases"
TOLERANCE = 2e-3  # of a summed log-likelihood in float32


def main() -> None:
    """Time both sides in turn and print seconds and ratio for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10, help="of each task")
    parser.add_argument("--tasks", default=",".join((*TASKS, PARAPHRASES)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="packaged")
    parser.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    options = parser.parse_args()
    print(records.environment()["machine"], flush=True)
    language_model, figures, data = models.load(options.model, "float32"), {}, []
    for task in options.tasks.split(","):
        if task == PARAPHRASES:
            rows = corpora.packaged_ranked_nli().sample(options.items, 42)
            sides, record = paraphrase_sides(language_model, [row.premise for row in rows.rows]), rows.record()
        else:
            sides, record = harness_sides(language_model, task, options.items)
        figures[task], data = timed(sides, options.repeats), [*data, record]
        print(f"{task}: {figures[task]}", flush=True)
    headline = "processor time as a multiple of this kit's: " + ", ".join(
        f"{task} {figure['ratio']:.2f}" for task, figure in figures.items()
    )
    print(headline)
    if options.record:
        origin = records.Origin(language_model.describe(), data, vars(options), 42)
        records.save_run(records.run_record(options.record, figures, headline=headline, origin=origin), "results")


def harness_sides(language_model, task: str, items: int):
    """Return {side: what answers the task's items}, and the record of the data."""
    prepared = harness.prepare_all(harness.Benchmarks([task], limit=items))[task]
    requests = [request for part in prepared.parts.values() for request in asked(part)]
    how = {"tokenizer": language_model.tokenizer, "batch_size": 8}
    wrappers = {
        "harness": HFLM(language_model.model, **how),
        "this kit": HarnessModel(language_model.model, **how),
    }
    free = not isinstance(requests[0].args[1], str)

    def answer(wrapper):
        with harness.quiet():
            if free:
                return wrapper.generate_until(requests, disable_tqdm=True)
            return [score for score, _ in wrapper.loglikelihood(requests, disable_tqdm=True)]

    return {name: lambda wrapper=wrapper: answer(wrapper) for name, wrapper in wrappers.items()}, prepared.data


def asked(part) -> list:
    """Return what a task of the harness asks."""
    with harness.quiet():
        part.set_fewshot_seed(42)
        part.build_all_requests()
    return part.instances


def paraphrase_sides(language_model, sentences: list[str]) -> dict:
    """Return {side: what paraphrases the sentences}."""
    kept = vars(language_model.model)

    def plainly():
        known, kept[KEPT] = language_model.ways, Ways(prefix_cache=False)
        try:
            return signals.paraphrases(language_model, sentences, batch_size=8)
        finally:
            kept[KEPT] = known

    return {"harness": plainly, "this kit": lambda: signals.paraphrases(language_model, sentences, batch_size=8)}


def timed(sides: dict, repeats: int) -> dict:
    """Return each side's median processor seconds with all repeats, and their ratio; raise unless they agree."""
    seconds, said = {name: [] for name in sides}, {}
    for _ in range(repeats):
        for name, answer in sides.items():
            started = time.process_time()
            said[name] = answer()
            seconds[name].append(round(time.process_time() - started, 2))
    same(*said.values())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"seconds": medians, "repeats": seconds, "ratio": medians["harness"] / medians["this kit"]}


def same(one: list, other: list) -> None:
    """Raise unless two sides said the same: equal words, or log-likelihoods equal to rounding."""
    if isinstance(one[0], float):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)
    elif one != other:
        raise AssertionError(f"{sum(a != b for a, b in zip(one, other))} of {len(one)} answers differ.")


if __name__ == "__main__":
    main()
