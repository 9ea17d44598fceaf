"""A batch through the decoder: sentences packed into a prefix tree, or padded on the left; any layer read."""

import contextlib
import functools
import os.path
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from sempa_utils.checks import InputError
from sempa_utils.models import LanguageModel
from sempa_utils.models.prefix_tree import PrefixTree, build_places


class Batch(NamedTuple):
    """Rows of tokens behind a common prefix, padded on the left to T tokens."""

    prefix: tuple[int, ...]
    input_ids: torch.Tensor  # (rows, T)
    mask: torch.Tensor  # (rows, T): 1 where a token is
    chosen: torch.Tensor  # (rows, T): 1 where a state is averaged
    placeholder: torch.Tensor  # (rows,): where the placeholder stands, or −1
    embedding_spread: float = 0.0  # standard deviation of the model's embeddings, where a placeholder needs it


class Row(NamedTuple):
    """A filled template: its tokens, the places that are averaged, and the placeholder's place or None."""

    tokens: list[int]
    chosen: list[int]
    placeholder: int | None = None


class Reader:
    """Runs batches through a language model's decoder as it is now; the states of common prefixes are kept."""

    def __init__(self, language_model: LanguageModel):
        self.decoder, self.device = language_model.decoder, language_model.device
        self.config = language_model.config
        self.pad = language_model.tokenizer.pad_token_id
        self.ways = language_model.ways
        self.prefixes = {}

    def batch(self, rows: list[Row], shared: int) -> Batch:
        """Return the batch of `rows`, whose first `shared` tokens at most are taken for common ones.

        A prefix never reaches a token that is averaged or filled. There is none where a cache is not exact: for some
        models, and where layers look back through a window, in which padding behind the prefix would count.
        """
        longest = max(len(row.tokens) for row in rows)
        shared = shared if self.ways.cached(longest) else 0
        free = min(min((*row.chosen, len(row.tokens) if row.placeholder is None else row.placeholder)) for row in rows)
        length = len(os.path.commonprefix([row.tokens[: min(shared, free)] for row in rows]))
        width = longest - length
        input_ids = torch.full((len(rows), width), self.pad)
        mask, chosen = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
        placeholder = torch.full((len(rows),), -1)
        for index, row in enumerate(rows):
            # Where the row's first token would stand, its prefix before it.
            start = width - len(row.tokens) if self.ways.padding == "left" else 0
            tokens = torch.tensor(row.tokens[length:])
            own = slice(start + length, start + len(row.tokens))
            input_ids[index, own], mask[index, own] = tokens, 1
            chosen[index, [start + place for place in row.chosen]] = 1
            if row.placeholder is not None:
                placeholder[index] = start + row.placeholder
        prefix, device = tuple(rows[0].tokens[:length]), self.device
        self._keep(prefix)  # before anything is steered
        spread = self.embedding_spread if (placeholder >= 0).any() else 0.0
        mask, chosen, placeholder = mask.to(device), chosen.to(device), placeholder.to(device)
        return Batch(prefix, input_ids.to(device), mask, chosen, placeholder, spread)

    def pack(self, rows: list[Row]) -> PrefixTree:
        """Return `rows` as one tree without padding, in which each beginning that some share stands once."""
        return build_places([row.tokens for row in rows], [row.chosen for row in rows]).to(self.device)

    @functools.cached_property
    def embedding_spread(self) -> float:
        """Standard deviation of the model's embeddings."""
        return float(self.decoder.get_input_embeddings().weight.float().std())

    def run(self, batch: Batch | PrefixTree) -> torch.Tensor:
        """Return the decoder's states after the final norm for the batch's own tokens: (rows, T, width)."""
        inputs: dict[str, Any] = {"use_cache": False}
        if isinstance(batch, PrefixTree):
            packed = batch.inputs(self.config, self.decoder.dtype)
            del packed["logits_to_keep"]  # which is the head's
            return self.decoder(**packed, **inputs).last_hidden_state
        mask = batch.mask
        if self.ways.padding == "left":
            # Positions count from a sentence's own first token, whatever padding stands before it.
            inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0) + len(batch.prefix)
        if batch.prefix:
            rows, cache = len(batch.mask), DynamicCache(config=self.config)
            for layer, (keys, values) in enumerate(self._keep(batch.prefix)):
                cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
            mask = torch.cat([mask.new_ones(rows, len(batch.prefix)), mask], dim=1)
            inputs |= {"past_key_values": cache, "use_cache": True}
        return self.decoder(input_ids=batch.input_ids, attention_mask=mask, **inputs).last_hidden_state

    def vectors(self, batch: Batch | PrefixTree, layers: list[int]) -> torch.Tensor:
        """Return the mean of the chosen tokens' states at each of `layers` (indices of `hidden_states`, from 0).

        Shape (layers, rows, width), float32, on the CPU. Layers above the highest one are not computed.
        """
        pool = _means_of_rows(batch) if isinstance(batch, Batch) else _means_of_owners(batch)
        last, pooled = self.config.num_hidden_layers, {}
        with contextlib.ExitStack() as stack:
            blocks = self.layers if set(layers) != {last} else ()
            for layer in set(layers) - {last}:

                def keep(_, arguments, layer=layer):
                    pooled[layer] = pool(arguments[0])

                stack.callback(blocks[layer].register_forward_pre_hook(keep).remove)
            if last in layers:
                pooled[last] = pool(self.run(batch))
            else:
                input_of(blocks[max(layers)], lambda: self.run(batch))
        return torch.stack([pooled[layer] for layer in layers])

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The decoder's blocks. Raises `InputError` where they do not have their usual name."""
        blocks: torch.nn.ModuleList | None = getattr(self.decoder, "layers", None)
        if blocks is None or len(blocks) != self.config.num_hidden_layers:
            raise InputError(
                f"{type(self.decoder).__name__} does not keep its blocks as `layers`, so inner layers cannot be read "
                "or steered. Choose a method that reads the last layer (mean, echo, prompteol, pretended_cot)."
            )
        return blocks

    def _keep(self, prefix: tuple[int, ...]):
        """Return the keys and values of each layer for a prefix, computed the first time."""
        if prefix and prefix not in self.prefixes:
            cache: Any = DynamicCache(config=self.config)
            self.decoder(input_ids=torch.tensor([prefix], device=self.device), past_key_values=cache, use_cache=True)
            self.prefixes[prefix] = [(layer.keys, layer.values) for layer in cache.layers]
        return self.prefixes.get(prefix, ())


def _means_of_rows(batch: Batch) -> Callable[[torch.Tensor], torch.Tensor]:
    weights = (batch.chosen / batch.chosen.sum(dim=1, keepdim=True))[..., None]
    return lambda states: (states.float() * weights).sum(dim=1).cpu()


def _means_of_owners(tree: PrefixTree) -> Callable[[torch.Tensor], torch.Tensor]:
    counts = tree.owners.bincount(minlength=tree.count)[:, None]

    def pool(states: torch.Tensor) -> torch.Tensor:
        chosen = tree.pick_all(states).float()
        return (chosen.new_zeros(tree.count, chosen.shape[-1]).index_add(0, tree.owners, chosen) / counts).cpu()

    return pool


class _Reached(Exception):
    """Carries a module's input out of a forward that need not go on."""


def input_of(module: torch.nn.Module, run) -> torch.Tensor:
    """Return the first input that `module` gets while `run()` runs, and run no further."""

    def stop(_, arguments):
        raise _Reached(arguments[0])

    handle = module.register_forward_pre_hook(stop)
    try:
        run()
    except _Reached as reached:
        return reached.args[0]
    finally:
        handle.remove()
    raise RuntimeError("The module was never reached.")
