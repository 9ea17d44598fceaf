"""Batches in which each distinct prefix token is computed once, with exact log-probabilities.

A stock preference batch repeats every prompt for every answer, and the instruction for every prompt.
Here a batch is one sequence that holds a tree:

    instruction ─┬─ anchor 1 ─┬─ chosen 1
                 │            └─ rejected 1
                 └─ anchor 2 ─┬─ chosen 2
                              └─ rejected 2

Each token attends to its ancestors and itself alone, and its position is its depth, so the model
computes for each answer what it would compute for that answer behind its prompt by itself.
Idea: shared prompts in preference training (arXiv 2410.20305), carried on to the instruction.
"""

from typing import NamedTuple

import torch


class PrefixTree(NamedTuple):
    """A batch of prompts with their answers as one sequence of N tokens with A answer tokens."""

    input_ids: torch.Tensor  # (1, N)
    position_ids: torch.Tensor  # (1, N): the depth in the tree
    may_attend: torch.Tensor  # (N, N), boolean: may_attend[t, s] if s is t or an ancestor of t
    parents: torch.Tensor  # (A,): where the state stands that predicts each answer token
    targets: torch.Tensor  # (A,): the answer tokens
    owners: torch.Tensor  # (A,): prompt index × answers per prompt + answer index


def build(prompts: list[list[int]], answers: list[list[list[int]]]) -> PrefixTree:
    """Build the tree of `prompts` (token ids) and their `answers` (per prompt, equally many, token ids).

    Raises ValueError for an empty prompt or answer, or an unequal number of answers.
    """
    per_prompt = len(answers[0])
    if len(prompts) != len(answers) or any(len(own) != per_prompt for own in answers):
        raise ValueError(f"{len(prompts)} prompts need as many lists of answers, equally long.")
    if not all(prompts) or not all(answer for own in answers for answer in own):
        raise ValueError("An empty prompt or answer has no log-probability.")

    # The last token of a prompt stays with its anchor, so that each anchor has a branch of its own.
    shared = min(common_prefix_length(prompts[0], prompt) for prompt in prompts)
    shared = min(shared, min(map(len, prompts)) - 1)
    ids, depths = list(prompts[0][:shared]), list(range(shared))
    branch_of, parents, targets, owners = [0] * shared, [], [], []
    ancestors = [[0]]  # per branch: itself and the branches above it; branch 0 is the trunk

    def grow(tokens: list[int], depth: int, above: list[int]) -> int:
        """Append a branch; return where its first token stands."""
        first = len(ids)
        ancestors.append([len(ancestors), *above])
        ids.extend(tokens)
        depths.extend(range(depth, depth + len(tokens)))
        branch_of.extend([len(ancestors) - 1] * len(tokens))
        return first

    for index, (prompt, own) in enumerate(zip(prompts, answers, strict=True)):
        grow(prompt[shared:], shared, [0])
        anchor, end_of_prompt = ancestors[-1], len(ids) - 1
        for number, answer in enumerate(own):
            first = grow(answer, len(prompt), anchor)
            parents += [end_of_prompt, *range(first, first + len(answer) - 1)]
            targets += answer
            owners += [index * per_prompt + number] * len(answer)

    related = torch.zeros(len(ancestors), len(ancestors), dtype=torch.bool)
    for branch, above in enumerate(ancestors):
        related[branch, above] = True
    of_token = torch.tensor(branch_of)
    order = torch.arange(len(ids))
    # Inside the sequence an ancestor always stands before its descendants.
    may_attend = related[of_token[:, None], of_token[None, :]] & (order[:, None] >= order[None, :])
    return PrefixTree(
        torch.tensor([ids]),
        torch.tensor([depths]),
        may_attend,
        torch.tensor(parents),
        torch.tensor(targets),
        torch.tensor(owners),
    )


def common_prefix_length(first: list[int], second: list[int]) -> int:
    """Return how many leading tokens two sequences share."""
    for index, (one, other) in enumerate(zip(first, second)):
        if one != other:
            return index
    return min(len(first), len(second))


def log_probs(model, tree: PrefixTree) -> torch.Tensor:
    """Return each answer's summed log-probability, shape (prompts × answers per prompt,), float32.

    `model` is a causal language model of transformers, with or without an adapter; only the states
    that predict an answer token go through its head.
    """
    dtype = next(model.parameters()).dtype
    dtype = dtype if dtype.is_floating_point else torch.float32
    mask = torch.zeros(tree.may_attend.shape, dtype=dtype, device=tree.may_attend.device)
    mask.masked_fill_(~tree.may_attend, torch.finfo(dtype).min)
    logits = model(
        input_ids=tree.input_ids,
        attention_mask=mask[None, None],
        position_ids=tree.position_ids,
        logits_to_keep=tree.parents,
        use_cache=False,
    ).logits[0]
    # The target's logit less the normaliser: no second array of the vocabulary's size is kept.
    logits = logits.float()
    found = logits.gather(-1, tree.targets[:, None])[:, 0] - logits.logsumexp(dim=-1)
    total = torch.zeros(int(tree.owners[-1]) + 1, device=found.device)
    return total.index_add(0, tree.owners, found)
