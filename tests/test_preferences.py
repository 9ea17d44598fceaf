"""Triplets as preference data, and the log-probability of an answer, against literal computations."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from sempa_utils import models
from sempa_utils.checks import InputError
from sempa_utils.data.corpora import Triplet
from sempa_utils.data.templates import (
    EXTRACTION_TEMPLATES,
    PARAPHRASE_TEMPLATES,
    PLAIN_CHAT_TEMPLATE,
    paraphrase_request,
)
from sempa_utils.objectives.preferences import answer_log_probs, answer_tokens, preference_dataset

TRIPLETS = [
    Triplet("The kettle is on.", "Water is being heated.", "The kettle is cold."),
    Triplet("A dog barks at the gate.", "An animal makes noise.", "The dog sleeps in its basket all afternoon."),
    Triplet("Rain fell.", "It was wet.", "It stayed dry."),
]
ANCHORS = [triplet.anchor for triplet in TRIPLETS]
POSITIVES = [triplet.positive for triplet in TRIPLETS]


# --- preference_dataset ------------------------------------------------------------------------


def test_a_triplet_becomes_a_conversation_in_trls_columns():
    rows = preference_dataset(TRIPLETS)
    assert rows.column_names == ["prompt", "chosen", "rejected"]
    assert len(rows) == len(TRIPLETS)
    for row, triplet in zip(rows, TRIPLETS, strict=True):
        assert row["prompt"] == paraphrase_request(triplet.anchor)
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
        assert row["chosen"] == [{"role": "assistant", "content": triplet.positive}]
        assert row["rejected"] == [{"role": "assistant", "content": triplet.negative}]


def test_trl_takes_it_for_conversational_preference_data():
    from trl import data_utils

    assert data_utils.is_conversational(preference_dataset(TRIPLETS)[0])


@pytest.mark.parametrize("template", PARAPHRASE_TEMPLATES)
def test_the_template_is_the_one_asked_for(template):
    words = preference_dataset(TRIPLETS[:1], template)[0]["prompt"][1]["content"]
    assert words == PARAPHRASE_TEMPLATES[template].replace("{x}", TRIPLETS[0].anchor)


def test_an_unknown_template_is_refused():
    with pytest.raises(InputError, match="Unknown paraphrase template 'keep_meaning'"):
        preference_dataset(TRIPLETS, "keep_meaning")


def test_an_extraction_template_gives_plain_text():
    row = preference_dataset(TRIPLETS[:1], "prompteol")[0]
    assert row["prompt"] == 'This sentence : "The kettle is on." means in one word:"'
    assert (row["chosen"], row["rejected"]) == (TRIPLETS[0].positive, TRIPLETS[0].negative)


# --- answer_tokens -----------------------------------------------------------------------------

TOKENIZER = tiny_tokenizer()
PLAIN = tiny_tokenizer()
PLAIN.chat_template = PLAIN_CHAT_TEMPLATE  # what a base model without a template of its own gets
TOKENIZERS = {"ChatML": TOKENIZER, "plain": PLAIN}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", PARAPHRASE_TEMPLATES)
def test_prompt_and_answer_are_the_whole_chat_cut_in_two(kind, template):
    tokenizer = TOKENIZERS[kind]
    request = paraphrase_request(TRIPLETS[0].anchor, template)
    prompt, answer = answer_tokens(tokenizer, request, answer="Water is being heated.")
    turns = [*request, {"role": "assistant", "content": "Water is being heated."}]
    assert prompt + answer == tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert tokenizer.decode(prompt) == tokenizer.apply_chat_template(
        request, add_generation_prompt=True, tokenize=False
    )


@pytest.mark.parametrize("answer", ["Water is being heated.", "'Tis warm.", "x"])
def test_a_bare_prompt_ends_where_embeddings_are_read(answer):
    request = paraphrase_request(TRIPLETS[0].anchor, "prompteol")
    prompt, ids = answer_tokens(TOKENIZER, request, answer=answer)
    assert prompt == TOKENIZER(EXTRACTION_TEMPLATES["prompteol"].replace("{x}", TRIPLETS[0].anchor))["input_ids"]
    assert TOKENIZER.decode(ids[:-1]) == answer and ids[-1] == TOKENIZER.eos_token_id


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=st.text(st.sampled_from("ab Z.,?\"'éß雨{}\n"), min_size=1, max_size=20).map(str.strip).filter(bool))
def test_the_answer_is_its_text_and_exactly_one_end_token(kind, text):
    tokenizer = TOKENIZERS[kind]
    prompt, answer = answer_tokens(tokenizer, paraphrase_request("The kettle is on."), answer=text)
    assert answer.count(tokenizer.eos_token_id) == 1
    end = answer.index(tokenizer.eos_token_id)
    decoded = tokenizer.decode(answer[:end], clean_up_tokenization_spaces=False)
    assert decoded.removeprefix(" ") == text  # the plain template puts a space before the answer
    assert tokenizer.decode(answer[end + 1 :]).strip() == "", "nothing but white space follows the end"
    # The prompt knows nothing of the answer: that is what lets two answers share it.
    assert prompt == answer_tokens(tokenizer, paraphrase_request("The kettle is on."), answer="Another.")[0]


def test_a_template_that_hides_the_answer_is_refused():
    tokenizer = copy.deepcopy(TOKENIZER)
    # Some models' templates leave something out of a chat that has gone on.
    tokenizer.chat_template = "{% if not add_generation_prompt %}{{ 'done: ' }}{% endif %}" + TOKENIZER.chat_template
    with pytest.raises(InputError, match="cannot be told apart. Set a chat template"):
        answer_tokens(tokenizer, paraphrase_request("a"), answer="b")


def test_trls_own_tokens_are_the_same():
    """TRL renders the prompt and the whole chat; what it trains on must be what we score."""
    from trl.data_utils import apply_chat_template

    row = preference_dataset(TRIPLETS[:1])[0]
    rendered = apply_chat_template(row, TOKENIZER)
    prompt, answer = answer_tokens(TOKENIZER, row["prompt"], answer=TRIPLETS[0].positive)
    assert rendered["prompt"] == TOKENIZER.decode(prompt)
    assert rendered["chosen"] == TOKENIZER.decode(answer)


# --- answer_log_probs --------------------------------------------------------------------------


@torch.no_grad()
def literal_log_prob(language_model, anchor, answer, template="keep_same_meaning") -> float:
    """One sequence, all logits, no padding, the answer's tokens one after the other."""
    prompt, tokens = answer_tokens(language_model.tokenizer, paraphrase_request(anchor, template), answer=answer)
    ids = torch.tensor([prompt + tokens])
    log_probs = torch.log_softmax(language_model.model(input_ids=ids).logits[0].double(), dim=-1)
    return sum(log_probs[place - 1, ids[0, place]].item() for place in range(len(prompt), ids.shape[1]))


@pytest.mark.parametrize("template", ["keep_same_meaning", "generate_plain"])
def test_log_probs_are_the_literal_sums(tiny, template):
    found = answer_log_probs(tiny, ANCHORS, answers=POSITIVES, template=template)
    expected = [literal_log_prob(tiny, *pair, template) for pair in zip(ANCHORS, POSITIVES, strict=True)]
    assert found.shape == (3,) and found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-5)
    assert (found < 0).all()


def test_the_batch_does_not_change_a_log_prob(tiny):
    anchors, answers = 2 * ANCHORS, POSITIVES + [triplet.negative for triplet in TRIPLETS]
    alone = answer_log_probs(tiny, anchors, answers=answers, batch_size=1)
    for batch_size in (2, 4, 16):
        found = answer_log_probs(tiny, anchors, answers=answers, batch_size=batch_size)
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    order = [4, 0, 5, 2, 1, 3]
    found = answer_log_probs(tiny, [anchors[i] for i in order], answers=[answers[i] for i in order], batch_size=4)
    torch.testing.assert_close(found, alone[order], atol=1e-5, rtol=1e-5)


def test_the_padding_token_does_not_change_a_log_prob(tiny):
    expected = answer_log_probs(tiny, ANCHORS, answers=POSITIVES)
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    found = answer_log_probs(replace(tiny, tokenizer=tokenizer), ANCHORS, answers=POSITIVES)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_all_answers_of_a_small_world_have_probabilities_that_sum_to_one(tiny):
    """Summed over the vocabulary, the answer's last token has probability one: no token is missed or counted twice."""
    request = paraphrase_request("The kettle is on.")
    prompt, answer = answer_tokens(tiny.tokenizer, request, answer="Yes.")
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        log_probs = torch.log_softmax(tiny.model(input_ids=ids).logits[0], dim=-1)
    without_last = sum(log_probs[place - 1, ids[0, place]] for place in range(len(prompt), ids.shape[1] - 1))
    found = answer_log_probs(tiny, ["The kettle is on."], answers=["Yes."])[0]
    assert (found - without_last).item() == pytest.approx(log_probs[-2, ids[0, -1]].item(), abs=1e-4)


def test_an_adapter_counts_and_its_absence_is_the_reference(tiny):
    from peft import LoraConfig, get_peft_model

    expected = answer_log_probs(tiny, ANCHORS, answers=POSITIVES)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = replace(tiny, model=get_peft_model(tiny.model, config))
    assert (answer_log_probs(adapted, ANCHORS, answers=POSITIVES) - expected).abs().max() > 1e-2
    with adapted.model.disable_adapter():
        torch.testing.assert_close(answer_log_probs(adapted, ANCHORS, answers=POSITIVES), expected)


def test_nothing_to_score_and_unequal_lists(tiny):
    assert answer_log_probs(tiny, [], answers=[]).shape == (0,)
    with pytest.raises(ValueError, match="shorter"):
        answer_log_probs(tiny, ANCHORS, answers=POSITIVES[:2])


@pytest.mark.model
def test_the_packaged_model_prefers_a_paraphrase_to_another_subject(packaged):
    anchors = 2 * ["The cat is sleeping on the sofa."]
    paraphrase, other = answer_log_probs(
        packaged, anchors, answers=["The cat is asleep on the couch.", "The bank lowered its rates today."]
    )
    assert paraphrase > other
    tokenizer = packaged.tokenizer
    _, answer = answer_tokens(tokenizer, paraphrase_request(anchors[0]), answer="The cat is asleep.")
    assert answer.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(answer).strip() == f"The cat is asleep.{tokenizer.eos_token}"
    assert models.PACKAGED_MODELS[models.PACKAGED].name == packaged.name
