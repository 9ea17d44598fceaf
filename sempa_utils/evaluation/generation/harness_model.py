"""The harness' wrapper of a transformers model, with what its prompts share computed once."""

import torch
from lm_eval.models import huggingface

from sempa_utils.models import ways_of

TREE_TOKENS = 1536  # a larger tree of short sequences would spend on attention what it saves elsewhere


class HarnessModel(huggingface.HFLM):
    """`HFLM` whose log-likelihoods come of prefix trees, or of another of the model's `ways`; all else is its own.

    Multiple-choice requests repeat their few-shots, and their question for each choice.
    """

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.ways = ways_of(self.model, self.tokenizer)

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, override_bs: int | None = None):
        """Return (summed log-probability, False) per request ((context, answer), context tokens, answer tokens).

        Whether the answer is the greedy one, the harness' second value, enters none of the tasks' metrics.
        """
        results, bar = [(0.0, False)] * len(requests), huggingface.tqdm(total=len(requests), disable=disable_tqdm)
        for places in self._trees([context + answer for _, context, answer in requests]):
            contexts, answers = zip(*(requests[place][1:] for place in places))
            parts = self.ways.answers(list(contexts), [[answer] for answer in answers])
            with torch.inference_mode():
                scores = [score for part in parts
                          for score in self.ways.log_probs(self.model, part.to(self.device)).tolist()]  # fmt: skip
            for place, score in zip(places, scores, strict=True):
                results[place] = (score, False)
            bar.update(len(places))
        bar.close()
        return results

    def _trees(self, sequences: list[list[int]]):
        """Yield the places of sequences that make a tree: those of which each has half or more from those before."""
        most = self.batch_size if isinstance(self.batch_size, int) else len(sequences) if self.ways.tree else 1
        places, size, before = [], 0, []
        # In the order of a dictionary, where those that share most stand side by side.
        for place in sorted(range(len(sequences)), key=sequences.__getitem__):
            shared = _shared(before, sequences[place])
            new = len(sequences[place]) - shared
            full = size + new > max(TREE_TOKENS, 2 * len(sequences[place])) or len(places) == most
            if places and (new > shared or full):
                yield places
                places, size, new = [], 0, len(sequences[place])
            places.append(place)
            size, before = size + new, sequences[place]
        if places:
            yield places


def _shared(one: list[int], other: list[int]) -> int:
    """Return how many tokens two sequences have in common from the first on."""
    for count, (left, right) in enumerate(zip(one, other)):
        if left != right:
            return count
    return min(len(one), len(other))
