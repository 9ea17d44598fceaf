"""An embedder whose sentences several processes share."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from sempa_utils.models import processes


class Shared:
    """An embedder of which each process encodes its part of the sentences, and gets the vectors of all."""

    def __init__(self, embedder: Any):
        self.embedder = embedder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.embedder, name)

    def encode(self, sentences: Iterable[str], batch_size: int | None = None, *, show_progress_bar: bool = False):
        """Return one vector per sentence, (n, width), as the embedder's own `encode`; all processes call it."""
        together, distinct = processes(), sorted(set(sentences := list(sentences)))
        count, rank = together.num_processes, together.process_index
        part = distinct[rank * len(distinct) // count : (rank + 1) * len(distinct) // count]
        size = {} if batch_size is None else {"batch_size": batch_size}
        own = self.embedder.encode(part, **size, show_progress_bar=show_progress_bar) if part else None
        vectors = np.concatenate([vectors for vectors in gather_object([own]) if vectors is not None])
        places = {text: place for place, text in enumerate(distinct)}
        return vectors[[places[text] for text in sentences]]


def among_processes(embedder: Any) -> Any:
    """Return the embedder, its sentences shared where there are several processes."""
    return Shared(embedder) if processes().num_processes > 1 else embedder
