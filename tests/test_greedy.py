"""Continuations of many prompts in one sequence: token for token what each would be alone, in every family."""

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from families import FAMILIES, NO_CACHE, NO_TREE, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from sempa_utils.models import greedy
from sempa_utils.models.certificate import Ways, ways_of

MODEL = tiny_model()


@torch.no_grad()
def literal(model, prompt: list[int], most: int, end: int | None = None) -> list[int]:
    """Write the likeliest token step by step, each by a forward of its own over all that stands before it."""
    written = []
    while len(written) < most and (not written or written[-1] != end):
        logits = model(input_ids=torch.tensor([prompt + written]), use_cache=False).logits[0, -1]
        written.append(logits.float().argmax().item())
    return written


token = st.integers(3, 599)
rest = st.lists(token, min_size=1, max_size=6)


@settings(max_examples=25)
@given(st.lists(token, max_size=5), st.lists(rest, min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 6))
def test_each_row_is_what_it_is_alone(shared, rests, together, most):
    prompts = [shared + own for own in rests]
    found = greedy.continuations(MODEL, prompts, ended=lambda row: False, most=most, together=together)
    assert found == [literal(MODEL, prompt, most) for prompt in prompts]


def test_a_row_that_has_ended_leaves_and_the_next_takes_its_place(monkeypatch):
    prompts = [[5, 6, 7, 8 + place, 20 + place] for place in range(7)]
    alone = [literal(MODEL, prompt, 8) for prompt in prompts]
    end = alone[0][2]  # so that rows end at different lengths
    expected = [literal(MODEL, prompt, 8, end) for prompt in prompts]
    assert len({len(row) for row in expected}) > 1
    read, told = [], []
    inner = greedy._Rows.read

    def counted(self, new):
        read.append({row: len(tokens) for row, tokens in new.items()})
        return inner(self, new)

    monkeypatch.setattr(greedy._Rows, "read", counted)
    options = {"ended": lambda row: row[-1] == end, "most": 8, "together": 3, "progress": told.append}
    assert greedy.continuations(MODEL, prompts, **options) == expected
    assert read[0] == {-1: 3}, "the beginning once"
    assert sum(sum(step.values()) for step in read[1:]) == sum(2 + len(row) - 1 for row in expected)
    assert max(map(len, read)) == 3 and sum(told) == 7


def test_the_beginning_leaves_a_token_of_each():
    assert greedy.common_beginning([[1, 2, 3]]) == 2
    assert greedy.common_beginning([[1, 2, 3], [1, 2, 3]]) == 2
    assert greedy.common_beginning([[1, 2, 3], [1, 2]]) == 1
    assert greedy.common_beginning([[1, 2], [3, 2]]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exact_or_not_taken(family):
    model = random_model(family)
    ways = ways_of(model, tiny_tokenizer())
    window = getattr(model.config, "sliding_window", None)
    assert greedy.is_exact(model, ways, longest=12) == (family not in NO_TREE | NO_CACHE)
    assert window is None or not greedy.is_exact(model, ways, longest=window + 1)
    if greedy.is_exact(model, ways, longest=12):
        prompts = [[1, 5, 6, 7, 20], [1, 5, 6, 30, 31, 32, 33], [1, 5, 6, 9]]
        found = greedy.continuations(model, prompts, ended=lambda row: False, most=5, together=2)
        assert found == [literal(model, prompt, 5) for prompt in prompts]


def test_an_adapter_takes_part():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model(), config).eval()
    prompts = [[5, 6, 7], [5, 6, 30, 31]]
    found = greedy.continuations(model, prompts, ended=lambda row: False, most=5)
    assert found == [literal(model, prompt, 5) for prompt in prompts]
    assert found != [literal(MODEL, prompt, 5) for prompt in prompts]


def test_half_precision_is_not_taken():
    assert greedy.is_exact(tiny_model(), Ways(), longest=9)
    assert not greedy.is_exact(tiny_model().bfloat16(), Ways(), longest=9)


def test_an_adapter_of_prompts_is_not_taken():
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert greedy.is_exact(tiny_model(), Ways(), longest=9)
    assert not greedy.is_exact(get_peft_model(tiny_model(), config), Ways(), longest=9)
