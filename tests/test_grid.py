"""The grid: what is left is done once, each run gets a record, nothing is computed twice."""

import json
from dataclasses import replace

import pytest
from conftest import tiny_model, tiny_tokenizer

from sempa_utils import __main__ as command_line
from sempa_utils import models, profiles, records, training
from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import sts
from sempa_utils.evaluation.generation import Benchmarks, gold_answers, signals
from sempa_utils.experiments import grid
from sempa_utils.experiments.series import Setting
from sempa_utils.records import GridFigures, RunRecord

SIZES = grid.Sizes(24, 30, 40, 3, 200, 4, 2, 3)
RUNS = ["base", "pairwise", "contrastive_kl"]


@pytest.fixture
def place(no_data, tmp_path, monkeypatch):
    """A tiny model with a long context as a directory, and a build folder of its own."""
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    monkeypatch.setattr(grid, "SAVE_EVERY", 8)
    for run in ("pairwise", "contrastive_kl"):
        one = grid.RUNS[run]
        small = grid.Run(one.objective, one.changes | {"micro_batch": 4, "accumulation": 1})
        monkeypatch.setitem(grid.RUNS, run, small)
        monkeypatch.setitem(grid.ALL, run, small)
    model = tiny_model()
    model.config.max_position_embeddings = 16_384
    model.save_pretrained(tmp_path / "Tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "Tiny")
    return tmp_path


def do(place, runs=RUNS, steps=None, *, state_only=False, seed=42, sizes=SIZES, folder=None):
    """Do what is left, or only say what that is; return the state and the lines that were announced."""
    lines = []
    profile = replace(profiles.get("smoke"), max_length=256)
    setting = Setting(str(place / "Tiny"), profile, seed=seed, precision="float32")
    asked = {"runs": runs, "steps": steps, "sizes": sizes}
    if not state_only:
        grid.run(setting, **asked, folder=folder or place / "records", announce=lines.append)
    return grid.state(setting, **asked), lines


def record(place, run: str) -> RunRecord[GridFigures]:
    return records.load_run(place / "records" / f"reproduce_tiny_{run}.json", GridFigures)


def test_the_grid_is_done_once_and_leaves_a_record_each(place):
    before, said = do(place, state_only=True)
    assert before["pairwise"] == {"train": False} | dict.fromkeys(grid.STEPS, False) and said == []
    assert not (place / "records").exists()
    state, said = do(place)
    assert all(all(done.values()) for done in state.values())
    assert said.count("pairwise: training on 24 rows") == 1 and "base: generation" in said
    again, said = do(place)
    assert again == state and said == []
    assert "left" not in grid.table(state) and "left" in grid.table(before)

    for run in RUNS:
        figures = record(place, run).figures
        assert all(getattr(figures, step) for step in grid.STEPS)
        assert set(figures.generation.scores.tasks) == {"gsm8k", "mmlu", "hellaswag", "drop", "truthfulqa"}
        assert all(bool(score.difference) == (run != "base") for score in figures.sts.scores.columns.values())
    base, trained = record(place, "base"), record(place, "contrastive_kl")
    assert trained.figures.generation.scores.mean.difference
    assert base.figures.generation.scores.mean.difference is None
    assert (base.figures.train.rows, trained.figures.train.rows, trained.figures.train.steps) == (0, 24, 6)
    assert trained.settings["recipe"]["kl_weight"] == grid.KL_WEIGHT
    assert trained.model["adapter"] and base.model["adapter"] is None
    # No sentence and no path enters a record.
    text = (place / "records" / "reproduce_tiny_pairwise.json").read_text(encoding="utf8")
    assert str(place) not in text and corpora.packaged_ranked_nli().rows[0].premise not in text


def test_a_step_is_added_to_the_record_of_the_same_run(place, monkeypatch):
    do(place, ["pairwise"], ["geometry"])
    geometry = record(place, "pairwise").figures.geometry
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(place / "another"))  # as in a fresh clone: only the record is left
    do(place, ["pairwise"], ["signals"])
    both = record(place, "pairwise").figures
    assert both.geometry == geometry and both.signals
    # A record of another run is in nobody's way, and nobody's to replace.
    path = place / "records" / "reproduce_tiny_pairwise.json"
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"reproduce_tiny_pairwise.json: .* not alike: .*seed.*--records FOLDER"):
        do(place, ["pairwise"], ["signals"], seed=43)
    assert path.read_bytes() == before
    do(place, ["pairwise"], ["signals"], seed=43, folder=place / "elsewhere")


def test_a_record_to_which_nothing_is_new_stays(place, monkeypatch):
    do(place, ["base"], ["geometry"])
    monkeypatch.setenv("SEMPA_COMMAND", "another")
    do(place, ["base"], ["geometry"])
    assert record(place, "base").command != "another"
    do(place, ["base"], ["layers"])
    assert record(place, "base").command == "another"


def test_a_step_is_added_to_a_record_of_a_kit_that_did_not_have_it(place):
    do(place, ["base"], ["geometry"])
    new = record(place, "base")
    assert not {"gold_items", "dev_pairs"} & new.settings["sizes"].keys()  # their figures tell how much was read
    do(place, ["base"], ["gold_answers"])
    both = record(place, "base")
    assert both.figures.geometry == new.figures.geometry and both.settings == new.settings
    assert both.figures.gold_answers.scores.tasks["gsm8k"].count == SIZES.gold_items


def test_right_answers_are_read_beside_the_base_and_training_sentences_counted(place, monkeypatch):
    tasks = gold_answers.load(Benchmarks(limit=SIZES.gold_items))
    answer = tasks["truthfulqa"].items[1].answer
    passage = gold_answers.sentences(tasks["drop"].items[0])[1]
    rows = [corpora.Triplet(text.upper() + " !", "Something else.", "Nothing of it.") for text in (answer, passage)]
    rows += corpora.load_triplets(None, 22, seed=42).rows
    monkeypatch.setattr(corpora, "load_triplets", lambda *_, **__: corpora._corpus("NLI triplets", rows, "made here"))
    do(place, ["base", "contrastive_kl"], ["gold_answers"])
    base, run = (record(place, name).figures.gold_answers for name in ("base", "contrastive_kl"))
    plain = gold_answers.evaluate(models.load(str(place / "Tiny")), tasks, show_progress_bar=False)
    for name, score in base.scores.tasks.items():
        assert score.value == pytest.approx(plain[name].value, abs=1e-4) and score.count == SIZES.gold_items
        assert score.difference is None
    apart = run.scores.tasks["gsm8k"].difference
    assert apart.standard_error and apart.value == pytest.approx(
        run.scores.tasks["gsm8k"].value - base.scores.tasks["gsm8k"].value, abs=1e-4
    )
    sharing = [item for item in tasks["drop"].items if passage in item.prompt]
    seen = {name: data["items_with_a_training_sentence"] for name, data in run.data.items()}
    assert (seen["truthfulqa"], seen["drop"], seen["gsm8k"]) == (1, len(sharing), 0)
    assert all(data["dropped"]["longer than 16384 tokens"] == 0 for data in base.data.values())
    # Other items are another figure.
    state, _ = do(place, ["base"], ["gold_answers"], sizes=replace(SIZES, gold_items=4), state_only=True)
    assert not state["base"]["gold_answers"]


def test_a_step_is_added_to_a_record_of_schema_1(place):
    """What is there stays, in the form of today's types; what depends on other data is refused as ever."""
    do(place, ["pairwise"], ["geometry", "frontier"])
    path, new = place / "records" / "reproduce_tiny_pairwise.json", record(place, "pairwise")
    old = json.loads(path.read_text(encoding="utf8"))
    del old["schema"]
    old["figures"]["frontier"] = {"points": old["figures"]["frontier"]}
    score = {"spearman": 50.0, "low": 40.0, "high": 60.0}
    old["figures"]["sts"] = {
        "tasks": {"mini-STS": score | {"pairs": 30, "subsets": {}}},
        "mean": score,
        "difference": {
            name: {"difference": 1.5, "low": 1.0, "high": 2.0, "p_value": 0.5} for name in ("mini-STS", "mean")
        },
        "without_training_sentences": {"mini-STS": {"left_out": 4, "spearman": 49.0}, "mean": 49.0},
    }
    path.write_text(json.dumps(old), encoding="utf8")
    before = path.read_bytes()
    do(place, ["pairwise"], ["geometry", "frontier"])
    assert path.read_bytes() == before, "nothing is new"
    do(place, ["pairwise"], ["layers"])
    after = record(place, "pairwise")
    assert (after.figures.geometry, after.figures.frontier) == (new.figures.geometry, new.figures.frontier)
    assert after.figures.layers and after.figures.train == new.figures.train
    assert after.figures.sts.scores.mean.difference == records.Difference(1.5, records.Interval(1.0, 2.0), p_value=0.5)
    assert after.figures.sts.without_training_sentences.tasks["mini-STS"].count == 26
    assert json.loads(path.read_text(encoding="utf8"))["schema"] == records.SCHEMA
    path.write_bytes(before)
    with pytest.raises(InputError, match="not alike: model, data, settings, seed"):
        do(place, ["pairwise"], ["signals"], seed=43)
    assert path.read_bytes() == before


def test_a_steps_figures_are_those_of_the_plain_calls(place):
    do(place, ["base", "contrastive_kl"], ["sts", "signals", "frontier"])
    base = models.load(str(place / "Tiny"))
    task = corpora.load_sts("mini-STS").sample(SIZES.sts_pairs, 42)
    dev = corpora.load_sts("mini-STS", None, split="dev").sample(SIZES.frontier_pairs, 42)
    figures = record(place, "base").figures
    plain = sts.score_task(Embedder(base).encode, task).score.value
    assert figures.sts.scores.mean.value == pytest.approx(plain, abs=1e-3)
    text = signals.load_text().rows
    perplexity = signals.perplexity(base, text, limit=SIZES.text_tokens).value
    assert figures.signals["perplexity"] == pytest.approx(perplexity, rel=1e-4)

    points = record(place, "contrastive_kl").figures.frontier
    assert [point.rows for point in points] == [8, 16, 24]
    chosen = grid.recipe("contrastive_kl", replace(profiles.get("smoke"), max_length=256))
    data = grid._load(Setting(), SIZES, {}, check_context=False)
    rows = grid.training_rows("contrastive_kl", Setting(), held_out=data.held_out, limit=SIZES.triplets)
    folder = training.run_folder(base, rows, recipe=chosen)
    with models.adapted(base, folder / "adapter") as last:
        cosines = sts.pair_similarities(Embedder(last).encode, dev.rows)
    expected = sts.spearman(cosines, [pair.score for pair in dev.rows])
    assert points[-1].sts == pytest.approx(expected, abs=1e-3)
    assert points[-1].sts != points[0].sts


def test_no_step_changes_without_a_new_revision(place):
    """What a step makes of the measures; the measures themselves are held in test_identity."""
    do(place, ["base"], ["sts", "geometry", "layers", "frontier"])
    figures = record(place, "base").figures
    found = {
        "sts": figures.sts.without_training_sentences.mean.value,
        "geometry": [figures.geometry[name] for name in ("sentences", "uniformity", "effective_rank")],
        "layers": figures.layers.sts[1:],
        "frontier": [getattr(figures.frontier[0], name) for name in ("rows", "sts", "perplexity")],
    }
    expected = {
        "sts": -7.45902,
        "geometry": [80, -2.22754, 11.2338],
        "layers": [14.5299, 12.1429],
        "frontier": [0, 12.1429, 1262.98],
    }
    advice = f"a step's figures have moved: raise its revision in steps.STEPS and write {found} here"
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=2e-3, abs=0.02), advice
    assert {step.revision for step in grid.STEPS.values()} == {1} and found.keys() == expected.keys(), advice


def test_layers_are_followed_from_the_base_to_the_run(place):
    do(place, ["base", "contrastive_kl"], ["layers"])
    base = models.load(str(place / "Tiny"))
    dev = corpora.load_sts("mini-STS", None, split="dev").sample(SIZES.frontier_pairs, 42)
    scores = [pair.score for pair in dev.rows]
    untouched = record(place, "base").figures.layers
    assert untouched.moved is None and untouched.moved_alike is None
    assert untouched.sts[0] is None, "under a template the first layer is one point"
    for layer, found in enumerate(untouched.sts[1:], start=1):
        cosines = sts.pair_similarities(Embedder(base, layer=layer).encode, dev.rows)
        assert found == pytest.approx(sts.spearman(cosines, scores), abs=1e-3)
    moved = record(place, "contrastive_kl").figures.layers
    assert len(moved.moved) == len(moved.sts) == len(untouched.sts)
    assert moved.moved[0] == 0 and all(step > 0 for step in moved.moved[1:])
    assert moved.sts[-1] != untouched.sts[-1]


def test_pairs_with_a_training_sentence_are_left_out(place, monkeypatch):
    task = corpora.load_sts("mini-STS").sample(SIZES.sts_pairs, 42)
    seen = [pair.first.upper().replace(" ", "  ") + " !" for pair in task.rows[:5]]  # other case and marks
    rows = [corpora.Triplet(sentence, "Something else.", "Nothing of it.") for sentence in seen]
    rows += corpora.load_triplets(None, 24, seed=42).rows
    monkeypatch.setattr(corpora, "load_triplets", lambda *_, **__: corpora._corpus("NLI triplets", rows, "made here"))
    do(place, ["base"], ["sts"])
    figures = record(place, "base").figures.sts
    base, unseen = models.load(str(place / "Tiny")), task.rows[5:]
    cosines = sts.pair_similarities(Embedder(base).encode, unseen)
    found = figures.without_training_sentences
    assert figures.scores.tasks["mini-STS"].count - found.tasks["mini-STS"].count == 5
    assert found.mean.value == pytest.approx(sts.spearman(cosines, [pair.score for pair in unseen]), abs=1e-3)
    assert found.mean.value != figures.scores.mean.value and found.mean.count == len(unseen)


def test_dev_is_scored_beside_the_base_and_says_what_training_knew_of_it(place, monkeypatch):
    [task] = sts.load_dev_tasks().values()
    known = corpora.Triplet(task.rows[3].first.upper() + " !", "Something else.", "Nothing of it.")
    rows = [known, *corpora.load_triplets(None, 23, seed=42).rows]
    monkeypatch.setattr(corpora, "load_triplets", lambda *_, **__: corpora._corpus("NLI triplets", rows, "made here"))
    do(place, ["base", "pairwise"], ["dev"], sizes=replace(SIZES, dev_pairs=40))
    base, trained = (record(place, run).figures.dev for run in ("base", "pairwise"))
    assert base.training_rows_with_their_sentences == {} and base.scores.mean.difference is None
    assert trained.training_rows_with_their_sentences == {"mini-STS dev": 1, "any": 1}
    assert trained.data == base.data == [task.sample(40, 42).record()] and trained.scores.mean.difference
    pairs = task.sample(40, 42).rows
    cosines = sts.pair_similarities(Embedder(models.load(str(place / "Tiny"))).encode, pairs)
    assert base.scores.mean.value == pytest.approx(sts.spearman(cosines, [pair.score for pair in pairs]), abs=1e-3)
    # How many pairs, its own data tell: no other step of a record is another's for it.
    do(place, ["base"], ["geometry"])
    do(place, ["base"], ["dev"], sizes=replace(SIZES, dev_pairs=30))
    figures = record(place, "base").figures
    assert figures.geometry and figures.dev.scores.mean.count == 30
    state, _ = do(place, ["base"], ["dev"], sizes=replace(SIZES, dev_pairs=20), state_only=True)
    assert not state["base"]["dev"]


def test_the_sizes_of_a_committed_record_are_those_of_today():
    for path in records.committed_folder().glob("reproduce_smollm2*.json"):  # the grid in full
        sizes = records.load_run(path, GridFigures).settings["sizes"]
        assert sizes == grid.Sizes().recorded(), path.name


def test_another_size_is_another_figure(place):
    do(place, ["base"], ["geometry"])
    path = place / "build" / "reproduce"
    assert len(list(path.iterdir())) == 1
    state, _ = do(place, ["base"], ["geometry"], sizes=replace(SIZES, frontier_pairs=20), state_only=True)
    assert not state["base"]["geometry"]
    state, _ = do(place, ["base"], ["geometry"], state_only=True)
    assert state["base"]["geometry"]


def test_without_its_checkpoints_a_run_has_its_last_point(place):
    do(place, ["pairwise"], ["geometry"])
    for mark in (place / "build").glob("adapters/*/checkpoints/*/whole"):
        mark.unlink()
    do(place, ["pairwise"], ["frontier"])
    assert [point.rows for point in record(place, "pairwise").figures.frontier] == [24]


def test_unknown_names_are_said(place):
    with pytest.raises(InputError, match="Unknown run 'pairwize'.*'pairwise'"):
        do(place, ["pairwize"])
    with pytest.raises(InputError, match="Unknown step 'sst'"):
        do(place, ["base"], ["sst"])


def test_the_command_prints_what_is_left(place, capsys, monkeypatch):
    code = command_line.main(["reproduce", "--model", str(place / "Tiny"), "--state", "--runs", "base,one_word"])
    out = capsys.readouterr().out
    assert code == 0 and out.splitlines()[2].split() == ["one_word"] + ["left"] * (1 + len(grid.STEPS))


def test_the_command_writes_the_records_where_it_is_told(place):
    told = ["--records", str(place / "elsewhere"), "--precision", "float32"]
    arguments = ["reproduce", "--model", str(place / "Tiny"), "--runs", "base", "--steps", "geometry", *told]
    assert command_line.main(arguments) == 0
    assert [path.name for path in (place / "elsewhere").iterdir()] == ["reproduce_tiny_base.json"]


def numbers(figures: dict, path: str = "") -> dict[str, float]:
    """Every number of nested figures by its path."""
    if isinstance(figures, dict):
        return {
            name: number for key, value in figures.items() for name, number in numbers(value, f"{path}/{key}").items()
        }
    return {path: figures}


def test_a_second_run_of_a_seed_gave_the_same_figures():
    folder = records.committed_folder() / "repeated"
    paths = [next((folder / name).glob("*.json")) for name in ("first", "second")]
    first, second = (records.load_run(path, GridFigures) for path in paths)
    for key in ("data", "settings", "seed", "versions", "machine"):
        assert getattr(first, key) == getattr(second, key), key
    one, other = (numbers(records.plain(record.figures.sts)) for record in (first, second))
    assert len(one) > 50 and one.keys() == other.keys()
    assert max(abs(one[path] - other[path]) for path in one) <= 0.01


@pytest.mark.parametrize(
    ("run", "rows", "steps"),
    [("listwise", 5105, ["geometry", "signals"]), ("one_word_kl_2048", 2048, ["frontier", "dev"])],
)
def test_a_whole_run_trained_again_gave_the_same_adapter(run, rows, steps):
    folder, name = records.committed_folder(), f"{grid.record_name(models.PACKAGED, run)}.json"
    again, before = (records.load_run(place / name, GridFigures) for place in (folder / "repeated" / "whole", folder))
    assert again.figures.train.seconds != before.figures.train.seconds, "two trainings"
    for key in ("model", "data", "settings", "seed", "versions", "machine"):
        assert getattr(again, key) == getattr(before, key), key
    assert again.model["adapter"] and again.figures.train.rows == rows
    for step in steps:
        found, expected = (getattr(figures, step) for figures in (again.figures, before.figures))
        assert found and (found == pytest.approx(expected, abs=0.01) if isinstance(found, dict) else found == expected)


def test_every_run_of_the_grid_is_a_recipe():
    for run, one in grid.ALL.items():
        if one.objective:
            for profile in profiles.PROFILES.values():
                recipe = grid.recipe(run, profile)
                assert recipe.objective.name == one.objective and recipe.save_every == grid.SAVE_EVERY
    for runs in (grid.RUNS, grid.TRIALS):
        told = [
            (grid.recipe(run, profiles.get("cpu")), one.rows, one.control, one.mean_of, one.times)
            for run, one in runs.items()
            if one.objective
        ]
        assert len(set(told)) == len(told)
    # Swapped, each has the other's rate and batch: what is left between them is the objective.
    own, other = (grid.recipe(run, profiles.get("cpu")) for run in ("pairwise_2048", "one_word_2048_swapped"))
    assert own.learning_rate == other.learning_rate
    assert own.micro_batch * own.accumulation == other.micro_batch * other.accumulation
    own, other = (grid.recipe(run, profiles.get("cpu")) for run in ("one_word_2048", "pairwise_2048_swapped"))
    assert own.learning_rate == other.learning_rate
    assert own.micro_batch * own.accumulation == other.micro_batch * other.accumulation


def test_a_trial_is_read_on_dev_alone_and_on_its_own_rows(place, monkeypatch):
    small = grid.Run("pairwise", {"micro_batch": 4, "accumulation": 1, "template": "prompteol"}, 12)
    monkeypatch.setitem(grid.TRIALS, "pairwise_2048_bare", small)
    monkeypatch.setitem(grid.ALL, "pairwise_2048_bare", small)
    state, said = do(place, ["base", "pairwise_2048_bare"], ["geometry", "frontier"])
    assert state["pairwise_2048_bare"] == {"train": True, "frontier": True}
    assert "pairwise_2048_bare: training on 12 rows" in said
    found = record(place, "pairwise_2048_bare")
    assert set(records.plain(found.figures)) == {"train", "frontier"} and "after 12 rows STS dev" in found.headline
    assert grid.table(state).splitlines()[2].split() == ["pairwise_2048_bare", "done", "done"]


def test_a_run_is_held_against_the_rows_that_it_was_trained_on(no_data):
    sizes = replace(SIZES, triplets=10)
    data = grid._load(Setting(), sizes, {}, check_context=False)

    def rows_of(run, data):
        return grid.training_rows(run, Setting(), held_out=data.held_out, limit=10)

    ranked, triplets = (rows_of(run, data) for run in ("listwise", "pairwise"))
    assert len(ranked.rows[0]) == 4 and len(triplets.rows[0]) == 3
    assert rows_of("base", data).fingerprint == triplets.fingerprint
    other = rows_of("pairwise_kl_2048_seed_43", data)
    assert len(other) == 10 and set(other.rows) != set(triplets.rows), "another seed draws other rows"
    control = rows_of("pairwise_without_entailment", data)
    assert [row.negative for row in control.rows] == [row.negative for row in triplets.rows]
    assert all(one.positive != own.positive for one, own in zip(control.rows, triplets.rows))


def test_a_mean_of_runs_is_made_of_their_adapters_and_judged_by_all_their_rows(place, monkeypatch):
    small = {"micro_batch": 4, "accumulation": 1}
    runs = {
        "one": grid.Run("pairwise", small, 12),
        "other": grid.Run("pairwise", small | {"seed": 43}, 12),
        "mean": grid.Run("pairwise", small, 12, mean_of=("one", "other"), times=1.5),
    }
    for places in (grid.RUNS, grid.ALL):
        for name, run in runs.items():
            monkeypatch.setitem(places, name, run)
    before, _ = do(place, ["mean"], ["geometry"], state_only=True)
    assert before["mean"] == {"train": False, "geometry": False}
    state, said = do(place, ["mean"], ["geometry", "frontier"])
    assert state["mean"] == {"train": True, "geometry": True, "frontier": True}
    assert [line for line in said if "training" in line] == [f"{run}: training on 12 rows" for run in ("one", "other")]
    assert do(place, ["mean"], ["geometry", "frontier"])[1] == []
    do(place, ["one", "other"], ["geometry"])
    found, one, other = (record(place, run) for run in ("mean", "one", "other"))
    rows = found.figures.train.rows
    assert 12 < rows <= 24 and rows == found.data[0]["rows"] and found.figures.frontier[-1].rows == rows
    assert found.figures.train.steps == one.figures.train.steps + other.figures.train.steps
    assert found.settings["mean_of"] == ["one", "other"] and found.settings["times"] == 1.5
    with pytest.raises(InputError, match="are the same.*--seed"):  # else one would weigh as much as both
        do(place, ["mean"], ["geometry"], seed=43, folder=place / "of one seed")
    # The mean of two is one and a half times as far as three quarters of each.
    base = models.load(str(place / "Tiny"))
    paths = {models.adapter_fingerprint(path): path for path in place.glob("build/adapters/*/adapter")}
    parts = {paths[run.model["adapter"]]: 0.75 for run in (one, other)}
    again = models.combine_adapters(base, parts, folder=place / "again")
    assert models.adapter_fingerprint(again) == found.model["adapter"]


def test_what_is_held_out_is_not_trained_on(no_data):
    sizes = grid.Sizes()
    data = grid._load(Setting(), sizes, {}, check_context=False)
    for run in ("listwise", "pairwise"):
        rows = grid.training_rows(run, Setting(), held_out=data.held_out)
        held_out = {row.premise for row in data.held_out.rows}
        assert len(held_out) == sizes.held_out and len(rows) == len(corpora.packaged_ranked_nli()) - len(held_out)
        assert not held_out & {row[0] for row in rows.rows}


def test_other_data_of_a_step_is_another_figure(place, monkeypatch):
    do(place, ["base"], ["geometry", "signals"])
    # More STS pairs concern neither; another text concerns the signals alone.
    state, _ = do(place, ["base"], ["geometry", "signals"], sizes=replace(SIZES, sts_pairs=20), state_only=True)
    assert state["base"] == {"train": True, "geometry": True, "signals": True}
    text = replace(signals.load_text(None), fingerprint="another")
    monkeypatch.setattr(signals, "load_text", lambda *_: text)
    state, _ = do(place, ["base"], ["geometry", "signals"], state_only=True)
    assert state["base"] == {"train": True, "geometry": True, "signals": False}


def test_benchmarks_are_looked_at_once_and_only_where_they_are_asked_for(place, monkeypatch):
    looked = []
    check = grid.check_tasks
    monkeypatch.setattr(grid, "check_tasks", lambda *given: looked.append(given) or check(*given))
    do(place, ["base"], ["geometry"])
    assert looked == []
    do(place, ["base", "pairwise"], ["geometry", "generation"])
    assert [model for _, model in looked] == [str(place / "Tiny"), None], "by the run, and by the state after it"
    # Other items in the files: what is kept of the step is no longer its figure.
    monkeypatch.setattr(grid, "check_tasks", lambda *given: {"gsm8k": {"fingerprint": "another"}})
    state, _ = do(place, ["base"], ["geometry", "generation"], state_only=True)
    assert state["base"] == {"train": True, "geometry": True, "generation": False}


def test_a_trial_has_no_other_step(place):
    with pytest.raises(InputError, match="trial is read on dev alone.*--steps frontier"):
        do(place, ["pairwise_2048"], ["sts"])
