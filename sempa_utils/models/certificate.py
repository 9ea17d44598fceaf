"""What is exact for a model: measured on the model itself, with the way that is taken where something is not.

A few short sequences go through the model plainly and in each of the quick ways; a way that gives other states is not
taken. So no list of names is kept, and a model that nobody here knows is either right or refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from sempa_utils.checks import InputError, first_line
from sempa_utils.models import padded, prefix_tree
from sempa_utils.models.identity import decoder_of, text_config
from sempa_utils.models.prefix_tree import causal

# A largest relative difference of states that counts as rounding, by what is computed in: sums in another order give
# 1e-6 in float32 and, over some thirty layers, up to 2e-2 in bfloat16; a token that should not be seen gives more.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 4e-2, torch.float16: 2e-2}
WORDS = "A kettle stood on the stove. Nobody had switched it on, and the water in it was as cold as the rain outside."
KEPT = "sempa_ways"  # the name under which a model keeps what was measured on it


@dataclass(frozen=True)
class Ways:
    """How a model is computed exactly; the defaults are the quickest ways."""

    plain_head: bool = True  # its logits are the head's product with the last state
    tree: bool = True  # a batch may be a prefix tree
    window: int | None = None  # the most tokens that such a tree may have; None: any
    alone: int | None = None  # the longest sequence that may share a batch with others; None: any
    prefix_cache: bool = True  # what sentences begin with may be computed once
    cache_window: int | None = None  # the longest sequence that may have such a beginning; None: any
    padding: str = "left"  # where a batch of sentences may be padded: left, else right, else none

    def answers(self, prompts: list[list[int]], answers: list[list[list[int]]]) -> list:
        """Return the batches of prompts (token ids) with their answers, whose log-probabilities are read in order."""
        tree = prefix_tree.build(prompts, answers)
        if self._takes(tree):
            return [tree]
        if self.together(max(len(p) + len(a) for p, mine in zip(prompts, answers) for a in mine)):
            return [padded.build(prompts, answers)]
        return [padded.build([p], [[a]]) for p, mine in zip(prompts, answers) for a in mine]

    def slots(self, sequences: list[list[int]]) -> list:
        """Return the batches of sequences whose last states are read in order."""
        tree = prefix_tree.build_slots(sequences)
        if self._takes(tree):
            return [tree]
        if self.together(max(map(len, sequences))):
            return [padded.build_slots(sequences)]
        return [padded.build_slots([sequence]) for sequence in sequences]

    def texts(self, sequences: list[list[int]]) -> list:
        """Return the batches of sequences of which each distinct prefix's state is read."""
        tree = prefix_tree.build_texts(sequences)
        if self._takes(tree):
            return [tree]
        if self.together(max(map(len, sequences))):
            return [padded.build_texts(sequences)]
        return padded.build_each_text(sequences)

    def packed(self, longest: int) -> bool:
        """Return whether sequences of up to so many tokens may stand in one tree of any size."""
        return self.tree and self.window is None and (self.alone is None or longest <= self.alone)

    def together(self, longest: int, *, left: bool = False) -> bool:
        """Return whether sequences of up to so many tokens may be padded to one length: on the right, or `left`."""
        exact = self.padding == "left" if left else self.padding != "none"
        return exact and (self.alone is None or longest <= self.alone)

    def cached(self, longest: int) -> bool:
        """Return whether sequences of up to so many tokens may have a beginning that is computed once."""
        limits = (limit for limit in (self.alone, self.cache_window) if limit is not None)
        return self.prefix_cache and all(longest <= limit for limit in limits)

    def _takes(self, tree: prefix_tree.PrefixTree) -> bool:
        size = tree.input_ids.shape[1]  # some count by depth, some by place
        exact = self.tree and (self.window is None or size <= self.window)
        return exact and (self.alone is None or tree.depth <= self.alone)

    def log_probs(self, model, batch) -> torch.Tensor:
        """Return each answer's summed log-probability, float32."""
        return prefix_tree.log_probs(model, batch, own_logits=None if self.plain_head else own_logits)

    def states(self, model, batch) -> torch.Tensor:
        """Return the states that are read: (R, width)."""
        return prefix_tree.states(model, batch, at_decoder=not self.plain_head)

    def head(self, model) -> nn.Module | Callable[[torch.Tensor], torch.Tensor]:
        """Return the model's head, or what gives its logits (N, vocabulary) of states (N, width) instead."""
        return causal(model).get_output_embeddings() if self.plain_head else partial(own_logits, model)

    def logits(self, model, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of states (N, width): (N, vocabulary), float32."""
        return head_logits(self.head(model), states)

    def lines(self) -> list[str]:
        """Return a line for each thing that is not taken, and what is done instead."""
        lines = {
            "logits are the model's own, which changes them after its head": not self.plain_head,
            "batches are padded instead of prefix trees, which are not exact for this model": not self.tree,
            f"batches of more than {self.window} tokens are padded: the model looks back no further": (
                self.tree and self.window is not None
            ),
            f"sequences of more than {self.alone} tokens are computed one by one: layers choose among so many": (
                self.alone is not None
            ),
            "embeddings are computed without a cache of the prompt's beginning": not self.prefix_cache,
            "sentences are padded on the right": self.padding == "right",
            "sentences are computed one by one: padding changes this model's states": self.padding == "none",
        }
        return [line for line, is_so in lines.items() if is_so]


def head_logits(head: Any, states: torch.Tensor) -> torch.Tensor:
    """Return the logits of states (N, width), in float32; `head` as `Ways.head` returns it."""
    return head(states.to(head.weight.dtype)).float() if hasattr(head, "weight") else head(states)


def own_logits(model, states: torch.Tensor) -> torch.Tensor:
    """Return the logits that a model itself makes of its decoder's states (N, width): (N, vocabulary), float32.

    Its own forward runs behind the decoder, whatever it does there: scaling, capping, a head of several parts.
    """
    bare = causal(model)
    decoder = decoder_of(bare)
    own = decoder.__dict__.get("forward")
    decoder.forward = lambda *_, **__: _Output(states.to(_dtype(bare))[None])
    try:
        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        return bare(input_ids=ids).logits[0].float()
    finally:
        if own:
            decoder.forward = own
        else:
            del decoder.forward


class _Output:
    """A decoder's output that holds its last states alone."""

    def __init__(self, states: torch.Tensor):
        self.last_hidden_state = states

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int | slice) -> Any:
        return (self.last_hidden_state,)[index]


def _dtype(model) -> torch.dtype:
    dtypes = (parameter.dtype for parameter in model.parameters() if parameter.dtype.is_floating_point)
    return next(dtypes, torch.float32)


def ways_of(model, tokenizer) -> Ways:
    """Return how a model is computed exactly: measured once, and kept with the base model.

    Raises `InputError` for a model that sees what stands behind a token, or an encoder with a decoder.
    """
    bare = causal(model)
    if KEPT not in bare.__dict__:
        bare.__dict__[KEPT] = measure(bare, tokenizer)
    return bare.__dict__[KEPT]


@torch.no_grad()
def measure(model, tokenizer) -> Ways:
    """Measure which ways give the states and logits of a plain forward."""
    refusal = f"{type(model).__name__}: no causal language model: "
    if model.config.is_encoder_decoder or getattr(type(model.config), "is_encoder_decoder", False):
        raise InputError(refusal + "it has an encoder. Name a decoder-only model.")
    ids = tokenizer(WORDS, add_special_tokens=False)["input_ids"][:24]
    begin = tokenizer("")["input_ids"][:1]
    prompt, other = [*begin, *ids[:7]], [*begin, *ids[:5], ids[9]]
    answers = [[ids[8:13], ids[8:10] + ids[14:15]], [ids[17:20], ids[20:24]]]
    sequences = [p + a for p, pair in zip((prompt, other), answers) for a in pair]
    tolerance = TOLERANCES[compute_dtype_of(model)]
    try:
        truth = _plain(model, [prompt + ids[8:14], prompt + ids[17:23]])
    except torch.OutOfMemoryError:
        raise
    except (
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
        RuntimeError,
    ) as error:  # by what it wants beside tokens
        raise InputError(f"{refusal}it reads no text by itself: {first_line(error)} Name another model.") from error
    if not _alike(truth[0][: len(prompt)], truth[1][: len(prompt)], 2e-3):  # equal shapes: hardly any rounding
        raise InputError(refusal + "a state depends on the tokens behind it. Name a decoder-only model.")
    if truth[0].shape[-1] != text_config(causal(model)).hidden_size:
        raise InputError(f"{refusal}its states are not as wide as its configuration says. Name another model.")
    right = _alike(truth[0], _plain(model, [prompt + ids[8:14]])[0], tolerance)
    truth = _plain(model, sequences) if right else [_plain(model, [sequence])[0] for sequence in sequences]
    exact_head = _is_product(model, truth[0])
    last = torch.stack([states[-1] for states in truth])
    slots = prefix_tree.build_slots(sequences).to(model.device)
    tree = _tries(lambda: prefix_tree.states(model, slots, at_decoder=True), last, tolerance)
    left = _tries(lambda: _padded_left(model, sequences), last, tolerance)
    cached = left and _tries(lambda: _behind_cache(model, prompt, sequences[:2]), last[:2], tolerance)
    return Ways(
        plain_head=exact_head,
        tree=tree,
        window=_reach(model, tokenizer, tolerance) if tree else None,
        alone=_chosen_among(model),
        prefix_cache=cached,
        cache_window=_window(model),
        padding="left" if left else "right" if right else "none",
    )


def _is_product(model, states: torch.Tensor) -> bool:
    """Return whether logits are the head's product with the state, also where they are large: a cap shows there."""
    sequence, head = states.to(_dtype(model)), model.get_output_embeddings()
    own = [own_logits(model, factor * sequence) for factor in (1, 8)]
    product = [head((factor * sequence).to(head.weight.dtype)).float() for factor in (1, 8)]
    return all(_alike(one, other, 1e-2) for one, other in zip(own, product))


def _reach(model, tokenizer, tolerance: float) -> int | None:
    """Return the size of an exact tree: where a window is not followed by its mask, the window itself."""
    config, window = text_config(causal(model)), _window(model)
    if not window or not getattr(config, "sliding_window", None):
        return window
    ids = tokenizer(WORDS, add_special_tokens=False)["input_ids"][:20]
    sequences = [ids[:16], ids[:12] + ids[16:20]]
    config.sliding_window = 6  # for a moment, so that short sequences show what long ones would
    try:
        last = torch.stack([_plain(model, [sequence])[0][-1] for sequence in sequences])
        tree = prefix_tree.build_slots(sequences).to(model.device)
        follows = _tries(lambda: prefix_tree.states(model, tree, at_decoder=True), last, tolerance)
    finally:
        config.sliding_window = window
    return None if follows else window


def _window(model) -> int | None:
    """Return how far some layers look back, behind which padding between cached tokens and others would count."""
    names = "sliding_window", "window_size", "attention_chunk_size"
    settings = (getattr(text_config(causal(model)), name, None) for name in names)
    return min((setting for setting in settings if isinstance(setting, int) and setting), default=None)


def _chosen_among(model) -> int | None:
    """Return of how many tokens some layers attend to all; of more they choose, and of equals by where they stand."""
    config = text_config(causal(model))
    settings = [getattr(config, name, None) for name in ("index_topk", "indexer_budget", "keep_window_size")]
    if blocks := getattr(config, "index_topk_blocks", None):
        settings.append(blocks * config.index_block_size)
    return min((setting for setting in settings if isinstance(setting, int) and setting), default=None)


def _plain(model, sequences: list[list[int]]) -> list[torch.Tensor]:
    """Return each sequence's states, of a plain forward padded on the right."""
    batch = padded.build_slots(sequences).to(model.device)
    states = _decoder_states(model, input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    return [row[: len(sequence)] for row, sequence in zip(states, sequences)]


def _padded_left(model, sequences: list[list[int]]) -> torch.Tensor:
    batch = padded.build_slots(sequences).to(model.device)
    lengths = batch.attention_mask.sum(dim=1)
    shifts = [batch.input_ids.shape[1] - int(length) for length in lengths]
    parts = batch.input_ids, batch.attention_mask
    ids, mask = (torch.stack([row.roll(shift) for row, shift in zip(part, shifts)]) for part in parts)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return _decoder_states(model, input_ids=ids, attention_mask=mask, position_ids=positions)[:, -1]


def _behind_cache(model, prompt: list[int], sequences: list[list[int]]) -> torch.Tensor:
    """Return the last states of sequences that begin with `prompt`, whose keys and values are computed once."""
    from transformers import DynamicCache

    decoder, device, count = decoder_of(causal(model)), model.device, len(sequences)
    once: Any = DynamicCache(config=text_config(causal(model)))
    decoder(input_ids=torch.tensor([prompt], device=device), past_key_values=once, use_cache=True)
    cache = DynamicCache(config=text_config(causal(model)))
    for layer, kept in enumerate(once.layers):
        cache.update(kept.keys.expand(count, -1, -1, -1), kept.values.expand(count, -1, -1, -1), layer)
    rest = [sequence[len(prompt) :] for sequence in sequences]
    width = max(map(len, rest))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rest], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rest], device=device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0) + len(prompt)
    mask = torch.cat([mask.new_ones(count, len(prompt)), mask], dim=1)
    return _decoder_states(
        model, input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )[:, -1]


def _decoder_states(model, **inputs) -> torch.Tensor:
    return decoder_of(causal(model))(**{"use_cache": False} | inputs).last_hidden_state.float()


def _tries(compute, expected: torch.Tensor, tolerance: float) -> bool:
    """Return whether a way gives the expected states; one that fails is not taken."""
    try:
        return _alike(compute().float(), expected, tolerance)
    except Exception:  # what a model makes of a mask or a cache that it does not know
        return False


def _alike(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    apart = (one.float() - other.float()).norm(dim=-1) / other.float().norm(dim=-1).clamp(min=1e-6)
    return bool((apart <= tolerance).all())


def compute_dtype_of(model) -> torch.dtype:
    """Return the type that a model computes in, whatever its weights are packed in."""
    quantisation = getattr(causal(model).config, "quantization_config", None)
    packed = getattr(quantisation, "bnb_4bit_compute_dtype", None)
    return packed if packed in TOLERANCES else _dtype(model)
