"""The shape of a cloud of vectors and its nearest tokens, against the formulas written out, and closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from sempa_utils.checks import InputError
from sempa_utils.data.templates import EXTRACTION_TEMPLATES, fill, prepare_sentence
from sempa_utils.embedding import Embedder
from sempa_utils.evaluation import geometry


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
    places = geometry.project(vectors, mean, axes=axes)
    np.testing.assert_allclose(places @ axes + mean, vectors, atol=1e-9)
    # The spread of each coordinate is the variance that its axis explains.
    spread = places.var(axis=0)
    np.testing.assert_allclose(spread / spread.sum(), explained, atol=1e-9)


def test_other_vectors_are_projected_on_fitted_axes():
    mean, axes, _ = geometry.principal_components(cloud(20, 4), 2)
    assert geometry.project(mean[None], mean, axes=axes) == pytest.approx(np.zeros((1, 2)), abs=1e-12)
    np.testing.assert_allclose(geometry.project(mean + 3 * axes[:1], mean, axes=axes), [[3, 0]], atol=1e-9)
    assert geometry.project(cloud(7, 4, seed=1), mean, axes=axes).shape == (7, 2)


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
    half = torch.from_numpy(vectors).bfloat16().requires_grad_()
    assert geometry.uniformity(half) == geometry.uniformity(half.detach().float().numpy())


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


# --- Bad and extreme input -----------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [[1.0, 2.0], [[[1.0]]], np.empty((3, 0))])
@pytest.mark.parametrize("measure", [geometry.uniformity, geometry.isotropy, geometry.spectrum])
def test_what_is_no_list_of_vectors_is_refused(measure, vectors):
    with pytest.raises(InputError, match="array \\(n, width\\)"):
        measure(vectors)


MEASURES = [
    geometry.uniformity,
    geometry.average_cosine,
    geometry.isotropy,
    geometry.spectrum,
    geometry.effective_rank,
    geometry.principal_components,
]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_vector_that_is_no_number_is_named(measure, broken):
    vectors = cloud(5, 3)
    vectors[3, 1] = broken
    with pytest.raises(InputError, match=r"vectors\[3\], and 0 more"):
        measure(vectors)


@pytest.mark.parametrize("measure", [geometry.uniformity, geometry.average_cosine, geometry.isotropy])
def test_a_vector_of_zeros_has_no_direction(measure):
    vectors = cloud(5, 3)
    vectors[2] = 0
    with pytest.raises(InputError, match=r"vectors\[2\] is zero"):
        measure(vectors)


@pytest.mark.parametrize("measure", [one for one in MEASURES if one is not geometry.isotropy])
def test_one_vector_has_no_pairs_and_no_spread(measure):
    with pytest.raises(InputError, match="at least 2"):
        measure(cloud(1, 4))


@pytest.mark.parametrize("measure", [geometry.spectrum, geometry.effective_rank, geometry.principal_components])
@given(times=st.integers(2, 9), seed=st.integers(0, 50))
def test_equal_vectors_vary_in_no_direction(measure, times, seed):
    with pytest.raises(InputError, match="All vectors are equal"):
        measure(np.repeat(1000 * cloud(1, 5, seed), times, axis=0))


@given(SHAPES, st.sampled_from([1e-160, 1e160]))
def test_huge_and_tiny_vectors_have_the_same_shape_as_others(shape, factor):
    vectors = cloud(*shape)
    for measure in (geometry.uniformity, geometry.average_cosine, geometry.isotropy, geometry.effective_rank):
        assert measure(factor * vectors) == pytest.approx(measure(vectors), rel=1e-6, abs=1e-9)


# --- Projections of several spaces ---------------------------------------------------------------


def test_each_space_on_axes_of_its_own_or_all_on_the_base():
    spaces = {
        name: {"anchor": cloud(9, 4, seed), "positive": cloud(9, 4, seed + 10)}
        for seed, name in enumerate(("base", "trained"))
    }
    own, common = geometry.projections(spaces), geometry.projections(spaces, base="base")
    for name, roles in spaces.items():
        fit = geometry.principal_components(np.concatenate(list(roles.values())))
        for role, vectors in roles.items():
            np.testing.assert_allclose(own[name][role], geometry.project(vectors, fit[0], axes=fit[1]))
        np.testing.assert_allclose(own[name]["explained"], fit[2])
    of_base = geometry.principal_components(np.concatenate(list(spaces["base"].values())))
    on_base = geometry.project(spaces["trained"]["positive"], of_base[0], axes=of_base[1])
    np.testing.assert_allclose(common["trained"]["positive"], on_base)
    np.testing.assert_array_equal(common["trained"]["explained"], of_base[2])
    with pytest.raises(InputError, match="'base'"):
        geometry.projections(spaces, base="bace")


# --- Alignment, average cosine -------------------------------------------------------------------


def unit(vectors):
    return [[x / math.sqrt(sum(y * y for y in vector)) for x in vector] for vector in vectors]


@given(SHAPES, st.sampled_from([1.0, 2.0, 3.5]))
def test_alignment_is_the_formula(shape, alpha):
    rows, width, seed = shape
    first, second = cloud(rows, width, seed), cloud(rows, width, seed + 1)
    distances = [math.dist(a, b) ** alpha for a, b in zip(unit(first.tolist()), unit(second.tolist()), strict=True)]
    assert geometry.alignment(first, second, alpha=alpha) == pytest.approx(sum(distances) / rows)
    order = np.random.default_rng(seed).permutation(rows)
    assert geometry.alignment(first[order], second[order], alpha=alpha) == pytest.approx(sum(distances) / rows)


def test_alignment_of_known_pairs():
    assert geometry.alignment([[1.0, 0], [0, 2]], [[3.0, 0], [0, 1]]) == pytest.approx(0)
    assert geometry.alignment([[1.0, 0]], [[0, 1.0]]) == pytest.approx(2)
    assert geometry.alignment([[1.0, 0]], [[-5.0, 0]]) == pytest.approx(4)


def test_alignment_refuses_what_does_not_go_row_by_row():
    with pytest.raises(InputError, match="row by row"):
        geometry.alignment(cloud(3, 4), cloud(4, 4))


@given(SHAPES)
def test_average_cosine_is_that_of_all_pairs(shape):
    vectors = unit(cloud(*shape).tolist())
    cosines = [
        sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True)) for i in range(len(vectors)) for j in range(i)
    ]
    assert geometry.average_cosine(vectors) == pytest.approx(sum(cosines) / len(cosines), abs=1e-9)


def test_average_cosine_of_known_sets():
    assert geometry.average_cosine(np.eye(4)) == pytest.approx(0, abs=1e-12)
    assert geometry.average_cosine([[1.0, 2.0]] * 3) == pytest.approx(1)
    assert geometry.average_cosine([[1.0, 0.0], [-3.0, 0.0]]) == pytest.approx(-1)


@given(st.floats(0.1, 1.4), st.integers(3, 12))
def test_a_cone(half_angle, count):
    # Directions of an orthonormal set, all tilted towards one axis: any two have the cosine cos².
    cone = np.hstack([np.full((count, 1), math.cos(half_angle)), math.sin(half_angle) * np.eye(count)])
    cosine = math.cos(half_angle) ** 2
    assert geometry.average_cosine(cone) == pytest.approx(cosine, abs=1e-9)
    assert geometry.uniformity(cone) == pytest.approx(4 * cosine - 4, abs=1e-9)
    assert geometry.effective_rank(cone) == pytest.approx(count - 1, rel=1e-6), "the simplex around its middle"


# --- Uniformity, large ---------------------------------------------------------------------------


def test_uniformity_of_the_whole_circle():
    # E exp(4 cos θ − 4) over a uniform angle is e⁻⁴ I₀(4), with the modified Bessel function.
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 3000)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert geometry.uniformity(circle) == pytest.approx(math.log(special.i0e(4.0)), abs=0.01)


def test_uniformity_of_the_whole_sphere():
    # On a sphere in three dimensions the cosine is uniform on [−1, 1]: (1 − e⁻⁸) / 8.
    points = np.random.default_rng(0).standard_normal((3000, 3))
    assert geometry.uniformity(points) == pytest.approx(math.log((1 - math.exp(-8)) / 8), abs=0.01)


def test_uniformity_does_not_depend_on_the_blocks(monkeypatch):
    vectors = cloud(23, 4)
    expected = geometry.uniformity(vectors)
    for block in (1, 5, 22, 23, 24):
        monkeypatch.setattr(geometry, "BLOCK", block)
        assert geometry.uniformity(vectors) == pytest.approx(expected, abs=1e-12)


# --- Isotropy ------------------------------------------------------------------------------------


def literal_isotropy(vectors, normalise: bool, sign: str) -> float:
    """The definition, with the eigenvectors of VᵀV themselves."""
    vectors = np.array(unit(vectors.tolist())) if normalise else vectors
    _, eigenvectors = np.linalg.eigh(vectors.T @ vectors)
    values = []
    for vector in eigenvectors.T:
        if sign == "positive":
            vector = vector if (vectors @ vector).sum() > 0 else -vector
        values.append(sum(math.exp(vector @ row) for row in vectors))
        if sign == "both":
            values.append(sum(math.exp(-vector @ row) for row in vectors))
    return min(values) / max(values)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("sign", geometry.SIGNS)
@given(shape=SHAPES)
def test_isotropy_is_the_definition(normalise, sign, shape):
    vectors = cloud(*shape)
    expected = literal_isotropy(vectors, normalise, sign)
    assert geometry.isotropy(vectors, normalise, sign=sign) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sign", geometry.SIGNS)
@given(shape=SHAPES)
def test_isotropy_depends_on_neither_order_rotation_nor_the_signs_of_eigenvectors(sign, shape):
    rows, width, seed = shape
    vectors, random = cloud(rows, width, seed), np.random.default_rng(seed)
    expected = geometry.isotropy(vectors, sign=sign)
    rotation, _ = np.linalg.qr(random.standard_normal((width, width)))
    # The whole cloud mirrored has the same eigenvectors with the opposite sum, so each sign is chosen anew.
    for same in (vectors[random.permutation(rows)], vectors @ rotation, -vectors, vectors * [-1] + 0.0):
        assert geometry.isotropy(same, sign=sign) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("sign", geometry.SIGNS)
def test_isotropy_does_not_depend_on_which_sign_the_decomposition_returns(monkeypatch, flip, sign):
    vectors, svd = cloud(9, 4), np.linalg.svd
    expected = geometry.isotropy(vectors, sign=sign)
    monkeypatch.setattr(np.linalg, "svd", lambda *a, **k: (lambda u, s, v: (flip * u, s, flip * v))(*svd(*a, **k)))
    assert geometry.isotropy(vectors, sign=sign) == pytest.approx(expected, abs=1e-12)


def test_isotropy_of_known_sets():
    # One direction alone: Z = n·e along it, n across it, n/e against it.
    same = np.repeat([[3.0, 4.0, 0.0]], 5, axis=0)
    assert geometry.isotropy(same) == pytest.approx(math.exp(-1))
    assert geometry.isotropy(same, sign="both") == pytest.approx(math.exp(-2))
    assert geometry.isotropy(same[:1]) == pytest.approx(math.exp(-1))
    # Each axis and its opposite: every direction the same, whichever sign is taken.
    cross = np.vstack([np.eye(4), -np.eye(4)])
    for sign in geometry.SIGNS:
        assert geometry.isotropy(cross, sign=sign) == pytest.approx(1)
    assert geometry.isotropy(np.zeros((3, 2)), normalise=False) == pytest.approx(1)
    assert geometry.isotropy(np.random.default_rng(0).standard_normal((50_000, 3))) == pytest.approx(1, abs=0.02)


@given(st.floats(0.2, 0.9), st.integers(150, 250))
def test_isotropy_of_a_cone_follows_from_its_average_cosine(cosine, count):
    # Z = n·exp(√c) along the axis of many vectors of pairwise cosine c, about n across it.
    cone = np.hstack([np.full((count, 1), math.sqrt(cosine)), math.sqrt(1 - cosine) * np.eye(count)])
    assert geometry.isotropy(cone) == pytest.approx(math.exp(-math.sqrt(cosine)), rel=0.02)
    assert geometry.isotropy(cone, sign="both") == pytest.approx(math.exp(-2 * math.sqrt(cosine)), rel=0.02)


def test_what_overflows_exp_has_the_right_limit():
    long = np.array([[2000.0, 0.0], [0.0, 1.0]])  # e²⁰⁰⁰ is no float
    assert geometry.isotropy(long, normalise=False) == 0
    assert geometry.isotropy(np.array([[2000.0, 0.0], [0.0, 2000.0]]), normalise=False) == pytest.approx(1)
    assert geometry.isotropy(np.array([[2000.0], [-2000.0]]), normalise=False, sign="both") == pytest.approx(1)


def test_directions_without_vectors_take_part():
    # Two vectors in a plane of a five-dimensional space; three eigenvectors have Z = n.
    vectors = np.zeros((2, 5))
    vectors[:, 0], vectors[:, 1] = 1.0, [0.5, -0.5]
    for sign in geometry.SIGNS:
        assert geometry.isotropy(vectors, sign=sign) == pytest.approx(literal_isotropy(vectors, True, sign), rel=1e-6)
    with pytest.raises(InputError, match="'both'"):
        geometry.isotropy(vectors, sign="bath")


# --- Spectrum ------------------------------------------------------------------------------------


@given(SHAPES)
def test_the_spectrum_is_that_of_the_covariance(shape):
    rows, width, seed = shape
    vectors = cloud(rows, width, seed)
    eigenvalues = np.linalg.eigvalsh(np.cov(vectors, rowvar=False))[::-1][: min(rows, width)]
    np.testing.assert_allclose(geometry.spectrum(vectors), eigenvalues / eigenvalues.sum(), atol=1e-9)
    shares = [share for share in geometry.spectrum(vectors) if share > 0]
    entropy = -sum(share * math.log(share) for share in shares)
    assert geometry.effective_rank(vectors) == pytest.approx(math.exp(entropy), rel=1e-6)
    order = np.random.default_rng(seed).permutation(rows)
    assert geometry.effective_rank(vectors[order] + 5) == pytest.approx(math.exp(entropy), rel=1e-6)


@given(SHAPES)
def test_effective_rank_lies_between_one_and_the_rank(shape):
    rows, width, seed = shape
    assert 1 - 1e-9 <= geometry.effective_rank(cloud(rows, width, seed)) <= min(rows - 1, width) + 1e-9


def test_effective_rank_of_known_sets():
    assert geometry.effective_rank(np.outer(np.arange(5.0), [1.0, 2.0])) == pytest.approx(1)
    assert geometry.effective_rank(np.vstack([np.eye(6), -np.eye(6)])) == pytest.approx(6)
    two, three = [[3.0, 0.0], [-3.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    assert geometry.effective_rank(two) == pytest.approx(1) and geometry.effective_rank(three) == pytest.approx(2)


# --- Two samples ---------------------------------------------------------------------------------

SAMPLES = st.lists(st.integers(-5, 5), min_size=1, max_size=15)  # few values, so that some are equal


@given(SAMPLES, SAMPLES)
def test_the_area_under_the_curve_counts_pairs(higher, lower):
    wins = [(a > b) + (a == b) / 2 for a in higher for b in lower]
    assert geometry.area_under_curve(higher, lower) == pytest.approx(sum(wins) / len(wins))
    assert geometry.area_under_curve(lower, higher) == pytest.approx(1 - sum(wins) / len(wins))


@given(SAMPLES, SAMPLES)
def test_misplaced_is_what_the_best_threshold_leaves_on_the_wrong_side(higher, lower):
    def wrong(threshold):
        return np.mean(np.array(higher) <= threshold) + np.mean(np.array(lower) > threshold)

    best = min(wrong(threshold) for threshold in [-math.inf, *higher, *lower])
    assert geometry.misplaced(higher, lower) == pytest.approx(best)


def test_an_order_that_is_upside_down_has_all_on_the_wrong_side():
    below, above = np.linspace(0, 1, 20), np.linspace(2, 3, 30)
    assert geometry.misplaced(above, below) == 0 and geometry.misplaced(below, above) == 1


def test_two_normal_samples_are_told_apart_as_the_formulas_say():
    random, apart = np.random.default_rng(0), 1.2
    first, second = random.normal(apart, 1, 20_000), random.normal(0, 1, 20_000)
    assert geometry.area_under_curve(first, second) == pytest.approx(stats.norm.cdf(apart / math.sqrt(2)), abs=0.01)
    assert geometry.misplaced(first, second) == pytest.approx(2 * stats.norm.cdf(-apart / 2), abs=0.015)
    assert geometry.misplaced(first, first) == pytest.approx(1)
    assert geometry.misplaced(first + 100, first) == pytest.approx(0)


@pytest.mark.parametrize("measure", [geometry.area_under_curve, geometry.misplaced])
def test_samples_are_checked(measure):
    for broken in ([], [1.0, math.nan]):
        with pytest.raises(InputError, match="A sample needs"):
            measure([0.5], broken)


# --- Aligned tokens ------------------------------------------------------------------------------

SENTENCES = ["The soup needs more salt.", "Hurry, the toast is burning!", "Leila took it back to the shop."]


def plain_forward(model, tokenizer, sentence):
    """Hidden states of the last token, from a forward of the sentence by itself."""
    prompt = fill(EXTRACTION_TEMPLATES["prompteol"], prepare_sentence(sentence))
    with torch.no_grad():
        output = model(**tokenizer(prompt, return_tensors="pt"), output_hidden_states=True)
    return [states[0, -1] for states in output.hidden_states], output.logits[0, -1]


def with_random_adapter(language_model):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    return replace(language_model, model=get_peft_model(language_model.model, config).eval())


@pytest.mark.parametrize("adapter", [False, True])
def test_aligned_tokens_are_the_likeliest_next_ones(tiny, adapter):
    scale = torch.linspace(0.2, 3, tiny.model.config.hidden_size)
    with torch.no_grad():
        tiny.model.model.norm.weight.mul_(scale)  # so that leaving the norm out, or doing it twice, is seen
    language_model = with_random_adapter(tiny) if adapter else tiny
    embedder = Embedder(language_model)
    found = geometry.aligned_tokens(language_model, embedder.encode(SENTENCES), top_k=7)
    known = len(tiny.tokenizer)
    for row, sentence in zip(found, SENTENCES, strict=True):
        _, logits = plain_forward(language_model.model, tiny.tokenizer, sentence)
        assert row.tolist() == logits[:known].topk(7).indices.tolist()
    assert found.dtype == torch.int64


def test_an_inner_layer_goes_through_the_final_norm_first(tiny):
    language_model = with_random_adapter(tiny)
    with torch.no_grad():
        tiny.model.model.norm.weight.mul_(torch.linspace(0.2, 3, tiny.model.config.hidden_size))
    states = Embedder(language_model).encode_layers(SENTENCES)
    head, norm = tiny.model.lm_head, tiny.model.model.norm
    for row, sentence in enumerate(SENTENCES):
        inner, _ = plain_forward(language_model.model, tiny.tokenizer, sentence)
        with torch.no_grad():
            logits = [head(norm(inner[0])), head(norm(inner[1])), head(inner[2])]
        for layer, expected in enumerate(logits):
            found = geometry.aligned_tokens(language_model, states[layer], layer=layer)[row]
            assert found.tolist() == expected[: len(tiny.tokenizer)].topk(10).indices.tolist()
    last = geometry.aligned_tokens(language_model, states[-1])
    assert last.tolist() == geometry.aligned_tokens(language_model, states[2], layer=2).tolist()
    assert last.tolist() != geometry.aligned_tokens(language_model, states[-1], layer=1).tolist()
    assert (
        geometry.aligned_tokens(language_model, states[1], layer=-2).tolist()
        == geometry.aligned_tokens(language_model, states[1], layer=1).tolist()
    )


def test_rows_of_the_head_that_stand_for_no_token_are_left_out(tiny):
    known = len(tiny.tokenizer)
    wider = replace(tiny, model=tiny_model(vocabulary=known + 40))
    states = Embedder(wider).encode(SENTENCES)
    assert geometry.aligned_tokens(wider, states, top_k=known).max() == known - 1


def test_aligned_tokens_do_not_depend_on_the_batch(tiny, monkeypatch):
    states = Embedder(tiny).encode(SENTENCES)
    expected = geometry.aligned_tokens(tiny, states).tolist()
    for block in (1, 2, 3):
        monkeypatch.setattr(geometry, "BLOCK", block)
        assert geometry.aligned_tokens(tiny, states).tolist() == expected
    assert geometry.aligned_tokens(tiny, states[::-1].copy()).tolist() == expected[::-1]


def test_aligned_tokens_refuse_what_cannot_be(tiny):
    states = Embedder(tiny).encode(SENTENCES)
    with pytest.raises(InputError, match="width 5"):
        geometry.aligned_tokens(tiny, states[:, :5])
    for top_k in (0, 10_000):
        with pytest.raises(InputError, match="Choose from 1"):
            geometry.aligned_tokens(tiny, states, top_k=top_k)
    states[1, 0] = math.nan
    with pytest.raises(InputError, match=r"vectors\[1\]"):
        geometry.aligned_tokens(tiny, states)


def test_gar_is_the_formula(tiny):
    # Literally: the intersection sentence by sentence, then the union of them.
    tokens = [tiny.tokenizer(sentence, add_special_tokens=False)["input_ids"] for sentence in SENTENCES]
    aligned = geometry.aligned_tokens(tiny, Embedder(tiny).encode(SENTENCES), top_k=60)
    matched, held = set(), set()
    for row, own in zip(aligned.tolist(), tokens, strict=True):
        for token in own:
            held.add(token)
            if token in row:
                matched.add(token)
    assert 0 < len(matched) < len(held)
    assert geometry.gar(tiny, SENTENCES, aligned=aligned) == len(matched) / len(held)
    assert geometry.gar(tiny, SENTENCES[::-1], aligned=aligned.flip(0)) == len(matched) / len(held)


def test_gar_matches_within_a_sentence_only(tiny):
    first, second = (tiny.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("abc", "xyz"))
    assert not set(first) & set(second)
    width = min(len(first), len(second))
    own, crossed = torch.tensor([first[:width], second[:width]]), torch.tensor([second[:width], first[:width]])
    assert geometry.gar(tiny, ["abc", "xyz"], aligned=crossed) == 0, "the other sentence's tokens are no match"
    assert geometry.gar(tiny, ["abc", "xyz"], aligned=own) == 2 * width / len({*first, *second})
    assert geometry.gar(tiny, ["abc", "abc"], aligned=torch.tensor([first, first])) == 1, "a token is counted once"


def test_gar_with_every_token_aligned_is_one(tiny):
    everything = torch.arange(len(tiny.tokenizer)).repeat(len(SENTENCES), 1)
    assert (
        geometry.gar(tiny, SENTENCES, aligned=everything)
        == geometry.gar(tiny, SENTENCES, aligned=everything, fold=True)
        == 1
    )


def test_folded_tokens_are_equal_whatever_space_and_case(tiny):
    [spaced] = tiny.tokenizer(" a", add_special_tokens=False)["input_ids"]
    [bare], [capital] = (tiny.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "A"))
    assert len({spaced, bare, capital}) == 3
    for token in (spaced, capital):
        assert geometry.gar(tiny, ["a"], aligned=torch.tensor([[token]])) == 0
        assert geometry.gar(tiny, ["a"], aligned=torch.tensor([[token]]), fold=True) == 1


def test_gar_needs_a_row_for_each_sentence(tiny):
    with pytest.raises(InputError, match="one row for each"):
        geometry.gar(tiny, SENTENCES, aligned=torch.zeros(2, 10))
    with pytest.raises(InputError, match="one row for each"):
        geometry.gar(tiny, [], aligned=torch.zeros(0, 10))
    with pytest.raises(InputError, match="no token"):
        geometry.gar(tiny, [""], aligned=torch.zeros(1, 10, dtype=int))


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" rain", "exact"),
        ("Rain", "exact"),
        ("rains", "stem"),
        ("cancelling", "stem"),
        ("run", "none"),  # ran: the rule knows no grammar
        ("can", "none"),  # a beginning of cancelled, too short to tell
        ("cancellations", "none"),  # goes on for six letters
        ("weather", "none"),
        (" ", "none"),
        (".", "none"),
        ("2", "exact"),
    ],
)
def test_a_token_is_matched_with_the_words_of_its_sentence(token, expected):
    assert geometry.match(token, "Rain! He ran; the 2 games were cancelled.") == expected


@pytest.mark.model
def test_aligned_tokens_of_the_packaged_model(packaged):
    [row] = geometry.aligned_tokens(packaged, Embedder(packaged).encode(SENTENCES[:1]))
    _, logits = plain_forward(packaged.model, packaged.tokenizer, SENTENCES[0])
    assert row.tolist() == logits.topk(10).indices.tolist()
    assert "salt" in {text.strip().lower() for text in geometry.decode(packaged.tokenizer, row)}


# --- before and after --------------------------------------------------------------------------


@given(SHAPES)
def test_displacement_is_the_formula_row_by_row(shape):
    rows, width, seed = shape
    before, after = cloud(rows, width, seed), cloud(rows, width, seed + 1)
    lengths = [math.dist(one, other) for one, other in zip(before, after)]
    mean_step = [sum(column) / rows for column in (after - before).T]
    share = rows * sum(x * x for x in mean_step) / sum(x * x for x in lengths)
    moved, alike = geometry.displacement(before, after)
    assert moved == pytest.approx(np.mean([x / math.hypot(*row) for x, row in zip(lengths, before)]))
    assert alike == pytest.approx(share)
    assert 0 <= alike <= 1 + 1e-12


def test_displacement_in_closed_form():
    vectors = cloud(20, 4)
    assert geometry.displacement(vectors, vectors) == (0.0, 0.0)
    assert geometry.displacement(vectors, 1.5 * vectors)[0] == pytest.approx(0.5)
    assert geometry.displacement(vectors, vectors + [3.0, 0, 0, 4.0])[1] == pytest.approx(1.0), "one step for all"
    apart = np.array([[1.0, 0], [-1.0, 0]])
    assert geometry.displacement(apart, 2 * apart) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-15))
    with pytest.raises(InputError, match=r"\(20, 4\) and \(19, 4\)"):
        geometry.displacement(vectors, vectors[1:])
    with pytest.raises(InputError, match=r"vectors\[1\] is zero"):
        geometry.displacement([[1.0, 0], [0, 0]], apart)
