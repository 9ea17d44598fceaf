"""Answers to the exercises of notebook 03, right and wrong."""

import math

import numpy as np
import torch
from scipy import spatial, stats

from sempa_utils.evaluation import geometry


def unit(vectors):
    return torch.nn.functional.normalize(torch.as_tensor(vectors), dim=-1)


def cosines_by_a_loop(vectors):
    rows = [list(map(float, row)) for row in vectors]
    length = [math.sqrt(sum(one * one for one in row)) for row in rows]
    return [
        [sum(a * b for a, b in zip(rows[i], rows[j])) / length[i] / length[j] for j in range(len(rows))]
        for i in range(len(rows))
    ]


def uniformity_of_pdist(vectors, factor=2.0, power=2):
    return torch.pdist(unit(vectors)).pow(power).mul(-factor).exp().mean().log()


def with_itself(vectors):
    return torch.cdist(unit(vectors), unit(vectors)).square().mul(-2).exp().mean().log()


def isotropy_by_svd(vectors, both, *, centred=False):
    rows = unit(vectors)
    rows = rows - rows.mean(0) * centred
    along = rows @ torch.linalg.svd(rows, full_matrices=False).Vh.T
    along = along * along.sum(0).sign()
    totals = [side.exp().sum(0) for side in ((along, -along) if both else (along,))]
    return torch.cat(totals).min() / torch.cat(totals).max()


def isotropy_of_raw(vectors, both):
    return geometry.isotropy(vectors, normalise=False, sign="both" if both else "positive")


def isotropy_by_package(vectors, both):
    return geometry.isotropy(vectors, sign="both" if both else "positive")


def isotropy_on_axes(vectors, both, axes):
    along = unit(vectors).numpy() @ axes
    along = along * np.sign(along.sum(axis=0))
    totals = np.exp(np.hstack([along, -along] if both else [along])).sum(axis=0)
    return totals.min() / totals.max()


def plane_by_torch(vectors):
    vectors = torch.as_tensor(vectors)
    centred = vectors - vectors.mean(0)
    return centred @ torch.pca_lowrank(centred, q=2, center=False, niter=50)[2]


def plane_by_package(vectors):
    mean, axes, _ = geometry.principal_components(vectors)
    return geometry.project(vectors, mean, axes=axes)


def plane_by_covariance(vectors, *, columns=(-1, -2), centre=True):
    centred = vectors - vectors.mean(axis=0)
    return (centred if centre else vectors) @ np.linalg.eigh(centred.T @ centred)[1][:, list(columns)]


def cone(count, width, cosine, generator, *, along=None, across=None):
    axis = unit(generator.normal(size=width)).numpy()
    beside = generator.normal(size=(count, width))
    beside = unit(beside - (beside @ axis)[:, None] * axis).numpy()
    along = math.sqrt(cosine) if along is None else along
    across = math.sqrt(1 - along**2) if across is None else across
    return along * axis + across * beside


def cone_in_torch(count, width, cosine, generator):
    beside = torch.as_tensor(generator.normal(size=(count, width - 1)))
    first = torch.full((count, 1), cosine**0.5, dtype=torch.float64)
    return torch.cat([first, (1 - cosine) ** 0.5 * unit(beside)], dim=1)


def area_by_scipy(higher, lower):
    return stats.mannwhitneyu(higher, lower).statistic / (len(higher) * len(lower))


def area_by_a_loop(higher, lower, tie=0.5):
    won = [1 if a > b else tie if a == b else 0 for a in higher for b in lower]
    return sum(won) / len(won)


def words_by_topk(states, head, count):
    return torch.topk(torch.as_tensor(states) @ torch.as_tensor(head).T, count).indices


def words_by_sorting(states, head, count):
    return [sorted(range(len(head)), key=lambda word: -(head[word] @ state))[:count] for state in states]


def least_squares_axis(points, labels):
    axis = np.linalg.lstsq(points, 2.0 * labels - 1, rcond=None)[0]
    return axis / np.linalg.norm(axis)


def means_apart(points, labels):
    return unit(points[labels == 1].mean(axis=0) - points[labels == 0].mean(axis=0))


def principal_axis(points, labels):
    return torch.linalg.svd(torch.as_tensor(points - points.mean(axis=0)), full_matrices=False).Vh[0]


def share(nearest, tokens):
    held = {token for row in tokens for token in row}
    return sum(any(token in near and token in row for near, row in zip(nearest, tokens)) for token in held) / len(held)


def rolled(rows, step=1):
    return [rows[(place + step) % len(rows)] for place in range(len(rows))]


def both(of, nearest, tokens):
    return of(nearest, tokens), of(rolled(nearest), tokens)


def gar_in_numpy(nearest, tokens):
    hits = np.zeros((2, 50), dtype=bool)
    held = np.zeros(50, dtype=bool)
    for place, row in enumerate(tokens):
        held[list(row)] = True
        hits[0, list(row & nearest[place])] = True
        hits[1, list(row & nearest[(place + 1) % len(nearest)])] = True
    return (hits.sum(axis=1) / held.sum()).tolist()


RIGHT = [
    ("cosines_of", cosines_by_a_loop),
    ("cosines_of", lambda v: 1 - spatial.distance.cdist(v, v, "cosine")),
    ("uniformity_of", uniformity_of_pdist),
    ("uniformity_of", geometry.uniformity),
    ("uniformity_of", lambda v: np.log(np.exp(-2 * spatial.distance.pdist(unit(v), "sqeuclidean")).mean())),
    ("isotropy_of", isotropy_by_svd),
    ("isotropy_of", isotropy_by_package),
    ("plane", plane_by_torch),
    ("plane", plane_by_package),
    ("plane", plane_by_covariance),
    ("build_cone", cone),
    ("build_cone", cone_in_torch),
    ("roc_area", area_by_scipy),
    ("roc_area", area_by_a_loop),
    ("roc_area", geometry.area_under_curve),
    ("nearest_words", words_by_topk),
    ("nearest_words", words_by_sorting),
    ("flattering_axis", least_squares_axis),
    ("flattering_axis", means_apart),
    ("gar_and_control", lambda nearest, tokens: both(share, nearest, tokens)),
    ("gar_and_control", gar_in_numpy),
]

WRONG = [
    ("cosines_of", lambda v: torch.as_tensor(v) @ torch.as_tensor(v).T, "Dot products"),
    ("cosines_of", lambda v: 1 - spatial.distance.cdist(v, v, "correlation"), "Pearson's correlation"),
    ("cosines_of", lambda v: unit(v - v.mean(axis=0)) @ unit(v - v.mean(axis=0)).T, "the cone that you want to see"),
    ("cosines_of", lambda v: (v / np.linalg.norm(v, axis=0)) @ (v / np.linalg.norm(v, axis=0)).T, "a vector is a row"),
    ("cosines_of", lambda v: unit(v).numpy() @ v.T, "Divided once"),
    ("cosines_of", lambda v: v @ v.T / np.outer((v**2).sum(1), (v**2).sum(1)), "the root is missing"),
    ("uniformity_of", with_itself, "Pairs with itself"),
    ("uniformity_of", lambda v: -2 * torch.pdist(unit(v)).square().mean(), "The mean of the logarithm"),
    ("uniformity_of", lambda v: uniformity_of_pdist(v, power=1), "Distances not squared"),
    ("uniformity_of", lambda v: uniformity_of_pdist(v, factor=1), "factor 2 in the exponent"),
    ("uniformity_of", lambda v: torch.pdist(torch.tensor(v)).square().mul(-2).exp().mean().log(), "Lengths kept"),
    ("uniformity_of", lambda v: uniformity_of_pdist(v).exp(), "The logarithm is missing"),
    ("uniformity_of", lambda v: uniformity_of_pdist(v) - math.log(2), "counts it twice"),
    ("isotropy_of", isotropy_of_raw, "one of scale"),
    ("isotropy_of", lambda v, both: isotropy_by_svd(v, both, centred=True), "it is the cone's axis"),
    (
        "isotropy_of",
        lambda v, both: isotropy_on_axes(v, both, np.linalg.svd(np.cov(unit(v).T))[0]),
        "of the covariance",
    ),
    ("isotropy_of", lambda v, both: isotropy_by_svd(v, False), "Always one sign"),
    ("isotropy_of", lambda v, both: isotropy_by_svd(v, True), "Always both signs"),
    ("isotropy_of", lambda v, both: 1 / isotropy_by_svd(v, both), "at most 1"),
    ("isotropy_of", lambda v, both: isotropy_on_axes(v, both, np.eye(v.shape[1])), "the coordinate axes"),
    ("plane", lambda v: v @ np.linalg.svd(v)[2][:2].T, "Not centred"),
    ("plane", lambda v: np.linalg.svd(v - v.mean(0), full_matrices=False)[0][:, :2], "the same spread"),
    ("plane", lambda v: (v - v.mean(0)) @ np.linalg.svd(v - v.mean(0))[2][:, :2], "not its columns"),
    ("plane", lambda v: plane_by_covariance(v, columns=(0, 1)), "eigh sorts upwards"),
    ("plane", lambda v: plane_by_covariance(stats.zscore(v)), "PCA of the correlations"),
    ("plane", lambda v: plane_by_covariance(v, centre=False), "from the points as well"),
    ("plane", lambda v: plane_by_covariance(v).T, "the shape should be"),
    ("build_cone", lambda n, d, c, g: cone(n, d, c, g, along=c), "you put c along the axis"),
    ("build_cone", lambda n, d, c, g: cone(n, d, c, g, along=0), "over the whole sphere"),
    ("build_cone", lambda n, d, c, g: cone(n, d, c, g, along=1), "all point the same way"),
    ("build_cone", lambda n, d, c, g: cone(n, d, c, g, across=1), "a vector's length differs"),
    ("build_cone", lambda n, d, c, g: unit(c**0.5 * np.eye(d)[0] + g.normal(size=(n, d))), "is asked for"),
    ("build_cone", lambda n, d, c, g: unit(c**0.5 * np.eye(d)[0] + unit(g.normal(size=(n, d))).numpy()), "add up to 1"),
    ("roc_area", lambda a, b: area_by_a_loop(a, b, tie=0), "calls them upside down"),
    ("roc_area", lambda a, b: area_by_a_loop(a, b, tie=1), "perfectly apart"),
    ("roc_area", lambda a, b: area_by_scipy(b, a), "how often the second"),
    ("roc_area", lambda a, b: max(area_by_scipy(a, b), area_by_scipy(b, a)), "do not turn it round"),
    ("roc_area", lambda a, b: np.mean([(x > y) + (x == y) / 2 for x, y in zip(a, b)]), "of its own row"),
    ("roc_area", lambda a, b: area_by_a_loop(a, [np.mean(b)]), "not its mean"),
    ("nearest_words", lambda s, h, n: torch.topk(unit(s) @ unit(h).T, n).indices, "a cosine forgets that"),
    ("nearest_words", lambda s, h, n: spatial.KDTree(h).query(s, k=list(range(1, n + 1)))[1], "nearest by distance"),
    ("nearest_words", lambda s, h, n: np.argsort(s @ h.T, axis=1)[:, :n], "would say last"),
    ("nearest_words", lambda s, h, n: np.argsort(s @ h.T, axis=1)[:, -n:], "the likeliest last"),
    ("nearest_words", lambda s, h, n: words_by_topk(s, h, n).sort().values, "in the vocabulary's order"),
    ("nearest_words", lambda s, h, n: torch.topk(torch.tensor(s @ h.T), n).values, "Logits for numbers"),
    ("flattering_axis", principal_axis, "an honest axis"),
    ("flattering_axis", lambda points, labels: -means_apart(points, labels), "turn it round"),
    ("flattering_axis", lambda points, labels: 5 * means_apart(points, labels), "the axis has the length 5"),
    ("flattering_axis", lambda points, labels: np.eye(points.shape[1])[0], "let the labels choose it"),
    ("flattering_axis", lambda points, labels: points @ means_apart(points, labels).numpy(), "the shape should be"),
    (
        "gar_and_control",
        lambda n, t: both(lambda a, b: np.mean([len(x & y) / len(y) for x, y in zip(a, b)]), n, t),
        "a mean of",
    ),
    (
        "gar_and_control",
        lambda n, t: (len(set().union(*n) & set().union(*t)) / len(set().union(*t)),) * 2,
        "intersect before",
    ),
    (
        "gar_and_control",
        lambda n, t: np.multiply(both(share, n, t), len(set.union(*t)) / len(set.union(*n))),
        "not those that are near",
    ),
    (
        "gar_and_control",
        lambda n, t: both(lambda a, b: sum(len(x & y) for x, y in zip(a, b)) / sum(map(len, b)), n, t),
        "counts once",
    ),
    ("gar_and_control", lambda n, t: (share(n, t), share(n, t)), "The control is the figure itself"),
    ("gar_and_control", lambda n, t: (share(n, t), share(rolled(n, -1), t)), "the previous one's"),
    ("gar_and_control", lambda n, t: both(share, n, t)[::-1], "GAR is asked for first"),
    ("gar_and_control", share, "values are asked for"),
]
