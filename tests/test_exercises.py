"""The checkers: right answers pass, each plausible slip is named, and no answer can crash them."""

import itertools
import re
from pathlib import Path

import pytest
import torch

from sempa_utils.theory import exercises

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "source" / "01_theory.py"


def folded_solutions():
    """The code in the notebook's <details>, by function name."""
    text = re.sub(r"^# ?", "", NOTEBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    blocks = re.findall(r"<details><summary>Solution</summary>\n\n```python\n(.*?)```", text, flags=re.DOTALL)
    return {re.match(r"def (\w+)", block).group(1): block for block in blocks}


def test_there_are_six_exercises_or_more_of_each_difficulty():
    assert len(exercises.EXERCISES) >= 6
    assert {item.difficulty for item in exercises.EXERCISES.values()} == {1, 2, 3}
    assert all(item.minutes > 0 and item.task and item.signature for item in exercises.EXERCISES.values())


def test_the_notebook_has_every_exercise_with_a_solution():
    assert set(folded_solutions()) == set(exercises.EXERCISES)
    text = NOTEBOOK.read_text(encoding="utf-8")
    for item in exercises.EXERCISES.values():
        assert f"def {item.signature}:\n    raise NotImplementedError" in text, item.name
        assert f'exercises.check("{item.name}", {item.name})' in text
        assert re.search(rf"\(({'●' * item.difficulty}{'○' * (3 - item.difficulty)}), {item.minutes} minutes\)", text)


@pytest.mark.parametrize("name", exercises.EXERCISES)
def test_the_folded_solution_passes(name):
    namespace = {"torch": torch}
    exec(folded_solutions()[name], namespace)
    report = exercises.check(name, namespace[name])
    assert report.ok, str(report)
    assert len(report.passed) >= 3
    assert "Well done" in str(report)


logsigmoid = torch.nn.functional.logsigmoid
normalize = torch.nn.functional.normalize


def rank_among_the_placed(scores, ranking):
    ordered = scores[ranking]
    return sum(ordered[k] - ordered[k:].logsumexp(0) for k in range(len(ordered)))


def rank(scores, ranking):
    left = scores.clone()
    total = 0
    for item in ranking:
        total = total + scores[item] - left.logsumexp(0)
        left[item] = -torch.inf
    return total


def rank_by_exponentials(scores, ranking):
    left, product = scores.exp(), 1
    for item in ranking:
        product = product * left[item] / left.sum()
        left[item] = 0
    return product.log()


def places(scores):
    matrix = torch.zeros(len(scores), len(scores), dtype=torch.float64)
    for ranking in torch.tensor(list(itertools.permutations(range(len(scores))))):
        matrix[ranking, torch.arange(len(scores))] += rank(scores, ranking).exp()
    return matrix


def in_batch_without_the_positive(anchor, positive, temperature):
    scores = normalize(anchor, dim=-1) @ normalize(positive, dim=-1).T / temperature
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    return (others.logsumexp(-1) - scores.diagonal()).mean()


def gumbel(shape, generator):
    return -(-torch.rand(shape, dtype=torch.float64, generator=generator).log()).log()


def worth(reference, rewards, beta):
    return reference * (rewards / beta).exp()


WRONG = [
    ("best_of_probability", lambda s: s.log_softmax(-1)[..., 0], "log-probability"),
    ("best_of_probability", lambda s: s.softmax(0)[..., 0], "candidates are the last dimension"),
    ("best_of_probability", lambda s: s.exp()[..., 0] / s.exp().sum(), "runs over the batch as well"),
    ("best_of_probability", lambda s: s.exp()[..., 0] / s.exp().sum(-1), "overflow"),
    ("best_of_probability", lambda s: s.softmax(-1), "shape should be"),
    ("top_k_log_prob", lambda s, r: s.log_softmax(0)[r].sum(), "already placed must leave"),
    ("top_k_log_prob", lambda s, r: rank(s, r.flip(0)), "best comes first"),
    ("top_k_log_prob", rank_among_the_placed, "have lost too"),
    ("top_k_log_prob", rank_by_exponentials, "overflow"),
    ("top_k_log_prob", lambda s, r: s.log_softmax(0)[r[0]], "the other places are missing"),
    ("top_k_log_prob", lambda s, r: s.sum(), "expected"),
    ("dpo_loss", lambda a, b, c, d, beta: -logsigmoid((a - c) - (b - d)).mean(), "beta is missing"),
    ("dpo_loss", lambda a, b, c, d, beta: -logsigmoid(beta * (b - d - a + c)).mean(), "exchanged"),
    ("dpo_loss", lambda a, b, c, d, beta: -logsigmoid(beta * (a - b)).mean(), "reference is missing"),
    ("dpo_loss", lambda a, b, c, d, beta: -logsigmoid(((a - c) - (b - d)) / beta).mean(), "multiplies by it"),
    ("dpo_loss", lambda a, b, c, d, beta: -logsigmoid(beta * ((a - c) - (b - d))).sum(), "mean is asked for"),
    ("dpo_loss", lambda a, b, c, d, beta: -logsigmoid(beta * ((a - c) - (b - d))).mean().item(), "no gradient"),
    ("dpo_loss", lambda a, b, c, d, beta: -(beta * ((a - c) - (b - d))).sigmoid().log().mean(), "overflow"),
    ("score_gradient", lambda s: s.softmax(-1), "−1 is missing"),
    ("score_gradient", lambda s: torch.eye(s.shape[-1])[0] - s.softmax(-1), "gradient of the log-likelihood"),
    ("score_gradient", lambda s: (s.softmax(-1) - torch.eye(s.shape[-1])[0]) / len(s), "no mean over the batch"),
    ("info_nce_in_batch", in_batch_without_the_positive, "denominator"),
    (
        "info_nce_in_batch",
        lambda a, p, t: -(a @ p.T / t).log_softmax(-1).diagonal().mean(),
        "vectors of length one",
    ),
    (
        "info_nce_in_batch",
        lambda a, p, t: -(normalize(a, dim=-1) @ normalize(p, dim=-1).T).log_softmax(-1).diagonal().mean(),
        "temperature is missing",
    ),
    (
        "info_nce_in_batch",
        lambda a, p, t: -(normalize(a, dim=-1) @ normalize(p, dim=-1).T / t).log_softmax(0).diagonal().mean(),
        "rows and columns",
    ),
    ("optimal_policy", worth, "not normalised"),
    ("optimal_policy", lambda q, r, b: (r / b).softmax(-1), "reference is missing"),
    ("optimal_policy", lambda q, r, b: (q.log() + r * b).softmax(-1), "so divide"),
    ("optimal_policy", lambda q, r, b: worth(q, r, b) / worth(q, r, b).sum(-1, keepdim=True), "overflow"),
    ("optimal_policy", lambda q, r, b: q, "higher objective"),
    ("sample_ranking", lambda s, g: s.argsort(descending=True), "where is the noise"),
    ("sample_ranking", lambda s, g: (s + gumbel(s.shape, g)).argsort(), "the order is turned"),
    ("sample_ranking", lambda s, g: (s + gumbel(s.shape, g)).argsort(descending=True).argsort(), "place of each"),
    ("sample_ranking", lambda s, g: (s + torch.randn(3, generator=g)).argsort(descending=True), "Gumbel noise is"),
    ("sample_ranking", lambda s, g: (s + gumbel(s.shape, None)).argsort(descending=True), "pass `generator`"),
    ("sample_ranking", lambda s, g: torch.multinomial(s.softmax(0), 3, True, generator=g), "permutation"),
    ("one_word_scores", lambda q, p, r, b: (p - r) @ q.T, "beta is missing"),
    ("one_word_scores", lambda q, p, r, b: b * (r - p) @ q.T, "policy over reference"),
    ("one_word_scores", lambda q, p, r, b: b * ((p - r).exp() @ q.T).log(), "mean of the logarithm"),
    ("one_word_scores", lambda q, p, r, b: b * (q * (p - r)[:, None]).mean(-1), "expectation sums"),
    ("one_word_scores", lambda q, p, r, b: b * p @ q.T, "reference is missing"),
    ("one_word_scores", lambda q, p, r, b: b * q @ (p - r).T, "shape should be"),
    ("place_probabilities", lambda s: places(s).T, "rows and columns"),
    ("place_probabilities", lambda s: places(s).flip(1), "counted from the worst"),
    ("place_probabilities", lambda s: places(-s), "expected"),
    ("place_probabilities", lambda s: s.softmax(0)[:, None].expand(len(s), len(s)), "not yet placed"),
]


@pytest.mark.parametrize("name, function, message", WRONG)
def test_a_wrong_answer_fails_with_a_message_that_helps(name, function, message):
    torch.manual_seed(0)
    report = exercises.check(name, function)
    assert not report.ok
    assert message in str(report), str(report)
    assert "Well done" not in str(report)


def test_every_exercise_is_fed_wrong_answers():
    assert {name for name, *_ in WRONG} == set(exercises.EXERCISES)


def raises(*arguments):
    raise RuntimeError("a bug of mine")


def leaves(*arguments):
    raise SystemExit("gone")


def overwrites(first, *rest):
    return first.mul_(0)


BROKEN = [
    (raises, "raised RuntimeError: a bug of mine"),
    (leaves, "raised SystemExit"),
    (lambda: 1, "it is called as"),
    (lambda *arguments: None, "returned None"),
    (lambda *arguments: "text", "could not be used"),
    (lambda *arguments: object(), "could not be used"),
    (lambda *arguments: torch.tensor(torch.nan), "✗"),
    (lambda *arguments: torch.zeros(0), "✗"),
    (overwrites, "in place"),
]


@pytest.mark.parametrize("name", exercises.EXERCISES)
@pytest.mark.parametrize("function, message", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_function_never_crashes_the_checker(name, function, message):
    report = exercises.check(name, function)
    assert not report.ok
    assert message in str(report)


def test_an_overwritten_input_does_not_spoil_the_next_check():
    name = "best_of_probability"
    assert not exercises.check(name, overwrites).ok
    assert exercises.check(name, lambda scores: scores.softmax(-1)[..., 0]).ok


def test_an_unwritten_function_is_told_so_once():
    def unwritten(*arguments):
        raise NotImplementedError

    for name in exercises.EXERCISES:
        report = exercises.check(name, unwritten)
        assert list(report.failed) == ["it is written"]


def test_not_a_function():
    assert "hand over the function itself" in str(exercises.check("dpo_loss", 3.0))


def test_an_unknown_exercise_names_the_known_ones():
    with pytest.raises(KeyError, match="best_of_probability"):
        exercises.check("no_such", print)


def test_the_overview_lists_every_exercise():
    table = exercises.overview().splitlines()
    assert len(table) == 2 + len(exercises.EXERCISES)
    assert all(row.count("|") == 5 for row in table)
