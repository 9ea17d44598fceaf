"""Mean pooling: the sentence as it is; the vector is the mean over its tokens' last states."""

import torch

TEMPLATE = "{x}"


def pool(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Average states (batch, tokens, width) over the tokens that are not padding; (batch, width)."""
    weights = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)
