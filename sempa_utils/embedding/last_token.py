"""Last-token read-out: the state from which the model would say the sentence's one word.

PromptEOL (Jiang et al. 2024) and Pretended CoT (Zhang et al. 2024) differ in the template alone.
"""

import torch


def pool(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Take the last token's state of left-padded states (batch, tokens, width); (batch, width)."""
    return states[:, -1]
