"""The plain way: sequences side by side, padded on the right, where a prefix tree is not exact.

A causal model never sees what stands behind a token, so padding there changes nothing, recurrent layers included.
What is read, and in which order, is as in `prefix_tree`.
"""

from typing import NamedTuple

import torch


class PaddedBatch(NamedTuple):
    """A batch of B sequences, T tokens with padding, and the R places where its states are read."""

    input_ids: torch.Tensor  # (B, T)
    attention_mask: torch.Tensor  # (B, T): 1 where a token is
    read_at: torch.Tensor  # (2, R): sequence and place of the states that are read
    targets: torch.Tensor  # (R,): the answer token that each of them predicts; empty where states are read
    owners: torch.Tensor  # (R,): as in `PrefixTree`
    count: int  # of answers, sequences or states

    def to(self, device, **_) -> "PaddedBatch":
        """Return the batch on a device."""
        return PaddedBatch._make((*(part.to(device) for part in self[:-1]), self.count))

    def inputs(self, config, dtype: torch.dtype) -> dict:
        """Return what a model is given."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}

    def pick(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states (R, width) that are read, of (B, T, width)."""
        return states[self.read_at[0], self.read_at[1]]

    pick_all = pick


def build(prompts: list[list[int]], answers: list[list[list[int]]]) -> PaddedBatch:
    """Return the batch of each prompt before each of its answers, as `prefix_tree.build`."""
    pairs = [(prompt, answer) for prompt, mine in zip(prompts, answers, strict=True) for answer in mine]
    places = [range(len(prompt) - 1, len(prompt) - 1 + len(answer)) for prompt, answer in pairs]
    read_at = [(row, place) for row, span in enumerate(places) for place in span]
    targets = [token for _, answer in pairs for token in answer]
    owners = [row for row, (_, answer) in enumerate(pairs) for _ in answer]
    return _padded([prompt + answer[:-1] for prompt, answer in pairs], read_at, targets, owners)


def build_slots(sequences: list[list[int]]) -> PaddedBatch:
    """Return the batch of sequences whose last states are read."""
    read_at = [(row, len(sequence) - 1) for row, sequence in enumerate(sequences)]
    return _padded(sequences, read_at, [], list(range(len(sequences))))


def build_texts(sequences: list[list[int]]) -> PaddedBatch:
    """Return the batch of sequences of which each distinct prefix's state is read, once."""
    places = {}
    for row, sequence in enumerate(sequences):
        for place in range(len(sequence)):
            places.setdefault(tuple(sequence[: place + 1]), (row, place))
    return _padded(sequences, list(places.values()), [], list(range(len(places))))


def build_each_text(sequences: list[list[int]]) -> list[PaddedBatch]:
    """Return the same as `build_texts`, a batch a sequence."""
    seen, batches = set(), []
    for sequence in sequences:
        places = [place for place in range(len(sequence)) if tuple(sequence[: place + 1]) not in seen]
        seen |= {tuple(sequence[: place + 1]) for place in places}
        if places:
            batches.append(_padded([sequence], [(0, place) for place in places], [], list(range(len(places)))))
    return batches


def _padded(sequences, read_at, targets, owners) -> PaddedBatch:
    input_ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.tensor(sequence)
        attention_mask[row, : len(sequence)] = 1
    wanted, owned = (torch.tensor(values, dtype=torch.long) for values in (targets, owners))
    return PaddedBatch(input_ids, attention_mask, torch.tensor(read_at).T, wanted, owned, owners[-1] + 1)
