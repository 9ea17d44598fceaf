"""Semantic textual similarity as SentEval scores it: Spearman's ρ of cosine and human score.

For STS12–16 the figure is SentEval's `all`: one ρ over all of the year's pairs put together, not a
mean of subset ρ (SemPA, section 5.2). Figures are ρ × 100.
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from sempa_utils import models
from sempa_utils.checks import InputError, build_folder, pick, write_whole
from sempa_utils.data import corpora

REVISION = 1  # of the cosines of pairs; raised with every change that moves them
RESAMPLES = 2000  # of the pairs, for an interval


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


def bootstrap(similarities, scores, resamples: int = RESAMPLES, seed: int = 42) -> np.ndarray:
    """Return Spearman's ρ × 100 on `resamples` draws of the pairs with replacement: (resamples,).

    The draws depend on seed and number of pairs alone, so two methods' arrays for the same pairs belong
    together draw by draw. Raises `InputError` for fewer than 20 pairs, and for what has no ρ.
    """
    spearman(similarities, scores)
    columns = np.asarray(similarities, dtype=float), np.asarray(scores, dtype=float)
    count = len(columns[0])
    if count < 20:
        raise InputError(f"{count} pairs are too few for a bootstrap interval; give at least 20.")
    generator, found = np.random.default_rng(seed), []
    for start in range(0, resamples, 50):  # some at a time: a few megabytes
        draws = generator.integers(count, size=(min(50, resamples - start), count))
        one, other = (stats.rankdata(column[draws], axis=1) for column in columns)
        one, other = one - one.mean(axis=1, keepdims=True), other - other.mean(axis=1, keepdims=True)
        lengths = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
        # A draw of equal values alone orders nothing.
        found.append(100 * np.divide((one * other).sum(axis=1), lengths, np.zeros(len(one)), where=lengths > 0))
    return np.concatenate(found)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of bootstrap draws: the 2.5th and the 97.5th percentile."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


class Difference(NamedTuple):
    """How much one method's figure is above another's, its 95 % interval, and a two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def difference(one: float, other: float, draws_of_one: np.ndarray, draws_of_other: np.ndarray) -> Difference:
    """Compare two figures by their `bootstrap` draws of the same pairs and seed.

    What the pairs have in common cancels. The p-value is twice the share of draws on the other side of
    zero, each side counted with one draw more, so it is never 0.
    """
    apart = draws_of_one - draws_of_other
    fewer = min((apart <= 0).sum(), (apart >= 0).sum())
    p_value = min(1.0, 2 * (1 + float(fewer)) / (1 + len(apart)))
    return Difference(one - other, *interval(apart), p_value)


def spearman_interval(similarities, scores, resamples: int = RESAMPLES, seed: int = 42) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of Spearman's ρ × 100 over resampled pairs.

    Raises `InputError` for fewer than 20 pairs, and for what has no ρ.
    """
    return interval(bootstrap(similarities, scores, resamples, seed))


def paired_difference(
    similarities, other_similarities, scores, resamples: int = RESAMPLES, seed: int = 42
) -> Difference:
    """Return the difference of two methods' ρ × 100 on the same pairs, with its 95 % interval and p-value.

    Both methods are scored on each bootstrap resample of the pairs. Raises `InputError` as `bootstrap` does.
    """
    both = [(spearman(values, scores), bootstrap(values, scores, resamples, seed))
            for values in (similarities, other_similarities)]  # fmt: skip
    return difference(both[0][0], both[1][0], both[0][1], both[1][1])


def _rho(similarities: np.ndarray, scores: np.ndarray) -> float:
    return 100 * stats.spearmanr(similarities, scores).statistic


def pair_similarities(encode, pairs, batch_size: int | None = None, show_progress_bar: bool = False) -> np.ndarray:
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


def score_task(encode, task: corpora.Corpus, batch_size: int | None = None, show_progress_bar: bool = False) -> dict:
    """Score one task's pairs; return its `spearman` (the `all` rule), each subset's, the pair count, the cosines.

    A subset of which a drawn sample holds too little for ρ (one pair, or equal scores) is left out.
    """
    return score_similarities(pair_similarities(encode, task.rows, batch_size, show_progress_bar), task)


def score_similarities(similarities: np.ndarray, task: corpora.Corpus) -> dict:
    """Return what `score_task` does, from the cosines of the task's pairs."""
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
    batch_size: int | None = None,
    show_progress_bar: bool = False,
    watch=None,
) -> dict[str, dict]:
    """Score an embedder on STS tasks; return {task: result of `score_task` with its data record}.

    `tasks` are by default the seven, or the mini corpus' one where the seven are not to be had.
    `limit` draws that many pairs per task by `seed` (such a figure is not the published measure).
    The cosines of an embedder that has an `identity` are kept in the build folder, under the key of all
    they depend on, and found again there. `watch(pairs)` is called after each task.
    """
    results = {}
    for name in tasks or corpora.sts_tasks(directory):
        task = corpora.load_sts(name, directory, split).sample(limit, seed)
        kept = _kept(embedder, task)
        if kept and kept.is_file():
            similarities = np.load(kept)
        else:
            similarities = pair_similarities(embedder.encode, task.rows, batch_size, show_progress_bar)
            if kept:
                with write_whole(kept) as draft:
                    np.save(draft, similarities)
        results[name] = score_similarities(similarities, task) | {"data": task.record()}
        if watch:
            watch(len(task))
    return results


def _kept(embedder, task: corpora.Corpus) -> Path | None:
    if not hasattr(embedder, "identity"):
        return None
    key = models.figure_key("sts", REVISION, embedder=embedder.identity(), data=task.fingerprint)
    return build_folder() / "sts" / f"{key}.npy"


def best_layer(
    embedder, directory=None, limit: int | None = 500, seed: int = 42, show_progress_bar: bool = False
) -> tuple[int, dict[int, float]]:
    """Choose the layer to read on STS-B dev, or mini-STS dev where there is no STS-B; never on a test.

    Returns (layer, what `layer_scores` gives) over all layers, read in one pass.
    """
    name = "STS-B" if "STS-B" in corpora.sts_tasks(directory) else corpora.MINI_STS
    task = corpora.load_sts(name, directory, "dev").sample(limit, seed)
    sentences = [pair.first for pair in task.rows] + [pair.second for pair in task.rows]
    states = embedder.encode_layers(sentences, show_progress_bar=show_progress_bar)
    found = layer_scores(states, [pair.score for pair in task.rows])
    return max(found, key=found.get), found


def layer_scores(states, scores) -> dict[int, float]:
    """Return {layer: ρ × 100} of states (layers, 2 × pairs, width), all first sentences before all second ones.

    A layer at which all pairs are equally similar (the embedding table, under a template) has no figure.
    """
    found = {}
    for layer, vectors in enumerate(states):
        with contextlib.suppress(InputError):
            found[layer] = spearman(_cosines(vectors.double().numpy()), scores)
    return found


def summary(rows: dict[str, dict[str, dict]], tasks: dict[str, corpora.Corpus], against: str, seed: int = 42) -> dict:
    """Return intervals of each row's figures and its differences from the row `against`, task by task and for the mean.

    `rows` is {row: what `evaluate` returned}, `tasks` {task: its pairs as scored}. Gives {row: {"tasks": {task:
    {spearman, low, high, pairs, subsets}}, "mean": {spearman, low, high}, "difference": {task or "mean":
    {difference, low, high, p_value}}}}; the mean's draws are the means of the tasks' draws, and `against` has no
    difference. Raises `InputError` as `bootstrap` does.
    """
    draws, found = {}, {}
    for row, results in rows.items():
        draws[row] = {
            task: bootstrap(result["similarities"], [pair.score for pair in tasks[task].rows], seed=seed)
            for task, result in results.items()
        }
        figures = {task: result["spearman"] for task, result in results.items()} | {"mean": mean_score(results)}
        draws[row]["mean"] = np.mean(list(draws[row].values()), axis=0)
        spans = {name: dict(zip(("low", "high"), interval(values))) for name, values in draws[row].items()}
        found[row] = {
            "tasks": {
                task: {"spearman": figures[task], **spans[task], "pairs": result["pairs"], "subsets": result["subsets"]}
                for task, result in results.items()
            },
            "mean": {"spearman": figures["mean"], **spans["mean"]},
        }
    base = pick(against, found, "row to compare with")
    for row in found:
        if row != against:
            found[row]["difference"] = {
                name: difference(
                    _figure(found[row], name), _figure(base, name), draws[row][name], draws[against][name]
                )._asdict()
                for name in draws[row]
            }
    return found


def _figure(row: dict, name: str) -> float:
    return (row["mean"] if name == "mean" else row["tasks"][name])["spearman"]


def mean_score(results: dict[str, dict]) -> float:
    """Return the mean of the tasks' figures, as the paper's column Avg."""
    return float(np.mean([result["spearman"] for result in results.values()]))
