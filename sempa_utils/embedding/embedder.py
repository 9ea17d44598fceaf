"""`Embedder`: `encode` and `similarity` in the manner of sentence-transformers, for any method."""

import copy
import inspect
import os.path
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sempa_utils import models
from sempa_utils.checks import InputError, pick
from sempa_utils.data.templates import prepare_sentence
from sempa_utils.embedding import contrastive_prompting, echo, last_token, mean_pooling, token_prepending
from sempa_utils.embedding.method import PLACEHOLDER
from sempa_utils.embedding.reading import Reader, Row
from sempa_utils.models.certificate import compute_dtype_of

METHODS = {
    "mean": mean_pooling.mean,
    "echo": echo.echo,
    "prompteol": last_token.prompteol,
    "pretended_cot": last_token.pretended_cot,
    "knowledge_enhancement": last_token.knowledge_enhancement,
    "contrastive_prompting": contrastive_prompting.contrastive_prompting,
    "token_prepending": token_prepending.token_prepending,
}
REVISION = 1  # of what a vector is made of; raised with every change that moves one
PLACEHOLDER_TOKEN = "\ue000PST\ue000"  # between private-use characters, so that no sentence holds it
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}  # tokens of a batch, padding included
PACK_TOKENS = 512  # of sentences that are packed without padding, on a CPU; a GPU is idle with so few


class Embedder:
    """Turn sentences into vectors with a language model.

    `model` is a `LanguageModel`, or a name that `models.load` takes, loaded in `precision`; `method` a key of
    `METHODS`, `settings` what that method's function takes beside the configuration; `layer` an index of
    transformers' `hidden_states`, by default the method's own; `adapter` the folder of an adapter, which a model that
    is loaded here keeps for good (onto a shared one `models.adapted` puts it). A text longer
    than `max_length` tokens is cut inside the template, so that the template's end stays; `truncated` counts the
    sentences this happened to.
    """

    def __init__(
        self,
        model="packaged",
        method: str = "prompteol",
        *,
        adapter=None,
        max_length: int = 512,
        precision: str = "float32",
        layer: int | None = None,
        **settings,
    ):
        make = pick(method, METHODS, what="method")
        for name in settings:
            pick(name, list(inspect.signature(make).parameters)[1:], what=f"setting of {method}")
        if adapter is not None and not isinstance(model, str):
            raise InputError(
                f"{adapter}: this model is shared, and an adapter on it would not stay with one embedder. Give the "
                "model's name with it, or put it on: with models.adapted(base, adapter) as model: Embedder(model)."
            )
        self.language_model = models.load(model, precision, adapter=adapter) if isinstance(model, str) else model
        config = self.language_model.config
        self.method, self.method_name, self.settings = make(config, **settings), method, settings
        self.layer = _from_zero(self.method.layer if layer is None else layer, config.num_hidden_layers)
        self.max_length = min(max_length, getattr(config, "max_position_embeddings", max_length))
        self.truncated = 0
        self.tokenizer = self.language_model.tokenizer
        if PLACEHOLDER in self.method.template:
            self.tokenizer = copy.deepcopy(self.tokenizer)  # the model's own stays as it is
            self.tokenizer.add_tokens(PLACEHOLDER_TOKEN, special_tokens=True)
        given = (self.method.template, self.method.auxiliary)
        self.templates = [template.replace(PLACEHOLDER, PLACEHOLDER_TOKEN) for template in given if template]
        frame = max(len(row.tokens) for template in self.templates for row in self._fill(template, ["."]))
        if frame > self.max_length:
            raise InputError(f"max_length {self.max_length} leaves no room: the template alone has {frame - 1} tokens.")

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self.language_model.config.hidden_size

    def describe(self) -> dict:
        """Return what a record keeps of it: model, adapter, method and its settings, layer."""
        how = {"method": self.method_name, "layer": self.layer, "max_length": self.max_length}
        return self.language_model.describe() | {"device": self.language_model.device.type} | how | self.settings

    def identity(self) -> dict[str, Any]:
        """Return all that a vector depends on beside its sentence: a part of `models.figure_key`."""
        method = {"name": self.method_name, "settings": self.settings, "templates": self.templates}
        reads = {"tokens": self.method.reads, "layer": self.layer, "max_length": self.max_length}
        return {"revision": REVISION, "model": self.language_model.identity(), "method": method, "reads": reads}

    def at_layer(self, layer: int) -> "Embedder":
        """Return the same embedder reading another layer, an index of transformers' `hidden_states`."""
        other = copy.copy(self)
        other.layer = _from_zero(layer, self.language_model.config.num_hidden_layers)
        return other

    def encode(
        self,
        sentences: str | list[str],
        batch_size: int | None = None,
        *,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
        convert_to_tensor: bool = False,
    ) -> np.ndarray | torch.Tensor:
        """Return one float32 vector per sentence: (n, width), or (width,) for a single string.

        Equal sentences are encoded once; in float32 on a CPU equal beginnings too, where a prefix tree is exact.
        Else batches hold sentences of like length. By default a batch is as large as `PACK_TOKENS` or `BATCH_TOKENS`
        allow, with `batch_size` it has no more sentences than that. A sentence's vector depends neither on its batch
        nor on padding. A blank sentence has the vector of a lone full stop. Raises `InputError` for anything
        but strings, and for vectors that are no numbers.
        """
        single = isinstance(sentences, str)
        vectors = self.encode_layers(
            [sentences] if single else sentences,
            [self.layer],
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )
        vectors = vectors[0, 0] if single else vectors[0]
        if normalize_embeddings:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors if convert_to_tensor else vectors.numpy()

    @torch.no_grad()
    def encode_layers(
        self,
        sentences: list[str],
        layers: list[int] | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> torch.Tensor:
        """Return each sentence's vector at each of `layers`, by default all, in one pass: (layers, n, width), float32.

        Index 0 is the embedding table, the highest the last layer after the final norm. Else as `encode`.
        """
        count = self.language_model.config.num_hidden_layers
        layers = list(range(count + 1)) if layers is None else [_from_zero(layer, count) for layer in layers]
        if batch_size is not None and batch_size < 1:
            raise InputError(f"A batch of {batch_size} sentences is none. Give a number of 1 or more, or leave it out.")
        listed = list(sentences)
        for index, sentence in enumerate(listed):
            if not isinstance(sentence, str):
                raise InputError(f"sentences[{index}] is {type(sentence).__name__}, not a string. Convert it first.")
        prepared = [prepare_sentence(sentence) for sentence in listed]
        distinct = list(dict.fromkeys(prepared))
        rows = dict(zip(distinct, self._rows(distinct)))
        packed = bool(rows) and self._is_packed(rows.values())
        batches = (self._packs if packed else self._batches)(rows, at_most=batch_size or sys.maxsize)
        places = {text: place for place, text in enumerate(text for batch in batches for text in batch)}
        vectors = torch.empty(len(layers), len(distinct), self.dimension)
        reader, shared = Reader(self.language_model), self._shared()
        done = 0
        with tqdm(
            total=len(distinct), desc=self.method_name, unit="sentence", leave=False, disable=not show_progress_bar
        ) as bar:
            for texts in batches:
                batch = [rows[text] for text in texts]
                how = {"layers": layers, "packed": packed}
                vectors[:, done : done + len(batch)] = self._encode_batch(reader, batch, shared, **how)
                done += len(batch)
                bar.update(len(batch))
        broken = ~vectors.isfinite().all(dim=2).all(dim=0)
        if broken.any():
            first = next(index for index, text in enumerate(prepared) if broken[places[text]])
            raise InputError(
                f"sentences[{first}], and {int(broken.sum()) - 1} more: the vector is no number. Half precision "
                "overflowed: take --precision float32 or bfloat16."
            )
        return vectors[:, [places[text] for text in prepared]]

    def similarity(self, first, second) -> torch.Tensor:
        """Return the cosine of each vector of `first` (n, width) with each of `second` (m, width): (n, m)."""
        return similarity(first, second)

    def _encode_batch(
        self, reader: Reader, rows: list[list[Row]], shared: list[int], *, layers: list[int], packed: bool
    ) -> torch.Tensor:
        if packed:
            return reader.vectors(reader.pack([row for (row,) in rows]), layers)
        main, *auxiliary = (reader.batch(list(part), count) for part, count in zip(zip(*rows), shared))
        if not self.method.steer:
            return reader.vectors(main, layers)
        with self.method.steer(reader.layers, main, lambda: reader.run(auxiliary[0])):
            return reader.vectors(main, layers)

    def _is_packed(self, rows: Iterable[list[Row]]) -> bool:
        """Return whether filled templates go through the model as one prefix tree."""
        longest = max(len(row[0].tokens) for row in rows)
        base, exact = self.language_model, self.language_model.ways.packed(longest)
        # In half precision each way rounds in its own manner: recorded figures stay as they were.
        in_float32 = compute_dtype_of(base.model) == torch.float32
        return exact and in_float32 and base.device.type == "cpu" and not self.method.steer

    def _batches(self, rows: dict[str, list[Row]], *, at_most: int) -> list[list[str]]:
        """Return the texts, batch by batch; those of like length stand together."""
        longest_first = sorted(rows, key=lambda text: len(rows[text][0].tokens), reverse=True)
        batches, done, shared = [], 0, self._shared()[0]
        while done < len(rows):
            size = self._batch_size(len(rows[longest_first[done]][0].tokens), shared, at_most=at_most)
            batches.append(longest_first[done : done + size])
            done += size
        return batches

    def _packs(self, rows: dict[str, list[Row]], *, at_most: int) -> list[list[str]]:
        """Return the texts, tree by tree; those that begin alike stand together."""
        packs, size, before = [[]], 0, []
        for text in sorted(rows, key=lambda text: rows[text][0].tokens):
            tokens = rows[text][0].tokens
            new = len(tokens) - len(os.path.commonprefix([before, tokens]))
            if packs[-1] and (size + new > PACK_TOKENS or len(packs[-1]) == at_most):
                packs.append([])
                size, new = 0, len(tokens)
            packs[-1].append(text)
            size, before = size + new, tokens
        return packs

    def _batch_size(self, longest: int, shared: int, *, at_most: int) -> int:
        # One by one where no padding is exact, or none in which a method can steer what stands last.
        if not self.language_model.ways.together(longest, left=bool(self.method.steer)):
            return 1
        by_tokens = max(1, BATCH_TOKENS.get(self.language_model.device.type, 1024) // max(1, longest - shared))
        return min(by_tokens, at_most)

    def _shared(self) -> list[int]:
        """Return how many tokens each template begins with whatever the sentence is."""
        counts = []
        for template in self.templates:
            filled = [self.tokenizer(template.replace("{x}", text))["input_ids"] for text in ("A", "7", "(", "é")]
            counts.append(next((n for n, column in enumerate(zip(*filled)) if len(set(column)) > 1), 0))
        return counts

    def _rows(self, texts: list[str]) -> list[list[Row]]:
        """Return each text in each of the templates, cut where it is too long."""
        if not texts:
            return []
        columns = [self._fill(template, texts) for template in self.templates]
        rows = [list(row) for row in zip(*columns)]
        for index, row in enumerate(rows):
            if max(len(filled.tokens) for filled in row) > self.max_length:
                rows[index] = self._cut(texts[index])
        return rows

    def _fill(self, template: str, texts: list[str]) -> list[Row]:
        filled = self.tokenizer([template.replace("{x}", text) for text in texts], return_offsets_mapping=True)
        rows = []
        for text, tokens, offsets in zip(texts, filled["input_ids"], filled["offset_mapping"]):
            placeholder = None
            if PLACEHOLDER_TOKEN in template:
                number = self.tokenizer.convert_tokens_to_ids(PLACEHOLDER_TOKEN)
                placeholder = tokens.index(number)
                # The number is in no model's embedding table; what stands there is filled in later.
                tokens = [self.tokenizer.pad_token_id if token == number else token for token in tokens]
            rows.append(Row(tokens, self._chosen(template, text, offsets), placeholder))
        return rows

    def _chosen(self, template: str, text: str, offsets: list[tuple[int, int]]) -> list[int]:
        if self.method.reads == "all":
            return list(range(len(offsets)))
        if self.method.reads == "last":
            return [len(offsets) - 1]
        before, between, _ = template.split("{x}")
        start = len(before) + len(text) + len(between)
        return [n for n, (low, high) in enumerate(offsets) if high > start and low < start + len(text)]

    def _cut(self, text: str) -> list[Row]:
        self.truncated += 1
        # Cut the sentence's characters, then tokenise anew: tokens at the seam may merge differently.
        while True:
            row = [self._fill(template, [text])[0] for template in self.templates]
            too_many = max(len(filled.tokens) for filled in row) - self.max_length
            if too_many <= 0:
                return row
            too_many = -(-too_many // self.method.template.count("{x}"))
            offsets = self.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
            ends = [end for _, end in offsets if end]
            kept = len(ends) - too_many - 1  # one more goes for the full stop that closes it again
            # A character of several tokens goes as a whole.
            cut = max((end for end in ends[: max(kept, 0)] if end < ends[kept]), default=0)
            text = prepare_sentence(text[:cut])


def similarity(first, second) -> torch.Tensor:
    """Return the cosine of each row of `first` (n, width) with each row of `second` (m, width): (n, m)."""
    first, second = (torch.atleast_2d(torch.as_tensor(vectors).float()) for vectors in (first, second))
    normalise = torch.nn.functional.normalize
    return normalise(first, dim=-1) @ normalise(second, dim=-1).T


def _from_zero(layer: int, layers: int) -> int:
    if not -layers - 1 <= layer <= layers:
        raise InputError(f"This model has the layers 0 to {layers} (or −1 to −{layers + 1}), not {layer}.")
    return layer % (layers + 1)
