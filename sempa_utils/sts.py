"""Semantic textual similarity as SentEval scores it: Spearman's ρ of cosine and human score.

For STS12–16 the figure is SentEval's `all`: one ρ over all of the year's pairs put together, not a
mean of subset ρ (SemPA, section 5.2). Figures are ρ × 100.
"""

import contextlib

import numpy as np
from scipy import stats

from sempa_utils import corpora
from sempa_utils.checks import InputError


def spearman(similarities, scores) -> float:
    """Return Spearman's ρ × 100 of two equally long sequences.

    Raises `InputError` for fewer than two pairs, a value that is no number, or constant input.
    """
    similarities, scores = np.asarray(similarities, dtype=float), np.asarray(scores, dtype=float)
    if similarities.shape != scores.shape or similarities.ndim != 1 or len(scores) < 2:
        raise InputError(f"Spearman needs two sequences of equal length ≥ 2, got {similarities.shape}, {scores.shape}.")
    for name, values in (("similarities", similarities), ("scores", scores)):
        if not np.isfinite(values).all():
            raise InputError(f"Spearman is undefined: {(~np.isfinite(values)).sum()} of the {name} are no numbers.")
        if np.ptp(values) == 0:
            raise InputError(f"Spearman is undefined: all {name} are equal ({values[0]:g}). Does the model embed?")
    return float(_rho(similarities, scores))


def spearman_interval(similarities, scores, resamples: int = 2000, seed: int = 42) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of Spearman's ρ × 100 over resampled pairs.

    Raises `InputError` for fewer than 20 pairs, and for what has no ρ.
    """
    spearman(similarities, scores)
    return _bootstrap_interval(_rho, (similarities, scores), resamples, seed)


def paired_difference(
    similarities, other_similarities, scores, resamples: int = 2000, seed: int = 42
) -> tuple[float, float, float]:
    """Return the difference of two methods' ρ × 100 on the same pairs, with its 95 % interval.

    Both methods are scored on each bootstrap resample of the pairs, so what the pairs have in common
    cancels. Returns (difference, low, high). Raises `InputError` as `spearman_interval` does.
    """
    difference = spearman(similarities, scores) - spearman(other_similarities, scores)
    columns = (similarities, other_similarities, scores)
    interval = _bootstrap_interval(
        lambda one, other, gold: _rho(one, gold) - _rho(other, gold), columns, resamples, seed
    )
    return difference, *interval


def _rho(similarities: np.ndarray, scores: np.ndarray) -> float:
    return 100 * stats.spearmanr(similarities, scores).statistic


def _bootstrap_interval(figure, columns, resamples: int, seed: int) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of `figure(*columns)` over resampled rows."""
    columns = [np.asarray(column, dtype=float) for column in columns]
    count = len(columns[0])
    if count < 20:
        raise InputError(f"{count} pairs are too few for a bootstrap interval; give at least 20.")
    generator = np.random.default_rng(seed)
    draws = (generator.integers(count, size=count) for _ in range(resamples))
    low, high = np.percentile([figure(*(column[draw] for column in columns)) for draw in draws], [2.5, 97.5])
    return float(low), float(high)


def pair_similarities(encode, pairs, batch_size: int = 32, show_progress_bar: bool = False) -> np.ndarray:
    """Return the cosine of each pair's vectors, shape (n,). `encode` maps a list of strings to (n, width)."""
    pairs = list(pairs)
    sentences = [pair.first for pair in pairs] + [pair.second for pair in pairs]
    vectors = np.asarray(encode(sentences, batch_size=batch_size, show_progress_bar=show_progress_bar), dtype=float)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A zero vector stays zero; NaN must stay NaN, to be refused by `spearman`.
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms != 0)
    return (unit[: len(pairs)] * unit[len(pairs) :]).sum(axis=1)


def score_task(encode, task: corpora.Corpus, batch_size: int = 32, show_progress_bar: bool = False) -> dict:
    """Score one task's pairs; return its `spearman` (the `all` rule), each subset's, the pair count, the cosines.

    A subset of which a drawn sample holds too little for ρ (one pair, or equal scores) is left out.
    """
    similarities = pair_similarities(encode, task.rows, batch_size, show_progress_bar)
    scores = np.array([pair.score for pair in task.rows])
    of_subset = np.array([pair.subset for pair in task.rows])
    whole, subsets = spearman(similarities, scores), {}
    for name in dict.fromkeys(pair.subset for pair in task.rows if pair.subset):
        with contextlib.suppress(InputError):
            subsets[name] = spearman(similarities[of_subset == name], scores[of_subset == name])
    return {"spearman": whole, "pairs": len(scores), "subsets": subsets, "similarities": similarities}


def evaluate(
    embedder,
    tasks: list[str] | None = None,
    directory=None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 42,
    batch_size: int = 32,
    show_progress_bar: bool = False,
) -> dict[str, dict]:
    """Score an embedder on STS tasks; return {task: result of `score_task` with its data record}.

    `tasks` are by default the seven, or the mini corpus' one where the seven are not to be had.
    `limit` draws that many pairs per task by `seed` (such a figure is not the published measure).
    """
    results = {}
    for name in tasks or corpora.sts_tasks(directory):
        task = corpora.load_sts(name, directory, split).sample(limit, seed)
        results[name] = score_task(embedder.encode, task, batch_size, show_progress_bar) | {"data": task.record()}
    return results


def mean_score(results: dict[str, dict]) -> float:
    """Return the mean of the tasks' figures, as the paper's column Avg."""
    return float(np.mean([result["spearman"] for result in results.values()]))
