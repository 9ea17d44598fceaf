"""The exercises of notebook 05: perplexity, choices by likelihood, errors, and what a KL term holds."""

import math

import numpy as np
import torch

from sempa_utils.exercises.checker import Wrong, compare, exercise, numbers, tensor


@exercise(
    "perplexity_of(sentences)",
    "The log-probabilities (nats) of each sentence's tokens, a list of lists of different length. "
    "Return the perplexity of the text.",
    difficulty=1,
    minutes=5,
)
def _(function):
    def right(sentences):
        return math.exp(-sum(map(sum, sentences)) / sum(map(len, sentences)))

    def the_mean_of_perplexities(sentences):
        """A mean over sentences lets one short odd sentence outweigh a page: add up all tokens, then divide."""
        return np.mean([math.exp(-np.mean(sentence)) for sentence in sentences])

    def sentences_for_tokens(sentences):
        """Each sentence counts alike here, a long one no more than a short: divide by the number of all tokens."""
        return math.exp(-np.mean([np.mean(sentence) for sentence in sentences]))

    def divided_by_the_sentences(sentences):
        """The surprise is divided by the number of sentences; a perplexity is per token."""
        return math.exp(-sum(map(sum, sentences)) / len(sentences))

    def the_surprise_itself(sentences):
        """This is the mean surprise in nats: the perplexity is e to that power."""
        return math.log(right(sentences))

    def the_sign_is_turned(sentences):
        """A log-probability is negative and its surprise positive: a perplexity is at least 1."""
        return 1 / right(sentences)

    def powers_of_two(sentences):
        """The logarithms are natural ones, so the power is of e, not of 2."""
        return 2 ** math.log(right(sentences))

    def the_mean_of_inverse_probabilities(sentences):
        """The mean is of the logarithms, not of 1 / p: one impossible token would decide alone."""
        return np.mean([math.exp(-one) for sentence in sentences for one in sentence])

    text = [[-1.0, -2.0, -0.5, -0.1, -3.0], [-6.0], [-2.5, -0.3]]
    cases = {"three sentences": (text,), "one token of ten": ([[-math.log(10)]],)}
    slips = [the_mean_of_perplexities, sentences_for_tokens, divided_by_the_sentences, the_surprise_itself]
    slips += [the_sign_is_turned, powers_of_two, the_mean_of_inverse_probabilities]
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "choose_ending(log_probs, endings)",
    "A scene's endings as texts, and for each the log-probabilities of its tokens. Return HellaSwag's choice: the "
    "index of the ending that is likeliest per character.",
    difficulty=1,
    minutes=5,
)
def _(function):
    def best(scores):
        return int(np.argmax(scores))

    def sums(log_probs):
        return np.array([sum(one) for one in log_probs])

    def right(log_probs, endings):
        return best(sums(log_probs) / [len(ending) for ending in endings])

    def the_whole_likelihood(log_probs, endings):
        """Without a length in it the shortest ending wins too often: divide by its characters."""
        return best(sums(log_probs))

    def per_token(log_probs, endings):
        """Per token the figure depends on the tokenizer; the benchmark divides by characters."""
        return best([np.mean(one) for one in log_probs])

    def the_least_likely(log_probs, endings):
        """Log-probabilities are negative: the likeliest is the largest, nearest to zero."""
        return int(np.argmin(sums(log_probs) / [len(ending) for ending in endings]))

    def the_first_token_alone(log_probs, endings):
        """An ending is all of its tokens, not only the first."""
        return best([one[0] for one in log_probs])

    def per_word(log_probs, endings):
        """This divides by the words; the benchmark divides by characters."""
        return best(sums(log_probs) / [len(ending.split()) for ending in endings])

    def the_longest(log_probs, endings):
        """This is the longest ending: multiplying by a length does not divide by it."""
        return best([len(ending) for ending in endings])

    # Each of these wins by another rule.
    endings = [
        "goes.",
        "a b c d e f g",
        "walks unhurriedly home",
        "sits down",
        "internationalisations",
        "up " * 12,
        "no",
    ]
    log_probs = [[-6.0], [-3.0] * 7, [-2.1, -4.0, -3.9], [-0.5, -7.5], [-1.0] * 16, [-4.2] * 12, [-9.0]]
    order = [3, 5, 0, 6, 4, 2, 1]
    cases = {
        "seven endings": (log_probs, endings),
        "the same in another order": ([log_probs[place] for place in order], [endings[place] for place in order]),
    }
    slips = [the_whole_likelihood, per_token, the_least_likely, the_first_token_alone, per_word, the_longest]
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "paired_difference(one, other)",
    "Two models' scores of the same n items. Return (difference, error): the mean of one − other, its standard error.",
    difficulty=1,
    minutes=10,
)
def _(function):
    def right(one, other):
        apart = one - other
        return apart.mean(), apart.std(ddof=1) / math.sqrt(len(apart))

    def two_errors_added(one, other):
        """That is for samples of *different* items. The same ones are hard for both, which cancels: subtract first."""
        return (one - other).mean(), math.hypot(*(x.std(ddof=1) / math.sqrt(len(x)) for x in (one, other)))

    def a_spread_for_an_error(one, other):
        """This is the spread of single differences: the mean's error is smaller by √n."""
        return (one - other).mean(), (one - other).std(ddof=1)

    def divided_by_n(one, other):
        """The error shrinks with √n, not with n."""
        return (one - other).mean(), (one - other).std(ddof=1) / len(one)

    def one_item_too_many(one, other):
        """The mean was taken from these items, so their variance divides by n − 1 (`ddof=1`)."""
        return (one - other).mean(), (one - other).std() / math.sqrt(len(one))

    def turned_round(one, other):
        """This is other − one."""
        return -right(one, other)[0], right(one, other)[1]

    def one_models_error(one, other):
        """This is the error of one model's score: the differences have their own."""
        return (one - other).mean(), one.std(ddof=1) / math.sqrt(len(one))

    one = np.array([1.0, 0, 1, 1, 0, 1, 1, 0, 1, 1])
    other = np.array([1.0, 0, 0, 1, 0, 1, 1, 0, 1, 0])
    cases = {
        "ten items, of which two differ": (100 * one, 100 * other),
        "F1 scores": (np.array([80.0, 12.0, 55.0, 0.0]), np.array([75.0, 14.0, 55.0, 10.0])),
        "the same answers give 0 ± 0": (one, one),
    }
    slips = [two_errors_added, a_spread_for_an_error, divided_by_n, one_item_too_many, turned_round, one_models_error]
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "none_right(count, level)",
    "None of `count` items was right. Return the largest share of right answers, 0 to 1, at which that still happens "
    "with the probability `level`, such as 0.05.",
    difficulty=2,
    minutes=10,
)
def _(function):
    def right(count, level):
        return 1 - level ** (1 / count)

    def no_error_at_all(count, level):
        """The plain standard error of 0 of n is 0, as if nothing were left to learn: which shares would allow it?"""
        return 0.0

    def the_rule_of_three(count, level):
        """3 / n approximates this for many items; with four it says 75 %, which is too much."""
        return min(1.0, 3 / count)

    def the_logarithm_over_n(count, level):
        """−ln(level) / n is where the rule of three comes from, and holds for many items."""
        return min(1.0, -math.log(level) / count)

    def both_sides(count, level):
        """This shares the level out to two sides, and there is nothing below none."""
        return 1 - (level / 2) ** (1 / count)

    def all_right_for_none(count, level):
        """This is the share at which *all* are right with that probability; none are wrong there."""
        return level ** (1 / count)

    def one_item(count, level):
        """This is for one item: n wrong in a row have the probability (1 − share)ⁿ."""
        return 1 - level

    cases = {"none of four": (4, 0.05), "none of one": (1, 0.05), "none of 300, at 1 %": (300, 0.01)}
    slips = [no_error_at_all, the_rule_of_three, the_logarithm_over_n, both_sides, all_right_for_none, one_item]
    return compare(function, right, cases=cases, slips=slips, tolerance=1e-6)


@exercise(
    "divergence_from_base(base, model)",
    "Log-probabilities of the next token (prompts, vocabulary) under the base and under a trained model. "
    "Return KL(base ‖ model) for each prompt, in nats.",
    difficulty=1,
    minutes=5,
)
def _(function):
    def right(base, model):
        base = base.clamp(min=-1e30)  # 0 · log 0 is 0
        return (base.exp() * (base - model)).sum(-1)

    def the_wrong_way_round(base, model):
        """This is KL(model ‖ base), which forgives a model that lost words: weigh with the base's probabilities."""
        return (model.exp() * (model - base)).sum(-1)

    def the_sign_is_turned(base, model):
        """A divergence is never negative: base − model."""
        return -right(base, model)

    def unweighted(base, model):
        """The mean is under the base's probabilities: here each word of the vocabulary counts alike."""
        return (base - model).mean(-1)

    def probabilities_for_logarithms(base, model):
        """The difference is of log-probabilities, not of probabilities."""
        return (base.exp() * (base.exp() - model.exp())).sum(-1)

    def the_cross_entropy(base, model):
        """This is the cross-entropy: take the base's own entropy off."""
        return -(base.exp() * model).sum(-1)

    def in_bits(base, model):
        """These are bits; nats were asked for."""
        return right(base, model) / math.log(2)

    def the_mean_over_prompts(base, model):
        """One number for each prompt: do not average yet."""
        return right(base, model).mean()

    def averaged_over_the_vocabulary(base, model):
        """A mean over the vocabulary divides twice: the probabilities sum to 1 already."""
        return right(base, model) / base.shape[-1]

    base, model = (numbers(3, 8, seed=seed, scale=2.0).log_softmax(-1) for seed in (70, 71))
    cases = {
        "a model like the base gives 0": (base, base),
        "three prompts": (base, model),
        "a base that is certain": (torch.tensor([[0.0, -800.0, -900.0]]).double(), model[:1, :3].log_softmax(-1)),
    }
    slips = [the_wrong_way_round, the_sign_is_turned, unweighted, probabilities_for_logarithms, the_cross_entropy]
    return compare(
        function, right, cases=cases, slips=[*slips, in_bits, the_mean_over_prompts, averaged_over_the_vocabulary]
    )


@exercise(
    "turn_unnoticed(states, head)",
    "States (n, width) and the head (words, width), arrays. Return other states (n, width) whose cosines with each "
    "other are the same, and from which the head reads another likeliest word for at least half of them.",
    difficulty=2,
    minutes=15,
)
def _(function):
    states, head = (numbers(*shape, seed=seed).numpy() for shape, seed in (((12, 16), 72), ((50, 16), 73)))

    def turned():
        answer = tensor(function(states, head)).numpy()
        if answer.shape != states.shape:
            raise Wrong(f"the shape should be {states.shape}, yours is {answer.shape}")
        return answer

    def cosines(vectors):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit @ unit.T

    def unnoticed():
        answer = turned()
        gap = np.abs(cosines(answer) - cosines(states)).max()
        if gap <= 1e-5:
            return
        message = f"a cosine changed by {gap:.2g}"
        if np.allclose(np.sort(answer, axis=0), np.sort(states, axis=0)):
            message += "; the states changed places, and each pair has to keep its own cosine"
        elif np.ptp(answer - states, axis=0).max() < 1e-9:
            message += "; a shift of all states changes their angles: turn them about the origin"
        elif np.linalg.matrix_rank(answer) < np.linalg.matrix_rank(states):
            message += "; your states fill fewer directions than before"
        else:
            message += "; apply one and the same orthogonal matrix to all: `qr` of random numbers makes one"
        raise Wrong(message)

    def noticed():
        changed = np.mean((turned() @ head.T).argmax(axis=1) != (states @ head.T).argmax(axis=1))
        if changed < 0.5:
            longer = np.abs(cosines(np.vstack([turned(), states])).diagonal(len(states)) - 1).max() < 1e-6
            message = "; another length says the same words, only surer or less sure" if longer else ""
            raise Wrong(f"another word for {changed:.0%} of the states{message}")

    yield "no cosine has changed", unnoticed
    yield "the words have", noticed


@exercise(
    "leashed_loss(preference, base, model, at_slot, weight)",
    "A preference loss, log-probabilities (places, vocabulary) of base and model, a boolean (places,): is it the slot "
    "of the one word, or ordinary text? Return the loss with a KL term that keeps the model's *speech* at the base's.",
    difficulty=2,
    minutes=15,
)
def _(function):
    def divergence(base, model):
        return (base.exp() * (base - model)).sum(-1)

    def right(preference, base, model, at_slot, weight):
        return preference + weight * divergence(base, model)[~at_slot].mean()

    def a_leash_at_the_slot(preference, base, model, at_slot, weight):
        """At the slot the words *are* the embedding: a penalty there holds the embedding back, and not the speech."""
        return preference + weight * divergence(base, model)[at_slot].mean()

    def a_leash_everywhere(preference, base, model, at_slot, weight):
        """The slot is in it too, where the embedding is to move: take ordinary text alone."""
        return preference + weight * divergence(base, model).mean()

    def the_sum_over_places(preference, base, model, at_slot, weight):
        """A sum grows with the text's length, and the weight would mean another thing in each batch: take the mean."""
        return preference + weight * divergence(base, model)[~at_slot].sum()

    def divided_by_all_places(preference, base, model, at_slot, weight):
        """The mean is over ordinary text: the slots do not count below the line either."""
        return preference + weight * (divergence(base, model) * ~at_slot).mean()

    def the_wrong_way_round(preference, base, model, at_slot, weight):
        """This is KL(model ‖ base): a word that the base says and the model has lost costs nothing there."""
        return preference + weight * divergence(model, base)[~at_slot].mean()

    def the_sign_is_turned(preference, base, model, at_slot, weight):
        """Here a model earns by leaving the base: a penalty is added."""
        return preference - weight * divergence(base, model)[~at_slot].mean()

    def no_weight(preference, base, model, at_slot, weight):
        """The weight is missing."""
        return preference + divergence(base, model)[~at_slot].mean()

    base, model = (numbers(7, 9, seed=seed).log_softmax(-1) for seed in (74, 75))
    at_slot = torch.tensor([False, False, True, False, True, False, False])
    loss = torch.tensor(0.69, dtype=torch.float64)
    cases = {
        "a model like the base pays nothing": (loss, base, base, at_slot, 10.0),
        "five places of text, two slots": (loss, base, model, at_slot, 10.0),
        "weight 0": (loss, base, model, at_slot, 0.0),
    }
    slips = [a_leash_at_the_slot, a_leash_everywhere, the_sum_over_places, divided_by_all_places, the_wrong_way_round]
    return compare(function, right, cases=cases, slips=[*slips, the_sign_is_turned, no_weight])
