"""Rules without a model: what an accuracy has to beat before it may be read as meaning."""

from collections.abc import Sequence

from sempa_utils.checks import InputError


def words(sentence: str) -> set[str]:
    """Return a sentence's words, lower-cased and without marks."""
    return set("".join(sign for sign in sentence.lower() if sign.isalnum() or sign == " ").split())


def shared_words(first: str, second: str) -> float:
    """Return the share of the two sentences' words that both have, 0 to 1; 0 where neither has a word."""
    both = words(first) | words(second)
    return len(words(first) & words(second)) / len(both) if both else 0.0


def accuracies(rows: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return {rule: in what share of NLI rows it picks the entailed sentence over the contradicted one}, ties as half.

    Rows have the premise first, the entailed sentence second and the contradicted one last. At 0.5 a rule tells
    nothing; above it, a model may have learned the rule and no meaning. Raises `InputError` for no rows.
    """
    if not len(rows):
        raise InputError("A rule needs rows to be right or wrong on. Give at least one.")
    scores = {
        "shares fewer words with the premise": lambda premise, answer: -shared_words(premise, answer),
        "is shorter, in letters": lambda _, answer: -len(answer),
    }
    return {
        rule: sum(_wins(score(row[0], row[1]), score(row[0], row[-1])) for row in rows) / len(rows)
        for rule, score in scores.items()
    }


def words_of(rows: Sequence[Sequence[str]]) -> str:
    """Return the `accuracies` of rows as a line to print beside a model's."""
    found = "; ".join(f"“{rule}” {100 * share:.0f} %" for rule, share in accuracies(rows).items())
    return f"without a model: {found} of {len(rows)} rows"


def _wins(chosen: float, rejected: float) -> float:
    return (chosen > rejected) + (chosen == rejected) / 2
