"""Objectives over where the model stands: the state of the slot in "… means in one word:", the embedding itself.

An anchor's candidates are the preferred and the rejected sentences of its batch.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sempa_utils.checks import pick
from sempa_utils.data.templates import EXTRACTION_TEMPLATES, fill, prepare_sentence
from sempa_utils.models import Ways, head_logits
from sempa_utils.objectives.objective import LEFT_OUT, Objective, Scores, TokenCounts, Tokens, require_positive, setting
from sempa_utils.theory import plackett_luce

COLUMNS = ("anchor", "preferred", "rejected")


class SlotTokens(Tokens):
    """A row's three sentences, each asked for in one word."""

    anchor: list[int]
    preferred: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class Slots(Objective):
    """What the objectives over states share."""

    learning_rate: ClassVar[float] = 5e-4
    in_batch: ClassVar[bool] = True
    revision: ClassVar[int] = 2
    extraction_template: str = setting("prompteol", "template whose slot is read")

    def check(self, micro_batch: int) -> None:
        pick(self.extraction_template, EXTRACTION_TEMPLATES, what="extraction template")

    def tokenise(self, tokenizer, row, *, max_length: int):
        words = EXTRACTION_TEMPLATES[self.extraction_template]
        texts = [fill(words, prepare_sentence(sentence)) for sentence in (row[0], row[1], row[-1])]
        tokens = dict(zip(COLUMNS, tokenizer(texts)["input_ids"]))
        return tokens if max(map(len, tokens.values())) <= max_length else None

    def example(self, number: int, counts: TokenCounts, *, max_length: int) -> SlotTokens:
        """Return made-up tokens: sentences share what the template begins with."""

        def filled(token: int, words: int) -> list[int]:
            return ([0] * counts.frame + [token] * (words + counts.closing))[:max_length]

        anchor, preferred, rejected = (1 + 3 * number + place for place in range(3))
        words = max(1, counts.answer - 2)  # without what ends an answer in a chat
        return {
            "row": number,
            "plain": [anchor] * counts.sentence,
            "anchor": filled(anchor, counts.sentence),
            "preferred": filled(preferred, words),
            "rejected": filled(rejected, words),
        }

    def reading(self) -> tuple:
        return "slots", self.extraction_template

    @property
    def moved(self) -> tuple[str, ...]:
        """The columns that are read with the adapter on."""
        raise NotImplementedError

    def batches(self, rows: list[Any], ways: Ways, *, chunk: int) -> list:
        return _batches([row[column] for column in self.moved for row in rows], ways, chunk)

    def reference_batches(self, rows: list[Any], ways: Ways, *, chunk: int) -> list:
        return _batches([row[column] for column in COLUMNS for row in rows], ways, chunk)

    def read(self, model: nn.Module, batch, *, ways: Ways) -> Tensor:
        return ways.states(model, batch)

    def by_row(self, values: Tensor, rows: int) -> Tensor:
        return values.view(3, rows, -1).transpose(0, 1)

    def left_out(self, rows: list[Any]) -> list[list[bool]]:
        def repeats(row, sentence) -> bool:
            return sentence in (row["anchor"], row["preferred"])

        def agrees(row, other) -> bool:
            return row is not other and (row["anchor"] == other["anchor"] or repeats(row, other["preferred"]))

        return [[*(agrees(row, x) for x in rows), *(repeats(row, x["rejected"]) for x in rows)] for row in rows]

    def candidate_count(self, rows: int) -> int:
        return 2 * rows

    def chance_loss(self, candidates: int) -> float | None:
        return math.log(candidates)


@dataclass(frozen=True)
class OneWord(Slots):
    """A preference over the next word: β E[log π/π_ref] over the words that the base would say for a candidate."""

    name: ClassVar[str] = "one_word"
    cacheable: ClassVar[bool] = True
    beta: float = setting(2.0, "weight on the reference")
    symmetric: bool = setting(False, "in both directions: each of anchor and preferred is the other's anchor")

    def check(self, micro_batch: int) -> None:
        super().check(micro_batch)
        require_positive(self, ("beta",))

    @property
    def moved(self) -> tuple[str, ...]:
        """The anchors, and of both directions the preferred sentences."""
        return COLUMNS[:2] if self.symmetric else COLUMNS[:1]

    def loss(self, policy: Tensor, reference: Tensor, *, head, left_out: Tensor | None = None) -> Scores:
        anchor, preferred, rejected = reference.unbind(dim=1)  # each (rows, width)
        states, *others = policy.split(len(anchor))
        outcome = in_batch_loss(self._scores(head, states, anchor, torch.cat([preferred, rejected])), left_out)
        for state in others:
            back = self._scores(head, state, preferred, anchor)
            agree = None if left_out is None else left_out[:, : len(anchor)].T
            outcome = outcome._replace(loss=(outcome.loss + in_batch_loss(back, agree).loss) / 2)
        return outcome

    def _scores(self, head, policy: Tensor, reference: Tensor, candidates: Tensor) -> Tensor:
        if isinstance(head, nn.Module):
            return one_word_scores(
                head, policy, reference=reference, words=expected_words(head, candidates), beta=self.beta
            )
        with torch.no_grad():
            words, base = head(candidates).softmax(dim=-1), head(reference).log_softmax(dim=-1)
        return plackett_luce.one_word_scores(
            words, head(policy).log_softmax(dim=-1), reference_log_probs=base, beta=self.beta
        )


@dataclass(frozen=True)
class Contrastive(Slots):
    """Cosine of the embeddings over a temperature, without a reference: the paper's baseline."""

    name: ClassVar[str] = "contrastive"
    reference: ClassVar[bool] = False
    temperature: float = setting(0.05, "divides the cosines")

    def check(self, micro_batch: int) -> None:
        super().check(micro_batch)
        require_positive(self, ("temperature",))

    @property
    def moved(self) -> tuple[str, ...]:
        """All three columns."""
        return COLUMNS

    def loss(self, policy: Tensor, reference: Tensor, *, head, left_out: Tensor | None = None) -> Scores:
        rows = len(policy) // 3
        scores = cosine_scores(policy[:rows], policy[rows:], temperature=self.temperature)
        return in_batch_loss(scores, left_out)

    def chance_loss(self, candidates: int) -> None:
        """Return None: cosines differ before any training."""


def _batches(sentences: list[list[int]], ways: Ways, chunk: int) -> list:
    parts = (sentences[start : start + chunk] for start in range(0, len(sentences), chunk))
    return [batch for part in parts for batch in ways.slots(part)]


def in_batch_loss(scores: Tensor, left_out: Tensor | None = None) -> Scores:
    """Return minus the mean log-probability that row i's candidate i is the best: scores, left_out (rows, N ≥ rows)."""
    if left_out is not None:
        scores = scores.masked_fill(left_out, LEFT_OUT)
    preferred = torch.arange(len(scores), device=scores.device)
    return Scores(-plackett_luce.best_of_log_prob(scores, preferred).mean(), scores, preferred)


def cosine_scores(anchors: Tensor, candidates: Tensor, *, temperature: float) -> Tensor:
    """Return cosine / temperature of each anchor (rows, width) with each candidate (N, width): (rows, N)."""
    normalise = nn.functional.normalize
    return normalise(anchors, dim=-1) @ normalise(candidates, dim=-1).T / temperature


def expected_words(head: Any, states: Tensor, *, chunk: int = 64) -> Tensor:
    """Return the output embedding that a state's one-word answer has on average: Σ_w q(w) W_w.

    `head` is the language-model head with rows W_w, `states` (N, width) what it reads. Shape (N, width),
    float32. The N × vocabulary probabilities exist for `chunk` states at a time.
    """
    words = []
    for part in states.split(chunk):
        probabilities = head_logits(head, part).softmax(dim=-1)
        # In the head's own type: a float32 copy of it would be gigabytes in a model of 8B.
        words.append((probabilities.to(head.weight.dtype) @ head.weight).float())
    return torch.cat(words)


def one_word_scores(head: nn.Module, policy: Tensor, *, reference: Tensor, words: Tensor, beta: float) -> Tensor:
    """Return β Σ_w q_j(w) (log π(w|x) − log π_ref(w|x)) without a vocabulary-wide product per candidate.

    `policy` and `reference` (rows, width) are an anchor's states with and without the adapter, `words`
    (N, width) the candidates' `expected_words` e_j. Shape (rows, N), in nats. With logits W h the sum is
    e_j · (h − h_ref) less the change of the normaliser, which is the same for all candidates:
    equal to `plackett_luce.one_word_scores`.
    """
    shift = policy - reference
    with torch.no_grad():  # moves all scores of a row alike, and so no loss
        normaliser = head_logits(head, policy).logsumexp(dim=-1) - head_logits(head, reference).logsumexp(dim=-1)
    return beta * (shift @ words.T - normaliser[:, None])
