"""How far a model's next words are from the base's: what may be added to any objective to keep the model speaking."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sempa_utils.checks import InputError


def divergence(head: nn.Linear, policy: Tensor, reference: Tensor, chunk: int = 256) -> Tensor:
    """Return the mean KL(π_ref ‖ π) of the next-token distributions at N states (N, width): a number, in nats.

    Its gradient reaches `policy` alone. The logits of `chunk` states exist at a time, and once more for
    the gradient.
    """

    def summed(states: Tensor, frozen: Tensor) -> Tensor:
        ours, theirs = (head_logits(head, side).log_softmax(dim=-1) for side in (states, frozen))
        return nn.functional.kl_div(ours, theirs, reduction="sum", log_target=True)

    total = torch.zeros((), device=policy.device)
    for states, frozen in zip(policy.split(chunk), reference.detach().split(chunk)):
        total = total + checkpoint(summed, states, frozen, use_reentrant=False)
    return total / len(policy)


def head_logits(head: nn.Linear, states: Tensor) -> Tensor:
    """Return the head's logits of states (N, width), in float32."""
    return head(states.to(head.weight.dtype)).float()


def check_head(config) -> None:
    """Raise an `InputError` where a model's logits are more than its head's product with the last state."""
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise InputError(
                f"Prefix trees read the head's weights, and this model changes its logits afterwards ({name}). "
                "Choose pairwise with TRL's own batches (--stock-batches), contrastive, or another base model."
            )
