"""Chats as token ids, by templates written here in the manner of public families."""

import datetime

import pytest
from conftest import tiny_model, tiny_tokenizer

from sempa_utils import models, training
from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.data.templates import PLAIN_CHAT_TEMPLATE, SYSTEM_PROMPT, paraphrase_request
from sempa_utils.evaluation.generation import signals
from sempa_utils.models import chat
from sempa_utils.objectives.preferences import answer_tokens

SENTENCE, ANSWER, OTHER = "The kettle is on.", "Water is being heated.", "'Tis warm."
REQUEST = paraphrase_request(SENTENCE)
USER = REQUEST[1]["content"]
MERGED = f"{SYSTEM_PROMPT}\n\n{USER}"

CHATML = tiny_tokenizer().chat_template
LLAMA3 = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% if messages[0].role == 'system' %}{% set about = messages[0].content | trim %}{% set messages = messages[1:] %}"
    "{% else %}{% set about = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' + about + '<|eot_id|>' }}"
    "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SILENT = GEMMA.replace("{{ raise_exception('no system role') }}", "{% set messages = messages[1:] %}")
# The system's words stand in the last turn if that is the user's: with an answer behind it they are gone.
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set about = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (about + '\n\n' if loop.last and about is defined else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
QWEN3_THINKING = (  # no switch: it always thinks
    QWEN3.split("{% if add_generation_prompt %}")[0]
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "{{ '<|User|>' + m.content }}{% else %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
SMOLLM3 = "{{ '<|system|>Today: ' + strftime_now('%d %B %Y') + '\n' }}" + QWEN3

HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
CHAT_START = (
    f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n"
)
TAGS = f"<|system|>\n{SYSTEM_PROMPT}END<|user|>\n{USER}END<|assistant|>\n"
FAMILIES = {  # template, text up to the answer, what stands before and behind the answer's words
    "ChatML": (CHATML, CHAT_START, "", "<|im_end|>\n"),
    "plain": (PLAIN_CHAT_TEMPLATE, f"<bos>{SYSTEM_PROMPT}\n\nUser: {USER}\n\nAssistant:", " ", "<|im_end|>"),
    "Llama 3": (
        LLAMA3,
        f"<bos>{HEADER.format('system')}Today: 26 Jul 2024\n\n{SYSTEM_PROMPT}<|eot_id|>"
        f"{HEADER.format('user')}{USER}<|eot_id|>{HEADER.format('assistant')}",
        "",
        "<|eot_id|>",
    ),
    "Gemma": (
        GEMMA, f"<bos><start_of_turn>user\n{MERGED}<end_of_turn>\n<start_of_turn>model\n", "", "<end_of_turn>\n"
    ),
    "silent": (
        SILENT, f"<bos><start_of_turn>user\n{MERGED}<end_of_turn>\n<start_of_turn>model\n", "", "<end_of_turn>\n"
    ),
    "Mistral": (MISTRAL, f"<bos>[INST] {MERGED}[/INST]", " ", "<|im_end|>"),
    "Qwen3": (QWEN3, f"{CHAT_START}<think>\n\n</think>\n\n", "", "<|im_end|>\n"),
    "Qwen3 thinking": (QWEN3_THINKING, f"{CHAT_START}<think>\n\n</think>\n\n", "", "<|im_end|>\n"),
    "DeepSeek-R1": (DEEPSEEK, f"<bos>{SYSTEM_PROMPT}<|User|>{USER}<|Assistant|>", "", "<|im_end|>"),
    "Phi": (PHI, TAGS.replace("END", "<|end|>\n"), "", "<|end|>\n"),
    "Zephyr": (ZEPHYR, TAGS.replace("END", "<|im_end|>\n"), "", "<|im_end|>\n"),
    "SmolLM3": (SMOLLM3, f"<|system|>Today: 26 July 2024\n{CHAT_START}<think>\n\n</think>\n\n", "", "<|im_end|>\n"),
}  # fmt: skip
ENDS = {"Llama 3": "<|eot_id|>", "Gemma": "<end_of_turn>", "silent": "<end_of_turn>", "Phi": "<|end|>"}
SPECIAL = ["<bos>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>"]
SPECIAL += ["[INST]", "[/INST]", "<think>", "</think>", "<|User|>", "<|Assistant|>", "<|end|>", "<|user|>"]
SPECIAL += ["<|assistant|>", "<|system|>"]


def tokenizer_of(template: str):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>", "additional_special_tokens": SPECIAL[1:]})
    tokenizer.chat_template = template
    return tokenizer


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("answer", [ANSWER, OTHER])
def test_a_chat_is_cut_where_the_answer_begins(family, answer):
    template, before, opening, closing = FAMILIES[family]
    tokenizer = tokenizer_of(template)
    assert answer_tokens(tokenizer, REQUEST, answer=answer) == (
        ids(tokenizer, before),
        ids(tokenizer, opening + answer + closing),
    )
    assert signals._prompt_tokens(tokenizer, REQUEST) == ids(tokenizer, before), "what is generated from is trained on"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_is_the_templates_own(family):
    tokenizer = tokenizer_of(FAMILIES[family][0])
    assert chat.end_token(tokenizer) == tokenizer.convert_tokens_to_ids(ENDS.get(family, "<|im_end|>"))
    language_model = models.wrap(tiny_model(vocabulary=640), tokenizer, name="tiny")
    assert chat.end_token(tokenizer) in signals._end_tokens(language_model)


@pytest.mark.parametrize("family", ["Llama 3", "SmolLM3"])
def test_the_tokens_are_those_of_any_day(family, monkeypatch):
    tokenizer = tokenizer_of(FAMILIES[family][0])
    before = answer_tokens(tokenizer, REQUEST, answer=ANSWER)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    assert "2031" in tokenizer.apply_chat_template(REQUEST, tokenize=False), "the template does write the day"
    assert answer_tokens(tokenizer, REQUEST, answer=ANSWER) == before


def test_an_answer_that_merges_with_the_prompts_end_is_tokenised_apart():
    tokenizer = tokenizer_of(
        ZEPHYR.replace("'<|' + m.role + '|>\n'", "m.role + ':\n'").replace("<|assistant|>", "assistant:")
    )
    usual, _ = answer_tokens(tokenizer, REQUEST, answer=ANSWER)
    prompt, answer = answer_tokens(tokenizer, REQUEST, answer="\n\n\nWater.")
    assert prompt == usual and tokenizer.decode(answer) == "\n\n\nWater.<|im_end|>\n"


def test_a_template_without_an_answer_or_that_renders_nothing_is_refused():
    with pytest.raises(InputError, match="cannot be told apart"):
        answer_tokens(tokenizer_of("{% for m in messages[:2] %}{{ m.content }}{% endfor %}"), REQUEST, answer=ANSWER)
    with pytest.raises(InputError, match="renders no request: never"):
        answer_tokens(tokenizer_of("{{ raise_exception('never') }}"), REQUEST, answer=ANSWER)


def test_a_prompt_needs_no_end_token():
    tokenizer = tokenizer_of(PLAIN_CHAT_TEMPLATE)
    tokenizer.eos_token = None
    assert signals._prompt_tokens(tokenizer, REQUEST) == ids(tokenizer, FAMILIES["plain"][1])
    assert chat.end_token(tokenizer) is None


@pytest.mark.parametrize("template", [GEMMA, SILENT])
def test_trls_own_batches_are_refused_where_they_would_render_another_chat(no_data, tmp_path, template):
    base = models.wrap(tiny_model(vocabulary=640), tokenizer_of(template), name="tiny")
    recipe = training.Recipe(micro_batch=4, max_length=256)
    rows = corpora.load_triplets(limit=4)
    with pytest.raises(InputError, match="tiny: TRL's own batches.*Leave out --stock-batches"):
        training.train(base, rows, recipe=recipe.changed(shared_prefix=False), folder=tmp_path / "stock")
    assert training.train(base, rows, recipe=recipe, folder=tmp_path / "tree").steps == 1
