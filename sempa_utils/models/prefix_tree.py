"""Batches in which each distinct prefix token is computed once, with exact states and log-probabilities.

A stock preference batch repeats every prompt for every answer, and the instruction for every prompt.
Here a batch is one sequence that holds a tree:

    instruction ─┬─ anchor 1 ─┬─ chosen 1
                 │            └─ rejected 1
                 └─ anchor 2 ─┬─ chosen 2
                              └─ rejected 2

Two sequences share a token where they agree from the first token up to it. Each token attends to its
ancestors and itself alone, and its position is its depth, so the model computes for each sequence
what it would compute for that sequence by itself. An answer's last token is only predicted, never
read, and stays out. Idea: shared prompts in preference training (arXiv 2410.20305), carried on to
the instruction and to whatever answers have in common.
"""

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

CHUNK = 256  # states whose logits exist at the same time


class PrefixTree(NamedTuple):
    """A batch of sequences as one sequence of N tokens, and the R places where its states are read."""

    input_ids: torch.Tensor  # (1, N)
    position_ids: torch.Tensor  # (1, N): the depth in the tree
    may_attend: torch.Tensor  # (N, N), boolean: may_attend[t, s] if s is t or an ancestor of t
    read_at: torch.Tensor  # (R,): where the states stand that are read
    targets: torch.Tensor  # (R,): the answer token that each of them predicts; empty where states are read
    owners: torch.Tensor  # (R,): prompt index × answers per prompt + answer index, the sequence, or the state
    count: int  # of answers, sequences or states

    def to(self, device, **_) -> "PrefixTree":
        """Return the tree on a device."""
        return PrefixTree._make((*(part.to(device) for part in self[:-1]), self.count))


def build(prompts: list[list[int]], answers: list[list[list[int]]]) -> PrefixTree:
    """Build the tree of `prompts` (token ids) and their `answers` (per prompt, equally many, token ids).

    Raises ValueError for an empty prompt or answer, or an unequal number of answers.
    """
    per_prompt = len(answers[0])
    if len(prompts) != len(answers) or any(len(own) != per_prompt for own in answers):
        raise ValueError(f"{len(prompts)} prompts need as many lists of answers, equally long.")
    if not all(prompts) or not all(answer for own in answers for answer in own):
        raise ValueError("An empty prompt or answer has no log-probability.")
    pairs = [(prompt, answer) for prompt, own in zip(prompts, answers, strict=True) for answer in own]
    tokens, above, paths = _grow([prompt + answer[:-1] for prompt, answer in pairs])
    read_at = [place for path, (prompt, _) in zip(paths, pairs) for place in path[len(prompt) - 1 :]]
    targets = [token for _, answer in pairs for token in answer]
    owners = [owner for owner, (_, answer) in enumerate(pairs) for _ in answer]
    return _tree(tokens, above, read_at, targets, owners)


def build_slots(sequences: list[list[int]]) -> PrefixTree:
    """Build the tree of `sequences` (token ids) whose last states are read. Raises ValueError for an empty one."""
    if not sequences or not all(sequences):
        raise ValueError("An empty sequence has no last state.")
    tokens, above, paths = _grow(sequences)
    return _tree(tokens, above, [path[-1] for path in paths], [], list(range(len(sequences))))


def build_texts(sequences: list[list[int]]) -> PrefixTree:
    """Build the tree of `sequences` (token ids) of which each distinct prefix's state is read, once."""
    if not sequences or not all(sequences):
        raise ValueError("An empty sequence has no state.")
    tokens, above, paths = _grow(sequences)
    return _tree(tokens, above, list(range(len(tokens))), [], list(range(len(tokens))))


def _grow(sequences: list[list[int]]) -> tuple[list[int], list[int], list[list[int]]]:
    """Return the tree's tokens, each one's parent (−1: none), and per sequence the places of its tokens."""
    tokens, above, paths, places = [], [], [], {}
    for sequence in sequences:
        place, path = -1, []
        for token in sequence:
            if (place, token) not in places:
                places[place, token] = len(tokens)
                tokens.append(token)
                above.append(place)
            place = places[place, token]
            path.append(place)
        paths.append(path)
    return tokens, above, paths


def _tree(tokens, above, read_at, targets, owners) -> PrefixTree:
    may_attend = torch.eye(len(tokens), dtype=torch.bool)
    for place, parent in enumerate(above):  # a parent stands before its children
        if parent >= 0:
            may_attend[place] |= may_attend[parent]
    depths = may_attend.sum(dim=1) - 1
    places, wanted, owned = (torch.tensor(values, dtype=torch.long) for values in (read_at, targets, owners))
    return PrefixTree(torch.tensor([tokens]), depths[None], may_attend, places, wanted, owned, owners[-1] + 1)


def log_probs(model, tree: PrefixTree) -> torch.Tensor:
    """Return each answer's summed log-probability, shape (prompts × answers per prompt,), float32.

    `model` is a causal language model of transformers, with or without an adapter; only the states
    that predict an answer token go through its head.
    """

    def read(states, weight, bias):
        if not weight.requires_grad:
            return _TokenLogProbs.apply(tree.targets, states, weight, bias)
        logits = torch.nn.functional.linear(states, weight, bias).float()
        return logits.gather(-1, tree.targets[:, None])[:, 0] - logits.logsumexp(dim=-1)

    found = _forward(model, tree, read)
    total = torch.zeros(tree.count, device=found.device)
    return total.index_add(0, tree.owners, found)


def states(model, tree: PrefixTree) -> torch.Tensor:
    """Return the states that are read, after the model's final norm: (R, width), in the model's type."""
    return _forward(model, tree, lambda states, weight, bias: states)


def _forward(model, tree: PrefixTree, read) -> torch.Tensor:
    """Run the model with `read(states (R, width), weight, bias)` in the place of its head; return what that gives.

    The model's own forward runs, so that it may be wrapped (an adapter, data parallelism) and gradients
    are gathered as the wrapper does it.
    """
    dtype = next(model.parameters()).dtype
    dtype = dtype if dtype.is_floating_point else torch.float32
    mask = torch.zeros(tree.may_attend.shape, dtype=dtype, device=tree.may_attend.device)
    mask.masked_fill_(~tree.may_attend, torch.finfo(dtype).min)
    head = getattr(model, "module", model).get_output_embeddings()
    own = head.__dict__.get("forward")  # accelerate may have put one there
    head.forward = lambda states: read(states[0], head.weight, head.bias)[None]
    try:
        return model(
            input_ids=tree.input_ids,
            attention_mask=mask[None, None],
            position_ids=tree.position_ids,
            logits_to_keep=tree.read_at,
            use_cache=False,
        ).logits[0]
    finally:
        if own:
            head.forward = own
        else:
            del head.forward


class _TokenLogProbs(torch.autograd.Function):
    """Log-probabilities (R,) of `targets` (R,) after states (R, width), float32, through a head that is not trained.

    Some states at a time: the gradient W_target − Σ_w p(w) W_w is made while a part's logits are there, so no
    array of the vocabulary's width outlives its part, and there is no more to multiply than in the plain way.
    """

    @staticmethod
    def forward(ctx, targets, states, weight, bias):
        found, slopes = [], []
        for part, target in zip(states.split(CHUNK), targets.split(CHUNK)):
            logits = torch.nn.functional.linear(part.to(weight.dtype), weight, bias).float()
            normaliser = logits.logsumexp(dim=-1, keepdim=True)
            found.append((logits.gather(-1, target[:, None]) - normaliser)[:, 0])
            if ctx.needs_input_grad[1]:
                probabilities = logits.sub_(normaliser).exp_().to(weight.dtype)
                slopes.append(weight[target].float() - (probabilities @ weight).float())
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
            ctx.dtype = states.dtype
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (slopes,) = ctx.saved_tensors
        return None, (gradient[:, None] * slopes).to(ctx.dtype), None, None
