"""The analyses: each figure is what scoring that adapter by hand gives, and nothing is trained twice."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from sempa_utils import models, profiles, records, training
from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.data.templates import PARAPHRASE_TEMPLATES
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import sts
from sempa_utils.experiments import analyses
from sempa_utils.experiments.series import Setting, each_model
from sempa_utils.records import CurveMean, RowScores, TrainingRecord

# Three steps: checkpoints at the second, and at the third, whose rows are fewer.
PROFILE = replace(profiles.get("smoke"), precision="float32", triplets=10, save_every=8, sts_pairs=40)
SETTING = Setting(profile=PROFILE)


tokenizer = functools.cache(tiny_tokenizer)


def fresh(*_) -> models.LanguageModel:
    return models.wrap(tiny_model(), tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.fixture(autouse=True)
def tiny_everywhere(no_data, build, monkeypatch):
    """Each load gives the same tiny model; what is trained stays for this file's other tests."""
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(build))
    monkeypatch.setattr(models, "load", fresh)


def by_hand(adapter=None, method="prompteol", split="test", seed=42) -> float:
    pairs = corpora.load_sts(corpora.MINI_STS, split=split).sample(PROFILE.sts_pairs, seed)
    with models.adapted(fresh(), adapter) as model:
        return sts.score_task(Embedder(model, method).encode, pairs).score.value


def training_records(build) -> list[TrainingRecord]:
    return [training.read_record(path.parent) for path in Path(build).glob(f"adapters/*/{training.RECORD}")]


def move(adapter: Path, factor: float) -> None:
    """Make an adapter's change larger: three small steps hardly reorder the pairs."""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({key: factor * value for key, value in load_file(path).items()}, path, {"format": "pt"})


def test_a_cell_of_the_grid_is_the_score_of_that_adapter(build):
    found = analyses.template_grid(SETTING)
    figures = found.figures
    assert list(figures) == ["base", *PARAPHRASE_TEMPLATES]
    runs = [run for run in training_records(build) if run.recipe["seed"] == 42]
    adapters = {run.recipe["template"]: run.adapter for run in runs}
    assert set(adapters) == set(PARAPHRASE_TEMPLATES)
    assert {tuple(row) for row in figures.values()} == {("prompteol", "pretended_cot")}
    for label in ("base", "rewrite_preserving_main", "generate_plain"):
        for method, cell in figures[label].items():
            adapter = adapters.get(label)
            assert cell.mean == cell.tasks["mini-STS"]
            assert cell.mean.value == pytest.approx(by_hand(adapter, method), abs=1e-9) and cell.mean.count == 40
    assert len({cell.mean for row in figures.values() for cell in row.values()}) > 4, "adapters make a difference"
    # All templates saw the same rows by the same recipe.
    assert len({models.adapter_fingerprint(adapter) for adapter in adapters.values()}) == 5
    assert [one["rows"] for one in found.data] == [10, 40] and "template" not in found.settings
    assert found.settings["learning_rate"] == 2e-3 and len(found.settings["adapters"]) == 5
    assert "40 pairs a task" in found.headline


def test_findings_are_a_record_and_a_second_call_trains_nothing(build, tmp_path, monkeypatch):
    first = analyses.template_grid(SETTING)
    monkeypatch.setattr(training.run, "make_trainer", lambda *_: pytest.fail("trained again"))
    assert analyses.template_grid(SETTING) == first
    record = records.load_run(records.save_run(first, tmp_path), dict[str, dict[str, RowScores]])
    assert records.plain(record) == records.plain(first) and record.seed == 42
    # The default template's run is the one that `train_profile` leaves, and the other way round.
    run, _, _ = training.train_profile(profile=PROFILE)
    assert run.adapter_fingerprint == first.settings["adapters"][0]


@pytest.mark.parametrize("objective", ["one_word", "contrastive"])
def test_an_objective_without_a_paraphrase_has_no_grid(objective):
    with pytest.raises(InputError, match="no paraphrase.*pairwise, listwise, best_of_n"):
        analyses.template_grid(SETTING, objective=objective)


def test_the_curve_goes_from_the_base_over_the_checkpoints_to_the_final_adapter(build, tmp_path):
    found = analyses.data_size_curve(SETTING)
    run, _, _ = training.train_profile(profile=PROFILE)  # found, not trained
    assert run.adapter_fingerprint in found.settings["adapters"]
    folder = shutil.copytree(run.adapter.parent, tmp_path / "run")
    whole = sorted((folder / "checkpoints").glob(f"*/{training.WHOLE}"))
    assert [mark.parent.name for mark in whole] == ["checkpoint-2", "checkpoint-3"]
    # The last checkpoint is the final adapter: no double point. Its third batch had two rows of four.
    assert [point.triplets for point in found.figures.points] == [0, 8, 10]
    for adapter, factor in ((whole[0].parent, 3.0), (folder / "adapter", 6.0)):
        move(adapter, factor)
    figures = analyses.data_size_curve(SETTING, folder=folder).figures
    for point, adapter in zip(figures.points, (None, whole[0].parent, folder / "adapter"), strict=True):
        assert point.test.mean == point.test.tasks["mini-STS"]
        assert point.test.mean.value == pytest.approx(by_hand(adapter), abs=1e-9)
        assert point.dev == pytest.approx(by_hand(adapter, split="dev"), abs=1e-9)
    assert len({point.test.mean for point in figures.points}) == 3 and figures.dev_task == "mini-STS"
    # A checkpoint that was cut off is none.
    whole[0].unlink()
    shorter = analyses.data_size_curve(SETTING, folder=folder).figures.points
    assert [point.triplets for point in shorter] == [0, 10]


def test_checkpoints_before_the_end_each_give_a_point(tmp_path):
    run = TrainingRecord(
        adapter=tmp_path / "adapter",
        recipe={"micro_batch": 4, "accumulation": 2, "epochs": 2},
        data={"rows": 21},
        rows_too_long=1,
        steps=6,
        curve=[],
        fingerprint="",
        model={},
        last_quarter=CurveMean(0.0, 0.0, 0.0),
        trainable_parameters=0,
        seconds=0.0,
        peak_memory_bytes=0,
        resumed_from_step=0,
        adapter_fingerprint="",
    )
    for step in (1, 3, 4, 10):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if step < 10:
            (folder / training.WHOLE).touch()
    found = training.adapters_by_rows(run)
    # 20 rows make three steps an epoch, the third of four rows.
    assert list(found) == [8, 20, 28, 40] and len(found) + 1 == 3 + 2  # with the base
    assert [path.name for path in found.values()] == ["checkpoint-1", "checkpoint-3", "checkpoint-4", "adapter"]


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: no finished run.*--output"):
        analyses.data_size_curve(SETTING, folder=tmp_path / "nowhere")
    (tmp_path / training.RUN).write_text(json.dumps({"fingerprint": "0"}), encoding="utf8")
    with pytest.raises(InputError, match="no finished run"):
        analyses.data_size_curve(SETTING, folder=tmp_path)


def test_a_run_of_another_base_is_refused(tmp_path, monkeypatch):
    run, _, _ = training.train_profile(profile=PROFILE)
    other = models.wrap(tiny_model(seed=1), tokenizer(), name="other")
    monkeypatch.setattr(models, "load", lambda *_: other)
    with pytest.raises(InputError, match="another base model"):
        analyses.data_size_curve(SETTING, folder=run.adapter.parent)


def test_the_seeds_differ_and_their_spread_is_the_samples(build):
    found = analyses.seed_spread(SETTING, seeds=(42, 43, 44))
    spread = found.figures
    means = [scores.mean.value for scores in spread.runs.values()]
    assert list(spread.runs) == [42, 43, 44]
    assert spread.mean == pytest.approx(np.mean(means)) and spread.sd == pytest.approx(np.std(means, ddof=1))
    assert spread.sd > 0
    runs = [run for run in training_records(build) if run.recipe["template"] == "keep_same_meaning"]
    adapters = {run.recipe["seed"]: run.adapter for run in runs}
    for seed, scores in spread.runs.items():
        assert scores.mean == scores.tasks["mini-STS"]
        assert scores.mean.value == pytest.approx(by_hand(adapters[seed]), abs=1e-9)
    # Each seed draws its own rows; the pairs are the same for all.
    assert len({one["fingerprint"] for one in found.data}) == len(found.data) == 4
    assert found.seed == 42 and "seed" not in found.settings


def test_the_published_spread_is_the_samples_too():
    means = [row["Avg"] for row in records.published("table8_seeds")]
    assert (round(np.mean(means), 2), round(np.std(means, ddof=1), 2)) == (78.10, 0.36)


@pytest.mark.parametrize("seeds", [(), (42,), (42, 43, 42)])
def test_seeds_without_a_spread_are_refused(seeds):
    with pytest.raises(InputError, match="at least two seeds, all different"):
        analyses.seed_spread(SETTING, seeds=seeds)


def test_the_base_is_loaded_twice_alone_and_given_back_bare(monkeypatch):
    import weakref

    alive, most = [], []

    def load(*_):
        base = fresh()
        most.append(sum(one() is not None for one in alive))
        alive.append(weakref.ref(base.model))
        return base

    monkeypatch.setattr(models, "load", load)
    analyses.seed_spread(SETTING, seeds=(1, 2))
    assert most == [0, 0], "the training base is gone before the scoring base comes"

    base = fresh()
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    run, _, _ = training.train_profile(profile=PROFILE)
    for label, one in each_model(base, {0: None, 1: run.adapter, 2: run.adapter}):
        assert (one.adapter is None) == (label == 0)
    after = base.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_broken_data_is_found_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(FileNotFoundError, match="STS-B"):
        analyses.template_grid(SETTING, tasks=["STS-B"])
    with pytest.raises(InputError, match="mini-STS"):
        analyses.seed_spread(SETTING, tasks=["mini-ST"])
