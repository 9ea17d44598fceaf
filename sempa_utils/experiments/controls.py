"""Training rows with one thing taken away: what of a preference carries the gain?

Each control is a function of a corpus of triplets (anchor, entailed, contradicted) and a seed. Where sentences change
places among rows, all stay in the corpus, so length, vocabulary and topic of either side are what they were.
"""

import random
from collections.abc import Callable

from sempa_utils.checks import InputError
from sempa_utils.data.corpora import Corpus


def without_entailment(corpus: Corpus, seed: int) -> Corpus:
    """Return the rows, each with another row's entailed sentence; the contradiction is its own."""
    others = _of_another_row(corpus, 1, seed)
    rows = [row._replace(positive=other) for row, other in zip(corpus.rows, others)]
    return corpus.changed(rows, "entailed sentences of other rows")


def without_contradiction(corpus: Corpus, seed: int) -> Corpus:
    """Return the rows, each with another row's contradicted sentence; the entailed one is its own."""
    others = _of_another_row(corpus, 2, seed)
    rows = [row._replace(negative=other) for row, other in zip(corpus.rows, others)]
    return corpus.changed(rows, "contradicted sentences of other rows")


def without_either(corpus: Corpus, seed: int) -> Corpus:
    """Return the rows, both answers another row's: nothing is left but which side a sentence was written for."""
    return without_contradiction(without_entailment(corpus, seed), seed + 1)


def alike_long(corpus: Corpus, seed: int) -> Corpus:
    """Return the rows whose two answers have equally many words: length cannot tell them apart."""
    del seed  # nothing is drawn
    kept = [row for row in corpus.rows if len(row.positive.split()) == len(row.negative.split())]
    return corpus.changed(kept, "answers alike long")


CONTROLS: dict[str, Callable[[Corpus, int], Corpus]] = {
    "without_entailment": without_entailment,
    "without_contradiction": without_contradiction,
    "without_either": without_either,
    "alike_long": alike_long,
}


def _of_another_row(corpus: Corpus, place: int, seed: int) -> list[str]:
    """Return a sentence for each row from that place of another row, with another anchor; each is taken once."""
    rows, order = corpus.rows, list(range(len(corpus)))
    random.Random(seed).shuffle(order)
    # Along a shuffled circle a row takes from half-way round, or from the next place where the anchor is another.
    for step in range(len(order) // 2, len(order)):
        given = {order[n]: order[(n + step) % len(order)] for n in range(len(order))}
        if all(rows[one][0] != rows[other][0] for one, other in given.items()):
            return [rows[given[number]][place] for number in range(len(rows))]
    raise InputError(f"{corpus.name}: {len(rows)} rows have too few different first sentences to change places among.")
