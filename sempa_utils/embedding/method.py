"""What makes a method: the words around a sentence, the tokens and the layer that are read, and perhaps steering."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from sempa_utils.checks import InputError

PLACEHOLDER = "<PST>"  # a token without a meaning of its own, for methods that fill it


class Method(NamedTuple):
    """How a sentence becomes one vector; each file of this folder makes one."""

    template: str  # with {x} for the sentence
    reads: str = "last"  # the tokens whose states are averaged: "last", "all", or "second": those of the second {x}
    layer: int = -1  # an index of transformers' `hidden_states`: −1 is the last layer, after the final norm
    auxiliary: str | None = None  # a second template, whose run steers the first
    # (layers, batch, run) → a context in which the model is steered; `run` computes the auxiliary batch
    steer: Callable[..., AbstractContextManager] | None = None


def at_depth(index: int, layers: int, *, of: int = 32) -> int:
    """Return the inner layer that lies as deep among `layers` as `index` does among `of` layers."""
    return min(round(index * layers / of), layers - 1)


def is_like_llama3(config) -> bool:
    """Tell whether the authors' settings for LLaMA-3-8B are the nearer ones: by its vocabulary of 128,256 words.

    All other models take those for LLaMA-2-7B, at the same relative depth.
    """
    return config.vocab_size == 128_256


def check_layer(layer: int, layers: int, *, what: str, lowest: int = 0) -> int:
    """Return `layer` if it is one of `lowest` … `layers` − 1, or raise an `InputError` that says so."""
    if not lowest <= layer < layers:
        raise InputError(f"{what} must be from {lowest} to {layers - 1} in this model, not {layer}.")
    return layer
