"""The vectors of a long file, in chunks that are kept as they come: an interrupted run goes on where it was."""

import hashlib
import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from sempa_utils import models
from sempa_utils.checks import InputError, write_whole
from sempa_utils.data.lines import Lines
from sempa_utils.embedding.embedder import Embedder

CHUNK = 2048  # sentences: what an interruption costs at most, and what memory holds at once


class Chunk(NamedTuple):
    """Sentences, their vectors (rows, width) in float32, and how many of them were too long and cut."""

    sentences: list[str]
    vectors: np.ndarray
    cut: int


def encoded(
    embedder: Embedder,
    sentences: list[str] | Lines,
    *,
    file: str,
    kept: Path,
    batch_size: int | None = None,
    normalise: bool = False,
) -> Iterator[Chunk]:
    """Yield the vectors of `CHUNK` sentences after the other; each chunk is kept in the folder `kept` first.

    A second call with the same embedder, sentences and settings takes what is there, to the same bytes; what another
    call left there is removed. Several processes share the chunks, and the main one alone yields them, when all are
    there. Raises `InputError` as `Embedder.encode` does, with the rows in `file`.
    """
    together = models.processes()
    rank, count = together.process_index, together.num_processes
    size = min(CHUNK, -(-len(sentences) // count))
    how = {"batch_size": batch_size, "normalise": normalise, "chunk": size}
    key = models.figure_key("chunks", 2, embedder=embedder.identity(), sentences=_digest(sentences), **how)
    for folder in kept.glob("*") if together.is_main_process else ():
        if folder.name != key:
            shutil.rmtree(folder, ignore_errors=True)
    where = kept / key if max(len(sentences) / size, count) > 1 else None

    def chunk(start: int, rows: list[str]) -> Chunk:
        path, of = where and where / f"{start:09d}.safetensors", f"{file}, rows {start + 1:,} to {start + len(rows):,}"
        return path and _read(path, rows) or _computed(embedder, rows, path=path, of=of, how=how)

    quiet = where is None or not together.is_main_process or None
    with tqdm(total=len(sentences), desc=embedder.method_name, unit="sentence", disable=quiet) as bar:
        for number, (start, rows) in enumerate(_parts(sentences, size)):
            if number % count == rank:
                made = chunk(start, rows)
                if count == 1:
                    yield made
            bar.update(len(rows))
    together.wait_for_everyone()
    if count > 1 and together.is_main_process:
        for start, rows in _parts(sentences, size):
            yield chunk(start, rows)


def _computed(embedder: Embedder, rows: list[str], *, path: Path | None, of: str, how: Mapping[str, Any]) -> Chunk:
    """Return the vectors of some sentences, kept at `path` if there is one."""
    before = embedder.truncated
    try:
        settings = {"normalize_embeddings": how["normalise"], "show_progress_bar": models.processes().is_main_process}
        vectors = np.asarray(embedder.encode(rows, how["batch_size"], **settings))
    except InputError as error:
        raise InputError(f"{of}: {error}") from error
    chunk = Chunk(rows, vectors, embedder.truncated - before)
    if path:
        with write_whole(path) as draft:
            save_file({"vectors": chunk.vectors, "cut": np.array(chunk.cut)}, draft)
    return chunk


def _parts(sentences: Iterable[str], size: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (place of its first, sentences) of `size` sentences after the other."""
    rest = iter(sentences)
    for start in itertools.count(step=size):
        rows = list(itertools.islice(rest, size))
        if not rows:
            return
        yield start, rows


def _digest(sentences: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for sentence in sentences:
        digest.update(sentence.encode("utf8", "surrogatepass") + b"\x1f")
    return digest.hexdigest()


def _read(path: Path, sentences: list[str]) -> Chunk | None:
    try:
        tensors = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    return Chunk(sentences, tensors["vectors"], int(tensors["cut"]))
