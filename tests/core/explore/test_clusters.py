from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from napari_hrdv2.core.base import default_class
from napari_hrdv2.core.errors import HRDv2Error, ImageError, SettingsMismatchError
from napari_hrdv2.core.explore import Clusters, fused_clusters, fused_features
from napari_hrdv2.core.explore import clusters as clusters_module
from napari_hrdv2.core.refine import Refinement

from .helpers import PATCH, dense_unit, planted

# Three planted regions; the third is small.
REGIONS = np.zeros((12, 14), int)
REGIONS[:, 6:] = 1
REGIONS[8:, 9:] = 2
PIXELS = np.kron(REGIONS, np.ones((PATCH, PATCH), int))


@pytest.fixture
def images(make_extractor, rng):
    extractor = make_extractor(window=56, passes=3, rotations=True, filters=True)
    return [extractor.extract(rng.random(shape)) for shape in ((90, 130), (60, 45))]


def test_every_pixel_goes_to_the_nearest_centroid(images):
    found = Clusters.fit(images, 9)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-5)
    for tokens in images:
        dense = dense_unit(tokens)
        distances = np.linalg.norm(dense[..., None, :] - found.centroids, axis=-1)
        chosen = np.take_along_axis(distances, found.assign(tokens)[..., None].astype(int), -1)
        np.testing.assert_allclose(chosen[..., 0], distances.min(-1), atol=1e-4)
        assert len(np.unique(found.assign(tokens))) > 3


@pytest.mark.parametrize("exact", [False, True])
def test_as_k_means_of_scikit_learn_on_the_dense_map(exact):
    tokens = planted(REGIONS)
    dense = dense_unit(tokens)
    naive = KMeans(3, n_init=3, random_state=1).fit_predict(dense.reshape(-1, dense.shape[-1]))
    found = Clusters.fit([tokens], 3, exact=exact).assign(tokens)
    assert adjusted_rand_score(naive, found.ravel()) > 0.99


def test_planted_regions_of_two_images_are_found_together():
    images = [planted(REGIONS), planted(REGIONS[::-1], seed=1)]
    clusters = Clusters.fit(images, 20, samples=4000).merged(n_classes=3)
    first, second = (clusters.segment(one) for one in images)
    assert clusters.class_count == 3
    assert adjusted_rand_score(PIXELS.ravel(), first.ravel()) > 0.9
    # The same labels mean the same in both.
    assert (first[::-1] == second).mean() > 0.95


def test_pixels_are_sampled_from_every_image_in_proportion(images, monkeypatch):
    taken = []

    def fake(_, pixels):
        taken.append(len(pixels))
        return np.eye(99)[: len(pixels)]

    monkeypatch.setattr(clusters_module, "rows", fake)
    Clusters.fit(images, 2, samples=90)
    assert taken == [73, 17]  # of 11,700 and 2,700 pixels


def test_cutoff_is_the_upper_edge_of_the_fullest_bin():
    clusters = Clusters.fit([planted(REGIONS)], 12)
    middle = clusters.assign(planted(REGIONS))
    is_foreground = np.array([np.mean(PIXELS[middle == k] == 1) > 0.5 for k in range(12)])
    distances = [
        np.linalg.norm(a - b)
        for a in clusters.centroids[is_foreground]
        for b in clusters.centroids[~is_foreground]
    ]
    edges = np.linspace(min(distances), max(distances), 21)
    counts = [sum(a <= d < b for d in distances) for a, b in pairwise(edges)]
    counts[-1] += 1
    assert clusters.cutoff(is_foreground) == pytest.approx(edges[np.argmax(counts) + 1], abs=1e-5)
    with pytest.raises(HRDv2Error, match="all clusters are of the foreground"):
        clusters.cutoff(np.ones(12, bool))


def test_clusters_below_the_cutoff_merge_and_no_others():
    clusters = Clusters.fit([planted(REGIONS)], 12)
    merged = clusters.merged(cutoff=0.6)
    assert 1 < merged.class_count < 12
    for a in range(1, merged.class_count + 1):
        own = clusters.centroids[merged.classes == a]
        # Complete linkage: no two of a class are farther apart.
        assert np.linalg.norm(own[:, None] - own, axis=-1).max() < 0.6
    counts = np.bincount(merged.classes)[1:]
    assert (np.diff(counts) <= 0).all()


def test_of_a_mask_only_its_pixels_are_clustered_and_labelled():
    tokens = planted(REGIONS)
    mask = PIXELS == 1
    clusters = Clusters.fit([tokens], 4, masks=[mask])
    away = dense_unit(tokens)[40, 4]
    assert (clusters.centroids @ away).max() < 0.7
    labels = clusters.segment(tokens, mask)
    np.testing.assert_array_equal(labels > 0, mask)


def test_probabilities_are_the_softmax_of_distances(images):
    clusters = Clusters.fit(images, 9).merged(n_classes=3)
    tokens = images[1]
    distances = np.linalg.norm(dense_unit(tokens)[..., None, :] - clusters.centroids, axis=-1)
    nearest = np.stack([distances[..., clusters.classes == k].min(-1) for k in (1, 2, 3)], -1)
    expected = np.exp(-nearest / 0.2)
    expected /= expected.sum(-1, keepdims=True)
    found = clusters.probabilities(tokens, temperature=0.2)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (found.argmax(-1) + 1 == clusters.segment(tokens)).mean() > 0.999


def test_refinement_snaps_to_the_image():
    """Tokens tell the region to a patch, the image to a pixel."""
    tokens = planted(np.minimum(REGIONS[:, 3:9], 1))
    truth = np.arange(6 * PATCH) >= 3 * PATCH + 3
    image = np.broadcast_to(truth, tokens.image_shape).astype(float)
    clusters = Clusters.fit([tokens], 2)
    probabilities = clusters.probabilities(tokens)
    classes = [default_class(k) for k in (1, 2)]
    before = clusters.segment(tokens)
    after = Refinement(guided=6).apply(probabilities, image, classes).labels
    right = after[5, -1]
    assert ((before == right) != truth).sum() > 2 * ((after == right) != truth).sum()


def test_what_cannot_be_is_said(images):
    tokens = images[0]
    clusters = Clusters.fit(images, 5)
    for options in ({}, {"n_classes": 2, "cutoff": 0.4}):
        with pytest.raises(HRDv2Error, match="one of them"):
            clusters.merged(**options)
    for n in (0, 6):
        with pytest.raises(HRDv2Error, match="there are 1 to 5"):
            clusters.merged(n_classes=n)
    with pytest.raises(HRDv2Error, match="0 clusters"):
        Clusters.fit(images, 0)
    with pytest.raises(HRDv2Error, match="there are 4 pixels"):
        Clusters.fit([tokens], 5, masks=[np.pad(np.ones((2, 2)), ((0, 88), (0, 128)))])
    other = replace(tokens, settings=tokens.settings.model_copy(update={"scale": 2.0}))
    for action in (clusters.assign, clusters.segment, clusters.probabilities):
        with pytest.raises(SettingsMismatchError, match="scale"):
            action(other)


def test_one_cluster_is_one_class(images):
    merged = Clusters.fit(images, 1).merged(cutoff=0.3)
    assert (merged.segment(images[0]) == 1).all()


# --- fused


def test_fused_features_are_components_colours_and_places():
    tokens = planted(REGIONS)
    image = np.zeros((*tokens.image_shape, 3), np.uint8)
    image[:48] = (255, 0, 0)
    image[48:] = (0, 0, 255)
    found = fused_features(tokens, image, components=2, colour=3, position=2)
    assert found.shape == (96, 112, 8)
    assert found[..., 0].std() == pytest.approx(1, abs=1e-3)
    # Hues of 0 and 240 degrees.
    np.testing.assert_allclose(found[0, 0, 2:6], [3, 0, 3, 3], atol=1e-4)
    np.testing.assert_allclose(found[-1, 0, 2:6], [-1.5, -1.5 * 3**0.5, 3, 3], atol=1e-4)
    np.testing.assert_allclose(found[96 // 2, 28, 6:], [0.5, 96 / 112], atol=1e-5)
    grey = fused_features(tokens, image[..., 0], components=2)
    assert grey.shape == (96, 112, 5)


def test_colour_splits_what_features_do_not():
    tokens = planted(REGIONS * 0)
    tokens = replace(tokens, data=tokens.data + 0.3 * planted(REGIONS).data)
    image = np.zeros((*tokens.image_shape, 3), np.uint8)
    image[:48] = (255, 0, 0)
    image[48:] = (0, 0, 255)
    halves = np.arange(96)[:, None] >= np.full(112, 48)
    by_colour = fused_clusters(tokens, image, 2, colour=10, position=0)
    assert adjusted_rand_score(halves.ravel(), by_colour.ravel()) > 0.99
    assert set(np.unique(by_colour)) == {1, 2}
    by_feature = fused_clusters(tokens, image, 2, colour=0, position=0)
    assert adjusted_rand_score(halves.ravel(), by_feature.ravel()) < 0.5
    by_place = fused_clusters(tokens, image[..., 0], 2, colour=0, position=100)
    left = np.broadcast_to(np.arange(112) < 56, by_place.shape)
    assert adjusted_rand_score(left.ravel(), by_place.ravel()) > 0.8


def test_fused_what_cannot_be_is_said():
    tokens = planted(REGIONS)
    with pytest.raises(ImageError, match="its tokens are of"):
        fused_clusters(tokens, np.zeros((5, 5)))
    with pytest.raises(HRDv2Error, match="0 clusters"):
        fused_clusters(tokens, np.zeros(tokens.image_shape), 0)
