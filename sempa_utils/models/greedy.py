"""The likeliest continuations of many prompts at once, in one sequence: what all begin with is read a single time.

All rows stand in one cache, behind their common beginning, as in a prefix tree that grows: a token attends to the
beginning and to what its own row holds. So a step reads the weights once for all rows and the beginning once instead
of once a row. A row that is complete leaves, and the next prompt takes its place at once.
"""

from collections.abc import Callable
from typing import Any

import torch

from sempa_utils.models.certificate import Ways, compute_dtype_of
from sempa_utils.models.prefix_tree import causal

TOGETHER = 16  # rows; with more, attention to what is another row's outweighs what is saved


def is_exact(model, ways: Ways, *, longest: int) -> bool:
    """Return whether `continuations` of `longest` tokens, prompt included, are token for token what each is alone.

    In float32 alone: the rounding of half precision, which another order of sums moves, changes the likeliest token now
    and then, and recorded answers would change with it.
    """
    config = causal(model).config
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    prompts = hasattr(model, "prompt_encoder")  # an adapter that puts tokens of its own before the first
    exact = ways.tree and ways.prefix_cache and compute_dtype_of(model) == torch.float32
    return exact and not prompts and (window is None or longest <= window)


def common_beginning(prompts: list[list[int]]) -> int:
    """Return how many tokens all prompts begin with, the last of each left over."""
    length = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((place for place in range(length) if any(row[place] != first[place] for row in prompts)), length)


@torch.inference_mode()
def continuations(
    model,
    prompts: list[list[int]],
    *,
    ended: Callable[[list[int]], bool],
    most: int,
    together: int = TOGETHER,
    progress: Callable[[int], object] | None = None,
) -> list[list[int]]:
    """Return what the model writes behind each prompt (token ids), the likeliest token at each step.

    A row is complete when `ended(its tokens)` says so, or after `most`; what completes it is returned too.
    `progress(rows)` is called for those that are complete. Only where `is_exact`.
    """
    beginning, written = common_beginning(prompts), [[] for _ in prompts]
    rows = _Rows(model)
    if beginning:
        rows.read({-1: prompts[0][:beginning]})
    waiting = list(range(len(prompts)))[::-1]
    new: dict[int, list[int]] = {}  # row: its tokens that are not read yet
    while waiting or new:
        while waiting and len(new) < together:
            row = waiting.pop()
            new[row] = prompts[row][beginning:]
        for row, token in zip(list(new), rows.read(new), strict=True):
            written[row].append(token)
            new[row] = [token]
            if len(written[row]) == most or ended(written[row]):
                del new[row]
        if done := [row for row in rows.inside if row >= 0 and row not in new]:
            rows.leave(done)
            if progress:
                progress(len(done))
    return written


class _Rows:
    """A cache in which rows stand behind each other; row −1 is what all others may see."""

    def __init__(self, model):
        from transformers import DynamicCache

        self.model, self.cache, self.device = model, DynamicCache(), next(model.parameters()).device
        dtype = next(model.parameters()).dtype
        self.dtype = dtype if dtype.is_floating_point else torch.float32
        self.owners = torch.empty(0, dtype=torch.long, device=self.device)  # the row of each token in the cache
        self.inside: dict[int, int] = {}  # row: its tokens, the beginning included

    def read(self, new: dict[int, list[int]]) -> list[int]:
        """Read each row's new tokens in one forward; return the likeliest token behind each row."""
        before = len(self.owners)
        starts = {row: self.inside.get(row, self.inside.get(-1, 0)) for row in new}
        self.inside |= {row: starts[row] + len(tokens) for row, tokens in new.items()}
        owners = self._tensor([row for row, tokens in new.items() for _ in tokens])
        self.owners = torch.cat([self.owners, owners])
        sees = (self.owners == -1) | (self.owners == owners[:, None])
        order = torch.arange(len(self.owners), device=self.device)
        sees &= order <= order[before:, None]
        mask = torch.zeros(sees.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~sees, torch.finfo(self.dtype).min)
        positions = [starts[row] + place for row, tokens in new.items() for place in range(len(tokens))]
        lengths = torch.tensor([len(tokens) for tokens in new.values()])
        inputs: dict[str, Any] = {
            "input_ids": self._tensor([token for tokens in new.values() for token in tokens])[None],
            "attention_mask": mask[None, None],
            "position_ids": self._tensor(positions)[None],
            "logits_to_keep": (lengths.cumsum(0) - 1).to(self.device),
        }
        output = self.model(**inputs, past_key_values=self.cache, use_cache=True)
        return output.logits[0].float().argmax(dim=-1).tolist()

    def leave(self, rows: list[int]) -> None:
        """Take rows out of the cache."""
        stay = ~torch.isin(self.owners, self._tensor(rows))
        self.owners = self.owners[stay]
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = layer.keys[:, :, stay], layer.values[:, :, stay]
        for row in rows:
            del self.inside[row]

    def _tensor(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)
