"""Attention in blocks: the states and gradients of the whole mask, with what is empty left out."""

import pytest
import torch
from conftest import tiny_model
from families import FAMILIES, NO_TREE, WINDOW, random_model
from hypothesis import given
from hypothesis import strategies as st

from sempa_utils.models import prefix_tree, tree_attention

MODEL = tiny_model()
SEQUENCES = [[5, 6, 7, *range(20, 29)], [5, 6, 7, *range(40, 47)], [5, 60, 61, 62], [70, 71, 72, 73, 74, 75, 76]]


def in_blocks(compute, size: int):
    """Return what `compute` gives with blocks of `size` tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_attention, "BLOCK", size)
        return compute()


@given(
    sequences=st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=12), min_size=1, max_size=8),
    size=st.integers(1, 9),
)
def test_blocks_of_any_size_give_the_states_of_the_whole_mask(sequences, size):
    @torch.no_grad()
    def states():
        return prefix_tree.states(MODEL, prefix_tree.build_texts(sequences))

    torch.testing.assert_close(in_blocks(states, size), in_blocks(states, 10_000), rtol=1e-5, atol=1e-5)


def test_blocks_give_the_gradients_of_the_whole_mask():
    model = tiny_model(seed=1)

    def gradients():
        model.zero_grad()
        prefix_tree.states(model, prefix_tree.build_slots(SEQUENCES)).square().sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])

    blocks, whole = in_blocks(gradients, 4), in_blocks(gradients, 10_000)
    assert (blocks - whole).norm() < 1e-5 * whole.norm()


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - NO_TREE - set(WINDOW)))
def test_blocks_are_exact_for_every_family(name):
    model = random_model(name)

    def states():
        return prefix_tree.states(model, prefix_tree.build_slots(SEQUENCES), at_decoder=True)

    torch.testing.assert_close(in_blocks(states, 3), in_blocks(states, 10_000), rtol=1e-4, atol=1e-5)


def test_the_blocks_hold_all_that_may_be_seen_and_little_else(monkeypatch):
    monkeypatch.setattr(tree_attention, "BLOCK", 4)
    sequences = [[1, 2, 10 * n, *range(10 * n + 1, 10 * n + 6)] for n in range(1, 9)]
    tree = prefix_tree.build_slots(sequences)
    mask = tree_attention.mask_of(tree.may_attend, torch.float32)
    again = torch.zeros_like(tree.may_attend)
    for block in mask.blocks:
        rows = torch.arange(len(again))[block.tokens]
        again[rows[:, None], block.keys] = block.mask[0, 0] == 0
    assert torch.equal(again, tree.may_attend)
    computed = sum(block.mask.numel() for block in mask.blocks)
    assert computed < 0.3 * tree.may_attend.numel()


def test_a_mask_of_one_block_and_a_mask_of_others_go_the_librarys_own_way(monkeypatch):
    assert not hasattr(tree_attention.mask_of(torch.ones(4, 4, dtype=torch.bool), torch.float32), "blocks")
    calls = []
    own = tree_attention.sdpa_attention_forward
    monkeypatch.setattr(tree_attention, "sdpa_attention_forward", lambda *a, **k: calls.append(1) or own(*a, **k))
    with torch.no_grad():
        MODEL(input_ids=torch.tensor([list(range(3, 90))]))  # no tree
        assert len(calls) == 2
        prefix_tree.states(MODEL, prefix_tree.build_slots([list(range(3, 90))]))
    assert len(calls) == 2 + 2 * 2  # two layers, two blocks
