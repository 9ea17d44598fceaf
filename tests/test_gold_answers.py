"""Gold answers: what is read, how likely it is by a plain forward and by the harness, what is left out or shared."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval")

import lm_eval.tasks  # noqa: E402
import yaml  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.utils import apply_template  # noqa: E402
from test_generation import adapted, items, roomy, write_items  # noqa: E402, F401 (fixtures)

from sempa_utils import models  # noqa: E402
from sempa_utils.checks import InputError  # noqa: E402
from sempa_utils.evaluation import generation  # noqa: E402
from sempa_utils.evaluation.generation import Benchmarks, gold_answers, harness  # noqa: E402
from sempa_utils.evaluation.generation.gold_answers import GoldAnswer, GoldTask  # noqa: E402
from sempa_utils.models import Ways  # noqa: E402

HARNESS = Path(lm_eval.tasks.__file__).parent


def definition(file: str) -> dict:
    """Read a definition of the harness without running the functions that it names."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    return yaml.load((HARNESS / file).read_text(encoding="utf8"), Loader)


def literal(language_model, item: GoldAnswer) -> tuple[float, int]:
    """Return the sum of the answer's log-probabilities by a plain forward in float64, and its tokens."""
    prompt = language_model.tokenizer(item.prompt)["input_ids"]
    whole = language_model.tokenizer(item.prompt + item.answer)["input_ids"]
    with torch.no_grad():
        table = language_model.model(torch.tensor([whole])).logits[0].double().log_softmax(dim=-1)
    places = range(len(prompt), len(whole))
    return sum(table[place - 1, whole[place]].item() for place in places), len(places)


def read(language_model, tasks, **options):
    return gold_answers.evaluate(language_model, tasks, show_progress_bar=False, **options)


# --- what is read ----------------------------------------------------------------------------------


def test_the_items_are_the_benchmarks_questions_with_their_right_answers(items):  # noqa: F811
    tasks = gold_answers.load(Benchmarks(directory=items))
    first = {name: task.items[0] for name, task in tasks.items()}
    assert first == {
        "gsm8k": ("Question: Ann has 3 pens and buys 2. How many now?\nAnswer:", " 3+2=\nThe answer is 5."),
        "mmlu": ("Question: Which, in anatomy test, is 0?\nAnswer:", " w0"),
        "hellaswag": ("Baking bread: A man kneads dough. He puts it away. The man", " waits."),
        "drop": ("Passage: Team 2 won by 2.5 points.\nQuestion: What was asked 4?\nAnswer:", " 4.5"),
        "truthfulqa": ("Question: Is 0 odd?\nAnswer:", " Look at it."),
    }
    assert {name: len(task.items) for name, task in tasks.items()} == {
        "gsm8k": 4,
        "mmlu": 6,
        "hellaswag": 3,
        "drop": 4,
        "truthfulqa": 3,
    }
    assert tasks["mmlu"].items[4].answer == " x1", "the answer of test row 1 is option 1"
    assert all(task.data["items"] == len(task.items) for task in tasks.values())
    assert tasks["drop"].data["dropped"] == {"set aside for few-shots": 4}


def test_the_questions_are_put_as_the_harness_puts_them_without_examples():
    row = {"question": " Which is it? ", "answer": "1+1=<<1+1=2>>2\n#### 2"}
    asked = apply_template(definition("gsm8k/gsm8k.yaml")["doc_to_text"], row)
    assert gold_answers.READ["gsm8k"](row).prompt == asked
    # The strict match of the chain of thought finds the answer where we have put it.
    pattern = definition("gsm8k/gsm8k-cot.yaml")["filter_list"][0]["filter"][0]["regex_pattern"]
    assert gold_answers.READ["gsm8k"](row).answer == " 1+1=2\nThe answer is 2."
    assert re.findall(pattern, gold_answers.READ["gsm8k"](row).answer) == ["2"]
    continuation = definition("mmlu/continuation/_continuation_template_yaml")
    row |= {"choices": ["one", "two"], "answer": 1}
    assert gold_answers.READ["mmlu"](row) == (apply_template(continuation["doc_to_text"], row), " two")


def test_every_benchmark_has_its_right_answers():
    assert list(gold_answers.READ) == list(gold_answers.LABELS) == list(generation.TASKS)


def test_the_items_are_those_that_the_benchmark_draws(items):  # noqa: F811
    prepared = harness.prepare_all(Benchmarks(["gsm8k"], items, limit=2))["gsm8k"]
    questions = [row["question"] for part in prepared.parts.values() for row in part.eval_docs]
    few = gold_answers.load(Benchmarks(["gsm8k"], items, limit=2))["gsm8k"]
    assert [item.prompt for item in few.items] == [f"Question: {question}\nAnswer:" for question in questions]
    other = gold_answers.load(Benchmarks(["gsm8k"], items, limit=2, seed=1))["gsm8k"]
    assert other.items != few.items and other.data["fingerprint"] != few.data["fingerprint"]
    with pytest.raises(InputError, match="limit of 1"):
        gold_answers.load(Benchmarks(["gsm8k"], items, limit=1))


def test_sentences_are_told_from_each_other():
    item = GoldAnswer("Passage: It rained. He ran!\nQuestion: Why?\nAnswer:", " He was wet.")
    parts = ["Passage:", "It rained.", "He ran!", "Question:", "Why?", "Answer:", "He was wet."]
    assert gold_answers.sentences(item) == parts


# --- how likely it is ------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [Ways(), Ways(tree=False), Ways(tree=False, padding="none")])
def test_scores_are_a_plain_forwards_item_by_item(items, roomy, ways):  # noqa: F811
    roomy.model.__dict__["sempa_ways"] = ways
    tasks = gold_answers.load(Benchmarks(directory=items))
    for name, result in read(roomy, tasks).items():
        plain = [literal(roomy, item) for item in tasks[name].items]
        scores = [total / tokens for total, tokens in plain]
        assert result.scores == pytest.approx(scores, abs=1e-4) and max(result.scores) < 0
        assert result.value == pytest.approx(sum(scores) / len(scores), abs=1e-4)
        spread = math.sqrt(sum((score - result.value) ** 2 for score in scores) / (len(scores) - 1))
        assert result.standard_error == pytest.approx(spread / math.sqrt(len(scores)), abs=1e-4)
        totals, tokens = (sum(column) for column in zip(*plain))
        assert result.all_metrics["tokens"] == tokens
        assert result.all_metrics["of all tokens alike"] == pytest.approx(totals / tokens, abs=1e-4)


def test_scores_are_those_of_the_harness_own_wrapper(items, roomy):  # noqa: F811
    from lm_eval.models.huggingface import HFLM

    tasks = gold_answers.load(Benchmarks(directory=items))
    with harness.quiet():
        stock = HFLM(roomy.model, tokenizer=roomy.tokenizer, batch_size=2)
    for name, result in read(roomy, tasks).items():
        asked = [Instance("loglikelihood", {}, tuple(item), index) for index, item in enumerate(tasks[name].items)]
        with harness.quiet():
            totals = [total for total, _ in stock.loglikelihood(asked)]
        tokens = [literal(roomy, item)[1] for item in tasks[name].items]
        assert result.scores == pytest.approx([a / b for a, b in zip(totals, tokens, strict=True)], abs=1e-4)


def test_an_item_that_is_too_long_is_left_out_whole_and_counted(roomy):  # noqa: F811
    asked = [GoldAnswer("Is it?", " Yes."), GoldAnswer("Is it " * 20, " No."), GoldAnswer("Is he?", " No.")]
    task = GoldTask(asked, {"name": "made", "dropped": {"blank": 2}})
    lengths = [len(roomy.tokenizer(item.prompt + item.answer)["input_ids"]) for item in asked]
    whole, cut = (read(roomy, {"gsm8k": task}, max_length=most)["gsm8k"] for most in (None, max(lengths) - 1))
    assert (whole.items, cut.items) == (3, 2)
    assert cut.scores == pytest.approx([whole.scores[0], whole.scores[2]], abs=1e-5)
    assert cut.data["dropped"] == {"blank": 2, f"longer than {max(lengths) - 1} tokens": 1}
    assert whole.data["dropped"] == {"blank": 2, "longer than 8192 tokens": 0}
    with pytest.raises(InputError, match="gsm8k: 0 of 3 items have no more than 3 tokens"):
        read(roomy, {"gsm8k": task}, max_length=3)


def test_a_run_and_its_base_are_compared_item_by_item(items, adapted, monkeypatch):  # noqa: F811
    tasks = gold_answers.load(Benchmarks(["gsm8k", "drop"], items))
    rows = {"tuned": read(adapted, tasks)}
    with adapted.model.disable_adapter():
        rows["base"] = read(adapted, tasks)
    compared = generation.comparison(rows, "base").rows["tuned"]
    for name, score in compared.tasks.items():
        apart = [one - other for one, other in zip(rows["tuned"][name].scores, rows["base"][name].scores)]
        mean = sum(apart) / len(apart)
        error = math.sqrt(sum((value - mean) ** 2 for value in apart) / (len(apart) - 1) / len(apart))
        assert score.difference.value == pytest.approx(mean) and mean != 0
        assert score.difference.standard_error == pytest.approx(error)
        assert score.difference.bounds.low == pytest.approx(mean - 1.96 * error)
    # Kept, under a key of its own for each model; an adapter without a name is not.
    monkeypatch.setattr(gold_answers, "_read", lambda *_, **__: pytest.fail("read again"))
    assert read(adapted, tasks) == rows["tuned"]
    with pytest.raises(pytest.fail.Exception):
        read(adapted, tasks, max_length=100)
    del adapted.model.get_base_model().adapter_fingerprint
    assert adapted.adapter == models.UNSAVED
    count = []
    monkeypatch.setattr(gold_answers, "_read", lambda *_, **__: count.append(1))
    read(adapted, tasks)
    read(adapted, tasks)
    assert len(count) == 4


def test_another_draw_is_not_found_among_what_is_kept(items, roomy, monkeypatch):  # noqa: F811
    asked = []
    monkeypatch.setattr(gold_answers, "_read", lambda _, name, task, **__: asked.append(task) or made)
    task = gold_answers.load(Benchmarks(["drop"], items))["drop"]
    made = generation.BenchmarkResult(-1.0, 0.5, 2, "m", 0, [-1.0, -2.0], {}, task.data, [])
    for data in (task.data, task.data, task.data | {"fingerprint": "another"}):
        assert read(roomy, {"drop": dataclasses.replace(task, data=data)})["drop"] == made
    assert len(asked) == 2


@pytest.mark.data
def test_the_real_items_have_answers_and_fit(data_directory):
    tasks = gold_answers.load(Benchmarks(directory=data_directory, limit=57))
    for name, task in tasks.items():
        assert len(task.items) == 57, name
        assert all(item.answer.startswith(" ") and item.answer.strip() and item.prompt.strip() for item in task.items)
        assert "<<" not in "".join(item.answer for item in task.items)
