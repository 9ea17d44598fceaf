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
from torch.utils.checkpoint import checkpoint

from sempa_utils.models.identity import base_model, decoder_of, text_config

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

    def inputs(self, config, dtype: torch.dtype) -> dict:
        """Return what a model is given; in layers that look back through a window, it counts the depth in the tree."""
        window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
        mask = self._mask(self.may_attend, dtype)
        if window and self.depth > window:
            depths = self.position_ids[0]
            near = self._mask(self.may_attend & (depths[:, None] - depths < window), dtype)
            mask = {"full_attention": mask, "sliding_attention": near} if "full_attention" in kinds else near
        return {
            "input_ids": self.input_ids,
            "attention_mask": mask,
            "position_ids": self.position_ids,
            "logits_to_keep": self.read_at,
        }

    def pick(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states (R, width) that are read, of those that the head is given (1, R, width)."""
        return states[0]

    def pick_all(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states (R, width) that are read, of all of the decoder's (1, N, width)."""
        return states[0, self.read_at]

    @property
    def depth(self) -> int:
        """Tokens of the longest path."""
        return int(self.position_ids.max()) + 1

    @staticmethod
    def _mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[None, None]


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


class Parts(NamedTuple):
    """What each token of a tree of pairs is, the number (N,) of its name; {name: tokens} here and in a stock batch."""

    of: torch.Tensor
    in_tree: dict[str, int]
    in_stock: dict[str, int]


PARTS = ("instruction", "anchors", "chosen answers", "rejected answers", "both answers")


def parts(tree: PrefixTree) -> Parts:
    """Return what the tokens of a tree with two answers a prompt are, by the names of `PARTS`.

    The instruction is what all sequences share; "both answers" is how a chosen and a rejected one begin alike. A stock
    batch repeats what is shared, also reads each answer's last token, and pads.
    """
    last = [tree.read_at[tree.owners == owner][-1] for owner in range(tree.count)]
    begins = [tree.position_ids[0, tree.read_at[tree.owners == owner][0]] for owner in range(tree.count)]
    paths = tree.may_attend[torch.stack(last)]  # (owners, N): the tokens of each sequence
    answers = paths & (tree.position_ids > torch.stack(begins)[:, None])
    of = torch.where(paths.all(dim=0), 0, 1)
    chosen, rejected = answers[0::2].any(dim=0), answers[1::2].any(dim=0)
    of[chosen], of[rejected], of[chosen & rejected] = 2, 3, 4
    in_tree = {name: int((of == number).sum()) for number, name in enumerate(PARTS)}
    in_stock = {name: int((paths & (of == number)).sum()) for number, name in enumerate(PARTS)}
    for name in PARTS[2:4]:
        in_stock[name] += tree.count // 2
    lengths = paths.sum(dim=1) + 1
    return Parts(of, in_tree, in_stock | {"padding": int(lengths.max() * tree.count - lengths.sum())})


def build_slots(sequences: list[list[int]]) -> PrefixTree:
    """Build the tree of `sequences` (token ids) whose last states are read. Raises ValueError for an empty one."""
    return build_places(sequences, [[-1]] * len(sequences))


def build_places(sequences: list[list[int]], places: list[list[int]]) -> PrefixTree:
    """Build the tree of `sequences` (token ids) of which the states at `places` are read, each owned by its sequence.

    Raises ValueError for an empty sequence.
    """
    if not sequences or not all(sequences):
        raise ValueError("An empty sequence has no state.")
    tokens, above, paths = _grow(sequences)
    read_at = [path[place] for path, own in zip(paths, places) for place in own]
    return _tree(tokens, above, read_at, [], [owner for owner, own in enumerate(places) for _ in own])


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


def log_probs(model, batch, *, own_logits=None) -> torch.Tensor:
    """Return each answer's summed log-probability, shape (prompts × answers per prompt,), float32.

    `model` is a causal language model of transformers, with or without an adapter, `batch` a `PrefixTree` or a
    `padded.PaddedBatch`; only the states that predict an answer token go through its head. `own_logits(model,
    states)` gives the logits where they are not the head's product with the state.
    """
    if own_logits is None:

        def read(states, weight, bias):
            if not weight.requires_grad:
                return _TokenLogProbs.apply(batch.targets, states, weight, bias)
            return _chosen(torch.nn.functional.linear(states, weight, bias), batch.targets)

        values = _forward(model, batch, read)
    else:

        def part(states, targets):
            return _chosen(own_logits(model, states), targets)

        pairs = zip(states(model, batch, at_decoder=True).split(CHUNK), batch.targets.split(CHUNK))
        values = torch.cat([checkpoint(part, *pair, use_reentrant=False) for pair in pairs])
    return torch.zeros(batch.count, device=values.device).index_add(0, batch.owners, values)


def states(model, batch, *, at_decoder: bool = False) -> torch.Tensor:
    """Return the states that are read, after the model's final norm: (R, width), in the model's type.

    `at_decoder`: taken where the decoder ends, for a model that changes what its head gives.
    """
    if not at_decoder:
        return _forward(model, batch, lambda states, weight, bias: states)
    kept = []
    decoder = decoder_of(causal(model))
    handle = decoder.register_forward_hook(lambda _, arguments, output: kept.append(output[0]))
    try:
        _forward(model, batch, lambda states, weight, bias: states[:, :1])
    finally:
        handle.remove()
    return batch.pick_all(kept[0])


def causal(model):
    """Return the causal language model inside what data parallelism and PEFT put around it."""
    return base_model(getattr(model, "module", model))


def _chosen(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits.float()
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(dim=-1)


def _forward(model, batch, read) -> torch.Tensor:
    """Run the model with `read(states (R, width), weight, bias)` in the place of its head; return what that gives.

    The model's own forward runs, so that it may be wrapped (an adapter, data parallelism) and gradients
    are gathered as the wrapper does it.
    """
    dtype = next(model.parameters()).dtype
    dtype = dtype if dtype.is_floating_point else torch.float32
    head = getattr(model, "module", model).get_output_embeddings()
    own = head.__dict__.get("forward")  # accelerate may have put one there
    head.forward = lambda states: read(batch.pick(states), head.weight, head.bias)[None]
    try:
        return model(**batch.inputs(text_config(causal(model)), dtype), use_cache=False).logits[0]
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
    def backward(ctx, gradient):  # pyrefly: ignore[bad-override] (the decorator hides what torch declares)
        (slopes,) = ctx.saved_tensors
        return None, (gradient[:, None] * slopes).to(ctx.dtype), None, None
