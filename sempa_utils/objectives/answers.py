"""Objectives over what the model says: sentences as answers to a paraphrase request.

A score is the implicit reward β log(π/π_ref) of an answer, summed over its tokens.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sempa_utils.checks import InputError, pick
from sempa_utils.data.templates import REQUEST_TEMPLATES, paraphrase_request
from sempa_utils.models import Ways
from sempa_utils.objectives.objective import LEFT_OUT, Objective, Scores, TokenCounts, Tokens, require_positive, setting
from sempa_utils.objectives.preferences import answer_tokens, preference_dataset
from sempa_utils.theory import plackett_luce


class AnswerTokens(Tokens):
    """A request's tokens, and its answers', best first."""

    prompt: list[int]
    answers: list[list[int]]


@dataclass(frozen=True)
class Answers(Objective):
    """What the objectives over answers share: the first place of the preferred answer, two answers a row."""

    beta: float = setting(0.1, "weight on the reference")
    template: str = setting("keep_same_meaning", "paraphrase template by id, or an extraction template: then no chat, "
                            "the answer follows the prompt that is read")  # fmt: skip
    top_k: ClassVar[int | None] = 1  # places of the ranking that count; None: all

    def check(self, micro_batch: int) -> None:
        require_positive(self, ("beta",))
        pick(self.template, REQUEST_TEMPLATES, what="paraphrase template")

    def answers(self, row) -> tuple[str, ...]:
        """Return a row's sentences as answers, best first."""
        return row[1], row[-1]

    def tokenise(self, tokenizer, row, *, max_length: int):
        request = paraphrase_request(row[0], self.template)
        pairs = [answer_tokens(tokenizer, request, answer=answer) for answer in self.answers(row)]
        prompt = pairs[0][0]
        room = max_length - len(prompt)
        return {"prompt": prompt, "answers": [answer[:room] for _, answer in pairs]} if room > 0 else None

    def example(self, number: int, counts: TokenCounts, *, max_length: int) -> AnswerTokens:
        prompt = [0] * counts.instruction + [1 + number] * counts.anchor
        room = max(1, min(counts.answer, max_length - len(prompt)))
        kinds = self.candidate_count(1)
        answers = [[500 + kinds * number + kind] * room for kind in range(kinds)]
        return {"row": number, "plain": [1 + number] * counts.sentence, "prompt": prompt, "answers": answers}

    def reading(self) -> tuple:
        return "answers", self.ranked, self.template

    def batches(self, rows: list[AnswerTokens], ways: Ways, *, chunk: int) -> list:
        return ways.answers([row["prompt"] for row in rows], self.shared([row["answers"] for row in rows]))

    def shared(self, answers: list[list[list[int]]]) -> list[list[list[int]]]:
        """Return each row's answers in a batch."""
        return answers

    def read(self, model: nn.Module, batch, *, ways: Ways) -> Tensor:
        return ways.log_probs(model, batch)

    def by_row(self, values: Tensor, rows: int) -> Tensor:
        return values.view(rows, -1)

    def loss(self, policy: Tensor, reference: Tensor, *, head, left_out: Tensor | None = None) -> Scores:
        policy = policy.view(reference.shape)
        if left_out is not None:
            policy = policy.masked_fill(left_out, LEFT_OUT / self.beta)
        loss = plackett_luce.listwise_dpo_loss(policy, reference, beta=self.beta, top_k=self.top_k)
        rewards = plackett_luce.implicit_reward(policy, reference, beta=self.beta)
        return Scores(loss, rewards, torch.zeros(len(rewards), dtype=torch.long, device=rewards.device))

    def candidate_count(self, rows: int) -> int:
        return 2

    def chance_loss(self, candidates: int) -> float:
        return math.log(candidates)


@dataclass(frozen=True)
class Pairwise(Answers):
    """Entailed before contradicted sentence: the paper's DPO."""

    name: ClassVar[str] = "pairwise"
    cacheable: ClassVar[bool] = True
    stock: ClassVar[bool] = True

    def stock_dataset(self, rows):
        return preference_dataset(rows, self.template)


@dataclass(frozen=True)
class Listwise(Answers):
    """Entailed before neutral before contradicted sentence, the whole ranking: the paper's open step."""

    name: ClassVar[str] = "listwise"
    ranked: ClassVar[bool] = True
    cacheable: ClassVar[bool] = True
    top_k: ClassVar[int | None] = None

    def answers(self, row) -> tuple[str, ...]:
        """Return all three sentences."""
        return tuple(row[1:4])

    def candidate_count(self, rows: int) -> int:
        return 3

    def chance_loss(self, candidates: int) -> float:
        return math.log(math.factorial(candidates))


@dataclass(frozen=True)
class BestOfN(Answers):
    """As pairwise, with other anchors' entailed sentences among the candidates."""

    name: ClassVar[str] = "best_of_n"
    revision: ClassVar[int] = 2
    candidates: int = setting(5, "sentences of which the entailed one should be the best")

    def check(self, micro_batch: int) -> None:
        super().check(micro_batch)
        if not 2 <= self.candidates <= micro_batch + 1:
            raise InputError(
                f"Recipe: {self.candidates} candidates need more than {micro_batch} rows. Choose candidates from 2 to "
                f"{micro_batch + 1}, or a larger micro_batch."
            )

    def shared(self, answers: list[list[list[int]]]) -> list[list[list[int]]]:
        """Return each row's answers and, behind them, the next rows' best ones; a small batch gives all it has."""
        rows = len(answers)
        return [
            [*mine, *(answers[(row + step) % rows][0] for step in self._steps(rows))]
            for row, mine in enumerate(answers)
        ]

    def left_out(self, rows: list[AnswerTokens]) -> list[list[bool]]:
        def same(row: AnswerTokens, other: AnswerTokens) -> bool:
            return row["prompt"] == other["prompt"] or row["answers"][0] == other["answers"][0]

        count = len(rows)
        of_others = [[same(row, rows[(n + step) % count]) for step in self._steps(count)] for n, row in enumerate(rows)]
        return [[False, False, *others] for others in of_others]

    def _steps(self, rows: int) -> range:
        """Return how many rows on those stand whose best answers are shared."""
        return range(1, min(self.candidates - 2, rows - 1) + 1)

    def candidate_count(self, rows: int) -> int:
        return min(self.candidates, rows + 1)
