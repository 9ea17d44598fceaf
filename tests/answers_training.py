"""Answers to the exercises of notebook 02, right and wrong."""

import bitsandbytes.functional as bnb
import numpy as np
import torch
from peft import LoraConfig, get_peft_model

logsigmoid = torch.nn.functional.logsigmoid


def scored_by_a_loop(tokens, prompt_length, end_token):
    scored, running = [], True
    for place, token in enumerate(tokens):
        scored.append(running and place >= prompt_length)
        running = running and not (scored[-1] and token == end_token)
    return scored


def scored_by_sums(tokens, prompt_length, end_token):
    answer = torch.arange(len(tokens)) >= prompt_length
    ends = (torch.tensor(tokens) == end_token) & answer
    return answer & (ends.cumsum(0) - ends.long() == 0)


def log_prob_by_cross_entropy(logits, tokens, scored):
    wanted = torch.where(scored, tokens, -100)[1:]
    return -torch.nn.functional.cross_entropy(logits[:-1], wanted, reduction="sum")


def log_prob_in_numpy(logits, tokens, scored):
    logits, total = np.asarray(logits), 0.0
    for place in range(1, len(tokens)):
        if scored[place]:
            row = logits[place - 1] - logits[place - 1].max()
            total += row[tokens[place]] - np.log(np.exp(row).sum())
    return total


def pair_in_numpy(policy, reference, scored, beta):
    reward = beta * np.where(scored, np.asarray(policy - reference), 0).sum(axis=1)
    return np.logaddexp(0, reward[1] - reward[0])


def pair_by_trl(policy, reference, scored, beta):
    chosen, rejected = torch.where(scored, policy, 0).sum(1) - torch.where(scored, reference, 0).sum(1)
    return torch.nn.functional.softplus(beta * (rejected - chosen))


def shares_by_autograd(margins, beta):
    margins = margins.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-logsigmoid(beta * margins).sum(), margins)
    return gradient / gradient.sum()


def bits_by_bitsandbytes(weights, levels, block):
    # Its smallest block is 64 weights: stretch each block by repeating its numbers.
    blocks = weights.reshape(-1, block).repeat(1, 64 // block).float()
    packed, state = bnb.quantize_4bit(blocks, blocksize=64, quant_type="nf4", compress_statistics=False)
    return bnb.dequantize_4bit(packed, state)[:, :block].reshape(weights.shape)


def bits_by_a_loop(weights, levels, block):
    flat, levels = np.asarray(weights).ravel(), np.asarray(levels)
    restored = np.zeros_like(flat)
    for start in range(0, len(flat), block):
        scale = np.abs(flat[start : start + block]).max() or 1.0
        for place in range(start, start + block):
            restored[place] = scale * min(levels, key=lambda level: abs(level - flat[place] / scale))
    return restored.reshape(weights.shape)


def bits(weights, levels, block, *, scale=lambda blocks: abs(blocks).max(1, keepdims=True), nearest=None):
    blocks = np.asarray(weights).reshape(-1, block)
    scales = scale(blocks)
    scales = np.where(scales == 0, 1e-300, scales)
    distance = np.abs((blocks / scales)[..., None] - np.asarray(levels))
    return (np.asarray(levels)[distance.argmin(-1)] * scales).reshape(weights.shape)


def level_below(weights, levels, block):
    blocks = np.asarray(weights).reshape(-1, block)
    scales = np.abs(blocks).max(1, keepdims=True) + 1e-300
    places = [[max(level for level in levels.tolist() if level <= one) for one in row] for row in blocks / scales]
    return (np.array(places) * scales).reshape(weights.shape)


def levels_alone(weights, levels, block):
    scales = weights.reshape(-1, block).abs().max(1).values.repeat_interleave(block).reshape(weights.shape)
    return torch.as_tensor(bits(weights, levels, block)) / scales.clamp(min=1e-300)


def lora_by_peft(x, weight, a, b, alpha):
    layer = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], len(weight), bias=False, dtype=torch.float64))
    settings = LoraConfig(r=len(a), lora_alpha=alpha, target_modules=["0"])
    adapted = get_peft_model(layer, settings, autocast_adapter_dtype=False).double()
    inner = adapted.base_model.model[0]
    with torch.no_grad():
        inner.base_layer.weight.copy_(weight)
        inner.lora_A["default"].weight.copy_(a)
        inner.lora_B["default"].weight.copy_(b)
        return adapted(x)


def lora_merged(x, weight, a, b, alpha):
    return np.asarray(x) @ np.asarray(weight + alpha / a.shape[0] * b @ a).T


def gradients_by_autograd(x, a, alpha, upstream):
    a = a.clone().requires_grad_()
    b = torch.zeros(upstream.shape[1], len(a), dtype=a.dtype, requires_grad=True)
    outputs = alpha / len(a) * torch.einsum("ni,ri,or->no", x, a, b)
    return torch.autograd.grad((outputs * upstream).sum(), (a, b))


def gradients_as_lists(x, a, alpha, upstream):
    b = np.einsum("no,ni,ri->or", *map(np.asarray, (upstream, x, a))) * alpha / len(a)
    return [np.zeros(a.shape).tolist(), b.tolist()]


def mask_by_climbing(parents):
    mask = np.zeros((len(parents), len(parents)), dtype=bool)
    for place in range(len(parents)):
        above = place
        while above >= 0:
            mask[place, above] = True
            above = parents[above]
    return mask


def mask_by_powers(parents):
    step = torch.eye(len(parents))
    for place, parent in enumerate(parents):
        step[place, max(parent, 0)] = 1
    return torch.linalg.matrix_power(step, len(parents)) > 0


def positions_by_a_list(parents):
    depths = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths


def words(sentence):
    return set(sentence.lower().strip(".").split())


def fewer_shared_words(premise, first, second):
    return int(len(words(premise) & words(second)) < len(words(premise) & words(first)))


def shorter(premise, first, second):
    return len(second) < len(first)


RIGHT = [
    ("scored_tokens", scored_by_a_loop),
    ("scored_tokens", scored_by_sums),
    ("answer_log_prob", log_prob_by_cross_entropy),
    ("answer_log_prob", log_prob_in_numpy),
    ("pair_loss", pair_in_numpy),
    ("pair_loss", pair_by_trl),
    ("gradient_shares", shares_by_autograd),
    ("gradient_shares", lambda m, beta: np.exp(-np.logaddexp(0, beta * m)) / np.exp(-np.logaddexp(0, beta * m)).sum()),
    ("four_bits", bits_by_a_loop),
    ("four_bits", bits),
    ("four_bits", bits_by_bitsandbytes),
    ("lora_forward", lora_by_peft),
    ("lora_forward", lora_merged),
    ("first_gradients", gradients_by_autograd),
    ("first_gradients", gradients_as_lists),
    ("tree_mask", mask_by_climbing),
    ("tree_mask", mask_by_powers),
    ("tree_positions", positions_by_a_list),
    ("tree_positions", lambda parents: mask_by_climbing(parents).sum(axis=1) - 1),
    ("cheat", fewer_shared_words),
    ("cheat", shorter),
]


def shifted_sum(logits, tokens, scored, choose):
    rows = torch.log_softmax(logits, 1)
    return sum(rows[place - 1, tokens[place]] for place in range(1, len(tokens)) if choose[place])


def pair(policy, reference, scored, beta, margin=lambda chosen, rejected: chosen - rejected):
    return -logsigmoid(beta * margin(*((policy - reference) * scored).sum(1)))


def sigmoid_share(margins, beta):
    return margins.mul(beta).sigmoid() / margins.mul(beta).sigmoid().sum()


WRONG = [
    ("scored_tokens", lambda t, n, end: [place <= t.index(end, n) for place in range(len(t))], "The prompt is scored"),
    (
        "scored_tokens",
        lambda t, n, end: torch.tensor(t[:n] + t[n:]).ne(end) & (torch.arange(len(t)) >= n),
        "learn to stop",
    ),
    ("scored_tokens", lambda t, n, end: [False] * n + [True] * (len(t) - n), "Padding has the end token's id"),
    ("scored_tokens", lambda t, n, end: scored_by_a_loop(t, n, end)[1:] + [False], "One token early"),
    ("scored_tokens", lambda t, n, end: [n <= i <= t.index(end) for i in range(len(t))], "behind the prompt"),
    ("scored_tokens", lambda t, n, end: scored_by_a_loop(t, n, end)[n:], "the shape should be"),
    ("answer_log_prob", lambda g, t, s: sum(g.log_softmax(1)[i, t[i]] for i in range(7) if s[i]), "No shift"),
    ("answer_log_prob", lambda g, t, s: log_prob_by_cross_entropy(g, t, s) / s.sum(), "is a sum"),
    ("answer_log_prob", lambda g, t, s: shifted_sum(g, t, s, [True] * 7), "Every token is scored"),
    ("answer_log_prob", lambda g, t, s: shifted_sum(g, t, s, [False, *s[:-1]]), "The mask is not shifted"),
    ("answer_log_prob", lambda g, t, s: sum(g[i - 1, t[i]] for i in range(1, 7) if s[i]), "before log_softmax"),
    ("answer_log_prob", lambda g, t, s: log_prob_by_cross_entropy(g, t, s).exp(), "stay with logarithms"),
    ("answer_log_prob", lambda g, t, s: shifted_sum(g.exp().log(), t, s, s), "nan or inf"),
    ("pair_loss", lambda p, r, s, beta: pair(p, 0, s, beta), "No reference"),
    (
        "pair_loss",
        lambda p, r, s, beta: pair_in_numpy(p / s.sum(1)[:, None], r / s.sum(1)[:, None], s, beta),
        "mean is",
    ),
    ("pair_loss", lambda p, r, s, beta: pair(p, r, 1, beta), "The padding counts"),
    ("pair_loss", lambda p, r, s, beta: pair(p, r, s, 1), "No beta"),
    ("pair_loss", lambda p, r, s, beta: pair(p, r, s, 1) * beta, "a learning rate"),
    ("pair_loss", lambda p, r, s, beta: pair(p.flip(0), r.flip(0), s.flip(0), beta), "exchanged"),
    (
        "pair_loss",
        lambda p, r, s, beta: -logsigmoid(beta * ((p - r) * s).T @ torch.tensor([1.0, -1]).double()).mean(),
        "sum first",
    ),
    ("gradient_shares", sigmoid_share, "The sign is turned"),
    ("gradient_shares", lambda m, beta: shares_by_autograd(m, 1), "No beta"),
    ("gradient_shares", lambda m, beta: beta * (1 - (beta * m).sigmoid()), "over the sum of all"),
    ("gradient_shares", lambda m, beta: logsigmoid(beta * m) / logsigmoid(beta * m).sum(), "its derivative"),
    ("gradient_shares", lambda m, beta: (-beta * m).softmax(0), "levels off"),
    ("gradient_shares", lambda m, beta: [1 / len(m)] * len(m), "All alike"),
    ("four_bits", lambda w, levels, n: bits(w, levels, w.numel()), "One scale for the whole matrix"),
    ("four_bits", lambda w, levels, n: bits(w, torch.linspace(-1, 1, 16).double(), n), "Even levels"),
    ("four_bits", level_below, "The level below"),
    ("four_bits", levels_alone, "Not scaled back"),
    ("four_bits", lambda w, levels, n: bits(w.T, levels, n).T, "a piece of a row"),
    ("four_bits", lambda w, levels, n: bits(w, levels, n, scale=lambda b: b.max(1, keepdims=True)), "may be negative"),
    ("lora_forward", lambda x, w, a, b, alpha: x @ (w + b @ a).T, "No alpha over r"),
    ("lora_forward", lambda x, w, a, b, alpha: lora_merged(x, w, a, b * len(a), alpha), "Alpha without r"),
    ("lora_forward", lambda x, w, a, b, alpha: x @ (w + alpha / a.shape[1] * b @ a).T, "Divided by the width"),
    ("lora_forward", lambda x, w, a, b, alpha: lora_merged(x, 0 * w, a, b, alpha), "The adapter alone"),
    ("lora_forward", lambda x, w, a, b, alpha: alpha / len(a) * x @ (w + b @ a).T, "Only the second path"),
    ("lora_forward", lambda x, w, a, b, alpha: lora_merged(x, w, a, b * len(a) ** 0.5, alpha), "rsLoRA"),
    ("first_gradients", lambda x, a, alpha, u: (a * 0, torch.zeros(u.shape[1], len(a))), "but its gradient is not"),
    ("first_gradients", lambda x, a, alpha, u: gradients_by_autograd(x, a, alpha, u)[::-1], "is asked for first"),
    ("first_gradients", lambda x, a, alpha, u: gradients_by_autograd(x, a, len(a), u), "No alpha over r"),
    ("first_gradients", lambda x, a, alpha, u: gradients_by_autograd(x, a, alpha * len(a), u), "α / r, not α"),
    ("first_gradients", lambda x, a, alpha, u: gradients_by_autograd(x, a, alpha, u / len(x)), "Each input adds"),
    ("first_gradients", lambda x, a, alpha, u: gradients_by_autograd(x, a, alpha, -u), "uphill"),
    ("first_gradients", lambda x, a, alpha, u: (a, gradients_by_autograd(x, a, alpha, u)[1]), "has to wait"),
    ("first_gradients", lambda x, a, alpha, u: gradients_by_autograd(x, a, alpha, u)[1], "values are asked for"),
    ("tree_mask", lambda parents: np.tril(np.ones((len(parents),) * 2)), "its sibling"),
    (
        "tree_mask",
        lambda parents: [[s in (t, parents[t]) for s in range(len(parents))] for t in range(len(parents))],
        "up to the root",
    ),
    ("tree_mask", lambda parents: mask_by_climbing(parents) & ~np.eye(len(parents), dtype=bool), "attends to itself"),
    ("tree_mask", lambda parents: mask_by_climbing(parents).T, "looks at its descendants"),
    ("tree_mask", lambda parents: mask_by_climbing(parents) | mask_by_climbing(parents).T, "The whole branch"),
    ("tree_mask", lambda parents: np.ones((len(parents),) * 2), "Every token sees every other"),
    ("tree_positions", lambda parents: list(range(len(parents))), "The index"),
    ("tree_positions", lambda parents: mask_by_climbing(parents).sum(axis=1), "stands at position 0"),
    ("tree_positions", lambda parents: [parent + 1 for parent in parents], "parent's *position*"),
    ("tree_positions", lambda parents: mask_by_climbing(parents).sum(axis=0) - 1, "number of its ancestors"),
    (
        "tree_positions",
        lambda parents: max(positions_by_a_list(parents)) - np.array(positions_by_a_list(parents)),
        "from the leaves",
    ),
    ("cheat", lambda premise, first, second: 0, "it looks at the place"),
    ("cheat", lambda premise, first, second: 1 - shorter(premise, first, second), "upside down"),
    ("cheat", lambda premise, first, second: first < second, "are asked for"),
    ("cheat", lambda premise, first, second: 2, "not 2"),
    ("cheat", lambda premise, first, second: first, "for the second, not '"),
]
