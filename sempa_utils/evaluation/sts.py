"""Semantic textual similarity as SentEval scores it: Spearman's ρ of cosine and human score.

For STS12–16 the figure is SentEval's `all`: one ρ over all of the year's pairs put together, not a
mean of subset ρ (SemPA, section 5.2). Figures are ρ × 100.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from sempa_utils import models
from sempa_utils.checks import InputError, build_folder, pick, write_whole
from sempa_utils.data import corpora
from sempa_utils.records import Comparison, Difference, Interval, RowScores, TaskScore

REVISION = 1  # of the cosines of pairs; raised with every change that moves them
RESAMPLES = 2000  # of the pairs, for an interval


@dataclass(frozen=True, eq=False)
class ScoredTask:
    """A task's score (the `all` rule, its parts beside), the cosines and human scores (pairs,) behind it, its data."""

    score: TaskScore
    similarities: np.ndarray
    human: np.ndarray
    data: dict


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


def bootstrap(similarities, scores, *, resamples: int = RESAMPLES, seed: int = 42) -> np.ndarray:
    """Return Spearman's ρ × 100 on `resamples` draws of the pairs with replacement: (resamples,).

    The draws depend on seed and number of pairs alone, so two methods' arrays for the same pairs belong
    together draw by draw. Raises `InputError` for fewer than 20 pairs, and for what has no ρ.
    """
    spearman(similarities, scores)
    columns = np.asarray(similarities, dtype=float), np.asarray(scores, dtype=float)
    count = len(columns[0])
    if count < 20:
        raise InputError(f"{count} pairs are too few for a bootstrap interval; give at least 20.")
    generator, rhos = np.random.default_rng(seed), []
    for start in range(0, resamples, 50):  # some at a time: a few megabytes
        draws = generator.integers(count, size=(min(50, resamples - start), count))
        first, second = (stats.rankdata(column[draws], axis=1) for column in columns)
        first, second = first - first.mean(axis=1, keepdims=True), second - second.mean(axis=1, keepdims=True)
        lengths = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
        # A draw of equal values alone orders nothing.
        rhos.append(100 * np.divide((first * second).sum(axis=1), lengths, np.zeros(len(first)), where=lengths > 0))
    return np.concatenate(rhos)


def interval(draws: np.ndarray) -> Interval:
    """Return the 95 % percentile interval of bootstrap draws: the 2.5th and the 97.5th percentile."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(low), float(high))


def difference(value: float, other: float, *, draws: np.ndarray, other_draws: np.ndarray) -> Difference:
    """Compare two figures by their `bootstrap` draws of the same pairs and seed.

    What the pairs have in common cancels. The p-value is twice the share of draws on the other side of
    zero, each side counted with one draw more, so it is never 0.
    """
    apart = draws - other_draws
    fewer = min((apart <= 0).sum(), (apart >= 0).sum())
    p_value = min(1.0, 2 * (1 + float(fewer)) / (1 + len(apart)))
    return Difference(value - other, interval(apart), p_value=p_value)


def spearman_interval(similarities, scores, *, resamples: int = RESAMPLES, seed: int = 42) -> Interval:
    """Return the 95 % percentile-bootstrap interval of Spearman's ρ × 100 over resampled pairs.

    Raises `InputError` for fewer than 20 pairs, and for what has no ρ.
    """
    return interval(bootstrap(similarities, scores, resamples=resamples, seed=seed))


def paired_difference(
    similarities, other_similarities, *, scores, resamples: int = RESAMPLES, seed: int = 42
) -> Difference:
    """Return the difference of two methods' ρ × 100 on the same pairs, with its 95 % interval and p-value.

    Both methods are scored on each bootstrap resample of the pairs. Raises `InputError` as `bootstrap` does.
    """
    value, other = spearman(similarities, scores), spearman(other_similarities, scores)
    draws = bootstrap(similarities, scores, resamples=resamples, seed=seed)
    other_draws = bootstrap(other_similarities, scores, resamples=resamples, seed=seed)
    return difference(value, other, draws=draws, other_draws=other_draws)


def _rho(similarities: np.ndarray, scores: np.ndarray) -> float:
    return 100 * stats.spearmanr(similarities, scores).statistic


def pair_similarities(encode, pairs, *, batch_size: int | None = None, show_progress_bar: bool = False) -> np.ndarray:
    """Return the cosine of each pair's vectors, shape (n,). `encode` maps a list of strings to (n, width)."""
    pairs = list(pairs)
    sentences = [pair.first for pair in pairs] + [pair.second for pair in pairs]
    size = {} if batch_size is None else {"batch_size": batch_size}  # else the encoder's own choice
    vectors = np.asarray(encode(sentences, **size, show_progress_bar=show_progress_bar), dtype=float)
    return _cosines(vectors)


def _cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of row i and row n + i of 2n vectors: (n,)."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A zero vector stays zero; NaN must stay NaN, to be refused by `spearman`.
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms != 0)
    return (unit[: len(vectors) // 2] * unit[len(vectors) // 2 :]).sum(axis=1)


def score_task(
    encode, task: corpora.Corpus, *, batch_size: int | None = None, show_progress_bar: bool = False
) -> ScoredTask:
    """Score one task's pairs by the cosines of what `encode` returns, as `score_similarities` does."""
    return score_similarities(
        pair_similarities(encode, task.rows, batch_size=batch_size, show_progress_bar=show_progress_bar), task
    )


def score_similarities(similarities: np.ndarray, task: corpora.Corpus) -> ScoredTask:
    """Score one task from the cosines of its pairs (n,).

    A part of which a drawn sample holds too little for ρ (one pair, or equal scores) is left out.
    """
    human = np.array([pair.score for pair in task.rows])
    part_of = np.array([pair.subset for pair in task.rows])
    value, parts = spearman(similarities, human), {}
    for name in dict.fromkeys(pair.subset for pair in task.rows if pair.subset):
        with contextlib.suppress(InputError):
            parts[name] = spearman(similarities[part_of == name], human[part_of == name])
    return ScoredTask(TaskScore(value, len(human), parts=parts or None), similarities, human, task.record())


def load_tasks(
    tasks: list[str] | None = None, directory=None, *, split: str = "test", limit: int | None = None, seed: int = 42
) -> dict[str, corpora.Corpus]:
    """Return STS tasks by name: by default the seven, or the mini corpus' one where the seven are not there.

    `limit` draws that many pairs per task by `seed` (a figure on them is not the published measure).
    """
    names = tasks or corpora.sts_tasks(directory)
    return {name: corpora.load_sts(name, directory, split=split).sample(limit, seed) for name in names}


def load_dev_tasks(directory=None, *, limit: int | None = None, seed: int = 42) -> dict[str, corpora.Corpus]:
    """Return what choices are made on, `corpora.DEV_TASKS`, as far as it is at hand: {task and split: its pairs}.

    A pair that is also one of a test is left out and counted: STS-B is made of pairs of STS12–16, so four in five of
    its training and dev pairs are. `limit` draws that many of the rest per task by `seed`.
    """
    tests = load_tasks(None, directory).values()
    tasks = {}
    for name, split in corpora.DEV_TASKS:
        with contextlib.suppress(FileNotFoundError):
            task = corpora.load_sts(name, directory, split=split).without_pairs_of(tests)
            if task.rows:
                tasks[task.name] = task.sample(limit, seed)
    return tasks


def evaluate(
    embedder,
    tasks: Mapping[str, corpora.Corpus] | None = None,
    *,
    batch_size: int | None = None,
    show_progress_bar: bool = False,
    progress: Callable[[int], object] | None = None,
) -> dict[str, ScoredTask]:
    """Score an embedder on STS tasks as `load_tasks` returns them, by default on all test pairs that are there.

    The cosines of an embedder that has an `identity` are kept in the build folder, under the key of all
    they depend on, and found again there. `progress(pairs)` is called after each task.
    """
    results = {}
    for name, task in (load_tasks() if tasks is None else tasks).items():
        kept = _kept(embedder, task)
        if kept and kept.is_file():
            similarities = np.load(kept)
        else:
            similarities = pair_similarities(
                embedder.encode, task.rows, batch_size=batch_size, show_progress_bar=show_progress_bar
            )
            if kept:
                with write_whole(kept) as draft:
                    np.save(draft, similarities)
        results[name] = score_similarities(similarities, task)
        if progress:
            progress(len(task))
    return results


def _kept(embedder, task: corpora.Corpus) -> Path | None:
    if not hasattr(embedder, "identity"):
        return None
    key = models.figure_key("sts", REVISION, embedder=embedder.identity(), data=task.fingerprint)
    return build_folder() / "sts" / f"{key}.npy"


def best_layer(
    embedder, directory=None, *, limit: int | None = 500, seed: int = 42, show_progress_bar: bool = False
) -> tuple[int, dict[int, float]]:
    """Choose the layer to read on STS-B dev, or mini-STS dev where there is no STS-B; never on a test.

    Returns (layer, what `layer_scores` gives) over all layers, read in one pass.
    """
    name = "STS-B" if "STS-B" in corpora.sts_tasks(directory) else corpora.MINI_STS
    task = corpora.load_sts(name, directory, split="dev").sample(limit, seed)
    sentences = [pair.first for pair in task.rows] + [pair.second for pair in task.rows]
    states = embedder.encode_layers(sentences, show_progress_bar=show_progress_bar)
    scores = layer_scores(states, [pair.score for pair in task.rows])
    return max(scores, key=lambda layer: scores[layer]), scores


def layer_scores(states, scores) -> dict[int, float]:
    """Return {layer: ρ × 100} of states (layers, 2 × pairs, width), all first sentences before all second ones.

    A layer at which all pairs are equally similar (the embedding table, under a template) has no figure.
    """
    rhos = {}
    for layer, vectors in enumerate(states):
        with contextlib.suppress(InputError):
            rhos[layer] = spearman(_cosines(vectors.double().numpy()), scores)
    return rhos


def row_scores(results: Mapping[str, ScoredTask]) -> RowScores:
    """Return the tasks' scores and their mean, the paper's column Avg."""
    return RowScores.of({task: result.score for task, result in results.items()})


def summary(rows: Mapping[str, Mapping[str, ScoredTask]], against: str, *, seed: int = 42) -> Comparison:
    """Compare {row: what `evaluate` returned} with the row `against`, task by task and in the mean, with intervals.

    The mean's bootstrap draws are the means of the tasks' draws. Raises `InputError` as `bootstrap` does.
    """
    pick(against, rows, what="row to compare with")
    scores = {row: row_scores(results) for row, results in rows.items()}
    draws = {}
    for row, results in rows.items():
        draws[row] = {task: bootstrap(result.similarities, result.human, seed=seed) for task, result in results.items()}
        draws[row]["mean"] = np.mean(list(draws[row].values()), axis=0)

    def compared(row: str, name: str) -> TaskScore:
        score, base = scores[row].columns[name], scores[against].columns[name]
        both = {"draws": draws[row][name], "other_draws": draws[against][name]}
        apart = None if row == against else difference(score.value, base.value, **both)
        return replace(score, interval=interval(draws[row][name]), difference=apart)

    return Comparison(
        against,
        {
            row: RowScores({task: compared(row, task) for task in results}, compared(row, "mean"))
            for row, results in rows.items()
        },
    )
