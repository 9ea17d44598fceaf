"""Answers to the exercises of notebook 01, right and wrong."""

import itertools

import torch

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


def by_cross_entropy(anchor, positive, temperature):
    scores = torch.nn.functional.cosine_similarity(anchor[:, None], positive[None], dim=-1) / temperature
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(anchor)))


def shifted_worths(reference, rewards, beta):
    return worth(reference, rewards - rewards.amax(-1, keepdim=True), beta).sum(-1, keepdim=True)


def gumbel(shape, generator):
    return -(-torch.rand(shape, dtype=torch.float64, generator=generator).log()).log()


def worth(reference, rewards, beta):
    return reference * (rewards / beta).exp()


RIGHT = [
    ("best_of_probability", lambda s: 1 / (s - s[..., :1]).exp().sum(-1)),
    ("top_k_log_prob", rank),
    ("dpo_loss", lambda a, b, c, d, beta: torch.nn.functional.softplus(beta * ((b - d) - (a - c))).mean()),
    ("score_gradient", lambda s: torch.autograd.functional.jacobian(lambda x: -x.log_softmax(-1)[..., 0].sum(), s)),
    ("info_nce_in_batch", by_cross_entropy),
    ("optimal_policy", lambda q, r, b: worth(q, r - r.amax(-1, keepdim=True), b) / shifted_worths(q, r, b)),
    ("sample_ranking", lambda s, g: torch.multinomial(s.softmax(0), len(s), generator=g)),
    ("one_word_scores", lambda q, p, r, b: b * torch.einsum("nv,bv->bn", q, p - r)),
    ("place_probabilities", places),
]

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
    ("score_gradient", lambda s: s.log_softmax(-1), "expected"),
    ("score_gradient", lambda s: (s.softmax(-1) - torch.eye(s.shape[-1])[0]).mean(0), "shape should be"),
    ("info_nce_in_batch", lambda a, p, t: 5 * by_cross_entropy(a, p, t), "the mean is asked for"),
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
    ("place_probabilities", lambda s: places(s)[:, 0], "shape should be"),
]
