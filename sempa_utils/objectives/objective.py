"""What an objective answers for; trainer and planner know no more of one than this.

An objective says how a row becomes tokens, what the model reads of them, what the frozen base adds, and which loss
comes of it. Its settings are its fields.
"""

import math
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, TypedDict

from datasets import Dataset
from torch import Tensor, nn

from sempa_utils.checks import InputError
from sempa_utils.models import Ways

LEFT_OUT = -1e9  # nats: a score whose probability is 0 in float32, and which is a number still


def setting(default: Any, about: str, *, kind: type | None = None) -> Any:
    """Return a dataclass field that the command line offers as an option; `about` is its help, `kind` its type."""
    return field(default=default, metadata={"about": about, "kind": kind or type(default)})


def require_positive(value: Any, names: tuple[str, ...]) -> None:
    """Raise an `InputError` unless the named fields of a recipe or an objective are finite and above 0."""
    for name in names:
        if not 0 < getattr(value, name) < math.inf:
            raise InputError(
                f"Recipe: {name} must be greater than 0 and finite, not {getattr(value, name)}. Give another value."
            )


class Tokens(TypedDict):
    """A tokenised row: its number in the corpus, its first sentence by itself, and what a kind of objective adds."""

    row: int
    plain: list[int]


class TokenCounts(NamedTuple):
    """Mean tokens in a micro-batch of triplets; defaults: 512 of the real triplets, packaged tokenizer."""

    instruction: int = 22  # what all paraphrase requests share
    anchor: int = 30  # the rest of a request: its sentence and the template's end
    answer: int = 12  # with the end token
    sentence: int = 19  # an anchor by itself
    frame: int = 3  # what all one-word prompts begin with
    closing: int = 6  # what they end with


class Scores(NamedTuple):
    """What an objective makes of a batch."""

    loss: Tensor  # a number, in nats
    scores: Tensor  # (rows, N): of each row's candidates; `LEFT_OUT` for one that is no negative
    preferred: Tensor  # (rows,): the place of the one that should win


@dataclass(frozen=True)
class Objective:
    """The base of all objectives: a Plackett–Luce likelihood over an anchor's candidates."""

    name: ClassVar[str]
    revision: ClassVar[int] = 1  # raised with every change that moves its loss, or what its reference is
    learning_rate: ClassVar[float] = 1e-4  # the recipe's, where none is given
    ranked: ClassVar[bool] = False  # needs premises with all three labels
    reference: ClassVar[bool] = True  # scores against the frozen base
    cacheable: ClassVar[bool] = False  # the reference depends on a row alone
    in_batch: ClassVar[bool] = False  # the rows of a batch are each other's candidates
    stock: ClassVar[bool] = False  # TRL's own batches compute the same

    def check(self, micro_batch: int) -> None:
        """Raise an `InputError` where the settings do not fit each other or the micro-batch."""

    def tokenise(self, tokenizer, row, *, max_length: int) -> dict[str, Any] | None:
        """Return a row's tokens under the names of this kind's `Tokens`, or None where they do not fit."""
        raise NotImplementedError

    def example(self, number: int, counts: TokenCounts, *, max_length: int) -> Tokens:
        """Return made-up tokens of a row; what two rows share is what two real ones do. For the memory plan."""
        raise NotImplementedError

    def reading(self) -> tuple:
        """Return what the reference depends on beside base and rows: a cached one is shared by all that agree in it."""
        raise NotImplementedError

    def batches(self, rows: list, ways: Ways, *, chunk: int) -> list:
        """Return what the model reads of a batch with the adapter on, some `chunk` sentences at a time."""
        raise NotImplementedError

    def reference_batches(self, rows: list, ways: Ways, *, chunk: int) -> list:
        """Return what the frozen base reads of a batch; empty where it is the same."""
        return []

    def read(self, model: nn.Module, batch, *, ways: Ways) -> Tensor:
        """Return what is read of a batch: a value or a state for each of its sequences."""
        raise NotImplementedError

    def by_row(self, values: Tensor, rows: int) -> Tensor:
        """Return what the base read of a batch, row by row: (rows, …)."""
        raise NotImplementedError

    def left_out(self, rows: list) -> list[list[bool]]:
        """Return for each row which of its candidates are no negatives; empty where no row has another's.

        A sentence that another row prefers for the same anchor, or that says word for word what is preferred or asked.
        """
        return []

    def loss(self, policy: Tensor, reference: Tensor, *, head, left_out: Tensor | None = None) -> Scores:
        """Return loss and scores of what was read of a batch, and of the base's `by_row`; `head` as of `Ways.head`."""
        raise NotImplementedError

    def candidate_count(self, rows: int) -> int:
        """Return how many candidates an anchor has in a batch of `rows`."""
        raise NotImplementedError

    def chance_loss(self, candidates: int) -> float | None:
        """Return the loss, in nats, of a model without a preference; None where it starts elsewhere."""
        raise NotImplementedError

    def stock_dataset(self, rows) -> Dataset:
        """Return the rows as TRL's own preference data, where the objective is `stock`."""
        raise NotImplementedError


def tokenised(objective: Objective, tokenizer, *, rows, max_length: int) -> Dataset:
    """Return the rows that fit, tokenised: columns row, plain, and the objective's own.

    Raises `InputError` if no row fits into `max_length` tokens.
    """
    fitting = []
    for number, row in enumerate(rows):
        tokens = objective.tokenise(tokenizer, row, max_length=max_length)
        if tokens is not None:
            fitting.append({"row": number, "plain": tokenizer(row[0])["input_ids"], **tokens})
    if not fitting:
        raise InputError(f"No row fits into max_length = {max_length} tokens. Choose a larger one.")
    return Dataset.from_list(fitting)


def settings_of(kind: type) -> dict[str, Field]:
    """Return the settings of an objective or a recipe by name: what the command line offers."""
    return {one.name: one for one in fields(kind) if one.metadata}
