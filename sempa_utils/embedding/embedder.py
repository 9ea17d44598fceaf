"""`Embedder`: `encode` and `similarity` in the manner of sentence-transformers, for any method."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from sempa_utils import models
from sempa_utils.checks import InputError, pick
from sempa_utils.embedding import last_token, mean_pooling
from sempa_utils.templates import EXTRACTION_TEMPLATES, fill, prepare_sentence


class Method(NamedTuple):
    """What is put around a sentence, and how the last layer's states become one vector."""

    template: str
    pool: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


METHODS = {
    "mean": Method(mean_pooling.TEMPLATE, mean_pooling.pool),
    "prompteol": Method(EXTRACTION_TEMPLATES["prompteol"], last_token.pool),
    "pretended_cot": Method(EXTRACTION_TEMPLATES["pretended_cot"], last_token.pool),
}


class Embedder:
    """Turn sentences into vectors with a language model.

    `model` is a `LanguageModel`, or a name that `models.load` takes, loaded in `precision`; `method` a
    key of `METHODS`; `adapter` the folder of a LoRA adapter. A text longer than `max_length` tokens is cut inside the
    template, so that the template's end stays; `truncated` counts the sentences this happened to.
    """

    def __init__(
        self,
        model="packaged",
        method: str = "prompteol",
        adapter=None,
        max_length: int = 512,
        precision: str = "float32",
    ):
        self.method = pick(method, METHODS, "method")
        self.method_name = method
        self.language_model = models.load(model, precision) if isinstance(model, str) else model
        if adapter is not None:
            self.language_model = models.add_adapter(self.language_model, adapter)
        context = getattr(self.language_model.model.config, "max_position_embeddings", max_length)
        self.max_length = min(max_length, context)
        self.truncated = 0
        frame = len(self._token_ids(fill(self.method.template, "")))
        if frame + 1 > self.max_length:
            raise InputError(f"max_length {self.max_length} leaves no room: the template alone has {frame} tokens.")

    @property
    def dimension(self) -> int:
        """Width of a vector."""
        return self.language_model.model.config.hidden_size

    def encode(
        self,
        sentences: str | list[str],
        batch_size: int = 32,
        show_progress_bar: bool = False,
        normalize_embeddings: bool = False,
        convert_to_tensor: bool = False,
    ) -> np.ndarray | torch.Tensor:
        """Return one float32 vector per sentence: (n, width), or (width,) for a single string.

        Equal sentences are encoded once; batches hold sentences of like length. A sentence's vector
        depends neither on its batch nor on padding. The state read is `hidden_states[-1]`, after the
        final norm. Raises `InputError` for anything but strings.
        """
        single = isinstance(sentences, str)
        listed = [sentences] if single else list(sentences)
        for index, sentence in enumerate(listed):
            if not isinstance(sentence, str):
                raise InputError(f"sentences[{index}] is {type(sentence).__name__}, not a string. Convert it first.")
        prepared = [prepare_sentence(sentence) for sentence in listed]
        distinct = {text: None for text in prepared}
        token_ids = {text: self._fit(text) for text in distinct}
        longest_first = sorted(distinct, key=lambda text: len(token_ids[text]), reverse=True)
        rows = {text: row for row, text in enumerate(longest_first)}
        vectors = torch.empty(len(rows), self.dimension)
        with tqdm(total=len(rows), desc=self.method_name, unit="sentence", disable=not show_progress_bar) as bar:
            for start in range(0, len(longest_first), batch_size):
                batch = longest_first[start : start + batch_size]
                vectors[start : start + len(batch)] = self._encode_batch([token_ids[text] for text in batch])
                bar.update(len(batch))
        vectors = vectors[[rows[text] for text in prepared]]
        if normalize_embeddings:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        vectors = vectors[0] if single else vectors
        return vectors if convert_to_tensor else vectors.numpy()

    def similarity(self, first, second) -> torch.Tensor:
        """Return the cosine of each vector of `first` (n, width) with each of `second` (m, width): (n, m)."""
        return similarity(first, second)

    @torch.no_grad()
    def _encode_batch(self, token_ids: list[list[int]]) -> torch.Tensor:
        tokenizer, device = self.language_model.tokenizer, self.language_model.device
        width = max(map(len, token_ids))
        ids = torch.full((len(token_ids), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(token_ids):
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        # Positions count from a sentence's own first token, whatever padding stands before it.
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        states = self.language_model.decoder(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            use_cache=False,
        ).last_hidden_state.float()
        return self.method.pool(states, mask.to(device)).cpu()

    def _token_ids(self, text: str) -> list[int]:
        return self.language_model.tokenizer(text)["input_ids"]

    def _fit(self, text: str) -> list[int]:
        ids = self._token_ids(fill(self.method.template, text))
        if len(ids) <= self.max_length:
            return ids
        self.truncated += 1
        # Cut the sentence's characters, then tokenise anew: tokens at the seam may merge differently.
        while len(ids) > self.max_length:
            too_many = len(ids) - self.max_length
            offsets = self.language_model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
            ends = [end for _, end in offsets if end]
            text = text[: ends[-1 - too_many]] if too_many < len(ends) else ""
            ids = self._token_ids(fill(self.method.template, text))
        return ids


def similarity(first, second) -> torch.Tensor:
    """Return the cosine of each row of `first` (n, width) with each row of `second` (m, width): (n, m)."""
    first, second = (torch.atleast_2d(torch.as_tensor(vectors).float()) for vectors in (first, second))
    normalise = torch.nn.functional.normalize
    return normalise(first, dim=-1) @ normalise(second, dim=-1).T
