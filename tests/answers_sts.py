"""Answers to the exercises of notebook 04, right and wrong."""

import itertools

import numpy as np
import torch
from scipy import stats

rho = stats.spearmanr


def ranks_by_a_loop(values):
    return [
        1 + sum(other < one for other in values) + (sum(other == one for other in values) - 1) / 2 for one in values
    ]


def spearman_by_a_loop(one, other):
    one, other = ranks_by_a_loop(one), ranks_by_a_loop(other)
    middle = (len(one) + 1) / 2
    products = [
        sum((a - middle) * (b - middle) for a, b in zip(*pair)) for pair in ((one, other), (one, one), (other,) * 2)
    ]
    return products[0] / (products[1] * products[2]) ** 0.5


def spearman_in_torch(one, other):
    columns = [torch.as_tensor(column) for column in (one, other)]
    ranks = [((column[:, None] > column).sum(1) + ((column[:, None] == column).sum(1) + 1) / 2) for column in columns]
    return torch.corrcoef(torch.stack(ranks))[0, 1]


def pearson(one, other):
    return np.corrcoef(one, other)[0, 1]


def ranked(method):
    return lambda one, other: pearson(stats.rankdata(one, method), stats.rankdata(other, method))


def without_ties(one, other):
    apart = np.array(ranks_by_a_loop(one)) - ranks_by_a_loop(other)
    return 1 - 6 * np.square(apart).sum() / (len(one) ** 3 - len(one))


def all_in_lists(parts):
    cosines, scores = [], []
    for part in parts:
        cosines += list(part[0])
        scores += list(part[1])
    return spearman_by_a_loop(cosines, scores)


def of_parts(combine):
    return lambda parts: combine([rho(*part).statistic for part in parts], [len(part[0]) for part in parts])


def within(change):
    return lambda parts: pearson(*(np.concatenate([change(part[side]) for part in parts]) for side in (0, 1)))


def broken_in_lists():
    return ([0.9, 0.91, 0.92, 0.93, 0.94], [0, 0.1, 0.2, 0.3, 0.4]), ([0.1, 0.2, 0.3, 0.4, 0.5], [4, 4.1, 4.2, 4.3, 5])


def broken_in_torch():
    rising = torch.linspace(0, 0.2, 20)
    return [(0.7 + rising, rising), (rising, 4 + rising)]


def parts(first=(0.5, 0.0), second=(0.0, 3.0), count=6, step=0.05):
    """Two parts in order that begin at (cosine, score)."""
    return lambda: [(low + step * np.arange(count), score + step * np.arange(count)) for low, score in (first, second)]


def states_by_a_loop(states, mask):
    found = []
    for row, marks in zip(states, mask):
        found.append([state for state, mark in zip(row, marks) if mark][-1])
    return found


def states_in_torch(states, mask):
    place = (torch.as_tensor(mask) * torch.arange(mask.shape[1])).argmax(1)
    return torch.as_tensor(states)[torch.arange(len(states)), place]


def at(states, places):
    return states[np.arange(len(states)), places]


def interval_by_scipy(one, other, scores, generator):
    def difference(one, other, scores, axis=-1):
        ranks = [stats.rankdata(column, axis=axis) for column in (one, other, scores)]
        first, second, third = (rank - rank.mean(axis=axis, keepdims=True) for rank in ranks)

        def correlation(rank):
            return (rank * third).sum(axis) / np.sqrt((rank**2).sum(axis) * (third**2).sum(axis))

        return correlation(first) - correlation(second)

    how = {"paired": True, "vectorized": True, "method": "percentile", "n_resamples": 2000, "rng": generator}
    found = stats.bootstrap((one, other, scores), difference, **how).confidence_interval
    return found.low, found.high


def interval(one, other, scores, generator, *, together=True, replace=True, with_score=True, share=(2.5, 97.5)):
    def draw():
        places = torch.as_tensor(generator.random((2000, len(scores))))
        return (places * len(scores)).long() if replace else places.argsort(1)

    def correlations(method, drawn):
        rho_of = torch.func.vmap(lambda places, kept: spearman_of_tensors(method[places], scores[kept]))
        kept = drawn if with_score else torch.arange(len(scores)).expand_as(drawn)
        return rho_of(drawn, kept)

    one, other, scores = (torch.as_tensor(column) for column in (one, other, scores))
    drawn = draw()
    apart = correlations(one, drawn) - correlations(other, drawn if together else draw())
    return np.percentile(apart, share)


def spearman_of_tensors(one, other):
    ranks = [(x[:, None] > x).sum(1) + (x[:, None] == x).sum(1) / 2 for x in (one, other)]
    first, second = (rank - rank.mean() for rank in ranks)
    return (first @ second) / ((first @ first) * (second @ second)).sqrt()


def ends_apart(one, other, scores, generator):
    same = np.random.default_rng(3), np.random.default_rng(3)
    first, second = (interval(method, -method, scores, draws) / 2 for method, draws in zip((one, other), same))
    return first - second


def p_by_scipy(differences):
    if len(differences) == 1:
        return 1.0
    how = {"permutation_type": "samples", "n_resamples": np.inf, "alternative": "two-sided"}
    return stats.permutation_test((differences,), np.mean, **how).pvalue


def p_by_a_loop(differences, reach=lambda mean, seen: abs(mean) >= abs(seen) - 1e-12):
    seen, count = sum(differences) / len(differences), 0
    for signs in itertools.product((1, -1), repeat=len(differences)):
        count += reach(sum(sign * one for sign, one in zip(signs, differences)) / len(differences), seen)
    return count / 2 ** len(differences)


def holm_by_adjusting(p_values, level):
    order = torch.as_tensor(p_values).argsort()
    adjusted = torch.as_tensor(p_values)[order] * torch.arange(len(p_values), 0, -1)
    return (torch.cummax(adjusted, 0).values <= level)[order.argsort()]


def holm_in_lists(p_values, level):
    stands, left = [False] * len(p_values), list(range(len(p_values)))
    while left:
        best = min(left, key=lambda place: p_values[place])
        if p_values[best] * len(left) > level:
            break
        stands[best] = True
        left.remove(best)
    return stands


def up_from_the_level(p_values, level, divide):
    return [p <= level / divide(int(np.sum(p_values <= p))) for p in p_values]


def choose_in_torch(dev, test):
    best = torch.as_tensor(dev).argmax()
    return best + 1, torch.as_tensor(test)[best]


def choose_by_a_loop(dev, test):
    best = max(range(len(dev)), key=lambda layer: dev[layer])
    return [best + 1, float(test[best])]


RIGHT = [
    ("rank_correlation", spearman_by_a_loop),
    ("rank_correlation", spearman_in_torch),
    ("rank_correlation", ranked("average")),
    ("all_rule", all_in_lists),
    (
        "all_rule",
        lambda parts: torch.tensor(rho(np.hstack([p[0] for p in parts]), np.hstack([p[1] for p in parts]))[0]),
    ),
    ("break_the_rule", broken_in_lists),
    ("break_the_rule", broken_in_torch),
    ("last_states", states_by_a_loop),
    ("last_states", states_in_torch),
    ("paired_interval", interval_by_scipy),
    ("paired_interval", interval),
    ("sign_flip_p", p_by_scipy),
    ("sign_flip_p", p_by_a_loop),
    ("holm", holm_by_adjusting),
    ("holm", holm_in_lists),
    ("choose_layer", choose_in_torch),
    ("choose_layer", choose_by_a_loop),
]

WRONG = [
    ("rank_correlation", pearson, "Pearson's correlation of the values"),
    ("rank_correlation", ranked("ordinal"), "by accident of the order"),
    ("rank_correlation", ranked("min"), "the *mean* of their places"),
    ("rank_correlation", ranked("dense"), "the next place is left out"),
    ("rank_correlation", without_ties, "where no two values are equal"),
    (
        "rank_correlation",
        lambda one, other: pearson(*(np.argsort(x, kind="stable") for x in (one, other))),
        "at which place",
    ),
    ("rank_correlation", lambda one, other: stats.kendalltau(one, other).statistic, "Kendall's"),
    ("rank_correlation", lambda one, other: 100 * spearman_in_torch(one, other), "The tables show ρ × 100"),
    ("all_rule", of_parts(lambda rhos, sizes: sum(rhos) / len(rhos)), "A mean forgives"),
    ("all_rule", of_parts(lambda rhos, sizes: np.dot(rhos, sizes) / sum(sizes)), "`wmean`"),
    ("all_rule", of_parts(lambda rhos, sizes: rhos[0]), "The first part"),
    ("all_rule", within(stats.rankdata), "rank the pairs together"),
    ("all_rule", within(np.asarray), "tables show Spearman's"),
    (
        "all_rule",
        lambda parts: all_in_lists([[stats.zscore(side) for side in part] for part in parts]),
        "hides what the rule",
    ),
    ("break_the_rule", parts((0, 0), (0.5, 3)), "give it the lower ones"),
    ("break_the_rule", parts((0, 0), (0, 0)), "raise one part's cosines"),
    ("break_the_rule", parts((0.05, 0), (0, 0.05)), "overlap less"),
    ("break_the_rule", parts(count=3), "at least five"),
    ("break_the_rule", parts(step=-0.05, second=(0.3, 3)), "between 0 and 5"),
    ("break_the_rule", lambda: [([0.1, 0.2, 0.3, 0.5, 0.4], [0, 1, 2, 3, 4])] * 2, "let the cosine rise"),
    ("break_the_rule", lambda: ([0.1, 0.2], [1, 2]), "return (cosines, scores)"),
    ("last_states", lambda states, mask: torch.as_tensor(states)[:, -1], "The last column"),
    ("last_states", lambda states, mask: at(states, np.minimum(mask.sum(1), 4)), "the first padding"),
    ("last_states", lambda states, mask: at(states, mask.sum(1) - 1), "only if the padding stands on the right"),
    ("last_states", lambda states, mask: at(states, mask.argmax(1)), "The first token"),
    ("last_states", lambda states, mask: [row[marks > 0].mean(0) for row, marks in zip(states, mask)], "mean pooling"),
    ("last_states", lambda states, mask: torch.as_tensor(states).mean(1), "over the padding as well"),
    ("last_states", lambda states, mask: at(states, mask.sum(1) - 2), "one too early"),
    ("paired_interval", lambda *given: interval(*given, together=False), "Separate draws"),
    ("paired_interval", lambda *given: interval(*given, with_score=False), "its score goes with its cosine"),
    ("paired_interval", lambda *given: interval(*given, replace=False), "draw with replacement"),
    ("paired_interval", lambda *given: interval(*given, share=(5, 95)), "90 % interval"),
    ("paired_interval", lambda *given: interval(*given, share=(0, 100)), "The lowest and the highest"),
    ("paired_interval", lambda one, other, *rest: interval(other, one, *rest), "ρ(other) − ρ(one)"),
    ("paired_interval", ends_apart, "two intervals' ends"),
    ("paired_interval", lambda *given: 0.06, "two numbers are asked for"),
    ("sign_flip_p", lambda d: p_by_a_loop(d, lambda mean, seen: mean >= seen - 1e-12), "Only one side"),
    ("sign_flip_p", lambda d: stats.binomtest(sum(d > 0), len(d)).pvalue, "how many differences are positive"),
    ("sign_flip_p", lambda d: p_by_a_loop(d, lambda mean, seen: abs(mean) > abs(seen) + 1e-12), "p is never 0"),
    ("sign_flip_p", lambda d: stats.ttest_rel(d, 0 * d).pvalue, "Student's t-test"),
    ("sign_flip_p", lambda d: 1 - p_by_a_loop(d), "a small p is a surprise"),
    ("sign_flip_p", lambda d: stats.wilcoxon(d, mode="exact").pvalue, "Wilcoxon's"),
    ("holm", lambda p, level: p <= level, "No correction"),
    ("holm", lambda p, level: torch.tensor(p) * len(p) <= level, "divides by the number of comparisons every time"),
    ("holm", lambda p, level: [one <= level / (1 + np.sum(p > one)) for one in p], "Holm steps down and stops"),
    ("holm", lambda p, level: stats.false_discovery_control(p) <= level, "Benjamini"),
    ("holm", lambda p, level: up_from_the_level(p, level, lambda rank: rank), "begins with the *smallest*"),
    ("holm", lambda p, level: sorted(holm_in_lists(p, level), reverse=True), "the sorted p-values"),
    ("holm", lambda p, level: [not one for one in holm_in_lists(p, level)], "True is for those"),
    ("choose_layer", lambda dev, test: (np.argmax(test) + 1, np.max(test)), "The test chose"),
    ("choose_layer", lambda dev, test: (np.argmax(dev) + 1, np.max(dev)), "which flatters itself"),
    ("choose_layer", lambda dev, test: (np.argmax(dev) + 1, np.max(test)), "of another layer"),
    ("choose_layer", lambda dev, test: (np.argmax(dev + test) + 1, test[np.argmax(dev + test)]), "has a voice"),
    ("choose_layer", lambda dev, test: (np.argmax(dev), test[np.argmax(dev)]), "counted from 1"),
    ("choose_layer", lambda dev, test: (len(dev), test[-1]), "Always the last"),
    ("choose_layer", lambda dev, test: np.argmax(dev) + 1, "values are asked for"),
]
