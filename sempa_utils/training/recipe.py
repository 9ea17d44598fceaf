"""The recipe: objective, optimiser, batching and LoRA of a training run, as one value."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from transformers.pytorch_utils import Conv1D

from sempa_utils.checks import InputError, check_seed, pick
from sempa_utils.models.identity import decoder_of
from sempa_utils.objectives import OBJECTIVES, Objective
from sempa_utils.objectives.answers import Pairwise
from sempa_utils.objectives.objective import require_positive, setting, settings_of
from sempa_utils.profiles import Profile

MOMENTS = {"adamw_torch": 8, "paged_adamw_8bit": 2}  # bytes per trained weight, both moments together
MAMBA = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
IN_BATCH = 16  # rows that are each other's candidates, at least
RECIPES = ("fitted", "paper")


class Fit(NamedTuple):
    """A learning rate and a KL weight, and the largest model and number of rows that they are for."""

    parameters: int
    rows: int
    learning_rate: float
    kl_weight: float


# Found on dev splits with the packaged model: in few steps a small model learns at a higher rate alone, and the KL term
# keeps its words; after some two thousand rows at that rate `pairwise` loses what it gained. What is larger than any
# line here takes the paper's values.
FITS = (
    Fit(500_000_000, 400, 2e-3, 10.0),
    Fit(500_000_000, 2_500, 5e-4, 10.0),
)
# Settings that came when runs had names already: at these values they are no part of one.
LATER = {"train_router": False}
OF_PROFILE = ("micro_batch", "accumulation", "max_length", "save_every", "gradient_checkpointing")


@dataclass(frozen=True)
class Recipe:
    """The paper's recipe (appendix A) and this kit's other objectives; sizes come from a profile."""

    objective: Objective = field(default_factory=Pairwise)
    kl_weight: float = setting(0.0, "of KL(base || model) of the next words in some anchors as plain text, which keeps "
                               "the model speaking")  # fmt: skip
    kl_texts: int = setting(4, "anchors of a micro-batch that are read as that plain text")
    learning_rate: float = setting(None, "peak; the default is the objective's", kind=float)
    warmup_share: float = setting(0.05, "share of the steps in which the rate rises")
    lora_rank: int = setting(8, "rank of the adapter")
    lora_alpha: int = setting(32, "strength of the adapter: its part is multiplied by alpha / rank")
    epochs: int = setting(1, "passes over the rows")
    micro_batch: int = setting(8, "rows whose loss is computed together; candidates are shared among them")
    accumulation: int = setting(1, "micro-batches per step, over all processes")
    chunk: int = setting(32, "sentences per forward where states are read")
    gradient_caching: bool = setting(True, "of several chunks keep states alone: less memory, a second forward")
    max_length: int = setting(256, "tokens of one training sequence")
    save_every: int = setting(20_000, "rows between checkpoints")
    optimizer: str = setting("adamw_torch", "adamw_torch or paged_adamw_8bit")
    weight_decay: float = setting(0.0, "of AdamW")
    max_gradient_norm: float = setting(1.0, "longer gradients are cut to this length")
    gradient_checkpointing: bool = setting(False, "less memory, a second forward")
    cache_reference: bool = setting(None, "compute what the base says once; the default: for several epochs", kind=bool)
    train_router: bool = setting(False, "also what chooses the experts of a mixture: it learned to balance them, and a "
                                 "few thousand rows unlearn that")  # fmt: skip
    shared_prefix: bool = True  # False: TRL's own batches, the same result more slowly
    seed: int = 42

    def __post_init__(self):
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", self.objective.learning_rate)
        pick(self.optimizer, MOMENTS, what="optimiser")
        sizes = "micro_batch", "accumulation", "chunk", "kl_texts", "save_every", "max_length", "max_gradient_norm"
        require_positive(self, ("learning_rate", "lora_rank", "lora_alpha", "epochs", *sizes))
        # A warm-up of 1 or more would be taken for a number of steps.
        for name, limit in (("warmup_share", 1), ("kl_weight", math.inf), ("weight_decay", math.inf)):
            if not 0 <= getattr(self, name) < limit:
                raise InputError(
                    f"Recipe: {name} must be 0 or greater and below {limit}, not {getattr(self, name)}. Leave it out."
                )
        check_seed(self.seed)
        self.objective.check(self.micro_batch)
        if self.kl_weight and not self.shared_prefix:
            raise InputError(f"Recipe: kl_weight {self.kl_weight} needs prefix trees. Leave it out.")
        if not self.shared_prefix and not self.objective.stock:
            known = " and ".join(name for name, kind in OBJECTIVES.items() if kind.stock)
            raise InputError(f"Recipe: TRL's own batches know {known} alone, not {self.objective.name}.")
        cacheable = self.shared_prefix and self.objective.cacheable
        if self.cache_reference and not cacheable:
            raise InputError(
                f"Recipe: cache_reference needs prefix trees and a reference that depends on a row alone, and that of "
                f"{self.objective.name} does not. Leave it out."
            )
        if self.cache_reference is None:
            object.__setattr__(self, "cache_reference", cacheable and self.epochs > 1)

    @classmethod
    def make(cls, objective: str | Objective = "pairwise", **changes) -> "Recipe":
        """Return the recipe of an objective, by name or as it is; `changes` hold its settings and the recipe's own.

        Raises `InputError` for an unknown objective, and for a setting that it does not have.
        """
        kind = pick(objective, OBJECTIVES, what="objective") if isinstance(objective, str) else type(objective)
        own = settings_of(kind).keys()
        for name in changes.keys() - own - {one.name for one in fields(cls)}:
            others = [other for other, known in OBJECTIVES.items() if name in settings_of(known)]
            of = f"a setting of {' and '.join(others)}, not of {kind.name}" if others else "no setting"
            raise InputError(f"Recipe: {name} is {of}. Leave it out.")
        settings = {name: changes.pop(name) for name in own & changes.keys()}
        given = {} if isinstance(objective, str) else asdict(objective)
        return cls(objective=kind(**given | settings), **changes)

    @classmethod
    def of_profile(cls, profile: Profile, objective: str | Objective = "pairwise", **changes) -> "Recipe":
        """Return an objective's recipe with a profile's sizes, and `changes` on top; else as `make`.

        Where the rows of a batch are each other's candidates, a micro-batch has at least `IN_BATCH` rows.
        """
        sizes = {name: getattr(profile, name) for name in OF_PROFILE}
        kind = pick(objective, OBJECTIVES, what="objective") if isinstance(objective, str) else type(objective)
        if kind.in_batch:
            rows = max(profile.micro_batch, IN_BATCH)
            batch = profile.micro_batch * profile.accumulation
            sizes |= {"micro_batch": rows, "accumulation": max(1, batch // rows)}
        return cls.make(objective, **sizes | changes)

    @classmethod
    def fitted(
        cls, profile: Profile, objective: str | Objective = "pairwise", *, parameters: int, rows: int, **changes
    ) -> "Recipe":
        """Return `of_profile` with the rate and KL weight of `FITS` for a model and its rows; `changes` go before."""
        fit = next((fit for fit in FITS if parameters <= fit.parameters and rows <= fit.rows), None)
        if fit and changes.get("shared_prefix", True):  # TRL's own batches have no KL term to hold a higher rate
            changes = {"learning_rate": fit.learning_rate, "kl_weight": fit.kl_weight} | changes
        return cls.of_profile(profile, objective, **changes)

    def changed(self, **changes) -> "Recipe":
        """Return the recipe with `changes`, as `make` takes them; an objective named anew has its own defaults."""
        kept = {one.name: getattr(self, one.name) for one in fields(self)}
        return Recipe.make(changes.pop("objective", kept.pop("objective")), **kept | changes)

    @property
    def batch(self) -> int:
        """Rows per optimiser step, over all processes."""
        return self.micro_batch * self.accumulation

    def settings(self) -> dict[str, Any]:
        """Return all of it by name, as a record keeps it: the objective's name, its settings, the recipe's own."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"objective": own.pop("objective").name, **asdict(self.objective), **own}

    def identity(self) -> dict[str, Any]:
        """Return the settings that name a run."""
        return {name: value for name, value in self.settings().items() if (name, value) not in LATER.items()}


def lora_config(recipe: Recipe, model: Any = None) -> LoraConfig:
    """Return LoRA on all linear layers of the decoder of `model`, as in the paper's appendix A: none of its head.

    Layers that give what LoRA cannot add to (a router's choice, groups) stay out, and those whose weights a fused
    kernel reads past PEFT, as PEFT 0.21 wants it. Of no model: of the usual one.
    """
    left_out = _no_place_for_lora(model) if model is not None else []
    return LoraConfig(
        exclude_modules=left_out or None,
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _no_place_for_lora(model: Any) -> list[str]:
    fused = ["out_proj", "conv1d"] if model.config.model_type in MAMBA else []
    inside, head = set(decoder_of(model).modules()), model.get_output_embeddings()
    linear = {name: part for name, part in model.named_modules() if isinstance(part, (torch.nn.Linear, Conv1D))}
    return fused + [
        name for name, part in linear.items() if part is not head and not (part in inside and _can_be_added_to(part))
    ]


@torch.no_grad()
def _can_be_added_to(linear: Any) -> bool:
    """Whether a linear layer gives what one should; of a type's own kinds some give a choice, or groups."""
    if not type(linear).__module__.startswith("transformers.models."):
        return True
    try:
        given = linear(linear.weight.new_zeros(1, linear.in_features))
    except Exception:  # it wants something else
        return False
    return isinstance(given, torch.Tensor) and given.shape == (1, linear.out_features)


def train_in_float32(model: torch.nn.Module) -> None:
    """Hold what is trained in float32.

    TRL casts the adapter on a 4-bit base to bfloat16. Float32 keeps small updates, and works on cards without
    bfloat16; the products still run in the compute type.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
