"""Mixtures of experts: what is held, what is trained and what stays in full precision is measured and said."""

import pytest
import torch
from conftest import tiny_tokenizer
from families import random_model
from test_training import RECIPE

from sempa_utils import models, training
from sempa_utils.__main__ import main
from sempa_utils.data import corpora
from sempa_utils.models import experts


def saved(name: str, folder):
    random_model(name).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "name, train_router, line",
    [
        ("mixtral", False, "LoRA trains the experts, not the router"),
        ("mixtral", True, "LoRA trains the experts, the router"),
        ("gpt_oss", False, "LoRA trains not the experts, not the router"),
        ("llama", False, None),
    ],
)
def test_the_record_says_what_was_trained_and_the_router_is_held(no_data, tmp_path, name, train_router, line):
    base = models.load(saved(name, tmp_path / "base"))
    recipe = RECIPE.changed(micro_batch=4, learning_rate=1e-2, max_length=256, train_router=train_router)
    record = training.train(base, corpora.load_triplets(limit=8), recipe=recipe, folder=tmp_path / "run")
    assert record.model.get("experts") == line and record.recipe["train_router"] is train_router
    before = {key: value.clone() for key, value in base.model.state_dict().items() if key.endswith("gate.weight")}
    adapted = models.load(str(tmp_path / "base"), adapter=record.adapter)
    assert adapted.fingerprint == base.fingerprint
    merged = adapted.model.merge_and_unload().state_dict()
    for key, value in before.items():
        assert torch.equal(merged[key], value) == (not train_router), key
    moved = [key for key in merged if "experts" in key and not torch.equal(merged[key], base.model.state_dict()[key])]
    assert bool(moved) == (name == "mixtral")


def test_held_or_not_are_two_runs_and_older_runs_keep_their_names(tiny):
    corpus = corpora.load_triplets(limit=8)
    names = {training.run_fingerprint(tiny, corpus, recipe=RECIPE.changed(train_router=on)) for on in (False, True)}
    assert len(names) == 2 and "train_router" not in RECIPE.identity() and "train_router" in RECIPE.settings()


def test_what_nf4_leaves_is_said_before_and_after(tmp_path, capsys):
    folder = saved("mixtral", tmp_path / "base")
    assert main(["plan", "--model", folder, "--precision", "float32"]) == 0
    assert "NF4" not in capsys.readouterr().out
    assert main(["plan", "--model", folder, "--precision", "nf4"]) == 0
    said = "NF4 leaves the experts in full precision, 35 % of the weights"
    assert said in capsys.readouterr().out
    four = models.load(folder, "nf4")
    assert said in four.lines() and said in four.describe()["ways"]
    packed = [type(part).__name__ for part in four.model.modules()]
    assert "Linear4bit" in packed and sum(experts.stacked(four.model).values()) == 24576
    assert all(weight.dtype == torch.float32 for weight in four.model.parameters() if weight.ndim == 3)
    assert models.load(saved("llama", tmp_path / "plain"), "nf4").lines() == []


def test_an_adapter_around_an_adapter_leaves_the_bases_names(no_data):
    """PEFT wraps stacked experts twice; what lies below both is the base's under its own name."""
    from peft import get_peft_model

    base = random_model("mixtral")
    before = models.identity.base_digest(base), set(models.identity.base_parameters(base))
    adapted = get_peft_model(base, training.lora_config(RECIPE))
    assert (models.identity.base_digest(adapted), set(models.identity.base_parameters(adapted))) == before
