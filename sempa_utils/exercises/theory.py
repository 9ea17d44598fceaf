"""The exercises of notebook 01: Plackett–Luce, its two losses, and the policy behind DPO."""

import itertools
import math

import torch

from sempa_utils.exercises.checker import Wrong, close, exercise, numbers, tensor
from sempa_utils.theory import plackett_luce


@exercise(
    "best_of_probability(scores)",
    "Scores of shape (..., N). Return the probability that candidate 0 is the best of N, shape (...).",
    difficulty=1,
    minutes=5,
)
def _(function):
    scores = numbers(3, 4, seed=1)

    def two_equal():
        close(function(torch.zeros(2, dtype=torch.float64)), 0.5)

    def by_definition():
        expected, over_all = scores[:, 0].exp() / scores.exp().sum(-1), scores[:, 0].exp() / scores.exp().sum()
        hints = [
            (expected.log(), "this is the log-probability; the probability is asked for"),
            (over_all, "the sum runs over the batch as well: sum over the last dimension"),
            (scores.softmax(0)[:, 0], "the softmax runs over the batch: candidates are the last dimension"),
        ]
        close(function(scores), expected, hints=hints)

    def large():
        close(function(torch.tensor([1e4, 1e4 - 1, 0.0], dtype=torch.float64)), 1 / (1 + math.exp(-1)))

    yield "two equal candidates share the probability", two_equal
    yield "a batch of four candidates each follows the definition", by_definition
    yield "scores of 1e4 do not overflow", large


@exercise(
    "top_k_log_prob(scores, ranking)",
    "One vector of N scores and K ≤ N indices, best first. "
    "Return the log-probability that the first K places go to these, in this order.",
    difficulty=1,
    minutes=10,
)
def _(function):
    scores = numbers(5, seed=2)

    def two():
        pair = torch.tensor([1.0, 0.0], dtype=torch.float64)
        close(function(pair, torch.tensor([0, 1])), torch.tensor(1.0, dtype=torch.float64).sigmoid().log())

    def compare(*ranking):
        ranking = torch.tensor(ranking)
        expected, from_all = plackett_luce.top_k_log_prob(scores, ranking), scores.log_softmax(0)[ranking].sum()
        from_the_end = plackett_luce.top_k_log_prob(scores, ranking.flip(0))
        among_placed = plackett_luce.ranking_log_prob(scores[ranking], torch.arange(len(ranking)))
        hints = [
            (expected.exp(), "this is the probability; its logarithm is asked for"),
            (-expected, "the sign is turned: a log-probability is at most zero"),
            (from_all, "each place is drawn from all candidates: those already placed must leave the sum"),
            (among_placed, "the candidates that are not in the ranking have lost too: they belong in every sum"),
            (from_the_end, "the ranking is read from its end: best comes first"),
            (scores.log_softmax(0)[ranking[0]], "this is the first factor alone: the other places are missing"),
        ]
        close(function(scores, ranking), expected, hints=hints)

    def total():
        beginnings = [torch.tensor(order) for order in itertools.permutations(range(5), 2)]
        answers = torch.stack([tensor(function(scores, ranking)).reshape(()) for ranking in beginnings])
        close(answers.exp().sum(), 1.0)

    def large():
        far = torch.tensor([1e4, -1e4, 0.0], dtype=torch.float64)
        close(function(far, torch.tensor([1, 2, 0])), -3e4)

    yield "two candidates give a sigmoid", two
    yield "a whole ranking of five", lambda: compare(2, 0, 3, 1, 4)
    yield "the first three of five", lambda: compare(4, 1, 2)
    yield "the probabilities of all 20 pairs of first places sum to one", total
    yield "scores of ±1e4 neither over- nor underflow", large


@exercise(
    "dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)",
    "Four vectors of summed log-probabilities. Return DPO's loss, one number: the mean over the pairs.",
    difficulty=1,
    minutes=10,
)
def _(function):
    values = [numbers(6, seed=seed, scale=5.0) for seed in range(4)]

    def start():
        close(function(values[0], values[1], values[0], values[1], 0.1), math.log(2))

    def by_definition():
        pc, pr, rc, rr = values
        beta = 0.3

        def loss(margin):
            return -torch.nn.functional.logsigmoid(margin).mean()

        margin = (pc - rc) - (pr - rr)
        hints = [
            (loss(margin), "beta is missing"),
            (loss(margin / beta), "the margin is divided by beta: DPO multiplies by it"),
            (loss(-beta * margin), "chosen and rejected are exchanged, or a sign is turned"),
            (loss(beta * (pc - pr)), "the reference is missing"),
            (beta * loss(margin), "beta belongs inside the sigmoid, not in front of the loss"),
            (-torch.sigmoid(beta * margin).mean(), "the logarithm of the sigmoid is missing"),
            (-loss(beta * margin), "the sign is turned: a loss falls as the likelihood rises"),
            (6 * loss(beta * margin), "this is the sum over the pairs; the mean is asked for"),
        ]
        close(function(*values, beta), loss(beta * margin), hints=hints)

    def gradient():
        chosen = values[0].clone().requires_grad_()
        answer = function(chosen, *values[1:], 0.3)
        if not (isinstance(answer, torch.Tensor) and answer.requires_grad):
            raise Wrong("no gradient flows back to policy_chosen: stay in torch, without .item() or .detach()")
        (ours,) = torch.autograd.grad(answer, chosen)
        if not (ours < 0).all():
            raise Wrong("raising the log-probability of a chosen answer must lower the loss")

    def large():
        zero = torch.zeros(1, dtype=torch.float64)
        close(function(zero - 1e4, zero, zero, zero, 1.0), 1e4)

    yield "policy = reference gives ln 2", start
    yield "six random pairs", by_definition
    yield "the gradient raises the chosen answer", gradient
    yield "a margin of -1e4 does not overflow", large


@exercise(
    "score_gradient(scores)",
    "Scores of shape (..., N). Return the gradient of −log P(candidate 0 is best) by the scores, without autograd.",
    difficulty=2,
    minutes=10,
)
def _(function):
    scores = numbers(3, 5, seed=4)

    def by_autograd():
        tracked = scores.clone().requires_grad_()
        (expected,) = torch.autograd.grad(-plackett_luce.best_of_log_prob(tracked).sum(), tracked)
        hints = [
            (-expected, "the sign is turned: this is the gradient of the log-likelihood, not of the loss"),
            (scores.softmax(-1), "this is the softmax: the winner's own term −1 is missing"),
            (expected / 3, "no mean over the batch: each row has its own gradient"),
        ]
        close(function(scores), expected, hints=hints)

    def balance():
        answer = tensor(function(scores))
        close(answer.sum(-1), torch.zeros(3, dtype=torch.float64))

    def confident():
        close(function(torch.tensor([50.0, 0.0, 0.0], dtype=torch.float64)), torch.zeros(3))

    yield "it equals what autograd finds", by_autograd
    yield "it sums to zero: what one candidate gains the others lose", balance
    yield "it vanishes where the winner is sure", confident


@exercise(
    "info_nce_in_batch(anchor, positive, temperature)",
    "Vectors of shape (B, D). Return the mean InfoNCE loss with cosine scores; "
    "the other rows' positives are the negatives.",
    difficulty=2,
    minutes=15,
)
def _(function):
    anchor, positive = numbers(5, 7, seed=5), numbers(5, 7, seed=6)
    unit = [torch.nn.functional.normalize(x, dim=-1) for x in (anchor, positive)]
    cosine = unit[0] @ unit[1].T

    def cross_entropy(scores):
        return torch.nn.functional.cross_entropy(scores, torch.arange(5))

    def by_definition():
        others = cosine.masked_fill(torch.eye(5, dtype=torch.bool), -math.inf)
        without = (torch.logsumexp(others / 0.2, -1) - cosine.diag() / 0.2).mean()
        hints = [
            (cross_entropy(cosine), "the temperature is missing"),
            (cross_entropy(cosine * 0.2), "the cosine is multiplied by the temperature: divide"),
            (cross_entropy(anchor @ positive.T / 0.2), "this is the dot product: a cosine needs vectors of length one"),
            (cross_entropy(cosine.T / 0.2), "rows and columns are exchanged: each anchor chooses among the positives"),
            (without, "the positive must stand in the denominator too"),
            (5 * cross_entropy(cosine / 0.2), "this is the sum over the anchors; the mean is asked for"),
        ]
        close(function(anchor, positive, 0.2), cross_entropy(cosine / 0.2), hints=hints)

    def lengths():
        close(function(3 * anchor, 0.1 * positive, 0.2), cross_entropy(cosine / 0.2))

    def uniform():
        same = torch.ones(4, 3, dtype=torch.float64)
        close(function(same, same, 0.05), math.log(4))

    def cold():
        vectors = torch.eye(4, dtype=torch.float64)
        close(function(vectors, vectors.flip(0), 1e-3), 1000.0)

    yield "five random rows", by_definition
    yield "the length of a vector does not matter", lengths
    yield "equal candidates give ln B", uniform
    yield "a temperature of 0.001 does not overflow", cold


@exercise(
    "optimal_policy(reference_probs, rewards, beta)",
    "Probabilities and rewards of all answers, shape (..., N). "
    "Return the policy that maximises E[reward] − beta · KL(policy ‖ reference).",
    difficulty=2,
    minutes=15,
)
def _(function):
    reference = numbers(3, 5, seed=7).softmax(-1)
    rewards = numbers(3, 5, seed=8)

    def tilted(sharpness, base=reference):
        unnormalised = base * (rewards * sharpness).exp()
        return unnormalised / unnormalised.sum(-1, keepdim=True)

    def by_definition():
        raw = reference * (rewards / 0.5).exp()
        hints = [
            (raw, "not normalised: divide by the sum Z"),
            (raw / raw.sum(), "Z is a sum over the answers of one prompt, not over the batch"),
            (tilted(0.5), "rewards are multiplied by beta: a strong KL penalty must weaken them, so divide"),
            (tilted(2.0, torch.ones_like(reference)), "the reference is missing"),
            (tilted(1.0), "beta is missing"),
        ]
        close(function(reference, rewards, 0.5), tilted(2.0), hints=hints)

    def better_than_others():
        ours = tensor(function(reference, rewards, 0.5))

        def objective(policy):
            return ((policy * rewards).sum(-1) - 0.5 * (policy * (policy / reference).log()).sum(-1)).sum()

        for seed in range(20):
            rival = numbers(3, 5, seed=100 + seed).softmax(-1) * 0.05 + 0.95 * ours
            if objective(rival) > objective(ours) + 1e-9:
                raise Wrong("a policy nearby reaches a higher objective: yours is not the maximum")

    def cold():
        close(function(reference, rewards, 1e6), reference, tolerance=1e-4)

    def sharp():
        answer = function(reference, rewards, 1e-3)
        close(answer, torch.nn.functional.one_hot(rewards.argmax(-1), 5))

    yield "three prompts with five answers each", by_definition
    yield "no policy nearby reaches a higher objective", better_than_others
    yield "a huge beta leaves the reference", cold
    yield "a tiny beta takes the best answer, without overflow", sharp


@exercise(
    "one_word_scores(word_probs, policy_log_probs, reference_log_probs, beta)",
    "q (N, V) and log-probabilities (B, V) of B anchors. Return all scores (B, N): "
    "beta times the expected log-ratio under each q.",
    difficulty=2,
    minutes=10,
)
def _(function):
    probs = numbers(4, 9, seed=9).softmax(-1)
    policy, reference = numbers(3, 9, seed=10).log_softmax(-1), numbers(3, 9, seed=11).log_softmax(-1)

    def unmoved():
        close(function(probs, policy, policy, 2.0), torch.zeros(3, 4))

    def certain():
        close(function(torch.eye(9, dtype=torch.float64), policy, reference, 2.0), 2.0 * (policy - reference))

    def by_definition():
        ratio = policy - reference
        hints = [
            (ratio @ probs.T, "beta is missing"),
            (-2.0 * (ratio @ probs.T), "the ratio is turned: policy over reference"),
            (2.0 * (ratio.exp() @ probs.T), "this averages the ratio; the logarithm of the ratio is asked for"),
            (2.0 * (ratio.exp() @ probs.T).log(), "this is the logarithm of a mean, not the mean of the logarithm"),
            (2.0 * (policy @ probs.T), "the reference is missing"),
            (2.0 * (ratio @ probs.T) / 9, "an expectation sums over the words: the probabilities divide already"),
        ]
        close(function(probs, policy, reference, 2.0), 2.0 * (ratio @ probs.T), hints=hints)

    def divergences():
        def divergence(log_probs):
            return (probs * (probs.log() - log_probs[:, None])).sum(-1)

        close(function(probs, policy, reference, 0.7), 0.7 * (divergence(reference) - divergence(policy)))

    yield "policy = reference gives zero", unmoved
    yield "a certain word gives DPO's implicit reward", certain
    yield "three anchors, four candidates", by_definition
    yield "it is beta · (KL(q ‖ reference) − KL(q ‖ policy))", divergences


@exercise(
    "sample_ranking(scores, generator)",
    "One vector of N scores and a torch.Generator. Return one random Plackett–Luce ranking, best first.",
    difficulty=3,
    minutes=15,
)
def _(function):
    scores = torch.tensor([1.0, 0.0, -0.7], dtype=torch.float64)

    def draw(generator):
        ranking = torch.as_tensor(function(scores, generator))
        if ranking.shape != (3,) or sorted(ranking.tolist()) != [0, 1, 2]:
            raise Wrong(f"a permutation of 0, 1, 2 is asked for, got {ranking.tolist()}")
        return tuple(ranking.tolist())

    def permutation():
        draw(torch.Generator().manual_seed(0))

    def repeats():
        if len({draw(torch.Generator().manual_seed(3)) for _ in range(8)}) > 1:
            raise Wrong("the same generator state must give the same ranking: pass `generator` to the random call")

    def frequencies():
        generator, draws = torch.Generator().manual_seed(1), 4000
        rankings = list(itertools.permutations(range(3)))
        counts = dict.fromkeys(rankings, 0)
        for _ in range(draws):
            counts[draw(generator)] += 1
        expected = draws * plackett_luce.ranking_log_prob(scores, torch.tensor(rankings)).exp()
        observed = torch.tensor([counts[ranking] for ranking in rankings], dtype=torch.float64)
        chi_squared = ((observed - expected) ** 2 / expected).sum().item()
        if chi_squared <= 25.7:  # 5 degrees of freedom: exceeded with probability 1e-4 by a right answer
            return
        message = f"χ² = {chi_squared:.0f} on 5 degrees of freedom, where 25.7 is exceeded once in 10,000"
        inverse = torch.tensor([counts[tuple(torch.tensor(ranking).argsort().tolist())] for ranking in rankings])
        turned = torch.tensor([counts[ranking[::-1]] for ranking in rankings])
        if len({ranking for ranking in rankings if counts[ranking]}) == 1:
            message += "; you always return one ranking: where is the noise?"
        elif ((inverse - expected) ** 2 / expected).sum() <= 25.7:
            message += "; you return the place of each candidate: the candidate at each place is asked for"
        elif ((turned - expected) ** 2 / expected).sum() <= 25.7:
            message += "; the order is turned: best first"
        else:
            message += "; Gumbel noise is −log(−log(u)) for u uniform in (0, 1)"
        raise Wrong(message)

    yield "it returns a permutation", permutation
    yield "it repeats with the generator's state", repeats
    yield "4,000 rankings have the right frequencies", frequencies


@exercise(
    "place_probabilities(scores)",
    "One vector of N scores, N ≤ 5. "
    "Return the matrix (N, N) of the probabilities that candidate i comes in at place k.",
    difficulty=3,
    minutes=20,
)
def _(function):
    scores = numbers(4, seed=12)

    def expected(scores):
        rankings = torch.tensor(list(itertools.permutations(range(len(scores)))))
        probs = plackett_luce.ranking_log_prob(scores, rankings).exp()
        return torch.stack([(probs[:, None] * (rankings == item)).sum(0) for item in range(len(scores))])

    def first_place():
        close(tensor(function(scores))[:, 0], scores.softmax(0))

    def by_definition():
        softmax = scores.softmax(0)
        hints = [
            (expected(scores).T, "rows and columns are exchanged: row i is a candidate, column k a place"),
            (expected(scores).flip(1), "the places are counted from the worst: column 0 is the best"),
            (softmax[:, None].expand(4, 4), "a later place is won only by those not yet placed"),
        ]
        close(function(scores), expected(scores), hints=hints)

    def balance():
        answer = tensor(function(scores))
        close(torch.cat([answer.sum(0), answer.sum(1)]), torch.ones(8))

    def equal():
        close(function(torch.zeros(3, dtype=torch.float64)), torch.full((3, 3), 1 / 3))

    def five():
        close(function(numbers(5, seed=13)), expected(numbers(5, seed=13)))

    yield "the first column is the softmax", first_place
    yield "four candidates, against the sum over all rankings", by_definition
    yield "every row and every column sums to one", balance
    yield "equal candidates are everywhere equally likely", equal
    yield "five candidates", five
