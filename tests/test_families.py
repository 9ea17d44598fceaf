"""What is exact for a model is measured: every family gives what a plain forward gives, or ends in one clear error."""

import functools
import math

import exactness
import pytest
import torch
from exactness import TOKENIZER, TOLERANCE
from families import ALONE, FAMILIES, NO_CACHE, NO_TREE, OWN_LOGITS, WINDOW, random_model

from sempa_utils import models
from sempa_utils.checks import InputError
from sempa_utils.models import Ways

RIGHT = {"rwkv", "recurrent_gemma"}


@functools.cache  # a family's ways are measured once; whoever trains it gives it back as it was
def wrapped(name: str) -> models.LanguageModel:
    return models.wrap(random_model(name), TOKENIZER, name=name)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_ways_that_are_taken_are_those_that_are_exact(name):
    ways = wrapped(name).ways
    assert ways.tree == (name not in NO_TREE)
    assert ways.plain_head == (name not in OWN_LOGITS)
    assert ways.prefix_cache == (name not in NO_CACHE)
    assert ways.padding == ("right" if name in RIGHT else "left")
    assert (ways.window, ways.alone) == (WINDOW.get(name), ALONE.get(name))
    unusual = (not ways.tree, not ways.plain_head, not ways.prefix_cache)
    assert len(ways.lines()) == sum(unusual) + (name in RIGHT) + (name in WINDOW) + (name in ALONE)


@pytest.mark.parametrize("objective", exactness.OBJECTIVES)
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradient_are_those_of_a_forward_a_sequence(name, objective):
    found = exactness.training(wrapped(name), objective)
    assert found.loss.apart < TOLERANCE
    assert abs(found.loss.ours.item() - math.log(2)) > 1e-4, "the adapter must move it away from chance"
    assert found.gradient.plain.norm() > 1e-6 and found.gradient_apart < 2 * TOLERANCE


@pytest.mark.parametrize("what", exactness.COMPARISONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_read_is_that_of_a_plain_forward_whatever_its_batch(name, what):
    assert exactness.COMPARISONS[what](wrapped(name)).apart < TOLERANCE


def test_a_model_that_looks_ahead_is_refused():
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=600, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = BertLMHeadModel(config).eval().to(dtype)
        with pytest.raises(InputError, match="no causal language model: a state depends on the tokens behind it"):
            _ = models.wrap(model, TOKENIZER, name="bert").ways


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_takes_the_same_ways(name):
    exact = wrapped(name).ways
    assert models.wrap(random_model(name).to(torch.bfloat16), TOKENIZER, name=name, precision="bfloat16").ways == exact


def test_padding_that_is_never_exact_computes_one_by_one():
    ways = Ways(tree=False, prefix_cache=False, padding="none")
    base = wrapped("llama")
    prompts, answers = [[5, 6, 7], [5, 6, 8, 9]], [[[10, 11, 2], [12, 2]], [[13, 2], [10, 14, 15, 2]]]
    parts = ways.answers(prompts, answers)
    assert len(parts) == 4
    one = torch.cat([ways.log_probs(base.model, part) for part in parts])
    whole = Ways().log_probs(base.model, Ways().answers(prompts, answers)[0])
    torch.testing.assert_close(one, whole, atol=1e-4, rtol=1e-4)
    texts = [[5, 6, 7], [5, 6, 8], [5, 6]]
    each = torch.cat([ways.states(base.model, part) for part in ways.texts(texts)])
    assert len(each) == 4
    torch.testing.assert_close(each, Ways().states(base.model, Ways().texts(texts)[0]), atol=1e-4, rtol=1e-4)


def test_a_path_longer_than_a_window_that_no_mask_follows_is_padded():
    prompts, answers = [[1, *range(3, 30)]], [[[40, 41], [42, 43]]]
    ways = Ways(window=16)
    assert type(ways.answers(prompts, answers)[0]).__name__ == "PaddedBatch"
    assert type(ways.answers([[3, 4]], answers)[0]).__name__ == "PrefixTree"
