"""The Plackett–Luce family: one likelihood, and the losses that are that likelihood with a score.

A judge holds N candidates with scores s_1 … s_N and picks the best; candidate j is picked with
probability exp(s_j) / Σ_i exp(s_i). He puts it aside and picks the best of the rest, and so on:

    P(ranking) = Π_k  exp(s_(k)) / Σ_{j ≥ k} exp(s_(j))

Every loss of this kit is minus the logarithm of this product, or of its first factor. They differ
in the score alone: a similarity of two vectors (InfoNCE), a log-ratio of two models (DPO), or
that log-ratio averaged over one-word answers.

Conventions. Scores have the shape (..., N): candidates last, any number of batch dimensions before.
A ranking holds candidate indices, best first. All log-probabilities are in nats. Losses take
`reduction`: "mean" (the default), "sum" or "none", as in torch. Arithmetic is done in the dtype of
the input and is safe for scores of ±1e4. Whatever is wrong with an input raises ValueError.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "ranking_log_prob",
    "top_k_log_prob",
    "best_of_log_prob",
    "info_nce_loss",
    "implicit_reward",
    "reward_margin",
    "dpo_loss",
    "listwise_dpo_loss",
    "one_word_scores",
    "sample_ranking",
    "fit_log_worths",
]


# --- the likelihood ---------------------------------------------------------------------------


def ranking_log_prob(scores: Tensor, ranking: Tensor) -> Tensor:
    """Log-probability of a whole ranking of the candidates.

    Shapes: scores (..., N), ranking (..., N) integers, best first; leading dimensions broadcast.
    Returns (...), in nats. Memory grows with N².
    Raises ValueError for an empty candidate set, a score that is not finite, shapes that do not
    fit, or a ranking that is no permutation of 0 … N-1.
    Source: paper §4.4; Plackett 1975, "The analysis of permutations".
    """
    _check_scores("scores", scores)
    if ranking.ndim == 0 or ranking.shape[-1] != scores.shape[-1]:
        raise ValueError(
            f"ranking is no permutation: shape {tuple(ranking.shape)} for {scores.shape[-1]} candidates; "
            "use top_k_log_prob for a partial ranking"
        )
    return top_k_log_prob(scores, ranking)


def top_k_log_prob(scores: Tensor, ranking: Tensor) -> Tensor:
    """Log-probability that the first K places, in this order, go to these candidates.

    Shapes: scores (..., N), ranking (..., K) integers with 1 ≤ K ≤ N; leading dimensions broadcast.
    Returns (...), in nats: the first K factors of the product, so K = 1 is the best of N.
    Raises ValueError as `ranking_log_prob` does; the K candidates must differ.
    Source: paper §4.4 (it keeps K = 1).
    """
    _check_scores("scores", scores)
    _check_ranking(ranking, scores.shape[-1])
    batch = _broadcast(scores.shape[:-1], ranking.shape[:-1])
    order = _complete(ranking, scores.shape[-1]).expand(*batch, -1)
    in_order = scores.expand(*batch, -1).gather(-1, order)
    return _first_places_log_prob(in_order, places=ranking.shape[-1])


def best_of_log_prob(scores: Tensor, best: int | Tensor = 0) -> Tensor:
    """Log-probability that candidate `best` is the best of N: the first factor, a softmax.

    Shapes: scores (..., N); best an index or integers of shape (...). Returns (...), in nats.
    Raises ValueError for an empty candidate set, a score that is not finite, or an index outside.
    Source: paper §4.4, the likelihood under both columns of its Table 2.
    """
    _check_scores("scores", scores)
    best = torch.as_tensor(best, device=scores.device)
    _check_indices("best", best, scores.shape[-1])
    batch = _broadcast(scores.shape[:-1], best.shape)
    log_probs = scores.log_softmax(-1).expand(*batch, -1)
    return log_probs.gather(-1, best.expand(batch).unsqueeze(-1)).squeeze(-1)


# --- the losses: one likelihood, three scores -------------------------------------------------


def info_nce_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    negatives: Tensor | None = None,
    temperature: float = 0.05,
    in_batch: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Contrastive loss: minus log-probability that the positive is the best; score cosine / temperature.

    Shapes: anchor (B, D), positive (B, D), negatives (B, M, D) or (B, D) for one each, or None.
    With `in_batch` the other rows' positives, and their negatives if given, are candidates too.
    Returns a scalar, or (B,) for reduction "none", in nats.
    Raises ValueError for wrong shapes, no negatives at all, values that are not finite, a zero
    vector (it has no cosine), or temperature ≤ 0.
    Source: paper Table 2, left; van den Oord et al. 2018; in-batch and hard negatives as in SimCSE.
    """
    _check_positive("temperature", temperature)
    if anchor.ndim != 2 or positive.shape != anchor.shape:
        raise ValueError(
            "anchor and positive must both have the shape (B, D), not "
            f"{tuple(anchor.shape)} and {tuple(positive.shape)}"
        )
    rows, width = anchor.shape
    if negatives is None:
        negatives = anchor.new_empty(rows, 0, width)
    elif negatives.ndim == 2:
        negatives = negatives.unsqueeze(1)
    if negatives.ndim != 3 or negatives.shape[0] != rows or negatives.shape[2] != width:
        raise ValueError(f"negatives must have the shape ({rows}, M, {width}), not {tuple(negatives.shape)}")
    if negatives.shape[1] == 0 and not (in_batch and rows > 1):
        raise ValueError("the set of negatives is empty: give negatives, or in_batch=True and two rows or more")

    anchor = _unit("anchor", anchor)
    positive = _unit("positive", positive)
    negatives = _unit("negatives", negatives)
    if in_batch:
        candidates = torch.cat([positive, negatives.flatten(0, 1)])  # (B + B·M, D), shared by all rows
        cosine = anchor @ candidates.T
        best = torch.arange(rows, device=anchor.device)  # row i's own positive
    else:
        candidates = torch.cat([positive.unsqueeze(1), negatives], dim=1)  # (B, 1 + M, D)
        cosine = (candidates @ anchor.unsqueeze(-1)).squeeze(-1)
        best = 0
    return _reduce(-best_of_log_prob(cosine / temperature, best), reduction)


def implicit_reward(policy: Tensor, reference: Tensor, *, beta: float = 0.1) -> Tensor:
    """DPO's score of an answer: beta × (log π(y|x) − log π_ref(y|x)).

    Shapes: policy and reference equal, log-probabilities summed over the answer's tokens. Returns
    the same shape, in nats (of reward, known up to a constant per prompt).
    Raises ValueError for unequal shapes, values that are not finite, or beta ≤ 0.
    Source: paper Table 2, right; Rafailov et al. 2023, eq. 5.
    """
    _check_positive("beta", beta)
    _check_same_shape(policy=policy, reference=reference)
    return beta * (policy - reference)


def reward_margin(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    *,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """Implicit reward of the chosen answer minus that of the rejected one.

    Shapes: four equal ones, summed log-probabilities. Returns the same shape, in nats.
    Raises ValueError as `implicit_reward` does.
    Source: paper eq. 2, the argument of the sigmoid.
    """
    _check_same_shape(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    return implicit_reward(policy_chosen, reference_chosen, beta=beta) - implicit_reward(
        policy_rejected, reference_rejected, beta=beta
    )


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    *,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
    reduction: str = "mean",
) -> Tensor:
    """DPO: minus log-probability that the chosen answer is the better of two; score the implicit reward.

    Shapes: four equal ones, log-probabilities summed over each answer's tokens. Returns a scalar,
    or that shape for reduction "none", in nats; ln 2 where policy and reference agree.
    Raises ValueError for unequal or empty inputs, values that are not finite, or beta ≤ 0.
    Source: paper eq. 2 (log-sigmoid) and eq. 3 (two-way softmax), which are equal.
    """
    margin = reward_margin(
        policy_chosen,
        policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
        beta=beta,
    )
    return _reduce(-functional.logsigmoid(margin), reduction)


def listwise_dpo_loss(
    policy: Tensor, reference: Tensor, *, beta: float = 0.1, top_k: int | None = None, reduction: str = "mean"
) -> Tensor:
    """DPO over a list: minus log-probability of the ranking in which the answers are given.

    Shapes: policy and reference (..., N), summed log-probabilities, best answer first, N ≥ 2.
    `top_k` counts the first places only: None is the full ranking, 1 is the best of N.
    Returns a scalar, or (...) for reduction "none", in nats. N = 2 is `dpo_loss`.
    Raises ValueError for unequal shapes, fewer than two answers, values that are not finite,
    beta ≤ 0, or top_k outside 1 … N.
    Source: the paper's open step (its limits section) on its §4.4; Rafailov et al. 2023, app. A.3.
    """
    rewards = implicit_reward(policy, reference, beta=beta)
    if rewards.ndim == 0 or rewards.shape[-1] < 2:
        raise ValueError(f"a list needs at least two answers in its last dimension, not shape {tuple(rewards.shape)}")
    answers = rewards.shape[-1]
    places = answers if top_k is None else top_k
    if not 1 <= places <= answers:
        raise ValueError(f"top_k must lie in 1 … {answers}, not {top_k}")
    return _reduce(-_first_places_log_prob(rewards, places), reduction)


def one_word_scores(
    reference_word_probs: Tensor, policy_log_probs: Tensor, *, reference_log_probs: Tensor, beta: float = 0.1
) -> Tensor:
    """Implicit reward of an anchor's one-word answer, averaged over each candidate's own words.

    s_j = beta × Σ_w q_j(w) (log π(w|x) − log π_ref(w|x)), with q_j the reference's distribution
    over one-word answers for candidate j, and x the anchor.
    Shapes: reference_word_probs q (..., N, V), policy_log_probs and reference_log_probs (..., V)
    over the vocabulary; leading dimensions broadcast, so q (N, V) may serve all anchors (B, V).
    Returns scores (..., N), in nats: take `best_of_log_prob` of them.
    Raises ValueError for wrong shapes, values that are not finite, q that is no distribution
    (tolerance 1e-2 on the sum), or beta ≤ 0.
    Source: this kit's extension of paper §4.4; the expectation of Rafailov et al. 2023, eq. 5.
    """
    _check_scores("reference_word_probs", reference_word_probs)
    word_rewards = implicit_reward(policy_log_probs, reference_log_probs, beta=beta)
    if reference_word_probs.ndim < 2 or word_rewards.ndim < 1:
        raise ValueError(
            "reference_word_probs needs the shape (..., N, V) and the log-probabilities (..., V), not "
            f"{tuple(reference_word_probs.shape)} and {tuple(word_rewards.shape)}"
        )
    if reference_word_probs.shape[-1] != word_rewards.shape[-1]:
        raise ValueError(
            f"vocabularies differ: {reference_word_probs.shape[-1]} in reference_word_probs, "
            f"{word_rewards.shape[-1]} in the log-probabilities"
        )
    if reference_word_probs.shape[-2] == 0:
        raise ValueError("reference_word_probs has an empty candidate set")
    with torch.no_grad():
        total = reference_word_probs.sum(-1, dtype=torch.float32)
        if not ((reference_word_probs >= 0).all() and ((total - 1).abs() <= 1e-2).all()):
            raise ValueError("reference_word_probs must be probabilities: each ≥ 0 and summing to 1 over the words")
    _broadcast(reference_word_probs.shape[:-2], word_rewards.shape[:-1])
    return (word_rewards.unsqueeze(-2) @ reference_word_probs.transpose(-1, -2)).squeeze(-2)


# --- sampling and fitting ---------------------------------------------------------------------


def sample_ranking(scores: Tensor, seed: int, *, num_samples: int | None = None) -> Tensor:
    """Draw rankings from the Plackett–Luce distribution: add Gumbel noise, then sort.

    Shapes: scores (..., N). Returns integers (..., N), best first; with `num_samples`,
    (num_samples, ..., N). The same seed gives the same rankings on every device.
    Raises ValueError for an empty candidate set, a score that is not finite, or num_samples < 1.
    Source: Yellott 1977; "Gumbel-max trick".
    """
    _check_scores("scores", scores)
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, not {num_samples}")
    shape = scores.shape if num_samples is None else (num_samples, *scores.shape)
    generator = torch.Generator().manual_seed(seed)
    # Minus the logarithm of an exponential variable is a standard Gumbel variable.
    gumbel = -torch.empty(shape, dtype=torch.float64).exponential_(generator=generator).log()
    noisy = scores.detach().double() + gumbel.to(scores.device)
    return noisy.argsort(dim=-1, descending=True)


def fit_log_worths(
    rankings: Tensor, num_items: int | None = None, *, tolerance: float = 1e-10, max_iterations: int = 20_000
) -> Tensor:
    """Maximum-likelihood scores of the items, from rankings of them.

    Shapes: rankings (R, K) integers, best first; K = N whole rankings, K < N the first K places
    among all N = `num_items` (by default K). Returns (N,) float64, log-worths with mean zero, in nats.
    Minorise–maximise: each step cannot lower the likelihood. It stops when the gradient per
    ranking is below `tolerance` for every item.
    Raises ValueError for wrong rankings, for items of which some group never loses to the rest (no
    maximum exists: Ford 1957), and RuntimeError when `max_iterations` are not enough.
    Source: Hunter 2004, "MM algorithms for generalized Bradley–Terry models", §5.
    """
    if rankings.ndim != 2 or rankings.shape[0] == 0:
        raise ValueError(f"rankings must have the shape (R, K) with R ≥ 1, not {tuple(rankings.shape)}")
    num_items = rankings.shape[1] if num_items is None else num_items
    if num_items < 2:
        raise ValueError(f"a fit needs at least two items, not {num_items}")
    _check_ranking(rankings, num_items)
    # The last of N places is no choice, and equal rankings need computing once.
    places = min(rankings.shape[1], num_items - 1)
    distinct, counts = rankings.long().unique(dim=0, return_counts=True)
    order, counts = _complete(distinct, num_items), counts.double().unsqueeze(-1)
    _check_maximum_exists(order, places, num_items)

    def per_item(values):  # (R, positions) in ranking order -> sums per item (N,)
        where = order[:, : values.shape[1]].reshape(-1)
        return torch.zeros(num_items, dtype=torch.float64, device=order.device).index_add(0, where, values.reshape(-1))

    wins = per_item(counts.expand(-1, places))
    worths = torch.full((num_items,), 1 / num_items, dtype=torch.float64, device=order.device)
    for _ in range(max_iterations):
        remaining = worths[order].flip(-1).cumsum(-1).flip(-1)[:, :places]  # worth still in the race, each place
        entered = (counts / remaining).cumsum(-1)  # summed over the races that the item at this position ran
        tail = entered[:, -1:].expand(-1, num_items - places)
        races = per_item(torch.cat([entered, tail], dim=-1))
        if ((wins - worths * races).abs().max() / counts.sum()).item() <= tolerance:
            log_worths = worths.log()
            return log_worths - log_worths.mean()
        worths = wins / races
        worths = worths / worths.sum()
    raise RuntimeError(f"no convergence to {tolerance} in {max_iterations} iterations; raise max_iterations")


# --- helpers ----------------------------------------------------------------------------------


def _first_places_log_prob(in_order: Tensor, places: int) -> Tensor:
    """Log of the first `places` factors, for scores (..., N) that already stand in ranking order."""
    candidates = in_order.shape[-1]
    placed = torch.ones(places, candidates, dtype=torch.bool, device=in_order.device).tril(-1)
    races = in_order.unsqueeze(-2).masked_fill(placed, -math.inf)  # row k: the race for place k
    return races.log_softmax(-1).diagonal(dim1=-2, dim2=-1).sum(-1)


def _complete(ranking: Tensor, candidates: int) -> Tensor:
    """Append the candidates that a ranking (..., K) leaves out, in any order: (..., N)."""
    placed = torch.zeros(*ranking.shape[:-1], candidates, dtype=torch.int8, device=ranking.device)
    placed = placed.scatter(-1, ranking.long(), 1)
    left_out = placed.argsort(dim=-1, stable=True)[..., : candidates - ranking.shape[-1]]
    return torch.cat([ranking.long(), left_out], dim=-1)


def _unit(name: str, vectors: Tensor) -> Tensor:
    """Vectors of length one; divided by their largest entry first, so that no square over- or underflows."""
    _check_finite(name, vectors)
    if vectors.numel() == 0:
        return vectors
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    if not (largest > 0).all():
        raise ValueError(f"{name} has a zero vector, whose cosine is undefined")
    return functional.normalize(vectors / largest, dim=-1)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    return losses if reduction == "none" else getattr(losses, reduction)()


def _broadcast(*shapes) -> torch.Size:
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(f"leading dimensions do not fit together: {[tuple(shape) for shape in shapes]}") from None


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, not {value}")


def _check_finite(name: str, values: Tensor) -> None:
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating point, not {values.dtype}")
    finite = values.detach().isfinite()
    if not finite.all():
        where = tuple((~finite).nonzero()[0].tolist())
        raise ValueError(f"{name} must be finite, but holds {values[where].item()} at {where}")


def _check_scores(name: str, scores: Tensor) -> None:
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"{name} has an empty candidate set: shape {tuple(scores.shape)}, candidates last")
    if scores.numel() == 0:
        raise ValueError(f"{name} is an empty batch: shape {tuple(scores.shape)}")
    _check_finite(name, scores)


def _check_same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"shapes must be equal: {shapes}")
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            raise ValueError(f"{name} is empty: shape {shapes[name]}")
        _check_finite(name, tensor)


def _check_indices(name: str, indices: Tensor, candidates: int) -> None:
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"{name} must hold integers, not {indices.dtype}")
    if not ((indices >= 0) & (indices < candidates)).all():
        raise ValueError(f"{name} must lie in 0 … {candidates - 1}: one value does not")


def _check_ranking(ranking: Tensor, candidates: int) -> None:
    if ranking.ndim == 0 or not 1 <= ranking.shape[-1] <= candidates:
        raise ValueError(
            f"ranking needs 1 … {candidates} places in its last dimension, not shape {tuple(ranking.shape)}"
        )
    _check_indices("ranking", ranking, candidates)
    if not (ranking.sort(-1).values.diff(dim=-1) > 0).all():
        raise ValueError("ranking is no permutation: a candidate stands in it twice")


def _check_maximum_exists(order: Tensor, places: int, num_items: int) -> None:
    beats = torch.eye(num_items, dtype=torch.bool, device=order.device)
    for place in range(places):
        winner = order[:, place : place + 1].expand(-1, num_items - place - 1)
        beats[winner, order[:, place + 1 :]] = True
    for _ in range(max(1, num_items.bit_length())):  # who beats whom by a chain of rankings
        beats = (beats.float() @ beats.float()) > 0
    if not beats.all():
        raise ValueError(
            "no maximum exists: some group of items never loses to the others in these rankings "
            "(its worths would grow without bound); give more rankings or fewer items"
        )
