"""The cheap signals against literal loops in float64, nltk and sacrebleu, and independent of the batch."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.data.corpora import Triplet
from sempa_utils.data.templates import paraphrase_request
from sempa_utils.evaluation.generation import signals
from sempa_utils.evaluation.generation.signals import Answer
from sempa_utils.models import Ways
from sempa_utils.objectives.preferences import answer_log_probs

SENTENCES = [
    "The kettle is on.",
    "A dog barks at the gate, and nobody comes to let it in.",
    "Rain fell all night on the tin roof of the shed.",
]
ROWS = [
    Triplet("The kettle is on.", "Water is being heated.", "The kettle is cold."),
    Triplet("A dog barks at the gate.", "An animal makes noise.", "The dog sleeps in its basket all afternoon."),
    Triplet("Rain fell.", "It was wet.", "It stayed dry."),
]


def literal_log_probs(language_model, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of the next token after each of `tokens`, in float64: (tokens, vocabulary)."""
    model = copy.deepcopy(language_model.model).double()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)


# --- perplexity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("block_length", [2, 7, 512])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_perplexity_is_the_mean_surprise_of_a_blocks_tokens_but_its_first(tiny, block_length, batch_size):
    surprises = []
    for text in SENTENCES:
        tokens = tiny.tokenizer(text)["input_ids"]
        for start in range(0, len(tokens), block_length):
            block = tokens[start : start + block_length]
            table = literal_log_probs(tiny, block)
            surprises += [-table[place - 1, block[place]].item() for place in range(1, len(block))]
    found = signals.perplexity(tiny, SENTENCES, block_length=block_length, batch_size=batch_size)
    assert found.tokens == len(surprises)
    assert found.nats_per_token == pytest.approx(sum(surprises) / len(surprises), abs=1e-4)
    assert found.value == pytest.approx(math.exp(found.nats_per_token))


def test_one_text_is_a_list_of_one(tiny):
    assert signals.perplexity(tiny, SENTENCES[1]) == signals.perplexity(tiny, SENTENCES[1:2])


def test_the_limit_keeps_the_first_blocks(tiny):
    text = " ".join(SENTENCES)
    tokens = tiny.tokenizer(text)["input_ids"]
    first_two = signals.perplexity(tiny, tiny.tokenizer.decode(tokens[:10]), block_length=5)
    found = signals.perplexity(tiny, text, block_length=5, limit=5)
    assert first_two.tokens == found.tokens == 8, "four to a block; the block that reaches the limit is whole"
    assert found.nats_per_token == pytest.approx(first_two.nats_per_token, abs=1e-6)


def test_an_uninformed_model_has_the_vocabularys_size_as_perplexity(tiny):
    with torch.no_grad():
        tiny.model.get_output_embeddings().weight.zero_()
    assert signals.perplexity(tiny, SENTENCES).value == pytest.approx(600, rel=1e-4)
    assert signals.next_token_entropy(tiny, SENTENCES).tolist() == pytest.approx([math.log(600)] * 3, abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "two tokens or more"),
        (["", "a"], {}, "two tokens or more"),
        ("A text.", {"block_length": 1}, "reads 2 to 512"),
        ("A text.", {"block_length": 513}, "reads 2 to 512"),
    ],
)
def test_nothing_to_score_or_a_block_too_long_is_one_clear_error(tiny, texts, options, message):
    with pytest.raises(InputError, match=message):
        signals.perplexity(tiny, texts, **options)


def test_the_text_is_wikitext_where_there_is_one_and_our_own_sentences_elsewhere(no_data, tmp_path):
    mini = signals.load_text()
    assert mini.source.startswith("mini corpus (packaged)") and len(mini) == 4 * 375
    assert corpora.packaged_ranked_nli().rows[0].premise == mini.rows[0]
    (tmp_path / "text").mkdir()
    path = tmp_path / "text" / "wikitext2_test.txt"
    path.write_text(" \n = A heading = \n A line . \n", encoding="utf8")
    found = signals.load_text(tmp_path)
    assert found.rows == ["= A heading = \n A line ."] and found.name == "WikiText-2 test"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert signals.load_text(tmp_path).rows == found.rows
    path.write_bytes("Un café .\n".encode("latin-1"))
    with pytest.raises(InputError, match="wikitext2_test.txt: not UTF-8 text .row 1: byte 0xe9.. Save it"):
        signals.load_text(tmp_path)
    path.write_text(" \n", encoding="utf8")
    with pytest.raises(InputError, match="wikitext2_test.txt: an empty file"):
        signals.load_text(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="nothing of the layout"):
        signals.load_text(tmp_path / "mine")


# --- preferences ---------------------------------------------------------------------------------


def test_preference_accuracy_compares_whole_answers_row_by_row(tiny):
    anchors, positives, negatives = (list(column) for column in zip(*ROWS))
    margins = answer_log_probs(tiny, anchors, answers=positives) - answer_log_probs(tiny, anchors, answers=negatives)
    found = signals.preference_accuracy(tiny, ROWS)
    share = sum(margin > 0 for margin in margins.tolist()) / 3
    assert found.accuracy == pytest.approx(share) and found.rows == 3
    assert found.margin == pytest.approx(margins.mean().item(), abs=1e-3)
    assert found.standard_error == pytest.approx(math.sqrt(share * (1 - share) / 3))


def test_preference_accuracy_does_not_depend_on_the_batch_and_turns_with_the_rows(tiny):
    whole = signals.preference_accuracy(tiny, ROWS, batch_size=3)
    assert signals.preference_accuracy(tiny, ROWS, batch_size=1) == pytest.approx(whole, abs=1e-4)
    turned = signals.preference_accuracy(tiny, [Triplet(row[0], row[2], row[1]) for row in ROWS])
    assert turned.accuracy == pytest.approx(1 - whole.accuracy)
    assert turned.margin == pytest.approx(-whole.margin, abs=1e-4)


def test_rows_that_do_not_fit_are_an_error(tiny):
    with pytest.raises(InputError, match="max_length = 3"):
        signals.preference_accuracy(tiny, ROWS, max_length=3)


# --- paraphrases ---------------------------------------------------------------------------------


def literal_greedy(language_model, sentence: str, limit: int) -> list[int]:
    request = paraphrase_request(sentence)
    tokens = language_model.tokenizer.apply_chat_template(
        request, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    written = []
    while len(written) < limit:
        written.append(literal_log_probs(language_model, tokens + written)[-1].argmax().item())
        if written[-1] == language_model.tokenizer.eos_token_id:
            break
    return written


@pytest.mark.parametrize("batch_size", [1, 3])
def test_greedy_paraphrases_are_the_likeliest_token_step_by_step(tiny, batch_size):
    found = signals.paraphrases(tiny, SENTENCES, sampling=signals.Sampling(max_new_tokens=6), batch_size=batch_size)
    for answer, sentence in zip(found, SENTENCES, strict=True):
        written = literal_greedy(tiny, sentence, 6)
        ended = written[-1] == tiny.tokenizer.eos_token_id
        assert answer.tokens == len(written) - ended and answer.ended == ended
        assert answer.text == tiny.tokenizer.decode(written, skip_special_tokens=True).strip()


def test_an_end_token_ends_an_answer_and_is_not_counted(tiny, monkeypatch):
    end = tiny.tokenizer.eos_token_id
    kettle = tiny.tokenizer("kettle")["input_ids"]

    rows = [[*kettle, end, *[tiny.tokenizer.pad_token_id] * 3], (kettle * 9)[: len(kettle) + 4]]

    def generate(input_ids, **_):
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)

    monkeypatch.setattr(tiny.model, "generate", generate)
    monkeypatch.setattr(signals.greedy, "continuations", lambda *_, **__: [rows[0][: len(kettle) + 1], rows[1]])
    for tree in (True, False):
        tiny.model.__dict__["sempa_ways"] = Ways(tree=tree)
        ended, unfinished = signals.paraphrases(tiny, SENTENCES[:2])
        assert ended == Answer("kettle", len(kettle), True)
        assert not unfinished.ended and unfinished.tokens == len(kettle) + 4


def test_paraphrases_are_the_same_where_nothing_may_be_shared(tiny):
    sampling, found = signals.Sampling(max_new_tokens=6), []
    for ways in (Ways(), Ways(tree=False), Ways(tree=False, padding="none")):
        tiny.model.__dict__["sempa_ways"] = ways
        found.append(signals.paraphrases(tiny, SENTENCES * 7, sampling=sampling))
    assert found[0] == found[1] == found[2] and len(found[0]) == 21
    assert signals.paraphrases(tiny, [], sampling=sampling) == []


def test_a_models_own_generation_settings_do_not_mix_in(tiny):
    plain = signals.paraphrases(tiny, SENTENCES, sampling=signals.Sampling(max_new_tokens=5))
    tiny.model.generation_config.do_sample = True
    tiny.model.generation_config.temperature = 5.0
    tiny.model.generation_config.repetition_penalty = 3.0
    tiny.model.generation_config.top_k = 2
    assert signals.paraphrases(tiny, SENTENCES, sampling=signals.Sampling(max_new_tokens=5)) == plain


def test_drawn_paraphrases_repeat_by_seed_and_leave_the_callers_chance_alone(tiny):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    one = signals.paraphrases(tiny, SENTENCES, sampling=signals.Sampling(temperature=2.0, seed=1, max_new_tokens=8))
    assert torch.equal(torch.rand(1), expected)
    again, other = (signals.Sampling(temperature=2.0, seed=seed, max_new_tokens=8) for seed in (1, 2))
    assert signals.paraphrases(tiny, SENTENCES, sampling=again) == one
    assert signals.paraphrases(tiny, SENTENCES, sampling=other) != one
    with pytest.raises(InputError, match="temperature of -1"):
        signals.Sampling(temperature=-1)


@pytest.mark.parametrize(
    ("text", "ended", "expected"),
    [
        ("Water is being heated.", True, []),
        ("Water is being", False, ["unfinished"]),
        ("", True, ["empty"]),
        ('"…"', False, ["unfinished", "empty"]),
        ('"the kettle is ON"', True, ["copied"]),
        ('Keep the same meaning of this sentence: "The kettle is on.", while making some changes.', True, ["copied"]),
        ("Keep the same meaning of this sentence, while it boils.", True, []),
        ("so so so warm", True, ["looping"]),
        ("very, very warm", True, []),
        ("it is hot and it is hot and it is hot and", False, ["unfinished", "looping"]),
        ("One two three four five six seven eight. " * 3, True, ["looping"]),
        ("One two three four five six seven eight nine. " * 3, True, []),
    ],
)
def test_the_faults_of_an_answer(text, ended, expected):
    assert signals.faults(Answer(text, 4, ended), "The kettle is on.") == expected


def test_well_formed_is_the_share_without_a_fault():
    answers = [Answer("Water is being heated.", 5, True), Answer("Rain fell.", 3, True), Answer("It is", 2, False)]
    assert signals.well_formed(answers, ["The kettle is on.", "Rain fell.", "A dog barks."]) == pytest.approx(1 / 3)
    with pytest.raises(ValueError):
        signals.well_formed(answers, ["one"])


# --- variety -------------------------------------------------------------------------------------

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join), min_size=2, max_size=6)


@settings(deadline=None)  # the first import of nltk takes its time
@given(TEXTS, st.integers(1, 4))
def test_distinct_n_counts_different_runs_of_words(texts, n):
    from nltk import ngrams

    every = [gram for text in texts for gram in ngrams(text.split(), n)]
    assert signals.distinct_n(texts, n) == pytest.approx(len(set(every)) / len(every) if every else 0)


def test_case_and_punctuation_are_no_words():
    assert signals.distinct_n(["It rained. It didn’t stop!", "it RAINED"], 1) == pytest.approx(4 / 7)


@settings(deadline=None)
@given(TEXTS)
def test_self_bleu_is_sacrebleus_of_each_text_with_the_others(texts):
    from sacrebleu.metrics import BLEU

    each = []
    for place, text in enumerate(texts):
        order = min(4, max(1, len(text.split())))  # sacrebleu counts a run longer than the text as one that is right
        bleu = BLEU(smooth_method="add-k", smooth_value=1, tokenize="none", max_ngram_order=order)
        each.append(bleu.sentence_score(text, texts[:place] + texts[place + 1 :]).score if text else 0)
    assert signals.self_bleu(texts) == pytest.approx(sum(each) / len(each), abs=1e-6)


def test_self_bleu_is_highest_where_all_say_the_same():
    same = ["the bread is warm and fresh"] * 3
    assert signals.self_bleu(same) == pytest.approx(100)
    assert signals.self_bleu(["one two three", "four five six"]) == 0
    with pytest.raises(InputError, match="two or more"):
        signals.self_bleu(same[:1])


# --- the next token ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5])
def test_next_token_log_probs_of_texts_and_chats(tiny, batch_size):
    prompts = [*SENTENCES, paraphrase_request("Rain fell.")]
    found = signals.next_token_log_probs(tiny, prompts, batch_size=batch_size)
    assert found.shape == (4, 600)
    tokens = [tiny.tokenizer(text)["input_ids"] for text in SENTENCES]
    chat = tiny.tokenizer.apply_chat_template(prompts[3], add_generation_prompt=True, tokenize=False)
    tokens.append(tiny.tokenizer(chat)["input_ids"])
    for row, one in zip(found, tokens, strict=True):
        torch.testing.assert_close(row.double(), literal_log_probs(tiny, one)[-1], atol=1e-4, rtol=0)


def test_entropy_and_divergence_are_the_literal_sums(tiny):
    one = signals.next_token_log_probs(tiny, SENTENCES)
    other = one.roll(1, dims=0)
    for place in range(3):
        p, q = one[place].double().tolist(), other[place].double().tolist()
        entropy = -sum(math.exp(a) * a for a in p)
        divergence = sum(math.exp(a) * (a - b) for a, b in zip(p, q))
        assert signals.entropy(one)[place].item() == pytest.approx(entropy, abs=1e-6)
        assert signals.divergence(one, other)[place].item() == pytest.approx(divergence, abs=1e-6)
    assert signals.divergence(one, one).abs().max() == 0
    torch.testing.assert_close(signals.next_token_entropy(tiny, SENTENCES), signals.entropy(one))


def test_certainty_has_no_entropy():
    certain = torch.tensor([[0.0, -math.inf, -math.inf], [math.log(0.5), math.log(0.5), -math.inf]])
    assert signals.entropy(certain).tolist() == pytest.approx([0, math.log(2)])


# --- all of it -----------------------------------------------------------------------------------


def test_signals_are_the_single_functions_together(tiny):
    answers = signals.paraphrases(tiny, [row.anchor for row in ROWS], sampling=signals.Sampling(max_new_tokens=8))
    found = signals.signals(tiny, SENTENCES, rows=ROWS, answers=answers)
    assert set(found) == set(signals.SIGNALS) and all(isinstance(value, float) for value in found.values())
    assert found["perplexity"] == pytest.approx(signals.perplexity(tiny, SENTENCES).value)
    assert found["preference"] == pytest.approx(100 * signals.preference_accuracy(tiny, ROWS).accuracy)
    assert found["well_formed"] == 100 * signals.well_formed(answers, [row.anchor for row in ROWS])
    assert found["unfinished"] == pytest.approx(100 * sum(not answer.ended for answer in answers) / 3)
    assert found["length"] == pytest.approx(sum(answer.tokens for answer in answers) / 3)
    assert found["self_bleu"] == signals.self_bleu([answer.text for answer in answers])
    halves = ["The kettle", "A dog barks", "Rain"]
    assert signals.open_sentences([row.anchor for row in ROWS]) == halves
    assert found["entropy"] == pytest.approx(signals.next_token_entropy(tiny, halves).mean().item(), abs=1e-6)


def test_signals_write_the_paraphrases_themselves_where_none_are_given(tiny):
    answers = signals.paraphrases(tiny, [row.anchor for row in ROWS])
    given = signals.signals(tiny, SENTENCES, rows=ROWS, answers=answers)
    assert signals.signals(tiny, SENTENCES, rows=ROWS) == pytest.approx(given)


def test_an_adapter_changes_the_signals_and_switched_off_it_does_not(tiny, tmp_path):
    from peft import get_peft_model

    from sempa_utils.training import Recipe
    from sempa_utils.training.trainer import lora_config

    before = signals.signals(tiny, SENTENCES, rows=ROWS)
    adapted = get_peft_model(tiny.model, lora_config(Recipe()))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    policy = replace(tiny, model=adapted)
    assert signals.signals(policy, SENTENCES, rows=ROWS)["perplexity"] != pytest.approx(before["perplexity"], rel=1e-3)
    with adapted.disable_adapter():
        assert signals.signals(policy, SENTENCES, rows=ROWS) == pytest.approx(before, rel=1e-4)
