"""How far a model's next words are from the base's: what may be added to any objective to keep the model speaking."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sempa_utils.models import head_logits


def divergence(head, policy: Tensor, *, reference: Tensor, chunk: int = 256) -> Tensor:
    """Return the mean KL(π_ref ‖ π) of the next-token distributions at N states (N, width): a number, in nats.

    `head` as `models.Ways.head` returns it. The gradient reaches `policy` alone. The logits of `chunk` states exist
    at a time, and once more for the gradient.
    """

    def summed(states: Tensor, frozen: Tensor) -> Tensor:
        ours, theirs = (head_logits(head, side).log_softmax(dim=-1) for side in (states, frozen))
        return nn.functional.kl_div(ours, theirs, reduction="sum", log_target=True)

    total = torch.zeros((), device=policy.device)
    for states, frozen in zip(policy.split(chunk), reference.detach().split(chunk)):
        total = total + checkpoint(summed, states, frozen, use_reentrant=False)
    return total / len(policy)
