from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage as ndi

from napari_hrdv2.core.errors import HRDv2Error, ImageError
from napari_hrdv2.core.explore import regions_of
from napari_hrdv2.core.settings import Settings

from .helpers import PATCH, planted

# A ground, two things of one kind, one of another.
LABELS = np.zeros((20, 24), int)
LABELS[2:8, 3:9] = 1
LABELS[11:17, 13:20] = 1
LABELS[3:8, 14:21] = 2
TRUTH = np.kron(LABELS, np.ones((PATCH, PATCH), int))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_clusters_are_the_things_each_by_itself(rng):
    found = regions_of(planted(LABELS), rng.random(TRUTH.shape))
    things, count = ndi.label(TRUTH > 0)
    assert count == 3
    labels = set()
    for k in range(1, count + 1):
        counts = np.bincount(found[things == k])
        label = int(counts.argmax())
        assert label > 0
        assert iou(found == label, things == k) > 0.6
        labels.add(label)
    assert len(labels) == 3
    # Every region is one piece, none is a stray, and they are counted from 1.
    areas = np.bincount(found.ravel())[1:]
    assert areas.min() >= TRUTH.size / 400
    assert all(ndi.label(found == k + 1)[1] == 1 for k in range(len(areas)))
    assert np.array_equal(found, regions_of(planted(LABELS), rng.random(TRUTH.shape)))


def test_superpixels_follow_the_image():
    rgb = np.stack([k == TRUTH for k in range(3)], -1) * 1.0
    for image in (TRUTH * 1.0, rgb):
        found = regions_of(planted(LABELS), image, "superpixels")
        assert 30 < found.max() < 200
        # Of each the pixels are of one colour.
        counts = np.array([np.bincount(TRUTH[found == k], minlength=3) for k in np.unique(found)])
        assert counts.max(1).sum() / counts.sum() > 0.95


def test_superpixels_of_channels(rng):
    settings = Settings(channels=(0, 1, 2, 4, 5), patch=PATCH, stride=PATCH, weights_sha256="0")
    tokens = planted(LABELS)
    object.__setattr__(tokens, "settings", settings)
    found = regions_of(tokens, rng.random((*TRUTH.shape, 5)), "superpixels")
    assert found.shape == TRUTH.shape


def test_the_grid_is_of_squares():
    found = regions_of(planted(LABELS), TRUTH, "grid")
    # 160 pixels by six: squares of 27.
    assert np.unique(found).tolist() == list(range(1, 6 * 8 + 1))
    assert (found[:27, :27] == 1).all()
    assert (found[27:54, 54:81] == 8 + 3).all()
    assert found[-1, -1] == 48


@pytest.mark.parametrize("kind", ["clusters", "superpixels", "grid"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2)])
def test_small_images_have_a_region(kind, shape):
    tokens = planted(np.zeros(shape, int))
    found = regions_of(tokens, np.zeros(tokens.image_shape), kind)
    assert found.max() >= 1


def test_what_cannot_be_is_said():
    with pytest.raises(HRDv2Error, match="clusters, superpixels, grid, not 'cells'"):
        regions_of(planted(LABELS), TRUTH, "cells")
    with pytest.raises(ImageError, match="its tokens are of"):
        regions_of(planted(LABELS), TRUTH[1:])
