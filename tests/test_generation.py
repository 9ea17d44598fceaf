"""Benchmarks by lm-evaluation-harness: the same prompts, the same scores, kept results, one clear error each."""

import dataclasses
import gzip
import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval")

import datasets  # noqa: E402
import lm_eval.tasks  # noqa: E402
from lm_eval.api.model import LM  # noqa: E402

from sempa_utils import models  # noqa: E402
from sempa_utils.checks import InputError  # noqa: E402
from sempa_utils.evaluation import generation  # noqa: E402
from sempa_utils.evaluation.generation import Benchmarks, harness, harness_model, local_tasks  # noqa: E402
from sempa_utils.models import Ways  # noqa: E402
from sempa_utils.records import Difference, TaskScore  # noqa: E402

SUBJECTS = ("anatomy", "virology")
HUB_TASKS = {
    "gsm8k": ["gsm8k_cot"],
    "mmlu": [f"mmlu_{subject}" for subject in SUBJECTS],
    "hellaswag": ["hellaswag"],
    "drop": ["drop"],
    "truthfulqa": ["truthfulqa_mc1"],
}


def write_items(folder: Path) -> Path:
    """Write a few items of our own in the layout of the public releases."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"question": f"Ann has {n} pens and buys 2. How many now?", "answer": f"{n}+2=<<{n}+2={n + 2}>>\n#### {n + 2}"}
        for n in range(3, 7)
    ]
    (folder / "gsm8k_test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf8")
    hellaswag = [
        "Baking bread: A man kneads dough. He puts it away. the Man",
        "2",
        "flies.",
        "sings.",
        "waits.",
        "melts.",
        "Home and Garden: How to water a plant. Fill a can. Pour slowly.",
        "0",
        "Stop now.",
        "Eat it.",
        "Run.",
        "No.",
        "Chess: two girls",
        "3",
        "swim.",
        "cook.",
        "drive.",
        "play.",
    ]
    (folder / "hellaswag_val.txt").write_text("\n".join(hellaswag) + "\n", encoding="utf8")
    for split, count in (("dev", 6), ("test", 3)):
        (folder / "mmlu" / split).mkdir(parents=True, exist_ok=True)
        for subject in SUBJECTS:
            rows = [f'"Which, in {subject} {split}, is {n}?",w{n},x{n},y{n},z{n},{n % 4}' for n in range(count)]
            text = "\n".join(["question,choice0,choice1,choice2,choice3,answer", *rows]) + "\n"
            (folder / "mmlu" / split / f"{subject}_{split}.csv").write_text(text, encoding="utf8")
    truthful = [
        {"question": f"Is {n} odd?", "mc1_targets": {"No one knows.": 0, "Look at it.": 1, "Never.": 0}}
        for n in range(3)
    ]
    (folder / "truthfulqa_mc_task.json").write_text(json.dumps(truthful), encoding="utf8")
    with gzip.open(folder / "drop_dev.jsonl.gz", "wt", encoding="utf8") as file:
        for n in range(8):
            passage = f"Passage: Team {n // 2} won by {n // 2}.5 points."
            row = {
                "context": f"{passage}\nQuestion: What was asked {n}?\nAnswer:",
                "completion": f" {n}.5",
                "ref_text": f"{n}.5|{n}.5|team {n} and us",
            }
            file.write(json.dumps(row) + "\n")
    return folder


def hub_rows() -> dict[str, dict[str, list[dict]]]:
    """Return the same items as the hub has them, written without the package's readers."""
    date = {"day": "", "month": "", "year": ""}
    drop = [
        {
            "section_id": "s",
            "query_id": str(n),
            "passage": f"Team {n // 2} won by {n // 2}.5 points.",
            "question": f"What was asked {n}?",
            "answer": {"number": f"{n}.5", "date": date, "spans": [], "worker_id": "", "hit_id": ""},
            "validated_answers": {
                "number": [f"{n}.5", ""],
                "date": [date, date],
                "spans": [[], [f"team {n} and us"]],
                "worker_id": ["", ""],
                "hit_id": ["", ""],
            },
        }
        for n in range(8)
    ]
    hellaswag = [
        (
            "Baking bread",
            "A man kneads dough. He puts it away.",
            "the Man",
            ["flies.", "sings.", "waits.", "melts."],
            "2",
        ),
        # The harness turns the hub's title mark into a full stop.
        (
            "Home and Garden",
            "How to water a plant [title] Fill a can. Pour slowly.",
            "",
            ["Stop now.", "Eat it.", "Run.", "No."],
            "0",
        ),
        ("Chess", "", "two girls", ["swim.", "cook.", "drive.", "play."], "3"),
    ]
    keys = ("activity_label", "ctx_a", "ctx_b", "endings", "label")
    found = {
        "openai/gsm8k": {
            split: [
                {
                    "question": f"Ann has {n} pens and buys 2. How many now?",
                    "answer": f"{n}+2=<<{n}+2={n + 2}>>\n#### {n + 2}",
                }
                for n in range(3, 7)
            ]
            for split in ("train", "test")
        },
        "Rowan/hellaswag": {split: [dict(zip(keys, row)) for row in hellaswag] for split in ("train", "validation")},
        "truthfulqa/truthful_qa": {
            "validation": [
                {
                    "question": f"Is {n} odd?",
                    "mc1_targets": {"choices": ["Look at it.", "No one knows.", "Never."], "labels": [1, 0, 0]},
                }
                for n in range(3)
            ]
        },
        "EleutherAI/drop": {"train": drop[:4], "validation": drop[4:]},
    }
    for subject in SUBJECTS:
        found[f"cais/mmlu {subject}"] = {
            split: [
                {
                    "question": f"Which, in {subject} {split}, is {n}?",
                    "subject": subject,
                    "choices": [f"{letter}{n}" for letter in "wxyz"],
                    "answer": n % 4,
                }
                for n in range(count)
            ]
            for split, count in (("dev", 6), ("test", 3))
        }
    return found


class Recorder(LM):
    """A language model that keeps what it is asked and answers what it is told to."""

    def __init__(self, likelihood=lambda prompt, answer: -1.0, generate=lambda prompt: ""):
        super().__init__()
        self.likelihood, self.generate, self.asked = likelihood, generate, []

    def loglikelihood(self, requests, disable_tqdm=False):
        self.asked += [request.args for request in requests]
        return [(self.likelihood(*request.args), False) for request in requests]

    def generate_until(self, requests, disable_tqdm=False):
        self.asked += [request.args for request in requests]
        return [self.generate(request.args[0]) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError


@pytest.fixture
def items(tmp_path):
    return write_items(tmp_path / "data" / "generation")


@pytest.fixture
def roomy(tiny, tmp_path, monkeypatch):
    """The tiny model with room for the shots, and a build folder of its own."""
    monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / "build"))
    tiny.model.config.max_position_embeddings = 8192
    return tiny


@pytest.fixture
def recorder(monkeypatch):
    """Put a `Recorder` in the place of the harness' wrapper; returned."""
    found = Recorder()
    monkeypatch.setattr(harness_model, "HarnessModel", lambda *_, **__: found)
    return found


def harness_requests(task: str, monkeypatch, seed: int = 42) -> list:
    """Return what the harness' own definition asks, fed with the hub's rows: nothing of it overridden."""
    rows = hub_rows()

    def load_dataset(path, name=None, **_):
        splits = rows.get(path) or rows.get(f"{path} {name}") or rows[f"{path} {SUBJECTS[0]}"]
        return datasets.DatasetDict({split: datasets.Dataset.from_list(part) for split, part in splits.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    folder = Path(lm_eval.tasks.__file__).parent / harness.TASKS[task].definition
    manager, asked = lm_eval.tasks.TaskManager(include_defaults=False, include_path=str(folder)), []
    for name in HUB_TASKS[task]:
        loaded = manager.load(name)["tasks"][name]
        loaded.set_config("num_fewshot", harness.TASKS[task].shots)
        loaded.set_fewshot_seed(seed)
        loaded.build_all_requests()
        asked += [instance.args for instance in loaded.instances]
    return asked


@pytest.mark.parametrize("task", harness.TASKS)
def test_local_prompts_are_the_harness_own(task, items, roomy, recorder, monkeypatch):
    monkeypatch.setitem(harness.TASKS, task, dataclasses.replace(harness.TASKS[task], repair={}))
    generation.evaluate(roomy, Benchmarks([task], items), show_progress_bar=False)
    expected = harness_requests(task, monkeypatch)
    assert len(expected) >= 3
    assert recorder.asked == expected


def test_repaired_drop_shows_answers_and_keeps_the_rest(items, roomy, recorder, monkeypatch):
    generation.evaluate(roomy, Benchmarks(["drop"], items), show_progress_bar=False)
    broken = harness_requests("drop", monkeypatch)
    for (prompt, options), (theirs, _) in zip(recorder.asked, broken, strict=True):
        assert options == {"until": ["\n"]}
        *shots, asked = prompt.split("\n\n")
        *their_shots, their_asked = theirs.split("\n\n")
        assert asked == their_asked and len(shots) == 3
        for shot, their_shot in zip(shots, their_shots, strict=True):
            question, mark, answer = shot.partition("? ")
            assert their_shot.startswith(question + "?number,date,spans")
            assert mark and answer == f"{question[-1]}.5"


def test_a_byte_order_mark_is_no_part_of_an_item(items, no_data, tmp_path):
    tasks = ("gsm8k", "hellaswag", "mmlu", "truthfulqa", "drop")
    plain = {task: local_tasks.find(task, items).splits for task in tasks}
    for path in [path for path in items.rglob("*.*") if path.is_file()]:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            data = file.read()
        with opener(path, "wb") as file:
            file.write(b"\xef\xbb\xbf" + data)
    assert {task: local_tasks.find(task, items).splits for task in tasks} == plain
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="nothing of the layout"):
        local_tasks.find("gsm8k", tmp_path / "mine")


@pytest.mark.parametrize("task", harness.TASKS)
def test_the_hub_is_asked_only_without_local_files(task, roomy, recorder, monkeypatch, no_data):
    monkeypatch.setattr("sempa_utils.data.corpora.hub_reachable", lambda: True)
    monkeypatch.setitem(harness.TASKS, task, dataclasses.replace(harness.TASKS[task], repair={}))
    expected = harness_requests(task, monkeypatch)
    found = generation.evaluate(roomy, Benchmarks([task]), show_progress_bar=False)[task]
    assert found.data["source"] == "hub"
    assert [asked for asked in recorder.asked if asked in expected] == expected
    assert len(recorder.asked) == (57 * 3 * 4 if task == "mmlu" else len(expected))


def test_the_hub_s_drop_is_repaired_too(roomy, recorder, monkeypatch, no_data, items):
    generation.evaluate(roomy, Benchmarks(["drop"], items), show_progress_bar=False)
    local, recorder.asked = recorder.asked, []
    monkeypatch.setattr("sempa_utils.data.corpora.hub_reachable", lambda: True)
    harness_requests("drop", monkeypatch)
    generation.evaluate(roomy, Benchmarks(["drop"]), show_progress_bar=False)
    assert recorder.asked == local


def test_scores_of_known_answers(items, roomy, recorder):
    right = {"Is 0 odd?": "Look at it.", "Is 1 odd?": "Never.", "Is 2 odd?": "Look at it."}
    recorder.likelihood = lambda prompt, answer: 0.0 if right[prompt.split("Q: ")[-1][:9]] == answer.strip() else -9.0
    found = generation.evaluate(roomy, Benchmarks(["truthfulqa"], items), show_progress_bar=False)["truthfulqa"]
    assert found.scores == [100.0, 0.0, 100.0]
    assert found.value == pytest.approx(200 / 3)
    assert found.standard_error == pytest.approx(100 * math.sqrt(2 / 9 * 3 / 2 / 3))
    assert [sample.answer for sample in found.samples] == ["Look at it.", "Never.", "Look at it."]
    assert {sample.target for sample in found.samples} == {"Look at it."}
    assert found.data | {"fingerprint": ""} == {
        "name": "truthfulqa",
        "rows": 3,
        "source": "directory generation",
        "fingerprint": "",
        "dropped": {},
    }

    spoken = {"3": " 3 + 2 = 5. The answer is 5.", "4": " So it is 6.", "5": " The answer is 9.", "6": " ?"}
    recorder.generate = lambda prompt: spoken[prompt.split("Ann has ")[-1][0]]
    found = generation.evaluate(roomy, Benchmarks(["gsm8k"], items), show_progress_bar=False)["gsm8k"]
    assert found.scores == [100.0, 0.0, 0.0, 0.0]
    assert found.all_metrics == {"exact_match,strict-match": 25.0, "exact_match,flexible-extract": 50.0}
    assert found.samples[0].target == "5"

    recorder.generate = lambda prompt: " 4.5" if "asked 4?" in prompt.split("\n\n")[-1] else " team 5 and them"
    found = generation.evaluate(roomy, Benchmarks(["drop"], items), show_progress_bar=False)["drop"]
    # The harness rounds F1 to hundredths; "team 5 and us" shares three of four words, and 6 and 7 no number.
    assert found.scores == [100.0, 75.0, 0.0, 0.0]
    assert found.data["dropped"] == {"set aside for few-shots": 4}


def test_mmlu_is_drawn_evenly_and_weighted_by_items(items, roomy, recorder):
    recorder.likelihood = lambda prompt, answer: 0.0 if answer == " A" else -1.0
    found = generation.evaluate(roomy, Benchmarks(["mmlu"], items), show_progress_bar=False)["mmlu"]
    assert found.scores == [100.0, 0.0, 0.0] * 2  # the answers are A, B, C in both subjects
    assert found.value == pytest.approx(100 / 3)
    assert found.standard_error == pytest.approx(100 * math.sqrt(2 / 9 * 3 / 2 / 6))  # the pooled variance
    assert (found.items, found.data["rows"], found.data["subjects"]) == (6, 6, 2)
    few = generation.evaluate(roomy, Benchmarks(["mmlu"], items, limit=2), show_progress_bar=False)["mmlu"]
    assert (few.items, len(few.scores)) == (2, 2)
    assert [any(f"in {subject} test" in prompt for prompt, _ in recorder.asked[-8:]) for subject in SUBJECTS] == [
        True
    ] * 2


def test_draw():
    sizes = {"a": 5, "b": 1, "c": 5}
    drawn = harness.draw(sizes, 7, seed=1)
    assert {part: len(rows) for part, rows in drawn.items()} == {"a": 3, "b": 1, "c": 3}
    assert all(rows == sorted(set(rows)) and rows[-1] < sizes[part] for part, rows in drawn.items())
    assert harness.draw(sizes, 7, seed=1) == drawn != harness.draw(sizes, 7, seed=2)
    assert sum(map(len, harness.draw(sizes, 2, seed=1).values())) == len(harness.draw(sizes, 2, seed=1)) == 2
    assert harness.draw(sizes, None, seed=1) == {"a": [0, 1, 2, 3, 4], "b": [0], "c": [0, 1, 2, 3, 4]}


@pytest.fixture
def adapted(roomy):
    """The roomy model with an adapter that changes what it says, with a fingerprint as one from a folder has it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(roomy.model, config).eval()
    roomy.model.adapter_fingerprint = "0123456789abcdef"
    return dataclasses.replace(roomy, model=model)


def test_base_and_adapter_end_to_end_and_kept(items, adapted, monkeypatch):
    short = {"until": ["\n"], "max_gen_toks": 4}
    for task in ("gsm8k", "drop"):  # a random model does not stop by itself
        monkeypatch.setitem(
            harness.TASKS, task, dataclasses.replace(harness.TASKS[task], repair={"generation_kwargs": short})
        )
    tuned = generation.evaluate(adapted, Benchmarks(directory=items, limit=2), show_progress_bar=False)
    with adapted.model.disable_adapter():
        base = generation.evaluate(adapted, Benchmarks(directory=items, limit=2), show_progress_bar=False)
    assert list(tuned) == list(base) == list(generation.TASKS)
    assert all(len(result.scores) == result.items == 2 for result in (*tuned.values(), *base.values()))
    assert [tuned[task].data for task in tuned] == [base[task].data for task in base]
    answers = [[sample.answer for result in row.values() for sample in result.samples] for row in (base, tuned)]
    assert answers[0] != answers[1]

    monkeypatch.setattr(harness, "_run", lambda *_: pytest.fail("ran again"))
    again = generation.evaluate(adapted, Benchmarks(directory=items, limit=2), show_progress_bar=False)
    assert again == tuned
    with adapted.model.disable_adapter():
        assert generation.evaluate(adapted, Benchmarks(directory=items, limit=2), show_progress_bar=False) == base


def test_an_interrupted_run_goes_on_at_the_next_task(items, roomy, recorder, monkeypatch):
    run, ran = harness._run, []

    def interrupted(language_model, name, *rest):
        ran.append(name)
        if ran == ["truthfulqa", "mmlu"]:
            raise KeyboardInterrupt
        return run(language_model, name, *rest)

    monkeypatch.setattr(harness, "_run", interrupted)
    tasks = ["truthfulqa", "mmlu", "gsm8k"]
    with pytest.raises(KeyboardInterrupt):
        generation.evaluate(roomy, Benchmarks(tasks, items), show_progress_bar=False)
    found = generation.evaluate(roomy, Benchmarks(tasks, items), show_progress_bar=False)
    assert ran == ["truthfulqa", "mmlu", "mmlu", "gsm8k"]
    assert list(found) == tasks
    generation.evaluate(roomy, Benchmarks(["truthfulqa"], items, limit=2, seed=7), show_progress_bar=False)
    assert ran[-1] == "truthfulqa"  # another draw is another run


def test_other_few_shots_are_another_run(items, roomy, recorder):
    first = generation.evaluate(roomy, Benchmarks(["mmlu"], items), show_progress_bar=False)["mmlu"]
    path = items / "mmlu" / "dev" / "anatomy_dev.csv"
    path.write_text(path.read_text(encoding="utf8").replace("w0", "changed"), encoding="utf8")
    asked = len(recorder.asked)
    again = generation.evaluate(roomy, Benchmarks(["mmlu"], items), show_progress_bar=False)["mmlu"]
    assert len(recorder.asked) == 2 * asked
    assert again.data["fingerprint"] != first.data["fingerprint"]


def test_one_bar_a_task_or_none(items, roomy, capfd):
    generation.evaluate(roomy, Benchmarks(["truthfulqa"], items))
    shown = capfd.readouterr()
    assert "truthfulqa: 100%" in shown.err and "Tokenizing" not in shown.err and "Running" not in shown.err
    generation.evaluate(roomy, Benchmarks(["hellaswag"], items), show_progress_bar=False)
    assert tuple(capfd.readouterr()) == ("", "")


def test_an_adapter_without_a_name_is_not_kept(items, adapted, recorder, tmp_path):
    del adapted.model.get_base_model().adapter_fingerprint
    assert adapted.adapter == models.UNSAVED
    generation.evaluate(adapted, Benchmarks(["truthfulqa"], items), show_progress_bar=False)
    assert not (tmp_path / "build").exists()


def test_prefix_trees_score_as_the_harness_own_wrapper(items, roomy):
    """On all scored tasks, whatever the number of requests in a tree."""
    from lm_eval.models.huggingface import HFLM

    for task in ("mmlu", "hellaswag", "truthfulqa"):
        asked = harness._requests(harness._prepare(task, items, None, 42), 42)
        with harness.quiet():
            stock = HFLM(roomy.model, tokenizer=roomy.tokenizer, batch_size=2).loglikelihood(asked)
            for batch_size in (1, 3, "auto"):
                ours = harness_model.HarnessModel(roomy.model, tokenizer=roomy.tokenizer, batch_size=batch_size)
                scores = [score for score, _ in ours.loglikelihood(asked)]
                assert scores == pytest.approx([score for score, _ in stock], abs=1e-3)


def asked_freely(task: str, items, monkeypatch, **changes) -> list:
    """Return a task's requests, of which a random model's answers are short."""
    short = {"generation_kwargs": {"until": ["Q:", "\n"], "max_gen_toks": 7} | changes}
    repaired = dataclasses.replace(harness.TASKS[task], repair=harness.TASKS[task].repair | short)
    monkeypatch.setitem(harness.TASKS, task, repaired)
    return harness._requests(harness._prepare(task, items, None, 42), 42)


@pytest.mark.parametrize("task", ["gsm8k", "drop"])
def test_answers_behind_shared_few_shots_are_the_harness_own(task, items, roomy, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    asked = asked_freely(task, items, monkeypatch)
    how = {"tokenizer": roomy.tokenizer, "batch_size": 2, "max_length": 8192}
    taken = []
    once = harness_model.greedy.continuations
    monkeypatch.setattr(
        harness_model.greedy, "continuations", lambda *given, **more: taken.append(1) or once(*given, **more)
    )
    with harness.quiet():
        stock = HFLM(roomy.model, **how).generate_until(asked)
        ours = harness_model.HarnessModel(roomy.model, **how).generate_until(asked)
        one_by_one = harness_model.HarnessModel(roomy.model, **how)
        one_by_one.ways = Ways(prefix_cache=False)
        plain = one_by_one.generate_until(asked)
    assert ours == plain == stock and any(stock)
    assert bool(taken) == (task == "gsm8k"), "DROP's few-shots are drawn for each item"


@pytest.mark.parametrize("changes", [{"do_sample": True, "temperature": 1.0}, {"repetition_penalty": 2.0}])
def test_what_is_not_the_likeliest_token_is_left_to_the_harness(changes, items, roomy, monkeypatch):
    asked = asked_freely("gsm8k", items, monkeypatch, **changes)
    monkeypatch.setattr(harness_model.greedy, "continuations", lambda *_, **__: pytest.fail("not greedy"))
    with harness.quiet():
        ours = harness_model.HarnessModel(roomy.model, tokenizer=roomy.tokenizer, batch_size=4)
        assert len(ours.generate_until(asked)) == len(asked)
        roomy.model.generation_config.repetition_penalty = 2.0  # by the model's own settings
        assert len(ours.generate_until(asked_freely("gsm8k", items, monkeypatch))) == len(asked)


def test_an_answer_ends_at_a_stop_sequence_and_at_the_models_end_token(items, roomy, monkeypatch):
    """A row that stops does not wait for the others, and says what it says alone."""
    from lm_eval.models.huggingface import HFLM

    common = max(range(600), key=lambda token: len(roomy.tokenizer.decode([token])) == 1)
    with torch.no_grad():
        roomy.model.get_output_embeddings().weight[common] *= 3  # said often by a random model
    roomy.model.generation_config.eos_token_id = [roomy.tokenizer.eos_token_id, 77]
    stop = roomy.tokenizer.decode([common])
    asked = asked_freely("gsm8k", items, monkeypatch, until=[stop], max_gen_toks=12)
    with harness.quiet():
        stock = HFLM(roomy.model, tokenizer=roomy.tokenizer, batch_size=1).generate_until(asked)
        ours = harness_model.HarnessModel(roomy.model, tokenizer=roomy.tokenizer, batch_size=1).generate_until(asked)
    assert ours == stock and not any(stop in text for text in ours)


def test_trees_hold_what_shares(roomy, monkeypatch):
    ours = harness_model.HarnessModel(roomy.model, tokenizer=roomy.tokenizer, batch_size="auto")
    few = harness_model.HarnessModel(roomy.model, tokenizer=roomy.tokenizer, batch_size=2)
    choices = [[1, 2, 3, 4, choice] for choice in range(5, 9)]
    assert list(few._trees(choices)) == [[0, 1, 2, 3]], "its tokens limit a tree"
    roomy.model.bfloat16()
    assert list(few._trees(choices)) == [[0, 1], [2, 3]]
    roomy.model.float()
    packed = harness_model.HarnessModel(roomy.model, tokenizer=roomy.tokenizer, batch_size="auto", packed_tokens=6)
    assert list(packed._trees([[1, 2], [3, 4], [5, 6], [7, 8]])) == [[0, 1, 2], [3]], "short ones that share nothing"
    sequences = [[1, 2, 3, 9], [7, 7], [1, 2, 3, 4], [1, 2, 3, 4, 5], [7, 8, 9, 9]]
    assert list(ours._trees(sequences)) == [[2, 3, 0], [1], [4]]
    monkeypatch.setattr(harness_model, "TREE_TOKENS", 4)
    assert list(ours._trees([[5, 6, 7, choice] for choice in range(9)])) == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    long = [[*range(10), choice] for choice in range(4)]  # longer than a tree should be, yet computed once
    assert list(ours._trees(long)) == [[0, 1, 2, 3]]


def test_results_do_not_depend_on_the_batch(items, roomy, tmp_path, monkeypatch):
    short = {"until": ["\n"], "max_gen_toks": 6}
    for task in ("gsm8k", "drop"):
        monkeypatch.setitem(
            harness.TASKS, task, dataclasses.replace(harness.TASKS[task], repair={"generation_kwargs": short})
        )
    found = []
    for batch_size in (1, 4):
        monkeypatch.setenv("SEMPA_BUILD_DIR", str(tmp_path / f"build-{batch_size}"))
        results = generation.evaluate(
            roomy, Benchmarks(directory=items), batch_size=batch_size, show_progress_bar=False
        )
        assert all(result.seconds >= 0 for result in results.values())
        found.append({task: dataclasses.replace(result, seconds=0.0) for task, result in results.items()})
    assert found[0] == found[1]


def test_comparison_is_the_literal_computation():
    def result(scores, error, name):
        data = {"name": name, "fingerprint": name}
        return generation.BenchmarkResult(sum(scores) / len(scores), error, len(scores), name, 0, scores, {}, data, [])

    base = {"a": result([0.0, 100.0, 100.0, 0.0], 3.0, "a"), "b": result([50.0, 70.0], 4.0, "b")}
    tuned = {"a": result([0.0, 0.0, 100.0, 0.0], 6.0, "a"), "b": result([60.0, 90.0], 8.0, "b")}
    comparison = generation.comparison({"base": base, "tuned": tuned}, "base")
    assert comparison.against == "base" and list(comparison.rows) == ["base", "tuned"]
    row = comparison.rows["base"]
    assert row.tasks["a"] == TaskScore(50.0, 4, standard_error=3.0)
    assert row.mean == TaskScore(55.0, 6, standard_error=2.5)
    row = comparison.rows["tuned"]
    # Differences 0, −100, 0, 0: variance (3 · 25² + 75²) / 3 = 2500, over four items.
    assert row.tasks["a"].difference == Difference(-25.0, standard_error=pytest.approx(25.0))
    # Differences 10, 20: variance 50, over two items.
    assert row.tasks["b"].difference == Difference(15.0, standard_error=pytest.approx(5.0))
    apart = Difference(-5.0, standard_error=pytest.approx(math.sqrt(25**2 + 5**2) / 2))
    assert row.mean == TaskScore(50.0, 6, standard_error=5.0, difference=apart)
    with pytest.raises(InputError, match="'bases'.*'base'"):
        generation.comparison({"base": base, "tuned": tuned}, "bases")
    with pytest.raises(InputError, match="tuned ran a and base ran a, b"):
        generation.comparison({"base": base, "tuned": {"a": tuned["a"]}}, "base")
    tuned["b"] = dataclasses.replace(tuned["b"], data={"name": "b", "fingerprint": "other"})
    with pytest.raises(InputError, match="b: tuned and base ran on different items"):
        generation.comparison({"base": base, "tuned": tuned}, "base")


def test_unknown_task_and_limit(items):
    with pytest.raises(InputError, match="Unknown task 'hellaswg'. Did you mean 'hellaswag'"):
        generation.check_tasks(Benchmarks(["hellaswg"], items))
    with pytest.raises(InputError, match="limit of 1"):
        generation.check_tasks(Benchmarks(["gsm8k"], items, limit=1))


@pytest.mark.parametrize(
    "name", ["gsm8k_test.jsonl", "hellaswag_val.txt", "drop_dev.jsonl.gz", "truthfulqa_mc_task.json"]
)
def test_a_missing_or_unreadable_file(name, items):
    task = next(task for task, (file, _) in local_tasks.READERS.items() if file == name)
    (items / name).write_bytes(b"\xff\xfe broken")
    with pytest.raises(InputError, match=f"{name}.*not"):
        generation.check_tasks(Benchmarks([task], items))
    (items / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        generation.check_tasks(Benchmarks([task], items.parent))


@pytest.mark.parametrize(
    ("name", "broken", "line", "message"),
    [
        ("gsm8k_test.jsonl", '{"question": "How many?"}', 2, "line 2: not an object with question and answer"),
        ("gsm8k_test.jsonl", '{"question": "How many?", "answer": "5"}', 2, "line 2: the answer does not end in"),
        ("gsm8k_test.jsonl", "{", 3, "line 3: not readable as JSON"),
        ("hellaswag_val.txt", "no label", 7, "line 7: no 'activity label: context'"),
        ("hellaswag_val.txt", "4", 8, "line 8: the gold index '4' is none of 0 to 3"),
        ("hellaswag_val.txt", " ", 11, "line 11: an empty ending"),
        ("hellaswag_val.txt", None, 18, "line 17: 17 lines are no multiple of six"),
        ("mmlu/test/anatomy_test.csv", "q,w,x,y,z,E", 3, "row 3: the answer 'E'"),
        ("mmlu/dev/anatomy_dev.csv", "q,w,x,y", 4, "row 4: no cell for choice3, answer"),
        ("mmlu/dev/anatomy_dev.csv", "question,answer", 1, "row 1: no column choice0"),
    ],
)
def test_a_malformed_line(name, broken, line, message, items):
    lines = (items / name).read_text(encoding="utf8").splitlines()
    lines[line - 1 : line] = [] if broken is None else [broken]
    (items / name).write_text("\n".join(lines) + "\n", encoding="utf8")
    task = next(task for task, (file, _) in local_tasks.READERS.items() if name.startswith(file))
    with pytest.raises(InputError) as error:
        generation.check_tasks(Benchmarks([task], items))
    assert f"{Path(name).name}, {message}" in str(error.value)


def test_a_malformed_item_of_the_other_files(items):
    with gzip.open(items / "drop_dev.jsonl.gz", "at", encoding="utf8") as file:
        file.write('{"context": "Passage: a\\nAnswer:", "ref_text": "1"}\n')
    with pytest.raises(InputError, match="drop_dev.jsonl.gz, line 9: no context in the form"):
        generation.check_tasks(Benchmarks(["drop"], items))
    with gzip.open(items / "drop_dev.jsonl.gz", "wt", encoding="utf8") as file:
        file.write('{"context": "Passage: a\\nQuestion: b\\nAnswer:", "ref_text": "1"}\n')
    with pytest.raises(InputError, match="1 rows of 1 passages are too few"):
        generation.check_tasks(Benchmarks(["drop"], items))
    both = [{"question": "Is it?", "mc1_targets": {"Yes.": 1, "No.": 1}}]
    (items / "truthfulqa_mc_task.json").write_text(json.dumps(both), encoding="utf8")
    with pytest.raises(InputError, match="item 1: not an object with a question and mc1_targets"):
        generation.check_tasks(Benchmarks(["truthfulqa"], items))
    (items / "mmlu" / "dev" / "virology_dev.csv").unlink()
    with pytest.raises(InputError, match="virology_dev.csv: no such file"):
        generation.check_tasks(Benchmarks(["mmlu"], items))
    text = (items / "mmlu" / "test" / "virology_test.csv").read_text(encoding="utf8")
    for split in ("dev", "test"):
        rows = [text.splitlines()[0], *["q,w,x,y,z,0"] * 5]
        (items / "mmlu" / split / f"anatomie_{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf8")
    (items / "mmlu" / "test" / "virology_test.csv").unlink()
    with pytest.raises(InputError, match="mmlu_anatomie.*mmlu_anatomy"):
        generation.check_tasks(Benchmarks(["mmlu"], items))


def test_a_context_too_short_for_the_shots(items, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "_run", lambda *_: pytest.fail("ran"))
    with pytest.raises(InputError, match=r"gsm8k: \d,\d+ tokens are needed, 8 shots.*holds 512. Leave gsm8k out"):
        generation.evaluate(tiny, Benchmarks(["truthfulqa", "gsm8k"], items), show_progress_bar=False)
    folder = tmp_path / "model"
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match="gsm8k: .* tokens are needed"):
        generation.check_tasks(Benchmarks(["gsm8k"], items), str(folder))
    with pytest.raises(InputError, match="nowhere"):
        generation.check_tasks(Benchmarks(["gsm8k"], items), str(tmp_path / "nowhere"))


def test_the_longest_request_is_counted_exactly(items, tiny):
    prepared = harness._prepare("truthfulqa", items, None, 42)
    needed = max(len(tiny.tokenizer("".join(one.args))["input_ids"]) for one in harness._requests(prepared, 42))
    assert harness._check_context("truthfulqa", prepared, tiny.tokenizer, needed, 42) == needed
    with pytest.raises(InputError):
        harness._check_context("truthfulqa", prepared, tiny.tokenizer, needed - 1, 42)


def test_mini_items_stand_in_where_nothing_is_found(no_data):
    found = generation.check_tasks()
    assert {one["source"] for one in found.values()} == {local_tasks.MINI_SOURCE}
    assert all(one["items"] == one["rows"] >= 2 for one in found.values())


@pytest.mark.data
def test_the_real_files_have_the_published_numbers_of_items(data_directory):
    found = generation.check_tasks(Benchmarks(directory=data_directory, limit=57))
    rows = {task: one["rows"] + one["dropped"].get("set aside for few-shots", 0) for task, one in found.items()}
    assert rows == {"gsm8k": 1319, "mmlu": 14042, "hellaswag": 10042, "drop": 9536, "truthfulqa": 817}
    assert found["drop"]["rows"] == 9058 and found["mmlu"]["subjects"] == 57
    assert {one["items"] for one in found.values()} == {57}


def test_guessing_gets_what_the_number_of_answers_says(data_directory):
    """HellaSwag and MMLU have four answers each; TruthfulQA's questions have as many as they have."""
    path = next(Path(data_directory).rglob("truthfulqa_mc_task.json"))
    items = json.loads(path.read_text(encoding="utf8"))
    guessed = sum(1 / len(item["mc1_targets"]) for item in items) / len(items)
    assert generation.CHANCE == {"mmlu": 25.0, "hellaswag": 25.0, "truthfulqa": pytest.approx(100 * guessed, abs=0.005)}
