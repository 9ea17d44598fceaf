"""The shape of a cloud of vectors, against covariance eigenvectors and a double loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sempa_utils import geometry


def cloud(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Normal points, stretched differently along each axis of a random basis, away from the origin."""
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(random.standard_normal((width, width)))
    return (random.standard_normal((rows, width)) * np.arange(1, width + 1)) @ basis + random.standard_normal(width)


SHAPES = st.tuples(st.integers(3, 25), st.integers(2, 8), st.integers(0, 1000))


# --- PCA ---------------------------------------------------------------------------------------


@given(SHAPES)
def test_axes_are_the_eigenvectors_of_the_covariance(shape):
    rows, width, seed = shape
    vectors = cloud(rows, width, seed)
    count = min(2, rows - 1)
    mean, axes, explained = geometry.principal_components(vectors, count)
    covariance = np.cov(vectors, rowvar=False)
    largest = np.linalg.eigvalsh(covariance)[::-1][:count]
    np.testing.assert_allclose(mean, vectors.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(explained, largest / np.trace(covariance), atol=1e-9)
    # C·u = λ·u holds for any choice among eigenvectors of nearly equal λ.
    np.testing.assert_allclose(axes @ covariance, largest[:, None] * axes, atol=1e-8)


@given(SHAPES)
def test_axes_are_orthonormal_and_signed(shape):
    rows, width, seed = shape
    _, axes, _ = geometry.principal_components(cloud(rows, width, seed), 2)
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-9)
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in axes)


def test_the_sign_does_not_depend_on_the_cloud_being_mirrored():
    # A mirrored cloud has the same axes; without a convention a picture would flip from run to run.
    vectors = cloud(40, 5)
    _, axes, _ = geometry.principal_components(vectors)
    _, mirrored, _ = geometry.principal_components(-vectors)
    np.testing.assert_allclose(mirrored, axes, atol=1e-9)


def test_explained_shares_fall_and_sum_to_one():
    _, axes, explained = geometry.principal_components(cloud(30, 6), count=6)
    assert axes.shape == (6, 6)
    assert explained.sum() == pytest.approx(1)
    assert (np.diff(explained) <= 0).all()
    assert geometry.principal_components(cloud(30, 6), count=2)[2].sum() < 1


def test_points_on_a_line_have_one_component():
    line = np.outer(np.linspace(-1, 1, 9), [3.0, 4.0, 0.0]) + [5.0, 5.0, 5.0]
    _, axes, explained = geometry.principal_components(line)
    np.testing.assert_allclose(axes[0], [0.6, 0.8, 0.0], atol=1e-12)
    np.testing.assert_allclose(explained, [1, 0], atol=1e-12)


@given(SHAPES)
def test_all_components_give_the_cloud_back(shape):
    rows, width, seed = shape
    vectors = cloud(rows, width, seed)
    mean, axes, explained = geometry.principal_components(vectors, width)
    places = geometry.project(vectors, mean, axes)
    np.testing.assert_allclose(places @ axes + mean, vectors, atol=1e-9)
    # The spread of each coordinate is the variance that its axis explains.
    spread = places.var(axis=0)
    np.testing.assert_allclose(spread / spread.sum(), explained, atol=1e-9)


def test_other_vectors_are_projected_on_fitted_axes():
    mean, axes, _ = geometry.principal_components(cloud(20, 4), 2)
    assert geometry.project(mean[None], mean, axes) == pytest.approx(np.zeros((1, 2)), abs=1e-12)
    np.testing.assert_allclose(geometry.project(mean + 3 * axes[:1], mean, axes), [[3, 0]], atol=1e-9)
    assert geometry.project(cloud(7, 4, seed=1), mean, axes).shape == (7, 2)


def test_the_order_of_rows_does_not_move_the_picture():
    vectors = cloud(50, 6)
    order = np.random.default_rng(1).permutation(50)
    for one, other in zip(
        geometry.principal_components(vectors), geometry.principal_components(vectors[order]), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_tensors_are_taken_as_arrays():
    vectors = cloud(10, 3).astype(np.float32)
    for one, other in zip(
        geometry.principal_components(torch.from_numpy(vectors)), geometry.principal_components(vectors), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert geometry.uniformity(torch.from_numpy(vectors)) == geometry.uniformity(vectors)


# --- Uniformity --------------------------------------------------------------------------------


def literal_uniformity(vectors) -> float:
    """The formula, pair by pair in plain Python."""
    unit = [[x / math.sqrt(sum(y * y for y in vector)) for x in vector] for vector in vectors]
    terms = [
        math.exp(-2 * sum((a - b) ** 2 for a, b in zip(unit[i], unit[j], strict=True)))
        for i in range(len(unit))
        for j in range(i)
    ]
    return math.log(sum(terms) / len(terms))


@given(SHAPES)
def test_uniformity_is_the_formula(shape):
    rows, width, seed = shape
    vectors = cloud(rows, width, seed)
    assert geometry.uniformity(vectors) == pytest.approx(literal_uniformity(vectors.tolist()), abs=1e-9)


@given(st.integers(2, 10), st.integers(0, 100))
def test_a_point_repeated_has_uniformity_zero(times, seed):
    vectors = np.repeat(cloud(1, 5, seed), times, axis=0)
    assert geometry.uniformity(vectors) == pytest.approx(0, abs=1e-9)


def test_two_opposite_points_are_as_far_apart_as_can_be():
    assert geometry.uniformity([[2.0, 0.0], [-1.0, 0.0]]) == pytest.approx(-8)  # −2 · 2²


def test_even_spread_is_lower_than_a_heap():
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert geometry.uniformity(circle) < geometry.uniformity(circle + 3) < 0


@given(SHAPES)
def test_neither_order_nor_length_nor_rotation_changes_uniformity(shape):
    rows, width, seed = shape
    vectors, random = cloud(rows, width, seed), np.random.default_rng(seed)
    expected = geometry.uniformity(vectors)
    rotation, _ = np.linalg.qr(random.standard_normal((width, width)))
    assert geometry.uniformity(vectors[random.permutation(rows)]) == pytest.approx(expected, abs=1e-9)
    assert geometry.uniformity(vectors * random.uniform(0.1, 9, (rows, 1))) == pytest.approx(expected, abs=1e-9)
    assert geometry.uniformity(vectors @ rotation) == pytest.approx(expected, abs=1e-9)
