"""Training: stock and tree batches agree, runs resume exactly, the base stays as it was."""

import inspect
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from sempa_utils import models, profiles, training
from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.records import CurvePoint, TrainingRecord, plain
from sempa_utils.training import trainer

RECIPE = training.Recipe(micro_batch=4, save_every=8, learning_rate=1e-3, max_length=128)


@pytest.fixture
def corpus(no_data):
    return corpora.load_triplets(limit=32, seed=1)


def fresh() -> models.LanguageModel:
    return models.wrap(tiny_model(), tiny_tokenizer(), name="tiny")


def weights(record: TrainingRecord) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(f"{record.adapter}/adapter_model.safetensors")


def run(corpus, folder, recipe=RECIPE, **keywords) -> TrainingRecord:
    return training.train(fresh(), corpus, recipe=recipe, folder=folder, **keywords)


def test_a_run_starts_at_ln_2_learns_and_leaves_an_adapter_and_a_record(corpus, tmp_path):
    record = run(corpus, tmp_path / "run", RECIPE.changed(epochs=3))
    losses = [point.loss for point in record.curve]
    assert abs(losses[0] - math.log(2)) < 1e-6
    assert sum(losses[-8:]) / 8 < 0.6
    assert record.steps == 24 and len(losses) == 24
    assert record.triplets_per_second > 0 and record.peak_memory_bytes > 1e7
    assert record.curve[-1].margin > 0
    # Seven linear layers in each of two blocks, and nothing of the head or the embedding.
    names = {name.rsplit(".lora_", 1)[0] for name in weights(record)}
    assert len(names) == 14 and not any("lm_head" in name or "embed" in name for name in names)
    assert json.loads((tmp_path / "run" / training.RECORD).read_text(encoding="utf8"))["fingerprint"]


@pytest.mark.parametrize("template", ["keep_same_meaning", "prompteol"])
def test_tree_and_stock_batches_train_to_the_same_weights(corpus, tmp_path, template):
    recipe = RECIPE.changed(epochs=3, template=template)
    tree = run(corpus, tmp_path / "tree", recipe)
    stock = run(corpus, tmp_path / "stock", recipe.changed(shared_prefix=False))
    assert tree.steps == stock.steps == 24
    for ours, theirs in zip(tree.curve, stock.curve):
        for name in ("loss", "margin", "chosen_reward", "rejected_reward", "gradient_norm"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-3, abs=1e-4), name
    own, other = weights(tree), weights(stock)
    assert own.keys() == other.keys()
    for name in own:
        assert (own[name] - other[name]).norm() <= 1e-3 * other[name].norm().clamp(min=1e-3)


def test_gradients_of_tree_and_stock_loss_agree(corpus, tmp_path):
    found = []
    for shared in (True, False):
        made = trainer.make_trainer(fresh(), corpus, recipe=RECIPE.changed(shared_prefix=shared), folder=tmp_path)
        torch.manual_seed(3)
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        batch = made.data_collator([made.train_dataset[index] for index in range(6)])
        made.model.train()
        made.compute_loss(made.model, batch).backward()
        found.append(torch.cat([p.grad.flatten() for p in made.model.parameters() if p.requires_grad]))
    assert found[1].norm() > 1e-3
    assert (found[0] - found[1]).norm() < 1e-4 * found[1].norm()


def test_the_base_model_is_given_back_as_it_was(corpus, tmp_path):
    base = fresh()
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    vector = Embedder(base).encode("The kettle is on.")
    recipe = RECIPE.changed(gradient_checkpointing=True)
    training.train(base, corpus, recipe=recipe, folder=tmp_path / "run")
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not base.model.training and "forward" not in base.model.__dict__
    assert (Embedder(base).encode("The kettle is on.") == vector).all()


def test_only_adapter_weights_are_trained(corpus, tmp_path):
    made = trainer.make_trainer(fresh(), corpus, recipe=RECIPE, folder=tmp_path)
    trained = {name: p for name, p in made.model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())


class Interruption(Exception):
    pass


def test_an_interrupted_run_resumes_to_the_same_weights(corpus, tmp_path, monkeypatch):
    through = run(corpus, tmp_path / "through")

    def stop(self, args, state, control, **_):
        if state.global_step == 5:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Bookkeeper, "on_step_end", stop)
        with pytest.raises(Interruption):
            run(corpus, tmp_path / "resumed")
    assert training.last_whole_checkpoint(tmp_path / "resumed").name == "checkpoint-4"
    assert training.read_record(tmp_path / "resumed") is None
    resumed = run(corpus, tmp_path / "resumed")
    assert resumed.resumed_from_step == 4 and resumed.triplets_per_second is None
    assert [point.step for point in resumed.curve] == list(range(1, 9))
    for name, value in weights(through).items():
        assert torch.equal(value, weights(resumed)[name])


def test_a_half_written_checkpoint_is_not_resumed_from(corpus, tmp_path):
    through = run(corpus, tmp_path / "run")
    (tmp_path / "run" / training.RECORD).unlink()
    for step in (6, 8):
        (tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" / training.WHOLE).unlink()
    (tmp_path / "run" / "checkpoints" / "checkpoint-8" / "optimizer.pt").write_bytes(b"cut off")
    expected = weights(through)
    resumed = run(corpus, tmp_path / "run")
    assert resumed.resumed_from_step == 4
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in expected.items())


def test_a_killed_process_resumes_to_the_same_weights(corpus, tmp_path):
    through = run(corpus, tmp_path / "through")
    script = """
import sys
sys.path.insert(0, "tests")
from test_training import RECIPE, fresh
from sempa_utils.data import corpora
from sempa_utils import training
training.train(fresh(), corpora.load_triplets(limit=32, seed=1), recipe=RECIPE, folder=sys.argv[1])
"""
    surroundings = {name: value for name, value in os.environ.items() if name != "SEMPA_DATA_DIR"}
    surroundings |= {"SEMPA_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "killed")],
        env=surroundings,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parent.parent,
    )
    while not training.last_whole_checkpoint(tmp_path / "killed") and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert training.last_whole_checkpoint(tmp_path / "killed"), "the process must have come to a checkpoint"
    resumed = run(corpus, tmp_path / "killed")
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(through).items())


def test_a_finished_run_is_found_and_not_trained_again(corpus, tmp_path, monkeypatch):
    record = run(corpus, tmp_path / "run")
    monkeypatch.setattr(training.run, "make_trainer", lambda *_: pytest.fail("trained again"))
    assert run(corpus, tmp_path / "run") == record


def test_a_folder_of_another_run_is_refused_and_replaced_on_demand(corpus, tmp_path):
    first = run(corpus, tmp_path / "run")
    other = RECIPE.changed(beta=0.5)
    with pytest.raises(InputError, match="another run"):
        run(corpus, tmp_path / "run", other)
    assert training.read_record(tmp_path / "run") == first
    second = run(corpus, tmp_path / "run", other, resume=False)
    assert second.fingerprint != first.fingerprint


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(corpus, tmp_path):
    one, same, other = (
        run(corpus, tmp_path / name, RECIPE.changed(seed=seed)) for name, seed in (("a", 42), ("b", 42), ("c", 43))
    )
    assert all(torch.equal(value, weights(same)[name]) for name, value in weights(one).items())
    assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_accumulation_gives_the_steps_of_one_large_batch(corpus, tmp_path):
    large = run(corpus, tmp_path / "large", RECIPE.changed(micro_batch=8))
    split = run(corpus, tmp_path / "split", RECIPE.changed(micro_batch=2, accumulation=4))
    assert large.steps == split.steps == 4
    for one, other in zip(large.curve, split.curve):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        assert one.margin == pytest.approx(other.margin, abs=1e-4)


def test_a_loss_that_is_no_number_stops_the_run(corpus, tmp_path):
    with pytest.raises(InputError, match="loss is nan.*learning rate"):
        run(corpus, tmp_path / "run", RECIPE.changed(learning_rate=1e30))
    assert training.read_record(tmp_path / "run") is None


def test_no_space_is_found_before_the_first_step(corpus, tmp_path, monkeypatch):
    import shutil

    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(InputError, match="checkpoints of this run needs"):
        run(corpus, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("checkpoint-*"))


def test_an_answer_beyond_the_length_is_cut_at_its_end_as_in_stock(corpus, tmp_path):
    lengths = {}
    for shared in (True, False):
        recipe = RECIPE.changed(shared_prefix=shared, max_length=100)
        made = trainer.make_trainer(fresh(), corpus, recipe=recipe, folder=tmp_path)
        batch = made.data_collator(list(made.train_dataset)[:8])
        lengths[shared] = len(batch.policy[0].targets) if shared else int(batch["completion_mask"].sum())
    assert lengths[True] == lengths[False]


@pytest.mark.parametrize("change", [{"beta": 0}, {"learning_rate": -1}, {"micro_batch": 0}, {"template": "keep"}])
def test_a_recipe_that_cannot_work_is_refused(change):
    with pytest.raises(InputError):
        RECIPE.changed(**change)


@pytest.mark.parametrize(
    ("dtype", "switches"),
    [
        (torch.float32, {"bf16": False, "fp16": False}),
        (torch.bfloat16, {"bf16": True, "fp16": False}),
        (torch.float16, {"bf16": False, "fp16": True}),  # cards before Ampere
    ],
)
def test_autocast_follows_the_type_that_nf4_computes_in(tiny, monkeypatch, dtype, switches):
    monkeypatch.setattr("sempa_utils.models.precision.compute_dtype", lambda _: dtype)
    assert models.mixed_precision(replace(tiny, precision="nf4")) == switches


def test_a_step_that_float16_skips_does_not_break_the_record():
    logged = {"margins": 0.2, "accuracies": 0.75, "chosen": 0.1, "rejected": -0.1}
    entry = {"step": 3, "loss": 0.5, "learning_rate": 1e-4, "grad_norm": math.inf}
    point = trainer._point(entry | {f"rewards/{name}": value for name, value in logged.items()})
    assert point == CurvePoint(3, 0.5, 0.2, 0.75, 0.1, -0.1, 1e-4, gradient_norm=None)
    assert "gradient_norm" not in json.dumps(plain(point), allow_nan=False)


def test_gradient_checkpointing_changes_no_weight(corpus, tmp_path):
    plain = run(corpus, tmp_path / "plain")
    saving = run(corpus, tmp_path / "saving", RECIPE.changed(gradient_checkpointing=True))
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(saving)[name], value, rtol=1e-5, atol=1e-7)


def test_a_profile_that_wants_more_rows_than_there_are_still_holds_some_out(no_data, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_: fresh())
    monkeypatch.setattr(training.run, "train", lambda _, corpus, *__, **___: {"rows": len(corpus)})
    for name in ("cpu", "t4", "24gb", "paper"):
        record, rows, held_out = training.train_profile(profile=profiles.get(name))
        assert len(held_out) >= 60 and len(rows) >= 96 and record["rows"] == len(rows)
        assert not {row.anchor for row in rows.rows} & {row.anchor for row in held_out.rows}


def test_the_committed_run_on_real_triplets_meets_its_marks():
    record = json.loads((Path(__file__).parent.parent / "results" / "train_pairwise_512.json").read_text("utf8"))
    figures = record["figures"]
    assert record["model"]["precision"] == "nf4" and record["data"]["rows"] == 512
    assert abs(figures["curve"][0]["loss"] - math.log(2)) < 1e-3
    assert figures["last_quarter"]["loss"] < 0.62


def test_the_recipe_is_the_papers():
    recipe = training.Recipe.of_profile(profiles.get("paper"))
    lora = training.lora_config(recipe)
    assert (lora.r, lora.lora_alpha, lora.target_modules) == (8, 32, "all-linear")
    assert (recipe.objective.beta, recipe.learning_rate, recipe.warmup_share, recipe.epochs) == (0.1, 1e-4, 0.05, 1)
    assert (recipe.batch, recipe.max_length, recipe.save_every) == (256, 1024, 20_000)


def test_rate_and_kl_weight_follow_model_and_rows():
    profile, fits = profiles.get("cpu"), training.recipe.FITS
    for objective in ("pairwise", "contrastive"):
        paper = training.Recipe.of_profile(profile, objective)
        for fit in fits:
            found = training.Recipe.fitted(profile, objective, parameters=fit.parameters, rows=fit.rows)
            assert found == paper.changed(learning_rate=fit.learning_rate, kl_weight=fit.kl_weight)
        largest = {"parameters": max(fit.parameters for fit in fits), "rows": max(fit.rows for fit in fits)}
        for one in largest:
            beyond = largest | {one: largest[one] + 1}
            assert training.Recipe.fitted(profile, objective, **beyond) == paper
    # The more rows, the lower the rate: a line of the table is never behind a wider one.
    assert list(fits) == sorted(fits) and [fit.learning_rate for fit in fits] == sorted(
        (fit.learning_rate for fit in fits), reverse=True
    )
    small = {"parameters": 1, "rows": 1}
    given = training.Recipe.fitted(profile, **small, learning_rate=3e-4, kl_weight=0.0)
    assert (given.learning_rate, given.kl_weight) == (3e-4, 0.0), "what is given goes before"
    stock = training.Recipe.fitted(profile, **small, shared_prefix=False)
    assert stock == training.Recipe.of_profile(profile, shared_prefix=False), "no KL term there, so no higher rate"


def test_every_keyword_we_pass_is_known_to_the_libraries():
    # A keyword that a new release dropped is found here and not in the middle of a run.
    import re

    from peft import LoraConfig, PeftModel
    from transformers import LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer

    source = inspect.getsource(trainer.make_trainer)
    passed = set(re.findall(r"^\s{8}(\w+)=", source, flags=re.MULTILINE))
    known = set(inspect.signature(DPOConfig).parameters)
    assert len(passed) > 20 and passed <= known
    assert {"model", "args", "train_dataset", "processing_class", "peft_config", "callbacks"} <= set(
        inspect.signature(DPOTrainer).parameters
    )
    assert {"r", "lora_alpha", "lora_dropout", "target_modules", "task_type"} <= set(
        inspect.signature(LoraConfig).parameters
    )
    assert {"position_ids", "logits_to_keep", "attention_mask"} <= set(
        inspect.signature(LlamaForCausalLM.forward).parameters
    )
    assert "save_embedding_layers" in inspect.signature(PeftModel.save_pretrained).parameters
    assert hasattr(DPOTrainer, "_compute_loss")


@pytest.mark.model
def test_nf4_training_of_the_packaged_model(tmp_path):
    """Real triplets where there are some, else the mini corpus: ln 2 at first, lower later, same vectors again."""
    rows = corpora.load_triplets(os.environ.get("SEMPA_DATA_DIR"), limit=64, seed=42)
    base = models.load(precision="nf4")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    recipe = training.Recipe(micro_batch=8, learning_rate=3e-4)
    record = training.train(base, rows, recipe=recipe, folder=tmp_path / "run")
    losses = [point.loss for point in record.curve]
    assert abs(losses[0] - math.log(2)) < 1e-3
    assert sum(losses[-3:]) / 3 < 0.67
    after = base.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    sentences = ["The kettle is on.", "A parcel stood in the hall."]
    plain = Embedder(base).encode(sentences)
    with models.adapted(base, record.adapter) as adapted:
        moved = Embedder(adapted).encode(sentences)
    again = Embedder(models.load(precision="nf4", adapter=record.adapter)).encode(sentences)
    assert abs(again - moved).max() < 1e-5
    assert abs(moved - plain).max() > 1e-3


def test_two_processes_train_the_curve_of_one(corpus, tmp_path):
    """Two gloo processes on the CPU, at the same effective batch; torchrun starts them as accelerate would on GPUs."""
    script = tmp_path / "launch.py"
    script.write_text(
        """
import sys
sys.path[:0] = ["tests", "."]
from test_training import RECIPE, fresh
from sempa_utils.data import corpora
from sempa_utils.training import trainer
from sempa_utils import training
assert trainer.processes().num_processes == int(sys.argv[1].rsplit("/")[-1])
rows = corpora.load_ranked_nli(limit=32, seed=1)
for objective in ("pairwise", "one_word"):
    recipe = RECIPE.changed(objective=objective, accumulation=2, chunk=3, epochs=2)
    training.train(fresh(), rows, recipe=recipe, folder=sys.argv[1] + "/" + objective)
""",
        encoding="utf8",
    )
    surroundings = {name: value for name, value in os.environ.items() if name != "SEMPA_DATA_DIR"}
    surroundings |= {"SEMPA_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    for processes in ("1", "2"):
        command = [*launch, processes, str(script), str(tmp_path / processes)]
        done = subprocess.run(
            command, env=surroundings, cwd=Path(__file__).parent.parent, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
    for objective in ("pairwise", "one_word"):
        one, two = (training.read_record(tmp_path / processes / objective) for processes in ("1", "2"))
        assert one.steps == two.steps == 8
        for ours, theirs in zip(one.curve, two.curve, strict=True):
            for name in ("loss", "margin", "gradient_norm"):
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-4), (objective, name)
        for name, value in weights(one).items():
            torch.testing.assert_close(weights(two)[name], value, rtol=1e-3, atol=1e-5)


def test_processes_that_cannot_share_a_batch_are_refused(corpus, tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(trainer, "processes", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(InputError, match="multiple of 2"):
        trainer.check(fresh(), corpus, recipe=RECIPE)


def test_a_watcher_sees_the_curve_grow(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_CURVES", -1)
    seen = []
    record = run(corpus, tmp_path / "run", on_curve=seen.append)
    assert [len(part.curve) for part in seen] == list(range(1, 9))
    assert seen[-1].curve == record.curve and seen[0].candidates == 2
    assert seen[0].recipe == record.recipe and seen[0].objective == "pairwise"


def test_a_full_gpu_gets_advice_by_numbers(corpus, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    base = fresh()
    monkeypatch.setattr("transformers.Trainer.train", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 2_200_000))
    recipe = RECIPE.changed(micro_batch=8)
    with pytest.raises(InputError, match=r"memory is full.*8 in float32 need [\d.]+ GiB.*micro_batch=[124]\b"):
        training.train(base, corpus, recipe=recipe, folder=tmp_path / "run")
    assert not any("lora_" in name for name, _ in base.model.named_parameters())
