"""A long file's vectors: the same bytes, however often the run was interrupted."""

import numpy as np
import pytest

from sempa_utils.checks import InputError
from sempa_utils.embedding import Embedder, chunks

SENTENCES = [f"The {animal} sleeps {'very ' * n}well." for n in range(5) for animal in ("cat", "dog")]


class Interruption(Exception):
    pass


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 4)


def run(embedder, kept, sentences=SENTENCES, **how) -> np.ndarray:
    parts = list(chunks.encoded(embedder, sentences, file="lines.txt", kept=kept, **how))
    assert [sentence for part in parts for sentence in part.sentences] == sentences
    return np.concatenate([part.vectors for part in parts])


def test_chunks_hold_the_embedders_vectors(tiny, tmp_path):
    expected = Embedder(tiny).encode(SENTENCES)
    np.testing.assert_allclose(run(Embedder(tiny), tmp_path / "kept"), expected, atol=1e-5)


def test_an_interrupted_run_goes_on_to_the_same_bytes(tiny, tmp_path, monkeypatch):
    how = {"normalise": True, "batch_size": 2}
    expected, kept = run(Embedder(tiny, max_length=32), tmp_path / "through", **how), tmp_path / "kept"
    encode, asked = Embedder.encode, []

    def counted(embedder, sentences, *given, **named):
        if len(asked) == 2:
            asked.clear()
            raise Interruption
        asked.append(len(sentences))
        return encode(embedder, sentences, *given, **named)

    monkeypatch.setattr(Embedder, "encode", counted)
    with pytest.raises(Interruption):
        run(Embedder(tiny, max_length=32), kept, **how)
    parts = list(chunks.encoded(Embedder(tiny, max_length=32), SENTENCES, file="lines.txt", kept=kept, **how))
    assert asked == [2], "only the last chunk was left to do"
    assert np.concatenate([part.vectors for part in parts]).tobytes() == expected.tobytes()
    whole = Embedder(tiny, max_length=32)
    encode(whole, SENTENCES)
    assert sum(part.cut for part in parts) == whole.truncated > 0, "what was cut before counts as well"


@pytest.mark.parametrize("change", ["sentence", "setting", "method"])
def test_what_another_call_left_is_not_taken(tiny, tmp_path, change):
    kept, sentences, how, method = tmp_path / "kept", SENTENCES, {}, "prompteol"
    run(Embedder(tiny), kept)
    if change == "sentence":
        sentences = [*SENTENCES[:-1], "Another."]
    how, method = {"normalise": change == "setting"}, "mean" if change == "method" else "prompteol"
    before = {folder.name for folder in kept.iterdir()}
    found = run(Embedder(tiny, method), kept, sentences, **how)
    np.testing.assert_array_equal(found, run(Embedder(tiny, method), tmp_path / "anew", sentences, **how))
    assert len(list(kept.iterdir())) == 1 and before.isdisjoint(folder.name for folder in kept.iterdir())


def test_one_chunk_leaves_nothing_beside_the_output(tiny, tmp_path):
    run(Embedder(tiny), tmp_path / "kept", SENTENCES[:4])
    assert not list(tmp_path.iterdir())


def test_a_vector_that_is_no_number_is_told_with_file_and_rows(tiny, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise InputError("sentences[1], and 0 more: the vector is no number.")

    monkeypatch.setattr(Embedder, "encode", broken)
    with pytest.raises(InputError, match=r"^lines.txt, rows 1 to 4: sentences\[1\]"):
        run(Embedder(tiny), tmp_path / "kept")
