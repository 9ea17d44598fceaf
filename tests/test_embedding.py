"""Embeddings: independent of batch and padding, equal to a literal read-out, kind to odd text."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sempa_utils.checks import InputError
from sempa_utils.embedding import METHODS, Embedder, similarity
from sempa_utils.templates import EXTRACTION_TEMPLATES, prepare_sentence

SENTENCES = [
    "The kettle is on.",
    "She left before the second half, although nobody had asked her to go home that early in the evening.",
    "Rain again",
    'He said "no" twice?',
    "A parcel for the neighbours stood in the hall.",
]


def literal(language_model, method: str, sentence: str) -> torch.Tensor:
    """Read one sentence's vector with transformers alone: all hidden states, no batch, no padding."""
    template = EXTRACTION_TEMPLATES.get(method, "{x}")
    tokens = language_model.tokenizer(template.replace("{x}", prepare_sentence(sentence)), return_tensors="pt")
    with torch.no_grad():
        states = language_model.model(**tokens, output_hidden_states=True).hidden_states[-1][0]
    return states.mean(dim=0) if method == "mean" else states[-1]


@pytest.mark.parametrize("method", METHODS)
def test_vectors_equal_a_literal_read_out(tiny, method):
    vectors = Embedder(tiny, method).encode(SENTENCES, batch_size=3, convert_to_tensor=True)
    expected = torch.stack([literal(tiny, method, sentence) for sentence in SENTENCES])
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_vector_depends_on_neither_batch_nor_order(tiny, method, batch_size):
    embedder = Embedder(tiny, method)
    alone = np.stack([embedder.encode(sentence) for sentence in SENTENCES])
    together = embedder.encode(SENTENCES[::-1], batch_size=batch_size)[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_kind_of_padding_token_does_not_matter(tiny):
    before = Embedder(tiny).encode(SENTENCES)
    tiny.tokenizer.pad_token = "<|im_start|>"
    np.testing.assert_allclose(Embedder(tiny).encode(SENTENCES), before, atol=1e-5)


def test_equal_sentences_are_encoded_once(tiny, monkeypatch):
    embedder = Embedder(tiny)
    seen = []
    run = embedder._encode_batch
    monkeypatch.setattr(embedder, "_encode_batch", lambda batch: seen.extend(batch) or run(batch))
    vectors = embedder.encode(["One.", "Two.", "One.", "One."])
    assert len(seen) == 2
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


def test_shapes_types_and_normalisation(tiny):
    embedder = Embedder(tiny)
    one = embedder.encode("One.")
    assert one.shape == (32,) and one.dtype == np.float32
    assert embedder.encode([]).shape == (0, 32)
    tensor = embedder.encode(["One.", "Two."], normalize_embeddings=True, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
    torch.testing.assert_close(tensor.norm(dim=1), torch.ones(2))


def test_similarity_is_the_cosine(tiny):
    first, second = np.random.default_rng(0).normal(size=(2, 3, 8))
    expected = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in second] for a in first]
    np.testing.assert_allclose(similarity(first, second).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(Embedder(tiny).similarity(first[0], second[0]), [[expected[0][0]]], atol=1e-6)


@pytest.mark.parametrize("method", ["prompteol", "pretended_cot"])
def test_an_over_long_sentence_is_cut_inside_the_template(tiny, method):
    embedder = Embedder(tiny, method, max_length=64)
    long = "word " * 200
    ids = embedder._fit(prepare_sentence(long))
    decoded = tiny.tokenizer.decode(ids)
    before, after = EXTRACTION_TEMPLATES[method].split("{x}")
    assert len(ids) <= 64
    assert len(ids) > 55, "no more is cut than must be"
    assert decoded.startswith(before) and decoded.endswith(after)
    assert embedder.truncated == 1
    embedder.encode(["short", long, long + "end"])
    assert embedder.truncated == 3


def test_a_length_without_room_for_the_template_is_refused(tiny):
    with pytest.raises(InputError, match="template alone"):
        Embedder(tiny, "prompteol", max_length=5)


@pytest.mark.parametrize("wrong", [None, 3, ["nested"]])
def test_what_is_no_string_is_refused_by_its_place(tiny, wrong):
    with pytest.raises(InputError, match=r"sentences\[1\]"):
        Embedder(tiny).encode(["fine", wrong])


def test_an_unknown_method_names_the_nearest(tiny):
    with pytest.raises(InputError, match="prompteol"):
        Embedder(tiny, "promptEOL")


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_a_finite_vector(text):
    vector = Embedder(SHARED).encode(text)
    assert vector.shape == (32,) and np.isfinite(vector).all()


@pytest.mark.model
def test_the_packaged_model_agrees_alone_and_in_a_batch(packaged):
    for method in METHODS:
        embedder = Embedder(packaged, method)
        together = embedder.encode(SENTENCES, normalize_embeddings=True)
        alone = np.stack([embedder.encode(sentence, normalize_embeddings=True) for sentence in SENTENCES])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        first = literal(packaged, method, SENTENCES[1])
        np.testing.assert_allclose(together[1], (first / first.norm()).numpy(), atol=1e-5)


def _shared():
    from conftest import tiny_model, tiny_tokenizer

    from sempa_utils import models

    return models.wrap(tiny_model(), tiny_tokenizer(), "tiny")


SHARED = _shared()
