"""The words: paraphrase and extraction templates by id, and how a sentence is prepared for them.

Source: SemPA (2026.findings-acl.1858), section 4 and Table 4; PromptEOL (Jiang et al. 2024);
Pretended CoT and Knowledge Enhancement (Zhang et al. 2024).
"""

from sempa_utils.checks import pick

SYSTEM_PROMPT = "You are a helpful assistant."

PARAPHRASE_TEMPLATES = {
    "keep_same_meaning": 'Keep the same meaning of this sentence: "{x}", while making some changes.',
    "generate_preserving": (
        'Generate a paraphrase of this sentence: "{x}" that preserves its meaning, while making some changes.'
    ),
    "rewrite_preserving_main": (
        'Rewrite the sentence: "{x}" while preserving its main meaning, but the wording may be simplified or rephrased.'
    ),
    "keep_main_meaning": 'Keep the main meaning of this sentence: "{x}", and rewrite it in a different way.',
    "generate_plain": 'Generate a paraphrase of the sentence: "{x}".',
}

EXTRACTION_TEMPLATES = {
    "prompteol": 'This sentence : "{x}" means in one word:"',
    "pretended_cot": 'After thinking step by step , this sentence : "{x}" means in one word:"',
    "knowledge_enhancement": (
        "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms provide "
        'additional but less central details. With this in mind , this sentence : "{x}" means in one word:"'
    ),
}

REQUEST_TEMPLATES = PARAPHRASE_TEMPLATES | EXTRACTION_TEMPLATES  # that a preference can be trained in

# For base models whose tokenizer brings no chat template of its own (LLaMA-2, LLaMA-3).
PLAIN_CHAT_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\nAssistant:' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


def fill(template: str, sentence: str) -> str:
    """Put `sentence` in the place of `{x}`; braces inside the sentence stay as they are."""
    before, after = template.split("{x}")
    return before + sentence + after


def prepare_sentence(sentence: str) -> str:
    """Prepare a sentence for an extraction template as the authors' evaluation script does.

    White space is collapsed; a sentence that ends in none of . ? " ' gets a full stop; double quotes
    become single ones, so that the template's own quotes stay the outer ones; a final ? becomes a
    full stop. A blank sentence becomes a lone full stop.
    """
    sentence = " ".join(sentence.split())
    if not sentence.endswith((".", "?", '"', "'")):
        sentence += "."
    sentence = sentence.replace('"', "'")
    return sentence[:-1] + "." if sentence.endswith("?") else sentence


def paraphrase_request(sentence: str, template: str = "keep_same_meaning") -> list[dict[str, str]] | str:
    """Return the chat that asks for a paraphrase of `sentence`: a system and a user turn.

    For an extraction template it is that template's plain text: a bare prompt, after whose last token the
    paraphrase is said (this kit's own, for comparison).
    """
    words = pick(template, REQUEST_TEMPLATES, what="paraphrase template")
    if template in EXTRACTION_TEMPLATES:
        return fill(words, prepare_sentence(sentence))
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": fill(words, sentence)}]
