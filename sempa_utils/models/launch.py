"""The processes that share a run: those of `accelerate launch` or `torchrun`, or else this one alone."""

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """Return accelerate's view of the processes that share this run; without a GPU they talk by gloo."""
    return PartialState(cpu=not torch.cuda.is_available())
