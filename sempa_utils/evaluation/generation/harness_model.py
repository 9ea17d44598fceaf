"""The harness' wrapper of a transformers model, with what its prompts share computed once."""

import re
from typing import Any, cast

import torch
from lm_eval.models import huggingface
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from sempa_utils.models import greedy, ways_of
from sempa_utils.models.certificate import compute_dtype_of

TREE_TOKENS = 1536  # a larger tree of short sequences would spend on attention what it saves elsewhere


# What a model's own settings may name without changing which token is the likeliest.
OF_NO_EFFECT = re.compile(
    r"(bos|eos|pad)_token_id|max_(length|new_tokens)|do_sample|temperature|top_[pk]|use_cache|output_\w+|"
    r"transformers_version|_\w+"
)


class HarnessModel(huggingface.HFLM):
    """`HFLM` that computes once what prompts share, where the model's `ways` are exact; all else is its own.

    Multiple-choice requests repeat their few-shots, and their question for each choice; prompts to be answered freely
    begin with the same few-shots, unless the harness draws other ones for each item (DROP).
    """

    def __init__(self, *arguments, packed_tokens: int = 0, **keywords):
        # Else the harness goes by a list of types, on which some stand that also speak by themselves.
        super().__init__(*arguments, backend="causal", **keywords)
        self.ways = ways_of(self.model, self.tokenizer)
        self.packed_tokens = packed_tokens  # of a tree in which sequences stand that share nothing

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

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes behind each prompt, cut where one of the stop sequences begins."""
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        options: dict[str, Any] = dict(normalize_gen_kwargs(requests[0].args[1], self.max_gen_toks))
        most, until = options.pop("max_gen_toks"), options.pop("until")
        alike = all(request.args[1] == requests[0].args[1] for request in requests)
        if not alike or not self._is_greedy(options) or not self._shares(prompts, most):
            return super().generate_until(requests, disable_tqdm)
        model, tokenizer = cast(Any, self.model), cast(Any, self.tokenizer)
        until = handle_stop_sequences(until, eos=tokenizer.decode(self.eot_token_id))
        tail = 2 + max(len(tokenizer.encode(stop, add_special_tokens=False)) for stop in until)
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]

        def ended(written: list[int]) -> bool:
            text = tokenizer.decode(written[-tail:])
            return written[-1] in ends or any(stop in text for stop in until)

        bar = huggingface.tqdm(total=len(requests), disable=disable_tqdm)
        written = greedy.continuations(model, prompts, ended=ended, most=most, progress=bar.update)
        bar.close()
        texts = [tokenizer.decode(row, skip_special_tokens=True) for row in written]
        return [postprocess_generated_text(text, stop=until, think_end_token=None) for text in texts]

    def _is_greedy(self, options: dict[str, Any]) -> bool:
        """Return whether the likeliest token is taken, as it is: by the request and by the model's own settings."""
        drawn = options.pop("do_sample", False) or options.pop("temperature", 0.0)
        own = cast(Any, self.model).generation_config.to_diff_dict()
        return not drawn and not options and all(OF_NO_EFFECT.fullmatch(name) for name in own)

    def _shares(self, prompts: list[list[int]], most: int) -> bool:
        """Return whether the prompts are half or more alike; and exact in one sequence, and none so long as to be cut.

        Where less is shared, each row would have to look past all others for little.
        """
        longest = max(map(len, prompts))
        exact = greedy.is_exact(self.model, self.ways, longest=longest + most) and longest + most <= self.max_length
        return exact and 2 * greedy.common_beginning(prompts) >= longest

    def _trees(self, sequences: list[list[int]]):
        """Yield the places of sequences that make a tree: each has half or more from those before, or all are short."""
        # A tree is limited by its tokens; in half precision by its sequences too, as the recorded figures were rounded.
        by_tokens = self.ways.tree and self.ways.window is None and compute_dtype_of(self.model) == torch.float32
        most = len(sequences) if self.ways.tree else 1
        most = self.batch_size if isinstance(self.batch_size, int) and not by_tokens else most
        places, size, before = [], 0, []
        # In the order of a dictionary, where those that share most stand side by side.
        for place in sorted(range(len(sequences)), key=sequences.__getitem__):
            shared = _shared(before, sequences[place])
            new = len(sequences[place]) - shared
            full = size + new > max(TREE_TOKENS, 2 * len(sequences[place])) or len(places) == most
            apart = new > shared and size + len(sequences[place]) > self.packed_tokens
            if places and (apart or full):
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
