"""The words of the paper, to the character, and a sentence's way into them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sempa_utils.checks import InputError
from sempa_utils.data import templates
from sempa_utils.data.templates import fill, paraphrase_request, prepare_sentence

# Written out once more, from Table 4 and section 4 of the paper: a changed comma changes the embedding.
PARAPHRASE = {
    "keep_same_meaning": 'Keep the same meaning of this sentence: "{x}", while making some changes.',
    "generate_preserving": 'Generate a paraphrase of this sentence: "{x}" that preserves its meaning, '
    "while making some changes.",
    "rewrite_preserving_main": 'Rewrite the sentence: "{x}" while preserving its main meaning, but the wording '
    "may be simplified or rephrased.",
    "keep_main_meaning": 'Keep the main meaning of this sentence: "{x}", and rewrite it in a different way.',
    "generate_plain": 'Generate a paraphrase of the sentence: "{x}".',
}
EXTRACTION = {
    "prompteol": 'This sentence : "{x}" means in one word:"',
    "pretended_cot": 'After thinking step by step , this sentence : "{x}" means in one word:"',
}


def test_the_templates_are_the_papers():
    assert templates.PARAPHRASE_TEMPLATES == PARAPHRASE
    assert EXTRACTION.items() <= templates.EXTRACTION_TEMPLATES.items()
    [(name, words)] = templates.EXTRACTION_TEMPLATES.items() - EXTRACTION.items()
    assert name == "knowledge_enhancement"  # a remark, then PromptEOL's words
    assert "main subjects and actions" in words and words.endswith(EXTRACTION["prompteol"].replace("T", " t", 1))
    assert templates.SYSTEM_PROMPT == "You are a helpful assistant."


def test_the_ids_are_those_of_the_published_table():
    from sempa_utils import records

    ids = [row["paraphrase_template_id"] for row in records.published("table4_templates")]
    assert ids == [*templates.PARAPHRASE_TEMPLATES, "no_training_baseline"]


@pytest.mark.parametrize("name", PARAPHRASE)
def test_a_request_is_a_system_and_a_user_turn(name):
    system, user = paraphrase_request("The kettle is on.", name)
    assert system == {"role": "system", "content": "You are a helpful assistant."}
    assert user == {"role": "user", "content": PARAPHRASE[name].replace("{x}", "The kettle is on.")}


def test_the_default_request_is_the_papers_default():
    assert paraphrase_request("a") == paraphrase_request("a", "keep_same_meaning")


def test_an_extraction_template_asks_without_a_chat():
    bare = 'This sentence : "\'Sit,\' he said." means in one word:"'
    assert paraphrase_request(' "Sit,"  he said', "prompteol") == bare


def test_an_unknown_template_names_the_nearest():
    with pytest.raises(InputError, match="template 'generate_plane'. Did you mean 'generate_plain'"):
        paraphrase_request("a", "generate_plane")


# --- fill --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sentence", ["{x}", "a {set} of {}", "100 % {0!r:>{width}}", "", 'a "quote"'])
def test_braces_in_a_sentence_are_characters(sentence):
    assert fill('"{x}" means', sentence) == f'"{sentence}" means'


@given(st.sampled_from([*PARAPHRASE.values(), *EXTRACTION.values()]), st.text())
def test_a_filled_template_holds_the_sentence_once_between_its_own_ends(template, sentence):
    before, after = template.split("{x}")
    filled = fill(template, sentence)
    assert filled.startswith(before) and filled.endswith(after)
    assert filled[len(before) : len(filled) - len(after)] == sentence


# --- prepare_sentence --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_text", "prepared"),
    [
        ("The tide is out", "The tide is out."),
        ("The tide is out.", "The tide is out."),
        ("Is the tide out?", "Is the tide out."),
        ("The tide is out!", "The tide is out!."),  # the authors' script knows . ? \" ' only
        ('She said "now"', "She said 'now'"),
        ("She said 'now'", "She said 'now'"),
        ('She asked "now?"', "She asked 'now?'"),  # the question mark is not the last character
        ('"Now" is a word', "'Now' is a word."),
        ("  Two \t words\n", "Two words."),
        ("Wait...", "Wait..."),
        ("Really??", "Really?."),
        ("", "."),
        (" \n ", "."),
        ('"', "'"),
        ("?", "."),
    ],
)
def test_the_authors_rules(given_text, prepared):
    assert prepare_sentence(given_text) == prepared


# Text in which the characters that the rules speak of are frequent.
TEXT = st.text(st.sampled_from("ab\"'.?! \t\n\u00a0\u2003{}")) | st.text()


@given(TEXT)
def test_a_prepared_sentence_fits_between_double_quotes(sentence):
    prepared = prepare_sentence(sentence)
    assert '"' not in prepared
    assert prepared.endswith((".", "'"))
    assert prepared == " ".join(prepared.split())


@given(TEXT)
def test_preparing_twice_changes_nothing(sentence):
    assert prepare_sentence(prepare_sentence(sentence)) == prepare_sentence(sentence)


@given(TEXT)
def test_only_quotes_and_the_end_change(sentence):
    collapsed = " ".join(sentence.split()).replace('"', "'")
    prepared = prepare_sentence(sentence)
    # Nothing is lost but a final question mark, and nothing but a full stop is added.
    asks = collapsed.endswith("?")
    assert prepared in ({collapsed[:-1] + "."} if asks else {collapsed, collapsed + "."})
