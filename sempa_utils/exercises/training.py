"""The exercises of notebook 02: which tokens count, four bits, LoRA, the batch as a tree, what β does."""

import torch
from torch.nn.functional import logsigmoid

from sempa_utils.data import corpora
from sempa_utils.exercises.checker import Wrong, compare, exercise, numbers, tensor

# The 16 levels of NF4, from the code of Dettmers et al. (2023), "QLoRA".
NF4 = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334]
    + [-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
    + [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    dtype=torch.float64,
)
CHEAT = 0.6  # share of rows that a rule without meaning has to get right


@exercise(
    "scored_tokens(tokens, prompt_length, end_token)",
    "The ids of a prompt, an answer, its end token, and padding, which here is that same token. "
    "Return a boolean for each: does it enter the loss?",
    difficulty=1,
    minutes=5,
)
def _(function):
    def right(tokens, prompt_length, end_token):
        end = tokens[prompt_length:].index(end_token) + prompt_length
        return [prompt_length <= place <= end for place in range(len(tokens))]

    def the_prompt_is_scored_too(tokens, prompt_length, end_token):
        """The request is context: only what the model has to say itself enters the loss."""
        end = tokens[prompt_length:].index(end_token) + prompt_length
        return [place <= end for place in range(len(tokens))]

    def the_end_token_is_left_out(tokens, prompt_length, end_token):
        """The model must learn to stop: the answer's own end token counts, the padding behind it does not."""
        return [prompt_length <= place and token != end_token for place, token in enumerate(tokens)]

    def the_padding_is_scored_too(tokens, prompt_length, end_token):
        """Padding has the end token's id, and still is none of the answer: the first one ends it."""
        return [prompt_length <= place for place in range(len(tokens))]

    def one_token_early(tokens, prompt_length, end_token):
        """This marks where a token is predicted, one place before it; the tokens themselves are asked for."""
        return [*right(tokens, prompt_length, end_token)[1:], False]

    def the_prompts_own_end_token_is_taken(tokens, prompt_length, end_token):
        """A chat's turns end with that token as well: look for it behind the prompt."""
        return [prompt_length <= place <= tokens.index(end_token) for place in range(len(tokens))]

    cases = {
        "an answer of three tokens, padded by two": ([5, 6, 7, 11, 12, 13, 2, 2, 2], 3, 2),
        "a prompt whose turns end with the same token": ([5, 2, 6, 2, 7, 11, 12, 2], 5, 2),
    }
    slips = [the_prompt_is_scored_too, the_end_token_is_left_out, the_padding_is_scored_too, one_token_early]
    return compare(function, right, cases=cases, slips=[*slips, the_prompts_own_end_token_is_taken])


@exercise(
    "answer_log_prob(logits, tokens, scored)",
    "Logits (T, V) that the model gives at each of T tokens, the tokens' ids (T,), and which of them are scored. "
    "Return the log-probability of the scored ones, one number.",
    difficulty=2,
    minutes=10,
)
def _(function):
    def of_each(logits, tokens):
        return logits[:-1].log_softmax(-1).gather(-1, tokens[1:, None])[:, 0]

    def right(logits, tokens, scored):
        return of_each(logits, tokens)[scored[1:]].sum()

    def no_shift(logits, tokens, scored):
        """The logits at a token predict the next one: compare logits[:-1] with tokens[1:]."""
        return logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0][scored].sum()

    def the_mean_instead_of_the_sum(logits, tokens, scored):
        """An answer's probability is the product over its tokens, so its logarithm is a sum."""
        return of_each(logits, tokens)[scored[1:]].mean()

    def every_token_is_scored(logits, tokens, scored):
        """The prompt's tokens are in it too: take those that `scored` marks."""
        return of_each(logits, tokens).sum()

    def the_mask_is_not_shifted(logits, tokens, scored):
        """Once the tokens are shifted the mask must be as well: it marks tokens, so scored[1:]."""
        return of_each(logits, tokens)[scored[:-1]].sum()

    def logits_for_log_probabilities(logits, tokens, scored):
        """A logit is no log-probability before log_softmax over the vocabulary."""
        return logits[:-1].gather(-1, tokens[1:, None])[:, 0][scored[1:]].sum()

    def a_probability(logits, tokens, scored):
        """This is the probability itself: a long answer's would underflow, so stay with logarithms."""
        return right(logits, tokens, scored).exp()

    scored = torch.tensor([False, False, False, True, True, True, False])
    tokens = torch.tensor([4, 1, 7, 2, 5, 0, 0])
    cases = {
        "an answer of three tokens": (numbers(7, 9, seed=20, scale=2.0), tokens, scored),
        "logits of ±1e4": (1e4 * numbers(7, 9, seed=20).sign(), tokens, scored),
    }
    slips = [no_shift, the_mean_instead_of_the_sum, every_token_is_scored, the_mask_is_not_shifted]
    return compare(function, right, cases=cases, slips=[*slips, logits_for_log_probabilities, a_probability])


@exercise(
    "pair_loss(policy, reference, scored, beta)",
    "Log-probabilities of tokens, shape (2, T): row 0 is the chosen answer, row 1 the rejected one, "
    "and `scored` (2, T) marks what is no padding. Return DPO's loss of this pair.",
    difficulty=2,
    minutes=10,
)
def _(function):
    def right(policy, reference, scored, beta):
        chosen, rejected = ((policy - reference) * scored).sum(-1)
        return -logsigmoid(beta * (chosen - rejected))

    def no_reference(policy, reference, scored, beta):
        """The reward is a ratio: subtract the reference's log-probabilities, or long answers always lose."""
        return right(policy, torch.zeros_like(policy), scored, beta)

    def the_mean_over_tokens(policy, reference, scored, beta):
        """DPO's reward sums over an answer's tokens; a mean is another objective."""
        chosen, rejected = ((policy - reference) * scored).sum(-1) / scored.sum(-1)
        return -logsigmoid(beta * (chosen - rejected))

    def the_padding_counts(policy, reference, scored, beta):
        """Places that `scored` leaves out hold numbers too, and they mean nothing."""
        return right(policy, reference, torch.ones_like(scored), beta)

    def no_beta(policy, reference, scored, beta):
        """The margin is multiplied by β before the sigmoid."""
        return right(policy, reference, scored, 1.0)

    def beta_outside_the_sigmoid(policy, reference, scored, beta):
        """β stands inside the sigmoid: in front of the loss it is a learning rate."""
        return beta * right(policy, reference, scored, 1.0)

    def chosen_and_rejected_exchanged(policy, reference, scored, beta):
        """Row 0 is the chosen answer: its reward comes first in the margin."""
        return right(policy, reference, scored, -beta)

    def a_loss_for_each_token(policy, reference, scored, beta):
        """The sigmoid judges whole answers, so sum first."""
        ratio = (policy - reference) * scored
        return -logsigmoid(beta * (ratio[0] - ratio[1])).mean()

    policy, reference = (-numbers(2, 6, seed=seed, scale=2.0).abs() for seed in (21, 22))
    scored = torch.tensor([[True] * 5 + [False], [True] * 3 + [False] * 3])
    cases = {
        "policy = reference gives ln 2": (policy, policy, scored, 0.1),
        "answers of five and three tokens": (policy, reference, scored, 0.3),
        "a chosen answer that lost 1e5 nats": (policy - torch.tensor([[1e5], [0]]), reference, scored, 0.1),
    }
    slips = [no_reference, the_mean_over_tokens, the_padding_counts, no_beta, beta_outside_the_sigmoid]
    slips += [chosen_and_rejected_exchanged, a_loss_for_each_token]
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "gradient_shares(margins, beta)",
    "The margins of B pairs, log-ratio of chosen less rejected, without β. "
    "Return each pair's share (B,) of the push that DPO's loss gives to the margins, of sum 1.",
    difficulty=2,
    minutes=15,
)
def _(function):
    def share(weights):
        return weights / weights.sum()

    def right(margins, beta):
        return share(torch.sigmoid(-beta * margins))

    def the_pairs_that_are_right_push_most(margins, beta):
        """The sign is turned: a pair whose margin is large already has little left to learn."""
        return share(torch.sigmoid(beta * margins))

    def no_beta(margins, beta):
        """β decides when a pair has had enough: it belongs into the sigmoid."""
        return right(margins, 1.0)

    def not_divided_by_the_sum(margins, beta):
        """These are the slopes β σ(−β margin); a share is a slope over the sum of all."""
        return beta * torch.sigmoid(-beta * margins)

    def shares_of_the_loss(margins, beta):
        """These are shares of the loss; the push is its derivative by the margin."""
        return share(-logsigmoid(beta * margins))

    def a_softmax(margins, beta):
        """A softmax would let a pair with a hopeless margin take everything: a sigmoid levels off at 1."""
        return torch.softmax(-beta * margins, dim=-1)

    def all_alike(margins, beta):
        """The loss is not linear in the margin, so its slope differs from pair to pair."""
        return torch.full_like(margins, 1 / len(margins))

    cases = {
        "five pairs, β = 0.1": (numbers(5, seed=23, scale=20.0), 0.1),
        "the same, β = 2": (numbers(5, seed=23, scale=2.0), 2.0),
        "margins of ±1e4": (torch.tensor([1e4, -1e4, 0.0], dtype=torch.float64), 1.0),
    }
    slips = [the_pairs_that_are_right_push_most, no_beta, not_divided_by_the_sum, shares_of_the_loss, a_softmax]
    return compare(function, right, cases=cases, slips=[*slips, all_alike])


@exercise(
    "four_bits(weights, levels, block)",
    "A matrix, 16 levels from −1 to 1, and a block's size. Cut the rows, one after the other, into blocks; divide each "
    "by its largest absolute value, take the nearest level, and multiply again. Return the restored matrix.",
    difficulty=2,
    minutes=15,
)
def _(function):
    def restore(blocks, scales, levels):
        nearest = (blocks[..., None] / scales[..., None] - levels).abs().argmin(-1)
        return levels[nearest] * scales

    def right(weights, levels, block):
        blocks = weights.reshape(-1, block)
        scales = blocks.abs().amax(1, keepdim=True).clamp(min=1e-300)
        return restore(blocks, scales, levels).reshape(weights.shape)

    def one_scale_for_the_whole_matrix(weights, levels, block):
        """Each block has a scale of its own; with one for all, a large weight costs all others their precision."""
        return restore(weights, weights.abs().max().expand_as(weights), levels)

    def even_levels(weights, levels, block):
        """Take the levels that are given: NF4's lie closer where a normal distribution has more weights."""
        return right(weights, torch.linspace(-1, 1, 16, dtype=torch.float64), block)

    def the_level_below(weights, levels, block):
        """This takes the next level downwards; the nearest may lie above."""
        blocks = weights.reshape(-1, block)
        scales = blocks.abs().amax(1, keepdim=True).clamp(min=1e-300)
        below = (torch.searchsorted(levels, (blocks / scales).contiguous(), right=True) - 1).clamp(min=0)
        return (levels[below] * scales).reshape(weights.shape)

    def not_scaled_back(weights, levels, block):
        """These are the levels: multiply each by its block's scale again."""
        scales = weights.reshape(-1, block).abs().amax(1, keepdim=True).clamp(min=1e-300)
        return (right(weights, levels, block).reshape(-1, block) / scales).reshape(weights.shape)

    def blocks_down_the_columns(weights, levels, block):
        """A block is a piece of a row: flatten the matrix as it lies in memory."""
        return right(weights.T, levels, block).T

    def the_largest_without_its_sign(weights, levels, block):
        """A block's scale is its largest *absolute* value: the largest weight may be negative."""
        blocks = weights.reshape(-1, block)
        return restore(blocks, blocks.amax(1, keepdim=True), levels).reshape(weights.shape)

    weights = numbers(8, 16, seed=24) * torch.logspace(-2, 1, 8, dtype=torch.float64)[:, None]
    weights[:, 1] = -1.37 * weights.abs().amax(1)  # the largest of each row's first block is negative
    zeros = torch.cat([torch.zeros(1, 16, dtype=torch.float64), weights[:1]])
    slips = [one_scale_for_the_whole_matrix, even_levels, the_level_below, not_scaled_back]
    slips += [blocks_down_the_columns, the_largest_without_its_sign]
    cases = {"eight rows of very different size": (weights, NF4, 8), "a block of zeros": (zeros, NF4, 8)}
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "lora_forward(x, weight, a, b, alpha)",
    "Inputs (n, in), a frozen weight (out, in), and LoRA's A (r, in) and B (out, r). "
    "Return the layer's outputs (n, out), both paths together.",
    difficulty=1,
    minutes=5,
)
def _(function):
    def right(x, weight, a, b, alpha):
        return x @ weight.T + alpha / len(a) * x @ a.T @ b.T

    def no_alpha_over_r(x, weight, a, b, alpha):
        """The second path is scaled by α / r, so that the rank can change and the learning rate stay."""
        return x @ weight.T + x @ a.T @ b.T

    def alpha_without_r(x, weight, a, b, alpha):
        """The factor is α / r, not α; r is the number of A's rows."""
        return x @ weight.T + alpha * x @ a.T @ b.T

    def divided_by_the_width(x, weight, a, b, alpha):
        """r is the rank, the number of A's rows, not the width."""
        return x @ weight.T + alpha / a.shape[1] * x @ a.T @ b.T

    def the_adapter_alone(x, weight, a, b, alpha):
        """The frozen weight's path is missing: LoRA adds to it."""
        return alpha / len(a) * x @ a.T @ b.T

    def scaled_as_a_whole(x, weight, a, b, alpha):
        """Only the second path is scaled."""
        return alpha / len(a) * (x @ weight.T + x @ a.T @ b.T)

    def the_root_of_r(x, weight, a, b, alpha):
        """This is rsLoRA's scale α / √r; LoRA's is α / r."""
        return x @ weight.T + alpha / len(a) ** 0.5 * x @ a.T @ b.T

    shapes = ((5, 12), (7, 12), (4, 12), (7, 4))
    x, weight, a, b = (numbers(*shape, seed=30 + place) for place, shape in enumerate(shapes))
    cases = {
        "B at zero leaves the frozen layer": (x, weight, a, torch.zeros_like(b), 32.0),
        "rank 4, α 32": (x, weight, a, b, 32.0),
        "rank 2, α 3": (x, weight, a[:2], b[:, :2], 3.0),
    }
    slips = [no_alpha_over_r, alpha_without_r, divided_by_the_width, the_adapter_alone, scaled_as_a_whole]
    return compare(function, right, cases=cases, slips=[*slips, the_root_of_r])


@exercise(
    "first_gradients(x, a, alpha, upstream)",
    "Training begins: B is zero. Inputs (n, in), A (r, in), and the gradient (n, out) of the loss by the layer's "
    "outputs. Return the gradients of A (r, in) and of B (out, r), without autograd.",
    difficulty=3,
    minutes=15,
)
def _(function):
    def right(x, a, alpha, upstream):
        return torch.zeros_like(a), alpha / len(a) * upstream.T @ (x @ a.T)

    def both_zero(x, a, alpha, upstream):
        """B is zero, but its gradient is not: it is made of A times the inputs. With A at zero too, it would be."""
        return torch.zeros_like(a), torch.zeros(upstream.shape[1], len(a), dtype=a.dtype)

    def b_first(x, a, alpha, upstream):
        """A's gradient is asked for first."""
        return right(x, a, alpha, upstream)[::-1]

    def no_alpha_over_r(x, a, alpha, upstream):
        """The factor α / r of the forward pass stands in the gradient as well."""
        return torch.zeros_like(a), upstream.T @ (x @ a.T)

    def alpha_without_r(x, a, alpha, upstream):
        """The factor is α / r, not α."""
        return torch.zeros_like(a), alpha * upstream.T @ (x @ a.T)

    def a_mean_over_the_inputs(x, a, alpha, upstream):
        """Each input adds its part: the mean, if there is one, is in `upstream` already."""
        return torch.zeros_like(a), right(x, a, alpha, upstream)[1] / len(x)

    def the_sign_of_a_step(x, a, alpha, upstream):
        """This is the step downhill; the gradient points uphill."""
        return torch.zeros_like(a), -right(x, a, alpha, upstream)[1]

    def a_rests():
        answer = function(x, a, 32.0, upstream)
        if tensor(answer[0]).shape == a.shape and tensor(answer[0]).abs().max() > 1e-9:
            raise Wrong("A's gradient passes through B, and B is zero: A has to wait for B's first step")

    x, a, upstream = numbers(6, 10, seed=40), numbers(4, 10, seed=41), numbers(6, 7, seed=42)
    cases = {"rank 4": (x, a, 32.0, upstream), "rank 1, one input": (x[:1], a[:1], 2.0, upstream[:1])}
    slips = [both_zero, b_first, no_alpha_over_r, alpha_without_r, a_mean_over_the_inputs, the_sign_of_a_step]
    yield "A has no gradient yet", a_rests
    yield from compare(function, right, cases=cases, slips=slips)


# A tree of nine tokens: an instruction of two, two anchors behind it, and behind the first two answers.
TREE = [-1, 0, 1, 2, 3, 3, 1, 6, 5]


def _ancestors(parents):
    """The mask of ancestors and oneself; a parent stands before its children."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for place, parent in enumerate(parents):
        if parent >= 0:
            mask[place] |= mask[parent]
    return mask


@exercise(
    "tree_mask(parents)",
    "The parent of each token of a tree, −1 for the root; a parent stands before its children. "
    "Return the boolean matrix (N, N): may token t attend to token s?",
    difficulty=2,
    minutes=10,
)
def _(function):
    def right(parents):
        return _ancestors(parents)

    def a_triangle(parents):
        """A causal triangle lets an answer read its sibling, which stands before it: only ancestors may be seen."""
        return torch.ones(len(parents), len(parents)).tril()

    def the_parent_alone(parents):
        """A token sees its parent's parent too, up to the root."""
        mask = torch.eye(len(parents))
        for place, parent in enumerate(parents[1:], start=1):
            mask[place, parent] = 1
        return mask

    def a_token_does_not_see_itself(parents):
        """A token attends to itself as well."""
        return _ancestors(parents) & ~torch.eye(len(parents), dtype=torch.bool)

    def rows_and_columns_exchanged(parents):
        """Row t says what token t may look at; here a token looks at its descendants."""
        return _ancestors(parents).T

    def the_whole_branch(parents):
        """A token may not look at what comes after it, of its own branch neither."""
        return _ancestors(parents) | _ancestors(parents).T

    def everything(parents):
        """Every token sees every other here."""
        return torch.ones(len(parents), len(parents))

    cases = {"a chain is causal": ([-1, 0, 1, 2],), "two answers to an anchor, and a second anchor": (TREE,)}
    slips = [a_triangle, the_parent_alone, a_token_does_not_see_itself, rows_and_columns_exchanged]
    return compare(function, right, cases=cases, slips=[*slips, the_whole_branch, everything])


@exercise(
    "tree_positions(parents)",
    "The same tree. Return the position of each token: what it would be in its own sequence alone, counted from 0.",
    difficulty=1,
    minutes=5,
)
def _(function):
    def right(parents):
        return _ancestors(parents).sum(1) - 1

    def the_index(parents):
        """This counts tokens of the batch; a position is the depth, so that siblings stand at the same one."""
        return torch.arange(len(parents))

    def counted_from_one(parents):
        """The root stands at position 0."""
        return right(parents) + 1

    def the_parents_index(parents):
        """This is one more than the parent's index; it is the parent's *position* that counts."""
        return torch.tensor(parents) + 1

    def descendants(parents):
        """This counts who comes after a token; its position is the number of its ancestors."""
        return _ancestors(parents).sum(0) - 1

    def the_distance_to_the_end(parents):
        """Positions are counted from the root, not from the leaves."""
        return right(parents).max() - right(parents)

    cases = {"a chain": ([-1, 0, 1, 2],), "two answers to an anchor, and a second anchor": (TREE,)}
    slips = [the_index, counted_from_one, the_parents_index, descendants, the_distance_to_the_end]
    return compare(function, right, cases=cases, slips=slips)


@exercise(
    "cheat(premise, first, second)",
    "Guess which of two sentences follows from the premise, 0 or 1, by a rule that understands nothing. "
    f"It passes with {CHEAT:.0%} of the packaged rows: hold that against the accuracy of section 6.",
    difficulty=1,
    minutes=10,
)
def _(function):
    rows, answers = corpora.packaged_ranked_nli().rows, []

    def both_orders():
        for row in rows:
            pair = function(row.premise, row.entailment, row.contradiction)
            turned = function(row.premise, row.contradiction, row.entailment)
            if pair not in (0, 1) or turned not in (0, 1):
                raise Wrong(f"return 0 for the first sentence or 1 for the second, not {pair!r}")
            answers.append((1 - pair + turned) / 2)

    def beats_chance():
        if not answers:
            raise Wrong("no answer to count")
        share = sum(answers) / len(answers)
        if share >= CHEAT:
            return
        message = f"right on {share:.1%} of {len(answers)} rows, {CHEAT:.0%} are asked for"
        if share <= 1 - CHEAT:
            message += "; your rule is upside down: turn it round, and it passes"
        elif set(answers) == {0.5}:
            message += "; it looks at the place of a sentence, and each row is asked in both orders"
        raise Wrong(message)

    yield "it answers 0 or 1", both_orders
    yield "it is right more often than a coin", beats_chance
