"""The exercises of notebook 04: ranks, the `all` rule, the state that is read, intervals, and honest choices."""

import itertools

import numpy as np
from scipy import stats

from sempa_utils.exercises.checker import Wrong, compare, exercise, meaning, numbers, tensor


def _rho(part):
    """Spearman's ρ of a pair (cosines, scores)."""
    return stats.spearmanr(part[0], part[1]).statistic


def _together(parts):
    """All parts' pairs as one part."""
    return [np.concatenate([part[side] for part in parts]) for side in (0, 1)]


@exercise(
    "rank_correlation(cosines, scores)",
    "Two arrays (n,), in both of which values may be equal. Return Spearman's ρ, between −1 and 1, without scipy's.",
    difficulty=1,
    minutes=10,
)
def _(function):
    def right(one, other):
        return _rho((one, other))

    def pearson(one, other):
        return np.corrcoef(one, other)[0, 1]

    def values_for_ranks(one, other):
        """This is Pearson's correlation of the values: Spearman's is of their ranks."""
        return pearson(one, other)

    def equal_values_ranked_as_they_come(one, other):
        """Equal values share a rank, the mean of their places: argsort gives each its own, by accident of the order."""
        return pearson(*(np.argsort(np.argsort(values, kind="stable")) for values in (one, other)))

    def equal_values_take_the_lowest_rank(one, other):
        """Equal values share the *mean* of their places."""
        return pearson(*(stats.rankdata(values, "min") for values in (one, other)))

    def equal_values_leave_no_gap(one, other):
        """After two that share a rank the next place is left out: the ranks of n values add up to n (n + 1) / 2."""
        return pearson(*(stats.rankdata(values, "dense") for values in (one, other)))

    def the_formula_without_ties(one, other):
        """1 − 6 Σd² / n(n² − 1) holds where no two values are equal: correlate the ranks instead."""
        apart = stats.rankdata(one) - stats.rankdata(other)
        return 1 - 6 * (apart**2).sum() / (len(one) * (len(one) ** 2 - 1))

    def argsort_for_ranks(one, other):
        """argsort says which value stands at each place; a rank says at which place each value stands."""
        return pearson(np.argsort(one, kind="stable"), np.argsort(other, kind="stable"))

    def kendalls_tau(one, other):
        """This is Kendall's τ, of pairs in order: Spearman's ρ correlates ranks."""
        return stats.kendalltau(one, other).statistic

    def a_hundred_times_too_large(one, other):
        """The tables show ρ × 100; ρ itself is asked for."""
        return 100 * right(one, other)

    cosines = np.array([0.91, 0.88, 0.88, 0.95, 0.40, 0.62, 0.62, 0.62, 0.10])
    scores = np.array([4.0, 5.0, 3.0, 5.0, 1.0, 2.0, 5.0, 0.0, 0.0])
    cases = {
        "nine pairs with ties": (cosines, scores),
        "a curve that only rises gives 1": (np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 10.0, 100.0, 1000.0])),
    }
    slips = [values_for_ranks, equal_values_ranked_as_they_come, equal_values_take_the_lowest_rank]
    slips += [equal_values_leave_no_gap, the_formula_without_ties, argsort_for_ranks, kendalls_tau]
    return compare(function, right, cases=cases, slips=[*slips, a_hundred_times_too_large])


@exercise(
    "all_rule(parts)",
    "A year's parts, a list of pairs (cosines, scores) of different length. Return SentEval's `all`, as a ρ between −1 "
    "and 1. Use scipy.stats.spearmanr or your own.",
    difficulty=1,
    minutes=5,
)
def _(function):
    def right(parts):
        return _rho(_together(parts))

    def the_mean_of_the_parts(parts):
        """A mean forgives a model that puts one part's cosines above another's: put all pairs together first."""
        return np.mean([_rho(part) for part in parts])

    def the_weighted_mean(parts):
        """This is SentEval's `wmean`, the mean weighted by the parts' sizes: `all` puts the pairs together first."""
        return np.average([_rho(part) for part in parts], weights=[len(part[0]) for part in parts])

    def ranks_within_each_part(parts):
        """The ranks are of each part by itself: rank the pairs together."""
        ranked = [[stats.rankdata(column) for column in part] for part in parts]
        return np.corrcoef(_together(ranked))[0, 1]

    def each_part_standardised(parts):
        """Each part was brought to the same level first, which hides what the rule is there to show."""
        return right([[(column - np.mean(column)) / np.std(column) for column in part] for part in parts])

    def the_first_part(parts):
        """This is the first part's ρ alone."""
        return _rho(parts[0])

    def values_for_ranks(parts):
        """This is Pearson's correlation: STS tables show Spearman's."""
        return np.corrcoef(_together(parts))[0, 1]

    first = np.array([0.90, 0.93, 0.92, 0.97]), np.array([0.5, 1.0, 2.0, 3.0])
    second = np.array([0.50, 0.61, 0.52, 0.55, 0.70, 0.58]), np.array([2.5, 4.0, 3.0, 3.5, 4.5, 5.0])
    cases = {"two parts at different levels": ([first, second],), "one part": ([second],)}
    slips = [the_mean_of_the_parts, the_weighted_mean, ranks_within_each_part, each_part_standardised]
    return compare(function, right, cases=cases, slips=[*slips, the_first_part, values_for_ranks])


@exercise(
    "break_the_rule()",
    "Return two parts, each a pair (cosines, scores) of at least five pairs, so that ρ is 1 in each of them and not "
    "above −0.4 over all together.",
    difficulty=2,
    minutes=10,
)
def _(function):
    def parts():
        answer = function()
        try:
            found = [tuple(np.asarray(column, dtype=float) for column in part) for part in answer]
            shapes = [[column.shape for column in part] for part in found]
        except (TypeError, ValueError):
            raise Wrong("return (cosines, scores), (cosines, scores)") from None
        if len(found) != 2 or any(len(part) != 2 or part[0] != part[1] or len(part[0]) != 1 for part in shapes):
            raise Wrong("return (cosines, scores), (cosines, scores), each two lists of equal length")
        return found

    def real():
        for cosines, scores in parts():
            if len(cosines) < 5:
                raise Wrong(f"a part has {len(cosines)} pairs; at least five are asked for")
            if np.abs(cosines).max() > 1 or scores.min() < 0 or scores.max() > 5:
                raise Wrong("a cosine lies between −1 and 1, an STS score between 0 and 5")

    def each():
        for place, part in enumerate(parts(), start=1):
            if not _rho(part) > 1 - 1e-9:
                raise Wrong(f"part {place} has ρ = {_rho(part):.2f}: within a part let the cosine rise with the score")

    def together():
        first, second = parts()
        rho = _rho(_together((first, second)))
        if rho <= -0.4:
            return
        message = f"together ρ = {rho:.2f}"
        cosines, scores = (np.sign(first[column].mean() - second[column].mean()) for column in (0, 1))
        if cosines * scores > 0:
            message += "; the part with the higher cosines has the higher scores too: give it the lower ones"
        elif cosines * scores < 0:
            message += "; the right idea: let the two parts' values overlap less"
        else:
            message += "; the parts lie at the same level: raise one part's cosines, and lower its scores"
        raise Wrong(message)

    yield "cosines and scores as they may be", real
    yield "each part is in perfect order", each
    yield "together they are upside down", together


@exercise(
    "last_states(states, mask)",
    "The states (sentences, tokens, width) of a padded batch and its attention mask, 1 where a token is. "
    "Return the state of each sentence's last token, wherever the padding stands.",
    difficulty=2,
    minutes=10,
)
def _(function):
    def right(states, mask):
        last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
        return states[np.arange(len(states)), last]

    def the_last_column(states, mask):
        """[-1] is padding wherever a sentence is shorter than the longest and the padding stands on the right."""
        return states[:, -1]

    def one_too_far(states, mask):
        """The number of tokens is one more than the last one's index: this is the first padding."""
        return states[np.arange(len(states)), np.minimum(mask.sum(axis=1), mask.shape[1] - 1)]

    def padding_on_the_right_is_taken_for_granted(states, mask):
        """Number of tokens − 1 is the last one only if the padding stands on the right; here it stands on the left."""
        return states[np.arange(len(states)), mask.sum(axis=1) - 1]

    def the_first_token(states, mask):
        """This is the first token, which has read nothing of the sentence."""
        return states[np.arange(len(states)), np.argmax(mask, axis=1)]

    def the_mean_over_tokens(states, mask):
        """This is mean pooling; PromptEOL reads the one state from which the word would be said."""
        return (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)

    def the_mean_over_padding_too(states, mask):
        """This is a mean, and over the padding as well."""
        return states.mean(axis=1)

    def the_one_before_the_last(states, mask):
        """This is one too early: the last index is the number of tokens − 1, and [-2] one less."""
        return states[np.arange(len(states)), mask.sum(axis=1) - 2]

    lengths = np.array([5, 3, 2, 4])
    left = (np.arange(5) >= 5 - lengths[:, None]).astype(int)
    states = numbers(4, 5, 3, seed=60).numpy()
    slips = [one_too_far, the_first_token, the_mean_over_tokens, the_mean_over_padding_too, the_one_before_the_last]
    slips += [the_last_column, padding_on_the_right_is_taken_for_granted]
    cases = {"padding on the right": (states, left[:, ::-1].copy()), "padding on the left": (states, left)}
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "paired_interval(one, other, scores, generator)",
    "Two methods' cosines of the same n pairs, the human scores, and numpy's generator. Return (low, high), the 95 % "
    "bootstrap interval of ρ(one) − ρ(other), from 2,000 draws. `rankdata` of scipy.stats takes an axis.",
    difficulty=3,
    minutes=20,
)
def _(function):
    def drawn(generator, size, replace=True):
        if replace:
            return generator.integers(size, size=(2000, size))
        return np.stack([generator.permutation(size) for _ in range(2000)])

    def rhos(cosines, scores, draws, score_draws=None):
        ranks = [
            stats.rankdata(values[places], axis=1)
            for values, places in ((cosines, draws), (scores, draws if score_draws is None else score_draws))
        ]
        first, second = (one - one.mean(axis=1, keepdims=True) for one in ranks)
        return (first * second).sum(axis=1) / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))

    def ends(differences, share=95.0):
        return tuple(np.percentile(differences, [50 - share / 2, 50 + share / 2]))

    def right(one, other, scores, generator):
        draws = drawn(generator, len(scores))
        return ends(rhos(one, scores, draws) - rhos(other, scores, draws))

    def separate_draws(one, other, scores, generator):
        """Both methods must see the *same* drawn pairs, so that an easy draw cancels: yours is far too wide."""
        draws, others = drawn(generator, len(scores)), drawn(generator, len(scores))
        return ends(rhos(one, scores, draws) - rhos(other, scores, others))

    def scores_left_where_they_were(one, other, scores, generator):
        """A pair is drawn as a whole: its score goes with its cosine."""
        draws, kept = drawn(generator, len(scores)), np.tile(np.arange(len(scores)), (2000, 1))
        return ends(rhos(one, scores, draws, kept) - rhos(other, scores, draws, kept))

    def drawn_without_replacement(one, other, scores, generator):
        """Every draw holds the same pairs in another order: draw with replacement."""
        draws = drawn(generator, len(scores), replace=False)
        return ends(rhos(one, scores, draws) - rhos(other, scores, draws))

    def ninety_percent(one, other, scores, generator):
        """This is the 90 % interval: 95 % lie between the 2.5th and the 97.5th percentile."""
        draws = drawn(generator, len(scores))
        return ends(rhos(one, scores, draws) - rhos(other, scores, draws), share=90.0)

    def one_interval_less_the_other(one, other, scores, generator):
        """These are the differences of two intervals' ends: take the difference in each draw, then its percentiles."""
        draws = drawn(generator, len(scores))
        first, second = ends(rhos(one, scores, draws)), ends(rhos(other, scores, draws))
        return first[0] - second[0], first[1] - second[1]

    def the_lowest_and_the_highest(one, other, scores, generator):
        """These are the extremes of all draws, which grow with the number of draws."""
        draws = drawn(generator, len(scores))
        return ends(rhos(one, scores, draws) - rhos(other, scores, draws), share=100.0)

    def turned_round(one, other, scores, generator):
        """This is the interval of ρ(other) − ρ(one)."""
        low, high = right(one, other, scores, generator)
        return -high, -low

    count = 120
    scores = np.linspace(0, 5, count)
    noise = [numbers(count, seed=seed).numpy() for seed in (61, 62, 63)]
    other = scores + 3.0 * noise[0] + 0.5 * noise[1]
    one = scores + 2.4 * noise[0] + 0.5 * noise[2]

    def ask(one, other):
        return function(one, other, scores, np.random.default_rng(64))

    def interval():
        answer, given = tensor(ask(one, other)), (one, other, scores)
        low, high = right(*given, np.random.default_rng(65))

        def apart(ends):
            """How far the answer's ends are from these, as a share of the wider interval."""
            return (answer - tensor(ends)).abs().max().item() / max(high - low, ends[1] - ends[0])

        if answer.shape != (2,):
            raise Wrong("two numbers are asked for: low, high")
        if apart((low, high)) <= 0.06:  # four times as far as other draws move an end
            return
        slips = [separate_draws, scores_left_where_they_were, drawn_without_replacement, ninety_percent]
        slips += [one_interval_less_the_other, the_lowest_and_the_highest, turned_round]
        gaps = {slip: apart(slip(*given, np.random.default_rng(65))) for slip in slips}
        nearest = min(slips, key=lambda slip: gaps[slip])
        if gaps[nearest] <= 0.15:
            raise Wrong(meaning(nearest))
        raise Wrong(f"expected about {low:.3f} to {high:.3f}, got {answer[0]:.3f} to {answer[1]:.3f}")

    def same():
        if tensor(ask(one, one)).abs().max() > 1e-9:
            raise Wrong("a method cannot differ from itself: are both scored on the same draws?")

    yield "two methods that err on the same pairs", interval
    yield "a method and itself differ by nothing", same


@exercise(
    "sign_flip_p(differences)",
    "Item-by-item differences of two methods (n,), n ≤ 12. If neither is better, each could as well have the other "
    "sign. Return the two-sided p-value of the mean: the share of all 2ⁿ choices of signs that reach its size.",
    difficulty=2,
    minutes=15,
)
def _(function):
    def means(differences):
        signs = np.array(list(itertools.product([1, -1], repeat=len(differences))))
        return signs @ differences / len(differences)

    def right(differences):
        return (np.abs(means(differences)) >= np.abs(differences.mean()) - 1e-12).mean()

    def one_sided(differences):
        """Only one side is counted: ask for the size of the mean, since you did not know before which would win."""
        return (means(differences) >= differences.mean() - 1e-12).mean()

    def the_sign_test(differences):
        """This counts how many differences are positive, whatever their size."""
        wins = (differences > 0).sum()
        return stats.binomtest(int(wins), len(differences)).pvalue

    def what_was_seen_left_out(differences):
        """What was seen belongs to the choices that reach its size: p is never 0."""
        return (np.abs(means(differences)) > np.abs(differences.mean()) + 1e-12).mean()

    def students_t(differences):
        """This is Student's t-test, which takes the differences for normal; here all signs are tried."""
        return stats.ttest_1samp(differences, 0).pvalue

    def one_less_p(differences):
        """This is 1 − p: a small p is a surprise."""
        return 1 - right(differences)

    def wilcoxons_ranks(differences):
        """This is Wilcoxon's test, of the differences' ranks: take their values."""
        return stats.wilcoxon(differences).pvalue

    cases = {
        "eight items": (np.array([3.0, 1.0, -0.5, 2.0, 2.5, -1.5, 0.7, 1.2]),),
        "all alike, the other way": (np.array([-1.0, -1.0, -1.0, -1.0]),),
        "one item alone says nothing": (np.array([7.0]),),
    }
    slips = [one_sided, the_sign_test, what_was_seen_left_out, students_t, one_less_p, wilcoxons_ranks]
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "holm(p_values, level)",
    "The p-values of several comparisons. Return a boolean for each: does it stand, by Holm's step-down rule, so that "
    "at `level` not one of all is a false alarm?",
    difficulty=2,
    minutes=10,
)
def _(function):
    def right(p_values, level):
        order, stands = np.argsort(p_values), np.zeros(len(p_values), dtype=bool)
        for step, place in enumerate(order):
            if p_values[place] > level / (len(p_values) - step):
                break
            stands[place] = True
        return stands

    def no_correction(p_values, level):
        """With twenty comparisons of nothing one is below 0.05 on average: divide the level."""
        return p_values <= level

    def bonferroni(p_values, level):
        """This divides by the number of comparisons every time; Holm divides by those that are left, and keeps more."""
        return p_values <= level / len(p_values)

    def no_stop_at_the_first_failure(p_values, level):
        """Once a p-value fails, no larger one stands: Holm steps down and stops."""
        ranks = stats.rankdata(p_values, "ordinal")
        return p_values <= level / (len(p_values) - ranks + 1)

    def benjamini_and_hochberg(p_values, level):
        """This is Benjamini and Hochberg's rule: it bounds the share of false alarms, not that there is one."""
        return stats.false_discovery_control(p_values) <= level

    def from_the_largest(p_values, level):
        """Holm begins with the *smallest* p-value, and divides it by the number of all."""
        ranks = stats.rankdata(p_values, "ordinal")
        return p_values <= level / ranks

    def in_sorted_order(p_values, level):
        """The booleans are in the order of the sorted p-values: put each where its p-value stood."""
        return np.sort(right(p_values, level))[::-1]

    def turned_round(p_values, level):
        """True is for those that stand."""
        return ~right(p_values, level)

    cases = {
        "six comparisons": (np.array([0.20, 0.0095, 0.001, 0.016, 0.014, 0.045]), 0.05),
        "the second fails, the last would pass": (np.array([0.03, 0.001, 0.04, 0.045]), 0.05),
        "nothing stands": (np.array([0.3, 0.02, 0.4]), 0.05),
    }
    slips = [no_correction, bonferroni, no_stop_at_the_first_failure, benjamini_and_hochberg, from_the_largest]
    return compare(function, right, cases=cases, slips=[*slips, in_sorted_order, turned_round])


@exercise(
    "choose_layer(dev, test)",
    "ρ × 100 of each layer on the development split and on the test, two arrays (layers,). "
    "Return (layer, figure): which one to read, counted from 1, and what the table may say of it.",
    difficulty=1,
    minutes=5,
)
def _(function):
    def right(dev, test):
        return int(np.argmax(dev)) + 1, test[np.argmax(dev)]

    def the_maximum_on_the_test(dev, test):
        """The test chose: its maximum is partly luck, and another draw of pairs would not repeat it."""
        return int(np.argmax(test)) + 1, test.max()

    def the_figure_of_dev(dev, test):
        """The figure is dev's own maximum, which flatters itself: dev chooses, the test is what is shown."""
        return int(np.argmax(dev)) + 1, dev.max()

    def the_best_of_the_test_for_the_layer_of_dev(dev, test):
        """The figure is of another layer than the one that you chose."""
        return int(np.argmax(dev)) + 1, test.max()

    def the_mean_of_both(dev, test):
        """The test has a voice in this choice, so that its figure is no longer a test's."""
        best = int(np.argmax(dev + test))
        return best + 1, test[best]

    def counted_from_zero(dev, test):
        """Layers are counted from 1: index 0 of `hidden_states` is the embedding table."""
        return int(np.argmax(dev)), test[np.argmax(dev)]

    def always_the_last(dev, test):
        """The last layer is a choice that needs no dev; dev has another one here."""
        return len(dev), test[-1]

    def the_worst(dev, test):
        """This is the layer that dev likes least."""
        return int(np.argmin(dev)) + 1, test[np.argmin(dev)]

    dev, test = np.array([41.0, 52.5, 60.1, 63.9, 63.2, 58.0]), np.array([40.2, 55.0, 66.3, 61.8, 65.9, 57.1])
    slips = [the_maximum_on_the_test, the_figure_of_dev, the_best_of_the_test_for_the_layer_of_dev, the_mean_of_both]
    slips += [counted_from_zero, always_the_last, the_worst]
    return compare(function, right, cases={"six layers": (dev, test)}, slips=slips)
