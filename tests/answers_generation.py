"""Answers to the exercises of notebook 05, right and wrong."""

import math

import numpy as np
import torch
from scipy import stats

from sempa_utils.evaluation.generation import signals


def perplexity_by_a_loop(sentences):
    total, count = 0.0, 0
    for sentence in sentences:
        for log_prob in sentence:
            total, count = total - log_prob, count + 1
    return math.exp(total / count)


def perplexity_in_torch(sentences):
    return torch.cat([torch.tensor(sentence) for sentence in sentences]).mean().neg().exp()


def ending_by_max(log_probs, endings):
    return max(range(len(endings)), key=lambda place: math.fsum(log_probs[place]) / len(endings[place]))


def ending_in_torch(log_probs, endings):
    sums = torch.tensor([torch.tensor(one).sum() for one in log_probs])
    return (sums / torch.tensor([len(ending) for ending in endings])).argmax()


def by(score):
    """The ending with the highest score of (its log-probabilities, its text)."""
    return lambda log_probs, endings: int(np.argmax([score(*both) for both in zip(log_probs, endings)]))


def difference_by_scipy(one, other):
    return np.mean(one - other), stats.sem(one - other)


def difference_in_torch(one, other):
    apart = torch.as_tensor(one) - torch.as_tensor(other)
    return [apart.mean(), apart.var().div(len(apart)).sqrt()]


def none_by_scipy(count, level):
    return stats.binomtest(0, count, alternative="less").proportion_ci(1 - level, method="exact").high


def none_by_halving(count, level):
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) ** count > level else (low, middle)
    return low


def kl_by_torch(base, model):
    return torch.nn.functional.kl_div(model, base, log_target=True, reduction="none").sum(-1)


def kl_by_scipy(base, model):
    return stats.entropy(np.exp(base), np.exp(model), axis=-1)


def rotation(width):
    return np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]


def loss_in_numpy(preference, base, model, at_slot, weight):
    base, model, text = np.asarray(base), np.asarray(model), ~np.asarray(at_slot)
    return float(preference) + weight * (np.exp(base) * (base - model)).sum(axis=1)[text].mean()


def loss_by_torch(preference, base, model, at_slot, weight):
    text = at_slot.logical_not()
    held = torch.nn.functional.kl_div(model[text], base[text], log_target=True, reduction="batchmean")
    return preference + weight * held


RIGHT = [
    ("perplexity_of", perplexity_by_a_loop),
    ("perplexity_of", perplexity_in_torch),
    ("choose_ending", ending_by_max),
    ("choose_ending", ending_in_torch),
    ("paired_difference", difference_by_scipy),
    ("paired_difference", difference_in_torch),
    ("none_right", none_by_scipy),
    ("none_right", none_by_halving),
    ("divergence_from_base", kl_by_torch),
    ("divergence_from_base", kl_by_scipy),
    ("divergence_from_base", signals.divergence),
    ("turn_unnoticed", lambda states, head: states @ rotation(states.shape[1])),
    ("turn_unnoticed", lambda states, head: -torch.as_tensor(states)),
    ("turn_unnoticed", lambda states, head: np.roll(states, 1, axis=1).tolist()),
    ("leashed_loss", loss_in_numpy),
    ("leashed_loss", loss_by_torch),
]

WRONG = [
    ("perplexity_of", lambda text: sum(perplexity_by_a_loop([one]) for one in text) / len(text), "outweigh a page"),
    ("perplexity_of", lambda text: math.exp(-sum(sum(one) / len(one) for one in text) / len(text)), "counts alike"),
    ("perplexity_of", lambda text: math.exp(-sum(map(sum, text)) / len(text)), "a perplexity is per token"),
    ("perplexity_of", lambda text: -np.concatenate(text).mean(), "surprise in nats"),
    ("perplexity_of", lambda text: perplexity_in_torch(text) ** -1, "at least 1"),
    ("perplexity_of", lambda text: 2 ** -np.concatenate(text).mean(), "not of 2"),
    ("perplexity_of", lambda text: np.exp(-np.concatenate(text)).mean(), "one impossible token"),
    ("choose_ending", by(lambda own, ending: sum(own)), "the shortest ending wins"),
    ("choose_ending", by(lambda own, ending: sum(own) / len(own)), "depends on the tokenizer"),
    ("choose_ending", by(lambda own, ending: -sum(own) / len(ending)), "nearest to zero"),
    ("choose_ending", by(lambda own, ending: own[0]), "not only the first"),
    ("choose_ending", by(lambda own, ending: sum(own) / len(ending.split())), "This divides by the words"),
    ("choose_ending", by(lambda own, ending: len(ending)), "The longest"),
    (
        "paired_difference",
        lambda a, b: (np.mean(a - b), (stats.sem(a) ** 2 + stats.sem(b) ** 2) ** 0.5),
        "subtract first",
    ),
    ("paired_difference", lambda a, b: (np.mean(a - b), np.std(a - b, ddof=1)), "smaller by √n"),
    ("paired_difference", lambda a, b: (np.mean(a - b), np.std(a - b, ddof=1) / len(a)), "not with n"),
    ("paired_difference", lambda a, b: (np.mean(a - b), np.std(a - b) / len(a) ** 0.5), "divides by n − 1"),
    ("paired_difference", lambda a, b: difference_by_scipy(b, a), "This is other − one"),
    ("paired_difference", lambda a, b: (np.mean(a - b), stats.sem(a)), "have their own"),
    ("paired_difference", lambda a, b: np.mean(a - b), "values are asked for"),
    ("none_right", lambda count, level: 0, "as if nothing were left to learn"),
    ("none_right", lambda count, level: 3 / max(count, 3), "which is too much"),
    ("none_right", lambda count, level: min(1, math.log(1 / level) / count), "where the rule of three comes from"),
    ("none_right", lambda count, level: stats.binomtest(0, count).proportion_ci(1 - level).high, "nothing below none"),
    ("none_right", lambda count, level: stats.beta.isf(1 - level, count, 1), "*all* are right"),
    ("none_right", lambda count, level: 1 - level, "n wrong in a row"),
    ("divergence_from_base", lambda base, model: kl_by_torch(model, base), "The wrong way round"),
    ("divergence_from_base", lambda base, model: -kl_by_torch(base, model), "never negative"),
    ("divergence_from_base", lambda base, model: (base - model).mean(1), "counts alike"),
    (
        "divergence_from_base",
        lambda base, model: (base.exp() * (base.exp() - model.exp())).sum(1),
        "not of probabilities",
    ),
    (
        "divergence_from_base",
        lambda base, model: torch.nn.functional.cross_entropy(model, base.exp(), reduction="none"),
        "own entropy",
    ),
    (
        "divergence_from_base",
        lambda base, model: stats.entropy(np.exp(base), np.exp(model), axis=1, base=2),
        "These are bits",
    ),
    ("divergence_from_base", lambda base, model: kl_by_torch(base, model).mean(), "do not average yet"),
    ("divergence_from_base", lambda base, model: kl_by_torch(base, model) / base.shape[1], "divides twice"),
    ("turn_unnoticed", lambda states, head: states[::-1], "the states changed places"),
    ("turn_unnoticed", lambda states, head: states + 3, "about the origin"),
    ("turn_unnoticed", lambda states, head: 2 * states, "only surer"),
    ("turn_unnoticed", lambda states, head: states @ np.diag(np.arange(1, 17)), "orthogonal matrix to all"),
    ("turn_unnoticed", lambda states, head: states * (np.arange(16) < 8), "fewer directions"),
    ("turn_unnoticed", lambda states, head: states @ rotation(16) @ head.T, "the shape should be"),
    ("leashed_loss", lambda p, base, model, slot, w: loss_by_torch(p, base, model, ~slot, w), "A leash at the slot"),
    (
        "leashed_loss",
        lambda p, base, model, slot, w: loss_by_torch(p, base, model, slot & False, w),
        "A leash everywhere",
    ),
    ("leashed_loss", lambda p, base, model, slot, w: loss_by_torch(p, base, model, slot, 5 * w), "A sum grows"),
    ("leashed_loss", lambda p, base, model, slot, w: loss_by_torch(p, base, model, slot, w * 5 / 7), "below the line"),
    ("leashed_loss", lambda p, base, model, slot, w: loss_by_torch(p, model, base, slot, w), "has lost costs nothing"),
    ("leashed_loss", lambda p, base, model, slot, w: loss_by_torch(p, base, model, slot, -w), "a penalty is added"),
    ("leashed_loss", lambda p, base, model, slot, w: loss_by_torch(p, base, model, slot, 1), "The weight is missing"),
]
