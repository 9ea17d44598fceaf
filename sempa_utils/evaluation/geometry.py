"""The shape of an embedding space, and the vocabulary tokens that its vectors stand next to.

All measures are taken in float64. A vector of zeros has no direction, and one with NaN no place: both are refused.
"""

import numpy as np
import torch
from scipy import special, stats
from tqdm.auto import tqdm

from sempa_utils.checks import InputError, pick
from sempa_utils.models import LanguageModel

REVISION = 1  # of the measures; raised with every change that moves one
SIGNS = ("positive", "both")  # which of an eigenvector's two directions `isotropy` looks at
BLOCK = 256  # rows whose cosines with all others, or whose logits, are in memory together


# --- projections -----------------------------------------------------------------------------------


def principal_components(vectors, count: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit PCA; return (mean (width,), axes (count, width), explained share of variance (count,)).

    The sign of each axis is fixed: its largest component by size is positive. No more axes come back than there are
    vectors or dimensions. Raises `InputError` for vectors that are all equal.
    """
    vectors = _checked(vectors, at_least=2)
    mean = vectors.mean(axis=0)
    singular, axes = _spread(vectors)
    axes = axes[:count]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return mean, axes * signs[:, None], _shares(singular)[:count]


def project(vectors, mean: np.ndarray, *, axes: np.ndarray) -> np.ndarray:
    """Return the coordinates (n, count) of vectors (n, width) on fitted axes."""
    return (np.asarray(vectors, dtype=float) - mean) @ axes.T


def projections(
    spaces: dict[str, dict[str, np.ndarray]], base: str | None = None, *, count: int = 2
) -> dict[str, dict[str, np.ndarray]]:
    """Project each space {name: {role: (n, width)}} on axes of its own, or all on those fitted on the space `base`.

    Returns {name: {role: (n, count), "explained": (count,)}}; one fit sees all roles of a space. With `base`,
    "explained" is the base's.
    """
    fitted_on = {name: name if base is None else pick(base, list(spaces), what="space") for name in spaces}
    points = {name: np.concatenate(list(spaces[name].values())) for name in set(fitted_on.values())}
    fits = {name: principal_components(vectors, count) for name, vectors in points.items()}
    projected = {}
    for name, roles in spaces.items():
        mean, axes, explained = fits[fitted_on[name]]
        projected[name] = {role: project(vectors, mean, axes=axes) for role, vectors in roles.items()}
        projected[name]["explained"] = explained
    return projected


# --- spread ----------------------------------------------------------------------------------------


def uniformity(vectors) -> float:
    """Return log E exp(−2‖x − y‖²) over all pairs of distinct rows, on unit vectors; lower is better.

    From −8 (two opposite points) to 0 (one point repeated). Source: Wang and Isola (2020); SemPA, Table 5.
    """
    unit = _unit(_checked(vectors, at_least=2))
    total = 0.0
    for start in range(0, len(unit), BLOCK):
        cosines = unit[start : start + BLOCK] @ unit[start:].T
        above = np.triu_indices(len(cosines), k=1, m=cosines.shape[1])  # each pair once
        total += np.exp(4 * cosines[above] - 4).sum()  # ‖x − y‖² = 2 − 2 x·y
    return float(np.log(2 * total / (len(unit) * (len(unit) - 1))))


def alignment(first, second, *, alpha: float = 2.0) -> float:
    """Return E‖f(x) − f(x⁺)‖^α over positive pairs, row by row, on unit vectors; lower is better.

    `first` and `second` (n, width) hold a pair's two vectors in the same row. Source: Wang and Isola (2020).
    """
    first, second = _checked(first), _checked(second)
    if first.shape != second.shape:
        raise InputError(f"Pairs stand row by row, so {first.shape} and {second.shape} do not go together.")
    return float((np.linalg.norm(_unit(first) - _unit(second), axis=1) ** alpha).mean())


def average_cosine(vectors) -> float:
    """Return the mean cosine of all pairs of distinct rows."""
    unit = _unit(_checked(vectors, at_least=2))
    count = len(unit)
    # The sum of all n² cosines is the squared length of the sum; n of them are a vector with itself.
    return float((np.square(unit.sum(axis=0)).sum() - count) / (count * (count - 1)))


def isotropy(vectors, normalise: bool = True, *, sign: str = "positive") -> float:
    """Return min_j Z(u_j) / max_j Z(u_j), with Z(c) = Σ_s exp(c·v_s) and u_j the eigenvectors of VᵀV; higher is better.

    `normalise` makes the v_s unit vectors first. An eigenvector has two directions: "positive" takes the one in which
    the vectors point on the whole (Σ_s u·v_s > 0; where that sum is 0, the one of larger Z), "both" takes u and −u.
    Where V does not fill its dimensions, Z = n of the directions without vectors takes part. Where eigenvalues are
    equal, their eigenvectors are any basis, and the measure depends on which.

    Source: Mu and Viswanath (2018); SemPA, Table 5, which states neither choice. Its figures are what unit vectors and
    "positive" give for the mean cosine that its uniformity implies.
    """
    pick(sign, SIGNS, what="sign")
    vectors = _checked(vectors)
    vectors = _unit(vectors) if normalise else vectors
    left, singular, _ = np.linalg.svd(vectors, full_matrices=False)
    along = left * singular  # u_j·v_s of vector s (row) on eigenvector j (column)
    either = np.stack([special.logsumexp(side, axis=0) for side in (along, -along)])
    if sign == "positive":
        total, size = along.sum(axis=0), np.abs(along).sum(axis=0)
        signed = either[np.where(total > 0, 0, 1), np.arange(len(total))]
        either = np.where(np.abs(total) > 1e-9 * size, signed, either.max(axis=0))
    if vectors.shape[1] > len(vectors):
        either = np.append(either, np.log(len(vectors)))
    return float(np.exp(either.min() - either.max()))


def spectrum(vectors) -> np.ndarray:
    """Return each eigenvalue's share of the covariance's trace, falling: (min(n, width),), of sum 1.

    Raises `InputError` for vectors that are all equal.
    """
    singular, _ = _spread(_checked(vectors, at_least=2))
    return _shares(singular)


def effective_rank(vectors) -> float:
    """Return exp of the entropy of `spectrum`: in how many directions the vectors vary, 1 to min(n − 1, width).

    Source: Roy and Vetterli (2007), of the covariance matrix.
    """
    return float(np.exp(stats.entropy(spectrum(vectors))))


# --- before and after ------------------------------------------------------------------------------


def displacement(before, after) -> tuple[float, float]:
    """Return how far rows have moved, and how much of that is the same for all rows.

    The first is the mean of ‖after − before‖ / ‖before‖, the second the share, 0 to 1, of the squared movement that
    the mean movement makes up (0 where nothing moves). `before` and `after` are (n, width). Raises `InputError` for
    unequal shapes and for a row of zeros before.
    """
    before, after = _checked(before), _checked(after)
    if before.shape != after.shape:
        raise InputError(f"Rows are compared one by one, so {before.shape} and {after.shape} do not go together.")
    lengths = np.linalg.norm(before, axis=1)
    if not lengths.all():
        raise InputError(f"vectors[{lengths.argmin()}] is zero and its movement has no measure. Leave it out.")
    movement = after - before
    total = np.square(movement).sum()
    alike = len(movement) * np.square(movement.mean(axis=0)).sum() / total if total else 0.0
    return float((np.linalg.norm(movement, axis=1) / lengths).mean()), float(alike)


# --- two samples -----------------------------------------------------------------------------------


def area_under_curve(higher, lower) -> float:
    """Return P(a > b) + P(a = b) / 2 for a drawn from `higher` (n,) and b from `lower` (m,), over all n·m pairs.

    This is the area under the ROC curve: 1 where every a is above every b, 0.5 where neither is higher.
    """
    higher, lower = _sample(higher), _sample(lower)
    ranks = stats.rankdata(np.concatenate([higher, lower]))[: len(higher)]
    return float((ranks.sum() / len(higher) - (len(higher) + 1) / 2) / len(lower))


def misplaced(higher, lower) -> float:
    """Return the smallest sum of the shares of `higher` (n,) below a threshold and of `lower` (m,) above it.

    0 where a threshold tells the two apart, 1 where none is better than none at all, as for an order that is upside
    down. It is 1 less the one-sided Kolmogorov–Smirnov distance; where `higher` is the upper of two densities that
    cross once, also the area under both of them (Inman and Bradley 1989).
    """
    higher, lower = np.sort(_sample(higher)), np.sort(_sample(lower))
    thresholds = np.concatenate([higher, lower])
    below = [np.searchsorted(one, thresholds, side="right") / len(one) for one in (higher, lower)]
    return float(1 - max(0.0, (below[1] - below[0]).max()))


# --- aligned tokens --------------------------------------------------------------------------------


@torch.no_grad()
def aligned_tokens(
    language_model: LanguageModel, states, *, top_k: int = 10, layer: int = -1, show_progress_bar: bool = False
) -> torch.Tensor:
    """Return the `top_k` vocabulary tokens nearest to each state through the head: numbers (n, top_k), nearest first.

    `states` (n, width) are vectors read at `layer`, an index of transformers' `hidden_states`. The last ones have been
    through the final norm; an inner layer's go through it here. Source: Nie et al. (2025); SemPA, Table 7.
    """
    states = torch.as_tensor(_checked(states), dtype=torch.float32)
    head, layers = language_model.model.get_output_embeddings(), language_model.config.num_hidden_layers
    if states.shape[1] != language_model.config.hidden_size:
        raise InputError(f"States of width {states.shape[1]} are not of {language_model.name}. Encode with this model.")
    vocabulary = len(language_model.tokenizer)  # a head may have rows that stand for no token
    if not 1 <= top_k <= vocabulary:
        raise InputError(f"top_k is {top_k} and the vocabulary has {vocabulary} tokens. Choose from 1 to that.")
    found = []
    for part in tqdm(states.split(BLOCK), desc="aligned tokens", leave=False, disable=not show_progress_bar):
        part = part.to(language_model.device, head.weight.dtype)
        if layer not in (-1, layers):
            part = language_model.decoder.norm(part)
        found.append(head(part)[:, :vocabulary].float().topk(top_k).indices.cpu())
    return torch.cat(found)


def gar(language_model: LanguageModel, sentences: list[str], *, aligned: torch.Tensor, fold: bool = False) -> float:
    """Return |∪_i (aligned_i ∩ tokens_i)| / |∪_i tokens_i| over sentences and their aligned tokens (n, K).

    A token counts where it is aligned with a sentence that holds it, once for all such sentences; so the figure grows
    with K and depends on how many sentences there are. Tokens are compared by number, as the formula says; `fold`
    compares what they spell, without the space before them and in lower case. Raises `InputError` unless there is a
    row of aligned tokens for each sentence. Source: Nie et al. (2025); SemPA, Table 7 (K = 10, 10,000 sentences).
    """
    if len(sentences) != len(aligned) or not len(sentences):
        raise InputError(
            f"{len(sentences)} sentences and {len(aligned)} rows of aligned tokens: give one row for each sentence."
        )
    tokenizer = language_model.tokenizer
    tokens = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    rows = aligned.tolist()
    if fold:
        distinct = sorted({token for row in (*tokens, *rows) for token in row})
        spelt = {token: text.strip().lower() for token, text in zip(distinct, decode(tokenizer, distinct))}
        tokens, rows = ([[spelt[token] for token in row] for row in side] for side in (tokens, rows))
    held = set().union(*tokens)
    if not held:
        raise InputError("The sentences have no token at all. Give sentences with words.")
    return len(set().union(*(set(row) & set(own) for row, own in zip(rows, tokens)))) / len(held)


def decode(tokenizer, tokens) -> list[str]:
    """Return what each token number spells by itself, its leading space included."""
    return tokenizer.batch_decode([[int(token)] for token in tokens])


def match(token: str, sentence: str) -> str:
    """Tell how a token's text is found among a sentence's words: "exact", "stem" or "none".

    Case and spaces do not count. "stem" is a rule of thumb without a dictionary: the two words begin with the same
    four letters or more, and neither goes on for more than three (play – player; but also state – station, and not
    run – ran). A token without a letter or digit matches nothing.
    """
    word = "".join(filter(str.isalnum, token)).lower()
    words = _words(sentence)
    if word and word in words:
        return "exact"
    return "stem" if any(_same_stem(word, other) for other in words) else "none"


def _words(sentence: str) -> set[str]:
    return set("".join(letter if letter.isalnum() else " " for letter in sentence.lower()).split())


def _same_stem(one: str, other: str) -> bool:
    common = next((n for n, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    return common >= 4 and max(len(one), len(other)) - common <= 3


# --- checks ----------------------------------------------------------------------------------------


def _checked(vectors, at_least: int = 1) -> np.ndarray:
    """Return `vectors` (n, width) as float64. Raises `InputError` for another shape, too few rows, NaN or infinity."""
    if torch.is_tensor(vectors):
        vectors = vectors.detach().cpu().double()  # NumPy knows no bfloat16
    vectors = np.asarray(vectors, dtype=float)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise InputError(f"Vectors come as an array (n, width), not {vectors.shape}. Stack them first.")
    if len(vectors) < at_least:
        raise InputError(f"{len(vectors)} vectors are too few: this takes at least {at_least}.")
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise InputError(
            f"vectors[{broken.argmax()}], and {broken.sum() - 1} more, hold NaN or infinity. Leave them out, or "
            "encode in float32 or bfloat16."
        )
    return vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1. Raises `InputError` for a row of zeros."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    if not largest.all():
        raise InputError(f"vectors[{largest.argmin()}] is zero and has no direction. Leave it out.")
    vectors = vectors / largest  # first, so that the squares of huge or tiny numbers stay numbers
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _spread(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centred vectors' singular values, falling, and their axes. Raises `InputError` for no spread."""
    _, singular, axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    if singular[0] <= 1e-12 * np.abs(vectors).max():  # the mean of equal rows is not always that row to the last bit
        raise InputError("All vectors are equal, so they vary in no direction. Give vectors that differ.")
    return singular, axes


def _shares(singular: np.ndarray) -> np.ndarray:
    variance = (singular / singular[0]) ** 2  # the largest first, so that huge ones stay numbers
    return variance / variance.sum()


def _sample(values) -> np.ndarray:
    values = np.asarray(values, dtype=float).ravel()
    if not len(values) or not np.isfinite(values).all():
        raise InputError("A sample needs at least one value, and none that is NaN or infinite. Leave those out.")
    return values
