"""Attention in a prefix tree on a CPU, in blocks: most of the tree's mask is empty, and what is empty is not computed.

Tokens that stand near each other in a tree are of few branches, so a block of them sees few others: what all begin
with, and its own branches. The blocks travel with the mask, as its `blocks`; a model that makes another mask of it, or
that does not compute its attention by torch's own function, computes the whole mask, and the same states.
"""

from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

BLOCK = 64  # tokens that attend together


class Block(NamedTuple):
    """Tokens that stand side by side, and all that one of them or another sees."""

    tokens: slice
    keys: torch.Tensor  # (K,): the places that are seen
    mask: torch.Tensor  # (1, 1, tokens, K), added to the scores


def mask_of(may_attend: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what a model adds to its scores (1, 1, N, N), 0 or the least number, of `may_attend` (N, N); see above."""
    mask = torch.zeros(may_attend.shape, dtype=dtype, device=may_attend.device)
    mask = mask.masked_fill_(~may_attend, torch.finfo(dtype).min)[None, None]
    if mask.device.type == "cpu" and len(may_attend) > BLOCK:  # a GPU waits longer for many small products
        blocks = [_block(may_attend, mask, start) for start in range(0, len(may_attend), BLOCK)]
        mask.blocks = blocks  # pyrefly: ignore[missing-attribute] (a note on the tensor, for `_attend`)
    return mask


def _block(may_attend: torch.Tensor, mask: torch.Tensor, start: int) -> Block:
    tokens = slice(start, start + BLOCK)
    keys = may_attend[tokens].any(dim=0).nonzero()[:, 0]
    return Block(tokens, keys, mask[:, :, tokens, keys])


def _attend(module, query, key, value, attention_mask, **how: Any) -> tuple[torch.Tensor, None]:
    """Return the heads' values (1, N, heads, width), as transformers' own function, in the mask's blocks if it has any.

    `query`, `key` and `value` (1, heads, N, width).
    """
    blocks = getattr(attention_mask, "blocks", ())
    whole = query.shape[2] == key.shape[2] and how.get("position_bias") is None
    if not (blocks and whole):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    parts = [
        sdpa_attention_forward(
            module, query[:, :, block.tokens], key[:, :, block.keys], value[:, :, block.keys], block.mask, **how
        )[0]
        for block in blocks
    ]
    return torch.cat(parts, dim=1), None


AttentionInterface.register("sdpa", _attend)  # without blocks it is what stood there
