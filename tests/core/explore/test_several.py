"""What is looked for in several images: common foregrounds, corresponding points, like regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from skimage.data import immunohistochemistry

from napari_hrdv2.core.errors import HRDv2Error, SettingsMismatchError
from napari_hrdv2.core.explore import (
    RegionIndex,
    correspondences,
    cosegment,
    cosegmentation,
    descriptor,
    matching,
)
from napari_hrdv2.core.extraction import FeatureExtractor

from .helpers import PATCH, planted


def pixels_of(labels: np.ndarray) -> np.ndarray:
    return np.kron(labels, np.ones((PATCH, PATCH), int))


# --- co-segmentation

# 1 is in all images, 2 only in the first.
COMMON = [np.zeros((12, 14), int) for _ in range(3)]
COMMON[0][2:7, 2:7] = 1
COMMON[0][8:11, 8:13] = 2
COMMON[1][5:10, 6:12] = 1
COMMON[2][1:9, 8:12] = 1


def test_the_common_foreground_is_what_images_vote_for():
    images = [planted(one, seed=k) for k, one in enumerate(COMMON)]
    truth = [pixels_of(one) for one in COMMON]
    # Of the third image it is what lies around that is attended to.
    attentions = [1.0 + 4 * (truth[0] > 0), 1.0 + 4 * (truth[1] == 1), 1.0 + 4 * (truth[2] == 0)]
    found = cosegment(images, attentions, 12)
    for mask, labels in zip(found.masks, truth, strict=True):
        wanted = labels > 0
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.8
    # All three do not agree on it; only the first has the other.
    strict = cosegment(images, attentions, 12, votes=1)
    assert not strict.masks[2][truth[2] == 1].mean() > 0.2
    assert strict.masks[0][truth[0] == 2].mean() > 0.8
    np.testing.assert_array_equal(
        strict.masks[0], strict.is_salient[strict.clusters.assign(images[0])]
    )


def test_strays_of_a_cluster_are_no_occurrence(monkeypatch):
    """The only image with more than a patch of it votes for it."""
    labels = [COMMON[0], COMMON[1].copy()]
    labels[1][11, 0] = 2
    images = [planted(one, seed=k) for k, one in enumerate(labels)]
    attentions = [1.0 + 4 * (pixels_of(one) > 0) for one in COMMON[:2]]
    share = {}
    for stray in (0.0, 0.2):
        monkeypatch.setattr(cosegmentation, "_STRAY", stray)
        found = cosegment(images, attentions, 3, votes=1)
        share[stray] = found.masks[0][pixels_of(labels[0]) == 2].mean()
    assert share[0.0] < 0.1
    assert share[0.2] > 0.9


def test_classes_of_the_foreground_are_shared():
    images = [planted(one, seed=k) for k, one in enumerate(COMMON)]
    truth = [pixels_of(one) for one in COMMON]
    found = cosegment(images, [1.0 + 4 * (one > 0) for one in truth], 12)
    for one, mask in zip(found.labels(), found.masks, strict=True):
        np.testing.assert_array_equal(one, mask)
    labels = found.labels(2)
    common = [np.bincount(one[t == 1]).argmax() for one, t in zip(labels, truth, strict=True)]
    assert len(set(common)) == 1
    other = np.bincount(labels[0][truth[0] == 2]).argmax()
    assert {common[0], other} == {1, 2}
    count = found.is_salient.sum()
    assert max(one.max() for one in found.labels(99)) == count
    nothing = found._replace(is_salient=found.is_salient & False)
    assert not any(one.any() for one in nothing.labels(3))
    with pytest.raises(HRDv2Error, match="0 classes"):
        found.labels(0)


def test_cosegmentation_without_all_attentions():
    images = [planted(one) for one in COMMON]
    with pytest.raises(HRDv2Error, match="3 images, but attention of 2"):
        cosegment(images, [np.ones((96, 112))] * 2)
    with pytest.raises(HRDv2Error, match="same image"):
        cosegment(images, [np.ones((9, 9))] * 3)


# --- correspondences

EVERY = np.arange(9 * 11).reshape(9, 11)


def mirrored(tokens):
    """The tokens of the image mirrored left to right."""
    width = tokens.image_shape[1]
    lattices = tuple(
        (y, replace(x, origin=width - x.origin - (x.size - 1) * x.stride))
        for y, x in tokens.lattices
    )
    return replace(tokens, data=tokens.data.flip(2), lattices=lattices)


def turned(tokens):
    """The tokens of the image turned by 180 degrees."""
    upside_down = mirrored(replace(tokens, data=tokens.data.flip(1)))
    height = tokens.image_shape[0]
    lattices = tuple(
        (replace(y, origin=height - y.origin - (y.size - 1) * y.stride), x)
        for y, x in upside_down.lattices
    )
    return replace(upside_down, lattices=lattices)


def test_points_of_a_mirrored_copy_are_its_mirrored_points():
    tokens = planted(EVERY)
    first, second, similarity = correspondences(tokens, mirrored(tokens))
    assert len(first) == 50
    np.testing.assert_array_equal(second, [(y, 11 * PATCH - 1 - x) for y, x in first])
    np.testing.assert_allclose(similarity, 1, atol=1e-5)


def test_points_of_a_turned_copy_within_masks():
    tokens = planted(EVERY)
    mask = np.zeros(tokens.image_shape)
    mask[20:50, 30:80] = 1
    first, second, similarity = correspondences(
        tokens, turned(tokens), (mask, mask[::-1, ::-1]), step=5
    )
    assert len(first) > 10
    assert all(mask[y, x] for y, x in first)
    expected = np.array([(9 * PATCH - 1 - y, 11 * PATCH - 1 - x) for y, x in first])
    assert (np.abs(second - expected).max(1) == 0).mean() > 0.9
    assert (np.diff(similarity) <= 0).all()


def test_only_mutual_neighbours_correspond():
    """Half of the first image is nowhere in the second."""
    tokens = planted(EVERY)
    other = planted(np.where(np.arange(11) < 6, EVERY, EVERY + 99))
    first, second, similarity = correspondences(tokens, other, count=1000)
    is_same = similarity > 0.95
    assert is_same.sum() > 20
    assert (first[is_same][:, 1] < 6 * PATCH).all()
    np.testing.assert_allclose(first[is_same], second[is_same], atol=2)


def test_many_points_of_one_kind_correspond_to_one():
    tokens = planted(EVERY)
    first, _, _ = correspondences(tokens, planted(np.full_like(EVERY, 40), noise=0))
    assert len(first) == 1
    assert EVERY[tuple(first[0] // PATCH)] == 40


def test_few_correspondences_are_the_best(monkeypatch):
    tokens, other = planted(EVERY), planted(EVERY, seed=1, noise=0.5)
    every = correspondences(tokens, other, count=1000)
    few = correspondences(tokens, other, count=5)
    assert len(few.first) == 5
    assert few.similarity.min() > np.median(every.similarity)
    monkeypatch.setattr(matching, "_POINTS", 20)
    assert len(correspondences(tokens, other, count=1000).first) <= 20


def test_masks_smaller_than_the_grid_have_points():
    tokens = planted(EVERY)
    mask = np.zeros(tokens.image_shape)
    mask[33, 41] = 1
    first, second, _ = correspondences(tokens, tokens, (mask, mask))
    np.testing.assert_array_equal(first, [[33, 41]])
    np.testing.assert_array_equal(second, [[33, 41]])
    with pytest.raises(HRDv2Error, match="empty"):
        correspondences(tokens, tokens, (mask * 0, mask))
    other = replace(tokens, settings=tokens.settings.model_copy(update={"scale": 2.0}))
    with pytest.raises(SettingsMismatchError, match="scale"):
        correspondences(tokens, other)


def test_points_of_a_real_image_are_found_in_a_moved_copy(real_weights):
    extractor = FeatureExtractor(model=real_weights.name, weights=real_weights.path, passes=1)
    image = immunohistochemistry()
    first, second = (extractor.extract(image[at : at + 252, at : at + 252]) for at in (100, 128))
    found = correspondences(first, second)
    distance = np.linalg.norm(found.first - found.second - 28, axis=1)
    assert len(distance) > 20
    assert np.median(distance) < 7


def test_points_of_a_real_image_are_found_in_a_turned_copy(real_weights):
    extractor = FeatureExtractor(
        model=real_weights.name,
        weights=real_weights.path,
        rotations=True,
        move_positions=False,
        # Each of two zooms takes all four.
        passes=8,
        window=0,
    )
    image = immunohistochemistry()[100:324, 100:324]
    found = correspondences(extractor.extract(image), extractor.extract(np.rot90(image)))
    y, x = found.second.T
    distance = np.linalg.norm(found.first - np.stack([x, len(image) - 1 - y], axis=1), axis=1)
    assert len(distance) > 20
    assert (distance < 14).mean() > 0.9


# --- retrieval


def test_the_same_crop_comes_first(make_extractor, rng):
    extractor = make_extractor(passes=2)
    crops = [rng.random((60, 60)) for _ in range(5)]
    images = [extractor.extract(np.pad(one, ((0, 0), (0, 20)))) for one in crops]
    regions = [np.pad(np.full((60, 60), 7), ((0, 0), (0, 20))) for _ in crops]
    index = RegionIndex.build(images, regions)
    again = extractor.extract(np.pad(crops[3], ((0, 0), (0, 20))))
    ranked = index.rank(descriptor(again, regions[3]))
    assert ranked[0][:2] == (3, 7)
    assert ranked[0].similarity == pytest.approx(1, abs=1e-5)
    assert ranked[1].similarity < 1 - 1e-4
    assert sorted(one.image for one in ranked) == [0, 1, 2, 3, 4]


def test_like_regions_of_other_images_come_before_others():
    images = [planted(one, seed=k) for k, one in enumerate(COMMON)]
    # Labels of regions differ from image to image.
    regions = [
        np.where(pixels_of(one) > 0, pixels_of(one) + 10 * k, 0) for k, one in enumerate(COMMON)
    ]
    index = RegionIndex.build(images, regions)
    assert set(index.places) == {(0, 1), (0, 2), (1, 11), (2, 21)}
    ranked = index.rank(descriptor(images[1], regions[1] == 11), 3)
    assert ranked[0][:2] == (1, 11)
    assert {one[:2] for one in ranked} == {(0, 1), (1, 11), (2, 21)}


def test_retrieval_what_cannot_be_is_said():
    tokens = planted(EVERY)
    labels = np.ones(tokens.image_shape, int)
    with pytest.raises(HRDv2Error, match="1 images, but regions of 2"):
        RegionIndex.build([tokens], [labels, labels])
    with pytest.raises(HRDv2Error, match="no image"):
        RegionIndex.build([], [])
    with pytest.raises(HRDv2Error, match="no regions"):
        RegionIndex.build([tokens], [labels * 0])
    with pytest.raises(HRDv2Error, match="regions of image 0"):
        RegionIndex.build([tokens], [labels[1:]])
    with pytest.raises(HRDv2Error, match="24 channels"):
        RegionIndex.build([tokens], [labels]).rank(np.ones(5, np.float32))
