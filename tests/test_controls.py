"""Controls: one thing is taken away from the rows, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sempa_utils.checks import InputError
from sempa_utils.data.corpora import Corpus, Triplet, load_triplets
from sempa_utils.experiments.controls import CONTROLS
from sempa_utils.experiments.grid import ALL

PLACES = {"anchor": 0, "positive": 1, "negative": 2}
MOVED = {
    "without_entailment": {"positive"},
    "without_contradiction": {"negative"},
    "without_either": {"positive", "negative"},
}


def rows_of(count: int) -> Corpus:
    rows = [Triplet(f"anchor {n}", f"entailed {n}", f"contradicted {n}") for n in range(count)]
    return Corpus("rows", rows, "the test", "")


@pytest.mark.parametrize("name", MOVED)
@given(count=st.integers(4, 60), seed=st.integers(0, 2**32))
def test_sentences_change_places_and_stay_in_the_corpus(name, count, seed):
    before = rows_of(count)
    after = CONTROLS[name](before, seed)
    for column, place in PLACES.items():
        old, new = [[row[place] for row in corpus.rows] for corpus in (before, after)]
        assert sorted(old) == sorted(new)
        if column in MOVED[name]:
            assert all(one != other for one, other in zip(old, new))
        else:
            assert old == new


def test_no_row_gets_a_sentence_written_for_its_own_anchor():
    """An anchor of two rows: what was written for the one would still follow from the other."""
    rows = [Triplet(f"anchor {n // 2}", f"entailed {n}", f"contradicted {n}") for n in range(12)]
    after = CONTROLS["without_entailment"](Corpus("rows", rows, "the test", ""), 1)
    for row in after.rows:
        assert int(row.positive.split()[1]) // 2 != int(row.anchor.split()[1])


def test_too_few_anchors_are_said():
    rows = [Triplet("the same", f"entailed {n}", f"contradicted {n}") for n in range(5)]
    with pytest.raises(InputError, match="rows: 5 rows have too few different first sentences"):
        CONTROLS["without_contradiction"](Corpus("rows", rows, "the test", ""), 1)


def test_answers_alike_long_are_rows_as_they_were(no_data):
    before = load_triplets()
    after = CONTROLS["alike_long"](before, 0)
    assert 0 < len(after) < len(before) and set(after.rows) <= set(before.rows)
    assert all(len(row.positive.split()) == len(row.negative.split()) for row in after.rows)
    left = set(before.rows) - set(after.rows)
    assert all(len(row.positive.split()) != len(row.negative.split()) for row in left)


def test_a_corpus_with_a_control_says_so(no_data):
    corpus = load_triplets()
    names = {name: control(corpus, 0).name for name, control in CONTROLS.items()}
    assert len(set(names.values())) == len(CONTROLS) and corpus.name not in names.values()
    assert {run.control for run in ALL.values()} - {None} == CONTROLS.keys()
