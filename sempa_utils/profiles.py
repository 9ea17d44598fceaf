"""All sizes and precisions, in one table: a profile changes how much, never which code runs."""

import os
from dataclasses import dataclass

from sempa_utils.checks import pick


@dataclass(frozen=True)
class Profile:
    """How much of everything a run takes. None means all there is."""

    purpose: str
    precision: str  # of the base model in training
    evaluation_precision: str  # of the base model when embeddings are read off
    triplets: int | None  # training rows
    micro_batch: int  # triplets per forward and backward
    accumulation: int  # micro-batches per optimiser step
    max_length: int  # tokens of one training sequence
    save_every: int  # triplets between checkpoints
    sts_pairs: int | None  # pairs per STS task
    picture_triplets: int  # triplets drawn in a projection
    generation_items: int | None  # per generation benchmark
    gradient_checkpointing: bool
    theory_steps: int = 12  # optimiser steps of notebook 01, six triplets each
    theory_held_out: int = 40  # triplets on which notebook 01 compares two scores
    gold_items: int | None = None  # of a benchmark, whose right answers notebook 05 reads

    @property
    def text_tokens(self) -> int | None:
        """Tokens of text that a perplexity is taken over."""
        return self.generation_items and 300 * self.generation_items


PROFILES = {
    "smoke": Profile("tests of the notebooks", "nf4", "float32", 8, 4, 1, 128, 4, 40, 12, 2, False, 3, 8, 2),
    "cpu": Profile("a laptop with two cores", "nf4", "float32", 96, 4, 1, 256, 32, 150, 60, 4, False),
    "t4": Profile("a 16 GB card, Colab's", "nf4", "nf4", 20_000, 8, 32, 512, 5_000, None, 500, 200, True),
    "24gb": Profile("one consumer card", "nf4", "bfloat16", 40_000, 16, 16, 1024, 10_000, None, 500, 500, True),
    "paper": Profile("the paper's sizes", "bfloat16", "bfloat16", 80_000, 8, 32, 1024, 20_000, None, 550, None, False),
}


def get(name: str | None = None) -> Profile:
    """Return a profile by name; by default the one that `SEMPA_PROFILE` names, or "cpu"."""
    return pick(name or os.environ.get("SEMPA_PROFILE") or "cpu", PROFILES, what="profile")
