"""The Plackett–Luce family against implementations that share no line with it."""

import ast
import collections
import itertools
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sempa_utils.theory import plackett_luce as pl

DTYPES = [torch.float32, torch.float64]


def double(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def all_rankings(items, places=None):
    return torch.tensor(list(itertools.permutations(range(items), places)))


FOUR = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")


def dpo(four, beta=0.1, **settings):
    """Return `dpo_loss` of its four vectors in their order."""
    return pl.dpo_loss(**dict(zip(FOUR, four, strict=True)), beta=beta, **settings)


def one_word(probs, policy, reference):
    return pl.one_word_scores(probs, policy, reference_log_probs=reference)


def numpy_ranking_log_prob(scores, ranking):
    """The product of the paper, one factor after the other, in scipy's float64."""
    left = list(range(len(scores)))
    total = 0.0
    for item in ranking:
        total += scores[item] - scipy.special.logsumexp([scores[other] for other in left])
        left.remove(item)
    return total


# --- ranking_log_prob, top_k_log_prob ----------------------------------------------------------


@pytest.mark.parametrize("items", [1, 2, 3, 4, 5, 6])
def test_probabilities_of_all_rankings_sum_to_one(items):
    scores = double(items, seed=items, scale=2.0)
    log_probs = pl.ranking_log_prob(scores, all_rankings(items))
    assert log_probs.shape == (math.factorial(items),)
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("items", [2, 4, 6])
def test_every_ranking_equals_the_product_in_scipy(items):
    scores = double(items, seed=10 + items, scale=3.0)
    rankings = all_rankings(items)
    expected = [numpy_ranking_log_prob(scores.tolist(), ranking) for ranking in rankings.tolist()]
    np.testing.assert_allclose(pl.ranking_log_prob(scores, rankings).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("places", [1, 2, 3, 4, 5])
def test_top_k_is_the_sum_over_the_rankings_that_begin_so(places):
    scores = double(5, seed=3)
    whole = all_rankings(5)
    whole_probs = pl.ranking_log_prob(scores, whole).exp()
    beginnings = all_rankings(5, places)
    partial = pl.top_k_log_prob(scores, beginnings).exp()
    for beginning, prob in zip(beginnings, partial, strict=True):
        begins_so = (whole[:, :places] == beginning).all(-1)
        assert prob.item() == pytest.approx(whole_probs[begins_so].sum().item(), abs=1e-12)
    assert partial.sum().item() == pytest.approx(1, abs=1e-12)


def test_top_one_is_best_of_and_top_n_is_the_whole_ranking():
    scores = double(7, 5, seed=4)
    ranking = pl.sample_ranking(scores, seed=0)
    torch.testing.assert_close(
        pl.top_k_log_prob(scores, ranking[..., :1]), pl.best_of_log_prob(scores, ranking[..., 0])
    )
    torch.testing.assert_close(pl.top_k_log_prob(scores, ranking), pl.ranking_log_prob(scores, ranking))


def test_leading_dimensions_broadcast():
    scores, ranking = double(4, 1, 3, seed=5), all_rankings(3)
    out = pl.ranking_log_prob(scores, ranking)
    assert out.shape == (4, 6)
    for row, column in itertools.product(range(4), range(6)):
        single = pl.ranking_log_prob(scores[row, 0], ranking[column])
        assert out[row, column].item() == pytest.approx(single.item(), abs=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [-1e4, 0.0, 1e4])
def test_stable_where_all_scores_are_large(dtype, offset):
    scores = torch.tensor([0.5, -1.25, 2.0, 0.0], dtype=dtype) + offset  # exact in float32, even at 1e4
    ranking = torch.tensor([2, 0, 3, 1])
    expected = numpy_ranking_log_prob(scores.double().tolist(), ranking.tolist())
    out = pl.ranking_log_prob(scores, ranking)
    assert out.dtype == dtype
    assert out.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stable_where_scores_are_far_apart(dtype):
    scores = torch.tensor([1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    likely = pl.ranking_log_prob(scores, torch.tensor([0, 2, 1]))
    unlikely = pl.ranking_log_prob(scores, torch.tensor([1, 2, 0]))
    assert likely.item() == 0.0
    assert unlikely.item() == pytest.approx(-3e4, rel=1e-6)  # −2e4 for the first place, −1e4 for the second
    (gradient,) = torch.autograd.grad(unlikely, scores)
    np.testing.assert_allclose(gradient.numpy(), [-2.0, 1.0, 1.0], atol=1e-6)


# --- best_of_log_prob --------------------------------------------------------------------------


def test_best_of_is_scipy_log_softmax():
    scores = double(6, 9, seed=6, scale=5.0)
    best = torch.tensor([0, 8, 3, 3, 1, 7])
    expected = scipy.special.log_softmax(scores.numpy(), axis=-1)[np.arange(6), best.numpy()]
    np.testing.assert_allclose(pl.best_of_log_prob(scores, best).numpy(), expected, atol=1e-13)


def test_best_of_is_the_sum_over_rankings_it_heads():
    scores, rankings = double(5, seed=7), all_rankings(5)
    probs = pl.ranking_log_prob(scores, rankings).exp()
    for item in range(5):
        headed = probs[rankings[:, 0] == item].sum().item()
        assert pl.best_of_log_prob(scores, item).exp().item() == pytest.approx(headed, abs=1e-12)


def test_an_index_as_integer_serves_the_whole_batch():
    scores = double(3, 4, seed=8)
    torch.testing.assert_close(pl.best_of_log_prob(scores, 2), scores.log_softmax(-1)[:, 2])
    assert pl.best_of_log_prob(scores).shape == (3,)


# --- info_nce_loss -----------------------------------------------------------------------------


def numpy_info_nce(anchor, positive, negatives, temperature):
    losses = []
    for row in range(len(anchor)):
        candidates = [positive[row], *negatives[row]]
        scores = [
            anchor[row] @ other / np.linalg.norm(anchor[row]) / np.linalg.norm(other) / temperature
            for other in candidates
        ]
        losses.append(scipy.special.logsumexp(scores) - scores[0])
    return np.array(losses)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_info_nce_with_explicit_negatives_equals_numpy(temperature):
    anchor, positive, negatives = double(4, 6, seed=1), double(4, 6, seed=2), double(4, 3, 6, seed=3)
    loss = pl.info_nce_loss(anchor, positive, negatives=negatives, temperature=temperature, reduction="none")
    expected = numpy_info_nce(anchor.numpy(), positive.numpy(), negatives.numpy(), temperature)
    np.testing.assert_allclose(loss.numpy(), expected, atol=1e-12)


def test_info_nce_in_batch_equals_cross_entropy_on_the_similarity_matrix():
    anchor, positive = double(5, 8, seed=4), double(5, 8, seed=5)
    cosine = torch.nn.functional.cosine_similarity(anchor[:, None], positive[None], dim=-1)
    expected = torch.nn.functional.cross_entropy(cosine / 0.05, torch.arange(5))
    torch.testing.assert_close(
        pl.info_nce_loss(anchor, positive, negatives=None, temperature=0.05, in_batch=True), expected
    )


def test_info_nce_in_batch_with_hard_negatives_equals_cross_entropy_and_its_gradient():
    leaves = [double(5, 8, seed=seed).requires_grad_() for seed in (6, 7, 8)]
    anchor, positive, negative = leaves
    candidates = torch.cat([positive, negative])
    cosine = torch.nn.functional.cosine_similarity(anchor[:, None], candidates[None], dim=-1)
    expected = torch.nn.functional.cross_entropy(cosine / 0.1, torch.arange(5))
    loss = pl.info_nce_loss(anchor, positive, negatives=negative, temperature=0.1, in_batch=True)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_cosine_does_not_depend_on_the_length_of_a_vector(size):
    anchor, positive, negatives = (double(*shape, seed=9).float() for shape in [(2, 4), (2, 4), (2, 1, 4)])
    plain = pl.info_nce_loss(anchor, positive.flip(0), negatives=negatives, temperature=0.5)
    torch.testing.assert_close(
        pl.info_nce_loss(anchor * size, positive.flip(0), negatives=negatives * size, temperature=0.5), plain
    )


# --- DPO ---------------------------------------------------------------------------------------


def trl_dpo(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    """TRL's own `DPOTrainer._compute_loss`, given a model that answers with these log-probabilities."""
    from trl import DPOTrainer

    pairs = len(policy_chosen)
    one_token_each = torch.cat([policy_chosen, policy_rejected]).unsqueeze(1)  # (2 × pairs, 1)
    zeros = torch.zeros_like(one_token_each).detach()
    outputs = SimpleNamespace(log_probs=one_token_each, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        _total_train_tokens=0,
        _metrics={"eval": collections.defaultdict(list)},
    )
    inputs = {
        "input_ids": torch.zeros(2 * pairs, 2, dtype=torch.long),
        "attention_mask": torch.ones(2 * pairs, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]]).expand(2 * pairs, 2),
        "ref_chosen_logps": reference_chosen,
        "ref_rejected_logps": reference_rejected,
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)
    return loss, trainer._metrics["eval"]


@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
def test_dpo_equals_trl_in_loss_gradient_rewards_and_margin(beta):
    values = [double(16, seed=seed, scale=20.0).requires_grad_(seed < 2) for seed in range(4)]
    theirs, metrics = trl_dpo(*values, beta)
    ours = dpo(values, beta=beta)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for own, other in zip(torch.autograd.grad(ours, values[:2]), torch.autograd.grad(theirs, values[:2]), strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=0)
    rewards = pl.implicit_reward(values[0], values[2], beta=beta)
    assert rewards.mean().item() == pytest.approx(metrics["rewards/chosen"][0], abs=1e-6)
    margin = pl.reward_margin(**dict(zip(FOUR, values)), beta=beta)
    assert margin.mean().item() == pytest.approx(metrics["rewards/margins"][0], abs=1e-6)


def test_dpo_equals_a_whole_trl_trainer_on_a_tiny_model(tmp_path):
    """From token ids to the loss: the log-probabilities are summed here, TRL computes its own."""
    trainer, batch = tiny_trl_trainer(tmp_path)
    model, reference = trainer.model, trainer.ref_model
    with torch.no_grad():
        for parameter in model.parameters():  # a policy that has left its reference
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))

    def answer_log_probs(network):
        logits = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        log_probs = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return (log_probs * batch["completion_mask"][:, 1:]).sum(-1).chunk(2)

    model.eval(), reference.eval()
    chosen, rejected = answer_log_probs(model)
    with torch.no_grad():
        reference_chosen, reference_rejected = answer_log_probs(reference)
    ours = dpo([chosen, rejected, reference_chosen, reference_rejected], beta=trainer.beta)
    theirs = trainer.compute_loss(model, batch)
    assert abs(ours.item() - math.log(2)) > 1e-3, "the policy must differ from its reference for this test to tell"
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for own, other in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights), strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-4)


def tiny_trl_trainer(folder):
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = "<pad> <end> keep the meaning a dog runs sleeps outside indoors".split()
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    rows = [
        {"prompt": "keep the meaning", "chosen": " a dog runs outside", "rejected": " a dog sleeps"},
        {"prompt": "keep", "chosen": " a dog sleeps indoors", "rejected": " the dog runs"},
    ]
    arguments = trl.DPOConfig(
        output_dir=str(folder),
        beta=0.5,
        report_to=[],
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=2,
    )
    trainer = trl.DPOTrainer(
        model=LlamaForCausalLM(config),
        ref_model=LlamaForCausalLM(config),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.ref_model.load_state_dict(trainer.model.state_dict())
    return trainer, next(iter(trainer.get_train_dataloader()))


def test_dpo_is_the_two_way_softmax_of_implicit_rewards():
    values = [double(8, seed=seed, scale=5.0) for seed in range(4)]
    rewards = torch.stack(
        [pl.implicit_reward(values[0], values[2], beta=0.3), pl.implicit_reward(values[1], values[3], beta=0.3)], dim=-1
    )
    torch.testing.assert_close(dpo(values, beta=0.3, reduction="none"), -pl.best_of_log_prob(rewards))


def test_dpo_starts_at_ln_two():
    chosen, rejected = double(3, seed=1, scale=100), double(3, seed=2, scale=100)
    assert dpo([chosen, rejected, chosen, rejected]).item() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_dpo_is_stable_for_large_margins(dtype, margin):
    zero = torch.zeros((), dtype=dtype)
    chosen = torch.tensor(margin, dtype=dtype, requires_grad=True)
    loss = dpo([chosen, zero, zero, zero], beta=1.0)
    (gradient,) = torch.autograd.grad(loss, chosen)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(max(-margin, 0.0))
    assert gradient.item() == pytest.approx(-1.0 if margin < 0 else 0.0)


def test_listwise_with_two_answers_is_dpo_and_so_is_its_gradient():
    values = [double(6, seed=seed, scale=10.0).requires_grad_(seed < 2) for seed in range(4)]
    pairwise = dpo(values, beta=0.2)
    listwise = pl.listwise_dpo_loss(torch.stack(values[:2], -1), torch.stack(values[2:], -1), beta=0.2)
    assert listwise.item() == pytest.approx(pairwise.item(), abs=1e-12)
    pairs = zip(torch.autograd.grad(pairwise, values[:2]), torch.autograd.grad(listwise, values[:2]), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("top_k", [None, 1, 2, 4])
def test_listwise_equals_the_product_in_scipy(top_k):
    policy, reference = double(3, 4, seed=1, scale=8.0), double(3, 4, seed=2, scale=8.0)
    scores = 0.4 * (policy - reference).numpy()
    expected = [-numpy_ranking_log_prob(row, range(top_k or 4)) for row in scores]
    loss = pl.listwise_dpo_loss(policy, reference, beta=0.4, top_k=top_k, reduction="none")
    np.testing.assert_allclose(loss.numpy(), expected, atol=1e-12)


def test_reductions():
    values = [double(5, seed=seed) for seed in range(4)]
    each = dpo(values, beta=0.1, reduction="none")
    assert each.shape == (5,)
    torch.testing.assert_close(dpo(values, beta=0.1, reduction="sum"), each.sum())
    torch.testing.assert_close(dpo(values, beta=0.1), each.mean())


# --- one_word_scores ---------------------------------------------------------------------------


def test_one_word_scores_equal_a_literal_double_loop():
    beta, (anchors, candidates, words) = 1.7, (3, 4, 11)
    probs = double(candidates, words, seed=1).softmax(-1)
    policy = double(anchors, words, seed=2).log_softmax(-1)
    reference = double(anchors, words, seed=3).log_softmax(-1)
    scores = pl.one_word_scores(probs, policy, reference_log_probs=reference, beta=beta)
    assert scores.shape == (anchors, candidates)
    for anchor, candidate in itertools.product(range(anchors), range(candidates)):
        expected = 0.0
        for word in range(words):
            log_ratio = policy[anchor, word].item() - reference[anchor, word].item()
            expected += probs[candidate, word].item() * log_ratio
        assert scores[anchor, candidate].item() == pytest.approx(beta * expected, abs=1e-12)


def test_one_word_scores_with_candidates_of_each_anchor():
    probs = double(3, 4, 11, seed=1).softmax(-1)
    policy, reference = double(3, 11, seed=2).log_softmax(-1), double(3, 11, seed=3).log_softmax(-1)
    scores = pl.one_word_scores(probs, policy, reference_log_probs=reference, beta=2.0)
    for anchor in range(3):
        single = pl.one_word_scores(probs[anchor], policy[anchor], reference_log_probs=reference[anchor], beta=2.0)
        torch.testing.assert_close(scores[anchor], single)


def test_one_word_score_of_a_certain_word_is_its_implicit_reward():
    policy, reference = double(7, seed=2).log_softmax(-1), double(7, seed=3).log_softmax(-1)
    certain = torch.eye(7, dtype=torch.float64)
    torch.testing.assert_close(
        pl.one_word_scores(certain, policy, reference_log_probs=reference, beta=0.5),
        pl.implicit_reward(policy, reference, beta=0.5),
    )


def test_one_word_score_is_a_difference_of_divergences():
    """β (KL(q ‖ reference) − KL(q ‖ policy)), by scipy's relative entropy."""
    probs = double(4, 9, seed=1).softmax(-1)
    policy, reference = double(9, seed=2).log_softmax(-1), double(9, seed=3).log_softmax(-1)
    scores = pl.one_word_scores(probs, policy, reference_log_probs=reference, beta=3.0)
    for score, row in zip(scores, probs.numpy(), strict=True):
        to_reference = scipy.stats.entropy(row, reference.exp().numpy())
        to_policy = scipy.stats.entropy(row, policy.exp().numpy())
        assert score.item() == pytest.approx(3.0 * (to_reference - to_policy), abs=1e-12)


# --- gradients ---------------------------------------------------------------------------------


def leaf(*shape, seed):
    return double(*shape, seed=seed).requires_grad_()


@pytest.mark.parametrize(
    "function, inputs",
    [
        (lambda s: pl.ranking_log_prob(s, torch.tensor([2, 0, 1])), [leaf(2, 3, seed=1)]),
        (lambda s: pl.top_k_log_prob(s, torch.tensor([2, 0])), [leaf(2, 4, seed=1)]),
        (lambda s: pl.best_of_log_prob(s, 1), [leaf(2, 3, seed=2)]),
        (
            lambda a, p, n: pl.info_nce_loss(a, p, negatives=n, temperature=0.7),
            [leaf(2, 3, seed=3), leaf(2, 3, seed=4), leaf(2, 2, 3, seed=5)],
        ),
        (
            lambda a, p: pl.info_nce_loss(a, p, negatives=None, temperature=0.7, in_batch=True),
            [leaf(3, 3, seed=3), leaf(3, 3, seed=4)],
        ),
        (lambda *four: dpo(four, beta=0.5), [leaf(3, seed=seed) for seed in range(4)]),
        (lambda p, r: pl.listwise_dpo_loss(p, r, beta=0.5), [leaf(2, 4, seed=6), leaf(2, 4, seed=7)]),
        (
            lambda p, r: pl.one_word_scores(double(3, 5, seed=8).softmax(-1), p, reference_log_probs=r, beta=0.5),
            [leaf(2, 5, seed=9), leaf(2, 5, seed=10)],
        ),
    ],
    ids=["ranking", "top_k", "best_of", "info_nce", "info_nce_in_batch", "dpo", "listwise", "one_word"],
)
def test_gradients_and_second_derivatives(function, inputs):
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


# --- properties --------------------------------------------------------------------------------

SCORES = hnp.arrays(np.float64, st.integers(2, 6), elements=st.floats(-30, 30))


@settings(max_examples=60, deadline=None)
@given(SCORES, st.floats(-100, 100), st.randoms(use_true_random=False))
def test_a_shift_of_all_scores_changes_nothing(scores, shift, random):
    scores, order = torch.from_numpy(scores), list(range(len(scores)))
    random.shuffle(order)
    ranking = torch.tensor(order)
    shifted = pl.ranking_log_prob(scores + shift, ranking)
    assert shifted.item() == pytest.approx(pl.ranking_log_prob(scores, ranking).item(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(SCORES, st.randoms(use_true_random=False))
def test_renaming_the_candidates_renames_the_ranking(scores, random):
    scores, names, order = torch.from_numpy(scores), list(range(len(scores))), list(range(len(scores)))
    random.shuffle(names), random.shuffle(order)
    names, ranking = torch.tensor(names), torch.tensor(order)
    renamed = torch.empty_like(scores).scatter(0, names, scores)  # item i is now called names[i]
    assert pl.ranking_log_prob(renamed, names[ranking]).item() == pytest.approx(
        pl.ranking_log_prob(scores, ranking).item(), abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(SCORES, st.lists(st.floats(-30, 30), max_size=4))
def test_luce_the_odds_of_two_items_do_not_depend_on_the_others(scores, others):
    scores = torch.from_numpy(scores)
    more = torch.cat([scores, torch.tensor(others, dtype=torch.float64)])
    odds = [(pl.best_of_log_prob(s, 0) - pl.best_of_log_prob(s, 1)).item() for s in (scores[:2], scores, more)]
    assert odds == pytest.approx([(scores[0] - scores[1]).item()] * 3, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(SCORES, st.floats(0.01, 10))
def test_a_higher_score_of_the_winner_makes_him_likelier(scores, rise):
    scores = torch.from_numpy(scores)
    raised = scores.clone()
    raised[0] += rise
    assert pl.best_of_log_prob(raised) > pl.best_of_log_prob(scores) or pl.best_of_log_prob(scores) > -1e-12
    ranking = torch.arange(len(scores))
    assert pl.ranking_log_prob(raised, ranking) >= pl.ranking_log_prob(scores, ranking)
    assert pl.best_of_log_prob(raised, 1) <= pl.best_of_log_prob(scores, 1)


@settings(max_examples=40, deadline=None)
@given(SCORES)
def test_forgetting_the_ranking_of_the_rest_leaves_the_first_places(scores):
    scores = torch.from_numpy(scores)
    rankings = all_rankings(len(scores))
    heads, which = rankings[:, :2].unique(dim=0, return_inverse=True)
    summed = torch.zeros(len(heads), dtype=torch.float64)
    summed.index_add_(0, which, pl.ranking_log_prob(scores, rankings).exp())
    torch.testing.assert_close(summed, pl.top_k_log_prob(scores, heads).exp(), atol=1e-12, rtol=0)


# --- sample_ranking ----------------------------------------------------------------------------


def test_samples_follow_the_exact_probabilities_by_chi_squared():
    scores = torch.tensor([1.0, 0.2, -0.5, 0.4])
    samples = pl.sample_ranking(scores, seed=0, num_samples=20_000)
    rankings = all_rankings(4)
    observed = (samples[:, None] == rankings[None]).all(-1).sum(0).numpy()
    expected = 20_000 * pl.ranking_log_prob(scores.double(), rankings).exp().numpy()
    assert observed.sum() == 20_000
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3
    uniform = np.full(24, 20_000 / 24)
    assert scipy.stats.chisquare(observed, uniform).pvalue < 1e-9, "the same test must be able to fail"


def test_samples_repeat_with_the_seed_and_differ_with_another():
    scores = double(3, 5, seed=0)
    first = pl.sample_ranking(scores, seed=1, num_samples=10)
    assert first.shape == (10, 3, 5)
    assert first.equal(pl.sample_ranking(scores, seed=1, num_samples=10))
    assert not first.equal(pl.sample_ranking(scores, seed=2, num_samples=10))
    assert pl.sample_ranking(scores, seed=1).shape == (3, 5)
    assert first.sort(-1).values.eq(torch.arange(5)).all()


def test_samples_of_distant_scores_are_certain():
    scores = torch.tensor([-1e4, 1e4, 0.0])
    assert pl.sample_ranking(scores, seed=0, num_samples=100).eq(torch.tensor([1, 2, 0])).all()


def test_sampling_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    pl.sample_ranking(double(4), seed=3)
    assert torch.get_rng_state().equal(before)


# --- fit_log_worths ----------------------------------------------------------------------------


def scipy_fit(rankings, items):
    def loss(free):
        scores = [0.0, *free]
        return -sum(numpy_ranking_log_prob(scores, ranking) for ranking in rankings)

    found = scipy.optimize.minimize(loss, np.zeros(items - 1), method="BFGS", options={"gtol": 1e-7}).x
    scores = np.array([0.0, *found])
    return scores - scores.mean()


@pytest.mark.parametrize("places", [4, 3, 2, 1])
def test_fit_equals_scipy_maximum_likelihood(places):
    rankings = pl.sample_ranking(double(4, seed=5), seed=2, num_samples=60)[:, :places]
    expected = scipy_fit(rankings.tolist(), 4)
    np.testing.assert_allclose(pl.fit_log_worths(rankings, 4).numpy(), expected, atol=1e-5)


def test_fit_is_a_stationary_point_of_our_likelihood():
    rankings = pl.sample_ranking(double(6, seed=6), seed=3, num_samples=200)
    scores = pl.fit_log_worths(rankings).requires_grad_()
    (gradient,) = torch.autograd.grad(pl.ranking_log_prob(scores, rankings).mean(), scores)
    assert gradient.abs().max() < 1e-9
    assert scores.mean().item() == pytest.approx(0, abs=1e-12)


def test_fit_recovers_the_scores_that_made_the_rankings():
    scores = torch.tensor([1.5, 0.5, 0.0, -0.5, -1.5], dtype=torch.float64)
    fitted = pl.fit_log_worths(pl.sample_ranking(scores, seed=4, num_samples=20_000))
    assert (fitted - scores).abs().max() < 0.05


def test_fit_of_top_one_is_the_logarithm_of_the_frequencies():
    winners = torch.tensor([[0]] * 6 + [[1]] * 3 + [[2]] * 1)
    expected = torch.tensor([6.0, 3.0, 1.0], dtype=torch.float64).log()
    torch.testing.assert_close(pl.fit_log_worths(winners, 3), expected - expected.mean(), atol=1e-9, rtol=0)


def test_fit_refuses_rankings_without_a_maximum():
    always_first = torch.tensor([[0, 1, 2], [0, 2, 1]])
    with pytest.raises(ValueError, match="never loses"):
        pl.fit_log_worths(always_first)
    chain = torch.tensor([[0, 1, 2, 3, 4]])
    with pytest.raises(ValueError, match="never loses"):
        pl.fit_log_worths(chain)


def test_fit_says_when_it_has_not_converged():
    rankings = pl.sample_ranking(double(6, seed=6), seed=3, num_samples=200)
    with pytest.raises(RuntimeError, match="max_iterations"):
        pl.fit_log_worths(rankings, max_iterations=1)


# --- what is wrong is said ---------------------------------------------------------------------

THREE, TWO_BY_THREE = torch.zeros(3), torch.zeros(2, 3)
ONES = torch.ones(2, 3)
ORDER = torch.tensor([0, 1, 2])
NOT_A_NUMBER, INFINITE = torch.tensor([0.0, math.nan, 0.0]), torch.tensor([0.0, 0.0, math.inf])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pl.ranking_log_prob(torch.zeros(0), torch.zeros(0).long()), "empty candidate set"),
        (lambda: pl.ranking_log_prob(torch.zeros(0, 3), ORDER), "empty batch"),
        (lambda: pl.ranking_log_prob(torch.tensor(1.0), ORDER), "empty candidate set"),
        (lambda: pl.ranking_log_prob(NOT_A_NUMBER, ORDER), r"finite, but holds nan at \(1,\)"),
        (lambda: pl.ranking_log_prob(INFINITE, ORDER), r"finite, but holds inf at \(2,\)"),
        (lambda: pl.ranking_log_prob(torch.tensor([1, 2, 3]), ORDER), "floating point"),
        (lambda: pl.ranking_log_prob(THREE, torch.tensor([0, 1])), "no permutation"),
        (lambda: pl.ranking_log_prob(THREE, torch.tensor([0, 1, 1])), "no permutation"),
        (lambda: pl.ranking_log_prob(THREE, torch.tensor([0, 1, 3])), "must lie in 0 … 2"),
        (lambda: pl.ranking_log_prob(THREE, torch.tensor([-1, 0, 1])), "must lie in 0 … 2"),
        (lambda: pl.ranking_log_prob(THREE, torch.tensor([0.0, 1.0, 2.0])), "integers"),
        (lambda: pl.ranking_log_prob(torch.zeros(4, 3), ORDER.expand(5, 3)), "leading dimensions"),
        (lambda: pl.top_k_log_prob(THREE, torch.zeros(0).long()), "1 … 3 places"),
        (lambda: pl.top_k_log_prob(THREE, torch.tensor([0, 1, 2, 3])), "1 … 3 places"),
        (lambda: pl.top_k_log_prob(THREE, torch.tensor([1, 1])), "no permutation"),
        (lambda: pl.best_of_log_prob(torch.zeros(2, 0)), "empty candidate set"),
        (lambda: pl.best_of_log_prob(THREE, 3), "must lie in 0 … 2"),
        (lambda: pl.best_of_log_prob(TWO_BY_THREE, torch.tensor([0, 1, 2])), "leading dimensions"),
        (lambda: pl.info_nce_loss(THREE, THREE, negatives=None, temperature=0.1), r"shape \(B, D\)"),
        (lambda: pl.info_nce_loss(TWO_BY_THREE, torch.zeros(3, 3), negatives=None, temperature=0.1), r"shape \(B, D\)"),
        (lambda: pl.info_nce_loss(ONES, ONES, negatives=torch.ones(2, 1, 4), temperature=0.1), r"\(2, M, 3\)"),
        (lambda: pl.info_nce_loss(ONES, ONES, negatives=None, temperature=0.1), "set of negatives is empty"),
        (lambda: pl.info_nce_loss(torch.ones(1, 3), torch.ones(1, 3), in_batch=True), "set of negatives is empty"),
        (lambda: pl.info_nce_loss(ONES, ONES, negatives=torch.ones(2, 0, 3)), "set of negatives is empty"),
        (lambda: pl.info_nce_loss(ONES, TWO_BY_THREE, in_batch=True), "zero vector"),
        (lambda: pl.info_nce_loss(ONES, torch.full((2, 3), math.nan), in_batch=True), "positive must be finite"),
        (lambda: pl.info_nce_loss(ONES, ONES, negatives=None, temperature=0.0, in_batch=True), "temperature must be"),
        (lambda: pl.info_nce_loss(ONES, ONES, negatives=None, temperature=-1.0, in_batch=True), "temperature must be"),
        (lambda: dpo([THREE] * 4, beta=0.0), "beta must be"),
        (lambda: dpo([THREE] * 4, beta=-0.1), "beta must be"),
        (lambda: dpo([THREE] * 4, beta=math.nan), "beta must be"),
        (lambda: dpo([THREE] * 4, beta=math.inf), "beta must be"),
        (lambda: dpo([THREE, THREE[:, None], THREE, THREE]), "shapes must be equal.*policy_rejected"),
        (lambda: dpo([THREE, THREE, THREE, NOT_A_NUMBER]), "reference_rejected must be finite"),
        (lambda: dpo([torch.zeros(0)] * 4), "policy_chosen is empty"),
        (lambda: dpo([THREE] * 4, reduction="avg"), "reduction"),
        (lambda: pl.implicit_reward(THREE, torch.zeros(2), beta=0.1), "shapes must be equal"),
        (lambda: pl.listwise_dpo_loss(torch.zeros(2, 1), torch.zeros(2, 1)), "at least two answers"),
        (lambda: pl.listwise_dpo_loss(torch.tensor(0.0), torch.tensor(0.0)), "at least two answers"),
        (lambda: pl.listwise_dpo_loss(TWO_BY_THREE, TWO_BY_THREE, top_k=0), "top_k must lie in 1 … 3"),
        (lambda: pl.listwise_dpo_loss(TWO_BY_THREE, TWO_BY_THREE, top_k=4), "top_k must lie in 1 … 3"),
        (lambda: pl.listwise_dpo_loss(TWO_BY_THREE, TWO_BY_THREE, beta=0.0), "beta must be"),
        (lambda: one_word(torch.ones(2, 3) / 3, torch.zeros(4), torch.zeros(4)), "vocabularies differ"),
        (lambda: one_word(torch.ones(2, 3), THREE, THREE), "probabilities"),
        (lambda: one_word(torch.tensor([[-0.5, 1.5, 0.0]]), THREE, THREE), "probabilities"),
        (lambda: one_word(torch.ones(3) / 3, THREE, THREE), r"\(\.\.\., N, V\)"),
        (lambda: one_word(torch.ones(0, 3) / 3, THREE, THREE), "empty"),
        (lambda: one_word(torch.ones(2, 3) / 3, NOT_A_NUMBER, THREE), "policy must be finite"),
        (lambda: one_word(torch.ones(4, 2, 3) / 3, torch.zeros(5, 3), torch.zeros(5, 3)), "leading"),
        (lambda: pl.sample_ranking(THREE, seed=0, num_samples=0), "num_samples"),
        (lambda: pl.sample_ranking(NOT_A_NUMBER, seed=0), "finite"),
        (lambda: pl.fit_log_worths(ORDER), r"\(R, K\)"),
        (lambda: pl.fit_log_worths(torch.zeros(0, 3).long()), r"\(R, K\)"),
        (lambda: pl.fit_log_worths(torch.tensor([[0, 0, 1]])), "no permutation"),
        (lambda: pl.fit_log_worths(torch.tensor([[0]])), "at least two items"),
    ],
)
def test_wrong_input_raises_an_error_that_says_so(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_module_imports_torch_alone():
    with open(pl.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module.split(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"torch"}
