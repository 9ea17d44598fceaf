"""The five objectives: one Plackett–Luce likelihood, over what the model says or over where it stands.

| objective | an anchor's candidates, the preferred one first | the score of a candidate |
|---|---|---|
| `pairwise` | entailed, contradicted sentence: the paper's DPO | β log π/π_ref of the sentence as a paraphrase |
| `listwise` | entailed ≻ neutral ≻ contradicted, the whole ranking | the same |
| `best_of_n` | as `pairwise`, and other anchors' entailed sentences | the same |
| `one_word` | the batch's entailed and contradicted sentences | β E[log π/π_ref] over a candidate's one-word answers |
| `contrastive` | the same | cosine of the one-word states / τ: no reference, the paper's baseline |

The first three read *answers* to a paraphrase request, the last two the state of the *slot* in "… means in one
word:", which is the embedding itself. To any of them `divergence` may be added: how far the model's next
words on plain text are from the base's, which keeps it speaking.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sempa_utils.checks import InputError
from sempa_utils.theory import plackett_luce


@dataclass(frozen=True)
class Objective:
    """What an objective reads, and the recipe that it departs from the paper's with."""

    reads: str  # "answers" or "slots"
    ranked: bool = False  # needs premises with all three labels
    reference: bool = True  # scores against the frozen base
    settings: dict = field(default_factory=dict)


OBJECTIVES = {
    "pairwise": Objective("answers"),
    "listwise": Objective("answers", ranked=True),
    "best_of_n": Objective("answers"),
    "one_word": Objective("slots", settings={"beta": 2.0, "learning_rate": 5e-4}),
    "contrastive": Objective("slots", reference=False, settings={"learning_rate": 5e-4}),
}


def with_other_anchors(answers: list[list], candidates: int) -> list[list]:
    """Give each row, behind its own answers, the next rows' best ones until it has `candidates`.

    `answers` holds per row its answers, best first. A batch with too few rows gives all it has.
    """
    rows = len(answers)
    missing = min(candidates - len(answers[0]), rows - 1)
    return [
        [*own, *(answers[(row + step) % rows][0] for step in range(1, missing + 1))] for row, own in enumerate(answers)
    ]


def answer_loss(objective: str, policy: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return (loss, rewards) of answers whose summed log-probabilities are (rows, N), best first, in nats.

    The loss is that of the whole ranking for `listwise`, else of the first place; equal to DPO for N = 2.
    """
    top_k = None if objective == "listwise" else 1
    loss = plackett_luce.listwise_dpo_loss(policy, reference, beta, top_k=top_k)
    return loss, plackett_luce.implicit_reward(policy, reference, beta)


def expected_words(head: torch.nn.Module, states: Tensor, chunk: int = 64) -> Tensor:
    """Return the output embedding that a state's one-word answer has on average: Σ_w q(w) W_w.

    `head` is the language-model head with rows W_w, `states` (N, width) what it reads. Shape (N, width),
    float32. The N × vocabulary probabilities exist for `chunk` states at a time.
    """
    words = []
    for part in states.split(chunk):
        probabilities = _logits(head, part).softmax(dim=-1)
        # In the head's own type: a float32 copy of it would be gigabytes in a model of 8B.
        words.append((probabilities.to(head.weight.dtype) @ head.weight).float())
    return torch.cat(words)


def one_word_scores(head: torch.nn.Module, policy: Tensor, reference: Tensor, words: Tensor, beta: float) -> Tensor:
    """Return β Σ_w q_j(w) (log π(w|x) − log π_ref(w|x)) without a vocabulary-wide product per candidate.

    `policy` and `reference` (rows, width) are an anchor's states with and without the adapter, `words`
    (N, width) the candidates' `expected_words` e_j. Shape (rows, N), in nats. With logits W h the sum is
    e_j · (h − h_ref) less the change of the normaliser, which is the same for all candidates:
    equal to `plackett_luce.one_word_scores`.
    """
    shift = policy - reference
    with torch.no_grad():  # moves all scores of a row alike, and so no loss
        normaliser = _logits(head, policy).logsumexp(dim=-1) - _logits(head, reference).logsumexp(dim=-1)
    return beta * (shift @ words.T - normaliser[:, None])


def _logits(head: torch.nn.Module, states: Tensor) -> Tensor:
    return head(states.to(head.weight.dtype)).float()


def slot_loss(scores: Tensor) -> Tensor:
    """Return minus the mean log-probability that row i's candidate i is the best: scores (rows, N ≥ rows)."""
    return -plackett_luce.best_of_log_prob(scores, torch.arange(len(scores), device=scores.device)).mean()


def cosine_scores(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Return cosine / temperature of each anchor (rows, width) with each candidate (N, width): (rows, N)."""
    normalise = torch.nn.functional.normalize
    return normalise(anchors, dim=-1) @ normalise(candidates, dim=-1).T / temperature


def divergence(head: torch.nn.Module, policy: Tensor, reference: Tensor, chunk: int = 256) -> Tensor:
    """Return the mean KL(π_ref ‖ π) of the next-token distributions at N states (N, width): a number, in nats.

    Its gradient reaches `policy` alone. The logits of `chunk` states exist at a time, and once more for
    the gradient.
    """

    def part(states: Tensor, frozen: Tensor) -> Tensor:
        ours, theirs = (_logits(head, one).log_softmax(dim=-1) for one in (states, frozen))
        return torch.nn.functional.kl_div(ours, theirs, reduction="sum", log_target=True)

    chunks = zip(policy.split(chunk), reference.detach().split(chunk))
    return sum(checkpoint(part, *pair, use_reentrant=False) for pair in chunks) / len(policy)


def check_head(config) -> None:
    """Raise an `InputError` where a model's logits are more than its head's product with the last state."""
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise InputError(
                f"Prefix trees read the head's weights, and this model changes its logits afterwards ({name}). "
                "Choose pairwise with TRL's own batches (--stock-batches), contrastive, or another base model."
            )
