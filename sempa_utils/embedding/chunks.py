"""The vectors of a long file, in chunks that are kept as they come: an interrupted run goes on where it was."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from sempa_utils import models
from sempa_utils.checks import InputError, write_whole
from sempa_utils.embedding.embedder import Embedder

CHUNK = 2048  # sentences: what an interruption costs at most, and what memory holds at once


class Chunk(NamedTuple):
    """Sentences, their vectors (rows, width) in float32, and how many of them were too long and cut."""

    sentences: list[str]
    vectors: np.ndarray
    cut: int


def encoded(
    embedder: Embedder,
    sentences: list[str],
    *,
    file: str,
    kept: Path,
    batch_size: int | None = None,
    normalise: bool = False,
) -> Iterator[Chunk]:
    """Yield the vectors of `CHUNK` sentences after the other; each chunk is kept in the folder `kept` first.

    A second call with the same embedder, sentences and settings takes what is there, to the same bytes; what another
    call left there is removed. Raises `InputError` as `Embedder.encode` does, with the rows in `file`.
    """
    how = {"batch_size": batch_size, "normalise": normalise, "chunk": CHUNK}
    key = models.figure_key("chunks", 1, embedder=embedder.identity(), sentences=sentences, **how)
    for folder in kept.glob("*"):
        if folder.name != key:
            shutil.rmtree(folder, ignore_errors=True)
    starts = range(0, len(sentences), CHUNK)
    with tqdm(total=len(sentences), desc=embedder.method_name, unit="sentence", disable=len(starts) < 2 or None) as bar:
        for start in starts:
            rows, path = sentences[start : start + CHUNK], kept / key / f"{start:09d}.safetensors"
            chunk = _read(path, rows)
            if chunk is None:
                before = embedder.truncated
                try:
                    vectors = embedder.encode(rows, batch_size, normalize_embeddings=normalise, show_progress_bar=True)
                except InputError as error:
                    raise InputError(f"{file}, rows {start + 1:,} to {start + len(rows):,}: {error}") from error
                chunk = Chunk(rows, np.asarray(vectors), embedder.truncated - before)
                if len(starts) > 1:
                    with write_whole(path) as draft:
                        save_file({"vectors": chunk.vectors, "cut": np.array(chunk.cut)}, draft)
            bar.update(len(rows))
            yield chunk


def _read(path: Path, sentences: list[str]) -> Chunk | None:
    try:
        tensors = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    return Chunk(sentences, tensors["vectors"], int(tensors["cut"]))
