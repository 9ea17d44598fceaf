"""Does a model get the begin token that it was trained behind? Measured, since nothing else shows its absence."""

import math
from typing import NamedTuple

import torch

from sempa_utils.models.prefix_tree import causal

KEPT = "sempa_begin_token"  # the name under which a model keeps what was measured on it
FACTOR = 1.5  # a perplexity lower by so much is no accident
TEXT = (
    "The village lies at the end of a narrow valley. In winter the road is often closed by snow, and the people who "
    "live there bake their own bread, keep a few animals and wait for the spring."
)


class BeginToken(NamedTuple):
    """A tokenizer's begin token, whether it puts it before a text, and a text's perplexity behind it and without."""

    token: str
    added: bool
    behind: float
    without: float

    @property
    def warns(self) -> bool:
        """Whether what the tokenizer does costs the model much."""
        right, other = (self.behind, self.without) if self.added else (self.without, self.behind)
        return right > FACTOR * other

    def line(self) -> str:
        """Return what was measured, and what to do about it where it warns."""
        does = f"the tokenizer {'adds' if self.added else 'does not add'} the begin token {self.token}"
        remedy = f"save it with add_bos_token={not self.added}, or its figures are too low"
        measured = f"perplexity of a short text {self.behind:.1f} behind it, {self.without:.1f} without"
        return f"{does}: {measured}{f'; {remedy}' if self.warns else ''}"


def begin_token_of(model, tokenizer) -> BeginToken | None:
    """Return what a begin token does for a model: measured once, and kept with it; None where there is no such token.

    A text's tokens but the first are scored, so that both perplexities are of the same ones.
    """
    bare, begin = causal(model), tokenizer.bos_token_id
    if begin is None or begin >= len(bare.get_input_embeddings().weight):
        return None
    added = tokenizer("A")["input_ids"][:1] == [begin]
    if KEPT not in bare.__dict__:
        ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        bare.__dict__[KEPT] = [_perplexity(bare, start, ids) for start in ([begin], [])]
    behind, without = bare.__dict__[KEPT]
    return BeginToken(tokenizer.bos_token, added, behind, without)


@torch.no_grad()
def _perplexity(model, start: list[int], ids: list[int]) -> float:
    tokens = torch.tensor([start + ids], device=model.device)
    logits = model(input_ids=tokens, use_cache=False).logits[0, len(start) : -1].float()
    return math.exp(min(torch.nn.functional.cross_entropy(logits, tokens[0, len(start) + 1 :]).item(), 700))
