"""What a card may do differently: types, placement, optimiser, resuming. Runs on a card where there is one, else here.

Without one the same checks run on the CPU, so that they are known to work when a card comes.
"""

import math

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from safetensors.torch import load_file

from sempa_utils import models, training
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.objectives import OBJECTIVES
from sempa_utils.training import memory, trainer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = ["float32", "bfloat16", "nf4"]
# How far one sum of products may lie from another, relative to its length.
ROUNDING = {"float32": 1e-3, "bfloat16": 5e-2, "nf4": 1e-3 if DEVICE == "cpu" else 5e-2}
RECIPE = training.Recipe(micro_batch=4, save_every=8, learning_rate=1e-3, max_length=128)
on_a_card = pytest.mark.skipif(DEVICE == "cpu", reason="needs a card")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "Tiny"
    tiny_model(width=64).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(no_data):
    return corpora.load_triplets(limit=32, seed=1)


def load(folder, precision: str) -> models.LanguageModel:
    return models.load(str(folder), precision, device=DEVICE)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tree_and_stock_batches_have_the_same_loss_and_gradient(folder, corpus, tmp_path, precision):
    found = []
    for shared in (True, False):
        recipe = RECIPE.changed(shared_prefix=shared)
        made = trainer.make_trainer(load(folder, precision), corpus, recipe=recipe, folder=tmp_path)
        torch.manual_seed(3)
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        batch = made._prepare_inputs(made.data_collator([made.train_dataset[index] for index in range(4)]))
        made.model.train()
        with made.compute_loss_context_manager():
            loss = made.compute_loss(made.model, batch)
        loss.backward()
        trained = [one for one in made.model.parameters() if one.requires_grad]
        assert {one.device.type for one in trained} == {DEVICE} and {one.dtype for one in trained} == {torch.float32}
        found.append((loss.item(), torch.cat([one.grad.flatten() for one in trained])))
    (ours, own), (theirs, other) = found
    assert ours == pytest.approx(theirs, rel=ROUNDING[precision]) and other.norm() > 1e-3
    assert (own - other).norm() < ROUNDING[precision] * other.norm()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_held_to_the_base(folder, no_data, tmp_path, objective, precision):
    rows = corpora.load_nli(None, ranked=OBJECTIVES[objective].ranked).sample(16, 1)
    recipe = training.Recipe.make(objective, micro_batch=4, kl_weight=1.0, learning_rate=1e-3, max_length=128)
    record = training.train(load(folder, precision), rows, recipe=recipe, folder=tmp_path / "run")
    assert record.steps == 4 and all(math.isfinite(point.loss) for point in record.curve)
    assert record.curve[0].divergence == pytest.approx(0, abs=1e-2) and record.peak_memory_bytes > 0
    assert all(
        value.dtype == torch.float32 for value in load_file(record.adapter / "adapter_model.safetensors").values()
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(folder, corpus, tmp_path, precision):
    class Interruption(Exception):
        pass

    def stop(self, args, state, control, **_):
        if state.global_step == 5:
            raise Interruption

    def run(name: str) -> dict[str, torch.Tensor]:
        record = training.train(load(folder, precision), corpus, recipe=RECIPE, folder=tmp_path / name)
        return load_file(record.adapter / "adapter_model.safetensors")

    whole = run("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Bookkeeper, "on_step_end", stop)
        with pytest.raises(Interruption):
            run("resumed")
    for name, value in run("resumed").items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_vector_does_not_depend_on_its_batch_nor_on_the_device(folder, precision):
    texts = ["The shop opens at nine.", "No.", "You can go in from nine o'clock, if the door is not locked."]
    embedder = Embedder(load(folder, precision))
    together, alone = embedder.encode(texts), np.stack([embedder.encode(text) for text in texts])
    on_cpu = Embedder(models.load(str(folder), precision, device="cpu")).encode(texts)
    for other in (alone, on_cpu):
        assert (together * other).sum(1) / np.linalg.norm(together, axis=1) / np.linalg.norm(other, axis=1) == (
            pytest.approx(np.ones(3), abs=ROUNDING[precision])
        )


@on_a_card
def test_paged_adamw_trains_as_adamw_does(folder, corpus, tmp_path):
    finals = []
    for optimizer in ("adamw_torch", "paged_adamw_8bit"):
        recipe = RECIPE.changed(optimizer=optimizer)
        record = training.train(load(folder, "nf4"), corpus, recipe=recipe, folder=tmp_path / optimizer)
        finals.append(record.last_quarter.loss)
    assert finals[1] == pytest.approx(finals[0], abs=0.05)


@on_a_card
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_plan_is_within_15_percent_of_the_peak(folder, corpus, tmp_path, checkpointing):
    language_model = models.load("packaged", "nf4")
    recipe = training.Recipe(micro_batch=8, gradient_checkpointing=checkpointing)
    record = training.train(language_model, corpus.sample(16, 1), recipe=recipe, folder=tmp_path / "run")
    planned = memory.total(memory.plan(memory.shape("packaged"), "nf4", recipe=recipe))
    assert record.peak_memory_bytes == pytest.approx(planned, rel=0.15)
