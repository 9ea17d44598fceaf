"""One micro-batch through model, frozen base and objective: what the trainer does, and what the planner counts."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sempa_utils.models import prefix_tree
from sempa_utils.models.prefix_tree import PrefixTree
from sempa_utils.objectives import Scores, divergence
from sempa_utils.training.recipe import Recipe

Reading = Callable[[], contextlib.AbstractContextManager]  # around each forward, such as autocast


class Batch(NamedTuple):
    """A micro-batch of tokenised rows."""

    rows: Tensor  # (rows,): their numbers in the corpus
    trees: list[PrefixTree]  # what the model reads with the adapter on
    reference_trees: list[PrefixTree]  # what the frozen base reads; empty: the same, or nothing
    plain: PrefixTree | None  # some anchors as plain text, for the divergence

    def to(self, device, **_) -> "Batch":
        """Return the batch on a device."""
        read, frozen = ([tree.to(device) for tree in trees] for trees in (self.trees, self.reference_trees))
        return Batch(self.rows.to(device), read, frozen, self.plain and self.plain.to(device))


class Outcome(NamedTuple):
    """What comes of a micro-batch: its loss with all that is added, the objective's scores, the divergence."""

    loss: Tensor
    scores: Scores
    divergence: Tensor | None


def collate(rows: list, recipe: Recipe, cached: bool = False) -> Batch:
    """Return a batch of tokenised rows (`objectives.tokenised`); `cached`: the reference is known beforehand."""
    objective = recipe.objective
    frozen = objective.reference_trees(rows, recipe.chunk) if objective.reference and not cached else []
    texts = [row["plain"] for row in rows[: recipe.kl_texts]]
    plain = prefix_tree.build_texts(texts) if recipe.kl_weight else None
    return Batch(torch.tensor([row["row"] for row in rows]), objective.trees(rows, recipe.chunk), frozen, plain)


def compute(
    model: nn.Module,
    batch: Batch,
    *,
    recipe: Recipe,
    reference: Tensor | None = None,
    reading: Reading = contextlib.nullcontext,
) -> Outcome:
    """Return the loss of a batch and what it was made of.

    `model` wears a LoRA adapter, switched off for the reference, which may be given: `by_row` of the objective.
    Where a value is no number the loss is none, and the scores are what was read.
    """
    objective, bare = recipe.objective, unwrapped(model)
    # In bfloat16 or float16 the differences between states would be rounded away.
    exact = torch.autocast(batch.rows.device.type, enabled=False) if objective.in_batch else contextlib.nullcontext()
    with exact:
        policy = _read(model, batch.trees, recipe, reading)
        if reference is None:
            reference = reference_of(model, batch, recipe, reading) if objective.reference else policy.new_empty(0)
        if policy.isfinite().all():
            scores = objective.loss(policy, reference, bare.get_output_embeddings())
        else:
            nothing = torch.zeros(len(policy), dtype=torch.long, device=policy.device)
            scores = Scores(policy.sum(), policy.view(len(policy), -1), nothing)
    if batch.plain is None:
        return Outcome(scores.loss, scores, None)
    apart = _divergence(model, batch.plain, reading)
    return Outcome(scores.loss + recipe.kl_weight * apart, scores, apart)


@torch.no_grad()
def reference_of(model: nn.Module, batch: Batch, recipe: Recipe, reading: Reading = contextlib.nullcontext) -> Tensor:
    """Return what the frozen base gives for a batch, row by row."""
    with unwrapped(model).disable_adapter():
        values = _read(model, batch.reference_trees or batch.trees, recipe, reading)
    return recipe.objective.by_row(values, len(batch.rows))


def unwrapped(model: nn.Module) -> Any:
    """Return the model without what data parallelism puts around it."""
    return getattr(model, "module", model)


def _read(model: nn.Module, trees: list[PrefixTree], recipe: Recipe, reading: Reading) -> Tensor:
    # Gradient caching (Gao et al., 2021): of several chunks only the states are kept, and each chunk is computed
    # again when its gradient is wanted, so memory does not grow with the batch.
    again = recipe.gradient_caching and torch.is_grad_enabled() and len(trees) > 1
    with reading():
        parts = []
        for tree in trees:
            read = partial(recipe.objective.read, model, tree)
            parts.append(checkpoint(read, use_reentrant=False) if again else read())
    return torch.cat([part.float() for part in parts])


def _divergence(model: nn.Module, tree: PrefixTree, reading: Reading) -> Tensor:
    """Return the mean KL(base ‖ model) of the next words in the batch's anchors as plain text, in nats."""
    bare = unwrapped(model)
    with torch.no_grad(), bare.disable_adapter(), reading():
        reference = prefix_tree.states(model, tree).float()
    with reading():
        policy = prefix_tree.states(model, tree).float()
    return divergence(bare.get_output_embeddings(), policy, reference)
