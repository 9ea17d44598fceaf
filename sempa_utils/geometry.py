"""The shape of an embedding space: principal components and uniformity."""

import numpy as np


def principal_components(vectors, count: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit PCA; return (mean (width,), axes (count, width), explained share of variance (count,)).

    The sign of each axis is fixed: its largest component by size is positive.
    """
    vectors = np.asarray(vectors, dtype=float)
    mean = vectors.mean(axis=0)
    _, singular, axes = np.linalg.svd(vectors - mean, full_matrices=False)
    axes = axes[:count]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    variance = singular**2
    return mean, axes * signs[:, None], variance[:count] / variance.sum()


def project(vectors, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the coordinates (n, count) of vectors (n, width) on fitted axes."""
    return (np.asarray(vectors, dtype=float) - mean) @ axes.T


def uniformity(vectors) -> float:
    """Return log E exp(−2‖x − y‖²) over all pairs of distinct rows, on unit vectors; lower is better.

    Source: Wang and Isola (2020); SemPA, Table 5.
    """
    vectors = np.asarray(vectors, dtype=float)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit), k=1)
    squared = 2 - 2 * (unit @ unit.T)[first, second]
    return float(np.log(np.mean(np.exp(-2 * squared))))
