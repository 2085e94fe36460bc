"""What is done to segmentations after they are made, against slow and plain computations."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_hrdv2 import segment
from napari_hrdv2.core import refine
from napari_hrdv2.core.base import PixelClass, default_class
from napari_hrdv2.core.classifier import PixelClassifier
from napari_hrdv2.core.errors import (
    Cancelled,
    HRDv2Error,
    ImageError,
    RefinementWarning,
    SettingsMismatchError,
)
from napari_hrdv2.core.refine import Refinement, guided_filter, make_refinement, without_specks

EVERYTHING = [{"guided": 2}, {"majority": 1}, {"min_size": 4}, {"crf": True}]


def classes(*labels: int) -> tuple[PixelClass, ...]:
    return tuple(default_class(label) for label in labels)


def sure_of(index: np.ndarray, count: int | None = None) -> np.ndarray:
    """Probabilities (h, w, K) of somebody who is rather sure of a segmentation."""
    count = count or int(index.max()) + 1
    one = np.eye(count, dtype=np.float32)[index]
    return 0.8 * one + 0.2 / count


def random_probabilities(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


def needs_crf(changes: dict[str, Any]) -> None:
    if "crf" in changes:
        pytest.importorskip("pydensecrf")


# The guided filter ------------------------------------------------------------------------------


def guided_slowly(p: np.ndarray, image: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """He, Sun and Tang (2013), equations 14 to 16, window by window, for one plane."""
    height, width, channels = image.shape
    # Windows of the edge's pixels reach into the mirrored image.
    around = ((radius, radius), (radius, radius))
    big, big_p = np.pad(image, (*around, (0, 0)), "symmetric"), np.pad(p, around, "symmetric")
    side = 2 * radius + 1
    a, b = np.zeros(image.shape), np.zeros(p.shape)
    for y in range(height):
        for x in range(width):
            i = big[y : y + side, x : x + side].reshape(-1, channels)
            q = big_p[y : y + side, x : x + side].ravel()
            covariance = np.atleast_2d(np.cov(i.T, bias=True))
            with_p = (i * q[:, None]).mean(0) - i.mean(0) * q.mean()
            a[y, x] = np.linalg.solve(covariance + eps * np.eye(channels), with_p)
            b[y, x] = q.mean() - a[y, x] @ i.mean(0)
    a, b = np.pad(a, (*around, (0, 0)), "symmetric"), np.pad(b, around, "symmetric")
    out = np.zeros(p.shape)
    for y in range(height):
        for x in range(width):
            mean_a = a[y : y + side, x : x + side].mean((0, 1))
            out[y, x] = mean_a @ image[y, x] + b[y : y + side, x : x + side].mean()
    return out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("radius", "eps"), [(1, 1e-3), (3, 0.02)])
def test_guided_filter_follows_its_formula(
    rng: np.random.Generator, channels: int, radius: int, eps: float
) -> None:
    image = rng.random((9, 12, channels))
    planes = np.moveaxis(random_probabilities(rng, 9, 12, 3), -1, 0)
    filtered = guided_filter(planes, image, radius, eps)
    assert filtered.dtype == planes.dtype
    for plane, out in zip(planes, filtered, strict=True):
        np.testing.assert_allclose(out, guided_slowly(plane, image, radius, eps), atol=1e-5)


@pytest.mark.parametrize("is_colour", [False, True])
def test_borders_snap_to_edges(rng: np.random.Generator, is_colour: bool) -> None:
    edge = np.arange(64) >= 32
    image = np.tile(edge, (48, 1)).astype(float)
    if is_colour:
        # Red against green: as bright on either side.
        image = np.stack([image, 1 - image, np.zeros_like(image)], -1)
    image += rng.normal(0, 0.02, image.shape)
    # The border lies 4 px beside the edge, and is blurred over 12 px, as those of tokens are.
    column = 1 / (1 + np.exp(-(np.arange(64) - 28) / 3))
    right = np.tile(column, (48, 1))
    probabilities = np.stack([1 - right, right], -1).astype(np.float32)
    truth = np.tile(edge + 1, (48, 1))
    plain = Refinement().apply(probabilities, image, classes(1, 2)).labels
    assert (plain != truth).sum() > 140
    snapped = Refinement(guided=8).apply(probabilities, image, classes(1, 2)).labels
    assert (snapped != truth).sum() < 10


def test_the_scale_of_the_image_does_not_matter(rng: np.random.Generator) -> None:
    image = rng.integers(0, 200, (30, 40)).astype(np.uint8)
    probabilities = random_probabilities(rng, 30, 40, 3)
    refinement = Refinement(guided=3)
    results = [
        refinement.apply(probabilities, one, classes(1, 2, 3)).labels
        for one in (image, image.astype(np.uint16) * 300, image * 1e-6, image * 1e6 - 1e3)
    ]
    for other in results[1:]:
        assert (other == results[0]).mean() > 0.999


# The majority filter ----------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([2, 3, 5, 300]))
def test_majority_takes_the_most_frequent(seed: int, radius: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    index = rng.integers(0, count, (8, 9))
    palette = classes(*sorted(rng.choice(np.arange(1, 65_536), count, replace=False).tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RefinementWarning)
        found = Refinement(majority=radius).apply(sure_of(index, count), index, palette).labels
    labels = np.array([one.label for one in palette])
    for y, x in np.ndindex(8, 9):
        near = [
            index[j, i] for j, i in np.ndindex(8, 9) if (j - y) ** 2 + (i - x) ** 2 <= radius**2
        ]
        most = max(Counter(near).values())
        best = [k for k, n in Counter(near).items() if n == most]
        assert found[y, x] in labels[best]


# Specks -----------------------------------------------------------------------------------------


def test_specks_take_the_class_around_them() -> None:
    halves = np.repeat(np.array([[0, 1]], np.uint16), 15, axis=1).repeat(20, axis=0)
    specks, expected = halves.copy(), halves.copy()
    specks[3:5, 4:6] = 2  # 4 px within class 0
    specks[8, 22:25] = 2  # 3 px within class 1
    specks[12:15, 3:6] = expected[12:15, 3:6] = 1  # a ring of 8 px
    specks[13, 4] = 2  # 1 px within it
    specks[10:12, 20:23] = expected[10:12, 20:23] = 2  # 6 px
    np.testing.assert_array_equal(without_specks(specks, 5), expected)


def test_size_is_that_of_regions_that_touch() -> None:
    index = np.zeros((12, 12), np.uint16)
    np.fill_diagonal(index[2:8, 2:8], 1)
    np.testing.assert_array_equal(without_specks(index, 6), index)
    assert not without_specks(index, 7).any()


def test_where_everything_is_a_speck_nothing_is_removed() -> None:
    index = np.indices((6, 6)).sum(0) % 2
    with pytest.warns(RefinementWarning, match="No region has 100 pixels"):
        refined = Refinement(min_size=100).apply(sure_of(index), index, classes(1, 2))
    np.testing.assert_array_equal(refined.labels, index + 1)
    assert refined.vanished == ()


# All together -----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"min_size": 5}, {"majority": 2}, {"guided": 5}])
def test_a_class_that_vanishes_is_named(changes: dict[str, int]) -> None:
    index = np.zeros((40, 40), int)
    index[:, 20:] = 1
    index[4, 4] = 2
    pore = PixelClass(label=9, name="pore", colour=(0.0, 0.0, 0.0, 1.0))
    flat = np.full(index.shape, 7.0)
    flat[:, 20:] = 9
    with pytest.warns(RefinementWarning, match=r"Nothing is left of 'pore' after refining"):
        refined = Refinement(**changes).apply(sure_of(index), flat, (*classes(1, 2), pore))
    assert refined.vanished == (pore,)
    assert set(np.unique(refined.labels)) == {1, 2}


def test_classes_that_were_never_there_do_not_vanish() -> None:
    index = np.zeros((20, 20), int)
    index[:, 10:] = 2
    # Nothing warns.
    refined = Refinement(guided=2, majority=2, min_size=3).apply(
        sure_of(index), index, classes(1, 2, 3)
    )
    assert refined.vanished == ()


@pytest.mark.parametrize("changes", EVERYTHING)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (13, 40)])
@pytest.mark.parametrize("image_kind", ["grey", "rgb", "rgba"])
def test_every_image_is_refined(
    rng: np.random.Generator, changes: dict[str, Any], shape: tuple[int, int], image_kind: str
) -> None:
    needs_crf(changes)
    channels = {"grey": (), "rgb": (3,), "rgba": (4,)}[image_kind]
    image = rng.integers(0, 2**16, (*shape, *channels)).astype(np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RefinementWarning)
        labels = (
            Refinement(**changes)
            .apply(random_probabilities(rng, *shape, 3), image, classes(1, 7, 60_000))
            .labels
        )
    assert (labels.shape, labels.dtype) == (shape, np.uint16)
    assert set(np.unique(labels)) <= {1, 7, 60_000}


def test_constant_images_and_nan_do_no_harm(rng: np.random.Generator) -> None:
    image = np.full((12, 15), 3.0)
    image[2, 3] = np.nan
    probabilities = random_probabilities(rng, 12, 15, 2)
    labels = Refinement(guided=2, guided_eps=1e-6).apply(probabilities, image, classes(1, 2)).labels
    assert set(np.unique(labels)) == {1, 2}


def test_an_image_of_another_size_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ImageError, match=r"\(5, 6\).*\(6, 5\)"):
        Refinement(guided=1).apply(
            random_probabilities(rng, 6, 5, 2), np.ones((5, 6)), classes(1, 2)
        )


@pytest.mark.parametrize("changes", EVERYTHING)
def test_it_gives_up(rng: np.random.Generator, changes: dict[str, Any]) -> None:
    needs_crf(changes)
    with pytest.raises(Cancelled):
        Refinement(**changes).apply(
            random_probabilities(rng, 9, 9, 2), np.eye(9), classes(1, 2), lambda: True
        )


def test_crf_follows_the_image(rng: np.random.Generator) -> None:
    pytest.importorskip("pydensecrf")
    truth = np.zeros((40, 50), int)
    truth[:, 25:] = 1
    image = truth + rng.normal(0, 0.02, truth.shape)
    # Every fifth pixel is wrong.
    index = np.where(rng.random(truth.shape) < 0.2, 1 - truth, truth)
    refined = Refinement(crf=True).apply(sure_of(index), image, classes(4, 5))
    np.testing.assert_array_equal(refined.labels, truth + 4)


def test_without_its_package_the_crf_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(HRDv2Error, match=r"pip install 'napari-hrdv2\[crf\]'") as met:
        make_refinement(crf=True)
    assert "\n" not in str(met.value)
    assert not refine.has_crf()
    with pytest.raises(ValidationError, match="pydensecrf2"):
        Refinement(crf=True)


@pytest.mark.parametrize(
    "changes",
    [{"guided": -1}, {"guided": 1.5}, {"guided_eps": 0}, {"majority": 1000}, {"min_size": -1},
     {"guided_eps": float("nan")}, {"radius": 3}],
)  # fmt: skip
def test_values_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(HRDv2Error, match=f"^{next(iter(changes))}: ") as met:
        make_refinement(**changes)
    assert "\n" not in str(met.value)


# On an image's tokens ---------------------------------------------------------------------------


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    image = rng.normal(0, 0.05, (56, 70)).astype(np.float32)
    image[:, 30:] += 1
    return image


@pytest.fixture
def strokes() -> np.ndarray:
    strokes = np.zeros((56, 70), np.uint8)
    strokes[20:24, 4:12], strokes[20:24, 56:64] = 3, 5
    return strokes


def test_refinement_off_is_the_classifiers_own_result(
    extractor, image, strokes, monkeypatch
) -> None:
    tokens = extractor.extract(image)
    classifier = PixelClassifier().fit(tokens, strokes)
    probabilities = classifier.predict_proba(tokens)
    unchanged = Refinement().apply(probabilities, image, classifier.pixel_classes_)
    np.testing.assert_array_equal(unchanged.labels, classifier.labels_of(probabilities))
    # Nor are probabilities computed for it.
    monkeypatch.setattr(PixelClassifier, "predict_proba", None)
    off = Refinement().predict(classifier, tokens, image)
    np.testing.assert_array_equal(off.labels, classifier.predict(tokens))
    np.testing.assert_array_equal(segment(image, strokes, extractor=extractor), off.labels)


def test_segment_refines(extractor, image, strokes) -> None:
    truth = np.where(np.arange(70) < 30, 3, 5)
    plain = segment(image, strokes, extractor=extractor)
    snapped = segment(image, strokes, extractor=extractor, refinement=Refinement(guided=12))
    assert snapped.dtype == np.uint16
    assert (snapped != truth).sum() < (plain != truth).sum() / 2


def test_tokens_of_other_settings_are_refused(extractor, make_extractor, image, strokes) -> None:
    classifier = PixelClassifier().fit(extractor.extract(image), strokes)
    others = make_extractor(passes=1).extract(image)
    for refinement in (Refinement(), Refinement(majority=1)):
        with pytest.raises(SettingsMismatchError):
            refinement.predict(classifier, others, image)
