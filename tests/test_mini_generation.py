"""Our own benchmark items: in the public releases' layout, balanced, right, and nowhere twice."""

import csv
import gzip
import json
import re
from collections import Counter

import pytest

from sempa_utils.data.corpora import MINI_CORPUS
from sempa_utils.evaluation.generation import Benchmarks, gold_answers

FOLDER = MINI_CORPUS / "generation"
SUBJECTS = ("elementary_mathematics", "high_school_geography", "nutrition")
COLUMNS = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]


def gsm8k() -> list[dict]:
    return [json.loads(line) for line in (FOLDER / "gsm8k_test.jsonl").read_text(encoding="utf8").splitlines()]


def hellaswag() -> list[list[str]]:
    lines = (FOLDER / "hellaswag_val.txt").read_text(encoding="utf8").splitlines()
    assert len(lines) % 6 == 0
    return [lines[start : start + 6] for start in range(0, len(lines), 6)]


def mmlu(subject: str, split: str) -> list[dict]:
    with open(FOLDER / "mmlu" / split / f"{subject}_{split}.csv", newline="", encoding="utf8") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return list(reader)


def truthfulqa() -> list[dict]:
    return json.loads((FOLDER / "truthfulqa_mc_task.json").read_text(encoding="utf8"))


def drop() -> list[dict]:
    with gzip.open(FOLDER / "drop_dev.jsonl.gz", "rt", encoding="utf8") as file:
        return [json.loads(line) for line in file]


def every_question() -> list[str]:
    subjects = [row for subject in SUBJECTS for split in ("dev", "test") for row in mmlu(subject, split)]
    return [
        *(item["question"] for item in gsm8k()),
        *(item[0] for item in hellaswag()),
        *(row["question"] for row in subjects),
        *(item["question"] for item in truthfulqa()),
        *(item["context"] for item in drop()),
    ]


def test_arithmetic_is_right_step_by_step_and_leads_to_the_answer():
    assert len(gsm8k()) == 12
    for item in gsm8k():
        assert set(item) == {"question", "answer"}
        steps = re.findall(r"<<([-+*/0-9]+)=(\d+)>>(\d+)", item["answer"])
        assert steps and item["question"].endswith("?")
        for calculation, result, written in steps:
            assert eval(calculation) == int(result) == int(written), item["question"]
        known = {*re.findall(r"\d+", item["question"]), *(result for _, result, _ in steps)}
        small = {"2", "3"}  # "twice", "there and back", "three friends"
        assert {number for step in steps for number in re.findall(r"\d+", step[0])} <= known | small
        assert re.search(r"\n#### (\d+)$", item["answer"])[1] == steps[-1][1]


def test_a_continuation_item_has_six_lines_and_the_gold_endings_take_turns():
    assert Counter(item[1] for item in hellaswag()) == {"0": 3, "1": 3, "2": 3, "3": 3}
    longest = 0
    for context, gold, *endings in hellaswag():
        assert re.match(r"[A-Z][a-z ]+: [A-Z]", context) and not context.endswith(".")
        assert len(set(endings)) == 4 and all(ending.endswith(".") and ending[0].islower() for ending in endings)
        longest += len(endings[int(gold)]) == max(map(len, endings))
    assert longest <= 8, "the longest ending is not always the right one"


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_has_five_shots_and_each_letter_is_right_once(subject):
    assert len(mmlu(subject, "dev")) == 5 and len(mmlu(subject, "test")) == 4
    assert Counter(row["answer"] for row in mmlu(subject, "test")) == {"0": 1, "1": 1, "2": 1, "3": 1}
    assert {row["answer"] for row in mmlu(subject, "dev")} == {"0", "1", "2", "3"}
    for row in mmlu(subject, "dev") + mmlu(subject, "test"):
        choices = [row[column] for column in COLUMNS[1:5]]
        assert len(set(choices)) == 4 and all(choices)


def test_the_subjects_files_are_all_there_is():
    names = {f"{subject}_{split}.csv" for subject in SUBJECTS for split in ("dev", "test")}
    assert {path.name for path in (FOLDER / "mmlu").rglob("*.csv")} == names


def test_a_truth_item_has_one_true_answer_first_and_false_ones_of_both_kinds():
    assert len(truthfulqa()) == 12
    first_words = Counter()
    for item in truthfulqa():
        targets = item["mc1_targets"]
        assert list(targets.values()) == [1] + [0] * (len(targets) - 1) and len(targets) >= 4
        both = item["mc2_targets"]
        assert targets.items() <= both.items() and sum(both.values()) > 1
        first_words[next(iter(targets)).split()[0].strip(",")] += 1
        if next(iter(targets)).startswith("No,"):
            assert any(answer.startswith("No,") for answer in list(targets)[1:]), "'No' alone must not give it away"
    assert first_words["No"] < 12


def test_a_passage_answers_its_question():
    assert len(drop()) == 16 and len({item["context"].split("\n")[0] for item in drop()}) == 16
    for item in drop():
        assert set(item) == {"context", "completion", "ref_text"}
        passage, question = re.fullmatch(r"Passage: (.+)\nQuestion: (.+\?)\nAnswer:", item["context"]).groups()
        answers = item["ref_text"].split("|")
        assert item["completion"] == f" {answers[0]}"
        if answers[0].isdigit():
            numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", passage)]
            results = {abs(a - b) for a in numbers for b in numbers} | {a + b for a in numbers for b in numbers}
            assert int(answers[0]) in results | set(numbers), question
        else:
            assert answers[0].lower() in (passage + question).lower()


def test_the_archive_has_the_same_bytes_wherever_it_is_made():
    data = (FOLDER / "drop_dev.jsonl.gz").read_bytes()
    assert data[4:8] == bytes(4), "no time in the header"
    assert not data[3] & 8, "and no name of a file"


def test_no_question_stands_twice():
    questions = [" ".join(re.findall(r"\w+", question.lower())) for question in every_question()]
    assert len(questions) == len(set(questions)) == 12 + 12 + 27 + 12 + 16


def test_spelling_is_british():
    american = r"\b(?:color|colors|favorite|center|liter|liters|meter|meters|gray|neighbor|airplane|soccer|dollars?)\b"
    for question in every_question():
        assert not re.search(american, question.lower()), question


def test_our_own_items_named_as_a_directory_are_called_ours():
    found = gold_answers.load(Benchmarks(directory=MINI_CORPUS))
    assert {task.data["source"] for task in found.values()} == {"mini corpus (packaged)"}
