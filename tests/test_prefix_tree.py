"""Prefix trees against one sequence per answer: same log-probabilities, same gradients."""

import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sempa_utils.models import prefix_tree

MODEL = tiny_model()


def literal_log_probs(model, prompts, answers) -> torch.Tensor:
    """Score each answer behind its own prompt, one forward each, over the whole vocabulary."""
    totals = []
    for prompt, own in zip(prompts, answers):
        for answer in own:
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].float()
            log_probs = logits.log_softmax(dim=-1)
            places = range(len(prompt), len(prompt) + len(answer))
            totals.append(sum(log_probs[place - 1, (prompt + answer)[place]] for place in places))
    return torch.stack(totals)


token = st.integers(3, 599)


@st.composite
def batches(draw):
    """Prompts with a common beginning of any length, and one to three answers each."""
    shared = draw(st.lists(token, max_size=6))
    count = draw(st.integers(1, 4))
    per_prompt = draw(st.integers(1, 3))
    prompts = [shared + draw(st.lists(token, min_size=1, max_size=5)) for _ in range(count)]
    answers = [[draw(st.lists(token, min_size=1, max_size=5)) for _ in range(per_prompt)] for _ in range(count)]
    return prompts, answers


@settings(max_examples=40, deadline=None)
@given(batches())
def test_tree_gives_the_log_probabilities_of_separate_sequences(batch):
    prompts, answers = batch
    with torch.no_grad():
        by_tree = prefix_tree.log_probs(MODEL, prefix_tree.build(prompts, answers))
        plain = literal_log_probs(MODEL, prompts, answers)
    torch.testing.assert_close(by_tree, plain, rtol=1e-4, atol=1e-4)


def test_equal_prompts_and_prompts_inside_prompts():
    # One prompt is another's beginning, and two are the same: each keeps a branch of its own.
    prompts = [[5, 6, 7], [5, 6], [5, 6, 7]]
    answers = [[[8, 9]], [[7, 10]], [[8, 11]]]
    with torch.no_grad():
        by_tree = prefix_tree.log_probs(MODEL, prefix_tree.build(prompts, answers))
        torch.testing.assert_close(by_tree, literal_log_probs(MODEL, prompts, answers), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trained_head", [False, True])
def test_tree_gives_the_gradients_of_separate_sequences(trained_head, monkeypatch):
    monkeypatch.setattr(prefix_tree, "CHUNK", 2)
    prompts = [[5, 6, 7, 20], [5, 6, 30, 31], [5, 6, 9]]
    answers = [[[8, 9], [10]], [[7, 10, 11], [12, 13]], [[14], [15, 16]]]
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.25])

    def gradients(scores):
        model.zero_grad()
        (scores() * weights).sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])

    model = tiny_model(seed=1)
    model.get_output_embeddings().requires_grad_(trained_head)
    by_tree = gradients(lambda: prefix_tree.log_probs(model, prefix_tree.build(prompts, answers)))
    plain = gradients(lambda: literal_log_probs(model, prompts, answers))
    assert (by_tree - plain).norm() < 1e-4 * plain.norm()


def test_every_distinct_prefix_token_stands_once():
    instruction, anchors = [1, 2, 3, 4], [[10, 11], [12], [13, 14, 15]]
    answers = [[[20, 21], [22]], [[23], [24, 25]], [[26], [27]]]
    tree = prefix_tree.build([instruction + anchor for anchor in anchors], answers)
    # Of two-token answers the first is read; an answer's last token is only predicted.
    assert tree.input_ids.shape == (1, len(instruction) + sum(map(len, anchors)) + 2)
    assert tree.position_ids[0, :4].tolist() == [0, 1, 2, 3]
    assert tree.targets.tolist() == [20, 21, 22, 23, 24, 25, 26, 27]
    assert tree.owners.tolist() == [0, 0, 1, 2, 3, 3, 4, 5]


def test_what_answers_have_in_common_stands_once():
    tree = prefix_tree.build([[1, 2]], [[[5, 6, 7, 9], [5, 6, 8, 9]]])
    assert tree.input_ids[0].tolist() == [1, 2, 5, 6, 7, 8]
    assert tree.position_ids[0].tolist() == [0, 1, 2, 3, 4, 4]
    assert tree.read_at.tolist() == [1, 2, 3, 4, 1, 2, 3, 5]


def test_no_token_sees_a_sibling_or_the_future():
    tree = prefix_tree.build([[1, 2, 10], [1, 2, 11]], [[[20, 0], [21, 0]], [[22, 0], [23, 0]]])
    ids = tree.input_ids[0].tolist()
    sees = {ids[row]: {ids[column] for column in tree.may_attend[row].nonzero()[:, 0]} for row in range(len(ids))}
    assert sees[20] == {1, 2, 10, 20}
    assert sees[21] == {1, 2, 10, 21}
    assert sees[23] == {1, 2, 11, 23}
    assert sees[10] == {1, 2, 10}
    assert not tree.may_attend.triu(diagonal=1).any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(3, 9), min_size=1, max_size=6), min_size=1, max_size=6))
def test_slots_give_the_last_states_of_separate_sequences(sequences):
    with torch.no_grad():
        by_tree = prefix_tree.states(MODEL, prefix_tree.build_slots(sequences))
        plain = [MODEL.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in sequences]
    torch.testing.assert_close(by_tree, torch.stack(plain), rtol=1e-4, atol=1e-4)


def test_the_head_is_itself_again_after_an_error():
    head, tree = MODEL.get_output_embeddings(), prefix_tree.build_slots([[3, 4]])
    with pytest.raises(IndexError):
        prefix_tree.states(MODEL, tree._replace(input_ids=torch.tensor([[3, 10_000]])))
    assert "forward" not in vars(head)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.3), (torch.float16, 0.05)])
def test_half_precision_stays_near_float32(dtype, tolerance):
    prompts, answers = [[5, 6, 7, 20], [5, 6, 30, 31]], [[[8, 9], [10]], [[7, 10, 11], [12, 13]]]
    tree = prefix_tree.build(prompts, answers)
    with torch.no_grad():
        half = prefix_tree.log_probs(tiny_model().to(dtype), tree)
        exact = prefix_tree.log_probs(MODEL, tree)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.02, atol=tolerance)


@pytest.mark.parametrize(
    "prompts, answers",
    [([[]], [[[1]]]), ([[1]], [[[]]]), ([[1], [2]], [[[1]], [[1], [2]]]), ([[1], [2]], [[[1]]])],
)
def test_empty_or_uneven_batches_are_refused(prompts, answers):
    with pytest.raises(ValueError):
        prefix_tree.build(prompts, answers)


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_sequences_without_a_last_state_are_refused(sequences):
    with pytest.raises(ValueError):
        prefix_tree.build_slots(sequences)


# --- What the tokens are ---------------------------------------------------------------------------


def test_the_parts_of_a_tree_are_told_by_who_shares_them():
    prompts = [[1, 2, 10, 3], [1, 2, 11, 3]]
    answers = [[[20, 21, 0], [20, 22, 0]], [[30, 0], [31, 32, 0]]]  # 20 begins both answers of the first prompt
    tree = prefix_tree.build(prompts, answers)
    parts = prefix_tree.parts(tree)
    names = [prefix_tree.PARTS[number] for number in parts.of.tolist()]
    told = dict(zip(tree.input_ids[0].tolist(), names))
    assert [told[token] for token in (1, 2, 10, 11)] == ["instruction"] * 2 + ["anchors"] * 2
    assert [told[token] for token in (20, 21, 22)] == ["both answers", "chosen answers", "rejected answers"]
    assert (told[30], told[31]) == ("chosen answers", "rejected answers")
    assert sum(parts.in_tree.values()) == tree.input_ids.numel()


@settings(max_examples=40, deadline=None)
@given(batches())
def test_a_stock_batch_holds_every_token_of_every_sequence_and_padding(batch):
    prompts, answers = batch
    answers = [(own * 2)[:2] for own in answers]  # two answers a prompt
    parts = prefix_tree.parts(prefix_tree.build(prompts, answers))
    lengths = [len(prompt) + len(answer) for prompt, own in zip(prompts, answers) for answer in own]
    assert sum(parts.in_stock.values()) == max(lengths) * len(lengths)
    assert parts.in_stock["padding"] == max(lengths) * len(lengths) - sum(lengths)
