"""The exercises of notebook 03: cosines, two numbers for a cone, projections, nearest words."""

import numpy as np
from scipy import special, stats

from sempa_utils.exercises.checker import Wrong, compare, exercise, numbers, tensor


def _vectors(count, width, *, seed, shift=1.0):
    """Vectors of different lengths that lie in a cone, the wider the smaller `shift` is."""
    vectors = numbers(count, width, seed=seed).numpy()
    vectors[:, 0] += shift
    return vectors * np.linspace(0.5, 2.0, count)[:, None]


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@exercise(
    "cosines_of(vectors)",
    "Vectors (n, width). Return the cosine of each with each, (n, n).",
    difficulty=1,
    minutes=5,
)
def _(function):
    def right(vectors):
        return _unit(vectors) @ _unit(vectors).T

    def dot_products(vectors):
        """These are dot products: a long vector counts more in them; divide both vectors by their length."""
        return vectors @ vectors.T

    def correlations(vectors):
        """Each vector's own mean was taken off: that is Pearson's correlation, and hides a shared offset."""
        return np.corrcoef(vectors)

    def the_mean_vector_taken_off(vectors):
        """The mean of all vectors was taken off: that removes the cone that you want to see."""
        return right(vectors - vectors.mean(axis=0))

    def columns_of_length_one(vectors):
        """The columns have length one here: a vector is a row."""
        vectors = vectors / np.linalg.norm(vectors, axis=0)
        return vectors @ vectors.T

    def divided_once(vectors):
        """A cosine divides by both lengths; here it is by one."""
        return _unit(vectors) @ vectors.T

    def divided_by_squared_lengths(vectors):
        """The length is the root of the sum of squares: the root is missing."""
        vectors = vectors / (vectors**2).sum(axis=1, keepdims=True)
        return vectors @ vectors.T

    cases = {"six vectors of different lengths": (_vectors(6, 4, seed=50),), "one vector": (_vectors(1, 4, seed=51),)}
    slips = [dot_products, correlations, the_mean_vector_taken_off, columns_of_length_one, divided_once]
    return compare(function, right, cases=cases, slips=[*slips, divided_by_squared_lengths])


@exercise(
    "uniformity_of(vectors)",
    "Vectors (n, width) of any length. Return log E exp(−2‖x − y‖²) over all pairs of different rows, on unit vectors.",
    difficulty=2,
    minutes=10,
)
def _(function):
    def squares(unit):
        """Squared distances of all pairs of different rows."""
        return ((unit[:, None] - unit) ** 2).sum(-1)[~np.eye(len(unit), dtype=bool)]

    def right(vectors):
        return np.log(np.exp(-2 * squares(_unit(vectors))).mean())

    def pairs_with_itself(vectors):
        """A vector has the distance 0 to itself: with n such pairs a few sentences look alike that are not."""
        squared = ((_unit(vectors)[:, None] - _unit(vectors)) ** 2).sum(-1)
        return np.log(np.exp(-2 * squared).mean())

    def the_mean_of_the_logarithm(vectors):
        """The logarithm is of the mean: otherwise near pairs count no more than far ones."""
        return (-2 * squares(_unit(vectors))).mean()

    def distances_not_squared(vectors):
        """The distance is squared in the exponent."""
        return np.log(np.exp(-2 * np.sqrt(squares(_unit(vectors)))).mean())

    def without_the_factor_two(vectors):
        """The factor 2 in the exponent is missing."""
        return np.log(np.exp(-squares(_unit(vectors))).mean())

    def lengths_kept(vectors):
        """Make the vectors one long first: else the measure is of their lengths."""
        return np.log(np.exp(-2 * squares(vectors)).mean())

    def no_logarithm(vectors):
        """The logarithm is missing."""
        return np.exp(right(vectors))

    def half_the_mean(vectors):
        """Each pair was taken once, and divided by n (n − 1), which counts it twice."""
        return right(vectors) - np.log(2)

    opposite = np.array([[3.0, 0.0], [-1.0, 0.0]])
    cases = {
        "eight vectors in a cone": (_vectors(8, 5, seed=52),),
        "one point repeated gives 0": (np.ones((3, 2)),),
        "two opposite points give −8": (opposite,),
    }
    slips = [pairs_with_itself, the_mean_of_the_logarithm, distances_not_squared, without_the_factor_two]
    return compare(function, right, cases=cases, slips=[*slips, lengths_kept, no_logarithm, half_the_mean])


@exercise(
    "isotropy_of(vectors, both)",
    "Vectors (n, width), n > width. Return min Z(u) / max Z(u) over the eigenvectors u of VᵀV, of unit vectors; each u "
    "points where the vectors point on the whole (Σ u·v > 0), and with `both` true −u takes part too.",
    difficulty=3,
    minutes=20,
)
def _(function):
    def ratio(along, both=False):
        along = along * np.where(along.sum(axis=0) < 0, -1, 1)
        sides = np.concatenate([along, -along], axis=1) if both else along
        totals = special.logsumexp(sides, axis=0)
        return np.exp(totals.min() - totals.max())

    def axes(vectors):
        return np.linalg.eigh(vectors.T @ vectors)[1]

    def right(vectors, both):
        return ratio(_unit(vectors) @ axes(_unit(vectors)), both)

    def lengths_kept(vectors, both):
        """With the lengths kept the exponent is a vector's length, and the measure one of scale."""
        return ratio(vectors @ axes(vectors), both)

    def the_mean_taken_off(vectors, both):
        """The mean vector was taken off: it is the cone's axis, and what the measure is about."""
        centred = _unit(vectors) - _unit(vectors).mean(axis=0)
        return ratio(centred @ axes(centred), both)

    def axes_of_the_covariance(vectors, both):
        """These are the axes of the covariance; the eigenvectors asked for are of VᵀV, with the mean in it."""
        centred = _unit(vectors) - _unit(vectors).mean(axis=0)
        return ratio(_unit(vectors) @ axes(centred), both)

    def the_sign_as_it_came(vectors, both):
        """A library returns u or −u as it happens, and Z differs between them: fix the sign."""
        totals = np.exp(_unit(vectors) @ axes(_unit(vectors))).sum(axis=0)
        return totals.min() / totals.max()

    def always_one_sign(vectors, both):
        """`both` is not looked at: with it −u takes part as well."""
        return right(vectors, False)

    def always_both_signs(vectors, both):
        """`both` is not looked at: without it only the direction in which the vectors point takes part."""
        return right(vectors, True)

    def largest_over_smallest(vectors, both):
        """This is the largest over the smallest: isotropy is at most 1."""
        return 1 / right(vectors, both)

    def the_unit_axes_of_the_space(vectors, both):
        """These are the coordinate axes; an eigenvector of VᵀV is where the vectors point."""
        return ratio(_unit(vectors), both)

    cone = _vectors(12, 4, seed=53, shift=2.0)
    cases = {"one sign": (cone, False), "both signs": (cone, True), "lengths of 1e3": (1e3 * cone, False)}
    slips = [lengths_kept, the_mean_taken_off, axes_of_the_covariance, always_one_sign, always_both_signs]
    slips += [the_sign_as_it_came, largest_over_smallest, the_unit_axes_of_the_space]
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "plane(vectors)",
    "Vectors (n, width). Return their coordinates (n, 2) on the first two principal components, by np.linalg.svd. "
    "The sign of a component is free.",
    difficulty=2,
    minutes=10,
)
def _(function):
    def right(vectors):
        left, singular, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
        return left[:, :2] * singular[:2]

    def not_centred(vectors):
        """The mean is still in it: the first axis of a cone then says where the cone points, not how it spreads."""
        left, singular, _ = np.linalg.svd(vectors, full_matrices=False)
        return left[:, :2] * singular[:2]

    def equal_spread(vectors):
        """Both coordinates have the same spread here: multiply the left vectors by the singular values."""
        return np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[0][:, :2]

    def columns_for_rows(vectors):
        """numpy returns Vᵀ: the axes are its rows, not its columns."""
        centred = vectors - vectors.mean(axis=0)
        return centred @ np.linalg.svd(centred, full_matrices=False)[2][:, :2]

    def the_last_components(vectors):
        """These directions have the least variance: eigh sorts upwards."""
        left, singular, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
        return (left * singular)[:, :-3:-1]

    def each_column_scaled(vectors):
        """The columns were brought to the same variance first: PCA of the correlations, another picture."""
        return right((vectors - vectors.mean(axis=0)) / vectors.std(axis=0))

    def axes_of_centred_points_of_raw(vectors):
        """The axes are right; subtract the mean from the points as well."""
        return vectors @ np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:2].T

    def upright(coordinates):
        """Turn each column so that its largest number by size is positive."""
        coordinates = tensor(coordinates).numpy()
        if coordinates.ndim != 2:
            return coordinates
        largest = coordinates[np.abs(coordinates).argmax(axis=0), np.arange(coordinates.shape[1])]
        return coordinates * np.sign(largest)

    def turned(answer):
        """The same answer with its signs fixed, under its own name."""

        def fixed(vectors):
            return upright(answer(vectors))

        fixed.__name__, fixed.__doc__ = getattr(answer, "__name__", ""), answer.__doc__
        return fixed

    stretched = _vectors(9, 5, seed=54, shift=4.0) * np.array([1.0, 3.0, 0.3, 2.0, 1.0])
    slips = [not_centred, equal_spread, columns_for_rows, the_last_components, each_column_scaled]
    slips = map(turned, [*slips, axes_of_centred_points_of_raw])
    cases = {"nine vectors far from the origin": (stretched,)}
    return compare(turned(function), turned(right), cases=cases, slips=list(slips))


@exercise(
    "build_cone(count, width, cosine, generator)",
    "Return `count` unit vectors (count, width), random by numpy's `generator`, whose pairs have the mean cosine "
    "`cosine`, between 0 and 1.",
    difficulty=3,
    minutes=15,
)
def _(function):
    def vectors(cosine):
        answer = tensor(function(500, 200, cosine, np.random.default_rng(55))).numpy()
        if answer.shape != (500, 200):
            raise Wrong(f"the shape should be (500, 200), yours is {answer.shape}")
        return answer

    def lengths():
        largest = np.abs(np.linalg.norm(vectors(0.5), axis=1) - 1).max()
        if not largest <= 1e-5:
            raise Wrong(f"a vector's length differs from 1 by {largest:.2g}")

    def mean_cosine(cosine):
        unit = _unit(vectors(cosine))
        pairs = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
        found = pairs.mean()
        if abs(found - cosine) <= 0.02:
            if pairs.std() < 1e-6:
                raise Wrong("all pairs have one and the same cosine: let the part across the axis be random")
            return
        message = f"mean cosine {found:.3f}, {cosine} is asked for"
        if abs(found - cosine**2) <= 0.02:
            message += "; you put c along the axis: two vectors that reach √c there have the cosine √c · √c = c"
        elif abs(found) <= 0.02:
            message += "; the directions are spread over the whole sphere: give all of them a part along one axis"
        elif abs(found - 1) <= 0.02:
            message += "; all point the same way: each needs a part across the axis too, of length √(1 − c)"
        elif abs(found - cosine / (1 + cosine)) <= 0.02 or abs(found - 1 / 200) <= 0.02:
            message += "; the two parts' squared lengths must add up to 1: c along the axis, 1 − c across"
        raise Wrong(message)

    yield "they have length one", lengths
    yield "mean cosine 0.6", lambda: mean_cosine(0.6)
    yield "mean cosine 0.25", lambda: mean_cosine(0.25)


@exercise(
    "roc_area(higher, lower)",
    "Two samples (n,) and (m,), cosines of entailed and of contradicted pairs. "
    "Return the AUC: over all n · m pairs, how often is the first above the second? A tie counts half.",
    difficulty=2,
    minutes=10,
)
def _(function):
    def right(higher, lower):
        return (np.sign(higher[:, None] - lower) / 2 + 0.5).mean()

    def ties_count_nothing(higher, lower):
        """A tie counts half: a measure that gives 0 to two equal samples calls them upside down."""
        return (higher[:, None] > lower).mean()

    def ties_count_whole(higher, lower):
        """A tie counts half: here it counts as won, so equal samples look perfectly apart."""
        return (higher[:, None] >= lower).mean()

    def upside_down(higher, lower):
        """This is how often the second is above the first."""
        return 1 - right(higher, lower)

    def the_better_side(higher, lower):
        """An AUC below 0.5 is a finding, the order is upside down: do not turn it round."""
        return max(right(higher, lower), 1 - right(higher, lower))

    def row_by_row(higher, lower):
        """Every entailed pair meets every contradicted one, not only the one of its own row."""
        few = min(len(higher), len(lower))
        return (np.sign(higher[:few] - lower[:few]) / 2 + 0.5).mean()

    def against_the_mean(higher, lower):
        """Each value meets all of the other sample, not its mean."""
        return (np.sign(higher - lower.mean()) / 2 + 0.5).mean()

    ties, other = np.array([0.9, 0.7, 0.7, 0.4, 0.1]), np.array([0.7, 0.4, 0.3, 0.1, 0.1, 0.8])
    cases = {
        "samples with ties": (ties, other),
        "a sample against itself gives 0.5": (ties, ties),
        "an order that is upside down stays below 0.5": (other - 1, ties),
    }
    slips = [ties_count_nothing, ties_count_whole, the_better_side, upside_down, row_by_row, against_the_mean]
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "nearest_words(states, head, count)",
    "States (n, width) after the final norm and the head's matrix (words, width). "
    "Return the numbers (n, count) of the words the model would say, the likeliest first.",
    difficulty=1,
    minutes=5,
)
def _(function):
    def best(scores, count):
        return np.argsort(-scores, axis=1)[:, :count]

    def right(states, head, count):
        return best(states @ head.T, count)

    def by_cosine(states, head, count):
        """The head takes dot products: a word with a long vector is said more often, and a cosine forgets that."""
        return best(_unit(states) @ _unit(head).T, count)

    def by_distance(states, head, count):
        """This is the nearest by distance; the logit is a dot product."""
        return best(-((states[:, None] - head) ** 2).sum(-1), count)

    def the_least_likely(states, head, count):
        """argsort goes upwards: these are the words that the model would say last."""
        return best(-states @ head.T, count)

    def turned_round(states, head, count):
        """The right words, the likeliest last."""
        return right(states, head, count)[:, ::-1]

    def without_order(states, head, count):
        """The right words in the vocabulary's order (argpartition does not sort): the likeliest comes first."""
        return np.sort(right(states, head, count), axis=1)

    def logits_for_numbers(states, head, count):
        """These are the logits; the words' numbers are asked for."""
        return -np.sort(-(states @ head.T), axis=1)[:, :count]

    head = numbers(12, 6, seed=56).numpy() * np.linspace(0.2, 3, 12)[::-1, None]
    states = numbers(4, 6, seed=57).numpy()
    cases = {"four states, twelve words": (states, head, 3), "one word each": (states, head, 1)}
    slips = [by_cosine, by_distance, the_least_likely, turned_round, without_order, logits_for_numbers]
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "flattering_axis(points, labels)",
    "Noise (n, width) with width > n, and labels 0 or 1 given by a coin. Return one axis (width,) of length 1 on which "
    "the points of label 1 lie above those of label 0.",
    difficulty=2,
    minutes=15,
)
def _(function):
    points, labels = numbers(60, 400, seed=58).numpy(), np.arange(60) % 2
    fresh = numbers(2000, 400, seed=59).numpy()

    def area(where, along):
        higher, lower = along[where == 1], along[where == 0]
        return stats.mannwhitneyu(higher, lower).statistic / (len(higher) * len(lower))

    def axis():
        answer = tensor(function(points, labels)).numpy()
        if answer.shape != (400,):
            raise Wrong(f"the shape should be (400,), yours is {answer.shape}")
        return answer

    def length():
        if not abs(np.linalg.norm(axis()) - 1) <= 1e-5:
            raise Wrong(f"the axis has the length {np.linalg.norm(axis()):.3g}")

    def flatters():
        found = area(labels, points @ axis())
        if found >= 0.95:
            return
        message = f"AUC {found:.2f} on the points, 0.95 is asked for"
        if found <= 0.05:
            message += "; the axis points the wrong way: turn it round"
        elif np.abs(axis() @ _first_axis(points)) > 0.99:
            message += "; this is the first principal component, an honest axis: it does not know the labels"
        else:
            message += "; let the labels choose it"
        raise Wrong(message)

    def lies():
        """On points that the axis has not seen nothing is apart: it cannot be otherwise, the labels are a coin's."""
        found = area(np.arange(len(fresh)) % 2, fresh @ axis())
        if not abs(found - 0.5) <= 0.06:  # four standard errors
            raise Wrong(f"AUC {found:.2f} on fresh noise: is that an axis?")

    yield "its length is 1", length
    yield "the picture shows two groups", flatters
    yield "on fresh noise with fresh labels they are gone", lies


def _first_axis(points):
    return np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][0]


@exercise(
    "gar_and_control(nearest, tokens)",
    "Two lists of n sets: the tokens nearest to each sentence's vector, and those that the sentence holds. Return GAR "
    "and its control, in which each sentence has the next one's nearest tokens, the last one the first one's.",
    difficulty=2,
    minutes=15,
)
def _(function):
    def gar(nearest, tokens):
        found = set().union(*(near & held for near, held in zip(nearest, tokens)))
        return len(found) / len(set().union(*tokens))

    def right(nearest, tokens):
        return gar(nearest, tokens), gar(nearest[1:] + nearest[:1], tokens)

    def with_control(share):
        return lambda nearest, tokens: (share(nearest, tokens), share(nearest[1:] + nearest[:1], tokens))

    def the_mean_over_sentences(nearest, tokens):
        """GAR counts a token once for all sentences; this is a mean of the sentences' shares."""
        return with_control(lambda near, held: np.mean([len(a & t) / len(t) for a, t in zip(near, held)]))(
            nearest, tokens
        )

    def any_sentences_neighbours(nearest, tokens):
        """A token counts when it is near the sentence that holds it: intersect before the union."""
        return with_control(lambda near, held: len(set().union(*near) & set().union(*held)) / len(set().union(*held)))(
            nearest, tokens
        )

    def a_share_of_the_neighbours(nearest, tokens):
        """The denominator is the tokens that the sentences hold, not those that are near."""
        return with_control(lambda near, held: gar(near, held) * len(set().union(*held)) / len(set().union(*near)))(
            nearest, tokens
        )

    def every_hit_counts(nearest, tokens):
        """A token that two sentences hold counts once, above and below the line."""
        return with_control(lambda near, held: sum(len(a & t) for a, t in zip(near, held)) / sum(map(len, held)))(
            nearest, tokens
        )

    def no_control(nearest, tokens):
        """The control is the figure itself: give each sentence another one's nearest tokens."""
        return gar(nearest, tokens), gar(nearest, tokens)

    def the_previous_ones(nearest, tokens):
        """The control takes the next sentence's nearest tokens, and this the previous one's."""
        return gar(nearest, tokens), gar(nearest[-1:] + nearest[:-1], tokens)

    def the_control_first(nearest, tokens):
        """GAR is asked for first, then its control."""
        return right(nearest, tokens)[::-1]

    nearest = [{1, 2, 3, 9}, {1, 4, 5, 20, 10}, {6, 2, 8, 21}, {7, 30, 31, 5, 12}]
    tokens = [{1, 2, 9, 10, 11}, {1, 4, 2}, {1, 12, 8, 6}, {6, 1, 13, 2, 14, 15, 7}]
    slips = [the_mean_over_sentences, any_sentences_neighbours, a_share_of_the_neighbours, every_hit_counts]
    slips += [no_control, the_previous_ones, the_control_first]
    return compare(function, right, cases={"four sentences": (nearest, tokens)}, slips=slips)
