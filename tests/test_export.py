"""Export: sentence-transformers gives the Embedder's vectors, from a folder without code; baselines; MTEB."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from sempa_utils import models
from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.data.templates import EXTRACTION_TEMPLATES, fill, prepare_sentence
from sempa_utils.embedding import Embedder
from sempa_utils.embedding.export import EXPORTABLE, _tokenizer, export, load_baseline
from sempa_utils.evaluation import sts

pytest.importorskip("sentence_transformers", reason='pip install -e ".[evaluation]"')

SENTENCES = [
    "The kettle is on.",
    "",
    'He said "no" twice?',
    "She left before the second half, although nobody had asked her to go home that early in the evening",
    "Two emoji 🙂🙃!",
    "قال إن المطر سيتوقف غدا",
    "a line\nanother\n\n\tand a tab ",
    "{x} {{ x }} {% if %}",
    "<|im_end|>",
    "http://a.b/picture.png",
    "a.mp4",
    "0",
]
LONG = "The same walk every day, past the mill. " * 100


@pytest.fixture
def adapted(tmp_path):
    """The tiny model with an adapter that moves its vectors."""
    from peft import LoraConfig, get_peft_model

    base = models.wrap(tiny_model(), tiny_tokenizer(), name="tiny")
    model = get_peft_model(base.model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = models.save_adapter(replace(base, model=model.eval()), tmp_path / "adapter")
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return models.load(str(tmp_path / "tiny"), adapter=folder)


def load(folder):
    """Load as anybody would: nothing of this kit, no trust, no network."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=False)


@pytest.mark.parametrize("method", EXPORTABLE)
def test_the_vectors_are_the_embedders(tiny, tmp_path, method):
    expected = Embedder(tiny, method).encode(SENTENCES)
    model = load(export(tiny, tmp_path / "model", method=method))
    for batch_size in (1, 4, 32):
        np.testing.assert_allclose(model.encode(SENTENCES, batch_size=batch_size), expected, rtol=0, atol=1e-5)
    assert model.similarity_fn_name == "cosine"
    assert model.max_seq_length == 512


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_is_merged_or_kept_beside(tiny, adapted, tmp_path, merge):
    expected = Embedder(adapted).encode(SENTENCES)
    assert np.abs(expected - Embedder(tiny).encode(SENTENCES)).max() > 0.1, "the adapter does something"
    folder = export(adapted, tmp_path / "model", merge=merge)
    np.testing.assert_allclose(load(folder).encode(SENTENCES), expected, rtol=0, atol=1e-5)
    assert (folder / "adapter").exists() != merge
    np.testing.assert_array_equal(Embedder(adapted).encode(SENTENCES), expected, "the model handed over is as before")


KINDS = {
    "weight-decomposed": {"use_dora": True},
    "whole embedding table": {"modules_to_save": ["embed_tokens"]},
    "some tokens": {"trainable_token_indices": [5, 6, 300]},
    "biases too": {"bias": "lora_only"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_survives_or_is_refused(tmp_path, kind):
    from peft import LoraConfig, get_peft_model

    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", **KINDS[kind])
    model = get_peft_model(tiny_model(), config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    adapted = models.load(str(tmp_path / "tiny"), adapter=tmp_path / "adapter")
    expected = Embedder(adapted).encode(SENTENCES)
    np.testing.assert_allclose(
        load(export(adapted, tmp_path / "merged")).encode(SENTENCES), expected, rtol=0, atol=1e-5
    )
    if kind == "weight-decomposed":  # transformers loads such an adapter without its magnitudes
        with pytest.raises(InputError, match="read back.*leave out --beside"):
            export(adapted, tmp_path / "beside", merge=False)
        assert not (tmp_path / "beside").exists()
    else:
        folder = export(adapted, tmp_path / "beside", merge=False)
        np.testing.assert_allclose(load(folder).encode(SENTENCES), expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(Embedder(adapted).encode(SENTENCES), expected, "the model handed over is as before")


def test_a_model_saved_again_is_the_same(adapted, tmp_path):
    model = load(export(adapted, tmp_path / "model"))
    model.save_pretrained(str(tmp_path / "again"))
    again = load(tmp_path / "again")
    np.testing.assert_array_equal(again.encode(SENTENCES), model.encode(SENTENCES))
    assert again.similarity_fn_name == "cosine"
    assert (tmp_path / "again" / "README.md").read_text() == (tmp_path / "model" / "README.md").read_text()


def test_a_folder_holds_neither_code_nor_paths_and_may_be_moved(adapted, tmp_path):
    folder = export(adapted, tmp_path / "model", merge=False)
    expected = Embedder(adapted).encode(SENTENCES)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".jinja", ".md", ".safetensors"}
    for path in files:
        assert path.suffix == ".safetensors" or str(tmp_path) not in path.read_text(encoding="utf8")
    types = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    assert all(name.startswith("sentence_transformers.") for name in types)
    card = (folder / "README.md").read_text(encoding="utf8")
    assert "tiny" in card and "prompteol" in card and adapted.adapter in card
    np.testing.assert_allclose(load(folder.rename(tmp_path / "moved")).encode(SENTENCES), expected, rtol=0, atol=1e-5)


def test_an_over_long_sentence_is_cut_inside_the_template(tiny, tmp_path):
    tokenizer, template = tiny.tokenizer, EXTRACTION_TEMPLATES["prompteol"]
    ids = tokenizer(fill(template, prepare_sentence(LONG)))["input_ids"]
    end = len(tokenizer('." means in one word:"')["input_ids"])
    assert len(ids) > 600 and tokenizer.decode(ids[-end:]) == '." means in one word:"'
    with torch.no_grad():
        cut = torch.tensor([ids[: 512 - end] + ids[-end:]])
        expected = tiny.model(cut, output_hidden_states=True).hidden_states[-1][0, -1]
    model = load(export(tiny, tmp_path / "model"))
    vectors = model.encode([SENTENCES[0], LONG, LONG + "And home."])
    np.testing.assert_allclose(vectors[1:], [expected, expected], rtol=0, atol=1e-5)
    embedder = Embedder(tiny)
    np.testing.assert_allclose(vectors, embedder.encode([SENTENCES[0], LONG, LONG + "And home."]), rtol=0, atol=1e-5)
    assert embedder.truncated == 2


def test_a_sentence_that_just_fits_is_not_cut(tiny, tmp_path):
    def length(count: int) -> int:
        return len(tiny.tokenizer(fill(EXTRACTION_TEMPLATES["prompteol"], "a" + " a" * count + "."))["input_ids"])

    count = 512 - length(0)
    assert length(count) == 512
    embedder, model = Embedder(tiny), load(export(tiny, tmp_path / "model"))
    for text in ("a" + " a" * count, "a" + " a" * (count - 1)):
        np.testing.assert_allclose(model.encode([text]), embedder.encode([text]), rtol=0, atol=1e-5)
    assert embedder.truncated == 0


def test_a_prompt_stands_before_the_sentence(tiny, tmp_path):
    model = load(export(tiny, tmp_path / "model"))
    vectors = model.encode(SENTENCES, prompt="Subject: ")
    expected = Embedder(tiny).encode(["Subject: " + sentence for sentence in SENTENCES])
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_the_chat_template_prepares_a_sentence_as_we_do(text):
    for method, tokenizer in TOKENIZERS.items():
        chat = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
        assert chat == fill(EXTRACTION_TEMPLATES[method], prepare_sentence(text))


def test_a_begin_token_is_kept(tiny, tmp_path):
    _add_special_tokens(tiny.tokenizer, "<|im_start|> $A")
    assert tiny.tokenizer("x")["input_ids"][0] == tiny.tokenizer.convert_tokens_to_ids("<|im_start|>")
    model = load(export(tiny, tmp_path / "model"))
    np.testing.assert_allclose(model.encode(SENTENCES), Embedder(tiny).encode(SENTENCES), rtol=0, atol=1e-5)


def test_a_tokenizer_that_reads_a_chat_otherwise_is_refused(tiny, tmp_path):
    _add_special_tokens(tiny.tokenizer, "$A <|im_end|>")
    with pytest.raises(InputError, match="tiny: the tokenizer"):
        export(tiny, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_bfloat16_stays_bfloat16(tiny, tmp_path):
    half = replace(tiny, model=tiny.model.bfloat16(), precision="bfloat16")
    model = load(export(half, tmp_path / "model"))
    assert model.dtype == torch.bfloat16
    similarity = Embedder(half).similarity(model.encode(SENTENCES), Embedder(half).encode(SENTENCES))
    assert similarity.diagonal().min() > 0.999


@pytest.mark.parametrize("method", ["mean", "PromptEOL"])
def test_other_methods_are_refused(tiny, tmp_path, method):
    with pytest.raises(InputError, match="prompteol and pretended_cot"):
        export(tiny, tmp_path / "model", method=method)


@pytest.mark.parametrize("merge", [True, False])
def test_nf4_weights_are_refused(tiny, tmp_path, merge):
    with pytest.raises(InputError, match="NF4.*float32 or bfloat16"):
        export(replace(tiny, precision="nf4"), tmp_path / "model", merge=merge)


def test_a_folder_with_other_things_is_left_alone(tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="something else"):
        export(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_export_that_fails_leaves_the_older_one(tiny, tmp_path, monkeypatch):
    folder = export(tiny, tmp_path / "model")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("sempa_utils.embedding.export._settings", lambda *_: {"modules.json": object()})
    with pytest.raises(TypeError):
        export(tiny, folder, method="pretended_cot")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_mteb_gives_our_figure(tiny, tmp_path):
    mteb = pytest.importorskip("mteb")
    pairs = corpora.load_sts(corpora.MINI_STS).rows
    task = _mteb_task(pairs)
    model = load(export(tiny, tmp_path / "model"))
    found = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    ours = sts.spearman(sts.pair_similarities(Embedder(tiny).encode, pairs), [pair.score for pair in pairs])
    assert found[0].scores["test"][0]["main_score"] * 100 == pytest.approx(ours, abs=1e-4)


@pytest.mark.model
def test_the_packaged_model_is_the_same_in_sentence_transformers(packaged, tmp_path):
    expected = Embedder(packaged).encode(SENTENCES, normalize_embeddings=True)
    model = load(export(packaged, tmp_path / "model"))
    found = model.encode(SENTENCES, batch_size=5, normalize_embeddings=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_baseline_is_scored_as_our_methods_are(tiny, tmp_path):
    baseline = load_baseline(export(tiny, tmp_path / "model"))
    vectors = baseline.encode(SENTENCES, batch_size=2, show_progress_bar=False)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, Embedder(tiny).encode(SENTENCES), rtol=0, atol=1e-5)
    tasks = sts.load_tasks([corpora.MINI_STS])
    theirs, ours = (sts.row_scores(sts.evaluate(embedder, tasks)) for embedder in (baseline, Embedder(tiny)))
    assert theirs.mean.value == pytest.approx(ours.mean.value, abs=1e-3)


def test_a_baseline_is_described_without_a_path(tmp_path):
    described = load_baseline(_static_model(tmp_path / "words")).describe()
    fingerprint = described.pop("fingerprint")
    assert len(fingerprint) == 16
    assert described == {"name": "words", "precision": "float32", "adapter": None, "parameters": 600 * 8}


def test_the_fingerprint_tells_any_weight_and_any_template(tiny, tmp_path):
    first = load_baseline(_static_model(tmp_path / "first")).fingerprint
    assert load_baseline(_static_model(tmp_path / "second")).fingerprint == first
    assert load_baseline(_static_model(tmp_path / "third", add=1e-3)).fingerprint != first
    one, two = (load_baseline(export(tiny, tmp_path / method, method=method)).fingerprint for method in EXPORTABLE)
    assert one != two


def test_what_is_no_baseline_is_refused(tiny, tmp_path):
    tiny.model.save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="plain: no modules.json"):
        load_baseline(tmp_path / "plain")
    with pytest.raises(InputError, match="nobody/nothing.*Name a folder"):
        load_baseline("nobody/nothing")
    folder = export(tiny, tmp_path / "code")
    (folder / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "strange.Module"}]')
    with pytest.raises(InputError, match="strange.Module.*Name a folder"):
        load_baseline(folder)


def test_without_sentence_transformers_a_baseline_says_what_to_install(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install sentence-transformers==\d"):
        load_baseline("any")
    assert (export(tiny, tmp_path / "model") / "modules.json").is_file(), "to export needs none of it"


def _add_special_tokens(tokenizer, template: str) -> None:
    from tokenizers.processors import TemplateProcessing

    tokens = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|im_start|>", "<|im_end|>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=tokens)


def _static_model(folder, add: float = 0.0):
    """Save a SentenceTransformer of another kind: a vector per word."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    table = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    table[-1, -1] += add
    module = StaticEmbedding(tiny_tokenizer().backend_tokenizer, embedding_weights=table)
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def _mteb_task(pairs):
    """Return an STS task of MTEB's that holds `pairs`, with nothing to fetch."""
    from datasets import Dataset
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    class MiniSTS(AbsTaskSTS):
        metadata = TaskMetadata(
            name="MiniSTS",
            description="The packaged pairs.",
            dataset={"path": "none/none", "revision": "1"},
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
        )

    task = MiniSTS()
    columns = {"sentence1": "first", "sentence2": "second", "score": "score"}
    task.dataset = {"test": Dataset.from_dict({to: [getattr(p, of) for p in pairs] for to, of in columns.items()})}
    task.data_loaded = True
    return task


def _tokenizers():
    tiny = models.wrap(tiny_model(), tiny_tokenizer(), name="tiny")
    return {method: _tokenizer(tiny, method, 512) for method in EXPORTABLE}


TOKENIZERS = _tokenizers()
