"""The benchmarks' own arithmetic: the bound they compare with, the random models and the other ways they time."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model

from sempa_utils import models, training
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.objectives import tokenised


def load_benchmark(name: str):
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


bench = load_benchmark("training")


def test_the_bound_counts_each_distinct_token_three_times(no_data, tiny):
    rows = corpora.load_triplets(limit=8, seed=1)
    recipe = training.Recipe(micro_batch=8, max_length=512)
    bound = bench.arithmetic_bound(tiny, rows, recipe)
    tokens = list(tokenised(recipe.objective, tiny.tokenizer, rows=rows.rows, max_length=512))
    [tree] = recipe.objective.batches(tokens, tiny.ways, chunk=8)
    tokens, answers = tree.input_ids.shape[1], len(tree.targets)
    linear = [m for m in tiny.model.modules() if isinstance(m, torch.nn.Linear) and m.out_features != 600]
    # Policy forward, its gradient by the states, reference forward: three products with each frozen weight.
    by_hand = 3 * 2 * (tokens * sum(m.weight.numel() for m in linear) + answers * 600 * 32)
    # Above that stand attention and the adapter, which weigh more in a model this small.
    assert 1.0 < 8 * bound["operations_per_triplet"] / by_hand < 4
    assert bound["triplets_per_second"] == pytest.approx(
        bound["operations_per_second"] / bound["operations_per_triplet"]
    )
    assert not any("lora_" in name for name, _ in tiny.model.named_parameters())


def test_random_weights_go_through_the_real_loading_path(no_data, tmp_path):
    tiny_model(width=64).save_pretrained(tmp_path / "shape")
    rows = corpora.load_triplets(limit=30, seed=1)
    with bench.random_weights(str(tmp_path / "shape"), rows) as folder:
        loaded = models.load(folder, "nf4")
    assert loaded.model.config.hidden_size == 64 and loaded.precision == "nf4"
    record = training.train(loaded, rows.sample(8, 1), recipe=training.Recipe(micro_batch=4), folder=tmp_path / "run")
    assert record.steps == 2


def test_the_authors_way_gives_the_same_vectors(no_data, tiny):
    embedding = load_benchmark("embedding")
    texts = [pair.first for pair in corpora.load_sts("mini-STS").rows[:40]]
    ours, theirs = Embedder(tiny).encode(texts), embedding.authors_way(tiny, texts)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert embedding.lowest_cosine(ours, theirs) > 0.9999
    theirs[7] = -theirs[7]
    assert embedding.lowest_cosine(ours, theirs) < -0.999


def test_both_sides_of_the_generation_benchmark_say_the_same(no_data, tiny, monkeypatch):
    generation = load_benchmark("generation")
    tiny.model.config.max_position_embeddings = 8192
    sides, record = generation.harness_sides(tiny, "truthfulqa", 2)
    figures = generation.timed(sides, 2)
    assert len(figures["repeats"]["harness"]) == 2 and figures["ratio"] > 0 and record["name"] == "truthfulqa"
    sampling = generation.signals.Sampling(max_new_tokens=4)
    monkeypatch.setattr(generation.signals, "Sampling", lambda: sampling)
    sides = generation.paraphrase_sides(tiny, ["The kettle is on.", "Rain fell.", "A dog barks."])
    ways = tiny.ways
    assert generation.timed(sides, 1)["seconds"].keys() == {"harness", "this kit"} and tiny.ways == ways
    with pytest.raises(AssertionError, match="1 of 2 answers differ"):
        generation.same(["a", "b"], ["a", "c"])
    with pytest.raises(AssertionError):
        generation.same([-1.0, -2.0], [-1.0, -2.1])


def test_growth_measures_each_run_once_and_draws_it(no_data, tiny, monkeypatch):
    growth = load_benchmark("growth")
    axes = {"rows": (2, 4), "micro_batch": (1, 2), "length": (1, 2), "size": ("small", "large")}
    start = growth.Run(rows=2, micro_batch=2, size="small")
    monkeypatch.setattr(growth, "AXES", axes)
    monkeypatch.setattr(growth, "START", start)
    made = {"small": tiny, "large": models.wrap(tiny_model(width=64), tiny.tokenizer, name="large")}
    monkeypatch.setattr(growth, "random_model", lambda size: dataclasses.replace(made[size], name=size))
    asked, train = [], training.train

    def counted(base, corpus, *, recipe, folder):
        asked.append((base.name, len(corpus), recipe.micro_batch, len(corpus.rows[0][0]), recipe.shared_prefix))
        return train(base, corpus, recipe=recipe, folder=folder)

    monkeypatch.setattr(growth.training, "train", counted)
    rows = corpora.load_triplets(limit=20, seed=1)
    figures = growth.measured(rows, list(axes), repeats=1)
    # Five runs of either kind, no two alike: the start is on every axis. Two more warm the models up.
    assert len(asked) == 2 + 2 * 5 and len(set(asked)) == len(asked)
    assert [point["at"] for point in figures["rows"]] == [2, 4]
    assert figures["length"][1]["at"] == pytest.approx(2 * figures["length"][0]["at"], rel=0.2)
    assert figures["size"][1]["at"] == made["large"].parameters > figures["size"][0]["at"] == tiny.parameters
    for points in figures.values():
        for point in points:
            assert all(min(point[name].values()) > 0 for name in ("seconds", "peak_gigabytes"))
    figure = growth.growth(figures)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(growth.KINDS)
    for axis, panel in zip(axes, figure.axes):  # the upper row: seconds
        for kind, line in zip(growth.KINDS, panel.lines):
            assert line.get_ydata() == pytest.approx([point["seconds"][kind] for point in figures[axis]])


card = load_benchmark("on_a_card")


def test_stages_leave_their_marks_and_are_not_run_twice(tmp_path, capsys):
    write, fail = (tmp_path / name for name in ("write.py", "fail.py"))
    write.write_text("print('a figure')\n")
    fail.write_text("print('a fault')\nraise SystemExit(3)\n")
    stages = {
        "first": card.Stage(str(write), 0.1),
        "second": card.Stage(str(fail), 0.1),
        "third": card.Stage(str(write), 99),
    }
    assert card.run(stages, tmp_path / "run", seconds=600) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("first: done in") and said[0].endswith("a figure")
    assert "second: failed with 3" in said[1] and "third: left out" in said[2] and "it wants 99" in said[2]
    fail.write_text("print('mended')\n")
    assert card.run(stages, tmp_path / "run", seconds=600) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "first: done before" and said[1].endswith("mended") and "third: left out" in said[2]


def test_a_stage_longer_than_the_minutes_is_cut_off_and_said(tmp_path, capsys):
    (tmp_path / "long.py").write_text("import time\ntime.sleep(600)\n")
    stages = {"long": card.Stage(str(tmp_path / "long.py"), 0.0)}
    assert card.run(stages, tmp_path / "run", seconds=1.0) == 1
    assert "cut off by the minutes" in capsys.readouterr().out and not (tmp_path / "run" / "long.done").exists()


def test_every_stage_is_a_command_that_parses():
    from sempa_utils.__main__ import _parser

    options = {}
    for stage in [*card.stages(True).values(), *card.stages(False).values()]:
        words = stage.command.split()
        assert "{" not in stage.command and stage.minutes > 0
        if words[:2] == ["-m", "sempa_utils"]:
            assert _parser().parse_args(words[2:]).run
        elif words[0].endswith(".py"):
            options.setdefault(words[0], set()).update(re.findall(r"--[\w-]+", stage.command))
        else:
            assert (card.ROOT / words[-1]).is_file()
    for script, named in options.items():
        known = set(re.findall(r'add_argument\("(--[\w-]+)', (card.ROOT / script).read_text(encoding="utf8")))
        assert named <= known and len(named) > 3


def test_a_large_file_travels_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "PART_BYTES", 10)
    whole = tmp_path / "model.safetensors"
    whole.write_bytes(bytes(range(35)))
    card._split(whole)
    assert not whole.exists() and len(list(tmp_path.iterdir())) == 4
    assert max(part.stat().st_size for part in tmp_path.iterdir()) == 10
    card._join(tmp_path / "model.safetensors.part000")
    assert whole.read_bytes() == bytes(range(35)) and list(tmp_path.iterdir()) == [whole]
