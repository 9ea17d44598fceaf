"""Embeddings: independent of batch and padding, equal to literal read-outs, kind to odd text."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from sempa_utils import models
from sempa_utils.checks import InputError
from sempa_utils.data.templates import EXTRACTION_TEMPLATES, prepare_sentence
from sempa_utils.embedding import METHODS, Embedder, similarity
from sempa_utils.embedding.embedder import PLACEHOLDER_TOKEN
from sempa_utils.embedding.reading import Reader, Row
from sempa_utils.models.certificate import KEPT

SENTENCES = [
    "The kettle is on.",
    "She left before the second half, although nobody had asked her to go home that early in the evening.",
    "Rain again",
    'He said "no" twice?',
    "A parcel for the neighbours stood in the hall.",
]
ODD = ['""', "{x} and {x}", "line\nbreak\ttab", "🙂🙃", "שלום עולם, مرحبا", "<PST>", " ", "?", "…" * 30]


SHARED = models.wrap(tiny_model(), tiny_tokenizer(), name="tiny")


@pytest.fixture
def deep():
    """A random Llama with eight layers, so that early, inner and last ones differ."""
    return models.wrap(tiny_model(layers=8), tiny_tokenizer(), name="deep")


# --- each method, written out slowly as its paper describes it ---------------------------------


@torch.no_grad()
def hidden_states(language_model, text: str) -> tuple[torch.Tensor, ...]:
    tokens = language_model.tokenizer(text, return_tensors="pt")
    return language_model.model(**tokens, output_hidden_states=True).hidden_states


def literal_last_token(language_model, sentence: str, template: str, layer: int = -1) -> torch.Tensor:
    return hidden_states(language_model, EXTRACTION_TEMPLATES[template].replace("{x}", sentence))[layer][0, -1]


def literal_echo(language_model, sentence: str, layer: int = -1) -> torch.Tensor:
    # The copy's tokens are those with which the decoded text grows beyond what stands before the copy.
    before = f"Rewrite the sentence: {sentence}\nThe rewritten sentence: "
    ids = language_model.tokenizer(before + sentence)["input_ids"]
    grown = [len(language_model.tokenizer.decode(ids[: n + 1])) > len(before) for n in range(len(ids))]
    return hidden_states(language_model, before + sentence)[layer][0][grown].mean(dim=0)


@torch.no_grad()
def literal_blocks(model, states: torch.Tensor, first: int, end: int, change=None, attention_input=None):
    """Run decoder blocks one by one on (1, T, width); `change` is called before each, with index and states."""
    length = states.shape[1]
    positions = torch.arange(length)[None]
    rotary = model.model.rotary_emb(states, positions)
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
    for index in range(first, end):
        if change:
            states = change(index, states)
        block = model.model.layers[index]
        states = block(states, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    return states


@torch.no_grad()
def literal_contrastive_prompting(language_model, sentence: str, steered: int, scale: float, mode: str, layer: int):
    """Attention written out for the steered block; all other blocks as they are."""
    model, tokenizer = language_model.model, language_model.tokenizer
    config, block = model.config, model.model.layers[steered]

    def states_before(text):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        return literal_blocks(model, model.model.embed_tokens(ids), 0, steered)

    def heads(states):
        length, width = states.shape[1], config.hidden_size // config.num_attention_heads
        cosine, sine = model.model.rotary_emb(states, torch.arange(length)[None])
        normed = block.input_layernorm(states)[0]

        def turn(vectors):  # rotary positions: pairs (i, i + width/2)
            half = torch.cat([-vectors[..., width // 2 :], vectors[..., : width // 2]], dim=-1)
            return vectors * cosine[0] + half * sine[0]

        attention, groups = block.self_attn, config.num_attention_heads // config.num_key_value_heads
        out = []
        for head in range(config.num_attention_heads):
            of_query = slice(head * width, (head + 1) * width)
            of_key = slice(head // groups * width, (head // groups + 1) * width)
            query, key = turn(attention.q_proj(normed)[:, of_query]), turn(attention.k_proj(normed)[:, of_key])
            scores = query @ key.T / width**0.5 + torch.full((length, length), -torch.inf).triu(1)
            out.append(scores.softmax(dim=-1) @ attention.v_proj(normed)[:, of_key])
        return torch.cat(out, dim=-1)

    normal = states_before(f'This sentence : "{sentence}" means in one word:"')
    irrelevant = states_before(f'The irrelevant information of this sentence : "{sentence}" means in one word:"')
    a, b = heads(normal), heads(irrelevant)
    difference = a[-1] - b[-1]
    a[-1] = scale * difference if mode == "scaled" else difference * a[-1].norm() / difference.norm()
    states = normal + block.self_attn.o_proj(a)[None]
    states = states + block.mlp(block.post_attention_layernorm(states))
    return literal_blocks(model, states, steered + 1, layer)[0, -1]


@torch.no_grad()
def literal_token_prepending(language_model, sentence: str, first: int, end: int, layer: int, seed: int = 42):
    model, tokenizer = language_model.model, language_model.tokenizer
    # The tiny tokenizer splits words from the blank before them, so pieces can be tokenised apart.
    before = tokenizer("This sentence : ")["input_ids"]
    after = tokenizer(f' "{sentence}" means in one word:"')["input_ids"]
    table = model.model.embed_tokens.weight
    placeholder = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(seed)) * table.std()
    states = torch.cat([table[before], placeholder[None], table[after]])[None]

    def change(index, states):
        if first <= index < end:
            states = states.clone()
            states[0, len(before)] = states[0, -1]
        return states

    return literal_blocks(model, states, 0, layer, change)[0, -1]


LITERAL = {
    "mean": (lambda lm, s: hidden_states(lm, s)[-1][0].mean(dim=0), {}),
    "echo": (literal_echo, {}),
    "prompteol": (lambda lm, s: literal_last_token(lm, s, "prompteol"), {}),
    "pretended_cot": (lambda lm, s: literal_last_token(lm, s, "pretended_cot"), {}),
    "knowledge_enhancement": (lambda lm, s: literal_last_token(lm, s, "knowledge_enhancement", -2), {}),
    # 8 of 32 layers: steered 4 → 1, read 27 → 7; placeholder filled in 1 ≤ i < 7 → 2.
    "contrastive_prompting": (lambda lm, s: literal_contrastive_prompting(lm, s, 1, 0.5, "scaled", 7), {}),
    "token_prepending": (lambda lm, s: literal_token_prepending(lm, s, 1, 2, 7), {}),
}
VARIANTS = {
    "prompteol, layer 3": (lambda lm, s: literal_last_token(lm, s, "prompteol", 3), {"layer": 3}),
    "echo, layer -3": (lambda lm, s: literal_echo(lm, s, -3), {"layer": -3}),
    "mean, layer 0": (lambda lm, s: hidden_states(lm, s)[0][0].mean(dim=0), {"layer": 0}),
    "contrastive_prompting, norm": (
        lambda lm, s: literal_contrastive_prompting(lm, s, 3, 0.0, "norm", 6),
        {"mode": "norm", "steered_layer": 3, "layer": 6},
    ),
    "contrastive_prompting, scaled": (
        lambda lm, s: literal_contrastive_prompting(lm, s, 0, 0.25, "scaled", 5),
        {"scale": 0.25, "steered_layer": 0, "layer": 5},
    ),
    "token_prepending, longer": (
        lambda lm, s: literal_token_prepending(lm, s, 0, 5, 6, seed=7),
        {"first": 0, "end": 5, "layer": 6, "seed": 7},
    ),
}


@pytest.mark.parametrize("name", [*LITERAL, *VARIANTS])
def test_vectors_equal_a_literal_read_out(deep, name):
    literal, changes = (LITERAL | VARIANTS)[name]
    vectors = Embedder(deep, name.split(",")[0], **changes).encode(SENTENCES, batch_size=3, convert_to_tensor=True)
    expected = torch.stack([literal(deep, prepare_sentence(sentence)) for sentence in SENTENCES])
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=2e-5)


def test_every_method_has_a_literal_form():
    assert set(LITERAL) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_sentence_vector_differs_from_method_to_method(deep, method):
    vectors = {name: Embedder(deep, name).encode(SENTENCES[0]) for name in METHODS}
    others = [vector for name, vector in vectors.items() if name != method]
    assert all(np.abs(vectors[method] - other).max() > 1e-2 for other in others)


# --- batches, prefixes, layers -----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_vector_depends_on_neither_batch_nor_order(deep, method, batch_size):
    embedder = Embedder(deep, method)
    alone = np.stack([embedder.encode(sentence) for sentence in SENTENCES])
    together = embedder.encode(SENTENCES[::-1], batch_size=batch_size)[::-1]
    np.testing.assert_allclose(together, alone, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_all_layers_in_one_pass_are_the_layers_one_by_one(deep, method):
    embedder = Embedder(deep, method)
    at_once = embedder.encode_layers(SENTENCES)
    assert at_once.shape == (9, len(SENTENCES), 32)
    for layer in range(9):
        one = embedder.at_layer(layer).encode(SENTENCES)
        np.testing.assert_allclose(at_once[layer].numpy(), one, atol=2e-5)
    torch.testing.assert_close(embedder.encode_layers(SENTENCES, [-2, 3]), at_once[[7, 3]])


def padded(language_model):
    """Return the model, of which no prefix tree is said to be exact."""
    vars(language_model.model)[KEPT] = replace(language_model.ways, tree=False)
    return language_model


@settings(max_examples=15)
@given(
    st.lists(st.lists(st.sampled_from(["a", "cat", "dogs", "ran", "home"]), max_size=9).map(" ".join), max_size=12),
    st.sampled_from(["mean", "echo", "prompteol", "knowledge_enhancement"]),
    st.integers(20, 90),
)
def test_packed_sentences_have_the_vectors_of_padded_ones(sentences, method, size):
    plain = padded(models.wrap(tiny_model(), tiny_tokenizer(), name="tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sempa_utils.embedding.embedder.PACK_TOKENS", size)
        packed = Embedder(SHARED, method).encode_layers(sentences)
    torch.testing.assert_close(packed, Embedder(plain, method).encode_layers(sentences), atol=2e-5, rtol=1e-5)


def test_a_pack_holds_each_beginning_once_and_no_padding(deep, monkeypatch):
    monkeypatch.setattr("sempa_utils.embedding.embedder.PACK_TOKENS", 150)
    sentences = [f"The old {thing} stood in the hall." for thing in ("parcel", "clock", "kettle", "parcel of wood")]
    sentences += [f"Number {number}." for number in range(30)]
    embedder, seen = Embedder(deep), []
    assert deep.ways.tree  # measured before the calls are counted
    forward = deep.decoder.forward
    monkeypatch.setattr(deep.decoder, "forward", lambda **inputs: seen.append(inputs) or forward(**inputs))
    vectors = embedder.encode(sentences)
    sizes = [inputs["input_ids"].shape[1] for inputs in seen]
    assert max(sizes) <= 150 and min(sizes[:-1]) > 120
    rows = [row.tokens for (row,) in embedder._rows(sentences)]
    beginnings = {tuple(row[:place]) for row in rows for place in range(1, len(row) + 1)}
    apart = sum(sizes) - len(beginnings)  # what stands in more packs than one
    assert 0 <= apart <= (len(seen) - 1) * max(map(len, rows)) and sum(sizes) < 0.8 * sum(map(len, rows))
    monkeypatch.undo()
    np.testing.assert_allclose(vectors, Embedder(padded(deep)).encode(sentences), atol=2e-5)


def test_a_batch_size_holds_for_packs_too(deep):
    packs = Embedder(deep)._packs(
        {text: rows for text, rows in zip(SENTENCES, Embedder(deep)._rows(SENTENCES))}, at_most=2
    )
    assert [len(pack) for pack in packs] == [2, 2, 1]


def test_the_common_beginning_is_computed_once(deep, monkeypatch):
    embedder, seen = Embedder(padded(deep)), []
    assert deep.ways.prefix_cache  # measured before the calls are counted
    forward = deep.decoder.forward
    monkeypatch.setattr(deep.decoder, "forward", lambda **inputs: seen.append(inputs) or forward(**inputs))
    embedder.encode(SENTENCES, batch_size=2)
    prefix = deep.tokenizer('This sentence : "')["input_ids"]
    assert seen[0]["input_ids"].tolist() == [prefix]
    assert [len(inputs["input_ids"]) for inputs in seen[1:]] == [2, 2, 1]
    for inputs in seen[1:]:
        assert not any(row.tolist()[-len(prefix) :] == prefix for row in inputs["input_ids"])
        # Left padding is no wider than the longest row of the batch needs.
        assert inputs["attention_mask"].sum(dim=1).max() == inputs["attention_mask"].shape[1]


def test_batches_hold_no_more_tokens_than_the_budget(deep, monkeypatch):
    monkeypatch.setattr("sempa_utils.embedding.embedder.BATCH_TOKENS", {"cpu": 60})
    seen, forward = [], padded(deep).decoder.forward
    monkeypatch.setattr(deep.decoder, "forward", lambda **inputs: seen.append(inputs) or forward(**inputs))
    vectors = Embedder(deep, "mean").encode([*SENTENCES, *(f"Number {n}." for n in range(30))])
    sizes = [inputs["input_ids"].shape for inputs in seen]
    assert all(rows * tokens <= 60 or rows == 1 for rows, tokens in sizes)
    assert max(rows for rows, _ in sizes) > 5
    np.testing.assert_allclose(vectors[:5], Embedder(deep, "mean").encode(SENTENCES), atol=2e-5)


def test_a_prefix_stops_before_what_is_read(deep):
    rows = [Row([5, 6, 7, 8], [3]), Row([5, 6, 7, 9, 10], [2, 3])]
    batch = Reader(deep).batch(rows, shared=4)
    assert batch.prefix == (5, 6)
    assert batch.input_ids.tolist() == [[0, 7, 8], [7, 9, 10]]
    assert batch.mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert batch.chosen.tolist() == [[0, 0, 1], [1, 1, 0]]


def test_the_kind_of_padding_token_does_not_matter(tiny):
    before = Embedder(tiny).encode(SENTENCES)
    tiny.tokenizer.pad_token = "<|im_start|>"
    np.testing.assert_allclose(Embedder(tiny).encode(SENTENCES), before, atol=1e-5)


def test_equal_sentences_are_encoded_once(tiny, monkeypatch):
    embedder = Embedder(tiny)
    seen, run = [], embedder._encode_batch
    monkeypatch.setattr(
        embedder,
        "_encode_batch",
        lambda reader, rows, *rest, **how: seen.extend(rows) or run(reader, rows, *rest, **how),
    )
    vectors = embedder.encode(["One.", "Two.", "One.", "One."])
    assert len(seen) == 2
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


# --- the model afterwards ----------------------------------------------------------------------


def hooks(model) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("broken", [False, True])
def test_a_model_is_bit_identical_after_use_even_after_an_error(deep, method, broken, monkeypatch):
    before = {name: weight.clone() for name, weight in deep.model.state_dict().items()}
    words, logits = len(deep.tokenizer), deep.model(torch.tensor([[5, 6, 7]])).logits
    embedder = Embedder(deep, method)
    with contextlib.ExitStack() as stack:
        if broken:
            # The seventh block fails: after steering has begun and before the vector is read.
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(deep.decoder.layers[6].mlp, "forward", lambda *_: 1 / 0)
            stack.enter_context(pytest.raises(ZeroDivisionError))
        embedder.encode(SENTENCES)
    assert hooks(deep.model) == 0
    assert len(deep.tokenizer) == words
    after = deep.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(deep.model(torch.tensor([[5, 6, 7]])).logits, logits)


# --- shapes, long, odd and wrong input ---------------------------------------------------------


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


@pytest.mark.parametrize("method", METHODS)
def test_an_over_long_sentence_is_cut_inside_the_template(tiny, method):
    embedder = Embedder(tiny, method, max_length=200)
    long = prepare_sentence("word " * 400)
    rows = embedder._rows([long])[0]
    longest = max(len(row.tokens) for row in rows)
    assert 185 < longest <= 200, "cut, and no more than must be"
    assert embedder.truncated == 1
    for row, template in zip(rows, embedder.templates):
        decoded = embedder.tokenizer.decode(row.tokens).replace("<|endoftext|>", PLACEHOLDER_TOKEN)
        before, *_, after = template.split("{x}")
        assert decoded.startswith(before) and decoded.endswith(after)
    vectors = embedder.encode(["short", long, "🙂" * 100])
    assert embedder.truncated == 3 and np.isfinite(vectors).all()


@pytest.mark.parametrize("method", METHODS)
def test_odd_text_has_a_vector_of_its_own(deep, method):
    embedder = Embedder(deep, method)
    vectors = embedder.encode(ODD)
    assert np.isfinite(vectors).all()
    # Blank and "?" both become a lone full stop, and nothing else is alike.
    assert len(np.unique(vectors.round(4), axis=0)) == len(ODD) - 1
    np.testing.assert_array_equal(embedder.encode(""), embedder.encode("."))
    np.testing.assert_allclose(vectors, np.stack([embedder.encode(text) for text in ODD]), atol=2e-5)


def test_a_vector_that_is_no_number_is_refused_by_its_place(tiny, monkeypatch):
    embedder = Embedder(tiny)
    read = Reader.vectors
    monkeypatch.setattr(Reader, "vectors", lambda *given: read(*given) * torch.tensor([1, torch.nan, 1])[None, :, None])
    with pytest.raises(InputError, match=r"sentences\[\d\], and 0 more: the vector is no number"):
        embedder.encode(SENTENCES[:3])


def test_a_length_without_room_for_the_template_is_refused(tiny):
    with pytest.raises(InputError, match="template alone"):
        Embedder(tiny, "prompteol", max_length=5)


@pytest.mark.parametrize("wrong", [None, 3, ["nested"]])
def test_what_is_no_string_is_refused_by_its_place(tiny, wrong):
    with pytest.raises(InputError, match=r"sentences\[1\]"):
        Embedder(tiny).encode(["fine", wrong])


@pytest.mark.parametrize(
    "method, changes, says",
    [
        ("promptEOL", {}, "prompteol"),
        ("prompteol", {"scale": 1}, "setting of prompteol"),
        ("contrastive_prompting", {"scales": 1}, "'scale'"),
        ("contrastive_prompting", {"mode": "per head"}, "mode of Contrastive Prompting"),
        ("contrastive_prompting", {"steered_layer": 2}, "from 0 to 1 in this model, not 2"),
        ("token_prepending", {"first": 1, "end": 1}, "from 2 to 2 in this model, not 1"),
        ("token_prepending", {"template": "no placeholder {x}"}, "needs <PST> once"),
        ("echo", {"frame": "once {x}"}, "must hold {x} twice"),
        ("mean", {"layer": 3}, "layers 0 to 2"),
    ],
)
def test_wrong_settings_are_refused(tiny, method, changes, says):
    with pytest.raises(InputError) as refusal:
        Embedder(tiny, method, **changes)
    assert says in str(refusal.value)


def test_blocks_under_another_name_are_refused_where_they_are_needed(tiny):
    reader = Reader(tiny)
    reader.decoder = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="does not keep its blocks"):
        _ = reader.layers


@pytest.mark.parametrize(
    "vocabulary, layers, steered, scale, read, end",
    [(32_000, 32, 4, 0.5, 27, 7), (128_256, 32, 6, 0.25, 31, 3), (49_152, 30, 4, 0.5, 25, 7)],
)
def test_the_authors_settings_and_the_rule_for_other_depths(vocabulary, layers, steered, scale, read, end):
    model = tiny_model(layers=layers, vocabulary=600)
    model.config.vocab_size = vocabulary
    language_model = models.wrap(model, tiny_tokenizer(), name="authors")
    by_rule = {
        "contrastive_prompting": {"steered_layer": steered, "scale": scale},
        "token_prepending": {"first": 1, "end": end},
    }
    for method, settings_ in by_rule.items():
        default, named = Embedder(language_model, method), Embedder(language_model, method, layer=read, **settings_)
        assert default.layer == read
        np.testing.assert_array_equal(default.encode(SENTENCES[0]), named.encode(SENTENCES[0]))


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60), st.sampled_from(list(METHODS)))
def test_any_text_has_a_finite_vector(text, method):
    vector = Embedder(SHARED, method).encode(text)
    assert vector.shape == (32,) and np.isfinite(vector).all()


@pytest.mark.model
@pytest.mark.parametrize("method", METHODS)
def test_the_packaged_model_agrees_alone_and_in_a_batch(packaged, method):
    embedder = Embedder(packaged, method)
    together = embedder.encode(SENTENCES, normalize_embeddings=True)
    alone = np.stack([embedder.encode(sentence, normalize_embeddings=True) for sentence in SENTENCES])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.model
@pytest.mark.parametrize("method", ["mean", "prompteol", "pretended_cot"])
def test_the_packaged_model_agrees_with_transformers_alone(packaged, method):
    literal, _ = LITERAL[method]
    first = literal(packaged, prepare_sentence(SENTENCES[1]))
    found = Embedder(packaged, method).encode(SENTENCES, normalize_embeddings=True)[1]
    np.testing.assert_allclose(found, (first / first.norm()).numpy(), atol=1e-5)
