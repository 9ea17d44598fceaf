"""A loaded model with its tokenizer: what all that computes is handed."""

from dataclasses import dataclass
from typing import Any

import torch

from sempa_utils.models import certificate, experts, identity
from sempa_utils.models.begin_token import BeginToken, begin_token_of
from sempa_utils.models.tokenizer import APPENDED


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer and what a record needs to know about both."""

    name: str  # a hub id or a directory's name
    precision: str
    model: Any  # of transformers, or PEFT's around it
    tokenizer: Any
    fingerprint: str  # of the base weights' first rows, the same in every precision
    digest: str  # of all the base holds, in this precision

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def decoder(self) -> Any:
        """The transformer without its language-model head, adapters included."""
        return identity.decoder_of(self.model)

    @property
    def config(self) -> Any:
        """The language model's configuration, also where it is a part of a model that sees or hears."""
        return identity.text_config(self.model)

    @property
    def adapter(self) -> str | None:
        """Fingerprint of the adapter that takes part just now, "unsaved" of one without a folder; None without one."""
        base = identity.base_model(self.model)
        return getattr(base, "adapter_fingerprint", identity.UNSAVED) if identity.adapter_is_on(self.model) else None

    @property
    def parameters(self) -> int:
        """How many weights the base has."""
        return sum(shape.numel() for shape in identity.weight_shapes(self.model).values())

    @property
    def ways(self) -> certificate.Ways:
        """How this model is computed exactly, measured the first time. Raises `InputError` for no causal model."""
        return certificate.ways_of(self.model, self.tokenizer)

    @property
    def begin_token(self) -> BeginToken | None:
        """What a begin token does for this model, measured the first time; None where the tokenizer has none."""
        return begin_token_of(self.model, self.tokenizer)

    def lines(self) -> list[str]:
        """Return a line for each thing that is done another way than usual, or should be."""
        warned = [begin.line()] if (begin := self.begin_token) and begin.warns else []
        return self._other_ways() + warned

    def _other_ways(self) -> list[str]:
        token = getattr(self.tokenizer, APPENDED, None)
        left_out = [f"the {token} that the tokenizer puts behind every text is left out"] if token else []
        unpacked = experts.left_by_nf4(self.model) if self.precision == "nf4" else None
        return self.ways.lines() + left_out + ([unpacked] if unpacked else [])

    def describe(self) -> dict[str, Any]:
        """Return what a record keeps of the model."""
        unusual = {"ways": lines} if (lines := self._other_ways()) else {}
        unusual |= {"begin_token": begin.line()} if (begin := self.begin_token) and begin.warns else {}
        return unusual | {
            "name": self.name,
            "precision": self.precision,
            "fingerprint": self.fingerprint,
            "adapter": self.adapter,
            "parameters": self.parameters,
        }

    def identity(self) -> dict[str, Any]:
        """Return all that a figure made with this model depends on, as it is just now: a part of `figure_key`."""
        adapter = identity.adapter_digest(self.model)
        # Some kinds of adapter change the base and add the rest: switched off, they leave another base.
        switched_off = adapter is None and identity.adapter_layers(self.model)
        return {
            "weights": [self.fingerprint, identity.base_digest(self.model) if switched_off else self.digest],
            "precision": self.precision,
            "device": self.device.type,
            "settings": identity.settings_fingerprint(identity.base_model(self.model)),
            "tokenizer": identity.tokenizer_fingerprint(self.tokenizer),
            "adapter": adapter,
        }
