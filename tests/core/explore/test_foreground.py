from __future__ import annotations

import numpy as np
import pytest

from napari_hrdv2._sample_data import sample_image, sample_strokes
from napari_hrdv2.core.errors import HRDv2Error, ImageError
from napari_hrdv2.core.explore import (
    Box,
    Clusters,
    attended_foreground,
    boxes,
    component_foreground,
    salient_clusters,
)
from napari_hrdv2.core.extraction import FeatureExtractor

from .helpers import PATCH, planted

OBJECT = np.zeros((14, 16), int)
OBJECT[4:10, 5:11] = 1
PIXELS = np.kron(OBJECT, np.ones((PATCH, PATCH), int)) > 0


def test_salient_clusters_have_more_attention_per_pixel_than_the_mean_cluster():
    assignment = np.array([[0, 0, 0, 0], [1, 1, 3, 3]])
    attention = np.array([[1, 1, 1, 2], [3, 3, 2, 2.0]])
    # Per pixel 1.25, 3, 2: their mean is 2.08, though that of the pixels is 1.875.
    np.testing.assert_array_equal(salient_clusters(assignment, attention, 5), [0, 1, 0, 0, 0])
    expected = [[0, 0, 0, 0], [1, 1, 0, 0]]
    np.testing.assert_array_equal(attended_foreground(assignment, attention), expected)
    with pytest.raises(HRDv2Error, match="same image"):
        salient_clusters(assignment, attention[:1], 5)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("colours", [False, True])
def test_the_busier_side_of_the_first_component_is_the_foreground(rng, inside, colours):
    busy = PIXELS if inside else ~PIXELS
    image = np.where(busy, rng.random(busy.shape), 0.5)
    if colours:
        image = np.stack([image, image, 0.9 * image], -1)
    found = component_foreground(planted(OBJECT), image)
    # The mean, where the sign changes, is nearer to the larger side: a few pixels of it are taken.
    assert (found == busy).mean() > 0.95


def test_foreground_of_a_constant_image_is_one_side():
    tokens = planted(OBJECT, noise=0)
    tokens.data[:] = 1
    found = component_foreground(tokens, np.full(tokens.image_shape, 7))
    assert found.shape == tokens.image_shape


def test_foreground_of_another_image():
    with pytest.raises(ImageError, match="its tokens are of"):
        component_foreground(planted(OBJECT), np.zeros((9, 9)))


# --- boxes


def test_boxes_of_components_by_size_and_without_specks():
    mask = np.zeros((100, 120), bool)
    mask[10:40, 5:50] = True
    mask[60:80, 100:120] = True
    mask[90:94, 0:50] = True  # 200 pixels are too few
    assert boxes(mask) == (Box(10, 5, 40, 50), Box(60, 100, 80, 120))
    assert boxes(mask, min_size=199)[-1] == Box(90, 0, 94, 50)


def test_the_largest_region_has_a_box_however_small():
    mask = np.zeros((50, 50), bool)
    mask[3:6, 7:9] = True
    assert boxes(mask) == (Box(3, 7, 6, 9),)
    assert boxes(~mask & mask) == ()


def test_classes_have_boxes_of_their_own_within_the_largest_region():
    labels = np.zeros((60, 100), int)
    labels[10:50, 10:50] = 1
    labels[10:50, 50:90] = 2
    whole, *parts = boxes(labels)
    assert whole == Box(10, 10, 50, 90)
    assert set(parts) == {Box(10, 10, 50, 50), Box(10, 50, 50, 90)}


def test_boxes_that_are_nearly_one_are_given_once():
    labels = np.zeros((60, 100), int)
    labels[0:40, 0:100] = 1
    labels[40:45, 0:100] = 2  # with it the region is (0, 0, 45, 100), 40 / 45 > 0.8
    assert boxes(labels) == (Box(0, 0, 45, 100), Box(40, 0, 45, 100))
    assert Box(0, 0, 40, 100) in boxes(labels, max_iou=0.9)


def test_iou():
    assert Box(0, 0, 4, 4).iou(Box(2, 2, 6, 6)) == pytest.approx(4 / 28)
    assert Box(0, 0, 4, 4).iou(Box(4, 0, 8, 4)) == 0
    assert Box(0, 0, 4, 4).iou(Box(9, 9, 12, 12)) == 0


def test_the_glands_of_the_sample_are_told_from_the_stroma(real_weights):
    """A person's strokes know where they are."""
    extractor = FeatureExtractor(model=real_weights.name, weights=real_weights.path, filters=False)
    image, strokes = sample_image(), sample_strokes()
    tokens = extractor.extract(image)
    found = component_foreground(tokens, image)
    assert found[strokes == 1].mean() > 0.95
    assert found[strokes == 2].mean() < 0.05
    labels = Clusters.fit([tokens]).merged(n_classes=4).segment(tokens)
    epithelium, stroma = (np.bincount(labels[strokes == k]).argmax() for k in (1, 2))
    assert epithelium != stroma
    assert (labels[strokes == 2] == stroma).mean() > 0.8
    assert (labels[strokes == 1] == stroma).mean() < 0.05
