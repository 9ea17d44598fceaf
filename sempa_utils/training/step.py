"""One micro-batch through model, frozen base and objective: what the trainer does, and what the planner counts."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sempa_utils.models import Ways
from sempa_utils.objectives import Scores, divergence
from sempa_utils.training.recipe import Recipe

REVISION = 1  # of what a step computes; raised with every change that moves what comes of a run


class Batch(NamedTuple):
    """A micro-batch of tokenised rows, as prefix trees or padded."""

    rows: Tensor  # (rows,): their numbers in the corpus
    policy: list  # what the model reads with the adapter on
    reference: list  # what the frozen base reads; empty: the same, or nothing
    plain: list  # some anchors as plain text, for the divergence
    left_out: Tensor | None = None  # (rows, N): candidates that are no negatives; None where there are none

    def to(self, device, **_) -> "Batch":
        """Return the batch on a device."""
        parts = self.policy, self.reference, self.plain
        policy, reference, plain = ([part.to(device) for part in some] for some in parts)
        left_out = None if self.left_out is None else self.left_out.to(device)
        return Batch(self.rows.to(device), policy, reference, plain, left_out)


class Outcome(NamedTuple):
    """What comes of a micro-batch: its loss with all that is added, the objective's scores, the divergence."""

    loss: Tensor
    scores: Scores
    divergence: Tensor | None


@dataclass(frozen=True)
class Step:
    """How a recipe's micro-batches go through a model that is computed in these `ways`."""

    recipe: Recipe
    ways: Ways = Ways()
    reading: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext  # around forwards: autocast

    def collate(self, rows: list, cached: bool = False) -> Batch:
        """Return a batch of tokenised rows (`objectives.tokenised`); `cached`: the reference is known beforehand."""
        objective, chunk = self.recipe.objective, self.recipe.chunk
        frozen = objective.reference and not cached
        reference = objective.reference_batches(rows, self.ways, chunk=chunk) if frozen else []
        texts = [row["plain"] for row in rows[: self.recipe.kl_texts]]
        plain = self.ways.texts(texts) if self.recipe.kl_weight else []
        numbers = torch.tensor([row["row"] for row in rows])
        none = objective.left_out(rows)
        left_out = torch.tensor(none) if any(map(any, none)) else None
        return Batch(numbers, objective.batches(rows, self.ways, chunk=chunk), reference, plain, left_out)

    def compute(self, model: nn.Module, batch: Batch, *, reference: Tensor | None = None) -> Outcome:
        """Return the loss of a batch and what it was made of.

        `model` has a LoRA adapter on, switched off for the reference, which may be given: `by_row` of the objective.
        Where a value is no number the loss is none, and the scores are what was read.
        """
        objective, head = self.recipe.objective, self.ways.head(model)
        # In bfloat16 or float16 the differences between states would be rounded away.
        off = torch.autocast(batch.rows.device.type, enabled=False)
        with off if objective.in_batch else contextlib.nullcontext():
            policy = self._read(model, batch.policy)
            if reference is None:
                reference = self.reference(model, batch) if objective.reference else policy.new_empty(0)
            if policy.isfinite().all():
                scores = objective.loss(policy, reference, head=head, left_out=batch.left_out)
            else:
                nothing = torch.zeros(len(policy), dtype=torch.long, device=policy.device)
                scores = Scores(policy.sum(), policy.view(len(policy), -1), nothing)
        if not batch.plain:
            return Outcome(scores.loss, scores, None)
        apart = self._divergence(model, batch.plain, head)
        return Outcome(scores.loss + self.recipe.kl_weight * apart, scores, apart)

    @torch.no_grad()
    def reference(self, model: Any, batch: Batch) -> Tensor:
        """Return what the frozen base gives for a batch, row by row."""
        with _unwrapped(model).disable_adapter():
            values = self._read(model, batch.reference or batch.policy)
        return self.recipe.objective.by_row(values, len(batch.rows))

    def _read(self, model: nn.Module, parts: list) -> Tensor:
        # Gradient caching (Gao et al., 2021): of several chunks only the states are kept, and each chunk is computed
        # again when its gradient is wanted, so memory does not grow with the batch.
        again = self.recipe.gradient_caching and torch.is_grad_enabled() and len(parts) > 1
        values = []
        with self.reading():
            for part in parts:
                read = partial(self.recipe.objective.read, model, part, ways=self.ways)
                values.append(checkpoint(read, use_reentrant=False) if again else read())
        return torch.cat([value.float() for value in values])

    def _divergence(self, model: Any, parts: list, head) -> Tensor:
        """Return the mean KL(base ‖ model) of the next words in the batch's anchors as plain text, in nats."""

        def states() -> Tensor:
            with self.reading():
                return torch.cat([self.ways.states(model, part).float() for part in parts])

        with torch.no_grad(), _unwrapped(model).disable_adapter():
            reference = states()
        return divergence(head, states(), reference=reference)


def _unwrapped(model: nn.Module) -> Any:
    """Return the model without what data parallelism puts around it."""
    return getattr(model, "module", model)
