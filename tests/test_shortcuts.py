"""Rules without a model, beside which accuracies are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sempa_utils.checks import InputError
from sempa_utils.data import corpora
from sempa_utils.evaluation import shortcuts

SENTENCES = st.text("ab cd,.", max_size=12)


def test_shared_words_know_no_case_and_no_marks():
    assert shortcuts.shared_words("The cat, asleep.", "the CAT ran") == pytest.approx(2 / 4)
    assert shortcuts.shared_words("", "...") == 0


@given(SENTENCES, SENTENCES)
def test_shared_words_are_a_symmetric_share(first, second):
    share = shortcuts.shared_words(first, second)
    assert 0 <= share <= 1 and share == shortcuts.shared_words(second, first)
    assert shortcuts.shared_words(first, first) == bool(shortcuts.words(first))


def test_a_rule_is_right_wrong_or_undecided():
    rows = [
        ("a cat slept", "it rested", "a cat slept badly all day"),  # right by both rules
        ("a cat slept", "a cat slept all day", "no"),  # wrong by both
        ("a cat slept", "one dog", "two man"),  # undecided by both
    ]
    assert list(shortcuts.accuracies(rows).values()) == [0.5, 0.5]
    assert list(shortcuts.accuracies(rows[:1]).values()) == [1, 1]
    assert list(shortcuts.accuracies(rows[1:2]).values()) == [0, 0]
    assert "50 %" in shortcuts.words_of(rows) and "3 rows" in shortcuts.words_of(rows)


def test_ranked_rows_are_judged_by_their_first_and_last_sentence():
    ranked = [("p q", "x", "p q", "p q r")]
    assert list(shortcuts.accuracies(ranked).values()) == [1, 1]


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="at least one"):
        shortcuts.accuracies([])


def test_the_packaged_rows_are_not_balanced_and_the_notebooks_say_so():
    found = list(shortcuts.accuracies(corpora.packaged_ranked_nli().rows).values())
    assert [round(share, 2) for share in found] == [0.73, 0.73]
